//! Scans in key order, over the ordered index.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use caskade_engine::error::ScanError;
use caskade_engine::options::Index;
use caskade_engine::scan::RangePage;
use caskade_engine::slots::partition_of;
use caskade_engine::{Options, Record, SyncPolicy};
use proptest::prelude::*;
use support::{fast_directory, open, open_store, small, tombstone, value};

fn ordered(path: &Path) -> Options {
    Options { index: Index::Ordered, ..small(path, SyncPolicy::Never) }
}

fn keys(scan: impl Iterator<Item = Result<Record, caskade_engine::ReadError>>) -> Vec<Bytes> {
    scan.map(|record| record.unwrap().key).collect()
}

/// Returns all keys of a range, page by page.
fn paged(
    page: impl Fn(Bound<&[u8]>, Bound<&[u8]>, usize) -> Result<RangePage, ScanError>,
    start: Bound<&[u8]>,
    end: Bound<&[u8]>,
    limit: usize,
) -> Vec<Bytes> {
    let mut found = Vec::new();
    let mut from = start.map(Bytes::copy_from_slice);
    loop {
        let page = page(from.as_ref().map(|key| &key[..]), end, limit).unwrap();
        assert!(page.keys.len() <= limit);
        found.extend(page.keys.into_iter().map(|info| info.key));
        let Some(next) = page.next else { return found };
        from = Bound::Excluded(next);
    }
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    // Few letters, so that many keys are prefixes of each other.
    prop::collection::vec(prop_oneof![Just(0), Just(b'a'), Just(b'b'), Just(255)], 0..5)
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![Just(Bound::Unbounded), key().prop_map(Bound::Included), key().prop_map(Bound::Excluded)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn scan_is_that_of_a_sorted_map(
        writes in prop::collection::vec((key(), 1..50u64, prop::bool::weighted(0.7)), 0..150),
        dropped in key(),
        ranges in prop::collection::vec((bound(), bound(), 1..9usize), 1..8),
    ) {
        let directory = fast_directory();
        let store = open_store(&ordered(directory.path()));
        let mut newest: BTreeMap<Vec<u8>, (u64, bool)> = BTreeMap::new();
        for (number, (key, version, lives)) in writes.iter().enumerate() {
            if number == 60 {
                store.drop_partitions(&[partition_of(&dropped)]).unwrap();
                newest.retain(|key, _| partition_of(key) != partition_of(&dropped));
            }
            // A version names one record.
            let version = version * 2 + u64::from(*lives);
            let record = if *lives { value(key, version, b"value") } else { tombstone(key, version) };
            store.apply(vec![record]).unwrap();
            let old = newest.entry(key.clone()).or_default();
            *old = (*old).max((version, *lives));
        }
        newest.retain(|_, (_, lives)| *lives);
        let expected = |start: Bound<&[u8]>, end: Bound<&[u8]>| -> Vec<Bytes> {
            let inside = |key: &&Vec<u8>| {
                use std::ops::RangeBounds;
                <(Bound<&[u8]>, Bound<&[u8]>) as RangeBounds<[u8]>>::contains(&(start, end), &key[..])
            };
            newest.keys().filter(inside).map(|key| Bytes::copy_from_slice(key)).collect()
        };
        let page = |start: Bound<&[u8]>, end: Bound<&[u8]>, limit| store.range_page(None, start, end, limit);
        for (start, end, limit) in &ranges {
            let (start, end) = (start.as_ref().map(|key| &key[..]), end.as_ref().map(|key| &key[..]));
            prop_assert_eq!(paged(page, start, end, *limit), expected(start, end));
        }
        drop(store);
        let engine = open(&ordered(directory.path()));
        let page = |start: Bound<&[u8]>, end: Bound<&[u8]>, limit| engine.range_page(None, start, end, limit);
        for (start, end, limit) in &ranges {
            let (start, end) = (start.as_ref().map(|key| &key[..]), end.as_ref().map(|key| &key[..]));
            prop_assert_eq!(keys(engine.range(start, end).unwrap()), expected(start, end));
            prop_assert_eq!(paged(page, start, end, *limit), expected(start, end));
        }
        for prefix in newest.keys().chain([&dropped]) {
            let expected: Vec<&Vec<u8>> = newest.keys().filter(|key| key.starts_with(prefix)).collect();
            prop_assert_eq!(keys(engine.prefix(prefix).unwrap()), expected);
        }
    }
}

/// Stops the other threads, also when this one panics.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn keys_present_throughout_are_met_once_in_order_while_others_come_and_go_and_merges_run() {
    let directory = fast_directory();
    let engine = open(&ordered(directory.path()));
    let steady: Vec<Vec<u8>> = (0..3000).map(|number| format!("key-{number:05}").into_bytes()).collect();
    steady.iter().for_each(|key| engine.put(key, b"first").unwrap());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        scope.spawn(|| {
            for round in 0_usize.. {
                for (number, key) in steady.iter().enumerate().skip(round % 7).step_by(7) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let passing = format!("key-{number:05}-passing").into_bytes();
                    engine.put(key, format!("round {round}").as_bytes()).unwrap();
                    engine.put(&passing, b"for a moment").unwrap();
                    engine.delete(&passing).unwrap();
                }
            }
        });
        scope.spawn(|| {
            // Records are moved during the scans, and their files removed.
            while !stop.load(Ordering::Relaxed) {
                engine.merge().unwrap();
            }
        });
        for _ in 0..4 {
            let scanned = keys(engine.prefix(b"key-").unwrap());
            let page =
                |start: Bound<&[u8]>, end: Bound<&[u8]>, limit| engine.range_page(None, start, end, limit);
            let mut pages = paged(page, Bound::Unbounded, Bound::Unbounded, 100);
            for found in [scanned, std::mem::take(&mut pages)] {
                assert!(found.is_sorted_by(|a, b| a < b));
                let kept = found.into_iter().filter(|key| !key.ends_with(b"-passing"));
                assert!(kept.eq(steady.iter()));
            }
        }
    });
}

