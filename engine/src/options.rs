//! Options that an owner can set, each with its unit, default and bounds.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

pub use crate::budget::Budget;
pub use crate::failure::OnFailure;

/// The moment at which an append is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// After fdatasync, which all waiting appends share. A power failure loses nothing that was acknowledged.
    #[default]
    Always,
    /// After the operating system has the bytes; fdatasync follows within this many milliseconds (1 to
    /// 60,000). A killed process loses nothing; a power failure loses the appends since the last sync.
    Interval(u64),
    /// After the operating system has the bytes. The operating system decides when to sync; rotation and
    /// closing sync too. A killed process loses nothing; a power failure may lose much.
    Never,
}

impl fmt::Display for SyncPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Interval(ms) => write!(f, "interval:{ms}"),
            Self::Never => f.write_str("never"),
        }
    }
}

/// Error of a text that names no sync policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a sync policy; give always, interval:MILLISECONDS or never")]
pub struct BadSyncPolicy(String);

impl FromStr for SyncPolicy {
    type Err = BadSyncPolicy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadSyncPolicy(text.to_owned());
        match text {
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => {
                let ms = text.strip_prefix("interval:").ok_or_else(bad)?;
                ms.parse().map(Self::Interval).map_err(|_| bad())
            }
        }
    }
}

/// Structures kept in memory to find keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Index {
    /// The place of each key's record, by a hash of the key: about 29 bytes a key, whatever its length.
    #[default]
    Hash,
    /// The hash index, and the live keys in order for [`Engine::range`](crate::Engine::range) and
    /// [`Engine::prefix`](crate::Engine::prefix): for each key about 42 bytes more, and the key itself.
    Ordered,
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hash => "hash",
            Self::Ordered => "ordered",
        })
    }
}

/// Error of a text that names no index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an index; give hash or ordered")]
pub struct BadIndex(String);

impl FromStr for Index {
    type Err = BadIndex;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "hash" => Ok(Self::Hash),
            "ordered" => Ok(Self::Ordered),
            _ => Err(BadIndex(text.to_owned())),
        }
    }
}

