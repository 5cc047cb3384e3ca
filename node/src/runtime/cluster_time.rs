//! Cluster time as it travels with the leases, and which wall clocks differ from it. The rule is in
//! `docs/cluster-time.md`, the decisions are in [`crate::cluster::time`].

use super::Node;
use crate::api::Event;
use crate::cluster::time::{TimeKeeper, TimeReport, is_wrong};
use crate::id::NodeId;

/// An answer that took longer is no good first sample of cluster time, in milliseconds.
const SLOW_MS: u64 = 250;
/// For how long after its start a node asks for a better one.
const PATIENCE_MS: u64 = 5_000;

impl Node {
    /// Takes cluster time from the coordinator, which told it at some moment since `asked_ms`.
    ///
    /// # Errors
    /// The answer took so long that it tells little, the node knows no better, and has not asked for long: it is to ask again
    /// and serve nothing meanwhile. The estimate is unchanged.
    pub(super) fn take_cluster_time(
        &self,
        coordinator: NodeId,
        asked_ms: u64,
        time_us: u64,
    ) -> Result<(), String> {
        // The coordinator's own estimate is what it told.
        if coordinator == self.id {
            return Ok(());
        }
        self.plane.with_cluster_clock(|clock, now_ms| {
            let took_ms = now_ms.saturating_sub(asked_ms);
            if clock.is_guess() && took_ms > SLOW_MS && now_ms < self.started_ms + PATIENCE_MS {
                return Err(format!("cluster time took {took_ms} ms to come; asking again for a better one"));
            }
            clock.sample(asked_ms, now_ms, time_us);
            Ok(())
        })
    }

    /// As coordinator: notes what a node reports of its clocks.
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

    /// As coordinator: returns cluster time for a lease that is granted now, in microseconds; `None` while it is not decided.
    pub(super) fn time_to_grant(&self) -> Option<u64> {
        let (voters, patience_ms) = (self.topology.voters(), self.lease_ms()?);
        let granted = self.with_time_keeper(|keeper| {
            self.plane.with_cluster_clock(|clock, now_ms| keeper.grant(clock, &voters, patience_ms, now_ms))
        });
        granted.flatten()
    }

    /// The keeper of this coordinator, made anew for each term it was elected for.
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

    /// Tells, once, that a node's wall clock differs from cluster time by more than half a second, or does not any more.
    pub(super) fn note_clock(&self, node: NodeId, offset_ms: Option<i64>) {
        let Some(offset_ms) = offset_ms else { return };
        let mut wrong = self.wrong_clocks.lock();
        let before = wrong.contains(&node);
        let now = is_wrong(offset_ms, before);
        let (severity, message) = match (before, now) {
            (false, true) if self.topology.state().member(node).is_some() => {
                wrong.insert(node);
                ("warning", format!("{}; set it right (NTP)", clock_text(&node.short(), offset_ms)))
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

/// Says by how much a node's wall clock differs from cluster time.
pub(super) fn clock_text(node: &str, offset_ms: i64) -> String {
    let (seconds, way) =
        (offset_ms.unsigned_abs() as f64 / 1000.0, if offset_ms < 0 { "behind" } else { "ahead of" });
    format!("the wall clock of node {node} is {seconds:.1} s {way} cluster time, by which keys expire")
}
