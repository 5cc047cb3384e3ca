//! A full disk: writes are refused, nothing acknowledged is lost, and writing goes on once there is room.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;

use caskade_engine::{AppendError, Engine, FaultyFileSystem, Options, SyncPolicy};
use support::{open_on, quiet};

const ROUND: u64 = 1000;

/// Puts this many keys from a number on, and keeps the numbers of those that were taken; tells how many were not.
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

/// Everything that was taken is there, and nothing that was refused.
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
        // Whichever call of the many is the one that finds the disk full.
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
