//! The interface for a program that embeds the store: versions are drawn from a counter, and an expired key
//! is absent.
//!
//! Each key's position names one of [`STRIPES`] locks. A plain put holds its lock shared, from before it
//! draws its version until its record is published. So puts of one key can share a sync, and the higher
//! version wins. Operations that read before they write, or must follow all earlier writes (conditional
//! writes, deletes, batches), hold their locks exclusively; several are locked in ascending order.
//! Invariants: between judging a condition and publishing its write, no other embedded write of the key runs;
//! **a tombstone's version is drawn while no put of its key is in flight**. So all older records of the key
//! lie in files that the tombstone's bound covers; merges rely on this when they drop tombstones. Nothing
//! here is ordered against [`Engine::append`].

use std::collections::{HashMap, VecDeque};
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::engine::{Core, Engine};
use crate::error::{AppendError, ReadError, StoreError};
use crate::keydir::position_of;
use crate::log::{UNWRITTEN, Unwritten};
use crate::record::{Record, Version};
use crate::slots::{PARTITIONS, Partition, partition_of};

/// Number of locks that keys share. With few more writers than threads, two keys rarely share one by chance.
const STRIPES: usize = 1024;

/// Number of positions that [`Iter`] reads at a time.
const ITER_STEP: usize = 64;

/// State that a store keeps for this interface.
#[derive(Debug)]
pub(crate) struct Embedded {
    /// The last version drawn.
    last_version: AtomicU64,
    stripes: Vec<RwLock<()>>,
}

impl Embedded {
    /// Creates the state; the first version drawn is above `highest_version`.
    pub(crate) fn new(highest_version: Version) -> Self {
        let stripes = (0..STRIPES).map(|_| RwLock::new(())).collect();
        Self { last_version: AtomicU64::new(highest_version), stripes }
    }

    pub(crate) fn last_version(&self) -> Version {
        self.last_version.load(Ordering::Relaxed)
    }

    fn shared(&self, place: Place) -> RwLockReadGuard<'_, ()> {
        self.stripes[place.stripe()].read()
    }

    fn exclusive(&self, place: Place) -> RwLockWriteGuard<'_, ()> {
        self.stripes[place.stripe()].write()
    }

    fn all_exclusive(&self, places: &[Place]) -> Vec<RwLockWriteGuard<'_, ()>> {
        let mut stripes: Vec<usize> = places.iter().map(|place| place.stripe()).collect();
        stripes.sort_unstable();
        stripes.dedup();
        stripes.into_iter().map(|stripe| self.stripes[stripe].write()).collect()
    }

    /// Draws a version above all drawn before, and above `highest`.
    fn draw_version(&self, highest: Version) -> Result<Version, AppendError> {
        // Checked first: an owner's versions are seldom above the counter, and a load is cheaper than a
        // `fetch_max`.
        if self.last_version.load(Ordering::Relaxed) < highest {
            self.last_version.fetch_max(highest, Ordering::Relaxed);
        }
        let last = self.last_version.fetch_add(1, Ordering::Relaxed);
        last.checked_add(1).ok_or_else(|| {
            // The counter must stay at its maximum, so that the next call fails too.
            self.last_version.fetch_max(Version::MAX, Ordering::Relaxed);
            AppendError::VersionsUsedUp
        })
    }
}

/// Partition and position of a key.
#[derive(Clone, Copy, Debug)]
struct Place {
    partition: Partition,
    position: u64,
}

impl Place {
    fn of(key: &[u8]) -> Self {
        Self { partition: partition_of(key), position: position_of(key) }
    }

    fn stripe(self) -> usize {
        (self.position % STRIPES as u64) as usize
    }
}

/// A set of puts and deletes that [`Engine::write`] applies atomically.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    operations: Vec<Operation>,
}

#[derive(Clone, Debug)]
struct Operation {
    key: Box<[u8]>,
    /// `None` deletes.
    value: Option<Box<[u8]>>,
    expiry_ms: u64,
}

