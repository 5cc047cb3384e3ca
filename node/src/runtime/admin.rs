//! Answers to operators' queries: from the data of this node, with the age of the data.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use caskade_api::STORE_FOLDER;
use caskade_engine::slots::PARTITIONS;

use super::cluster_time::clock_text;
use super::gossip::Heard;
use super::{BUILD, Node};
use crate::api::{Event, NodeRow, Nodes, SnapshotMade, Status, Task};
use crate::cluster::operations::Membership;
use crate::cluster::state::{ClusterState, MemberStatus};
use crate::cluster::time::is_wrong;
use crate::cluster::{plan, view};
use crate::frontend::stats::Snapshot;
use crate::id::NodeId;
use crate::logging;

/// Age of a report, in milliseconds, above which it no longer counts as present.
const REPORT_FRESH_MS: u64 = 10_000;

impl Node {
    /// `CASK.STATUS`, for a caller in this process.
    pub fn status(&self) -> Status {
        self.status_for(None)
    }

    /// `CASK.STATUS`, for a client that has connected to the address `local`.
    pub(super) fn status_for(&self, local: Option<IpAddr>) -> Status {
        let state = self.topology.state();
        let mut status = view::status(&state);
        // Both lists are in the order of the members.
        for (shown, member) in status.members.iter_mut().zip(state.members.values()) {
            shown.client_addr = self.client_place(&member.announcement, local).bracketed();
        }
        status.node_id = self.id.to_string();
        status.state = self.condition(&state).to_owned();
        status.build = BUILD.to_owned();
        status.cluster_id = self.cluster_id.to_string();
        status.coordinator = self.topology.coordinator().map(|node| node.to_string());
        status.voters = self.topology.voters().iter().map(ToString::to_string).collect();
        status.tasks = self.cluster_tasks();
        status.peers = self.peer_figures();
        status.log_lines_dropped = logging::dropped_lines();
        status.disk = self.disk_status();
        status.warnings.extend(self.disk_warnings(&state));
        status.plan = plan::status(&state, &status.tasks);
        if status.coordinator.is_none() && state.epoch > 0 {
            status.warnings.insert(0, view::no_coordinator(&self.topology.voters()));
        }
        if self.settings.cluster_secret_file.is_none() {
            status
                .warnings
                .push("this node has no cluster secret: everyone who reaches its peer port is a peer".into());
        }
        status.warnings.extend(self.damage_warnings(&state));
        for (node, offset_ms) in self.wrong_clocks() {
            status.warnings.push(format!("{}: correct it (NTP)", clock_text(&node.short(), offset_ms)));
        }
        if self.plane.store_failed() {
            status.warnings.push(
                "this node's store failed (not for lack of space): it serves nothing until its disk is repaired and \
                 it is restarted"
                    .into(),
            );
        }
        status
    }

    /// Returns the members whose wall clocks differ from cluster time by more than half a second, with the
    /// last reported difference.
    fn wrong_clocks(&self) -> Vec<(NodeId, i64)> {
        let (state, heard, now_ms) = (self.topology.state(), self.reports.all(), self.host.monotonic_ms());
        let fresh = |node: &NodeId| heard.get(node).filter(|heard| heard.at_ms + REPORT_FRESH_MS > now_ms);
        let offset = |node: &NodeId| Some((*node, fresh(node)?.report.row.clock_offset_ms?));
        state.members.keys().filter_map(offset).filter(|(_, offset_ms)| is_wrong(*offset_ms, false)).collect()
    }

