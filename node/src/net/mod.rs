//! The peer network: calls between nodes, gossip, and the set of connected peers.
//!
//! It uses libp2p: TCP, Noise, the admission by cluster secret ([`admission`]), yamux. One task runs the
//! swarm and never blocks. Each pair of nodes has one link per [`Class`] and direction ([`link`],
//! [`answer`]).
//!
//! Guarantees: the network writes calls of one class to one peer in the order they were made. The peer
//! handles the calls of one substream in that order. Every call ends exactly once. Every queue is bounded.
//!
//! No guarantees: a peer may or may not have handled a call that ended as [`CallError::Lost`]; a gossip
//! message may be lost. Leases detect failures, not the network: a closed connection is only a hint.

mod address;
mod admission;
mod answer;
#[cfg(any(test, feature = "internals"))]
pub(crate) mod fuzz;
pub mod gossip;
mod link;
mod muxer;
mod observed;
mod peers;
mod pending_admissions;
mod refusals;
mod swarm;
pub mod wire;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use self::address::is_address;
pub use self::answer::Responder;
pub use self::gossip::GOSSIP_BYTES_MAX;
use self::link::Link;
use self::observed::{Observed, Unresolved};
pub use self::peers::{Done, Peers, Transport};
pub use self::refusals::{LOG_PAUSE_MS, Refusals, Refused};
use self::swarm::Command;
use crate::id::NodeId;
use crate::identity::ClusterSecret;
use crate::supervise::Supervisor;

/// Purpose of a call. Each class has its own substream, so that no class waits behind another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Topology, leases, joining: small and urgent.
    Control,
    /// Client requests, forwarded to primaries.
    Requests,
    /// Records from primaries to replicas.
    Replication,
    /// Copies of partitions.
    Bulk,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 4] = [Self::Control, Self::Requests, Self::Replication, Self::Bulk];

    fn protocol(self) -> StreamProtocol {
        StreamProtocol::new(match self {
            Self::Control => "/caskade/link/1/control",
            Self::Requests => "/caskade/link/1/requests",
            Self::Replication => "/caskade/link/1/replication",
            Self::Bulk => "/caskade/link/1/bulk",
        })
    }
}

/// Outcome of a call that got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No byte of the call reached the peer: the caller can safely call again.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The connection broke, or the peer dropped the call: the peer may have handled it.
    #[error("sent, but the answer is lost: {0}")]
    Lost(String),
}

/// Reason why [`Network::dial`] connected to no node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The node at the address has another cluster secret, or only one of the two nodes has a secret.
    #[error(
        "the node at this address and this node do not have the same cluster secret: give both the same \
         --cluster-secret-file"
    )]
    SecretRefused,
    /// The address is one of this node.
    #[error("the address is this node's own")]
    Itself,
    /// Nothing answers at the address, or something that is no node of this protocol version.
    #[error("not reachable: {0}")]
    Unreachable(String),
    /// The text is neither `HOST:PORT` nor a multiaddr over TCP.
    #[error("neither HOST:PORT nor a multiaddr such as /ip4/10.0.0.1/tcp/7901")]
    BadAddress,
}

/// Reason why the network did not start.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Another process listens on the address.
    #[error(
        "the peer address {0} is in use: is this node running already? Stop the other process or choose \
         another --peer-listen"
    )]
    AddressInUse(SocketAddr),
    /// The operating system refused to listen on the address.
    #[error(
        "cannot listen for peers on {address}: {reason}; choose an address of this machine with --peer-listen"
    )]
    Listen {
        /// The address to listen on.
        address: SocketAddr,
        /// The error of the operating system.
        reason: String,
    },
    /// Without a secret, everyone who reaches the address becomes a peer.
    #[error(
        "a node without a cluster secret must not listen for peers on {0}, which other machines can reach: \
         give --cluster-secret-file, listen on 127.0.0.1, or give --insecure"
    )]
    Insecure(SocketAddr),
    /// The key is not an ed25519 key, or libp2p rejects the settings.
    #[error("cannot set up the peer network: {0}")]
    Setup(String),
}

