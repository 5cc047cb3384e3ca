//! The operations of an owner that replicates a store: it assigns the versions, publishes what it appended,
//! and heals damage from another copy.

use std::ops::Bound;

use bytes::Bytes;

pub use crate::conflict::Conflict;
use crate::conflict::find_conflict;
use crate::engine::Engine;
use crate::error::{AppendError, IoError, MergeError, ReadError, ScanError};
use crate::keydir::position_of;
pub use crate::log::TakenGroup;
pub use crate::log::record::Appended;
use crate::metadata;
pub use crate::record::InventoryEntry;
use crate::record::{Record, Version};
use crate::scan::{self, KeysPage, RangePage};
use crate::scrub;
pub use crate::scrub::{DamagedStretch, Scrubbed};
use crate::slots::{Partition, partition_of};

impl Engine {
    /// Queues records for the log and returns at once. Several records are one atomic batch.
    ///
    /// The engine calls `done` exactly once. After the records are durable under the sync policy, `done`
    /// receives [`Appended`], to pass to [`Engine::publish`]; on failure it receives the error. Under `sync =
    /// always` the log's thread calls it, in the order of the appends. Under weaker policies the appending
    /// thread calls it, in the same order, possibly before this function returns. **A refusal** (too large,
    /// overloaded, closed, poisoned) is reported before this function returns, so the caller must not hold a
    /// lock that `done` takes.
    ///
    /// No other append completes while `done` runs: it should be short, and must not wait for an append.
    pub fn append<F>(&self, records: Vec<Record>, done: F)
    where
        F: FnOnce(Result<Appended, AppendError>) + Send + 'static,
    {
        self.0.append(records, Box::new(done));
    }

    /// Makes appended records visible. Of several records of a key the highest version stays, in whatever
    /// order and however often they are published. Ignores records of a partition that was dropped after
    /// their append.
    ///
    /// Reads the disk only if the keydir already holds the key's position, to compare the key. If the record
    /// there is damaged, the new record replaces it.
    pub fn publish(&self, appended: Appended) {
        self.0.publish_appended(&appended);
    }

    /// Appends, waits until the records are durable under the sync policy, and publishes them. Waits for room
    /// if the append buffer is full. Must not be called from a callback of [`Engine::append`].
    pub fn apply(&self, records: Vec<Record>) -> Result<(), AppendError> {
        self.0.apply(records)
    }

    /// Returns the first of these records that contradicts a published one: the same version with another
    /// key, value, expiry or flags. The identical record is no conflict; a record that is damaged here
    /// contradicts nothing.
    ///
    /// Reads the disk only if the keydir holds a record's exact version. Records with an unknown version that
    /// is not above all versions of their partition cost one walk over its entries, for all of them together.
    pub fn find_conflict(&self, records: &[Record]) -> Option<Conflict> {
        find_conflict(&self.0, records)
    }

    /// Returns an entry for every published record of a partition, tombstones included, ordered by position.
    pub fn inventory(&self, partition: Partition) -> Vec<InventoryEntry> {
        self.0.inventory(partition)
    }

    /// Returns the records at these positions, tombstones included. A position may have no record, or
    /// several.
    ///
    /// # Errors
    /// One damaged record fails the whole call; the other records can still be read one position at a time.
    pub fn read_positions(&self, partition: Partition, positions: &[u64]) -> Result<Vec<Record>, ReadError> {
        self.0.read_positions(partition, positions)
    }

    /// Returns a page of about `limit` live keys from this position on, expired ones included. The page is
    /// complete: it has every live key with `from <= position < next`.
    pub fn keys_page(&self, partition: Partition, from: u64, limit: usize) -> Result<KeysPage, ReadError> {
        scan::keys_page(&self.0, partition, from, limit)
    }

    /// Returns the first keys between these bounds, of the given partitions or of all, in key order. Examines
    /// `limit` keys (1 to 10,000). A page may have fewer keys, if some were deleted meanwhile, without being
    /// the last.
    ///
    /// For an owner that merges the pages of several stores. Needs [`Index::Ordered`].
    ///
    /// # Panics
    /// Panics if a partition does not exist.
    pub fn range_page(
        &self,
        partitions: Option<&[Partition]>,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        limit: usize,
    ) -> Result<RangePage, ScanError> {
        scan::range_page(&self.0, partitions, start, end, limit)
    }

    /// Does the work of the log's thread (see [`Options::log_thread`]) in the calling thread: commits the
    /// waiting appends, and runs their callbacks. Returns `false` if none waits.
    pub fn commit_appends(&self) -> bool {
        self.0.log.commit_waiting()
    }

