//! Cluster time: the clock that expiries are compared with. Pure: readings of clocks are arguments.
//!
//! [`ClusterClock`] is one node's estimate of it, [`TimeKeeper`] what the coordinator decides about it. The rule, its error
//! bound and the proof are in `docs/cluster-time.md`.
//!
//! Invariants: once set, an estimate never goes back, whatever is heard; it goes at least [`SLOWED`] and, but for steps
//! forward of at most the error it had, at most 500 ppm faster than the machine's monotonic clock. A wall clock alone is
//! believed only where nobody remembers cluster time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// How fast the coordinator steers cluster time towards the wall clocks at most, in millionths.
pub const SLEW_PPM_MAX: i64 = 500;
/// How fast the error of an estimate grows that hears nothing: the slew it misses, and as much for clocks that differ.
const WANDER_PPM: u64 = 1_000;
/// An estimate that is ahead gives up one part of so many of each moment, until it is right.
const SLOWED: u64 = 16;
/// Error of a sample beside the way of the messages, in microseconds: clocks are read in milliseconds, on both sides.
const READING_US: u64 = 2_000;
/// A new coordinator goes on with its own estimate if the error of that is no larger, in microseconds.
const SURE_US: u64 = 250_000;
/// A coordinator that had to guess takes over another's estimate that is ahead by more, in microseconds.
const GUESS_STEP_US: u64 = 1_000_000;
/// By how much a wall clock differs from cluster time before operators are told, in milliseconds.
pub const OFFSET_MS_MAX: u64 = 500;
/// From when on they are told that it does not any more.
const OFFSET_MS_FINE: u64 = 400;
/// How far the recorded bound is ahead of the cluster time it was recorded at: twice the time between two records.
pub const BOUND_AHEAD_MS: u64 = 4_000;
/// Reports of wall clocks older than this do not steer, in milliseconds.
const REPORT_MS_MAX: u64 = 10_000;

/// How one node estimates cluster time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterClock {
    /// Cluster time at `base_ms`, in microseconds since 1970.
    base_us: u64,
    /// When that was, by the machine's monotonic clock.
    base_ms: u64,
    /// How much faster than that clock it goes: the coordinator steers.
    rate_ppm: i64,
    /// By how much `base_us` is ahead of the best estimate.
    ahead_us: u64,
    /// Error of the best estimate at `base_ms`; `None`: it is a guess, made of a wall clock.
    error_us: Option<u64>,
    /// The latest cluster time this node has recorded, in microseconds; 0 if it never did.
    floor_us: u64,
}

/// What a node keeps on disk of cluster time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRecord {
    /// Which boot of the machine it is of.
    pub boot: u64,
    /// Its monotonic clock.
    pub monotonic_ms: u64,
    /// Its wall clock.
    pub wall_ms: u64,
    /// Cluster time then, in microseconds.
    pub time_us: u64,
    /// Error of that.
    pub error_us: u64,
    /// Cluster time will not be beyond this before the next record is written.
    pub bound_us: u64,
}

/// The file: this, the six numbers of [`TimeRecord`], little-endian, then the CRC32 of all before it.
const MAGIC: [u8; 8] = *b"CASKTIM1";

impl TimeRecord {
    /// Returns the bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let Self { boot, monotonic_ms, wall_ms, time_us, error_us, bound_us } = *self;
        let mut bytes = MAGIC.to_vec();
        for number in [boot, monotonic_ms, wall_ms, time_us, error_us, bound_us] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the file; `None` if it is damaged or of another format.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (bytes, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(bytes) != u32::from_le_bytes(*crc) {
            return None;
        }
        let numbers = bytes.strip_prefix(&MAGIC)?.as_chunks::<8>();
        let (&[boot, monotonic_ms, wall_ms, time_us, error_us, bound_us], []) = numbers else { return None };
        let [boot, monotonic_ms, wall_ms, time_us, error_us, bound_us] =
            [boot, monotonic_ms, wall_ms, time_us, error_us, bound_us].map(u64::from_le_bytes);
        Some(Self { boot, monotonic_ms, wall_ms, time_us, error_us, bound_us })
    }
}

