//! The topology log's file: its layout, its recovery, its writing.
//!
//! ```text
//! file    | "CKADTLOG" 8 | version u32 | created u64 | crc u32 of what precedes it | record | record | ...
//! record  | magic 4 | crc u32 | length u32 | durable u64 | body: length bytes |
//! ```
//! Numbers are little-endian. A record's CRC32 covers length, durable and body. `created` is the length of
//! the file when it got its name; `durable` is the length known to be on disk when the record was written.
//! Below the highest of these marks every record must be complete, otherwise the file is damaged and
//! rejected. Above it the file is cut at the first incomplete record, which a crash during a write leaves.
//! The file is append-only; once most of it is obsolete, it is rewritten atomically.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::TopologyError;
use super::types::{Entry, LogId};
use super::{codec, files};
use crate::reserve;

const FILE_MAGIC: [u8; 8] = *b"CKADTLOG";
/// First bytes of a log of a build before the first release, whose entries have another layout.
const FORMER_MAGIC: [u8; 8] = *b"CASKTLOG";
const FORMAT: u32 = 1;
const FILE_HEADER_BYTES: usize = 24;
const RECORD_MAGIC: [u8; 4] = [0xc7, b'T', b'R', 0x1d];
const RECORD_HEADER_BYTES: usize = 20;

/// The body of a record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Record {
    /// The next log entry.
    Entry(Entry),
    /// Entries from this index on are void.
    Truncate(u64),
    /// A snapshot contains the entries up to this one; they are removed.
    Purge(LogId),
    /// The last entry known to be committed; `None` if no entry is.
    Committed(Option<LogId>),
}

/// A log entry and the length of its encoding.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) entry: Entry,
    pub(super) bytes: usize,
}

/// The log that results from the records. It is in memory: usually a few hundred entries.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) entries: BTreeMap<u64, Stored>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
}

impl Log {
    /// Returns the id of the last entry, or of the last purged one.
    pub(super) fn last(&self) -> Option<LogId> {
        self.entries.last_key_value().map(|(_, stored)| stored.entry.log_id).or(self.purged)
    }

    /// Applies one record, whose body has `bytes` bytes. Rejects an entry that leaves a gap. An entry with an
    /// existing index replaces the former one, as openraft's storage suite requires.
    pub(super) fn perform(&mut self, record: Record, bytes: usize) -> Result<(), String> {
        match record {
            Record::Entry(entry) => {
                let index = entry.log_id.index;
                if let Some(last) = self.last()
                    && index > last.index + 1
                {
                    return Err(format!("entry {index} follows entry {}", last.index));
                }
                self.entries.insert(index, Stored { entry, bytes });
            }
            Record::Truncate(from) => drop(self.entries.split_off(&from)),
            Record::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = self.purged.max(Some(upto));
            }
            Record::Committed(committed) => self.committed = committed,
        }
        Ok(())
    }

    /// Returns the bytes of the entries that are still needed.
    pub(super) fn live_bytes(&self) -> usize {
        self.entries.values().map(|stored| stored.bytes + RECORD_HEADER_BYTES).sum()
    }

    /// Returns the bodies of the shortest file that results in this log.
    pub(super) fn bodies(&self) -> Result<Vec<Vec<u8>>, String> {
        let purge = self.purged.map(Record::Purge);
        let entries = self.entries.values().map(|stored| Record::Entry(stored.entry.clone()));
        let committed = std::iter::once(Record::Committed(self.committed));
        purge.into_iter().chain(entries).chain(committed).map(|record| codec::encode(&record)).collect()
    }
}

/// Appends the frame of `body` to `out`.
fn frame(out: &mut Vec<u8>, body: &[u8], durable: u64) {
    let length = (body.len() as u32).to_le_bytes();
    let durable = durable.to_le_bytes();
    let crc = record_checksum(&length, &durable, body);
    out.extend_from_slice(&RECORD_MAGIC);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&length);
    out.extend_from_slice(&durable);
    out.extend_from_slice(body);
}

