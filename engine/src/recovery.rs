//! Opening a store: reads the data files and rebuilds the keydir.
//!
//! A sealed file is read through its hint file. If the hint is missing or invalid, the data file is scanned
//! and gets a new hint. Then the keydir is filled partition by partition, from all files at once, so that
//! only the newest record of each key is inserted. Both steps use all cores and bounded memory.
//!
//! The newest log file is the active one. Only it may end in a torn tail, which is cut. The part of it that a
//! mark covers, and all other files, were synced: every record there must be whole. Otherwise the file is
//! *damaged*: the bad stretch is quarantined (kept, reported, never served) and reading continues at the next
//! whole record. A hint file without its data file is damage too. A record whose era is not its partition's
//! belongs to a dropped partition and is dead. A file that is no data file, and whose id this store provably
//! never allocated, is foreign: it is set aside, and is no damage. Rejects files of another format
//! version, or of a build before the first release.

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

/// Limit of the stretches listed in a report; further ones are only counted.
pub(crate) const QUARANTINED_LISTED_MAX: usize = 10_000;

/// Description of a complete file that lacks its end mark.
pub(crate) const MARK_MISSING: &str =
    "the end mark of the file is missing: records before it may be missing too";

/// Bytes rewritten at a time.
const WRITE_AGAIN_STEP: u64 = 1 << 20;

/// Result of opening a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Number of data files read.
    pub files: usize,
    /// Number of data files that were scanned because no valid hint file exists; this includes the active
    /// one.
    pub scanned_files: usize,
    /// Number of records found, including dead ones and tombstones.
    pub records: u64,
    /// Number of keys with a live record.
    pub live_keys: u64,
    /// Bytes cut from the torn tail of the active file: appends that were never acknowledged under `sync =
    /// always`.
    pub cut_bytes: u64,
    /// Stretches that should hold records and do not: the first 10,000.
    pub quarantined: Vec<Quarantined>,
    /// Number of all such stretches.
    pub quarantined_total: u64,
    /// New names of foreign files: they had names of data or hint files, but this store never created them.
    /// They were set aside; no data is missing without them.
    pub strays: Vec<PathBuf>,
}

impl Recovery {
    /// Returns whether synced data was found damaged: some keys may be missing, or older than acknowledged.
    pub fn is_damaged(&self) -> bool {
        self.quarantined_total > 0
    }

    fn quarantine(&mut self, stretch: Quarantined) {
        tracing::error!(file = %stretch.path.display(), offset = stretch.offset, bytes = stretch.bytes,
            reason = stretch.reason, "quarantined damaged data; restore its keys from another copy");
        self.quarantined_total += 1;
        if self.quarantined.len() < QUARANTINED_LISTED_MAX {
            self.quarantined.push(stretch);
        }
    }
}

/// A stretch of a data file whose bytes are not those written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// The data file.
    pub path: PathBuf,
    /// Id of the data file.
    pub file_id: u64,
    /// Offset of the stretch.
    pub offset: u64,
    /// Bytes up to the next whole record, or the end of the file.
    pub bytes: u64,
    /// Description of the damage to the first record.
    pub reason: String,
}

/// A recovered store, ready to open.
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

    /// Returns the header of a file that can be read; otherwise the reason why it cannot.
    pub(crate) fn usable(&self) -> Result<FileHeader, Quarantined> {
        match &self.header {
            Ok(_) if self.len > u32::MAX.into() => {
                Err(self.quarantined(0, self.len, "it is larger than any data file of a store"))
            }
            Ok(header) if header.id == self.id => Ok(*header),
            Ok(header) => {
                let reason = format!("its header states that it is data file {}", header.id);
                Err(self.quarantined(0, self.len, reason))
            }
            Err(bad) => Err(self.quarantined(0, self.len, format!("the file's header: {bad}"))),
        }
    }
}

/// A data file that can be read.
struct Readable {
    known: Known,
    header: FileHeader,
    file: Arc<DataFile>,
    /// Handle for writing, if this is the active file.
    active: Option<Arc<dyn FileHandle>>,
}

/// A data file and its hint.
struct Source {
    file: Arc<DataFile>,
    hint: HintSource,
    /// Index in the list of readable files.
    index: usize,
}

/// Result of reading one file.
struct FileRead {
    hint: HintSource,
    scanned: bool,
    quarantined: Vec<Quarantined>,
    /// End of the records, if this is the active file.
    end: Option<End>,
}

