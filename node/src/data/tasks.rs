//! The copy tasks of this node: their bounds, their rate, and their progress for the dashboard.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::api::Task;
use crate::id::{Epoch, NodeId, Partition, Term};

/// Upper bound of the partitions that one node copies at once.
const COPIES_MAX: usize = 4;
/// Upper bound of the partitions that one node hands over at once.
const HAND_OVERS_MAX: usize = 64;
/// Time over which a rate is measured.
const RATE_WINDOW: Duration = Duration::from_secs(2);

/// Identity of a task, so that it is not started twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Job {
    /// Makes a replica equal to this primary.
    Copy { partition: Partition, term: Term, node: NodeId, syncing_since: Epoch },
    /// Hands a partition over.
    HandOver { partition: Partition, term: Term },
}

/// Progress of all copies to one node.
#[derive(Debug)]
struct Progress {
    cause: String,
    kind: &'static str,
    partitions_total: u32,
    partitions_done: u32,
    keys_done: u64,
    keys_total: u64,
    bytes_done: u64,
    bytes_total: u64,
    window: (Instant, u64),
    bytes_per_s: f64,
}

/// The running copies and hand-overs of one node.
pub(super) struct TaskBoard {
    pub(super) copies: Semaphore,
    pub(super) hand_overs: Semaphore,
    jobs: Mutex<HashSet<Job>>,
    progress: Mutex<HashMap<NodeId, Progress>>,
    /// Time from which the next bytes may be sent.
    pace: Mutex<Option<Instant>>,
}

impl Default for TaskBoard {
    fn default() -> Self {
        Self {
            copies: Semaphore::new(COPIES_MAX),
            hand_overs: Semaphore::new(HAND_OVERS_MAX),
            jobs: Mutex::default(),
            progress: Mutex::default(),
            pace: Mutex::default(),
        }
    }
}

impl TaskBoard {
    /// Registers the job as running. Returns false if it runs already.
    pub(super) fn begin(&self, job: Job) -> bool {
        self.jobs.lock().insert(job)
    }

    /// Removes a job that has ended.
    pub(super) fn end(&self, job: Job) {
        self.jobs.lock().remove(&job);
    }

    /// Adds a partition that is to be copied to `node`.
    pub(super) fn add(&self, node: NodeId, kind: &'static str, cause: &str, keys: u64, bytes: u64) {
        let mut all = self.progress.lock();
        let progress = all.entry(node).or_insert_with(|| Progress {
            cause: cause.to_owned(),
            kind,
            partitions_total: 0,
            partitions_done: 0,
            keys_done: 0,
            keys_total: 0,
            bytes_done: 0,
            bytes_total: 0,
            window: (Instant::now(), 0),
            bytes_per_s: 0.0,
        });
        progress.partitions_total += 1;
        progress.keys_total += keys;
        progress.bytes_total += bytes;
    }

    /// Counts records that were copied to `node`.
    pub(super) fn copied(&self, node: NodeId, keys: u64, bytes: u64) {
        if let Some(progress) = self.progress.lock().get_mut(&node) {
            progress.keys_done += keys;
            progress.bytes_done += bytes;
            let (since, bytes_then) = progress.window;
            if since.elapsed() >= RATE_WINDOW {
                let bytes = (progress.bytes_done - bytes_then) as f64;
                progress.bytes_per_s = bytes / since.elapsed().as_secs_f64();
                progress.window = (Instant::now(), progress.bytes_done);
            }
        }
    }

    /// Counts a partition whose copy to `node` has ended; the last one ends the task.
    pub(super) fn finish(&self, node: NodeId) {
        let mut all = self.progress.lock();
        if let Some(progress) = all.get_mut(&node) {
            progress.partitions_done += 1;
            if progress.partitions_done >= progress.partitions_total {
                all.remove(&node);
            }
        }
    }

    /// Waits until `bytes` may be sent at a rate of `bytes_per_s`.
    pub(super) async fn pace(&self, bytes: u64, bytes_per_s: u64) {
        let cost = Duration::from_secs_f64(bytes as f64 / bytes_per_s.max(1) as f64);
        let due = {
            let mut next = self.pace.lock();
            let due = next.unwrap_or_else(Instant::now).max(Instant::now());
            *next = Some(due + cost);
            due
        };
        tokio::time::sleep_until(due).await;
    }

    /// Returns the tasks for `CASK.TASKS` and the dashboard.
    pub(super) fn report(&self, source: NodeId) -> Vec<Task> {
        let all = self.progress.lock();
        all.iter().map(|(target, progress)| progress.report(source, *target)).collect()
    }
}

impl Progress {
    fn report(&self, source: NodeId, target: NodeId) -> Task {
        let left = self.bytes_total.saturating_sub(self.bytes_done) as f64;
        Task {
            id: format!("{}/{}/{}", self.kind, source.short(), target.short()),
            kind: self.kind.to_owned(),
            cause: self.cause.clone(),
            source: source.to_string(),
            target: target.to_string(),
            phase: if self.bytes_done < self.bytes_total { "copying" } else { "comparing" }.to_owned(),
            partitions_done: self.partitions_done,
            partitions_total: self.partitions_total,
            keys_done: self.keys_done,
            // Writes after the start of the task are not in the estimate.
            keys_total: self.keys_total.max(self.keys_done),
            bytes_done: self.bytes_done,
            bytes_total: self.bytes_total.max(self.bytes_done),
            bytes_per_s: self.bytes_per_s,
            eta_s: (self.bytes_per_s > 0.0).then(|| left / self.bytes_per_s),
        }
    }
}