/// Options of an open store. Create them with [`Options::new`] and change individual fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Directory of the store; created if it does not exist.
    pub path: PathBuf,
    /// Size in bytes at which the log begins a new data file. Default 256 MiB; 64 KiB to 2 GiB.
    pub max_file_size: u64,
    /// The moment at which an append is acknowledged. Default [`SyncPolicy::Always`].
    pub sync: SyncPolicy,
    /// Longest accepted value in bytes. Default 64 MiB; 1 B to 512 MiB.
    pub max_value_bytes: u32,
    /// Sealed data files kept open at once; the least recently used one is closed first. Default 256; 1 to
    /// 65,536.
    pub max_open_files: usize,
    /// Bytes that may wait for the log, counting 256 B of overhead an append. Default 128 MiB; from
    /// `max_value_bytes` + 1 MiB to 1 GiB. Above it [`replicated::Store::append`] refuses; calls that wait
    /// for durability anyway wait for room.
    ///
    /// [`replicated::Store::append`]: crate::replicated::Store::append
    pub append_buffer_bytes: usize,
    /// Structures kept in memory to find keys; may differ between openings. Default [`Index::Hash`].
    pub index: Index,
    /// Whether the engine reads sealed files through memory mappings, where the file system supports this.
    /// Unless `sync` is `always`, it also writes the active file through one. Default true. Installs a SIGBUS
    /// handler, so that a file that was cut or cannot be read causes an error; the handler passes on all
    /// other faults.
    pub map_files: bool,
    /// Whether a thread of the engine writes hint files and merges. Default true. If false, only
    /// [`Engine::run_once`](crate::Engine::run_once) does this.
    pub background: bool,
    /// Whether a thread of the engine commits queued appends, or syncs at the interval. Default true. If
    /// false, only [`replicated::Store::commit_appends`] or [`replicated::Store::sync`] does this: for owners
    /// that decide the order of all events, such as a simulation.
    ///
    /// [`replicated::Store::commit_appends`]: crate::replicated::Store::commit_appends
    /// [`replicated::Store::sync`]: crate::replicated::Store::sync
    pub log_thread: bool,
    /// Percentage of dead bytes from which a sealed file is merged. Default 25; 1 to 100.
    pub merge_trigger: u8,
    /// Dead bytes from which a sealed file is merged, whatever their share. Default 128 MiB; from 1.
    pub merge_trigger_bytes: u64,
    /// Size in bytes below which sealed files are merged with one another; such a file must also be below
    /// half of `max_file_size`. Default 8 MiB; from 0, which means never.
    pub merge_small_file: u64,
    /// The times at which merges may run. Default [`MergeWindow::Always`].
    pub merge_window: MergeWindow,
    /// Free bytes of the file system below which space is low. Merges then run outside their window and above
    /// their budget. Besides the due files, they take every file of which a twentieth is dead. Files that
    /// free the most space for the least copying are merged first. Space stays low until a quarter more than
    /// this is free. Default 1 GiB, and at most a twentieth of the file system. 0: the engine does not check;
    /// its owner calls [`Store::set_space_low`](crate::replicated::Store::set_space_low).
    pub low_free_bytes: u64,
    /// Bytes of the file `reserve` in the store's directory. The engine allocates it while there is room.
    /// When the disk is full, the engine cuts it for deletions, dropped partitions and merges. So these can
    /// free space although other programs filled the disk. Default 16 MiB, and at most a 64th of the file
    /// system; 0: no reserve.
    pub reserve_bytes: u64,
    /// Bytes a second that merges may read and write: a handle that other background work can share, and that
    /// can be changed at any time. Default: no limit.
    pub budget: Budget,
    /// Called when a thread of the store ends by a panic, or when a callback of an append panics. Default: no
    /// call; the panic is only logged.
    pub on_failure: OnFailure,
}

/// The times at which merges may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MergeWindow {
    /// At any time.
    #[default]
    Always,
    /// Only when [`Engine::merge`](crate::Engine::merge) is called.
    Never,
    /// From the first of these minutes of the day (inclusive) to the second (exclusive), in UTC; past
    /// midnight if the second is lower.
    Daily(u16, u16),
}

/// Minutes in a day.
const DAY_MINUTES: u16 = 24 * 60;

impl MergeWindow {
    /// Returns whether this time, in milliseconds since 1970, is in the window.
    pub(crate) fn contains(self, now_ms: u64) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Daily(from, to) => {
                let minute = (now_ms / 60_000 % u64::from(DAY_MINUTES)) as u16;
                if from <= to { (from..to).contains(&minute) } else { !(to..from).contains(&minute) }
            }
        }
    }
}

impl fmt::Display for MergeWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Never => f.write_str("never"),
            Self::Daily(from, to) => {
                write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
            }
        }
    }
}

/// Error of a text that names no merge window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a merge window; give always, never or two times of the day in UTC, as in 01:30-05:00")]
pub struct BadMergeWindow(String);