/// What a node says of its clocks when it asks for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeReport {
    /// Its estimate of cluster time, in microseconds.
    pub time_us: u64,
    /// Error of that; `None`: it is a guess.
    pub error_us: Option<u64>,
    /// The latest cluster time it has recorded, in microseconds; 0 if it never did.
    pub floor_us: u64,
    /// By how much its wall clock is ahead of its estimate, in milliseconds; `None` while that is a guess.
    pub offset_ms: Option<i64>,
}

impl ClusterClock {
    /// Returns the clock of a process that starts: as its node recorded it, by the monotonic clock if the machine is still
    /// up, else by the wall clock.
    pub fn restore(record: Option<&TimeRecord>, boot: u64, monotonic_ms: u64, wall_ms: u64) -> Self {
        let (base_us, error_us) = match record {
            Some(record) if boot != 0 && record.boot == boot && record.monotonic_ms <= monotonic_ms => {
                let passed_us = (monotonic_ms - record.monotonic_ms) * 1000;
                let error_us = record.error_us.saturating_add(share(passed_us, WANDER_PPM));
                (record.time_us.saturating_add(passed_us), Some(error_us))
            }
            Some(record) => match wall_ms.checked_sub(record.wall_ms) {
                Some(passed_ms) => (record.time_us.saturating_add(passed_ms.saturating_mul(1000)), None),
                // It was set back: no more is known than what was not exceeded.
                None => (record.bound_us, None),
            },
            None => (wall_ms.saturating_mul(1000), None),
        };
        let floor_us = record.map_or(0, |record| record.time_us);
        Self { base_us, base_ms: monotonic_ms, rate_ppm: 0, ahead_us: 0, error_us, floor_us }
    }

    /// Returns the estimate, in microseconds since 1970. Never less than one returned before.
    pub fn now_us(&self, monotonic_ms: u64) -> u64 {
        let passed_us = monotonic_ms.saturating_sub(self.base_ms) * 1000;
        let slewed_us = share(passed_us, self.rate_ppm.unsigned_abs());
        let passed = if self.rate_ppm < 0 { passed_us - slewed_us } else { passed_us + slewed_us };
        self.base_us.saturating_add(passed - self.caught_up_us(passed_us))
    }

    /// Returns the estimate, in milliseconds since 1970.
    pub fn now_ms(&self, monotonic_ms: u64) -> u64 {
        self.now_us(monotonic_ms) / 1000
    }

    /// How much of what it is ahead is worked off after such a time.
    fn caught_up_us(&self, passed_us: u64) -> u64 {
        self.ahead_us.min(passed_us / SLOWED)
    }

    /// Returns whether nobody told cluster time yet and none is remembered.
    pub fn is_guess(&self) -> bool {
        self.error_us.is_none()
    }

    /// Returns the error of the estimate, in microseconds; `None` while it is a guess.
    pub fn error_us(&self, monotonic_ms: u64) -> Option<u64> {
        let passed_us = monotonic_ms.saturating_sub(self.base_ms) * 1000;
        let left_us = self.ahead_us - self.caught_up_us(passed_us);
        self.error_us.map(|error| error.saturating_add(share(passed_us, WANDER_PPM)).saturating_add(left_us))
    }

    /// Makes `monotonic_ms` the moment everything is counted from.
    fn rebase(&mut self, monotonic_ms: u64) {
        if monotonic_ms <= self.base_ms {
            return;
        }
        let passed_us = (monotonic_ms - self.base_ms) * 1000;
        let (now_us, caught_up_us) = (self.now_us(monotonic_ms), self.caught_up_us(passed_us));
        self.error_us = self.error_us.map(|error| error.saturating_add(share(passed_us, WANDER_PPM)));
        (self.base_us, self.base_ms) = (now_us, monotonic_ms);
        self.ahead_us -= caught_up_us;
    }

    /// Moves the estimate to `time_us`: at once if it is a guess or behind, else by going slower.
    fn move_to(&mut self, time_us: u64) {
        let guess = self.error_us.is_none();
        (self.base_us, self.ahead_us) = match self.base_us.checked_sub(time_us) {
            Some(ahead_us) if !guess => (self.base_us, ahead_us),
            _ => (time_us, 0),
        };
    }

