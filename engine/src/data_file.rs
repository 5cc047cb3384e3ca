//! Data files for readers: verified reads, and a limit of open files.
//!
//! A file is read through a mapping if the file system supports it, else by positioned reads. The mapping of
//! the active file covers the size it may reach; reads stop where the written bytes end. Invariants: no byte
//! is returned before its record's checksum was compared, on a private copy; the active file stays open; at
//! most `max_open_files` sealed files are open, and the least recently used one is closed first. A file with
//! unpublished records is not merged: see [`Pin`]. (The count of file openings serves as the clock of uses,
//! so that a read of an open file writes no shared memory.)

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::{Buf, Bytes};
use parking_lot::Mutex;

use crate::error::{IoError, ReadError};
use crate::file_system::{FileHandle, FileSystem, Mapping, OpenMode};
use crate::format::{FileHeader, FileKind, Header, Kind, Parsed, RECORD_HEADER_LEN, Salt, bound_of};
use crate::options::Options;
use crate::record::Record;

/// A file's number in memory, reused after the file is removed; 0: no file.
pub(crate) type FileSlot = u16;

/// The place of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) file: FileSlot,
    pub(crate) offset: u32,
    /// Bytes to read so that the whole record is covered; the record may be shorter.
    pub(crate) len: u32,
}

/// A data file.
#[derive(Debug)]
pub(crate) struct DataFile {
    pub(crate) slot: FileSlot,
    pub(crate) id: u64,
    pub(crate) path: PathBuf,
    pub(crate) salt: Salt,
    pub(crate) kind: FileKind,
    /// Bytes of the file; of the active file the written ones, without preallocated space.
    len: AtomicU64,
    content: ArcSwapOption<Content>,
    /// Value of the openings count at the last use.
    last_used: AtomicU64,
    /// Whether this is the active file, which is not closed.
    is_active: AtomicBool,
    /// Number of appends to this file that are not published yet.
    pins: AtomicUsize,
    /// State of the hint file and of damage: one of the constants below.
    hint: AtomicU8,
    /// Upper bound of the bounds of its tombstones.
    bound: AtomicU64,
    /// Lower limit of the bounds of tombstones that may have an older record of their key in this file: see
    /// `merge`.
    reach: AtomicU64,
}

// In ascending precedence: a state is replaced only by a later one, except that a damaged or lost file may
// become a healed one.
const NO_HINT: u8 = 0;
const HAS_HINT: u8 = 1;
/// The file was damaged, and no current record is in its damaged parts any more.
const HEALED: u8 = 2;
/// Damage was found while the store was open: the keydir still has the file's current records.
const DAMAGED: u8 = 3;
/// The file was damaged when the store was opened: the records it held are unknown.
const LOST: u8 = 4;

/// The access to an open file: at least one of the fields is set.
#[derive(Debug)]
struct Content {
    mapping: Option<Mapping>,
    handle: Option<Arc<dyn FileHandle>>,
}

impl DataFile {
    fn new(slot: FileSlot, path: PathBuf, header: &FileHeader, content: Option<Content>) -> Self {
        Self {
            slot,
            id: header.id,
            path,
            salt: header.salt,
            kind: header.kind,
            len: AtomicU64::new(0),
            is_active: AtomicBool::new(content.is_some()),
            content: ArcSwapOption::from(content.map(Arc::new)),
            last_used: AtomicU64::new(0),
            pins: AtomicUsize::new(0),
            hint: AtomicU8::new(NO_HINT),
            bound: AtomicU64::new(if header.kind == FileKind::Log { header.id } else { 0 }),
            reach: AtomicU64::new(header.id),
        }
    }

    /// Creates the file that is being appended to, with its length and the length to map, if it is mapped. It
    /// stays open until [`FileTable::seal`].
    pub(crate) fn active(
        slot: FileSlot,
        path: PathBuf,
        header: &FileHeader,
        file: Arc<dyn FileHandle>,
        (len, map_len): (u64, Option<u64>),
    ) -> Self {
        let mapping = map_len.and_then(|len| file.map(len).ok().flatten());
        let active = Self::new(slot, path, header, Some(Content { mapping, handle: Some(file) }));
        active.grown_to(len);
        active
    }

