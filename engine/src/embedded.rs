//! The interface for a program that embeds the store: versions are drawn from a counter, and an expired key
//! is absent.
//!
//! Each key has one of the locks of [`crate::stripes`]. A plain put holds its lock shared, from before it
//! draws its version until its record is published. So puts of one key can share a sync, and the higher
//! version wins. Operations that read before they write, or must follow all earlier writes (conditional
//! writes, deletes, batches), hold their locks exclusively.
//! Invariants: between judging a condition and publishing its write, no other embedded write of the key runs;
//! **a tombstone's version is drawn while no put of its key is in flight**. So all older records of the key
//! lie in files that the tombstone's bound covers; merges rely on this when they drop tombstones. Nothing
//! here is ordered against appends of an owner: no store is open through both doors.

use std::collections::HashMap;
use std::slice;

use bytes::Bytes;

use crate::clock::now_ms;
use crate::core::Core;
use crate::error::{AppendError, ReadError, StoreError};
use crate::log::record::{UNWRITTEN, Unwritten};
use crate::record::{Record, Version};
use crate::stripes::Place;

/// A set of puts and deletes that [`Engine::write`](crate::Engine::write) applies atomically.
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

/// Returns the value of a key that has not expired, and its version.
pub(crate) fn get(core: &Core, key: &[u8]) -> Result<Option<(Bytes, Version)>, ReadError> {
    let Some(stored) = core.find(key)? else { return Ok(None) };
    let (version, expiry_ms) = (stored.header.version, stored.header.expiry_ms);
    // Few keys expire: the clock is not read for the others.
    let is_there = expiry_ms == 0 || expiry_ms > now_ms();
    Ok(stored.into_value().filter(|_| is_there).map(|value| (value, version)))
}

/// Sets the key's value, with its expiry in milliseconds since 1970; 0: never.
pub(crate) fn put(core: &Core, key: &[u8], value: &[u8], expiry_ms: u64) -> Result<(), AppendError> {
    let place = Place::of(key);
    let _shared = core.embedded.shared(place);
    let mut record = own_record(core, place, key, Some(value), expiry_ms)?;
    core.append_and_publish(slice::from_mut(&mut record))
}

/// Applies all operations of the batch, or none.
pub(crate) fn write(core: &Core, batch: &Batch) -> Result<(), AppendError> {
    let operations = batch.effective();
    let places: Vec<Place> = operations.iter().map(|operation| Place::of(&operation.key)).collect();
    let _exclusive = core.embedded.all_exclusive(&places);
    let mut records = Vec::with_capacity(operations.len());
    for (operation, &place) in operations.into_iter().zip(&places) {
        // A key without an entry was never written: there is nothing to delete.
        if operation.value.is_some() || has_entry(core, place) {
            let value = operation.value.as_deref();
            records.push(own_record(core, place, &operation.key, value, operation.expiry_ms)?);
        }
    }
    if records.is_empty() {
        return Ok(());
    }
    core.append_and_publish(&mut records)
}

/// Writes the value (`None`: deletes the key) if `holds` returns true for the key's present version.
pub(crate) fn write_if(
    core: &Core,
    key: &[u8],
    value: Option<&[u8]>,
    holds: impl FnOnce(Option<Version>) -> bool,
) -> Result<Conditional, StoreError> {
    let place = Place::of(key);
    let _exclusive = core.embedded.exclusive(place);
    // Created before the read: if the partition is dropped after the read, this write is dropped too.
    let mut record = own_record(core, place, key, value, 0)?;
    let present = get(core, key)?.map(|(_, version)| version);
    if !holds(present) {
        return Ok(Conditional::Unmet(present));
    }
    core.append_and_publish(slice::from_mut(&mut record))?;
    Ok(Conditional::Done(record.version))
}

/// Replaces the key's record by a tombstone if it still has this version and has expired; returns whether it
/// did. For code that finds expired records in a store that is not replicated.
pub(crate) fn bury_expired(core: &Core, key: &[u8], version: Version) -> Result<bool, StoreError> {
    let place = Place::of(key);
    let _exclusive = core.embedded.exclusive(place);
    let mut tombstone = own_record(core, place, key, None, 0)?;
    let expired =
        |record: &Record| record.version == version && record.value.is_some() && !record.is_present(now_ms());
    if !core.read(key)?.as_ref().is_some_and(expired) {
        return Ok(false);
    }
    core.append_and_publish(slice::from_mut(&mut tombstone))?;
    Ok(true)
}

/// Creates a record with a new version, above any version that an owner assigned. The caller holds the key's
/// lock.
fn own_record<'a>(
    core: &Core,
    place: Place,
    key: &'a [u8],
    value: Option<&'a [u8]>,
    expiry_ms: u64,
) -> Result<Unwritten<'a>, AppendError> {
    let Place { partition, position } = place;
    let (era, highest) = core.keydir.era_and_highest(partition);
    let version = core.embedded.draw_version(highest)?;
    Ok(Unwritten { key, value, version, expiry_ms, user_flags: 0, partition, era, position, at: UNWRITTEN })
}

fn has_entry(core: &Core, place: Place) -> bool {
    !core.keydir.entries_at(place.partition, place.position).as_slice().is_empty()
}

#[cfg(test)]
mod tests;
