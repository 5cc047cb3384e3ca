//! The store's directory: its lock, the names and ids of its files, and the eras file.
//!
//! Invariants: one engine at a time holds the lock; file ids only grow and are never reused; a file is
//! replaced as a whole (written under a temporary name, synced, renamed, directory synced). So a name always
//! refers to the former or the new state, and a data file always has a whole header.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::{IoError, OpenError};
use crate::file_system::{FileHandle, FileSystem, OpenMode};
use crate::format::marker::MARKER_LEN_MAX;
use crate::format::{Bad, ERAS_LEN_MAX, Eras, FILE_ID_MAX, decode_ids, encode_ids};
use crate::reserve::{Reserve, TRIES};

const LOCK_NAME: &str = "lock";
const IDS_NAME: &str = "ids";
/// Appended to the name of a file that is set aside.
const STRAY_SUFFIX: &str = ".stray";
/// File ids reserved by one replacement of the ids file.
const IDS_STEP: u64 = 64;
const ERAS_NAME: &str = "eras";
const DATA_SUFFIX: &str = ".data";
const HINT_SUFFIX: &str = ".hint";
const TEMPORARY_SUFFIX: &str = ".tmp";
const ID_DIGITS: usize = 10;

/// Name of the marker: its directory is a snapshot, or the target of a restore that is not complete.
pub(crate) const MARKER_NAME: &str = "snapshot";

/// Size limit in bytes of an eras file, a marker or another small file.
const SMALL_FILE_MAX: u64 = 2 << 20;

const _: () = assert!(ERAS_LEN_MAX as u64 <= SMALL_FILE_MAX && MARKER_LEN_MAX <= SMALL_FILE_MAX);

/// An open and locked directory.
#[derive(Debug)]
pub(crate) struct Directory {
    file_system: Arc<dyn FileSystem>,
    path: PathBuf,
    /// Releases the lock when it is dropped.
    _lock: Box<dyn Debug + Send + Sync>,
    /// Highest file id allocated so far.
    highest_id: AtomicU64,
    /// Content of the ids file: no higher id was ever allocated. `None`: the file does not exist yet, or is
    /// invalid.
    ids_ceiling: Mutex<Option<u64>>,
    reserve: Reserve,
}

/// Ids of a directory's data and hint files, ascending.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) data: Vec<u64>,
    pub(crate) hints: Vec<u64>,
}

impl Directory {
    /// Creates the directory if necessary, locks it, removes leftovers and lists the files.
    pub(crate) fn open(
        file_system: Arc<dyn FileSystem>,
        path: &Path,
        reserve_bytes: u64,
    ) -> Result<(Self, Listing), OpenError> {
        create_directory(&*file_system, path)?;
        let marker = path.join(MARKER_NAME);
        if file_system.exists(&marker).map_err(|e| IoError::new("look for", &marker, e))? {
            return Err(OpenError::IsSnapshot { path: path.to_owned() });
        }
        let lock = lock(&*file_system, path)?;
        let ids_ceiling = Mutex::new(read_ids(&*file_system, path));
        let reserve = Reserve::open(file_system.clone(), path, reserve_bytes);
        let path = path.to_owned();
        let highest_id = AtomicU64::new(0);
        let mut directory = Self { file_system, path, _lock: lock, highest_id, ids_ceiling, reserve };
        let listing = directory.list()?;
        // A killed process may have left names that are not durable. Bytes written to such a file could be
        // lost with its name.
        directory.sync()?;
        *directory.highest_id.get_mut() = listing.data.last().copied().unwrap_or(0);
        Ok((directory, listing))
    }

    pub(crate) fn file_system(&self) -> &Arc<dyn FileSystem> {
        &self.file_system
    }

    /// Replaces a small file durably and atomically; on a full disk, with space from the reserve.
    pub(crate) fn write_small(&self, path: &Path, bytes: &[u8]) -> Result<(), IoError> {
        let mut written = write_whole(&*self.file_system, path, bytes);
        for _ in 0..TRIES {
            let is_full = matches!(&written, Err(error) if error.is_no_space());
            if !is_full || !self.reserve.release(bytes.len() as u64) {
                break;
            }
            written = write_whole(&*self.file_system, path, bytes);
        }
        written
    }

