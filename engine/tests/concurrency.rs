//! Many threads at once, and calls that a store refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use caskade_engine::replicated::Store;
use caskade_engine::{AppendError, Engine, OpenError, Options, SyncPolicy};
use support::{data_files, fast_directory, open, open_store, small, value};

#[test]
fn callbacks_run_once_each_in_the_order_of_the_calls() {
    for sync in [SyncPolicy::Always, SyncPolicy::Never, SyncPolicy::Interval(1)] {
        let directory = fast_directory();
        let engine = open_store(&small(directory.path(), sync));
        let order = Arc::new(Mutex::new(Vec::new()));
        let next = Mutex::new(0_u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        // The lock makes this the order of the calls.
                        let mut next = next.lock().unwrap();
                        *next += 1;
                        let (number, order, publisher) = (*next, order.clone(), engine.clone());
                        engine.append(vec![value(&number.to_le_bytes(), number, b"value")], move |result| {
                            publisher.publish(result.unwrap());
                            order.lock().unwrap().push(number);
                        });
                    }
                });
            }
        });
        engine.clone().close().unwrap();
        assert_eq!(*order.lock().unwrap(), (1..=2000).collect::<Vec<_>>(), "{sync}");
        assert_eq!(engine.stats().live_keys, 2000);
    }
}

#[test]
fn readers_see_whole_records_and_versions_only_grow() {
    let directory = fast_directory();
    let engine = open_store(&small(directory.path(), SyncPolicy::Always));
    let stop = AtomicBool::new(false);
    let keys: Vec<Vec<u8>> = (0..8).map(|number| format!("key-{number}").into_bytes()).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut seen = vec![0; keys.len()];
                while !stop.load(Ordering::Relaxed) {
                    for (key, seen) in keys.iter().zip(&mut seen) {
                        let Some(record) = engine.read(key).unwrap() else {
                            continue;
                        };
                        assert!(record.version >= *seen);
                        *seen = record.version;
                        assert_eq!(
                            record,
                            value(key, record.version, &record.version.to_le_bytes().repeat(20))
                        );
                    }
                }
            });
        }
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let (engine, keys) = (&engine, &keys);
                scope.spawn(move || {
                    for number in 0..600_u64 {
                        let version = number * 2 + writer + 1;
                        let (published, last) = mpsc::channel();
                        for key in keys {
                            let fill = version.to_le_bytes().repeat(20);
                            let (publisher, published) = (engine.clone(), published.clone());
                            engine.append(vec![value(key, version, &fill)], move |result| {
                                publisher.publish(result.unwrap());
                                drop(published);
                            });
                        }
                        drop(published);
                        if number % 100 == 99 {
                            // Without this wait all records could share one commit, which would make one
                            // file, however small the limit.
                            assert_eq!(last.recv(), Err::<(), _>(mpsc::RecvError));
                        }
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        stop.store(true, Ordering::Relaxed);
    });
    engine.clone().close().unwrap();
    for key in &keys {
        assert_eq!(engine.read(key).unwrap().map(|record| record.version), Some(1200));
    }
    let stats = engine.stats();
    assert!(stats.data_files > 1 && stats.syncs < stats.appends / 2, "{stats:?}");
}

#[test]
fn open_files_stay_below_the_cap() {
    let directory = fast_directory();
    let options = Options { max_open_files: 3, ..small(directory.path(), SyncPolicy::Never) };
    let engine = open(&options);
    for number in 0..400_u64 {
        engine.put(&number.to_le_bytes(), &[number as u8; 2000]).unwrap();
    }
    assert!(engine.stats().data_files > 10);
    for number in (0..400_u64).chain((0..400).rev()) {
        assert_eq!(engine.get(&number.to_le_bytes()).unwrap().as_deref(), Some(&[number as u8; 2000][..]));
        // The active file is not counted by the limit.
        assert!(engine.stats().open_files <= 4, "{:?}", engine.stats());
    }
    drop(engine);
    assert_eq!(open(&options).stats().live_keys, 400);
}

#[test]
fn full_append_buffer_refuses_appends_and_makes_others_wait() {
    let directory = fast_directory();
    let options = Options {
        max_value_bytes: 64 << 10,
        append_buffer_bytes: (64 << 10) + (1 << 20),
        ..Options::new(directory.path())
    };
    let engine = open_store(&options);
    let (go, wait) = mpsc::channel::<()>();
    // This callback blocks the log's thread.
    engine.append(vec![value(b"first", 1, b"")], move |_| wait.recv().unwrap());
    let refused = Arc::new(AtomicUsize::new(0));
    for number in 0..40_u64 {
        let (refused, publisher) = (refused.clone(), engine.clone());
        engine.append(vec![value(&number.to_le_bytes(), 2, &[1; 60_000])], move |result| match result {
            Ok(appended) => publisher.publish(appended),
            Err(AppendError::Overloaded { .. }) => {
                refused.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) => panic!("{error}"),
        });
    }
    let count = refused.load(Ordering::SeqCst);
    assert!((20..30).contains(&count), "{count}");
    let waiting = std::thread::spawn({
        let engine = engine.clone();
        move || engine.apply(vec![value(b"waits", 3, &[1; 60_000])])
    });
    go.send(()).unwrap();
    waiting.join().unwrap().unwrap();
    engine.clone().close().unwrap();
    assert_eq!(engine.stats().live_keys as usize, 41 - count);
}

