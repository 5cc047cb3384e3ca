//! One run of a merge: copies the live records of its inputs, and removes the inputs all at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::output::Output;
use super::select::reach_of_others;
use super::space;
use crate::clock::now_ms;
use crate::core::Core;
use crate::data_file::{DataFile, FileSlot, Location, open_to_read};
use crate::embedded::bury_expired;
use crate::error::MergeError;
use crate::file_scan::Bounds;
use crate::format::{ERAS_REMOVED_MAX, Kind, Parsed, bound_of};
use crate::hint_file::{Visited, scanner_of, visit};
use crate::keydir::{Candidate, position_of};
use crate::mutation::drops_tombstones_by_age;
use crate::record::Version;
use crate::slots::{PARTITIONS, Partition, partition_of};
use crate::table::Entry;
use crate::task::Merged;

/// Bytes read between two checks of the budget.
const STEP_BYTES: u64 = 256 << 10;

/// Limit of the expired keys that one run remembers, to turn them into tombstones.
const EXPIRED_MAX: usize = 10_000;

/// One run of a merge.
pub(super) struct Run<'a> {
    core: &'a Core,
    inputs: &'a [Arc<DataFile>],
    /// The lowest reach of all other files: tombstones of lower bounds hide nothing outside the inputs.
    reach: u64,
    /// The version up to which each partition is clean, as at the beginning of the run; by partition.
    clean: Vec<Version>,
    now_ms: u64,
    output: Option<Output>,
    merged: Merged,
    input_records: u64,
    expired: Vec<(Vec<u8>, Version)>,
    bytes_done: u64,
}

impl<'a> Run<'a> {
    pub(super) fn new(core: &'a Core, inputs: &'a [Arc<DataFile>]) -> Self {
        let clean_up_to = |partition| core.merges.clean_up_to(core.replicated, partition);
        Self {
            core,
            inputs,
            reach: reach_of_others(core, inputs),
            clean: (0..PARTITIONS).map(clean_up_to).collect(),
            now_ms: now_ms(),
            output: None,
            merged: Merged::default(),
            input_records: 0,
            expired: Vec::new(),
            bytes_done: 0,
        }
    }

    /// Copies the live records of the inputs, and removes the inputs.
    pub(super) fn run(mut self) -> Result<Merged, MergeError> {
        let copied = self.copy();
        if copied.is_err()
            && let Some(output) = self.output.take()
        {
            output.discard(&self.core.directory);
        }
        copied?;
        let records = &self.core.log.counters().records;
        records.fetch_add(self.merged.records_copied, Ordering::Relaxed);
        if self.inputs.iter().any(|file| file.is_damaged()) {
            // The damaged input stays, and may hold older records of keys whose tombstones were not copied.
            // So all inputs stay.
            return Ok(Merged { bytes_freed: 0, ..self.merged });
        }
        let gone = self.inputs;
        self.check_nothing_live(gone)?;
        // Records that replaced uncopied ones may not be durable yet, where appends are not synced at once. A
        // power loss must not take both.
        self.core.log.sync()?;
        let freed: u64 = gone.iter().map(|file| file.len()).sum();
        self.remove(gone)?;
        self.merged.files = gone.len() as u64;
        self.merged.bytes_freed = freed.saturating_sub(self.merged.bytes_freed);
        records.fetch_sub(self.input_records, Ordering::Relaxed);
        self.bury_expired();
        Ok(self.merged)
    }

    /// Copies the live records of all inputs.
    fn copy(&mut self) -> Result<(), MergeError> {
        let inputs = self.inputs;
        for input in inputs {
            let header = input.header();
            if let Some(records) = space::records_of_dead(self.core, input) {
                self.input_records += records;
                continue;
            }
            let handle = open_to_read(&**self.core.directory.file_system(), &input.path)?;
            let mut scanner = scanner_of(&handle, &input.path, &header, input.len());
            let mut records = 0;
            let mut seen = 0;
            let end = visit(&mut scanner, &header, Bounds::Sealed, |visited| match visited {
                Visited::Record(offset, record) => {
                    records += 1;
                    if offset - seen >= STEP_BYTES {
                        self.pace(offset - seen)?;
                        seen = offset;
                    }
                    self.take(input, offset, record)
                }
                Visited::Bad { offset, bytes, reason } => {
                    // More of it may have been damaged since it was healed.
                    if !input.is_healed() || !self.core.records_within(input, offset, bytes).is_empty() {
                        input.found_damaged(offset, &reason.to_string());
                    }
                    Ok(())
                }
            })?;
            if !end.ends_marked && !input.is_damaged() && !input.is_healed() {
                input.found_damaged(end.offset, "the end mark of the file is missing");
            }
            if !input.is_damaged() {
                self.input_records += records;
            }
            self.pace(input.len().saturating_sub(seen))?;
        }
        self.complete_output()
    }

