//! Merges and space: the size of data files, low space, and merges on a full disk.
//!
//! Under sustained overwriting a store stays small because its files are adapted to it. The active file is
//! completed when it holds more than a part of the live bytes, and early if most of it is dead. So merges
//! reach the dead bytes soon. On a full disk the order is: files without live records, which need no space to
//! remove; then those that free the most for the least copying, within the free space and the reserve; and
//! less after each attempt that found no room.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::core::Core;
use crate::data_file::DataFile;
use crate::error::{AppendError, MergeError};
use crate::file_system::Space;
use crate::hint_file::HintSource;

/// Percent of a file's bytes that are dead, from which on it is merged where space is short or the store is
/// bloated.
pub(super) const LOW_TRIGGER: u64 = 5;

/// Divisor of the file system's size that limits the mark of low space.
const LOW_SHARE: u64 = 20;

/// A data file may grow to one part in this many of the live bytes, within the next two bounds.
const FILE_SHARE: u64 = 4;

/// Size that a data file may always reach, however few bytes are live; `max_file_size` may set a lower limit.
const FILE_BYTES_MIN: u64 = 64 << 20;

/// A store is bloated when it has more than twice its live bytes plus this.
const BLOAT_BYTES: u64 = 256 << 20;

/// Bytes that a merge leaves free on the file system; at most a 64th of it.
const SPARE_BYTES: u64 = 16 << 20;
const SPARE_SHARE: u64 = 64;

/// Bytes that a merge leaves free where space is low.
const SPARE_BYTES_LOW: u64 = 64 << 10;

/// Minimum of dead bytes for completing the active file early; with fewer, a new file gains nothing.
const DEAD_BYTES_MIN: u64 = 64 << 10;

/// Determines whether space is low, unless the owner does this; fills the reserve if there is room.
pub(crate) fn look_at_space(core: &Core) -> Result<(), MergeError> {
    if core.options.low_free_bytes == 0 && core.options.reserve_bytes == 0 {
        return Ok(());
    }
    let space = core.space()?;
    if core.options.low_free_bytes > 0 {
        let low = core.options.low_free_bytes.min(space.total_bytes / LOW_SHARE);
        let enough = if core.merges.is_space_low() { low + low / 4 } else { low };
        core.merges.set_space_low(space.free_bytes < enough);
    }
    core.directory.reserve().fill(space);
    Ok(())
}

/// Limits the size of future files by the live bytes.
pub(crate) fn fit_file_limit(core: &Core) {
    let most = core.options.max_file_size;
    let live = core.keydir.totals().live_bytes;
    core.log.set_file_limit((live / FILE_SHARE).clamp(FILE_BYTES_MIN.min(most), most));
}

/// Returns the size in bytes at which a merge begins the next output.
pub(super) fn output_limit(core: &Core) -> u64 {
    core.log.file_limit().min(core.options.max_file_size)
}

/// Returns whether there are so many dead bytes that files are due below the usual triggers.
pub(super) fn is_bloated(core: &Core) -> bool {
    let files = core.files.all();
    let figures = files.iter().map(|file| core.keydir.figures().of(file.slot));
    let kept: u64 = figures.map(|figure| figure.live_bytes + figure.tombstone_bytes).sum();
    let bytes: u64 = files.iter().map(|file| file.len()).sum();
    bytes > kept.saturating_mul(2).saturating_add(BLOAT_BYTES)
}

/// Completes the active file, so that it can be merged, if it is larger than files should be now, the store
/// is bloated or space is short; and enough in it is dead for a merge: where space is short that is less.
pub(super) fn complete_dead_active(core: &Core) -> Result<(), MergeError> {
    let files = core.files.all();
    let Some(active) = files.iter().find(|file| file.is_active()) else { return Ok(()) };
    let figure = core.keydir.figures().of(active.slot);
    let dead = active.len().saturating_sub(figure.live_bytes + figure.tombstone_bytes);
    let low = core.merges.is_space_low();
    let is_due = active.len() >= core.log.file_limit() || low || is_bloated(core);
    let trigger = u64::from(core.options.merge_trigger).min(if low { LOW_TRIGGER } else { 100 });
    let is_dead = dead * 100 >= active.len() * trigger && dead >= DEAD_BYTES_MIN;
    if !is_due || !is_dead {
        return Ok(());
    }
    match core.log.seal_active() {
        // Other files can be merged nevertheless.
        Ok(_) | Err(AppendError::NoSpace(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Returns the bytes that a merge may copy: the free bytes and the reserve, less the bytes that it must
/// leave free.
pub(super) fn room_to_copy(core: &Core, space: Space) -> u64 {
    let spare = if core.merges.is_space_low() {
        SPARE_BYTES_LOW
    } else {
        SPARE_BYTES.min(space.total_bytes / SPARE_SHARE)
    };
    let room = space.free_bytes.saturating_add(core.directory.reserve().held());
    room.saturating_sub(spare).min(core.merges.copied_max.load(Ordering::Relaxed))
}

/// Returns whether a file is complete and nothing points to it.
pub(super) fn is_dead(core: &Core, file: &DataFile) -> bool {
    let figure = core.keydir.figures().of(file.slot);
    !file.is_active() && !file.is_pinned() && figure.live_bytes == 0 && figure.tombstone_bytes == 0
}

/// Returns the number of records in a file without live ones, if it is known without reading the file.
pub(super) fn records_of_dead(core: &Core, file: &DataFile) -> Option<u64> {
    if !is_dead(core, file) || file.lacks_hint() || file.is_healed() {
        return None;
    }
    let path = core.directory.hint_path(file.id);
    let hint = HintSource::open(&**core.directory.file_system(), &path, &file.header(), file.len());
    hint.ok().map(|hint| hint.entries())
}

/// Removes files to which nothing points, one by one; returns whether all of them are removed. Used where
/// the disk has no room for the eras file that removes all of a merge's inputs at once.
///
/// Removal at once is needed for inputs that hold a tombstone and a record that it hides. Here each
/// record, tombstones included, was replaced by one in another file, or was dropped with its partition.
/// Each hint is removed first: a hint without its data file would be reported as a lost file. The file
/// with the highest id stays, because its id would be allocated again.
pub(super) fn remove_dead(core: &Core, files: &[Arc<DataFile>]) -> Result<bool, MergeError> {
    let highest = core.files.all().last().map_or(0, |file| file.id);
    if !files.iter().all(|file| is_dead(core, file) && file.id < highest) {
        return Ok(false);
    }
    for file in files {
        core.directory.remove_files(&[file.id])?;
        core.files.remove(file);
    }
    Ok(true)
}
