//! Calls that fail one after another: a write is refused with a clear error or done, never half done. Every
//! acknowledged write stays readable: at once, after reopening the store, and after a power loss.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use caskade_engine::replicated::Store;
use caskade_engine::testing::{Fault, FaultyFileSystem, FileCall};
use caskade_engine::{AppendError, OpenError, Options, ReadError, SyncPolicy};
use support::histories::{Run, Step, StepError, generate, live, live_in, perform, perform_on_model};
use support::{Model, describe, open_store_on, quiet, value};

const STEPS: usize = 30;
const CRASHES: u64 = 3;

/// A history with a fault.
struct Faulted {
    file_system: FaultyFileSystem,
    options: Options,
    engine: Option<Store>,
    model: Model,
    /// Alternative state after reopening the store: a step was in flight when the log was stopped.
    or_else: Option<Model>,
    refused: u64,
    /// Number of merges and snapshots that failed.
    upkeep_failed: u64,
    what: String,
}

impl Faulted {
    /// Opens a store, makes a call fail, and performs the history of this seed.
    fn run(seed: u64, options: &Options, fault: &Fault) -> Self {
        let mut run = Self {
            file_system: FaultyFileSystem::new(),
            options: options.clone(),
            engine: None,
            model: Model::new(),
            or_else: None,
            refused: 0,
            upkeep_failed: 0,
            what: format!("history {seed}, {fault:?}"),
        };
        perform(&run.file_system, options, &mut run.engine, &Step::Reopen).unwrap();
        run.file_system.inject(fault.clone());
        for step in generate(seed, STEPS).into_iter().filter(|step| !matches!(step, Step::Reopen)) {
            run.step(step);
        }
        run
    }

    fn step(&mut self, step: Step) {
        match perform(&self.file_system, &self.options, &mut self.engine, &step) {
            Ok(()) => {
                let may_be_done = self.or_else.is_none() || !matches!(step, Step::Apply(_));
                assert!(may_be_done, "{}: written though the log is stopped", self.what);
                perform_on_model(&mut self.model, &step);
                self.or_else.iter_mut().for_each(|model| perform_on_model(model, &step));
            }
            Err(StepError::Append(AppendError::Io(error) | AppendError::NoSpace(error))) => {
                assert!(error.to_string().contains("/store"), "{error}");
                self.refused += 1;
                self.check_refused();
            }
            Err(StepError::Append(AppendError::Poisoned(_))) => {
                // Only the first refused step was on its way to the disk.
                if self.or_else.is_none() {
                    let mut or_else = self.model.clone();
                    perform_on_model(&mut or_else, &step);
                    self.or_else = Some(or_else);
                }
            }
            // Failed maintenance changes no served record.
            Err(StepError::Merge(_) | StepError::Snapshot(_)) => self.upkeep_failed += 1,
            Err(error) => panic!("{}: {error:?}", self.what),
        }
        self.check_readable();
    }

    /// Checks that no part of a refused write is visible, not even after an immediate crash.
    fn check_refused(&self) {
        if self.options.sync == SyncPolicy::Always {
            for image in (0..CRASHES).map(|seed| self.file_system.crashed(seed)) {
                self.check_reopened(&image);
            }
        }
    }

    fn check_readable(&self) {
        let read = || live_in(self.engine.as_ref().unwrap());
        let state = read().or_else(|error| {
            // A read that failed once succeeds when it is retried.
            assert!(matches!(error, ReadError::Io(_)), "{}: {error}", self.what);
            read()
        });
        let (is, should_be) = (state.unwrap(), live(&self.model));
        assert!(is == should_be, "{}: {}, not {}", self.what, describe(&is), describe(&should_be));
    }