fn record_checksum(length: &[u8; 4], durable: &[u8; 8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(length);
    crc.update(durable);
    crc.update(body);
    crc.finalize()
}

/// A record whose checksum matches.
struct Frame<'a> {
    durable: u64,
    body: &'a [u8],
}

/// Returns the complete record at the start of `bytes`.
///
/// # Errors
/// The reason why no complete record begins there.
fn parse(bytes: &[u8]) -> Result<Frame<'_>, &'static str> {
    const SHORT: &str = "the file ends inside a record";
    let (magic, rest) = bytes.split_first_chunk::<4>().ok_or(SHORT)?;
    let (crc, rest) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
    let (durable, rest) = rest.split_first_chunk::<8>().ok_or(SHORT)?;
    if *magic != RECORD_MAGIC {
        return Err("no record begins here");
    }
    let body = rest.get(..u32::from_le_bytes(*length) as usize).ok_or(SHORT)?;
    if record_checksum(length, durable, body) != u32::from_le_bytes(*crc) {
        return Err("a record's checksum does not match");
    }
    Ok(Frame { durable: u64::from_le_bytes(*durable), body })
}

/// Returns the log in a file's bytes, and the number of bytes in complete records: the rest is a torn tail.
///
/// # Errors
/// [`TopologyError::Damaged`] if a byte that was known to be on disk has changed.
pub(super) fn replay(path: &Path, bytes: &[u8]) -> Result<(Log, usize), TopologyError> {
    let created = check_file_header(path, bytes)?;
    let mut log = Log::default();
    let mut offset = FILE_HEADER_BYTES;
    while offset < bytes.len() {
        let frame = match parse(bytes.get(offset..).unwrap_or_default()) {
            Ok(frame) => frame,
            Err(what) => {
                refuse_damage(path, bytes, created, offset, what)?;
                break;
            }
        };
        let damaged = |what: String| TopologyError::damaged(path, offset as u64, what);
        let record = codec::decode(frame.body).map_err(damaged)?;
        log.perform(record, frame.body.len()).map_err(damaged)?;
        offset += RECORD_HEADER_BYTES + frame.body.len();
    }
    if (offset as u64) < created {
        return Err(TopologyError::damaged(path, offset as u64, "the file is shorter than at its creation"));
    }
    Ok((log, offset))
}

/// Returns the length of the file when it got its name.
fn check_file_header(path: &Path, bytes: &[u8]) -> Result<u64, TopologyError> {
    // The header is written before the file gets its name: a short header is not a torn write.
    let short = || TopologyError::damaged(path, bytes.len() as u64, "the file ends inside its header");
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
    let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (created, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let (crc, _) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (version, created) = (u32::from_le_bytes(*version), u64::from_le_bytes(*created));
    let sum = u32::from_le_bytes(*crc);
    if *magic == FORMER_MAGIC && sum == header_checksum(FORMER_MAGIC, version, created) {
        return Err(TopologyError::Former { path: path.to_owned() });
    }
    if *magic != FILE_MAGIC || sum != header_checksum(FILE_MAGIC, version, created) {
        return Err(TopologyError::damaged(path, 0, "the file's header does not match its checksum"));
    }
    if version != FORMAT {
        return Err(TopologyError::Format { path: path.to_owned(), found: version, expected: FORMAT });
    }
    Ok(created)
}

fn header_checksum(magic: [u8; 8], version: u32, created: u64) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&magic);
    crc.update(&version.to_le_bytes());
    crc.update(&created.to_le_bytes());
    crc.finalize()
}

/// Returns the bytes of a new file with these records.
fn whole_file(bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut records = Vec::new();
    bodies.iter().for_each(|body| frame(&mut records, body, 0));
    let created = (FILE_HEADER_BYTES + records.len()) as u64;
    let mut bytes = FILE_MAGIC.to_vec();
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&created.to_le_bytes());
    bytes.extend_from_slice(&header_checksum(FILE_MAGIC, FORMAT, created).to_le_bytes());
    bytes.append(&mut records);
    bytes
}

