//! Fuzz targets for the decoders of client and peer input. `tests/fuzz/node` and the property tests below run
//! them: each function decodes arbitrary bytes and panics if a promise does not hold.
//!
//! The promises: no input makes a decoder panic, exhaust the stack, or hold more memory than a small multiple
//! of its length. The result does not depend on how the input is cut into pieces. A decoded message can be
//! encoded, and the encoding decodes to the same message.
//!
//! The first byte of an input selects how the rest is cut, or the kind of message.
#![allow(clippy::expect_used, reason = "a promise that does not hold is to panic")]

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::net::wire;
use crate::{data, frontend, net, runtime, topology};

/// Upper bound of the bytes of one message.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Parses the input as commands of Redis's protocol.
pub fn resp(input: &[u8]) {
    frontend::resp::fuzz::run(input);
}

/// Parses the input as commands of memcached's protocol.
pub fn memcached(input: &[u8]) {
    frontend::memcached::fuzz::run(input);
}

/// Decodes the input as frames of a link between peers.
pub fn frames(input: &[u8]) {
    net::fuzz::run(input);
}

/// Decodes the input as a message that frames or gossip carry.
pub fn messages(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    let kinds = data::fuzz::KINDS + runtime::fuzz::KINDS + 1;
    match kind % kinds {
        kind if kind < data::fuzz::KINDS => data::fuzz::run(kind, bytes),
        kind if kind < kinds - 1 => runtime::fuzz::run(kind - data::fuzz::KINDS, bytes),
        _ => topology::fuzz(bytes),
    }
}

/// Returns the initial corpus: the target's name and the input.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let message = |kind: u8, bytes: Vec<u8>| ("messages", [&[kind], &bytes[..]].concat());
    let of_data = data::fuzz::seeds().into_iter().map(|(kind, bytes)| message(kind, bytes));
    let of_node =
        runtime::fuzz::seeds().into_iter().map(|(kind, bytes)| message(kind + data::fuzz::KINDS, bytes));
    let mut seeds: Vec<_> = of_data.chain(of_node).collect();
    seeds.extend(frontend::resp::fuzz::seeds().into_iter().map(|bytes| ("resp", bytes)));
    seeds.extend(frontend::memcached::fuzz::seeds().into_iter().map(|bytes| ("memcached", bytes)));
    seeds.extend(net::fuzz::seeds().into_iter().map(|bytes| ("frames", bytes)));
    seeds
}

/// Cuts the input into pieces, all of one size (`cut` below 128) or of changing sizes.
pub(crate) fn pieces(cut: u8, mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut size = usize::from(cut % 128) + 1;
    std::iter::from_fn(move || {
        let (piece, rest) = bytes.split_at_checked(size).unwrap_or((bytes, &[]));
        bytes = rest;
        if cut >= 128 {
            size = size * 7 % 61 + 1;
        }
        (!piece.is_empty()).then_some(piece)
    })
}

/// Decodes a message and asserts that its encoding decodes to the same message. Returns `None` if the input
/// does not decode.
pub(crate) fn same_again<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let message = wire::decode::<T, MESSAGE_BYTES_MAX>(bytes).ok()?;
    let encoded = wire::encode(&message);
    let again = wire::decode::<T, MESSAGE_BYTES_MAX>(&encoded).expect("an encoded message decodes");
    assert_eq!(wire::encode(&again), encoded);
    Some(message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    type Target = fn(&[u8]);
    const TARGETS: [(&str, Target); 4] =
        [("resp", resp), ("memcached", memcached), ("frames", frames), ("messages", messages)];

    fn target(name: &str) -> Target {
        TARGETS.iter().find(|(target, _)| *target == name).expect("it has a target").1
    }

    #[test]
    fn every_target_has_seeds_and_accepts_them() {
        for (name, bytes) in seeds() {
            target(name)(&bytes);
        }
        assert!(TARGETS.iter().all(|(name, _)| seeds().iter().any(|(target, _)| target == name)));
    }

    #[test]
    fn endlessly_nested_message_is_rejected_and_does_no_harm() {
        // Request::Execute of the key "", Action::IfVersion(0, Action::IfVersion(0, ...; and an outcome of
        // outcomes.
        let action = [&[0, 0, 0][..], &[8, 0].repeat(200_000)].concat();
        messages(&action);
        assert!(wire::decode::<crate::kv::Action, MESSAGE_BYTES_MAX>(&[8, 0].repeat(200_000)).is_err());
        messages(&[&[1, 0][..], &[10, 1, 1, 0].repeat(100_000)].concat());
        messages(&[&[0, 0, 0][..], &[22, 0, 1, 0, 0].repeat(100_000)].concat());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            for (_, run) in TARGETS {
                run(&bytes);
            }
        }

        #[test]
        fn nearly_good_input_does_no_harm(
            seed in any::<Index>(),
            changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
            cut in prop::option::of(any::<Index>()),
            doubled in any::<bool>(),
        ) {
            let seeds = seeds();
            let (name, mut bytes) = seeds[seed.index(seeds.len())].clone();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if doubled {
                bytes.extend(bytes.clone());
            }
            target(name)(&bytes);
        }
    }
}
