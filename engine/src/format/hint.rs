//! Byte layout of hint files: the records of a data file without their values, by partition.
//!
//! ```text
//! hint file:  | header | section of partition 0 | section of partition 1 | ... |
//!
//! header
//! | magic 8 | format version 4 | data file id 8 | salt 8 | data file len 8 | section head 12 x 1024 | crc 4 |
//! section head
//! | bytes 4 | entries 4 | crc 4 |
//! entry
//! | version 8 | era 4 | offset 4 | len 4 | kind 1 | key len 2 | key | tombstone: bound 8 |
//!
//!   offset and len: of the record in the data file; kind: 0 a value, 1 a tombstone, 2 a value that expires
//! ```
//!
//! A hint belongs to a data file only if the id, the salt and the length match.

use super::{Bad, Salt, array_at, put, u32_at, u64_at};
use crate::format::Era;
use crate::slots::PARTITIONS;

const MAGIC: [u8; 8] = *b"CKADHINT";
/// Version of this layout. A hint of another version is not used: its data file is scanned and gets a new
/// hint.
const HINT_VERSION: u32 = 1;
const VERSION_AT: usize = MAGIC.len();
const ID_AT: usize = VERSION_AT + size_of::<u32>();
const SALT_AT: usize = ID_AT + size_of::<u64>();
const DATA_LEN_AT: usize = SALT_AT + size_of::<u64>();
const HEADS_AT: usize = DATA_LEN_AT + size_of::<u64>();
const HEAD_LEN: usize = 3 * size_of::<u32>();
const CRC_AT: usize = HEADS_AT + HEAD_LEN * PARTITIONS as usize;
/// Bytes of a hint file's header: the offset of its first section.
pub(crate) const HINT_HEADER_LEN: usize = CRC_AT + size_of::<u32>();

const ERA_AT: usize = size_of::<u64>();
const OFFSET_AT: usize = ERA_AT + size_of::<Era>();
const LEN_AT: usize = OFFSET_AT + size_of::<u32>();
const KIND_AT: usize = LEN_AT + size_of::<u32>();
const KEY_LEN_AT: usize = KIND_AT + size_of::<u8>();
const KEY_AT: usize = KEY_LEN_AT + size_of::<u16>();

const VALUE: u8 = 0;
const TOMBSTONE: u8 = 1;
const EXPIRING: u8 = 2;

/// Length and checksum of a section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SectionHead {
    pub(crate) bytes: u32,
    pub(crate) entries: u32,
    pub(crate) crc: u32,
}

/// The header of a hint file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HintHeader {
    pub(crate) data_file_id: u64,
    pub(crate) salt: Salt,
    pub(crate) data_len: u64,
    /// The section heads, by partition.
    pub(crate) sections: Vec<SectionHead>,
}

