//! The disks of the cluster as this node reports them, and the reserve for its own files.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use super::Node;
use super::gossip::Heard;
use crate::api::DiskStatus;
use crate::cluster::plan::{DiskRoom, DiskRooms};
use crate::cluster::state::ClusterState;
use crate::disk::DiskState;
use crate::id::NodeId;
use crate::reserve;

/// Interval at which the node checks that the reserve is complete.
const RESERVE_PAUSE: Duration = Duration::from_secs(5);
/// Interval at which the node checks that the disk was measured.
const MEASURED_PAUSE: Duration = Duration::from_millis(100);

impl Node {
    /// Keeps the reserve for this node's own files complete, while its disk has room.
    pub(super) async fn run_reserve(self: Arc<Self>) {
        let data_dir = self.settings.data_dir.clone();
        while self.plane.disk().space.total_bytes == 0 {
            tokio::time::sleep(MEASURED_PAUSE).await;
        }
        loop {
            if self.plane.disk_state() == DiskState::Ok {
                let of = data_dir.clone();
                let filled = tokio::task::spawn_blocking(move || reserve::fill(&of)).await;
                match filled {
                    Ok(Err(error)) if error.kind() == ErrorKind::Unsupported => {
                        tracing::info!(
                            "this file system cannot preallocate space: the node has no reserve for its own files"
                        );
                        return std::future::pending().await;
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "the reserve was not filled; this node retries")
                    }
                    _ => {}
                }
            }
            tokio::time::sleep(RESERVE_PAUSE).await;
        }
    }

    /// Returns the space on this node's disk, for its status.
    pub(super) fn disk_status(&self) -> DiskStatus {
        let (disk, engine) = (self.plane.disk(), self.plane.engine().stats());
        DiskStatus {
            state: disk.state.word().to_owned(),
            free_bytes: disk.space.free_bytes,
            total_bytes: disk.space.total_bytes,
            low_bytes: disk.marks.low,
            minimum_bytes: disk.marks.minimum,
            days_left: disk.days_left,
            store_bytes: engine.disk_bytes,
            live_bytes: engine.live_bytes,
        }
    }

    /// Returns a warning for each node whose disk is low or worse, according to its report.
    pub(super) fn disk_warnings(&self, state: &ClusterState) -> Vec<String> {
        let mut disks: BTreeMap<NodeId, DiskState> = BTreeMap::new();
        for (node, heard) in self.reports.all() {
            if let Some(disk) = DiskState::from_word(&heard.report.row.disk_state)
                && state.is_up(node)
            {
                disks.insert(node, disk);
            }
        }
        disks.insert(self.id, self.plane.disk_state());
        let text = |(node, disk): (NodeId, DiskState)| match disk {
            DiskState::Ok => None,
            DiskState::Low => Some(format!(
                "the disk of node {} is low: delete keys, enlarge its file system or add a node before it \
                 reaches its minimum (`caskctl nodes` shows the space)",
                node.short()
            )),
            DiskState::Minimum | DiskState::Full => Some(format!(
                "the disk of node {} is at its minimum: writes that add data to its copies are rejected, reads and \
                 deletes work; delete keys, enlarge its file system or add a node",
                node.short()
            )),
        };
        disks.into_iter().filter_map(text).collect()
    }

    /// Returns the space on every node's disk, according to the reports.
    pub(super) fn disk_rooms(&self) -> DiskRooms {
        let row = |(node, heard): (NodeId, Heard)| {
            let row = heard.report.row;
            let room = DiskRoom { free: row.disk_free_bytes, low: row.disk_low_bytes };
            (row.disk_total_bytes > 0).then_some((node, room))
        };
        let mut rooms: DiskRooms = self.reports.all().into_iter().filter_map(row).collect();
        let own = self.plane.disk();
        rooms.insert(self.id, DiskRoom { free: own.space.free_bytes, low: own.marks.low });
        rooms
    }
}
