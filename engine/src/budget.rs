//! A rate of bytes that background work may use, shared by all who draw on it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Unused time that may be made up for at once.
const BURST: Duration = Duration::from_millis(100);

/// Longest single sleep of [`Budget::wait`], after which it looks whether it is to stop.
const NAP: Duration = Duration::from_millis(50);

/// Bytes a second that merge, and what else its owner gives a clone, may read and write together. Clones share
/// one rate; it may be changed at any time.
#[derive(Clone)]
pub struct Budget(Arc<Mutex<State>>);

struct State {
    /// 0 is without limit.
    bytes_per_s: u64,
    /// Until then everything is given away.
    booked_until: Instant,
}

impl Budget {
    /// A budget of so many bytes a second; 0 is without limit.
    pub fn new(bytes_per_s: u64) -> Self {
        Self(Arc::new(Mutex::new(State { bytes_per_s, booked_until: Instant::now() })))
    }

    /// The rate; 0 is without limit.
    pub fn bytes_per_s(&self) -> u64 {
        self.0.lock().bytes_per_s
    }

    /// Changes the rate, for what is taken from now on.
    pub fn set_bytes_per_s(&self, bytes_per_s: u64) {
        let mut state = self.0.lock();
        state.bytes_per_s = bytes_per_s;
        state.booked_until = Instant::now();
    }

    /// Takes so many bytes; returns how long to wait before using them.
    pub fn take(&self, bytes: u64) -> Duration {
        let mut state = self.0.lock();
        if state.bytes_per_s == 0 {
            return Duration::ZERO;
        }
        let now = Instant::now();
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let from = state.booked_until.max(earliest);
        state.booked_until = from + Duration::from_secs_f64(bytes as f64 / state.bytes_per_s as f64);
        state.booked_until.saturating_duration_since(now)
    }

    /// Takes so many bytes and sleeps until they may be used, or `stop` holds.
    pub(crate) fn wait(&self, bytes: u64, stop: &dyn Fn() -> bool) {
        let until = Instant::now() + self.take(bytes);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || stop() {
                return;
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}

impl Default for Budget {
    /// Without limit.
    fn default() -> Self {
        Self::new(0)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("bytes_per_s", &self.bytes_per_s()).finish()
    }
}

impl PartialEq for Budget {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.bytes_per_s() == other.bytes_per_s()
    }
}

impl Eq for Budget {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_one_rate() {
        let budget = Budget::new(1000);
        let other = budget.clone();
        budget.take(1000);
        let wait = other.take(1000);
        // Two thousand bytes at a thousand a second, less the burst and the time this took.
        assert!(wait > Duration::from_millis(1500) && wait <= Duration::from_secs(2), "{wait:?}");
        other.set_bytes_per_s(0);
        assert_eq!(budget.take(u64::MAX), Duration::ZERO);
    }

    #[test]
    fn wait_ends_when_told_to() {
        let budget = Budget::new(1);
        let began = Instant::now();
        budget.wait(3600, &|| began.elapsed() > Duration::from_millis(20));
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}
