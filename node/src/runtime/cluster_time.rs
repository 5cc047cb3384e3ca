//! Cluster time in the messages of leases, and wall clocks that differ from it. The rule is in
//! `docs/cluster-time.md`, the decisions are in [`crate::cluster::time`].

use super::Node;
use crate::api::Event;
use crate::cluster::time::{TimeKeeper, TimeReport, is_wrong};
use crate::id::NodeId;

/// Duration of an answer, in milliseconds, above which it is no good first sample of cluster time.
const SLOW_MS: u64 = 250;
/// Time after its start for which a node asks for a better sample, in milliseconds.
const PATIENCE_MS: u64 = 5_000;

impl Node {
    /// Adopts cluster time from the coordinator, which read it at some moment since `asked_ms`.
    ///
    /// # Errors
    /// The answer took so long that its error is large, the node has no better estimate, and it has not asked
    /// for long. The caller must ask again, and serve nothing before. The estimate is unchanged.
    pub(super) fn take_cluster_time(
        &self,
        coordinator: NodeId,
        asked_ms: u64,
        time_us: u64,
    ) -> Result<(), String> {
        // The coordinator granted its own estimate.
        if coordinator == self.id {
            return Ok(());
        }
        self.plane.with_cluster_clock(|clock, now_ms| {
            let took_ms = now_ms.saturating_sub(asked_ms);
            if clock.is_guess() && took_ms > SLOW_MS && now_ms < self.started_ms + PATIENCE_MS {
                return Err(format!(
                    "the answer with cluster time took {took_ms} ms; this node asks for a better one"
                ));
            }
            clock.sample(asked_ms, now_ms, time_us);
            Ok(())
        })
    }

    /// As coordinator: records a node's report about its clocks.
    pub(super) fn note_time(&self, node: NodeId, report: TimeReport) {
        let state = self.topology.state();
        if state.member(node).is_none() {
            return;
        }
        let now_ms = self.host.monotonic_ms();
        self.with_time_keeper(|keeper| {
            keeper.retain(|node| state.members.contains_key(node));
            keeper.note(node, report, now_ms);
        });
    }

    /// As coordinator: returns cluster time for a lease that is granted now, in microseconds; `None` while it
    /// is undecided.
    pub(super) fn time_to_grant(&self) -> Option<u64> {
        let (voters, patience_ms) = (self.topology.voters(), self.lease_ms()?);
        let granted = self.with_time_keeper(|keeper| {
            self.plane.with_cluster_clock(|clock, now_ms| keeper.grant(clock, &voters, patience_ms, now_ms))
        });
        granted.flatten()
    }

    /// Calls `f` with this coordinator's keeper, which is a new one for each term of its election.
    fn with_time_keeper<T>(&self, f: impl FnOnce(&mut TimeKeeper) -> T) -> Option<T> {
        let mut keepers = self.time_keeper.lock();
        let (term, now_ms) = (self.topology.leading()?, self.host.monotonic_ms());
        let keeper = match keepers.take() {
            Some((elected, keeper)) if elected == term => keeper,
            _ => TimeKeeper::new(now_ms),
        };
        let (_, keeper) = keepers.insert((term, keeper));
        Some(f(keeper))
    }

    /// Reports once that a node's wall clock differs from cluster time by more than half a second, or no
    /// longer does.
    pub(super) fn note_clock(&self, node: NodeId, offset_ms: Option<i64>) {
        let Some(offset_ms) = offset_ms else { return };
        let mut wrong = self.wrong_clocks.lock();
        let before = wrong.contains(&node);
        let now = is_wrong(offset_ms, before);
        let (severity, message) = match (before, now) {
            (false, true) if self.topology.state().member(node).is_some() => {
                wrong.insert(node);
                ("warning", format!("{}; correct it (NTP)", clock_text(&node.short(), offset_ms)))
            }
            (true, false) => {
                wrong.remove(&node);
                ("info", format!("the wall clock of node {} agrees with cluster time again", node.short()))
            }
            _ => return,
        };
        drop(wrong);
        self.events.add(Event {
            time_ms: self.host.wall_ms(),
            epoch: self.plane.state().epoch,
            severity: severity.to_owned(),
            kind: "clock".to_owned(),
            node: node.to_string(),
            message,
        });
    }
}

/// Returns a text with the difference between a node's wall clock and cluster time.
pub(super) fn clock_text(node: &str, offset_ms: i64) -> String {
    let (seconds, way) =
        (offset_ms.unsigned_abs() as f64 / 1000.0, if offset_ms < 0 { "behind" } else { "ahead of" });
    format!(
        "the wall clock of node {node} is {seconds:.1} s {way} cluster time, which decides when keys expire"
    )
}
