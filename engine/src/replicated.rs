//! The door for an owner that replicates the store.
//!
//! The owner assigns the versions, judges expiry, publishes what it appended, declares up to which versions
//! partitions are clean, and heals damage from another copy. The store creates no record by itself.

use std::fmt;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

pub use crate::conflict::Conflict;
use crate::conflict::find_conflict;
use crate::error::{AppendError, IoError, MergeError, OpenError, ReadError, ScanError, SnapshotError};
use crate::file_system::{FileSystem, RealFileSystem, Space};
use crate::keydir::position_of;
pub use crate::log::TakenGroup;
pub use crate::log::record::Appended;
use crate::open::{self, OpenStore};
use crate::options::{Budget, Options};
pub use crate::record::InventoryEntry;
use crate::record::{Record, Version};
use crate::recovery::Recovery;
use crate::scan::{self, KeysPage, RangePage};
pub use crate::scrub::{DamagedStretch, Scrubbed};
use crate::slots::{Partition, partition_of};
use crate::snapshot::{self, Snapshot};
use crate::stats::{EngineStats, PartitionStats};
use crate::task::{Merged, TaskStatus};
use crate::{merge, metadata, scrub};

/// An open store whose versions its owner assigns. Clones share it; dropping the last clone closes it.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<OpenStore>);

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("directory", &self.0.directory).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in `options.path`, or creates it. The returned [`Recovery`] reports what recovery
    /// found: a damaged store opens too.
    pub fn open(options: Options) -> Result<(Self, Recovery), OpenError> {
        Self::open_on(Arc::new(RealFileSystem), options)
    }

    /// Opens the store in `options.path` of this file system.
    pub fn open_on(
        file_system: Arc<dyn FileSystem>,
        options: Options,
    ) -> Result<(Self, Recovery), OpenError> {
        let (store, recovery) = open::open(file_system, options, true)?;
        Ok((Self(store), recovery))
    }

    /// Returns the newest published record of the key, which may be a tombstone. `None`: the key has no
    /// record.
    pub fn read(&self, key: &[u8]) -> Result<Option<Record>, ReadError> {
        self.0.read(key)
    }

    /// Queues records for the log and returns at once. Several records are one atomic batch.
    ///
    /// The engine calls `done` exactly once. After the records are durable under the sync policy, `done`
    /// receives [`Appended`], to pass to [`Store::publish`]; on failure it receives the error. Under `sync =
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
    /// if the append buffer is full. Must not be called from a callback of [`Store::append`].
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
    /// For an owner that merges the pages of several stores. Needs
    /// [`Index::Ordered`](crate::options::Index::Ordered).
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

    /// Does the first half of [`Store::commit_appends`], like a log's thread whose disk is slow: takes the
    /// waiting appends. Appends made before [`TakenGroup::commit`] wait for the next group. Returns `None` if
    /// none waits.
    pub fn take_appends(&self) -> Option<TakenGroup> {
        self.0.log.take_waiting()
    }

    /// Declares that no other copy will send a record of this partition that is older than a tombstone up to
    /// this version. Merges may then drop such tombstones, if the store itself holds no older record either.
    /// Dropping the partition revokes the declaration.
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
    /// like that of [`Store::append`], with whether the keydir points to the new place.
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

    /// Gives up the files of [`Store::lost_files`]: their records are here again, or not needed. Removes
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

    /// Returns the figures of a partition, in constant time.
    ///
    /// # Panics
    /// Panics if the partition does not exist, like every function that takes a partition.
    pub fn partition_stats(&self, partition: Partition) -> PartitionStats {
        self.0.keydir.stats(partition)
    }

    /// Empties partitions, durably. Also drops records that were appended before this call and are not
    /// published yet. Records appended after it are kept.
    pub fn drop_partitions(&self, partitions: &[Partition]) -> Result<(), AppendError> {
        self.0.drop_partitions(partitions)
    }

    /// Returns the figures of the store.
    pub fn stats(&self) -> EngineStats {
        self.0.stats()
    }

    /// Returns the present size and free space of the store's file system, as the operating system reports
    /// them.
    ///
    /// # Errors
    /// The operating system did not report them.
    pub fn space(&self) -> Result<Space, IoError> {
        self.0.space()
    }

    /// Sets whether space is low; [`Options::low_free_bytes`] describes what merges do then. For owners that
    /// watch the free space themselves, with their own marks and hysteresis: they set that option to 0. It
    /// takes effect at the engine's next look, or at the next [`Store::run_once`]. A merge that waits for
    /// its budget continues at once.
    pub fn set_space_low(&self, low: bool) {
        self.0.merges.set_space_low(low);
    }

    /// Returns whether merges treat space as low: the last value passed to [`Store::set_space_low`] or, if
    /// the engine checks by itself, its own finding.
    pub fn is_space_low(&self) -> bool {
        self.0.merges.is_space_low()
    }

    /// Flushes, syncs and closes the log: all clones refuse further appends but still read. Dropping the last
    /// clone frees the directory for another engine. It also closes the log; in a callback, this happens when
    /// the callback returns.
    pub fn close(self) -> Result<(), AppendError> {
        self.0.close()
    }

    /// Makes every append made before this call durable, whatever the sync policy.
    pub fn sync(&self) -> Result<(), AppendError> {
        self.0.log.sync()
    }

    /// Does the work of the engine's thread (see [`Options::background`]) in the calling thread: writes
    /// missing hint files and runs due merges, at any time of the day. Waits for such work if another thread
    /// does it already.
    pub fn run_once(&self) -> Result<Merged, MergeError> {
        merge::look_at_space(&self.0)?;
        merge::run_once(&self.0, true)
    }

    /// Completes the active file and merges every data file that has dead bytes, regardless of the triggers
    /// and the window. Reads and writes continue meanwhile.
    pub fn merge(&self) -> Result<Merged, MergeError> {
        merge::merge_all(&self.0)
    }

    /// Makes a snapshot in a directory that is empty or does not exist, on the same file system. The snapshot
    /// holds everything published before this call, and nothing appended after it. It shares the data files
    /// by hard links, so it takes almost no space until they are merged. Reads and writes continue; writes
    /// wait for at most one sync. [`restore`](crate::restore) makes a store of it.
    pub fn snapshot(&self, to: &Path) -> Result<Snapshot, SnapshotError> {
        snapshot::take(&self.0, to)
    }

    /// Returns the rate limit of the store's merges: see [`Options::budget`].
    pub fn budget(&self) -> &Budget {
        &self.0.options.budget
    }

    /// Returns the status of the running merge, or else of the last one; `None` before the first.
    pub fn merge_status(&self) -> Option<TaskStatus> {
        self.0.merges.status()
    }

    /// Makes a running merge end soon. It loses only its work since its last complete output.
    pub fn stop_merge(&self) {
        self.0.merges.stop();
    }
}
