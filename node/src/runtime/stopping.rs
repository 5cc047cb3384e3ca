//! The state of a planned stop, and actions that must not happen after its beginning.

use parking_lot::Mutex;

/// A planned stop, which begins once and never ends. An action through [`Stopping::unless_begun`] happens
/// before the beginning or not at all: an answer in flight cannot restore a lease that was given up after the
/// beginning.
#[derive(Debug, Default)]
pub(super) struct Stopping(Mutex<bool>);

impl Stopping {
    /// Begins the stop.
    pub(super) fn begin(&self) {
        *self.0.lock() = true;
    }

    /// Returns whether the stop has begun.
    pub(super) fn has_begun(&self) -> bool {
        *self.0.lock()
    }

    /// Runs `f`, which must be short, unless the stop has begun; returns whether it ran.
    pub(super) fn unless_begun(&self, f: impl FnOnce()) -> bool {
        let stopping = self.0.lock();
        if !*stopping {
            f();
        }
        !*stopping
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Barrier};

    use super::*;

    #[test]
    fn lease_given_up_at_a_planned_stop_is_not_restored_by_a_renewal_in_flight() {
        for _ in 0..200 {
            let stopping = Arc::new(Stopping::default());
            let lease_until_ms = Arc::new(AtomicU64::new(1000));
            let together = Arc::new(Barrier::new(2));
            let renewal = std::thread::spawn({
                let (stopping, lease, together) =
                    (stopping.clone(), lease_until_ms.clone(), together.clone());
                move || {
                    together.wait();
                    stopping.unless_begun(|| lease.store(2000, Ordering::SeqCst))
                }
            });
            together.wait();
            stopping.begin();
            lease_until_ms.store(0, Ordering::SeqCst);
            renewal.join().unwrap();
            assert_eq!(lease_until_ms.load(Ordering::SeqCst), 0);
        }
        assert!(!Stopping::default().has_begun());
    }
}
