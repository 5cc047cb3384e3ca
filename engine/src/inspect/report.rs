//! The result of an inspection, and the errors that prevent one.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{IoError, OpenError, SnapshotError};
use crate::format::FileKind;
use crate::progress::Progress;
use crate::recovery::{QUARANTINED_LISTED_MAX, Quarantined};

/// Options of an inspection.
#[derive(Clone, Debug, Default)]
pub struct InspectOptions {
    /// Whether to read all data files and to compare every checksum, and every hint file with its data file.
    /// Default false: hint files are trusted, and only data files without one are read.
    pub verify: bool,
    /// Progress in bytes of data files read.
    pub progress: Arc<Progress>,
}

/// Result of an inspection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// The directory.
    pub path: PathBuf,
    /// Whether the directory is a snapshot.
    pub snapshot: bool,
    /// Whether all data files were read.
    pub verified: bool,
    /// Reason why the store cannot be opened at all, or the snapshot not be restored.
    pub refusal: Option<String>,
    /// The data files, by id.
    pub files: Vec<FileInspection>,
    /// Figures of all files together.
    pub totals: RecordStats,
    /// Highest version of any record.
    pub highest_version: u64,
    /// Number of partitions that were dropped at least once. Their remaining records are dead. If the eras
    /// file cannot be read (see `refusal`), no record counts as dropped.
    pub partitions_dropped: u64,
    /// Unneeded files that opening the store removes.
    pub leftovers: Vec<String>,
    /// Stretches that should hold records and do not: the first 10,000.
    pub damage: Vec<Damage>,
    /// Number of all such stretches.
    pub damage_total: u64,
    /// Whether opening the store would find damage; otherwise only reading it does.
    pub opens_damaged: bool,
}

impl Inspection {
    /// Returns whether written data cannot be read back, or the store cannot be opened.
    pub fn is_damaged(&self) -> bool {
        self.damage_total > 0 || self.refusal.is_some() || self.files.iter().any(|file| file.hint.misleads())
    }

    pub(super) fn add_damage(&mut self, damage: Vec<Damage>, total: u64, at_open: bool) {
        self.opens_damaged |= at_open && total > 0;
        self.damage_total += total;
        let room = QUARANTINED_LISTED_MAX.saturating_sub(self.damage.len());
        self.damage.extend(damage.into_iter().take(room));
    }
}

/// The writer of a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFileKind {
    /// Appends.
    Log,
    /// Appends; later appends would continue in this file.
    ActiveLog,
    /// A merge.
    Merged,
    /// Unknown: the header cannot be read.
    Unknown,
}

/// One data file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInspection {
    /// Id of the file.
    pub id: u64,
    /// Path of the file.
    pub path: PathBuf,
    /// The writer of the file.
    pub kind: DataFileKind,
    /// Figures of its records.
    pub records: RecordStats,
    /// Bytes of the file on disk, including preallocated ones.
    pub file_bytes: u64,
    /// Bytes after the last whole record, without trailing zeros, that opening the store cuts: appends that
    /// were never acknowledged under `sync = always`.
    pub torn_bytes: u64,
    /// State of its hint file.
    pub hint: HintState,
    /// Number of damaged stretches in it.
    pub damaged: u64,
}

/// Figures of one data file, or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordStats {
    /// Bytes up to the end of the last record.
    pub bytes: u64,
    /// Number of values and tombstones, including those in batches.
    pub records: u64,
    /// Number of records with a value.
    pub values: u64,
    /// Number of tombstones.
    pub tombstones: u64,
    /// Number of atomic batches; `None` if a hint file was trusted.
    pub batches: Option<u64>,
    /// Number of values that are their key's newest record.
    pub live_records: u64,
    /// Bytes of the live records.
    pub live_bytes: u64,
    /// Number of tombstones that are their key's newest record.
    pub newest_tombstones: u64,
    /// Bytes of the newest tombstones.
    pub newest_tombstone_bytes: u64,
    /// All other bytes, without the header and the end mark of each file.
    pub dead_bytes: u64,
}

impl RecordStats {
    /// Returns the percentage of dead bytes.
    pub fn dead_percent(&self) -> f64 {
        self.dead_bytes as f64 * 100.0 / self.bytes.max(1) as f64
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.records += other.records;
        self.values += other.values;
        self.tombstones += other.tombstones;
        self.batches = self.batches.zip(other.batches).map(|(a, b)| a + b);
        self.live_records += other.live_records;
        self.live_bytes += other.live_bytes;
        self.newest_tombstones += other.newest_tombstones;
        self.newest_tombstone_bytes += other.newest_tombstone_bytes;
        self.dead_bytes += other.dead_bytes;
    }
}

/// State of a data file's hint file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HintState {
    /// The file needs no hint: it is the active one, or cannot be read.
    Unneeded,
    /// The hint is valid, as far as it was checked.
    Good,
    /// The hint is missing: opening the store reads the data file and writes one.
    Missing,
    /// The hint is unusable, for this reason: opening the store detects this, reads the data file and writes
    /// another.
    Unusable(String),
    /// The hint does not match the data file, and nothing in it shows this: the store would trust it. After
    /// its removal, opening the store writes another.
    Misleading,
}

impl HintState {
    fn misleads(&self) -> bool {
        *self == Self::Misleading
    }
}

/// A stretch of a data file whose bytes are not those written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Place of the stretch, and a description of the damage.
    pub stretch: Quarantined,
    /// Keys whose records are in it, as far as they are known: the first 100.
    pub keys: Vec<DamagedKey>,
}

/// A key whose record is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedKey {
    /// The key.
    pub key: Bytes,
    /// Whether the hint file names the key; otherwise it is the key that the damaged record appears to have.
    pub certain: bool,
}

/// Reason why a directory could not be inspected. Nothing in it was changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum InspectError {
    /// The directory contains no store.
    #[error(
        "{} contains no store: there are no data files; name the directory that has the files *.data",
        path.display()
    )]
    NoStore {
        /// The directory.
        path: PathBuf,
    },
    /// The store has no data file with this id.
    #[error("{} has no data file {file_id}", path.display())]
    NoFile {
        /// The directory.
        path: PathBuf,
        /// The requested id.
        file_id: u64,
    },
    /// A data file cannot be read at all.
    #[error("{}: {}; no record in it can be identified", .0.path.display(), .0.reason)]
    Unreadable(Quarantined),
    /// The directory is in use, or its files have another format version.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The directory is an incomplete snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl From<IoError> for InspectError {
    fn from(error: IoError) -> Self {
        Self::Open(error.into())
    }
}

impl DataFileKind {
    pub(super) fn of(kind: FileKind, is_active: bool) -> Self {
        match kind {
            FileKind::Log if is_active => Self::ActiveLog,
            FileKind::Log => Self::Log,
            FileKind::Merged => Self::Merged,
        }
    }
}
