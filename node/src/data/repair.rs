//! Compares the in-sync copies of each partition once per `repair_interval_ms`, and makes them equal if they
//! differ.
//!
//! In-sync copies must never differ. A difference means an undetected fault of a disk or of this program. So
//! it is reported as an error, with both nodes, before anything is changed. The comparison is exact while
//! writes continue (`Plane::compare_digests`). The primary's state counts, as in every reconciliation.

use std::sync::Arc;
use std::time::Duration;

use caskade_engine::slots::PARTITIONS;

use super::catch_up::Sent;
use super::plane::{Plane, Role};
use crate::cluster::events::Severity;
use crate::id::{NodeId, Partition, Term};
use crate::partition::Phase;

impl Plane {
    /// Compares each partition once per `repair_interval_ms`; never returns.
    pub async fn run_repair(self: Arc<Self>) {
        let pause = Duration::from_millis(self.limits.repair_interval_ms) / u32::from(PARTITIONS);
        loop {
            for partition in 0..PARTITIONS {
                tokio::time::sleep(pause).await;
                self.repair(partition).await;
            }
        }
    }

    /// Compares one partition with its in-sync followers, if this node serves it.
    async fn repair(self: &Arc<Self>, partition: Partition) {
        let due = self.with_role(partition, |role| match role {
            Role::Primary(primary) if primary.phase() == Phase::Serving => {
                let in_sync = primary
                    .followers()
                    .iter()
                    .filter(|follower| follower.is_in_sync() && !follower.is_broken());
                Some((primary.term(), in_sync.map(|follower| follower.node()).collect::<Vec<_>>()))
            }
            _ => None,
        });
        let Some((term, followers)) = due.filter(|_| self.has_lease()) else { return };
        for node in followers {
            match self.compare_digests(partition, term, node).await {
                Ok(compared) if compared.mine == compared.theirs => {}
                Ok(_) => self.repair_copy(partition, term, node).await,
                // The node no longer has a copy; or it does not answer, and the primary suspends it.
                Err(error) => tracing::debug!(partition, %node, %error, "cannot compare copies"),
            }
        }
    }

    async fn repair_copy(self: &Arc<Self>, partition: Partition, term: Term, node: NodeId) {
        let (here, there) = (self.node.short(), node.short());
        self.report(
            Severity::Error,
            node,
            format!(
                "the copies of partition {partition} (term {term}) on nodes {here} and {there} differ though \
                 both are in-sync: the primary, {here}, makes them equal to its own. Please report this"
            ),
        );
        let stats = self.engine.partition_stats(partition);
        self.tasks.add(node, "repair", "copies differ", stats.live_keys, stats.live_bytes);
        let result = self.catch_up(partition, term, node, &mut Sent::default()).await;
        self.tasks.finish(node);
        match result {
            Ok(_) => self.report(
                Severity::Warning,
                node,
                format!(
                    "the copies of partition {partition} (term {term}) on nodes {here} and {there} are \
                         equal again"
                ),
            ),
            Err(error) => self.report(
                Severity::Error,
                node,
                format!(
                    "the copies of partition {partition} on nodes {here} and {there} still differ: \
                         {error}"
                ),
            ),
        }
    }
}
