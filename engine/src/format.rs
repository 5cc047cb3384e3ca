//! Byte layout of all files of a store; no other module knows it. All integers are little-endian.
//!
//! ```text
//! data file:  | file header | record | record | ... | zeros, if preallocated |
//!
//! file header
//! | magic 8 | format version 4 | kind 4 | file id 8 | salt 8 | crc 4 |
//!   kind: 0 = log (written by appends), 1 = merged (written by a merge)
//!
//! record
//! | crc 4 | kind 1 | flags 1 | key len 2 | value len 4 | user flags 4 | version 8 | expiry 8 | era 4 | key | value |
//!
//! kind 1 value      the key's value
//!
//!      2 tombstone  value = its bound, a file id (8); 0 stands for the id of its own file. A file may hold
//!                   an older record of the key only if its id or its reach is at most the bound: see `merge`
//!      3 batch      no key; user flags = number of records, value = those records, whole, flagged IN_BATCH:
//!                   all of them are valid or none; each can be read alone by its position
//!      4 mark       no key, no value; version = offset below which this file was durable before the mark was
//!                   written, expiry = salt ^ the mark's own offset
//!                   a complete file ends with a mark that covers all before it, so that a cut is detected
//!
//! flags bit 0       IN_BATCH: valid only within its batch
//!
//! eras file
//! | magic 8 | format version 4 | file id floor 8 | version floor 8 | era 4 x 1024 | removed file id 8 x n | crc 4 |
//!
//! ids file
//! | magic 8 | file id ceiling 8 | crc 4 |
//!
//!   no file of the store ever had an id above the ceiling; a file above it that is no data file is foreign
//! ```
//!
//! A record's crc is the CRC-32 of all bytes after it, started from the low half of its file's salt. The salt
//! is random. So no value, whatever bytes a client writes, can pass as a record or a mark when a damaged file
//! is searched for the next whole record. This module does no I/O, and rejects everything that deviates from
//! the layout.

#[cfg(any(test, feature = "internals"))]
pub(crate) mod fix_checksums;
pub(crate) mod hint;
pub(crate) mod marker;

use std::fmt;

use crate::slots::PARTITIONS;

/// Number of times that a partition was dropped.
pub(crate) type Era = u32;

/// Version of the layout; files of another version are rejected.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// First bytes of the data files, eras files and snapshot markers of builds before the first release.
const FORMER_MAGICS: [[u8; 8]; 3] = [*b"CASKDATA", *b"CASKERAS", *b"CASKSNAP"];

const FILE_MAGIC: [u8; 8] = *b"CKADDATA";
const FILE_VERSION_AT: usize = FILE_MAGIC.len();
const FILE_KIND_AT: usize = FILE_VERSION_AT + size_of::<u32>();
const FILE_ID_AT: usize = FILE_KIND_AT + size_of::<u32>();
const FILE_SALT_AT: usize = FILE_ID_AT + size_of::<u64>();
const FILE_CRC_AT: usize = FILE_SALT_AT + size_of::<u64>();
/// Bytes of a data file's header: the offset of its first record.
pub(crate) const FILE_HEADER_LEN: usize = FILE_CRC_AT + size_of::<u32>();

/// Bytes of a record's checksum, its first field.
pub(crate) const CRC_LEN: usize = size_of::<u32>();
const KIND_AT: usize = CRC_LEN;
const FLAGS_AT: usize = KIND_AT + size_of::<u8>();
const KEY_LEN_AT: usize = FLAGS_AT + size_of::<u8>();
const VALUE_LEN_AT: usize = KEY_LEN_AT + size_of::<u16>();
const USER_FLAGS_AT: usize = VALUE_LEN_AT + size_of::<u32>();
const VERSION_AT: usize = USER_FLAGS_AT + size_of::<u32>();
const EXPIRY_AT: usize = VERSION_AT + size_of::<u64>();
const ERA_AT: usize = EXPIRY_AT + size_of::<u64>();
/// Bytes of a record before its key.
pub(crate) const RECORD_HEADER_LEN: usize = ERA_AT + size_of::<u32>();
/// Bytes of a mark.
pub(crate) const MARK_LEN: usize = RECORD_HEADER_LEN;
/// Bytes of a tombstone's value.
pub(crate) const TOMBSTONE_VALUE_LEN: usize = size_of::<u64>();

