//! Tests of the fuzz targets' functions on bytes drawn by proptest: arbitrary ones, and damaged valid files.

use proptest::prelude::*;
use proptest::sample::Index;

use super::stores::{appends, data_file_of};
use super::*;

/// An index in a file, or in its last bytes (a hint consists mostly of its header).
#[derive(Clone, Debug)]
struct Place(bool, Index);

impl Place {
    fn index(&self, len: usize) -> usize {
        let window = if self.0 { len.min(400) } else { len };
        len - window + self.1.index(window)
    }
}

/// A way to damage a file.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Place, u8),
    Set(Place, u8),
    Cut(Place),
    Remove(Place, usize),
    /// Copies a part of the file to another place.
    Splice(Place, usize, Place),
    Insert(Place, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = || any::<(bool, Index)>().prop_map(|(at_the_end, index)| Place(at_the_end, index));
    prop_oneof![
        (at(), 0..8_u8).prop_map(|(place, bit)| Damage::Flip(place, 1 << bit)),
        (at(), prop_oneof![Just(0), Just(0xff), any::<u8>()])
            .prop_map(|(place, byte)| Damage::Set(place, byte)),
        at().prop_map(Damage::Cut),
        (at(), 1..80_usize).prop_map(|(place, len)| Damage::Remove(place, len)),
        (at(), 1..200_usize, at()).prop_map(|(from, len, to)| Damage::Splice(from, len, to)),
        (at(), prop::collection::vec(any::<u8>(), 1..60))
            .prop_map(|(place, bytes)| Damage::Insert(place, bytes)),
    ]
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let len = bytes.len();
        let range = |from: &Place, wanted: usize| from.index(len)..(from.index(len) + wanted).min(len);
        match self {
            Self::Flip(at, mask) => bytes[at.index(len)] ^= mask,
            Self::Set(at, byte) => bytes[at.index(len)] = *byte,
            Self::Cut(at) => bytes.truncate(at.index(len)),
            Self::Remove(at, wanted) => drop(bytes.drain(range(at, *wanted))),
            Self::Splice(from, wanted, to) => {
                let part = bytes[range(from, *wanted)].to_vec();
                bytes.splice(to.index(len)..to.index(len), part);
            }
            Self::Insert(at, part) => drop(bytes.splice(at.index(len)..at.index(len), part.clone())),
        }
    }
}

/// Returns inputs made of a valid file that was damaged.
fn damaged(file: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), prop::collection::vec(damage(), 0..5)).prop_map(move |(mode, damages)| {
        let mut bytes = file.clone();
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        bytes.insert(0, mode);
        bytes
    })
}

fn arbitrary() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..600)
}

fn inputs(file: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![3 => damaged(file), 1 => arbitrary()]
}

fn mended(mut input: Vec<u8>, mend: bool) -> Vec<u8> {
    if let Some(mode) = input.first_mut() {
        *mode = *mode & !MEND | u8::from(mend);
    }
    input
}

fn one_batch() -> Vec<u8> {
    data_file_of(1, &appends()[1..2]).split_off(FILE_HEADER_LEN)
}

proptest! {
    #[test]
    fn any_bytes_are_a_record_that_encodes_to_the_same_or_none(input in inputs(one_batch())) {
        record(&input);
    }

    #[test]
    fn store_with_any_data_file_serves_only_its_valid_records(input in inputs(data_file_of(1, &appends()))) {
        data_file(&input);
    }

    #[test]
    fn store_with_any_hint_file_serves_only_valid_records(input in inputs(Sealed::get().hint.clone())) {
        // A whole hint, unrepaired: with `MEND` the target expects a section.
        hint_file(&mended(input, false));
    }

    #[test]
    fn store_with_any_section_in_its_hint_serves_only_valid_records(input in inputs(section(&Sealed::get().hint))) {
        hint_file(&mended(input, true));
    }

    #[test]
    fn store_with_any_eras_serves_only_valid_records_or_stays_shut(input in inputs(Sealed::get().eras.clone())) {
        eras_file(&input);
    }

    #[test]
    fn snapshot_with_any_marker_restores_only_valid_records(input in inputs(Sealed::get().marker.clone())) {
        snapshot_marker(&input);
    }
}
