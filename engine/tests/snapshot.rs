//! A snapshot is the store at one instant, and stays unchanged whatever happens to the store.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use caskade_engine::error::SnapshotError;
use caskade_engine::replicated::Store;
use caskade_engine::{Engine, OpenError, Options, SyncPolicy, restore};
use support::{fast_directory, open, open_store, overwrite, small, state_after, state_of, tombstone, value};

fn options(directory: &Path) -> Options {
    Options { background: false, ..small(directory, SyncPolicy::Never) }
}

fn with_history(directory: &Path) -> Store {
    let engine = open_store(&options(directory));
    support::history().into_iter().for_each(|records| engine.apply(records).unwrap());
    engine
}

#[test]
fn restored_snapshot_is_the_store_as_it_was() {
    let directory = fast_directory();
    let (store, snapshot) = (directory.path().join("store"), directory.path().join("snapshot"));
    let engine = with_history(&store);
    engine.snapshot(&snapshot).unwrap();
    // Later writes of the store are not in the snapshot, and remove nothing from it.
    engine.apply(vec![value(b"a", 20, b"later"), tombstone(b"d", 21)]).unwrap();
    engine.merge().unwrap();
    drop(engine);
    std::fs::remove_dir_all(&store).unwrap();
    for name in ["one", "two"] {
        let to = directory.path().join(name);
        restore(&snapshot, &to).unwrap();
        let engine = open_store(&options(&to));
        assert_eq!(state_of(&engine), state_after(&support::history()));
        // The restored store shares nothing with the snapshot.
        engine.apply(vec![value(b"a", 20, b"in the copy")]).unwrap();
        engine.merge().unwrap();
    }
}

#[test]
fn snapshot_under_load_has_what_was_acknowledged_before_it() {
    let directory = fast_directory();
    let engine = open(&Options { background: true, ..options(&directory.path().join("store")) });
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..u64::MAX {
                engine
                    .put(&(number % 700).to_le_bytes(), &[&number.to_le_bytes()[..], &[7; 300]].concat())
                    .unwrap();
                written.store(number, Ordering::SeqCst);
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                // Each snapshot is copied: the store must not grow without bound meanwhile.
                if number % 64 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
        });
        for round in 0..6 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let before = written.load(Ordering::SeqCst);
            let (snapshot, to) =
                (directory.path().join(format!("s{round}")), directory.path().join(format!("r{round}")));
            engine.snapshot(&snapshot).unwrap();
            let after = written.load(Ordering::SeqCst) + 1;
            restore(&snapshot, &to).unwrap();
            let copy = open(&options(&to));
            let newest = copy
                .iterate()
                .map(|record| u64::from_le_bytes(*record.unwrap().value.unwrap().first_chunk().unwrap()))
                .max()
                .unwrap_or(0);
            assert!((before..=after).contains(&newest), "{before} {newest} {after}");
            // No write before the newest is missing: the snapshot shows one instant.
            for number in newest.saturating_sub(600).max(1)..=newest {
                let value = copy.get(&(number % 700).to_le_bytes()).unwrap().expect("it was written before");
                assert!(value[..8] == number.to_le_bytes());
            }
            if round == 4 {
                engine.merge().unwrap();
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
}

#[test]
fn what_is_no_whole_snapshot_is_refused() {
    let directory = fast_directory();
    let (store, snapshot) = (directory.path().join("store"), directory.path().join("snapshot"));
    let to = directory.path().join("to");
    let engine = with_history(&store);
    engine.snapshot(&snapshot).unwrap();
    assert!(matches!(engine.snapshot(&snapshot), Err(SnapshotError::NotEmpty { .. })));
    assert!(matches!(restore(&snapshot, &store), Err(SnapshotError::NotEmpty { .. })));
    assert!(matches!(restore(&store, &to), Err(SnapshotError::NoSnapshot { .. })));
    let opened = Engine::open(options(&snapshot));
    assert!(matches!(opened, Err(OpenError::IsSnapshot { .. })));
    let data = support::data_files(&snapshot).pop().unwrap();
    let bytes = std::fs::read(&data).unwrap();
    // Not through the link: the store's own file must stay.
    std::fs::remove_file(&data).unwrap();
    overwrite(&data, &bytes[..bytes.len() - 1]);
    let error = restore(&snapshot, &to).unwrap_err();
    assert!(matches!(error, SnapshotError::NotWhole { .. }), "{error}");
    let marker = snapshot.join("snapshot");
    let mut bytes = std::fs::read(&marker).unwrap();
    bytes[12] ^= 1;
    overwrite(&marker, &bytes);
    assert!(matches!(restore(&snapshot, &to), Err(SnapshotError::NotWhole { .. })));
    assert!(!to.exists());
}

#[test]
fn files_of_store_and_snapshot_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let (store, copy, restored) = (
        directory.path().join("a/store"),
        directory.path().join("b/copy"),
        directory.path().join("restored"),
    );
    let engine = open_store(&Options { reserve_bytes: 1 << 20, ..small(&store, SyncPolicy::Never) });
    (1..=200_u64).for_each(|number| {
        engine.apply(vec![value(&number.to_le_bytes(), number, &[1; 1000])]).unwrap();
    });
    engine.run_once().unwrap();
    engine.write_metadata("note", b"kept").unwrap();
    engine.snapshot(&copy).unwrap();
    caskade_engine::restore(&copy, &restored).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for folder in [&store, &copy, &restored] {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() > 3, "{files:?}");
        files.iter().for_each(|file| assert_eq!(mode(file), 0o600, "{}", file.display()));
    }
}
