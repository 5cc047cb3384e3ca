//! Cluster time: the clock against which expiries are compared. Pure: readings of clocks are arguments.
//!
//! [`ClusterClock`] is one node's estimate of cluster time, [`TimeKeeper`] makes the coordinator's decisions
//! about it. The rule, its error bound and the proof are in `docs/cluster-time.md`.
//!
//! Invariants: once set, an estimate never decreases, for any input. It advances by at least 1 - 1/[`SLOWED`]
//! of the machine's monotonic clock, less 500 ppm. It advances at most 500 ppm faster than that clock, except
//! for steps forward of at most its former error. A wall clock alone counts only if no node remembers cluster
//! time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// Maximal rate at which the coordinator steers cluster time towards the wall clocks, in millionths.
pub const SLEW_PPM_MAX: i64 = 500;
/// Growth of an estimate's error without samples, in millionths: the slew it misses, and as much for
/// different clocks.
const WANDER_PPM: u64 = 1_000;
/// An estimate that is ahead gives up one part in this many of the elapsed time, until it is right.
const SLOWED: u64 = 16;
/// Error of a sample besides the message delay, in microseconds: both sides read clocks in milliseconds.
const READING_US: u64 = 2_000;
/// Largest error with which a new coordinator continues with its own estimate, in microseconds.
const SURE_US: u64 = 250_000;
/// A coordinator that had to guess adopts another node's estimate that is ahead by more than this, in
/// microseconds.
const GUESS_STEP_US: u64 = 1_000_000;
/// Difference between a wall clock and cluster time above which operators are warned, in milliseconds.
pub const OFFSET_MS_MAX: u64 = 500;
/// Difference at which the warning ends, in milliseconds.
const OFFSET_MS_FINE: u64 = 400;
/// Distance of the recorded bound ahead of its cluster time, in milliseconds: twice the time between two
/// records.
pub const BOUND_AHEAD_MS: u64 = 4_000;
/// Age from which reports of wall clocks no longer steer, in milliseconds.
const REPORT_MS_MAX: u64 = 10_000;

/// One node's estimate of cluster time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterClock {
    /// Cluster time at `base_ms`, in microseconds since 1970.
    base_us: u64,
    /// The machine's monotonic clock at that moment, in milliseconds.
    base_ms: u64,
    /// Rate relative to the monotonic clock, in millionths, with which the coordinator steers.
    rate_ppm: i64,
    /// Distance of `base_us` ahead of the best estimate.
    ahead_us: u64,
    /// Error of the best estimate at `base_ms`; `None`: the estimate is a guess from a wall clock.
    error_us: Option<u64>,
    /// The latest cluster time that this node has recorded, in microseconds; 0 if it has no record.
    floor_us: u64,
    /// Whether the wall clock was behind the record at the start: it was set back since.
    set_back: bool,
}

/// A node's record of cluster time on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRecord {
    /// Id of the machine's boot at the time of the record.
    pub boot: u64,
    /// The machine's monotonic clock.
    pub monotonic_ms: u64,
    /// The machine's wall clock.
    pub wall_ms: u64,
    /// Cluster time at that moment, in microseconds.
    pub time_us: u64,
    /// Error of `time_us`, in microseconds.
    pub error_us: u64,
    /// Upper bound of cluster time before the next record is written, in microseconds.
    pub bound_us: u64,
}

/// Layout of the file: these bytes, the six numbers of [`TimeRecord`] in little-endian, the CRC32 of all of
/// them.
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

    /// Decodes the file; returns `None` if it is damaged or of another format.
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

/// A node's clock readings in a request for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeReport {
    /// The node's estimate of cluster time, in microseconds.
    pub time_us: u64,
    /// Error of the estimate; `None`: it is a guess.
    pub error_us: Option<u64>,
    /// The latest cluster time that the node has recorded, in microseconds; 0 if it has no record.
    pub floor_us: u64,
    /// Whether the node's wall clock was behind its record at the start: it was set back, so the guess is
    /// only the bound of the record.
    pub set_back: bool,
    /// Distance of the node's wall clock ahead of its estimate, in milliseconds; `None` while the estimate is
    /// a guess.
    pub offset_ms: Option<i64>,
}

impl ClusterClock {
    /// Returns the clock of a process that starts. It continues the node's record by the monotonic clock if
    /// the machine has not rebooted since, otherwise by the wall clock.
    pub fn restore(record: Option<&TimeRecord>, boot: u64, monotonic_ms: u64, wall_ms: u64) -> Self {
        let mut set_back = false;
        let (base_us, error_us) = match record {
            Some(record) if boot != 0 && record.boot == boot && record.monotonic_ms <= monotonic_ms => {
                let passed_us = (monotonic_ms - record.monotonic_ms) * 1000;
                let error_us = record.error_us.saturating_add(share(passed_us, WANDER_PPM));
                (record.time_us.saturating_add(passed_us), Some(error_us))
            }
            Some(record) => match wall_ms.checked_sub(record.wall_ms) {
                Some(passed_ms) => (record.time_us.saturating_add(passed_ms.saturating_mul(1000)), None),
                // The wall clock was set back: only the bound of the record is known.
                None => {
                    set_back = true;
                    (record.bound_us, None)
                }
            },
            None => (wall_ms.saturating_mul(1000), None),
        };
        let floor_us = record.map_or(0, |record| record.time_us);
        Self { base_us, base_ms: monotonic_ms, rate_ppm: 0, ahead_us: 0, error_us, floor_us, set_back }
    }

