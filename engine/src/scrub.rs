//! Finds damage in complete data files, and lets their owner heal it from another copy of the store.
//!
//! While the store is open the keydir still has the current records of a damaged stretch. So healing has four
//! steps: find the stretches ([`Engine::scrub`]); list the records in them ([`Engine::records_within`]);
//! append each of them again from another copy, at its own version ([`Engine::restore`]); then declare the
//! file healed ([`Engine::retire`]). Merges leave a damaged file alone; the next merge after its healing
//! copies the rest and removes it. The records of a file that was damaged when the store was opened are
//! unknown. The owner gives up all such files at once ([`Engine::give_up_lost`]), after it has compared the
//! whole store with another copy.
//!
//! A restored record must not reappear after its key's tombstone was dropped: a merge that has chosen its
//! inputs waits for running restores, and a restore needs the exact version in the keydir.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::data_file::{DataFile, open_to_read};
use crate::engine::{Core, Engine};
use crate::error::{AppendError, MergeError, ReadError};
use crate::file_scan::{Bounds, Found};
use crate::format::hint::section_entries;
use crate::hint_file::{HintSource, scanner_of};
use crate::keydir::position_of;
use crate::log::AppendedRecord;
use crate::merge::header_of;
use crate::record::{InventoryEntry, Record, Version};
use crate::slots::{PARTITIONS, Partition, partition_of};
use crate::table::Entry;

/// Interval at which a merge checks whether the running restores have ended.
const RESTORES_NAP: Duration = Duration::from_millis(1);
/// Number of checks after which the merge gives up; it is retried later.
const RESTORES_NAPS_MAX: u32 = 1000;

/// Bytes of a data file that are not those written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedStretch {
    /// Offset of the stretch.
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

/// Number of running restores.
#[derive(Debug, Default)]
pub(crate) struct Restores(AtomicUsize);

impl Restores {
    /// Waits until no restore runs; returns whether this happened in time.
    pub(crate) fn wait(&self) -> bool {
        for _ in 0..RESTORES_NAPS_MAX {
            if self.0.load(Ordering::SeqCst) == 0 {
                return true;
            }
            std::thread::sleep(RESTORES_NAP);
        }
        false
    }
}

/// A running restore.
struct Restoring(Arc<Core>);

impl Restoring {
    fn begin(core: &Arc<Core>) -> Self {
        core.merges.restores.0.fetch_add(1, Ordering::SeqCst);
        Self(core.clone())
    }
}

