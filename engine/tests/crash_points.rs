//! Crashes at every file-system call of generated histories, with every loss that a power failure may cause
//! to unsynced data. Checks that no acknowledged write is missing, and no deleted or dropped key is back.
//! Checks that no batch is incomplete, and no record is served that was never written.
//!
//! `CASKADE_CRASH_HISTORIES=1000` runs more histories. `CASKADE_CRASH_SEED=` repeats the seed that a failure
//! printed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use caskade_engine::replicated::Store;
use caskade_engine::snapshot::restore_on;
use caskade_engine::testing::{FaultyFileSystem, FileSystem, Moment};
use caskade_engine::{OpenError, Options, SyncPolicy};
use support::histories::{Run, Step, generate, live, live_in, perform, perform_on_model};
use support::{Draw, Model, describe, open_store_on, quiet, value};

const STEPS: usize = 24;

/// Number of histories that run at once.
const THREADS: usize = 4;

/// One of this many images is also crashed during its recovery.
const RECOVERY_CRASH_EVERY: u64 = 16;

/// Directory to which snapshots are restored.
const RESTORED: &str = "/restored";

/// Loss of unsynced data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// A power loss, with this many images of each moment.
    Power(u64),
    /// `kill -9`: no loss.
    Kill,
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Runs histories and crashes them at every call.
fn crash_everywhere(name: &str, histories: u64, sync: SyncPolicy, losses: &[Loss]) {
    let histories = number("CASKADE_CRASH_HISTORIES").unwrap_or(histories);
    let only = number("CASKADE_CRASH_SEED");
    let seeds = only.map_or(0..histories, |seed| seed..seed + 1);
    let next = AtomicU64::new(seeds.start);
    let (points, images) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // More threads than cores: an engine that opens or appends waits for its own threads.
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(seed) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < seeds.end)
                {
                    let (more_points, more_images) = crash_one(seed, sync, losses);
                    points.fetch_add(more_points, Ordering::Relaxed);
                    images.fetch_add(more_images, Ordering::Relaxed);
                }
            });
        }
    });
    tell(&format!("{name}: {} crash points, {} images", points.into_inner(), images.into_inner()));
}

