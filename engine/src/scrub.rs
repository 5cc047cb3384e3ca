//! Finds damage in complete data files, and lets their owner heal it from another copy of the store.
//!
//! What the records of a damaged stretch were is known as long as the store is open: the keydir has those that count.
//! So healing is: find the stretches ([`Engine::scrub`]); ask what should be in them ([`Engine::records_within`]); put
//! each of those records, from another copy, into the log again at its own version ([`Engine::restore`]); then say that
//! nothing in the file is missed ([`Engine::retire`]), and the next merge copies what is left and removes it. Until then
//! merges leave the file alone. What a file held that was damaged when the store was opened is not known: such files are
//! given up all at once ([`Engine::give_up_lost`]), when their owner has compared all of the store with another copy.
//!
//! A restored record must not come back after its key's tombstone was collected: a merge that has chosen its inputs
//! waits for restores under way, and a restore goes on only while the keydir still has the very version.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::data_file::{DataFile, open_to_read};
use crate::engine::{Core, Engine};
use crate::error::{AppendError, MergeError, ReadError};
use crate::file_scan::{Bounds, Found};
use crate::hint_file::scanner_of;
use crate::keydir::position_of;
use crate::log::AppendedRecord;
use crate::merge::header_of;
use crate::slot::partition_of;
use crate::{InventoryEntry, PARTITIONS, Partition, Record, Version};

/// How often a merge looks whether the restores under way have ended.
const RESTORES_NAP: Duration = Duration::from_millis(1);
/// After so many looks it goes without them: it is tried again later.
const RESTORES_NAPS_MAX: u32 = 1000;

/// Bytes of a data file that do not hold what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedStretch {
    /// The data file's number.
    pub file_id: u64,
    /// Where it begins.
    pub offset: u64,
    /// Bytes up to the next whole record, or the file's end.
    pub bytes: u64,
    /// What is wrong with its beginning.
    pub reason: String,
}

/// One step of a walk through a data file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes gone through.
    pub bytes: u64,
    /// Where to go on; `None` at the end of the file.
    pub next: Option<u64>,
    /// What was found. The file is flagged as damaged then.
    pub damaged: Vec<DamagedStretch>,
}

/// Restores under way.
#[derive(Debug, Default)]
pub(crate) struct Restores(AtomicUsize);

impl Restores {
    /// Waits until none is under way; tells whether that came.
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

/// One restore under way.
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
    /// Ids of the complete data files, ascending.
    pub fn sealed_files(&self) -> Vec<u64> {
        self.0.files.all().iter().filter(|file| !file.is_active()).map(|file| file.id).collect()
    }

    /// Ids of the complete data files in which damage was found, by whatever read them, since the store was opened.
    pub fn damaged_files(&self) -> Vec<u64> {
        let all = self.0.files.all();
        all.iter().filter(|file| !file.is_active() && file.is_healable()).map(|file| file.id).collect()
    }

    /// Verifies records of a complete data file from `from` on, which is 0 or a former step's `next`, and reads about
    /// `bytes_max` bytes. A file that is gone has nothing to verify. Where the disk refuses to read, the rest of
    /// the file counts as damaged.
    pub fn scrub(&self, file_id: u64, from: u64, bytes_max: u64) -> Scrubbed {
        let Some(file) = self.0.sealed_file(file_id) else { return Scrubbed::default() };
        let scrubbed = self.0.scrub(&file, from, bytes_max);
        if let Some(first) = scrubbed.damaged.first() {
            self.0.flag_damaged(&file, first.offset, &first.reason);
        }
        scrubbed
    }

    /// What the keydir has in `bytes` bytes of a data file from `offset` on, by partition.
    pub fn records_within(&self, file_id: u64, offset: u64, bytes: u64) -> Vec<(Partition, InventoryEntry)> {
        self.0.sealed_file(file_id).map_or_else(Vec::new, |file| self.0.records_within(&file, offset, bytes))
    }

    /// The record of this position and version; `None` if the key has another version now, or none.
    ///
    /// # Errors
    /// It is damaged.
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

    /// What is published at the place of a key: of the key itself, unless another one shares its place.
    pub fn entries_of(&self, key: &[u8]) -> Vec<InventoryEntry> {
        let found = self.0.keydir.entries_at(partition_of(key), position_of(key));
        found.as_slice().iter().map(InventoryEntry::from).collect()
    }

