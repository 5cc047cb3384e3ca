//! The embedded interface behaves like a plain map, for any operations in any order. Runs
//! `CASKADE_MODEL_CASES` cases of 500 operations each, from seeds. `CASKADE_MODEL_SEED=N` runs the one case
//! that a failure names.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;

use caskade_engine::options::Index;
use caskade_engine::slots::partition_of;
use caskade_engine::{Batch, Conditional, Engine, Options, Record, SyncPolicy, Version, restore};
use support::{Draw, fast_directory, fill, open, small};

const CASES: u64 = 1000;
const OPERATIONS: usize = 500;
const KEYS: u64 = 40;
/// Expiries: long ago, and after the life of the store.
const EXPIRIES: [u64; 2] = [1, u64::MAX];

#[test]
fn engine_is_a_plain_map_whatever_is_done_to_it() {
    if let Some(seed) = number("CASKADE_MODEL_SEED") {
        return Case::new(seed).run();
    }
    let cases = number("CASKADE_MODEL_CASES").unwrap_or(CASES);
    let threads = std::thread::available_parallelism().map_or(2, |threads| threads.get() as u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || (thread..cases).step_by(threads as usize).for_each(run_seed));
        }
    });
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().expect("the variable is a number"))
}

fn run_seed(seed: u64) {
    catch_unwind(AssertUnwindSafe(|| Case::new(seed).run())).unwrap_or_else(|panic| {
        eprintln!("to repeat this case: CASKADE_MODEL_SEED={seed}");
        resume_unwind(panic)
    });
}

/// Values of the present keys. Expired keys are not in the model.
type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// A store and its expected content.
struct Case {
    draw: Draw,
    directory: tempfile::TempDir,
    options: Options,
    engine: Option<Engine>,
    model: Model,
    /// A snapshot, and the store's content at that time.
    snapshot: Option<(PathBuf, Model)>,
    /// A version seen of each key, not necessarily its present one.
    seen: BTreeMap<Vec<u8>, Version>,
    highest: Version,
    written: u64,
    snapshots: u64,
}

fn key(number: u64) -> Vec<u8> {
    // Some keys share a partition.
    format!("key-{number}-{{{}}}", number / 4).into_bytes()
}

impl Case {
    fn new(seed: u64) -> Self {
        let directory = fast_directory();
        let index = if seed.is_multiple_of(2) { Index::Ordered } else { Index::Hash };
        // Syncs do not matter here; one case in 20 takes the other path through the log nevertheless.
        let sync = if seed.is_multiple_of(20) { SyncPolicy::Always } else { SyncPolicy::Never };
        let options = Options { index, background: false, ..small(&directory.path().join("store"), sync) };
        Self {
            draw: Draw(seed),
            engine: Some(open(&options)),
            directory,
            options,
            model: Model::new(),
            snapshot: None,
            seen: BTreeMap::new(),
            highest: 0,
            written: 0,
            snapshots: 0,
        }
    }

    fn run(mut self) {
        for _ in 0..OPERATIONS {
            self.step();
        }
        self.check();
        self.reopen();
        self.check();
    }

