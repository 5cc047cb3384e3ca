//! Gossip: small signed messages to every node of the cluster, over gossipsub.
//!
//! Tuned for clusters that may have two nodes: a mesh of one peer is enough, and a node's own messages go to
//! every peer that listens. A message is checked against its author's signature before anyone sees it, and may
//! be lost; what must arrive is called for point to point.

use std::time::Duration;

use libp2p::gossipsub::{Behaviour, ConfigBuilder, MessageAuthenticity, ValidationMode};
use libp2p::identity::Keypair;

/// Longest message: a report with room to grow.
pub const GOSSIP_BYTES_MAX: usize = 64 * 1024;
/// What gossipsub puts around a message (author, signature, topic), with room.
const ENVELOPE_BYTES: usize = 4 * 1024;
const HEARTBEAT_MS: u64 = 300;
/// How long a message is recognised when it comes again. Short: its messages are reports, void when newer ones come.
const DUPLICATES_MS: u64 = 20_000;
/// Messages that wait for one slow peer; the next ones are dropped for it.
const PEER_QUEUE_MESSAGES: usize = 256;

/// The gossip part of the swarm.
pub(super) fn behaviour(keypair: &Keypair) -> Result<Behaviour, String> {
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
        .mesh_n(4)
        .mesh_n_high(8)
        .gossip_lazy(3)
        .prune_backoff(Duration::from_secs(3))
        .unsubscribe_backoff(Duration::from_secs(1))
        .graft_flood_threshold(Duration::from_secs(1))
        .connection_handler_queue_len(PEER_QUEUE_MESSAGES)
        .build()
        .map_err(|error| error.to_string())?;
    Behaviour::new(MessageAuthenticity::Signed(keypair.clone()), config).map_err(str::to_owned)
}
