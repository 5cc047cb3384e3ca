//! Slow commands: the newest ones for SLOWLOG, and the longest time of each second for LATENCY.
//!
//! An entry has the name of a command and its number of arguments, not the arguments. Values may be secret.
//! And a command is known to be slow only at its end, so the arguments of every command would have to be
//! copied.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// Maximum samples of LATENCY HISTORY, one per second with a slow command, as in Redis.
const SAMPLES_MAX: usize = 160;
/// Upper limit of the log's length, whatever `slowlog-max-len` is.
pub const ENTRIES_MAX: u64 = 100_000;

/// One slow command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number of the entry, ascending.
    pub id: u64,
    /// Time of the reply, in seconds since 1970.
    pub at_s: u64,
    /// Time from reading the command to its reply, in microseconds.
    pub took_us: u64,
    /// Name of the command.
    pub command: &'static str,
    /// Number of arguments after the name.
    pub arguments: usize,
    /// Address of the client.
    pub peer: String,
    /// Name that the client gave itself.
    pub client: String,
}

/// The slow log and its settings, which CONFIG SET changes.
#[derive(Debug)]
pub struct SlowLog {
    /// Shortest time of a logged command, in microseconds. Negative: log none.
    pub slower_than_us: AtomicI64,
    /// Maximum number of entries.
    pub len_max: AtomicU64,
    /// Shortest time of a command that becomes a sample of LATENCY, in milliseconds. 0: no samples.
    pub latency_threshold_ms: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    next: u64,
    /// Newest first.
    entries: VecDeque<Entry>,
    /// Samples, oldest first: the second, and its longest time in milliseconds.
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
    /// Returns whether the log or the samples are switched on.
    pub fn is_on(&self) -> bool {
        self.slower_than_us.load(Ordering::Relaxed) >= 0
            || self.latency_threshold_ms.load(Ordering::Relaxed) > 0
    }

    /// Returns whether a command that took `took` is logged or becomes a sample.
    pub fn wants(&self, took: Duration) -> bool {
        let micros = i64::try_from(took.as_micros()).unwrap_or(i64::MAX);
        let (slow, threshold) =
            (self.slower_than_us.load(Ordering::Relaxed), self.latency_threshold_ms.load(Ordering::Relaxed));
        (slow >= 0 && micros >= slow) || (threshold > 0 && took.as_millis() >= u128::from(threshold))
    }

    /// Logs a command if it was slow, and updates the samples. Sets `entry.id`.
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

    /// Returns at most `count` entries, newest first.
    pub fn newest(&self, count: usize) -> Vec<Entry> {
        self.kept.lock().entries.iter().take(count).cloned().collect()
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.kept.lock().entries.len()
    }

    /// Returns whether the log has no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes all entries. The numbers of later entries continue after theirs.
    pub fn clear(&self) {
        self.kept.lock().entries.clear();
    }

    /// Returns the samples, oldest first: the second, and its longest time in milliseconds.
    pub fn samples(&self) -> Vec<(u64, u64)> {
        self.kept.lock().samples.iter().copied().collect()
    }

    /// Returns the longest time since the samples were last cleared, in milliseconds.
    pub fn longest_ms(&self) -> u64 {
        self.kept.lock().longest_ms
    }

    /// Removes all samples. Returns whether there were any.
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
        assert_eq!(log.newest(1).first().map(|entry| entry.id), Some(3), "numbers must not be reused");
    }

    #[test]
    fn a_sample_is_the_longest_command_of_its_second() {
        let log = SlowLog::default();
        log.latency_threshold_ms.store(5, Ordering::Relaxed);
        for took_us in [4_000, 6_000, 9_000, 7_000] {
            log.add(entry(took_us));
        }
        assert_eq!((log.samples(), log.longest_ms()), (vec![(7, 9)], 9));
        assert!(log.clear_samples() && !log.clear_samples());
    }
}
