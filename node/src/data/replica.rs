//! Decides which frames a replica accepts from its primary. Pure: no I/O, no clock.
//!
//! Invariants: the replica accepts a frame only under its present term and assignment and its newest session.
//! The frame must name the last received sequence as the one before it (replication is gapless, rule R2).
//! Digests are answered at an exact place in the order of writes. Rejects frames that name another
//! assignment: they belong to an earlier or later copy of this partition, and acknowledgements of them would
//! be counted for this one (R16).

use super::message::Position;
use crate::id::{Epoch, NodeId, Term};
use crate::mutation::{Mutation, planted};
use crate::partition::Rejection;

/// The replica's side of one partition under one term. `R` answers a request for a digest.
#[derive(Debug)]
pub(super) struct ReplicaLog<R> {
    /// The term it follows.
    pub(super) term: Term,
    /// The primary of that term.
    pub(super) primary: NodeId,
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
}

impl<R> ReplicaLog<R> {
    /// Creates a replica that has received no frame in `term` yet.
    pub(super) fn new(term: Term, primary: NodeId, assigned: Epoch) -> Self {
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
        }
    }

    /// Returns the term, primary and assignment that it follows.
    pub(super) fn follows(&self) -> (Term, NodeId, Epoch) {
        (self.term, self.primary, self.assigned)
    }

    /// Returns whether no frame was accepted in this term yet.
    pub(super) fn is_new(&self) -> bool {
        self.session == 0
    }

    /// Accepts or rejects a frame of this sender at this position. A frame of a newer session opens that
    /// session.
    ///
    /// # Errors
    /// The reason of the rejection.
    pub(super) fn admit(&mut self, from: NodeId, position: &Position) -> Result<(), Rejection> {
        let Position { term, assigned, session, begins, previous, .. } = *position;
        self.check_sender(from, term, assigned)?;
        if session < self.session {
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

    /// Checks that the sender is the primary of this term and addresses the copy of this assignment.
    ///
    /// # Errors
    /// The reason of the rejection.
    pub(super) fn check_sender(&self, from: NodeId, term: Term, assigned: Epoch) -> Result<(), Rejection> {
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

    /// Closes the transfers begun before this session: their further records are void (rule R12).
    pub(super) fn close_transfers(&mut self, before: u64) {
        self.transfers_from = self.transfers_from.max(before);
    }

    /// Returns whether the transfer of this session is open.
    pub(super) fn takes_transfer(&self, session: u64) -> bool {
        session >= self.transfers_from
    }

    /// Notes that a write was accepted and its append has begun.
    pub(super) fn received(&mut self, sequence: u64) {
        self.received = sequence;
    }

    /// Notes that a write is durable and published. Returns the waiters for the digest of exactly this state,
    /// which the caller answers before it publishes the next write.
    ///
    /// # Errors
    /// An earlier write of the session is missing here, so this one must not be acknowledged: an
    /// acknowledgement covers all writes before it (rule R2).
    pub(super) fn stored(&mut self, session: u64, sequence: u64) -> Result<Vec<R>, Rejection> {
        if session != self.session {
            return Ok(Vec::new());
        }
        if sequence >= self.missing_from && !planted(Mutation::AcknowledgePastFailure) {
            return Err(Rejection::Gap);
        }
        self.stored = sequence;
        Ok(self
            .digest_waiters
            .extract_if(.., |(due, _)| *due == sequence)
            .map(|(_, waiter)| waiter)
            .collect())
    }

    /// Registers a waiter for the digest after all writes received so far. Returns the waiter if all of them
    /// are stored already.
    pub(super) fn digest_after_received(&mut self, waiter: R) -> Option<R> {
        if self.stored == self.received {
            return Some(waiter);
        }
        self.digest_waiters.push((self.received, waiter));
        None
    }

    /// Notes that the append of the write `sequence` failed. The session accepts no further frames. It
    /// acknowledges none of the later writes whose appends are pending, even if they succeed.
    pub(super) fn failed(&mut self, session: u64, sequence: u64) {
        if session == self.session {
            self.received = u64::MAX;
            self.missing_from = self.missing_from.min(sequence);
            // They wait for a state that this session does not reach; the primary asks again in the next
            // session.
            self.digest_waiters.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIMARY: NodeId = NodeId::from_bytes([1; 32]);
    const OTHER: NodeId = NodeId::from_bytes([2; 32]);
    const ASSIGNED: Epoch = 7;

    fn at(term: Term, session: u64, previous: u64) -> Position {
        Position { partition: 1, term, epoch: 9, assigned: ASSIGNED, session, begins: 0, previous }
    }

    #[test]
    fn session_whose_first_frame_was_lost_accepts_nothing() {
        let mut log: ReplicaLog<()> = ReplicaLog::new(5, PRIMARY, ASSIGNED);
        assert_eq!(log.admit(PRIMARY, &at(5, 1, 1)), Err(Rejection::Gap), "record 1 is missing");
        assert_eq!(log.admit(PRIMARY, &at(5, 1, 2)), Err(Rejection::Gap));
        assert_eq!(log.admit(PRIMARY, &at(5, 1, 0)), Ok(()));
    }

    #[test]
    fn frame_for_another_assignment_is_rejected() {
        let mut log: ReplicaLog<()> = ReplicaLog::new(5, PRIMARY, ASSIGNED);
        let (next, former) = (ASSIGNED + 1, ASSIGNED - 1);
        let ahead = Position { assigned: next, ..at(5, 1, 0) };
        assert_eq!(log.admit(PRIMARY, &ahead), Err(Rejection::Behind), "this store is to be emptied first");
        assert_eq!(log.admit(PRIMARY, &Position { assigned: former, ..at(5, 1, 0) }), Err(Rejection::Stale));
        assert_eq!(
            log.check_sender(PRIMARY, 5, former),
            Err(Rejection::Stale),
            "a transfer's record is, too"
        );
        assert_eq!(log.admit(PRIMARY, &at(5, 1, 0)), Ok(()));
    }

    #[test]
    fn a_deposed_primary_is_refused() {
        let mut log: ReplicaLog<()> = ReplicaLog::new(5, PRIMARY, ASSIGNED);
        assert_eq!(log.admit(PRIMARY, &at(4, 1, 0)), Err(Rejection::Stale));
        assert_eq!(log.admit(OTHER, &at(5, 1, 0)), Err(Rejection::Stale));
        assert_eq!(log.admit(PRIMARY, &at(6, 1, 0)), Err(Rejection::Behind));
        assert_eq!(log.admit(PRIMARY, &at(5, 1, 0)), Ok(()));
    }

    #[test]
    fn a_gap_is_refused_until_a_new_session_fills_it() {
        let mut log: ReplicaLog<()> = ReplicaLog::new(1, PRIMARY, ASSIGNED);
        assert_eq!(log.admit(PRIMARY, &at(1, 1, 0)), Ok(()));
        log.received(1);
        assert_eq!(log.admit(PRIMARY, &at(1, 1, 2)), Err(Rejection::Gap));
        assert_eq!(log.admit(PRIMARY, &Position { begins: 1, ..at(1, 2, 1) }), Ok(()));
        assert_eq!(
            log.admit(PRIMARY, &at(1, 1, 1)),
            Err(Rejection::Stale),
            "frames of a closed session are void"
        );
    }

    #[test]
    fn a_digest_waits_for_what_was_received_before_it() {
        let mut log: ReplicaLog<&str> = ReplicaLog::new(1, PRIMARY, ASSIGNED);
        log.admit(PRIMARY, &at(1, 1, 0)).unwrap();
        log.received(1);
        assert_eq!(log.digest_after_received("asker"), None);
        log.admit(PRIMARY, &at(1, 1, 1)).unwrap();
        log.received(2);
        assert_eq!(log.stored(1, 1), Ok(vec!["asker"]));
        assert_eq!(log.stored(1, 2), Ok(vec![]));
        assert_eq!(log.digest_after_received("now"), Some("now"));
    }

    #[test]
    fn records_of_a_closed_transfer_are_void() {
        let mut log: ReplicaLog<()> = ReplicaLog::new(1, PRIMARY, ASSIGNED);
        assert!(log.takes_transfer(3));
        log.close_transfers(5);
        log.close_transfers(4);
        assert!(!log.takes_transfer(3) && !log.takes_transfer(4) && log.takes_transfer(5));
    }

    #[test]
    fn after_a_failed_append_the_session_accepts_nothing_more() {
        let mut log: ReplicaLog<()> = ReplicaLog::new(1, PRIMARY, ASSIGNED);
        log.admit(PRIMARY, &at(1, 1, 0)).unwrap();
        log.received(1);
        log.failed(1, 1);
        assert_eq!(log.admit(PRIMARY, &at(1, 1, 1)), Err(Rejection::Gap));
    }

    #[test]
    fn nothing_is_acknowledged_after_a_failed_append() {
        let mut log: ReplicaLog<()> = ReplicaLog::new(1, PRIMARY, ASSIGNED);
        for sequence in 1..=4 {
            log.admit(PRIMARY, &at(1, 1, sequence - 1)).unwrap();
            log.received(sequence);
        }
        assert_eq!(log.stored(1, 1), Ok(vec![]));
        log.failed(1, 2);
        log.failed(1, 3);
        assert_eq!(log.stored(1, 4), Err(Rejection::Gap), "an acknowledgement of 4 would cover 2 as well");
        assert_eq!(log.admit(PRIMARY, &Position { begins: 1, ..at(1, 2, 1) }), Ok(()));
        log.received(2);
        assert_eq!(log.stored(2, 2), Ok(vec![]), "the primary sent it again in a new session");
    }
}
