//! Opening: reads all data files and rebuilds the keydir.
//!
//! The newest log file is the active one: the only one that may end in a torn tail, which is cut. What a mark in
//! it covers, and all of every other file, was synced: there each record must be whole, else the file is
//! *damaged*, the bad stretch is quarantined (left as it is, reported, never served) and reading goes on at the
//! next whole record. A record of another era than its partition's belongs to a dropped partition and is dead.
//! Refuses files of another format version.

mod scan;

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;

use self::scan::{Bounds, End, Found, Scanner};
use crate::data_file::{DataFile, FileSlot, FileTable, Location, open_to_read};
use crate::directory::Directory;
use crate::error::{IoError, OpenError};
use crate::format::{Bad, FILE_HEADER_LEN, FileHeader, FileKind, Kind, Parsed};
use crate::keydir::{Candidate, Keydir, position_of};
use crate::log::{Writer, random_salt};
use crate::options::Options;
use crate::slot::partition_of;
use crate::table::Entry;

/// Stretches listed in a report; more are counted only.
const QUARANTINED_LISTED_MAX: usize = 10_000;

/// What was found when a store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Data files read.
    pub files: usize,
    /// Records read, dead ones and tombstones included.
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
    /// Bytes of the sealed files.
    pub(crate) sealed_bytes: u64,
    /// Highest version of all records, whatever their era.
    pub(crate) highest_version: u64,
}

/// A data file whose header was read.
struct Known {
    id: u64,
    path: PathBuf,
    header: Result<FileHeader, Bad>,
    len: u64,
}

/// Reads the files of these ids into the keydir and finds the end of the active one.
pub(crate) fn recover(
    options: &Options,
    directory: &Directory,
    ids: &[u64],
    files: &Arc<FileTable>,
    keydir: &Keydir,
) -> Result<Recovered, OpenError> {
    let known = ids.iter().map(|&id| look_at(directory, id)).collect::<Result<Vec<_>, _>>()?;
    // A file whose header is damaged is never appended to, whatever it was.
    let active_id = known
        .iter()
        .rfind(|file| file.header.as_ref().map_or(true, |header| header.kind == FileKind::Log))
        .filter(|file| file.header.as_ref().is_ok_and(|header| header.id == file.id))
        .map(|file| file.id);
    let mut load = Load { files, keydir, report: Recovery::default(), highest_version: 0 };
    let mut sealed_bytes = 0;
    let mut active = None;
    for file in &known {
        load.report.files += 1;
        let header = match &file.header {
            Ok(_) if file.len > u32::MAX.into() || file.id > FileSlot::MAX.into() => {
                load.quarantine(
                    file,
                    0,
                    file.len,
                    "it is larger, or its number higher, than any of ours".to_owned(),
                );
                continue;
            }
            Ok(header) if header.id == file.id => *header,
            Ok(header) => {
                let reason = format!("its header says that it is data file {}", header.id);
                load.quarantine(file, 0, file.len, reason);
                continue;
            }
            Err(bad) => {
                load.quarantine(file, 0, file.len, format!("the file's header: {bad}"));
                continue;
            }
        };
        if Some(file.id) == active_id {
            active = Some(load.active(file, &header)?);
        } else {
            load.sealed(file, &header)?;
            sealed_bytes += file.len;
        }
    }
    let writer = match active {
        Some(active) => {
            let Active { data_file, file, end } = active;
            let marks = (end.marked, end.ends_marked);
            Writer::new(options, files.clone(), (data_file, file), end.offset, marks)
        }
        None => {
            let created = crate::log::create_active(directory, files, random_salt())?;
            let start = FILE_HEADER_LEN as u64;
            Writer::new(options, files.clone(), created, start, (start, false))
        }
    };
    let Load { mut report, highest_version, .. } = load;
    report.live_keys = keydir.totals().live_keys;
    Ok(Recovered { report, writer, sealed_bytes, highest_version })
}

