//! The queue of appends (group commit): callers encode into a buffer, one thread commits it, and each append
//! gets its result.
//!
//! The queue knows neither records nor files: a [`Sink`] makes groups durable. The parent module defines the
//! types of a place and a callback, and the locks; so the tests run the same code under a scheduler.
//!
//! Invariants: one group at a time is being committed, in the order of the appends; each admitted append gets
//! its result exactly once, after its group's commit; callbacks run in the order of the calls and none under
//! a lock. Rejects appends above the limit, and all appends after it is closed or poisoned.

use std::time::Instant;

use super::record::{Callback, Place};
use super::sync::{Condvar, Mutex};
use super::ticket::{Caller, Ticket};
use crate::error::{AppendError, IoError};
use crate::format::MARK_LEN;

/// Capacity in bytes above which a buffer is not reused.
const KEPT_BYTES: usize = 4 << 20;

/// Receiver of the groups.
pub(super) trait Sink {
    /// Makes a group durable and returns its place. The first bytes of the group are room for a mark.
    fn commit(&self, group: &mut [u8]) -> Result<Place, AppendError>;

    /// Reports the result of an append to its callback. Must not panic.
    fn report(&self, callback: Callback, outcome: Result<Place, AppendError>);
}

/// Appends that wait for a sink.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Signals work to the log's thread.
    work: Condvar,
    /// Signals room to waiting callers.
    room: Condvar,
    charged_max: usize,
}

#[derive(Default)]
struct State {
    filling: Group,
    /// The buffers of the last group, for reuse.
    spare: Option<Group>,
    /// Bytes charged for all appends that have no result yet.
    charged: usize,
    /// Whether the log's thread, or a caller that was alone, has taken a group and is writing it.
    committing: bool,
    thread_waits: bool,
    closed: bool,
    poisoned: Option<IoError>,
}

/// Appends that are written and synced together.
#[derive(Default)]
pub(super) struct Group {
    /// Room for a mark, then the records.
    buffer: Vec<u8>,
    appends: Vec<Waiting>,
    charged: usize,
}

/// Receiver of the result of an append.
enum Waiting {
    Callback(Callback),
    /// A thread that waits.
    Caller(Caller),
}

impl Queue {
    /// Creates an empty queue with this limit of the charges in total.
    pub(super) fn new(charged_max: usize) -> Self {
        Self { state: Mutex::default(), work: Condvar::new(), room: Condvar::new(), charged_max }
    }

    /// Returns the bytes charged for all appends that have no result yet.
    pub(super) fn charged(&self) -> usize {
        self.state.lock().charged
    }

    /// Queues an append with a callback; returns an append that it rejects, with the reason.
    pub(super) fn push<T>(
        &self,
        charge: usize,
        append: T,
        encode: impl FnOnce(T, &mut Vec<u8>) -> Callback,
    ) -> Result<(), (AppendError, T)> {
        let mut state = self.state.lock();
        if let Err(error) = self.admit(&state, charge) {
            return Err((error, append));
        }
        let callback = encode(append, state.buffer());
        state.filling.appends.push(Waiting::Callback(callback));
        state.charge(charge);
        self.wake_thread(&mut state);
        Ok(())
    }

    /// Queues an append and waits, or commits it at once if no other append could share its sync. Returns the
    /// place of its group.
    pub(super) fn append_and_wait(
        &self,
        sink: &impl Sink,
        charge: usize,
        wait_for_room: bool,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Place, AppendError> {
        let mut state = self.state.lock();
        while wait_for_room && state.is_open() && state.charged + charge > self.charged_max {
            self.room.wait(&mut state);
        }
        self.admit(&state, charge)?;
        let alone = state.is_empty() && !state.committing;
        encode(state.buffer());
        state.charge(charge);
        if alone {
            let mut group = state.take_group();
            drop(state);
            let outcome = sink.commit(&mut group.buffer);
            self.end_commit(group, &outcome);
            return outcome;
        }
        let ticket = Ticket::own();
        state.filling.appends.push(Waiting::Caller(ticket.caller()));
        self.wake_thread(&mut state);
        drop(state);
        ticket.wait()
    }

    /// Runs the log's thread: takes groups, commits them and reports the results, until the queue is closed
    /// and empty.
    pub(super) fn run(&self, sink: &impl Sink) {
        while let Some(group) = self.next_group() {
            self.commit(sink, group);
        }
    }

    /// Commits waiting appends and reports the results, for a log without a thread. Returns `false` if none
    /// waits, or if another thread is committing.
    pub(super) fn commit_waiting(&self, sink: &impl Sink) -> bool {
        let group = self.take_waiting();
        let found = group.is_some();
        if let Some(group) = group {
            self.commit(sink, group);
        }
        found
    }

    /// Takes the waiting appends for [`Queue::commit`], for a log without a thread; later appends wait for
    /// the next group. `None` if none waits, or a group is taken already.
    pub(super) fn take_waiting(&self) -> Option<Group> {
        let mut state = self.state.lock();
        (!state.committing && !state.is_empty()).then(|| state.take_group())
    }

    /// Commits a group that was taken, and reports the results.
    pub(super) fn commit(&self, sink: &impl Sink, mut group: Group) {
        let outcome = sink.commit(&mut group.buffer);
        for waiting in group.appends.drain(..) {
            match waiting {
                Waiting::Caller(caller) => caller.report(outcome.clone()),
                Waiting::Callback(callback) => sink.report(callback, outcome.clone()),
            }
        }
        self.end_commit(group, &outcome);
    }

    /// Rejects all later appends; those already admitted are still committed. Returns whether the queue was
    /// open.
    pub(super) fn close(&self) -> bool {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.closed, true) {
            return false;
        }
        // Wakes the log's thread, also that of the interval policy. A committing caller wakes the thread when
        // it is done.
        self.work.notify_all();
        self.room.notify_all();
        true
    }

