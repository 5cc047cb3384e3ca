//! What the engine's tests share.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use caskade_engine::{Engine, Options, Record, Recovery, SyncPolicy};

/// A record with a value.
pub(crate) fn value(key: &[u8], version: u64, value: &[u8]) -> Record {
    let value = Some(Bytes::copy_from_slice(value));
    Record { key: Bytes::copy_from_slice(key), version, expiry_ms: 0, user_flags: 0, value }
}

/// A tombstone.
pub(crate) fn tombstone(key: &[u8], version: u64) -> Record {
    Record { value: None, ..value(key, version, b"") }
}

/// Small files, so that rotation happens.
pub(crate) fn small(path: &Path, sync: SyncPolicy) -> Options {
    Options { max_file_size: 64 << 10, sync, ..Options::new(path) }
}

/// Opens a store that must be undamaged.
pub(crate) fn open(options: &Options) -> Engine {
    let (engine, recovery) = open_any(options);
    assert!(!recovery.is_damaged(), "{recovery:?}");
    engine
}

/// Opens a store.
pub(crate) fn open_any(options: &Options) -> (Engine, Recovery) {
    Engine::open(options.clone()).expect("the store opens")
}

/// The data files, oldest first.
pub(crate) fn data_files(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "data")).collect();
    files.sort();
    files
}

/// Copies the store's files as they are now, as a crash would leave them.
pub(crate) fn copy_store(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match std::fs::copy(entry.path(), to.join(entry.file_name())) {
            // A temporary file that has its name by now.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            copied => drop(copied.unwrap()),
        }
    }
}

/// A directory in memory where there is one: for tests that open a store thousands of times.
pub(crate) fn fast_directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// Writes the file anew with this content.
pub(crate) fn overwrite(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

/// Some appends whose effects can be told apart: single records, batches, overwrites, a tombstone.
pub(crate) fn history() -> Vec<Vec<Record>> {
    vec![
        vec![value(b"a", 1, b"first")],
        vec![value(b"b", 2, b"second"), value(b"c", 3, b"third")],
        vec![value(b"a", 4, b"fourth, longer than the first")],
        vec![tombstone(b"b", 5)],
        vec![value(b"d", 6, b""), value(b"e", 7, &[0; 40]), tombstone(b"c", 8)],
        vec![value(b"b", 9, b"back again")],
    ]
}

/// The newest record of each key after these appends.
pub(crate) fn state_after(appends: &[Vec<Record>]) -> std::collections::BTreeMap<Bytes, Record> {
    let mut state = std::collections::BTreeMap::<Bytes, Record>::new();
    for record in appends.iter().flatten() {
        let old = state.get(&record.key);
        if old.is_none_or(|old| old.version < record.version) {
            state.insert(record.key.clone(), record.clone());
        }
    }
    state
}

/// What a store holds of the keys of [`history`].
pub(crate) fn state_of(engine: &Engine) -> std::collections::BTreeMap<Bytes, Record> {
    let keys = [&b"a"[..], b"b", b"c", b"d", b"e"];
    keys.iter()
        .filter_map(|key| engine.read(key).unwrap())
        .map(|record| (record.key.clone(), record))
        .collect()
}
