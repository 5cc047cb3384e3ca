//! Commands that took long: the newest of them, and the longest by second for LATENCY.
//!
//! A command is kept by its name and how many arguments it had: values may be secret, and copying the arguments of every
//! command that might turn out slow would cost all of them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// Seconds of which LATENCY HISTORY tells, as in Redis.
const SAMPLES_MAX: usize = 160;
/// Most entries of the log, whatever is set.
pub const ENTRIES_MAX: u64 = 100_000;

/// One slow command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub id: u64,
    /// When it was answered: seconds since 1970.
    pub at_s: u64,
    /// How long it took, from the moment it was read.
    pub took_us: u64,
    /// Its name.
    pub command: &'static str,
    /// Arguments after the name.
    pub arguments: usize,
    /// Where its client is.
    pub peer: String,
    /// What its client calls itself.
    pub client: String,
}

/// The log and its settings, which can be changed.
#[derive(Debug)]
pub struct SlowLog {
    /// Microseconds from which on a command is kept; negative: none is.
    pub slower_than_us: AtomicI64,
    /// Entries that are kept.
    pub len_max: AtomicU64,
    /// Milliseconds from which on LATENCY keeps a command; 0: none.
    pub latency_threshold_ms: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    next: u64,
    /// Newest first.
    entries: VecDeque<Entry>,
    /// Second and longest time of it in milliseconds, oldest first.
    samples: VecDeque<(u64, u64)>,
    longest_ms: u64,
}

impl Default for SlowLog {
    fn default() -> Self {
        Self {
            slower_than_us: AtomicI64::new(10_000),
            len_max: AtomicU64::new(128),
            latency_threshold_ms: AtomicU64::new(0),
            kept: Mutex::default(),
        }
    }
}

impl SlowLog {
    /// Whether any command is kept, however long it takes.
    pub fn is_on(&self) -> bool {
        self.slower_than_us.load(Ordering::Relaxed) >= 0
            || self.latency_threshold_ms.load(Ordering::Relaxed) > 0
    }

    /// Whether a command that took so long is kept.
    pub fn wants(&self, took: Duration) -> bool {
        let micros = i64::try_from(took.as_micros()).unwrap_or(i64::MAX);
        let (slow, threshold) =
            (self.slower_than_us.load(Ordering::Relaxed), self.latency_threshold_ms.load(Ordering::Relaxed));
        (slow >= 0 && micros >= slow) || (threshold > 0 && took.as_millis() >= u128::from(threshold))
    }

    /// Keeps a command if it was slow. `entry.id` is given here.
    pub fn add(&self, mut entry: Entry) {
        let took_ms = entry.took_us / 1000;
        let threshold = self.latency_threshold_ms.load(Ordering::Relaxed);
        let slow = u64::try_from(self.slower_than_us.load(Ordering::Relaxed));
        let mut kept = self.kept.lock();
        if threshold > 0 && took_ms >= threshold {
            kept.sample(entry.at_s, took_ms);
        }
        if slow.is_ok_and(|slow| entry.took_us >= slow) {
            entry.id = kept.next;
            kept.next += 1;
            kept.entries.push_front(entry);
            kept.entries.truncate(self.len_max.load(Ordering::Relaxed).min(ENTRIES_MAX) as usize);
        }
    }

    /// The newest entries, at most so many.
    pub fn newest(&self, count: usize) -> Vec<Entry> {
        self.kept.lock().entries.iter().take(count).cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.kept.lock().entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the entries; their numbers go on.
    pub fn clear(&self) {
        self.kept.lock().entries.clear();
    }

    /// Second and longest time in milliseconds of the seconds that had a long command, oldest first.
    pub fn samples(&self) -> Vec<(u64, u64)> {
        self.kept.lock().samples.iter().copied().collect()
    }

    /// The longest time since the samples were last forgotten, in milliseconds.
    pub fn longest_ms(&self) -> u64 {
        self.kept.lock().longest_ms
    }

    /// Forgets the samples. Says whether there were any.
    pub fn clear_samples(&self) -> bool {
        let mut kept = self.kept.lock();
        kept.longest_ms = 0;
        !std::mem::take(&mut kept.samples).is_empty()
    }
}

impl Kept {
    fn sample(&mut self, at_s: u64, took_ms: u64) {
        self.longest_ms = self.longest_ms.max(took_ms);
        match self.samples.back_mut() {
            Some((second, longest)) if *second == at_s => *longest = took_ms.max(*longest),
            _ => self.samples.push_back((at_s, took_ms)),
        }
        if self.samples.len() > SAMPLES_MAX {
            self.samples.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(took_us: u64) -> Entry {
        let (peer, client) = (String::new(), String::new());
        Entry { id: 0, at_s: 7, took_us, command: "get", arguments: 1, peer, client }
    }

    #[test]
    fn only_the_newest_slow_commands_are_kept() {
        let log = SlowLog::default();
        log.len_max.store(2, Ordering::Relaxed);
        for took_us in [9_999, 10_000, 20_000, 30_000] {
            log.add(entry(took_us));
        }
        let kept: Vec<_> = log.newest(10).into_iter().map(|entry| (entry.id, entry.took_us)).collect();
        assert_eq!(kept, [(2, 30_000), (1, 20_000)]);
        log.clear();
        log.add(entry(50_000));
        assert_eq!(log.newest(1).first().map(|entry| entry.id), Some(3), "numbers are not used again");
    }

    #[test]
    fn a_second_is_told_by_its_longest_command() {
        let log = SlowLog::default();
        log.latency_threshold_ms.store(5, Ordering::Relaxed);
        for took_us in [4_000, 6_000, 9_000, 7_000] {
            log.add(entry(took_us));
        }
        assert_eq!((log.samples(), log.longest_ms()), (vec![(7, 9)], 9));
        assert!(log.clear_samples() && !log.clear_samples());
    }
}
