//! Hands a partition over to the node that `ClusterState::successor` names, with this node's consent (rule
//! R3).
//!
//! This node stops serving the partition, waits until no write is pending, then proposes the change.
//! Invariant: it resumes serving only by a committed state.

use std::sync::Arc;
use std::time::Duration;

use caskade_engine::slots::PARTITIONS;

use super::plane::{Plane, Role};
use super::tasks::Job;
use crate::cluster::state::{Change, PrimaryRef};
use crate::id::{Incarnation, Partition, Term};
use crate::mutation::{Mutation, planted};
use crate::partition::Phase;

/// Time limit for the commit of a proposal, after which it is proposed again.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval of the checks whether a recovery has ended.
const RECOVERY_PAUSE: Duration = Duration::from_millis(20);
/// Interval of the checks whether writes are pending.
const SETTLE_PAUSE: Duration = Duration::from_millis(1);

impl Plane {
    /// Starts the hand-over of each of these partitions for which the committed state asks for one.
    pub(super) fn schedule_hand_overs(self: &Arc<Self>, partitions: &[Partition], incarnation: Incarnation) {
        let state = self.state();
        for &partition in partitions {
            if state.primary(partition) != Some(self.node) || !state.hand_over_due(partition) {
                continue;
            }
            let term = state.partitions[usize::from(partition)].term;
            if self.tasks.begin(Job::HandOver { partition, term }) {
                self.host.spawn(Arc::clone(self).hand_over(partition, term, incarnation));
            }
        }
    }

    async fn hand_over(self: Arc<Self>, partition: Partition, term: Term, incarnation: Incarnation) {
        if let Ok(_permit) = self.tasks.hand_overs.acquire().await {
            // The hand-over marks the term as settled, so the recovery must have ended before.
            while self.is_recovering(partition, term) {
                tokio::time::sleep(RECOVERY_PAUSE).await;
            }
            if !planted(Mutation::NoConsent) {
                self.stop_serving(partition, term);
                self.settle(partition, term).await;
            }
            while self.is_primary(partition, term) {
                self.propose(Change::HandOver(PrimaryRef { partition, term, incarnation }));
                self.wait_until(COMMIT_TIMEOUT, || !self.is_primary(partition, term)).await;
            }
        }
        self.tasks.end(Job::HandOver { partition, term });
    }

    fn is_primary(self: &Arc<Self>, partition: Partition, term: Term) -> bool {
        self.with_primary(partition, term, |_| ()).is_some()
    }

    fn is_recovering(self: &Arc<Self>, partition: Partition, term: Term) -> bool {
        self.with_primary(partition, term, |primary| primary.phase() == Phase::Recovering) == Some(true)
    }

    fn stop_serving(self: &Arc<Self>, partition: Partition, term: Term) {
        self.with_primary(partition, term, |primary| primary.stop());
    }

    async fn settle(self: &Arc<Self>, partition: Partition, term: Term) {
        while self.with_primary(partition, term, |primary| primary.pending_len()).unwrap_or(0) > 0 {
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
    }

    /// Prepares a planned stop: stops serving all partitions, and waits at most `timeout` for pending writes.
    pub async fn stop_all(self: &Arc<Self>, timeout: Duration) {
        let mut terms = Vec::new();
        for partition in 0..PARTITIONS {
            self.with_role(partition, |role| {
                if let Role::Primary(primary) = role {
                    primary.stop();
                    terms.push((partition, primary.term()));
                }
            });
        }
        let settled = async {
            for (partition, term) in terms {
                self.settle(partition, term).await;
            }
        };
        if tokio::time::timeout(timeout, settled).await.is_err() {
            tracing::warn!(
                "writes are still pending at the stop: their clients get no answer, and the writes may or \
                may not have been applied"
            );
        }
    }
}
