//! The state of an open store, and the steps of which all operations are composed: find, append, publish.
//!
//! Merges, scrubs, snapshots, scans and the embedded interface take a [`Core`]; it calls none of them. Both
//! doors, [`Engine`](crate::Engine) and [`Store`](crate::replicated::Store), share one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::data_file::{DataFile, FileTable, Location, Pin, Stored};
use crate::directory::Directory;
use crate::error::{AppendError, IoError, ReadError};
use crate::file_system::Space;
use crate::format::Eras;
use crate::keydir::{Candidate, Keydir, Published, position_of};
use crate::log::Log;
use crate::log::record::{Appended, AppendedRecord, Done, Prepared, Unwritten};
use crate::merge::state::Merges;
use crate::options::Options;
use crate::record::{InventoryEntry, Record, Version};
use crate::slots::{PARTITIONS, Partition, partition_of};
use crate::stats::EngineStats;
use crate::stripes::Embedded;
use crate::table::Entry;

/// Limit of retries of a read whose record was moved or replaced meanwhile.
const READ_RETRIES_MAX: usize = 16;

/// The state of an open store.
pub(crate) struct Core {
    // Rust drops the fields in this order: the log must stop before the directory is unlocked.
    pub(crate) log: Log,
    pub(crate) keydir: Keydir,
    pub(crate) files: Arc<FileTable>,
    pub(crate) eras: Mutex<Eras>,
    pub(crate) embedded: Embedded,
    pub(crate) merges: Merges,
    /// Whether an owner assigns versions, judges expiry and declares partitions clean; otherwise the store
    /// does all of this itself.
    pub(crate) replicated: bool,
    pub(crate) options: Options,
    pub(crate) directory: Arc<Directory>,
}

impl Core {
    /// Returns the newest published record of the key.
    pub(crate) fn read(&self, key: &[u8]) -> Result<Option<Record>, ReadError> {
        Ok(self.find(key)?.map(Stored::into_record))
    }

    /// Returns the newest published record of the key, in the form in which it was read.
    pub(crate) fn find(&self, key: &[u8]) -> Result<Option<Stored>, ReadError> {
        self.read_at(partition_of(key), position_of(key), |entries| {
            for entry in entries {
                let stored = self.read_entry(entry)?;
                if stored.key() == key {
                    return Ok(Some(stored));
                }
            }
            Ok(None)
        })
    }

    /// Calls `read` with the keydir's entries of a position. If `read` fails, for example because a merge
    /// moved a record and removed its file, retries with the present entries, unless they are the same.
    pub(crate) fn read_at<T>(
        &self,
        partition: Partition,
        position: u64,
        read: impl Fn(&[Entry]) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let mut found = self.keydir.entries_at(partition, position);
        let mut tries_left = READ_RETRIES_MAX;
        loop {
            let error = match read(found.as_slice()) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let now = self.keydir.entries_at(partition, position);
            if tries_left == 0 || now.as_slice() == found.as_slice() {
                self.note_damage(&error);
                return Err(error);
            }
            tries_left -= 1;
            found = now;
        }
    }

    /// Flags the file in which a read found damage.
    fn note_damage(&self, error: &ReadError) {
        let ReadError::Damaged { path, offset, reason } = error else { return };
        if let Some(file) = self.files.all().iter().find(|file| file.path == *path) {
            file.flag_damaged(*offset, reason);
        }
    }

    /// Returns the records at a position, tombstones included.
    pub(crate) fn read_position(
        &self,
        partition: Partition,
        position: u64,
    ) -> Result<Vec<Record>, ReadError> {
        self.read_at(partition, position, |entries| {
            entries.iter().map(|entry| Ok(self.read_entry(entry)?.into_record())).collect()
        })
    }

    /// Reads a record and checks that it is the one the keydir means. A mismatch is damage that no checksum
    /// shows, such as a stale block.
    pub(crate) fn read_entry(&self, entry: &Entry) -> Result<Stored, ReadError> {
        let stored = self.files.read(entry.location())?;
        let meant = stored.header.version == entry.version && position_of(stored.key()) == entry.position;
        if meant { Ok(stored) } else { Err(self.files.misplaced(entry.location())) }
    }

    /// Returns the size and free space of the store's file system.
    pub(crate) fn space(&self) -> Result<Space, IoError> {
        let path = self.directory.path();
        let space = self.directory.file_system().space(path);
        space.map_err(|e| IoError::new("read the free space of", path, e))
    }

    /// Returns a bound on versions: no record of the store has, or had before it was overwritten, a higher
    /// version.
    pub(crate) fn highest_version(&self) -> Version {
        self.embedded.last_version().max(self.keydir.totals().highest_version)
    }

