//! A rate limit in bytes a second for background work, shared by all its users.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Unused time that later work may use at once.
const BURST: Duration = Duration::from_millis(100);

/// Longest single sleep of [`Budget::wait`]; after each it checks whether to stop.
const NAP: Duration = Duration::from_millis(50);

/// Bytes a second that merges, and other work that received a clone, may read and write together. Clones
/// share one rate, which may be changed at any time. A [part](Self::part) of a budget has its own rate within
/// that of the whole: requests are served in their order, so no part starves, and a part may use what the
/// others leave.
#[derive(Clone)]
pub struct Budget(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// The budget that this one is a part of.
    whole: Option<Budget>,
}

struct State {
    /// The rate; 0: no limit.
    bytes_per_s: u64,
    /// Time until which the rate is fully booked.
    booked_until: Instant,
}

impl Budget {
    /// Creates a budget of this many bytes a second; 0: no limit.
    pub fn new(bytes_per_s: u64) -> Self {
        Self::within(bytes_per_s, None)
    }

    /// Creates a part of this budget that may use at most this many bytes a second; 0: all of it.
    pub fn part(&self, bytes_per_s: u64) -> Self {
        Self::within(bytes_per_s, Some(self.clone()))
    }

    fn within(bytes_per_s: u64, whole: Option<Self>) -> Self {
        let state = Mutex::new(State { bytes_per_s, booked_until: Instant::now() });
        Self(Arc::new(Inner { state, whole }))
    }

    /// Returns the budget that this is a part of, or this budget itself.
    pub fn whole(&self) -> &Self {
        self.0.whole.as_ref().unwrap_or(self)
    }

    /// Returns the rate in bytes a second; 0: no limit.
    pub fn bytes_per_s(&self) -> u64 {
        self.0.state.lock().bytes_per_s
    }

    /// Changes the rate for future calls of [`Budget::take`].
    pub fn set_bytes_per_s(&self, bytes_per_s: u64) {
        let mut state = self.0.state.lock();
        state.bytes_per_s = bytes_per_s;
        state.booked_until = Instant::now();
    }

    /// Takes this many bytes, also from the whole; returns how long to wait before using them.
    pub fn take(&self, bytes: u64) -> Duration {
        let of_whole = self.0.whole.as_ref().map_or(Duration::ZERO, |whole| whole.take(bytes));
        self.book(bytes).max(of_whole)
    }

    fn book(&self, bytes: u64) -> Duration {
        let mut state = self.0.state.lock();
        if state.bytes_per_s == 0 {
            return Duration::ZERO;
        }
        let now = Instant::now();
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let from = state.booked_until.max(earliest);
        state.booked_until = from + Duration::from_secs_f64(bytes as f64 / state.bytes_per_s as f64);
        state.booked_until.saturating_duration_since(now)
    }

    /// Takes this many bytes and sleeps until they may be used, or until `stop` returns true.
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
    /// Returns a budget without limit.
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
        // Two thousand bytes at a thousand a second, less the burst and the elapsed time.
        assert!(wait > Duration::from_millis(1500) && wait <= Duration::from_secs(2), "{wait:?}");
        other.set_bytes_per_s(0);
        assert_eq!(budget.take(u64::MAX), Duration::ZERO);
    }

    #[test]
    fn parts_have_rates_of_their_own_and_never_more_than_the_whole() {
        let whole = Budget::new(1000);
        let (slow, open) = (whole.part(100), whole.part(0));
        assert_eq!((slow.whole(), whole.whole(), slow.bytes_per_s()), (&whole, &whole, 100));
        let wait = slow.take(100);
        assert!(
            wait > Duration::from_millis(800) && wait <= Duration::from_secs(1),
            "its own rate: {wait:?}"
        );
        open.take(1000);
        let wait = open.take(1000);
        assert!(
            wait > Duration::from_millis(1800) && wait <= Duration::from_millis(2100),
            "the whole's: {wait:?}"
        );
        whole.set_bytes_per_s(0);
        assert_eq!(open.take(u64::MAX), Duration::ZERO);
    }

    #[test]
    fn wait_ends_when_told_to() {
        let budget = Budget::new(1);
        let began = Instant::now();
        budget.wait(3600, &|| began.elapsed() > Duration::from_millis(20));
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}
