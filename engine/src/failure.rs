//! How a store tells its owner that one of its threads ended, or a callback panicked.

use std::fmt;
use std::sync::Arc;

type Act = dyn Fn(&str, &str) + Send + Sync;

/// Called with the name of a thread of the store that ended by a panic, or that ran a callback which panicked, and with
/// what happened. The store takes no appends, or makes no merges, after that: its owner should close it, or end. Must
/// not block; may be called on a thread that is panicking.
#[derive(Clone, Default)]
pub struct OnFailure(Option<Arc<Act>>);

impl OnFailure {
    /// Creates one that calls `act`.
    pub fn new(act: impl Fn(&str, &str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(act)))
    }

    pub(crate) fn report(&self, thread: &str, how: &str) {
        if let Some(act) = &self.0 {
            act(thread, how);
        }
    }

    /// Returns what a thread holds while it runs: dropped by a panic, it reports that.
    pub(crate) fn guard(&self, thread: &'static str) -> Guard {
        Guard { on_failure: self.clone(), thread }
    }
}

impl fmt::Debug for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "OnFailure(set)" } else { "OnFailure(unset)" })
    }
}

impl PartialEq for OnFailure {
    /// Two are equal if they call the same, or nothing.
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Eq for OnFailure {}

/// See [`OnFailure::guard`].
pub(crate) struct Guard {
    on_failure: OnFailure,
    thread: &'static str,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.on_failure.report(self.thread, "its thread panicked");
        }
    }
}
