//! The order of one partition's writes, as its primary keeps it. Pure: no I/O, no clock.
//!
//! A write of one record, or of several that are seen together or not at all, gets the next sequences and is
//! *pending* until this node's own append and every follower's acknowledgement are in; then it is *published*, in
//! order. Reads see published records only, writes that look at the key first see its newest pending record.
//! Invariants: sequences of `pending` are consecutive, one to each record; a write's name is its last sequence;
//! nothing is published before all followers present have acknowledged it (promise P1).
//!
//! `A` is the handle of a local append, `W` whoever waits for an answer.

use std::collections::VecDeque;

use caskade_engine::Record;

use crate::id::{Epoch, Incarnation, NodeId, Term};
use crate::mutation::{Mutation, planted};

/// Whether the primary takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Reconciles with the other in-sync replicas after a failover; serves nobody yet.
    Recovering,
    /// Takes requests.
    Serving,
    /// Gives the partition up: takes none, settles what is pending, never resumes by itself (rule R3).
    Stopped,
}

/// A replica that must acknowledge every write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Follower {
    /// Which node.
    pub(super) node: NodeId,
    /// The incarnation the committed state has of it.
    pub(super) incarnation: Incarnation,
    /// Epoch in which the copy was assigned to it.
    pub(super) assigned: Epoch,
    /// The entry that made it what it is; names the copy in proposals.
    pub(super) syncing_since: Epoch,
    /// Whether it holds every acknowledged write already.
    pub(super) in_sync: bool,
    /// Present replication session; frames of older ones are void.
    pub(super) session: u64,
    /// What it had acknowledged when that was opened.
    pub(super) begins: u64,
    /// Everything up to here is durable there.
    pub(super) acked: u64,
    /// The session broke: what it lacks must be sent again in a new one.
    pub(super) broken: bool,
    /// It was told, and took note, that the partition is clean up to this sequence.
    pub(super) clean: Option<u64>,
}

/// A write that is ordered but not published.
#[derive(Debug)]
pub(super) struct Pending<A, W> {
    /// What is written: at least one record, their versions consecutive.
    pub(super) records: Vec<Record>,
    /// The sequence of the last of them.
    pub(super) last: u64,
    /// When it was ordered, for the replica time-out; milliseconds of the monotonic clock.
    pub(super) ordered_ms: u64,
    /// The local append, once durable.
    pub(super) appended: Option<A>,
    /// Since when the local append finds no room on the disk; milliseconds of the monotonic clock.
    failed_ms: Option<u64>,
    /// An append of it is under way.
    appending: bool,
    /// Another node was sent it, and may hold it.
    sent: bool,
    /// Those to be answered once it is published: its writer, and who saw it (rule R6).
    pub(super) waiters: Vec<W>,
}

/// One partition's writes under one term.
#[derive(Debug)]
pub(super) struct Primary<A, W> {
    /// The term it orders under.
    pub(super) term: Term,
    /// Whether it takes requests.
    pub(super) phase: Phase,
    /// Those who must acknowledge.
    pub(super) followers: Vec<Follower>,
    pending: VecDeque<Pending<A, W>>,
    /// Sequence of the newest published record; those of `pending` follow it.
    published: u64,
    digest_waiters: Vec<(u64, tokio::sync::oneshot::Sender<u64>)>,
    /// How many writes of `pending` found no room on this disk, and are not on it yet.
    failed: usize,
    /// It gave the partition up for want of room: true until a committed state ends its term (rule R3).
    steps_down: bool,
}

impl<A, W> Primary<A, W> {
    /// A primary that has ordered nothing in `term` yet.
    pub(super) fn new(term: Term, phase: Phase) -> Self {
        let (followers, pending, digest_waiters) = (Vec::new(), VecDeque::new(), Vec::new());
        Self { term, phase, followers, pending, published: 0, digest_waiters, failed: 0, steps_down: false }
    }

    /// The sequence of the newest ordered record.
    pub(super) fn last(&self) -> u64 {
        self.pending.back().map_or(self.published, |pending| pending.last)
    }

    /// The sequence of the newest published record.
    pub(super) fn published(&self) -> u64 {
        self.published
    }

    /// How many writes are pending.
    pub(super) fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// When the oldest pending write was ordered.
    pub(super) fn oldest_pending_ms(&self) -> Option<u64> {
        self.pending.front().map(|pending| pending.ordered_ms)
    }

    /// The newest pending record of a key and those who wait for its write.
    pub(super) fn newest_pending(&mut self, key: &[u8]) -> Option<(&Record, &mut Vec<W>)> {
        self.pending.iter_mut().rev().find_map(|pending| {
            let record = pending.records.iter().rev().find(|record| record.key == key)?;
            Some((record, &mut pending.waiters))
        })
    }

    /// Those who wait for the newest pending write.
    pub(super) fn newest_waiters(&mut self) -> Option<&mut Vec<W>> {
        self.pending.back_mut().map(|pending| &mut pending.waiters)
    }

    /// Puts records, which already carry their versions, last in the order. There must be one at least.
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

    /// The local append of the write named `sequence` is durable.
    pub(super) fn appended(&mut self, sequence: u64, handle: A) {
        let Some(pending) = self.at(sequence) else { return };
        (pending.appended, pending.appending) = (Some(handle), false);
        if pending.failed_ms.take().is_some() {
            self.failed -= 1;
        }
    }

