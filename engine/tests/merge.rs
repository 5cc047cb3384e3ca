//! Merges free space, lose no record and restore no deleted one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use caskade_engine::options::{Budget, MergeWindow};
use caskade_engine::replicated::Store;
use caskade_engine::slots::partition_of;
use caskade_engine::task::TaskState;
use caskade_engine::testing::FaultyFileSystem;
use caskade_engine::{Engine, Options, Record, SyncPolicy};
use support::{data_files, fast_directory, open, open_on, open_store, quiet, small, tombstone, value};

fn options(directory: &std::path::Path) -> Options {
    Options { background: false, merge_small_file: 0, ..small(directory, SyncPolicy::Never) }
}

fn key(number: u32) -> Vec<u8> {
    format!("key-{number}").into_bytes()
}

fn fill(engine: &Engine, round: u8, keys: u32) {
    (0..keys).for_each(|number| engine.put(&key(number), &[round; 500]).unwrap());
}

fn disk_bytes(directory: &std::path::Path) -> u64 {
    data_files(directory).iter().map(|file| file.metadata().unwrap().len()).sum()
}

fn contents(engine: &Engine) -> BTreeMap<Vec<u8>, Vec<u8>> {
    engine
        .iterate()
        .map(|record| record.unwrap())
        .map(|record| (record.key.to_vec(), record.value.unwrap().to_vec()))
        .collect()
}

#[test]
fn overwritten_records_are_freed_and_the_rest_is_kept() {
    let directory = fast_directory();
    let options = options(directory.path());
    let engine = open(&options);
    (0..5).for_each(|round| fill(&engine, round, 1000));
    let before = contents(&engine);
    let merged = engine.run_once().unwrap();
    assert!(merged.files > 10 && merged.bytes_freed > 1_500_000, "{merged:?}");
    assert_eq!(contents(&engine), before);
    let stats = engine.stats();
    assert!(stats.disk_bytes * 10 <= stats.live_bytes * 13, "{stats:?}");
    // The active file is preallocated.
    assert!(stats.disk_bytes <= disk_bytes(directory.path()));
    assert!(matches!(engine.merge_status().unwrap().state, TaskState::Done));
    drop(engine);
    let (engine, recovery) = support::open_any(&options);
    assert_eq!(contents(&engine), before);
    assert_eq!((recovery.is_damaged(), recovery.scanned_files), (false, 1), "{recovery:?}");
    assert_eq!(recovery.records, stats.records_total);
}

#[test]
fn tombstone_goes_with_the_records_it_hides_and_not_before() {
    let directory = fast_directory();
    let options = options(directory.path());
    let engine = open(&options);
    fill(&engine, 1, 300);
    (0..300).for_each(|number| assert!(engine.delete(&key(number)).unwrap()));
    engine.put(b"kept", b"value").unwrap();
    assert_eq!(engine.stats().tombstones, 300);
    engine.merge().unwrap();
    let stats = engine.stats();
    assert_eq!((stats.tombstones, stats.live_keys), (0, 1), "{stats:?}");
    assert!(disk_bytes(directory.path()) < 1000);
    drop(engine);
    let engine = open(&options);
    assert_eq!(contents(&engine), BTreeMap::from([(b"kept".to_vec(), b"value".to_vec())]));
}

#[test]
fn tombstone_of_a_replicated_store_waits_until_its_partition_is_clean() {
    let directory = fast_directory();
    let options = options(directory.path());
    let engine = open_store(&options);
    engine.apply(vec![value(b"key", 1, b"old")]).unwrap();
    engine.apply(vec![tombstone(b"key", 5)]).unwrap();
    engine.merge().unwrap();
    assert_eq!(engine.stats().tombstones, 1);
    engine.mark_clean(partition_of(b"key"), 4);
    engine.merge().unwrap();
    assert_eq!(engine.stats().tombstones, 1);
    engine.mark_clean(partition_of(b"key"), 5);
    engine.merge().unwrap();
    assert_eq!(engine.stats().tombstones, 0);
    drop(engine);
    assert_eq!(open_store(&options).read(b"key").unwrap(), None);
}

