//! Damaged files cause an error or a quarantined stretch, never a wrong value and never a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;

use caskade_engine::replicated::Store;
use caskade_engine::testing::{FaultyFileSystem, FileSystem};
use caskade_engine::{OpenError, Options, ReadError, Record, SyncPolicy};
use support::{
    data_files, fast_directory, history, open_any_store, open_store, open_store_on, overwrite, quiet, small,
    state_after, state_of, value,
};

/// Creates a store with the history, and closes it cleanly.
fn closed_store(directory: &Path) -> Vec<u8> {
    let engine = open_store(&small(directory, SyncPolicy::Never));
    history().into_iter().for_each(|records| engine.apply(records).unwrap());
    engine.close().unwrap();
    std::fs::read(data_files(directory).pop().unwrap()).unwrap()
}

const DATA: &str = "/store/0000000001.data";
const SECOND_DATA: &str = "/store/0000000003.data";
const HINT: &str = "/store/0000000001.hint";
const ERAS: &str = "/store/eras";

/// Creates a store in memory: one small sealed file with the history and a hint file, and an active file with
/// one long record.
fn sealed_store() -> FaultyFileSystem {
    let file_system = FaultyFileSystem::new();
    let options = quiet(SyncPolicy::Never);
    let (engine, _) = open_store_on(&file_system, &options).unwrap();
    history().into_iter().for_each(|records| engine.apply(records).unwrap());
    engine.apply(vec![long_record()]).unwrap();
    engine.close().unwrap();
    // A start writes the missing hint.
    drop(open_store_on(&file_system, &options).unwrap());
    let files = file_system.files();
    assert!([DATA, HINT, ERAS].iter().all(|path| files.contains(&path.into())), "{files:?}");
    file_system
}

fn long_record() -> Record {
    value(b"long", 50, &[1; 70 << 10])
}

/// Creates a store whose only data file was closed cleanly.
fn store_of_one_file() -> FaultyFileSystem {
    let file_system = FaultyFileSystem::new();
    let (engine, _) = open_store_on(&file_system, &quiet(SyncPolicy::Never)).unwrap();
    history().into_iter().for_each(|records| engine.apply(records).unwrap());
    engine.close().unwrap();
    file_system
}

fn without_hint(file_system: &FaultyFileSystem) -> FaultyFileSystem {
    let image = file_system.killed();
    image.remove(Path::new(HINT)).unwrap();
    image
}

/// Behaviour of a store with a damaged file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It opened without a report, and served everything.
    Whole,
    /// It refused to open, reported damage, or refused a read.
    Told,
}

/// Opens the store. Checks that every served record was written, and is the newest unless damage was
/// reported.
fn check_nothing_false(image: &FaultyFileSystem, what: &str) -> Outcome {
    check_after(image, what, |_| ())
}

/// Checks the store like [`check_nothing_false`], after `act` has used it.
fn check_after(image: &FaultyFileSystem, what: &str, act: impl FnOnce(&Store)) -> Outcome {
    let (engine, recovery) = match open_store_on(image, &quiet(SyncPolicy::Never)) {
        Ok(opened) => opened,
        // A refusal is correct too, for the eras and for a format version.
        Err(OpenError::Eras { .. } | OpenError::Format { .. }) => return Outcome::Told,
        Err(error) => panic!("{what}: {error}"),
    };
    act(&engine);
    let is_live = |record: &&Record| record.value.is_some();
    let newest = state_after(&history());
    let mut told = recovery.is_damaged();
    for key in [&b"a"[..], b"b", b"c", b"d", b"e"] {
        match engine.read(key) {
            Ok(found) if recovery.is_damaged() => {
                let mut written = history().into_iter().flatten();
                assert!(
                    found.is_none_or(|found| written.any(|record| record == found)),
                    "{what}: not written"
                );
            }
            Ok(found) => {
                // A tombstone and no record are equivalent.
                let (found, newest) = (found.as_ref().filter(is_live), newest.get(key).filter(is_live));
                assert_eq!(found, newest, "{what}: served though it is not the newest");
            }
            Err(ReadError::Damaged { .. }) => told = true,
            Err(error) => panic!("{what}: {error}"),
        }
    }
    // Records of the newest versions heal the store.
    let records: Vec<Record> = newest.into_values().collect();
    engine.apply(records.clone()).unwrap();
    for record in records {
        assert_eq!(engine.read(&record.key).unwrap(), Some(record), "{what}: not healed");
    }
    if told { Outcome::Told } else { Outcome::Whole }
}

