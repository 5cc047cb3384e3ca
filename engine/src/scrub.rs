//! Finds damage in complete data files, and lets their owner heal it from another copy of the store.
//!
//! While the store is open the keydir still has the current records of a damaged stretch. So healing has four
//! steps: find the stretches ([`scrub`]); list the records in them ([`Core::records_within`]);
//! append each of them again from another copy, at its own version ([`restore`]); then declare the
//! file healed ([`retire`]). Merges leave a damaged file alone; the next merge after its healing
//! copies the rest and removes it. The records of a file that was damaged when the store was opened are
//! unknown. The owner gives up all such files at once ([`give_up_lost`]), after it has compared the
//! whole store with another copy.
//!
//! A restored record must not reappear after its key's tombstone was dropped: a merge that has chosen its
//! inputs waits for running restores, and a restore needs the exact version in the keydir.

use std::sync::Arc;

use bytes::Bytes;

use crate::core::Core;
use crate::data_file::{DataFile, open_to_read};
use crate::error::{AppendError, MergeError, ReadError};
use crate::file_scan::{Bounds, Found};
use crate::format::hint::section_entries;
use crate::hint_file::{HintSource, scanner_of};
use crate::keydir::position_of;
use crate::log::record::{Appended, AppendedRecord};
use crate::merge::remove_files;
use crate::record::{Record, Version};
use crate::slots::{Partition, partition_of};
use crate::table::Entry;

/// Bytes of a data file that are not those written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedStretch {
    /// Id of the data file.
    pub file_id: u64,
    /// Where it begins.
    pub offset: u64,
    /// Bytes up to the next whole record, or the end of the file.
    pub bytes: u64,
    /// Description of the damage to the first record.
    pub reason: String,
}

/// Result of one step of a walk through a data file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes read.
    pub bytes: u64,
    /// Offset to continue from; `None` at the end of the file.
    pub next: Option<u64>,
    /// Damage found. If there is any, the file is flagged as damaged.
    pub damaged: Vec<DamagedStretch>,
}

/// Returns the ids of the complete data files, ascending.
pub(crate) fn sealed_files(core: &Core) -> Vec<u64> {
    core.files.all().iter().filter(|file| !file.is_active()).map(|file| file.id).collect()
}

/// Returns the ids of the complete data files in which any reader found damage since the store was opened.
pub(crate) fn damaged_files(core: &Core) -> Vec<u64> {
    let all = core.files.all();
    all.iter().filter(|file| !file.is_active() && file.is_healable()).map(|file| file.id).collect()
}

/// Verifies a part of a complete data file, and flags the file if it is damaged there.
pub(crate) fn scrub(core: &Core, file_id: u64, from: u64, bytes_max: u64) -> Scrubbed {
    let Some(file) = core.sealed_file(file_id) else { return Scrubbed::default() };
    let scrubbed = walk(core, &file, from, bytes_max);
    if let Some(first) = scrubbed.damaged.first() {
        file.flag_damaged(first.offset, &first.reason);
    }
    scrubbed
}

/// Returns the record of this position and version, if it is the key's present one.
pub(crate) fn read_version(
    core: &Core,
    partition: Partition,
    position: u64,
    version: Version,
) -> Result<Option<Record>, ReadError> {
    core.read_at(partition, position, |entries| {
        let entry = entries.iter().find(|entry| entry.version == version);
        entry.map(|entry| Ok(core.read_entry(entry)?.into_record())).transpose()
    })
}

/// Returns the key of a record that need not be whole, from the record, its hint or the ordered index.
pub(crate) fn key_of_damaged(
    core: &Core,
    partition: Partition,
    position: u64,
    version: Version,
) -> Option<Bytes> {
    let found = core.keydir.entries_at(partition, position);
    let entry = found.as_slice().iter().find(|entry| entry.version == version)?;
    let is_it = |key: &[u8]| position_of(key) == position && partition_of(key) == partition;
    let on_disk = core.files.read_key_unverified(entry.location()).ok().filter(|key| is_it(key));
    let hinted = || key_in_hint(core, partition, entry).filter(|key| is_it(key));
    let in_order = || core.keydir.ordered_key_at(partition, position).map(Bytes::from);
    on_disk.map(Bytes::from).or_else(hinted).or_else(in_order)
}