impl HintHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HINT_HEADER_LEN];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, VERSION_AT, HINT_VERSION.to_le_bytes());
        put(&mut bytes, ID_AT, self.data_file_id.to_le_bytes());
        put(&mut bytes, SALT_AT, self.salt.0.to_le_bytes());
        put(&mut bytes, DATA_LEN_AT, self.data_len.to_le_bytes());
        for (head, at) in self.sections.iter().zip((HEADS_AT..CRC_AT).step_by(HEAD_LEN)) {
            put(&mut bytes, at, head.bytes.to_le_bytes());
            put(&mut bytes, at + size_of::<u32>(), head.entries.to_le_bytes());
            put(&mut bytes, at + 2 * size_of::<u32>(), head.crc.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        put(&mut bytes, CRC_AT, crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Bad> {
        let bytes = bytes.get(..HINT_HEADER_LEN).ok_or(Bad::Short)?;
        if !bytes.starts_with(&MAGIC) {
            return Err(Bad::Magic);
        }
        if u32_at(bytes, CRC_AT) != Some(crc32fast::hash(&bytes[..CRC_AT])) {
            return Err(Bad::Checksum);
        }
        match u32_at(bytes, VERSION_AT).ok_or(Bad::Short)? {
            HINT_VERSION => {}
            version => return Err(Bad::FormatVersion(version)),
        }
        let head = |at: usize| {
            let field = |number: usize| u32_at(bytes, at + number * size_of::<u32>()).ok_or(Bad::Short);
            Ok(SectionHead { bytes: field(0)?, entries: field(1)?, crc: field(2)? })
        };
        Ok(Self {
            data_file_id: u64_at(bytes, ID_AT).ok_or(Bad::Short)?,
            salt: Salt(u64_at(bytes, SALT_AT).ok_or(Bad::Short)?),
            data_len: u64_at(bytes, DATA_LEN_AT).ok_or(Bad::Short)?,
            sections: (HEADS_AT..CRC_AT).step_by(HEAD_LEN).map(head).collect::<Result<_, Bad>>()?,
        })
    }

    /// Returns the bytes of the whole hint file.
    pub(crate) fn file_len(&self) -> u64 {
        HINT_HEADER_LEN as u64 + self.sections.iter().map(|head| u64::from(head.bytes)).sum::<u64>()
    }
}

/// The hint of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HintEntry<'a> {
    pub(crate) version: u64,
    pub(crate) era: Era,
    pub(crate) offset: u32,
    /// Bytes of the whole record.
    pub(crate) len: u32,
    /// The bound, if the record is a tombstone.
    pub(crate) bound: Option<u64>,
    /// Whether the record is a value that expires.
    pub(crate) expires: bool,
    pub(crate) key: &'a [u8],
}

impl<'a> HintEntry<'a> {
    /// Returns the bytes of the encoded entry.
    pub(crate) fn encoded_len(&self) -> usize {
        KEY_AT + self.key.len() + if self.bound.is_some() { size_of::<u64>() } else { 0 }
    }

    /// Appends the entry to `buffer`; the key must be at most 65,535 bytes.
    pub(crate) fn encode(&self, buffer: &mut Vec<u8>) {
        let mut fixed = [0; KEY_AT];
        let kind = match (self.bound, self.expires) {
            (Some(_), _) => TOMBSTONE,
            (None, true) => EXPIRING,
            (None, false) => VALUE,
        };
        put(&mut fixed, 0, self.version.to_le_bytes());
        put(&mut fixed, ERA_AT, self.era.to_le_bytes());
        put(&mut fixed, OFFSET_AT, self.offset.to_le_bytes());
        put(&mut fixed, LEN_AT, self.len.to_le_bytes());
        put(&mut fixed, KIND_AT, [kind]);
        put(&mut fixed, KEY_LEN_AT, (self.key.len() as u16).to_le_bytes());
        buffer.extend_from_slice(&fixed);
        buffer.extend_from_slice(self.key);
        if let Some(bound) = self.bound {
            buffer.extend_from_slice(&bound.to_le_bytes());
        }
    }

    /// Decodes the entry at the beginning of `bytes`; returns it and the bytes after it.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Bad> {
        let fixed: &[u8; KEY_AT] = bytes.first_chunk().ok_or(Bad::Short)?;
        let [kind] = array_at(fixed, KIND_AT).ok_or(Bad::Short)?;
        let key_len = array_at(fixed, KEY_LEN_AT).map(u16::from_le_bytes).ok_or(Bad::Short)?;
        let rest = bytes.get(KEY_AT..).ok_or(Bad::Short)?;
        let (key, rest) = rest.split_at_checked(key_len.into()).ok_or(Bad::Short)?;
        let (bound, rest) = match kind {
            VALUE | EXPIRING => (None, rest),
            TOMBSTONE => {
                let (bound, rest) = rest.split_first_chunk().ok_or(Bad::Short)?;
                (Some(u64::from_le_bytes(*bound)), rest)
            }
            _ => return Err(Bad::Fields),
        };
        let entry = Self {
            version: u64_at(fixed, 0).ok_or(Bad::Short)?,
            era: u32_at(fixed, ERA_AT).ok_or(Bad::Short)?,
            offset: u32_at(fixed, OFFSET_AT).ok_or(Bad::Short)?,
            len: u32_at(fixed, LEN_AT).ok_or(Bad::Short)?,
            bound,
            expires: kind == EXPIRING,
            key,
        };
        Ok((entry, rest))
    }
}

/// Returns the entries of a section after verifying its length and checksum.
pub(crate) fn section_entries<'a>(
    head: &SectionHead,
    bytes: &'a [u8],
) -> Result<impl Iterator<Item = Result<HintEntry<'a>, Bad>>, Bad> {
    if bytes.len() != head.bytes as usize {
        return Err(Bad::Short);
    }
    if crc32fast::hash(bytes) != head.crc {
        return Err(Bad::Checksum);
    }
    let mut rest = bytes;
    let mut left = head.entries;
    Ok(std::iter::from_fn(move || {
        if left == 0 {
            // Bytes after the last entry are an error.
            return (!std::mem::take(&mut rest).is_empty()).then_some(Err(Bad::Fields));
        }
        left -= 1;
        match HintEntry::decode(rest) {
            Ok((entry, after)) => {
                rest = after;
                Some(Ok(entry))
            }
            Err(bad) => {
                left = 0;
                rest = &[];
                Some(Err(bad))
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_read_back(version: u64, era: u32, offset: u32, len: u32, bound: Option<u64>, expires: bool, key: Vec<u8>, more: Vec<u8>) {
            let expires = expires && bound.is_none();
            let entry = HintEntry { version, era, offset, len, bound, expires, key: &key };
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), entry.encoded_len());
            bytes.extend_from_slice(&more);
            prop_assert_eq!(HintEntry::decode(&bytes), Ok((entry, &more[..])));
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_read_within_bounds(bytes: Vec<u8>, entries: u32) {
            let head = SectionHead { bytes: bytes.len() as u32, entries, crc: crc32fast::hash(&bytes) };
            let read = section_entries(&head, &bytes).unwrap().collect::<Vec<_>>();
            prop_assert!(read.len() <= bytes.len() + 1);
            let _ = HintHeader::decode(&bytes);
        }

        #[test]
        fn header_reads_back_and_no_flipped_bit_passes(id: u64, salt: u64, data_len: u64, bit in 0..HINT_HEADER_LEN * 8) {
            let sections = vec![SectionHead { bytes: 1, entries: 2, crc: 3 }; PARTITIONS.into()];
            let header = HintHeader { data_file_id: id, salt: Salt(salt), data_len, sections };
            let mut bytes = header.encode();
            prop_assert_eq!(HintHeader::decode(&bytes), Ok(header));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(HintHeader::decode(&bytes).is_err());
        }
    }
}
