//! What a replica accepts from its primary. Pure: no I/O, no clock.
//!
//! A frame is taken only under the replica's present term, assignment and newest session, and only if it names the
//! sequence before it (replication is gapless, rule R2). What is for another assignment is for a copy that is emptied
//! before this one begins, or was (rule R16): an acknowledgement or a digest of it would be taken for one of this. Digests are answered at an exact place in the order.

use super::message::Position;
use crate::id::{Epoch, NodeId, Term};
use crate::mutation::{Mutation, planted};

/// Why a frame is not taken. The primary acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    /// The sender's term is over: it is no longer the primary, or not of this session.
    Stale,
    /// This node does not know the sender's term, or its own assignment, yet: try again shortly.
    Behind,
    /// Records before this one are missing: send them again in a new session.
    Gap,
    /// This node could not append it.
    Failed,
    /// There was no room on this node's disk to append it.
    NoRoom,
}

/// The replica's side of one partition under one term. `R` answers a request for a digest.
#[derive(Debug)]
pub(super) struct ReplicaLog<R> {
    /// The term it follows.
    pub(super) term: Term,
    /// Who orders the writes of that term.
    pub(super) primary: NodeId,
    /// The assignment it is a copy of.
    assigned: Epoch,
    session: u64,
    received: u64,
    stored: u64,
    /// The first write of the session that is missing here: its append failed. `u64::MAX` if none did.
    missing_from: u64,
    /// The first session whose transfers are taken.
    transfers_from: u64,
    digest_waiters: Vec<(u64, R)>,
}

impl<R> ReplicaLog<R> {
    /// A replica that has heard nothing in `term` yet.
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

    /// Which term, primary and assignment it is for.
    pub(super) fn follows(&self) -> (Term, NodeId, Epoch) {
        (self.term, self.primary, self.assigned)
    }

    /// Whether nothing was taken in this term yet.
    pub(super) fn is_new(&self) -> bool {
        self.session == 0
    }

    /// Whether a frame of this sender that belongs there is taken.
    ///
    /// # Errors
    /// Why it is not.
    pub(super) fn admit(&mut self, from: NodeId, position: &Position) -> Result<(), Rejection> {
        let Position { term, assigned, session, begins, previous, .. } = *position;
        self.check_sender(from, term, assigned)?;
        if session < self.session {
            return Err(Rejection::Stale);
        }
        if session > self.session {
            // A new session begins where the primary knows this replica to be; not in its middle, if its first frame was
            // lost: what is acknowledged is acknowledged with all before it.
            if previous != begins && !planted(Mutation::Gaps) {
                return Err(Rejection::Gap);
            }
            (self.session, self.received, self.stored) = (session, previous, previous);
            self.missing_from = u64::MAX;
            self.digest_waiters.clear();
        }
        if previous == self.received || planted(Mutation::Gaps) { Ok(()) } else { Err(Rejection::Gap) }
    }

    /// Whether this sender is the primary of this term, and speaks to the copy of this assignment.
    ///
    /// # Errors
    /// Why it is not.
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

    /// Transfers begun before this session are closed: what they still bring is void (rule R12).
    pub(super) fn close_transfers(&mut self, before: u64) {
        self.transfers_from = self.transfers_from.max(before);
    }

    /// Whether records of a transfer of this session are taken.
    pub(super) fn takes_transfer(&self, session: u64) -> bool {
        session >= self.transfers_from
    }

    /// A record was taken and its append is under way.
    pub(super) fn received(&mut self, sequence: u64) {
        self.received = sequence;
    }

    /// Notes that a write is durable and published. Returns those who wait for the digest of exactly this state: the
    /// caller answers them before it publishes the next write.
    ///
    /// # Errors
    /// An earlier write of the session is missing here, so this one must not be acknowledged: the primary takes an
    /// acknowledgement for one of everything before it, too (rule R2).
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

    /// Someone asks for the digest after everything received so far. Gives the asker back if that is now.
    pub(super) fn digest_after_received(&mut self, waiter: R) -> Option<R> {
        if self.stored == self.received {
            return Some(waiter);
        }
        self.digest_waiters.push((self.received, waiter));
        None
    }

    /// Notes that the write named `sequence` is not on this disk. The session takes nothing more, and acknowledges none
    /// of the later writes whose appends are pending: they may succeed.
    pub(super) fn failed(&mut self, session: u64, sequence: u64) {
        if session == self.session {
            self.received = u64::MAX;
            self.missing_from = self.missing_from.min(sequence);
            // They wait for a state that this session does not reach; the primary asks again in the next one.
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
    fn a_session_whose_first_frame_was_lost_takes_nothing() {
        let mut log: ReplicaLog<()> = ReplicaLog::new(5, PRIMARY, ASSIGNED);
        assert_eq!(log.admit(PRIMARY, &at(5, 1, 1)), Err(Rejection::Gap), "the record 1 is missing");
        assert_eq!(log.admit(PRIMARY, &at(5, 1, 2)), Err(Rejection::Gap));
        assert_eq!(log.admit(PRIMARY, &at(5, 1, 0)), Ok(()));
    }

    #[test]
    fn what_is_for_another_assignment_is_not_taken() {
        let mut log: ReplicaLog<()> = ReplicaLog::new(5, PRIMARY, ASSIGNED);
        let (next, former) = (ASSIGNED + 1, ASSIGNED - 1);
        let ahead = Position { assigned: next, ..at(5, 1, 0) };
        assert_eq!(log.admit(PRIMARY, &ahead), Err(Rejection::Behind), "this store is to be emptied first");
        assert_eq!(log.admit(PRIMARY, &Position { assigned: former, ..at(5, 1, 0) }), Err(Rejection::Stale));
        assert_eq!(log.check_sender(PRIMARY, 5, former), Err(Rejection::Stale), "nor is a transfer's record");
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
    fn what_a_closed_transfer_still_brings_is_void() {
        let mut log: ReplicaLog<()> = ReplicaLog::new(1, PRIMARY, ASSIGNED);
        assert!(log.takes_transfer(3));
        log.close_transfers(5);
        log.close_transfers(4);
        assert!(!log.takes_transfer(3) && !log.takes_transfer(4) && log.takes_transfer(5));
    }

    #[test]
    fn after_a_failed_append_the_session_takes_nothing_more() {
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
        assert_eq!(
            log.stored(1, 4),
            Err(Rejection::Gap),
            "an acknowledgement of 4 would be one of 2 as well"
        );
        assert_eq!(log.admit(PRIMARY, &Position { begins: 1, ..at(1, 2, 1) }), Ok(()));
        log.received(2);
        assert_eq!(log.stored(2, 2), Ok(vec![]), "the primary sent it again in a new session");
    }
}
