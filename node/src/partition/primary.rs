//! The order of one partition's writes at its primary. Pure: no I/O, no clock.
//!
//! A write has one record, or several that become visible together. It gets the next sequences and is
//! *pending* until this node's own append is durable and every follower has acknowledged it. Then it is
//! *published*, in order. Reads see published records only; writes that read the key see its newest
//! pending record. Invariants: the sequences of `pending` are consecutive, one for each record. The last
//! sequence of a write identifies it. No write is published before all present followers have
//! acknowledged it (promise P1).

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use caskade_engine::Record;

use super::action::{PrimaryAction, Writes};
use super::event::{AppendFailure, PrimaryEvent, Rejection};
use super::follower::{AssignedFollower, Follower, Place};
use super::version::version;
use crate::id::{NodeId, Term};
use crate::mutation::{Mutation, planted};

/// Pause before an append is repeated that the overloaded log rejected.
const OVERLOAD_PAUSE_MS: u64 = 5;
/// Pause before an append is repeated that found no disk space.
const NO_SPACE_PAUSE_MS: u64 = 100;

/// Phase of a primary: whether it serves requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Reconciles with the other in-sync replicas after a failover; does not serve yet.
    Recovering,
    /// Serves requests.
    Serving,
    /// Gives the partition up: serves no requests, completes pending writes, never resumes by itself
    /// (rule R3).
    Stopped,
}

/// A write that is ordered but not published.
#[derive(Debug)]
struct Pending<A, W> {
    /// The records, at least one, with consecutive versions.
    records: Vec<Record>,
    /// Bytes of the keys and values.
    bytes: u64,
    /// Sequence of the last record; identifies the write.
    last: u64,
    /// Time of the ordering, for the replica time-out; milliseconds of the monotonic clock.
    ordered_ms: u64,
    /// The local append, once durable.
    appended: Option<A>,
    /// Time since when the local append finds no disk space; milliseconds of the monotonic clock.
    failed_ms: Option<u64>,
    /// Whether a local append is in flight.
    appending: bool,
    /// Whether the write was sent to another node, which may hold it.
    sent: bool,
    /// Waiters for the publication: the writer, and operations that saw the write (rule R6).
    waiters: Vec<W>,
}

impl<A, W> Pending<A, W> {
    fn writes(&self) -> Writes {
        Writes { first: self.last + 1 - self.records.len() as u64, last: self.last }
    }
}

/// One partition's writes under one term. `A` is the handle of a local append, `W` waits for an outcome,
/// `D` for a digest.
///
/// Methods put their actions into a list; [`Primary::take_actions`] returns it. The owner performs the
/// actions before it unlocks the partition.
#[derive(Debug)]
pub(crate) struct Primary<A, W, D> {
    term: Term,
    phase: Phase,
    /// Replicas that must acknowledge every write.
    followers: Vec<Follower>,
    pending: VecDeque<Pending<A, W>>,
    /// Sequence of the newest published record; the sequences of `pending` follow it.
    published: u64,
    digest_waiters: Vec<(u64, D)>,
    /// Appends to repeat: time and write.
    retries: BTreeSet<(u64, u64)>,
    /// Number of pending writes whose local append found no disk space and has not succeeded yet.
    failed: usize,
    /// Whether it gave the partition up for lack of disk space: true until a committed state ends its
    /// term (rule R3).
    steps_down: bool,
    /// Number of the newest session or transfer.
    sessions: u64,
    /// The latest time for which a wake-up was requested and is not reached.
    wake_ms: Option<u64>,
    actions: Vec<PrimaryAction<A, W, D>>,
}

impl<A, W, D> Primary<A, W, D> {
    /// Creates a primary that has ordered nothing in `term` yet. It numbers sessions and transfers from
    /// the number after `sessions`, which is above all numbers that this node used before.
    pub(crate) fn new(term: Term, phase: Phase, sessions: u64) -> Self {
        Self {
            term,
            phase,
            followers: Vec::new(),
            pending: VecDeque::new(),
            published: 0,
            digest_waiters: Vec::new(),
            retries: BTreeSet::new(),
            failed: 0,
            steps_down: false,
            sessions,
            wake_ms: None,
            actions: Vec::new(),
        }
    }