/// Damages every byte of a file in turn; calls `check` with each image and a description.
fn damage_everywhere(store: &FaultyFileSystem, path: &str, check: impl Fn(&FaultyFileSystem, &str)) {
    damage_by_steps(store, path, 1, check);
}

/// Damages every `step`th byte of a file like [`damage_everywhere`].
fn damage_by_steps(
    store: &FaultyFileSystem,
    path: &str,
    step: usize,
    check: impl Fn(&FaultyFileSystem, &str),
) {
    let bytes = store.read_file(path).unwrap();
    let try_with = |damaged: &[u8], what: String| {
        let image = store.killed();
        image.write_file(path, damaged).unwrap();
        check(&image, &format!("{path}: {what}"));
    };
    for at in (0..bytes.len()).step_by(step) {
        // One pattern for each byte of a long file, several for a short file.
        let patterns = [1 << (at % 8), 0xff, 0x80];
        for pattern in patterns.into_iter().take(if bytes.len() < 2000 { 3 } else { 1 }) {
            let mut damaged = bytes.clone();
            damaged[at] ^= pattern;
            try_with(&damaged, format!("byte {at} ^ {pattern:#x}"));
        }
    }
    // A long, uniform file is not cut at every length.
    let step = step.max(bytes.len() / 1000 + 1);
    for len in
        (0..bytes.len()).step_by(step).chain((bytes.len().saturating_sub(100)..bytes.len()).step_by(step))
    {
        try_with(&bytes[..len], format!("cut to {len}"));
        let zeroed = [&bytes[..len], &vec![0; bytes.len() - len]].concat();
        if zeroed != bytes {
            try_with(&zeroed, format!("zeros from {len} on"));
        }
    }
    for extra in [&[0][..], &[0; 50], &[0xff; 50], &bytes[36.min(bytes.len())..], &bytes] {
        try_with(&[&bytes, extra].concat(), format!("lengthened by {} bytes", extra.len()));
    }
}

#[test]
fn any_damage_to_a_sealed_file_without_a_hint_is_told() {
    damage_everywhere(&without_hint(&sealed_store()), DATA, |image, what| {
        assert_eq!(check_nothing_false(image, what), Outcome::Told, "{what}");
    });
}

#[test]
fn any_damage_to_a_sealed_file_with_a_hint_is_told_when_it_is_read() {
    damage_everywhere(&sealed_store(), DATA, |image, what| {
        // The damaged record may be dead.
        check_nothing_false(image, what);
    });
}

#[test]
fn any_damage_to_a_cleanly_closed_file_is_told() {
    damage_everywhere(&store_of_one_file(), DATA, |image, what| {
        // A file that ends early is a possible result of a crash during an append.
        if what.contains(" cut to ") || what.contains(" zeros from ") {
            check_first_appends(image, what);
        } else {
            check_nothing_false(image, what);
        }
    });
}

/// Checks that the store holds the first few appends of the history, or reports damage.
fn check_first_appends(image: &FaultyFileSystem, what: &str) {
    let (engine, recovery) = open_store_on(image, &quiet(SyncPolicy::Never)).unwrap();
    let (state, appends) = (state_of(&engine), history());
    let first = (0..=appends.len()).any(|count| state == state_after(&appends[..count]));
    assert!(first || recovery.is_damaged(), "{what}: {state:?}");
}

#[test]
fn bad_hint_file_falls_back_to_its_data_file() {
    damage_everywhere(&sealed_store(), HINT, |image, what| {
        assert_eq!(check_nothing_false(image, what), Outcome::Whole, "{what}");
    });
}

/// Creates a store with the history in two small sealed files, so that records in one replace records in the
/// other.
fn store_of_two_sealed_files() -> FaultyFileSystem {
    let file_system = FaultyFileSystem::new();
    // Hint files are written, and nothing is merged.
    let options = Options { merge_small_file: 0, merge_trigger: 100, ..quiet(SyncPolicy::Never) };
    let (engine, _) = open_store_on(&file_system, &options).unwrap();
    for records in history().into_iter().take(3).chain([vec![long_record()]]) {
        engine.apply(records).unwrap();
    }
    for records in history().into_iter().skip(3).chain([vec![value(b"long", 51, &[2; 70 << 10])]]) {
        engine.apply(records).unwrap();
    }
    engine.run_once().unwrap();
    engine.close().unwrap();
    file_system
}