    /// Waits until this instant, or until the queue is closed; returns whether it is closed.
    pub(super) fn wait_closed(&self, until: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.closed && !self.work.wait_until(&mut state, until).timed_out() {}
        state.closed
    }

    /// Rejects all later appends because of a failure.
    pub(super) fn poison(&self, error: IoError) {
        self.state.lock().poisoned = Some(error);
        self.room.notify_all();
    }

    /// Checks whether an append of this charge is admitted now.
    fn admit(&self, state: &State, charge: usize) -> Result<(), AppendError> {
        if let Some(error) = &state.poisoned {
            Err(AppendError::Poisoned(error.clone()))
        } else if state.closed {
            Err(AppendError::Closed)
        } else if state.charged + charge > self.charged_max {
            Err(AppendError::Overloaded { waiting: state.charged, max: self.charged_max })
        } else {
            Ok(())
        }
    }

    /// Wakes the log's thread if it waits, unless a group is being committed: the committing thread then
    /// commits the next group too, or wakes the log's thread.
    fn wake_thread(&self, state: &mut State) {
        if !state.committing && std::mem::take(&mut state.thread_waits) {
            self.work.notify_one();
        }
    }

    /// Waits for a group; returns `None` after the queue is closed and all appends are committed.
    fn next_group(&self) -> Option<Group> {
        let mut state = self.state.lock();
        loop {
            if !state.committing {
                if !state.is_empty() {
                    return Some(state.take_group());
                }
                if state.closed {
                    return None;
                }
            }
            state.thread_waits = true;
            self.work.wait(&mut state);
        }
    }

    /// Releases the group's room, and wakes the threads that wait for room or for work.
    fn end_commit(&self, group: Group, outcome: &Result<Place, AppendError>) {
        let mut state = self.state.lock();
        state.give_back(group);
        if let Err(AppendError::Poisoned(error)) = outcome {
            state.poisoned = Some(error.clone());
        }
        if !state.is_empty() || state.closed {
            self.wake_thread(&mut state);
        }
        drop(state);
        self.room.notify_all();
    }
}

impl State {
    fn is_empty(&self) -> bool {
        self.filling.appends.is_empty()
    }

    fn is_open(&self) -> bool {
        !self.closed && self.poisoned.is_none()
    }

    /// Returns the buffer of the group that is being filled.
    fn buffer(&mut self) -> &mut Vec<u8> {
        let buffer = &mut self.filling.buffer;
        if buffer.is_empty() {
            buffer.resize(MARK_LEN, 0);
        }
        buffer
    }

    fn charge(&mut self, charge: usize) {
        self.filling.charged += charge;
        self.charged += charge;
    }

    /// Returns the filled group to the thread that will commit it. That thread then calls
    /// [`State::give_back`].
    fn take_group(&mut self) -> Group {
        self.committing = true;
        let next = self.spare.take().unwrap_or_default();
        std::mem::replace(&mut self.filling, next)
    }

    /// Ends the commit of a group whose appends have their results; keeps its buffers for the next but one.
    fn give_back(&mut self, mut group: Group) {
        self.committing = false;
        self.charged -= group.charged;
        group.appends.clear();
        group.buffer.clear();
        group.charged = 0;
        group.buffer = reusable(group.buffer);
        self.spare = Some(group);
    }
}

/// Returns the buffer, or a new one if it has grown large.
pub(super) fn reusable(buffer: Vec<u8>) -> Vec<u8> {
    if buffer.capacity() > KEPT_BYTES { Vec::new() } else { buffer }
}
