//! Types of the consensus engine's configuration.

use std::io::Cursor;

use openraft::EmptyNode;
use serde::{Deserialize, Serialize};

use crate::cluster::state::{Change, ClusterState, Verdict};
use crate::id::{Epoch, NodeId};

openraft::declare_raft_types!(
    /// Node ids are Caskade's own; addresses are in the cluster state, so a raft node carries none.
    pub(crate) TypeConfig:
        D = Proposal,
        R = Applied,
        NodeId = NodeId,
        Node = EmptyNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
);

pub(super) type Raft = openraft::Raft<TypeConfig>;
pub(super) type Entry = openraft::Entry<TypeConfig>;
pub(super) type LogId = openraft::LogId<NodeId>;
pub(super) type Vote = openraft::Vote<NodeId>;
pub(super) type StoredMembership = openraft::StoredMembership<NodeId, EmptyNode>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<NodeId, EmptyNode>;
pub(super) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(super) type StorageError = openraft::StorageError<NodeId>;
pub(super) type StorageIoError = openraft::StorageIOError<NodeId>;
pub(super) type Metrics = openraft::RaftMetrics<NodeId, EmptyNode>;

/// The changes of one log entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// The term for which the log had elected the proposer when it decided these changes. The entry is void
    /// in any other term.
    ///
    /// Set for decisions that depend on the leases a coordinator has granted. A coordinator that was deposed
    /// and elected again may not have noticed it, while another coordinator has granted leases.
    pub elected: Option<u64>,
}

impl From<Vec<Change>> for Proposal {
    fn from(changes: Vec<Change>) -> Self {
        Self { changes, elected: None }
    }
}

impl Proposal {
    /// Applies the changes to the state, if `term` is the right one; returns one verdict per change.
    pub fn apply(&self, term: u64, state: &mut ClusterState) -> Vec<Verdict> {
        match self.elected.filter(|elected| *elected != term) {
            None => state.apply(&self.changes),
            Some(elected) => {
                let reason = format!(
                    "the coordinator of term {elected} decided this, but the log committed it in term {term}"
                );
                vec![Verdict::Rejected(reason); self.changes.len()]
            }
        }
    }
}

/// Result of applying one log entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied {
    /// The epoch after the entry.
    pub(crate) epoch: Epoch,
    /// One verdict per change, in order.
    pub(crate) verdicts: Vec<Verdict>,
}