/// Forgets a record that is damaged; returns whether it did.
pub(crate) fn forget_damaged(core: &Core, partition: Partition, position: u64, version: Version) -> bool {
    let found = core.keydir.entries_at(partition, position);
    let entry = found.as_slice().iter().find(|entry| entry.version == version);
    entry.is_some_and(|entry| core.read_entry(entry).is_err() && core.keydir.forget(partition, entry))
}

/// Appends a record again and points the keydir to the copy, if the keydir still has the record's version.
pub(crate) fn restore<F>(core: &Arc<Core>, record: Record, done: F)
where
    F: FnOnce(Result<bool, AppendError>) + Send + 'static,
{
    let restoring = core.merges.restores.begin();
    let (partition, position) = (partition_of(&record.key), position_of(&record.key));
    if core.keydir.version_at(partition, position, record.version).1.is_none() {
        return done(Ok(false));
    }
    let of_callback = core.clone();
    let appended = move |result: Result<Appended, AppendError>| {
        let core = of_callback;
        let restored = result.map(|appended| {
            let Some(pin) = &appended.pin else { return false };
            let candidates: Vec<_> = appended.records.iter().map(AppendedRecord::candidate).collect();
            core.publish(pin, &candidates);
            // Publishing has replaced the entry already, unless the old record could be read.
            candidates.iter().all(|copy| core.keydir.relocate(&core.files, copy, |_| true))
        });
        drop((restoring, core));
        done(restored);
    };
    core.append(vec![record], Box::new(appended));
}

/// Declares that all current records of a damaged file were restored; returns whether it may be removed.
pub(crate) fn retire(core: &Core, file_id: u64, stretches: &[DamagedStretch]) -> bool {
    let Some(file) = core.sealed_file(file_id) else { return true };
    let is_missed =
        |stretch: &DamagedStretch| !core.records_within(&file, stretch.offset, stretch.bytes).is_empty();
    !stretches.iter().any(is_missed) && file.set_healed()
}

/// Returns the ids of the files that were damaged or missing when the store was opened, and were not given
/// up.
pub(crate) fn lost_files(core: &Core) -> Vec<u64> {
    let all = core.files.all();
    let mut ids: Vec<u64> = all.iter().filter(|file| file.is_lost()).map(|file| file.id).collect();
    ids.extend(core.merges.unreadable.lock().iter());
    ids.sort_unstable();
    ids
}

/// Gives up the files of [`lost_files`]; removes those that cannot be read at all.
pub(crate) fn give_up_lost(core: &Core) -> Result<(), MergeError> {
    if core.files.all().iter().any(|file| file.is_active() && file.is_lost()) {
        core.log.seal_active()?;
    }
    let _running = core.merges.running.lock();
    let unreadable = core.merges.unreadable.lock().clone();
    if !unreadable.is_empty() {
        // The lock of `unreadable` is not held during the removal: snapshots and merges wait for `running`
        // instead.
        remove_files(core, unreadable, || core.merges.unreadable.lock().clear())?;
    }
    core.files.all().iter().for_each(|file| file.give_up_lost());
    Ok(())
}

/// Returns the key that the hint of an entry's data file names for it.
fn key_in_hint(core: &Core, partition: Partition, entry: &Entry) -> Option<Bytes> {
    let at = entry.location();
    let file = core.files.all().into_iter().find(|file| file.slot == at.file)?;
    let (file_system, section) = (&**core.directory.file_system(), usize::from(partition));
    let path = core.directory.hint_path(file.id);
    let hint = HintSource::open(file_system, &path, &file.header(), file.len()).ok()?;
    let (head, bytes) = hint.read(file_system, section..section + 1).ok()?.into_iter().next()?;
    let found = section_entries(&head, &bytes)
        .ok()?
        .filter_map(Result::ok)
        .find(|hinted| hinted.offset == at.offset && hinted.version == entry.version)?;
    Some(Bytes::copy_from_slice(found.key))
}

