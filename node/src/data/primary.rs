//! The order of one partition's writes at its primary. Pure: no I/O, no clock.
//!
//! A write has one record, or several that become visible together. It gets the next sequences and is
//! *pending* until this node's own append is durable and every follower has acknowledged it. Then it is
//! *published*, in order. Reads see published records only; writes that read the key see its newest pending
//! record. Invariants: the sequences of `pending` are consecutive, one for each record. The last sequence of
//! a write identifies it. No write is published before all present followers have acknowledged it (promise
//! P1).
//!
//! `A` is the handle of a local append, `W` the waiter for an answer.

use std::collections::VecDeque;

use caskade_engine::Record;

use crate::id::{Epoch, Incarnation, NodeId, Term};
use crate::mutation::{Mutation, planted};

/// Phase of a primary: whether it serves requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Reconciles with the other in-sync replicas after a failover; does not serve yet.
    Recovering,
    /// Serves requests.
    Serving,
    /// Gives the partition up: serves no requests, completes pending writes, never resumes by itself (rule
    /// R3).
    Stopped,
}

/// A replica that must acknowledge every write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Follower {
    /// The follower's node.
    pub(super) node: NodeId,
    /// Incarnation of the node in the committed state.
    pub(super) incarnation: Incarnation,
    /// Epoch in which the copy was assigned to the node.
    pub(super) assigned: Epoch,
    /// Epoch of the entry that began the copy's present state; identifies the copy in proposals.
    pub(super) syncing_since: Epoch,
    /// Whether it holds every acknowledged write.
    pub(super) in_sync: bool,
    /// Present replication session; frames of older sessions are void.
    pub(super) session: u64,
    /// Sequence that it had acknowledged when the session was opened.
    pub(super) begins: u64,
    /// Sequence up to which all writes are durable on the follower.
    pub(super) acked: u64,
    /// Whether the session broke: all unacknowledged writes must be sent again in a new session.
    pub(super) broken: bool,
    /// Sequence up to which the follower has marked the partition as clean.
    pub(super) clean: Option<u64>,
}

/// A write that is ordered but not published.
#[derive(Debug)]
pub(super) struct Pending<A, W> {
    /// The records, at least one, with consecutive versions.
    pub(super) records: Vec<Record>,
    /// Sequence of the last record; identifies the write.
    pub(super) last: u64,
    /// Time of the ordering, for the replica time-out; milliseconds of the monotonic clock.
    pub(super) ordered_ms: u64,
    /// The local append, once durable.
    pub(super) appended: Option<A>,
    /// Time since when the local append finds no disk space; milliseconds of the monotonic clock.
    failed_ms: Option<u64>,
    /// Whether a local append is in flight.
    appending: bool,
    /// Whether the write was sent to another node, which may hold it.
    sent: bool,
    /// Waiters for the publication: the writer, and operations that saw the write (rule R6).
    pub(super) waiters: Vec<W>,
}

/// One partition's writes under one term.
#[derive(Debug)]
pub(super) struct Primary<A, W> {
    /// The term under which it orders.
    pub(super) term: Term,
    /// Whether it serves requests.
    pub(super) phase: Phase,
    /// Replicas that must acknowledge every write.
    pub(super) followers: Vec<Follower>,
    pending: VecDeque<Pending<A, W>>,
    /// Sequence of the newest published record; the sequences of `pending` follow it.
    published: u64,
    digest_waiters: Vec<(u64, tokio::sync::oneshot::Sender<u64>)>,
    /// Number of pending writes whose local append found no disk space and has not succeeded yet.
    failed: usize,
    /// Whether it gave the partition up for lack of disk space: true until a committed state ends its term
    /// (rule R3).
    steps_down: bool,
}

impl<A, W> Primary<A, W> {
    /// Creates a primary that has ordered nothing in `term` yet.
    pub(super) fn new(term: Term, phase: Phase) -> Self {
        let (followers, pending, digest_waiters) = (Vec::new(), VecDeque::new(), Vec::new());
        Self { term, phase, followers, pending, published: 0, digest_waiters, failed: 0, steps_down: false }
    }

    /// Returns the sequence of the newest ordered record.
    pub(super) fn last(&self) -> u64 {
        self.pending.back().map_or(self.published, |pending| pending.last)
    }

    /// Returns the sequence of the newest published record.
    pub(super) fn published(&self) -> u64 {
        self.published
    }

    /// Returns the number of pending writes.
    pub(super) fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// Returns when the oldest pending write was ordered, in milliseconds of the monotonic clock.
    pub(super) fn oldest_pending_ms(&self) -> Option<u64> {
        self.pending.front().map(|pending| pending.ordered_ms)
    }

