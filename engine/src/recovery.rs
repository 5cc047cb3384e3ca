//! Opening: reads what the data files hold and rebuilds the keydir.
//!
//! A sealed file is read through its hint file; where there is none, or it is not right, the data file itself is
//! scanned, and given a new hint. Then the keydir is filled partition by partition, from all files at once, so that
//! of each key only the newest record is ever looked up in it. Both steps use all cores and bounded memory.
//!
//! The newest log file is the active one: the only one that may end in a torn tail, which is cut. What a mark in
//! it covers, and all of every other file, was synced: there each record must be whole, else the file is
//! *damaged*, the bad stretch is quarantined (left as it is, reported, never served) and reading goes on at the
//! next whole record. A hint file without its data file says that the data file was lost: that is damage, too. A
//! record of another era than its partition's belongs to a dropped partition and is dead. A file whose id this store
//! provably never gave out, and which is no data file, was put there by somebody: it is set aside, and is no damage.
//! Refuses files of another format version.

pub(crate) mod load;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use self::load::load;
use crate::data_file::{DataFile, FileTable, open_to_read};
use crate::directory::{Directory, Listing, data_name};
use crate::error::{IoError, OpenError};
use crate::file_scan::{Bounds, End};
use crate::file_system::{FileHandle, FileSystem, OpenMode};
use crate::format::{Bad, FILE_HEADER_LEN, FileHeader, FileKind};
use crate::hint_file::{HintSource, Sections, Visited, entry_of, scanner_of, visit};
use crate::keydir::Keydir;
use crate::log::{Writer, random_salt};
use crate::options::Options;

/// Stretches listed in a report; more are counted only.
pub(crate) const QUARANTINED_LISTED_MAX: usize = 10_000;

/// What is wrong with a complete file that does not end as one.
pub(crate) const MARK_MISSING: &str =
    "the mark that should close the file is missing: records before it may be, too";

/// Bytes that are written again at a time.
const WRITE_AGAIN_STEP: u64 = 1 << 20;

/// What was found when a store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Data files read.
    pub files: usize,
    /// Those that were scanned, for want of a good hint file; the active one is always.
    pub scanned_files: usize,
    /// Records found, dead ones and tombstones included.
    pub records: u64,
    /// Keys with a live record.
    pub live_keys: u64,
    /// Bytes cut from the torn tail of the active file: appends that were never acknowledged under
    /// `sync = always`.
    pub cut_bytes: u64,
    /// Stretches that should hold records and do not: the first 10,000.
    pub quarantined: Vec<Quarantined>,
    /// How many there are.
    pub quarantined_total: u64,
    /// Files that have names of data or hint files, and that this store provably never made: they were set aside under
    /// these names, and nothing is missing without them.
    pub strays: Vec<PathBuf>,
}

impl Recovery {
    /// Whether synced data was found damaged: some keys may be missing or older than they should be.
    pub fn is_damaged(&self) -> bool {
        self.quarantined_total > 0
    }

    fn quarantine(&mut self, stretch: Quarantined) {
        tracing::error!(file = %stretch.path.display(), offset = stretch.offset, bytes = stretch.bytes,
            reason = stretch.reason, "damaged data was quarantined");
        self.quarantined_total += 1;
        if self.quarantined.len() < QUARANTINED_LISTED_MAX {
            self.quarantined.push(stretch);
        }
    }
}

/// A stretch of a data file that does not hold what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// The data file.
    pub path: PathBuf,
    /// Its number.
    pub file_id: u64,
    /// Where the stretch begins.
    pub offset: u64,
    /// Bytes up to the next whole record, or the file's end.
    pub bytes: u64,
    /// What is wrong with its beginning.
    pub reason: String,
}

/// A store as it was found, ready to go on.
pub(crate) struct Recovered {
    pub(crate) report: Recovery,
    pub(crate) writer: Writer,
    /// Highest version of all records, whatever their era.
    pub(crate) highest_version: u64,
    /// Ids of the files that cannot be read at all.
    pub(crate) unreadable: Vec<u64>,
}

