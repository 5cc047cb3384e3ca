//! Free space of the data directory's file system: the two marks, the resulting state, and the trend.
//!
//! Pure: sizes and times are arguments. Invariants: the state gets worse at a mark, and better only an eighth
//! above it (hysteresis), so that a disk at a mark does not change its state with every write. The minimum is
//! never above the low mark, unless the low mark is off. A mark of 0 bytes is off.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Hysteresis: the state improves when the free space is a mark plus the mark divided by this.
const HYSTERESIS_PARTS: u64 = 8;
/// The disk counts as full below the minimum divided by this.
const RESERVE_PARTS: u64 = 2;
/// Free bytes with which a full disk stops being full, if the marks are off.
const ROOM_BYTES: u64 = 1 << 20;
/// Bounds of a minimum that is computed from the size of the file system.
const MINIMUM_BYTES: (u64, u64) = (64 << 20, 2 << 30);
/// Upper bound of a low mark that is computed from the size of the file system.
const LOW_BYTES_MAX: u64 = 10 << 30;
/// Divisor of a small file system's size, in the lower bound of its computed minimum.
const TINY_PARTS: u64 = 8;

/// A mark as the settings give it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// Computed from the size of the file system.
    #[default]
    Auto,
    /// Given in free bytes; 0: off.
    Bytes(u64),
}

/// The marks of one file system, in free bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Below this the node warns, and merges run without window and rate.
    pub low: u64,
    /// Below this writes that add data are refused.
    pub minimum: u64,
}

impl Marks {
    /// Returns the marks of a file system of `total` bytes.
    ///
    /// A computed minimum is 3 % of it, from 64 MiB (an eighth of a smaller file system) to 2 GiB; a computed
    /// low mark is 10 % of it, from twice the minimum to 10 GiB.
    pub fn of(low: Mark, minimum: Mark, total: u64) -> Self {
        let (floor, ceiling) = MINIMUM_BYTES;
        let minimum = match minimum {
            Mark::Bytes(bytes) => bytes,
            Mark::Auto => (total / 100 * 3).clamp(floor.min(total / TINY_PARTS), ceiling),
        };
        let low = match low {
            Mark::Bytes(bytes) => bytes,
            Mark::Auto => (total / 10).min(LOW_BYTES_MAX).max(minimum.saturating_mul(2)),
        };
        // A low mark that is off stays off.
        Self { low: if low == 0 { 0 } else { low.max(minimum) }, minimum }
    }
}

/// State of a node's file system by its free space. Ordered: worse is greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum DiskState {
    /// More than the low mark is free.
    #[default]
    Ok = 0,
    /// Less than the low mark is free.
    Low = 1,
    /// Less than the minimum is free: writes that add data are refused.
    Minimum = 2,
    /// A write found no space, or less than half of the minimum is free.
    Full = 3,
}

impl DiskState {
    /// Returns its name in answers and messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Low => "low",
            Self::Minimum => "minimum",
            Self::Full => "full",
        }
    }

    /// Returns the state of this name.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Ok, Self::Low, Self::Minimum, Self::Full].into_iter().find(|state| state.word() == word)
    }

    /// Returns the state of this byte, as acknowledgements carry it.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Ok, Self::Low, Self::Minimum, Self::Full].into_iter().find(|state| *state as u8 == byte)
    }

    /// Returns whether the node refuses writes that add data.
    pub fn refuses(self) -> bool {
        self >= Self::Minimum
    }

    /// Returns the state after `free` bytes were measured.
    pub fn next(self, marks: Marks, free: u64) -> Self {
        let full = match marks.minimum {
            0 if self == Self::Full => ROOM_BYTES,
            minimum => minimum / RESERVE_PARTS,
        };
        let is_in = |state: Self, mark: u64| {
            let leaves = mark.saturating_add(mark / HYSTERESIS_PARTS);
            free < if self >= state { leaves } else { mark }
        };
        if is_in(Self::Full, full) {
            Self::Full
        } else if is_in(Self::Minimum, marks.minimum) {
            Self::Minimum
        } else if is_in(Self::Low, marks.low) {
            Self::Low
        } else {
            Self::Ok
        }
    }
}

impl fmt::Display for DiskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Time between two samples of the trend, and how many are kept: two hours.
const SAMPLE_MS: u64 = 300_000;
const SAMPLES_MAX: usize = 25;
/// Shortest time that a trend is computed from.
const TREND_MS_MIN: u64 = 60_000;
const DAY_MS: f64 = 86_400_000.0;

/// How the free space changed over the last two hours.
#[derive(Debug, Default)]
pub struct Trend {
    /// When, and how much was free; oldest first.
    samples: VecDeque<(u64, u64)>,
}

