//! The swarm: connections, admission, gossip. One task owns it and never blocks: it takes commands, reacts to
//! events, and calls the handler, which must return quickly.
//!
//! Two nodes that dial each other at the same time end with two connections, one opened by each. Links use
//! either. A node closes a second connection that it dialed itself, so that connections to one peer do not
//! accumulate.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{ListenerId, TransportError};
use libp2p::core::upgrade::{NegotiationError, Version};
use libp2p::core::{ConnectedPoint, Transport};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError as SwarmDialError, ListenError, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Stream, Swarm, connection_limits, gossipsub, ping, tcp, yamux};
use libp2p_stream::IncomingStreams;
use parking_lot::{Mutex, RwLock};
use socket2::{Domain, Socket, Type};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::admission::{Admission, AdmissionError, HANDSHAKE_MS_MAX};
use super::muxer::ClosedAtOnce;
use super::pending_admissions::{Metered, PendingAdmissions};
use super::{
    Class, Counters, DialError, Handler, NetError, Network, NetworkConfig, Observed, Refusals, Refused,
    Shared, Stopper, Unresolved, address, answer, gossip, node_of,
};
use crate::id::NodeId;
use crate::supervise::{Part, contained};

/// Maximum of commands queued for the swarm task.
const COMMANDS_MAX: usize = 1024;
/// Time limit for a listener to report its address.
const LISTEN_MS_MAX: u64 = 5_000;
/// A connection without an answer to a ping for this long is dead, even if neither side closed it (a machine
/// that lost power or its network).
const PING_MS_MAX: u64 = 15_000;
const PING_INTERVAL_MS: u64 = 5_000;
/// One connection opened by each side, and a reserve for dead connections that are not detected yet.
const CONNECTIONS_PER_PEER_MAX: u32 = 8;
/// Maximum of substreams of one connection: four links and gossip in each direction, pings, and a reserve for
/// reopened ones.
const SUBSTREAMS_MAX: usize = 64;
const SUBSTREAMS_OPENING_MAX: usize = 32;

/// Request to the swarm task.
pub(super) enum Command {
    /// Connect to the node at this address.
    Dial { address: Multiaddr, reply: oneshot::Sender<Result<NodeId, DialError>> },
    /// Connect to this peer at one of these addresses, unless it is connected.
    Connect { node: NodeId, addresses: Vec<Multiaddr>, reply: oneshot::Sender<Result<(), String>> },
    /// Subscribe to a topic and publish to it.
    Subscribe(String),
    /// Publish a gossip message.
    Publish(Vec<u8>),
    /// Close the connections to a peer.
    Disconnect(NodeId),
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    limits: connection_limits::Behaviour,
    gossip: gossipsub::Behaviour,
    streams: libp2p_stream::Behaviour,
    ping: ping::Behaviour,
}

/// Builds the swarm, listens, and starts its tasks.
pub(super) async fn start(config: NetworkConfig, handler: Arc<dyn Handler>) -> Result<Network, NetError> {
    check_exposure(&config)?;
    let setup = |error: String| NetError::Setup(error);
    let local = node_of(&config.keypair.public().to_peer_id())
        .ok_or_else(|| setup("the node's key is not an ed25519 key".to_owned()))?;
    let mut swarm = build(&config).map_err(setup)?;
    let listening = listen(&mut swarm, &config.listen).await?;
    let mut control = swarm.behaviour().streams.new_control();
    let mut incoming = Vec::new();
    for class in Class::ALL {
        let streams = control.accept(class.protocol()).map_err(|error| setup(error.to_string()))?;
        incoming.push((class, streams));
    }
    let supervisor = config.supervisor.clone();
    let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
    let (stop, stopping) = watch::channel(false);
    let shared = Arc::new(Shared {
        local,
        handler,
        limits: config.limits,
        counters: Counters::default(),
        refusals: Arc::new(Refusals::default()),
        started: Instant::now(),
        runtime: tokio::runtime::Handle::current(),
        control,
        commands,
        stop: stopping,
        stopped: AtomicBool::new(false),
        peers: RwLock::default(),
        book: Mutex::default(),
        back_offs: Mutex::default(),
        connected: RwLock::default(),
        observed: Observed::default(),
        unresolved: Unresolved::default(),
        listening: RwLock::new(listening),
    });
    let swarm = SwarmTask::new(swarm, Arc::clone(&shared)).run(receiver);
    let mut tasks = vec![tokio::spawn(supervisor.essential_until(Part::Swarm, swarm))];
    for (class, streams) in incoming {
        let accept = accept(class, streams, Arc::clone(&shared));
        tasks.push(tokio::spawn(supervisor.essential_until(part_of(class), accept)));
    }
    Ok(Network { shared, stopper: Arc::new(Stopper { stop, tasks: Mutex::new(tasks) }) })
}