/// Fails if the bytes at `offset` are known to have been on disk, by the file's header or by a complete
/// record after them.
fn refuse_damage(
    path: &Path,
    bytes: &[u8],
    created: u64,
    offset: usize,
    what: &str,
) -> Result<(), TopologyError> {
    let after = bytes.get(offset + 1..).unwrap_or_default();
    let vouched = memchr::memmem::find_iter(after, &RECORD_MAGIC).any(|at| {
        let frame = parse(after.get(at..).unwrap_or_default());
        frame.is_ok_and(|frame| frame.durable > offset as u64)
    });
    if vouched || created > offset as u64 {
        return Err(TopologyError::damaged(path, offset as u64, what));
    }
    Ok(())
}

/// Writes `bytes` at the end of a file of `len` bytes. If the disk is full, the file keeps its former length.
fn append(file: &mut File, len: u64, bytes: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(len))?;
    let written = file.write_all(bytes);
    if let Err(error) = &written
        && reserve::is_no_room(error)
    {
        file.set_len(len)?;
    }
    written
}

/// The open log file, with records that are not written yet.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Length of the file.
    len: u64,
    /// Length known to be on disk.
    durable: u64,
    /// Framed records that are not written yet.
    pending: Vec<u8>,
}

impl LogFile {
    /// Creates an empty log.
    pub(super) fn create(path: &Path) -> Result<Self, TopologyError> {
        let bytes = whole_file(&[]);
        let file =
            files::replace_raw(path, &bytes).map_err(|error| TopologyError::io("create", path, error))?;
        Ok(Self::at_end(path, file, bytes.len() as u64))
    }

    fn at_end(path: &Path, file: File, len: u64) -> Self {
        Self { path: path.to_owned(), file, len, durable: len, pending: Vec::new() }
    }

    /// Reads a log; cuts off and logs a torn tail.
    pub(super) fn open(path: &Path) -> Result<(Self, Log), TopologyError> {
        let bytes = fs::read(path).map_err(|error| TopologyError::io("read", path, error))?;
        let (log, whole) = replay(path, &bytes)?;
        let open = || -> io::Result<File> {
            let mut file = OpenOptions::new().read(true).write(true).open(path)?;
            if whole < bytes.len() {
                file.set_len(whole as u64)?;
            }
            // All records that were read now belong to the log: they must survive the next power failure.
            file.sync_all()?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = open().map_err(|error| TopologyError::io("open", path, error))?;
        if whole < bytes.len() {
            let cut = bytes.len() - whole;
            tracing::warn!(
                path = %path.display(),
                cut,
                at = whole,
                "cut a torn tail off the topology log; its records were never acknowledged"
            );
        }
        Ok((Self::at_end(path, file, whole as u64), log))
    }

    /// Returns the length of the file including the pending records.
    pub(super) fn len(&self) -> u64 {
        self.len + self.pending.len() as u64
    }

    /// Queues the body of one record for the next [`Self::flush`].
    pub(super) fn push(&mut self, body: &[u8]) {
        frame(&mut self.pending, body, self.durable);
    }

    /// Writes the queued records. With `sync`, they and all before them are on disk afterwards. After an
    /// error the caller must not write again: the contents of the file are unknown.
    pub(super) fn flush(&mut self, sync: bool) -> io::Result<()> {
        let Self { path, file, len, pending, .. } = self;
        reserve::with_room(path, || append(file, *len, pending))?;
        self.len += self.pending.len() as u64;
        self.pending.clear();
        if sync {
            self.file.sync_data()?;
            self.durable = self.len;
        }
        Ok(())
    }

    /// Replaces the file atomically by one with these records.
    pub(super) fn rewrite(&mut self, bodies: &[Vec<u8>]) -> io::Result<()> {
        let bytes = whole_file(bodies);
        let file = files::replace_raw(&self.path, &bytes)?;
        *self = Self::at_end(&self.path, file, bytes.len() as u64);
        Ok(())
    }
}
