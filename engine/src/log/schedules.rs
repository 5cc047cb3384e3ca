//! Tests the queue of appends under a scheduler (shuttle). The scheduler runs its threads one at a time and
//! chooses at each lock, wait and wake-up which one continues: at random, and by probabilistic concurrency
//! testing (Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", 2010).
//! It also finds deadlocks.
//!
//! The queue and its tickets are compiled a second time here, from the same files, with the scheduler's
//! locks. The disk is a list of numbers. `CASKADE_SCHEDULES=N` sets the number of schedules tried for each
//! case.

#[path = "queue.rs"]
#[expect(clippy::duplicate_mod, reason = "the same code, with the scheduler's locks")]
#[expect(dead_code, reason = "not all of it runs here")]
mod queue;
/// Stands for the module `record` of the log.
mod record {
    /// Offset of a group on the disk.
    pub(super) type Place = usize;
    /// Number of an append, which is also its only byte.
    pub(super) type Callback = u8;
}
mod sync;
#[path = "ticket.rs"]
#[expect(clippy::duplicate_mod, reason = "the same code, with the scheduler's locks")]
mod ticket;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use shuttle::thread;

use self::queue::{Queue, Sink};
use self::record::{Callback, Place};
use self::sync::Mutex;
use crate::error::{AppendError, IoError};
use crate::format::MARK_LEN;

/// Schedules that each scheduler tries for each case.
const SCHEDULES: usize = 1000;

/// Number of places at which a schedule of the second kind deviates from the threads' priorities.
const PCT_DEPTH: usize = 3;

#[derive(Default)]
struct Disk(Mutex<State>);

#[derive(Default)]
struct State {
    /// Number of groups that still succeed; `None`: all.
    groups_left: Option<usize>,
    committing: bool,
    written: Vec<u8>,
    /// Number of durable bytes.
    durable: usize,
    /// Result of each append, in the order of the reports.
    told: Vec<(u8, Result<Place, AppendError>)>,
    /// Numbers of the appends whose result was reported to a callback.
    called_back: Vec<u8>,
}

