//! Merges: copy the live records of data files with many dead bytes into new files, and remove the old files.
//!
//! A run reads its inputs once, in order, and copies each record that the keydir points to. When an output is
//! complete, durable and renamed into place, the keydir is pointed to its records. Each record is moved under
//! its partition's lock, held for that moment only. When nothing points to the inputs any more, one
//! replacement of the eras file declares all of them removed; then they are deleted. So after a crash at any
//! instant the inputs exist, or the outputs, or both: the same records, which a start applies as usual.
//!
//! **Tombstones** are dropped if two conditions hold; otherwise they are copied:
//! - (a) The partition is clean up to the tombstone's version: no other copy will send an older record any
//!   more. In a store that is its own owner this always holds: [`crate::embedded`] draws a tombstone's
//!   version while no put of the key is in flight. In a replicated store its owner declares it:
//!   [`Engine::mark_clean`](crate::Engine::mark_clean).
//! - (b) No data file except the inputs can hold an older record of the key. A tombstone has a *bound*, the
//!   id of the log file it was appended to: records published before it are in files up to that id, except in
//!   files whose *reach* is lower than their id. So (b) holds when every file except the inputs has a reach
//!   above the bound.
//!
//! These files have a reach below their id:
//! - an output of a merge: its records may be overtaken by a tombstone that was in flight when the output was
//!   begun. Its reach is the lowest file that held anything unpublished at that time;
//! - a file with a record that was overtaken before it was published (migration and repair deliver old
//!   versions late): its reach is the bound of the overtaking tombstone, and at most the lowest file as
//!   above;
//! - a file in which a start finds an older record of a key that has a tombstone of a lower bound.
//!
//! All inputs are removed at once, because one may hold the tombstone of an older record in another.

mod output;
mod select;
mod space;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use self::output::Output;
pub(crate) use self::select::Due;
use crate::data_file::{DataFile, FileSlot, Location, open_to_read};
use crate::embedded::now_ms;
use crate::engine::Core;
use crate::error::MergeError;
use crate::file_scan::Bounds;
use crate::format::{ERAS_REMOVED_MAX, FileHeader, Kind, Parsed, bound_of};
use crate::hint_file::{HintWritten, Visited, scanner_of, visit, write_hint};
use crate::keydir::{Candidate, position_of};
use crate::mutation::drops_tombstones_by_age;
use crate::record::Version;
use crate::scrub::Restores;
use crate::slots::{PARTITIONS, Partition, partition_of};
use crate::table::Entry;
use crate::task::{TaskKind, TaskState, TaskStatus};

/// Limit of the files that one run merges.
const INPUTS_MAX: usize = 64;

/// Bytes read between two checks of the budget.
const STEP_BYTES: u64 = 256 << 10;

/// Limit of the expired keys that one run remembers, to turn them into tombstones.
const EXPIRED_MAX: usize = 10_000;

/// State that merges keep between runs.
#[derive(Debug)]
pub(crate) struct Merges {
    /// Held during a run, and by operations that need the files to stay. Meanwhile only log files are added,
    /// and no data file is removed.
    pub(crate) running: Mutex<()>,
    stop: AtomicBool,
    /// The store is being closed: a run must stop, and no other may begin.
    closing: AtomicBool,
    /// Limit of the bytes that a run may copy; lowered after a run that found no room.
    copied_max: AtomicU64,
    /// Whether space is low: merges then ignore their window and their budget.
    space_low: AtomicBool,
    /// The version up to which each partition is clean, as its owner declared; by partition.
    clean: Vec<AtomicU64>,
    status: Mutex<Option<TaskStatus>>,
    pub(crate) restores: Restores,
    /// Ids of files that could not be read at the start: their records are unknown.
    pub(crate) unreadable: Mutex<Vec<u64>>,
}

/// Result of [`Engine::merge`](crate::Engine::merge) or [`Engine::run_once`](crate::Engine::run_once).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Number of data files that were merged and removed.
    pub files: u64,
    /// Number of data files that were written.
    pub outputs: u64,
    /// Number of live records and tombstones that were copied.
    pub records_copied: u64,
    /// Number of tombstones that were dropped.
    pub tombstones_dropped: u64,
    /// Number of expired records that were turned into tombstones.
    pub records_expired: u64,
    /// Bytes by which the data files have become smaller.
    pub bytes_freed: u64,
    /// Number of hint files that were written.
    pub hints: u64,
}

impl Merged {
    fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.outputs += other.outputs;
        self.records_copied += other.records_copied;
        self.tombstones_dropped += other.tombstones_dropped;
        self.records_expired += other.records_expired;
        self.bytes_freed += other.bytes_freed;
        self.hints += other.hints;
    }
}

