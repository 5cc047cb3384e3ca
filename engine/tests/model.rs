//! The engine behaves like a plain map, for any operations in any order.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;

use caskade_engine::replicated::{Appended, Store};
use caskade_engine::slots::{PARTITIONS, partition_of};
use caskade_engine::{Options, Record, SyncPolicy};
use proptest::prelude::*;
use support::{fast_directory, open_store, small, tombstone, value};

#[derive(Clone, Debug)]
enum Step {
    /// Records with these keys and versions, as one append; without a value: a tombstone.
    Apply(Vec<(u8, u64, Option<u16>)>),
    /// Like `Apply`, but published later, in reverse order.
    ApplyLate(Vec<(u8, u64, Option<u16>)>),
    DropPartition(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let records =
        || prop::collection::vec((0..24u8, 1..400u64, prop::option::weighted(0.8, 0..3000u16)), 1..6);
    let step = prop_oneof![
        12 => records().prop_map(Step::Apply),
        4 => records().prop_map(Step::ApplyLate),
        1 => (0..24u8).prop_map(Step::DropPartition),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..120)
}

fn key(number: u8) -> Vec<u8> {
    // Some keys share a partition.
    format!("key-{number}-{{{}}}", number / 3).into_bytes()
}

/// Returns a record whose content follows from its key and version: a version names one record.
fn record((number, version, value_len): (u8, u64, Option<u16>)) -> Record {
    let version = version * 2 + u64::from(value_len.is_none());
    match value_len {
        Some(_) => value(&key(number), version, &vec![version as u8; version as usize * 7 % 900]),
        None => tombstone(&key(number), version),
    }
}

#[derive(Default)]
struct Model(BTreeMap<Vec<u8>, Record>);

impl Model {
    fn apply(&mut self, record: Record) {
        let old = self.0.get(&record.key[..]);
        if old.is_none_or(|old| old.version < record.version) {
            self.0.insert(record.key.to_vec(), record);
        }
    }
}

fn check(engine: &Store, model: &Model) {
    for number in 0..26 {
        let key = key(number);
        assert_eq!(engine.read(&key).unwrap().as_ref(), model.0.get(&key), "{key:?}");
    }
    let live: Vec<_> = model.0.values().filter(|record| record.value.is_some()).collect();
    let records_of = |partition| {
        let positions: Vec<u64> = engine.inventory(partition).iter().map(|entry| entry.position).collect();
        engine.read_positions(partition, &positions).unwrap()
    };
    let mut all: Vec<Record> = (0..PARTITIONS).flat_map(records_of).collect();
    all.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(all.iter().collect::<Vec<_>>(), model.0.values().collect::<Vec<_>>());
    let stats = engine.stats();
    assert_eq!((stats.live_keys, stats.tombstones), (live.len() as u64, (model.0.len() - live.len()) as u64));
    let mut partitions: Vec<_> = model.0.keys().map(|key| partition_of(key)).collect();
    partitions.dedup();
    for partition in partitions {
        check_partition(engine, model, partition);
    }
}

fn check_partition(engine: &Store, model: &Model, partition: u16) {
    let expected: Vec<_> = model.0.values().filter(|record| partition_of(&record.key) == partition).collect();
    let inventory = engine.inventory(partition);
    assert_eq!(inventory.len(), expected.len());
    assert!(inventory.is_sorted_by_key(|entry| entry.position));
    let positions: Vec<_> = inventory.iter().map(|entry| entry.position).collect();
    let mut records = engine.read_positions(partition, &positions).unwrap();
    records.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(records.iter().collect::<Vec<_>>(), expected);
    let live = expected.iter().filter(|record| record.value.is_some());
    assert_eq!(engine.partition_stats(partition).live_keys, live.clone().count() as u64);
    let mut keys = Vec::new();
    let mut from = Some(0);
    while let Some(position) = from {
        let page = engine.keys_page(partition, position, 1).unwrap();
        keys.extend(page.keys.into_iter().map(|info| info.key));
        assert!(page.next.is_none_or(|next| next % 1024 == 0 && next > position));
        from = page.next;
    }
    keys.sort();
    assert_eq!(keys, live.map(|record| record.key.clone()).collect::<Vec<_>>());
}

/// Appends without publishing.
fn append(engine: &Store, records: Vec<Record>) -> Appended {
    let (tell, told) = std::sync::mpsc::channel();
    engine.append(records, move |result| tell.send(result).unwrap());
    told.recv().unwrap().unwrap()
}

fn run(steps: Vec<Step>, sync: SyncPolicy) {
    let directory = fast_directory();
    let options: Options = small(directory.path(), sync);
    let mut engine = open_store(&options);
    let mut model = Model::default();
    let mut late = Vec::new();
    for step in steps {
        match step {
            Step::Apply(records) => {
                let records: Vec<_> = records.into_iter().map(record).collect();
                records.iter().for_each(|record| model.apply(record.clone()));
                engine.apply(records).unwrap();
            }
            Step::ApplyLate(records) => {
                let records: Vec<_> = records.into_iter().map(record).collect();
                late.push((append(&engine, records.clone()), records));
            }
            Step::DropPartition(number) => {
                let partition = partition_of(&key(number));
                engine.drop_partitions(&[partition]).unwrap();
                model.0.retain(|key, _| partition_of(key) != partition);
                late.iter_mut()
                    .for_each(|(_, records)| records.retain(|r| partition_of(&r.key) != partition));
                assert_eq!(engine.partition_stats(partition), Default::default());
            }
            Step::Reopen => {
                settle(&engine, &mut late, &mut model);
                let digests = |engine: &Store| -> Vec<u64> {
                    (0..PARTITIONS).map(|partition| engine.partition_stats(partition).digest).collect()
                };
                let before = digests(&engine);
                drop(engine);
                engine = open_store(&options);
                assert_eq!(digests(&engine), before);
            }
        }
    }
    settle(&engine, &mut late, &mut model);
    check(&engine, &model);
    drop(engine);
    check(&open_store(&options), &model);
}

type Late = Vec<(Appended, Vec<Record>)>;

/// Publishes the late records, newest first and twice.
fn settle(engine: &Store, late: &mut Late, model: &mut Model) {
    for (appended, records) in late.drain(..).rev() {
        engine.publish(appended.clone());
        engine.publish(appended);
        records.into_iter().for_each(|record| model.apply(record));
    }
}

fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(default), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(60))]
    #[test]
    fn engine_is_a_map_of_highest_versions(steps in steps()) {
        run(steps, SyncPolicy::Never);
    }
}

proptest! {
    #![proptest_config(cases(4))]
    #[test]
    fn group_commit_is_the_same_map(steps in steps()) {
        run(steps, SyncPolicy::Always);
    }
}
