//! Inspecting a store reports its content, its dead bytes and its damage, and changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use caskade_engine::SyncPolicy;
use caskade_engine::error::SnapshotError;
use caskade_engine::inspect::{
    Damage, DataFileKind, Dumped, DumpedRecord, HintState, InspectError, InspectOptions, Inspection, dump,
    dump_on, inspect, inspect_on,
};
use caskade_engine::replicated::Store;
use caskade_engine::snapshot::restore_on;
use caskade_engine::testing::{FaultyFileSystem, FileSystem};
use support::{
    STORE, fast_directory, history, open_store, open_store_on, quiet, small, state_after, tombstone, value,
};

const FIRST: &str = "/store/0000000001.data";
const FIRST_HINT: &str = "/store/0000000001.hint";
const SECOND: &str = "/store/0000000002.data";

/// Creates a store with the history and a long record in a sealed file with a hint, and newer records in the
/// active file.
fn two_files() -> FaultyFileSystem {
    let file_system = FaultyFileSystem::new();
    let (engine, _) = open_store_on(&file_system, &quiet(SyncPolicy::Never)).unwrap();
    history().into_iter().for_each(|records| engine.apply(records).unwrap());
    engine.apply(vec![value(b"long", 50, &[1; 60 << 10])]).unwrap();
    let newer = vec![value(b"a", 51, b"newer"), tombstone(b"d", 52), value(b"long", 53, &[2; 10 << 10])];
    engine.apply(newer).unwrap();
    engine.close().unwrap();
    // A start writes the missing hint.
    drop(open_store_on(&file_system, &quiet(SyncPolicy::Never)).unwrap());
    let files = file_system.files();
    assert!([FIRST, FIRST_HINT, SECOND].iter().all(|path| files.contains(&path.into())), "{files:?}");
    file_system.killed()
}

fn look(file_system: &FaultyFileSystem, path: &str, verify: bool) -> Result<Inspection, InspectError> {
    let shared: Arc<dyn FileSystem> = Arc::new(file_system.clone());
    let before: Vec<_> = contents(file_system);
    let inspection = inspect_on(&shared, Path::new(path), &InspectOptions { verify, ..Default::default() });
    assert_eq!(contents(file_system), before, "inspecting changed a file");
    inspection
}

/// Returns all files except the lock, which names its last owner.
fn contents(file_system: &FaultyFileSystem) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let files = file_system.files().into_iter().filter(|path| !path.ends_with("lock"));
    files.map(|path| (path.clone(), file_system.read_file(&path).unwrap())).collect()
}

fn flip(file_system: &FaultyFileSystem, path: &str, at: usize) {
    let mut bytes = file_system.read_file(path).unwrap();
    bytes[at] ^= 0x10;
    file_system.write_file(path, &bytes).unwrap();
}

fn dumped(file_system: &FaultyFileSystem, file_id: u64) -> Vec<Dumped> {
    let shared: Arc<dyn FileSystem> = Arc::new(file_system.clone());
    let mut all = Vec::new();
    let mut give = |dumped| {
        all.push(dumped);
        ControlFlow::Continue(())
    };
    dump_on(&shared, Path::new(STORE), file_id, &mut give).unwrap();
    all
}

fn records(dumped: &[Dumped]) -> Vec<&DumpedRecord> {
    let mut records = Vec::new();
    for dumped in dumped {
        if let Dumped::Record(record) = dumped {
            records.push(record);
        }
    }
    records
}

fn keys(damage: &Damage) -> Vec<(&[u8], bool)> {
    damage.keys.iter().map(|key| (&key.key[..], key.certain)).collect()
}

