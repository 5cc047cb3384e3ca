//! Reports: this node's gossip about itself every second, and the reports it has received from other nodes.
//!
//! For any size of the cluster and any changes, no node receives more than [`HEARD_PER_S_MAX`] reports a
//! second on average: see [`ReportSchedule`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Node;
use crate::api::NodeRow;
use crate::cluster::report::{NodeReport, REPORT_BYTES_MAX};
use crate::disk::DiskState;
use crate::id::NodeId;
use crate::net::{Refused, wire};

/// Time between two reports in a small cluster.
const INTERVAL_MS: u64 = 1000;
/// Maximum of reports that one node should receive per second.
const HEARD_PER_S_MAX: u64 = 50;
/// Shortest time between two reports of one node.
const GAP_MS: u64 = 100;
/// Maximum of nodes whose reports are kept.
const HEARD_MAX: usize = 4096;

/// A report, and the time of its arrival on the monotonic clock.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) at_ms: u64,
    pub(super) report: NodeReport,
}

/// The last report of every node.
#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<HashMap<NodeId, Heard>>);

impl Reports {
    /// Stores a report unless one of a newer incarnation is stored.
    fn note(&self, report: NodeReport, now_ms: u64) {
        let mut heard = self.0.lock();
        let node = report.announcement.node;
        let known = heard.get(&node).map(|heard| heard.report.announcement.incarnation);
        let stale = known.is_some_and(|known| known > report.announcement.incarnation);
        if !stale && (known.is_some() || heard.len() < HEARD_MAX) {
            heard.insert(node, Heard { at_ms: now_ms, report });
        }
    }

    /// Returns every node's last report.
    pub(super) fn all(&self) -> HashMap<NodeId, Heard> {
        self.0.lock().clone()
    }
}

/// Time of a node's next report. The nodes of a large cluster learn of a change, or start, at the same time,
/// but report at different times: each node's pause is derived from its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReportSchedule {
    /// Time until the next report if nothing changes.
    pause_ms: u64,
    /// Shortest time from the last report to one about a change; `None` if changes wait for the regular
    /// report.
    gap_ms: Option<u64>,
}

impl ReportSchedule {
    /// Returns the schedule of a node's report with this number, in a cluster of `members`.
    fn of(members: u64, node: NodeId, number: u64) -> Self {
        let spacing_ms = members * 1000 / HEARD_PER_S_MAX;
        if spacing_ms < INTERVAL_MS {
            return Self { pause_ms: INTERVAL_MS, gap_ms: Some(GAP_MS.max(spacing_ms)) };
        }
        let drawn = xxh3_64_with_seed(node.as_bytes(), number) % spacing_ms;
        // The first report is due at any time of the interval; each later one after a whole interval, plus or
        // minus a quarter.
        let pause_ms = if number == 0 { drawn } else { spacing_ms * 3 / 4 + drawn / 2 };
        Self { pause_ms, gap_ms: None }
    }
}

impl Node {
    /// Publishes a report every second and immediately after a change; less often in a large cluster.
    pub(super) async fn run_reports(self: Arc<Self>) {
        let mut states = self.topology.watch();
        let mut previous = (self.host.monotonic_ms(), self.stats.snapshot());
        for number in 0.. {
            // Do not mark the state as seen here: a state that arrived during the last report must be
            // reported at once.
            let members = states.borrow().members.len() as u64;
            let begun_ms = self.host.monotonic_ms();
            let ReportSchedule { pause_ms, gap_ms } = ReportSchedule::of(members, self.id, number);
            let pause = tokio::time::sleep(Duration::from_millis(pause_ms));
            let changed = async {
                match gap_ms {
                    Some(_) => states.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = changed => match changed {
                    Ok(()) => {
                        let earliest_ms = begun_ms + gap_ms.unwrap_or(GAP_MS);
                        let left_ms = earliest_ms.saturating_sub(self.host.monotonic_ms());
                        tokio::time::sleep(Duration::from_millis(left_ms)).await;
                    }
                    // The topology log has stopped: no more reports are needed.
                    Err(_) => return,
                },
                () = pause => {}
            }
            let snapshot = self.stats.snapshot();
            let row = self.row(&previous, (self.host.monotonic_ms(), &snapshot));
            if self.host.monotonic_ms() >= previous.0 + INTERVAL_MS {
                previous = (self.host.monotonic_ms(), snapshot);
            }
            let report = self.report(row);
            self.peers.publish(wire::encode(&report));
            self.note_clock(self.id, report.row.clock_offset_ms);
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

    /// Handles a report that a peer published.
    pub(super) fn on_report(self: &Arc<Self>, from: NodeId, data: &[u8]) {
        let report = match wire::decode::<NodeReport, REPORT_BYTES_MAX>(data) {
            Ok(report) => report,
            Err(error) => return self.note_refused(Refused::Message, from, &error),
        };
        let announced = &report.announcement;
        if report.cluster_id != self.cluster_id {
            let why = format_args!("a report of cluster {}", report.cluster_id);
            return self.note_refused(Refused::OtherCluster, from, &why);
        }
        if announced.node != from {
            return self.note_refused(Refused::Message, from, &"a report in another node's name");
        }
        if self.is_over(announced) {
            return;
        }
        let state = self.topology.state();
        let known = state.members.get(&from).map(|member| member.announcement.incarnation);
        // A node of another generation is registered when it returns under this one.
        let of_this = report.row.epoch == 0 || report.row.epoch >> 32 == state.epoch >> 32;
        if of_this && known.is_none_or(|known| known < announced.incarnation) {
            self.note_address(announced);
            if self.is_coordinator() && !self.stopping.has_begun() {
                self.register_heard(announced);
            }
        }
        self.note_clock(from, report.row.clock_offset_ms);
        if let Some(disk) = DiskState::from_word(&report.row.disk_state) {
            self.plane.note_disk(from, disk);
        }
        self.reports.note(report, self.host.monotonic_ms());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u64) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        NodeId::from_bytes(bytes)
    }

    #[test]
    fn small_clusters_report_every_second_and_at_once_when_something_changed() {
        for members in [0, 1, 3, 5] {
            assert_eq!(
                ReportSchedule::of(members, node(1), 7),
                ReportSchedule { pause_ms: 1000, gap_ms: Some(100) }
            );
        }
    }

    #[test]
    fn no_node_hears_more_than_fifty_reports_a_second_whatever_changes() {
        for members in [3_u64, 5, 20, 49, 50, 200, 1000, 4000] {
            let shortest_ms = |rhythm: ReportSchedule| rhythm.gap_ms.unwrap_or(rhythm.pause_ms);
            let all = (0..members)
                .flat_map(|n| (1..=20).map(move |number| ReportSchedule::of(members, node(n), number)));
            let sum: u64 = all.map(shortest_ms).sum();
            let heard_per_s = members as f64 * 1000.0 / (sum as f64 / (members * 20) as f64);
            assert!(
                heard_per_s < HEARD_PER_S_MAX as f64 * 1.05,
                "{members} members: {heard_per_s:.1} a second"
            );
        }
    }

    #[test]
    fn nodes_that_start_at_one_time_report_at_different_times() {
        let mut in_second = [0; 20];
        for n in 0..1000 {
            in_second[(ReportSchedule::of(1000, node(n), 0).pause_ms / 1000) as usize] += 1;
        }
        assert!(in_second.iter().all(|reports| (20..=100).contains(reports)), "{in_second:?}");
    }
}
