//! Decides which frames a replica accepts from its primary. Pure: no I/O, no clock.
//!
//! Invariants: the replica accepts a frame only under its present term and assignment and its newest session.
//! The frame must name the last received sequence as the one before it (replication is gapless, rule R2).
//! Digests are answered at an exact place in the order of writes. Rejects frames that name another
//! assignment: they belong to an earlier or later copy of this partition, and acknowledgements of them would
//! be counted for this one (R16).

use super::action::ReplicaAction;
use super::event::{Appends, Frame, Rejection, ReplicaEvent};
use super::follower::Place;
use crate::id::{Epoch, NodeId, Term};
use crate::mutation::{Mutation, planted};

/// The replica's side of one partition under one term. `A` is the handle of a local append, `R` a peer's call
/// that waits for its reply.
///
/// Methods put their actions into a list; [`ReplicaLog::take_actions`] returns it. The owner performs the
/// actions before it unlocks the partition.
#[derive(Debug)]
pub(crate) struct ReplicaLog<A, R> {
    term: Term,
    /// The primary of the term.
    primary: NodeId,
    /// Epoch in which this copy was assigned to this node.
    assigned: Epoch,
    session: u64,
    received: u64,
    stored: u64,
    /// First write of the session whose append failed; `u64::MAX`: none failed.
    missing_from: u64,
    /// First session whose transfers are open.
    transfers_from: u64,
    digest_waiters: Vec<(u64, R)>,
    actions: Vec<ReplicaAction<A, R>>,
}

impl<A, R> ReplicaLog<A, R> {
    /// Creates a replica that has received no frame in `term` yet.
    pub(crate) fn new(term: Term, primary: NodeId, assigned: Epoch) -> Self {
        Self {
            term,
            primary,
            assigned,
            session: 0,
            received: 0,
            stored: 0,
            missing_from: u64::MAX,
            transfers_from: 0,
            digest_waiters: Vec::new(),
            actions: Vec::new(),
        }
    }

    /// Returns the term that it follows.
    pub(crate) fn term(&self) -> Term {
        self.term
    }

    /// Returns the term, primary and assignment that it follows.
    pub(crate) fn follows(&self) -> (Term, NodeId, Epoch) {
        (self.term, self.primary, self.assigned)
    }

    /// Returns the actions of all calls since the last time. The owner performs them in their order, then
    /// returns the emptied list to [`ReplicaLog::reuse`].
    pub(crate) fn take_actions(&mut self) -> Vec<ReplicaAction<A, R>> {
        std::mem::take(&mut self.actions)
    }

    /// Takes an emptied list of actions back, so that its memory is used again. Performing may have added
    /// actions meanwhile: these stay.
    pub(crate) fn reuse(&mut self, mut actions: Vec<ReplicaAction<A, R>>) {
        actions.clear();
        actions.append(&mut self.actions);
        self.actions = actions;
    }

    /// Handles an event.
    pub(crate) fn on_event(&mut self, event: ReplicaEvent<A, R>) {
        match event {
            ReplicaEvent::Received { from, term, place, frame, appends, reply } => {
                match self.admit(from, term, place, appends) {
                    Ok(()) => self.on_frame(place, frame, appends, reply),
                    Err(rejection) => self.reply(reply, Err(rejection)),
                }
            }
            ReplicaEvent::Stored { session, sequence, append, reply } => {
                self.actions.push(ReplicaAction::Publish(append));
                self.on_stored(session, sequence, reply);
            }
            ReplicaEvent::NotStored { session, sequence, rejection, reply } => {
                self.failed(session, sequence);
                self.reply(reply, Err(rejection));
            }
        }
    }