    /// Returns the term under which it orders.
    pub(crate) fn term(&self) -> Term {
        self.term
    }

    /// Returns whether it serves requests.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns the replicas that must acknowledge every write.
    pub(crate) fn followers(&self) -> &[Follower] {
        &self.followers
    }

    /// Returns the follower on a node, if any.
    pub(crate) fn follower(&self, node: NodeId) -> Option<&Follower> {
        self.followers.iter().find(|follower| follower.node() == node)
    }

    /// Returns the sequence of the newest ordered record.
    pub(crate) fn last(&self) -> u64 {
        self.pending.back().map_or(self.published, |pending| pending.last)
    }

    /// Returns the sequence of the newest published record.
    pub(crate) fn published(&self) -> u64 {
        self.published
    }

    /// Returns the number of pending writes.
    pub(crate) fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// Returns the newest pending record of a key.
    pub(crate) fn newest_pending(&self, key: &[u8]) -> Option<&Record> {
        self.newest_write(key).map(|(_, record)| record)
    }

    fn newest_write(&self, key: &[u8]) -> Option<(usize, &Record)> {
        self.pending.iter().enumerate().rev().find_map(|(index, pending)| {
            let record = pending.records.iter().rev().find(|record| record.key == key)?;
            Some((index, record))
        })
    }

    /// Returns these pending writes, oldest first, each with its last sequence.
    pub(crate) fn pending(&self, writes: Writes) -> impl Iterator<Item = (u64, &[Record])> {
        let from = self.pending.partition_point(|pending| pending.last < writes.first);
        let those = self.pending.range(from..).take_while(move |pending| pending.last <= writes.last);
        those.map(|pending| (pending.last, &pending.records[..]))
    }

    /// Returns the place of the next frame to a follower; `None` while its session is broken.
    pub(crate) fn place(&self, node: NodeId) -> Option<Place> {
        let follower = self.follower(node).filter(|follower| !follower.is_broken())?;
        Some(follower.place(self.last()))
    }

    /// Returns whether a write found no room on this disk and is not on it yet: nothing after it can be
    /// published.
    pub(crate) fn is_stuck(&self) -> bool {
        self.failed > 0
    }

    /// Returns a number for a session or transfer, greater than all before it.
    pub(crate) fn next_session(&mut self) -> u64 {
        self.sessions += 1;
        self.sessions
    }

    /// Returns the actions of all calls since the last time. The owner performs them in their order, then
    /// returns the emptied list to [`Primary::reuse`].
    pub(crate) fn take_actions(&mut self) -> Vec<PrimaryAction<A, W, D>> {
        std::mem::take(&mut self.actions)
    }

    /// Takes an emptied list of actions back, so that its memory is used again.
    pub(crate) fn reuse(&mut self, mut actions: Vec<PrimaryAction<A, W, D>>) {
        actions.clear();
        self.actions = actions;
    }

    /// Orders records as one write, with consecutive versions: sends it to the followers and appends it
    /// here. On every copy it is one frame and one batch of the engine (R14).
    ///
    /// The caller passes at least one record and each key once, and no more than the sequences that are
    /// left.
    pub(crate) fn order(&mut self, mut records: Vec<Record>, now_ms: u64, waiter: Option<W>) {
        if planted(Mutation::SplitBatch)
            && records.len() > 1
            && let Some(last) = records.pop()
        {
            self.order(records, now_ms, None);
            return self.order(vec![last], now_ms, waiter);
        }
        let previous = self.last();
        for (record, sequence) in records.iter_mut().zip(previous + 1..) {
            record.version = version(self.term, sequence);
        }
        let pending = Pending {
            bytes: records_bytes(&records),
            last: previous + records.len() as u64,
            records,
            ordered_ms: now_ms,
            appended: None,
            failed_ms: None,
            appending: true,
            sent: !self.followers.is_empty(),
            waiters: waiter.into_iter().collect(),
        };
        self.actions.push(PrimaryAction::Ordered { bytes: pending.bytes });
        let writes = pending.writes();
        self.pending.push_back(pending);
        for follower in self.followers.iter().filter(|follower| !follower.is_broken()) {
            let (to, place) = (follower.node(), follower.place(previous));
            self.actions.push(PrimaryAction::Send { to, place, writes });
        }
        self.actions.push(PrimaryAction::Append(writes));
    }