    /// Does the first half of [`Engine::commit_appends`], like a log's thread whose disk is slow: takes the
    /// waiting appends. Appends made before [`TakenGroup::commit`] wait for the next group. Returns `None` if
    /// none waits.
    pub fn take_appends(&self) -> Option<TakenGroup> {
        self.0.log.take_waiting()
    }

    /// Declares that no other copy will send a record of this partition that is older than a tombstone up to
    /// this version. Merges may then drop such tombstones, if the store itself holds no older record either.
    /// For the owner of a replicated store ([`Options::replicated`]). Dropping the partition revokes the
    /// declaration.
    pub fn mark_clean(&self, partition: Partition, up_to: Version) {
        self.0.merges.mark_clean(partition, up_to);
    }

    /// Returns the ids of the complete data files, ascending.
    pub fn sealed_files(&self) -> Vec<u64> {
        scrub::sealed_files(&self.0)
    }

    /// Returns the ids of the complete data files in which any reader found damage since the store was
    /// opened.
    pub fn damaged_files(&self) -> Vec<u64> {
        scrub::damaged_files(&self.0)
    }

    /// Verifies about `bytes_max` bytes of records of a complete data file, from `from` on: 0, or the `next`
    /// of a former step. A removed file has nothing to verify. Where the disk fails to read, the rest of the
    /// file counts as damaged.
    pub fn scrub(&self, file_id: u64, from: u64, bytes_max: u64) -> Scrubbed {
        scrub::scrub(&self.0, file_id, from, bytes_max)
    }

    /// Returns the keydir's records in `bytes` bytes of a data file from `offset` on, by partition.
    pub fn records_within(&self, file_id: u64, offset: u64, bytes: u64) -> Vec<(Partition, InventoryEntry)> {
        let file = self.0.sealed_file(file_id);
        file.map_or_else(Vec::new, |file| self.0.records_within(&file, offset, bytes))
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
        scrub::read_version(&self.0, partition, position, version)
    }

    /// Returns whether the keydir has a record of this version there, damaged or not.
    pub fn has_version(&self, partition: Partition, position: u64, version: Version) -> bool {
        self.0.keydir.version_at(partition, position, version).1.is_some()
    }

    /// Returns the key of a record that need not be whole: as it is in the damaged record, in the data file's
    /// hint, or in the ordered index. `None` if none of these has it, or the keydir has another version
    /// there.
    pub fn key_of_damaged(&self, partition: Partition, position: u64, version: Version) -> Option<Bytes> {
        scrub::key_of_damaged(&self.0, partition, position, version)
    }

    /// Forgets a record that is damaged and whose key is not known; returns whether it did. A start before
    /// the file is gone finds the record again.
    pub fn forget_damaged(&self, partition: Partition, position: u64, version: Version) -> bool {
        scrub::forget_damaged(&self.0, partition, position, version)
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
        scrub::restore(&self.0.core, record, done);
    }

    /// Declares that all current records of a damaged file were restored: the next merge removes the file.
    /// Returns whether it may be removed: not if it was damaged when the store was opened, or if the keydir
    /// still points into one of these stretches.
    pub fn retire(&self, file_id: u64, stretches: &[DamagedStretch]) -> bool {
        scrub::retire(&self.0, file_id, stretches)
    }

    /// Returns the ids of the files that were damaged or missing when the store was opened, and were not
    /// given up.
    pub fn lost_files(&self) -> Vec<u64> {
        scrub::lost_files(&self.0)
    }

    /// Gives up the files of [`Engine::lost_files`]: their records are here again, or not needed. Removes
    /// those that cannot be read at all. The next merge copies the live records out of the others and removes
    /// them. The next opening then finds no damage. Completes the active file if it is one of them.
    ///
    /// # Errors
    /// The disk failed. Files that were given up stay given up; the call may be repeated.
    pub fn give_up_lost(&self) -> Result<(), MergeError> {
        scrub::give_up_lost(&self.0)
    }

    /// Stores these bytes durably under this name, replacing the former ones. Meant for a few KiB; the name
    /// consists of letters, digits and dashes. Snapshots do not include it. On a full disk it draws on
    /// [`Options::reserve_bytes`].
    ///
    /// [`Options::reserve_bytes`]: crate::Options::reserve_bytes
    ///
    /// # Errors
    /// The file system failed: either the former bytes or these are stored.
    pub fn write_metadata(&self, name: &str, bytes: &[u8]) -> Result<(), IoError> {
        metadata::write(&self.0.directory, name, bytes)
    }

    /// Returns the bytes last stored under this name.
    ///
    /// # Errors
    /// The file system could not read them.
    pub fn read_metadata(&self, name: &str) -> Result<Option<Vec<u8>>, IoError> {
        metadata::read(&self.0.directory, name)
    }
}