/// A data file whose header was read.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) id: u64,
    pub(crate) path: PathBuf,
    header: Result<FileHeader, Bad>,
    pub(crate) len: u64,
}

impl Known {
    pub(crate) fn quarantined(&self, offset: u64, bytes: u64, reason: impl ToString) -> Quarantined {
        let (path, file_id) = (self.path.clone(), self.id);
        Quarantined { path, file_id, offset, bytes, reason: reason.to_string() }
    }

    /// The header of a file that can be read; else what is wrong with it.
    pub(crate) fn usable(&self) -> Result<FileHeader, Quarantined> {
        match &self.header {
            Ok(_) if self.len > u32::MAX.into() => {
                Err(self.quarantined(0, self.len, "it is larger than any of ours"))
            }
            Ok(header) if header.id == self.id => Ok(*header),
            Ok(header) => {
                let reason = format!("its header says that it is data file {}", header.id);
                Err(self.quarantined(0, self.len, reason))
            }
            Err(bad) => Err(self.quarantined(0, self.len, format!("the file's header: {bad}"))),
        }
    }
}

/// What is known of a file that can be read.
struct Readable {
    known: Known,
    header: FileHeader,
    file: Arc<DataFile>,
    /// Where it is written, if it is the active one.
    active: Option<Arc<dyn FileHandle>>,
}

/// A file and what it holds.
struct Source {
    file: Arc<DataFile>,
    hint: HintSource,
    /// Position in the list of readable files.
    index: usize,
}

/// What reading one file gave.
struct FileRead {
    hint: HintSource,
    scanned: bool,
    quarantined: Vec<Quarantined>,
    /// Of the active file: how its records end.
    end: Option<End>,
}

/// Finds names of data and hint files that are none of this store's: above every id that it ever gave out, and not
/// one data file among them. If one is, the ids file is not true (it was put back from a backup, say), and none is a stray.
/// At or below the ceiling a file without a valid header is damage: it may be one of ours.
pub(crate) fn strays(
    file_system: &dyn FileSystem,
    directory: &Path,
    listing: &Listing,
    ceiling: Option<u64>,
) -> Listing {
    let Some(ceiling) = ceiling else { return Listing::default() };
    let above = |ids: &[u64]| ids.iter().copied().filter(|&id| id > ceiling).collect::<Vec<_>>();
    let data = above(&listing.data);
    let may_be_ours = |&id: &u64| {
        let known = look_at(file_system, directory.join(data_name(id)), id);
        known.map_or(true, |known| known.usable().is_ok())
    };
    if data.iter().any(may_be_ours) {
        return Listing::default();
    }
    Listing { data, hints: above(&listing.hints) }
}

/// Sets strays aside and takes them out of the listing; what cannot be set aside counts as damage.
pub(crate) fn set_strays_aside(directory: &mut Directory, listing: &mut Listing) -> Vec<PathBuf> {
    let mut found = strays(&**directory.file_system(), directory.path(), listing, directory.ids_ceiling());
    let mut aside = Vec::new();
    let mut set_aside = |path: PathBuf| match directory.set_aside(&path) {
        Ok(now) => {
            tracing::warn!(file = %path.display(), now = %now.display(),
                "a file in the store's directory is none of the store's: it was set aside, nothing is missing;                  remove it if nobody needs it");
            aside.push(now);
            true
        }
        Err(error) => {
            tracing::warn!(%error, "a file that is none of the store's cannot be set aside");
            false
        }
    };
    found.data.retain(|&id| set_aside(directory.data_path(id)));
    found.hints.retain(|&id| set_aside(directory.hint_path(id)));
    directory.forget(&found, listing);
    aside
}