impl Batch {
    /// Creates an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a put of the key's value, without expiry.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> &mut Self {
        self.put_with_expiry(key, value, 0)
    }

    /// Adds a put of the key's value, with its expiry in milliseconds since 1970; 0: never.
    pub fn put_with_expiry(&mut self, key: &[u8], value: &[u8], expiry_ms: u64) -> &mut Self {
        self.operations.push(Operation { key: key.into(), value: Some(value.into()), expiry_ms });
        self
    }

    /// Adds a delete of the key; it has no effect if the key is absent.
    pub fn delete(&mut self, key: &[u8]) -> &mut Self {
        self.operations.push(Operation { key: key.into(), value: None, expiry_ms: 0 });
        self
    }

    /// Returns the number of operations.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Returns whether the batch has no operations.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Returns the last operation of each key: the only one that takes effect.
    fn effective(&self) -> Vec<&Operation> {
        let numbered = self.operations.iter().enumerate();
        let last: HashMap<&[u8], usize> = numbered.clone().map(|(at, o)| (&*o.key, at)).collect();
        numbered.filter(|(at, o)| last.get(&*o.key) == Some(at)).map(|(_, operation)| operation).collect()
    }
}

/// Result of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the write was made only if its condition held"]
pub enum Conditional {
    /// The condition held and the write was made. The version is that of the new record (of a delete: its
    /// tombstone).
    Done(Version),
    /// The condition did not hold and nothing was written. The version is the key's present one; `None`: it
    /// is absent.
    Unmet(Option<Version>),
}

impl Engine {
    /// Returns the value of a key that has not expired by this machine's clock.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        Ok(self.get_with_version(key)?.map(|(value, _)| value))
    }

    /// Returns the value of a key and its version, for [`Engine::put_if_version`]. Equal versions mean the
    /// same write.
    pub fn get_with_version(&self, key: &[u8]) -> Result<Option<(Bytes, Version)>, ReadError> {
        let Some(stored) = self.0.find(key)? else { return Ok(None) };
        let (version, expiry_ms) = (stored.header.version, stored.header.expiry_ms);
        // Few keys expire: the clock is not read for the others.
        let is_there = expiry_ms == 0 || expiry_ms > now_ms();
        Ok(stored.into_value().filter(|_| is_there).map(|value| (value, version)))
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
        let place = Place::of(key);
        let _shared = self.0.embedded.shared(place);
        let mut record = self.0.own_record(place, key, Some(value), expiry_ms)?;
        self.0.append_and_publish(slice::from_mut(&mut record))
    }

    /// Deletes the key; returns whether it was present.
    pub fn delete(&self, key: &[u8]) -> Result<bool, StoreError> {
        let deleted = self.write_if(key, None, |present| present.is_some())?;
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
        self.write_if(key, Some(value), |present| present == expected)
    }

    /// Deletes the key if its version is `expected`; otherwise like [`Engine::put_if_version`].
    pub fn delete_if_version(&self, key: &[u8], expected: Version) -> Result<Conditional, StoreError> {
        self.write_if(key, None, |present| present == Some(expected))
    }

    /// Applies all operations of the batch or, if the call or the machine fails, none of them. Of several
    /// operations on a key the last takes effect. A batch may have at most `append_buffer_bytes`; a larger
    /// one fails with [`AppendError::TooLarge`].
    ///
    /// All operations become visible at once: a reader that has seen one key of the batch finds the others in
    /// the same state or a newer one. For this the partitions of the keys are locked while the keydir is
    /// updated, about 0.2 us a key.
    pub fn write(&self, batch: &Batch) -> Result<(), AppendError> {
        let operations = batch.effective();
        let places: Vec<Place> = operations.iter().map(|operation| Place::of(&operation.key)).collect();
        let _exclusive = self.0.embedded.all_exclusive(&places);
        let mut records = Vec::with_capacity(operations.len());
        for (operation, &place) in operations.into_iter().zip(&places) {
            // A key without an entry was never written: there is nothing to delete.
            if operation.value.is_some() || self.0.has_entry(place) {
                let value = operation.value.as_deref();
                records.push(self.0.own_record(place, &operation.key, value, operation.expiry_ms)?);
            }
        }
        if records.is_empty() {
            return Ok(());
        }
        self.0.append_and_publish(&mut records)
    }

    /// Writes the value (`None`: deletes the key) if `holds` returns true for the key's present version.
    fn write_if(
        &self,
        key: &[u8],
        value: Option<&[u8]>,
        holds: impl FnOnce(Option<Version>) -> bool,
    ) -> Result<Conditional, StoreError> {
        let place = Place::of(key);
        let _exclusive = self.0.embedded.exclusive(place);
        // Created before the read: if the partition is dropped after the read, this write is dropped too.
        let mut record = self.0.own_record(place, key, value, 0)?;
        let present = self.get_with_version(key)?.map(|(_, version)| version);
        if !holds(present) {
            return Ok(Conditional::Unmet(present));
        }
        self.0.append_and_publish(slice::from_mut(&mut record))?;
        Ok(Conditional::Done(record.version))
    }

    /// Returns an iterator over all present keys and their records, in no particular order. A key that is
    /// written or deleted meanwhile may be missing; every other key is returned once.
    pub fn iterate(&self) -> Iter {
        Iter {
            engine: self.clone(),
            partitions: 0..PARTITIONS,
            partition: 0,
            positions: VecDeque::new(),
            ready: VecDeque::new(),
        }
    }
}

