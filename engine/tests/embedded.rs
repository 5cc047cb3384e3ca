//! Promises to a program that embeds the store: batches, conditions, expiry, many threads.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use caskade_engine::{AppendError, Batch, Conditional, Engine, OpenError, Options, SyncPolicy};
use support::{copy_store, data_files, fast_directory, open, open_store, small, value};

const POLICIES: [SyncPolicy; 3] = [SyncPolicy::Always, SyncPolicy::Interval(1), SyncPolicy::Never];

fn get(engine: &Engine, key: &[u8]) -> Option<Vec<u8>> {
    engine.get(key).unwrap().map(|value| value.to_vec())
}

#[test]
fn batch_is_made_whole_and_of_each_key_the_last_operation_counts() {
    for sync in POLICIES {
        let directory = fast_directory();
        let options = small(directory.path(), sync);
        let engine = open(&options);
        engine.put(b"old", b"value").unwrap();
        let mut batch = Batch::new();
        batch.put(b"a", b"1").put(b"b", b"2").delete(b"old").delete(b"never there");
        batch.put(b"b", b"3").put(b"c", b"4").delete(b"c").put_with_expiry(b"past", b"5", 1);
        assert_eq!(batch.len(), 8);
        engine.write(&batch).unwrap();
        engine.write(&Batch::new()).unwrap();
        let check = |engine: &Engine| {
            assert_eq!(get(engine, b"a").as_deref(), Some(&b"1"[..]));
            assert_eq!(get(engine, b"b").as_deref(), Some(&b"3"[..]));
            for absent in [&b"old"[..], b"c", b"never there", b"past"] {
                assert_eq!(get(engine, absent), None);
            }
            // No tombstone is kept for keys that never existed.
            assert_eq!(engine.stats().tombstones, 1);
        };
        check(&engine);
        drop(engine);
        check(&open(&options));
    }
}

#[test]
fn store_of_a_build_before_the_first_release_is_rejected_and_not_changed() {
    let directory = fast_directory();
    let options = small(directory.path(), SyncPolicy::Always);
    open(&options).put(b"key", b"value").unwrap();
    let path = data_files(directory.path()).remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..8].copy_from_slice(b"CASKDATA");
    bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
    let sum = crc32fast::hash(&bytes[..32]).to_le_bytes();
    bytes[32..36].copy_from_slice(&sum);
    std::fs::write(&path, &bytes).unwrap();
    let error = Engine::open(options).err().unwrap();
    assert!(matches!(error, OpenError::Format { .. }), "{error}");
    assert!(error.to_string().contains("a build before the first release wrote it"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "the file was changed");
}

#[test]
fn batch_that_is_too_large_changes_nothing() {
    let directory = fast_directory();
    let options = Options {
        max_value_bytes: 1 << 20,
        append_buffer_bytes: 2 << 20,
        ..small(directory.path(), SyncPolicy::Always)
    };
    let engine = open(&options);
    let mut batch = Batch::new();
    for number in 0..3_u8 {
        batch.put(&[number], &vec![1; 1 << 20]);
    }
    assert!(matches!(engine.write(&batch), Err(AppendError::TooLarge { .. })));
    assert_eq!(engine.iterate().count(), 0);
}

#[test]
fn batch_cut_anywhere_by_a_crash_is_not_there_at_all() {
    let directory = fast_directory();
    let engine = open(&small(directory.path(), SyncPolicy::Never));
    engine.put(b"a", b"before").unwrap();
    let before = engine.stats().disk_bytes;
    let mut batch = Batch::new();
    batch.put(b"a", b"after").put(b"b", b"new").delete(b"a");
    engine.write(&batch).unwrap();
    let after = engine.stats().disk_bytes;
    assert!(after > before + 50);
    for len in before..after {
        let copy = fast_directory();
        copy_store(directory.path(), copy.path());
        let cut = std::fs::OpenOptions::new().write(true).open(data_files(copy.path()).remove(0)).unwrap();
        cut.set_len(len).unwrap();
        let crashed = open(&small(copy.path(), SyncPolicy::Never));
        assert_eq!(get(&crashed, b"a").as_deref(), Some(&b"before"[..]));
        assert_eq!(get(&crashed, b"b"), None);
    }
}

