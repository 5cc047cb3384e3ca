//! The engine: the calls of its owner, composed from the other modules.

use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::background::Background;
use crate::budget::Budget;
use crate::data_file::{FileTable, Location, Pin, Stored};
use crate::directory::Directory;
use crate::embedded::Embedded;
use crate::error::{AppendError, IoError, MergeError, OpenError, ReadError, SnapshotError};
use crate::file_system::{FileSystem, RealFileSystem, Space};
use crate::format::Eras;
use crate::keydir::{Candidate, Keydir, Published, position_of};
use crate::log::{Appended, AppendedRecord, Log, Prepared, TakenGroup, Unwritten};
use crate::merge::{Merged, Merges};
use crate::options::Options;
use crate::record::{InventoryEntry, Record, Version};
use crate::recovery::{Recovered, Recovery, recover, set_strays_aside};
use crate::slots::{Partition, partition_of};
use crate::snapshot::Snapshot;
use crate::stats::{EngineStats, PartitionStats};
use crate::table::Entry;
use crate::task::TaskStatus;

/// Limit of retries of a read whose record was moved or replaced meanwhile.
const READ_RETRIES_MAX: usize = 16;

/// An open store. Clones share it; dropping the last clone closes it.
#[derive(Clone)]
pub struct Engine(pub(crate) Arc<Shell>);

/// The store and its background thread. The thread ends before the store is dropped.
pub(crate) struct Shell {
    tender: Background,
    pub(crate) core: Arc<Core>,
}

