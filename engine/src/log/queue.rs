//! The queue of appends (group commit): a buffer that callers encode into, who commits it, and who is told.
//!
//! It knows neither records nor files: a [`Sink`] makes groups durable. The module that it is in says what a place and a
//! callback are, and what to lock with: so its tests run this very code under a scheduler.
//!
//! Invariants: one group at a time is being committed, in the order of the appends in it and before it; everyone who
//! was admitted is told exactly once, callbacks in the order of the calls and none under a lock, after their group's commit
//! and never before. Refuses what would go beyond its bound, and everything once it is closed or poisoned.

use std::time::Instant;

use super::sync::{Condvar, Mutex};
use super::ticket::{Caller, Ticket};
use super::{Callback, Place};
use crate::error::{AppendError, IoError};
use crate::format::MARK_LEN;

/// A buffer that grew beyond this is not kept.
const KEPT_BYTES: usize = 4 << 20;

/// Where the groups go.
pub(super) trait Sink {
    /// Makes a group durable, whose first bytes are room for a mark; returns where it begins.
    fn commit(&self, group: &mut [u8]) -> Result<Place, AppendError>;

    /// Tells what became of an append. Must not panic.
    fn tell(&self, callback: Callback, outcome: Result<Place, AppendError>);
}

/// Appends on their way to a sink.
pub(super) struct Queue {
    state: Mutex<State>,
    /// The log's thread waits here for work.
    work: Condvar,
    /// Blocking callers wait here for room.
    room: Condvar,
    charged_max: usize,
}

#[derive(Default)]
struct State {
    filling: Group,
    /// The last group's buffers, to be used again.
    spare: Option<Group>,
    /// Bytes charged for all appends that were not told their result yet.
    charged: usize,
    /// Somebody has taken a group and is writing it: the log's thread, or a caller that was alone.
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

/// Who is told what became of an append.
enum Waiting {
    Callback(Callback),
    /// A thread that waits.
    Caller(Caller),
}

impl Queue {
    /// An empty one that takes appends up to this charge in all.
    pub(super) fn new(charged_max: usize) -> Self {
        Self { state: Mutex::default(), work: Condvar::new(), room: Condvar::new(), charged_max }
    }

    /// What is charged for all appends that were not told their result yet.
    pub(super) fn charged(&self) -> usize {
        self.state.lock().charged
    }

    /// Queues an append whose callback is told; gives back with the reason what it does not take.
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

    /// Queues an append and waits, or commits it at once if there is nobody to share a sync with. Returns where its
    /// group begins.
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

    /// The log's thread: until the queue is closed and empty takes a group, commits it, tells.
    pub(super) fn run(&self, sink: &impl Sink) {
        while let Some(group) = self.next_group() {
            self.commit(sink, group);
        }
    }

    /// Where there is no thread: commits what waits, and tells; false if nothing does, or another is at it.
    pub(super) fn commit_waiting(&self, sink: &impl Sink) -> bool {
        let group = self.take_waiting();
        let found = group.is_some();
        if let Some(group) = group {
            self.commit(sink, group);
        }
        found
    }

    /// Where there is no thread: takes what waits, for [`Queue::commit`], so that what comes meanwhile waits for the next
    /// group. `None` if nothing waits, or a group is taken already.
    pub(super) fn take_waiting(&self) -> Option<Group> {
        let mut state = self.state.lock();
        (!state.committing && !state.is_empty()).then(|| state.take_group())
    }

    /// Commits a group that was taken, and tells.
    pub(super) fn commit(&self, sink: &impl Sink, mut group: Group) {
        let outcome = sink.commit(&mut group.buffer);
        for waiting in group.appends.drain(..) {
            match waiting {
                Waiting::Caller(caller) => caller.tell(outcome.clone()),
                Waiting::Callback(callback) => sink.tell(callback, outcome.clone()),
            }
        }
        self.end_commit(group, &outcome);
    }

    /// Refuses everything from now on; what was taken is still committed. Returns whether it was open.
    pub(super) fn close(&self) -> bool {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.closed, true) {
            return false;
        }
        // A caller that is committing wakes the thread when it is done; the other policy's waits for this.
        self.work.notify_all();
        self.room.notify_all();
        true
    }

    /// Waits until this instant, or until it is closed: returns whether it is.
    pub(super) fn wait_closed(&self, until: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.closed && !self.work.wait_until(&mut state, until).timed_out() {}
        state.closed
    }

    /// Refuses everything from now on because of a failure.
    pub(super) fn poison(&self, error: IoError) {
        self.state.lock().poisoned = Some(error);
        self.room.notify_all();
    }

    /// Why an append of this charge is not taken now.
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

    /// Whoever is committing looks for more when that is done, or wakes the thread then.
    fn wake_thread(&self, state: &mut State) {
        if !state.committing && std::mem::take(&mut state.thread_waits) {
            self.work.notify_one();
        }
    }

    /// Waits for a group; `None` once the queue is closed and all is committed.
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

    /// Frees the group's room; passes on what came in meanwhile.
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

    /// What the group that is filling holds so far.
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

    /// Hands out the group to whom it is to be committed by, who then ends that with [`State::give_back`].
    fn take_group(&mut self) -> Group {
        self.committing = true;
        let next = self.spare.take().unwrap_or_default();
        std::mem::replace(&mut self.filling, next)
    }

    /// Ends the commit of a group whose appends were told; keeps its buffers for the next but one.
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

/// The buffer, or a new one if it has grown large.
pub(super) fn reusable(buffer: Vec<u8>) -> Vec<u8> {
    if buffer.capacity() > KEPT_BYTES { Vec::new() } else { buffer }
}
