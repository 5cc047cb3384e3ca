//! Status of background work: one type for every kind.

use crate::embedded::now_ms;
pub use crate::merge::Merged;
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
