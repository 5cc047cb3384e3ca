//! The end of the active file: writes, marks, syncs, preallocates, begins the next file.
//!
//! Invariants: `durable <= end <= allocated`; what is below `durable` was synced; a file's records begin only
//! after its header and its name are durable; a file is cut to its records and synced before the next begins,
//! so that of all log files only the newest can have a torn tail.

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
use crate::log::{Appended, Done};
use crate::options::{Options, SyncPolicy};
use crate::reserve::TRIES;

/// The file is preallocated in steps of at most this: a sync of preallocated bytes need not sync a new length.
const PREALLOCATION_STEP: u64 = 16 << 20;

/// Bytes of the active file that are mapped at once. More would show as memory of this process.
const WINDOW_BYTES: u64 = 4 << 20;

/// What is longer is written with a call: that costs less than to touch as many pages.
const MAPPED_WRITE_MAX: usize = 64 << 10;

const _: () = assert!(WINDOW_BYTES >= MAPPING_STEP + MAPPED_WRITE_MAX as u64);

// Offsets count from the room for a mark, also in a group that is written without it.
const _: () = assert!(FILE_HEADER_LEN >= MARK_LEN);

/// Who appends to the active file.
pub(crate) struct Writer {
    files: Arc<FileTable>,
    active: Arc<DataFile>,
    file: Arc<dyn FileHandle>,
    salt: Salt,
    max_file_size: u64,
    /// Bytes after which the next file is begun already: set by who knows how large the store is.
    file_limit: Arc<AtomicU64>,
    preallocates: bool,
    /// Whether short writes go through the window, which saves a system call each. Of no use where each group is synced.
    maps: bool,
    /// The stretch of the file's preallocated part that is mapped. There is none while the file is cut.
    window: Option<WritableMapping>,
    /// Where the next record goes.
    end: u64,
    /// Below this everything was synced.
    durable: u64,
    /// What the newest mark says.
    marked: u64,
    /// Whether the file's last record is that mark, so that it covers all of it.
    ends_marked: bool,
    /// Length of the file, preallocated bytes included.
    allocated: u64,
    /// Files begun and bytes written (headers and marks too) since the start.
    files_begun: u64,
    bytes_written: u64,
    /// Sealed files that appends not published yet may be in.
    unsettled: VecDeque<Arc<DataFile>>,
    /// What [`Writer::settled_below`] said last.
    settled_hint: Arc<AtomicU64>,
    poisoned: Option<IoError>,
    /// A file that was not begun, for want of space, and that may be there after a crash: it must be gone before
    /// anything is written to the active one, which a start would take for complete.
    leftover: Option<(PathBuf, IoError)>,
    closed: bool,
    /// For policies that write inline: the encoder's buffer, and callbacks to run.
    pub(super) scratch: Vec<u8>,
    pub(super) deliveries: VecDeque<(Done, Result<Appended, AppendError>)>,
    pub(super) delivering: bool,
}

/// What a sync outside the writer's lock is about.
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

/// Whether the records of a group, whose first bytes are room for a mark, are tombstones alone.
fn only_deletes(group: &[u8]) -> bool {
    let mut rest = group.get(MARK_LEN..).unwrap_or_default();
    while !rest.is_empty() {
        let len = match Header::decode(rest) {
            Ok(header) if header.kind == Kind::Tombstone => header.record_len() as usize,
            // Its records follow.
            Ok(header) if header.kind == Kind::Batch => RECORD_HEADER_LEN,
            _ => return false,
        };
        rest = rest.get(len..).unwrap_or_default();
    }
    true
}

/// Makes a new log file, with its header durable; registers it as the active one.
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

/// Why a log file was not begun.
#[derive(Debug)]
pub(crate) struct NotBegun {
    pub(crate) error: IoError,
    /// Where it may be after a crash. Then the file before it must not be appended to: a start would take that one for
    /// complete.
    leftover: Option<PathBuf>,
}

/// What is wrong when no slot is left.
pub(crate) fn too_many_files(path: &std::path::Path) -> IoError {
    let full = "there are 65,535 data files, more cannot be told apart; merge them, and raise max_file_size";
    IoError::new("begin", path, io::Error::other(full))
}

impl Writer {
    /// Goes on at `end` of a file whose content below it is durable and whose length it is; `marked` is what
    /// its newest mark says, `ends_marked` whether that is the last record.
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

    /// Keeps the active file, which the last group went to, from being merged.
    pub(super) fn pin(&self) -> Pin {
        Pin::new(&self.active)
    }

    /// No append that is not published yet is, or will be, in a file of a lower id.
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

    /// Writes a group, whose first [`MARK_LEN`] bytes are room for a mark; tells where it begins. On a full disk a group
    /// that only deletes draws on the reserve: what it makes dead can be freed.
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
        // A mark that says nothing new is left out.
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
            // On a full disk nothing was written yet, and the space that is preallocated stays this file's.
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

