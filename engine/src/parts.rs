//! What `benches/format.rs` measures that no public call does alone.

use crate::format::{Header, Kind, Parsed, Salt, encode_record as encode};

const SALT: Salt = Salt(0x0123_4567_89ab_cdef);

/// Appends a record to `buffer`, its checksum computed; key and value must fit their lengths' fields.
pub fn encode_record(buffer: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let header = Header {
        kind: Kind::Value,
        flags: 0,
        key_len: 0,
        value_len: 0,
        user_flags: 0,
        version: 1,
        expiry_ms: 0,
        era: 0,
    };
    encode(buffer, SALT, header, key, value);
}

/// Whether the bytes begin with a whole record: reads it and compares its checksum.
pub fn is_record(bytes: &[u8]) -> bool {
    Parsed::parse(bytes, SALT).is_ok()
}