fn look_at(directory: &Directory, id: u64) -> Result<Known, OpenError> {
    use std::io::Read;
    let path = directory.data_path(id);
    let file = open_to_read(&path)?;
    let len = file.metadata().map_err(|e| IoError::new("look at", &path, e))?.len();
    let mut bytes = Vec::new();
    file.take(FILE_HEADER_LEN as u64).read_to_end(&mut bytes).map_err(|e| IoError::new("read", &path, e))?;
    let header = FileHeader::decode(&bytes);
    match header {
        Err(bad @ Bad::FormatVersion(_)) => Err(OpenError::Format { path, reason: bad.to_string() }),
        header => Ok(Known { id, path, header, len }),
    }
}

/// Where the active file ends.
struct Active {
    data_file: Arc<DataFile>,
    file: Arc<File>,
    end: End,
}

/// The files read so far.
struct Load<'a> {
    files: &'a FileTable,
    keydir: &'a Keydir,
    report: Recovery,
    highest_version: u64,
}

impl Load<'_> {
    fn quarantine(&mut self, file: &Known, offset: u64, bytes: u64, reason: String) {
        self.report.quarantine(Quarantined {
            path: file.path.clone(),
            file_id: file.id,
            offset,
            bytes,
            reason,
        });
    }

    fn sealed(&mut self, file: &Known, header: &FileHeader) -> Result<(), OpenError> {
        let id = file.id as FileSlot;
        self.files.insert(Arc::new(DataFile::sealed(id, file.path.clone(), header.salt)));
        let end = self.scan(file, id, header, Bounds::Sealed)?;
        if !end.ends_marked {
            let reason = "the mark that should close the file is missing: records before it may be, too";
            self.quarantine(file, end.offset, 0, reason.to_owned());
        }
        Ok(())
    }

    /// Reads the active file, cuts its torn tail and makes durable what is left.
    fn active(&mut self, file: &Known, header: &FileHeader) -> Result<Active, OpenError> {
        let id = file.id as FileSlot;
        let failed = |action| move |e| IoError::new(action, &file.path, e);
        let open = OpenOptions::new().read(true).write(true).open(&file.path).map_err(failed("open"))?;
        let for_reads = open.try_clone().map_err(failed("open"))?;
        let data_file = Arc::new(DataFile::active(id, file.path.clone(), header.salt, for_reads));
        self.files.insert(data_file.clone());
        let end = self.scan(file, id, header, Bounds::Active)?;
        self.report.cut_bytes += end.cut_bytes;
        if end.offset < file.len {
            open.set_len(end.offset).map_err(failed("cut the torn tail of"))?;
        }
        // A mark will say that all this is durable.
        open.sync_all().map_err(failed("sync"))?;
        Ok(Active { data_file, file: Arc::new(open), end })
    }

    /// Publishes all records of a file; returns how they end.
    fn scan(
        &mut self,
        file: &Known,
        id: FileSlot,
        header: &FileHeader,
        bounds: Bounds,
    ) -> Result<End, OpenError> {
        let mut scanner = Scanner::new(open_to_read(&file.path)?, &file.path, header.salt, file.len);
        loop {
            match scanner.next(bounds)? {
                Found::Record { offset, record } if record.header.kind == Kind::Batch => {
                    // The scanner has checked the members already.
                    for (inner, member) in record.members(header.salt).unwrap_or_default() {
                        self.publish(id, offset + inner as u64, &member);
                    }
                }
                Found::Record { offset, record } => self.publish(id, offset, &record),
                Found::Bad { offset, bytes, reason } => {
                    self.quarantine(file, offset, bytes, reason.to_string())
                }
                Found::End(end) => return Ok(end),
            }
        }
    }

    fn publish(&mut self, file: FileSlot, offset: u64, record: &Parsed<'_>) {
        let header = &record.header;
        self.report.records += 1;
        self.highest_version = self.highest_version.max(header.version);
        let position = position_of(record.key);
        // Both fit: files are below 4 GiB, records below 2.
        let at = Location { file, offset: offset as u32, len: header.record_len() as u32 };
        let entry = Entry::new(position, header.version, at, header.kind == Kind::Tombstone);
        let partition = partition_of(record.key);
        self.keydir.publish(self.files, &Candidate { partition, era: header.era, key: record.key, entry });
    }
}