    /// Returns the estimate, in microseconds since 1970. It is never less than an earlier result.
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

    /// Returns how much of the excess is given up after this time.
    fn caught_up_us(&self, passed_us: u64) -> u64 {
        self.ahead_us.min(passed_us / SLOWED)
    }

    /// Returns whether this node has neither received cluster time yet nor remembers it.
    pub fn is_guess(&self) -> bool {
        self.error_us.is_none()
    }

    /// Returns the error of the estimate, in microseconds; `None` while it is a guess.
    pub fn error_us(&self, monotonic_ms: u64) -> Option<u64> {
        let passed_us = monotonic_ms.saturating_sub(self.base_ms) * 1000;
        let left_us = self.ahead_us - self.caught_up_us(passed_us);
        self.error_us.map(|error| error.saturating_add(share(passed_us, WANDER_PPM)).saturating_add(left_us))
    }

    /// Moves the base of the estimate to `monotonic_ms`.
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

    /// Moves the estimate to `time_us`: immediately if it is a guess or behind, otherwise by slowing down.
    fn move_to(&mut self, time_us: u64) {
        let guess = self.error_us.is_none();
        (self.base_us, self.ahead_us) = match self.base_us.checked_sub(time_us) {
            Some(ahead_us) if !guess => (self.base_us, ahead_us),
            _ => (time_us, 0),
        };
    }

    /// Returns whether this node knows cluster time and has no record of it yet.
    pub fn lacks_record(&self) -> bool {
        self.floor_us == 0 && !self.is_guess()
    }

    /// Processes a sample (Cristian, "Probabilistic clock synchronization", 1989): the coordinator read
    /// `time_us` between `asked_ms` and `answered_ms` of this machine's monotonic clock. The sample counts if
    /// its error is at most that of the estimate, or if it proves the estimate wrong.
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

    /// Makes this clock the source of cluster time: its node is the coordinator.
    pub fn lead(&mut self, monotonic_ms: u64, rate_ppm: i64) {
        self.rebase(monotonic_ms);
        // The shown time is valid from now on, because other nodes receive it. An excess is still given up.
        self.error_us = Some(0);
        self.rate_ppm = rate_ppm.clamp(-SLEW_PPM_MAX, SLEW_PPM_MAX);
    }

    /// Sets the estimate of a coordinator to its decision; a step back is possible only if the estimate was a
    /// guess.
    fn decide(&mut self, monotonic_ms: u64, time_us: u64) {
        self.rebase(monotonic_ms);
        self.move_to(time_us);
        self.lead(monotonic_ms, 0);
    }

    /// Returns the node's report for its request for a lease.
    pub fn report(&self, monotonic_ms: u64, wall_ms: u64) -> TimeReport {
        let error_us = self.error_us(monotonic_ms);
        TimeReport {
            time_us: self.now_us(monotonic_ms),
            error_us,
            floor_us: self.floor_us,
            set_back: self.set_back,
            offset_ms: error_us.map(|_| offset_ms(wall_ms, self.now_ms(monotonic_ms))),
        }
    }

    /// Returns the record to write now; `None` while the estimate is a guess.
    pub fn record(&mut self, boot: u64, monotonic_ms: u64, wall_ms: u64) -> Option<TimeRecord> {
        let (time_us, error_us) = (self.now_us(monotonic_ms), self.error_us(monotonic_ms)?);
        self.floor_us = time_us;
        let bound_us = time_us.saturating_add(BOUND_AHEAD_MS * 1000);
        Some(TimeRecord { boot, monotonic_ms, wall_ms, time_us, error_us, bound_us })
    }
}

/// Returns this many millionths of a time.
fn share(us: u64, ppm: u64) -> u64 {
    us.saturating_mul(ppm) / 1_000_000
}

fn offset_ms(wall_ms: u64, cluster_ms: u64) -> i64 {
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    signed(wall_ms).saturating_sub(signed(cluster_ms))
}

/// Returns the rate at which to steer cluster time, in millionths, given by how many milliseconds each wall
/// clock is ahead of it. The rate is the median of these offsets, one millionth per millisecond, at most
/// [`SLEW_PPM_MAX`]. With two medians the nearer one counts, and if one is ahead and one behind, the rate is
/// 0.
pub fn slew_ppm(offsets_ms: &[i64]) -> i64 {
    let mut sorted = offsets_ms.to_vec();
    sorted.sort_unstable();
    let Some(last) = sorted.len().checked_sub(1) else { return 0 };
    let (Some(low), Some(high)) = (sorted.get(last / 2), sorted.get(last.div_ceil(2))) else { return 0 };
    0.clamp(*low, *high).clamp(-SLEW_PPM_MAX, SLEW_PPM_MAX)
}

