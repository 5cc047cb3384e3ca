//! The only conversion of the topology log's types to bytes, on disk and between peers.
//!
//! Decoding is bounded: it allocates at most [`BYTES_MAX`] and rejects trailing bytes.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Upper bound of one decoded value: the largest is a snapshot of the cluster state.
pub(super) const BYTES_MAX: usize = 64 << 20;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<BYTES_MAX>()
}

/// Encodes `value`.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    bincode::serde::encode_to_vec(value, config()).map_err(|error| format!("cannot encode: {error}"))
}

/// Decodes exactly one value from all of `bytes`.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let (value, used) = bincode::serde::decode_from_slice(bytes, config())
        .map_err(|error| format!("cannot decode: {error}"))?;
    if used != bytes.len() {
        return Err(format!("cannot decode: {} bytes left over after {used}", bytes.len() - used));
    }
    Ok(value)
}
