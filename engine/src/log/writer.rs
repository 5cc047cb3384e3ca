//! Writer of the active file: writes, marks, syncs, preallocates, and begins the next file.
//!
//! Invariants: `durable <= end <= allocated`; the bytes below `durable` were synced; records of a file are
//! written only after its header and its name are durable; a file is cut to its records and synced before the
//! next begins, so that only the newest log file can have a torn tail.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::data_file::{DataFile, FileTable, Location, Pin};
use crate::directory::Directory;
use crate::error::{AppendError, IoError};
use crate::file_system::{FileHandle, MAPPING_STEP, WritableMapping};
use crate::format::{
    FILE_HEADER_LEN, FileHeader, FileKind, Header, Kind, MARK_LEN, RECORD_HEADER_LEN, Salt, encode_mark,
};
use crate::log::record::{Appended, Done};
use crate::options::{Options, SyncPolicy};
use crate::reserve::TRIES;

/// Limit in bytes of a preallocation step. A sync of preallocated bytes need not sync a new length.
const PREALLOCATION_STEP: u64 = 16 << 20;

/// Bytes of the active file that are mapped at once. More would show as memory of this process.
const WINDOW_BYTES: u64 = 4 << 20;

/// Limit in bytes of a mapped write. Longer ones use a call, which costs less than touching as many pages.
const MAPPED_WRITE_MAX: usize = 64 << 10;

const _: () = assert!(WINDOW_BYTES >= MAPPING_STEP + MAPPED_WRITE_MAX as u64);

// Offsets count from the room for a mark, also in a group that is written without a mark.
const _: () = assert!(FILE_HEADER_LEN >= MARK_LEN);

/// Writer of the active file.
pub(crate) struct Writer {
    files: Arc<FileTable>,
    active: Arc<DataFile>,
    file: Arc<dyn FileHandle>,
    salt: Salt,
    max_file_size: u64,
    /// Size in bytes at which the next file is begun early; merges set it by the size of the store.
    file_limit: Arc<AtomicU64>,
    preallocates: bool,
    /// Whether short writes use the window, which saves a system call each. Useless where each group is
    /// synced.
    maps: bool,
    /// The mapped stretch of the file's preallocated part. `None` while the file is cut.
    window: Option<WritableMapping>,
    /// Offset of the next record.
    end: u64,
    /// Offset below which everything was synced.
    durable: u64,
    /// Offset that the newest mark states.
    marked: u64,
    /// Whether the file's last record is that mark, so that the mark covers the whole file.
    ends_marked: bool,
    /// Length of the file, including preallocated bytes.
    allocated: u64,
    /// Files begun, and bytes written including headers and marks, since the start.
    files_begun: u64,
    bytes_written: u64,
    /// Sealed files that may hold appends that are not published yet.
    unsettled: VecDeque<Arc<DataFile>>,
    /// Last result of [`Writer::settled_below`].
    settled_hint: Arc<AtomicU64>,
    poisoned: Option<IoError>,
    /// A file that was not begun, for lack of space, and that may exist after a crash. It must be removed
    /// before the active file is written: a start that finds it would treat the active file as complete.
    leftover: Option<(PathBuf, IoError)>,
    closed: bool,
    /// For policies that write inline: the encoder's buffer, and callbacks to run.
    pub(super) scratch: Vec<u8>,
    pub(super) deliveries: VecDeque<(Done, Result<Appended, AppendError>)>,
    pub(super) delivering: bool,
}

/// The scope of a sync outside the writer's lock.
pub(super) struct Unsynced {
    file: Arc<dyn FileHandle>,
    active: Arc<DataFile>,
    end: u64,
}

impl Unsynced {
    pub(super) fn sync(&self) -> Result<(), IoError> {
        self.file.sync_data().map_err(|e| IoError::new("sync", &self.active.path, e))
    }
}

