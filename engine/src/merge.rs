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
//!   [`Store::mark_clean`](crate::replicated::Store::mark_clean).
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
mod run;
mod select;
mod space;
pub(crate) mod state;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use self::run::Run;
pub(crate) use self::run::remove_files;
use self::select::{Due, select};
use self::space::complete_dead_active;
pub(crate) use self::space::{fit_file_limit, look_at_space};
use crate::core::Core;
use crate::data_file::DataFile;
use crate::error::MergeError;
use crate::hint_file::{HintWritten, write_hint};
use crate::task::{Merged, TaskKind, TaskState, TaskStatus};

/// Writes the missing hints and, if merging is allowed now, merges the due files.
pub(crate) fn run_once(core: &Core, merges: bool) -> Result<Merged, MergeError> {
    fit_file_limit(core);
    let mut done = Merged { hints: write_hints(core)?, ..Merged::default() };
    if merges {
        complete_dead_active(core)?;
    }
    while merges && !core.merges.stopped() {
        let merged = merge_due(core, Due::ByTriggers)?;
        if merged.files == 0 {
            break;
        }
        done.add(&merged);
        done.hints += write_hints(core)?;
    }
    Ok(done)
}

/// Seals the active file and merges every file with dead bytes.
pub(crate) fn merge_all(core: &Core) -> Result<Merged, MergeError> {
    let mut done = Merged::default();
    let below = core.log.seal_active()?;
    // Files that this call itself begins are not merged again.
    let highest = core.directory.highest_id();
    loop {
        let merged = merge_due(core, Due::AnyDead { below, up_to: highest })?;
        done.add(&merged);
        if merged.files == 0 {
            break;
        }
    }
    done.hints += write_hints(core)?;
    Ok(done)
}

/// Performs one run, if files are due.
fn merge_due(core: &Core, due: Due) -> Result<Merged, MergeError> {
    let _running = core.merges.running.lock();
    core.merges.stop.store(false, Ordering::Release);
    let mut done = Merged::default();
    loop {
        let inputs = select(core, due)?;
        // A record that is being restored may be older than a tombstone in the inputs: the run must see
        // it.
        if inputs.is_empty() || !core.merges.restores.wait() {
            return Ok(done);
        }
        let bytes_total = inputs.iter().map(|file| file.len()).sum();
        *core.merges.status.lock() = Some(TaskStatus::begun(TaskKind::Merge, bytes_total));
        let result = run_within_space(core, &inputs);
        finish_status(core, &result);
        done.add(&result?);
        // Damaged files are not selected again: the next iteration merges the others without them.
        if !inputs.iter().any(|file| file.is_damaged()) {
            return Ok(done);
        }
    }
}

fn finish_status(core: &Core, result: &Result<Merged, MergeError>) {
    if let Some(status) = &mut *core.merges.status.lock() {
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
fn write_hints(core: &Core) -> Result<u64, MergeError> {
    let _running = core.merges.running.lock();
    let mut written = 0;
    for file in core.files.all().into_iter().filter(|file| file.lacks_hint()) {
        let header = file.header();
        let stop = || core.merges.stopped();
        match write_hint(&core.directory, &header, file.len(), &stop) {
            Ok(HintWritten::Done) => {
                file.set_has_hint();
                written += 1;
            }
            Ok(HintWritten::DataDamaged { offset, reason }) => file.found_damaged(offset, &reason),
            Ok(HintWritten::Stopped) => break,
            // A hint only makes the next start quicker: the remaining room is for merges.
            Err(error) if error.is_no_space() => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(written)
}

/// Merges these files. After an attempt that finds no room, later ones copy less, until one succeeds.
fn run_within_space(core: &Core, inputs: &[Arc<DataFile>]) -> Result<Merged, MergeError> {
    let figures = inputs.iter().map(|file| core.keydir.figures().of(file.slot));
    let kept: u64 = figures.map(|figure| figure.live_bytes + figure.tombstone_bytes).sum();
    let free_bytes = core.space()?.free_bytes;
    if kept > free_bytes {
        core.directory.reserve().release(kept - free_bytes);
    }
    let result = Run::new(core, inputs).run();
    match &result {
        Ok(_) => core.merges.copied_max.store(u64::MAX, Ordering::Relaxed),
        // With nothing to copy, the next attempt needs no room, and takes the files that have become dead
        // meanwhile.
        Err(error) if error.is_no_space() => core.merges.copied_max.store(kept / 2, Ordering::Relaxed),
        Err(_) => {}
    }
    result
}