impl Merges {
    pub(crate) fn new(unreadable: Vec<u64>) -> Self {
        Self {
            running: Mutex::new(()),
            stop: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            space_low: AtomicBool::new(false),
            copied_max: AtomicU64::new(u64::MAX),
            clean: (0..PARTITIONS).map(|_| AtomicU64::new(0)).collect(),
            status: Mutex::new(None),
            restores: Restores::default(),
            unreadable: Mutex::new(unreadable),
        }
    }

    pub(crate) fn status(&self) -> Option<TaskStatus> {
        self.status.lock().clone()
    }

    /// Makes a running merge end soon; everything it did not complete stays unchanged.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(crate) fn mark_clean(&self, partition: Partition, up_to: Version) {
        if let Some(clean) = self.clean.get(usize::from(partition)) {
            clean.fetch_max(up_to, Ordering::AcqRel);
        }
    }

    /// Revokes the declaration of [`Self::mark_clean`] for a dropped partition.
    pub(crate) fn forget_clean(&self, partition: Partition) {
        if let Some(clean) = self.clean.get(usize::from(partition)) {
            clean.store(0, Ordering::Release);
        }
    }

    fn clean_up_to(&self, replicated: bool, partition: Partition) -> Version {
        if !replicated {
            return Version::MAX;
        }
        self.clean.get(usize::from(partition)).map_or(0, |clean| clean.load(Ordering::Acquire))
    }

    pub(crate) fn stop_for_good(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire) || self.closing.load(Ordering::Acquire)
    }
}

impl Core {
    /// Writes the missing hints and, if merging is allowed now, merges the due files.
    pub(crate) fn run_once(&self, merges: bool) -> Result<Merged, MergeError> {
        self.fit_file_limit();
        let mut done = Merged { hints: self.write_hints()?, ..Merged::default() };
        if merges {
            self.complete_dead_active()?;
        }
        while merges && !self.merges.stopped() {
            let merged = self.merge_due(Due::ByTriggers)?;
            if merged.files == 0 {
                break;
            }
            done.add(&merged);
            done.hints += self.write_hints()?;
        }
        Ok(done)
    }

    /// Seals the active file and merges every file with dead bytes.
    pub(crate) fn merge_all(&self) -> Result<Merged, MergeError> {
        let mut done = Merged::default();
        let below = self.log.seal_active()?;
        // Files that this call itself begins are not merged again.
        let highest = self.directory.highest_id();
        loop {
            let merged = self.merge_due(Due::AnyDead { below, up_to: highest })?;
            done.add(&merged);
            if merged.files == 0 {
                break;
            }
        }
        done.hints += self.write_hints()?;
        Ok(done)
    }

    /// Performs one run, if files are due.
    fn merge_due(&self, due: Due) -> Result<Merged, MergeError> {
        let _running = self.merges.running.lock();
        self.merges.stop.store(false, Ordering::Release);
        let mut done = Merged::default();
        loop {
            let inputs = self.select(due)?;
            // A record that is being restored may be older than a tombstone in the inputs: the run must see
            // it.
            if inputs.is_empty() || !self.merges.restores.wait() {
                return Ok(done);
            }
            let bytes_total = inputs.iter().map(|file| file.len()).sum();
            *self.merges.status.lock() = Some(TaskStatus::begun(TaskKind::Merge, bytes_total));
            let result = self.run_within_space(&inputs);
            self.finish_status(&result);
            done.add(&result?);
            // Damaged files are not selected again: the next iteration merges the others without them.
            if !inputs.iter().any(|file| file.is_damaged()) {
                return Ok(done);
            }
        }
    }

    fn finish_status(&self, result: &Result<Merged, MergeError>) {
        if let Some(status) = &mut *self.merges.status.lock() {
            status.finished(match result {
                Ok(_) => TaskState::Done,
                Err(MergeError::Stopped) => TaskState::Stopped,
                Err(error) => TaskState::Failed(error.to_string()),
            });
        }
        match result {
            Ok(merged) => tracing::info!(?merged, "merged data files"),
            Err(MergeError::Stopped) => tracing::info!("stopped a merge"),
            Err(error) if error.is_no_space() => tracing::warn!(%error, "no room for a merge; no data lost"),
            Err(error) => tracing::error!(%error, "a merge failed; no data was lost"),
        }
    }