#[test]
fn counts_are_those_of_the_records_written() {
    let store = two_files();
    for verify in [false, true] {
        let inspection = look(&store, STORE, verify).unwrap();
        assert!(!inspection.is_damaged() && !inspection.opens_damaged, "{inspection:#?}");
        let [first, second] = &inspection.files[..] else { panic!("{inspection:#?}") };
        let (records, values, tombstones) =
            (first.records.records, first.records.values, first.records.tombstones);
        assert_eq!((records, values, tombstones), (10, 8, 2));
        // Live in the first file: b and e. c was deleted there; a, d and long were replaced in the second
        // file.
        assert_eq!((first.records.live_records, first.records.newest_tombstones), (2, 1));
        assert_eq!((second.records.live_records, second.records.newest_tombstones), (2, 1));
        assert_eq!((first.kind, second.kind), (DataFileKind::Log, DataFileKind::ActiveLog));
        assert_eq!((&first.hint, &second.hint), (&HintState::Good, &HintState::Unneeded));
        assert_eq!(first.records.batches, verify.then_some(2));
        assert_eq!(second.records.batches, Some(1));
        let (engine, _) = open_store_on(&store.killed(), &quiet(SyncPolicy::Never)).unwrap();
        let stats = engine.stats();
        assert_eq!(inspection.totals.live_records, stats.live_keys);
        assert_eq!(inspection.totals.newest_tombstones, stats.tombstones);
        assert_eq!(inspection.totals.records, stats.records_total);
        assert_eq!(inspection.totals.live_bytes, stats.live_bytes);
        assert_eq!(inspection.highest_version, 53);
        assert!(first.records.dead_percent() > 90.0 && second.records.dead_percent() < 1.0);
    }
}

#[test]
fn records_of_dropped_partitions_are_dead() {
    let file_system = FaultyFileSystem::new();
    let (engine, _) = open_store_on(&file_system, &quiet(SyncPolicy::Never)).unwrap();
    history().into_iter().for_each(|records| engine.apply(records).unwrap());
    engine.drop_partitions(&[caskade_engine::slots::partition_of(b"a")]).unwrap();
    engine.close().unwrap();
    let inspection = look(&file_system, STORE, true).unwrap();
    assert_eq!((inspection.partitions_dropped, inspection.totals.live_records), (1, 3));
    assert!(inspection.totals.dead_bytes > 0);
}

#[test]
fn damage_is_told_with_its_place_and_the_keys_that_the_hint_knows() {
    let store = two_files();
    let all = dumped(&store, 1);
    let wanted = records(&all)[0].clone();
    assert_eq!(wanted.record.key, "a");
    // A byte of the value.
    flip(&store, FIRST, (wanted.offset + wanted.bytes) as usize - 1);
    let believed = look(&store, STORE, false).unwrap();
    assert!(!believed.is_damaged(), "the hint is trusted: {believed:#?}");
    let verified = look(&store, STORE, true).unwrap();
    assert!(verified.is_damaged() && !verified.opens_damaged, "{verified:#?}");
    assert_eq!((verified.damage_total, verified.files[0].damaged), (1, 1));
    assert_eq!(verified.files[0].hint, HintState::Good, "the hint is valid, the data is not");
    let damage = &verified.damage[0];
    assert_eq!(
        (damage.stretch.file_id, damage.stretch.offset, damage.stretch.bytes),
        (1, wanted.offset, wanted.bytes)
    );
    assert_eq!(keys(damage), [(&b"a"[..], true)]);
    assert!(damage.stretch.reason.contains("checksum"), "{damage:?}");
    // Without the hint a start finds the damage too, and the key is the one that the damaged record appears
    // to have.
    store.remove(Path::new(FIRST_HINT)).unwrap();
    let verified = look(&store, STORE, false).unwrap();
    assert!(verified.opens_damaged, "{verified:#?}");
    assert_eq!(verified.files[0].hint, HintState::Missing);
    assert_eq!(keys(&verified.damage[0]), [(&b"a"[..], false)]);
    // It is an item of the dump, in its place.
    let dumped = dumped(&store, 1);
    let Dumped::Damaged(damage) = &dumped[0] else { panic!("{dumped:?}") };
    assert_eq!((damage.stretch.offset, keys(damage)), (wanted.offset, vec![(&b"a"[..], false)]));
    assert_eq!(dumped.len(), all.len());
}

#[test]
fn damaged_batch_names_the_keys_of_all_its_records() {
    let store = two_files();
    let all = dumped(&store, 1);
    let member = records(&all)[2].clone();
    assert!(member.batch_offset.is_some());
    flip(&store, FIRST, member.offset as usize + 38);
    let verified = look(&store, STORE, true).unwrap();
    let damage = &verified.damage[0];
    assert_eq!(Some(damage.stretch.offset), member.batch_offset);
    let mut found = keys(damage);
    found.sort_unstable();
    assert_eq!(found, [(&b"b"[..], true), (b"c", true)]);
}