    /// Takes a sample (Cristian, "Probabilistic clock synchronization", 1989): the coordinator read `time_us` between
    /// `asked_ms` and `answered_ms` of this machine's monotonic clock. It counts if it is surer than the estimate, or proves it wrong.
    pub fn sample(&mut self, asked_ms: u64, answered_ms: u64, time_us: u64) {
        self.rebase(answered_ms);
        self.rate_ppm = 0;
        let half_us = answered_ms.saturating_sub(asked_ms) * 1000 / 2;
        let (sampled_us, error_us) = (time_us.saturating_add(half_us), half_us + READING_US);
        let estimate_us = self.base_us - self.ahead_us.min(self.base_us);
        let counts = match self.error_us {
            None => true,
            Some(known) => {
                error_us <= known || sampled_us.abs_diff(estimate_us) > error_us.saturating_add(known)
            }
        };
        if counts {
            self.move_to(sampled_us);
            self.error_us = Some(error_us);
        }
    }

    /// Makes this the clock that cluster time is read from: its node is the coordinator.
    pub fn lead(&mut self, monotonic_ms: u64, rate_ppm: i64) {
        self.rebase(monotonic_ms);
        // What it shows is what counts from now on, since others are given that. What it is ahead it goes on working off.
        self.error_us = Some(0);
        self.rate_ppm = rate_ppm.clamp(-SLEW_PPM_MAX, SLEW_PPM_MAX);
    }

    /// Sets the estimate of a coordinator to what it decided on; a step back only where it was a guess.
    fn decide(&mut self, monotonic_ms: u64, time_us: u64) {
        self.rebase(monotonic_ms);
        self.move_to(time_us);
        self.lead(monotonic_ms, 0);
    }

    /// Returns what its node reports when it asks for a lease.
    pub fn report(&self, monotonic_ms: u64, wall_ms: u64) -> TimeReport {
        let error_us = self.error_us(monotonic_ms);
        TimeReport {
            time_us: self.now_us(monotonic_ms),
            error_us,
            floor_us: self.floor_us,
            offset_ms: error_us.map(|_| offset_ms(wall_ms, self.now_ms(monotonic_ms))),
        }
    }

    /// Returns what is to be recorded now; `None` while the estimate is a guess.
    pub fn record(&mut self, boot: u64, monotonic_ms: u64, wall_ms: u64) -> Option<TimeRecord> {
        let (time_us, error_us) = (self.now_us(monotonic_ms), self.error_us(monotonic_ms)?);
        self.floor_us = time_us;
        let bound_us = time_us.saturating_add(BOUND_AHEAD_MS * 1000);
        Some(TimeRecord { boot, monotonic_ms, wall_ms, time_us, error_us, bound_us })
    }
}

/// So many millionths of a time.
fn share(us: u64, ppm: u64) -> u64 {
    us.saturating_mul(ppm) / 1_000_000
}

fn offset_ms(wall_ms: u64, cluster_ms: u64) -> i64 {
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    signed(wall_ms).saturating_sub(signed(cluster_ms))
}

/// Returns how fast cluster time is to be steered, in millionths, given by how many milliseconds the wall clocks are ahead
/// of it: towards the median, by as many millionths as that is milliseconds off. Of two medians the nearer one counts, and
/// none where they are on two sides.
pub fn slew_ppm(offsets_ms: &[i64]) -> i64 {
    let mut sorted = offsets_ms.to_vec();
    sorted.sort_unstable();
    let Some(last) = sorted.len().checked_sub(1) else { return 0 };
    let (Some(low), Some(high)) = (sorted.get(last / 2), sorted.get(last.div_ceil(2))) else { return 0 };
    0.clamp(*low, *high).clamp(-SLEW_PPM_MAX, SLEW_PPM_MAX)
}

/// Returns whether a wall clock that is ahead of cluster time by so much is wrong, given whether it was before.
pub fn is_wrong(offset_ms: i64, before: bool) -> bool {
    offset_ms.unsigned_abs() > if before { OFFSET_MS_FINE } else { OFFSET_MS_MAX }
}

/// What the coordinator of one term decides about cluster time.
#[derive(Debug)]
pub struct TimeKeeper {
    /// When it was elected, by its monotonic clock.
    since_ms: u64,
    decided: Option<Decided>,
    /// What each member reported, and when.
    reports: BTreeMap<NodeId, (u64, TimeReport)>,
}

/// What cluster time goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decided {
    /// From what a node remembered.
    Remembered,
    /// From wall clocks: nobody who was heard remembers.
    Guessed,
}