    /// Appends, waits and publishes like [`Self::apply`], for borrowed records.
    pub(crate) fn append_and_publish(&self, records: &mut [Unwritten<'_>]) -> Result<(), AppendError> {
        let pin = self.log.append_now(records)?;
        if let [alone] = records {
            self.publish(&pin, &[alone.candidate()]);
        } else {
            let candidates: Vec<_> = records.iter().map(|record| record.candidate()).collect();
            self.publish(&pin, &candidates);
        }
        Ok(())
    }

    /// Publishes records of the pinned file, all at once. Records what a merge must know about tombstones and
    /// older records that are published out of order (see `merge`).
    pub(crate) fn publish(&self, pin: &Pin, candidates: &[Candidate<'_>]) {
        let file = pin.file();
        self.keydir.publish_all(&self.files, candidates, |candidate, published| match published {
            Published::Overtaken(winner) => {
                let settled = self.log.settled_hint();
                let bound = if winner.is_tombstone() { self.bound_at(winner.location()) } else { settled };
                file.lower_reach(bound.min(settled));
            }
            Published::Replaced(old) if candidate.entry.is_tombstone() => {
                let older = self.files.get(old.location().file);
                if let Some(older) = older.filter(|older| older.id > file.id) {
                    older.lower_reach(file.id);
                }
            }
            Published::Replaced(_) | Published::New | Published::Void => {}
        });
    }

    /// Returns the bound of the tombstone at this place; if it cannot be read, 0, which is always safe.
    fn bound_at(&self, at: Location) -> u64 {
        let file_id = self.files.get(at.file).map_or(0, |file| file.id);
        self.files.read(at).map_or(0, |stored| stored.bound(file_id))
    }

    /// Computes the values that the log needs from the keys.
    fn prepare(&self, records: Vec<Record>) -> Vec<Prepared> {
        let prepare = |record: Record| {
            let partition = partition_of(&record.key);
            Prepared {
                partition,
                era: self.keydir.era(partition),
                position: position_of(&record.key),
                record,
            }
        };
        records.into_iter().map(prepare).collect()
    }

    /// Queues records for the log: see [`Store::append`](crate::replicated::Store::append).
    pub(crate) fn append(&self, records: Vec<Record>, done: Done) {
        self.log.append(self.prepare(records), done);
    }

    /// Publishes appended records: see [`Store::publish`](crate::replicated::Store::publish).
    pub(crate) fn publish_appended(&self, appended: &Appended) {
        let Some(pin) = &appended.pin else { return };
        if let [alone] = &appended.records[..] {
            self.publish(pin, &[alone.candidate()]);
        } else {
            let candidates: Vec<_> = appended.records.iter().map(AppendedRecord::candidate).collect();
            self.publish(pin, &candidates);
        }
    }

    /// Appends records, waits, and publishes them.
    pub(crate) fn apply(&self, records: Vec<Record>) -> Result<(), AppendError> {
        let prepared = self.prepare(records);
        let mut unwritten: Vec<_> = prepared.iter().map(Prepared::unwritten).collect();
        self.append_and_publish(&mut unwritten)
    }

    /// Returns an entry for every published record of a partition, tombstones included, ordered by position.
    pub(crate) fn inventory(&self, partition: Partition) -> Vec<InventoryEntry> {
        self.keydir.entries(partition).iter().map(InventoryEntry::from).collect()
    }

    /// Returns the records at these positions, tombstones included.
    pub(crate) fn read_positions(
        &self,
        partition: Partition,
        positions: &[u64],
    ) -> Result<Vec<Record>, ReadError> {
        let mut records = Vec::with_capacity(positions.len());
        for &position in positions {
            records.extend(self.read_position(partition, position)?);
        }
        Ok(records)
    }

    /// Empties partitions, durably. Also drops records that were appended before this call and are not
    /// published yet. Records appended after it are kept.
    pub(crate) fn drop_partitions(&self, partitions: &[Partition]) -> Result<(), AppendError> {
        let mut eras = self.eras.lock();
        let mut raised = eras.clone();
        raised.version_floor = raised.version_floor.max(self.highest_version());
        let mut dropped = partitions.to_vec();
        dropped.sort_unstable();
        dropped.dedup();
        for &partition in &dropped {
            let era = self.keydir.era(partition).checked_add(1).ok_or(AppendError::ErasUsedUp(partition))?;
            if let Some(slot) = raised.eras.get_mut(usize::from(partition)) {
                *slot = era;
            }
        }
        if let Err(failed) = self.directory.store_eras(&raised) {
            // Either eras file may be the one on disk, so no later append could be guaranteed to survive.
            let settled = failed.settled;
            return Err(if settled { failed.error.into() } else { self.log.poison(failed.error) });
        }
        *eras = raised;
        for &partition in &dropped {
            if let Some(&era) = eras.eras.get(usize::from(partition)) {
                self.keydir.clear(partition, era);
                self.merges.forget_clean(partition);
            }
        }
        Ok(())
    }

    /// Returns the figures of the store.
    pub(crate) fn stats(&self) -> EngineStats {
        let totals = self.keydir.totals();
        let counters = self.log.counters();
        let (data_files, open_files) = self.files.counts();
        EngineStats {
            records_total: counters.records.load(Ordering::Relaxed),
            live_keys: totals.live_keys,
            tombstones: totals.tombstones,
            disk_bytes: self.files.all().iter().map(|file| file.len()).sum(),
            live_bytes: totals.live_bytes,
            data_files: data_files as u64,
            open_files: open_files as u64,
            appends: counters.appends.load(Ordering::Relaxed),
            syncs: counters.syncs.load(Ordering::Relaxed),
            waiting_bytes: self.log.waiting_bytes() as u64,
            reserve_bytes: self.directory.reserve().held(),
        }
    }

    /// Returns the complete data file with this id.
    pub(crate) fn sealed_file(&self, id: u64) -> Option<Arc<DataFile>> {
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
}

#[cfg(test)]
mod tests;