    /// Creates a complete file of this length; the first read opens it.
    pub(crate) fn sealed(slot: FileSlot, path: PathBuf, header: &FileHeader, len: u64) -> Self {
        let file = Self::new(slot, path, header, None);
        file.len.store(len, Ordering::Relaxed);
        file
    }

    /// Returns the file's header.
    pub(crate) fn header(&self) -> FileHeader {
        FileHeader { kind: self.kind, id: self.id, salt: self.salt }
    }

    pub(crate) fn is_log(&self) -> bool {
        self.kind == FileKind::Log
    }

    pub(crate) fn is_active(&self) -> bool {
        self.is_active.load(Ordering::Acquire)
    }

    /// Returns the bytes of the file, without preallocated space.
    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Sets the length of the active file.
    pub(crate) fn grown_to(&self, len: u64) {
        self.len.store(len, Ordering::Release);
    }

    /// Returns whether records of the file may still be published.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pins.load(Ordering::Acquire) > 0
    }

    /// Returns whether the file is complete and has no hint file yet.
    pub(crate) fn lacks_hint(&self) -> bool {
        !self.is_active() && self.hint.load(Ordering::Acquire) == NO_HINT
    }

    pub(crate) fn set_has_hint(&self) {
        self.hint.fetch_max(HAS_HINT, Ordering::AcqRel);
    }

    /// Returns whether the file is known to be damaged. Such a file is kept unchanged until the damage is
    /// healed.
    pub(crate) fn is_damaged(&self) -> bool {
        self.hint.load(Ordering::Acquire) >= DAMAGED
    }

    fn set_damaged(&self) {
        self.hint.fetch_max(DAMAGED, Ordering::AcqRel);
    }

    /// Marks the file as damaged, and logs the damage. It stays unchanged, so that the next opening of the
    /// store finds the damage again.
    pub(crate) fn found_damaged(&self, offset: u64, reason: &str) {
        tracing::error!(file = %self.path.display(), offset, reason,
            "a data file is damaged: it stays unchanged; restore its keys from another copy");
        self.set_damaged();
    }

    /// Reports damage like [`Self::found_damaged`], once.
    pub(crate) fn flag_damaged(&self, offset: u64, reason: &str) {
        if !self.is_damaged() {
            self.found_damaged(offset, reason);
        }
    }

    /// Marks the file as damaged when the store was opened.
    pub(crate) fn set_lost(&self) {
        self.hint.store(LOST, Ordering::Release);
    }

    /// Returns whether the file is damaged and all its current records are known.
    pub(crate) fn is_healable(&self) -> bool {
        self.hint.load(Ordering::Acquire) == DAMAGED
    }

    /// Returns whether the next merge may remove the file, because no current record is in its damaged parts.
    pub(crate) fn is_healed(&self) -> bool {
        self.hint.load(Ordering::Acquire) == HEALED
    }

    /// Marks a damaged file as healed: no current record is in its damaged parts; returns whether the file is
    /// healed now.
    pub(crate) fn set_healed(&self) -> bool {
        let exchanged = self.hint.compare_exchange(DAMAGED, HEALED, Ordering::AcqRel, Ordering::Acquire);
        exchanged.is_ok() || self.is_healed()
    }

    /// Returns whether the file was damaged when the store was opened, and was not given up yet.
    pub(crate) fn is_lost(&self) -> bool {
        self.hint.load(Ordering::Acquire) == LOST
    }

    /// Gives up the unknown records of a file that was damaged when the store was opened.
    pub(crate) fn give_up_lost(&self) {
        let _ = self.hint.compare_exchange(LOST, HEALED, Ordering::AcqRel, Ordering::Acquire);
    }

    pub(crate) fn bound(&self) -> u64 {
        self.bound.load(Ordering::Acquire)
    }

    /// Raises the bound for a tombstone of this bound.
    pub(crate) fn raise_bound(&self, bound: u64) {
        self.bound.fetch_max(bound, Ordering::AcqRel);
    }

    pub(crate) fn reach(&self) -> u64 {
        self.reach.load(Ordering::Acquire)
    }

    /// Lowers the reach: tombstones from this bound on may have older records in this file.
    pub(crate) fn lower_reach(&self, bound: u64) {
        self.reach.fetch_min(bound, Ordering::AcqRel);
    }

    pub(crate) fn damaged(&self, offset: u32, reason: impl ToString) -> ReadError {
        ReadError::Damaged { path: self.path.clone(), offset: offset.into(), reason: reason.to_string() }
    }
}