/// Returns the part of the node that accepts the links of this class.
const fn part_of(class: Class) -> Part {
    match class {
        Class::Control => Part::ControlLinks,
        Class::Requests => Part::RequestLinks,
        Class::Replication => Part::ReplicationLinks,
        Class::Bulk => Part::BulkLinks,
    }
}

fn check_exposure(config: &NetworkConfig) -> Result<(), NetError> {
    let open = config.listen.iter().find(|addr| !addr.ip().is_loopback());
    match open {
        Some(addr) if config.secret.is_none() && !config.insecure => Err(NetError::Insecure(*addr)),
        _ => Ok(()),
    }
}

fn build(config: &NetworkConfig) -> Result<Swarm<Behaviour>, String> {
    let keypair = &config.keypair;
    let admission = Admission::new(keypair, config.secret.clone()).map_err(|error| error.to_string())?;
    let mut multiplexer = yamux::Config::default();
    multiplexer.set_max_num_streams(SUBSTREAMS_MAX);
    let transport = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
        .map(|socket, _| Metered::new(socket))
        .upgrade(Version::V1Lazy)
        .authenticate(admission)
        .multiplex(multiplexer)
        // The admission has the limit `HANDSHAKE_MS_MAX` of its own; the second more is for TCP and the
        // negotiations.
        .timeout(Duration::from_millis(HANDSHAKE_MS_MAX + 1_000))
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(ClosedAtOnce(muxer))))
        .boxed();
    let admissions_max = config.limits.admissions_max;
    let transport = PendingAdmissions::new(transport, admissions_max as usize).boxed();
    let limits = connection_limits::ConnectionLimits::default()
        // Twice the number, because connections that were told to close may not be closed yet.
        .with_max_pending_incoming(Some(admissions_max.saturating_mul(2)))
        .with_max_established(Some(config.limits.connections_max))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX));
    let pings = ping::Config::new()
        .with_interval(Duration::from_millis(PING_INTERVAL_MS))
        .with_timeout(Duration::from_millis(PING_MS_MAX));
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        gossip: gossip::behaviour(keypair)?,
        streams: libp2p_stream::Behaviour::new(),
        ping: ping::Behaviour::new(pings),
    };
    let settings = libp2p::swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(Duration::MAX)
        .with_max_negotiating_inbound_streams(SUBSTREAMS_OPENING_MAX);
    Ok(Swarm::new(transport, behaviour, keypair.public().to_peer_id(), settings))
}

/// Listens on every address, and waits until each listener reports its address.
async fn listen(swarm: &mut Swarm<Behaviour>, addrs: &[SocketAddr]) -> Result<Vec<SocketAddr>, NetError> {
    let mut waiting: HashMap<ListenerId, SocketAddr> = HashMap::new();
    for &addr in addrs {
        probe(addr)?;
        let listener =
            swarm.listen_on(address::multiaddr(addr)).map_err(|error| listen_error(addr, error))?;
        waiting.insert(listener, addr);
    }
    let mut bound = Vec::new();
    let limit = tokio::time::sleep(Duration::from_millis(LISTEN_MS_MAX));
    tokio::pin!(limit);
    while !waiting.is_empty() {
        let event = tokio::select! {
            event = swarm.select_next_some() => event,
            () = &mut limit => SwarmEvent::ListenerError {
                listener_id: waiting.keys().next().copied().unwrap_or_else(ListenerId::next),
                error: io::ErrorKind::TimedOut.into(),
            },
        };
        match event {
            SwarmEvent::NewListenAddr { listener_id, address } => {
                waiting.remove(&listener_id);
                bound.extend(address::socket_addr(&address));
            }
            SwarmEvent::ListenerError { listener_id, error }
            | SwarmEvent::ListenerClosed { listener_id, reason: Err(error), .. } => {
                if let Some(&address) = waiting.get(&listener_id) {
                    return Err(NetError::Listen { address, reason: error.to_string() });
                }
            }
            _ => {}
        }
    }
    Ok(bound)
}

/// Checks that no other process listens on `addr`. libp2p listens with SO_REUSEPORT, which would silently
/// share the port with another node of the same user.
fn probe(addr: SocketAddr) -> Result<(), NetError> {
    if addr.port() == 0 {
        return Ok(());
    }
    match try_bind(addr) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(NetError::AddressInUse(addr)),
        Err(error) => Err(NetError::Listen { address: addr, reason: error.to_string() }),
    }
}

