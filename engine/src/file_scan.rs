//! Reads one data file record by record, and finds the next whole record after damage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::IoError;
use crate::file_system::FileHandle;
use crate::format::{Bad, FILE_HEADER_LEN, Header, Kind, Parsed, RECORD_HEADER_LEN, Salt};

const WINDOW_BYTES: usize = 1 << 20;

/// Limit of the bytes that searches for the next whole record may checksum. A damaged file full of apparent
/// long records must not delay the start without bound. Beyond the limit the rest of the file is quarantined.
const SEARCH_BYTES_MAX: u64 = 1 << 30;

/// The part of a file in which invalid bytes are damage, not a torn tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bounds {
    /// All of the file was synced.
    Sealed,
    /// The bytes that a mark covers were synced; the bytes after it may be torn.
    Active,
}

/// The next item in a file.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// A whole record other than a mark; the members of a batch were checked too.
    Record { offset: u64, record: Parsed<'a> },
    /// Bytes that are not a whole record.
    Bad { offset: u64, bytes: u64, reason: Bad },
    /// The end of the records.
    End(End),
}

/// The end of a file's records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    /// Offset of the end.
    pub(crate) offset: u64,
    /// The highest offset up to which a mark states that the file was durable.
    pub(crate) marked: u64,
    /// Whether the last record is a mark that covers all records before it.
    pub(crate) ends_marked: bool,
    /// Bytes after the end that are not zero, counted up to the last one.
    pub(crate) cut_bytes: u64,
}

/// Reader of one file, beginning with its first record.
#[derive(Debug)]
pub(crate) struct Scanner {
    window: Window,
    salt: Salt,
    len: u64,
    offset: u64,
    /// The highest offset up to which a mark states that the file was durable.
    marked: u64,
    /// Whether the last record was a mark that covers all records before it.
    ends_marked: bool,
    search_bytes_left: u64,
}

impl Scanner {
    pub(crate) fn new(file: Arc<dyn FileHandle>, path: &Path, salt: Salt, len: u64) -> Self {
        let start = FILE_HEADER_LEN as u64;
        let window = Window { file, path: path.to_owned(), len, start: 0, bytes: Vec::new() };
        Self {
            window,
            salt,
            len,
            offset: start,
            marked: start,
            ends_marked: false,
            search_bytes_left: SEARCH_BYTES_MAX,
        }
    }

    /// Continues at this offset, where a record must begin, or at the first record if that is later.
    pub(crate) fn go_to(&mut self, offset: u64) {
        self.offset = offset.max(FILE_HEADER_LEN as u64);
    }