    /// Returns the newest pending record of a key and the waiters of its write.
    pub(super) fn newest_pending(&mut self, key: &[u8]) -> Option<(&Record, &mut Vec<W>)> {
        self.pending.iter_mut().rev().find_map(|pending| {
            let record = pending.records.iter().rev().find(|record| record.key == key)?;
            Some((record, &mut pending.waiters))
        })
    }

    /// Returns the waiters of the newest pending write.
    pub(super) fn newest_waiters(&mut self) -> Option<&mut Vec<W>> {
        self.pending.back_mut().map(|pending| &mut pending.waiters)
    }

    /// Adds a write at the end of the order. `records` is not empty, and the records already have their
    /// versions.
    pub(super) fn push(&mut self, records: Vec<Record>, now_ms: u64, waiter: Option<W>) {
        debug_assert!(!records.is_empty());
        let (last, waiters) = (self.last() + records.len() as u64, waiter.into_iter().collect());
        let sent = !self.followers.is_empty();
        self.pending.push_back(Pending {
            records,
            last,
            ordered_ms: now_ms,
            appended: None,
            failed_ms: None,
            appending: true,
            sent,
            waiters,
        });
    }

    /// Notes that the local append of the write `sequence` is durable.
    pub(super) fn appended(&mut self, sequence: u64, handle: A) {
        let Some(pending) = self.at(sequence) else { return };
        (pending.appended, pending.appending) = (Some(handle), false);
        if pending.failed_ms.take().is_some() {
            self.failed -= 1;
        }
    }

    /// Notes that the local append of the write `sequence` found no disk space: nothing of it is on this
    /// disk.
    pub(super) fn append_failed(&mut self, sequence: u64, now_ms: u64) {
        let Some(pending) = self.at(sequence) else { return };
        pending.appending = false;
        if pending.failed_ms.is_none() {
            pending.failed_ms = Some(now_ms);
            self.failed += 1;
        }
    }

    /// Returns the records of a pending write, whose append the caller retries.
    pub(super) fn append_again(&mut self, sequence: u64) -> Option<&[Record]> {
        let pending = self.at(sequence)?;
        pending.appending = true;
        Some(&pending.records)
    }

    /// Notes that all pending writes are sent to a follower.
    pub(super) fn note_sent(&mut self) {
        self.pending.iter_mut().for_each(|pending| pending.sent = true);
    }

    /// Returns whether a write found no room on this disk and is not on it yet: nothing after it can be published.
    pub(super) fn is_stuck(&self) -> bool {
        self.failed > 0
    }

    /// Returns since when the oldest such write waits for room, in milliseconds of the monotonic clock.
    fn stuck_since_ms(&self) -> Option<u64> {
        if !self.is_stuck() {
            return None;
        }
        self.pending.iter().filter_map(|pending| pending.failed_ms).min()
    }

    /// Returns whether this primary gives the partition up, because a write found no room for `patience_ms`.
    /// From then on it serves nothing and the answer stays the same, also when there is room again: a
    /// proposal may get lost, and only a committed state may end its term (rule R3).
    pub(super) fn steps_down(&mut self, now_ms: u64, patience_ms: u64) -> bool {
        if self.stuck_since_ms().is_some_and(|since_ms| now_ms >= since_ms + patience_ms) {
            (self.phase, self.steps_down) = (Phase::Stopped, true);
        }
        self.steps_down
    }

    /// Removes and returns all pending writes if each found no space here and none was sent to another node.
    /// They count as never ordered, except that their versions are not reused (rule R1). Otherwise removes
    /// none: a later write may have seen an earlier one.
    pub(super) fn take_back(&mut self) -> Vec<Pending<A, W>> {
        let nowhere =
            |pending: &Pending<A, W>| pending.failed_ms.is_some() && !pending.appending && !pending.sent;
        if !self.pending.iter().all(nowhere) {
            return Vec::new();
        }
        (self.published, self.failed) = (self.last(), 0);
        self.pending.drain(..).collect()
    }

    /// Notes that a follower acknowledged all writes up to `sequence`. Ignores acknowledgements of other
    /// sessions.
    pub(super) fn acked(&mut self, node: NodeId, session: u64, sequence: u64) {
        if let Some(follower) = self.follower(node)
            && follower.session == session
        {
            follower.acked = follower.acked.max(sequence);
        }
    }

    /// Returns the follower on a node, if any.
    pub(super) fn follower(&mut self, node: NodeId) -> Option<&mut Follower> {
        self.followers.iter_mut().find(|follower| follower.node == node)
    }

    /// Returns the pending writes that a follower has not acknowledged, oldest first, each with its last
    /// sequence.
    pub(super) fn unacked(&self, acked: u64) -> impl Iterator<Item = (u64, &[Record])> {
        let writes = self.pending.iter().map(|pending| (pending.last, &pending.records[..]));
        writes.filter(move |(last, _)| *last > acked)
    }