impl Deref for Shell {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

/// The state of an open store.
pub(crate) struct Core {
    // Rust drops the fields in this order: the log must stop before the directory is unlocked.
    pub(crate) log: Log,
    pub(crate) keydir: Keydir,
    pub(crate) files: Arc<FileTable>,
    pub(crate) eras: Mutex<Eras>,
    pub(crate) embedded: Embedded,
    pub(crate) merges: Merges,
    pub(crate) options: Options,
    pub(crate) directory: Arc<Directory>,
}

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
        options.validate().map_err(OpenError::Options)?;
        let (mut directory, mut listing) =
            Directory::open(file_system.clone(), &options.path, options.reserve_bytes)?;
        let strays = set_strays_aside(&mut directory, &mut listing);
        let eras = directory.load_eras(&mut listing)?;
        let keydir = Keydir::new(&eras.eras, options.index);
        let files = Arc::new(FileTable::new(file_system, &options));
        let Recovered { mut report, writer, highest_version, unreadable } =
            recover(&options, &directory, &listing, &files, &keydir)?;
        report.strays = strays;
        let directory = Arc::new(directory);
        let log = Log::start(&options, directory.clone(), writer)?;
        log.counters().records.store(report.records, Ordering::Relaxed);
        let core = Arc::new(Core {
            log,
            keydir,
            files,
            embedded: Embedded::new(highest_version.max(eras.version_floor)),
            eras: Mutex::new(eras),
            merges: Merges::new(unreadable),
            options,
            directory,
        });
        core.fit_file_limit();
        let tender = Background::start(&core)?;
        Ok((Self(Arc::new(Shell { tender, core })), report))
    }

    /// Returns the newest published record of the key, which may be a tombstone. `None`: the key has no
    /// record.
    pub fn read(&self, key: &[u8]) -> Result<Option<Record>, ReadError> {
        self.0.read(key)
    }

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
        self.0.log.append(self.0.prepare(records), Box::new(done));
    }

    /// Makes appended records visible. Of several records of a key the highest version stays, in whatever
    /// order and however often they are published. Ignores records of a partition that was dropped after
    /// their append.
    ///
    /// Reads the disk only if the keydir already holds the key's position, to compare the key. If the record
    /// there is damaged, the new record replaces it.
    pub fn publish(&self, appended: Appended) {
        let Some(pin) = &appended.pin else { return };
        if let [alone] = &appended.records[..] {
            self.0.publish(pin, &[alone.candidate()]);
        } else {
            let candidates: Vec<_> = appended.records.iter().map(AppendedRecord::candidate).collect();
            self.0.publish(pin, &candidates);
        }
    }

    /// Appends, waits until the records are durable under the sync policy, and publishes them. Waits for room
    /// if the append buffer is full. Must not be called from a callback of [`Engine::append`].
    pub fn apply(&self, records: Vec<Record>) -> Result<(), AppendError> {
        let prepared = self.0.prepare(records);
        let mut unwritten: Vec<_> = prepared.iter().map(Prepared::unwritten).collect();
        self.0.append_and_publish(&mut unwritten)
    }

    /// Returns the figures of a partition, in constant time.
    ///
    /// # Panics
    /// Panics if the partition does not exist, like every function that takes a partition.
    pub fn partition_stats(&self, partition: Partition) -> PartitionStats {
        self.0.keydir.stats(partition)
    }

    /// Returns an entry for every published record of a partition, tombstones included, ordered by position.
    pub fn inventory(&self, partition: Partition) -> Vec<InventoryEntry> {
        self.0.keydir.entries(partition).iter().map(InventoryEntry::from).collect()
    }

    /// Returns the records at these positions, tombstones included. A position may have no record, or
    /// several.
    ///
    /// # Errors
    /// One damaged record fails the whole call; the other records can still be read one position at a time.
    pub fn read_positions(&self, partition: Partition, positions: &[u64]) -> Result<Vec<Record>, ReadError> {
        let mut records = Vec::with_capacity(positions.len());
        for &position in positions {
            records.extend(self.0.read_position(partition, position)?);
        }
        Ok(records)
    }

    /// Empties partitions, durably. Also drops records that were appended before this call and are not
    /// published yet. Records appended after it are kept.
    pub fn drop_partitions(&self, partitions: &[Partition]) -> Result<(), AppendError> {
        let mut eras = self.0.eras.lock();
        let mut raised = eras.clone();
        raised.version_floor = raised.version_floor.max(self.0.highest_version());
        let mut dropped = partitions.to_vec();
        dropped.sort_unstable();
        dropped.dedup();
        for &partition in &dropped {
            let era =
                self.0.keydir.era(partition).checked_add(1).ok_or(AppendError::ErasUsedUp(partition))?;
            if let Some(slot) = raised.eras.get_mut(usize::from(partition)) {
                *slot = era;
            }
        }
        if let Err(failed) = self.0.directory.store_eras(&raised) {
            // Either eras file may be the one on disk, so no later append could be guaranteed to survive.
            let settled = failed.settled;
            return Err(if settled { failed.error.into() } else { self.0.log.poison(failed.error) });
        }
        *eras = raised;
        for &partition in &dropped {
            if let Some(&era) = eras.eras.get(usize::from(partition)) {
                self.0.keydir.clear(partition, era);
                self.0.merges.forget_clean(partition);
            }
        }
        Ok(())
    }

    /// Returns the figures of the store.
    pub fn stats(&self) -> EngineStats {
        let totals = self.0.keydir.totals();
        let counters = self.0.log.counters();
        let (data_files, open_files) = self.0.files.counts();
        EngineStats {
            records_total: counters.records.load(Ordering::Relaxed),
            live_keys: totals.live_keys,
            tombstones: totals.tombstones,
            disk_bytes: self.0.files.all().iter().map(|file| file.len()).sum(),
            live_bytes: totals.live_bytes,
            data_files: data_files as u64,
            open_files: open_files as u64,
            appends: counters.appends.load(Ordering::Relaxed),
            syncs: counters.syncs.load(Ordering::Relaxed),
            waiting_bytes: self.0.log.waiting_bytes() as u64,
            reserve_bytes: self.0.directory.reserve().held(),
        }
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
        self.0.tender.stop();
        self.0.log.close()
    }

    /// Makes every append made before this call durable, whatever the sync policy.
    pub fn sync(&self) -> Result<(), AppendError> {
        self.0.log.sync()
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

    /// Does the work of the engine's thread (see [`Options::background`]) in the calling thread: writes
    /// missing hint files and runs due merges, at any time of the day. Waits for such work if another thread
    /// does it already.
    pub fn run_once(&self) -> Result<Merged, MergeError> {
        self.0.look_at_space()?;
        self.0.run_once(true)
    }

    /// Completes the active file and merges every data file that has dead bytes, regardless of the triggers
    /// and the window. Reads and writes continue meanwhile.
    pub fn merge(&self) -> Result<Merged, MergeError> {
        self.0.merge_all()
    }

    /// Makes a snapshot in a directory that is empty or does not exist, on the same file system. The snapshot
    /// holds everything published before this call, and nothing appended after it. It shares the data files
    /// by hard links, so it takes almost no space until they are merged. Reads and writes continue; writes
    /// wait for at most one sync. [`restore`](crate::restore) makes a store of it.
    pub fn snapshot(&self, to: &Path) -> Result<Snapshot, SnapshotError> {
        self.0.snapshot(to)
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

    /// Declares that no other copy will send a record of this partition that is older than a tombstone up to
    /// this version. Merges may then drop such tombstones, if the store itself holds no older record either.
    /// For the owner of a replicated store ([`Options::replicated`]). Dropping the partition revokes the
    /// declaration.
    pub fn mark_clean(&self, partition: Partition, up_to: Version) {
        self.0.merges.mark_clean(partition, up_to);
    }

    pub(crate) fn keydir(&self) -> &Keydir {
        &self.0.keydir
    }
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
            self.flag_damaged(file, *offset, reason);
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

    /// Appends, waits and publishes like [`Engine::apply`], for borrowed records.
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
    /// older records that are published out of order (see [`crate::merge`]).
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
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
