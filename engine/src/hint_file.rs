//! Hint files: the list of a data file's records, so that opening a store need not read the data file.
//!
//! A hint is written for a complete data file, and only if every record in it is whole. It is put in place
//! atomically. If a hint is invalid in any way, its data file is scanned instead. The memory for reading and
//! for writing a hint is bounded, whatever the size of the data file.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::data_file::open_to_read;
use crate::directory::Directory;
use crate::error::IoError;
use crate::file_scan::{Bounds, End, Found, Scanner};
use crate::file_system::{FileHandle, FileSystem};
use crate::format::hint::{HINT_HEADER_LEN, HintEntry, HintHeader, SectionHead};
use crate::format::{Bad, FILE_HEADER_LEN, FileHeader, Kind, Parsed, RECORD_HEADER_LEN, bound_of};
use crate::slots::{PARTITIONS, partition_of};

/// Bytes of one section that are buffered before they are written.
const SECTION_BUFFER_BYTES: usize = 4 << 10;

/// Returns the hint entry of a record.
pub(crate) fn entry_of<'a>(file_id: u64, offset: u64, record: &Parsed<'a>) -> HintEntry<'a> {
    HintEntry {
        version: record.header.version,
        era: record.header.era,
        // Both fit: files are below 4 GiB, records below 2 GiB.
        offset: offset as u32,
        len: record.header.record_len() as u32,
        bound: (record.header.kind == Kind::Tombstone).then(|| bound_of(file_id, record.value)),
        expires: record.header.kind == Kind::Value && record.header.expiry_ms != 0,
        key: record.key,
    }
}

/// An item found while a data file is read through.
pub(crate) enum Visited<'a> {
    /// A record; the members of a batch are visited one by one.
    Record(u64, &'a Parsed<'a>),
    /// Bytes that are not a whole record.
    Bad { offset: u64, bytes: u64, reason: Bad },
}

/// Calls `visit` for every item of a data file, from its first record on.
pub(crate) fn visit<E: From<IoError>>(
    scanner: &mut Scanner,
    header: &FileHeader,
    bounds: Bounds,
    mut visit: impl FnMut(Visited<'_>) -> Result<(), E>,
) -> Result<End, E> {
    loop {
        match scanner.next(bounds)? {
            Found::Record { offset, record } if record.header.kind == Kind::Batch => {
                // The scanner has checked the members already.
                for (inner, member) in record.members(header.salt).unwrap_or_default() {
                    visit(Visited::Record(offset + inner as u64, &member))?;
                }
            }
            Found::Record { offset, record } => visit(Visited::Record(offset, &record))?,
            Found::Bad { offset, bytes, reason } => visit(Visited::Bad { offset, bytes, reason })?,
            Found::End(end) => return Ok(end),
        }
    }
}

/// The sections of a hint, in memory, for a data file that has no hint file.
#[derive(Debug, Default)]
pub(crate) struct Sections {
    bytes: Vec<Vec<u8>>,
    entries: Vec<u32>,
}

impl Sections {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![Vec::new(); PARTITIONS.into()], entries: vec![0; PARTITIONS.into()] }
    }

    pub(crate) fn push(&mut self, entry: &HintEntry<'_>) {
        let partition = usize::from(partition_of(entry.key));
        if let (Some(bytes), Some(entries)) = (self.bytes.get_mut(partition), self.entries.get_mut(partition))
        {
            entry.encode(bytes);
            *entries += 1;
        }
    }

    fn heads(&self) -> Vec<SectionHead> {
        let head = |(bytes, &entries): (&Vec<u8>, &u32)| SectionHead {
            bytes: bytes.len() as u32,
            entries,
            crc: crc32fast::hash(bytes),
        };
        self.bytes.iter().zip(&self.entries).map(head).collect()
    }

    /// Writes the sections as the hint file of a complete data file of this length.
    pub(crate) fn write(
        &self,
        directory: &Directory,
        header: &FileHeader,
        data_len: u64,
    ) -> Result<HintSource, IoError> {
        let hint =
            HintHeader { data_file_id: header.id, salt: header.salt, data_len, sections: self.heads() };
        let path = directory.hint_path(header.id);
        let mut bytes = hint.encode();
        self.bytes.iter().for_each(|section| bytes.extend_from_slice(section));
        directory.create(&path, &bytes)?;
        Ok(HintSource::in_file(path, &hint))
    }
}

/// Access to the sections of one data file.
#[derive(Debug, Default)]
pub(crate) struct HintSource {
    heads: Vec<SectionHead>,
    place: Place,
}

