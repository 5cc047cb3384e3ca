//! Another leader before the present one goes.
//!
//! A voter that has heard of its leader lately refuses to vote for anybody else. One that was itself told to
//! stand for election does not any more: so the leader asks all voters but one to stand, and that one last. Each
//! vote is a higher one than the leader's: from then on it commits nothing. That is safe at any time; a new
//! coordinator waits out the leases of the former one as after any election.

use std::collections::BTreeSet;
use std::time::Duration;

use super::types::Metrics;
use super::{ProposeError, Topology};
use crate::id::NodeId;

impl Topology {
    /// Stands for election now. Nothing happens on a node that does not vote, or leads.
    ///
    /// # Errors
    /// [`ProposeError::Stopped`].
    pub async fn stand_for_election(&self) -> Result<(), ProposeError> {
        self.inner.raft.trigger().elect().await.map_err(|_| ProposeError::Stopped)
    }

    /// At the coordinator: waits until these nodes have every entry, at most `patience`. One that lacks some
    /// would not be elected.
    pub async fn wait_replicated(&self, nodes: &BTreeSet<NodeId>, patience: Duration) {
        let has = |metrics: &Metrics, node: &NodeId| {
            let matched = metrics.replication.as_ref().and_then(|nodes| nodes.get(node).copied().flatten());
            matched.map(|id| id.index) >= metrics.last_log_index
        };
        let all =
            |metrics: &Metrics| metrics.replication.is_none() || nodes.iter().all(|node| has(metrics, node));
        // If it is not so in time, the election tells.
        drop(self.inner.raft.wait(Some(patience)).metrics(all, "every entry on every voter").await);
    }
}