#[test]
fn old_version_that_came_late_does_not_come_back_when_its_tombstone_goes() {
    let directory = fast_directory();
    let options = options(directory.path());
    let mut engine = open_store(&options);
    engine.apply(vec![tombstone(b"key", 5)]).unwrap();
    // Rotates: the old version is then in a later file, which is not an input of the merge below.
    let fill = |engine: &Store, from: u64| {
        (from..from + 200).for_each(|number| {
            engine.apply(vec![value(format!("fill-{number}").as_bytes(), 1, &[1; 1000])]).unwrap();
        });
    };
    fill(&engine, 0);
    engine.apply(vec![value(b"key", 3, b"late")]).unwrap();
    fill(&engine, 200);
    for reopened in [false, true] {
        if reopened {
            drop(engine);
            engine = open_store(&options);
        }
        engine.mark_clean(partition_of(b"key"), 5);
        // Overwrites records in the tombstone's file, so that it is due.
        (0..60_u64).for_each(|number| {
            let version = 2 + u64::from(reopened);
            engine.apply(vec![value(format!("fill-{number}").as_bytes(), version, &[1; 1000])]).unwrap();
        });
        engine.run_once().unwrap();
        assert_eq!(engine.read(b"key").unwrap().map(|record| record.value), Some(None));
    }
    // When all files are merged together, both are removed.
    engine.merge().unwrap();
    engine.merge().unwrap();
    drop(engine);
    let engine = open_store(&options);
    assert_eq!(engine.read(b"key").unwrap(), None);
}

#[test]
fn record_appended_and_not_yet_published_survives_a_merge() {
    let directory = fast_directory();
    let options = options(directory.path());
    let engine = open_store(&options);
    let (tell, told) = std::sync::mpsc::channel();
    engine.append(vec![value(b"pending", 1, b"value")], move |result| tell.send(result).unwrap());
    let appended = told.recv().unwrap().unwrap();
    let fill = |round: u8| {
        let version = u64::from(round) + 1;
        (0..300).for_each(|number| {
            engine.apply(vec![value(&key(number), version, &[round; 500])]).unwrap();
        });
    };
    (0..3).for_each(fill);
    engine.merge().unwrap();
    engine.publish(appended);
    assert_eq!(engine.read(b"pending").unwrap(), Some(value(b"pending", 1, b"value")));
    drop(engine);
    assert_eq!(open_store(&options).read(b"pending").unwrap(), Some(value(b"pending", 1, b"value")));
}

#[test]
fn expired_records_go_in_a_store_that_is_its_own_owner() {
    let directory = fast_directory();
    let engine = open(&options(directory.path()));
    let expired = |number: u32| format!("expired-{number}").into_bytes();
    (0..100).for_each(|number| engine.put_with_expiry(&expired(number), b"value", 1).unwrap());
    engine.put_with_expiry(b"later", b"value", u64::MAX).unwrap();
    for _ in 0..3 {
        fill(&engine, 1, 1);
        fill(&engine, 2, 1);
        engine.merge().unwrap();
    }
    let stats = engine.stats();
    assert_eq!((stats.live_keys, stats.tombstones), (2, 0), "{stats:?}");
    assert!(engine.contains(b"later").unwrap());
}

#[test]
fn expired_records_of_a_replicated_store_stay_until_its_owner_deletes_them() {
    let directory = fast_directory();
    let store = open_store(&options(directory.path()));
    let expiring = |number: u32, expiry_ms: u64| {
        let record = value(format!("expired-{number}").as_bytes(), 1, b"value");
        store.apply(vec![Record { expiry_ms, ..record }]).unwrap();
    };
    (0..100).for_each(|number| expiring(number, 1));
    expiring(100, u64::MAX);
    for version in 1..7 {
        store.apply(vec![value(&key(0), version, &[version as u8; 500])]).unwrap();
        store.merge().unwrap();
    }
    let stats = store.stats();
    assert_eq!((stats.live_keys, stats.tombstones), (102, 0), "{stats:?}");
}

#[test]
fn dropped_partition_is_freed() {
    let directory = fast_directory();
    let options = options(directory.path());
    let engine = open(&options);
    let in_one = |number: u32| format!("{{tag}}{number}").into_bytes();
    (0..200).for_each(|number| engine.put(&in_one(number), &[1; 1000]).unwrap());
    engine.drop_partitions(&[partition_of(b"{tag}")]).unwrap();
    engine.put(b"other", b"value").unwrap();
    engine.merge().unwrap();
    assert!(disk_bytes(directory.path()) < 1000);
    drop(engine);
    assert_eq!(contents(&open(&options)).len(), 1);
}