/// Receiver of calls, gossip and connection changes. Network tasks call its methods, which must return
/// quickly.
pub trait Handler: Send + Sync + 'static {
    /// Receives a call of a peer. Calls of one peer and class arrive in their order. Must not block.
    ///
    /// The handler answers through `reply`, now or later. `body` shares its memory with other frames: copy it
    /// to keep it for long.
    fn on_call(&self, from: NodeId, class: Class, body: Bytes, reply: Responder);
    /// Receives a gossip message of `from`; the network has checked the signature.
    fn on_gossip(&self, from: NodeId, data: Vec<u8>);
    /// Reports that the first connection to a peer opened, or that the last one closed.
    fn on_peer(&self, peer: NodeId, connected: bool);
}

/// Limits of the memory that the network uses.
#[derive(Debug, Clone)]
pub struct NetLimits {
    /// Bytes queued for one peer and class, and bytes held of its calls and answers. One more message may
    /// exceed it.
    pub queue_bytes_max: usize,
    /// Calls queued or unanswered for one peer and class.
    pub queue_calls_max: usize,
    /// Open connections of all peers.
    pub connections_max: u32,
    /// Connections that others opened and that are not admitted yet. Beyond this number, the network closes
    /// one of them for each new one.
    pub admissions_max: u32,
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            queue_bytes_max: 128 * 1024 * 1024,
            queue_calls_max: 65_536,
            connections_max: 4096,
            admissions_max: 512,
        }
    }
}

/// Settings of the network.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Key of the node; the node's name derives from it.
    pub keypair: Keypair,
    /// Addresses to listen on; port 0 lets the operating system choose.
    pub listen: Vec<SocketAddr>,
    /// Secret that admits peers; `None` admits every node that has no secret either.
    pub secret: Option<ClusterSecret>,
    /// Whether to listen beyond loopback without a secret.
    pub insecure: bool,
    /// Limits of memory and connections.
    pub limits: NetLimits,
    /// Supervisor of the network's tasks.
    pub supervisor: Supervisor,
}

impl NetworkConfig {
    /// Creates settings with the default limits, which listen beyond loopback only with a secret.
    pub fn new(keypair: Keypair, listen: Vec<SocketAddr>, secret: Option<ClusterSecret>) -> Self {
        Self {
            keypair,
            listen,
            secret,
            insecure: false,
            limits: NetLimits::default(),
            supervisor: Supervisor::default(),
        }
    }
}

/// A counter that only grows.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct Counters {
    calls_sent: Counter,
    calls_lost: Counter,
    calls_received: Counter,
    bytes_sent: Counter,
    bytes_received: Counter,
    gossip_sent: Counter,
    gossip_unheard: Counter,
    gossip_received: Counter,
    dials_failed: Counter,
}

/// Counters since the network started, and its present contents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetStats {
    /// Peers connected now.
    pub peers: usize,
    /// Calls queued or unanswered now.
    pub calls_open: usize,
    /// Bytes of calls queued now.
    pub queued_bytes: usize,
    /// Calls written to a link.
    pub calls_sent: u64,
    /// Calls to peers whose link broke before the answer arrived; the peer may have executed them.
    pub calls_lost: u64,
    /// Calls received from peers.
    pub calls_received: u64,
    /// Bytes written to links, before encryption.
    pub bytes_sent: u64,
    /// Bytes read from links.
    pub bytes_received: u64,
    /// Gossip messages published.
    pub gossip_sent: u64,
    /// Gossip messages that this node sent while no peer was subscribed.
    pub gossip_unheard: u64,
    /// Gossip messages received.
    pub gossip_received: u64,
    /// Connections that could not be opened.
    pub dials_failed: u64,
}

