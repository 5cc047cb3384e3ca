//! What gossip costs on the wire: the real gossipsub, with the settings of a node, every node connected to every other.
//!
//! Counted are all bytes of a node's connections, between the multiplexer and the socket: what its peers forward twice,
//! what they tell each other of the messages they have, signatures, encryption and framing. Not counted are the headers
//! of TCP and IP. Real time: what is asserted are bytes for each report heard, which depend on no clock.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use caskade_node::net::gossip::{MESH_MAX, TOLD, TOLD_HEARTBEATS, behaviour};
use futures::{AsyncRead, AsyncWrite, StreamExt};
use libp2p::core::Transport;
use libp2p::core::transport::MemoryTransport;
use libp2p::core::upgrade::Version;
use libp2p::gossipsub::{Behaviour, Event, IdentTopic};
use libp2p::identity::Keypair;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm, noise, yamux};
use tokio::sync::{mpsc, watch};

/// As long as a cluster's real one.
const TOPIC: &str = "caskade/1/cacacacacacacacacacacacacacacaca";
/// Time for connections and meshes to form.
const FORM_TIME: Duration = Duration::from_secs(3);
/// How long the nodes may take to be connected.
const CONNECT_MAX: Duration = Duration::from_secs(60);
/// Reports a second that one node hears at most (`node/src/runtime/gossip.rs`).
pub const HEARD_PER_S_MAX: u64 = 50;
/// What gossipsub puts around a report: author (38), signature (64), topic, sequence number (8), and their tags.
const ENVELOPE_BYTES: u64 = 190;
/// What yamux and Noise put around what is written at once.
const FRAME_BYTES: u64 = 12 + 18;
/// A message's name, where peers tell of it: its author in base 58, its number in decimal, and its tag.
const NAME_BYTES: u64 = 52 + 20 + 2;
/// From this size on peers say which messages they need not be sent any more.
const LARGE_BYTES: u64 = 1000;

/// No two measurements use the same addresses.
static NEXT_PORT: AtomicU64 = AtomicU64::new(1);

/// What one node's gossip came to.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Nodes.
    pub nodes: usize,
    /// Reports a second that a node heard, its own not counted.
    pub heard_per_s: f64,
    /// Bytes that an average node received for each report it heard.
    pub in_per_report: f64,
    /// Bytes a second that an average node received.
    pub in_per_s: f64,
    /// Bytes a second that it sent.
    pub out_per_s: f64,
}

/// The most bytes that a node receives, on average over the nodes, for each report it hears: once from the author, once
/// from each peer of a full mesh, and its name from those that tell of it.
pub fn in_per_report_max(report_bytes: u64) -> u64 {
    let mesh = MESH_MAX as u64;
    let message = report_bytes + ENVELOPE_BYTES + FRAME_BYTES;
    let named = (TOLD * TOLD_HEARTBEATS) as u64 * (NAME_BYTES + FRAME_BYTES);
    let not_needed = if message >= LARGE_BYTES { mesh * (NAME_BYTES + FRAME_BYTES) } else { 0 };
    (1 + mesh) * message + named + not_needed
}

/// Reports a second that a node hears in a cluster of this size, nothing having changed.
pub fn heard_per_s(nodes: u64) -> f64 {
    nodes.saturating_sub(1) as f64 * (HEARD_PER_S_MAX as f64 / nodes.max(1) as f64).min(1.0)
}

/// Bytes a second that a node receives at most, whatever the cluster's size.
pub fn in_per_s_max(report_bytes: u64) -> u64 {
    HEARD_PER_S_MAX * in_per_report_max(report_bytes)
}

/// Has so many nodes publish reports of this size, each one a second, for some time.
///
/// # Errors
/// They cannot be connected.
pub fn measure(nodes: usize, report_bytes: usize, time: Duration) -> Result<Cost, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let cost = runtime.block_on(measure_here(nodes, report_bytes, time));
    runtime.shutdown_background();
    cost
}

