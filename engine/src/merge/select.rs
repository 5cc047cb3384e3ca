//! Selection of a merge's inputs: the files with the largest share of dead bytes, as far as there is room for
//! their live records.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::space::{self, LOW_TRIGGER};
use crate::core::Core;
use crate::data_file::{DataFile, FileSlot};
use crate::error::MergeError;
use crate::format::{FILE_HEADER_LEN, FileKind, MARK_LEN};
use crate::slots::{PARTITIONS, Partition};

/// Limit of the files that one run merges.
const INPUTS_MAX: usize = 64;

/// Limit of the live bytes that one run copies, in data files, so that the inputs are removed soon.
const RUN_FILES: u64 = 4;

/// Which files are due.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Due {
    /// The files that meet the options' triggers.
    ByTriggers,
    /// All files with dead bytes: log files with ids below `below`, merged files with ids up to `up_to`.
    AnyDead { below: u64, up_to: u64 },
}

/// A file that may be merged.
struct Candidate {
    file: Arc<DataFile>,
    /// Bytes that would be copied.
    kept: u64,
    dead: u64,
}

impl Candidate {
    fn dead_percent(&self) -> u64 {
        self.dead * 100 / self.file.len().max(1)
    }
}

/// Returns the lowest reach of all files except these.
pub(super) fn reach_of_others(core: &Core, inputs: &[Arc<DataFile>]) -> u64 {
    let is_other = |file: &&Arc<DataFile>| !inputs.iter().any(|input| input.slot == file.slot);
    let others = core.files.all();
    let reaches = others.iter().filter(is_other).map(|file| file.reach());
    reaches.chain(core.merges.unreadable.lock().iter().copied()).min().unwrap_or(u64::MAX)
}

/// Returns the inputs of the next run, sorted by id; empty if nothing is due.
pub(super) fn select(core: &Core, due: Due) -> Result<Vec<Arc<DataFile>>, MergeError> {
    let mut due_files = due_files(core, due);
    if due_files.is_empty() {
        return Ok(Vec::new());
    }
    due_files.sort_by_key(|candidate| (std::cmp::Reverse(candidate.dead_percent()), candidate.file.id));
    // Files without live records are merged first: they need no room, not even for an output.
    if due_files.iter().any(|candidate| space::is_dead(core, &candidate.file)) {
        due_files.retain(|candidate| space::is_dead(core, &candidate.file));
        let mut dead: Vec<_> = due_files.into_iter().map(|candidate| candidate.file).collect();
        dead.truncate(INPUTS_MAX);
        dead.sort_unstable_by_key(|file| file.id);
        return Ok(dead);
    }
    let space = core.space()?;
    let room = space::room_to_copy(core, space);
    let most = space::output_limit(core).saturating_mul(RUN_FILES);
    let least = due_files.iter().map(|candidate| candidate.kept).min().unwrap_or(0);
    let mut inputs = Vec::new();
    let mut kept = 0;
    for candidate in due_files {
        let with = kept + candidate.kept;
        if inputs.len() < INPUTS_MAX && with <= room && (with <= most || inputs.is_empty()) {
            kept = with;
            inputs.push(candidate.file);
        }
    }
    if inputs.is_empty() {
        // The next attempt, which is not made at once, may find more room.
        core.merges.copied_max.store(u64::MAX, Ordering::Relaxed);
        return Err(MergeError::NoRoom {
            needed: least + space.free_bytes.saturating_sub(room),
            free: space.free_bytes,
        });
    }
    inputs.sort_unstable_by_key(|file| file.id);
    Ok(inputs)
}

fn due_files(core: &Core, due: Due) -> Vec<Candidate> {
    let files = core.files.all();
    let collectable = collectable_bytes(core, &files);
    let is_free = |file: &&Arc<DataFile>| !file.is_active() && !file.is_pinned() && !file.is_damaged();
    let candidate = |file: &Arc<DataFile>| {
        let figures = core.keydir.figures().of(file.slot);
        let dropped = collectable.get(&file.slot).copied().unwrap_or(0);
        let kept = figures.live_bytes + figures.tombstone_bytes.saturating_sub(dropped);
        let frame = (FILE_HEADER_LEN + MARK_LEN) as u64;
        let dead = file.len().saturating_sub(kept + frame);
        Candidate { file: file.clone(), kept, dead }
    };
    let all: Vec<Candidate> = files.iter().filter(is_free).map(candidate).collect();
    match due {
        Due::AnyDead { below, up_to } => all
            .into_iter()
            .filter(|candidate| {
                let file = &candidate.file;
                let limit = if file.kind == FileKind::Log { below } else { up_to + 1 };
                candidate.dead > 0 && file.id < limit
            })
            .collect(),
        Due::ByTriggers => triggered(core, all),
    }
}

fn triggered(core: &Core, all: Vec<Candidate>) -> Vec<Candidate> {
    let options = &core.options;
    // Any two small files fit into one, so each such merge leaves fewer files, and the merges end.
    let small = options.merge_small_file.min(options.max_file_size / 2);
    let is_small = |candidate: &Candidate| candidate.file.len() < small;
    let urgent = core.merges.is_space_low() || space::is_bloated(core);
    let trigger = u64::from(options.merge_trigger).min(if urgent { LOW_TRIGGER } else { 100 });
    // A single small file would only be copied.
    let several_small = all.iter().filter(|candidate| is_small(candidate)).count() > 1;
    all.into_iter()
        .filter(|candidate| {
            candidate.file.is_healed()
                || candidate.dead > 0 && candidate.dead_percent() >= trigger
                || candidate.dead >= options.merge_trigger_bytes
                || several_small && is_small(candidate)
        })
        .collect()
}

/// Returns the bytes of tombstones, by file, that a merge of that file alone would drop.
fn collectable_bytes(core: &Core, files: &[Arc<DataFile>]) -> HashMap<FileSlot, u64> {
    let mut bytes = HashMap::new();
    if files.iter().all(|file| core.keydir.figures().of(file.slot).tombstone_bytes == 0) {
        return bytes;
    }
    for partition in 0..PARTITIONS as Partition {
        let clean = core.merges.clean_up_to(core.replicated, partition);
        if clean > 0 {
            core.keydir.collectable(partition, clean, |file, len| {
                *bytes.entry(file).or_insert(0) += u64::from(len);
            });
        }
    }
    // The two lowest reaches suffice: the lowest reach of all files but one is one of them.
    let mut reaches: Vec<(u64, FileSlot)> = files.iter().map(|file| (file.reach(), file.slot)).collect();
    reaches.extend(core.merges.unreadable.lock().iter().map(|&id| (id, 0)));
    reaches.sort_unstable();
    for file in files {
        let of_others = reaches.iter().find(|(_, slot)| *slot != file.slot);
        if of_others.is_some_and(|(reach, _)| *reach <= file.bound()) {
            bytes.remove(&file.slot);
        }
    }
    bytes
}
