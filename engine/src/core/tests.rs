//! Reads that race with merges and writes, and reads at the end of a file.

use std::cell::Cell;

use super::*;
use crate::engine::Engine;

/// Opens a store with one key; returns also the key's partition and position.
fn engine_with_a_key(directory: &std::path::Path) -> (Engine, Partition, u64) {
    let (engine, _) = Engine::open(Options::new(directory)).unwrap();
    engine.put(b"key", b"value").unwrap();
    (engine, partition_of(b"key"), position_of(b"key"))
}

fn gone() -> ReadError {
    ReadError::Damaged { path: "x".into(), offset: 0, reason: "the file is gone".to_owned() }
}

#[test]
fn read_whose_record_was_moved_finds_it_in_its_new_place() {
    let directory = tempfile::tempdir().unwrap();
    let (engine, partition, position) = engine_with_a_key(directory.path());
    let tries = Cell::new(0);
    let value = engine.0.read_at(partition, position, |entries| {
        tries.set(tries.get() + 1);
        if tries.get() == 1 {
            // A merge could do this between the lookup and the read.
            engine.put(b"key", b"elsewhere").unwrap();
            return Err(gone());
        }
        Ok(engine.0.read_entry(&entries[0])?.into_record().value)
    });
    assert_eq!(value.unwrap().as_deref(), Some(&b"elsewhere"[..]));
    assert_eq!(tries.get(), 2);
}

#[test]
fn read_of_a_record_that_stays_unreadable_fails_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (engine, partition, position) = engine_with_a_key(directory.path());
    let tries = Cell::new(0);
    let result: Result<(), ReadError> = engine.0.read_at(partition, position, |_| {
        tries.set(tries.get() + 1);
        Err(gone())
    });
    assert!(result.is_err());
    assert_eq!(tries.get(), 1);
}

#[test]
fn read_that_is_overtaken_for_ever_ends_with_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let (engine, partition, position) = engine_with_a_key(directory.path());
    let tries = Cell::new(0);
    let result: Result<(), ReadError> = engine.0.read_at(partition, position, |_| {
        tries.set(tries.get() + 1);
        engine.put(b"key", b"again").unwrap();
        Err(gone())
    });
    assert!(result.is_err());
    assert_eq!(tries.get(), READ_RETRIES_MAX + 1);
}

#[test]
fn record_at_the_end_of_its_file_is_read_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        sync: crate::options::SyncPolicy::Never,
        map_files: false,
        ..Options::new(directory.path())
    };
    let (engine, _) = Engine::open(options).unwrap();
    let lengths = (8_100..8_250_usize).chain([16_383, 16_385, 100_001, 1_000_003, 5_000_001]);
    let value_of = |len: usize| vec![len as u8; len];
    for len in lengths.clone() {
        engine.put(&len.to_le_bytes(), &value_of(len)).unwrap();
        assert!(engine.get(&len.to_le_bytes()).unwrap().unwrap() == value_of(len));
    }
    // Cut to its records, the file ends with the last record, before the end of the length that is read.
    let file =
        std::fs::OpenOptions::new().write(true).open(directory.path().join("0000000001.data")).unwrap();
    let end = engine.stats().disk_bytes;
    file.set_len(end).unwrap();
    for len in lengths {
        assert!(engine.get(&len.to_le_bytes()).unwrap().unwrap() == value_of(len));
    }
    file.set_len(end - 1).unwrap();
    let error = engine.get(&5_000_001_usize.to_le_bytes()).unwrap_err();
    assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
}
