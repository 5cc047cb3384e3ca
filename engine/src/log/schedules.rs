//! The queue of appends under a scheduler (shuttle), which runs its threads one at a time and chooses at each lock, wait and
//! wake-up who goes on: at random, and by probabilistic concurrency testing (Burckhardt et al., "A Randomized Scheduler
//! with Probabilistic Guarantees of Finding Bugs", 2010). That all threads wait for ever is found as well.
//!
//! The queue and its tickets are compiled here a second time, from the same files, with the scheduler's locks and with a
//! disk that is a list of numbers. `CASKADE_SCHEDULES=N` tries so many schedules of each case.

#[path = "queue.rs"]
#[expect(clippy::duplicate_mod, reason = "the same code, with the scheduler's locks")]
#[expect(dead_code, reason = "not all of it runs here")]
mod queue;
mod sync;
#[path = "ticket.rs"]
#[expect(clippy::duplicate_mod, reason = "the same code, with the scheduler's locks")]
mod ticket;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use shuttle::thread;

use self::queue::{Queue, Sink};
use self::sync::Mutex;
use crate::error::{AppendError, IoError};
use crate::format::MARK_LEN;

/// Where a group begins on the disk.
type Place = usize;

/// An append's number, which is also its only byte.
type Callback = u8;

/// Schedules tried of each case, by each scheduler.
const SCHEDULES: usize = 1000;

/// At how many places a schedule of the second kind departs from the threads' priorities.
const PCT_DEPTH: usize = 3;

#[derive(Default)]
struct Disk(Mutex<State>);

#[derive(Default)]
struct State {
    /// How many more groups it takes; without, any.
    groups_left: Option<usize>,
    committing: bool,
    written: Vec<u8>,
    /// How many of those are durable.
    durable: usize,
    /// What each append was told, in that order.
    told: Vec<(u8, Result<Place, AppendError>)>,
    /// Those of them that were told through a callback.
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
        // Here it is written and not synced.
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

    fn tell(&self, number: Callback, outcome: Result<Place, AppendError>) {
        self.0.lock().called_back.push(number);
        self.note(number, outcome);
    }
}

impl Disk {
    /// Takes note of what an append was told.
    fn note(&self, number: u8, outcome: Result<Place, AppendError>) {
        let mut state = self.0.lock();
        if let Ok(place) = outcome {
            let durable = &state.written[..state.durable];
            assert!(
                durable.iter().skip(place).any(|&byte| byte == number),
                "{number} was told before its sync"
            );
        }
        state.told.push((number, outcome));
    }
}

/// A queue, its disk, and what threads do with them.
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

    /// Appends each and waits, for room too.
    fn append_and_wait(&self, numbers: std::ops::Range<u8>) {
        for number in numbers {
            let outcome = self.queue.append_and_wait(&*self.disk, 1, true, |buffer| buffer.push(number));
            self.disk.note(number, outcome);
        }
    }

    /// Appends each and goes on.
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

/// Two threads that wait, one that does not, the log's thread; one that closes meanwhile, if it is to. Afterwards all
/// is checked that must hold however it went.
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
        assert!(by_number.insert(*number, outcome).is_none(), "{number} was told twice");
    }
    assert_eq!(by_number.len(), usize::from(APPENDS), "some were never told: {:?}", state.told);
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
    // Those of one thread are in their order, and callbacks are called in the order of what is written.
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
            // The queue itself refuses from then on, for that reason.
            let is_poisoned =
                |outcome: &Result<Place, AppendError>| matches!(outcome, Err(AppendError::Poisoned(_)));
            let failed = outcomes(&store).iter().any(|(_, outcome)| is_poisoned(outcome));
            let late = store.queue.append_and_wait(&*store.disk, 1, true, |_| unreachable!("it is closed"));
            assert_eq!(is_poisoned(&late), failed);
        });
    }
}
