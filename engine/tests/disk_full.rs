//! A full disk: writes are refused, nothing acknowledged is lost, and writing goes on once there is room.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;

use caskade_engine::{AppendError, Options, SyncPolicy};
use support::open;

/// Needs a small file system of its own: `mount -t tmpfs -o size=2m tmpfs DIR`, then
/// `CASKADE_SMALL_FS=DIR cargo test -p caskade-engine --test disk_full -- --ignored`.
#[test]
#[ignore = "needs a file system of some 2 MiB, named by CASKADE_SMALL_FS"]
fn full_disk_refuses_writes_and_loses_nothing() {
    let small_fs = std::env::var("CASKADE_SMALL_FS").expect("CASKADE_SMALL_FS names a small file system");
    for sync in [SyncPolicy::Always, SyncPolicy::Never] {
        let directory = tempfile::tempdir_in(&small_fs).unwrap();
        let ballast = directory.path().join("ballast");
        let options =
            Options { max_file_size: 256 << 10, sync, ..Options::new(directory.path().join("store")) };
        let engine = open(&options);
        std::fs::write(&ballast, vec![1; 512 << 10]).unwrap();
        let mut kept = BTreeSet::new();
        let mut fill = |engine: &caskade_engine::Engine, from: u64| {
            let mut refused = 0;
            for number in from..from + 2000 {
                match engine.put(&number.to_le_bytes(), &[number as u8; 1500]) {
                    Ok(()) => drop(kept.insert(number)),
                    Err(AppendError::Io(error)) => {
                        assert!(error.to_string().contains("free some space"), "{error}");
                        refused += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            refused
        };
        assert!(fill(&engine, 0) > 0, "the disk was not full");
        std::fs::remove_file(&ballast).unwrap();
        engine.put(b"there is room", b"again").unwrap();
        assert!(fill(&engine, 10_000) > 0);
        let check = |engine: &caskade_engine::Engine| {
            for number in (0..2000).chain(10_000..12_000_u64) {
                let value = engine.get(&number.to_le_bytes()).unwrap();
                assert_eq!(value.is_some(), kept.contains(&number), "{sync}: {number}");
                assert!(value.is_none_or(|value| value[..] == [number as u8; 1500]));
            }
        };
        check(&engine);
        engine.close().unwrap();
        check(&open(&options));
    }
}
