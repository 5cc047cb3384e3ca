//! The scheduler's locks, with the interface of those that the queue uses.

use std::ops::{Deref, DerefMut};
use std::time::Instant;

pub(super) use shuttle::thread_local;

#[derive(Default)]
pub(super) struct Mutex<T>(shuttle::sync::Mutex<T>);

/// Guard of a lock; empty while its thread waits.
pub(super) struct MutexGuard<'a, T>(Option<shuttle::sync::MutexGuard<'a, T>>);

#[derive(Default)]
pub(super) struct Condvar(shuttle::sync::Condvar);

impl<T> Mutex<T> {
    pub(super) fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap()))
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().unwrap()
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().unwrap()
    }
}

impl Condvar {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        guard.0 = guard.0.take().map(|inside| self.0.wait(inside).unwrap());
    }

    /// Waits until it is notified: no time passes under the scheduler.
    pub(super) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _until: Instant) -> Never {
        self.wait(guard);
        Never
    }

    pub(super) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(super) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// A wait that did not time out.
pub(super) struct Never;

impl Never {
    pub(super) fn timed_out(self) -> bool {
        false
    }
}