    /// Waits for the budget, and updates the progress of the run.
    fn pace(&mut self, bytes: u64) -> Result<(), MergeError> {
        self.bytes_done += bytes;
        if let Some(status) = &mut *self.core.merges.status.lock() {
            status.bytes_done = self.bytes_done;
        }
        let merges = &self.core.merges;
        // While space is low nothing is booked: other users of the budget would have to wait for it later.
        if !merges.is_space_low() {
            self.core.options.budget.wait(bytes, &|| merges.stopped() || merges.is_space_low());
        }
        if self.core.merges.stopped() { Err(MergeError::Stopped) } else { Ok(()) }
    }

    /// Copies a record if it is live.
    fn take(&mut self, input: &DataFile, offset: u64, record: &Parsed<'_>) -> Result<(), MergeError> {
        let partition = partition_of(record.key);
        let position = position_of(record.key);
        // Files are below 4 GiB.
        let here = (input.slot, offset as u32);
        if !self.core.keydir.is_at(partition, record.header.era, position, here) {
            return Ok(());
        }
        let bound = (record.header.kind == Kind::Tombstone).then(|| bound_of(input.id, record.value));
        if self.is_dropped(partition, record.header.version, bound) {
            return Ok(());
        }
        let expiry_ms = record.header.expiry_ms;
        let is_expired = bound.is_none() && expiry_ms != 0 && expiry_ms <= self.now_ms;
        if is_expired && !self.core.replicated && self.expired.len() < EXPIRED_MAX {
            // Copied nevertheless: the record becomes dead when its tombstone is published.
            self.expired.push((record.key.to_vec(), record.header.version));
        }
        let len = record.header.record_len();
        if self.output.as_ref().is_some_and(|output| !output.has_room(len, space::output_limit(self.core))) {
            self.complete_output()?;
        }
        let output = match &mut self.output {
            Some(output) => output,
            none => none.insert(Output::begin(&self.core.directory, || self.core.log.settled_below())?),
        };
        output.push(record, bound)?;
        self.merged.records_copied += 1;
        if !self.core.merges.is_space_low() {
            self.core.options.budget.take(len);
        }
        Ok(())
    }

    /// Returns whether this is a tombstone that is not needed any more.
    fn is_dropped(&self, partition: Partition, version: Version, bound: Option<u64>) -> bool {
        let clean = self.clean.get(usize::from(partition)).copied().unwrap_or(0);
        let unneeded = |bound| version <= clean && bound < self.reach;
        bound.is_some_and(|bound| unneeded(bound) || drops_tombstones_by_age())
    }

    /// Makes the output durable and points the keydir to it.
    fn complete_output(&mut self) -> Result<(), MergeError> {
        let Some(output) = self.output.take() else { return Ok(()) };
        let core = self.core;
        let (file, handle) = output.complete(&core.directory, &core.files)?;
        self.merged.outputs += 1;
        // Counts written bytes until the end of the run, which subtracts them from the freed ones.
        self.merged.bytes_freed += file.len();
        let is_input = |slot: FileSlot| self.inputs.iter().any(|input| input.slot == slot);
        let header = file.header();
        let mut scanner = scanner_of(&handle, &file.path, &header, file.len());
        visit(&mut scanner, &header, Bounds::Sealed, |visited| match visited {
            Visited::Record(offset, record) => {
                relocate(core, &file, offset, record, is_input);
                Ok(())
            }
            // The output cannot be read back. The inputs are kept, because the keydir still points to them.
            Visited::Bad { offset, reason, .. } => {
                file.found_damaged(offset, &reason.to_string());
                Err(MergeError::Unverified { path: file.path.clone() })
            }
        })?;
        Ok(())
    }

