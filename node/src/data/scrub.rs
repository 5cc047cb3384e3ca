//! Verifies the complete data files in the background, at a bounded rate, and heals the damage it finds.
//!
//! Files in which a read or a merge found damage have priority. The scrubber reads a file from its beginning
//! to its end in small steps. The active file is verified only after it is complete. Reads count against the
//! budget that all background work shares.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::plane::Plane;
use super::tasks::Work;

/// Bytes verified in one step: so few that no request waits noticeably.
const STEP_BYTES: u64 = 128 << 10;
/// Minimum rate at which a file is verified that is known to be damaged.
const DAMAGED_BYTES_PER_S: u64 = 64 << 20;
/// Pause when there is nothing to do.
const IDLE_PAUSE: Duration = Duration::from_millis(500);
/// Pause between two rounds over all files.
const ROUND_PAUSE_MS: u64 = 5_000;
/// Pause before the healing of a file is retried.
const RETRY_PAUSE_MS: u64 = 10_000;

/// Progress of the scrubber.
#[derive(Debug, Default)]
struct Round {
    /// The file verified last.
    last: u64,
    /// Start of the next round, by the monotonic clock.
    next_ms: u64,
    /// Time of the next search for copies of damaged records that no node had.
    missing_ms: u64,
    /// Files whose healing failed, with the time of the next attempt.
    failed: BTreeMap<u64, u64>,
}

/// The scrubber's next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Verifies this file; `damaged`: it is known to be damaged.
    File {
        id: u64,
        damaged: bool,
    },
    Nothing,
}

impl Round {
    fn next(&mut self, damaged: &[u64], sealed: &[u64], scrubs: bool, now_ms: u64) -> Next {
        self.failed.retain(|id, _| damaged.contains(id));
        let is_due = |id: &&u64| self.failed.get(id).is_none_or(|&due_ms| now_ms >= due_ms);
        if let Some(&id) = damaged.iter().find(is_due) {
            return Next::File { id, damaged: true };
        }
        if !scrubs || now_ms < self.next_ms {
            return Next::Nothing;
        }
        match sealed.iter().find(|id| **id > self.last && !damaged.contains(id)) {
            Some(&id) => {
                self.last = id;
                Next::File { id, damaged: false }
            }
            None => {
                (self.last, self.next_ms) = (0, now_ms + ROUND_PAUSE_MS);
                Next::Nothing
            }
        }
    }
}

impl Plane {
    /// Runs the scrubber; never returns.
    pub async fn run_scrub(self: Arc<Self>) {
        let rate = self.limits.scrub_bytes_per_s;
        let mut round = Round::default();
        loop {
            let (damaged, sealed) = (self.engine.damaged_files(), self.engine.sealed_files());
            match round.next(&damaged, &sealed, rate > 0, self.host.monotonic_ms()) {
                Next::Nothing => {
                    self.tasks.finish_work(Work::Scrub);
                    tokio::time::sleep(IDLE_PAUSE).await;
                    if self.host.monotonic_ms() >= round.missing_ms {
                        round.missing_ms = self.host.monotonic_ms() + RETRY_PAUSE_MS;
                        self.look_for_missing().await;
                    }
                }
                Next::File { id, damaged } => {
                    if !damaged && !self.tasks.has(Work::Scrub) {
                        let bytes = self.engine.stats().disk_bytes;
                        self.tasks.add_work(Work::Scrub, "scrub", "verification of all data files", 0, bytes);
                    }
                    let rate = if damaged { rate.max(DAMAGED_BYTES_PER_S) } else { rate };
                    if !self.scrub_file(id, rate, damaged).await {
                        round.failed.insert(id, self.host.monotonic_ms() + RETRY_PAUSE_MS);
                    }
                }
            }
        }
    }

    /// Verifies one file and heals it. Returns whether it is whole or marked for replacement.
    async fn scrub_file(&self, id: u64, bytes_per_s: u64, known_damaged: bool) -> bool {
        let (mut from, mut stretches) = (0, Vec::new());
        loop {
            let step = self.engine.scrub(id, from, STEP_BYTES);
            self.healing.scrubbed_bytes.fetch_add(step.bytes, Ordering::Relaxed);
            self.healing.damaged_stretches.fetch_add(step.damaged.len() as u64, Ordering::Relaxed);
            stretches.extend(step.damaged);
            if !known_damaged {
                self.tasks.advance(Work::Scrub, 0, step.bytes);
            }
            let own = Duration::from_secs_f64(step.bytes as f64 / bytes_per_s.max(1) as f64);
            tokio::time::sleep(own.max(self.background.take(step.bytes))).await;
            match step.next {
                Some(next) => from = next,
                None => break,
            }
        }
        if stretches.is_empty() && !known_damaged {
            return true;
        }
        self.heal_file(id, &stretches).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_files_come_first_and_those_that_cannot_be_healed_wait() {
        let mut round = Round::default();
        let whole = |id| Next::File { id, damaged: false };
        assert_eq!(round.next(&[], &[3, 5, 7], true, 1), whole(3));
        assert_eq!(round.next(&[7], &[3, 5, 7], true, 1), Next::File { id: 7, damaged: true });
        round.failed.insert(7, 100);
        assert_eq!(round.next(&[7], &[3, 5, 7], true, 1), whole(5));
        assert_eq!(round.next(&[7], &[3, 5, 7], true, 1), Next::Nothing, "the round is done");
        assert_eq!(round.next(&[7], &[3, 5, 7], true, 2), Next::Nothing);
        assert_eq!(round.next(&[7], &[3, 5, 7], true, 100), Next::File { id: 7, damaged: true });
        assert_eq!(round.next(&[], &[3], true, 2 + ROUND_PAUSE_MS), whole(3));
        assert_eq!(round.next(&[], &[3], false, u64::MAX), Next::Nothing, "scrubbing is switched off");
    }
}