#[test]
fn conditional_write_is_made_only_if_the_version_is_the_expected_one() {
    for sync in POLICIES {
        let directory = fast_directory();
        let engine = open(&small(directory.path(), sync));
        let Conditional::Done(first) = engine.put_if_version(b"key", b"1", None).unwrap() else {
            panic!("the key was absent");
        };
        assert_eq!(engine.put_if_version(b"key", b"2", None).unwrap(), Conditional::Unmet(Some(first)));
        let Conditional::Done(second) = engine.put_if_version(b"key", b"2", Some(first)).unwrap() else {
            panic!("the key had this version");
        };
        assert!(second > first);
        assert_eq!(
            engine.put_if_version(b"key", b"3", Some(first)).unwrap(),
            Conditional::Unmet(Some(second))
        );
        assert_eq!(engine.get_with_version(b"key").unwrap(), Some((bytes::Bytes::from_static(b"2"), second)));
        assert_eq!(engine.delete_if_version(b"key", first).unwrap(), Conditional::Unmet(Some(second)));
        assert!(matches!(engine.delete_if_version(b"key", second).unwrap(), Conditional::Done(_)));
        assert_eq!(engine.delete_if_version(b"key", second).unwrap(), Conditional::Unmet(None));
        assert_eq!(engine.put_if_version(b"key", b"4", Some(second)).unwrap(), Conditional::Unmet(None));
        assert_eq!(engine.get_with_version(b"key").unwrap(), None);
    }
}

#[test]
fn expired_key_is_absent_to_conditions_too() {
    let directory = fast_directory();
    let engine = open(&small(directory.path(), SyncPolicy::Never));
    engine.put_with_expiry(b"key", b"value", 1).unwrap();
    let version = engine.read(b"key").unwrap().unwrap().version;
    assert_eq!(engine.get_with_version(b"key").unwrap(), None);
    assert_eq!(engine.put_if_version(b"key", b"new", Some(version)).unwrap(), Conditional::Unmet(None));
    assert_eq!(engine.delete_if_version(b"key", version).unwrap(), Conditional::Unmet(None));
    assert!(!engine.delete(b"key").unwrap());
    assert!(matches!(engine.put_if_version(b"key", b"new", None).unwrap(), Conditional::Done(_)));
    assert_eq!(get(&engine, b"key").as_deref(), Some(&b"new"[..]));
}

#[test]
fn concurrent_conditional_increments_lose_none() {
    for sync in POLICIES {
        let directory = fast_directory();
        let engine = open(&small(directory.path(), sync));
        engine.put(b"counter", &0_u64.to_le_bytes()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| increment(&engine, b"counter")));
            }
            // Writers of other keys use the same log.
            scope.spawn(|| (0..200_u64).for_each(|n| engine.put(&n.to_le_bytes(), b"other").unwrap()));
        });
        assert_eq!(get(&engine, b"counter").as_deref(), Some(&400_u64.to_le_bytes()[..]), "{sync}");
    }
}

fn increment(engine: &Engine, key: &[u8]) {
    loop {
        let (value, version) = engine.get_with_version(key).unwrap().unwrap();
        let next = u64::from_le_bytes((&value[..]).try_into().unwrap()) + 1;
        if let Conditional::Done(_) = engine.put_if_version(key, &next.to_le_bytes(), Some(version)).unwrap()
        {
            return;
        }
    }
}

#[test]
fn conditions_see_batches_whole() {
    let directory = fast_directory();
    let engine = open(&small(directory.path(), SyncPolicy::Always));
    let mut batch = Batch::new();
    batch.put(b"left", b"value").put(b"right", b"value");
    engine.write(&batch).unwrap();
    let stop = AtomicBool::new(false);
    // A condition that never holds returns the version without changing anything.
    let version = |key| match engine.put_if_version(key, b"", Some(u64::MAX)).unwrap() {
        Conditional::Unmet(version) => version.unwrap(),
        Conditional::Done(_) => panic!("no record has this version"),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (0..300).for_each(|_| engine.write(&batch).unwrap());
            stop.store(true, Ordering::Relaxed);
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // In a batch the right key is second: a reader that sees the left one finds the same right
                // one, or a later one.
                let left = version(b"left");
                let right = version(b"right");
                assert!(right > left, "left {left}, right {right}");
            }
        });
    });
}

#[test]
fn puts_of_one_key_by_many_threads_share_syncs_and_the_highest_version_stays() {
    let directory = fast_directory();
    let options = small(directory.path(), SyncPolicy::Always);
    let engine = open(&options);
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let engine = &engine;
            scope.spawn(move || (0..200_u8).for_each(|n| engine.put(b"key", &[thread, n]).unwrap()));
        }
    });
    let stats = engine.stats();
    assert_eq!((stats.live_keys, stats.records_total), (1, 1600));
    let record = engine.read(b"key").unwrap().unwrap();
    assert_eq!(record.version, 1600);
    drop(engine);
    assert_eq!(open(&options).read(b"key").unwrap(), Some(record));
}

