//! Histories: steps performed on a store, drawn from a seed, with the expected content after each step.

use std::collections::BTreeSet;

use caskade_engine::error::{MergeError, SnapshotError};
use caskade_engine::replicated::Store;
use caskade_engine::slots::{Partition, partition_of};
use caskade_engine::testing::Moment;
use caskade_engine::{AppendError, Version};

use super::*;

const KEYS: u64 = 10;

/// One step of a history.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Opens the store, after closing it if it is open.
    Reopen,
    /// Appends these records together.
    Apply(Vec<Record>),
    /// Empties this partition.
    Drop(Partition),
    /// Declares all partitions clean up to this version: no later record has a lower or equal one.
    Clean(Version),
    /// Writes missing hints and runs due merges.
    Tend,
    /// Merges every file that has dead bytes.
    Merge,
    /// Makes a snapshot in this directory.
    Snapshot(PathBuf),
}

/// Returns the keys of all histories; some share a partition.
pub(crate) fn keys() -> impl Iterator<Item = Vec<u8>> {
    (0..KEYS).map(|number| format!("key-{number}-{{{}}}", number / 3).into_bytes())
}

fn key(number: u64) -> Vec<u8> {
    keys().nth(number as usize).unwrap()
}

/// Returns whether versions of this history may arrive late: tombstones then stay until partitions are
/// declared clean. Otherwise all partitions are declared clean at all times, as in an embedded store.
fn has_late_versions(seed: u64) -> bool {
    !seed.is_multiple_of(3)
}

/// Returns the steps for a seed. The first one opens the store; the last one closes and reopens it.
pub(crate) fn generate(seed: u64, len: usize) -> Vec<Step> {
    let mut draw = Draw(seed);
    let mut versions = Versions { some_late: has_late_versions(seed), ..Versions::default() };
    let mut steps = vec![Step::Reopen];
    steps.extend((0..len).map(|number| match draw.below(28) {
        0 => Step::Reopen,
        1 => Step::Drop(partition_of(&key(draw.below(KEYS)))),
        2 => {
            versions.clean = versions.highest;
            Step::Clean(versions.clean)
        }
        3..=4 => Step::Tend,
        5..=6 => Step::Merge,
        7 => Step::Snapshot(format!("/snapshot-{number}").into()),
        kind => {
            let count = if kind < 14 { 2 + draw.below(4) } else { 1 };
            Step::Apply((0..count).map(|_| record(&mut draw, &mut versions)).collect())
        }
    }));
    if !has_late_versions(seed) {
        steps = always_clean(steps);
    }
    steps.push(Step::Reopen);
    steps
}

/// Adds declarations that all partitions are clean: after each opening, and each drop, which revokes them.
fn always_clean(steps: Vec<Step>) -> Vec<Step> {
    let declare = |step: Step| {
        let revokes = matches!(step, Step::Reopen | Step::Drop(_));
        std::iter::once(step).chain(revokes.then_some(Step::Clean(Version::MAX)))
    };
    steps.into_iter().flat_map(declare).collect()
}

/// Source of versions; draws each one once.
#[derive(Default)]
struct Versions {
    given: BTreeSet<Version>,
    highest: Version,
    /// No later version is at or below this one.
    clean: Version,
    some_late: bool,
}

impl Versions {
    /// Draws a version: mostly ascending; some are late, like those of a repair.
    fn next(&mut self, draw: &mut Draw) -> Version {
        let late = self.highest.saturating_sub(draw.below(20));
        let may_be_late = self.some_late && late > self.clean && !self.given.contains(&late);
        let version = if draw.below(6) == 0 && may_be_late { late } else { self.highest + 1 + draw.below(3) };
        self.given.insert(version);
        self.highest = self.highest.max(version);
        version
    }
}

fn record(draw: &mut Draw, versions: &mut Versions) -> Record {
    let (key, version) = (key(draw.below(KEYS)), versions.next(draw));
    if draw.below(4) == 0 {
        return tombstone(&key, version);
    }
    // Some are large, so that files are full after a few records.
    let len = match draw.below(4) {
        0 => draw.below(20_000),
        1 => draw.below(3000),
        _ => draw.below(100),
    };
    value(&key, version, &fill(version, len as usize))
}

/// Reason why a step was not performed.
#[derive(Debug)]
pub(crate) enum StepError {
    Open(OpenError),
    Append(AppendError),
    Merge(MergeError),
    Snapshot(SnapshotError),
}

/// Performs a step completely, or returns an error.
pub(crate) fn perform(
    file_system: &FaultyFileSystem,
    options: &Options,
    engine: &mut Option<Store>,
    step: &Step,
) -> Result<(), StepError> {
    if let Step::Reopen = step {
        if let Some(engine) = engine.take() {
            engine.close().map_err(StepError::Append)?;
        }
        let (opened, recovery) = open_store_on(file_system, options).map_err(StepError::Open)?;
        assert!(!recovery.is_damaged() && recovery.cut_bytes == 0, "{recovery:?}");
        *engine = Some(opened);
        return Ok(());
    }
    let engine = engine.as_ref().expect("it is open");
    match step {
        Step::Reopen => Ok(()),
        Step::Apply(records) => engine.apply(records.clone()).map_err(StepError::Append),
        Step::Drop(partition) => engine.drop_partitions(&[*partition]).map_err(StepError::Append),
        Step::Clean(up_to) => {
            keys().for_each(|key| engine.mark_clean(partition_of(&key), *up_to));
            Ok(())
        }
        Step::Tend => engine.run_once().map(drop).map_err(StepError::Merge),
        Step::Merge => engine.merge().map(drop).map_err(StepError::Merge),
        Step::Snapshot(path) => engine.snapshot(path).map(drop).map_err(StepError::Snapshot),
    }
}