/// Value of a tombstone in a log file: its bound is the id of that file.
pub(crate) const BOUND_OF_LOG_FILE: [u8; TOMBSTONE_VALUE_LEN] = [0; TOMBSTONE_VALUE_LEN];

/// Returns the bound of a tombstone with this value in the file with this id.
pub(crate) fn bound_of(file_id: u64, value: &[u8]) -> u64 {
    match array_at(value, 0).map_or(0, u64::from_le_bytes) {
        0 => file_id,
        bound => bound,
    }
}

/// Limit of a value record's length in bytes: the keydir stores lengths up to 2^31.
const RECORD_LEN_MAX: u64 = (1 << 31) - 1;

/// Highest valid file id, far below the point where increments would overflow.
pub(crate) const FILE_ID_MAX: u64 = 1 << 62;

/// First bytes of an eras file.
pub(crate) const ERAS_MAGIC: [u8; 8] = *b"CKADERAS";
const ERAS_VERSION_AT: usize = ERAS_MAGIC.len();
const ERAS_FLOOR_AT: usize = ERAS_VERSION_AT + size_of::<u32>();
const ERAS_VERSION_FLOOR_AT: usize = ERAS_FLOOR_AT + size_of::<u64>();
const ERAS_AT: usize = ERAS_VERSION_FLOOR_AT + size_of::<u64>();
const ERAS_REMOVED_AT: usize = ERAS_AT + PARTITIONS as usize * size_of::<Era>();
/// Limit of the files that one eras file lists as removed.
pub(crate) const ERAS_REMOVED_MAX: usize = 1024;
/// Bytes of the longest eras file.
pub(crate) const ERAS_LEN_MAX: usize =
    ERAS_REMOVED_AT + ERAS_REMOVED_MAX * size_of::<u64>() + size_of::<u32>();

/// First bytes of an ids file.
const IDS_MAGIC: [u8; 8] = *b"CASKIDS1";
const IDS_LEN: usize = IDS_MAGIC.len() + size_of::<u64>() + size_of::<u32>();

/// Encodes the ids file of a store in which no file has an id above the ceiling.
pub(crate) fn encode_ids(ceiling: u64) -> [u8; IDS_LEN] {
    let mut bytes = [0; IDS_LEN];
    put(&mut bytes, 0, IDS_MAGIC);
    put(&mut bytes, IDS_MAGIC.len(), ceiling.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..IDS_LEN - size_of::<u32>()]);
    put(&mut bytes, IDS_LEN - size_of::<u32>(), crc.to_le_bytes());
    bytes
}

/// Returns the ceiling in an ids file; `None` for any other bytes.
pub(crate) fn decode_ids(bytes: &[u8]) -> Option<u64> {
    let (body, crc) = bytes.split_last_chunk()?;
    let whole = bytes.len() == IDS_LEN && u32::from_le_bytes(*crc) == crc32fast::hash(body);
    u64_at(body, IDS_MAGIC.len()).filter(|_| whole && body.starts_with(&IDS_MAGIC))
}

/// Flag of a record that is valid only within its batch.
pub(crate) const FLAG_IN_BATCH: u8 = 1;

/// Random number of a file: see the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Salt(pub(crate) u64);

impl Salt {
    fn hasher(self) -> crc32fast::Hasher {
        crc32fast::Hasher::new_with_initial(self.0 as u32)
    }

    fn crc(self, bytes: &[u8]) -> u32 {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// The writer of a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// Appends. The newest file of this kind is the active file.
    Log,
    /// A merge. Such a file is never appended to.
    Merged,
}

/// The header of a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) kind: FileKind,
    pub(crate) id: u64,
    pub(crate) salt: Salt,
}

/// Reason why bytes are not the expected structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    Short,
    Magic,
    /// A file of a build before the first release.
    Former,
    FormatVersion(u32),
    Checksum,
    Kind(u32),
    Fields,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("it ends too early"),
            Self::Magic => f.write_str("it does not begin with the expected magic bytes"),
            Self::Former => {
                f.write_str("a build before the first release wrote it; this build cannot read it")
            }
            Self::FormatVersion(version) => {
                write!(f, "its format version is {version}, this build reads {FORMAT_VERSION}")
            }
            Self::Checksum => f.write_str("its checksum is wrong"),
            Self::Kind(kind) => write!(f, "its kind {kind} is unknown"),
            Self::Fields => f.write_str("its fields contradict each other"),
        }
    }
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, field: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&field);
}