#[test]
fn deletes_and_puts_of_one_key_agree_with_the_log() {
    for sync in POLICIES {
        let directory = fast_directory();
        let options = small(directory.path(), sync);
        let engine = open(&options);
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let engine = &engine;
                scope.spawn(move || {
                    for n in 0..100_u8 {
                        engine.put(b"key", &[thread, n]).unwrap();
                        engine.delete(b"key").unwrap();
                    }
                });
            }
        });
        assert!(!engine.contains(b"key").unwrap());
        drop(engine);
        assert!(!open(&options).contains(b"key").unwrap(), "{sync}");
    }
}

#[test]
fn embedded_versions_are_above_an_owners_and_refused_when_used_up() {
    let directory = fast_directory();
    let options = small(directory.path(), SyncPolicy::Never);
    open_store(&options).apply(vec![value(b"key", 1 << 50, b"owner's")]).unwrap();
    let engine = open(&options);
    engine.put(b"key", b"own").unwrap();
    assert_eq!(get(&engine, b"key").as_deref(), Some(&b"own"[..]));
    drop(engine);
    open_store(&options).apply(vec![value(b"last", u64::MAX, b"owner's")]).unwrap();
    let engine = open(&options);
    for _ in 0..2 {
        assert!(matches!(engine.put(b"last", b"own"), Err(AppendError::VersionsUsedUp)));
    }
    drop(engine);
    assert!(matches!(open(&options).put(b"key", b"own"), Err(AppendError::VersionsUsedUp)));
}

#[test]
fn dropped_partition_is_absent_to_conditions() {
    let directory = fast_directory();
    let engine = open(&small(directory.path(), SyncPolicy::Never));
    engine.put(b"key", b"value").unwrap();
    engine.drop_partitions(&[caskade_engine::slots::partition_of(b"key")]).unwrap();
    assert_eq!(engine.put_if_version(b"key", b"new", Some(1)).unwrap(), Conditional::Unmet(None));
    assert!(matches!(engine.put_if_version(b"key", b"new", None).unwrap(), Conditional::Done(_)));
}

#[test]
fn version_is_never_given_again_even_if_its_record_is_gone() {
    let directory = fast_directory();
    let options = Options { background: false, ..small(directory.path(), SyncPolicy::Never) };
    let engine = open(&options);
    (0..200_u32).for_each(|_| engine.put(b"key", &[1; 1000]).unwrap());
    let (_, seen) = engine.get_with_version(b"key").unwrap().unwrap();
    assert!(engine.delete(b"key").unwrap());
    engine.merge().unwrap();
    assert_eq!(engine.stats().tombstones, 0, "no record with the version is left");
    drop(engine);
    let engine = open(&options);
    engine.put(b"key", b"another").unwrap();
    let (_, version) = engine.get_with_version(b"key").unwrap().unwrap();
    assert!(version > seen + 1);
    engine.drop_partitions(&[caskade_engine::slots::partition_of(b"key")]).unwrap();
    engine.merge().unwrap();
    drop(engine);
    let engine = open(&options);
    let Conditional::Done(next) = engine.put_if_version(b"key", b"a third", None).unwrap() else {
        panic!("the partition was dropped");
    };
    assert!(next > version);
}

#[test]
fn who_has_seen_one_key_of_a_batch_sees_all() {
    let directory = support::fast_directory();
    let (engine, _) =
        Engine::open(Options { sync: caskade_engine::SyncPolicy::Never, ..Options::new(directory.path()) })
            .unwrap();
    let key = |number: u32| format!("key-{number}").into_bytes();
    let stop = AtomicBool::new(false);
    let write = |round: u64| {
        let mut batch = Batch::new();
        for number in 0..40 {
            batch.put(&key(number), &round.to_le_bytes());
        }
        engine.write(&batch).unwrap();
    };
    write(0);
    std::thread::scope(|scope| {
        for first in 0..2 {
            let (engine, stop) = (&engine, &stop);
            scope.spawn(move || {
                let mut at_least = 0;
                let mut number = first;
                while !stop.load(Ordering::Relaxed) {
                    number = (number + 17) % 40;
                    let value = engine.get(&key(number)).unwrap().unwrap();
                    let round = u64::from_le_bytes(value[..].try_into().unwrap());
                    assert!(round >= at_least, "{round} after {at_least}");
                    at_least = round;
                }
            });
        }
        (1..3000).for_each(write);
        stop.store(true, Ordering::Relaxed);
    });
}