impl FromStr for MergeWindow {
    type Err = BadMergeWindow;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let minute = |text: &str| {
            let (hours, minutes) = text.split_once(':')?;
            let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
            (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
        };
        let daily = || {
            let (from, to) = text.split_once('-')?;
            Some(Self::Daily(minute(from)?, minute(to)?)).filter(|window| *window != Self::Daily(0, 0))
        };
        match text {
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => daily().ok_or_else(|| BadMergeWindow(text.to_owned())),
        }
    }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Bytes that must fit the append buffer besides the longest value.
const BUFFER_ROOM: u64 = MIB;

impl Options {
    /// Returns the default options, for the store in this directory.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            max_file_size: 256 * MIB,
            sync: SyncPolicy::Always,
            max_value_bytes: 64 * MIB as u32,
            max_open_files: 256,
            append_buffer_bytes: 128 * MIB as usize,
            index: Index::Hash,
            map_files: true,
            background: true,
            log_thread: true,
            merge_trigger: 25,
            merge_trigger_bytes: 128 * MIB,
            merge_small_file: 8 * MIB,
            merge_window: MergeWindow::Always,
            low_free_bytes: 1024 * MIB,
            reserve_bytes: 16 * MIB,
            budget: Budget::default(),
            on_failure: OnFailure::default(),
        }
    }

    /// Checks all bounds; returns every problem found.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        let mut bound = |name: &str, value: u64, min: u64, max: u64| {
            if !(min..=max).contains(&value) {
                problems.push(format!("{name} is {value}; it must be {min} to {max}"));
            }
        };
        bound("max_file_size", self.max_file_size, 64 * KIB, 2048 * MIB);
        bound("max_value_bytes", self.max_value_bytes.into(), 1, 512 * MIB);
        bound("merge_trigger in percent", self.merge_trigger.into(), 1, 100);
        bound("merge_trigger_bytes", self.merge_trigger_bytes, 1, u64::MAX);
        bound("reserve_bytes", self.reserve_bytes, 0, 1024 * MIB);
        bound("max_open_files", self.max_open_files as u64, 1, 65_536);
        let buffer_min = u64::from(self.max_value_bytes) + BUFFER_ROOM;
        bound("append_buffer_bytes", self.append_buffer_bytes as u64, buffer_min, 1024 * MIB);
        if let SyncPolicy::Interval(ms) = self.sync {
            bound("sync interval in milliseconds", ms, 1, 60_000);
        }
        if let MergeWindow::Daily(from, to) = self.merge_window
            && (from == to || from.max(to) >= DAY_MINUTES)
        {
            problems.push(format!(
                "merge_window is from minute {from} to minute {to}; they must differ and be below {DAY_MINUTES}"
            ));
        }
        if self.path.as_os_str().is_empty() {
            problems.push("path is empty; name the store's directory".to_owned());
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_within_bounds() {
        assert_eq!(Options::new("x").validate(), Ok(()));
    }

    #[test]
    fn validation_reports_all_problems_at_once() {
        let options = Options {
            max_file_size: 1,
            max_open_files: 0,
            sync: SyncPolicy::Interval(0),
            append_buffer_bytes: 5,
            merge_trigger: 101,
            merge_window: MergeWindow::Daily(7, 7),
            ..Options::new("")
        };
        assert_eq!(options.validate().unwrap_err().len(), 7);
    }

    #[test]
    fn merge_window_reads_what_it_writes_and_knows_its_times() {
        for text in ["always", "never", "01:30-05:00", "22:00-04:05"] {
            assert_eq!(text.parse::<MergeWindow>().unwrap().to_string(), text);
        }
        for text in ["", "1-2", "24:00-01:00", "01:60-02:00", "00:00-00:00", "01:00"] {
            assert!(text.parse::<MergeWindow>().is_err(), "{text}");
        }
        let at = |hours: u64, minutes: u64| (100 * 24 * 60 + hours * 60 + minutes) * 60_000;
        let night = MergeWindow::Daily(22 * 60, 4 * 60);
        assert!(night.contains(at(23, 0)) && night.contains(at(3, 59)) && night.contains(at(22, 0)));
        assert!(!night.contains(at(4, 0)) && !night.contains(at(12, 0)));
        assert!(!MergeWindow::Daily(60, 120).contains(at(2, 0)));
    }

    #[test]
    fn sync_policy_reads_what_it_writes() {
        for policy in [SyncPolicy::Always, SyncPolicy::Interval(20), SyncPolicy::Never] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert!("interval:".parse::<SyncPolicy>().is_err());
    }

    #[test]
    fn index_reads_what_it_writes() {
        for index in [Index::Hash, Index::Ordered] {
            assert_eq!(index.to_string().parse(), Ok(index));
        }
        assert!("Ordered".parse::<Index>().is_err());
    }
}
