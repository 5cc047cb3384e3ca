//! Damaged files: an error or a quarantined stretch, never a wrong value, never a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;

use caskade_engine::{Engine, OpenError, ReadError, SyncPolicy};
use support::{
    data_files, fast_directory, history, open, open_any, overwrite, small, state_after, state_of, value,
};

/// A store with the history, closed cleanly.
fn closed_store(directory: &Path) -> Vec<u8> {
    let engine = open(&small(directory, SyncPolicy::Never));
    history().into_iter().for_each(|records| engine.apply(records).unwrap());
    engine.close().unwrap();
    std::fs::read(data_files(directory).pop().unwrap()).unwrap()
}

/// Opens the store and checks that whatever it serves was written.
fn check_nothing_false(directory: &Path, what: &str) {
    let (engine, recovery) = match Engine::open(small(directory, SyncPolicy::Never)) {
        Ok(opened) => opened,
        // Refusing is right too, for the eras and for a format version.
        Err(OpenError::Eras { .. } | OpenError::Format { .. }) => return,
        Err(error) => panic!("{what}: {error}"),
    };
    let state = state_of(&engine);
    for record in state.values() {
        assert!(history().iter().flatten().any(|written| written == record), "{what}: {record:?}");
    }
    if !recovery.is_damaged() {
        assert_eq!(state, state_after(&history()), "{what}: loss without a report");
    }
}

#[test]
fn any_flipped_byte_of_a_closed_store_is_found() {
    let directory = fast_directory();
    closed_store(directory.path());
    for name in ["0000000001.data", "eras"] {
        let path = directory.path().join(name);
        let bytes = std::fs::read(&path).unwrap();
        // The eras file is long and uniform.
        let step = if name == "eras" { 61 } else { 1 };
        for at in (0..bytes.len()).step_by(step) {
            for pattern in [0x01, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= pattern;
                overwrite(&path, &damaged);
                check_nothing_false(directory.path(), &format!("{name}: byte {at} ^ {pattern:#x}"));
                data_files(directory.path()).iter().for_each(|file| std::fs::remove_file(file).unwrap());
                overwrite(&path, &bytes);
                if name == "eras" {
                    closed_copy(directory.path());
                }
            }
        }
    }
}

/// Puts the data file back after a case that damaged another file.
fn closed_copy(directory: &Path) {
    let fresh = fast_directory();
    let bytes = closed_store(fresh.path());
    overwrite(&directory.join("0000000001.data"), &bytes);
}

#[test]
fn any_cut_or_lengthened_sealed_file_is_found() {
    let directory = fast_directory();
    let bytes = closed_store(directory.path());
    let path = directory.path().join("0000000001.data");
    // A newer log file makes the first a sealed one.
    let newer = fast_directory();
    closed_store(newer.path());
    let second = {
        let engine = open(&small(newer.path(), SyncPolicy::Never));
        (0..100).for_each(|version| engine.apply(vec![value(b"z", version, &[1; 1000])]).unwrap());
        drop(engine);
        std::fs::read(newer.path().join("0000000002.data")).unwrap()
    };
    overwrite(&directory.path().join("0000000002.data"), &second);
    for len in (0..bytes.len()).step_by(3) {
        overwrite(&path, &bytes[..len]);
        check_nothing_false(directory.path(), &format!("cut to {len}"));
    }
    for extra in [&[0; 50][..], &[0xff; 50], &bytes[36..120]] {
        overwrite(&path, &[&bytes, extra].concat());
        check_nothing_false(directory.path(), "lengthened");
    }
}

#[test]
fn damage_under_an_open_store_is_an_error_and_heals_by_applying_the_record_again() {
    let directory = fast_directory();
    let engine = open(&small(directory.path(), SyncPolicy::Never));
    let record = value(b"key", 5, b"the value");
    engine.apply(vec![record.clone()]).unwrap();
    let path = data_files(directory.path()).pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    // Zeros that the file was lengthened with follow.
    let last = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes[last] ^= 1;
    overwrite(&path, &bytes);
    assert!(matches!(engine.read(b"key"), Err(ReadError::Damaged { .. })));
    assert!(engine.keys_page(caskade_engine::partition_of(b"key"), 0, 10).is_err());
    // The same version, from another copy.
    engine.apply(vec![record.clone()]).unwrap();
    assert_eq!(engine.read(b"key").unwrap(), Some(record));
    assert_eq!(engine.stats().live_keys, 1);
}

#[test]
fn damage_in_the_synced_part_of_a_crashed_store_is_no_torn_tail() {
    let directory = fast_directory();
    let original = directory.path().join("original");
    let engine = open(&small(&original, SyncPolicy::Always));
    history().into_iter().for_each(|records| engine.apply(records).unwrap());
    let bytes = std::fs::read(data_files(&original).pop().unwrap()).unwrap();
    let copy = directory.path().join("copy");
    std::fs::create_dir_all(&copy).unwrap();
    overwrite(&copy.join("eras"), &std::fs::read(original.join("eras")).unwrap());
    let mut damaged = bytes.clone();
    // In the first record, which the mark of every later group covers.
    damaged[40] ^= 0xff;
    overwrite(&copy.join("0000000001.data"), &damaged);
    let (crashed, recovery) = open_any(&small(&copy, SyncPolicy::Never));
    assert!(recovery.is_damaged());
    assert_eq!((recovery.cut_bytes, recovery.quarantined[0].offset), (0, 36));
    // Everything after it is there.
    assert_eq!(state_of(&crashed), state_after(&history()));
}

#[test]
fn value_cannot_pose_as_a_record() {
    // A value holds a whole record of another store; then the record around it is damaged.
    let directory = fast_directory();
    let other = fast_directory();
    let forged = closed_store(other.path());
    let options = small(directory.path(), SyncPolicy::Never);
    let engine = open(&options);
    engine.apply(vec![value(b"outer", 1, &forged)]).unwrap();
    engine.apply(vec![value(b"after", 2, b"whole")]).unwrap();
    engine.close().unwrap();
    let path = data_files(directory.path()).pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[36 + 5] ^= 0xff;
    overwrite(&path, &bytes);
    let (engine, recovery) = open_any(&options);
    assert!(recovery.is_damaged());
    assert!(state_of(&engine).is_empty(), "{:?}", state_of(&engine));
    assert!(engine.contains(b"after").unwrap());
}