#[test]
fn too_long_keys_values_and_sets_are_refused() {
    let directory = fast_directory();
    let options = Options {
        max_value_bytes: 100,
        append_buffer_bytes: (1 << 20) + 100,
        sync: SyncPolicy::Never,
        ..Options::new(directory.path())
    };
    let engine = open(&options);
    let too_large = |result: Result<(), AppendError>| matches!(result, Err(AppendError::TooLarge { .. }));
    assert!(too_large(engine.put(&[0; 65_536], b"")));
    assert!(too_large(engine.put(b"key", &[0; 101])));
    engine.put(&[0; 65_535], &[0; 100]).unwrap();
    engine.put(b"", b"the empty key is valid").unwrap();
    assert_eq!(engine.stats().live_keys, 2);
    drop(engine);
    let engine = open_store(&options);
    assert!(too_large(engine.apply((0..10_000).map(|version| value(b"key", version, &[0; 100])).collect())));
    assert!(too_large(engine.apply(vec![value(b"key", 1, &[0; 101])])));
    assert_eq!(engine.stats().live_keys, 2);
}

#[test]
fn second_engine_of_a_directory_is_refused_with_the_owner() {
    let directory = fast_directory();
    let engine = open(&small(directory.path(), SyncPolicy::Never));
    match Engine::open(small(directory.path(), SyncPolicy::Never)) {
        Err(OpenError::Locked { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
        other => panic!("{other:?}"),
    }
    drop(engine);
    open(&small(directory.path(), SyncPolicy::Never));
}

#[test]
fn closed_store_refuses_appends_and_reads_on() {
    for sync in [SyncPolicy::Always, SyncPolicy::Never, SyncPolicy::Interval(1)] {
        let directory = fast_directory();
        let engine = open(&small(directory.path(), sync));
        engine.put(b"key", b"value").unwrap();
        engine.clone().close().unwrap();
        assert!(matches!(engine.put(b"key", b"other"), Err(AppendError::Closed)), "{sync}");
        assert_eq!(engine.get(b"key").unwrap().as_deref(), Some(&b"value"[..]));
    }
}

#[test]
fn engine_may_be_dropped_in_a_callback() {
    let directory = fast_directory();
    let options = small(directory.path(), SyncPolicy::Always);
    let engine = open_store(&options);
    let (tell, told) = mpsc::channel();
    let last = engine.clone();
    let (go, wait) = mpsc::channel::<()>();
    engine.append(vec![value(b"key", 1, b"value")], move |result| {
        wait.recv().unwrap();
        last.publish(result.unwrap());
        drop(last);
        tell.send(()).unwrap();
    });
    drop(engine);
    go.send(()).unwrap();
    told.recv().unwrap();
    // The directory is unlocked when the log's thread has ended.
    let deadline = Instant::now() + Duration::from_secs(5);
    let reopened = loop {
        match Store::open(options.clone()) {
            Ok((engine, _)) => break engine,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    assert_eq!(reopened.read(b"key").unwrap(), Some(value(b"key", 1, b"value")));
}

#[test]
fn expired_key_reads_as_absent_and_its_record_is_kept() {
    let directory = fast_directory();
    let engine = open(&small(directory.path(), SyncPolicy::Never));
    engine.put_with_expiry(b"past", b"value", 1).unwrap();
    engine.put_with_expiry(b"future", b"value", u64::MAX).unwrap();
    assert!(!engine.contains(b"past").unwrap() && engine.contains(b"future").unwrap());
    assert_eq!(engine.read(b"past").unwrap().map(|record| record.expiry_ms), Some(1));
    assert_eq!(engine.iterate().count(), 1);
    assert!(!engine.delete(b"past").unwrap() && engine.delete(b"future").unwrap());
}

#[test]
fn clean_reopening_writes_nothing() {
    let directory = fast_directory();
    let options = small(directory.path(), SyncPolicy::Always);
    open(&options).put(b"key", b"value").unwrap();
    let content = || -> Vec<_> {
        data_files(directory.path()).iter().map(|file| std::fs::read(file).unwrap()).collect()
    };
    let before = content();
    drop(open(&options));
    assert_eq!(content(), before);
}