/// Returns names of data and hint files that do not belong to this store: their ids are above every id that
/// it ever allocated, and none of them is a valid data file. If one is, the ids file is outdated (for example
/// restored from a backup), and no file is a stray. At or below the ceiling a file without a valid header is
/// damage: it may belong to this store.
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

/// Sets strays aside and removes them from the listing; a stray that cannot be set aside counts as damage.
pub(crate) fn set_strays_aside(directory: &mut Directory, listing: &mut Listing) -> Vec<PathBuf> {
    let mut found = strays(&**directory.file_system(), directory.path(), listing, directory.ids_ceiling());
    let mut aside = Vec::new();
    let mut set_aside = |path: PathBuf| match directory.set_aside(&path) {
        Ok(now) => {
            tracing::warn!(file = %path.display(), now = %now.display(),
                "set aside a file that is not part of this store; no data is missing; remove it if unneeded");
            aside.push(now);
            true
        }
        Err(error) => {
            tracing::warn!(%error, "cannot set aside a foreign file; it counts as damage");
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
                // The data file replaces its bad hint. Everything loaded so far is overwritten by the next
                // attempt.
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
    // Later appends may overtake records in files with higher ids than the active one.
    files.all().iter().for_each(|file| file.lower_reach(writer.active_id()));
    report.live_keys = keydir.totals().live_keys;
    Ok(Recovered { report, writer, highest_version, unreadable })
}

/// Reports hint files whose data file is missing. This is damage, because a merge removes the hint first.
fn lost_files(directory: &Directory, listing: &Listing, report: &mut Recovery) {
    lost(listing).for_each(|id| report.quarantine(lost_file(directory.data_path(id), id)));
}

/// Returns the ids of the missing data files: those of hint files without a data file.
pub(crate) fn lost(listing: &Listing) -> impl Iterator<Item = u64> {
    listing.hints.iter().filter(|id| listing.data.binary_search(id).is_err()).copied()
}

/// Returns the report of a missing data file.
pub(crate) fn lost_file(path: PathBuf, file_id: u64) -> Quarantined {
    let reason = "the file is missing, but its hint file is there; put it back, or remove the hint file if \
                  you know that its records are not needed";
    Quarantined { path, file_id, offset: 0, bytes: 0, reason: reason.to_owned() }
}

/// Opens the files that can be read; reports the others, and returns their ids.
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

/// Returns the active one of these files, which are sorted by id. A file with a damaged header is never
/// appended to, whatever its kind was.
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
        Err(bad @ (Bad::FormatVersion(_) | Bad::Former)) => {
            Err(OpenError::Format { path, reason: bad.to_string() })
        }
        header => Ok(Known { id, path, header, len }),
    }
}

/// Reads the records of a file from its hint or, if it has no valid hint, by a scan.
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
                tracing::warn!(
                    file = %path.display(), reason, "a hint file is invalid; scanning its data file"
                );
            }
        }
    }
    read_sealed(directory, file)
}

/// Scans a sealed file; writes its hint if the whole file is valid.
fn read_sealed(directory: &Directory, file: &Readable) -> Result<FileRead, OpenError> {
    let handle = open_to_read(&**directory.file_system(), &file.known.path)?;
    let (sections, mut quarantined, end) = scan(file, &handle, Bounds::Sealed)?;
    if !end.ends_marked {
        quarantined.push(file.known.quarantined(end.offset, 0, MARK_MISSING));
    }
    let hint = if quarantined.is_empty() {
        file.file.set_has_hint();
        sections.write(directory, &file.header, file.known.len).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot write a hint file; the next start scans its data file again");
            HintSource::in_memory(sections)
        })
    } else {
        file.file.set_lost();
        HintSource::in_memory(sections)
    };
    Ok(FileRead { hint, scanned: true, quarantined, end: None })
}

/// Scans the active file, cuts its torn tail and makes the rest durable.
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
    // A later mark will state that all this is durable.
    handle.sync_all().map_err(failed("sync"))?;
    Ok(FileRead { hint: HintSource::in_memory(sections), scanned: true, quarantined, end: Some(end) })
}

/// Rewrites bytes unchanged. After a failed sync the operating system may treat bytes as synced that never
/// reached the disk; every later sync then succeeds. Only rewritten bytes are really synced. (Rebello et al.,
/// "Can applications recover from fsync failures?", 2020.)
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

/// Takes the hints out of the read results, and joins them with their files.
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

/// Returns the number of threads that open a store.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
}

/// Calls `work` for all indices below `count` on all cores; returns the results in their order. The first
/// error ends the work.
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
