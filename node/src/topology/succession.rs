//! Election of another leader before the present one stops.
//!
//! A voter that has heard from its leader recently refuses to vote for another node. A voter that was asked
//! to stand for election itself no longer refuses. The leader therefore asks all voters but one to stand, and
//! that one last. Each of these votes is higher than the leader's: from then on the leader commits nothing.
//! This is safe at any time, because a new coordinator waits out the leases of its predecessor as after any
//! election.

use std::collections::BTreeSet;
use std::time::Duration;

use super::types::Metrics;
use super::{ProposeError, Topology};
use crate::id::NodeId;

impl Topology {
    /// Stands for election now. Has no effect on a node that does not vote, or that leads.
    ///
    /// # Errors
    /// [`ProposeError::Stopped`].
    pub async fn stand_for_election(&self) -> Result<(), ProposeError> {
        self.inner.raft.trigger().elect().await.map_err(|_| ProposeError::Stopped)
    }

    /// At the coordinator: waits until these nodes have every entry, for at most `patience`. A node that
    /// lacks entries would not be elected.
    pub async fn wait_replicated(&self, nodes: &BTreeSet<NodeId>, patience: Duration) {
        let has = |metrics: &Metrics, node: &NodeId| {
            let matched = metrics.replication.as_ref().and_then(|nodes| nodes.get(node).copied().flatten());
            matched.map(|id| id.index) >= metrics.last_log_index
        };
        let all =
            |metrics: &Metrics| metrics.replication.is_none() || nodes.iter().all(|node| has(metrics, node));
        // Ignore a time-out: a node that still lacks entries loses the election.
        drop(self.inner.raft.wait(Some(patience)).metrics(all, "every entry on every voter").await);
    }
}