/// Returns whether a group consists of tombstones only; its first bytes are room for a mark.
fn only_deletes(group: &[u8]) -> bool {
    let mut rest = group.get(MARK_LEN..).unwrap_or_default();
    while !rest.is_empty() {
        let len = match Header::decode(rest) {
            Ok(header) if header.kind == Kind::Tombstone => header.record_len() as usize,
            // The records of the batch follow its header.
            Ok(header) if header.kind == Kind::Batch => RECORD_HEADER_LEN,
            _ => return false,
        };
        rest = rest.get(len..).unwrap_or_default();
    }
    true
}

/// Creates a new log file with a durable header, and registers it as the active one.
pub(crate) fn create_active(
    directory: &Directory,
    files: &FileTable,
    salt: Salt,
) -> Result<(Arc<DataFile>, Arc<dyn FileHandle>), NotBegun> {
    let id = directory.allocate_id().map_err(|error| NotBegun { error, leftover: None })?;
    let path = directory.data_path(id);
    let header = FileHeader { kind: FileKind::Log, id, salt };
    let not_begun = |error| {
        let leftover = (!directory.take_away(&path)).then(|| path.clone());
        NotBegun { error, leftover }
    };
    let file = directory.create(&path, &header.encode()).map_err(not_begun)?;
    let lens = (FILE_HEADER_LEN as u64, files.active_map_len());
    let active = files
        .insert(|slot| DataFile::active(slot, path.clone(), &header, file.clone(), lens))
        .ok_or_else(|| not_begun(too_many_files(&path)))?;
    Ok((active, file))
}

/// Reason why a log file was not begun.
#[derive(Debug)]
pub(crate) struct NotBegun {
    pub(crate) error: IoError,
    /// Path at which the file may exist after a crash. Then the file before it must not be appended to: a
    /// start would treat that one as complete.
    leftover: Option<PathBuf>,
}

/// Returns the error for the case that no file slot is left.
pub(crate) fn too_many_files(path: &std::path::Path) -> IoError {
    let full = "the store has 65,535 data files, which is the limit; merge them, and raise max_file_size";
    IoError::new("begin", path, io::Error::other(full))
}

impl Writer {
    /// Creates a writer that continues at `end`, which is also the file's length; all bytes below it are
    /// durable. `marked` is the offset in its newest mark, and `ends_marked` states whether that mark is the
    /// last record.
    pub(crate) fn new(
        options: &Options,
        files: Arc<FileTable>,
        (active, file): (Arc<DataFile>, Arc<dyn FileHandle>),
        end: u64,
        (marked, ends_marked): (u64, bool),
    ) -> Self {
        let settled_hint = Arc::new(AtomicU64::new(active.id));
        active.grown_to(end);
        Self {
            files,
            salt: active.salt,
            active,
            file,
            max_file_size: options.max_file_size,
            file_limit: Arc::new(AtomicU64::new(options.max_file_size)),
            preallocates: options.sync == SyncPolicy::Always || options.map_files,
            maps: options.map_files && options.sync != SyncPolicy::Always,
            window: None,
            end,
            durable: end,
            marked,
            ends_marked,
            allocated: end,
            files_begun: 0,
            bytes_written: 0,
            unsettled: VecDeque::new(),
            settled_hint,
            poisoned: None,
            leftover: None,
            closed: false,
            scratch: Vec::new(),
            deliveries: VecDeque::new(),
            delivering: false,
        }
    }

    pub(crate) fn salt(&self) -> Salt {
        self.salt
    }

    /// Pins the active file, which holds the last group, so that it is not merged.
    pub(super) fn pin(&self) -> Pin {
        Pin::new(&self.active)
    }

    /// Returns an id below which no file holds, or will hold, an append that is not published yet.
    pub(crate) fn settled_below(&mut self) -> u64 {
        while self.unsettled.front().is_some_and(|file| !file.is_pinned()) {
            self.unsettled.pop_front();
        }
        let settled_below = self.unsettled.front().unwrap_or(&self.active).id;
        self.settled_hint.store(settled_below, Ordering::Release);
        settled_below
    }