/// Verifies a part of a complete data file.
fn walk(core: &Core, file: &DataFile, from: u64, bytes_max: u64) -> Scrubbed {
    let mut done = Scrubbed::default();
    let stretch = |offset: u64, bytes: u64, reason: &dyn ToString| DamagedStretch {
        file_id: file.id,
        offset,
        bytes,
        reason: reason.to_string(),
    };
    let handle = match open_to_read(&**core.directory.file_system(), &file.path) {
        Ok(handle) => handle,
        // A merge may have removed the file meanwhile.
        Err(_) if core.sealed_file(file.id).is_none() => return done,
        Err(error) => {
            done.damaged.push(stretch(from, file.len().saturating_sub(from), &error));
            return done;
        }
    };
    let mut scanner = scanner_of(&handle, &file.path, &file.header(), file.len());
    scanner.go_to(from);
    let begin = scanner.offset();
    loop {
        let at = scanner.offset();
        done.bytes = at.saturating_sub(begin);
        if done.bytes >= bytes_max {
            done.next = Some(at);
            return done;
        }
        match scanner.next(Bounds::Sealed) {
            Ok(Found::Record { .. }) => {}
            Ok(Found::Bad { offset, bytes, reason }) => done.damaged.push(stretch(offset, bytes, &reason)),
            Ok(Found::End(_)) => return done,
            Err(error) => {
                done.damaged.push(stretch(at, file.len().saturating_sub(at), &error));
                return done;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::mpsc;

    use bytes::Bytes;

    use super::*;
    use crate::options::Options;
    use crate::replicated::Store;

    fn record(key: &str, version: Version, value: Option<&str>) -> Record {
        let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
        Record { key: Bytes::copy_from_slice(key.as_bytes()), version, expiry_ms: 0, user_flags: 0, value }
    }

    fn open(path: &Path) -> Store {
        reopen(path).0
    }

    /// Returns also the number of damaged places found.
    fn reopen(path: &Path) -> (Store, u64) {
        let mut options = Options::new(path);
        options.background = false;
        let (engine, recovery) = Store::open(options).unwrap();
        (engine, recovery.quarantined_total)
    }

    fn flip_on_disk(path: &Path, at: &[u8]) {
        let mut bytes = fs::read(path).unwrap();
        let place = bytes.windows(at.len()).position(|window| window == at).unwrap();
        bytes[place] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    /// Gives up the lost files; checks that the next opening finds no damage, and this many live records.
    fn gives_up(engine: Store, path: &Path, lost: &[u64], live: u64) {
        assert_eq!(engine.lost_files(), lost);
        assert!(lost.iter().all(|file| !engine.damaged_files().contains(file)), "nothing can be restored");
        engine.give_up_lost().unwrap();
        assert_eq!(engine.lost_files(), [0; 0]);
        engine.run_once().unwrap();
        engine.close().unwrap();
        let (engine, found) = reopen(path);
        assert_eq!((found, engine.stats().live_keys), (0, live));
    }

    /// Creates a store with records in its first data file, which is complete.
    fn sealed(path: &Path) -> (Store, u64) {
        let engine = open(path);
        for number in 1..=20 {
            engine.apply(vec![record(&format!("{{a}}{number}"), number, Some("the value"))]).unwrap();
        }
        engine.apply(vec![record("{a}21", 21, Some("x")), record("{a}22", 22, Some("y"))]).unwrap();
        engine.apply(vec![record("{a}23", 23, None)]).unwrap();
        engine.merge().unwrap();
        let file = engine.sealed_files()[0];
        (engine, file)
    }

    fn flip(engine: &Store, file_id: u64, at: &[u8]) {
        let path = engine.0.sealed_file(file_id).unwrap().path.clone();
        let mut bytes = fs::read(&path).unwrap();
        let place = bytes.windows(at.len()).position(|window| window == at).unwrap();
        bytes[place] ^= 1;
        // Written in place, so that open handles and mappings see the change.
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    }

    fn scrub_all(engine: &Store, file: u64) -> Vec<DamagedStretch> {
        let (mut from, mut found) = (0, Vec::new());
        loop {
            let step = engine.scrub(file, from, 64);
            found.extend(step.damaged);
            match step.next {
                Some(next) => from = next,
                None => return found,
            }
        }
    }

    fn restore(engine: &Store, record: Record) -> bool {
        let (sender, done) = mpsc::channel();
        engine.restore(record, move |result| sender.send(result).unwrap());
        done.recv().unwrap().unwrap()
    }

    #[test]
    fn key_of_a_damaged_record_is_in_the_record_or_in_the_hint_and_else_it_can_be_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, file) = sealed(directory.path());
        let partition = partition_of(b"{a}7");
        let of = |number: u64| {
            let key = format!("{{a}}{number}");
            (Bytes::from(key.clone()), position_of(key.as_bytes()))
        };
        let (key, position) = of(7);
        let path = engine.0.sealed_file(file).unwrap().path.clone();
        flip(&engine, file, b"{a}7the v");
        assert!(engine.read(&key).is_err() && engine.has_version(partition, position, 7));
        assert_eq!(engine.key_of_damaged(partition, position, 7), Some(key.clone()), "from its hint");
        assert_eq!(engine.key_of_damaged(partition, position, 8), None, "another version");
        assert!(!engine.forget_damaged(partition, of(8).1, 8), "it is whole");
        fs::remove_file(path.with_extension("hint")).unwrap();
        assert_eq!(engine.key_of_damaged(partition, position, 7), None);
        let before = engine.partition_stats(partition);
        assert!(
            engine.forget_damaged(partition, position, 7) && !engine.forget_damaged(partition, position, 7)
        );
        let after = engine.partition_stats(partition);
        assert_eq!((after.live_keys, engine.read(&key).unwrap()), (before.live_keys - 1, None));
        assert!(engine.retire(file, &scrub_all(&engine, file)), "nothing in it is missed any more");
    }

    #[test]
    fn damage_is_found_healed_at_the_same_version_and_its_file_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, file) = sealed(directory.path());
        let partition = partition_of(b"{a}7");
        let before = engine.partition_stats(partition);
        assert_eq!(scrub_all(&engine, file), []);
        flip(&engine, file, b"{a}7");
        let damaged = scrub_all(&engine, file);
        assert_eq!(damaged.len(), 1);
        assert_eq!(engine.damaged_files(), [file]);
        assert!(!engine.retire(file, &damaged), "a record of it is missed");
        let missed = engine.records_within(file, damaged[0].offset, damaged[0].bytes);
        assert_eq!(missed.iter().map(|(_, entry)| entry.version).collect::<Vec<_>>(), [7]);
        assert!(engine.read_version(partition, missed[0].1.position, 7).is_err());

        assert!(!restore(&engine, record("{a}7", 6, Some("older"))), "only the very version is taken");
        assert!(restore(&engine, record("{a}7", 7, Some("the value"))));
        assert_eq!(engine.read(b"{a}7").unwrap().unwrap().value.unwrap(), "the value");
        assert_eq!(engine.partition_stats(partition).digest, before.digest);
        assert!(engine.retire(file, &damaged));
        assert_eq!(engine.damaged_files(), []);
        assert_eq!(engine.run_once().unwrap().files, 1);
        engine.close().unwrap();
        let engine = open(directory.path());
        assert_eq!(engine.partition_stats(partition).digest, before.digest);
        assert_eq!(engine.partition_stats(partition).tombstones, 1);
        assert_eq!(engine.read(b"{a}7").unwrap().unwrap().version, 7);
    }

    #[test]
    fn whole_record_in_a_damaged_stretch_is_moved_out_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let engine = open(directory.path());
        engine.apply(vec![record("{a}1", 1, Some("first")), record("{a}2", 2, Some("other"))]).unwrap();
        engine.apply(vec![record("{a}3", 3, Some("dead"))]).unwrap();
        engine.apply(vec![record("{a}3", 4, None)]).unwrap();
        engine.0.log.seal_active().unwrap();
        let file = engine.sealed_files()[0];
        flip(&engine, file, b"first");
        let damaged = scrub_all(&engine, file);
        // One frame is damaged: the other member is whole, but inside the damaged stretch.
        let missed = engine.records_within(file, damaged[0].offset, damaged[0].bytes);
        assert_eq!(missed.len(), 2);
        let whole = engine.read(b"{a}2").unwrap().unwrap();
        assert!(restore(&engine, whole));
        assert!(restore(&engine, record("{a}1", 1, Some("first"))));
        assert!(engine.retire(file, &damaged));
        assert_eq!(engine.run_once().unwrap().files, 1);
        let value = |key: &[u8]| engine.read(key).unwrap().unwrap().value;
        assert_eq!((value(b"{a}1").unwrap(), value(b"{a}2").unwrap()), ("first".into(), "other".into()));
        assert_eq!(value(b"{a}3"), None);
    }

    #[test]
    fn files_damaged_before_the_opening_go_when_they_are_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, file) = sealed(directory.path());
        let live = engine.stats().live_keys;
        let (data, hint) = (engine.0.directory.data_path(file), engine.0.directory.hint_path(file));
        engine.close().unwrap();
        flip_on_disk(&data, b"{a}7");
        fs::remove_file(&hint).unwrap();
        let (engine, found) = reopen(directory.path());
        assert_eq!(found, 1);
        assert!(engine.read(b"{a}7").unwrap().is_none());
        assert_eq!(engine.run_once().unwrap().files, 0, "it is kept as long as what it held may be needed");
        engine.apply(vec![record("{a}7", 7, Some("the value"))]).unwrap();
        gives_up(engine, directory.path(), &[file], live);
        assert!(!data.exists());
    }

    #[test]
    fn damaged_active_file_is_completed_to_be_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let engine = open(directory.path());
        for number in 1..=3 {
            engine.apply(vec![record(&format!("{{a}}{number}"), number, Some("x"))]).unwrap();
        }
        let file = engine.0.directory.highest_id();
        let data = engine.0.directory.data_path(file);
        engine.close().unwrap();
        flip_on_disk(&data, b"{a}2");
        let (engine, found) = reopen(directory.path());
        assert_eq!(found, 1);
        engine.apply(vec![record("{a}4", 4, Some("new"))]).unwrap();
        gives_up(engine, directory.path(), &[file], 3);
        assert!(!data.exists());
    }

    #[test]
    fn missing_and_unreadable_files_are_forgotten_when_they_are_given_up() {
        for cut in [None, Some(5)] {
            let directory = tempfile::tempdir().unwrap();
            let (engine, file) = sealed(directory.path());
            engine.apply(vec![record("{a}30", 30, Some("more"))]).unwrap();
            let (data, hint) = (engine.0.directory.data_path(file), engine.0.directory.hint_path(file));
            engine.close().unwrap();
            match cut {
                None => fs::remove_file(&data).unwrap(),
                Some(len) => fs::OpenOptions::new().write(true).open(&data).unwrap().set_len(len).unwrap(),
            }
            let (engine, found) = reopen(directory.path());
            assert_eq!((found, engine.stats().live_keys), (1, 1));
            gives_up(engine, directory.path(), &[file], 1);
            assert!(!data.exists() && !hint.exists());
        }
    }

    #[test]
    fn healed_file_that_is_damaged_again_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, file) = sealed(directory.path());
        flip(&engine, file, b"{a}7");
        let damaged = scrub_all(&engine, file);
        assert!(restore(&engine, record("{a}7", 7, Some("the value"))));
        assert!(engine.retire(file, &damaged));
        flip(&engine, file, b"{a}23");
        assert_eq!(engine.run_once().unwrap().files, 0);
        assert_eq!(engine.damaged_files(), [file], "its tombstone was not forgotten");
        assert_eq!(engine.partition_stats(partition_of(b"{a}23")).tombstones, 1);
    }
}
