//! The holder's side of the lease, and this node's registration: one request to the coordinator serves both.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Node;
use super::control::{Control, ControlAnswer};
use crate::cluster::state::ClusterState;
use crate::id::NodeId;
use crate::mutation::{Mutation, planted};

/// Shortest pause between two renewals: the leases of a coordinator that is no longer confirmed get short.
const RENEW_PAUSE_MIN: Duration = Duration::from_millis(10);
/// Pause before a failed request is repeated.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Time limit for the coordinator to answer a node that does not know the cluster's lease yet.
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);

/// Time without a lease before the first log line, in milliseconds: an election takes less.
const QUIET_MS: u64 = 5_000;
/// Time between two log lines, in milliseconds.
const COMPLAINT_PAUSE_MS: u64 = 10_000;

/// Schedule of the log lines about a missing lease.
#[derive(Debug, Default)]
struct LeaseWarnings {
    /// Earliest time of the next log line; `None` while the node has a lease.
    not_before_ms: Option<u64>,
}

impl LeaseWarnings {
    /// Takes the reason why the node has no lease, or `None` if it has one; returns the reason if a log line
    /// is due.
    fn due(&mut self, reason: Option<String>, now_ms: u64) -> Option<String> {
        let Some(reason) = reason else {
            self.not_before_ms = None;
            return None;
        };
        if now_ms < *self.not_before_ms.get_or_insert(now_ms + QUIET_MS) {
            return None;
        }
        self.not_before_ms = Some(now_ms + COMPLAINT_PAUSE_MS);
        Some(reason)
    }
}

/// Returns the text for clients and operators while the node has no lease.
fn no_lease_reason(state: &ClusterState, node: NodeId, reason: &str) -> String {
    format!(
        "Node {} has no lease: {reason}. It serves only reads of connections that sent READONLY; they may be \
         stale. If the nodes that are down can be started, start them{}",
        node.short(),
        match state.members.len() {
            0 | 1 => String::new(),
            _ => "; if too many are lost for good to elect a coordinator, run `caskctl cluster takeover` on this \
                  node to continue without them"
                .to_owned(),
        }
    )
}

impl Node {
    /// Renews the lease as long as the node runs, or until the coordinator refuses it for good.
    pub(super) async fn run_lease(self: Arc<Self>) {
        let mut complaints = LeaseWarnings::default();
        let mut since_ms = self.host.monotonic_ms();
        while self.refusal.borrow().is_none() {
            let renewed = self.try_renew().await;
            let pause = match &renewed {
                Ok(length_ms) => Duration::from_millis(length_ms / 4).max(RENEW_PAUSE_MIN),
                Err(_) => RETRY_PAUSE,
            };
            if renewed.is_ok() {
                since_ms = self.host.monotonic_ms();
                self.plane.set_no_lease_reason(None);
            }
            if let Some(reason) = complaints.due(renewed.err(), self.host.monotonic_ms()) {
                tracing::error!(
                    reason,
                    "no lease for 5 s: this node serves none of its partitions; it asks the coordinator every 100 ms"
                );
                self.plane.set_no_lease_reason(Some(no_lease_reason(
                    &self.topology.state(),
                    self.id,
                    &reason,
                )));
            }
            self.take_over_if_due(since_ms).await;
            tokio::time::sleep(pause).await;
        }
    }

    /// Requests a lease from the coordinator; returns its length in milliseconds, or the reason why it was
    /// not granted.
    async fn try_renew(self: &Arc<Self>) -> Result<u64, String> {
        if self.stopping.has_begun() {
            return Err("the node is stopping".into());
        }
        if self.plane.store_failed() {
            return Err("its store failed to write: repair the disk, then restart the node".into());
        }
        let known = self.topology.coordinator().or(*self.coordinator_hint.lock());
        let coordinator =
            known.ok_or("no coordinator is known: too few voters are reachable to elect one")?;
        // The lease counts from its request (rule R9).
        let asked_ms = self.host.monotonic_ms();
        let answer = tokio::select! {
            biased;
            answer = self.ask_for_lease(coordinator) => answer?,
            () = self.replaced(coordinator) => {
                return Err(format!("another node was elected in place of {}", coordinator.short()));
            }
        };
        match answer {
            ControlAnswer::Granted { length_ms, time_us } => {
                // Before the lease is extended: a node that serves must have cluster time.
                self.take_cluster_time(coordinator, asked_ms, time_us)?;
                let from_ms = match planted(Mutation::LeaseFromAnswer) {
                    true => self.host.monotonic_ms(),
                    false => asked_ms,
                };
                match self.extend(from_ms + length_ms) {
                    true => Ok(length_ms),
                    false => Err("the node is stopping, or takes over".into()),
                }
            }
            ControlAnswer::DeclaredDown => {
                self.register_again();
                Err("it was declared down, and returns as a new incarnation".into())
            }
            ControlAnswer::NotCoordinator(other) => {
                if let Some(other) = other.filter(|node| *node != self.id) {
                    *self.coordinator_hint.lock() = Some(other);
                }
                Err(format!("node {} is no longer the coordinator", coordinator.short()))
            }
            ControlAnswer::Refused(reason) => {
                self.refuse(&reason);
                Err(reason)
            }
            ControlAnswer::Removed(reason) => {
                self.note_removed();
                self.refuse(&reason);
                Err(reason)
            }
            ControlAnswer::NotYet(reason) | ControlAnswer::Failed(reason) => Err(reason),
            other => Err(format!("the coordinator gave an unexpected answer: {other:?}")),
        }
    }