    /// Ends the fault and continues; returns whether it made any call fail.
    fn end(mut self) -> bool {
        let fired = self.file_system.clear_faults() > 0;
        let after = Step::Apply(vec![value(b"key-0-{0}", 1 << 40, b"after the fault")]);
        self.step(after.clone());
        let refused = self.refused;
        self.step(after);
        assert_eq!(self.refused, refused, "{}: the store does not continue", self.what);
        let before = self.file_system.killed();
        let crashes = if self.options.sync == SyncPolicy::Always { CRASHES } else { 0 };
        let crashed: Vec<_> = (0..crashes).map(|seed| self.file_system.crashed(seed)).collect();
        let closed = self.engine.take().unwrap().close();
        assert_eq!(closed.is_err(), self.or_else.is_some(), "{}: {closed:?}", self.what);
        for image in crashed.iter().chain([&before, &self.file_system]) {
            self.check_reopened(image);
        }
        fired
    }

    /// Checks that the state served after reopening survives crashes.
    fn check_reopened(&self, image: &FaultyFileSystem) {
        let (engine, recovery) = open_store_on(image, &self.options).unwrap();
        assert!(!recovery.is_damaged(), "{}: {recovery:?}", self.what);
        let served = live_in(&engine).unwrap();
        let expected = served == live(&self.model) || self.or_else.as_ref().map(live) == Some(served.clone());
        assert!(expected, "{}: {} served", self.what, describe(&served));
        if self.options.sync != SyncPolicy::Always {
            return;
        }
        for seed in 0..CRASHES {
            let (engine, recovery) = open_store_on(&image.crashed(seed), &self.options).unwrap();
            assert!(!recovery.is_damaged(), "{}, then a crash: {recovery:?}", self.what);
            let then = live_in(&engine).unwrap();
            let (was, is) = (describe(&served), describe(&then));
            assert!(then == served, "{}: {was} served, then a crash, and {is}", self.what);
        }
    }
}

/// Makes each call of this kind fail in turn, in several histories; returns the number of failed calls.
fn fail_each(sync: SyncPolicy, fault: impl Fn(u64) -> Fault, check: impl Fn(&Faulted)) -> u64 {
    let mut fired = 0;
    for seed in 0..2 {
        for skip in 0.. {
            let run = Faulted::run(seed, &quiet(sync), &fault(skip));
            let has_fired = run.file_system.clear_faults() > 0;
            if has_fired {
                check(&run);
            }
            run.end();
            if !has_fired {
                break;
            }
            fired += 1;
        }
    }
    fired
}

#[test]
fn refused_write_leaves_nothing_and_the_store_goes_on() {
    for sync in [SyncPolicy::Always, SyncPolicy::Never] {
        for call in [FileCall::Write, FileCall::Allocate, FileCall::Create, FileCall::Rename] {
            for fault in [Fault::io_error, Fault::disk_full] {
                let fired = fail_each(
                    sync,
                    |skip| fault(call, skip),
                    |run| {
                        assert!(run.or_else.is_none() || call == FileCall::Rename, "{}", run.what);
                    },
                );
                // Files are preallocated only to make syncs cheap.
                assert!(fired > 0 || (call, sync) == (FileCall::Allocate, SyncPolicy::Never), "{call:?}");
            }
        }
    }
}

#[test]
fn failed_sync_stops_the_log_and_nothing_acknowledged_is_lost() {
    for sync in [SyncPolicy::Always, SyncPolicy::Never] {
        let fired = fail_each(
            sync,
            |skip| Fault::io_error(FileCall::Sync, skip).on(".data"),
            |run| {
                let told = run.refused + run.upkeep_failed > 0 || run.or_else.is_some();
                assert!(told, "{}: a failed sync was not reported", run.what);
            },
        );
        assert!(fired > 0);
        // Syncs of files that are being made: hint files, outputs of merges, snapshots.
        fail_each(sync, |skip| Fault::io_error(FileCall::Sync, skip), |_| ());
    }
}