impl TimeKeeper {
    /// Creates the keeper of a coordinator elected now.
    pub fn new(now_ms: u64) -> Self {
        Self { since_ms: now_ms, decided: None, reports: BTreeMap::new() }
    }

    /// Notes what a member reported. Whoever calls makes sure that only members are noted.
    pub fn note(&mut self, node: NodeId, report: TimeReport, now_ms: u64) {
        self.reports.insert(node, (now_ms, report));
    }

    /// Returns cluster time for a lease that is granted now, in microseconds; `None` while it is not decided what it goes
    /// on from: the coordinator is not sure itself, and has not heard a majority of `voters` yet. It waits for those no longer
    /// than `patience_ms` after its election. `clock` is the coordinator's own.
    pub fn grant<'a>(
        &mut self,
        clock: &mut ClusterClock,
        voters: impl IntoIterator<Item = &'a NodeId>,
        patience_ms: u64,
        now_ms: u64,
    ) -> Option<u64> {
        if self.decided.is_none() {
            let (mut all, mut heard) = (0, 0);
            for voter in voters {
                all += 1;
                heard += usize::from(self.reports.contains_key(voter));
            }
            let sure = clock.error_us(now_ms).is_some_and(|error_us| error_us <= SURE_US);
            let waited = now_ms >= self.since_ms.saturating_add(patience_ms);
            if !sure && !waited && heard * 2 <= all {
                return None;
            }
            self.decided = Some(if sure { Decided::Remembered } else { self.decide(clock, now_ms) });
        }
        if self.decided == Some(Decided::Guessed)
            && let Some((time_us, _)) = self.surest(now_ms)
            && time_us > clock.now_us(now_ms).saturating_add(GUESS_STEP_US)
        {
            // Somebody remembers after all, and is ahead: what was written by that time must not seem new.
            clock.decide(now_ms, time_us);
            self.decided = Some(Decided::Remembered);
        }
        clock.lead(now_ms, slew_ppm(&self.offsets(now_ms)));
        Some(clock.now_us(now_ms))
    }

    /// The estimate with the least error among those reported, as of now, and that error.
    fn surest(&self, now_ms: u64) -> Option<(u64, u64)> {
        let known = self.reports.values().filter_map(|(heard_ms, report)| {
            let passed_us = now_ms.saturating_sub(*heard_ms) * 1000;
            Some((report.time_us.saturating_add(passed_us), report.error_us?))
        });
        known.min_by_key(|(time_us, error_us)| (*error_us, *time_us))
    }

    /// Sets the clock to what cluster time goes on from: the surest estimate that somebody remembers; else the median of what
    /// the wall clocks say, but not behind anything that was recorded.
    fn decide(&self, clock: &mut ClusterClock, now_ms: u64) -> Decided {
        let own = clock.error_us(now_ms).map(|error_us| (clock.now_us(now_ms), error_us));
        let surest = [own, self.surest(now_ms)].into_iter().flatten().min_by_key(|(_, error_us)| *error_us);
        if let Some((time_us, _)) = surest {
            clock.decide(now_ms, time_us);
            return Decided::Remembered;
        }
        let passed = |heard_ms: u64| now_ms.saturating_sub(heard_ms) * 1000;
        let told = self.reports.values().map(|(heard_ms, r)| r.time_us.saturating_add(passed(*heard_ms)));
        let mut guesses: Vec<u64> = told.collect();
        guesses.sort_unstable();
        let median = guesses.len().checked_sub(1).and_then(|last| guesses.get(last / 2).copied());
        let floors = self.reports.values().map(|(_, report)| report.floor_us);
        let floor = floors.chain([clock.floor_us]).max().unwrap_or(0);
        clock.decide(now_ms, median.unwrap_or_else(|| clock.now_us(now_ms)).max(floor));
        Decided::Guessed
    }

    /// By how much the wall clocks of those heard lately are ahead of cluster time.
    fn offsets(&self, now_ms: u64) -> Vec<i64> {
        let fresh = self.reports.values().filter(|(heard_ms, _)| heard_ms + REPORT_MS_MAX > now_ms);
        fresh.filter_map(|(_, report)| report.offset_ms).collect()
    }

    /// Forgets whoever is no member any more.
    pub fn retain(&mut self, is_member: impl Fn(&NodeId) -> bool) {
        self.reports.retain(|node, _| is_member(node));
    }
}

#[cfg(test)]
mod tests;