impl Core {
    /// Creates a record with a new version, above any version that an owner assigned. The caller holds the
    /// key's lock.
    fn own_record<'a>(
        &self,
        place: Place,
        key: &'a [u8],
        value: Option<&'a [u8]>,
        expiry_ms: u64,
    ) -> Result<Unwritten<'a>, AppendError> {
        let Place { partition, position } = place;
        let (era, highest) = self.keydir.era_and_highest(partition);
        let version = self.embedded.draw_version(highest)?;
        Ok(Unwritten {
            key,
            value,
            version,
            expiry_ms,
            user_flags: 0,
            partition,
            era,
            position,
            at: UNWRITTEN,
        })
    }

    /// Replaces the key's record by a tombstone if it still has this version and has expired; returns whether
    /// it did. For code that finds expired records in a store that is not replicated.
    pub(crate) fn bury_expired(&self, key: &[u8], version: Version) -> Result<bool, StoreError> {
        let place = Place::of(key);
        let _exclusive = self.embedded.exclusive(place);
        let mut tombstone = self.own_record(place, key, None, 0)?;
        let expired = |record: &Record| {
            record.version == version && record.value.is_some() && !is_present(record, now_ms())
        };
        if !self.read(key)?.as_ref().is_some_and(expired) {
            return Ok(false);
        }
        self.append_and_publish(slice::from_mut(&mut tombstone))?;
        Ok(true)
    }

    fn has_entry(&self, place: Place) -> bool {
        !self.keydir.entries_at(place.partition, place.position).as_slice().is_empty()
    }
}

pub(crate) fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since_1970.as_millis() as u64
}

pub(crate) fn is_present(record: &Record, now_ms: u64) -> bool {
    record.value.is_some() && (record.expiry_ms == 0 || record.expiry_ms > now_ms)
}

/// Iterator over the present keys of a store: [`Engine::iterate`].
#[derive(Debug)]
pub struct Iter {
    engine: Engine,
    partitions: std::ops::Range<Partition>,
    partition: Partition,
    positions: VecDeque<u64>,
    ready: VecDeque<Record>,
}

impl Iterator for Iter {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let now_ms = now_ms();
            while let Some(record) = self.ready.pop_front() {
                if is_present(&record, now_ms) {
                    return Some(Ok(record));
                }
            }
            if self.positions.is_empty() {
                self.partition = self.partitions.next()?;
                let entries = self.engine.inventory(self.partition);
                let mut live: Vec<u64> =
                    entries.iter().filter(|entry| !entry.tombstone).map(|entry| entry.position).collect();
                // Keys that share a position are read together.
                live.dedup();
                self.positions = live.into();
                continue;
            }
            let step: Vec<u64> = self.positions.drain(..ITER_STEP.min(self.positions.len())).collect();
            match self.engine.read_positions(self.partition, &step) {
                Ok(records) => self.ready.extend(records),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
