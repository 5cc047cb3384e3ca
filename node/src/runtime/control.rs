//! The control messages between nodes: bincode, on the control class.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::generation::Standpoint;
use crate::cluster::state::{Announcement, Change, Verdict};
use crate::cluster::takeover::Generation;
use crate::cluster::time::TimeReport;
use crate::id::{ClusterId, NodeId};
use crate::net::{Class, Peers, wire};

/// Largest control message that is read, in bytes; a snapshot of the topology fits.
pub(super) const CONTROL_BYTES_MAX: usize = 64 << 20;

/// What a node asks another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Control {
    /// Which cluster is this, and who is in it?
    Hello,
    /// A message of the topology log.
    Raft(Bytes),
    /// Asks the coordinator for a lease; a node it does not know in this incarnation is registered first. The report is of
    /// the asker's clocks.
    Lease(Announcement, TimeReport),
    /// Asks the coordinator to commit changes.
    Propose(Vec<Change>),
    /// The coordinator is about to go: stand for election in its place.
    Stand,
    /// Any other question, encoded, and of which generation its sender is. From version 3 of the protocol on.
    Of(Generation, Bytes),
    /// Which topology log do you follow? From version 3 on.
    Compare,
    /// Any other question, encoded, and of which cluster its sender is. From version 5 on.
    In(ClusterId, Bytes),
    /// The new coordinator asks a voter, once that confirms nobody of an older term than this any more: how long ago did
    /// it last confirm a coordinator?
    LastConfirmed { term: u64 },
}

/// What it is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ControlAnswer {
    /// Of `Hello`; the id is `None` while the node belongs to no cluster.
    Hello { cluster_id: Option<ClusterId>, coordinator: Option<NodeId>, members: Vec<(NodeId, Vec<String>)> },
    /// Of `Raft`.
    Raft(Bytes),
    /// Of `Lease`.
    Granted {
        /// How long it is, in milliseconds from when it was asked for.
        length_ms: u64,
        /// Cluster time when it was granted, in microseconds.
        time_us: u64,
    },
    /// Of `Lease`: not yet, for this reason; ask again.
    NotYet(String),
    /// Of `Lease`: this incarnation was declared down; only a new one is taken back.
    DeclaredDown,
    /// Of `Propose`.
    Proposed(Vec<Verdict>),
    /// This node is not the coordinator; perhaps that one is.
    NotCoordinator(Option<NodeId>),
    /// It cannot be done now, for this reason.
    Failed(String),
    /// Of `Lease`: this node can never get one as it is, for this reason; it should end.
    Refused(String),
    /// Of `Lease`: as `Refused`, since the node is no member any more. From version 2 of the protocol on.
    Removed(String),
    /// Of `Stand`: the election is under way.
    Standing,
    /// Of any question: the node is of this generation, the asker of another one.
    OtherGeneration { generation: Generation, reason: String },
    /// Of `Compare`.
    Compared(Standpoint),
    /// Of `LastConfirmed`: so many milliseconds before it answered.
    LastConfirmed { age_ms: u64 },
}

/// Asks a peer, and waits for its answer no longer than `timeout`.
pub(super) async fn ask(
    peers: &Peers,
    node: NodeId,
    question: &Control,
    timeout: Duration,
) -> Result<ControlAnswer, String> {
    let call = peers.call(node, Class::Control, wire::encode(question).into());
    let answer = tokio::time::timeout(timeout, call).await;
    let body = answer
        .map_err(|_| format!("node {} did not answer within {} ms", node.short(), timeout.as_millis()))?
        .map_err(|error| error.to_string())?;
    wire::decode::<ControlAnswer, CONTROL_BYTES_MAX>(&body)
        .map_err(|error| format!("the answer of node {} cannot be read: {error}", node.short()))
}