    fn condition(&self, state: &ClusterState) -> &'static str {
        if self.stopping.has_begun() {
            "stopping"
        } else if state.member(self.id).is_none() {
            "joining"
        } else if self.is_serving() {
            "serving"
        } else if self.plane.has_lease() {
            "starting"
        } else {
            "no-lease"
        }
    }

    /// `CASK.NODES`, for a client that has connected to the address `local`.
    pub(super) fn nodes(&self, local: Option<IpAddr>) -> Nodes {
        let (state, heard) = (self.topology.state(), self.reports.all());
        let coordinator = self.topology.coordinator();
        let mut nodes: Vec<NodeRow> =
            state.members.keys().map(|node| self.node_row(*node, &state, &heard, local)).collect();
        let joining = heard.iter().filter(|(node, heard)| {
            let is_fresh = heard.at_ms + REPORT_FRESH_MS > self.host.monotonic_ms();
            // A removed node does not join.
            state.membership(**node) == Membership::Unknown && is_fresh
        });
        nodes.extend(joining.map(|(node, _)| self.node_row(*node, &state, &heard, local)));
        let coordinator = coordinator.map(|node| node.to_string());
        for row in &mut nodes {
            row.coordinator = Some(&row.id) == coordinator.as_ref();
        }
        Nodes { now_ms: self.host.wall_ms(), nodes }
    }

    fn node_row(
        &self,
        node: NodeId,
        state: &ClusterState,
        heard: &HashMap<NodeId, Heard>,
        local: Option<IpAddr>,
    ) -> NodeRow {
        let mut row = match heard.get(&node) {
            Some(heard) => NodeRow {
                report_age_ms: Some(self.host.monotonic_ms().saturating_sub(heard.at_ms)),
                ..heard.report.row.clone()
            },
            None => NodeRow::default(),
        };
        row.id = node.to_string();
        row.asked = node == self.id;
        match state.member(node) {
            Some(member) => {
                let up = member.status == MemberStatus::Up;
                row.state = if up { "up" } else { "down" }.to_owned();
                row.client_addr = self.client_place(&member.announcement, local).bracketed();
                state.zone_of(member).clone_into(&mut row.zone);
                row.weight = state.weight_of(member);
                row.build.clone_from(&member.announcement.build);
            }
            None => {
                row.state = "joining".to_owned();
                if let Some(heard) = heard.get(&node) {
                    row.client_addr = self.client_place(&heard.report.announcement, local).bracketed();
                }
            }
        }
        row
    }

    /// `CASK.TASKS`: the copies that all nodes make, according to their recent reports.
    pub(super) fn cluster_tasks(&self) -> Vec<Task> {
        let now = self.host.monotonic_ms();
        let mut tasks = self.plane.report_tasks();
        for (node, heard) in self.reports.all() {
            if node != self.id && heard.at_ms + REPORT_FRESH_MS > now {
                tasks.extend(heard.report.tasks);
            }
        }
        tasks.sort_by(|a, b| a.id.cmp(&b.id));
        tasks
    }

    /// `CASK.EVENTS`.
    pub fn newest_events(&self, count: usize) -> Vec<Event> {
        self.events.newest(count)
    }

    /// `CASK.SNAPSHOT`: makes a snapshot of this node's store in a directory that is missing or empty.
    pub(super) async fn snapshot_store(&self, directory: PathBuf) -> Result<SnapshotMade, String> {
        let path = self.settings.data_dir.join(&directory);
        if directory.as_os_str().is_empty() || path.starts_with(self.settings.data_dir.join(STORE_FOLDER)) {
            return Err(
                "name a directory for the snapshot outside the store's own directory; nothing was made"
                    .into(),
            );
        }
        let Ok(_one_at_a_time) = self.snapshots.try_lock() else {
            return Err("another snapshot is being made; nothing was made; try again".into());
        };
        let engine = self.plane.engine().clone();
        let to = path.clone();
        let made = tokio::task::spawn_blocking(move || engine.snapshot(&to)).await;
        let made = made.map_err(|error| format!("the snapshot was not completed: {error}"))?;
        let made = made.map_err(|error| error.to_string())?;
        let path = std::path::absolute(&path).unwrap_or(path).display().to_string();
        Ok(SnapshotMade { path, data_files: made.data_files as u64, data_bytes: made.data_bytes })
    }

    /// `CASK.DIGESTS`: for every partition of which this node has a copy, the node's role, the keys and the
    /// digest.
    pub(super) fn digests(self: &Arc<Self>) -> Vec<Option<(String, u64, String)>> {
        let copy = |partition| {
            let (role, keys, digest) = self.plane.copy_of(partition)?;
            Some((role.to_owned(), keys, format!("{digest:016x}")))
        };
        (0..PARTITIONS).map(copy).collect()
    }

    /// Returns this node's own figures, with rates since `(then_ms, then)`.
    pub(super) fn row(&self, (then_ms, then): &(u64, Snapshot), (now_ms, now): (u64, &Snapshot)) -> NodeRow {
        let state = self.topology.state();
        let engine = self.plane.engine().stats();
        let disk = self.plane.disk();
        let seconds = (now_ms.saturating_sub(*then_ms) as f64 / 1000.0).max(0.001);
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        let held = state.replicas_on(self.id).count() as u32;
        let primaries = (0..PARTITIONS).filter(|p| state.primary(*p) == Some(self.id)).count() as u32;
        let named: usize = state.ring.iter().map(|(_, nodes)| nodes.len()).sum();
        let mine: usize = state.ring.iter().filter(|(_, nodes)| nodes.contains(&self.id)).count();
        NodeRow {
            id: self.id.to_string(),
            client_addr: self.client_addr.clone(),
            zone: self.settings.zone.clone(),
            weight: self.settings.weight,
            build: BUILD.to_owned(),
            epoch: state.epoch,
            uptime_s: (now_ms.saturating_sub(self.started_ms)) / 1000,
            memory_bytes: crate::machine::resident_bytes(),
            connections: now.connections,
            records_total: engine.records_total,
            // Without records that it has handed on and will drop.
            records_live: state
                .replicas_on(self.id)
                .map(|(partition, _)| self.plane.engine().partition_stats(partition).live_keys)
                .sum(),
            disk_bytes: engine.disk_bytes,
            gets: now.tally.gets,
            sets: now.tally.sets,
            deletes: now.tally.deletes,
            hits: now.tally.hits,
            misses: now.tally.misses,
            bytes_in: now.tally.bytes_in,
            bytes_out: now.tally.bytes_out,
            ops_per_s: rate(now.tally.commands, then.tally.commands),
            bytes_in_per_s: rate(now.tally.bytes_in, then.tally.bytes_in),
            bytes_out_per_s: rate(now.tally.bytes_out, then.tally.bytes_out),
            latency_p50_us: now.latency_p50_us,
            latency_p99_us: now.latency_p99_us,
            partitions: held,
            primaries,
            ring_share: mine as f64 / (named.max(1)) as f64,
            clock_offset_ms: self.plane.time_report().offset_ms,
            live_bytes: engine.live_bytes,
            disk_free_bytes: disk.space.free_bytes,
            disk_total_bytes: disk.space.total_bytes,
            disk_low_bytes: disk.marks.low,
            disk_minimum_bytes: disk.marks.minimum,
            disk_state: disk.state.word().to_owned(),
            disk_days_left: disk.days_left,
            damaged_partitions: self.plane.damaged_partitions(),
            damaged_records: self.plane.missing_records().len() as u64,
            ..NodeRow::default()
        }
    }
}
