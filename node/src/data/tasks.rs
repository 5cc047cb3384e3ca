//! The background work of this node: bounds and rate of its copies, and the progress of all of it, which is
//! reported as tasks (`CASK.TASKS`).

use std::collections::{BTreeMap, HashSet};
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

/// Background work that is reported as one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// All copies to this node.
    Copies(NodeId),
    /// Verification of the data files of this node's store.
    Scrub,
    /// Restoring damaged records of this node's store.
    Heal,
    /// Merge of the data of an older generation that this node brought back.
    Rejoin(NodeId),
}

/// Progress of one task. The task holds neither ends nor estimates until it is reported.
#[derive(Debug)]
struct Progress {
    task: Task,
    /// Begin of the time over which the rate is measured, and the bytes done then.
    window: (Instant, u64),
}

/// The running copies and hand-overs of one node.
pub(super) struct TaskBoard {
    pub(super) copies: Semaphore,
    pub(super) hand_overs: Semaphore,
    jobs: Mutex<HashSet<Job>>,
    progress: Mutex<BTreeMap<Work, Progress>>,
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
        self.add_work(Work::Copies(node), kind, cause, keys, bytes);
    }

    /// Counts records that were copied to `node`.
    pub(super) fn copied(&self, node: NodeId, keys: u64, bytes: u64) {
        self.advance(Work::Copies(node), keys, bytes);
    }

    /// Counts a partition whose copy to `node` has ended; the last one ends the task.
    pub(super) fn finish(&self, node: NodeId) {
        self.finish_work(Work::Copies(node));
    }

    /// Adds a part to the work, a partition or a file, with estimates of its keys and bytes. The first part
    /// begins the task.
    pub(super) fn add_work(&self, work: Work, kind: &'static str, cause: &str, keys: u64, bytes: u64) {
        let mut all = self.progress.lock();
        let progress = all.entry(work).or_insert_with(|| Progress {
            task: Task { kind: kind.to_owned(), cause: cause.to_owned(), ..Task::default() },
            window: (Instant::now(), 0),
        });
        progress.task.partitions_total += 1;
        progress.task.keys_total += keys;
        progress.task.bytes_total += bytes;
    }

    /// Returns whether the task runs.
    pub(super) fn has(&self, work: Work) -> bool {
        self.progress.lock().contains_key(&work)
    }

    /// Counts keys and bytes of the work that are done.
    pub(super) fn advance(&self, work: Work, keys: u64, bytes: u64) {
        if let Some(Progress { task, window }) = self.progress.lock().get_mut(&work) {
            task.keys_done += keys;
            task.bytes_done += bytes;
            let (since, bytes_then) = *window;
            if since.elapsed() >= RATE_WINDOW {
                let bytes = (task.bytes_done - bytes_then) as f64;
                task.bytes_per_s = bytes / since.elapsed().as_secs_f64();
                *window = (Instant::now(), task.bytes_done);
            }
        }
    }

    /// Counts a part of the work that has ended; the last one ends the task.
    pub(super) fn finish_work(&self, work: Work) {
        let mut all = self.progress.lock();
        if let Some(Progress { task, .. }) = all.get_mut(&work) {
            task.partitions_done += 1;
            if task.partitions_done >= task.partitions_total {
                all.remove(&work);
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

    /// Returns the tasks for `CASK.TASKS` and the dashboard. `here`: this node.
    pub(super) fn report(&self, here: NodeId) -> Vec<Task> {
        self.progress.lock().iter().map(|(work, progress)| progress.report(*work, here)).collect()
    }
}

impl Progress {
    fn report(&self, work: Work, here: NodeId) -> Task {
        let task = &self.task;
        let left = task.bytes_total.saturating_sub(task.bytes_done) as f64;
        let (source, target) = match work {
            Work::Copies(node) => (here, node),
            Work::Scrub | Work::Heal => (here, here),
            Work::Rejoin(node) => (node, here),
        };
        // The parts of a scrub and of healing are files.
        let of_partitions = matches!(work, Work::Copies(_) | Work::Rejoin(_));
        let partitions = |count| if of_partitions { count } else { 0 };
        let phase = match work {
            Work::Copies(_) if task.bytes_done < task.bytes_total => "copying",
            Work::Copies(_) => "comparing",
            Work::Scrub => "verifying",
            Work::Heal => "restoring",
            Work::Rejoin(_) => "merging",
        };
        Task {
            id: format!("{}/{}/{}", task.kind, source.short(), target.short()),
            source: source.to_string(),
            target: target.to_string(),
            phase: phase.to_owned(),
            partitions_done: partitions(task.partitions_done),
            partitions_total: partitions(task.partitions_total),
            // Writes after the start of the task are not in the estimate.
            keys_total: task.keys_total.max(task.keys_done),
            bytes_total: task.bytes_total.max(task.bytes_done),
            eta_s: (task.bytes_per_s > 0.0).then(|| left / task.bytes_per_s),
            ..task.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_work_is_a_task_with_its_ends_until_its_last_part_ends() {
        let (here, other) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let board = TaskBoard::default();
        board.add(other, "migration", "join", 10, 100);
        board.add_work(Work::Rejoin(other), "rejoin", "older generation", 3, 0);
        board.add_work(Work::Rejoin(other), "rejoin", "older generation", 4, 0);
        board.add_work(Work::Scrub, "scrub", "scrub_bytes_per_s", 0, 1000);
        board.advance(Work::Rejoin(other), 5, 0);
        board.advance(Work::Scrub, 0, 1200);
        board.advance(Work::Heal, 1, 1);
        let tasks = board.report(here);
        let shown: Vec<_> = tasks.iter().map(|task| (task.kind.as_str(), task.phase.as_str())).collect();
        assert_eq!(shown, [("migration", "copying"), ("scrub", "verifying"), ("rejoin", "merging")]);
        let [copy, scrub, rejoin] = <[Task; 3]>::try_from(tasks).unwrap();
        assert_eq!((copy.source, copy.target), (here.to_string(), other.to_string()));
        assert_eq!((scrub.partitions_total, scrub.bytes_done, scrub.bytes_total), (0, 1200, 1200));
        assert_eq!((rejoin.source, rejoin.target), (other.to_string(), here.to_string()));
        assert_eq!((rejoin.partitions_total, rejoin.keys_done, rejoin.keys_total), (2, 5, 7));
        board.finish_work(Work::Rejoin(other));
        assert_eq!(board.report(here).len(), 3, "one of two partitions is merged");
        board.finish_work(Work::Rejoin(other));
        board.finish_work(Work::Scrub);
        board.finish(other);
        assert!(board.report(here).is_empty());
    }
}