#[test]
fn sync_that_finds_no_room_takes_the_write_back_and_the_store_goes_on() {
    for call in [FileCall::Sync, FileCall::SetLen] {
        let fired = fail_each(
            SyncPolicy::Always,
            |skip| Fault::disk_full(call, skip),
            |run| assert!(run.or_else.is_none(), "{}: the log is stopped", run.what),
        );
        assert!(fired > 0);
    }
    // Where writes are acknowledged before they are synced, some of them may be lost.
    fail_each(SyncPolicy::Never, |skip| Fault::disk_full(FileCall::Sync, skip), |_| ());
    for sync in [SyncPolicy::Always, SyncPolicy::Never] {
        fail_each(sync, |skip| Fault::disk_full(FileCall::SyncDirectory, skip), |_| ());
    }
}

#[test]
fn failing_upkeep_of_the_directory_costs_nothing_acknowledged() {
    for sync in [SyncPolicy::Always, SyncPolicy::Never] {
        for call in [
            FileCall::SyncDirectory,
            FileCall::SetLen,
            FileCall::Remove,
            FileCall::Link,
            FileCall::CreateDirectory,
            FileCall::Space,
            FileCall::List,
            FileCall::Exists,
        ] {
            fail_each(sync, |skip| Fault::io_error(call, skip), |_| ());
        }
    }
}

#[test]
fn failing_read_is_told_and_changes_nothing() {
    for call in [FileCall::Read, FileCall::Open, FileCall::Len] {
        fail_each(SyncPolicy::Never, |skip| Fault::io_error(call, skip * 7), |_| ());
    }
}

#[test]
fn lasting_failure_refuses_every_write_until_it_is_over() {
    for call in [FileCall::Write, FileCall::Allocate, FileCall::Create, FileCall::Rename] {
        for skip in [0, 1, 2, 5, 10] {
            let run = Faulted::run(1, &quiet(SyncPolicy::Always), &Fault::disk_full(call, skip).lasting());
            run.end();
        }
    }
}

#[test]
fn short_reads_and_writes_are_continued() {
    for seed in 0..20 {
        let file_system = FaultyFileSystem::new();
        file_system.set_short_transfers(Some(seed));
        let sync = if seed % 2 == 0 { SyncPolicy::Always } else { SyncPolicy::Never };
        let options = quiet(sync);
        let (mut engine, mut model) = (None, Model::new());
        for step in generate(seed, STEPS) {
            perform(&file_system, &options, &mut engine, &step).unwrap();
            perform_on_model(&mut model, &step);
            assert_eq!(live_in(engine.as_ref().unwrap()).unwrap(), live(&model), "history {seed}");
        }
    }
}

#[test]
fn start_that_fails_at_any_call_can_be_tried_again() {
    for seed in 0..4 {
        let options = quiet(SyncPolicy::Always);
        let run = Run::new(generate(seed, STEPS), &options);
        // A crashed store has more to do at its start than a closed one.
        let moment = &run.moments[run.moments.len() * 3 / 4];
        for skip in 0.. {
            let image = moment.before.crashed(seed);
            let expected = live_in(&open_store_on(&image, &options).unwrap().0).unwrap();
            let image = moment.before.crashed(seed);
            image.inject(Fault { call: None, ..Fault::io_error(FileCall::Open, skip) });
            let opened = open_store_on(&image, &options);
            let what = format!("history {seed}, call {skip} of the start: {opened:?}");
            match opened {
                Ok((engine, recovery)) => {
                    assert!(!recovery.is_damaged(), "{what}");
                    drop(engine);
                }
                Err(OpenError::Io(error)) => assert!(error.to_string().contains('/'), "{what}"),
                Err(_) => panic!("{what}"),
            }
            let fired = image.clear_faults() > 0;
            let (engine, recovery) = open_store_on(&image, &options).unwrap();
            assert!(!recovery.is_damaged(), "{what}: {recovery:?}");
            assert_eq!(live_in(&engine).unwrap(), expected, "{what}");
            if !fired {
                break;
            }
        }
    }
}
