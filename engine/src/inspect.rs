//! Looks at a store that is not open, or at a snapshot: what is in its files, how much of it is dead, what is damaged.
//!
//! Nothing of the store is changed: no torn tail is cut, no hint written, no leftover removed. A store's lock is taken
//! meanwhile, so that the store of a running program is refused. Files are read as [`Engine::open`](crate::Engine::open)
//! would read them, by the same code; with [`InspectOptions::verify`] all of every data file is, too. Memory is bounded
//! as it is when a store is opened; only of a file without a good hint file are all keys held.

mod dump;
mod figures;
mod file;
mod place;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

pub use self::dump::{Dumped, DumpedRecord, dump, dump_on};
use self::figures::count;
use self::file::{FileRead, read_file};
use self::place::Place;
use crate::error::{OpenError, SnapshotError};
use crate::file_system::{FileSystem, RealFileSystem};
use crate::format::FileKind;
use crate::progress::Progress;
use crate::recovery::{QUARANTINED_LISTED_MAX, Quarantined, in_parallel};

/// How a store is inspected.
#[derive(Clone, Debug, Default)]
pub struct InspectOptions {
    /// Read all data files and compare every checksum, and every hint file with its data file. Default false: a hint
    /// file is believed, and data files are read that have none.
    pub verify: bool,
    /// Is told how many bytes of data files were read.
    pub progress: Arc<Progress>,
}

/// What a directory holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// The directory.
    pub path: PathBuf,
    /// Whether it is a snapshot.
    pub snapshot: bool,
    /// Whether all data files were read.
    pub verified: bool,
    /// Why the store cannot be opened at all, or the snapshot not be restored.
    pub refusal: Option<String>,
    /// Its data files, by id.
    pub files: Vec<FileInspection>,
    /// What is in them all.
    pub totals: RecordFigures,
    /// Highest version of any record.
    pub highest_version: u64,
    /// Partitions that were dropped once at least. What records of theirs are left is dead. If the file that says so
    /// cannot be read (see `refusal`), no record is taken for dropped.
    pub partitions_dropped: u64,
    /// Files of no use any more that opening the store removes.
    pub leftovers: Vec<String>,
    /// Stretches that should hold records and do not: the first 10,000.
    pub damage: Vec<Damage>,
    /// How many there are.
    pub damage_total: u64,
    /// Whether opening the store would find damage; else reading it does.
    pub opens_damaged: bool,
}

impl Inspection {
    /// Whether some of what was written cannot be read back, or the store not be opened.
    pub fn is_damaged(&self) -> bool {
        self.damage_total > 0 || self.refusal.is_some() || self.files.iter().any(|file| file.hint.misleads())
    }

    fn add_damage(&mut self, damage: Vec<Damage>, total: u64, at_open: bool) {
        self.opens_damaged |= at_open && total > 0;
        self.damage_total += total;
        let room = QUARANTINED_LISTED_MAX.saturating_sub(self.damage.len());
        self.damage.extend(damage.into_iter().take(room));
    }
}

/// What wrote a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFileKind {
    /// Appends.
    Log,
    /// Appends, and they would go on there.
    ActiveLog,
    /// A merge.
    Merged,
    /// Its header cannot be read.
    Unknown,
}

/// One data file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInspection {
    /// Its number.
    pub id: u64,
    /// Where it is.
    pub path: PathBuf,
    /// What wrote it.
    pub kind: DataFileKind,
    /// What is in it.
    pub records: RecordFigures,
    /// Bytes of the file on disk; what is preallocated included.
    pub file_bytes: u64,
    /// Bytes after the last whole record, zeros not counted, that opening the store cuts: appends that were never
    /// acknowledged under `sync = always`.
    pub torn_bytes: u64,
    /// Its hint file.
    pub hint: HintState,
    /// Damaged stretches in it.
    pub damaged: u64,
}

/// Figures of one data file, or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordFigures {
    /// Bytes up to the end of the last record.
    pub bytes: u64,
    /// Values and tombstones, those in batches included.
    pub records: u64,
    /// Records with a value.
    pub values: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Atomic batches; not known where a hint file was believed.
    pub batches: Option<u64>,
    /// Values that are their key's newest record.
    pub live_records: u64,
    /// Bytes of those.
    pub live_bytes: u64,
    /// Tombstones that are their key's newest record.
    pub newest_tombstones: u64,
    /// Bytes of those.
    pub newest_tombstone_bytes: u64,
    /// Bytes that are neither, without what every file has.
    pub dead_bytes: u64,
}

impl RecordFigures {
    /// How much of the bytes is dead.
    pub fn dead_percent(&self) -> f64 {
        self.dead_bytes as f64 * 100.0 / self.bytes.max(1) as f64
    }

