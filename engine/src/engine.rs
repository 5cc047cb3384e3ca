//! The door for a program that embeds the store.
//!
//! The store is its own owner: it draws versions from a counter, treats an expired key as absent, and its
//! merges turn expired records into tombstones and drop tombstones that hide nothing.

use std::fmt;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::embedded::{self, Batch, Conditional};
use crate::error::{
    AppendError, IoError, MergeError, OpenError, ReadError, ScanError, SnapshotError, StoreError,
};
use crate::file_system::{FileSystem, RealFileSystem, Space};
use crate::iter::Iter;
use crate::merge;
use crate::open::{self, OpenStore};
use crate::options::{Budget, Options};
use crate::record::{Record, Version};
use crate::recovery::Recovery;
use crate::scan::{self, RangePage, Scan};
use crate::slots::Partition;
use crate::snapshot::{self, Snapshot};
use crate::stats::{EngineStats, PartitionStats};
use crate::task::{Merged, TaskStatus};

/// An open store that draws its versions from a counter. Clones share it; dropping the last clone closes it.
#[derive(Clone)]
pub struct Engine(pub(crate) Arc<OpenStore>);

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("directory", &self.0.directory).finish_non_exhaustive()
    }
}

impl Engine {
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
        let (store, recovery) = open::open(file_system, options, false)?;
        Ok((Self(store), recovery))
    }

    /// Returns the newest published record of the key, which may be a tombstone. `None`: the key has no
    /// record.
    pub fn read(&self, key: &[u8]) -> Result<Option<Record>, ReadError> {
        self.0.read(key)
    }

    /// Returns the value of a key that has not expired by this machine's clock.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        Ok(self.get_with_version(key)?.map(|(value, _)| value))
    }

    /// Returns the value of a key and its version, for [`Engine::put_if_version`]. Equal versions mean the
    /// same write.
    pub fn get_with_version(&self, key: &[u8]) -> Result<Option<(Bytes, Version)>, ReadError> {
        embedded::get(&self.0, key)
    }

    /// Returns whether the key has a value that has not expired.
    pub fn contains(&self, key: &[u8]) -> Result<bool, ReadError> {
        self.get(key).map(|value| value.is_some())
    }

    /// Sets the key's value, without expiry.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<(), AppendError> {
        self.put_with_expiry(key, value, 0)
    }

    /// Sets the key's value, with its expiry in milliseconds since 1970; 0: never.
    pub fn put_with_expiry(&self, key: &[u8], value: &[u8], expiry_ms: u64) -> Result<(), AppendError> {
        embedded::put(&self.0, key, value, expiry_ms)
    }

    /// Deletes the key; returns whether it was present.
    pub fn delete(&self, key: &[u8]) -> Result<bool, StoreError> {
        let deleted = embedded::write_if(&self.0, key, None, |present| present.is_some())?;
        Ok(matches!(deleted, Conditional::Done(_)))
    }

    /// Sets the key's value if its version is `expected`; `None`: if the key is absent. Atomic with respect
    /// to all other writes of this interface.
    pub fn put_if_version(
        &self,
        key: &[u8],
        value: &[u8],
        expected: Option<Version>,
    ) -> Result<Conditional, StoreError> {
        embedded::write_if(&self.0, key, Some(value), |present| present == expected)
    }

    /// Deletes the key if its version is `expected`; otherwise like [`Engine::put_if_version`].
    pub fn delete_if_version(&self, key: &[u8], expected: Version) -> Result<Conditional, StoreError> {
        embedded::write_if(&self.0, key, None, |present| present == Some(expected))
    }

    /// Applies all operations of the batch or, if the call or the machine fails, none of them. Of several
    /// operations on a key the last takes effect. A batch may have at most `append_buffer_bytes`; a larger
    /// one fails with [`AppendError::TooLarge`].
    ///
    /// All operations become visible at once: a reader that has seen one key of the batch finds the others in
    /// the same state or a newer one. For this the partitions of the keys are locked while the keydir is
    /// updated, about 0.2 us a key.
    pub fn write(&self, batch: &Batch) -> Result<(), AppendError> {
        embedded::write(&self.0, batch)
    }

    /// Returns an iterator over all present keys and their records, in no particular order. A key that is
    /// written or deleted meanwhile may be missing; every other key is returned once.
    pub fn iterate(&self) -> Iter {
        Iter::new(self.0.clone())
    }

    /// Returns an iterator over the present keys between these bounds and their records, in the order of the
    /// keys' bytes. It skips expired keys. A damaged record is returned as an error in its place; the scan
    /// then continues.
    ///
    /// Needs [`Index::Ordered`](crate::options::Index::Ordered). The begin of a scan reads from every
    /// partition: about 0.5 ms.
    pub fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Result<Scan, ScanError> {
        Scan::range(self.0.clone(), start, end)
    }

    /// Returns an iterator over the present keys with this prefix, like [`Engine::range`]. If the prefix
    /// contains a whole hash tag (`user:{42}:`), it reads only that tag's partition.
    pub fn prefix(&self, prefix: &[u8]) -> Result<Scan, ScanError> {
        Scan::prefix(self.0.clone(), prefix)
    }

    /// Returns the first keys between these bounds, of the given partitions or of all, in key order. Examines
    /// `limit` keys (1 to 10,000). A page may have fewer keys, if some were deleted meanwhile, without being
    /// the last.
    ///
    /// Needs [`Index::Ordered`](crate::options::Index::Ordered).
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
    /// takes effect at the engine's next look, or at the next [`Engine::run_once`]. A merge that waits for
    /// its budget continues at once.
    pub fn set_space_low(&self, low: bool) {
        self.0.merges.set_space_low(low);
    }

    /// Returns whether merges treat space as low: the last value passed to [`Engine::set_space_low`] or, if
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
