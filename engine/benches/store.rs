//! Measures single calls of a store: `cargo bench -p caskade-engine --bench store`. The store is in the
//! directory for temporary files (`TMPDIR`), does not wait for syncs, and has no background work.
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use caskade_engine::replicated::{self, Appended};
use caskade_engine::{Batch, Engine, Options, Record, SyncPolicy};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use tempfile::TempDir;

const VALUE_BYTES: [usize; 3] = [100, 1 << 10, 64 << 10];

/// Number of keys: those that are overwritten, and those of a store that is read.
const KEYS: u64 = 100_000;

fn main() {
    divan::main();
}

/// A store in a directory that is removed with it.
struct Store {
    engine: Engine,
    _directory: TempDir,
}

impl Store {
    fn empty() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (engine, _) = Engine::open(options(&directory, 64 << 20)).unwrap();
        Self { engine, _directory: directory }
    }

    fn filled() -> Self {
        let (directory, options) = filled_directory();
        let (engine, _) = Engine::open(options).unwrap();
        Self { engine, _directory: directory }
    }
}

fn options(directory: &TempDir, max_file_size: u64) -> Options {
    let sync = SyncPolicy::Never;
    Options { sync, max_file_size, background: false, ..Options::new(directory.path()) }
}

/// Creates a closed store with a value of 100 bytes for each key. Its files are so small that nearly all are
/// sealed and have a hint.
fn filled_directory() -> (TempDir, Options) {
    let directory = tempfile::tempdir().unwrap();
    let options = options(&directory, 1 << 20);
    let (engine, _) = Engine::open(options.clone()).unwrap();
    for first in (0..KEYS).step_by(1000) {
        let mut batch = Batch::new();
        for number in first..first + 1000 {
            batch.put(&key(number), &[7; 100]);
        }
        engine.write(&batch).unwrap();
    }
    engine.close().unwrap();
    // The first opening writes the hints.
    Engine::open(options.clone()).unwrap().0.close().unwrap();
    (directory, options)
}

fn key(number: u64) -> Vec<u8> {
    format!("key-{number:016}").into_bytes()
}

/// Returns numbers below [`KEYS`] in an order with poor cache locality.
fn numbers() -> impl FnMut() -> u64 {
    let mut last = 0_u64;
    move || {
        last = last.wrapping_add(0x9e37_79b9_7f4a_7c15);
        last % KEYS
    }
}

#[divan::bench(args = VALUE_BYTES, sample_size = 100)]
fn put(bencher: Bencher<'_, '_>, value_bytes: usize) {
    let store = Store::empty();
    let value = vec![7; value_bytes];
    let mut next = numbers();
    let bencher = bencher.counter(BytesCount::new(value_bytes)).with_inputs(|| key(next()));
    bencher.bench_local_refs(|key| store.engine.put(key, &value).unwrap());
}

#[divan::bench(args = [10, 100], sample_size = 10)]
fn batch_of(bencher: Bencher<'_, '_>, records: u64) {
    let store = Store::empty();
    let mut next = numbers();
    let batch = || {
        let mut batch = Batch::new();
        for _ in 0..records {
            batch.put(&key(next()), &[7; 100]);
        }
        batch
    };
    let bencher = bencher.counter(ItemsCount::new(records)).with_inputs(batch);
    bencher.bench_local_refs(|batch| store.engine.write(batch).unwrap());
}

#[divan::bench(sample_size = 1000)]
fn get_hit(bencher: Bencher<'_, '_>) {
    let store = Store::filled();
    let mut next = numbers();
    bencher.with_inputs(|| key(next())).bench_local_refs(|key| store.engine.get(key).unwrap().unwrap());
}

#[divan::bench(sample_size = 1000)]
fn get_miss(bencher: Bencher<'_, '_>) {
    let store = Store::filled();
    let mut next = numbers();
    bencher.with_inputs(|| key(KEYS + next())).bench_local_refs(|key| store.engine.get(key).unwrap());
}

/// Makes records visible that are in the log: measures the keydir alone.
#[divan::bench(sample_size = 1000)]
fn publish(bencher: Bencher<'_, '_>) {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = replicated::Store::open(options(&directory, 64 << 20)).unwrap();
    let mut next = numbers();
    let mut version = 0;
    let appended = || {
        version += 1;
        appended(&store, next(), version)
    };
    bencher.with_inputs(appended).bench_local_values(|appended| store.publish(appended));
}

fn appended(store: &replicated::Store, number: u64, version: u64) -> Appended {
    let value = Some(vec![7; 100].into());
    let record = Record { key: key(number).into(), version, expiry_ms: 0, user_flags: 0, value };
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    store.append(vec![record], move |result| tell.send(result).unwrap());
    told.recv().unwrap().unwrap()
}

/// Opens a store whose files have hints: one open store at a time.
#[divan::bench(sample_size = 1, sample_count = 20)]
fn reopen(bencher: Bencher<'_, '_>) {
    let (_directory, options) = filled_directory();
    let bencher = bencher.counter(ItemsCount::new(KEYS)).with_inputs(|| options.clone());
    bencher.bench_local_values(|options| Engine::open(options).unwrap());
}
