//! States that a crash may leave are opened again, with everything that was acknowledged.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use caskade_engine::{Options, SyncPolicy};
use support::{
    copy_store, data_files, fast_directory, history, open, open_any_store, open_store, overwrite, small,
    state_after, state_of, value,
};

/// Returns the active file's bytes after the history as a crash leaves them, without an end mark, and the end
/// of each append.
fn crashed_store(directory: &std::path::Path) -> (Vec<u8>, Vec<usize>) {
    let engine = open_store(&Options { sync: SyncPolicy::Always, ..small(directory, SyncPolicy::Always) });
    let file = data_files(directory).pop().unwrap();
    let mut ends = Vec::new();
    for records in history() {
        engine.apply(records).unwrap();
        // All appends are in one file.
        ends.push(engine.stats().disk_bytes as usize);
    }
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.truncate(*ends.last().unwrap());
    // Dropping the engine would complete the file.
    std::mem::forget(engine);
    (bytes, ends)
}

#[test]
fn torn_tail_is_cut_to_a_prefix_of_the_appends_at_every_byte() {
    let directory = fast_directory();
    let original = directory.path().join("original");
    let (bytes, ends) = crashed_store(&original);
    let eras = std::fs::read(original.join("eras")).unwrap();
    for cut in 36..=bytes.len() {
        for zeros in [0, 100] {
            let copy = directory.path().join("copy");
            std::fs::create_dir_all(&copy).unwrap();
            overwrite(&copy.join("eras"), &eras);
            let mut torn = bytes[..cut].to_vec();
            torn.resize(cut + zeros, 0);
            overwrite(&copy.join("0000000001.data"), &torn);
            let options = small(&copy, SyncPolicy::Never);
            let (engine, recovery) = open_any_store(&options);
            assert!(!recovery.is_damaged(), "cut at {cut}: {recovery:?}");
            // Zeros after the cut may equal the zeros that were cut.
            let least = ends.iter().filter(|&&end| end <= cut).count();
            let state = state_of(&engine);
            let whole = (least..=ends.len()).find(|&count| state == state_after(&history()[..count]));
            assert!(whole.is_some_and(|count| count == least || zeros > 0), "cut at {cut}: {state:?}");
            // The store continues, and no part of the torn tail reappears.
            engine.apply(vec![value(b"after", 100, b"new")]).unwrap();
            drop(engine);
            let engine = open_store(&options);
            assert_eq!(state_of(&engine), state);
            assert_eq!(engine.read(b"after").unwrap(), Some(value(b"after", 100, b"new")));
            drop(engine);
            std::fs::remove_dir_all(&copy).unwrap();
        }
    }
}

#[test]
fn acknowledged_write_survives_a_crash_at_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    let original = directory.path().join("original");
    // No merges: files that disappear while they are copied one by one are not a state that a crash leaves.
    let engine = open_store(&Options { background: false, ..small(&original, SyncPolicy::Always) });
    let stop = AtomicBool::new(false);
    let acknowledged: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for (writer, acknowledged) in acknowledged.iter().enumerate() {
            let (engine, stop) = (engine.clone(), &stop);
            scope.spawn(move || {
                for version in 1.. {
                    let keys = [format!("{writer}-left"), format!("{writer}-right")];
                    let fill = vec![version as u8; version as usize % 700];
                    engine
                        .apply(keys.iter().map(|key| value(key.as_bytes(), version, &fill)).collect())
                        .unwrap();
                    acknowledged.store(version, Ordering::SeqCst);
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                }
            });
        }
        for round in 0..12 {
            std::thread::sleep(Duration::from_millis(20));
            let before: Vec<u64> =
                acknowledged.iter().map(|version| version.load(Ordering::SeqCst)).collect();
            let copy = directory.path().join(format!("copy-{round}"));
            // Copying the oldest file first shows files of different moments. That is more than a crash may
            // do, but everything acknowledged before is in all of them.
            copy_store(&original, &copy);
            let (crashed, _) = open_any_store(&small(&copy, SyncPolicy::Never));
            for (writer, version) in before.into_iter().enumerate() {
                let read = |side| crashed.read(format!("{writer}-{side}").as_bytes()).unwrap();
                let (left, right) = (read("left"), read("right"));
                let at_least = left.as_ref().map_or(0, |record| record.version);
                assert!(at_least >= version, "writer {writer}: {at_least} < {version}");
                assert_eq!(left.map(|record| record.version), right.map(|record| record.version));
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
}

#[test]
fn leftovers_of_an_interrupted_rotation_are_removed() {
    let directory = fast_directory();
    let options = small(directory.path(), SyncPolicy::Never);
    let engine = open(&options);
    engine.put(b"key", b"value").unwrap();
    drop(engine);
    let leftover = directory.path().join("0000000002.data.tmp");
    overwrite(&leftover, b"half a header");
    let engine = open(&options);
    assert_eq!(engine.get(b"key").unwrap().as_deref(), Some(&b"value"[..]));
    assert!(!leftover.exists());
}

#[test]
fn dropped_partition_stays_empty_whatever_is_opened_again() {
    let directory = fast_directory();
    let options = small(directory.path(), SyncPolicy::Never);
    let engine = open_store(&options);
    let partition = caskade_engine::slots::partition_of(b"key");
    engine.apply(vec![value(b"key", 7, b"old")]).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    engine.append(vec![value(b"key", 9, b"late")], move |result| tell.send(result).unwrap());
    engine.drop_partitions(&[partition]).unwrap();
    engine.publish(told.recv().unwrap().unwrap());
    assert_eq!(engine.read(b"key").unwrap(), None);
    drop(engine);
    let engine = open_store(&options);
    assert_eq!(engine.read(b"key").unwrap(), None);
    // Written again, with a lower version than the dropped one.
    engine.apply(vec![value(b"key", 3, b"new")]).unwrap();
    drop(engine);
    assert_eq!(open_store(&options).read(b"key").unwrap(), Some(value(b"key", 3, b"new")));
}

#[test]
fn interval_sync_happens_without_further_writes() {
    let directory = fast_directory();
    let engine = open(&small(directory.path(), SyncPolicy::Interval(5)));
    engine.put(b"key", b"value").unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while engine.stats().syncs == 0 {
        assert!(Instant::now() < deadline, "nothing was synced");
        std::thread::sleep(Duration::from_millis(1));
    }
}