/// Returns whether an entry is possible in a data file of this length: readers allocate the length it states.
fn is_within(entry: &HintEntry<'_>, data_len: u64) -> bool {
    let (start, len) = (u64::from(entry.offset), u64::from(entry.len));
    let shortest = (RECORD_HEADER_LEN + entry.key.len()) as u64;
    start >= FILE_HEADER_LEN as u64 && len >= shortest && start + len <= data_len
}

#[derive(Debug)]
enum Place {
    File { path: PathBuf, starts: Vec<u64>, data_len: u64 },
    Memory(Sections),
}

impl Default for Place {
    fn default() -> Self {
        Self::Memory(Sections::default())
    }
}

impl HintSource {
    fn in_file(path: PathBuf, header: &HintHeader) -> Self {
        let mut start = HINT_HEADER_LEN as u64;
        let mut starts = Vec::with_capacity(header.sections.len() + 1);
        for head in &header.sections {
            starts.push(start);
            start += u64::from(head.bytes);
        }
        starts.push(start);
        Self {
            heads: header.sections.clone(),
            place: Place::File { path, starts, data_len: header.data_len },
        }
    }

    pub(crate) fn in_memory(sections: Sections) -> Self {
        Self { heads: sections.heads(), place: Place::Memory(sections) }
    }

    /// Opens the hint file of a data file; an `Err` states why it cannot be used.
    pub(crate) fn open(
        file_system: &dyn FileSystem,
        path: &Path,
        data: &FileHeader,
        data_len: u64,
    ) -> Result<Self, String> {
        let file = open_to_read(file_system, path).map_err(|e| e.to_string())?;
        let failed = |e| IoError::new("read", path, e).to_string();
        let len = file.len().map_err(failed)?;
        let mut bytes = vec![0; HINT_HEADER_LEN.min(len as usize)];
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        let header = HintHeader::decode(&bytes).map_err(|bad| bad.to_string())?;
        if (header.data_file_id, header.salt, header.data_len) != (data.id, data.salt, data_len) {
            return Err("it belongs to another data file, or to another state of this one".to_owned());
        }
        if header.file_len() != len {
            return Err("its length does not match its header".to_owned());
        }
        Ok(Self::in_file(path.to_owned(), &header))
    }

    /// Returns whether an entry of this hint is possible.
    pub(crate) fn allows(&self, entry: &HintEntry<'_>) -> bool {
        match self.place {
            Place::File { data_len, .. } => is_within(entry, data_len),
            Place::Memory(_) => true,
        }
    }

    /// Returns the number of records in the data file.
    pub(crate) fn entries(&self) -> u64 {
        self.heads.iter().map(|head| u64::from(head.entries)).sum()
    }

    /// Returns the bytes of all sections.
    pub(crate) fn bytes(&self) -> u64 {
        self.heads.iter().map(|head| u64::from(head.bytes)).sum()
    }

    /// Reads the sections of these partitions, unchecked.
    pub(crate) fn read(
        &self,
        file_system: &dyn FileSystem,
        partitions: Range<usize>,
    ) -> Result<Vec<(SectionHead, Vec<u8>)>, IoError> {
        let heads = self.heads.get(partitions.clone()).unwrap_or_default();
        let (path, starts) = match &self.place {
            Place::Memory(sections) => {
                let bytes = sections.bytes.get(partitions).unwrap_or_default();
                return Ok(heads.iter().copied().zip(bytes.iter().cloned()).collect());
            }
            Place::File { path, starts, .. } => (path, starts),
        };
        let start = starts.get(partitions.start).copied().unwrap_or_default();
        let len = heads.iter().map(|head| head.bytes as usize).sum();
        let mut bytes = vec![0; len];
        if len > 0 {
            let file = open_to_read(file_system, path)?;
            file.read_exact_at(&mut bytes, start).map_err(|e| IoError::new("read", path, e))?;
        }
        let mut rest = &bytes[..];
        let section = |head: &SectionHead| {
            let (section, after) = rest.split_at_checked(head.bytes as usize).unwrap_or_default();
            rest = after;
            (*head, section.to_vec())
        };
        Ok(heads.iter().map(section).collect())
    }
}

/// Result of an attempt to write a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HintWritten {
    Done,
    /// The data file is damaged at this offset. It gets no hint, so that every start reports the damage.
    DataDamaged {
        offset: u64,
        reason: String,
    },
    /// `stop` returned true.
    Stopped,
}