    fn step(&mut self) {
        match self.draw.below(1000) {
            0..400 => self.put(),
            400..540 => self.delete(),
            540..660 => self.batch(),
            660..740 => self.put_if_version(),
            740..790 => self.delete_if_version(),
            790..930 => self.read(),
            930..950 => self.drop_partition(),
            950..965 => drop(self.engine().run_once().unwrap()),
            965..975 => drop(self.engine().merge().unwrap()),
            975..980 => self.take_snapshot(),
            980..983 => self.restore(),
            983..990 => self.reopen(),
            _ => self.check(),
        }
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn key(&mut self) -> Vec<u8> {
        key(self.draw.below(KEYS))
    }

    /// Returns a value that no other write has, and its expiry.
    fn value(&mut self) -> (Vec<u8>, u64) {
        self.written += 1;
        let longest = if self.draw.below(10) == 0 { 6000 } else { 500 };
        let value = fill(self.written, self.draw.below(longest) as usize);
        let expiry_ms = if self.draw.below(5) == 0 { EXPIRIES[self.draw.below(2) as usize] } else { 0 };
        (value, expiry_ms)
    }

    /// Applies a put with this expiry to the model.
    fn model_put(&mut self, key: &[u8], value: Vec<u8>, expiry_ms: u64) {
        if expiry_ms == 1 {
            self.model.remove(key);
        } else {
            self.model.insert(key.to_vec(), value);
        }
    }

    fn put(&mut self) {
        let (key, (value, expiry_ms)) = (self.key(), self.value());
        self.engine().put_with_expiry(&key, &value, expiry_ms).unwrap();
        self.model_put(&key, value, expiry_ms);
    }

    fn delete(&mut self) {
        let key = self.key();
        let there = self.model.remove(&key).is_some();
        assert_eq!(self.engine().delete(&key).unwrap(), there);
    }

    fn batch(&mut self) {
        let mut batch = Batch::new();
        let mut model = self.model.clone();
        for _ in 0..self.draw.below(10) {
            let key = self.key();
            if self.draw.below(3) == 0 {
                batch.delete(&key);
                model.remove(&key);
            } else {
                let (value, expiry_ms) = self.value();
                batch.put_with_expiry(&key, &value, expiry_ms);
                std::mem::swap(&mut self.model, &mut model);
                self.model_put(&key, value, expiry_ms);
                std::mem::swap(&mut self.model, &mut model);
            }
        }
        self.engine().write(&batch).unwrap();
        self.model = model;
    }

    /// Returns the key's version, after checking its value against the model.
    fn version(&mut self, key: &[u8]) -> Option<Version> {
        let present = self.engine().get_with_version(key).unwrap();
        assert_eq!(
            present.as_ref().map(|(value, _)| &value[..]),
            self.model.get(key).map(|value| &value[..])
        );
        let version = present.map(|(_, version)| version)?;
        self.highest = self.highest.max(version);
        Some(version)
    }

    /// Returns the version for a condition: the present one, or another.
    fn expected(&mut self, key: &[u8], present: Option<Version>) -> Option<Version> {
        let earlier = self.seen.get(key).copied();
        if let Some(version) = present {
            self.seen.insert(key.to_vec(), version);
        }
        match self.draw.below(4) {
            0 => earlier,
            1 => None,
            _ => present,
        }
    }

    fn put_if_version(&mut self) {
        let (key, (value, _)) = (self.key(), self.value());
        let present = self.version(&key);
        let expected = self.expected(&key, present);
        match self.engine().put_if_version(&key, &value, expected).unwrap() {
            Conditional::Done(version) => {
                assert_eq!(present, expected);
                self.is_new(version);
                self.model.insert(key, value);
            }
            Conditional::Unmet(found) => {
                assert_eq!(found, present);
                assert_ne!(present, expected);
            }
        }
    }

    fn delete_if_version(&mut self) {
        let key = self.key();
        let present = self.version(&key);
        let expected = self.expected(&key, present).unwrap_or(u64::MAX);
        match self.engine().delete_if_version(&key, expected).unwrap() {
            Conditional::Done(version) => {
                assert_eq!(present, Some(expected));
                self.is_new(version);
                self.model.remove(&key);
            }
            Conditional::Unmet(found) => {
                assert_eq!(found, present);
                assert_ne!(present, Some(expected));
            }
        }
    }

    /// Checks that no version is assigned twice, whatever was merged, dropped or reopened meanwhile.
    fn is_new(&mut self, version: Version) {
        assert!(version > self.highest, "version {version} after {}", self.highest);
        self.highest = version;
    }

    fn read(&mut self) {
        let key = self.key();
        let expected = self.model.get(&key).map(|value| &value[..]);
        assert_eq!(self.engine().get(&key).unwrap().as_deref(), expected);
        assert_eq!(self.engine().contains(&key).unwrap(), expected.is_some());
    }

    fn drop_partition(&mut self) {
        let partition = partition_of(&self.key());
        self.engine().drop_partitions(&[partition]).unwrap();
        self.model.retain(|key, _| partition_of(key) != partition);
        assert_eq!(self.engine().partition_stats(partition), Default::default());
    }

    fn take_snapshot(&mut self) {
        self.snapshots += 1;
        let path = self.directory.path().join(format!("snapshot-{}", self.snapshots));
        self.engine().snapshot(&path).unwrap();
        if let Some((former, _)) = self.snapshot.replace((path, self.model.clone())) {
            std::fs::remove_dir_all(former).unwrap();
        }
    }

    /// Continues with a store restored from the last snapshot, which must hold its former content.
    fn restore(&mut self) {
        let Some((snapshot, model)) = self.snapshot.take() else { return };
        self.engine = None;
        std::fs::remove_dir_all(&self.options.path).unwrap();
        restore(&snapshot, &self.options.path).unwrap();
        self.engine = Some(open(&self.options));
        self.snapshot = Some((snapshot, model.clone()));
        self.model = model;
        // For the restored store, writes after the snapshot never happened.
        self.highest = 0;
        self.seen.clear();
        self.check();
    }

    fn reopen(&mut self) {
        let engine = self.engine.take().unwrap();
        if self.draw.below(2) == 0 {
            engine.close().unwrap();
        } else {
            drop(engine);
        }
        self.engine = Some(open(&self.options));
    }

    fn check(&self) {
        let engine = self.engine();
        let expected: Vec<(&[u8], &[u8])> =
            self.model.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        let mut all: Vec<Record> = engine.iterate().map(|record| record.unwrap()).collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(pairs(&all), expected);
        if self.options.index == Index::Ordered {
            let scan = engine.range(Bound::Unbounded, Bound::Unbounded).unwrap();
            let scanned: Vec<Record> = scan.map(|record| record.unwrap()).collect();
            assert_eq!(pairs(&scanned), expected);
        }
        for number in 0..KEYS {
            let key = key(number);
            let value = engine.get(&key).unwrap();
            assert_eq!(value.as_deref(), self.model.get(&key).map(|value| &value[..]));
        }
        // Expired records count until they are replaced by tombstones.
        assert!(engine.stats().live_keys >= self.model.len() as u64);
    }
}

fn pairs(records: &[Record]) -> Vec<(&[u8], &[u8])> {
    records.iter().map(|record| (&record.key[..], record.value.as_deref().unwrap())).collect()
}