    /// Waits until a node other than `coordinator` is the coordinator: the former one may never answer, and
    /// the new one grants only a limited time to renew.
    async fn replaced(&self, coordinator: NodeId) {
        let mut coordinators = self.topology.watch_coordinator();
        if coordinators.wait_for(|known| known.is_some_and(|known| known != coordinator)).await.is_err() {
            // The log has stopped: the answer, or its time limit, ends the request.
            std::future::pending().await
        }
    }

    async fn ask_for_lease(self: &Arc<Self>, coordinator: NodeId) -> Result<ControlAnswer, String> {
        let announcement = self.announcement();
        if coordinator == self.id {
            return Ok(self.answer_lease(announcement, self.plane.time_report()));
        }
        let lease_ms = self.lease_ms();
        let timeout = lease_ms.map_or(FIRST_TIMEOUT, |lease_ms| Duration::from_millis(lease_ms / 2));
        self.ask(coordinator, Control::Lease(announcement, self.plane.time_report()), timeout).await
    }

    /// Records that this process can never get a lease again: it serves nothing from now on, and should stop.
    pub(super) fn refuse(&self, reason: &str) {
        self.plane.end_lease();
        self.host.supervisor().release();
        tracing::error!(reason, "this node serves no more requests; it stops");
        self.refusal.send_replace(Some(reason.to_owned()));
    }

    /// Waits until this process can never get a lease again, and returns the reason: the coordinator refused
    /// it for good, or its topology log has stopped. The caller should then stop the node.
    pub async fn refused(&self) -> String {
        let mut refusal = self.refusal.subscribe();
        match refusal.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // Unreachable: the sender belongs to the borrowed node.
            Err(_) => std::future::pending().await,
        }
    }

    /// Extends the lease, unless the node must serve nothing any more.
    fn extend(&self, until_ms: u64) -> bool {
        // A node that takes over has given up the nodes that grant the lease.
        if self.taking_over.try_lock().is_err() {
            return false;
        }
        let extended = self.stopping.unless_begun(|| self.plane.extend_lease(until_ms));
        // A failing store reports it before it ends the lease: one of the two ends the lease after this
        // extension.
        if self.plane.store_failed() {
            self.plane.end_lease();
        }
        extended
    }

    /// Starts a new incarnation after this one was declared down while the process was alive; its copies are
    /// not trusted (rule R2).
    fn register_again(self: &Arc<Self>) {
        self.plane.end_lease();
        match (*self.incarnations.lock())() {
            Ok(incarnation) => {
                self.incarnation.store(incarnation, Ordering::Release);
                tracing::warn!(incarnation, "this node was declared down and returns as a new incarnation");
                self.returned.notify_one();
            }
            Err(error) => {
                tracing::error!(%error, "cannot increment the incarnation; this node cannot return")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_for_a_missing_lease_is_logged_after_5_s_and_then_every_10_s() {
        let mut complaints = LeaseWarnings::default();
        let mut due = |now_ms| complaints.due(Some("why".into()), now_ms).is_some();
        assert!(!due(100) && !due(5099));
        assert!(due(5100), "five seconds without a lease");
        assert!(!due(5200) && !due(15_099));
        assert!(due(15_100));
        assert_eq!(complaints.due(None, 15_200), None);
        assert_eq!(complaints.due(Some("why".into()), 15_300), None, "it had a lease");
    }
}
