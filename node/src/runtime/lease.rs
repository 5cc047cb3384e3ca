//! The holder's side of the lease, and this node's registration: both are one question to the coordinator.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Node;
use super::control::{Control, ControlAnswer};
use crate::cluster::state::ClusterState;
use crate::id::NodeId;
use crate::mutation::{Mutation, planted};

/// Shortest pause between two renewals: what a coordinator grants that is not confirmed any more gets short.
const RENEW_PAUSE_MIN: Duration = Duration::from_millis(10);
/// Pause before a question that brought no lease is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long the coordinator may take to answer a node that does not know the cluster's lease yet.
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);

/// For how long a node is without a lease before that is told: an election takes less.
const QUIET_MS: u64 = 5_000;
/// Time between two complaints.
const COMPLAINT_PAUSE_MS: u64 = 10_000;

/// When it is due to tell that there is no lease.
#[derive(Debug, Default)]
struct Complaints {
    /// No complaint before; `None` while there is a lease.
    not_before_ms: Option<u64>,
}

impl Complaints {
    /// The reason why there is no lease, `None` if there is one; comes back when it should be told.
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

/// What clients and operators are told while there is no lease.
fn plight(state: &ClusterState, node: NodeId, reason: &str) -> String {
    format!(
        "Node {} has no lease: {reason}. It serves only reads of connections that sent READONLY, which may be stale. If \
         the nodes that are down can be started, start them{}",
        node.short(),
        match state.members.len() {
            0 | 1 => String::new(),
            _ => "; if so many are lost for good that no coordinator can be elected, `caskctl cluster takeover` at this \
                  node goes on without them"
                .to_owned(),
        }
    )
}

impl Node {
    /// Renews the lease for as long as the node runs, or until it is refused for good.
    pub(super) async fn run_lease(self: Arc<Self>) {
        let mut complaints = Complaints::default();
        let mut since_ms = self.host.monotonic_ms();
        while self.refusal.borrow().is_none() {
            let renewed = self.try_renew().await;
            let pause = match &renewed {
                Ok(length_ms) => Duration::from_millis(length_ms / 4).max(RENEW_PAUSE_MIN),
                Err(_) => RETRY_PAUSE,
            };
            if renewed.is_ok() {
                since_ms = self.host.monotonic_ms();
                self.plane.set_plight(None);
            }
            if let Some(reason) = complaints.due(renewed.err(), self.host.monotonic_ms()) {
                tracing::error!(reason, "this node gets no lease and serves nothing; it goes on asking");
                self.plane.set_plight(Some(plight(&self.topology.state(), self.id, &reason)));
            }
            self.take_over_if_due(since_ms).await;
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks the coordinator for a lease; answers its length in milliseconds, or why there is none.
    async fn try_renew(self: &Arc<Self>) -> Result<u64, String> {
        if self.stopping.has_begun() {
            return Err("the node is stopping".into());
        }
        if self.plane.store_failed() {
            return Err("its store refused a write: mend the disk, then restart the node".into());
        }
        let known = self.topology.coordinator().or(*self.coordinator_hint.lock());
        let coordinator = known.ok_or("no coordinator is known: too few voters are reached to elect one")?;
        // The holder counts from when it asked (rule R9).
        let asked_ms = self.host.monotonic_ms();
        let answer = tokio::select! {
            biased;
            answer = self.ask_for_lease(coordinator) => answer?,
            () = self.replaced(coordinator) => {
                return Err(format!("another node was elected in the place of {}", coordinator.short()));
            }
        };
        match answer {
            ControlAnswer::Granted { length_ms, time_us } => {
                // Before the lease is: whoever serves has cluster time.
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
                self.return_anew();
                Err("it was declared down, and returns as a new incarnation".into())
            }
            ControlAnswer::NotCoordinator(other) => {
                if let Some(other) = other.filter(|node| *node != self.id) {
                    *self.coordinator_hint.lock() = Some(other);
                }
                Err(format!("node {} is not the coordinator any more", coordinator.short()))
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
            other => Err(format!("the coordinator answered something else: {other:?}")),
        }
    }

    /// Waits until another node than this one is the coordinator: an answer of the former may never come, and the new one
    /// waits only for so long.
    async fn replaced(&self, coordinator: NodeId) {
        let mut coordinators = self.topology.watch_coordinator();
        if coordinators.wait_for(|known| known.is_some_and(|known| known != coordinator)).await.is_err() {
            // The log has stopped: the answer, or its time-out, ends the question.
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

    /// This process can never have a lease again: it serves nothing from now on, and should end.
    pub(super) fn refuse(&self, reason: &str) {
        self.plane.end_lease();
        self.host.supervisor().release();
        tracing::error!(reason, "this node serves nothing any more; it stops");
        self.refusal.send_replace(Some(reason.to_owned()));
    }

    /// Ends when this process can never have a lease again, with the reason: the coordinator refused it for
    /// good, or its topology log has stopped. Whoever started the node should stop it.
    pub async fn refused(&self) -> String {
        let mut refusal = self.refusal.subscribe();
        match refusal.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // The sender is in the node that is borrowed.
            Err(_) => std::future::pending().await,
        }
    }

    /// Takes a lease that was granted, unless the node may serve nothing any more.
    fn extend(&self, until_ms: u64) -> bool {
        // Whoever takes over has given up those who grant it.
        if self.taking_over.try_lock().is_err() {
            return false;
        }
        let extended = self.stopping.unless_begun(|| self.plane.extend_lease(until_ms));
        // A store that fails says so before it ends the lease: one of the two ends it after this extension.
        if self.plane.store_failed() {
            self.plane.end_lease();
        }
        extended
    }

    /// This incarnation was declared down while the process lived: it comes back as a new one, trusted with
    /// nothing (rule R2).
    fn return_anew(self: &Arc<Self>) {
        self.plane.end_lease();
        match (*self.incarnations.lock())() {
            Ok(incarnation) => {
                self.incarnation.store(incarnation, Ordering::Release);
                tracing::warn!(incarnation, "this node was declared down; it returns as a new incarnation");
                self.returned.notify_one();
            }
            Err(error) => tracing::error!(%error, "cannot count the incarnation up; this node cannot return"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_for_having_no_lease_is_told_after_a_while_and_then_rarely() {
        let mut complaints = Complaints::default();
        let mut due = |now_ms| complaints.due(Some("why".into()), now_ms).is_some();
        assert!(!due(100) && !due(5099));
        assert!(due(5100), "five seconds without a lease");
        assert!(!due(5200) && !due(15_099));
        assert!(due(15_100));
        assert_eq!(complaints.due(None, 15_200), None);
        assert_eq!(complaints.due(Some("why".into()), 15_300), None, "it had a lease");
    }
}
