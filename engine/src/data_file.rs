//! Data files as readers see them: positioned, verified reads, and a cap on how many are open at once.
//!
//! Invariants: no byte is handed out whose record's checksum was not compared. The active file stays open; of
//! the sealed ones at most `max_open_files` do, the longest unused being closed first. (How long a file was
//! not used is counted in openings of other files, so that a read of an open file writes nothing shared.)

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::Record;
use crate::error::{IoError, ReadError};
use crate::format::{Header, Kind, Parsed, RECORD_HEADER_LEN, Salt};
use crate::length;

/// A file's number in memory; 0 is none.
pub(crate) type FileSlot = u16;

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) file: FileSlot,
    pub(crate) offset: u32,
    /// Bytes to read for the record: its length, or up to 0.1 % more if that comes from the keydir
    /// ([`crate::length`]).
    pub(crate) len: u32,
}

/// One data file.
#[derive(Debug)]
pub(crate) struct DataFile {
    pub(crate) id: FileSlot,
    pub(crate) path: PathBuf,
    pub(crate) salt: Salt,
    handle: RwLock<Option<Arc<File>>>,
    /// The count of openings when it was last used.
    last_used: AtomicU64,
    /// The active file is not closed.
    pinned: AtomicBool,
}

impl DataFile {
    /// A file that is being appended to: it stays open until [`FileTable::seal`].
    pub(crate) fn active(id: FileSlot, path: PathBuf, salt: Salt, file: File) -> Self {
        let handle = RwLock::new(Some(Arc::new(file)));
        Self { id, path, salt, handle, last_used: AtomicU64::new(0), pinned: AtomicBool::new(true) }
    }

    /// A file that is complete; opened when it is read.
    pub(crate) fn sealed(id: FileSlot, path: PathBuf, salt: Salt) -> Self {
        let handle = RwLock::new(None);
        Self { id, path, salt, handle, last_used: AtomicU64::new(0), pinned: AtomicBool::new(false) }
    }

    fn damaged(&self, offset: u32, reason: impl ToString) -> ReadError {
        ReadError::Damaged { path: self.path.clone(), offset: offset.into(), reason: reason.to_string() }
    }
}

/// All data files.
#[derive(Debug)]
pub(crate) struct FileTable {
    files: RwLock<HashMap<FileSlot, Arc<DataFile>>>,
    max_open: usize,
    openings: AtomicU64,
    /// Sealed files that are open; its lock also serialises opening and closing.
    open: Mutex<Vec<Arc<DataFile>>>,
}

impl FileTable {
    pub(crate) fn new(max_open: usize) -> Self {
        Self { files: RwLock::default(), max_open, openings: AtomicU64::new(0), open: Mutex::default() }
    }

    pub(crate) fn insert(&self, file: Arc<DataFile>) {
        self.files.write().insert(file.id, file);
    }

