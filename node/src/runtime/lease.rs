//! The holder's side of the lease, and this node's registration: both are one question to the coordinator.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Node;
use super::control::{Control, ControlAnswer};
use crate::clock::monotonic_ms;
use crate::id::NodeId;

/// Pause before a question that brought no lease is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long the coordinator may take to answer a node that does not know the cluster's lease yet.
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);

impl Node {
    /// Renews the lease for as long as the node runs.
    pub(super) async fn run_lease(self: Arc<Self>) {
        let mut hint = self.coordinator_hint;
        loop {
            let granted_ms = match self.topology.coordinator().or(hint) {
                Some(coordinator) if !self.stopping.has_begun() && !self.plane.store_failed() => {
                    self.renew(coordinator, &mut hint).await
                }
                _ => None,
            };
            let pause = granted_ms.map(|length_ms| Duration::from_millis(length_ms / 4));
            tokio::time::sleep(pause.unwrap_or(RETRY_PAUSE)).await;
        }
    }

    /// Asks for a lease; answers its length in milliseconds if it was granted.
    async fn renew(self: &Arc<Self>, coordinator: NodeId, hint: &mut Option<NodeId>) -> Option<u64> {
        // The holder counts from when it asked (rule R9).
        let asked_ms = monotonic_ms();
        let announcement = self.announcement();
        let answer = if coordinator == self.id {
            self.answer_lease(announcement)
        } else {
            let timeout = self
                .lease_ms()
                .map_or(FIRST_TIMEOUT, |lease_ms| Duration::from_millis(lease_ms / 2));
            match self
                .ask(coordinator, &Control::Lease(announcement), timeout)
                .await
            {
                Ok(answer) => answer,
                Err(error) => ControlAnswer::NotYet(error),
            }
        };
        match answer {
            ControlAnswer::Granted(length_ms) => {
                return self.extend(asked_ms + length_ms).then_some(length_ms);
            }
            ControlAnswer::DeclaredDown => self.return_anew(),
            ControlAnswer::NotCoordinator(other) => *hint = other.filter(|node| *node != self.id).or(*hint),
            other => tracing::debug!(answer = ?other, "no lease yet"),
        }
        None
    }

    /// Takes a lease that was granted, unless the node may serve nothing any more.
    fn extend(&self, until_ms: u64) -> bool {
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
        match self.identity.lock().bump_incarnation() {
            Ok(incarnation) => {
                self.incarnation.store(incarnation, Ordering::Release);
                tracing::warn!(
                    incarnation,
                    "this node was declared down; it returns as a new incarnation"
                );
                self.returned.notify_one();
            }
            Err(error) => tracing::error!(%error, "cannot count the incarnation up; this node cannot return"),
        }
    }
}
