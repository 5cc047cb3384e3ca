//! The topology log's file: its layout, its recovery, its writing.
//!
//! ```text
//! file    | "CASKTLOG" 8 | version u32 | created u64 | crc u32 of what precedes it | record | record | ...
//! record  | magic 4 | crc u32 | length u32 | durable u64 | body: length bytes |
//! ```
//! Numbers are little-endian. A record's CRC32 covers length, durable and body. `created` is the length the
//! file had when it got its name, `durable` the length known to be on disk when the record was written. Below
//! the highest of these marks every record must be whole, else the file is damaged and refused; above it the
//! file is cut at the first record that is not whole, which is what a crash in the middle of a write leaves.
//! The file is only appended to; it is rewritten whole, atomically, once most of it is obsolete.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::TopologyError;
use super::types::{Entry, LogId};
use super::{codec, files};
use crate::reserve;

const FILE_MAGIC: [u8; 8] = *b"CASKTLOG";
const FORMAT: u32 = 1;
const FILE_HEADER_BYTES: usize = 24;
const RECORD_MAGIC: [u8; 4] = [0xc7, b'T', b'R', 0x1d];
const RECORD_HEADER_BYTES: usize = 20;

/// One record's body.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Record {
    /// The next log entry.
    Entry(Entry),
    /// Entries from this index on are void.
    Truncate(u64),
    /// Entries up to this one are in a snapshot and gone.
    Purge(LogId),
    /// The last entry known to be committed; `None` if none is.
    Committed(Option<LogId>),
}

/// A log entry and the length of its encoding.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) entry: Entry,
    pub(super) bytes: usize,
}

/// What the records add up to. Kept in memory: a few hundred entries at most times.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) entries: BTreeMap<u64, Stored>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
}

impl Log {
    /// The last entry's id, or that of the last purged one.
    pub(super) fn last(&self) -> Option<LogId> {
        self.entries.last_key_value().map(|(_, stored)| stored.entry.log_id).or(self.purged)
    }

    /// Performs one record, whose body has `bytes` bytes. An entry that leaves a hole is refused; one that is
    /// written again takes the place of the former, as openraft's storage suite asks.
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

    /// Bytes of the entries that are still wanted.
    pub(super) fn live_bytes(&self) -> usize {
        self.entries.values().map(|stored| stored.bytes + RECORD_HEADER_BYTES).sum()
    }

    /// The bodies of the shortest file that adds up to this log.
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

/// The whole record at the start of `bytes`, or what is wrong with it.
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

/// The log in a file's bytes, and how many of them are whole records: the rest is a torn tail.
///
/// # Errors
/// [`TopologyError::Damaged`] if a byte that was known to be on disk is not what was written.
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
        return Err(TopologyError::damaged(path, offset as u64, "the file is shorter than it was made"));
    }
    Ok((log, offset))
}

/// The length the file had when it got its name.
fn check_file_header(path: &Path, bytes: &[u8]) -> Result<u64, TopologyError> {
    // The header is written before the file gets its name: a short one is no torn write.
    let short = || TopologyError::damaged(path, bytes.len() as u64, "the file ends inside its header");
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
    let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (created, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let (crc, _) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (version, created) = (u32::from_le_bytes(*version), u64::from_le_bytes(*created));
    if *magic != FILE_MAGIC || u32::from_le_bytes(*crc) != header_checksum(version, created) {
        return Err(TopologyError::damaged(path, 0, "the file's header does not match its checksum"));
    }
    if version != FORMAT {
        return Err(TopologyError::Format { path: path.to_owned(), found: version, expected: FORMAT });
    }
    Ok(created)
}

fn header_checksum(version: u32, created: u64) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&FILE_MAGIC);
    crc.update(&version.to_le_bytes());
    crc.update(&created.to_le_bytes());
    crc.finalize()
}

/// The bytes of a new file of these records.
fn whole_file(bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut records = Vec::new();
    bodies.iter().for_each(|body| frame(&mut records, body, 0));
    let created = (FILE_HEADER_BYTES + records.len()) as u64;
    let mut bytes = FILE_MAGIC.to_vec();
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&created.to_le_bytes());
    bytes.extend_from_slice(&header_checksum(FORMAT, created).to_le_bytes());
    bytes.append(&mut records);
    bytes
}

/// Fails if `offset` is known to have been on disk: by the file's header, or by a whole record after it.
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

/// Writes `bytes` at the end of a file of `len` bytes. Where there is no room for them the file is as it was.
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

/// The open file.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Length of the file.
    len: u64,
    /// How much of it is known to be on disk.
    durable: u64,
    /// Framed records not yet written.
    pending: Vec<u8>,
}

impl LogFile {
    /// Makes an empty log.
    pub(super) fn create(path: &Path) -> Result<Self, TopologyError> {
        let bytes = whole_file(&[]);
        let file =
            files::replace_raw(path, &bytes).map_err(|error| TopologyError::io("create", path, error))?;
        Ok(Self::at_end(path, file, bytes.len() as u64))
    }

    fn at_end(path: &Path, file: File, len: u64) -> Self {
        Self { path: path.to_owned(), file, len, durable: len, pending: Vec::new() }
    }

    /// Reads a log, cutting off and reporting a torn tail.
    pub(super) fn open(path: &Path) -> Result<(Self, Log), TopologyError> {
        let bytes = fs::read(path).map_err(|error| TopologyError::io("read", path, error))?;
        let (log, whole) = replay(path, &bytes)?;
        let open = || -> io::Result<File> {
            let mut file = OpenOptions::new().read(true).write(true).open(path)?;
            if whole < bytes.len() {
                file.set_len(whole as u64)?;
            }
            // Whatever was read is now part of the log: it must not vanish with the next power cut.
            file.sync_all()?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = open().map_err(|error| TopologyError::io("open", path, error))?;
        if whole < bytes.len() {
            let cut = bytes.len() - whole;
            tracing::warn!(path = %path.display(), cut, at = whole, "topology log: cut a torn tail, never acknowledged");
        }
        Ok((Self::at_end(path, file, whole as u64), log))
    }

    /// Length of the file, what is pending included.
    pub(super) fn len(&self) -> u64 {
        self.len + self.pending.len() as u64
    }

    /// Queues one record's body for the next [`Self::flush`].
    pub(super) fn push(&mut self, body: &[u8]) {
        frame(&mut self.pending, body, self.durable);
    }

    /// Writes what is queued; with `sync` it, and all before it, is on disk afterwards.
    /// After an error nothing may be written any more: what the file holds is unknown.
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

    /// Replaces the file by one of these records, atomically.
    pub(super) fn rewrite(&mut self, bodies: &[Vec<u8>]) -> io::Result<()> {
        let bytes = whole_file(bodies);
        let file = files::replace_raw(&self.path, &bytes)?;
        *self = Self::at_end(&self.path, file, bytes.len() as u64);
        Ok(())
    }
}
