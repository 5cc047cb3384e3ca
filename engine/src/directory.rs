//! The store's directory: its lock, its files' names and numbers, and the eras file.
//!
//! Invariants: one engine at a time holds the lock; file ids only grow and are never used again; the eras file
//! is replaced as a whole (written beside it, synced, renamed, directory synced), so that it is always one
//! state or the next. A file under its own name always has a whole header, for the same reason.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{IoError, OpenError};
use crate::format::{Bad, Eras};

const LOCK_NAME: &str = "lock";
const ERAS_NAME: &str = "eras";
const DATA_SUFFIX: &str = ".data";
const TEMPORARY_SUFFIX: &str = ".tmp";
const ID_DIGITS: usize = 10;

/// An opened and locked directory.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// Held open: the lock goes with it.
    _lock: File,
    /// Highest file id given out so far.
    highest_id: AtomicU64,
}

impl Directory {
    /// Makes the directory if need be, locks it, removes leftovers and lists the data files by id.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<u64>), OpenError> {
        if !path.is_dir() {
            fs::create_dir_all(path).map_err(|e| IoError::new("make the directory", path, e))?;
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                sync_directory(parent)?;
            }
        }
        let lock = lock(path)?;
        let ids = list(path)?;
        let highest_id = AtomicU64::new(ids.last().copied().unwrap_or(0));
        Ok((Self { path: path.to_owned(), _lock: lock, highest_id }, ids))
    }

    /// The next file id.
    pub(crate) fn allocate_id(&self) -> u64 {
        self.highest_id.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Highest file id given out so far.
    pub(crate) fn highest_id(&self) -> u64 {
        self.highest_id.load(Ordering::SeqCst)
    }

    /// Where the data file of this id is.
    pub(crate) fn data_path(&self, id: u64) -> PathBuf {
        self.path.join(format!("{id:0ID_DIGITS$}{DATA_SUFFIX}"))
    }

    /// Makes the file appear under its name with these first bytes, durably and all at once.
    pub(crate) fn create(&self, path: &Path, bytes: &[u8]) -> Result<File, IoError> {
        let file = self.write_temporary(path, bytes)?;
        self.put_in_place(path)?;
        Ok(file)
    }

    fn write_temporary(&self, path: &Path, bytes: &[u8]) -> Result<File, IoError> {
        let temporary = temporary(path);
        let written = (|| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(true);
            let mut file = options.open(&temporary).map_err(|e| IoError::new("create", &temporary, e))?;
            file.write_all(bytes).map_err(|e| IoError::new("write", &temporary, e))?;
            file.sync_all().map_err(|e| IoError::new("sync", &temporary, e))?;
            Ok(file)
        })();
        if written.is_err() {
            // Best effort: opening the store removes it as well.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn put_in_place(&self, path: &Path) -> Result<(), IoError> {
        fs::rename(temporary(path), path).map_err(|e| IoError::new("rename into place", path, e))?;
        sync_directory(&self.path)
    }

    /// Reads the eras, or makes them for a store that has no data yet; raises the id floor to theirs.
    pub(crate) fn load_eras(&self, has_data: bool) -> Result<Eras, OpenError> {
        let path = self.path.join(ERAS_NAME);
        let damaged = |reason: String| OpenError::Eras { path: path.clone(), reason };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound && !has_data => {
                let eras = Eras::new();
                self.store_eras(&eras).map_err(|error| error.error)?;
                return Ok(eras);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(damaged("it is missing, but there are data files".to_owned()));
            }
            Err(e) => return Err(IoError::new("read", &path, e).into()),
        };
        let eras = Eras::decode(&bytes).map_err(|bad| match bad {
            Bad::FormatVersion(_) => OpenError::Format { path: path.clone(), reason: bad.to_string() },
            bad => damaged(bad.to_string()),
        })?;
        self.highest_id.fetch_max(eras.file_id_floor, Ordering::SeqCst);
        Ok(eras)
    }

    /// Replaces the eras file durably.
    pub(crate) fn store_eras(&self, eras: &Eras) -> Result<(), StoreErasError> {
        let path = self.path.join(ERAS_NAME);
        self.write_temporary(&path, &eras.encode())
            .map_err(|error| StoreErasError { error, settled: true })?;
        self.put_in_place(&path).map_err(|error| StoreErasError { error, settled: false })
    }
}

/// Why the eras were not stored.
pub(crate) struct StoreErasError {
    pub(crate) error: IoError,
    /// Whether the former eras are known to be those on disk; else either may be.
    pub(crate) settled: bool,
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY_SUFFIX);
    name.into()
}

fn sync_directory(path: &Path) -> Result<(), IoError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|e| IoError::new("sync the directory", path, e))
}

fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join(LOCK_NAME);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(&path).map_err(|e| IoError::new("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // The owner may be just about to write it.
            let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() { "?".to_owned() } else { pid.trim().to_owned() };
            return Err(OpenError::Locked { path: directory.to_owned(), pid });
        }
        Err(TryLockError::Error(e)) => return Err(IoError::new("lock", &path, e).into()),
    }
    file.set_len(0)
        .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()))
        .map_err(|e| IoError::new("write", &path, e))?;
    Ok(file)
}

/// Ids of the data files, ascending; removes temporary files of ours.
fn list(directory: &Path) -> Result<Vec<u64>, OpenError> {
    let failed = |e| IoError::new("list", directory, e);
    let mut ids = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(whole) = name.strip_suffix(TEMPORARY_SUFFIX) {
            if whole == ERAS_NAME || data_id(whole).is_some() {
                let path = directory.join(name);
                fs::remove_file(&path).map_err(|e| IoError::new("remove", &path, e))?;
            }
        } else if let Some(id) = data_id(name) {
            ids.push(id);
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

/// The id in a data file's name; other names are not ours.
fn data_id(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(DATA_SUFFIX)?;
    let ours = digits.len() >= ID_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    ours.then(|| digits.parse().ok()).flatten().filter(|&id| id > 0)
}