    /// Writes the hints of complete data files that have none. Returns the number of hints written.
    fn write_hints(&self) -> Result<u64, MergeError> {
        let _running = self.merges.running.lock();
        let mut written = 0;
        for file in self.files.all().into_iter().filter(|file| file.lacks_hint()) {
            let header = header_of(&file);
            let stop = || self.merges.stopped();
            match write_hint(&self.directory, &header, file.len(), &stop) {
                Ok(HintWritten::Done) => {
                    file.set_has_hint();
                    written += 1;
                }
                Ok(HintWritten::DataDamaged { offset, reason }) => self.found_damaged(&file, offset, &reason),
                Ok(HintWritten::Stopped) => break,
                // A hint only makes the next start quicker: the remaining room is for merges.
                Err(error) if error.is_no_space() => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(written)
    }

    /// Declares durably that these data files are not needed, calls `gone`, and removes them.
    pub(crate) fn remove_files(&self, ids: Vec<u64>, gone: impl FnOnce()) -> Result<(), MergeError> {
        let mut eras = self.eras.lock();
        let mut next = eras.clone();
        // The list may include files of an earlier run that could not be removed yet.
        next.removed.extend(ids);
        if next.removed.len() > ERAS_REMOVED_MAX {
            return Err(MergeError::NotRemoved { files: eras.removed.len() });
        }
        let highest = next.removed.iter().max().copied().unwrap_or(0);
        next.file_id_floor = next.file_id_floor.max(highest);
        next.version_floor = next.version_floor.max(self.highest_version());
        // Either eras file may be on disk after a failure: no current record is in these files any more.
        self.directory.store_eras(&next).map_err(|failed| failed.error)?;
        *eras = next;
        gone();
        match self.directory.remove_files(&eras.removed) {
            Ok(()) => eras.removed.clear(),
            Err(error) => {
                tracing::warn!(%error, "cannot remove merged data files; the next merge or start retries");
            }
        }
        Ok(())
    }

    /// Marks a file as damaged. It stays unchanged, so that the next opening of the store finds the damage
    /// again.
    pub(crate) fn found_damaged(&self, file: &DataFile, offset: u64, reason: &str) {
        tracing::error!(file = %file.path.display(), offset, reason,
            "a data file is damaged: it stays unchanged; restore its keys from another copy");
        file.set_damaged();
    }
}

pub(crate) fn header_of(file: &DataFile) -> FileHeader {
    FileHeader { kind: file.kind, id: file.id, salt: file.salt }
}

/// One run of a merge.
struct Run<'a> {
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
    fn new(core: &'a Core, inputs: &'a [Arc<DataFile>]) -> Self {
        let clean_up_to = |partition| core.merges.clean_up_to(core.options.replicated, partition);
        Self {
            core,
            inputs,
            reach: core.reach_of_others(inputs),
            clean: (0..PARTITIONS).map(clean_up_to).collect(),
            now_ms: now_ms(),
            output: None,
            merged: Merged::default(),
            input_records: 0,
            expired: Vec::new(),
            bytes_done: 0,
        }
    }

    fn run(mut self) -> Result<Merged, MergeError> {
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
            let header = header_of(input);
            if let Some(records) = self.core.records_of_dead(input) {
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
                        self.core.found_damaged(input, offset, &reason.to_string());
                    }
                    Ok(())
                }
            })?;
            if !end.ends_marked && !input.is_damaged() && !input.is_healed() {
                self.core.found_damaged(input, end.offset, "the end mark of the file is missing");
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
        if is_expired && !self.core.options.replicated && self.expired.len() < EXPIRED_MAX {
            // Copied nevertheless: the record becomes dead when its tombstone is published.
            self.expired.push((record.key.to_vec(), record.header.version));
        }
        let len = record.header.record_len();
        if self.output.as_ref().is_some_and(|output| !output.has_room(len, self.core.output_limit())) {
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
        let header = header_of(&file);
        let mut scanner = scanner_of(&handle, &file.path, &header, file.len());
        visit(&mut scanner, &header, Bounds::Sealed, |visited| match visited {
            Visited::Record(offset, record) => {
                relocate(core, &file, offset, record, is_input);
                Ok(())
            }
            // The output cannot be read back. The inputs are kept, because the keydir still points to them.
            Visited::Bad { offset, reason, .. } => {
                core.found_damaged(&file, offset, &reason.to_string());
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
        let removed = self.core.remove_files(ids, || {
            self.drop_tombstones(gone);
            gone.iter().for_each(|file| self.core.files.remove(file));
        });
        match removed {
            Err(error) if error.is_no_space() && self.core.remove_dead(gone)? => Ok(()),
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
            match self.core.bury_expired(&key, version) {
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