/// Keeps a data file from being merged while it holds an append that is not published yet. A merge would
/// treat that append as dead.
#[derive(Debug)]
pub(crate) struct Pin(Arc<DataFile>);

impl Pin {
    pub(crate) fn new(file: &Arc<DataFile>) -> Self {
        file.pins.fetch_add(1, Ordering::AcqRel);
        Self(file.clone())
    }

    pub(crate) fn file(&self) -> &Arc<DataFile> {
        &self.0
    }
}

impl Clone for Pin {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Ordering::AcqRel);
    }
}

/// All data files of a store.
#[derive(Debug)]
pub(crate) struct FileTable {
    file_system: Arc<dyn FileSystem>,
    /// The files by slot.
    files: ArcSwap<Vec<Option<Arc<DataFile>>>>,
    max_open: usize,
    maps: bool,
    /// Size limit of a file in bytes; only a single record that is longer may exceed it.
    max_file_size: u64,
    openings: AtomicU64,
    /// Sealed files that are open. Its lock also serialises opening and closing, and inserting and removing.
    open: Mutex<Vec<Arc<DataFile>>>,
    last_slot: Mutex<FileSlot>,
}

impl FileTable {
    pub(crate) fn new(file_system: Arc<dyn FileSystem>, options: &Options) -> Self {
        Self {
            file_system,
            files: ArcSwap::from_pointee(vec![None]),
            max_open: options.max_open_files,
            maps: options.map_files,
            max_file_size: options.max_file_size,
            openings: AtomicU64::new(0),
            open: Mutex::default(),
            last_slot: Mutex::new(0),
        }
    }

    /// Returns the length for which an active file is mapped, if it is mapped.
    pub(crate) fn active_map_len(&self) -> Option<u64> {
        self.maps.then_some(self.max_file_size)
    }

    /// Inserts one file, made with its allotted slot; `None` if there are too many files.
    pub(crate) fn insert(&self, make: impl Fn(FileSlot) -> DataFile) -> Option<Arc<DataFile>> {
        self.insert_all(1, |_, slot| Some(Arc::new(make(slot))))?.pop()
    }

    /// Inserts `count` files at once; `None` if there are too many files, or `make` returns `None`.
    pub(crate) fn insert_all(
        &self,
        count: usize,
        make: impl Fn(usize, FileSlot) -> Option<Arc<DataFile>>,
    ) -> Option<Vec<Arc<DataFile>>> {
        let mut last = self.last_slot.lock();
        let mut files = Vec::clone(&self.files.load());
        let mut inserted = Vec::with_capacity(count);
        for index in 0..count {
            // Slots are reused as late as possible.
            let after = (*last..FileSlot::MAX).map(|slot| slot + 1);
            let is_free = |&slot: &FileSlot| files.get(usize::from(slot)).is_none_or(Option::is_none);
            let slot = after.chain(1..=*last).find(is_free)?;
            let file = make(index, slot)?;
            if files.len() <= usize::from(slot) {
                files.resize(usize::from(slot) + 1, None);
            }
            if let Some(place) = files.get_mut(usize::from(slot)) {
                *place = Some(file.clone());
            }
            inserted.push(file);
            *last = slot;
        }
        self.files.store(Arc::new(files));
        Some(inserted)
    }

    /// Removes a file that no reader of the keydir can find any more.
    pub(crate) fn remove(&self, file: &DataFile) {
        let _last = self.last_slot.lock();
        let mut files = Vec::clone(&self.files.load());
        if let Some(place) = files.get_mut(usize::from(file.slot)) {
            *place = None;
        }
        self.files.store(Arc::new(files));
        let mut open = self.open.lock();
        open.retain(|other| other.slot != file.slot);
        file.content.store(None);
    }