    /// Removes and returns the next write that may be published, if any. The caller publishes it before the
    /// next call.
    pub(super) fn next_published(&mut self) -> Option<Pending<A, W>> {
        let next = self.pending.front()?;
        let last = next.last;
        let has_it = |follower: &Follower| {
            follower.acked >= last || (follower.broken && planted(Mutation::OwnSuspension))
        };
        let acknowledged = self.followers.iter().all(has_it);
        if next.appended.is_none() || !(acknowledged || planted(Mutation::EarlyAcknowledgement)) {
            return None;
        }
        self.published = last;
        self.pending.pop_front()
    }

    /// Returns the last sequence of the oldest pending write.
    pub(super) fn oldest_pending(&self) -> Option<u64> {
        self.pending.front().map(|pending| pending.last)
    }

    /// Requests the partition's digest between the publications of the write `sequence` and the next one.
    /// `now` returns the digest of the present state, and is called if `sequence` is published already.
    pub(super) fn digest_after(
        &mut self,
        sequence: u64,
        now: impl FnOnce() -> u64,
    ) -> tokio::sync::oneshot::Receiver<u64> {
        let (answer, receiver) = tokio::sync::oneshot::channel();
        if self.published == sequence {
            let _ = answer.send(now());
        } else {
            self.digest_waiters.push((sequence, answer));
        }
        receiver
    }

    /// Answers the requests for the digest of the present state. The caller calls it after each publication.
    pub(super) fn answer_digests(&mut self, now: impl Fn() -> u64) {
        let published = self.published;
        for (_, answer) in self.digest_waiters.extract_if(.., |(sequence, _)| *sequence == published) {
            let _ = answer.send(now());
        }
    }

    /// Removes and returns all pending writes: their outcome is unknown.
    pub(super) fn abandon(&mut self) -> Vec<Pending<A, W>> {
        self.digest_waiters.clear();
        self.failed = 0;
        self.pending.drain(..).collect()
    }