impl Drop for Restoring {
    fn drop(&mut self) {
        self.0.merges.restores.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Engine {
    /// Returns the ids of the complete data files, ascending.
    pub fn sealed_files(&self) -> Vec<u64> {
        self.0.files.all().iter().filter(|file| !file.is_active()).map(|file| file.id).collect()
    }

    /// Returns the ids of the complete data files in which any reader found damage since the store was
    /// opened.
    pub fn damaged_files(&self) -> Vec<u64> {
        let all = self.0.files.all();
        all.iter().filter(|file| !file.is_active() && file.is_healable()).map(|file| file.id).collect()
    }

    /// Verifies about `bytes_max` bytes of records of a complete data file, from `from` on: 0, or the `next`
    /// of a former step. A removed file has nothing to verify. Where the disk fails to read, the rest of the
    /// file counts as damaged.
    pub fn scrub(&self, file_id: u64, from: u64, bytes_max: u64) -> Scrubbed {
        let Some(file) = self.0.sealed_file(file_id) else { return Scrubbed::default() };
        let scrubbed = self.0.scrub(&file, from, bytes_max);
        if let Some(first) = scrubbed.damaged.first() {
            self.0.flag_damaged(&file, first.offset, &first.reason);
        }
        scrubbed
    }

    /// Returns the keydir's records in `bytes` bytes of a data file from `offset` on, by partition.
    pub fn records_within(&self, file_id: u64, offset: u64, bytes: u64) -> Vec<(Partition, InventoryEntry)> {
        self.0.sealed_file(file_id).map_or_else(Vec::new, |file| self.0.records_within(&file, offset, bytes))
    }

    /// Returns the record of this position and version; `None` if the key has another version now, or no
    /// record.
    ///
    /// # Errors
    /// The record is damaged, or the disk failed to read it.
    pub fn read_version(
        &self,
        partition: Partition,
        position: u64,
        version: Version,
    ) -> Result<Option<Record>, ReadError> {
        self.0.read_at(partition, position, |entries| {
            let entry = entries.iter().find(|entry| entry.version == version);
            entry.map(|entry| Ok(self.0.read_entry(entry)?.into_record())).transpose()
        })
    }

    /// Returns whether the keydir has a record of this version there, damaged or not.
    pub fn has_version(&self, partition: Partition, position: u64, version: Version) -> bool {
        self.0.keydir.version_at(partition, position, version).1.is_some()
    }

    /// Returns the key of a record that need not be whole: as it is in the damaged record, in the data file's
    /// hint, or in the ordered index. `None` if none of these has it, or the keydir has another version
    /// there.
    pub fn key_of_damaged(&self, partition: Partition, position: u64, version: Version) -> Option<Bytes> {
        let found = self.0.keydir.entries_at(partition, position);
        let entry = found.as_slice().iter().find(|entry| entry.version == version)?;
        let is_it = |key: &[u8]| position_of(key) == position && partition_of(key) == partition;
        let on_disk = self.0.files.read_key_unverified(entry.location()).ok().filter(|key| is_it(key));
        let hinted = || self.0.key_in_hint(partition, entry).filter(|key| is_it(key));
        let in_order = || self.0.keydir.ordered_key_at(partition, position).map(Bytes::from);
        on_disk.map(Bytes::from).or_else(hinted).or_else(in_order)
    }

    /// Forgets a record that is damaged and whose key is not known; returns whether it did. A start before
    /// the file is gone finds the record again.
    pub fn forget_damaged(&self, partition: Partition, position: u64, version: Version) -> bool {
        let found = self.0.keydir.entries_at(partition, position);
        let entry = found.as_slice().iter().find(|entry| entry.version == version);
        entry.is_some_and(|entry| self.0.read_entry(entry).is_err() && self.0.keydir.forget(partition, entry))
    }

    /// Returns the published entries at the position of a key: of this key, or of another one that shares its
    /// position.
    pub fn entries_of(&self, key: &[u8]) -> Vec<InventoryEntry> {
        let found = self.0.keydir.entries_at(partition_of(key), position_of(key));
        found.as_slice().iter().map(InventoryEntry::from).collect()
    }

    /// Appends a record again and points the keydir to the copy, if the keydir still has the record's
    /// version. For a record that is damaged on disk, or is inside a damaged stretch. `done` is called once,
    /// like that of [`Engine::append`], with whether the keydir points to the new place.
    pub fn restore<F>(&self, record: Record, done: F)
    where
        F: FnOnce(Result<bool, AppendError>) + Send + 'static,
    {
        let restoring = Restoring::begin(&self.0.core);
        let (partition, position) = (partition_of(&record.key), position_of(&record.key));
        if self.0.keydir.version_at(partition, position, record.version).1.is_none() {
            return done(Ok(false));
        }
        self.append(vec![record], move |result| {
            let restored = result.map(|appended| {
                let core = &restoring.0;
                let Some(pin) = &appended.pin else { return false };
                let candidates: Vec<_> = appended.records.iter().map(AppendedRecord::candidate).collect();
                core.publish(pin, &candidates);
                // Publishing has replaced the entry already, unless the old record could be read.
                candidates.iter().all(|copy| core.keydir.relocate(&core.files, copy, |_| true))
            });
            drop(restoring);
            done(restored);
        });
    }

    /// Declares that all current records of a damaged file were restored: the next merge removes the file.
    /// Returns whether it may be removed: not if it was damaged when the store was opened, or if the keydir
    /// still points into one of these stretches.
    pub fn retire(&self, file_id: u64, stretches: &[DamagedStretch]) -> bool {
        let Some(file) = self.0.sealed_file(file_id) else { return true };
        let is_missed = |stretch: &DamagedStretch| {
            !self.0.records_within(&file, stretch.offset, stretch.bytes).is_empty()
        };
        !stretches.iter().any(is_missed) && file.set_healed()
    }

    /// Returns the ids of the files that were damaged or missing when the store was opened, and were not
    /// given up.
    pub fn lost_files(&self) -> Vec<u64> {
        let all = self.0.files.all();
        let mut ids: Vec<u64> = all.iter().filter(|file| file.is_lost()).map(|file| file.id).collect();
        ids.extend(self.0.merges.unreadable.lock().iter());
        ids.sort_unstable();
        ids
    }

    /// Gives up the files of [`Engine::lost_files`]: their records are here again, or not needed. Removes
    /// those that cannot be read at all. The next merge copies the live records out of the others and removes
    /// them. The next opening then finds no damage. Completes the active file if it is one of them.
    ///
    /// # Errors
    /// The disk failed. Files that were given up stay given up; the call may be repeated.
    pub fn give_up_lost(&self) -> Result<(), MergeError> {
        if self.0.files.all().iter().any(|file| file.is_active() && file.is_lost()) {
            self.0.log.seal_active()?;
        }
        let _running = self.0.merges.running.lock();
        let unreadable = self.0.merges.unreadable.lock().clone();
        if !unreadable.is_empty() {
            // The lock of `unreadable` is not held during the removal: snapshots and merges wait for
            // `running` instead.
            self.0.remove_files(unreadable, || self.0.merges.unreadable.lock().clear())?;
        }
        self.0.files.all().iter().for_each(|file| file.give_up_lost());
        Ok(())
    }
}

impl Core {
    /// The key that the hint of an entry's data file names for it.
    fn key_in_hint(&self, partition: Partition, entry: &Entry) -> Option<Bytes> {
        let at = entry.location();
        let file = self.files.all().into_iter().find(|file| file.slot == at.file)?;
        let (file_system, section) = (&**self.directory.file_system(), usize::from(partition));
        let path = self.directory.hint_path(file.id);
        let hint = HintSource::open(file_system, &path, &header_of(&file), file.len()).ok()?;
        let (head, bytes) = hint.read(file_system, section..section + 1).ok()?.into_iter().next()?;
        let found = section_entries(&head, &bytes)
            .ok()?
            .filter_map(Result::ok)
            .find(|hinted| hinted.offset == at.offset && hinted.version == entry.version)?;
        Some(Bytes::copy_from_slice(found.key))
    }

    fn sealed_file(&self, id: u64) -> Option<Arc<DataFile>> {
        self.files.all().into_iter().find(|file| file.id == id && !file.is_active())
    }

    /// Returns the keydir's records in a stretch of a data file.
    pub(crate) fn records_within(
        &self,
        file: &DataFile,
        offset: u64,
        bytes: u64,
    ) -> Vec<(Partition, InventoryEntry)> {
        let end = offset.saturating_add(bytes);
        let mut found = Vec::new();
        for partition in 0..PARTITIONS {
            self.keydir.visit(partition, |entry| {
                let at = entry.location();
                if at.file == file.slot && (offset..end).contains(&u64::from(at.offset)) {
                    found.push((partition, InventoryEntry::from(entry)));
                }
            });
        }
        found
    }

    fn scrub(&self, file: &DataFile, from: u64, bytes_max: u64) -> Scrubbed {
        let mut done = Scrubbed::default();
        let stretch = |offset: u64, bytes: u64, reason: &dyn ToString| DamagedStretch {
            file_id: file.id,
            offset,
            bytes,
            reason: reason.to_string(),
        };
        let handle = match open_to_read(&**self.directory.file_system(), &file.path) {
            Ok(handle) => handle,
            // A merge may have removed the file meanwhile.
            Err(_) if self.sealed_file(file.id).is_none() => return done,
            Err(error) => {
                done.damaged.push(stretch(from, file.len().saturating_sub(from), &error));
                return done;
            }
        };
        let mut scanner = scanner_of(&handle, &file.path, &header_of(file), file.len());
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
                Ok(Found::Bad { offset, bytes, reason }) => {
                    done.damaged.push(stretch(offset, bytes, &reason))
                }
                Ok(Found::End(_)) => return done,
                Err(error) => {
                    done.damaged.push(stretch(at, file.len().saturating_sub(at), &error));
                    return done;
                }
            }
        }
    }