    /// Puts a record into the log again and points the keydir to it, if that still has the record's version: for
    /// a record that is damaged where it is, or is in a damaged stretch. `done` is called once, as that of
    /// [`Engine::append`]; with whether the keydir points to the new place.
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
                // It is there already, unless what was there before could be read.
                candidates.iter().all(|copy| core.keydir.relocate(&core.files, copy, |_| true))
            });
            drop(restoring);
            done(restored);
        });
    }

    /// Says that all that counts in a damaged file was restored: the next merge removes it. Tells whether that may be:
    /// not if the file was damaged when the store was opened, or something still points into one of these stretches.
    pub fn retire(&self, file_id: u64, stretches: &[DamagedStretch]) -> bool {
        let Some(file) = self.0.sealed_file(file_id) else { return true };
        let is_missed = |stretch: &DamagedStretch| {
            !self.0.records_within(&file, stretch.offset, stretch.bytes).is_empty()
        };
        !stretches.iter().any(is_missed) && file.set_healed()
    }

    /// Ids of the files that were damaged, or missing, when the store was opened, and are not given up.
    pub fn lost_files(&self) -> Vec<u64> {
        let all = self.0.files.all();
        let mut ids: Vec<u64> = all.iter().filter(|file| file.is_lost()).map(|file| file.id).collect();
        ids.extend(self.0.merges.unreadable.lock().iter());
        ids.sort_unstable();
        ids
    }

    /// Says that whatever was in the files of [`Engine::lost_files`] is here again, or not needed: those that cannot
    /// be read at all are removed, the next merge copies what is live out of the others and removes them. The next
    /// opening finds no damage then. Completes the active file if that is one of them.
    ///
    /// # Errors
    /// The disk refuses. What was given up stays so; the call may be made again.
    pub fn give_up_lost(&self) -> Result<(), MergeError> {
        if self.0.files.all().iter().any(|file| file.is_active() && file.is_lost()) {
            self.0.log.seal_active()?;
        }
        let _running = self.0.merges.running.lock();
        let unreadable = self.0.merges.unreadable.lock().clone();
        if !unreadable.is_empty() {
            // Not held meanwhile: whoever asks for a snapshot or a merge waits for the run that is under way.
            self.0.remove_files(unreadable, || self.0.merges.unreadable.lock().clear())?;
        }
        self.0.files.all().iter().for_each(|file| file.give_up_lost());
        Ok(())
    }
}

impl Core {
    fn sealed_file(&self, id: u64) -> Option<Arc<DataFile>> {
        self.files.all().into_iter().find(|file| file.id == id && !file.is_active())
    }

    /// What the keydir has in a stretch of a data file.
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
            // A merge may have removed it meanwhile.
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

    /// Takes note of damage that was found in a file, once.
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
    use crate::Options;

    fn record(key: &str, version: Version, value: Option<&str>) -> Record {
        let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
        Record { key: Bytes::copy_from_slice(key.as_bytes()), version, expiry_ms: 0, user_flags: 0, value }
    }

    fn open(path: &Path) -> Engine {
        reopen(path).0
    }

    /// Tells also how many damaged places were found.
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

    /// Gives up what is lost; the next opening finds no damage, and these many records.
    fn gives_up(engine: Engine, path: &Path, lost: &[u64], live: u64) {
        assert_eq!(engine.lost_files(), lost);
        assert!(lost.iter().all(|file| !engine.damaged_files().contains(file)), "nothing can be restored");
        engine.give_up_lost().unwrap();
        assert_eq!(engine.lost_files(), [0; 0]);
        engine.tend().unwrap();
        engine.close().unwrap();
        let (engine, found) = reopen(path);
        assert_eq!((found, engine.stats().live_keys), (0, live));
    }

    /// A store with some records in its first data file, which is complete.
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
        // In place: who has it open or mapped sees it.
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
        assert_eq!(engine.tend().unwrap().files, 1);
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
        // One frame is damaged: the other member is whole, and in what is damaged.
        let missed = engine.records_within(file, damaged[0].offset, damaged[0].bytes);
        assert_eq!(missed.len(), 2);
        let whole = engine.read(b"{a}2").unwrap().unwrap();
        assert!(restore(&engine, whole));
        assert!(restore(&engine, record("{a}1", 1, Some("first"))));
        assert!(engine.retire(file, &damaged));
        assert_eq!(engine.tend().unwrap().files, 1);
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
        assert_eq!(engine.tend().unwrap().files, 0, "it is kept as long as what it held may be needed");
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
        assert_eq!(engine.tend().unwrap().files, 0);
        assert_eq!(engine.damaged_files(), [file], "its tombstone was not forgotten");
        assert_eq!(engine.partition_stats(partition_of(b"{a}23")).tombstones, 1);
    }
}