/// A peer that this node has called.
struct Peer {
    /// In the order of [`Class::ALL`].
    links: [Arc<Link>; Class::ALL.len()],
}

impl Peer {
    fn new(node: NodeId) -> Option<Self> {
        let peer = node.peer_id()?;
        Some(Self { links: Class::ALL.map(|class| Link::new(node, peer, class)) })
    }
}

/// Wait before the next attempt to connect to an unreachable peer.
#[derive(Debug)]
struct BackOff {
    until: Instant,
    delay: Duration,
    why: String,
}

const BACK_OFF_FIRST_MS: u64 = 50;
const BACK_OFF_MAX_MS: u64 = 2_000;

/// Maximum of addresses tried for one peer.
const PEER_ADDRESSES_MAX: usize = 8;

/// State that the tasks of one network share.
struct Shared {
    local: NodeId,
    handler: Arc<dyn Handler>,
    limits: NetLimits,
    counters: Counters,
    refusals: Arc<Refusals>,
    started: Instant,
    runtime: tokio::runtime::Handle,
    control: libp2p_stream::Control,
    commands: mpsc::Sender<Command>,
    stop: watch::Receiver<bool>,
    stopped: AtomicBool,
    peers: RwLock<HashMap<NodeId, Arc<Peer>>>,
    book: Mutex<HashMap<NodeId, Vec<String>>>,
    back_offs: Mutex<HashMap<NodeId, BackOff>>,
    connected: RwLock<HashSet<NodeId>>,
    observed: Observed,
    unresolved: Unresolved,
    listening: RwLock<Vec<SocketAddr>>,
}

impl Shared {
    /// Counts a rejection, and logs it at most once in [`LOG_PAUSE_MS`] for each kind.
    fn refuse(&self, refused: Refused, from: &dyn std::fmt::Display, why: &dyn std::fmt::Display) {
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.refusals.note(refused, now_ms, from, why);
    }

    /// Connects to a peer by the address book, unless it is connected or its back-off has not expired.
    async fn connect(&self, node: NodeId) -> Result<(), String> {
        if self.connected.read().contains(&node) {
            return Ok(());
        }
        self.check_back_off(node)?;
        let known = self.book.lock().get(&node).cloned().unwrap_or_default();
        let mut addresses = Vec::new();
        let mut failure = format!("no address of {node} is known");
        for text in known.iter().take(PEER_ADDRESSES_MAX) {
            match address::resolve(text).await {
                Ok(found) => addresses.extend(found),
                Err(error) => {
                    if let address::AddressError::Unresolved(why) = &error {
                        self.unresolved.log(text, why);
                    }
                    failure = format!("the address {text} of {node} cannot be used: {error}");
                }
            }
        }
        addresses.extend(self.observed_addresses(node, &addresses));
        if addresses.is_empty() {
            return Err(self.fail_connect(node, failure));
        }
        let (reply, connected) = oneshot::channel();
        let gone = |_| "this node's network is shut down".to_owned();
        self.commands.send(Command::Connect { node, addresses, reply }).await.map_err(|_| gone(()))?;
        connected.await.map_err(|_| gone(()))?
    }

    /// Returns the observed IP address of a peer with the ports that it announces, without those in `known`.
    fn observed_addresses(&self, node: NodeId, known: &[Multiaddr]) -> Vec<Multiaddr> {
        let Some(ip) = self.observed.of(node) else { return Vec::new() };
        let mut found: Vec<Multiaddr> = Vec::new();
        for port in known.iter().filter_map(address::socket_addr).map(|addr| addr.port()) {
            let addr = address::multiaddr(SocketAddr::new(ip, port));
            if !known.contains(&addr) && !found.contains(&addr) && found.len() < PEER_ADDRESSES_MAX {
                found.push(addr);
            }
        }
        found
    }