    /// Returns the offset of the next record.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) fn next(&mut self, bounds: Bounds) -> Result<Found<'_>, IoError> {
        loop {
            let at = self.offset;
            if at >= self.len {
                return Ok(self.end(0));
            }
            match self.check(at)? {
                Ok(header) => {
                    self.offset = at + header.record_len();
                    self.ends_marked = header.kind == Kind::Mark && self.marked == at;
                    if header.kind != Kind::Mark {
                        return self.record(at, &header);
                    }
                }
                Err(reason) => {
                    if bounds == Bounds::Active && self.marked <= at {
                        let used_end = self.find_marks(at)?;
                        if self.marked <= at {
                            let cut_bytes = used_end.saturating_sub(at);
                            return Ok(self.end(cut_bytes));
                        }
                    }
                    self.ends_marked = false;
                    self.offset = self.next_whole(at + 1)?.unwrap_or(self.len);
                    return Ok(Found::Bad { offset: at, bytes: self.offset - at, reason });
                }
            }
        }
    }

    fn end(&self, cut_bytes: u64) -> Found<'_> {
        let Self { offset, marked, ends_marked, .. } = *self;
        Found::End(End { offset, marked, ends_marked, cut_bytes })
    }

    /// Returns the record at `at`, which was checked and is still in the window.
    fn record(&mut self, at: u64, header: &Header) -> Result<Found<'_>, IoError> {
        let bytes = self.window.bytes(at, header.record_len() as usize)?;
        Ok(match Parsed::split(bytes, *header) {
            Ok(record) => Found::Record { offset: at, record },
            Err(reason) => Found::Bad { offset: at, bytes: header.record_len(), reason },
        })
    }

    /// Returns the header if a whole record begins at `at`; stores the offset that a mark covers.
    fn check(&mut self, at: u64) -> Result<Result<Header, Bad>, IoError> {
        let header = match Header::decode(self.window.bytes(at, RECORD_HEADER_LEN)?) {
            Ok(header) => header,
            Err(bad) => return Ok(Err(bad)),
        };
        if header.record_len() > self.len - at {
            return Ok(Err(Bad::Short));
        }
        let record = match Parsed::parse(self.window.bytes(at, header.record_len() as usize)?, self.salt) {
            Ok(record) => record,
            Err(bad) => return Ok(Err(bad)),
        };
        let whole = match header.kind {
            Kind::Value | Kind::Tombstone => !header.in_batch(),
            Kind::Batch => record.members(self.salt).is_ok(),
            Kind::Mark => match record.mark_at(at, self.salt) {
                Some(durable) => {
                    self.marked = self.marked.max(durable);
                    true
                }
                None => false,
            },
        };
        Ok(if whole { Ok(header) } else { Err(Bad::Fields) })
    }

    /// Checks all marks from `from` on; returns the end of the bytes that are not zero.
    fn find_marks(&mut self, from: u64) -> Result<u64, IoError> {
        let mut used_end = from;
        let mut at = from;
        while at < self.len {
            let chunk = self.window.bytes(at, WINDOW_BYTES)?;
            let chunk_len = chunk.len();
            if let Some(last) = chunk.iter().rposition(|&byte| byte != 0) {
                used_end = at + last as u64 + 1;
                for mark in candidates(chunk, |header| header.kind == Kind::Mark) {
                    // A valid mark raises `self.marked`.
                    let _ = self.check(at + mark as u64)?;
                }
            }
            at += advance(chunk_len);
        }
        Ok(used_end)
    }

    /// Returns the offset of the first whole record from `from` on.
    fn next_whole(&mut self, from: u64) -> Result<Option<u64>, IoError> {
        let mut at = from;
        while at < self.len {
            let left = self.len - at;
            let chunk = self.window.bytes(at, WINDOW_BYTES)?;
            let chunk_len = chunk.len();
            for found in candidates(chunk, |header| !header.in_batch() && header.record_len() <= left) {
                let candidate = at + found as u64;
                let Ok(header) = Header::decode(self.window.bytes(candidate, RECORD_HEADER_LEN)?) else {
                    continue;
                };
                let Some(budget) = self.search_bytes_left.checked_sub(header.record_len()) else {
                    return Ok(None);
                };
                self.search_bytes_left = budget;
                if self.check(candidate)?.is_ok() {
                    return Ok(Some(candidate));
                }
            }
            at += advance(chunk_len);
        }
        Ok(None)
    }
}

/// Returns the offsets in the chunk of apparent headers for which `holds` returns true.
fn candidates(chunk: &[u8], holds: impl Fn(&Header) -> bool) -> Vec<usize> {
    let is_one = |(_, bytes): &(usize, &[u8])| Header::decode(bytes).is_ok_and(|header| holds(&header));
    chunk.windows(RECORD_HEADER_LEN).enumerate().filter(is_one).map(|(at, _)| at).collect()
}

/// Returns the step to the next chunk. Chunks overlap, so that a header across their border is found.
fn advance(chunk_len: usize) -> u64 {
    chunk_len.saturating_sub(RECORD_HEADER_LEN - 1).max(1) as u64
}

/// A part of the file in memory.
#[derive(Debug)]
struct Window {
    file: Arc<dyn FileHandle>,
    path: PathBuf,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// Returns `wanted` bytes at `offset`; fewer only at the end of the file.
    fn bytes(&mut self, offset: u64, wanted: usize) -> Result<&[u8], IoError> {
        let wanted = wanted.min(usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX));
        let inside = offset >= self.start && offset + wanted as u64 <= self.start + self.bytes.len() as u64;
        if !inside {
            self.load(offset, wanted)?;
        }
        let from = (offset - self.start) as usize;
        Ok(self.bytes.get(from..from + wanted).unwrap_or_default())
    }

    fn load(&mut self, offset: u64, wanted: usize) -> Result<(), IoError> {
        let room = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        self.bytes.resize(wanted.max(WINDOW_BYTES).min(room), 0);
        self.start = offset;
        self.file.read_exact_at(&mut self.bytes, offset).map_err(|e| {
            // After a failed read the buffer holds neither the old part nor the new one.
            self.bytes.clear();
            IoError::new("read", &self.path, e)
        })
    }
}
