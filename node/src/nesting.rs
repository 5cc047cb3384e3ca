//! A bound on how deeply a decoded value may contain its own kind.
//!
//! Decoding, comparing and dropping such a value recurse: without a bound, some kilobytes from a peer would exhaust the
//! stack, which ends the process. The bound is asked for where a type contains itself, by
//! `#[serde(deserialize_with = "crate::nesting::bounded")]`.

use std::cell::Cell;

use serde::{Deserialize, Deserializer, de::Error};

/// Levels that are decoded. An action of a transaction on a condition is the third.
const DEPTH_MAX: u32 = 8;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Decodes one level more.
///
/// # Errors
/// There are too many already, or what the type's own decoding refuses.
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