    /// Lets an answer wait for the newest pending write of a key, which the operation saw (R6).
    ///
    /// # Errors
    /// No write of the key is pending: the waiter is returned.
    pub(crate) fn wait_for_newest(&mut self, key: &[u8], waiter: W) -> Result<(), W> {
        let newest = self.newest_write(key).map(|(index, _)| index);
        match newest.and_then(|index| self.pending.get_mut(index)) {
            Some(pending) if !planted(Mutation::RevealUnpublished) => {
                pending.waiters.push(waiter);
                Ok(())
            }
            _ => Err(waiter),
        }
    }

    /// Lets an answer wait for all pending writes: publication is in order, so it waits for the newest.
    ///
    /// # Errors
    /// No write is pending: the waiter is returned.
    pub(crate) fn wait_for_all(&mut self, waiter: W) -> Result<(), W> {
        match self.pending.back_mut() {
            Some(pending) => {
                pending.waiters.push(waiter);
                Ok(())
            }
            None => Err(waiter),
        }
    }

    /// Requests the partition's digest between the publications of the newest ordered write and the next
    /// one.
    pub(crate) fn digest_after_last(&mut self, waiter: D) {
        match self.pending.is_empty() {
            true => self.actions.push(PrimaryAction::Digest(waiter)),
            false => self.digest_waiters.push((self.last(), waiter)),
        }
    }

    /// Begins to serve at the end of the recovery, unless it was stopped meanwhile.
    pub(crate) fn finish_recovery(&mut self) {
        if self.phase == Phase::Recovering {
            self.phase = Phase::Serving;
        }
    }

    /// Stops serving for good: only a committed state grants the partition again, under another term
    /// (R3).
    pub(crate) fn stop(&mut self) {
        self.phase = Phase::Stopped;
    }

    /// Handles an event, then publishes every write that all copies have.
    pub(crate) fn on_event(&mut self, event: PrimaryEvent<A>) {
        match event {
            PrimaryEvent::Assigned(copies) => self.assign(copies),
            PrimaryEvent::Appended { sequence, append } => self.on_appended(sequence, append),
            PrimaryEvent::AppendFailed { sequence, failure, now_ms } => {
                self.on_append_failed(sequence, failure, now_ms);
            }
            PrimaryEvent::Acknowledged { node, session, sequence } => {
                if let Some(follower) = self.in_session(node, session) {
                    follower.acknowledge(sequence);
                }
            }
            PrimaryEvent::Rejected { node, session, rejection, now_ms } => {
                self.on_rejected(node, session, rejection, now_ms);
            }
            PrimaryEvent::GapBeforeDigest { node, session } => {
                if self.in_session(node, session).is_some() {
                    self.open_session(node);
                }
            }
            PrimaryEvent::MarkedClean { node, session, up_to } => {
                if let Some(follower) = self.in_session(node, session) {
                    follower.mark_clean(up_to);
                }
            }
            PrimaryEvent::Tick { now_ms } => self.on_tick(now_ms),
        }
        self.publish();
    }

    /// Proposes to suspend the followers that have not acknowledged the oldest pending write within
    /// `timeout_ms` (R8).
    pub(crate) fn suspend_slow(&mut self, now_ms: u64, timeout_ms: u64) {
        let Some(oldest) = self.pending.front() else { return };
        if now_ms < oldest.ordered_ms + timeout_ms {
            return;
        }
        let slow = self.followers.iter().filter(|follower| follower.acked() < oldest.last);
        self.actions.extend(slow.map(|follower| PrimaryAction::Suspend(follower.name())));
    }

    /// Proposes to suspend the follower on a node.
    pub(crate) fn suspend(&mut self, node: NodeId) {
        if let Some(name) = self.follower(node).map(Follower::name) {
            self.actions.push(PrimaryAction::Suspend(name));
        }
    }

    /// Returns whether this primary gives the partition up, because a write found no room for
    /// `patience_ms`. From then on it serves nothing and the answer stays the same, also when there is
    /// room again: a proposal may get lost, and only a committed state may end its term (rule R3).
    pub(crate) fn steps_down(&mut self, now_ms: u64, patience_ms: u64) -> bool {
        if self.stuck_since_ms().is_some_and(|since_ms| now_ms >= since_ms + patience_ms) {
            (self.phase, self.steps_down) = (Phase::Stopped, true);
        }
        self.steps_down
    }

