//! The types the consensus engine is told to use.

use std::io::Cursor;

use openraft::EmptyNode;
use serde::{Deserialize, Serialize};

use crate::cluster::state::{Change, Verdict};
use crate::id::{Epoch, NodeId};

openraft::declare_raft_types!(
    /// Node ids are Caskade's own; addresses are in the cluster state, so a raft node carries none.
    pub(crate) TypeConfig:
        D = Vec<Change>,
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

/// What applying one log entry gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied {
    /// The epoch after it.
    pub(crate) epoch: Epoch,
    /// One verdict a change, in order.
    pub(crate) verdicts: Vec<Verdict>,
}
