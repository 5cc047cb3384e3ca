//! The report that a node gossips about itself: liveness and load, never ownership.

use serde::{Deserialize, Serialize};

use super::state::Announcement;
use crate::api::{NodeRow, Task};
use crate::id::ClusterId;

/// Largest report that a node accepts, in bytes.
pub const REPORT_BYTES_MAX: usize = 256 << 10;

/// One node's report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeReport {
    /// The cluster to which the node belongs or wants to belong.
    pub cluster_id: ClusterId,
    /// Identity and addresses of the node, which a coordinator needs to admit it.
    pub announcement: Announcement,
    /// Hash of the node's ring.
    pub ring_hash: u64,
    /// Load and figures of the node.
    pub row: NodeRow,
    /// Copies that the node is making.
    pub tasks: Vec<Task>,
}