    /// Returns since when the oldest write that found no room waits for it, in milliseconds of the
    /// monotonic clock.
    fn stuck_since_ms(&self) -> Option<u64> {
        if !self.is_stuck() {
            return None;
        }
        self.pending.iter().filter_map(|pending| pending.failed_ms).min()
    }

    /// Marks the partition as clean up to the newest published write, if all `copies` of the committed
    /// state are in-sync and their sessions whole (R12). `storing`: records of a transfer are being
    /// appended here.
    pub(crate) fn mark_clean(&mut self, copies: usize, storing: bool) {
        let whole = |follower: &Follower| follower.is_in_sync() && !follower.is_broken();
        // The role may be of a newer state than `copies`: both must have the same number.
        let all = self.followers.len() + 1 == copies && self.followers.iter().all(whole);
        if !(all || planted(Mutation::CleanWhileAway)) || self.phase != Phase::Serving || storing {
            return;
        }
        let (up_to, last) = (version(self.term, self.published), self.last());
        self.actions.push(PrimaryAction::MarkClean { up_to });
        for follower in self.followers.iter().filter(|follower| !follower.is_clean_up_to(up_to)) {
            self.sessions += 1;
            let (to, place, transfers_from) = (follower.node(), follower.place(last), self.sessions);
            self.actions.push(PrimaryAction::SendMark { to, place, up_to, transfers_from });
        }
    }

    /// Ends the role: the outcome of every pending write is unknown (R7).
    pub(crate) fn abandon(&mut self) {
        self.digest_waiters.clear();
        self.retries.clear();
        self.failed = 0;
        for pending in self.pending.drain(..) {
            self.actions.push(PrimaryAction::Released { bytes: pending.bytes });
            self.actions.extend(pending.waiters.into_iter().map(PrimaryAction::Abandon));
        }
    }

    /// Keeps the sessions of followers that stay. The session of a new follower starts at the last
    /// published write: the copy brings it all earlier writes, and the session all later ones.
    fn assign(&mut self, copies: Vec<AssignedFollower>) {
        let mut former = std::mem::take(&mut self.followers);
        let mut new = Vec::new();
        for copy in copies {
            let kept = former.iter_mut().position(|follower| follower.stays(&copy));
            self.followers.push(match kept {
                Some(index) => former.swap_remove(index),
                None => {
                    new.push(copy.name.node);
                    Follower::new(copy, self.published)
                }
            });
        }
        new.into_iter().for_each(|node| self.open_session(node));
    }

    fn on_appended(&mut self, sequence: u64, append: A) {
        let Some(pending) = self.at(sequence) else { return };
        (pending.appended, pending.appending) = (Some(append), false);
        if pending.failed_ms.take().is_some() {
            self.failed -= 1;
        }
    }

    fn on_append_failed(&mut self, sequence: u64, failure: AppendFailure, now_ms: u64) {
        let Some(pending) = self.at(sequence) else { return };
        let pause_ms = match failure {
            AppendFailure::Overloaded => OVERLOAD_PAUSE_MS,
            AppendFailure::NoSpace => {
                pending.appending = false;
                if pending.failed_ms.is_none() {
                    pending.failed_ms = Some(now_ms);
                    self.failed += 1;
                }
                NO_SPACE_PAUSE_MS
            }
        };
        if failure == AppendFailure::NoSpace && self.take_back() {
            return;
        }
        self.retries.insert((now_ms + pause_ms, sequence));
        self.wake_at(now_ms + pause_ms);
    }

    /// Removes all pending writes if each found no space here and none was sent to another node. They
    /// count as never ordered, except that their versions are not reused (rule R1). Otherwise removes
    /// none: a later write may have seen an earlier one. Returns whether it removed them.
    fn take_back(&mut self) -> bool {
        let nowhere =
            |pending: &Pending<A, W>| pending.failed_ms.is_some() && !pending.appending && !pending.sent;
        if !self.pending.iter().all(nowhere) {
            return false;
        }
        (self.published, self.failed) = (self.last(), 0);
        self.retries.clear();
        for pending in self.pending.drain(..) {
            self.actions.push(PrimaryAction::Released { bytes: pending.bytes });
            self.actions.extend(pending.waiters.into_iter().map(PrimaryAction::Refuse));
        }
        true
    }