    /// Returns all files, ordered by id.
    pub(crate) fn all(&self) -> Vec<Arc<DataFile>> {
        let mut all: Vec<_> = self.files.load().iter().flatten().cloned().collect();
        all.sort_unstable_by_key(|file| file.id);
        all
    }

    /// Returns the file in this slot.
    pub(crate) fn get(&self, slot: FileSlot) -> Option<Arc<DataFile>> {
        self.files.load().get(usize::from(slot)).cloned().flatten()
    }

    /// Returns the number of files, and the number of open ones.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let files = self.files.load();
        let active = files.iter().flatten().filter(|file| file.is_active()).count();
        (files.iter().flatten().count(), active + self.open.lock().len())
    }

    /// Turns the active file into a sealed one of this length, which may be closed.
    pub(crate) fn seal(&self, file: &Arc<DataFile>, len: u64) {
        file.grown_to(len);
        file.is_active.store(false, Ordering::Release);
        // The next read opens the file again: then it can be mapped in its final length.
        file.content.store(None);
    }

    /// Reads and verifies the record at this place.
    pub(crate) fn read(&self, at: Location) -> Result<Stored, ReadError> {
        self.with_file(at, |file| {
            let mut bytes = Vec::with_capacity(at.len as usize);
            self.read_bytes(file, at.offset, at.len, &mut bytes)?;
            let parsed = Parsed::parse(&bytes, file.salt).map_err(|bad| match bad {
                crate::format::Bad::Short => file.damaged(at.offset, "the file ends within it"),
                bad => file.damaged(at.offset, bad),
            })?;
            if !matches!(parsed.header.kind, Kind::Value | Kind::Tombstone) {
                return Err(file.damaged(at.offset, "another record is there"));
            }
            let header = parsed.header;
            bytes.truncate(header.record_len() as usize);
            Ok(Stored { header, bytes: Bytes::from(bytes) })
        })
    }

    /// Returns the key at this place as it is on disk, whether or not the record's checksum matches.
    pub(crate) fn read_key_unverified(&self, at: Location) -> Result<Vec<u8>, ReadError> {
        self.with_file(at, |file| {
            let longest = (RECORD_HEADER_LEN + usize::from(u16::MAX)) as u32;
            // Most keys are short: one small read is enough.
            for guess in [256, longest] {
                let mut bytes = Vec::new();
                self.read_bytes(file, at.offset, at.len.min(guess), &mut bytes)?;
                let header = Header::decode(&bytes).map_err(|bad| file.damaged(at.offset, bad))?;
                let end = RECORD_HEADER_LEN + usize::from(header.key_len);
                if end <= bytes.len() {
                    bytes.truncate(end);
                    bytes.drain(..RECORD_HEADER_LEN);
                    return Ok(bytes);
                }
            }
            Err(file.damaged(at.offset, "its key is longer than the record"))
        })
    }

    /// Returns the error for a whole record that is not the expected one.
    pub(crate) fn misplaced(&self, at: Location) -> ReadError {
        self.with_file(
            at,
            |file| Ok(file.damaged(at.offset, "the record of another key or version is there")),
        )
        .unwrap_or_else(|error| error)
    }

    /// Runs `read` on the file without cloning its `Arc`: all readers would write to the shared count.
    fn with_file<T>(
        &self,
        at: Location,
        read: impl FnOnce(&Arc<DataFile>) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let files = self.files.load();
        match files.get(usize::from(at.file)) {
            Some(Some(file)) => read(file),
            _ => Err(ReadError::Damaged {
                path: PathBuf::from(format!("data file in slot {}", at.file)),
                offset: at.offset.into(),
                reason: "the file is gone".to_owned(),
            }),
        }
    }

    /// Appends up to `len` bytes to `buffer`; fewer where the file ends.
    fn read_bytes(
        &self,
        file: &Arc<DataFile>,
        offset: u32,
        len: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let offset = u64::from(offset);
        let failed = |e| IoError::new("read", &file.path, e);
        let done = self.with_content(file, |content| {
            if let Some(mapping) = &content.mapping {
                // Limited to the written bytes: beyond them the mapping may have no file behind it.
                let len = u64::from(len).min(file.len().saturating_sub(offset));
                if mapping.copy(offset, len as usize, buffer).is_ok() {
                    return Ok(true);
                }
            }
            match &content.handle {
                Some(handle) => {
                    read_through(&**handle, offset, len as usize, buffer).map_err(failed).map(|()| true)
                }
                None => Ok(false),
            }
        })?;
        if !done {
            // The mapping failed; a read returns the error of the page, or perhaps succeeds.
            let handle = self.open_handle(file)?;
            read_through(&*handle, offset, len as usize, buffer).map_err(failed)?;
            file.content.store(Some(Arc::new(Content { mapping: None, handle: Some(handle) })));
        }
        Ok(())
    }

    /// Runs `read` on the content, after opening the file if necessary.
    fn with_content<T>(
        &self,
        file: &Arc<DataFile>,
        read: impl FnOnce(&Content) -> Result<T, IoError>,
    ) -> Result<T, IoError> {
        if let Some(content) = &*file.content.load() {
            let now = self.openings.load(Ordering::Relaxed);
            if file.last_used.load(Ordering::Relaxed) != now {
                file.last_used.store(now, Ordering::Relaxed);
            }
            return read(content);
        }
        let content = self.open(file)?;
        read(&content)
    }

    fn open(&self, file: &Arc<DataFile>) -> Result<Arc<Content>, IoError> {
        let mut open = self.open.lock();
        if let Some(content) = file.content.load_full() {
            return Ok(content);
        }
        let handle = self.open_handle(file)?;
        let mapping = if self.maps { handle.map(file.len()).ok().flatten() } else { None };
        // A mapping needs no file descriptor.
        let handle = mapping.is_none().then_some(handle);
        let content = Arc::new(Content { mapping, handle });
        file.content.store(Some(content.clone()));
        self.admit(&mut open, file.clone());
        Ok(content)
    }

    fn open_handle(&self, file: &DataFile) -> Result<Arc<dyn FileHandle>, IoError> {
        open_to_read(&*self.file_system, &file.path)
    }

    /// Adds a sealed file to the open ones, and closes the least recently used ones above the limit.
    fn admit(&self, open: &mut Vec<Arc<DataFile>>, file: Arc<DataFile>) {
        while open.len() >= self.max_open {
            let oldest =
                open.iter().enumerate().min_by_key(|(_, file)| file.last_used.load(Ordering::Relaxed));
            let Some((index, _)) = oldest else { break };
            open.swap_remove(index).content.store(None);
        }
        let now = self.openings.fetch_add(1, Ordering::Relaxed) + 1;
        file.last_used.store(now, Ordering::Relaxed);
        open.push(file);
    }
}