#[test]
fn torn_tail_is_told_and_left_as_it_is() {
    let store = two_files();
    let mut bytes = store.read_file(SECOND).unwrap();
    let whole = bytes.len() as u64;
    bytes.extend_from_slice(&[7; 30]);
    bytes.extend_from_slice(&[0; 100]);
    store.write_file(SECOND, &bytes).unwrap();
    let inspection = look(&store, STORE, false).unwrap();
    assert!(!inspection.is_damaged(), "{inspection:#?}");
    let second = &inspection.files[1];
    assert_eq!((second.torn_bytes, second.records.bytes, second.file_bytes), (30, whole, whole + 130));
    let all = dumped(&store, 2);
    assert_eq!(all.last(), Some(&Dumped::Torn { offset: whole, bytes: 30 }));
}

#[test]
fn hint_that_is_wrong_is_told_and_the_data_file_counts() {
    let store = two_files();
    let right = look(&store, STORE, true).unwrap();
    // One byte at a time: in the header, and in a section.
    let hint = store.read_file(FIRST_HINT).unwrap();
    for at in [0, 20, 40, 400, hint.len() - 1] {
        let image = store.killed();
        flip(&image, FIRST_HINT, at);
        let found = look(&image, STORE, false).unwrap();
        assert!(matches!(found.files[0].hint, HintState::Unusable(_)), "byte {at}: {found:#?}");
        assert!(!found.is_damaged() && found.totals == right.totals, "byte {at}: {found:#?}");
    }
}

#[test]
fn hint_of_other_records_with_good_checksums_is_found_by_verifying() {
    let store = two_files();
    let right = look(&store, STORE, true).unwrap();
    let mut hint = store.read_file(FIRST_HINT).unwrap();
    misstate_first_entry(&mut hint);
    store.write_file(FIRST_HINT, &hint).unwrap();
    assert_eq!(look(&store, STORE, false).unwrap().files[0].hint, HintState::Good);
    let found = look(&store, STORE, true).unwrap();
    assert_eq!(found.files[0].hint, HintState::Misleading);
    assert!(found.is_damaged() && found.totals == right.totals, "{found:#?}");
}

/// Changes a version in a hint and gives it valid checksums.
fn misstate_first_entry(hint: &mut [u8]) {
    const HEADS: usize = 36;
    const HEADER: usize = HEADS + 12 * 1024 + 4;
    let u32_at = |hint: &[u8], at: usize| u32::from_le_bytes(hint[at..at + 4].try_into().unwrap());
    let head = (HEADS..).step_by(12).find(|&at| u32_at(hint, at) > 0).unwrap();
    let section = u32_at(hint, head) as usize;
    hint[HEADER] ^= 1;
    let crc = crc32(&hint[HEADER..HEADER + section]);
    hint[head + 8..head + 12].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32(&hint[..HEADER - 4]);
    hint[HEADER - 4..HEADER].copy_from_slice(&crc.to_le_bytes());
}

/// CRC-32 (IEEE), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc: u32, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}

#[test]
fn unreadable_and_lost_files_are_damage_that_a_start_finds() {
    let store = two_files();
    flip(&store, FIRST, 3);
    let found = look(&store, STORE, false).unwrap();
    assert!(found.opens_damaged && found.files[0].kind == DataFileKind::Unknown, "{found:#?}");
    let shared: Arc<dyn FileSystem> = Arc::new(store.clone());
    let mut give = |_| ControlFlow::Continue(());
    let refused = dump_on(&shared, Path::new(STORE), 1, &mut give);
    assert!(matches!(refused, Err(InspectError::Unreadable(_))));
    let refused = dump_on(&shared, Path::new(STORE), 9, &mut give);
    assert!(matches!(refused, Err(InspectError::NoFile { file_id: 9, .. })));
    let store = two_files();
    store.remove(Path::new(FIRST)).unwrap();
    let found = look(&store, STORE, false).unwrap();
    assert!(found.opens_damaged && found.damage_total == 1, "{found:#?}");
    assert!(found.damage[0].stretch.reason.contains("missing"));
}