impl Trend {
    /// Takes a measurement, made at `now_ms`.
    pub fn note(&mut self, now_ms: u64, free: u64) {
        if self.samples.back().is_none_or(|(at, _)| now_ms >= at + SAMPLE_MS) {
            if self.samples.len() >= SAMPLES_MAX {
                self.samples.pop_front();
            }
            self.samples.push_back((now_ms, free));
        }
    }

    /// Returns the days until `free` bytes shrink to `floor` at the rate since the oldest sample. `None` if
    /// they do not shrink, or the oldest sample is younger than `TREND_MS_MIN`.
    pub fn days_left(&self, now_ms: u64, free: u64, floor: u64) -> Option<f64> {
        let (then_ms, then) = *self.samples.front()?;
        let elapsed_ms = now_ms.saturating_sub(then_ms);
        let used = then.checked_sub(free).filter(|used| *used > 0)?;
        (elapsed_ms >= TREND_MS_MIN)
            .then(|| free.saturating_sub(floor) as f64 / used as f64 * elapsed_ms as f64 / DAY_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    const MARKS: Marks = Marks { low: 800, minimum: 400 };

    fn auto(total: u64) -> Marks {
        Marks::of(Mark::Auto, Mark::Auto, total)
    }

    #[test]
    fn computed_marks_fit_small_and_large_disks() {
        assert_eq!(auto(64 * MIB), Marks { low: 16 * MIB, minimum: 8 * MIB });
        assert_eq!(auto(GIB), Marks { low: 128 * MIB, minimum: 64 * MIB });
        let ten = auto(10 * GIB);
        assert!((300 * MIB..310 * MIB).contains(&ten.minimum) && ten.low == GIB, "{ten:?}");
        assert_eq!(auto(1000 * GIB), Marks { low: 10 * GIB, minimum: 2 * GIB });
        assert_eq!(auto(0), Marks::default(), "an unknown size has no marks");
    }

    #[test]
    fn given_marks_hold_and_zero_is_off() {
        let given = Marks::of(Mark::Bytes(50), Mark::Bytes(20), GIB);
        assert_eq!(given, Marks { low: 50, minimum: 20 });
        assert_eq!(
            Marks::of(Mark::Bytes(10), Mark::Bytes(20), GIB).low,
            20,
            "low is never below the minimum"
        );
        assert_eq!(Marks::of(Mark::Bytes(0), Mark::Bytes(20), GIB), Marks { low: 0, minimum: 20 });
        let off = Marks::of(Mark::Bytes(0), Mark::Bytes(0), GIB);
        assert_eq!(DiskState::Ok.next(off, 0), DiskState::Ok);
        assert_eq!(DiskState::Full.next(off, 0), DiskState::Full, "a write found no space");
        assert_eq!(DiskState::Full.next(off, 2 * MIB), DiskState::Ok);
    }

    #[test]
    fn state_gets_worse_at_a_mark_and_better_above_it() {
        use DiskState::{Full, Low, Minimum, Ok};
        for (before, free, after) in [
            (Ok, 800, Ok),
            (Ok, 799, Low),
            (Low, 899, Low),
            (Low, 900, Ok),
            (Low, 400, Low),
            (Low, 399, Minimum),
            (Ok, 399, Minimum),
            (Minimum, 449, Minimum),
            (Minimum, 450, Low),
            (Minimum, 200, Minimum),
            (Minimum, 199, Full),
            (Full, 224, Full),
            (Full, 225, Minimum),
            (Full, 5000, Ok),
        ] {
            assert_eq!(before.next(MARKS, free), after, "{before:?} with {free} bytes free");
        }
    }

    #[test]
    fn words_and_bytes_name_every_state() {
        for state in [DiskState::Ok, DiskState::Low, DiskState::Minimum, DiskState::Full] {
            assert_eq!(DiskState::from_word(state.word()), Some(state));
            assert_eq!(DiskState::from_byte(state as u8), Some(state));
        }
        assert_eq!((DiskState::from_byte(9), DiskState::from_word("")), (None, None));
        assert!(DiskState::Minimum.refuses() && !DiskState::Low.refuses());
    }

    #[test]
    fn days_left_follow_from_the_rate_of_the_last_hours() {
        let mut trend = Trend::default();
        assert_eq!(trend.days_left(0, 100, 0), None);
        trend.note(0, 1000);
        assert_eq!(trend.days_left(1000, 900, 0), None, "too short a time");
        // 100 bytes in a tenth of a day: the 500 above the floor last half a day.
        assert_eq!(trend.days_left(8_640_000, 900, 400), Some(0.5));
        assert_eq!(trend.days_left(8_640_000, 1200, 400), None, "the free space grows");
        (0..100).for_each(|n| trend.note(n * SAMPLE_MS, 1000));
        assert_eq!(trend.samples.len(), SAMPLES_MAX);
    }
}
