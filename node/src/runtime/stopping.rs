//! Whether this node is stopping as planned, and what must not happen any more then.

use parking_lot::Mutex;

/// Begins once and never ends. What is done through [`Stopping::unless_begun`] is done before it begins, or not
/// at all: so a lease that is given up after the beginning cannot be brought back by an answer under way.
#[derive(Debug, Default)]
pub(super) struct Stopping(Mutex<bool>);

impl Stopping {
    /// From now on the node is stopping.
    pub(super) fn begin(&self) {
        *self.0.lock() = true;
    }

    /// Whether it is stopping.
    pub(super) fn has_begun(&self) -> bool {
        *self.0.lock()
    }

    /// Does `f`, which must be short, unless the node is stopping; tells whether it did.
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
    fn lease_given_up_at_a_planned_stop_is_not_brought_back_by_a_renewal_under_way() {
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
