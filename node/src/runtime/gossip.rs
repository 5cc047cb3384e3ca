//! Reports: what this node tells of itself every second, and what it has heard of others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Node;
use crate::api::NodeRow;
use crate::cluster::report::{NodeReport, REPORT_BYTES_MAX};
use crate::id::NodeId;
use crate::net::wire;

/// Time between two reports in a small cluster.
const INTERVAL_MS: u64 = 1000;
/// Reports a second that one node should hear at most.
const HEARD_PER_S_MAX: u64 = 50;
/// Nodes whose reports are kept.
const HEARD_MAX: usize = 4096;

/// A report and when it was heard, on the monotonic clock.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) at_ms: u64,
    pub(super) report: NodeReport,
}

/// The last report of every node.
#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<HashMap<NodeId, Heard>>);

impl Reports {
    /// Keeps a report unless a newer incarnation was heard of.
    fn note(&self, report: NodeReport, now_ms: u64) {
        let mut heard = self.0.lock();
        let node = report.announcement.node;
        let known = heard.get(&node).map(|heard| heard.report.announcement.incarnation);
        let stale = known.is_some_and(|known| known > report.announcement.incarnation);
        if !stale && (known.is_some() || heard.len() < HEARD_MAX) {
            heard.insert(node, Heard { at_ms: now_ms, report });
        }
    }

    /// Every node's last report.
    pub(super) fn all(&self) -> HashMap<NodeId, Heard> {
        self.0.lock().clone()
    }
}

impl Node {
    /// Publishes a report every second, less often in a large cluster, and at once when something changed.
    pub(super) async fn run_reports(self: Arc<Self>) {
        let mut states = self.topology.watch();
        let mut previous = (self.host.monotonic_ms(), self.stats.snapshot());
        loop {
            // Not marked as seen here: a state that came while the last report was made is to be told at once.
            let members = states.borrow().members.len() as u64;
            let interval = INTERVAL_MS.max(members * 1000 / HEARD_PER_S_MAX);
            let changed = tokio::time::timeout(Duration::from_millis(interval), states.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                // The topology log has stopped: there is nothing to tell any more.
                return;
            }
            let now = self.host.monotonic_ms();
            if now < previous.0 + 100 {
                // Many states in a row, as in a migration: the figures need no finer grain.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let snapshot = self.stats.snapshot();
            let row = self.row(&previous, (self.host.monotonic_ms(), &snapshot));
            if self.host.monotonic_ms() >= previous.0 + INTERVAL_MS {
                previous = (self.host.monotonic_ms(), snapshot);
            }
            let report = self.report(row);
            self.peers.publish(wire::encode(&report));
            self.reports.note(report, self.host.monotonic_ms());
        }
    }

    fn report(&self, row: NodeRow) -> NodeReport {
        let state = self.topology.state();
        NodeReport {
            cluster_id: self.cluster_id,
            announcement: self.announcement(),
            ring_hash: state.ring_hash(),
            row,
            tasks: self.plane.report_tasks(),
        }
    }

    /// Takes a report that a peer published.
    pub(super) fn on_report(self: &Arc<Self>, from: NodeId, data: &[u8]) {
        let Ok(report) = wire::decode::<NodeReport, REPORT_BYTES_MAX>(data) else {
            tracing::debug!(%from, "a gossip that is no report of this protocol was dropped");
            return;
        };
        if report.announcement.node != from || report.cluster_id != self.cluster_id {
            tracing::warn!(%from, "a report in another's name or of another cluster was dropped");
            return;
        }
        let state = self.topology.state();
        let announced = &report.announcement;
        let known = state.members.get(&from).map(|member| member.announcement.incarnation);
        // A node of another generation is registered when it returns under this one.
        let of_this = report.row.epoch == 0 || report.row.epoch >> 32 == state.epoch >> 32;
        if of_this && known.is_none_or(|known| known < announced.incarnation) {
            self.note_address(announced);
            if self.is_coordinator() && !self.stopping.has_begun() {
                self.register_heard(announced);
            }
        }
        self.reports.note(report, self.host.monotonic_ms());
    }
}