impl Sink for Disk {
    fn commit(&self, group: &mut [u8]) -> Result<Place, AppendError> {
        let begin = {
            let mut state = self.0.lock();
            assert!(!std::mem::replace(&mut state.committing, true), "two groups are being committed");
            state.written.extend_from_slice(&group[MARK_LEN..]);
            state.written.len() - (group.len() - MARK_LEN)
        };
        // The group is written and not synced at this point.
        thread::yield_now();
        let mut state = self.0.lock();
        state.committing = false;
        match &mut state.groups_left {
            Some(0) => {
                return Err(AppendError::Poisoned(IoError::new("sync", "disk", io::Error::other("broken"))));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        state.durable = state.written.len();
        Ok(begin)
    }

    fn report(&self, number: Callback, outcome: Result<Place, AppendError>) {
        self.0.lock().called_back.push(number);
        self.note(number, outcome);
    }
}

impl Disk {
    /// Records the result of an append.
    fn note(&self, number: u8, outcome: Result<Place, AppendError>) {
        let mut state = self.0.lock();
        if let Ok(place) = outcome {
            let durable = &state.written[..state.durable];
            assert!(
                durable.iter().skip(place).any(|&byte| byte == number),
                "{number} was acknowledged before its sync"
            );
        }
        state.told.push((number, outcome));
    }
}

/// A queue and its disk, with the actions of the test threads.
#[derive(Clone)]
struct Store {
    queue: Arc<Queue>,
    disk: Arc<Disk>,
}

impl Store {
    fn new(charged_max: usize, groups_left: Option<usize>) -> Self {
        let state = State { groups_left, ..State::default() };
        Self { queue: Arc::new(Queue::new(charged_max)), disk: Arc::new(Disk(Mutex::new(state))) }
    }

    fn spawn(&self, act: impl FnOnce(&Self) + Send + 'static) -> thread::JoinHandle<()> {
        let store = self.clone();
        thread::spawn(move || act(&store))
    }

    /// Appends each number and waits for its result; waits for room, too.
    fn append_and_wait(&self, numbers: std::ops::Range<u8>) {
        for number in numbers {
            let outcome = self.queue.append_and_wait(&*self.disk, 1, true, |buffer| buffer.push(number));
            self.disk.note(number, outcome);
        }
    }

    /// Appends each number without waiting.
    fn append(&self, numbers: std::ops::Range<u8>) {
        for number in numbers {
            let encode = |number, buffer: &mut Vec<u8>| {
                buffer.push(number);
                number
            };
            if let Err((error, number)) = self.queue.push(1, number, encode) {
                self.disk.note(number, Err(error));
            }
        }
    }
}

/// Appends made in each case.
const APPENDS: u8 = 6;

/// Runs two threads that wait, one that does not, the log's thread and, if requested, one that closes the
/// queue meanwhile. Afterwards checks everything that must hold in every schedule.
fn run(store: &Store, close_meanwhile: bool) {
    let log = store.spawn(|store| store.queue.run(&*store.disk));
    let mut threads = vec![
        store.spawn(|store| store.append_and_wait(0..2)),
        store.spawn(|store| store.append_and_wait(2..4)),
        store.spawn(|store| store.append(4..APPENDS)),
    ];
    if close_meanwhile {
        threads.push(store.spawn(|store| assert!(store.queue.close())));
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    store.queue.close();
    log.join().unwrap();
    check(store);
}

fn check(store: &Store) {
    assert_eq!(store.queue.charged(), 0, "room was not given back");
    let state = store.disk.0.lock();
    let mut by_number = BTreeMap::new();
    for (number, outcome) in &state.told {
        assert!(by_number.insert(*number, outcome).is_none(), "{number} got two results");
    }
    assert_eq!(by_number.len(), usize::from(APPENDS), "some got no result: {:?}", state.told);
    for (number, outcome) in by_number {
        let at = state.written.iter().position(|&byte| byte == number);
        match outcome {
            Ok(_) => assert!(at.is_some_and(|at| at < state.durable), "{number} is not durable"),
            Err(AppendError::Poisoned(_)) => {
                assert!(at.is_none_or(|at| at >= state.durable), "{number} is durable")
            }
            Err(_) => assert_eq!(at, None, "{number} was refused and written"),
        }
    }
    // Appends of one thread are in their order, and callbacks run in the order of the written bytes.
    for first in (0..APPENDS).step_by(2) {
        let at = |number| state.written.iter().position(|&byte| byte == number);
        assert!(
            at(first).zip(at(first + 1)).is_none_or(|(first, second)| first < second),
            "{:?}",
            state.written
        );
    }
    let through_callback: Vec<u8> = state.written.iter().copied().filter(|&number| number >= 4).collect();
    assert_eq!(state.called_back, through_callback, "callbacks are out of order");
}

/// Runs a case under both schedulers.
fn try_schedules(case: impl Fn() + Send + Sync + 'static) {
    let wanted = std::env::var("CASKADE_SCHEDULES").ok();
    let schedules = wanted.and_then(|text| text.parse().ok()).unwrap_or(SCHEDULES);
    let case = Arc::new(case);
    let again = case.clone();
    shuttle::check_random(move || case(), schedules);
    shuttle::check_pct(move || again(), schedules, PCT_DEPTH);
}

fn outcomes(store: &Store) -> Vec<(u8, Result<Place, AppendError>)> {
    store.disk.0.lock().told.clone()
}

#[test]
fn every_append_is_told_once_after_its_group_is_durable() {
    try_schedules(|| {
        let store = Store::new(APPENDS.into(), None);
        run(&store, false);
        assert!(outcomes(&store).iter().all(|(_, outcome)| outcome.is_ok()));
    });
}

#[test]
fn who_waits_for_room_gets_it() {
    for charged_max in [1, 2] {
        try_schedules(move || {
            let store = Store::new(charged_max, None);
            run(&store, false);
            let refused = outcomes(&store).into_iter().filter(|(_, outcome)| outcome.is_err());
            for (number, error) in refused {
                assert!(
                    number >= 4 && matches!(error, Err(AppendError::Overloaded { .. })),
                    "{number}: {error:?}"
                );
            }
        });
    }
}

#[test]
fn closing_tells_everyone() {
    for charged_max in [1, 2, 6] {
        try_schedules(move || run(&Store::new(charged_max, None), true));
    }
}

#[test]
fn failed_sync_tells_everyone_and_nothing_succeeds_after_it() {
    for groups_left in 0..3 {
        try_schedules(move || {
            let store = Store::new(2, Some(groups_left));
            run(&store, false);
            let succeeded = outcomes(&store).into_iter().filter(|(_, outcome)| outcome.is_ok()).count();
            assert_eq!(succeeded, store.disk.0.lock().durable);
            // The queue itself rejects all later appends, for that reason.
            let is_poisoned =
                |outcome: &Result<Place, AppendError>| matches!(outcome, Err(AppendError::Poisoned(_)));
            let failed = outcomes(&store).iter().any(|(_, outcome)| is_poisoned(outcome));
            let late = store.queue.append_and_wait(&*store.disk, 1, true, |_| unreachable!("it is closed"));
            assert_eq!(is_poisoned(&late), failed);
        });
    }
}