/// Returns whether a step failed for lack of space, and can be retried.
pub(crate) fn is_no_space(error: &StepError) -> bool {
    match error {
        StepError::Append(AppendError::NoSpace(_))
        | StepError::Snapshot(SnapshotError::Append(AppendError::NoSpace(_))) => true,
        StepError::Merge(error) => error.is_no_space(),
        StepError::Snapshot(SnapshotError::Io(error)) => error.is_no_space(),
        _ => false,
    }
}

/// Applies a step to the model.
pub(crate) fn perform_on_model(model: &mut Model, step: &Step) {
    match step {
        Step::Reopen | Step::Clean(_) | Step::Tend | Step::Merge | Step::Snapshot(_) => {}
        Step::Apply(records) => {
            for record in records {
                let old = model.get(&record.key);
                if old.is_none_or(|old| old.version < record.version) {
                    model.insert(record.key.clone(), record.clone());
                }
            }
        }
        Step::Drop(partition) => model.retain(|key, _| partition_of(key) != *partition),
    }
}

/// Returns the keys with a value: a tombstone and no record are equivalent.
pub(crate) fn live(model: &Model) -> Model {
    let live = model.iter().filter(|(_, record)| record.value.is_some());
    live.map(|(key, record)| (key.clone(), record.clone())).collect()
}

/// Returns the live records of the histories' keys in a store.
pub(crate) fn live_in(engine: &Store) -> Result<Model, ReadError> {
    let mut state = Model::new();
    for key in keys() {
        if let Some(record) = engine.read(&key)?.filter(|record| record.value.is_some()) {
            state.insert(record.key.clone(), record);
        }
    }
    Ok(state)
}

/// A history that was performed to its end.
pub(crate) struct Run {
    pub(crate) steps: Vec<Step>,
    pub(crate) file_system: FaultyFileSystem,
    /// All instants before a change.
    pub(crate) moments: Vec<Moment>,
    /// Number of calls made before each step, and after the last one.
    pub(crate) calls: Vec<u64>,
    /// Content of the store before each step, and after the last one.
    states: Vec<Model>,
}

impl Run {
    pub(crate) fn new(steps: Vec<Step>, options: &Options) -> Self {
        let file_system = FaultyFileSystem::new();
        file_system.remember();
        let mut engine = None;
        let mut model = Model::new();
        let (mut calls, mut states) = (vec![0], vec![Model::new()]);
        for step in &steps {
            perform(&file_system, options, &mut engine, step).unwrap();
            perform_on_model(&mut model, step);
            calls.push(file_system.calls());
            states.push(live(&model));
        }
        Self { moments: file_system.moments(), steps, file_system, calls, states }
    }

    /// Returns the number of steps completed before this call.
    pub(crate) fn done_before(&self, call: u64) -> usize {
        self.calls.iter().skip(1).take_while(|&&after| after <= call).count()
    }

    /// Returns the possible contents after a crash before this call that loses no acknowledged write: all
    /// completed steps, with or without the interrupted one.
    pub(crate) fn acceptable(&self, call: u64) -> Vec<Model> {
        let done = self.done_before(call);
        self.states[done..(done + 2).min(self.states.len())].to_vec()
    }

    /// Returns the possible contents after a crash that loses unsynced writes: all steps before the last
    /// close, and the first few of the steps since. Dropped partitions stay dropped.
    pub(crate) fn acceptable_prefixes(&self, call: u64) -> Vec<Model> {
        let done = self.done_before(call);
        let closed = self.steps[..done].iter().rposition(|step| matches!(step, Step::Reopen)).unwrap_or(0);
        let mut acceptable = Vec::new();
        for dropped in [done, (done + 1).min(self.steps.len())] {
            for kept in closed..=dropped {
                let mut model = Model::new();
                let (kept, lost) = self.steps[..dropped].split_at(kept);
                kept.iter().for_each(|step| perform_on_model(&mut model, step));
                let drops = lost.iter().filter(|step| matches!(step, Step::Drop(_)));
                drops.for_each(|step| perform_on_model(&mut model, step));
                acceptable.push(live(&model));
            }
        }
        acceptable
    }

    /// Returns the newest snapshot that was completed or begun before this call: its path, whether it was
    /// completed, and the store's content at that time.
    pub(crate) fn snapshot_before(&self, call: u64) -> Option<(&Path, bool, &Model)> {
        let done = self.done_before(call);
        (0..=done).rev().find_map(|index| match self.steps.get(index)? {
            Step::Snapshot(path) => Some((&**path, index < done, &self.states[index])),
            _ => None,
        })
    }

    /// Returns the length of the first lost value, if it was written alone, for a store that holds the first
    /// few of the steps.
    pub(crate) fn first_lost_len(&self, call: u64, held: &Model) -> Option<usize> {
        let done = self.done_before(call);
        let kept = (0..=done).rev().find(|&kept| self.states.get(kept) == Some(held))?;
        match self.steps.get(kept)? {
            Step::Apply(records) if records.len() == 1 => records.first()?.value.as_ref().map(Bytes::len),
            _ => None,
        }
    }
}