#[test]
fn merge_of_a_damaged_file_hides_nothing() {
    let store = store_of_two_sealed_files();
    for (path, with_hint) in [(DATA, true), (DATA, false), (SECOND_DATA, true), (SECOND_DATA, false)] {
        if !with_hint {
            store.remove(&Path::new(path).with_extension("hint")).unwrap();
        }
        damage_by_steps(&store, path, 7, |image, what| {
            // The merge may fail, but must not remove the last copy of a record.
            check_after(&image.killed(), what, |engine| drop(engine.merge()));
            if let Ok((engine, _)) = open_store_on(image, &quiet(SyncPolicy::Never)) {
                let _ = engine.merge();
            }
            check_nothing_false(image, &format!("{what}, after a merge"));
        });
    }
}

#[test]
fn hint_file_of_another_store_is_not_believed() {
    let (store, other) = (sealed_store(), sealed_store());
    store.write_file(HINT, &other.read_file(HINT).unwrap()).unwrap();
    assert_eq!(check_nothing_false(&store, "a foreign hint"), Outcome::Whole);
}

#[test]
fn any_damage_to_the_eras_keeps_the_store_shut() {
    damage_everywhere(&sealed_store(), ERAS, |image, what| {
        assert_eq!(check_nothing_false(image, what), Outcome::Told, "{what}");
    });
}

#[test]
fn missing_file_is_told() {
    for path in [DATA, ERAS] {
        let image = sealed_store();
        image.remove(Path::new(path)).unwrap();
        assert_eq!(check_nothing_false(&image, path), Outcome::Told, "{path}");
    }
    assert_eq!(check_nothing_false(&without_hint(&sealed_store()), HINT), Outcome::Whole);
}

#[test]
fn damage_under_an_open_store_is_an_error_and_heals_by_applying_the_record_again() {
    let directory = fast_directory();
    let engine = open_store(&small(directory.path(), SyncPolicy::Never));
    let record = value(b"key", 5, b"the value");
    engine.apply(vec![record.clone()]).unwrap();
    let path = data_files(directory.path()).pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    // Preallocated zeros follow.
    let last = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes[last] ^= 1;
    overwrite(&path, &bytes);
    assert!(matches!(engine.read(b"key"), Err(ReadError::Damaged { .. })));
    assert!(engine.keys_page(caskade_engine::slots::partition_of(b"key"), 0, 10).is_err());
    // The same version, from another copy.
    engine.apply(vec![record.clone()]).unwrap();
    assert_eq!(engine.read(b"key").unwrap(), Some(record));
    assert_eq!(engine.stats().live_keys, 1);
}

#[test]
fn damage_in_the_synced_part_of_a_crashed_store_is_no_torn_tail() {
    let directory = fast_directory();
    let original = directory.path().join("original");
    let engine = open_store(&small(&original, SyncPolicy::Always));
    history().into_iter().for_each(|records| engine.apply(records).unwrap());
    let bytes = std::fs::read(data_files(&original).pop().unwrap()).unwrap();
    let copy = directory.path().join("copy");
    std::fs::create_dir_all(&copy).unwrap();
    overwrite(&copy.join("eras"), &std::fs::read(original.join("eras")).unwrap());
    let mut damaged = bytes.clone();
    // The first record, which the mark of every later group covers.
    damaged[40] ^= 0xff;
    overwrite(&copy.join("0000000001.data"), &damaged);
    let (crashed, recovery) = open_any_store(&small(&copy, SyncPolicy::Never));
    assert!(recovery.is_damaged());
    assert_eq!((recovery.cut_bytes, recovery.quarantined[0].offset), (0, 36));
    // Everything after the damage is present.
    assert_eq!(state_of(&crashed), state_after(&history()));
}

#[test]
fn value_cannot_pose_as_a_record() {
    // A value contains a whole record of another store; then the record around it is damaged.
    let directory = fast_directory();
    let other = fast_directory();
    let forged = closed_store(other.path());
    let options = small(directory.path(), SyncPolicy::Never);
    let engine = open_store(&options);
    engine.apply(vec![value(b"outer", 1, &forged)]).unwrap();
    engine.apply(vec![value(b"after", 2, b"whole")]).unwrap();
    engine.close().unwrap();
    let path = data_files(directory.path()).pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[36 + 5] ^= 0xff;
    overwrite(&path, &bytes);
    let (engine, recovery) = open_any_store(&options);
    assert!(recovery.is_damaged());
    assert!(state_of(&engine).is_empty(), "{:?}", state_of(&engine));
    assert!(engine.read(b"after").unwrap().is_some_and(|record| record.value.is_some()));
}