    pub(super) fn file_limit_handle(&self) -> &Arc<AtomicU64> {
        &self.file_limit
    }

    fn file_limit(&self) -> u64 {
        self.file_limit.load(Ordering::Relaxed).min(self.max_file_size)
    }

    pub(super) fn settled_hint(&self) -> &Arc<AtomicU64> {
        &self.settled_hint
    }

    pub(crate) fn active_id(&self) -> u64 {
        self.active.id
    }

    pub(super) fn files_begun(&self) -> u64 {
        self.files_begun
    }

    pub(super) fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    /// Writes a group and returns its place; its first [`MARK_LEN`] bytes are room for a mark. On a full disk
    /// a group that consists of deletions draws on the reserve, because the bytes it makes dead can be freed.
    pub(super) fn write(&mut self, directory: &Directory, group: &mut [u8]) -> Result<Location, AppendError> {
        let mut written = self.write_once(directory, group);
        for _ in 0..TRIES {
            let is_full = matches!(written, Err(AppendError::NoSpace(_)));
            if !is_full || !only_deletes(group) || !directory.reserve().release(group.len() as u64) {
                break;
            }
            written = self.write_once(directory, group);
        }
        written
    }

    fn write_once(&mut self, directory: &Directory, group: &mut [u8]) -> Result<Location, AppendError> {
        self.check_sound()?;
        if self.closed {
            return Err(AppendError::Closed);
        }
        self.remove_leftover(directory)?;
        if self.end + group.len() as u64 > self.file_limit() && self.end > FILE_HEADER_LEN as u64 {
            self.rotate(directory)?;
        }
        let at = self.end;
        let mut skipped = MARK_LEN;
        // A mark that adds no information is left out.
        if self.durable > self.marked {
            group[..MARK_LEN].copy_from_slice(&encode_mark(self.salt, at, self.durable));
            skipped = 0;
        }
        self.write_at_end(&group[skipped..])?;
        self.marked = self.durable;
        Ok(Location { file: self.active.slot, offset: (at - skipped as u64) as u32, len: 0 })
    }

    fn write_at_end(&mut self, bytes: &[u8]) -> Result<(), AppendError> {
        if let Err(error) = self.preallocate(bytes.len() as u64) {
            // On a full disk nothing was written yet, and this file keeps its preallocated space.
            if !error.is_no_space() {
                self.take_back()?;
            }
            return Err(error.into());
        }
        if let Err(error) = self.put(bytes) {
            self.take_back()?;
            return Err(IoError::new("write", &self.active.path, error).into());
        }
        self.end += bytes.len() as u64;
        self.active.grown_to(self.end);
        self.bytes_written += bytes.len() as u64;
        self.ends_marked = false;
        self.allocated = self.allocated.max(self.end);
        Ok(())
    }

