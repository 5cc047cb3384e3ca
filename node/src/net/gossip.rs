//! Gossip: small signed messages to every node of the cluster, over gossipsub.
//!
//! Tuned for clusters that may have two nodes: a mesh of one peer is enough, and a node's own messages go to
//! every peer that listens. A message is checked against its author's signature before anyone sees it, and may
//! be lost; what must arrive is called for point to point.
//!
//! What a node sends and hears in a second depends on the number of messages only, and not on the number of peers: at
//! most [`MESH_MAX`] of them forward it a message that its author sends it as well, and a fixed number tell it of what
//! they have. `docs/scale.md` has the figures.

use std::time::Duration;

use libp2p::gossipsub::{Behaviour, ConfigBuilder, MessageAuthenticity, ValidationMode};
use libp2p::identity::Keypair;

/// Longest message: a report with room to grow.
pub const GOSSIP_BYTES_MAX: usize = 64 * 1024;
/// What gossipsub puts around a message (author, signature, topic), with room.
const ENVELOPE_BYTES: usize = 4 * 1024;
/// How often gossipsub mends its mesh, and peers are told which messages there were.
pub const HEARTBEAT_MS: u64 = 300;
/// Peers that a node asks to forward every message to it.
const MESH: usize = 4;
/// Peers that it forwards to at most, with those that asked for it.
pub const MESH_MAX: usize = 8;
/// Peers outside the mesh that are told, at each heartbeat, which messages there were.
pub const TOLD: usize = 3;
/// Heartbeats for which peers are told of a message.
pub const TOLD_HEARTBEATS: usize = 3;
/// How long a message is recognised when it comes again. Short: its messages are reports, void when newer ones come.
const DUPLICATES_MS: u64 = 20_000;
/// Messages that wait for one slow peer; the next ones are dropped for it.
const PEER_QUEUE_MESSAGES: usize = 256;

/// The gossip part of the swarm.
///
/// # Errors
/// Settings that gossipsub refuses; those below are the same in every build.
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
        // Else a share of all peers would be told, at each heartbeat.
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
