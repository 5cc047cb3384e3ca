//! The types the consensus engine is told to use.

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

/// What one entry of the log is to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// The term of the log its proposer was elected for when it decided this; the entry is void in any other. For what
    /// rests on what a coordinator knows of leases: one that was deposed and elected again may not have noticed, and another
    /// has granted some meanwhile.
    pub elected: Option<u64>,
}

impl From<Vec<Change>> for Proposal {
    fn from(changes: Vec<Change>) -> Self {
        Self { changes, elected: None }
    }
}

impl Proposal {
    /// Changes the state, if the entry is of the right term.
    pub fn apply(&self, term: u64, state: &mut ClusterState) -> Vec<Verdict> {
        match self.elected.filter(|elected| *elected != term) {
            None => state.apply(&self.changes),
            Some(elected) => {
                let reason =
                    format!("decided by the coordinator of term {elected}, and committed in term {term}");
                vec![Verdict::Void(reason); self.changes.len()]
            }
        }
    }
}

/// What applying one log entry gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied {
    /// The epoch after it.
    pub(crate) epoch: Epoch,
    /// One verdict a change, in order.
    pub(crate) verdicts: Vec<Verdict>,
}