/// Files with names of data or hint files that the store never allocated.
#[test]
fn stray_file_is_set_aside_and_nothing_is_damaged() {
    let whole = sealed_store();
    let header = whole.read_file(DATA).unwrap();
    for (name, bytes) in [
        ("0000000099.data", &b""[..]),
        ("0000000099.data", b"foreign"),
        ("0000000099.data", &[0; 4096]),
        // A copy of one of the store's own files, with its header.
        ("0000000099.data", &header),
        ("0000000099.hint", b"no hint of ours"),
    ] {
        let image = whole.killed();
        let stray = format!("/store/{name}");
        image.write_file(&stray, bytes).unwrap();
        let inspected = caskade_engine::inspect::inspect_on(
            &(std::sync::Arc::new(image.killed()) as std::sync::Arc<dyn FileSystem>),
            Path::new(support::STORE),
            &caskade_engine::inspect::InspectOptions::default(),
        )
        .unwrap();
        assert!(inspected.damage.is_empty() && inspected.leftovers == [name], "{inspected:?}");
        let (engine, recovery) = open_store_on(&image, &quiet(SyncPolicy::Never)).unwrap();
        assert!(!recovery.is_damaged(), "{name}: {recovery:?}");
        let aside = std::path::PathBuf::from(format!("{stray}.stray"));
        assert_eq!(recovery.strays, std::slice::from_ref(&aside));
        assert_eq!(image.read_file(&aside).unwrap(), bytes, "it was not kept");
        assert_eq!(state_of(&engine), state_after(&history()));
        // Its id is allocated to a file of the store later.
        for number in 0..120_u64 {
            engine.apply(vec![value(b"fill", 100 + number, &[1; 60 << 10])]).unwrap();
        }
        engine.close().unwrap();
        image.write_file(&aside, b"another").unwrap();
        let (_, recovery) = open_store_on(&image, &quiet(SyncPolicy::Never)).unwrap();
        assert!(!recovery.is_damaged() && recovery.strays.is_empty(), "{recovery:?}");
        assert!(image.files().iter().any(|file| file.ends_with("0000000099.data")), "{:?}", image.files());
    }
}

#[test]
fn file_that_may_be_the_stores_own_is_damage_until_it_is_whole_or_gone() {
    let whole = sealed_store();
    let data = |file: &std::path::PathBuf| file.extension().is_some_and(|end| end == "data");
    let newest = whole.files().into_iter().rfind(data).unwrap();
    let second = whole.read_file(&newest).unwrap();
    // Emptied, or with a destroyed header: the store allocated the id.
    for bytes in [Vec::new(), [vec![0; 40], second[40..].to_vec()].concat()] {
        let image = whole.killed();
        image.write_file(&newest, &bytes).unwrap();
        let (engine, recovery) = open_store_on(&image, &quiet(SyncPolicy::Never)).unwrap();
        assert!(recovery.is_damaged() && recovery.strays.is_empty(), "{recovery:?}");
        drop(engine);
        image.write_file(&newest, &second).unwrap();
        let (_, recovery) = open_store_on(&image, &quiet(SyncPolicy::Never)).unwrap();
        assert!(!recovery.is_damaged(), "{recovery:?}");
    }
    // If the ids file is missing, damaged, or older than a data file, no file is known to be foreign.
    let older = {
        let (engine, _) = open_store_on(&whole.killed(), &quiet(SyncPolicy::Never)).unwrap();
        drop(engine);
        whole.read_file("/store/ids").unwrap()
    };
    for ids in [None, Some(&b"damaged"[..]), Some(&older)] {
        let image = whole.killed();
        let (engine, _) = open_store_on(&image, &quiet(SyncPolicy::Never)).unwrap();
        for number in 0..80_u64 {
            engine.apply(vec![value(b"fill", 100 + number, &[1; 60 << 10])]).unwrap();
        }
        engine.close().unwrap();
        match ids {
            None => image.remove(Path::new("/store/ids")).unwrap(),
            Some(bytes) => image.write_file("/store/ids", bytes).unwrap(),
        }
        image.write_file("/store/0000000999.data", b"").unwrap();
        let (_, recovery) = open_store_on(&image, &quiet(SyncPolicy::Never)).unwrap();
        assert!(recovery.is_damaged() && recovery.strays.is_empty(), "{recovery:?}");
        image.remove(Path::new("/store/0000000999.data")).unwrap();
        let (_, recovery) = open_store_on(&image, &quiet(SyncPolicy::Never)).unwrap();
        assert!(!recovery.is_damaged(), "damage ends when its cause is gone: {recovery:?}");
    }
}
