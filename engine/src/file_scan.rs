//! Goes through one data file record by record, and finds its way past what is no record.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::IoError;
use crate::file_system::FileHandle;
use crate::format::{Bad, FILE_HEADER_LEN, Header, Kind, Parsed, RECORD_HEADER_LEN, Salt};

const WINDOW_BYTES: usize = 1 << 20;

/// Bytes a search for the next whole record may checksum; a damaged file full of what looks like long records
/// must not hold up the start for ever. Beyond it the rest of the file is quarantined.
const SEARCH_BYTES_MAX: u64 = 1 << 30;

/// Where damage may be told from a torn tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bounds {
    /// All of the file was synced.
    Sealed,
    /// What a mark covers was synced; what follows may be torn.
    Active,
}

/// The next thing in a file.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// A whole record, not a mark; of a batch the members were checked too.
    Record { offset: u64, record: Parsed<'a> },
    /// Bytes that should be records.
    Bad { offset: u64, bytes: u64, reason: Bad },
    /// The end of the records.
    End(End),
}

/// How a file's records end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    /// Where.
    pub(crate) offset: u64,
    /// The highest offset a mark says was durable.
    pub(crate) marked: u64,
    /// Whether the last record is a mark of all before it.
    pub(crate) ends_marked: bool,
    /// Bytes of something that follow; zeros after it not counted.
    pub(crate) cut_bytes: u64,
}

/// Reads one file from its first record on.
#[derive(Debug)]
pub(crate) struct Scanner {
    window: Window,
    salt: Salt,
    len: u64,
    offset: u64,
    /// The highest offset a mark says was durable.
    marked: u64,
    /// Whether the last record was a mark of all before it.
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

    /// Goes on at this offset, at which a record begins, or at the first record.
    pub(crate) fn go_to(&mut self, offset: u64) {
        self.offset = offset.max(FILE_HEADER_LEN as u64);
    }

    /// Where the next record begins.
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

    /// The record at `at`, which was checked and is still in the window.
    fn record(&mut self, at: u64, header: &Header) -> Result<Found<'_>, IoError> {
        let bytes = self.window.bytes(at, header.record_len() as usize)?;
        Ok(match Parsed::split(bytes, *header) {
            Ok(record) => Found::Record { offset: at, record },
            Err(reason) => Found::Bad { offset: at, bytes: header.record_len(), reason },
        })
    }

    /// Whether a whole record begins at `at`; takes note of a mark.
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

    /// Looks for marks anywhere from `from` on; returns where the bytes that are not zero end.
    fn find_marks(&mut self, from: u64) -> Result<u64, IoError> {
        let mut used_end = from;
        let mut at = from;
        while at < self.len {
            let chunk = self.window.bytes(at, WINDOW_BYTES)?;
            let chunk_len = chunk.len();
            if let Some(last) = chunk.iter().rposition(|&byte| byte != 0) {
                used_end = at + last as u64 + 1;
                for mark in candidates(chunk, |header| header.kind == Kind::Mark) {
                    // Takes note of it if it is one.
                    let _ = self.check(at + mark as u64)?;
                }
            }
            at += advance(chunk_len);
        }
        Ok(used_end)
    }

    /// The first whole record from `from` on.
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

/// Offsets in the chunk at which a header seems to be for which this holds.
fn candidates(chunk: &[u8], holds: impl Fn(&Header) -> bool) -> Vec<usize> {
    let is_one = |(_, bytes): &(usize, &[u8])| Header::decode(bytes).is_ok_and(|header| holds(&header));
    chunk.windows(RECORD_HEADER_LEN).enumerate().filter(is_one).map(|(at, _)| at).collect()
}

/// Chunks overlap, so that a header across their border is seen.
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
    /// `wanted` bytes at `offset`; fewer only at the end of the file.
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
            // What it holds now is neither the old part nor the new.
            self.bytes.clear();
            IoError::new("read", &self.path, e)
        })
    }
}