async fn measure_here(nodes: usize, report_bytes: usize, time: Duration) -> Result<Cost, String> {
    let counters: Vec<Arc<Counters>> = (0..nodes).map(|_| Arc::default()).collect();
    let (publishing, publish) = watch::channel(false);
    let (ready, mut readied) = mpsc::channel(nodes.max(1));
    let first_port = NEXT_PORT.fetch_add(nodes as u64, Ordering::SeqCst);
    for (number, counters) in counters.iter().enumerate() {
        let swarm = swarm(number, Arc::clone(counters))?;
        let peer = Peer {
            first_port,
            number,
            nodes,
            report_bytes,
            counters: Arc::clone(counters),
            ready: ready.clone(),
        };
        tokio::spawn(peer.run(swarm, publish.clone()));
    }
    for _ in 0..nodes {
        let one = tokio::time::timeout(CONNECT_MAX, readied.recv()).await;
        one.map_err(|_| format!("{nodes} nodes do not find each other"))?;
    }
    let _ = publishing.send(true);
    tokio::time::sleep(FORM_TIME).await;
    let sum = |which: fn(&Counters) -> &AtomicU64| -> u64 {
        counters.iter().map(|counters| which(counters).load(Ordering::Relaxed)).sum()
    };
    let sums = || [sum(|c| &c.heard), sum(|c| &c.bytes_in), sum(|c| &c.bytes_out)];
    let (clock, before) = (std::time::Instant::now(), sums());
    tokio::time::sleep(time).await;
    let (seconds, after) = (clock.elapsed().as_secs_f64(), sums());
    let [heard, bytes_in, bytes_out] = [0, 1, 2].map(|i: usize| (after[i] - before[i]) as f64);
    let each = nodes as f64 * seconds;
    Ok(Cost {
        nodes,
        heard_per_s: heard / each,
        in_per_report: bytes_in / heard.max(1.0),
        in_per_s: bytes_in / each,
        out_per_s: bytes_out / each,
    })
}

#[derive(Default)]
struct Counters {
    heard: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// One node: it dials those of a lower number, says when it is connected with all, and reports once told to.
struct Peer {
    first_port: u64,
    number: usize,
    nodes: usize,
    report_bytes: usize,
    counters: Arc<Counters>,
    ready: mpsc::Sender<()>,
}

impl Peer {
    fn address(&self, number: usize) -> Multiaddr {
        Multiaddr::empty().with(libp2p::multiaddr::Protocol::Memory(self.first_port + number as u64))
    }

    async fn run(self, mut swarm: Swarm<Behaviour>, mut publish: watch::Receiver<bool>) {
        let topic = IdentTopic::new(TOPIC);
        drop(swarm.behaviour_mut().subscribe(&topic));
        drop(swarm.listen_on(self.address(self.number)));
        // All listen before anybody dials.
        tokio::time::sleep(Duration::from_millis(200)).await;
        (0..self.number).for_each(|other| drop(swarm.dial(self.address(other))));
        let (mut subscribed, mut told) = (0, false);
        // Not all in one moment.
        let phase = Duration::from_millis(1000 * self.number as u64 / self.nodes as u64);
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + phase, Duration::from_secs(1));
        loop {
            if subscribed + 1 >= self.nodes && !told {
                told = true;
                let _ = self.ready.send(()).await;
            }
            let reports = *publish.borrow_and_update();
            tokio::select! {
                event = swarm.select_next_some() => match event {
                    SwarmEvent::Behaviour(Event::Subscribed { .. }) => subscribed += 1,
                    SwarmEvent::Behaviour(Event::Message { .. }) => {
                        self.counters.heard.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => {}
                },
                _ = ticks.tick(), if reports => {
                    drop(swarm.behaviour_mut().publish(topic.hash(), vec![0x5a; self.report_bytes]));
                }
                changed = publish.changed() => if changed.is_err() { return },
            }
        }
    }
}

fn swarm(number: usize, counters: Arc<Counters>) -> Result<Swarm<Behaviour>, String> {
    let mut secret = [7; 32];
    secret[..8].copy_from_slice(&(number as u64).to_le_bytes());
    let keypair = Keypair::ed25519_from_bytes(secret).map_err(|error| error.to_string())?;
    let noise = noise::Config::new(&keypair).map_err(|error| error.to_string())?;
    let transport = MemoryTransport::default()
        .map(move |connection, _| Counted { connection, counters: Arc::clone(&counters) })
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux::Config::default())
        .boxed();
    let settings = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::MAX);
    Ok(Swarm::new(transport, behaviour(&keypair)?, keypair.public().to_peer_id(), settings))
}

/// A connection whose bytes are counted.
struct Counted<C> {
    connection: C,
    counters: Arc<Counters>,
}

impl<C: AsyncRead + Unpin> AsyncRead for Counted<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.connection).poll_read(cx, buf);
        count(&self.counters.bytes_in, &read);
        read
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Counted<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.connection).poll_write(cx, buf);
        count(&self.counters.bytes_out, &written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_close(cx)
    }
}

fn count(counter: &AtomicU64, moved: &Poll<io::Result<usize>>) {
    if let Poll::Ready(Ok(bytes)) = moved {
        counter.fetch_add(*bytes as u64, Ordering::Relaxed);
    }
}