    /// Writes at the end of the records, into preallocated space or, if there is none, beyond it.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.end;
        match self.window_for(bytes.len()) {
            Some(window) => window.write(bytes, end),
            None => self.file.write_all_at(bytes, end),
        }
    }

    /// Returns the window, moved to cover the next `len` bytes; `None` if they are not written through a
    /// window.
    fn window_for(&mut self, len: usize) -> Option<&mut WritableMapping> {
        let needed = self.end + len as u64;
        if !self.maps || len > MAPPED_WRITE_MAX || needed > self.allocated {
            return None;
        }
        let end = self.end;
        if !self.window.as_ref().is_some_and(|window| window.contains(end, len)) {
            let start = end / MAPPING_STEP * MAPPING_STEP;
            let window_end = (start + WINDOW_BYTES).min(self.allocated);
            self.window = None;
            match self.file.map_to_write(start, window_end - start) {
                Ok(Some(window)) => self.window = Some(window),
                Ok(None) => self.maps = false,
                Err(error) => {
                    tracing::warn!(%error, "cannot map the active file: each append takes a system call");
                    self.maps = false;
                }
            }
        }
        self.window.as_mut()
    }

    /// Removes the possible remains of a failed write, durably, so that recovery does not find them.
    fn take_back(&mut self) -> Result<(), AppendError> {
        self.window = None;
        let cut = self.file.set_len(self.end).and_then(|()| self.file.sync_data());
        self.allocated = self.end;
        cut.map_err(|e| {
            AppendError::Poisoned(self.poison(IoError::new(
                "cut off a failed write from",
                &self.active.path,
                e,
            )))
        })
    }

    fn preallocate(&mut self, bytes: u64) -> Result<(), IoError> {
        let needed = self.end + bytes;
        if !self.preallocates || needed <= self.allocated {
            return Ok(());
        }
        let limit = self.file_limit();
        let step = PREALLOCATION_STEP.min(limit / 4);
        let target = (needed + step).min(limit.max(needed));
        match self.file.allocate(self.allocated, target - self.allocated) {
            Ok(()) => self.allocated = target,
            // This file system cannot preallocate: writes will extend the file.
            Err(e) if e.kind() == io::ErrorKind::Unsupported => self.preallocates = false,
            // The remaining space may still suffice for this write.
            Err(e) if e.kind() == io::ErrorKind::StorageFull && target > needed => {}
            Err(e) => return Err(IoError::new("extend", &self.active.path, e)),
        }
        Ok(())
    }

    /// Syncs the active file, to which exactly one group was appended since the last sync. If the sync finds
    /// no room, the group is undone.
    pub(super) fn sync_group(&mut self) -> Result<(), AppendError> {
        match self.file.sync_data() {
            Ok(()) => {
                self.durable = self.end;
                Ok(())
            }
            Err(e) => Err(self.not_synced(IoError::new("sync", &self.active.path, e))),
        }
    }

    /// Handles a failed sync of unacknowledged writes.
    ///
    /// Storage that allocates late (NFS, thin volumes, some copy-on-write file systems) detects only at the
    /// sync that it is full. The operating system drops such pages and treats them as synced. But the bytes
    /// that an earlier sync covered are on the disk. Cutting the file back to them restores its former state,
    /// with nothing left that a later sync could misreport. After any other failure the content of the disk
    /// is unknown.
    fn not_synced(&mut self, error: IoError) -> AppendError {
        if !error.is_no_space() {
            return AppendError::Poisoned(self.poison(error));
        }
        self.end = self.durable;
        self.active.grown_to(self.end);
        // The newest mark may have been cut as well: the next group writes it again.
        self.marked = FILE_HEADER_LEN as u64;
        self.ends_marked = false;
        match self.take_back() {
            Ok(()) => error.into(),
            Err(poisoned) => poisoned,
        }
    }

    /// Removes the possible remains of a file that was not begun; returns an error as long as that fails.
    fn remove_leftover(&mut self, directory: &Directory) -> Result<(), AppendError> {
        match self.leftover.take() {
            Some((path, error)) if !directory.take_away(&path) => {
                self.leftover = Some((path, error.clone()));
                Err(error.into())
            }
            _ => Ok(()),
        }
    }

    /// Returns the scope of a sync outside the lock, if there is something to sync.
    pub(super) fn unsynced(&self) -> Result<Option<Unsynced>, AppendError> {
        self.check_sound()?;
        let unsynced = || Unsynced { file: self.file.clone(), active: self.active.clone(), end: self.end };
        Ok((self.durable < self.end).then(unsynced))
    }

    /// Returns an error if the log is stopped.
    pub(super) fn check_sound(&self) -> Result<(), AppendError> {
        match &self.poisoned {
            Some(error) => Err(AppendError::Poisoned(error.clone())),
            None => Ok(()),
        }
    }

    /// Records the result of a sync outside the lock.
    pub(super) fn synced(&mut self, what: &Unsynced, result: Result<(), IoError>) -> Result<(), AppendError> {
        match result {
            Err(error) => Err(AppendError::Poisoned(self.poison(error))),
            Ok(()) if what.active.id == self.active.id => {
                self.durable = self.durable.max(what.end);
                Ok(())
            }
            // A newer file was begun meanwhile; before that, this one was synced as a whole.
            Ok(()) => Ok(()),
        }
    }

    /// Completes the active file and begins the next, unless the active file is empty; returns the active
    /// file's id.
    pub(super) fn seal_active(&mut self, directory: &Directory) -> Result<u64, AppendError> {
        self.check_sound()?;
        if self.closed {
            return Err(AppendError::Closed);
        }
        self.remove_leftover(directory)?;
        if self.end > FILE_HEADER_LEN as u64 {
            self.rotate(directory)?;
        }
        Ok(self.active.id)
    }

    /// Completes the active file and begins the next.
    fn rotate(&mut self, directory: &Directory) -> Result<(), AppendError> {
        self.complete()?;
        let begun = create_active(directory, &self.files, self.salt);
        let (active, file) = begun.map_err(|NotBegun { error, leftover }| match leftover {
            None => AppendError::from(error),
            Some(path) if error.is_no_space() => {
                self.leftover = Some((path, error.clone()));
                error.into()
            }
            Some(_) => AppendError::Poisoned(self.poison(error)),
        })?;
        self.files.seal(&self.active, self.end);
        self.unsettled.push_back(self.active.clone());
        self.active = active;
        self.file = file;
        self.settled_below();
        self.end = FILE_HEADER_LEN as u64;
        self.durable = self.end;
        self.marked = self.end;
        self.allocated = self.end;
        self.ends_marked = false;
        self.files_begun += 1;
        self.bytes_written += self.end;
        Ok(())
    }

    /// Cuts the file to its records, ends it with a mark that covers all of them, and syncs it.
    fn complete(&mut self) -> Result<(), AppendError> {
        self.cut_and_sync(self.durable < self.end)?;
        if !self.ends_marked {
            let preallocates = std::mem::replace(&mut self.preallocates, false);
            // Only after the sync: a mark must not reach the disk before the bytes that it covers are
            // durable.
            let marked = self.write_at_end(&encode_mark(self.salt, self.end, self.durable));
            self.preallocates = preallocates;
            marked?;
            self.cut_and_sync(false)?;
            self.marked = self.durable;
            self.ends_marked = true;
        }
        Ok(())
    }

    /// Cuts the file to its records and syncs it. `acknowledged` states whether any of the unsynced bytes
    /// were acknowledged; a failure may lose them.
    fn cut_and_sync(&mut self, acknowledged: bool) -> Result<(), AppendError> {
        self.window = None;
        self.allocated = self.end;
        if let Err(e) = self.file.set_len(self.end).and_then(|()| self.file.sync_all()) {
            let error = IoError::new("complete", &self.active.path, e);
            return Err(if acknowledged {
                AppendError::Poisoned(self.poison(error))
            } else {
                self.not_synced(error)
            });
        }
        self.durable = self.end;
        Ok(())
    }

    /// Completes the active file like a clean stop, so that damage to its end can be distinguished from a
    /// torn tail. Rejects all later writes.
    pub(super) fn finish(&mut self) -> Result<(), AppendError> {
        self.check_sound()?;
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        match self.complete() {
            // The records are durable without the mark: a full disk must not make closing fail.
            Err(AppendError::Io(error) | AppendError::NoSpace(error)) => {
                tracing::warn!(%error, "cannot write the active file's end mark; its records are durable");
                Ok(())
            }
            result => result,
        }
    }

    /// Stops the log until the store is reopened; keeps the first error.
    pub(super) fn poison(&mut self, error: IoError) -> IoError {
        tracing::error!(%error, "the log is stopped; check the disk, then reopen the store");
        self.poisoned.get_or_insert(error).clone()
    }
}
