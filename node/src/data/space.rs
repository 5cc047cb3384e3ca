//! Free disk space: of this node by measurement, of other nodes by their acknowledgements and reports.
//!
//! A primary refuses a client's write that adds data if its own disk or that of a follower is below its
//! minimum. It refuses before it orders, so nothing was done then. Reads, deletions and replication
//! continue with the space below the mark. Invariants: the state follows the mark within [`MEASURE_PAUSE`],
//! and sooner during heavy appends, because appended bytes bring the next measurement forward. After a write
//! that found no space (`AppendError::NoSpace`), the disk counts as full for [`FULL_MS`], whatever is
//! measured.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use caskade_engine::AppendError;
use caskade_engine::slots::PARTITIONS;
use caskade_engine::stats::Space;
use parking_lot::Mutex;

use super::plane::{Plane, PrimaryState, Role};
use crate::cluster::events::Severity;
use crate::cluster::state::{Change, ClusterState, PrimaryRef};
use crate::disk::{DiskState, Marks, Trend};
use crate::id::{NodeId, Partition, Term};
use crate::kv::Failure;
use crate::mutation::{Mutation, planted};

/// Longest time between two measurements of the disk.
const MEASURE_PAUSE: Duration = Duration::from_millis(200);
/// Bounds of the bytes that are appended between two measurements.
const UNMEASURED_BYTES: (u64, u64) = (16 << 10, 64 << 20);
/// Time for which a disk counts as full after a write found no space; after that the next write is tried.
const FULL_MS: u64 = 1_000;
/// Time for which a primary retries the append of a write that other nodes may hold, before it gives the
/// partition up.
const STUCK_MS: u64 = 1_000;

/// Free space of this node's disk, and the last known disk states of other nodes.
#[derive(Debug, Default)]
pub(super) struct Disks {
    own: Mutex<Own>,
    /// State of this node's disk, readable without the lock.
    state: AtomicU8,
    /// Bytes that may be appended before the next measurement.
    unmeasured: AtomicI64,
    /// Reading of the monotonic clock until which this disk counts as full.
    full_until_ms: AtomicU64,
    /// Last received state of other nodes' disks; a node without one counts as `Ok`.
    others: ArcSwap<BTreeMap<NodeId, DiskState>>,
}

#[derive(Debug, Default)]
struct Own {
    space: Space,
    marks: Marks,
    trend: Trend,
    days_left: Option<f64>,
}

/// Free space of a node's disk, for reports and answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFigures {
    /// Free and total bytes; 0 before the first successful measurement.
    pub space: Space,
    /// Low mark and minimum.
    pub marks: Marks,
    /// State by the marks.
    pub state: DiskState,
    /// Days until the minimum at the rate of the last two hours; `None` if the free space does not shrink.
    pub days_left: Option<f64>,
}

impl Disks {
    fn own_state(&self) -> DiskState {
        DiskState::from_byte(self.state.load(Ordering::Acquire)).unwrap_or_default()
    }

    /// Returns the last received state of a node's disk.
    fn of(&self, node: NodeId) -> DiskState {
        self.others.load().get(&node).copied().unwrap_or_default()
    }

    fn note(&self, node: NodeId, state: DiskState) -> bool {
        if self.of(node) == state {
            return false;
        }
        self.others.rcu(|others| {
            let mut others = BTreeMap::clone(others);
            others.insert(node, state);
            others
        });
        true
    }
}

impl Plane {
    /// Measures this node's disk every [`MEASURE_PAUSE`], for as long as the node runs.
    pub(crate) async fn run_measurements(self: Arc<Self>) {
        loop {
            self.measure_disk();
            tokio::time::sleep(MEASURE_PAUSE).await;
        }
    }

    /// Returns the free space of this node's disk, as last measured.
    pub fn disk(&self) -> DiskFigures {
        let own = self.disks.own.lock();
        let Own { space, marks, days_left, .. } = *own;
        DiskFigures { space, marks, state: self.disks.own_state(), days_left }
    }

    /// Returns the state of this node's disk.
    pub fn disk_state(&self) -> DiskState {
        self.disks.own_state()
    }

    /// Notes the state of another node's disk.
    pub fn note_disk(&self, node: NodeId, state: DiskState) {
        if self.disks.note(node, state) {
            tracing::debug!(%node, %state, "the disk state of another node changed");
            self.note_progress();
        }
    }

    /// Forgets the disks of nodes that are no longer members.
    pub(super) fn forget_disks(&self, state: &ClusterState) {
        let is_gone = |node: &NodeId| state.member(*node).is_none();
        if self.disks.others.load().keys().any(is_gone) {
            self.disks.others.rcu(|others| {
                let mut others = BTreeMap::clone(others);
                others.retain(|node, _| !is_gone(node));
                others
            });
        }
    }

    /// Counts bytes that are about to be appended; measures the disk if enough were appended since the last
    /// time.
    pub(super) fn note_appending(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        if self.disks.unmeasured.fetch_sub(bytes, Ordering::AcqRel) <= bytes {
            self.measure_disk();
        }
    }