    fn check_back_off(&self, node: NodeId) -> Result<(), String> {
        let back_offs = self.back_offs.lock();
        let Some(back_off) = back_offs.get(&node) else {
            return Ok(());
        };
        let left = back_off.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        Err(format!("{} (tried again in {} ms)", back_off.why, left.as_millis()))
    }

    /// Records that a peer could not be reached, and doubles the wait before the next attempt.
    fn fail_connect(&self, node: NodeId, why: String) -> String {
        self.counters.dials_failed.add(1);
        let mut back_offs = self.back_offs.lock();
        let delay = back_offs.get(&node).map_or(Duration::from_millis(BACK_OFF_FIRST_MS), |last| {
            (last.delay * 2).min(Duration::from_millis(BACK_OFF_MAX_MS))
        });
        back_offs.insert(node, BackOff { until: Instant::now() + delay, delay, why: why.clone() });
        why
    }

    fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        if let Some(peer) = self.peers.read().get(&node) {
            return Some(Arc::clone(peer));
        }
        let mut peers = self.peers.write();
        if let Some(peer) = peers.get(&node) {
            return Some(Arc::clone(peer));
        }
        let peer = Arc::new(Peer::new(node)?);
        peers.insert(node, Arc::clone(&peer));
        Some(peer)
    }
}

/// Stops the network's tasks when the last [`Network`] is dropped.
struct Stopper {
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Stopper {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// This node's end of the peer network. Clones share one network, which stops when the last clone is dropped.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
    stopper: Arc<Stopper>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("local", &self.shared.local).finish_non_exhaustive()
    }
}

impl Network {
    /// Starts the network, and returns once it listens. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When an address is in use, is not of this machine, or is open to other machines without a secret.
    pub async fn start(config: NetworkConfig, handler: Arc<dyn Handler>) -> Result<Self, NetError> {
        swarm::start(config, handler).await
    }

    /// Returns the peers that this network reaches.
    pub fn peers(&self) -> Peers {
        Peers::new(Arc::new(self.clone()))
    }

    /// Returns the id of this node.
    pub fn local(&self) -> NodeId {
        self.shared.local
    }

    /// Returns the addresses that the network listens on, with the ports the operating system chose. An
    /// unspecified address is replaced by those of the machine's interfaces.
    pub fn listen_addrs(&self) -> Vec<SocketAddr> {
        self.shared.listening.read().clone()
    }