/// Returns why a file that begins with another magic is rejected. `crc_holds`: its checksum is valid, so that
/// the magic is no damage.
fn wrong_magic(bytes: &[u8], crc_holds: bool) -> Bad {
    match crc_holds && FORMER_MAGICS.iter().any(|magic| bytes.starts_with(magic)) {
        true => Bad::Former,
        false => Bad::Magic,
    }
}

/// Returns whether the last 4 bytes are the checksum of those before them.
fn ends_with_crc(bytes: &[u8]) -> bool {
    bytes.split_last_chunk().is_some_and(|(body, crc)| u32::from_le_bytes(*crc) == crc32fast::hash(body))
}

impl FileHeader {
    pub(crate) fn encode(&self) -> [u8; FILE_HEADER_LEN] {
        let mut bytes = [0; FILE_HEADER_LEN];
        put(&mut bytes, 0, FILE_MAGIC);
        put(&mut bytes, FILE_VERSION_AT, FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, FILE_KIND_AT, (self.kind as u32).to_le_bytes());
        put(&mut bytes, FILE_ID_AT, self.id.to_le_bytes());
        put(&mut bytes, FILE_SALT_AT, self.salt.0.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..FILE_CRC_AT]);
        put(&mut bytes, FILE_CRC_AT, crc.to_le_bytes());
        bytes
    }

    /// Decodes a header. Checks the version before the checksum, because another format may compute its
    /// checksum differently.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Bad> {
        let bytes: &[u8; FILE_HEADER_LEN] = bytes.first_chunk().ok_or(Bad::Short)?;
        let crc_holds = u32_at(bytes, FILE_CRC_AT) == Some(crc32fast::hash(&bytes[..FILE_CRC_AT]));
        if !bytes.starts_with(&FILE_MAGIC) {
            return Err(wrong_magic(bytes, crc_holds));
        }
        match u32_at(bytes, FILE_VERSION_AT).ok_or(Bad::Short)? {
            FORMAT_VERSION if crc_holds => {}
            FORMAT_VERSION => return Err(Bad::Checksum),
            // A flipped bit in the version field is damage; a later format keeps the checksum of this header.
            version if crc_holds => return Err(Bad::FormatVersion(version)),
            _ => return Err(Bad::Checksum),
        }
        let kind = match u32_at(bytes, FILE_KIND_AT).ok_or(Bad::Short)? {
            0 => FileKind::Log,
            1 => FileKind::Merged,
            kind => return Err(Bad::Kind(kind)),
        };
        let id = u64_at(bytes, FILE_ID_AT).ok_or(Bad::Short)?;
        let salt = Salt(u64_at(bytes, FILE_SALT_AT).ok_or(Bad::Short)?);
        Ok(Self { kind, id, salt })
    }
}

/// Kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Value = 1,
    Tombstone = 2,
    Batch = 3,
    Mark = 4,
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) key_len: u16,
    pub(crate) value_len: u32,
    pub(crate) user_flags: u32,
    pub(crate) version: u64,
    pub(crate) expiry_ms: u64,
    pub(crate) era: Era,
}

impl Header {
    /// Returns the bytes of the whole record.
    pub(crate) fn record_len(&self) -> u64 {
        RECORD_HEADER_LEN as u64 + u64::from(self.key_len) + u64::from(self.value_len)
    }

    /// Returns whether the record is valid only within its batch.
    pub(crate) fn in_batch(&self) -> bool {
        self.flags & FLAG_IN_BATCH != 0
    }

    pub(crate) fn encode(&self) -> [u8; RECORD_HEADER_LEN] {
        let mut bytes = [0; RECORD_HEADER_LEN];
        bytes[KIND_AT] = self.kind as u8;
        bytes[FLAGS_AT] = self.flags;
        put(&mut bytes, KEY_LEN_AT, self.key_len.to_le_bytes());
        put(&mut bytes, VALUE_LEN_AT, self.value_len.to_le_bytes());
        put(&mut bytes, USER_FLAGS_AT, self.user_flags.to_le_bytes());
        put(&mut bytes, VERSION_AT, self.version.to_le_bytes());
        put(&mut bytes, EXPIRY_AT, self.expiry_ms.to_le_bytes());
        put(&mut bytes, ERA_AT, self.era.to_le_bytes());
        bytes
    }