    /// Returns the space reserved for operations that free space.
    pub(crate) fn reserve(&self) -> &Reserve {
        &self.reserve
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Allocates the next file id.
    ///
    /// # Errors
    /// The ids file, which must cover the id, could not be replaced; no id was allocated.
    pub(crate) fn allocate_id(&self) -> Result<u64, IoError> {
        let mut ceiling = self.ids_ceiling.lock();
        let id = self.highest_id() + 1;
        if ceiling.is_none_or(|ceiling| id > ceiling) {
            let next = id + IDS_STEP;
            write_whole(&*self.file_system, &self.path.join(IDS_NAME), &encode_ids(next))?;
            *ceiling = Some(next);
        }
        self.highest_id.store(id, Ordering::SeqCst);
        Ok(id)
    }

    /// Removes these names, which are not files of this store, from the listing. No id may have been
    /// allocated yet.
    pub(crate) fn forget(&mut self, strays: &Listing, listing: &mut Listing) {
        listing.data.retain(|id| !strays.data.contains(id));
        listing.hints.retain(|id| !strays.hints.contains(id));
        *self.highest_id.get_mut() = listing.data.last().copied().unwrap_or(0);
    }

    /// Returns the highest id that a file of this store may have, if it is known.
    pub(crate) fn ids_ceiling(&self) -> Option<u64> {
        *self.ids_ceiling.lock()
    }

    /// Renames a file that does not belong to this store, durably, to a name that is not that of a data file.
    pub(crate) fn set_aside(&self, path: &Path) -> Result<PathBuf, IoError> {
        let failed = |e| IoError::new("set aside", path, e);
        for number in 0.. {
            let mut name = path.as_os_str().to_owned();
            name.push(STRAY_SUFFIX);
            if number > 0 {
                name.push(format!(".{number}"));
            }
            let aside = PathBuf::from(name);
            if !self.file_system.exists(&aside).map_err(failed)? {
                self.file_system.rename(path, &aside).map_err(failed)?;
                self.sync()?;
                return Ok(aside);
            }
        }
        Err(failed(io::ErrorKind::AlreadyExists.into()))
    }

    /// Returns the highest file id allocated so far.
    pub(crate) fn highest_id(&self) -> u64 {
        self.highest_id.load(Ordering::SeqCst)
    }

    /// Returns the path of the data file with this id.
    pub(crate) fn data_path(&self, id: u64) -> PathBuf {
        self.path.join(data_name(id))
    }

    /// Returns the path of the hint file that belongs to the data file with this id.
    pub(crate) fn hint_path(&self, id: u64) -> PathBuf {
        self.path.join(hint_name(id))
    }

    /// Creates the file with these bytes under its name, durably and atomically.
    pub(crate) fn create(&self, path: &Path, bytes: &[u8]) -> Result<Arc<dyn FileHandle>, IoError> {
        let file = self.write_temporary(path, bytes)?;
        self.put_in_place(path)?;
        Ok(file)
    }

    fn write_temporary(&self, path: &Path, bytes: &[u8]) -> Result<Arc<dyn FileHandle>, IoError> {
        write_temporary(&*self.file_system, path, bytes)
    }

    /// Creates an empty temporary file for this path, to be filled, synced and renamed into place.
    pub(crate) fn create_temporary(&self, path: &Path) -> Result<Arc<dyn FileHandle>, IoError> {
        create_temporary(&*self.file_system, path)
    }

    /// Removes a temporary file. Best effort: opening the store removes it as well.
    pub(crate) fn remove_temporary(&self, path: &Path) {
        let _ = self.file_system.remove(&temporary(path));
    }

    /// Renames a file made by [`Directory::create_temporary`] into place, durably.
    pub(crate) fn put_in_place(&self, path: &Path) -> Result<(), IoError> {
        put_in_place(&*self.file_system, path)
    }

    /// Makes added and removed names durable.
    pub(crate) fn sync(&self) -> Result<(), IoError> {
        sync_directory(&*self.file_system, &self.path)
    }

    /// Removes a file that may exist; returns whether it is durably absent.
    pub(crate) fn take_away(&self, path: &Path) -> bool {
        match self.remove(path) {
            Ok(()) => self.sync().is_ok(),
            Err(error) => error.source.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Removes a file.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), IoError> {
        self.file_system.remove(path).map_err(|e| IoError::new("remove", path, e))
    }

    /// Reads the eras file, or creates it for a store without data. Raises the highest id to the file's
    /// floor, and removes the files that a merge has replaced, also from the listing.
    pub(crate) fn load_eras(&self, listing: &mut Listing) -> Result<Eras, OpenError> {
        match read_eras(&*self.file_system, &self.path)? {
            Some(mut eras) => {
                self.highest_id.fetch_max(eras.file_id_floor, Ordering::SeqCst);
                self.remove_files(&eras.removed)?;
                listing.data.retain(|id| !eras.removed.contains(id));
                listing.hints.retain(|id| !eras.removed.contains(id));
                eras.removed.clear();
                Ok(eras)
            }
            None if !listing.data.is_empty() => Err(eras_missing(&self.path)),
            None => {
                let eras = Eras::new();
                self.store_eras(&eras).map_err(|error| error.error)?;
                Ok(eras)
            }
        }
    }

    /// Removes these data files and their hints as far as they exist, durably.
    pub(crate) fn remove_files(&self, ids: &[u64]) -> Result<(), IoError> {
        if ids.is_empty() {
            return Ok(());
        }
        for path in ids.iter().flat_map(|&id| [self.hint_path(id), self.data_path(id)]) {
            match self.remove(&path) {
                Err(error) if error.source.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.sync()
    }

    /// Replaces the eras file durably; on a full disk with space from the reserve.
    pub(crate) fn store_eras(&self, eras: &Eras) -> Result<(), StoreErasError> {
        let bytes = eras.encode();
        let mut stored = self.store_eras_once(&bytes);
        for _ in 0..TRIES {
            let is_full = matches!(&stored, Err(failed) if failed.settled && failed.error.is_no_space());
            if !is_full || !self.reserve.release(bytes.len() as u64) {
                break;
            }
            stored = self.store_eras_once(&bytes);
        }
        stored
    }

    fn store_eras_once(&self, bytes: &[u8]) -> Result<(), StoreErasError> {
        let path = self.eras_path();
        self.write_temporary(&path, bytes).map_err(|error| StoreErasError { error, settled: true })?;
        // A rename that failed for lack of space changed nothing.
        self.file_system.rename(&temporary(&path), &path).map_err(|e| {
            let error = IoError::new("rename into place", &path, e);
            StoreErasError { settled: error.is_no_space(), error }
        })?;
        self.sync().map_err(|error| StoreErasError { error, settled: false })
    }

    pub(crate) fn eras_path(&self) -> PathBuf {
        self.path.join(ERAS_NAME)
    }

    /// Lists the store's files; removes temporary files of this store.
    fn list(&self) -> Result<Listing, OpenError> {
        let (listing, leftovers) = list(&*self.file_system, &self.path)?;
        for name in leftovers {
            self.remove(&self.path.join(name))?;
        }
        Ok(listing)
    }
}

/// Reason why the eras were not stored.
pub(crate) struct StoreErasError {
    pub(crate) error: IoError,
    /// Whether the former eras are known to be those on disk; otherwise either eras may be.
    pub(crate) settled: bool,
}

/// Creates a directory durably, unless it exists.
pub(crate) fn create_directory(file_system: &dyn FileSystem, path: &Path) -> Result<(), IoError> {
    let failed = |e| IoError::new("make the directory", path, e);
    // A killed process may have left an empty directory without making its name durable.
    if file_system.exists(path).map_err(failed)? && !file_system.list(path).map_err(failed)?.is_empty() {
        return Ok(());
    }
    file_system.create_directory(path).map_err(failed)?;
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => sync_directory(file_system, parent),
        None => Ok(()),
    }
}

pub(crate) fn sync_directory(file_system: &dyn FileSystem, path: &Path) -> Result<(), IoError> {
    file_system.sync_directory(path).map_err(|e| IoError::new("sync the directory", path, e))
}

/// Returns the store's files and its leftovers, in a directory that need not be locked.
pub(crate) fn list(
    file_system: &dyn FileSystem,
    directory: &Path,
) -> Result<(Listing, Vec<String>), OpenError> {
    let names = file_system.list(directory).map_err(|e| IoError::new("list", directory, e))?;
    let mut listing = Listing::default();
    let mut leftovers = Vec::new();
    for name in names {
        if let Some(whole) = name.strip_suffix(TEMPORARY_SUFFIX) {
            let ours = whole == ERAS_NAME
                || whole == IDS_NAME
                || id_of(whole, DATA_SUFFIX).or(id_of(whole, HINT_SUFFIX)).is_some();
            if ours {
                leftovers.push(name);
            }
        } else if let Some(id) = id_of(&name, DATA_SUFFIX) {
            listing.data.push(id);
        } else if let Some(id) = id_of(&name, HINT_SUFFIX) {
            listing.hints.push(id);
        }
    }
    listing.data.sort_unstable();
    listing.hints.sort_unstable();
    leftovers.sort_unstable();
    Ok((listing, leftovers))
}

/// Reads the eras file; `None` if it does not exist.
pub(crate) fn read_eras(file_system: &dyn FileSystem, directory: &Path) -> Result<Option<Eras>, OpenError> {
    let path = directory.join(ERAS_NAME);
    let bytes = match read_small(file_system, &path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(IoError::new("read", &path, e).into()),
    };
    Eras::decode(&bytes).map(Some).map_err(|bad| match bad {
        Bad::FormatVersion(_) | Bad::Former => OpenError::Format { path, reason: bad.to_string() },
        bad => OpenError::Eras { path, reason: bad.to_string() },
    })
}

/// Reads the ids file; `None` if it does not exist or is invalid.
pub(crate) fn read_ids(file_system: &dyn FileSystem, directory: &Path) -> Option<u64> {
    read_small(file_system, &directory.join(IDS_NAME)).ok().and_then(|bytes| decode_ids(&bytes))
}

/// Returns the error of a store that has data files and no eras file.
pub(crate) fn eras_missing(directory: &Path) -> OpenError {
    let reason = "it is missing, but there are data files".to_owned();
    OpenError::Eras { path: directory.join(ERAS_NAME), reason }
}

/// Reads a small file as a whole.
pub(crate) fn read_small(file_system: &dyn FileSystem, path: &Path) -> io::Result<Vec<u8>> {
    let file = file_system.open(path, OpenMode::Read)?;
    let len = file.len()?.min(SMALL_FILE_MAX);
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn create_temporary(file_system: &dyn FileSystem, path: &Path) -> Result<Arc<dyn FileHandle>, IoError> {
    let temporary = temporary(path);
    file_system.open(&temporary, OpenMode::Create).map_err(|e| IoError::new("create", &temporary, e))
}

fn write_temporary(
    file_system: &dyn FileSystem,
    path: &Path,
    bytes: &[u8],
) -> Result<Arc<dyn FileHandle>, IoError> {
    let file = create_temporary(file_system, path)?;
    let failed = |action| move |e| IoError::new(action, temporary(path), e);
    let written = file
        .write_all_at(bytes, 0)
        .map_err(failed("write"))
        .and_then(|()| file.sync_all().map_err(failed("sync")));
    if written.is_err() {
        // Best effort: opening the store removes it as well.
        let _ = file_system.remove(&temporary(path));
    }
    written.map(|()| file)
}

fn put_in_place(file_system: &dyn FileSystem, path: &Path) -> Result<(), IoError> {
    file_system.rename(&temporary(path), path).map_err(|e| IoError::new("rename into place", path, e))?;
    match path.parent() {
        Some(directory) => sync_directory(file_system, directory),
        None => Ok(()),
    }
}

/// Replaces a small file durably and atomically.
pub(crate) fn write_whole(file_system: &dyn FileSystem, path: &Path, bytes: &[u8]) -> Result<(), IoError> {
    write_temporary(file_system, path, bytes)?;
    put_in_place(file_system, path)
}

pub(crate) fn eras_name() -> &'static str {
    ERAS_NAME
}

pub(crate) fn data_name(id: u64) -> String {
    format!("{id:0ID_DIGITS$}{DATA_SUFFIX}")
}

pub(crate) fn hint_name(id: u64) -> String {
    format!("{id:0ID_DIGITS$}{HINT_SUFFIX}")
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY_SUFFIX);
    name.into()
}

/// Takes the directory's lock, or returns an error that names its owner.
pub(crate) fn lock(
    file_system: &dyn FileSystem,
    directory: &Path,
) -> Result<Box<dyn Debug + Send + Sync>, OpenError> {
    let path = directory.join(LOCK_NAME);
    file_system.lock(&path, &format!("{}\n", std::process::id())).map_err(|e| {
        if e.kind() != io::ErrorKind::WouldBlock {
            return IoError::new("lock", &path, e).into();
        }
        // The owner may not have written its process id yet.
        let pid = read_small(file_system, &path).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pid = pid.map(|pid| pid.trim().to_owned()).filter(|pid| !pid.is_empty());
        OpenError::Locked { path: directory.to_owned(), pid: pid.unwrap_or_else(|| "?".to_owned()) }
    })
}

/// Returns the id in the name of a file of this store; `None` for any other name.
fn id_of(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    let ours = digits.len() >= ID_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    ours.then(|| digits.parse().ok()).flatten().filter(|id| (1..=FILE_ID_MAX).contains(id))
}
