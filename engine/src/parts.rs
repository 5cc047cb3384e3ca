//! Functions that `benches/format.rs` measures alone; no public call exposes them.

use crate::format::{Header, Kind, Parsed, Salt, encode_record as encode};

const SALT: Salt = Salt(0x0123_4567_89ab_cdef);

/// Appends a record with its checksum to `buffer`; key and value must fit their length fields.
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

/// Returns whether the bytes begin with a whole record: parses it and verifies its checksum.
pub fn is_record(bytes: &[u8]) -> bool {
    Parsed::parse(bytes, SALT).is_ok()
}