    /// Decodes the fixed part; its fields are not reliable until the checksum is verified.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Bad> {
        let bytes: &[u8; RECORD_HEADER_LEN] = bytes.first_chunk().ok_or(Bad::Short)?;
        let kind = match bytes[KIND_AT] {
            1 => Kind::Value,
            2 => Kind::Tombstone,
            3 => Kind::Batch,
            4 => Kind::Mark,
            kind => return Err(Bad::Kind(kind.into())),
        };
        let header = Self {
            kind,
            flags: bytes[FLAGS_AT],
            key_len: array_at(bytes, KEY_LEN_AT).map(u16::from_le_bytes).ok_or(Bad::Short)?,
            value_len: u32_at(bytes, VALUE_LEN_AT).ok_or(Bad::Short)?,
            user_flags: u32_at(bytes, USER_FLAGS_AT).ok_or(Bad::Short)?,
            version: u64_at(bytes, VERSION_AT).ok_or(Bad::Short)?,
            expiry_ms: u64_at(bytes, EXPIRY_AT).ok_or(Bad::Short)?,
            era: u32_at(bytes, ERA_AT).ok_or(Bad::Short)?,
        };
        let fits = match kind {
            Kind::Value => header.flags & !FLAG_IN_BATCH == 0 && header.record_len() <= RECORD_LEN_MAX,
            Kind::Tombstone => {
                header.flags & !FLAG_IN_BATCH == 0 && header.value_len as usize == TOMBSTONE_VALUE_LEN
            }
            Kind::Batch => header.flags == 0 && header.key_len == 0,
            Kind::Mark => header.flags == 0 && header.key_len == 0 && header.value_len == 0,
        };
        if fits { Ok(header) } else { Err(Bad::Fields) }
    }
}

/// A whole record with a verified checksum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parsed<'a> {
    pub(crate) header: Header,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

impl<'a> Parsed<'a> {
    /// Parses the record at the beginning of `bytes`; more bytes may follow.
    pub(crate) fn parse(bytes: &'a [u8], salt: Salt) -> Result<Self, Bad> {
        let header = Header::decode(bytes)?;
        let len = usize::try_from(header.record_len()).map_err(|_| Bad::Short)?;
        let record = bytes.get(..len).ok_or(Bad::Short)?;
        if u32_at(record, 0) != Some(salt.crc(record.get(CRC_LEN..).ok_or(Bad::Short)?)) {
            return Err(Bad::Checksum);
        }
        Self::split(record, header)
    }

    /// Splits a record whose checksum was verified before.
    pub(crate) fn split(record: &'a [u8], header: Header) -> Result<Self, Bad> {
        let body = record.get(RECORD_HEADER_LEN..).ok_or(Bad::Short)?;
        let (key, value) = body.split_at_checked(header.key_len.into()).ok_or(Bad::Short)?;
        Ok(Self { header, key, value })
    }

    /// Returns the offset below which the file was durable, if this is a mark written at `offset` of this
    /// file.
    pub(crate) fn mark_at(&self, offset: u64, salt: Salt) -> Option<u64> {
        let is_mark = self.header.kind == Kind::Mark
            && self.header.expiry_ms == salt.0 ^ offset
            && self.header.version <= offset;
        is_mark.then_some(self.header.version)
    }

    /// Returns the records of a batch, each with its offset in the frame.
    pub(crate) fn members(&self, salt: Salt) -> Result<Vec<(usize, Parsed<'a>)>, Bad> {
        let mut members = Vec::new();
        let mut rest = self.value;
        let mut offset = RECORD_HEADER_LEN;
        while !rest.is_empty() {
            let member = Parsed::parse(rest, salt)?;
            if !member.header.in_batch() {
                return Err(Bad::Fields);
            }
            let len = RECORD_HEADER_LEN + member.key.len() + member.value.len();
            members.push((offset, member));
            offset += len;
            rest = rest.get(len..).ok_or(Bad::Short)?;
        }
        if members.len() == self.header.user_flags as usize { Ok(members) } else { Err(Bad::Fields) }
    }
}

/// Appends one record to `buffer`. `header` holds all fields except the lengths, which must fit their fields.
pub(crate) fn encode_record(buffer: &mut Vec<u8>, salt: Salt, mut header: Header, key: &[u8], value: &[u8]) {
    let start = buffer.len();
    header.key_len = key.len() as u16;
    header.value_len = value.len() as u32;
    buffer.reserve(RECORD_HEADER_LEN + key.len() + value.len());
    buffer.extend_from_slice(&header.encode());
    buffer.extend_from_slice(key);
    buffer.extend_from_slice(value);
    seal(&mut buffer[start..], salt);
}

