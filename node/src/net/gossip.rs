//! Gossip: small signed messages to every node of the cluster, over gossipsub.
//!
//! The settings suit clusters of two nodes and more: a mesh of one peer is enough, and a node sends its own
//! messages to every subscribed peer. gossipsub checks each message against its author's signature before
//! this node sees it. Gossip may be lost: nodes use calls for all data that must arrive.
//!
//! The traffic of a node per second depends on the number of messages, not on the number of peers. At most
//! [`MESH_MAX`] peers forward to it a message that its author also sends to it directly, and a fixed number
//! announce the messages they have. `docs/scale.md` has the figures.

use std::time::Duration;

use libp2p::gossipsub::{Behaviour, ConfigBuilder, MessageAuthenticity, ValidationMode};
use libp2p::identity::Keypair;

/// Longest message in bytes: a report with room to grow.
pub const GOSSIP_BYTES_MAX: usize = 64 * 1024;
/// Bytes that gossipsub adds to a message (author, signature, topic), with a reserve.
const ENVELOPE_BYTES: usize = 4 * 1024;
/// Interval at which gossipsub repairs its mesh and announces recent messages to peers.
pub const HEARTBEAT_MS: u64 = 300;
/// Peers that a node asks to forward every message to it.
const MESH: usize = 4;
/// Maximum of peers that a node forwards to, including those that asked for it.
pub const MESH_MAX: usize = 8;
/// Peers outside the mesh to which a node announces recent messages at each heartbeat.
pub const TOLD: usize = 3;
/// Number of heartbeats at which a node announces a message.
pub const TOLD_HEARTBEATS: usize = 3;
/// Time for which a repeated message is recognised. It is short because messages are reports, which newer
/// ones replace.
const DUPLICATES_MS: u64 = 20_000;
/// Maximum of messages queued for one slow peer; further ones are dropped for this peer.
const PEER_QUEUE_MESSAGES: usize = 256;

/// Returns the gossip behaviour of the swarm.
///
/// # Errors
/// When gossipsub rejects the settings; they are the same in every build.
pub fn behaviour(keypair: &Keypair) -> Result<Behaviour, String> {
    let config = ConfigBuilder::default()
        .protocol_id_prefix("/caskade/gossip")
        .validation_mode(ValidationMode::Strict)
        .max_transmit_size(GOSSIP_BYTES_MAX + ENVELOPE_BYTES)
        .heartbeat_initial_delay(Duration::from_millis(HEARTBEAT_MS))
        .heartbeat_interval(Duration::from_millis(HEARTBEAT_MS))
        .duplicate_cache_time(Duration::from_millis(DUPLICATES_MS))
        .flood_publish(true)
        .mesh_outbound_min(0)
        .mesh_n_low(1)
        .mesh_n(MESH)
        .mesh_n_high(MESH_MAX)
        .gossip_lazy(TOLD)
        // The default would announce messages to a share of all peers at each heartbeat.
        .gossip_factor(0.0)
        .history_gossip(TOLD_HEARTBEATS)
        .prune_backoff(Duration::from_secs(3))
        .unsubscribe_backoff(Duration::from_secs(1))
        .graft_flood_threshold(Duration::from_secs(1))
        .connection_handler_queue_len(PEER_QUEUE_MESSAGES)
        .build()
        .map_err(|error| error.to_string())?;
    Behaviour::new(MessageAuthenticity::Signed(keypair.clone()), config).map_err(str::to_owned)
}