/// Appends up to `len` bytes to `buffer`; fewer where the file ends.
fn read_through(
    handle: &dyn FileHandle,
    offset: u64,
    len: usize,
    buffer: &mut Vec<u8>,
) -> std::io::Result<()> {
    let before = buffer.len();
    buffer.resize(before + len, 0);
    let mut filled = before;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        match handle.read_at(room, offset + (filled - before) as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => {
                buffer.truncate(before);
                return Err(e);
            }
        }
    }
    buffer.truncate(filled);
    Ok(())
}

pub(crate) fn open_to_read(
    file_system: &dyn FileSystem,
    path: &std::path::Path,
) -> Result<Arc<dyn FileHandle>, IoError> {
    file_system.open(path, OpenMode::Read).map_err(|e| IoError::new("open", path, e))
}

/// The verified bytes of a record.
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

    /// Returns the bound of a tombstone that was read from the file with this id.
    pub(crate) fn bound(&self, file_id: u64) -> u64 {
        bound_of(file_id, self.bytes.get(self.key_range().end..).unwrap_or_default())
    }

    /// Returns the value without copying it; `None` for a tombstone.
    pub(crate) fn into_value(mut self) -> Option<Bytes> {
        let start = self.key_range().end;
        (self.header.kind == Kind::Value).then(|| {
            self.bytes.advance(start.min(self.bytes.len()));
            self.bytes
        })
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