/// Begins a batch; the caller appends its records and passes the returned offset to [`end_batch`].
pub(crate) fn begin_batch(buffer: &mut Vec<u8>) -> usize {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; RECORD_HEADER_LEN]);
    start
}

/// Ends the batch that begins at `start`.
pub(crate) fn end_batch(buffer: &mut [u8], salt: Salt, start: usize, records: usize) {
    let frame = &mut buffer[start..];
    let header = Header {
        value_len: (frame.len() - RECORD_HEADER_LEN) as u32,
        user_flags: records as u32,
        ..blank(Kind::Batch)
    };
    put(frame, 0, header.encode());
    seal(frame, salt);
}

/// Returns a mark to be written at `offset`; it states that all bytes below `durable` are durable.
pub(crate) fn encode_mark(salt: Salt, offset: u64, durable: u64) -> [u8; MARK_LEN] {
    let header = Header { version: durable, expiry_ms: salt.0 ^ offset, ..blank(Kind::Mark) };
    let mut bytes = header.encode();
    seal(&mut bytes, salt);
    bytes
}

fn blank(kind: Kind) -> Header {
    Header { kind, flags: 0, key_len: 0, value_len: 0, user_flags: 0, version: 0, expiry_ms: 0, era: 0 }
}

fn seal(record: &mut [u8], salt: Salt) {
    let crc = salt.crc(&record[CRC_LEN..]);
    put(record, 0, crc.to_le_bytes());
}

/// Content of the eras file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Eras {
    /// Highest file id that a removed file may have had.
    pub(crate) file_id_floor: u64,
    /// Upper bound of the versions of removed records: the store assigns only higher ones.
    pub(crate) version_floor: u64,
    /// The era of each partition.
    pub(crate) eras: Vec<Era>,
    /// Files that a merge has replaced, all at once. A start does not read those that still exist, but
    /// removes them.
    pub(crate) removed: Vec<u64>,
}

impl Eras {
    /// Creates the eras of an empty store.
    pub(crate) fn new() -> Self {
        Self { file_id_floor: 0, version_floor: 0, eras: vec![0; PARTITIONS.into()], removed: Vec::new() }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        debug_assert!(self.removed.len() <= ERAS_REMOVED_MAX);
        let mut bytes = Vec::with_capacity(ERAS_LEN_MAX);
        bytes.extend_from_slice(&ERAS_MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.file_id_floor.to_le_bytes());
        bytes.extend_from_slice(&self.version_floor.to_le_bytes());
        for era in &self.eras {
            bytes.extend_from_slice(&era.to_le_bytes());
        }
        for id in &self.removed {
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Bad> {
        if bytes.len() > ERAS_LEN_MAX {
            return Err(Bad::Fields);
        }
        if !bytes.starts_with(&ERAS_MAGIC) {
            return Err(wrong_magic(bytes, ends_with_crc(bytes)));
        }
        let (body, crc) = bytes.split_last_chunk().ok_or(Bad::Short)?;
        if u32::from_le_bytes(*crc) != crc32fast::hash(body) {
            return Err(Bad::Checksum);
        }
        match u32_at(body, ERAS_VERSION_AT).ok_or(Bad::Short)? {
            FORMAT_VERSION => {}
            version => return Err(Bad::FormatVersion(version)),
        }
        let file_id_floor = u64_at(body, ERAS_FLOOR_AT).ok_or(Bad::Short)?;
        let version_floor = u64_at(body, ERAS_VERSION_FLOOR_AT).ok_or(Bad::Short)?;
        let (eras, _) = body.get(ERAS_AT..ERAS_REMOVED_AT).ok_or(Bad::Short)?.as_chunks();
        let (removed, rest) = body.get(ERAS_REMOVED_AT..).ok_or(Bad::Short)?.as_chunks();
        if !rest.is_empty() || file_id_floor > FILE_ID_MAX {
            return Err(Bad::Fields);
        }
        Ok(Self {
            file_id_floor,
            version_floor,
            eras: eras.iter().map(|era| Era::from_le_bytes(*era)).collect(),
            removed: removed.iter().map(|id| u64::from_le_bytes(*id)).collect(),
        })
    }
}

#[cfg(test)]
mod tests;