/// Listens briefly with the options of libp2p (IPv6 only on an IPv6 address), but without sharing the port.
fn try_bind(addr: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(1)
}

fn listen_error(address: SocketAddr, error: TransportError<io::Error>) -> NetError {
    NetError::Listen { address, reason: error_chain(&error) }
}

/// Returns the text of an error and its causes.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Accepts the substreams of one class.
///
/// The newest substream of a peer replaces its previous one, whose calls the peer has given up. The previous
/// one ends first, so that none of its calls is handled after a call of the new one. A panic while a
/// substream is served ends only that substream; the peer opens another.
async fn accept(class: Class, mut streams: IncomingStreams, shared: Arc<Shared>) -> Result<(), String> {
    let mut serving: HashMap<PeerId, JoinHandle<()>> = HashMap::new();
    let mut stop = shared.stop.clone();
    loop {
        let (peer, stream) = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            next = streams.next() => match next {
                Some(next) => next,
                None => return Err("the peer network accepts no more links".to_owned()),
            },
        };
        serving.retain(|_, task| !task.is_finished());
        let previous = serving.remove(&peer);
        let task = tokio::spawn(contained(serve(class, peer, stream, previous, Arc::clone(&shared))));
        serving.insert(peer, task);
    }
    for task in serving.into_values() {
        task.abort();
        let _ = task.await;
    }
    Ok(())
}

async fn serve(
    class: Class,
    peer: PeerId,
    stream: Stream,
    previous: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
) {
    if let Some(previous) = previous {
        previous.abort();
        let _ = previous.await;
    }
    let Some(node) = node_of(&peer) else { return };
    let why = answer::serve(stream, node, class, &shared).await;
    tracing::debug!(peer = %node, ?class, %why, "a link of a peer ended");
}

/// Waiter for an outgoing connection.
enum Dialing {
    /// A caller of [`Network::dial`].
    Address(oneshot::Sender<Result<NodeId, DialError>>),
    /// The callers in `SwarmTask::waiting` for this node.
    Peer(NodeId),
}

struct SwarmTask {
    swarm: Swarm<Behaviour>,
    shared: Arc<Shared>,
    topics: Vec<gossipsub::IdentTopic>,
    dialing: HashMap<ConnectionId, Dialing>,
    waiting: HashMap<NodeId, Vec<oneshot::Sender<Result<(), String>>>>,
    /// The connection this node dialed to each peer.
    own: HashMap<NodeId, ConnectionId>,
}

impl SwarmTask {
    fn new(swarm: Swarm<Behaviour>, shared: Arc<Shared>) -> Self {
        Self {
            swarm,
            shared,
            topics: Vec::new(),
            dialing: HashMap::new(),
            waiting: HashMap::new(),
            own: HashMap::new(),
        }
    }