    fn measure_disk(&self) {
        // Another thread measures it now.
        let Some(mut own) = self.disks.own.try_lock() else { return };
        let space = match self.engine.space() {
            Ok(space) => space,
            Err(error) => return tracing::debug!(%error, "cannot measure the free space of the disk"),
        };
        let now_ms = self.host.monotonic_ms();
        let marks = Marks::of(self.limits.disk_low, self.limits.disk_minimum, space.total_bytes);
        let free = space.free_bytes;
        own.trend.note(now_ms, free);
        let days_left = own.trend.days_left(now_ms, free, marks.minimum);
        (own.space, own.marks, own.days_left) = (space, marks, days_left);
        let before = self.disks.own_state();
        let full = now_ms < self.disks.full_until_ms.load(Ordering::Acquire);
        let after = if full { DiskState::Full } else { before.next(marks, free) };
        let after = if planted(Mutation::StaysFull) && before.refuses() { before } else { after };
        let below = [marks.low, marks.minimum].into_iter().filter(|mark| *mark <= free).max().unwrap_or(0);
        let (least, most) = UNMEASURED_BYTES;
        let unmeasured = ((free - below) / 2).clamp(least, most);
        self.disks.unmeasured.store(i64::try_from(unmeasured).unwrap_or(i64::MAX), Ordering::Release);
        self.set_disk_state(before, after, space, marks);
    }

    fn set_disk_state(&self, before: DiskState, after: DiskState, space: Space, marks: Marks) {
        if before == after {
            return;
        }
        self.disks.state.store(after as u8, Ordering::Release);
        // Merges run without window and rate while space is low.
        self.engine.set_space_low(after > DiskState::Ok);
        let (node, free, total) = (self.node.short(), mib(space.free_bytes), mib(space.total_bytes));
        let (severity, message) = match after {
            DiskState::Ok => {
                (Severity::Info, format!("the disk of node {node} has room again: {free} of {total} free"))
            }
            DiskState::Low => (
                Severity::Warning,
                format!(
                    "the disk of node {node} is low: {free} of {total} free, the low mark is {}; merges run \
                     without window and rate; enlarge the file system or add a node before {} are left",
                    mib(marks.low),
                    mib(marks.minimum)
                ),
            ),
            DiskState::Minimum | DiskState::Full => (
                Severity::Error,
                format!(
                    "the disk of node {node} is at its minimum: {free} of {total} free, the minimum is {}; \
                     writes that add data to its copies are refused, reads and deletes work; delete keys, \
                     enlarge the file system or add a node",
                    mib(marks.minimum)
                ),
            ),
        };
        self.report(severity, self.node, message);
        self.note_progress();
    }

    /// Notes that a write found no space. Nothing of it is on disk.
    pub(super) fn note_no_space(&self, partition: Partition, error: &AppendError) {
        tracing::debug!(partition, %error, "a write found no space on this disk");
        let until_ms = self.host.monotonic_ms() + FULL_MS;
        self.disks.full_until_ms.fetch_max(until_ms, Ordering::AcqRel);
        self.measure_disk();
    }

    /// Returns a failure if this primary must not order a client's write now, because this disk or that of a
    /// follower has no space. Writes that add no data (`adds` is false) continue below the minimum.
    /// Writes that only set an expiry (`expires`) continue down to half of the minimum, because they lead to
    /// less data.
    pub(super) fn no_room(&self, primary: &PrimaryState, expires: bool, adds: bool) -> Option<Failure> {
        if primary.is_stuck() {
            return Some(self.refused_for_room(self.node));
        }
        let bound = if expires { DiskState::Full } else { DiskState::Minimum };
        if !adds || self.disks.own_state() < bound && self.disks.others.load().is_empty() {
            return None;
        }
        if self.disks.own_state() >= bound {
            return Some(self.refused_for_room(self.node));
        }
        let full = primary.followers().iter().find(|follower| self.disks.of(follower.node()) >= bound);
        full.map(|follower| self.refused_for_room(follower.node()))
    }

    pub(super) fn refused_for_room(&self, node: NodeId) -> Failure {
        Failure::NoRoom(format!(
            "the disk of node {}, which holds a copy of this key, has less free space than its minimum \
             (disk_minimum); nothing was written; delete keys, enlarge its file system or add a node \
             (`caskctl nodes` shows the space); reads and deletes still work",
            node.short()
        ))
    }

    /// Returns whether a node has no room for a copy. A new copy needs more free space than the minimum; a copy that returns
    /// may use the reserve below it.
    pub(super) fn takes_no_copy(&self, partition: Partition, node: NodeId) -> bool {
        let (state, disk) = (self.state(), self.disks.of(node));
        let replica = state.partition(partition).and_then(|entry| entry.replica(node));
        match replica {
            Some(replica) if replica.assigned == replica.syncing_since => disk.refuses(),
            _ => disk == DiskState::Full,
        }
    }

    /// Returns whether a replica that was taken out has to wait for room on its node's disk.
    pub(super) fn awaits_room(&self, node: NodeId) -> bool {
        self.disks.of(node).refuses()
    }

    /// Gives up, with this node's consent (rule R3), each partition with a write that finds no room here and that other
    /// nodes may hold: the next in-sync replica takes over, or this node begins a new term if it is the last. The outcome
    /// of the pending writes is unknown then.
    pub fn step_down_where_stuck(self: &Arc<Self>) {
        let state = self.state();
        let Some(member) = state.members.get(&self.node) else { return };
        let incarnation = member.announcement.incarnation;
        for partition in 0..PARTITIONS {
            if let Some(term) = self.stop_if_stuck(partition) {
                self.propose(Change::StepDown(PrimaryRef { partition, term, incarnation }));
            }
        }
    }

    /// Stops serving a partition with a stuck write; returns the term that must end.
    fn stop_if_stuck(self: &Arc<Self>, partition: Partition) -> Option<Term> {
        let now_ms = self.host.monotonic_ms();
        self.with_role(partition, |role| {
            let Role::Primary(primary) = role else { return None };
            primary.steps_down(now_ms, STUCK_MS).then_some(primary.term())
        })
    }
}

/// Formats bytes with a unit, for messages.
fn mib(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mib if mib < 10 << 10 => format!("{mib} MiB"),
        mib => format!("{} GiB", mib >> 10),
    }
}