#[test]
fn small_files_become_one() {
    let directory = fast_directory();
    let options = Options { merge_small_file: 32 << 10, ..options(directory.path()) };
    for number in 0..6 {
        // A snapshot would seal the file; so does a merge that finds nothing dead.
        let engine = open(&options);
        engine.put(&key(number), b"value").unwrap();
        engine.merge().unwrap();
    }
    let engine = open(&options);
    engine.run_once().unwrap();
    assert!(engine.stats().data_files <= 3, "{:?}", engine.stats());
    assert_eq!(contents(&engine).len(), 6);
    assert_eq!(engine.run_once().unwrap().files, 0, "a single small file is not merged");
}

#[test]
fn merge_keeps_to_its_window_its_budget_and_the_free_space() {
    let directory = fast_directory();
    let closed = Options {
        background: true,
        merge_window: MergeWindow::Never,
        budget: Budget::new(1 << 20),
        ..options(directory.path())
    };
    let engine = open(&closed);
    (0..4).for_each(|round| fill(&engine, round, 500));
    let files = engine.stats().data_files;
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(engine.stats().data_files, files, "the window is closed");
    let began = std::time::Instant::now();
    let merged = engine.merge().unwrap();
    // A million bytes a second, less the burst of the budget.
    let least = merged.bytes_freed.saturating_sub(200 << 10) / (1 << 20);
    assert!(began.elapsed().as_secs() + 1 >= least, "{merged:?} in {:?}", began.elapsed());
    assert!(merged.files > 0);
}