    fn at(&mut self, sequence: u64) -> Option<&mut Pending<A, W>> {
        let index = self.pending.binary_search_by_key(&sequence, |pending| pending.last).ok()?;
        self.pending.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record(key: &'static str, version: u64) -> Record {
        Record {
            key: Bytes::from_static(key.as_bytes()),
            version,
            expiry_ms: 0,
            user_flags: 0,
            value: Some(Bytes::from_static(b"v")),
        }
    }

    fn follower(byte: u8) -> Follower {
        let node = NodeId::from_bytes([byte; 32]);
        Follower {
            node,
            incarnation: 1,
            assigned: 1,
            syncing_since: 1,
            in_sync: true,
            session: 1,
            begins: 0,
            acked: 0,
            broken: false,
            clean: None,
        }
    }

    fn primary(followers: usize) -> Primary<(), u32> {
        let mut primary = Primary::new(1, Phase::Serving);
        primary.followers = (0..followers).map(|i| follower(i as u8 + 1)).collect();
        primary
    }

    #[test]
    fn nothing_is_published_before_every_follower_has_it() {
        let mut primary = primary(2);
        primary.push(vec![record("a", 1)], 0, Some(7));
        primary.appended(1, ());
        assert!(primary.next_published().is_none());
        primary.acked(NodeId::from_bytes([1; 32]), 1, 1);
        assert!(primary.next_published().is_none());
        primary.acked(NodeId::from_bytes([2; 32]), 1, 1);
        assert_eq!(primary.next_published().unwrap().waiters, vec![7]);
    }

    #[test]
    fn nothing_is_published_before_the_local_append_is_durable() {
        let mut primary = primary(0);
        primary.push(vec![record("a", 1)], 0, None);
        assert!(primary.next_published().is_none());
        primary.appended(1, ());
        assert!(primary.next_published().is_some());
    }

    #[test]
    fn publication_keeps_the_order() {
        let mut primary = primary(0);
        primary.push(vec![record("a", 1)], 0, Some(1));
        primary.push(vec![record("b", 2)], 0, Some(2));
        primary.appended(2, ());
        assert!(primary.next_published().is_none(), "the second must wait for the first");
        primary.appended(1, ());
        assert_eq!(primary.next_published().unwrap().waiters, vec![1]);
        assert_eq!(primary.next_published().unwrap().waiters, vec![2]);
    }

    #[test]
    fn several_records_have_a_sequence_each_and_one_place_in_the_order() {
        let mut primary = primary(1);
        primary.push(vec![record("a", 1)], 0, Some(1));
        primary.push(vec![record("b", 2), record("c", 3)], 0, Some(2));
        primary.push(vec![record("b", 4)], 0, None);
        assert_eq!(primary.last(), 4);
        assert_eq!(primary.newest_pending(b"c").unwrap().0.version, 3);
        assert_eq!(primary.newest_pending(b"b").unwrap().0.version, 4);
        let unacked: Vec<_> = primary.unacked(1).map(|(last, records)| (last, records.len())).collect();
        assert_eq!(unacked, vec![(3, 2), (4, 1)]);
        [1, 3, 4].into_iter().for_each(|sequence| primary.appended(sequence, ()));
        let node = NodeId::from_bytes([1; 32]);
        primary.acked(node, 1, 1);
        primary.next_published().unwrap();
        assert!(primary.next_published().is_none(), "both or none");
        primary.acked(node, 1, 3);
        assert_eq!(primary.next_published().unwrap().waiters, vec![2]);
        assert_eq!(primary.published(), 3);
    }

    #[test]
    fn writes_that_no_disk_has_are_taken_back_together_and_their_versions_are_not_reused() {
        let mut primary = primary(0);
        primary.push(vec![record("a", 1)], 0, Some(1));
        primary.push(vec![record("b", 2), record("c", 3)], 0, Some(2));
        primary.append_failed(1, 50);
        assert!(primary.is_stuck() && primary.take_back().is_empty(), "the other append is in flight");
        primary.append_failed(3, 60);
        primary.append_again(1);
        assert!(primary.take_back().is_empty(), "the first append is in flight again");
        primary.append_failed(1, 70);
        assert_eq!(primary.stuck_since_ms(), Some(50));
        let waiters: Vec<u32> = primary.take_back().into_iter().flat_map(|pending| pending.waiters).collect();
        assert_eq!((waiters, primary.last(), primary.is_stuck()), (vec![1, 2], 3, false));
        primary.push(vec![record("a", 4)], 0, Some(3));
        primary.appended(4, ());
        assert_eq!(primary.next_published().unwrap().last, 4);
    }

    #[test]
    fn primary_that_steps_down_continues_to_do_so_when_there_is_space_again() {
        let mut primary = primary(1);
        primary.push(vec![record("a", 1)], 0, None);
        primary.append_failed(1, 100);
        assert!(!primary.steps_down(1_099, 1_000) && primary.phase == Phase::Serving);
        assert!(primary.steps_down(1_100, 1_000) && primary.phase == Phase::Stopped);
        primary.append_again(1);
        primary.appended(1, ());
        assert!(!primary.is_stuck());
        assert!(primary.steps_down(1_200, 1_000), "its proposal may have been lost, and it does not serve");
    }

    #[test]
    fn write_that_another_node_may_hold_or_that_is_on_disk_is_not_taken_back() {
        let mut with_follower = primary(1);
        with_follower.push(vec![record("a", 1)], 0, None);
        // Its follower went away meanwhile.
        with_follower.followers.clear();
        with_follower.append_failed(1, 10);
        assert!(with_follower.take_back().is_empty() && with_follower.is_stuck());
        with_follower.append_again(1);
        with_follower.appended(1, ());
        assert!(!with_follower.is_stuck() && with_follower.next_published().is_some());

        let mut seen_later = primary(0);
        seen_later.push(vec![record("a", 1)], 0, None);
        seen_later.note_sent();
        seen_later.append_failed(1, 10);
        assert!(seen_later.take_back().is_empty(), "it was sent to a follower that was added later");

        let mut later_one_is_there = primary(0);
        later_one_is_there.push(vec![record("a", 1)], 0, None);
        later_one_is_there.push(vec![record("a", 2)], 0, None);
        later_one_is_there.append_failed(1, 10);
        later_one_is_there.appended(2, ());
        assert!(later_one_is_there.take_back().is_empty(), "the second may have seen the first");
    }

    #[test]
    fn an_acknowledgement_of_an_older_session_is_void() {
        let mut primary = primary(1);
        primary.push(vec![record("a", 1)], 0, None);
        primary.appended(1, ());
        let node = NodeId::from_bytes([1; 32]);
        primary.follower(node).unwrap().session = 2;
        primary.acked(node, 1, 1);
        assert!(primary.next_published().is_none());
    }

    #[test]
    fn the_digest_is_taken_between_two_publications() {
        let mut primary = primary(0);
        primary.push(vec![record("a", 1)], 0, None);
        let mut digest = primary.digest_after(primary.last(), || 0);
        primary.push(vec![record("b", 2)], 0, None);
        assert!(digest.try_recv().is_err());
        primary.appended(1, ());
        primary.next_published().unwrap();
        primary.answer_digests(|| 42);
        assert_eq!(digest.try_recv().unwrap(), 42);
    }
}