    /// Reports damage found in a file, once per file.
    pub(crate) fn flag_damaged(&self, file: &DataFile, offset: u64, reason: &str) {
        if !file.is_damaged() {
            self.found_damaged(file, offset, reason);
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

    fn record(key: &str, version: Version, value: Option<&str>) -> Record {
        let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
        Record { key: Bytes::copy_from_slice(key.as_bytes()), version, expiry_ms: 0, user_flags: 0, value }
    }

    fn open(path: &Path) -> Engine {
        reopen(path).0
    }

    /// Returns also the number of damaged places found.
    fn reopen(path: &Path) -> (Engine, u64) {
        let mut options = Options::new(path);
        (options.background, options.replicated) = (false, true);
        let (engine, recovery) = Engine::open(options).unwrap();
        (engine, recovery.quarantined_total)
    }

    fn flip_on_disk(path: &Path, at: &[u8]) {
        let mut bytes = fs::read(path).unwrap();
        let place = bytes.windows(at.len()).position(|window| window == at).unwrap();
        bytes[place] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    /// Gives up the lost files; checks that the next opening finds no damage, and this many live records.
    fn gives_up(engine: Engine, path: &Path, lost: &[u64], live: u64) {
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
    fn sealed(path: &Path) -> (Engine, u64) {
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

    fn flip(engine: &Engine, file_id: u64, at: &[u8]) {
        let path = engine.0.sealed_file(file_id).unwrap().path.clone();
        let mut bytes = fs::read(&path).unwrap();
        let place = bytes.windows(at.len()).position(|window| window == at).unwrap();
        bytes[place] ^= 1;
        // Written in place, so that open handles and mappings see the change.
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    }

    fn scrub_all(engine: &Engine, file: u64) -> Vec<DamagedStretch> {
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

    fn restore(engine: &Engine, record: Record) -> bool {
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