    /// Runs until the network stops.
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> Result<(), String> {
        let mut stop = self.shared.stop.clone();
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                Some(command) = commands.recv() => self.on_command(command),
                event = self.swarm.select_next_some() => self.on_event(event),
            }
        }
        let connected = std::mem::take(&mut *self.shared.connected.write());
        for node in connected {
            self.shared.handler.on_peer(node, false);
        }
        Ok(())
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Dial { address, reply } => self.dial(address, reply),
            Command::Connect { node, addresses, reply } => self.connect(node, addresses, reply),
            Command::Subscribe(topic) => self.subscribe(&topic),
            Command::Publish(data) => self.publish(&data),
            Command::Disconnect(node) => {
                if let Some(peer) = node.peer_id() {
                    // Fails only for a peer that is not connected.
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
            }
        }
    }

    fn dial(&mut self, address: Multiaddr, reply: oneshot::Sender<Result<NodeId, DialError>>) {
        // A new port, because two nodes that dial each other from their listening ports could meet in one
        // half-open connection.
        let options = DialOpts::unknown_peer_id().address(address).allocate_new_port().build();
        let id = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dialing.insert(id, Dialing::Address(reply));
            }
            Err(error) => drop(reply.send(Err(dial_error(&error)))),
        }
    }

    fn connect(
        &mut self,
        node: NodeId,
        addresses: Vec<Multiaddr>,
        reply: oneshot::Sender<Result<(), String>>,
    ) {
        let Some(peer) = node.peer_id() else {
            drop(reply.send(Err("the peer's name is not a valid key".to_owned())));
            return;
        };
        if self.shared.connected.read().contains(&node) {
            drop(reply.send(Ok(())));
            return;
        }
        match self.waiting.entry(node) {
            Entry::Occupied(mut waiting) => return waiting.get_mut().push(reply),
            Entry::Vacant(waiting) => waiting.insert(vec![reply]),
        };
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(addresses)
            .allocate_new_port()
            .build();
        self.dialing.insert(options.connection_id(), Dialing::Peer(node));
        let id = options.connection_id();
        if let Err(error) = self.swarm.dial(options) {
            self.on_dial_failed(id, &error);
        }
    }

    fn subscribe(&mut self, topic: &str) {
        let topic = gossipsub::IdentTopic::new(topic);
        match self.swarm.behaviour_mut().gossip.subscribe(&topic) {
            Ok(true) => self.topics.push(topic),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(
                    %topic,
                    %error,
                    "cannot subscribe to the cluster's gossip; this node receives no reports"
                );
            }
        }
    }

    fn publish(&mut self, data: &[u8]) {
        for topic in &self.topics {
            match self.swarm.behaviour_mut().gossip.publish(topic.hash(), data) {
                Ok(_) => self.shared.counters.gossip_sent.add(1),
                Err(gossipsub::PublishError::NoPeersSubscribedToTopic) => {
                    self.shared.counters.gossip_unheard.add(1);
                }
                Err(error) => tracing::warn!(%error, "cannot publish a gossip message; it is dropped"),
            }
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message { message, .. })) => {
                self.on_gossip(message);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => self.on_ping(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                let why = cause.as_ref().map_or("closed".to_owned(), |cause| error_chain(cause));
                if cause.as_ref().is_some_and(|cause| is_corruption(cause)) {
                    self.shared.refuse(Refused::Corrupted, &peer_id, &why);
                }
                self.on_disconnected(peer_id, connection_id, num_established, &why);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.note_refusal_of_dial(&error);
                self.on_dial_failed(connection_id, &error);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                self.on_admission_failed(&send_back_addr, &error);
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                self.shared.listening.write().extend(address::socket_addr(&address));
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                let gone = address::socket_addr(&address);
                self.shared.listening.write().retain(|addr| Some(*addr) != gone);
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "cannot accept a connection of a peer");
            }
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::error!(
                    ?addresses,
                    ?reason,
                    "stopped listening for peers on an address; restart this node"
                );
            }
            _ => {}
        }
    }

    fn on_gossip(&mut self, message: gossipsub::Message) {
        let Some(from) = message.source.as_ref().and_then(node_of) else {
            return;
        };
        self.shared.counters.gossip_received.add(1);
        self.shared.handler.on_gossip(from, message.data);
    }

    fn on_ping(&mut self, event: ping::Event) {
        if let Err(ping::Failure::Timeout) = event.result {
            tracing::warn!(peer = %event.peer, "closed a connection whose peer did not answer a ping in time");
            self.swarm.close_connection(event.connection);
        }
    }

    fn on_connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let dialing = self.dialing.remove(&id);
        let Some(node) = node_of(&peer) else {
            // Only ed25519 keys name nodes.
            self.swarm.close_connection(id);
            return;
        };
        tracing::debug!(%node, address = %endpoint.get_remote_address(), "connected");
        if endpoint.is_dialer() {
            match self.own.entry(node) {
                Entry::Occupied(_) => drop(self.swarm.close_connection(id)),
                Entry::Vacant(own) => drop(own.insert(id)),
            }
        }
        if let Some(addr) = address::socket_addr(endpoint.get_remote_address()) {
            self.shared.observed.connected(node, addr.ip(), endpoint.is_dialer());
        }
        self.shared.back_offs.lock().remove(&node);
        if self.shared.connected.write().insert(node) {
            self.shared.handler.on_peer(node, true);
        }
        for waiting in self.waiting.remove(&node).unwrap_or_default() {
            drop(waiting.send(Ok(())));
        }
        if let Some(Dialing::Address(reply)) = dialing {
            drop(reply.send(Ok(node)));
        }
    }

    fn on_disconnected(&mut self, peer: PeerId, id: ConnectionId, left: u32, cause: &str) {
        let Some(node) = node_of(&peer) else { return };
        tracing::debug!(%node, cause, left, "disconnected");
        if self.own.get(&node) == Some(&id) {
            self.own.remove(&node);
        }
        if left == 0 {
            self.shared.observed.disconnected(node);
        }
        if left == 0 && self.shared.connected.write().remove(&node) {
            self.shared.handler.on_peer(node, false);
        }
    }

    fn on_dial_failed(&mut self, id: ConnectionId, error: &SwarmDialError) {
        let Some(dialing) = self.dialing.remove(&id) else {
            return;
        };
        let failure = dial_error(error);
        match dialing {
            Dialing::Address(reply) => {
                self.shared.counters.dials_failed.add(1);
                drop(reply.send(Err(failure)));
            }
            Dialing::Peer(node) => {
                // The peer may have connected to this node in the meantime.
                let Some(waiting) = self.waiting.remove(&node) else {
                    return;
                };
                let why = self.shared.fail_connect(node, format!("{node}: {failure}"));
                tracing::debug!(%node, %why, "cannot connect");
                for waiting in waiting {
                    drop(waiting.send(Err(why.clone())));
                }
            }
        }
    }

    fn on_admission_failed(&self, address: &Multiaddr, error: &ListenError) {
        let refused = match error {
            ListenError::Denied { .. } => Refused::Crowded,
            ListenError::Transport(error) => why_not_admitted(error),
            _ => Refused::Handshake,
        };
        self.shared.refuse(refused, address, &error_chain(error));
    }

    fn note_refusal_of_dial(&self, error: &SwarmDialError) {
        let SwarmDialError::Transport(errors) = error else { return };
        for (address, error) in errors {
            let Some(found) = AdmissionError::find(error) else { continue };
            match why_not_admitted(error) {
                Refused::Secret => self.shared.refuse(Refused::SecretOfOther, address, found),
                Refused::Handshake => self.shared.refuse(Refused::Handshake, address, found),
                // An address without an answer counts as a failed dial, not as a rejection.
                _ => {}
            }
        }
    }
}