    /// Checks that no live record is left in the inputs: the uncopied ones must be dead, or tombstones to
    /// drop.
    fn check_nothing_live(&self, gone: &[Arc<DataFile>]) -> Result<(), MergeError> {
        for file in gone {
            if self.core.keydir.figures().of(file.slot).live_bytes > 0 {
                return Err(MergeError::StillLive { path: file.path.clone() });
            }
        }
        Ok(())
    }

    /// Removes all of the inputs, or none.
    fn remove(&mut self, gone: &[Arc<DataFile>]) -> Result<(), MergeError> {
        let ids = gone.iter().map(|file| file.id).collect();
        let removed = remove_files(self.core, ids, || {
            self.drop_tombstones(gone);
            gone.iter().for_each(|file| self.core.files.remove(file));
        });
        match removed {
            Err(error) if error.is_no_space() && space::remove_dead(self.core, gone)? => Ok(()),
            removed => removed,
        }
    }

    /// Removes from the keydir the tombstones that are still in the inputs: those that were not copied. It
    /// cannot fail: the inputs are given up already, and nothing may point to them.
    fn drop_tombstones(&mut self, gone: &[Arc<DataFile>]) {
        let keydir = &self.core.keydir;
        if gone.iter().all(|file| keydir.figures().of(file.slot).tombstone_bytes == 0) {
            return;
        }
        let is_gone = |slot: FileSlot| gone.iter().any(|file| file.slot == slot);
        for partition in 0..PARTITIONS {
            for tombstone in keydir.tombstones_in(partition, is_gone) {
                let dropped = keydir.remove_tombstone(partition, &tombstone);
                self.merged.tombstones_dropped += u64::from(dropped);
            }
        }
    }

    /// Turns the expired records that the run found into tombstones, unless they have changed.
    fn bury_expired(&mut self) {
        for (key, version) in std::mem::take(&mut self.expired) {
            match bury_expired(self.core, &key, version) {
                Ok(buried) => self.merged.records_expired += u64::from(buried),
                Err(error) => {
                    tracing::warn!(%error, "cannot delete expired records; the next merge retries");
                    return;
                }
            }
        }
    }
}

fn entry_at(file: &DataFile, offset: u64, record: &Parsed<'_>) -> Entry {
    let at = Location { file: file.slot, offset: offset as u32, len: record.header.record_len() as u32 };
    let is_tombstone = record.header.kind == Kind::Tombstone;
    Entry::new(position_of(record.key), record.header.version, at, is_tombstone)
        .with_expiry(record.header.expiry_ms != 0)
}

fn relocate(
    core: &Core,
    output: &DataFile,
    offset: u64,
    record: &Parsed<'_>,
    is_input: impl Fn(FileSlot) -> bool,
) {
    let copy = Candidate {
        partition: partition_of(record.key),
        era: record.header.era,
        key: record.key,
        entry: entry_at(output, offset, record),
    };
    core.keydir.relocate(&core.files, &copy, is_input);
}

/// Declares durably that these data files are not needed, calls `gone`, and removes them.
pub(crate) fn remove_files(core: &Core, ids: Vec<u64>, gone: impl FnOnce()) -> Result<(), MergeError> {
    let mut eras = core.eras.lock();
    let mut next = eras.clone();
    // The list may include files of an earlier run that could not be removed yet.
    next.removed.extend(ids);
    if next.removed.len() > ERAS_REMOVED_MAX {
        return Err(MergeError::NotRemoved { files: eras.removed.len() });
    }
    let highest = next.removed.iter().max().copied().unwrap_or(0);
    next.file_id_floor = next.file_id_floor.max(highest);
    next.version_floor = next.version_floor.max(core.highest_version());
    // Either eras file may be on disk after a failure: no current record is in these files any more.
    core.directory.store_eras(&next).map_err(|failed| failed.error)?;
    *eras = next;
    gone();
    match core.directory.remove_files(&eras.removed) {
        Ok(()) => eras.removed.clear(),
        Err(error) => {
            tracing::warn!(%error, "cannot remove merged data files; the next merge or start retries");
        }
    }
    Ok(())
}
