//! A full disk: writes are refused, no acknowledged write is lost, and writes succeed again as soon as there
//! is room.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;

use caskade_engine::replicated::Store;
use caskade_engine::slots::partition_of;
use caskade_engine::testing::FaultyFileSystem;
use caskade_engine::{AppendError, Engine, Options, SyncPolicy};
use support::histories::{Step, generate, is_no_space, live, live_in, perform, perform_on_model};
use support::{Draw, Model, describe, open_on, open_store_on, quiet, value};

const ROUND: u64 = 1000;

/// Puts [`ROUND`] keys from a number on, and adds the numbers of the accepted ones to `kept`; returns how
/// many were refused.
fn fill(engine: &Engine, from: u64, kept: &mut BTreeSet<u64>) -> u64 {
    let mut refused = 0;
    for number in from..from + ROUND {
        match engine.put(&number.to_le_bytes(), &[number as u8; 1500]) {
            Ok(()) => drop(kept.insert(number)),
            Err(AppendError::NoSpace(error)) => {
                assert!(error.to_string().contains("free some space"), "{error}");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    refused
}

/// Checks that every accepted key is present, and no refused one.
fn check(engine: &Engine, kept: &BTreeSet<u64>, what: &str) {
    for number in (0..ROUND).chain(10_000..10_000 + ROUND) {
        let value = engine.get(&number.to_le_bytes()).unwrap();
        assert_eq!(value.is_some(), kept.contains(&number), "{what}: {number}");
        assert!(value.is_none_or(|value| value[..] == [number as u8; 1500]), "{what}: {number}");
    }
}

#[test]
fn full_disk_refuses_writes_and_loses_nothing() {
    for sync in [SyncPolicy::Always, SyncPolicy::Never] {
        // Shifts which of the calls finds the disk full.
        for odd_bytes in (0..8000).step_by(500) {
            let what = format!("sync = {sync}, {odd_bytes} odd bytes");
            let file_system = FaultyFileSystem::new();
            let options = Options { max_file_size: 256 << 10, ..quiet(sync) };
            let (engine, _) = open_on(&file_system, &options).unwrap();
            file_system.set_capacity(Some((600 << 10) + odd_bytes));
            let mut kept = BTreeSet::new();
            assert!(fill(&engine, 0, &mut kept) > 0, "{what}: the disk was not full");
            check(&engine, &kept, &what);
            file_system.set_capacity(Some(1 << 20));
            engine.put(b"there is room", b"again").unwrap();
            assert!(fill(&engine, 10_000, &mut kept) > 0, "{what}: the disk was not full");
            check(&engine, &kept, &what);
            if sync == SyncPolicy::Always {
                let (crashed, recovery) = open_on(&file_system.crashed(odd_bytes), &options).unwrap();
                assert!(!recovery.is_damaged(), "{what}: {recovery:?}");
                check(&crashed, &kept, &what);
            }
            engine.close().unwrap();
            let (reopened, recovery) = open_on(&file_system, &options).unwrap();
            assert!(!recovery.is_damaged(), "{what}: {recovery:?}");
            check(&reopened, &kept, &what);
        }
    }
}

/// A store whose disk is filled and freed between steps.
struct Filled {
    file_system: FaultyFileSystem,
    options: Options,
    engine: Option<Store>,
    model: Model,
    refused: u64,
    what: String,
}

impl Filled {
    fn new(seed: u64, sync: SyncPolicy) -> Self {
        // Half of the histories have a reserve.
        let reserve_bytes = if seed.is_multiple_of(2) { 0 } else { 128 << 10 };
        Self {
            file_system: FaultyFileSystem::new(),
            options: Options { reserve_bytes, ..quiet(sync) },
            engine: None,
            model: Model::new(),
            refused: 0,
            what: format!("history {seed}, sync = {sync}"),
        }
    }

    fn step(&mut self, step: &Step) {
        match perform(&self.file_system, &self.options, &mut self.engine, step) {
            Ok(()) => perform_on_model(&mut self.model, step),
            Err(error) if is_no_space(&error) => self.refused += 1,
            Err(error) => panic!("{}: {step:?}: {error:?}", self.what),
        }
        let held = live_in(self.engine.as_ref().expect("the store opens on a full disk")).unwrap();
        self.check(&held, step);
    }

    fn check(&self, held: &Model, step: &Step) {
        let meant = live(&self.model);
        assert!(
            *held == meant,
            "{}: {} and not {}, after {step:?}",
            self.what,
            describe(held),
            describe(&meant)
        );
    }

    /// Checks that the image of a crash opens on a disk without a free byte, with every acknowledged write.
    fn check_crashed(&self, seed: u64, step: &Step) {
        let mut images = vec![self.file_system.killed()];
        if self.options.sync == SyncPolicy::Always {
            images.push(self.file_system.crashed(seed));
        }
        for image in images {
            image.leave_free(0);
            let (engine, recovery) = open_store_on(&image, &self.options).unwrap();
            assert!(!recovery.is_damaged() && recovery.strays.is_empty(), "{}: {recovery:?}", self.what);
            self.check(&live_in(&engine).unwrap(), step);
        }
    }
}

#[test]
fn disk_that_fills_and_is_freed_costs_no_read_and_no_acknowledged_write() {
    let mut refused = 0;
    for sync in [SyncPolicy::Always, SyncPolicy::Never] {
        for seed in 0..40 {
            let mut filled = Filled::new(seed, sync);
            let mut draw = Draw(seed);
            for (number, step) in generate(seed, 60).iter().enumerate() {
                match draw.below(6) {
                    _ if number == 0 => {}
                    0 => filled.file_system.leave_free(0),
                    1 => filled.file_system.leave_free(draw.below(60_000)),
                    2 => filled.file_system.set_capacity(None),
                    _ => {}
                }
                filled.step(step);
                if draw.below(8) == 0 {
                    filled.check_crashed(number as u64, step);
                }
            }
            filled.file_system.set_capacity(None);
            let before = filled.refused;
            let after = Step::Apply(vec![value(b"key-0-{0}", 1 << 40, b"there is room")]);
            filled.step(&after);
            filled.step(&Step::Merge);
            assert_eq!(filled.refused, before, "{}: the store does not continue by itself", filled.what);
            filled.step(&Step::Reopen);
            refused += filled.refused;
        }
    }
    assert!(refused > 500, "{refused} steps found no room");
}

const KEYS: u64 = 120;

fn key(number: u64) -> Vec<u8> {
    format!("key-{number}").into_bytes()
}

/// Returns options with small files, manual merges, and a reserve of this size.
fn with_reserve(reserve_bytes: u64) -> Options {
    Options { merge_small_file: 0, reserve_bytes, ..quiet(SyncPolicy::Always) }
}

/// Overwrites all keys several times, the last time with this byte.
fn overwrite_all(engine: &Engine, last: u8) {
    for round in (0..4).rev() {
        (0..KEYS).for_each(|number| engine.put(&key(number), &[last - round; 1000]).unwrap());
    }
}

fn assert_all(engine: &Engine, byte: u8) {
    for number in 0..KEYS {
        assert_eq!(engine.get(&key(number)).unwrap().as_deref(), Some(&[byte; 1000][..]), "{number}");
    }
}

/// Writes new keys until there is no room.
fn fill_up(engine: &Engine) {
    for number in 0.. {
        match engine.put(format!("more-{number}").as_bytes(), &[1; 100]) {
            Ok(()) => {}
            Err(AppendError::NoSpace(_)) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn store_without_a_free_byte_opens_reads_and_frees_space_by_merging() {
    for reserve in [0, 1 << 20] {
        let file_system = FaultyFileSystem::new();
        let (engine, _) = open_on(&file_system, &with_reserve(reserve)).unwrap();
        engine.run_once().unwrap();
        overwrite_all(&engine, 9);
        engine.close().unwrap();
        file_system.leave_free(0);
        let (engine, recovery) = open_on(&file_system, &with_reserve(reserve)).unwrap();
        assert!(!recovery.is_damaged(), "{recovery:?}");
        assert_all(&engine, 9);
        assert!(matches!(engine.put(b"new", &[1; 1000]), Err(AppendError::NoSpace(_))));
        let merged = engine.run_once().unwrap();
        assert!(merged.files >= 4 && merged.bytes_freed > 200_000, "{merged:?}");
        assert_all(&engine, 9);
        engine.put(b"new", &[1; 1000]).unwrap();
        engine.close().unwrap();
        let (engine, recovery) = open_on(&file_system, &with_reserve(reserve)).unwrap();
        assert!(!recovery.is_damaged(), "{recovery:?}");
        assert_all(&engine, 9);
    }
}

#[test]
fn deletes_and_dropped_partitions_go_on_from_the_reserve_and_it_is_filled_again() {
    let file_system = FaultyFileSystem::new();
    let options = with_reserve(1 << 20);
    let (engine, _) = open_on(&file_system, &options).unwrap();
    engine.run_once().unwrap();
    assert_eq!(engine.stats().reserve_bytes, 1 << 20);
    overwrite_all(&engine, 9);
    file_system.leave_free(0);
    fill_up(&engine);
    for number in 0..KEYS / 2 {
        assert!(engine.delete(&key(number)).unwrap());
        // Other programs use the rest of the released space.
        file_system.leave_free(0);
    }
    let partition = partition_of(&key(KEYS - 1));
    engine.drop_partitions(&[partition]).unwrap();
    assert_eq!(engine.get(&key(KEYS - 1)).unwrap(), None);
    let held = engine.stats().reserve_bytes;
    assert!(held > 0 && held < 1 << 20, "{held} bytes held");
    let merged = engine.merge().unwrap();
    assert!(merged.bytes_freed > 300_000, "{merged:?}");
    engine.put(b"new", b"value").unwrap();
    file_system.set_capacity(None);
    engine.run_once().unwrap();
    assert_eq!(engine.stats().reserve_bytes, 1 << 20);
    drop(engine);
    let (engine, recovery) = open_on(&file_system.crashed(1), &options).unwrap();
    assert!(!recovery.is_damaged(), "{recovery:?}");
    assert!((0..KEYS / 2).all(|number| engine.get(&key(number)).unwrap().is_none()));
    assert!(engine.get(b"new").unwrap().is_some());
}

#[test]
fn merge_that_finds_no_room_leaves_nothing_behind_and_takes_less_the_next_time() {
    let file_system = FaultyFileSystem::new();
    let options = Options { merge_trigger: 1, ..with_reserve(0) };
    let (engine, _) = open_on(&file_system, &options).unwrap();
    overwrite_all(&engine, 9);
    engine.merge().unwrap();
    // A tenth of each file is dead.
    (0..KEYS).step_by(10).for_each(|number| engine.put(&key(number), &[9; 1000]).unwrap());
    let (files, used) = (file_system.files(), file_system.used_bytes());
    file_system.leave_free(30_000);
    // The reported free space is larger than the real one.
    file_system.set_free_bytes(Some(1 << 30));
    engine.set_space_low(true);
    let error = engine.run_once().unwrap_err();
    assert!(error.is_no_space(), "{error}");
    let left: Vec<_> = file_system.files().into_iter().filter(|file| !files.contains(file)).collect();
    assert!(left.iter().all(|file| !file.to_string_lossy().ends_with(".tmp")), "{left:?}");
    assert!(file_system.used_bytes() <= used + 30_000);
    assert_all(&engine, 9);
    file_system.set_free_bytes(None);
    file_system.set_capacity(None);
    assert!(engine.run_once().unwrap().files > 0);
    assert_all(&engine, 9);
}

#[test]
fn few_dead_bytes_of_the_active_file_are_freed_where_space_is_low() {
    let file_system = FaultyFileSystem::new();
    let options = Options { max_file_size: 64 << 20, ..with_reserve(0) };
    let (engine, _) = open_on(&file_system, &options).unwrap();
    let put = |number| engine.put(&key(number), &[9; 10_000]).unwrap();
    (0..KEYS).for_each(put);
    // A tenth: less than what a file is merged for otherwise, and all in the one file there is.
    (0..KEYS).step_by(10).for_each(put);
    // The keydir rounds the length of a record up: what is live may seem a little more than the files.
    let dead = || engine.stats().disk_bytes.saturating_sub(engine.stats().live_bytes);
    let before = dead();
    assert!(before > KEYS / 10 * 10_000, "{:?}", engine.stats());
    assert_eq!(engine.run_once().unwrap().files, 0, "there is room");
    engine.set_space_low(true);
    assert_eq!(engine.run_once().unwrap().files, 1);
    assert!(dead() < before / 10, "{:?}", engine.stats());
    assert_eq!(engine.get(&key(KEYS - 1)).unwrap().as_deref(), Some(&[9; 10_000][..]));
}

#[test]
fn full_disk_is_freed_by_the_engines_own_thread_and_writes_go_on() {
    let file_system = FaultyFileSystem::new();
    let options = Options { background: true, low_free_bytes: 1 << 20, ..with_reserve(0) };
    let (engine, _) = open_on(&file_system, &options).unwrap();
    file_system.leave_free(0);
    let began = std::time::Instant::now();
    // The dead bytes were written while there was room.
    file_system.leave_free(500_000);
    fill_up(&engine);
    (0..2000_u64).for_each(|number| drop(engine.delete(format!("more-{number}").as_bytes())));
    let mut went_on = 0;
    while went_on < 3 {
        assert!(began.elapsed().as_secs() < 60, "the store does not continue: {:?}", engine.stats());
        file_system.leave_free(if went_on == 0 { 300_000 } else { 0 });
        std::thread::sleep(std::time::Duration::from_millis(50));
        went_on += u64::from(engine.put(b"again", &[2; 1000]).is_ok());
    }
    assert_eq!(engine.get(b"again").unwrap().as_deref(), Some(&[2; 1000][..]));
    engine.close().unwrap();
}