/// Prints a line also when the test passes; the harness captures the usual output.
fn tell(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Runs one history and crashes it at every call; returns the numbers of crash points and images.
fn crash_one(seed: u64, sync: SyncPolicy, losses: &[Loss]) -> (u64, u64) {
    let options = quiet(sync);
    let run = Run::new(generate(seed, STEPS), &options);
    let end = run.moments.last().unwrap().clone();
    let end = Moment { call: run.file_system.calls(), before: run.file_system.killed(), ..end };
    let (mut points, mut images) = (0, 0);
    for moment in run.moments.iter().chain([&end]) {
        points += 1;
        for &loss in losses {
            let count = if let Loss::Power(count) = loss { count } else { 1 };
            for image_seed in moment.call * count..(moment.call + 1) * count {
                images += 1;
                check_crash(&run, moment, &options, loss, image_seed).unwrap_or_else(|what| {
                    panic!(
                        "{what}\nafter a crash ({loss:?}, image {image_seed}) before call {} ({:?} of {}), in or \
                         before step {:?};\nCASKADE_CRASH_SEED={seed} repeats it",
                        moment.call,
                        moment.kind,
                        moment.path.display(),
                        run.steps.get(run.done_before(moment.call)),
                    )
                });
            }
        }
    }
    (points, images)
}

/// Opens the image of a crash, checks it, continues with it, and crashes it again.
fn check_crash(run: &Run, moment: &Moment, options: &Options, loss: Loss, seed: u64) -> Result<(), String> {
    let image = match loss {
        Loss::Power(_) => moment.before.crashed(seed),
        Loss::Kill => moment.before.killed(),
    };
    let acceptable = match (loss, options.sync) {
        (Loss::Power(_), SyncPolicy::Never | SyncPolicy::Interval(_)) => run.acceptable_prefixes(moment.call),
        _ => run.acceptable(moment.call),
    };
    if seed.is_multiple_of(RECOVERY_CRASH_EVERY) {
        image.remember();
    }
    let (engine, state) = open_undamaged(&image, options, &acceptable)?;
    for recovering in image.moments() {
        let again = match loss {
            Loss::Kill if options.sync != SyncPolicy::Always => recovering.before.killed(),
            _ => recovering.before.crashed(seed),
        };
        open_undamaged(&again, options, &acceptable).map_err(|what| {
            format!("{what}\nafter another crash before {:?} of its recovery", recovering.kind)
        })?;
    }
    let lost_len = run.first_lost_len(moment.call, &state);
    // Half of the images: as long as the lost value. The others: often long enough for a new file.
    let len = lost_len.filter(|_| seed.is_multiple_of(2)).unwrap_or(Draw(seed).below(4) as usize * 20_000);
    go_on(&image, engine, options, &state, (seed, len))?;
    check_snapshot(run, moment, &image, options)
}

/// Checks that a completed snapshot is whole, and that an interrupted one is whole or refused.
fn check_snapshot(
    run: &Run,
    moment: &Moment,
    image: &FaultyFileSystem,
    options: &Options,
) -> Result<(), String> {
    let Some((path, was_made, held)) = run.snapshot_before(moment.call) else { return Ok(()) };
    let restored = Options { path: RESTORED.into(), ..options.clone() };
    let file_system: Arc<dyn FileSystem> = Arc::new(image.clone());
    match restore_on(&file_system, path, &restored.path) {
        Ok(_) => open_undamaged(image, &restored, std::slice::from_ref(held))
            .map(drop)
            .map_err(|what| format!("{what}\nin the store restored from {}", path.display())),
        Err(_) if !was_made => Ok(()),
        Err(error) => Err(format!("the snapshot {} is not restored: {error}", path.display())),
    }
}

/// Opens a store that must hold one of these states; returns it.
fn open_undamaged(
    image: &FaultyFileSystem,
    options: &Options,
    acceptable: &[Model],
) -> Result<(Store, Model), String> {
    let (engine, recovery) =
        open_store_on(image, options).map_err(|e| format!("the store does not open: {e}"))?;
    if recovery.is_damaged() {
        return Err(format!("the store reports damage: {recovery:?}"));
    }
    let state = live_in(&engine).map_err(|e| format!("a key cannot be read: {e}"))?;
    if !acceptable.contains(&state) {
        return Err(format!("it holds {}\nand not {}", describe(&state), all(acceptable)));
    }
    let counted = engine.stats().live_keys;
    if counted != state.len() as u64 {
        return Err(format!("it counts {counted} live keys, and holds {}", state.len()));
    }
    Ok((engine, state))
}

/// Writes to a store after a crash, and opens it again, after a clean end and after another power loss.
fn go_on(
    image: &FaultyFileSystem,
    engine: Store,
    options: &Options,
    state: &Model,
    (seed, len): (u64, usize),
) -> Result<(), String> {
    // The key is as long as all others: no record of a torn tail may begin where this record ends.
    let after = value(b"after-{9}", 1 << 40, &vec![0x5a; len]);
    engine.apply(vec![after.clone()]).map_err(|e| format!("the store accepts no write: {e}"))?;
    let mut images = vec![("a clean end", image.clone()), ("kill -9", image.killed())];
    if options.sync == SyncPolicy::Always {
        images.push(("another crash", image.crashed(seed)));
    }
    drop(engine);
    for (how, image) in &images {
        let failed = |what| format!("{what}\nafter a further write, and {how}");
        let (engine, recovery) = open_store_on(image, options).map_err(|e| failed(e.to_string()))?;
        let now = live_in(&engine).map_err(|e| failed(e.to_string()))?;
        let is_there = engine.read(b"after-{9}").map_err(|e| failed(e.to_string()))? == Some(after.clone());
        if recovery.is_damaged() || !is_there || now != *state {
            return Err(failed(format!("{} (the write: {is_there}) {recovery:?}", describe(&now))));
        }
    }
    Ok(())
}

fn all(states: &[Model]) -> String {
    states.iter().map(describe).collect::<Vec<_>>().join("\nnor  ")
}

#[test]
fn acknowledged_write_survives_a_power_loss_at_every_call() {
    crash_everywhere("sync = always", 12, SyncPolicy::Always, &[Loss::Power(3), Loss::Kill]);
}

#[test]
fn acknowledged_write_survives_a_kill_at_every_call_whatever_the_sync_policy() {
    crash_everywhere("sync = interval", 8, SyncPolicy::Interval(60_000), &[Loss::Kill]);
    crash_everywhere("sync = never", 8, SyncPolicy::Never, &[Loss::Kill]);
}

#[test]
fn power_loss_without_sync_leaves_the_first_of_the_writes() {
    crash_everywhere("sync = never", 8, SyncPolicy::Never, &[Loss::Power(2)]);
}

#[test]
fn process_that_dies_within_a_call_has_acknowledged_only_what_is_there() {
    let mut deaths = 0;
    for seed in 0..6 {
        let sync = if seed % 3 == 0 { SyncPolicy::Never } else { SyncPolicy::Always };
        let options = quiet(sync);
        let steps = generate(seed, STEPS);
        let calls = Run::new(steps.clone(), &options).file_system.calls();
        for dies_at in (0..calls).step_by(7) {
            let file_system = FaultyFileSystem::new();
            file_system.crash_within(dies_at, seed);
            let (acknowledged, acceptable) = run_until_death(&file_system, &options, &steps);
            let what = format!("history {seed}, dead in call {dies_at}, after {acknowledged} steps");
            assert!(file_system.is_dead(), "{what}");
            let mut images = vec![file_system.killed()];
            if sync == SyncPolicy::Always {
                images.extend((0..3).map(|seed| file_system.crashed(seed)));
            }
            for image in images {
                deaths += 1;
                open_undamaged(&image, &options, &acceptable)
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
            }
        }
    }
    eprintln!("died within a call: {deaths} images");
}

/// Performs the steps until one fails; returns how many succeeded, and the states that are possible then.
fn run_until_death(file_system: &FaultyFileSystem, options: &Options, steps: &[Step]) -> (usize, [Model; 2]) {
    let (mut engine, mut model) = (None, Model::new());
    for (done, step) in steps.iter().enumerate() {
        let before = live(&model);
        perform_on_model(&mut model, step);
        if perform(file_system, options, &mut engine, step).is_err() {
            return (done, [before, live(&model)]);
        }
    }
    (steps.len(), [live(&model), live(&model)])
}

#[test]
fn restore_that_crashed_is_whole_or_refused() {
    let mut points = 0;
    for seed in 0..6 {
        let options = quiet(SyncPolicy::Always);
        let run = Run::new(generate(seed, STEPS), &options);
        let end = run.file_system.calls();
        let Some((path, true, held)) = run.snapshot_before(end) else { continue };
        let image = run.file_system.killed();
        image.remember();
        let restored = Options { path: RESTORED.into(), ..options };
        restore_on(&(Arc::new(image.clone()) as Arc<dyn FileSystem>), path, &restored.path).unwrap();
        for moment in image.moments() {
            points += 1;
            let what =
                format!("history {seed}, a crash before {:?} of {}", moment.kind, moment.path.display());
            for image in [moment.before.killed(), moment.before.crashed(1), moment.before.crashed(2)] {
                // Before any file of the snapshot exists, opening the directory creates a new store.
                let names = image.list(&restored.path).unwrap_or_default();
                let is_new = names.iter().all(|name| name == "lock" || name.ends_with(".tmp"));
                match open_store_on(&image, &restored) {
                    Ok((engine, recovery)) => {
                        let state = live_in(&engine).unwrap();
                        assert!(!recovery.is_damaged(), "{what}: {recovery:?}");
                        assert!(state == *held || is_new, "{what}: {}", describe(&state));
                    }
                    Err(OpenError::Io(error)) => panic!("{what}: {error}"),
                    Err(_) => {}
                }
            }
        }
    }
    tell(&format!("restore: {points} crash points, {} images", points * 3));
}
