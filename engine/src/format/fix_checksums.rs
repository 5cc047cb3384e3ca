//! Writes valid checksums into made-up bytes, so that fuzzing reaches the code behind the checksum checks.
//!
//! For tests and fuzz targets only: its output is no evidence of what a disk may hold.

use super::{
    CRC_LEN, EXPIRY_AT, FILE_HEADER_LEN, FILE_KIND_AT, FORMAT_VERSION, FileHeader, FileKind, Header, Kind,
    RECORD_HEADER_LEN, Salt, put, seal, u32_at,
};

/// Gives the bytes a valid header with this id, if they are long enough, and repairs the records after it.
pub(crate) fn data_file(bytes: &mut [u8], id: u64, salt: Salt) {
    let odd = u32_at(bytes, FILE_KIND_AT).is_some_and(|kind| kind & 1 == 1);
    let kind = if odd { FileKind::Merged } else { FileKind::Log };
    let Some((header, rest)) = bytes.split_first_chunk_mut::<FILE_HEADER_LEN>() else { return };
    *header = FileHeader { kind, id, salt }.encode();
    records(rest, FILE_HEADER_LEN as u64, salt);
}

/// Repairs the checksums of consecutive records, the first of which is at `offset` of its file. Stops at
/// bytes that cannot be a record.
pub(crate) fn records(bytes: &mut [u8], mut offset: u64, salt: Salt) {
    let mut rest = bytes;
    while let Ok(header) = Header::decode(rest)
        && let Some((record, after)) = rest.split_at_mut_checked(header.record_len() as usize)
    {
        match header.kind {
            Kind::Mark => put(record, EXPIRY_AT, (salt.0 ^ offset).to_le_bytes()),
            Kind::Batch => members(&mut record[RECORD_HEADER_LEN..], salt),
            Kind::Value | Kind::Tombstone => {}
        }
        seal(record, salt);
        offset += header.record_len();
        rest = after;
    }
}

fn members(bytes: &mut [u8], salt: Salt) {
    let mut rest = bytes;
    while let Ok(header) = Header::decode(rest)
        && let Some((record, after)) = rest.split_at_mut_checked(header.record_len() as usize)
    {
        seal(record, salt);
        rest = after;
    }
}

/// Repairs a file that begins with a magic and the format version, and ends with a checksum of all before it.
pub(crate) fn small_file(bytes: &mut [u8], magic: [u8; 8]) {
    if bytes.len() < magic.len() + 2 * CRC_LEN {
        return;
    }
    put(bytes, 0, magic);
    put(bytes, magic.len(), FORMAT_VERSION.to_le_bytes());
    let body = bytes.len() - CRC_LEN;
    let crc = crc32fast::hash(&bytes[..body]);
    put(bytes, body, crc.to_le_bytes());
}
