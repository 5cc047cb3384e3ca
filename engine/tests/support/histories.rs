//! What is done to a store step by step, from a seed, and what it must hold after each step.

use std::collections::BTreeSet;

use caskade_engine::{AppendError, MergeError, Moment, Partition, SnapshotError, Version, partition_of};

use super::*;

const KEYS: u64 = 10;

/// One thing done to a store.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Opened, after closing it if it is open.
    Reopen,
    /// These records appended together.
    Apply(Vec<Record>),
    /// This partition emptied.
    Drop(Partition),
    /// All partitions said to be clean up to this version: no record up to it comes any more.
    Clean(Version),
    /// What is due of hint files and merges.
    Tend,
    /// Everything merged that has dead bytes.
    Merge,
    /// A snapshot made in this directory.
    Snapshot(PathBuf),
}

/// The keys of all histories; some share a partition.
pub(crate) fn keys() -> impl Iterator<Item = Vec<u8>> {
    (0..KEYS).map(|number| format!("key-{number}-{{{}}}", number / 3).into_bytes())
}

fn key(number: u64) -> Vec<u8> {
    keys().nth(number as usize).unwrap()
}

/// Whether the stores of this history are replicated: only then do versions come out of order, and tombstones stay
/// until partitions are said to be clean.
pub(crate) fn is_replicated(seed: u64) -> bool {
    !seed.is_multiple_of(3)
}

/// The steps that follow from a seed; the first opens the store, the last closes and opens it.
pub(crate) fn generate(seed: u64, len: usize) -> Vec<Step> {
    let mut draw = Draw(seed);
    let mut versions = Versions { some_late: is_replicated(seed), ..Versions::default() };
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
    steps.push(Step::Reopen);
    steps
}

/// Gives each version once.
#[derive(Default)]
struct Versions {
    given: BTreeSet<Version>,
    highest: Version,
    /// Nothing comes later than this.
    clean: Version,
    some_late: bool,
}

impl Versions {
    /// Mostly ascending; some come late, as those of a repair do.
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
    // Large ones, so that files fill after a few.
    let len = match draw.below(4) {
        0 => draw.below(20_000),
        1 => draw.below(3000),
        _ => draw.below(100),
    };
    value(&key, version, &fill(version, len as usize))
}

/// Why a step was not done.
#[derive(Debug)]
pub(crate) enum StepError {
    Open(OpenError),
    Append(AppendError),
    Merge(MergeError),
    Snapshot(SnapshotError),
}

/// How the stores of a history are opened.
pub(crate) fn options_for(seed: u64, sync: SyncPolicy) -> Options {
    Options { replicated: is_replicated(seed), ..quiet(sync) }
}

/// Does a step, as a whole or with an error.
pub(crate) fn perform(
    file_system: &FaultyFileSystem,
    options: &Options,
    engine: &mut Option<Engine>,
    step: &Step,
) -> Result<(), StepError> {
    if let Step::Reopen = step {
        if let Some(engine) = engine.take() {
            engine.close().map_err(StepError::Append)?;
        }
        let (opened, recovery) = open_on(file_system, options).map_err(StepError::Open)?;
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
        Step::Tend => engine.tend().map(drop).map_err(StepError::Merge),
        Step::Merge => engine.merge().map(drop).map_err(StepError::Merge),
        Step::Snapshot(path) => engine.snapshot(path).map(drop).map_err(StepError::Snapshot),
    }
}

/// Whether a step was not done for want of space, and can be tried again.
pub(crate) fn is_no_space(error: &StepError) -> bool {
    match error {
        StepError::Append(AppendError::NoSpace(_))
        | StepError::Snapshot(SnapshotError::Append(AppendError::NoSpace(_))) => true,
        StepError::Merge(error) => error.is_no_space(),
        StepError::Snapshot(SnapshotError::Io(error)) => error.is_no_space(),
        _ => false,
    }
}

/// Does to a model what the step does to a store.
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

/// The keys with a value: a tombstone and no record are the same.
pub(crate) fn live(model: &Model) -> Model {
    let live = model.iter().filter(|(_, record)| record.value.is_some());
    live.map(|(key, record)| (key.clone(), record.clone())).collect()
}

/// The live records of the histories' keys in a store.
pub(crate) fn live_in(engine: &Engine) -> Result<Model, ReadError> {
    let mut state = Model::new();
    for key in keys() {
        if let Some(record) = engine.read(&key)?.filter(|record| record.value.is_some()) {
            state.insert(record.key.clone(), record);
        }
    }
    Ok(state)
}

/// A history that was run to its end.
pub(crate) struct Run {
    pub(crate) steps: Vec<Step>,
    pub(crate) file_system: FaultyFileSystem,
    /// All instants at which something was about to change, and the end.
    pub(crate) moments: Vec<Moment>,
    /// How many calls had been made before each step, and after all.
    pub(crate) calls: Vec<u64>,
    /// What the store holds before each step, and after all.
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

    /// Steps that were done before this call.
    pub(crate) fn done_before(&self, call: u64) -> usize {
        self.calls.iter().skip(1).take_while(|&&after| after <= call).count()
    }

    /// What a store may hold after a crash before this call that loses nothing acknowledged: all that was done,
    /// with or without the step that was being done.
    pub(crate) fn acceptable(&self, call: u64) -> Vec<Model> {
        let done = self.done_before(call);
        self.states[done..(done + 2).min(self.states.len())].to_vec()
    }

    /// What it may hold after one that loses what was not synced: all that was done before it was last closed, and
    /// the first few of the steps since. What was dropped stays dropped.
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

    /// The newest snapshot that was made or being made before this call: where, whether it was made, and what the
    /// store held then.
    pub(crate) fn snapshot_before(&self, call: u64) -> Option<(&Path, bool, &Model)> {
        let done = self.done_before(call);
        (0..=done).rev().find_map(|index| match self.steps.get(index)? {
            Step::Snapshot(path) => Some((&**path, index < done, &self.states[index])),
            _ => None,
        })
    }

    /// Where a store holds the first few of the steps: how long the value is that comes next and is lost, if it was
    /// written alone.
    pub(crate) fn first_lost_len(&self, call: u64, held: &Model) -> Option<usize> {
        let done = self.done_before(call);
        let kept = (0..=done).rev().find(|&kept| self.states.get(kept) == Some(held))?;
        match self.steps.get(kept)? {
            Step::Apply(records) if records.len() == 1 => records.first()?.value.as_ref().map(Bytes::len),
            _ => None,
        }
    }
}
