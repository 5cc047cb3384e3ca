//! Control messages between nodes: bincode, on the control class.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::generation::GenerationReport;
use crate::cluster::state::{Announcement, Change, Verdict};
use crate::cluster::takeover::Generation;
use crate::cluster::time::TimeReport;
use crate::id::{ClusterId, NodeId};
use crate::net::{Class, Peers, wire};

/// Largest control message that a node accepts, in bytes; a snapshot of the topology fits.
pub(super) const CONTROL_BYTES_MAX: usize = 64 << 20;

/// A request of a node to another one, with the sender's cluster and generation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Envelope {
    /// Cluster of the sender; `None` while it holds no committed state.
    pub(super) cluster: Option<ClusterId>,
    /// Generation that the sender follows; `None` while it holds no committed state and has given up none.
    pub(super) generation: Option<Generation>,
    /// The request.
    pub(super) question: Control,
}

impl Envelope {
    /// Creates the envelope of a node that holds no committed state.
    pub(super) fn without_state(question: Control) -> Self {
        Self { cluster: None, generation: None, question }
    }
}

/// Request of a node to another one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Control {
    /// Asks for the id, coordinator and members of the cluster.
    Hello,
    /// A message of the topology log.
    Raft(Bytes),
    /// Requests a lease from the coordinator, which first registers a node with an unknown incarnation. The
    /// report is about the requesting node's clocks.
    Lease(Announcement, TimeReport),
    /// Requests the coordinator to commit changes.
    Propose(Vec<Change>),
    /// The coordinator is about to stop: the receiver should stand for election.
    Stand,
    /// Asks for the topology log that the node follows.
    Compare,
    /// A new coordinator asks a voter, once that can no longer confirm a term older than this one: how long
    /// ago did it last confirm a coordinator?
    LastConfirmed { term: u64 },
}

impl Control {
    /// Returns whether a node without a committed state may send the request: it leads to such a state.
    pub(super) fn leads_to_state(&self) -> bool {
        matches!(self, Self::Hello | Self::Compare | Self::Lease(..))
    }
}

/// Answer to a [`Control`] request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ControlAnswer {
    /// To `Hello`; the id is `None` while the node does not belong to a cluster.
    Hello { cluster_id: Option<ClusterId>, coordinator: Option<NodeId>, members: Vec<(NodeId, Vec<String>)> },
    /// To `Raft`.
    Raft(Bytes),
    /// To `Lease`.
    Granted {
        /// Length of the lease, in milliseconds from its request.
        length_ms: u64,
        /// Cluster time when the lease was granted, in microseconds.
        time_us: u64,
    },
    /// To `Lease`: not yet, for this reason; retry.
    NotYet(String),
    /// To `Lease`: this incarnation was declared down; only a newer one is registered.
    DeclaredDown,
    /// To `Propose`.
    Proposed(Vec<Verdict>),
    /// This node is not the coordinator; the named node may be.
    NotCoordinator(Option<NodeId>),
    /// The request cannot be performed now, for this reason.
    Failed(String),
    /// To `Lease`: this node can never get a lease in its present condition, for this reason; it should stop.
    Refused(String),
    /// To `Lease`: like `Refused`, because the node was removed.
    Removed(String),
    /// To `Stand`: the election has begun.
    Registration,
    /// To any request: the node is of this generation, the sender of another one.
    OtherGeneration { generation: Generation, reason: String },
    /// To `Compare`.
    Compared(GenerationReport),
    /// To `LastConfirmed`: milliseconds from the confirmation to this answer.
    LastConfirmed { age_ms: u64 },
}

/// Sends a request to a peer, and waits at most `timeout` for its answer.
pub(super) async fn ask(
    peers: &Peers,
    node: NodeId,
    envelope: &Envelope,
    timeout: Duration,
) -> Result<ControlAnswer, String> {
    let call = peers.call(node, Class::Control, wire::encode(envelope).into());
    let answer = tokio::time::timeout(timeout, call).await;
    let body = answer
        .map_err(|_| format!("node {} did not answer within {} ms", node.short(), timeout.as_millis()))?
        .map_err(|error| error.to_string())?;
    wire::decode::<ControlAnswer, CONTROL_BYTES_MAX>(&body)
        .map_err(|error| format!("cannot decode the answer of node {}: {error}", node.short()))
}
