//! The cost of gossip on the wire: the real gossipsub, with the settings of a node, every node connected to
//! every other.
//!
//! Counted are all bytes of a node's connections, between the multiplexer and the socket: repeated messages,
//! announcements of messages among peers, signatures, encryption and framing. Headers of TCP and IP are not
//! counted. It runs in real time: the tests assert bytes for each report received, which depend on no clock.

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

/// Topic, as long as that of a real cluster.
const TOPIC: &str = "caskade/1/cacacacacacacacacacacacacacacaca";
/// Time for connections and meshes to form.
const FORM_TIME: Duration = Duration::from_secs(3);
/// Time limit for the nodes to connect.
const CONNECT_MAX: Duration = Duration::from_secs(60);
/// Most reports a second that one node receives (`node/src/runtime/gossip.rs`).
pub const HEARD_PER_S_MAX: u64 = 50;
/// Bytes that gossipsub adds to a report: author (38), signature (64), topic, sequence number (8), and their
/// tags.
const ENVELOPE_BYTES: u64 = 190;
/// Bytes that yamux and Noise add to one write.
const FRAME_BYTES: u64 = 12 + 18;
/// Bytes of a message's name in announcements: its author in base 58, its number in decimal, and its tag.
const NAME_BYTES: u64 = 52 + 20 + 2;
/// Size from which on peers announce messages that they need not receive again.
const LARGE_BYTES: u64 = 1000;

/// Counter of measurements: no two use the same addresses.
static NEXT_PORT: AtomicU64 = AtomicU64::new(1);

/// Gossip of one node.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Number of nodes.
    pub nodes: usize,
    /// Reports a second that a node received, its own not counted.
    pub heard_per_s: f64,
    /// Bytes that an average node received for each report.
    pub in_per_report: f64,
    /// Bytes a second that an average node received.
    pub in_per_s: f64,
    /// Bytes a second that an average node sent.
    pub out_per_s: f64,
}

/// Returns the most bytes that a node receives for each report, on average over the nodes: once from the
/// author, once from each peer of a full mesh, and its name from the peers that announce it.
pub fn in_per_report_max(report_bytes: u64) -> u64 {
    let mesh = MESH_MAX as u64;
    let message = report_bytes + ENVELOPE_BYTES + FRAME_BYTES;
    let named = (TOLD * TOLD_HEARTBEATS) as u64 * (NAME_BYTES + FRAME_BYTES);
    let not_needed = if message >= LARGE_BYTES { mesh * (NAME_BYTES + FRAME_BYTES) } else { 0 };
    (1 + mesh) * message + named + not_needed
}

/// Returns the reports a second that a node receives in a cluster of this size without a change.
pub fn heard_per_s(nodes: u64) -> f64 {
    nodes.saturating_sub(1) as f64 * (HEARD_PER_S_MAX as f64 / nodes.max(1) as f64).min(1.0)
}

/// Returns the most bytes a second that a node receives, whatever the cluster's size.
pub fn in_per_s_max(report_bytes: u64) -> u64 {
    HEARD_PER_S_MAX * in_per_report_max(report_bytes)
}

/// Has this number of nodes publish reports of this size, each one a second, for some time. Returns the cost.
///
/// # Errors
/// The nodes do not connect.
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

/// Runs one node: it dials those of a lower number, reports its connection with all, and publishes on
/// command.
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
        // All nodes listen before any dials.
        tokio::time::sleep(Duration::from_millis(200)).await;
        (0..self.number).for_each(|other| drop(swarm.dial(self.address(other))));
        let (mut subscribed, mut told) = (0, false);
        // Not all at one moment.
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

/// Connection whose bytes are counted.
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