    /// Accepts or rejects a frame of this sender at this place. A frame of a newer session opens that
    /// session.
    ///
    /// # Errors
    /// The reason of the rejection.
    fn admit(&mut self, from: NodeId, term: Term, place: Place, appends: Appends) -> Result<(), Rejection> {
        // Before the first frame of a term, all appends of the former term must have ended: else they could
        // add records after the primary compared digests.
        if self.session == 0 && appends.is_any() {
            return Err(Rejection::Behind);
        }
        let Place { assigned, session, begins, previous } = place;
        self.check_sender(from, term, assigned)
            .inspect_err(|rejection| self.note_fenced(from, *rejection))?;
        if session < self.session {
            self.note_fenced(from, Rejection::Stale);
            return Err(Rejection::Stale);
        }
        if session > self.session {
            // A new session begins after the last write that this replica acknowledged to the primary. If the
            // first frame of the session was lost, later ones are rejected, because an acknowledgement covers
            // all writes before it.
            if previous != begins && !planted(Mutation::Gaps) {
                return Err(Rejection::Gap);
            }
            (self.session, self.received, self.stored) = (session, previous, previous);
            self.missing_from = u64::MAX;
            self.digest_waiters.clear();
        }
        if previous == self.received || planted(Mutation::Gaps) { Ok(()) } else { Err(Rejection::Gap) }
    }

    fn note_fenced(&mut self, from: NodeId, rejection: Rejection) {
        if rejection == Rejection::Stale {
            self.actions.push(ReplicaAction::NoteFenced(from));
        }
    }

    /// Checks that the sender is the primary of this term and addresses the copy of this assignment.
    ///
    /// # Errors
    /// The reason of the rejection.
    pub(crate) fn check_sender(&self, from: NodeId, term: Term, assigned: Epoch) -> Result<(), Rejection> {
        let assigned = if planted(Mutation::AnyAssignment) { self.assigned } else { assigned };
        if term > self.term || assigned > self.assigned {
            return Err(Rejection::Behind);
        }
        if planted(Mutation::NoFencing) {
            return Ok(());
        }
        let stale = term < self.term || assigned < self.assigned || from != self.primary;
        if stale { Err(Rejection::Stale) } else { Ok(()) }
    }

    /// Returns whether the transfer of this session is open: a clean mark closes those begun before it (rule
    /// R12).
    pub(crate) fn takes_transfer(&self, session: u64) -> bool {
        session >= self.transfers_from
    }

    fn on_frame(&mut self, place: Place, frame: Frame, appends: Appends, reply: R) {
        match frame {
            Frame::Replicate(records) => {
                let sequence = place.previous.saturating_add(records.len() as u64);
                self.received = sequence;
                let session = place.session;
                self.actions.push(ReplicaAction::Store { session, sequence, records, reply });
            }
            // Records being appended may be older than a tombstone that a merge would drop. The primary sends
            // the mark again later.
            Frame::Clean { .. } if appends.transferred => self.reply(reply, Err(Rejection::Behind)),
            Frame::Clean { up_to, transfers_from } => {
                self.transfers_from = self.transfers_from.max(transfers_from);
                self.actions.push(ReplicaAction::MarkClean { up_to });
                self.reply(reply, Ok(()));
            }
            Frame::Digest if self.stored == self.received => self.actions.push(ReplicaAction::Digest(reply)),
            Frame::Digest => self.digest_waiters.push((self.received, reply)),
        }
    }

    /// Acknowledges a write that is durable. Releases the digests of exactly this state before the next write
    /// is published.
    ///
    /// If an earlier write of the session is missing here, this one is not acknowledged: an acknowledgement
    /// covers all writes before it (rule R2).
    fn on_stored(&mut self, session: u64, sequence: u64, reply: R) {
        if session != self.session {
            // The primary ignores acknowledgements of former sessions.
            return self.reply(reply, Ok(()));
        }
        if sequence >= self.missing_from && !planted(Mutation::AcknowledgePastFailure) {
            return self.reply(reply, Err(Rejection::Gap));
        }
        self.stored = sequence;
        self.reply(reply, Ok(()));
        let due = self.digest_waiters.extract_if(.., |(due, _)| *due == sequence);
        self.actions.extend(due.map(|(_, waiter)| ReplicaAction::Digest(waiter)));
    }

    /// Notes that the write `sequence` is not on this disk. The session accepts no further frames. It
    /// acknowledges none of the later writes whose appends are pending, even if they succeed.
    fn failed(&mut self, session: u64, sequence: u64) {
        if session == self.session {
            self.received = u64::MAX;
            self.missing_from = self.missing_from.min(sequence);
            // They wait for a state that this session does not reach; the primary asks again in the next
            // session.
            self.digest_waiters.clear();
        }
    }

    fn reply(&mut self, reply: R, result: Result<(), Rejection>) {
        self.actions.push(ReplicaAction::Reply(reply, result));
    }
}