/// Reads the listed files into the keydir and finds the end of the active one.
pub(crate) fn recover(
    options: &Options,
    directory: &Directory,
    listing: &Listing,
    files: &Arc<FileTable>,
    keydir: &Keydir,
) -> Result<Recovered, OpenError> {
    let mut report = Recovery { files: listing.data.len(), ..Recovery::default() };
    lost_files(directory, listing, &mut report);
    let (readable, unreadable) = open_files(directory, listing, files, &mut report)?;
    let mut reads = in_parallel(readable.len(), |index| {
        readable.get(index).map(|file| read_file(directory, file, listing, false)).transpose()
    })?;
    let (sources, highest_version) = loop {
        let sources = sources_of(&readable, &mut reads);
        match load(directory, keydir, &sources)? {
            Ok(highest_version) => break (sources, highest_version),
            Err(bad) => {
                // Its data file serves instead; nothing was taken from it that is not overwritten now.
                give_back(sources, &mut reads);
                for index in bad {
                    if let (Some(file), Some(read)) = (readable.get(index), reads.get_mut(index)) {
                        *read = Some(read_file(directory, file, listing, true)?);
                    }
                }
            }
        }
    };
    report.records = sources.iter().map(|source| source.hint.entries()).sum();
    let mut active = None;
    give_back(sources, &mut reads);
    for (file, read) in readable.iter().zip(reads.into_iter().flatten()) {
        report.scanned_files += usize::from(read.scanned);
        read.quarantined.into_iter().for_each(|stretch| report.quarantine(stretch));
        if let (Some(end), Some(handle)) = (read.end, &file.active) {
            active = Some((file, handle.clone(), end));
        }
    }
    let writer = match active {
        Some((file, handle, end)) => {
            report.cut_bytes = end.cut_bytes;
            let marks = (end.marked, end.ends_marked);
            Writer::new(options, files.clone(), (file.file.clone(), handle), end.offset, marks)
        }
        None => {
            let create = || crate::log::create_active(directory, files, random_salt());
            let created = match create() {
                Err(not_begun) if not_begun.error.is_no_space() && directory.reserve().release(0) => create(),
                created => created,
            };
            let created = created.map_err(|not_begun| not_begun.error)?;
            let start = FILE_HEADER_LEN as u64;
            Writer::new(options, files.clone(), created, start, (start, false))
        }
    };
    // What is appended from now on may overtake records in files of higher ids than the active one.
    files.all().iter().for_each(|file| file.lower_reach(writer.active_id()));
    report.live_keys = keydir.totals().live_keys;
    Ok(Recovered { report, writer, highest_version, unreadable })
}

/// Reports hint files whose data file is missing: a merge removes the hint first.
fn lost_files(directory: &Directory, listing: &Listing, report: &mut Recovery) {
    lost(listing).for_each(|id| report.quarantine(lost_file(directory.data_path(id), id)));
}

/// Ids of the data files that are gone, as their hint files tell.
pub(crate) fn lost(listing: &Listing) -> impl Iterator<Item = u64> {
    listing.hints.iter().filter(|id| listing.data.binary_search(id).is_err()).copied()
}

/// What is said of a data file that is gone.
pub(crate) fn lost_file(path: PathBuf, file_id: u64) -> Quarantined {
    let reason = "the file is missing, but its hint file is there; put it back, or remove the hint file if you know \
                  that its records are not needed";
    Quarantined { path, file_id, offset: 0, bytes: 0, reason: reason.to_owned() }
}