    fn on_rejected(&mut self, node: NodeId, session: u64, rejection: Rejection, now_ms: u64) {
        let Some(follower) = self.in_session(node, session).filter(|follower| !follower.is_broken()) else {
            return;
        };
        let (at_ms, name) = (follower.break_off(rejection, now_ms), follower.name());
        if rejection == Rejection::NoRoom {
            self.actions.push(PrimaryAction::Suspend(name));
        }
        self.wake_at(at_ms);
    }

    /// Opens a new session to a follower and sends it all pending writes that it has not acknowledged.
    fn open_session(&mut self, node: NodeId) {
        let (session, last) = (self.next_session(), self.last());
        let Some(follower) = self.followers.iter_mut().find(|follower| follower.node() == node) else {
            return;
        };
        follower.open(session);
        let acked = follower.acked();
        if acked < last {
            let (place, writes) = (follower.place(acked), Writes { first: acked + 1, last });
            self.actions.push(PrimaryAction::Send { to: node, place, writes });
        }
        self.pending.iter_mut().for_each(|pending| pending.sent = true);
    }

    fn on_tick(&mut self, now_ms: u64) {
        self.wake_ms = self.wake_ms.filter(|at_ms| *at_ms > now_ms);
        while let Some(&(at_ms, sequence)) = self.retries.first()
            && at_ms <= now_ms
        {
            self.retries.pop_first();
            if let Some(pending) = self.at(sequence) {
                pending.appending = true;
                let writes = pending.writes();
                self.actions.push(PrimaryAction::Append(writes));
            }
        }
        while let Some(due) = self.followers.iter().find(|follower| follower.is_due(now_ms)) {
            self.open_session(due.node());
        }
    }

    fn wake_at(&mut self, at_ms: u64) {
        if self.wake_ms != Some(at_ms) {
            self.wake_ms = Some(at_ms);
            self.actions.push(PrimaryAction::Wake { at_ms });
        }
    }

    /// Publishes, in order, every write that is durable on all copies, and releases the answers and
    /// digests that waited for it.
    fn publish(&mut self) {
        while self.is_oldest_complete()
            && let Some(pending) = self.pending.pop_front()
        {
            self.published = pending.last;
            self.actions.push(PrimaryAction::Released { bytes: pending.bytes });
            self.actions.extend(pending.appended.map(PrimaryAction::Publish));
            let due = self.digest_waiters.extract_if(.., |(sequence, _)| *sequence == pending.last);
            self.actions.extend(due.map(|(_, waiter)| PrimaryAction::Digest(waiter)));
            self.actions.extend(pending.waiters.into_iter().map(PrimaryAction::Answer));
        }
    }

    /// Returns whether the oldest pending write is durable on all copies.
    fn is_oldest_complete(&self) -> bool {
        let Some(oldest) = self.pending.front() else { return false };
        let has_it = |follower: &Follower| {
            follower.acked() >= oldest.last || (follower.is_broken() && planted(Mutation::OwnSuspension))
        };
        let acknowledged = self.followers.iter().all(has_it) || planted(Mutation::EarlyAcknowledgement);
        oldest.appended.is_some() && acknowledged
    }

    /// Returns the follower on a node, if the session is its present one.
    fn in_session(&mut self, node: NodeId, session: u64) -> Option<&mut Follower> {
        self.followers.iter_mut().find(|follower| follower.node() == node && follower.is_in(session))
    }

    fn at(&mut self, sequence: u64) -> Option<&mut Pending<A, W>> {
        let index = self.pending.binary_search_by_key(&sequence, |pending| pending.last).ok()?;
        self.pending.get_mut(index)
    }
}

/// Returns the bytes of keys and values that records count for in the limit of bytes in flight.
pub(crate) fn records_bytes(records: &[Record]) -> u64 {
    records.iter().map(|record| (record.key.len() + record.value.as_ref().map_or(0, Bytes::len)) as u64).sum()
}