    /// Files there are, and how many of them are open.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let files = self.files.read();
        let pinned = files.values().filter(|file| file.pinned.load(Ordering::Relaxed)).count();
        (files.len(), pinned + self.open.lock().len())
    }

    /// The active file has become a sealed one, which may be closed.
    pub(crate) fn seal(&self, file: &Arc<DataFile>) {
        file.pinned.store(false, Ordering::Relaxed);
        self.admit(&mut self.open.lock(), file.clone());
    }

    /// Reads and verifies the record at this place.
    pub(crate) fn read(&self, at: Location) -> Result<Stored, ReadError> {
        let file = self.file(at)?;
        let mut bytes = self.read_bytes(&file, at.offset, at.len)?;
        let header = Parsed::parse(&bytes, file.salt).map_err(|bad| file.damaged(at.offset, bad))?.header;
        // It was parsed from no more bytes than asked for.
        let len = header.record_len() as u32;
        if length::code_of(len) != length::code_of(at.len)
            || !matches!(header.kind, Kind::Value | Kind::Tombstone)
        {
            return Err(file.damaged(at.offset, "another record is there"));
        }
        bytes.truncate(len as usize);
        Ok(Stored { header, bytes: Bytes::from(bytes) })
    }

    /// The key at this place as it is on disk, whether or not the record's checksum holds.
    pub(crate) fn read_key_unverified(&self, at: Location) -> Result<Vec<u8>, ReadError> {
        let file = self.file(at)?;
        let longest = (RECORD_HEADER_LEN + usize::from(u16::MAX)) as u32;
        // Most keys are short: one small read does.
        for guess in [256, longest] {
            let mut bytes = self.read_bytes(&file, at.offset, at.len.min(guess))?;
            let header = Header::decode(&bytes).map_err(|bad| file.damaged(at.offset, bad))?;
            let end = RECORD_HEADER_LEN + usize::from(header.key_len);
            if end <= bytes.len() {
                bytes.truncate(end);
                bytes.drain(..RECORD_HEADER_LEN);
                return Ok(bytes);
            }
        }
        Err(file.damaged(at.offset, "its key is longer than the record"))
    }

    /// The error for a record that is whole but not the one that should be there.
    pub(crate) fn misplaced(&self, at: Location) -> ReadError {
        match self.file(at) {
            Ok(file) => file.damaged(at.offset, "the record of another key or version is there"),
            Err(error) => error,
        }
    }

    fn file(&self, at: Location) -> Result<Arc<DataFile>, ReadError> {
        self.files.read().get(&at.file).cloned().ok_or_else(|| ReadError::Damaged {
            path: PathBuf::from(format!("data file {}", at.file)),
            offset: at.offset.into(),
            reason: "the file is gone".to_owned(),
        })
    }

    /// Reads so many bytes, or fewer where the file ends.
    fn read_bytes(&self, file: &Arc<DataFile>, offset: u32, len: u32) -> Result<Vec<u8>, ReadError> {
        let handle = self.handle(file)?;
        let len = len as usize;
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = u64::from(offset) + bytes.len() as u64;
            match rustix::io::pread(&*handle, rustix::buffer::spare_capacity(&mut bytes), at) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(IoError::new("read", &file.path, errno.into()).into()),
            }
        }
        // A Vec may have been given more room than asked for.
        bytes.truncate(len);
        Ok(bytes)
    }

    fn handle(&self, file: &Arc<DataFile>) -> Result<Arc<File>, IoError> {
        if let Some(handle) = &*file.handle.read() {
            let now = self.openings.load(Ordering::Relaxed);
            if file.last_used.load(Ordering::Relaxed) != now {
                file.last_used.store(now, Ordering::Relaxed);
            }
            return Ok(handle.clone());
        }
        let mut open = self.open.lock();
        if let Some(handle) = &*file.handle.read() {
            return Ok(handle.clone());
        }
        let handle = Arc::new(open_to_read(&file.path)?);
        *file.handle.write() = Some(handle.clone());
        self.admit(&mut open, file.clone());
        Ok(handle)
    }

    /// Counts a sealed file among the open ones and closes the longest unused one above the cap.
    fn admit(&self, open: &mut Vec<Arc<DataFile>>, file: Arc<DataFile>) {
        while open.len() >= self.max_open {
            let oldest =
                open.iter().enumerate().min_by_key(|(_, file)| file.last_used.load(Ordering::Relaxed));
            let Some((index, _)) = oldest else { break };
            *open.swap_remove(index).handle.write() = None;
        }
        let now = self.openings.fetch_add(1, Ordering::Relaxed) + 1;
        file.last_used.store(now, Ordering::Relaxed);
        open.push(file);
    }
}

pub(crate) fn open_to_read(path: &Path) -> Result<File, IoError> {
    File::open(path).map_err(|e| IoError::new("open", path, e))
}

/// A record as it was read: its bytes, verified.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) header: Header,
    bytes: Bytes,
}

impl Stored {
    pub(crate) fn key(&self) -> &[u8] {
        self.bytes.get(self.key_range()).unwrap_or_default()
    }

    fn key_range(&self) -> std::ops::Range<usize> {
        RECORD_HEADER_LEN..RECORD_HEADER_LEN + usize::from(self.header.key_len)
    }

    pub(crate) fn into_record(self) -> Record {
        let range = self.key_range();
        let value = (self.header.kind == Kind::Value).then(|| self.bytes.slice(range.end..));
        Record {
            key: self.bytes.slice(range),
            version: self.header.version,
            expiry_ms: self.header.expiry_ms,
            user_flags: self.header.user_flags,
            value,
        }
    }
}