    /// The window, moved to where so many bytes are to go; none if they are not to go through one.
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
                    tracing::warn!(%error, "the active file cannot be mapped: each append takes a system call");
                    self.maps = false;
                }
            }
        }
        self.window.as_mut()
    }

    /// Removes what a failed write may have left, durably, so that recovery will not find it.
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
            // This file system cannot: writes will extend the file.
            Err(e) if e.kind() == io::ErrorKind::Unsupported => self.preallocates = false,
            // The last of the space may still do for this write.
            Err(e) if e.kind() == io::ErrorKind::StorageFull && target > needed => {}
            Err(e) => return Err(IoError::new("extend", &self.active.path, e)),
        }
        Ok(())
    }

    /// Syncs the active file, to whose end one group was written since the last sync, and nothing else: where there is
    /// no room for it, it is taken back.
    pub(super) fn sync_group(&mut self) -> Result<(), AppendError> {
        match self.file.sync_data() {
            Ok(()) => {
                self.durable = self.end;
                Ok(())
            }
            Err(e) => Err(self.not_synced(IoError::new("sync", &self.active.path, e))),
        }
    }

    /// What a failed sync means for what was written since the last one, which nobody was told is written.
    ///
    /// Storage that allocates late (NFS, thin volumes, some that copy on write) finds only then that it is full. The
    /// operating system drops such pages and takes them for synced. But what an earlier sync covered is on the disk:
    /// cut back to that, the file is as it was, and nothing is left that a later sync could lie about. Any other failure
    /// leaves open what is on the disk.
    fn not_synced(&mut self, error: IoError) -> AppendError {
        if !error.is_no_space() {
            return AppendError::Poisoned(self.poison(error));
        }
        self.end = self.durable;
        self.active.grown_to(self.end);
        // The mark that says so may have been taken back as well: the next group brings it again.
        self.marked = FILE_HEADER_LEN as u64;
        self.ends_marked = false;
        match self.take_back() {
            Ok(()) => error.into(),
            Err(poisoned) => poisoned,
        }
    }

    /// Removes for good what a file that was not begun may have left; an error as long as that fails.
    fn remove_leftover(&mut self, directory: &Directory) -> Result<(), AppendError> {
        match self.leftover.take() {
            Some((path, error)) if !directory.take_away(&path) => {
                self.leftover = Some((path, error.clone()));
                Err(error.into())
            }
            _ => Ok(()),
        }
    }

    /// What a sync outside the lock would make durable, if anything.
    pub(super) fn unsynced(&self) -> Result<Option<Unsynced>, AppendError> {
        self.check_sound()?;
        let unsynced = || Unsynced { file: self.file.clone(), active: self.active.clone(), end: self.end };
        Ok((self.durable < self.end).then(unsynced))
    }

    /// An error if the log is stopped.
    pub(super) fn check_sound(&self) -> Result<(), AppendError> {
        match &self.poisoned {
            Some(error) => Err(AppendError::Poisoned(error.clone())),
            None => Ok(()),
        }
    }

    /// Takes note of such a sync.
    pub(super) fn synced(&mut self, what: &Unsynced, result: Result<(), IoError>) -> Result<(), AppendError> {
        match result {
            Err(error) => Err(AppendError::Poisoned(self.poison(error))),
            Ok(()) if what.active.id == self.active.id => {
                self.durable = self.durable.max(what.end);
                Ok(())
            }
            // A newer file was begun meanwhile, for which this one was synced whole.
            Ok(()) => Ok(()),
        }
    }

    /// Completes the active file and begins the next, unless there is nothing in it; returns the active file's id.
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

    /// Leaves the file cut to its records, ended by a mark of all of them, and synced.
    fn complete(&mut self) -> Result<(), AppendError> {
        self.cut_and_sync(self.durable < self.end)?;
        if !self.ends_marked {
            let preallocates = std::mem::replace(&mut self.preallocates, false);
            // Only now: a mark must not reach the disk before what it says is durable.
            let marked = self.write_at_end(&encode_mark(self.salt, self.end, self.durable));
            self.preallocates = preallocates;
            marked?;
            self.cut_and_sync(false)?;
            self.marked = self.durable;
            self.ends_marked = true;
        }
        Ok(())
    }

    /// `acknowledged`: whether somebody was told that what this is to sync is written; it may be gone if that fails.
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

    /// Leaves the active file as a clean stop does, so that damage to its end will be told from a torn tail.
    /// Nothing can be written after it.
    pub(super) fn finish(&mut self) -> Result<(), AppendError> {
        self.check_sound()?;
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        match self.complete() {
            // The records are durable without the mark: a full disk must not make closing fail.
            Err(AppendError::Io(error) | AppendError::NoSpace(error)) => {
                tracing::warn!(%error, "the active file was left without its closing mark");
                Ok(())
            }
            result => result,
        }
    }

    /// Stops the log for good, unless it is already.
    pub(super) fn poison(&mut self, error: IoError) -> IoError {
        tracing::error!(%error, "the log is stopped");
        self.poisoned.get_or_insert(error).clone()
    }
}
