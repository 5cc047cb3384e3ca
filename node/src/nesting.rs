//! A bound on how deeply a decoded value may contain values of its own type.
//!
//! Decoding, comparing and dropping such a value recurse. Without a bound, a few kilobytes from a peer would
//! exhaust the stack, which ends the process. A field that contains its own type requests the bound by
//! `#[serde(deserialize_with = "crate::nesting::bounded")]`.

use std::cell::Cell;

use serde::{Deserialize, Deserializer, de::Error};

/// Maximum depth. A conditional action in a transaction is at depth 3.
const DEPTH_MAX: u32 = 8;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Decodes a value one level deeper.
///
/// # Errors
/// The value is at more than [`DEPTH_MAX`] levels, or its own decoding fails.
pub(crate) fn bounded<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let depth = DEPTH.get();
    if depth >= DEPTH_MAX {
        return Err(D::Error::custom(format!("nested more than {DEPTH_MAX} levels deep")));
    }
    DEPTH.set(depth + 1);
    let decoded = T::deserialize(deserializer);
    DEPTH.set(depth);
    decoded
}
