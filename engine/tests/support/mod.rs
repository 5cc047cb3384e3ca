//! Functions shared by the engine's tests.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod histories;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use caskade_engine::replicated::Store;
use caskade_engine::testing::FaultyFileSystem;
use caskade_engine::{Engine, OpenError, Options, ReadError, Record, Recovery, SyncPolicy};

/// Returns a record with a value.
pub(crate) fn value(key: &[u8], version: u64, value: &[u8]) -> Record {
    let value = Some(Bytes::copy_from_slice(value));
    Record { key: Bytes::copy_from_slice(key), version, expiry_ms: 0, user_flags: 0, value }
}

/// Returns a tombstone.
pub(crate) fn tombstone(key: &[u8], version: u64) -> Record {
    Record { value: None, ..value(key, version, b"") }
}

/// Returns options with small files, so that the log rotates.
pub(crate) fn small(path: &Path, sync: SyncPolicy) -> Options {
    Options { max_file_size: 64 << 10, low_free_bytes: 0, reserve_bytes: 0, sync, ..Options::new(path) }
}

/// Opens an embedded store that must be undamaged.
pub(crate) fn open(options: &Options) -> Engine {
    let (engine, recovery) = open_any(options);
    assert!(!recovery.is_damaged(), "{recovery:?}");
    engine
}

/// Opens a replicated store that must be undamaged.
pub(crate) fn open_store(options: &Options) -> Store {
    let (store, recovery) = open_any_store(options);
    assert!(!recovery.is_damaged(), "{recovery:?}");
    store
}

/// Opens a replicated store.
pub(crate) fn open_any_store(options: &Options) -> (Store, Recovery) {
    Store::open(options.clone()).expect("the store opens")
}

/// Opens an embedded store.
pub(crate) fn open_any(options: &Options) -> (Engine, Recovery) {
    Engine::open(options.clone()).expect("the store opens")
}

/// Returns the data files, oldest first.
pub(crate) fn data_files(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "data")).collect();
    files.sort();
    files
}

/// Copies the store's files in their present state, as a crash would leave them.
pub(crate) fn copy_store(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match std::fs::copy(entry.path(), to.join(entry.file_name())) {
            // A temporary file may have been renamed meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            copied => drop(copied.unwrap()),
        }
    }
}

/// Returns a directory in memory where possible: for tests that open a store thousands of times.
pub(crate) fn fast_directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// Replaces the content of a file.
pub(crate) fn overwrite(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

/// Returns appends whose effects can be distinguished: single records, batches, overwrites, a tombstone.
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

/// Returns the newest record of each key after these appends.
pub(crate) fn state_after(appends: &[Vec<Record>]) -> BTreeMap<Bytes, Record> {
    let mut state = BTreeMap::<Bytes, Record>::new();
    for record in appends.iter().flatten() {
        let old = state.get(&record.key);
        if old.is_none_or(|old| old.version < record.version) {
            state.insert(record.key.clone(), record.clone());
        }
    }
    state
}

/// Returns the records of the keys of [`history`] in a store.
pub(crate) fn state_of(engine: &Store) -> BTreeMap<Bytes, Record> {
    let keys = [&b"a"[..], b"b", b"c", b"d", b"e"];
    keys.iter()
        .filter_map(|key| engine.read(key).unwrap())
        .map(|record| (record.key.clone(), record))
        .collect()
}

/// Directory of stores on a [`FaultyFileSystem`].
pub(crate) const STORE: &str = "/store";

/// Returns options with small files and without background work.
pub(crate) fn quiet(sync: SyncPolicy) -> Options {
    Options { background: false, ..small(Path::new(STORE), sync) }
}

/// Opens a replicated store on a file system of a test.
pub(crate) fn open_store_on(
    file_system: &FaultyFileSystem,
    options: &Options,
) -> Result<(Store, Recovery), OpenError> {
    Store::open_on(Arc::new(file_system.clone()), options.clone())
}

/// Opens an embedded store on a file system of a test.
pub(crate) fn open_on(
    file_system: &FaultyFileSystem,
    options: &Options,
) -> Result<(Engine, Recovery), OpenError> {
    Engine::open_on(Arc::new(file_system.clone()), options.clone())
}

/// Generator of numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    /// Draws a number from `0..bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// The live records of a store's keys, without tombstones.
pub(crate) type Model = BTreeMap<Bytes, Record>;

/// Returns a value that no other version has.
pub(crate) fn fill(version: u64, len: usize) -> Vec<u8> {
    let mut bytes = version.to_le_bytes().repeat(len / 8 + 1);
    bytes.truncate(len);
    bytes
}

/// Returns the keys and versions of a model, for messages.
pub(crate) fn describe(state: &Model) -> String {
    let each = state.values().map(|record| format!("{} v{}", record.key.escape_ascii(), record.version));
    format!("[{}]", each.collect::<Vec<_>>().join(", "))
}