    fn add(&mut self, other: &Self) {
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

/// How it stands with a data file's hint file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HintState {
    /// The file needs none: it is the active one, or cannot be read.
    Unneeded,
    /// It is right, as far as was looked.
    Good,
    /// There is none: opening the store reads the data file and writes one.
    Missing,
    /// It does not serve, for this reason: opening the store notices, reads the data file and writes another.
    Unusable(String),
    /// It does not say what the data file holds, and nothing in it shows that: the store would believe it. Remove it,
    /// and opening the store writes another.
    Misleading,
}

impl HintState {
    fn misleads(&self) -> bool {
        *self == Self::Misleading
    }
}

/// A stretch of a data file that does not hold what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it is, and what is wrong.
    pub stretch: Quarantined,
    /// Keys whose records are in it, as far as they can be told: the first 100.
    pub keys: Vec<DamagedKey>,
}

/// A key whose record is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedKey {
    /// The key.
    pub key: Bytes,
    /// Whether the hint file says so; else it is what the damaged record seems to say.
    pub certain: bool,
}

/// Why a directory could not be inspected. Nothing in it was changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum InspectError {
    /// The directory holds no store.
    #[error("{} holds no store: there are no data files; name the directory that has the files *.data", path.display())]
    NoStore {
        /// The directory.
        path: PathBuf,
    },
    /// There is no data file of this number.
    #[error("{} has no data file {file_id}", path.display())]
    NoFile {
        /// The directory.
        path: PathBuf,
        /// The number.
        file_id: u64,
    },
    /// A data file of which nothing can be read.
    #[error("{}: {}; nothing in it can be told apart", .0.path.display(), .0.reason)]
    Unreadable(Quarantined),
    /// The directory is in use, or its files are of another format version.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The directory is the beginning of a snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl From<crate::IoError> for InspectError {
    fn from(error: crate::IoError) -> Self {
        Self::Open(error.into())
    }
}

/// Says what a store that is not open, or a snapshot, holds.
pub fn inspect(path: &Path, options: &InspectOptions) -> Result<Inspection, InspectError> {
    inspect_on(&(Arc::new(RealFileSystem) as Arc<dyn FileSystem>), path, options)
}

/// The same on another file system.
pub fn inspect_on(
    file_system: &Arc<dyn FileSystem>,
    path: &Path,
    options: &InspectOptions,
) -> Result<Inspection, InspectError> {
    let place = Place::open(&**file_system, path)?;
    let reads = read_files(&place, options)?;
    let mut inspection = Inspection {
        path: path.to_owned(),
        snapshot: place.snapshot,
        verified: options.verify,
        refusal: place.refusal.clone(),
        totals: RecordFigures { batches: Some(0), ..RecordFigures::default() },
        partitions_dropped: place.eras.iter().flatten().filter(|&&era| era > 0).count() as u64,
        leftovers: place.leftovers.clone(),
        ..Inspection::default()
    };
    let lost: Vec<Damage> =
        place.lost.iter().cloned().map(|stretch| Damage { stretch, keys: vec![] }).collect();
    let lost_total = lost.len() as u64;
    inspection.add_damage(lost, lost_total, true);
    let (figures, highest_version) = count(&place, &reads)?;
    inspection.highest_version = highest_version;
    for (read, figures) in reads.into_iter().zip(figures) {
        inspection.totals.add(&figures);
        let FileRead { known, kind, torn_bytes, hint, damage, damage_total, at_open, .. } = read;
        inspection.files.push(FileInspection {
            id: known.id,
            path: known.path,
            kind,
            records: figures,
            file_bytes: known.len,
            torn_bytes,
            hint,
            damaged: damage_total,
        });
        inspection.add_damage(damage, damage_total, at_open);
    }
    Ok(inspection)
}

fn read_files(place: &Place<'_>, options: &InspectOptions) -> Result<Vec<FileRead>, InspectError> {
    let reads = |id: u64| options.verify || place.active == Some(id) || !place.has_hint(id);
    let to_read = place.files.iter().filter(|file| reads(file.id)).map(|file| file.len).sum();
    options.progress.expect(to_read);
    let reads = in_parallel(place.files.len(), |index| {
        place.files.get(index).map(|known| read_file(place, known, options)).transpose()
    })?;
    Ok(reads.into_iter().flatten().collect())
}

impl DataFileKind {
    fn of(kind: FileKind, is_active: bool) -> Self {
        match kind {
            FileKind::Log if is_active => Self::ActiveLog,
            FileKind::Log => Self::Log,
            FileKind::Merged => Self::Merged,
        }
    }
}
