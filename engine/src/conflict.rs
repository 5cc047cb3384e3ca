//! Detects a record from another copy that contradicts the store: one version names one record.
//!
//! The owner assigns versions, one to each record of a partition. Two records with the same version mean that
//! a version was assigned twice. Accepting either would let two copies of the store differ for ever while
//! their digests agree. A new record, the usual case, costs only a lookup in the keydir.

use std::fmt;

use crate::core::Core;
use crate::keydir;
use crate::record::{Record, Version};
use crate::slots::{Partition, partition_of};
use crate::table::Entry;

/// The store holds another record with the version of an offered one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The partition of both records.
    pub partition: Partition,
    /// The version of both records.
    pub version: Version,
    /// The field in which they differ.
    pub difference: &'static str,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, version, difference } = self;
        write!(f, "version {version} of partition {partition} is held with {difference}")
    }
}

/// Returns the first of these records that contradicts a published one: see [`Store::find_conflict`].
///
/// [`Store::find_conflict`]: crate::replicated::Store::find_conflict
pub(crate) fn find_conflict(core: &Core, records: &[Record]) -> Option<Conflict> {
    let mut unknown: Vec<(Partition, Version, u64)> = Vec::new();
    for record in records {
        let (partition, position) = (partition_of(&record.key), keydir::position_of(&record.key));
        let (highest, same) = core.keydir.version_at(partition, position, record.version);
        match same {
            Some(entry) => {
                if let Some(difference) = difference(core, &entry, record) {
                    return Some(Conflict { partition, version: record.version, difference });
                }
            }
            None if record.version <= highest => unknown.push((partition, record.version, position)),
            None => {}
        }
    }
    other_keys(core, unknown)
}

/// Returns the field in which a record differs from the stored one of the same version; `None` also if
/// the stored one cannot be read.
fn difference(core: &Core, entry: &Entry, record: &Record) -> Option<&'static str> {
    let held = core.read_entry(entry).ok()?.into_record();
    if held.key != record.key {
        Some("another key")
    } else if held.value.is_some() != record.value.is_some() {
        Some("a tombstone on one side only")
    } else if held.value != record.value {
        Some("another value")
    } else if held.expiry_ms != record.expiry_ms {
        Some("another expiry")
    } else if held.user_flags != record.user_flags {
        Some("other flags")
    } else {
        None
    }
}

/// Returns a conflict if one of these versions belongs to another position.
fn other_keys(core: &Core, mut unknown: Vec<(Partition, Version, u64)>) -> Option<Conflict> {
    unknown.sort_unstable();
    for wanted in unknown.chunk_by(|a, b| a.0 == b.0) {
        let partition = wanted.first()?.0;
        for entry in core.keydir.entries(partition) {
            let at = wanted.binary_search_by_key(&entry.version, |&(_, version, _)| version);
            let Some(&(_, version, position)) = at.ok().and_then(|at| wanted.get(at)) else { continue };
            if position != entry.position {
                return Some(Conflict { partition, version, difference: "another key" });
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::options::Options;
    use crate::replicated::Store;

    fn record(key: &str, version: Version, value: Option<&str>) -> Record {
        let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
        Record { key: Bytes::copy_from_slice(key.as_bytes()), version, expiry_ms: 0, user_flags: 0, value }
    }

    #[test]
    fn same_record_again_is_no_conflict_and_other_content_under_its_version_is() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, _) = Store::open(Options::new(directory.path())).unwrap();
        let held = record("{a}1", 7, Some("value"));
        engine.apply(vec![held.clone(), record("{a}2", 9, None)]).unwrap();
        assert_eq!(engine.find_conflict(&[held.clone(), record("{a}2", 9, None)]), None);
        assert_eq!(engine.find_conflict(&[record("{a}1", 8, Some("newer")), record("{a}3", 10, None)]), None);
        let difference = |record: Record| engine.find_conflict(&[record]).map(|conflict| conflict.difference);
        assert_eq!(difference(record("{a}1", 7, Some("other"))), Some("another value"));
        assert_eq!(difference(record("{a}1", 7, None)), Some("a tombstone on one side only"));
        assert_eq!(difference(Record { expiry_ms: 5, ..held.clone() }), Some("another expiry"));
        assert_eq!(difference(Record { user_flags: 5, ..held }), Some("other flags"));
        assert_eq!(difference(record("{a}3", 7, Some("value"))), Some("another key"));
        assert_eq!(difference(record("{a}3", 8, Some("value"))), None, "an older record that was not known");
    }
}