/// Writes the hint of a complete data file. Reads the file twice: to measure the sections, and to fill them.
pub(crate) fn write_hint(
    directory: &Directory,
    header: &FileHeader,
    data_len: u64,
    stop: &dyn Fn() -> bool,
) -> Result<HintWritten, IoError> {
    let data_path = directory.data_path(header.id);
    let open = || -> Result<Scanner, IoError> {
        let file = open_to_read(&**directory.file_system(), &data_path)?;
        Ok(Scanner::new(file, &data_path, header.salt, data_len))
    };
    let mut sections = vec![SectionHead::default(); PARTITIONS.into()];
    let measured = pass(&mut open()?, header, stop, |entry| {
        if let Some(head) = sections.get_mut(usize::from(partition_of(entry.key))) {
            head.bytes += entry.encoded_len() as u32;
            head.entries += 1;
        }
        Ok(())
    })?;
    if measured != HintWritten::Done {
        return Ok(measured);
    }
    let path = directory.hint_path(header.id);
    let mut hint = HintHeader { data_file_id: header.id, salt: header.salt, data_len, sections };
    let file = directory.create_temporary(&path)?;
    let filled = fill(&*file, &path, &mut open()?, header, stop, &mut hint);
    if matches!(filled, Ok(HintWritten::Done)) {
        directory.put_in_place(&path)?;
    } else {
        directory.remove_temporary(&path);
    }
    filled
}

/// Writes the sections, then the header with their checksums.
fn fill(
    file: &dyn FileHandle,
    path: &Path,
    scanner: &mut Scanner,
    header: &FileHeader,
    stop: &dyn Fn() -> bool,
    hint: &mut HintHeader,
) -> Result<HintWritten, IoError> {
    let failed = |e| IoError::new("write", path, e);
    let mut fillers = Vec::with_capacity(hint.sections.len());
    let mut start = HINT_HEADER_LEN as u64;
    for head in &hint.sections {
        fillers.push(Filler { at: start, buffer: Vec::new(), crc: crc32fast::Hasher::new() });
        start += u64::from(head.bytes);
    }
    let filled = pass(scanner, header, stop, |entry| {
        let Some(filler) = fillers.get_mut(usize::from(partition_of(entry.key))) else { return Ok(()) };
        entry.encode(&mut filler.buffer);
        if filler.buffer.len() >= SECTION_BUFFER_BYTES { filler.flush(file).map_err(failed) } else { Ok(()) }
    })?;
    if filled != HintWritten::Done {
        return Ok(filled);
    }
    for (filler, head) in fillers.iter_mut().zip(&mut hint.sections) {
        filler.flush(file).map_err(failed)?;
        head.crc = filler.crc.clone().finalize();
    }
    file.write_all_at(&hint.encode(), 0).map_err(failed)?;
    file.sync_all().map_err(|e| IoError::new("sync", path, e))?;
    Ok(HintWritten::Done)
}

/// Write state of one section.
struct Filler {
    at: u64,
    buffer: Vec<u8>,
    crc: crc32fast::Hasher,
}

impl Filler {
    fn flush(&mut self, file: &dyn FileHandle) -> std::io::Result<()> {
        file.write_all_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.crc.update(&self.buffer);
        self.buffer.clear();
        Ok(())
    }
}

/// Reason why [`pass`] ends before the end of the file.
enum Interrupted {
    Io(IoError),
    Instead(HintWritten),
}

impl From<IoError> for Interrupted {
    fn from(error: IoError) -> Self {
        Self::Io(error)
    }
}

/// Calls `give` with the entry of every record; ends early at damage, or when `stop` returns true.
fn pass(
    scanner: &mut Scanner,
    header: &FileHeader,
    stop: &dyn Fn() -> bool,
    mut give: impl FnMut(&HintEntry<'_>) -> Result<(), IoError>,
) -> Result<HintWritten, IoError> {
    let mut records = 0_u32;
    let visited = visit(scanner, header, Bounds::Sealed, |visited| match visited {
        Visited::Record(offset, record) => {
            records = records.wrapping_add(1);
            if records.is_multiple_of(1024) && stop() {
                return Err(Interrupted::Instead(HintWritten::Stopped));
            }
            Ok(give(&entry_of(header.id, offset, record))?)
        }
        Visited::Bad { offset, reason, .. } => {
            Err(Interrupted::Instead(HintWritten::DataDamaged { offset, reason: reason.to_string() }))
        }
    });
    match visited {
        Ok(end) if end.ends_marked => Ok(HintWritten::Done),
        Ok(end) => Ok(HintWritten::DataDamaged {
            offset: end.offset,
            reason: "the end mark of the file is missing".to_owned(),
        }),
        Err(Interrupted::Instead(instead)) => Ok(instead),
        Err(Interrupted::Io(error)) => Err(error),
    }
}

/// Creates a scanner that shares the handle with the caller.
pub(crate) fn scanner_of(file: &Arc<dyn FileHandle>, path: &Path, header: &FileHeader, len: u64) -> Scanner {
    Scanner::new(file.clone(), path, header.salt, len)
}