#[test]
fn expired_keys_are_passed_over_by_a_scan_and_told_of_by_a_page() {
    let directory = fast_directory();
    let engine = open(&ordered(directory.path()));
    engine.put(b"a", b"for ever").unwrap();
    engine.put_with_expiry(b"b", b"long ago", 1000).unwrap();
    engine.put_with_expiry(b"c", b"in 2200", 7_258_118_400_000).unwrap();
    assert_eq!(keys(engine.prefix(b"").unwrap()), [&b"a"[..], b"c"]);
    let page = engine.range_page(None, Bound::Unbounded, Bound::Unbounded, 10).unwrap();
    assert_eq!(page.keys.iter().map(|info| info.expiry_ms).collect::<Vec<_>>(), [0, 1000, 7_258_118_400_000]);
    assert_eq!(page.next, None);
}

#[test]
fn page_of_some_partitions_has_their_keys_only() {
    let directory = fast_directory();
    let engine = open(&ordered(directory.path()));
    let all: Vec<Vec<u8>> = (0..500).map(|number| format!("key-{number:03}").into_bytes()).collect();
    all.iter().for_each(|key| engine.put(key, b"value").unwrap());
    let chosen = [partition_of(&all[0]), partition_of(&all[1]), partition_of(&all[0])];
    let page = engine.range_page(Some(&chosen), Bound::Unbounded, Bound::Unbounded, 1000).unwrap();
    let expected = all.iter().filter(|key| chosen.contains(&partition_of(key)));
    assert!(page.keys.iter().map(|info| &info.key[..]).eq(expected.map(|key| &key[..])));
    let none = engine.range_page(Some(&[]), Bound::Unbounded, Bound::Unbounded, 1000).unwrap();
    assert!(none.keys.is_empty() && none.next.is_none());
}

#[test]
fn prefix_with_a_hash_tag_finds_its_keys() {
    let directory = fast_directory();
    let engine = open(&ordered(directory.path()));
    for key in ["user:{42}:name", "user:{42}:age", "user:{43}:name", "user:{42", "user:{42}"] {
        engine.put(key.as_bytes(), b"value").unwrap();
    }
    let found = keys(engine.prefix(b"user:{42}").unwrap());
    assert_eq!(found, [&b"user:{42}"[..], b"user:{42}:age", b"user:{42}:name"]);
    assert_eq!(keys(engine.prefix(b"user:{42").unwrap()).len(), 4);
}

#[test]
fn without_the_ordered_index_a_scan_says_how_to_get_one() {
    let directory = fast_directory();
    let engine = open(&small(directory.path(), SyncPolicy::Never));
    engine.put(b"key", b"value").unwrap();
    let error = engine.prefix(b"k").unwrap_err();
    assert!(matches!(error, ScanError::NoOrderedIndex));
    assert!(error.to_string().contains("index = \"ordered\""), "{error}");
    assert!(engine.range(Bound::Unbounded, Bound::Unbounded).is_err());
    assert!(engine.range_page(None, Bound::Unbounded, Bound::Unbounded, 1).is_err());
    drop(engine);
    // The index is in memory, not in the files.
    assert_eq!(keys(open(&ordered(directory.path())).prefix(b"k").unwrap()), [&b"key"[..]]);
}
