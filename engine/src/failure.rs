//! Reports to the owner of a store that one of its threads ended, or that a callback panicked.

use std::fmt;
use std::sync::Arc;

type Act = dyn Fn(&str, &str) + Send + Sync;

/// A function that the store calls with the name of a thread and a description. The thread ended by a panic,
/// or it ran a callback that panicked. After that the store accepts no appends, or makes no merges: its owner
/// should close it, or exit. The function must not block; it may run on a thread that is panicking.
#[derive(Clone, Default)]
pub struct OnFailure(Option<Arc<Act>>);

impl OnFailure {
    /// Creates a value that calls `act`.
    pub fn new(act: impl Fn(&str, &str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(act)))
    }

    pub(crate) fn report(&self, thread: &str, how: &str) {
        if let Some(act) = &self.0 {
            act(thread, how);
        }
    }

    /// Returns a guard that the thread holds while it runs: if a panic drops it, it reports the panic.
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
    /// Returns whether both call the same function, or none.
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Eq for OnFailure {}

/// Guard of a running thread: see [`OnFailure::guard`].
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