type Cause = dyn std::error::Error + 'static;

/// Returns the reason why a connection was not admitted.
fn why_not_admitted(error: &Cause) -> Refused {
    match AdmissionError::find(error) {
        Some(AdmissionError::GaveWay) => Refused::Crowded,
        Some(error) if error.is_refusal() => Refused::Secret,
        Some(AdmissionError::TimedOut) => Refused::Unfinished,
        _ if any_cause(error, &is_early_end) => Refused::Unfinished,
        _ => Refused::Handshake,
    }
}

/// Returns whether the other side sent nothing wrong, but ended the connection too early.
fn is_early_end(cause: &Cause) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
    let ends = [UnexpectedEof, ConnectionReset, ConnectionAborted, BrokenPipe, TimedOut];
    let io = cause.downcast_ref::<io::Error>();
    // The accepting side answers every proposal. A negotiation without an agreement therefore means that the
    // dialing side closed the connection.
    io.is_some_and(|io| ends.contains(&io.kind()))
        || matches!(cause.downcast_ref(), Some(NegotiationError::Failed))
}

/// Returns whether an admitted connection ended because received bytes did not decrypt.
fn is_corruption(error: &Cause) -> bool {
    any_cause(error, &|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::InvalidData)
    })
}

/// Returns whether `is_it` holds for the error or for an error nested in it.
fn any_cause(error: &Cause, is_it: &dyn Fn(&Cause) -> bool) -> bool {
    if is_it(error) {
        return true;
    }
    // `io::Error::source` skips the wrapped error, so the wrapped error is checked first.
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => any_cause(inner, is_it),
        None => error.source().is_some_and(|source| any_cause(source, is_it)),
    }
}

/// Returns the error that a caller gets for a failed connection.
fn dial_error(error: &SwarmDialError) -> DialError {
    match error {
        // The swarm removes the addresses that it listens on from those it dials.
        SwarmDialError::LocalPeerId { .. } | SwarmDialError::NoAddresses => DialError::Itself,
        SwarmDialError::WrongPeerId { obtained, address } => {
            DialError::Unreachable(format!("another node ({obtained}) answers at {address}"))
        }
        SwarmDialError::Transport(errors) => {
            let refused = errors
                .iter()
                .filter_map(|(_, error)| AdmissionError::find(error))
                .any(AdmissionError::is_refusal);
            if refused {
                DialError::SecretRefused
            } else {
                DialError::Unreachable(error_chain_of_dial(error))
            }
        }
        other => DialError::Unreachable(error_chain(other)),
    }
}

/// Returns the causes of a failed dial, one per address. Only the innermost cause: the outer ones name
/// libp2p's layers.
fn error_chain_of_dial(error: &SwarmDialError) -> String {
    let SwarmDialError::Transport(errors) = error else {
        return error_chain(error);
    };
    let tell = |(address, error): &(Multiaddr, TransportError<io::Error>)| {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        format!("{address}: {cause}")
    };
    errors.iter().map(tell).collect::<Vec<_>>().join("; ")
}
