//! Byte layout of the file that marks a directory as a snapshot.
//!
//! ```text
//! | magic 8 | format version 4 | state 4 | (data file id 8, len 8) x n | crc 4 |
//!   state: 0 = partial, 1 = complete
//! ```

use super::{Bad, FORMAT_VERSION, ends_with_crc, u32_at, u64_at, wrong_magic};

/// First bytes of a marker.
pub(crate) const MAGIC: [u8; 8] = *b"CKADSNAP";
const VERSION_AT: usize = MAGIC.len();
const STATE_AT: usize = VERSION_AT + size_of::<u32>();
const FILES_AT: usize = STATE_AT + size_of::<u32>();
const LISTED_LEN: usize = 2 * size_of::<u64>();

/// Bytes of the longest marker: a store has at most as many data files as there are file slots.
pub(crate) const MARKER_LEN_MAX: u64 = (FILES_AT + LISTED_LEN * u16::MAX as usize + size_of::<u32>()) as u64;

/// A data file of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) id: u64,
    pub(crate) len: u64,
}

/// State of a directory with a marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    /// An incomplete snapshot, or a store whose restore is incomplete.
    Partial,
    /// A snapshot with these data files.
    Complete(Vec<Listed>),
}

impl Marker {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (state, listed) = match self {
            Self::Partial => (0_u32, &[][..]),
            Self::Complete(listed) => (1, &listed[..]),
        };
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&state.to_le_bytes());
        for file in listed {
            bytes.extend_from_slice(&file.id.to_le_bytes());
            bytes.extend_from_slice(&file.len.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Bad> {
        if !bytes.starts_with(&MAGIC) {
            return Err(wrong_magic(bytes, ends_with_crc(bytes)));
        }
        let (body, crc) = bytes.split_last_chunk().ok_or(Bad::Short)?;
        if u32::from_le_bytes(*crc) != crc32fast::hash(body) {
            return Err(Bad::Checksum);
        }
        match u32_at(body, VERSION_AT).ok_or(Bad::Short)? {
            FORMAT_VERSION => {}
            version => return Err(Bad::FormatVersion(version)),
        }
        let (files, rest) = body.get(FILES_AT..).ok_or(Bad::Short)?.as_chunks::<LISTED_LEN>();
        let listed = |file: &[u8; LISTED_LEN]| {
            let len = u64_at(file, size_of::<u64>()).ok_or(Bad::Short)?;
            Ok(Listed { id: u64_at(file, 0).ok_or(Bad::Short)?, len })
        };
        match u32_at(body, STATE_AT).ok_or(Bad::Short)? {
            0 if files.is_empty() && rest.is_empty() => Ok(Self::Partial),
            1 if rest.is_empty() => Ok(Self::Complete(files.iter().map(listed).collect::<Result<_, Bad>>()?)),
            _ => Err(Bad::Fields),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_read_back_and_no_flipped_bit_passes() {
        let files = vec![Listed { id: 1, len: 2 }, Listed { id: 7, len: 9 }];
        for marker in [Marker::Partial, Marker::Complete(Vec::new()), Marker::Complete(files)] {
            let bytes = marker.encode();
            assert_eq!(Marker::decode(&bytes), Ok(marker));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(Marker::decode(&flipped).is_err(), "bit {bit}");
            }
        }
    }
}
