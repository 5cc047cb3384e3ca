//! Status of background work: one type for every kind; its progress and its results.

use crate::clock::now_ms;
pub use crate::progress::Progress;

/// Kind of background work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// Copying live records out of data files with many dead ones.
    Merge,
}

/// State of background work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// The work is running.
    Running,
    /// The work is complete.
    Done,
    /// The work ended on request; everything it had not completed is unchanged.
    Stopped,
    /// The work failed for this reason; everything it had not completed is unchanged.
    Failed(String),
}

/// Status of one piece of background work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStatus {
    /// Its kind.
    pub kind: TaskKind,
    /// Its state.
    pub state: TaskState,
    /// Time of its begin, in milliseconds since 1970.
    pub begun_ms: u64,
    /// Time of its end, in milliseconds since 1970; 0 while it runs.
    pub ended_ms: u64,
    /// Bytes processed so far.
    pub bytes_done: u64,
    /// Bytes to process in total.
    pub bytes_total: u64,
}

impl TaskStatus {
    pub(crate) fn begun(kind: TaskKind, bytes_total: u64) -> Self {
        Self { kind, state: TaskState::Running, begun_ms: now_ms(), ended_ms: 0, bytes_done: 0, bytes_total }
    }

    pub(crate) fn finished(&mut self, state: TaskState) {
        self.ended_ms = now_ms();
        self.state = state;
    }

    /// Returns the average bytes a second since the begin.
    pub fn bytes_per_s(&self) -> u64 {
        let until = if self.ended_ms == 0 { now_ms() } else { self.ended_ms };
        self.bytes_done * 1000 / until.saturating_sub(self.begun_ms).max(1)
    }
}

/// Result of [`Engine::merge`](crate::Engine::merge) or [`Engine::run_once`](crate::Engine::run_once).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Number of data files that were merged and removed.
    pub files: u64,
    /// Number of data files that were written.
    pub outputs: u64,
    /// Number of live records and tombstones that were copied.
    pub records_copied: u64,
    /// Number of tombstones that were dropped.
    pub tombstones_dropped: u64,
    /// Number of expired records that were turned into tombstones.
    pub records_expired: u64,
    /// Bytes by which the data files have become smaller.
    pub bytes_freed: u64,
    /// Number of hint files that were written.
    pub hints: u64,
}

impl Merged {
    /// Adds the figures of another merge.
    pub(crate) fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.outputs += other.outputs;
        self.records_copied += other.records_copied;
        self.tombstones_dropped += other.tombstones_dropped;
        self.records_expired += other.records_expired;
        self.bytes_freed += other.bytes_freed;
        self.hints += other.hints;
    }
}
