//! How background work reports: one type for all of it.

use crate::embedded::now_ms;

/// What background work is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// Copying live records out of data files with many dead ones.
    Merge,
}

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// It is under way.
    Running,
    /// It is complete.
    Done,
    /// It was told to end, and left everything as it was before.
    Stopped,
    /// It could not be completed, for this reason, and left everything as it was before.
    Failed(String),
}

/// How one piece of background work stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStatus {
    /// What it is about.
    pub kind: TaskKind,
    /// How it stands.
    pub state: TaskState,
    /// When it began, in milliseconds since 1970.
    pub begun_ms: u64,
    /// When it ended; 0 while it runs.
    pub ended_ms: u64,
    /// Bytes that were gone through.
    pub bytes_done: u64,
    /// Bytes to go through.
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

    /// Bytes a second since it began.
    pub fn bytes_per_s(&self) -> u64 {
        let until = if self.ended_ms == 0 { now_ms() } else { self.ended_ms };
        self.bytes_done * 1000 / until.saturating_sub(self.begun_ms).max(1)
    }
}