#[test]
fn merge_heeds_neither_window_nor_rate_where_space_is_low() {
    let directory = fast_directory();
    let closed = Options {
        background: true,
        merge_window: MergeWindow::Never,
        budget: Budget::new(1),
        ..options(directory.path())
    };
    let engine = open(&closed);
    (0..4).for_each(|round| fill(&engine, round, 500));
    let (files, before) = (engine.stats().data_files, contents(&engine));
    engine.set_space_low(true);
    let began = std::time::Instant::now();
    while engine.stats().data_files > files / 2 {
        assert!(began.elapsed().as_secs() < 60, "{:?}", engine.stats());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(contents(&engine), before);
    assert!(engine.is_space_low());
}

#[test]
fn engine_finds_by_itself_that_space_is_low_and_that_it_is_not_any_more() {
    let file_system = FaultyFileSystem::new();
    let options = Options { low_free_bytes: 1 << 20, ..quiet(SyncPolicy::Never) };
    let (engine, _) = open_on(&file_system, &options).unwrap();
    file_system.set_capacity(Some(40 << 20));
    for (free, low) in [(3 << 20, false), ((1 << 20) - 1, true), ((1 << 20) + 1, true), (5 << 18, false)] {
        file_system.set_free_bytes(Some(free));
        engine.run_once().unwrap();
        assert_eq!(engine.is_space_low(), low, "{free} bytes free");
    }
    // A twentieth of a small file system is enough.
    file_system.set_capacity(Some(10 << 20));
    file_system.set_free_bytes(Some(600 << 10));
    engine.run_once().unwrap();
    assert!(!engine.is_space_low());
}

#[test]
fn merge_that_is_stopped_leaves_everything_as_it_was() {
    let directory = fast_directory();
    let options = Options { budget: Budget::new(64 << 10), ..options(directory.path()) };
    let engine = open(&options);
    (0..4).for_each(|round| fill(&engine, round, 500));
    let before = contents(&engine);
    std::thread::scope(|scope| {
        let merging = scope.spawn(|| engine.merge());
        while engine.merge_status().is_none() {
            std::thread::yield_now();
        }
        engine.stop_merge();
        assert!(merging.join().unwrap().is_err());
    });
    assert!(matches!(engine.merge_status().unwrap().state, TaskState::Stopped));
    assert_eq!(contents(&engine), before);
    options.budget.set_bytes_per_s(0);
    assert!(engine.merge().unwrap().files > 0);
    assert_eq!(contents(&engine), before);
    drop(engine);
    assert_eq!(contents(&open(&options)), before);
}

#[test]
fn readers_and_writers_see_nothing_of_a_merge() {
    let directory = fast_directory();
    let options = Options { background: true, max_open_files: 2, ..options(directory.path()) };
    let engine = open(&options);
    fill(&engine, 0, 400);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for offset in 0..2_u32 {
            let (engine, stop) = (&engine, &stop);
            scope.spawn(move || {
                let mut number = offset * 97;
                while !stop.load(Ordering::Relaxed) {
                    number = (number + 7) % 400;
                    let value = engine.get(&key(number)).unwrap().expect("the key was never deleted");
                    assert!(value.len() == 500 && value.iter().all(|&byte| byte == value[0]));
                }
            });
        }
        for round in 1..40 {
            fill(&engine, round, 400);
            if round % 4 == 0 {
                engine.merge().unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let last = contents(&engine);
    assert_eq!(last.len(), 400);
    assert!(last.values().all(|value| value[0] == 39));
    drop(engine);
    assert_eq!(contents(&open(&options)), last);
}

#[test]
fn files_that_do_not_fit_together_are_left_alone() {
    let directory = fast_directory();
    let options = Options { merge_small_file: 8 << 20, ..options(directory.path()) };
    let engine = open(&options);
    // Three files of one record each; no two of them fit into one.
    (0..4).for_each(|number| engine.put(&key(number), &vec![1; 50 << 10]).unwrap());
    assert_eq!(engine.run_once().unwrap().files, 0);
    assert_eq!(contents(&engine).len(), 4);
}

/// Numbers of keys and of bytes in a value: about 60 MB of live records.
const BOUND_KEYS: u32 = 15_000;
const BOUND_VALUE: usize = 4_000;

#[test]
fn store_that_is_overwritten_without_pause_stays_within_its_bound() {
    let directory = fast_directory();
    // The default options of a node.
    let options = Options { max_file_size: 1 << 30, merge_small_file: 8 << 20, ..options(directory.path()) };
    let engine = open(&options);
    let mut draw = support::Draw(7);
    let (mut written, mut copied, mut highest) = (0_u64, 0, 0);
    for round in 0..15_u8 {
        for number in 0..BOUND_KEYS {
            let number = if round == 0 { number } else { draw.below(BOUND_KEYS.into()) as u32 };
            engine.put(&key(number), &[round; BOUND_VALUE]).unwrap();
        }
        written += u64::from(BOUND_KEYS);
        // The engine's thread does this every second.
        copied += engine.run_once().unwrap().records_copied;
        let stats = engine.stats();
        highest = highest.max(stats.disk_per_live_percent());
        let bound = stats.live_bytes * 5 / 2 + (512 << 20);
        assert!(stats.disk_bytes <= bound, "round {round}: {stats:?}");
        // The bound holds for stores of any size; this one stays further below it.
        assert!(round == 0 || stats.disk_bytes <= stats.live_bytes * 4, "round {round}: {stats:?}");
    }
    assert!(copied <= written * 3 / 2, "{copied} records were copied for {written} that were written");
    assert!(highest > 100);
    assert_eq!(contents(&engine).len(), BOUND_KEYS as usize);
}

/// Returns the number of keys that expire, summed over all partitions.
fn expiring(engine: &Engine) -> u64 {
    (0..caskade_engine::slots::PARTITIONS)
        .map(|partition| engine.partition_stats(partition).expiring_keys)
        .sum()
}

#[test]
fn keys_that_expire_are_counted_through_overwrites_merges_and_starts() {
    let directory = fast_directory();
    let options = options(directory.path());
    let engine = open(&options);
    let far = u64::MAX / 2;
    (0..300).for_each(|number| engine.put_with_expiry(&key(number), &[1; 500], far).unwrap());
    let mut batch = caskade_engine::Batch::new();
    for number in 300..400 {
        batch.put_with_expiry(&key(number), &[1; 500], far);
        batch.put(&key(number + 100), &[1; 500]);
    }
    engine.write(&batch).unwrap();
    assert_eq!(expiring(&engine), 400);
    (0..100).for_each(|number| engine.put(&key(number), &[2; 500]).unwrap());
    (100..150).for_each(|number| assert!(engine.delete(&key(number)).unwrap()));
    (400..420).for_each(|number| engine.put_with_expiry(&key(number), &[2; 500], far).unwrap());
    assert_eq!(expiring(&engine), 270);
    assert!(engine.run_once().unwrap().files > 0);
    assert_eq!(expiring(&engine), 270);
    drop(engine);
    let (engine, recovery) = support::open_any(&options);
    assert!(recovery.scanned_files < data_files(directory.path()).len(), "from hints: {recovery:?}");
    assert_eq!(expiring(&engine), 270);
}