    /// Notes that the local append of the write named `sequence` found no room: nothing of it is on this disk.
    pub(super) fn append_failed(&mut self, sequence: u64, now_ms: u64) {
        let Some(pending) = self.at(sequence) else { return };
        pending.appending = false;
        if pending.failed_ms.is_none() {
            pending.failed_ms = Some(now_ms);
            self.failed += 1;
        }
    }

    /// Returns the records of a pending write that is about to be appended again.
    pub(super) fn append_again(&mut self, sequence: u64) -> Option<&[Record]> {
        let pending = self.at(sequence)?;
        pending.appending = true;
        Some(&pending.records)
    }

    /// Notes that a follower is sent everything pending.
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

    /// Returns whether this primary gives the partition up, because a write found no room for `patience_ms`. From then on
    /// it serves nothing and the answer stays the same, also when there is room again: a proposal may get lost, and only
    /// a committed state may end its term (rule R3).
    pub(super) fn steps_down(&mut self, now_ms: u64, patience_ms: u64) -> bool {
        if self.stuck_since_ms().is_some_and(|since_ms| now_ms >= since_ms + patience_ms) {
            (self.phase, self.steps_down) = (Phase::Stopped, true);
        }
        self.steps_down
    }

    /// Takes back all pending writes if each found no room here, and no other node was sent any. As if they had never
    /// been ordered, but for their versions, which are not given again (rule R1). Otherwise takes back none: a later
    /// one may have seen an earlier one.
    pub(super) fn take_back(&mut self) -> Vec<Pending<A, W>> {
        let nowhere =
            |pending: &Pending<A, W>| pending.failed_ms.is_some() && !pending.appending && !pending.sent;
        if !self.pending.iter().all(nowhere) {
            return Vec::new();
        }
        (self.published, self.failed) = (self.last(), 0);
        self.pending.drain(..).collect()
    }

    /// A follower has everything up to `sequence`. Void if it belongs to another session.
    pub(super) fn acked(&mut self, node: NodeId, session: u64, sequence: u64) {
        if let Some(follower) = self.follower(node)
            && follower.session == session
        {
            follower.acked = follower.acked.max(sequence);
        }
    }

    /// A follower of this name, if there is one.
    pub(super) fn follower(&mut self, node: NodeId) -> Option<&mut Follower> {
        self.followers.iter_mut().find(|follower| follower.node == node)
    }

    /// What a follower lacks, oldest first, each write with its name.
    pub(super) fn unacked(&self, acked: u64) -> impl Iterator<Item = (u64, &[Record])> {
        let writes = self.pending.iter().map(|pending| (pending.last, &pending.records[..]));
        writes.filter(move |(last, _)| *last > acked)
    }

    /// The next write that may be published, if any. The caller publishes it before it asks again.
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

    /// The name of the oldest pending write.
    pub(super) fn oldest_pending(&self) -> Option<u64> {
        self.pending.front().map(|pending| pending.last)
    }

    /// Asks for the partition's digest right after the write named `sequence` is published and before the next is.
    /// `now` gives the digest if that is the present state.
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

    /// Answers those who wait for the digest of the present state. Called after each publication.
    pub(super) fn answer_digests(&mut self, now: impl Fn() -> u64) {
        let published = self.published;
        for (_, answer) in self.digest_waiters.extract_if(.., |(sequence, _)| *sequence == published) {
            let _ = answer.send(now());
        }
    }

    /// Gives up everything pending: its outcome is unknown.
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
    fn writes_that_are_nowhere_are_taken_back_together_and_their_versions_are_not_given_again() {
        let mut primary = primary(0);
        primary.push(vec![record("a", 1)], 0, Some(1));
        primary.push(vec![record("b", 2), record("c", 3)], 0, Some(2));
        primary.append_failed(1, 50);
        assert!(primary.is_stuck() && primary.take_back().is_empty(), "the append of the other is under way");
        primary.append_failed(3, 60);
        primary.append_again(1);
        assert!(primary.take_back().is_empty(), "an append of the first is under way again");
        primary.append_failed(1, 70);
        assert_eq!(primary.stuck_since_ms(), Some(50));
        let waiters: Vec<u32> = primary.take_back().into_iter().flat_map(|pending| pending.waiters).collect();
        assert_eq!((waiters, primary.last(), primary.is_stuck()), (vec![1, 2], 3, false));
        primary.push(vec![record("a", 4)], 0, Some(3));
        primary.appended(4, ());
        assert_eq!(primary.next_published().unwrap().last, 4);
    }

    #[test]
    fn primary_that_steps_down_goes_on_to_say_so_when_there_is_room_again() {
        let mut primary = primary(1);
        primary.push(vec![record("a", 1)], 0, None);
        primary.append_failed(1, 100);
        assert!(!primary.steps_down(1_099, 1_000) && primary.phase == Phase::Serving);
        assert!(primary.steps_down(1_100, 1_000) && primary.phase == Phase::Stopped);
        primary.append_again(1);
        primary.appended(1, ());
        assert!(!primary.is_stuck());
        assert!(primary.steps_down(1_200, 1_000), "its proposal may have been lost, and it serves nothing");
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
        assert!(seen_later.take_back().is_empty(), "a follower that came later was sent it");

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