/// Opens what can be read; the rest is reported, and listed by id.
fn open_files(
    directory: &Directory,
    listing: &Listing,
    files: &FileTable,
    report: &mut Recovery,
) -> Result<(Vec<Readable>, Vec<u64>), OpenError> {
    let known = in_parallel(listing.data.len(), |index| {
        let id = listing.data.get(index).copied();
        id.map(|id| look_at(&**directory.file_system(), directory.data_path(id), id)).transpose()
    })?;
    let known: Vec<Known> = known.into_iter().flatten().collect();
    let active_id = active_of(&known);
    let mut unreadable: Vec<u64> = lost(listing).collect();
    let mut readable = Vec::with_capacity(known.len());
    let mut inserted = Vec::with_capacity(known.len());
    for known in known {
        let header = match known.usable() {
            Ok(header) => header,
            Err(stretch) => {
                report.quarantine(stretch);
                unreadable.push(known.id);
                continue;
            }
        };
        let active = if Some(known.id) == active_id {
            let opened = directory.file_system().open(&known.path, OpenMode::ReadWrite);
            Some(opened.map_err(|e| IoError::new("open", &known.path, e))?)
        } else {
            None
        };
        inserted.push((known, header, active));
    }
    let placed = files.insert_all(inserted.len(), |index, slot| {
        let (known, header, active) = inserted.get(index)?;
        let path = known.path.clone();
        Some(Arc::new(match active {
            Some(handle) => {
                let lens = (known.len, files.active_map_len());
                DataFile::active(slot, path, header, handle.clone(), lens)
            }
            None => DataFile::sealed(slot, path, header, known.len),
        }))
    });
    let placed = placed.ok_or_else(|| crate::log::too_many_files(directory.path()))?;
    for ((known, header, active), file) in inserted.into_iter().zip(placed) {
        readable.push(Readable { known, header, file, active });
    }
    Ok((readable, unreadable))
}

/// The active one of these files, by id ascending. A file whose header is damaged is never appended to, whatever it was.
pub(crate) fn active_of(known: &[Known]) -> Option<u64> {
    known
        .iter()
        .rfind(|file| file.header.as_ref().map_or(true, |header| header.kind == FileKind::Log))
        .filter(|file| file.header.as_ref().is_ok_and(|header| header.id == file.id))
        .map(|file| file.id)
}

/// Reads the header of a data file.
pub(crate) fn look_at(file_system: &dyn FileSystem, path: PathBuf, id: u64) -> Result<Known, OpenError> {
    let file = open_to_read(file_system, &path)?;
    let len = file.len().map_err(|e| IoError::new("look at", &path, e))?;
    let mut bytes = vec![0; FILE_HEADER_LEN.min(len as usize)];
    file.read_exact_at(&mut bytes, 0).map_err(|e| IoError::new("read", &path, e))?;
    match FileHeader::decode(&bytes) {
        Err(bad @ Bad::FormatVersion(_)) => Err(OpenError::Format { path, reason: bad.to_string() }),
        header => Ok(Known { id, path, header, len }),
    }
}

/// Finds out what a file holds.
fn read_file(
    directory: &Directory,
    file: &Readable,
    listing: &Listing,
    hint_is_bad: bool,
) -> Result<FileRead, OpenError> {
    if file.active.is_some() {
        return read_active(file);
    }
    let has_hint = listing.hints.binary_search(&file.known.id).is_ok();
    if has_hint && !hint_is_bad {
        let path = directory.hint_path(file.known.id);
        match HintSource::open(&**directory.file_system(), &path, &file.header, file.known.len) {
            Ok(hint) => {
                file.file.set_has_hint();
                return Ok(FileRead { hint, scanned: false, quarantined: Vec::new(), end: None });
            }
            Err(reason) => {
                tracing::warn!(file = %path.display(), reason, "a hint file is not right; its data file is scanned");
            }
        }
    }
    read_sealed(directory, file)
}

/// Scans a sealed file; gives it a hint if all of it is whole.
fn read_sealed(directory: &Directory, file: &Readable) -> Result<FileRead, OpenError> {
    let handle = open_to_read(&**directory.file_system(), &file.known.path)?;
    let (sections, mut quarantined, end) = scan(file, &handle, Bounds::Sealed)?;
    if !end.ends_marked {
        quarantined.push(file.known.quarantined(end.offset, 0, MARK_MISSING));
    }
    let hint = if quarantined.is_empty() {
        file.file.set_has_hint();
        sections.write(directory, &file.header, file.known.len).unwrap_or_else(|error| {
            tracing::warn!(%error, "a hint file could not be written; its data file will be scanned again");
            HintSource::in_memory(sections)
        })
    } else {
        file.file.set_lost();
        HintSource::in_memory(sections)
    };
    Ok(FileRead { hint, scanned: true, quarantined, end: None })
}