#[test]
fn store_that_cannot_be_opened_is_inspected_and_says_why_it_cannot() {
    let store = two_files();
    let right = look(&store, STORE, true).unwrap();
    store.remove(Path::new("/store/eras")).unwrap();
    let found = look(&store, STORE, true).unwrap();
    assert!(found.is_damaged() && found.refusal.unwrap().contains("it is missing"));
    assert_eq!(found.totals, right.totals);
}

#[test]
fn snapshot_is_inspected_and_what_it_lacks_is_told() {
    const SNAPSHOT: &str = "/snapshot";
    let store = two_files();
    let (engine, _) = open_store_on(&store, &quiet(SyncPolicy::Never)).unwrap();
    let taken = engine.snapshot(Path::new(SNAPSHOT)).unwrap();
    // The store is in use; its snapshot is not.
    let refused = look(&store, STORE, false).unwrap_err();
    assert!(refused.to_string().contains("in use by process"), "{refused}");
    let found = look(&store, SNAPSHOT, true).unwrap();
    assert!(found.snapshot && !found.is_damaged(), "{found:#?}");
    assert_eq!((found.files.len(), found.totals.bytes), (taken.data_files, taken.data_bytes));
    assert_eq!(found.totals.live_records, engine.stats().live_keys);
    assert!(found.files.iter().all(|file| file.kind == DataFileKind::Log));
    let cut = store.read_file("/snapshot/0000000001.data").unwrap();
    store.remove(Path::new("/snapshot/0000000001.data")).unwrap();
    let found = look(&store, SNAPSHOT, false).unwrap();
    assert!(found.is_damaged() && found.refusal.is_some(), "{found:#?}");
    store.write_file("/snapshot/0000000001.data", &cut[..cut.len() - 1]).unwrap();
    let found = look(&store, SNAPSHOT, false).unwrap();
    assert!(found.is_damaged() && found.refusal.unwrap().contains("bytes instead of"));
    let shared: Arc<dyn FileSystem> = Arc::new(store.clone());
    assert!(matches!(
        restore_on(&shared, Path::new(SNAPSHOT), Path::new("/to")),
        Err(SnapshotError::NotWhole { .. })
    ));
}

#[test]
fn dump_gives_every_record_as_it_was_written() {
    let directory = fast_directory();
    let engine = open_store(&small(directory.path(), SyncPolicy::Never));
    history().into_iter().for_each(|records| engine.apply(records).unwrap());
    engine.close().unwrap();
    let mut all = Vec::new();
    let mut give = |dumped| {
        let Dumped::Record(record) = dumped else { panic!("{dumped:?}") };
        all.push(record);
        ControlFlow::Continue(())
    };
    dump(directory.path(), 1, &mut give).unwrap();
    let written: Vec<_> = history().into_iter().flatten().collect();
    assert_eq!(all.iter().map(|dumped| dumped.record.clone()).collect::<Vec<_>>(), written);
    let batches: Vec<_> = all.iter().map(|dumped| dumped.batch_offset.is_some()).collect();
    assert_eq!(batches, [false, true, true, false, false, true, true, true, false]);
    assert_eq!(all[1].batch_offset, all[2].batch_offset);
    assert_ne!(all[2].batch_offset, all[5].batch_offset);
    let bounds: Vec<_> = all.iter().filter_map(|dumped| dumped.bound).collect();
    assert_eq!(bounds, [1, 1]);
    assert_eq!(state_after(&history()).len(), 5);
    // The callback can end the dump early.
    let mut given = 0;
    let mut give = |_| {
        given += 1;
        ControlFlow::Break(())
    };
    dump(directory.path(), 1, &mut give).unwrap();
    assert_eq!(given, 1);
}

#[test]
fn running_store_and_what_is_no_store_are_refused_without_a_trace() {
    let directory = fast_directory();
    let store = directory.path().join("store");
    let engine = Store::open(small(&store, SyncPolicy::Never)).unwrap().0;
    let refused = inspect(&store, &InspectOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("in use by process"), "{refused}");
    drop(engine);
    assert!(inspect(&store, &InspectOptions::default()).is_ok());
    let empty = directory.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert!(matches!(inspect(&empty, &InspectOptions::default()), Err(InspectError::NoStore { .. })));
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0);
    assert!(inspect(&directory.path().join("none"), &InspectOptions::default()).is_err());
    assert!(!directory.path().join("none").exists());
}