/// Returns whether a wall clock with this offset is wrong, given whether it was wrong before.
pub fn is_wrong(offset_ms: i64, before: bool) -> bool {
    offset_ms.unsigned_abs() > if before { OFFSET_MS_FINE } else { OFFSET_MS_MAX }
}

/// The decisions of one term's coordinator about cluster time.
#[derive(Debug)]
pub struct TimeKeeper {
    /// The coordinator's monotonic clock at its election, in milliseconds.
    since_ms: u64,
    decided: Option<Decided>,
    /// The last report of each member, and the time of its arrival.
    reports: BTreeMap<NodeId, (u64, TimeReport)>,
}

/// The origin of cluster time in this term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decided {
    /// An estimate that a node remembered.
    Remembered,
    /// Wall clocks: no reporting node remembers cluster time.
    Guessed,
}

impl TimeKeeper {
    /// Creates the keeper of a coordinator elected now.
    pub fn new(now_ms: u64) -> Self {
        Self { since_ms: now_ms, decided: None, reports: BTreeMap::new() }
    }

    /// Records a member's report. The caller must pass only reports of members.
    pub fn note(&mut self, node: NodeId, report: TimeReport, now_ms: u64) {
        self.reports.insert(node, (now_ms, report));
    }

    /// Returns cluster time for a lease that is granted now, in microseconds.
    ///
    /// `None` while the origin is undecided: the coordinator's own estimate is uncertain, and fewer than a
    /// majority of `voters` have reported. It waits for them for at most `patience_ms` after its election.
    /// `clock` is the coordinator's.
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
            // A node remembers after all, and is ahead: data written by that time must not seem new.
            clock.decide(now_ms, time_us);
            self.decided = Some(Decided::Remembered);
        }
        clock.lead(now_ms, slew_ppm(&self.offsets(now_ms)));
        Some(clock.now_us(now_ms))
    }

    /// Returns the reported estimate with the least error, as of now, and that error.
    fn surest(&self, now_ms: u64) -> Option<(u64, u64)> {
        let known = self.reports.values().filter_map(|(heard_ms, report)| {
            let passed_us = now_ms.saturating_sub(*heard_ms) * 1000;
            Some((report.time_us.saturating_add(passed_us), report.error_us?))
        });
        known.min_by_key(|(time_us, error_us)| (*error_us, *time_us))
    }

    /// Sets the clock to the origin of cluster time: the remembered estimate with the least error. If no node
    /// remembers: the median of the best guesses, but at least the latest recorded cluster time. The best
    /// guesses are what wall clocks add to records, then the bounds of records whose wall clock was set back,
    /// then wall clocks of nodes without a record.
    fn decide(&self, clock: &mut ClusterClock, now_ms: u64) -> Decided {
        let own = clock.error_us(now_ms).map(|error_us| (clock.now_us(now_ms), error_us));
        let surest = [own, self.surest(now_ms)].into_iter().flatten().min_by_key(|(_, error_us)| *error_us);
        if let Some((time_us, _)) = surest {
            clock.decide(now_ms, time_us);
            return Decided::Remembered;
        }
        let passed = |heard_ms: u64| now_ms.saturating_sub(heard_ms) * 1000;
        let rank = |report: &TimeReport| (report.floor_us == 0, report.set_back);
        let best = self.reports.values().map(|(_, report)| rank(report)).min();
        let counted = self.reports.values().filter(|(_, report)| Some(rank(report)) == best);
        let mut guesses: Vec<u64> =
            counted.map(|(heard_ms, report)| report.time_us.saturating_add(passed(*heard_ms))).collect();
        guesses.sort_unstable();
        let median = guesses.len().checked_sub(1).and_then(|last| guesses.get(last / 2).copied());
        let floors = self.reports.values().map(|(_, report)| report.floor_us);
        let floor = floors.chain([clock.floor_us]).max().unwrap_or(0);
        clock.decide(now_ms, median.unwrap_or_else(|| clock.now_us(now_ms)).max(floor));
        Decided::Guessed
    }

    /// Returns by how much the wall clocks of recent reports are ahead of cluster time, in milliseconds.
    fn offsets(&self, now_ms: u64) -> Vec<i64> {
        let fresh = self.reports.values().filter(|(heard_ms, _)| heard_ms + REPORT_MS_MAX > now_ms);
        fresh.filter_map(|(_, report)| report.offset_ms).collect()
    }

    /// Removes the reports of nodes that are no longer members.
    pub fn retain(&mut self, is_member: impl Fn(&NodeId) -> bool) {
        self.reports.retain(|node, _| is_member(node));
    }
}

#[cfg(test)]
mod tests;