/// Scans the active file, cuts its torn tail and makes durable what is left.
fn read_active(file: &Readable) -> Result<FileRead, OpenError> {
    let Some(handle) = &file.active else { return Err(OpenError::Options(Vec::new())) };
    let failed = |action| move |e| IoError::new(action, &file.known.path, e);
    let (sections, quarantined, end) = scan(file, handle, Bounds::Active)?;
    if !quarantined.is_empty() {
        file.file.set_lost();
    }
    if end.offset < file.known.len {
        handle.set_len(end.offset).map_err(failed("cut the torn tail of"))?;
    }
    write_again(&**handle, end.marked, end.offset).map_err(failed("write again the end of"))?;
    // A mark will say that all this is durable.
    handle.sync_all().map_err(failed("sync"))?;
    Ok(FileRead { hint: HintSource::in_memory(sections), scanned: true, quarantined, end: Some(end) })
}

/// Writes bytes as they are. After a failed sync the operating system may take them for synced that never reached the
/// disk, and say so of every later sync (Rebello et al., "Can applications recover from fsync failures?", 2020): only
/// what is written anew is synced in truth.
fn write_again(handle: &dyn FileHandle, mut from: u64, to: u64) -> io::Result<()> {
    let mut bytes = vec![0; to.saturating_sub(from).min(WRITE_AGAIN_STEP) as usize];
    while from < to {
        bytes.truncate((to - from) as usize);
        handle.read_exact_at(&mut bytes, from)?;
        handle.write_all_at(&bytes, from)?;
        from += bytes.len() as u64;
    }
    Ok(())
}

fn scan(
    file: &Readable,
    handle: &Arc<dyn FileHandle>,
    bounds: Bounds,
) -> Result<(Sections, Vec<Quarantined>, End), IoError> {
    let mut sections = Sections::new();
    let mut quarantined = Vec::new();
    let mut scanner = scanner_of(handle, &file.known.path, &file.header, file.known.len);
    let end = visit(&mut scanner, &file.header, bounds, |visited| {
        match visited {
            Visited::Record(offset, record) => sections.push(&entry_of(file.known.id, offset, record)),
            Visited::Bad { offset, bytes, reason } => {
                quarantined.push(file.known.quarantined(offset, bytes, reason));
            }
        }
        Ok::<_, IoError>(())
    })?;
    Ok((sections, quarantined, end))
}

/// Takes the hints out of what was read, with their files.
fn sources_of(readable: &[Readable], reads: &mut [Option<FileRead>]) -> Vec<Source> {
    let source = |(index, (file, read)): (usize, (&Readable, &mut Option<FileRead>))| {
        let hint = std::mem::take(&mut read.as_mut()?.hint);
        Some(Source { file: file.file.clone(), hint, index })
    };
    readable.iter().zip(reads).enumerate().filter_map(source).collect()
}

fn give_back(sources: Vec<Source>, reads: &mut [Option<FileRead>]) {
    for source in sources {
        if let Some(Some(read)) = reads.get_mut(source.index) {
            read.hint = source.hint;
        }
    }
}

/// Threads that open a store.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
}

/// Does the work of all indices below `count` on all cores; what comes back is in their order. The first error ends it.
pub(crate) fn in_parallel<T: Send, E: Send>(
    count: usize,
    work: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(count));
    let failed = Mutex::new(None);
    let run = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count || failed.lock().is_some() {
                return;
            }
            match work(index) {
                Ok(result) => done.lock().push((index, result)),
                Err(error) => drop(failed.lock().get_or_insert(error)),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads().min(count) {
            scope.spawn(run);
        }
        run();
    });
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    let mut done = done.into_inner();
    done.sort_unstable_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}
