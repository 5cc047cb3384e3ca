//! What a node gossips of itself: liveness and load, never ownership.

use serde::{Deserialize, Serialize};

use super::state::Announcement;
use crate::api::{NodeRow, Task};
use crate::id::ClusterId;

/// Largest report that is read, in bytes.
pub const REPORT_BYTES_MAX: usize = 256 << 10;

/// One node's report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeReport {
    /// The cluster it belongs or wants to belong to.
    pub cluster_id: ClusterId,
    /// Who it is, and where it is reached: what a coordinator needs to admit it.
    pub announcement: Announcement,
    /// Hash of the ring it holds.
    pub ring_hash: u64,
    /// Its figures.
    pub row: NodeRow,
    /// What it copies.
    pub tasks: Vec<Task>,
}