    /// Connects to the node at `addr` (`HOST:PORT` or a multiaddr), and returns its id.
    ///
    /// # Errors
    /// See [`DialError`]. If a name has several addresses: [`DialError::SecretRefused`] if one address gave
    /// it, else the last error.
    pub async fn dial(&self, addr: &str) -> Result<NodeId, DialError> {
        let addresses = address::resolve(addr).await.map_err(|error| match error {
            address::AddressError::Bad => DialError::BadAddress,
            address::AddressError::Unresolved(why) => {
                self.shared.unresolved.log(addr, &why);
                DialError::Unreachable(why)
            }
        })?;
        let mut failure = DialError::BadAddress;
        for address in addresses {
            let (reply, outcome) = oneshot::channel();
            let gone = || DialError::Unreachable("this node's network is shut down".to_owned());
            self.shared.commands.send(Command::Dial { address, reply }).await.map_err(|_| gone())?;
            match outcome.await.map_err(|_| gone())? {
                Ok(node) => return Ok(node),
                Err(DialError::SecretRefused) => failure = DialError::SecretRefused,
                Err(_) if failure == DialError::SecretRefused => {}
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Subscribes to a gossip topic; later messages are also published to it.
    pub fn subscribe(&self, topic: &str) {
        self.command(Command::Subscribe(topic.to_owned()));
    }

    /// Returns the peers that are connected now.
    pub fn connected(&self) -> Vec<NodeId> {
        self.shared.connected.read().iter().copied().collect()
    }

    /// Returns whether this node has a connection to a peer.
    pub fn is_connected(&self, peer: NodeId) -> bool {
        self.shared.connected.read().contains(&peer)
    }

    /// Returns whether the last attempt to connect to a peer of the address book failed.
    pub fn misses_peers(&self) -> bool {
        let book = self.shared.book.lock();
        let back_offs = self.shared.back_offs.lock();
        back_offs.keys().any(|node| book.contains_key(node))
    }

    fn command(&self, command: Command) -> bool {
        let taken = self.shared.commands.try_send(command);
        if let Err(error) = &taken {
            tracing::warn!(%error, "the peer network's command queue is full or closed; the command is dropped");
        }
        taken.is_ok()
    }
}

impl Transport for Network {
    fn push_call(&self, to: NodeId, class: Class, body: Bytes, done: Done) {
        let refuse = |done: Done, why: &str| done.finish(Err(CallError::NotSent(why.to_owned())));
        if self.shared.stopped.load(Ordering::Relaxed) {
            return refuse(done, "this node's network is shut down");
        }
        if to == self.shared.local {
            return refuse(done, "a node cannot call itself");
        }
        match self.shared.peer(to) {
            Some(peer) => {
                let [control, requests, replication, bulk] = &peer.links;
                let link = match class {
                    Class::Control => control,
                    Class::Requests => requests,
                    Class::Replication => replication,
                    Class::Bulk => bulk,
                };
                link.push(&self.shared, body, done);
            }
            None => refuse(done, "the peer's name is not a valid key"),
        }
    }

    fn set_peers(&self, peers: HashMap<NodeId, Vec<String>>) {
        let mut book = self.shared.book.lock();
        if *book == peers {
            return;
        }
        self.shared
            .back_offs
            .lock()
            .retain(|node, _| peers.contains_key(node) && peers.get(node) == book.get(node));
        self.shared
            .peers
            .write()
            .retain(|node, peer| peers.contains_key(node) || peer.links.iter().any(|link| !link.is_idle()));
        self.shared.observed.retain(|node| peers.contains_key(node));
        *book = peers;
    }

    fn observed(&self, peer: NodeId) -> Option<IpAddr> {
        self.shared.observed.of(peer)
    }

    fn publish(&self, data: Vec<u8>) -> bool {
        data.len() <= GOSSIP_BYTES_MAX && self.command(Command::Publish(data))
    }

    fn disconnect(&self, peer: NodeId) {
        self.command(Command::Disconnect(peer));
    }

    fn stats(&self) -> NetStats {
        let shared = &self.shared;
        let links: Vec<Arc<Link>> =
            shared.peers.read().values().flat_map(|peer| peer.links.iter().cloned()).collect();
        let counters = &shared.counters;
        NetStats {
            peers: shared.connected.read().len(),
            calls_open: links.iter().map(|link| link.open_calls()).sum(),
            queued_bytes: links.iter().map(|link| link.queued_bytes()).sum(),
            calls_sent: counters.calls_sent.get(),
            calls_lost: counters.calls_lost.get(),
            calls_received: counters.calls_received.get(),
            bytes_sent: counters.bytes_sent.get(),
            bytes_received: counters.bytes_received.get(),
            gossip_sent: counters.gossip_sent.get(),
            gossip_unheard: counters.gossip_unheard.get(),
            gossip_received: counters.gossip_received.get(),
            dials_failed: counters.dials_failed.get(),
        }
    }

    fn refusals(&self) -> Arc<Refusals> {
        Arc::clone(&self.shared.refusals)
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        let network = self.clone();
        Box::pin(async move {
            network.shared.stopped.store(true, Ordering::Relaxed);
            network.stopper.stop.send_replace(true);
            let tasks = std::mem::take(&mut *network.stopper.tasks.lock());
            for task in tasks {
                // The network is stopped also after a panic of a task.
                let _ = task.await;
            }
        })
    }
}

/// Returns the id of the node that a libp2p peer id names.
fn node_of(peer: &PeerId) -> Option<NodeId> {
    NodeId::from_peer_id(peer)
}
