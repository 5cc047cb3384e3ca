//! The format of DUMP and RESTORE: Caskade's own, with a checksum.
//!
//! ```text
//! "CASK" | version u8 = 1 | user flags u32 | value | crc32 u32 of everything before it
//! ```
//! Integers are little-endian. RESTORE rejects Redis's own dumps, as Redis rejects these.

use bytes::{Buf, BufMut, Bytes};

const MAGIC: &[u8; 4] = b"CASK";
const VERSION: u8 = 1;
const HEADER_LEN: usize = 4 + 1 + 4;
const CHECKSUM_LEN: usize = 4;

/// Encodes a value and its user flags.
pub(super) fn encode(value: &[u8], user_flags: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN + value.len() + CHECKSUM_LEN);
    out.put_slice(MAGIC);
    out.put_u8(VERSION);
    out.put_u32_le(user_flags);
    out.put_slice(value);
    let checksum = crc32fast::hash(&out);
    out.put_u32_le(checksum);
    out
}

/// Decodes a value and its user flags; `None` if the bytes are of another format or damaged.
pub(super) fn decode(bytes: &Bytes) -> Option<(Bytes, u32)> {
    let at = bytes.len().checked_sub(CHECKSUM_LEN).filter(|at| *at >= HEADER_LEN)?;
    let (mut header, mut checksum) = (bytes.slice(..at), bytes.slice(at..));
    if crc32fast::hash(&header) != checksum.get_u32_le() || !header.starts_with(MAGIC) {
        return None;
    }
    header.advance(MAGIC.len());
    let version = header.get_u8();
    let user_flags = header.get_u32_le();
    (version == VERSION).then_some((header, user_flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dump_is_read_back_and_a_flipped_bit_is_found() {
        let dump = encode(b"value", 7);
        assert_eq!(decode(&Bytes::from(dump.clone())), Some((Bytes::from("value"), 7)));
        assert_eq!(decode(&Bytes::from(encode(b"", 0))), Some((Bytes::new(), 0)));
        for bit in 0..dump.len() * 8 {
            let mut damaged = dump.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&damaged.into()), None, "bit {bit}");
        }
        assert_eq!(decode(&Bytes::from_static(b"short")), None);
    }
}
