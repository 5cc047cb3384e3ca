//! Makes a replica equal to its primary (*reconcile*): the one mechanism behind failover, return and
//! migration.
//!
//! The primary compares digests at an exact place in the order of writes, while writes continue. If they
//! differ, it compares the lists of positions and versions. It sends the records that the replica lacks or
//! has in an older version. A record that the replica has in a newer version, of an earlier term, was never
//! acknowledged: the primary supersedes it by ordering its own state of that key again. For in-sync replicas
//! see [`reconcile`](super::reconcile).

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caskade_engine::replicated::{InventoryEntry, Store};
use caskade_engine::{ReadError, Record};
use tokio::sync::oneshot;

use super::message::{Bulk, BulkAction, BulkAnswer, ReplicationFrame, read_replication_answer};
use super::plane::Plane;
use super::tasks::Job;
use crate::cluster::state::{
    Change, ClusterState, PartitionState, PrimaryRef, Replica, ReplicaRef, ReplicaRole,
};
use crate::id::{Epoch, NodeId, Partition, Term};
use crate::mutation::{Mutation, planted};
use crate::net::{Class, wire};
use crate::partition::{Follower, Phase, PrimaryEvent, Rejection, version};

/// Upper bound of the comparisons of the lists before the copy starts again.
const ROUNDS_MAX: usize = 8;
/// Positions whose keys one message requests.
pub(super) const POSITIONS_PER_ASK: usize = 64;
/// Bytes of records in one message, unless a single record is larger. So few that reading and storing them
/// delays requests only for a short time.
pub(super) const MESSAGE_BYTES: usize = 64 << 10;
/// Upper bound of the bytes of an answer.
const ANSWER_BYTES_MAX: usize = 80 << 20;
/// Time limit for a peer's answer to one bulk message.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause before a failed copy is retried.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Interval at which a new primary checks whether all records it received as a replica are durable.
const RECEIVING_PAUSE: Duration = Duration::from_millis(1);
/// Pause before a copy is retried that failed because a record is damaged on this node.
const DAMAGED_PAUSE: Duration = Duration::from_secs(10);
/// Interval at which a paused copy checks whether it may continue; progress wakes it earlier.
const PAUSED_PAUSE: Duration = Duration::from_secs(1);
/// Number of parts into which the bytes of one second are divided while the rate is limited: copies
/// ([`COPIES_MAX`](super::tasks)) take turns part by part.
const PACE_PARTS_PER_S: u64 = 16;
/// Time limit for the commit of a proposal, after which it is proposed again.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(3);

/// Reason why a copy ended early; it starts again while it is due.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    #[error("this node is no longer the primary of that term, or the replica is no longer its follower")]
    Void,
    #[error("the replica did not answer: {0}")]
    Unreachable(String),
    #[error("the replica refused: {0}")]
    Refused(String),
    #[error("this node cannot read a record that must be copied: {0}")]
    Damaged(String),
    #[error("the copies still differ after {ROUNDS_MAX} rounds")]
    Differ,
    #[error("the store of this node was found damaged: its state of a key may not be the newest")]
    Lost,
    #[error("the plan is paused")]
    Paused,
    #[error("the copies differ in more records than one write can carry")]
    TooMuch,
}

/// Records sent for one copy, in all attempts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) keys: u64,
    pub(super) bytes: u64,
}

/// Digests of the two copies after the same write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Compared {
    pub(super) mine: u64,
    pub(super) theirs: u64,
}

/// One attempt to make a replica equal to this primary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) partition: Partition,
    pub(super) term: Term,
    /// The replica's node.
    pub(super) node: NodeId,
    /// Epoch in which the copy was assigned to the replica.
    assigned: Epoch,
    /// Session number, by which a clean mark closes the transfer.
    session: u64,
}

/// Differences between the primary's and a replica's copy of a partition.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// Positions of records that the replica lacks or has in an older version.
    pub(super) send: Vec<u64>,
    /// Positions of the primary's tombstones at which the replica has no record: the keys are absent on both
    /// sides.
    tombstones: Vec<u64>,
    /// Positions at which both sides have a record, and the replica's is newer.
    pub(super) supersede: Vec<u64>,
    /// Positions at which only the replica has a record.
    pub(super) supersede_unknown: Vec<u64>,
}

impl Plane {
    /// Starts the copies that this node must make by the committed state.
    pub(super) fn schedule_copies(self: &Arc<Self>) {
        let state = self.state();
        state.partitions().for_each(|(partition, entry)| self.schedule_copies_of(&state, partition, entry));
    }

    fn schedule_copies_of(
        self: &Arc<Self>,
        state: &ClusterState,
        partition: Partition,
        entry: &PartitionState,
    ) {
        // A copy that is damaged, or lacks its last writes, must not be a source.
        let lacks = self.damage.is_in(partition) || self.tails.is_due(partition);
        if entry.primary() != Some(self.node) || lacks {
            return;
        }
        let syncing = entry.replicas.iter().filter(|replica| replica.role == ReplicaRole::Syncing);
        // A stand-in for a node that is away only briefly gets no copy of older records.
        for replica in syncing.filter(|replica| !replica.is_waiting_stand_in()) {
            let (node, syncing_since) = (replica.node, replica.syncing_since);
            let job = Job::Copy { partition, term: entry.term, node, syncing_since };
            let due = state.is_up(node) && self.holds(partition, entry.term);
            if due && self.tasks.begin(job) {
                let stats = self.engine.partition_stats(partition);
                let (kind, cause) = why_copied(state, replica);
                self.tasks.add(node, kind, &cause, stats.live_keys, stats.live_bytes);
                self.host.spawn(Arc::clone(self).copy(partition, entry.term, node, syncing_since));
            }
        }
    }

    fn holds(self: &Arc<Self>, partition: Partition, term: Term) -> bool {
        self.with_primary(partition, term, |_| ()).is_some()
    }

    /// Returns whether the committed state still asks for the copy.
    fn is_due(self: &Arc<Self>, partition: Partition, term: Term, node: NodeId, since: Epoch) -> bool {
        let due = self.with_primary(partition, term, |primary| {
            primary.follower(node).is_some_and(|f| f.name().syncing_since == since && !f.is_in_sync())
        });
        due == Some(true)
    }

    async fn copy(self: Arc<Self>, partition: Partition, term: Term, node: NodeId, syncing_since: Epoch) {
        let mut sent = Sent::default();
        while self.is_due(partition, term, node, syncing_since) {
            if self.is_paused(partition, node) {
                // Waits without a permit, so that a paused plan does not block the copies of a returned node.
                self.wait_until(PAUSED_PAUSE, || !self.is_paused(partition, node)).await;
                continue;
            }
            if self.takes_no_copy(partition, node) {
                self.wait_until(PAUSED_PAUSE, || !self.takes_no_copy(partition, node)).await;
                continue;
            }
            let Ok(permit) = self.tasks.copies.acquire().await else {
                break;
            };
            let result = self.catch_up(partition, term, node, &mut sent).await;
            drop(permit);
            match result {
                Ok(digests) => {
                    self.propose_caught_up(partition, term, node, syncing_since, digests, sent).await
                }
                Err(CopyError::Paused) => {}
                Err(error @ CopyError::Damaged(_)) => {
                    tracing::error!(partition, %node, %error, "cannot copy this partition: a record is \
                        damaged on this node; no data was changed; overwrite or delete the damaged keys (the \
                        copy is retried every 10 s)");
                    tokio::time::sleep(DAMAGED_PAUSE).await;
                }
                Err(error) => {
                    tracing::debug!(partition, %node, %error, "a copy failed; it is retried while it is due");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
        self.tasks.finish(node);
        self.tasks.end(Job::Copy { partition, term, node, syncing_since });
        // If the copy became void, the committed state may ask for another one.
        let state = self.state();
        if let Some(entry) = state.partition(partition) {
            self.schedule_copies_of(&state, partition, entry);
        }
    }

    async fn propose_caught_up(
        self: &Arc<Self>,
        partition: Partition,
        term: Term,
        node: NodeId,
        syncing_since: Epoch,
        digests: Compared,
        sent: Sent,
    ) {
        let state = self.state();
        let incarnation_of = |node| state.members.get(&node).map(|m| m.announcement.incarnation);
        let (Some(own), Some(incarnation)) = (incarnation_of(self.node), incarnation_of(node)) else {
            return;
        };
        let (source_digest, target_digest) = (digests.mine, digests.theirs);
        tracing::debug!(
            partition,
            %node,
            source_digest = format!("{source_digest:016x}"),
            target_digest = format!("{target_digest:016x}"),
            "a copy is complete: its digest equals the primary's"
        );
        self.propose(Change::CaughtUp {
            primary: PrimaryRef { partition, term, incarnation: own },
            replica: ReplicaRef { node, incarnation, syncing_since },
            source_digest,
            target_digest,
            sent_keys: sent.keys,
            sent_bytes: sent.bytes,
        });
        self.wait_until(COMMIT_TIMEOUT, || !self.is_due(partition, term, node, syncing_since)).await;
    }

    /// Waits until `done` returns true, at most for `timeout`. Checks it at every progress.
    pub(super) async fn wait_until(&self, timeout: Duration, done: impl Fn() -> bool) {
        let mut progress = self.watch_progress();
        let wait = async {
            loop {
                progress.mark_unchanged();
                if done() || progress.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(timeout, wait).await;
    }

    /// Starts the recovery of a new primary: reconciles with the other in-sync replicas, then serves. Before
    /// that it fetches from the nodes in `tails` the writes that they received and this node lost.
    pub(super) fn spawn_recovery(self: &Arc<Self>, partition: Partition, term: Term, tails: Vec<NodeId>) {
        let plane = Arc::clone(self);
        self.host.spawn(async move {
            if !tails.is_empty() {
                plane.take_tails(partition, term, &tails).await;
            }
            let mut reconciled: Vec<NodeId> = Vec::new();
            while plane.appends(partition).is_any() {
                tokio::time::sleep(RECEIVING_PAUSE).await;
            }
            loop {
                let next = plane.with_primary(partition, term, |primary| {
                    let differs = |node: &NodeId| !reconciled.contains(node);
                    let in_sync = primary.followers().iter().filter(|follower| follower.is_in_sync());
                    let next = in_sync.map(Follower::node).find(differs);
                    if next.is_none() {
                        primary.finish_recovery();
                    }
                    next
                });
                let Some(Some(node)) = next else { break };
                match plane.catch_up(partition, term, node, &mut Sent::default()).await {
                    Ok(_) => reconciled.push(node),
                    Err(CopyError::TooMuch) => {
                        plane.give_up_in_sync(partition, term, node);
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                    Err(error) => {
                        tracing::debug!(partition, %node, %error, "cannot reconcile yet; retrying");
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                }
            }
            plane.note_progress();
        });
    }

    pub(super) async fn catch_up(
        self: &Arc<Self>,
        partition: Partition,
        term: Term,
        node: NodeId,
        sent: &mut Sent,
    ) -> Result<Compared, CopyError> {
        if self.damage.is_in(partition) {
            return Err(CopyError::Lost);
        }
        let transfer = self.transfer(partition, term, node)?;
        self.merge_by_value(transfer).await?;
        for _ in 0..ROUNDS_MAX {
            let compared = self.compare_digests(partition, term, node).await?;
            if planted(Mutation::BlindFlip) {
                return Ok(Compared { mine: compared.mine, theirs: compared.mine });
            }
            if compared.mine == compared.theirs {
                return Ok(compared);
            }
            self.send_differences(transfer, sent).await?;
        }
        Err(CopyError::Differ)
    }

    /// Starts a transfer from this primary to a follower.
    pub(super) fn transfer(
        self: &Arc<Self>,
        partition: Partition,
        term: Term,
        node: NodeId,
    ) -> Result<Transfer, CopyError> {
        // A clean mark closes transfers of earlier sessions, so late messages of an abandoned one are void.
        let begun = self.with_primary(partition, term, |primary| {
            let assigned = primary.follower(node)?.assigned();
            Some(Transfer { partition, term, node, assigned, session: primary.next_session() })
        });
        begun.flatten().ok_or(CopyError::Void)
    }

    pub(super) async fn compare_digests(
        self: &Arc<Self>,
        partition: Partition,
        term: Term,
        node: NodeId,
    ) -> Result<Compared, CopyError> {
        // Both digests are requested under the lock, so that the frame has its place in the order of the
        // writes.
        let asked = self.with_primary(partition, term, |primary| {
            let place = primary.place(node)?;
            let (waiter, mine) = oneshot::channel();
            primary.digest_after_last(waiter);
            let frame = ReplicationFrame::digest(self.position(partition, term, place));
            Some((mine, self.peers.call(node, Class::Replication, frame), place.session))
        });
        let Some(Some((mine, theirs, session))) = asked else {
            return Err(CopyError::Void);
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, theirs).await;
        let body = answer.map_err(|_| unanswered())?.map_err(|error| unreachable(&error))?;
        let (answer, disk) = read_replication_answer(body);
        if let Some(disk) = disk {
            self.note_disk(node, disk);
        }
        let theirs = match answer {
            Ok(Some(digest)) => digest,
            Ok(None) => return Err(CopyError::Refused("its answer has no digest".into())),
            Err(rejection) => {
                if rejection == Rejection::Gap {
                    let event = PrimaryEvent::GapBeforeDigest { node, session };
                    self.with_primary(partition, term, |primary| primary.on_event(event));
                }
                return Err(CopyError::Refused(format!("{rejection:?}")));
            }
        };
        let mine = await_digest(mine).await?;
        tracing::trace!(partition, %node, mine, theirs, "compared digests");
        Ok(Compared { mine, theirs })
    }

    async fn send_differences(
        self: &Arc<Self>,
        transfer: Transfer,
        sent: &mut Sent,
    ) -> Result<(), CopyError> {
        let Transfer { partition, term, node, .. } = transfer;
        let settled = self.with_primary(partition, term, |primary| version(term, primary.published()));
        let settled = settled.ok_or(CopyError::Void)?;
        let theirs = self.inventory_of(transfer).await?;
        let differences = compare(&self.engine.inventory(partition), &theirs, settled);
        if self.with_primary(partition, term, |p| p.follower(node).is_some_and(Follower::is_in_sync))
            == Some(true)
        {
            return self.settle_differences(transfer, &differences).await;
        }
        self.send_records(transfer, &differences.send, sent).await?;
        self.send_records(transfer, &differences.tombstones, sent).await?;
        let mut keys = self.own_keys(partition, &differences.supersede)?;
        keys.extend(self.keys_of(transfer, &differences.supersede_unknown).await?);
        for key in keys {
            self.supersede(partition, term, key)?;
        }
        Ok(())
    }

    /// Fetches position and version of all records of the replica, and whether each is a tombstone.
    pub(super) async fn inventory_of(&self, transfer: Transfer) -> Result<Vec<(u64, u64, bool)>, CopyError> {
        match self.bulk(transfer, BulkAction::Inventory).await? {
            BulkAnswer::Inventory(entries) => Ok(entries),
            other => Err(unexpected(&other)),
        }
    }

    /// Fetches the keys of the replica's records at these positions.
    pub(super) async fn keys_of(
        &self,
        transfer: Transfer,
        positions: &[u64],
    ) -> Result<Vec<Bytes>, CopyError> {
        let mut keys = Vec::with_capacity(positions.len());
        for positions in positions.chunks(POSITIONS_PER_ASK) {
            match self.bulk(transfer, BulkAction::Keys(positions.to_vec())).await? {
                BulkAnswer::Keys(found) => keys.extend(found),
                other => return Err(unexpected(&other)),
            }
        }
        Ok(keys)
    }

    /// Reads the keys of this node's own records at these positions.
    pub(super) fn own_keys(&self, partition: Partition, positions: &[u64]) -> Result<Vec<Bytes>, CopyError> {
        keys_at(&self.engine, partition, positions).map_err(|error| CopyError::Damaged(error.to_string()))
    }

    async fn send_records(
        self: &Arc<Self>,
        transfer: Transfer,
        positions: &[u64],
        sent: &mut Sent,
    ) -> Result<(), CopyError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        // One at a time: a record may have a large value.
        for position in positions {
            let records = self.engine.read_positions(transfer.partition, &[*position]);
            for record in records.map_err(|error| CopyError::Damaged(error.to_string()))? {
                // Counted as in plan previews, so that the two can be compared.
                bytes += record.stored_bytes() as usize;
                batch.push(record);
                if bytes >= MESSAGE_BYTES {
                    self.send_batch(transfer, std::mem::take(&mut batch), bytes, sent).await?;
                    bytes = 0;
                }
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.send_batch(transfer, batch, bytes, sent).await
    }

    async fn send_batch(
        self: &Arc<Self>,
        transfer: Transfer,
        batch: Vec<Record>,
        bytes: usize,
        sent: &mut Sent,
    ) -> Result<(), CopyError> {
        let keys = batch.len() as u64;
        self.pace(transfer.partition, transfer.node, bytes as u64).await?;
        match self.bulk(transfer, BulkAction::Store(batch)).await? {
            BulkAnswer::Stored => {
                self.tasks.copied(transfer.node, keys, bytes as u64);
                sent.keys += keys;
                sent.bytes += bytes as u64;
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Returns whether this copy belongs to a paused plan. A pause does not stop the copies to a returned
    /// node, nor those that a failure made necessary.
    fn is_paused(&self, partition: Partition, node: NodeId) -> bool {
        let state = self.state();
        let Some(plan) = state.plans.running.as_ref().filter(|_| state.plans.paused) else {
            return false;
        };
        let replica = state.partition(partition).and_then(|placed| placed.replica(node));
        let planned = state.ring.replicas(partition).contains(&node);
        planned && replica.is_some_and(|replica| replica.is_new_since(plan.epoch))
    }

    /// Returns the present rate limit of all copies from this node, bytes per second.
    pub fn pace_bytes_per_s(&self) -> u64 {
        self.state().throttle_bytes_per_s.unwrap_or(self.limits.migration_bytes_per_s)
    }

    /// Waits until so many bytes may be sent by the rate limit of copies and by the budget of all background
    /// work. Takes the bytes in small parts, so that a new rate or a pause applies at once.
    async fn pace(&self, partition: Partition, node: NodeId, bytes: u64) -> Result<(), CopyError> {
        let mut left = bytes;
        while left > 0 {
            if self.is_paused(partition, node) {
                return Err(CopyError::Paused);
            }
            let bytes_per_s = self.pace_bytes_per_s();
            let part = left.min(bytes_per_s / PACE_PARTS_PER_S + 1);
            self.tasks.pace(part, bytes_per_s).await;
            tokio::time::sleep(self.background.take(part)).await;
            left -= part;
        }
        Ok(())
    }

    /// Orders this node's own state of a key again, under its present term.
    fn supersede(self: &Arc<Self>, partition: Partition, term: Term, key: Bytes) -> Result<(), CopyError> {
        let done = self.with_primary(partition, term, |primary| {
            // During a hand-over nothing may be ordered: the write could come after its settlement.
            if primary.phase() == Phase::Stopped {
                return Err(CopyError::Void);
            }
            let record = self.newest_state(primary, &key)?;
            primary.order(vec![record], self.host.monotonic_ms(), None);
            Ok(())
        });
        done.unwrap_or(Err(CopyError::Void))
    }

    pub(super) async fn bulk(&self, transfer: Transfer, action: BulkAction) -> Result<BulkAnswer, CopyError> {
        let Transfer { partition, term, node, assigned, session } = transfer;
        let body = wire::encode(&Bulk { partition, term, assigned, session, action }).into();
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.peers.call(node, Class::Bulk, body)).await;
        let body = answer.map_err(|_| unanswered())?.map_err(|error| unreachable(&error))?;
        wire::decode::<BulkAnswer, ANSWER_BYTES_MAX>(&body)
            .map_err(|error| CopyError::Refused(format!("its answer cannot be decoded: {error}")))
    }
}

/// Returns the kind of a copy's task, and the text of its cause.
fn why_copied(state: &ClusterState, replica: &Replica) -> (&'static str, String) {
    if let Some(stand_in) = replica.stand_in {
        return ("rebuild", format!("node {} is away", stand_in.of.short()));
    }
    match &state.plans.running {
        Some(plan) if replica.assigned == replica.syncing_since => ("migration", plan.cause.clone()),
        _ if replica.assigned == replica.syncing_since => {
            ("migration", format!("node {} returned", replica.node.short()))
        }
        _ => ("return", format!("node {} returned", replica.node.short())),
    }
}

async fn await_digest(digest: oneshot::Receiver<u64>) -> Result<u64, CopyError> {
    let digest = tokio::time::timeout(ANSWER_TIMEOUT, digest).await;
    digest.map_err(|_| unanswered())?.map_err(|_| CopyError::Void)
}

fn unanswered() -> CopyError {
    CopyError::Unreachable(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))
}

fn unreachable(error: &crate::net::CallError) -> CopyError {
    CopyError::Unreachable(format!("{error:?}"))
}

pub(super) fn unexpected(answer: &BulkAnswer) -> CopyError {
    match answer {
        BulkAnswer::Refused(reason) => CopyError::Refused(reason.clone()),
        _ => CopyError::Refused("its answer does not match the request".into()),
    }
}

/// Reads the keys of the records at these positions, one record at a time.
pub(super) fn keys_at(
    engine: &Store,
    partition: Partition,
    positions: &[u64],
) -> Result<Vec<Bytes>, ReadError> {
    let mut keys = Vec::with_capacity(positions.len());
    for position in positions {
        let records = engine.read_positions(partition, &[*position])?;
        // Copied, so that a key does not keep its value in memory.
        keys.extend(records.iter().map(|record| Bytes::copy_from_slice(&record.key)));
    }
    Ok(keys)
}

/// Compares two lists that ascend by position. `theirs` holds position, version and whether it is a
/// tombstone. Writes published before `theirs` was requested have versions up to `settled` and are in `mine`,
/// unless they were superseded. Newer records of the replica are ignored, because their writes are pending.
fn compare(mine: &[InventoryEntry], theirs: &[(u64, u64, bool)], settled: u64) -> Differences {
    let mut differences = Differences::default();
    let (mut i, mut j) = (0, 0);
    while i < mine.len() || j < theirs.len() {
        let order = match (mine.get(i), theirs.get(j)) {
            (Some(mine), Some(theirs)) => mine.position.cmp(&theirs.0),
            (Some(_), None) => Ordering::Less,
            _ => Ordering::Greater,
        };
        match order {
            Ordering::Less => {
                let list =
                    if mine[i].tombstone { &mut differences.tombstones } else { &mut differences.send };
                list.push(mine[i].position);
                i += 1;
            }
            Ordering::Greater => {
                let (position, version, tombstone) = theirs[j];
                if !tombstone && version <= settled {
                    differences.supersede_unknown.push(position);
                }
                j += 1;
            }
            Ordering::Equal => {
                let (position, version, _) = theirs[j];
                match mine[i].version.cmp(&version) {
                    Ordering::Greater => differences.send.push(position),
                    Ordering::Less if version <= settled => differences.supersede.push(position),
                    _ => {}
                }
                (i, j) = (i + 1, j + 1);
            }
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mine(position: u64, version: u64) -> InventoryEntry {
        InventoryEntry { position, version, tombstone: false }
    }

    #[test]
    fn missing_records_are_sent_and_those_only_the_replica_has_are_superseded() {
        let (v1, v2, v9) = (version(1, 1), version(1, 2), version(1, 9));
        let mine = [mine(1, v1), mine(2, v2), mine(4, v1)];
        let theirs = [(2, v1, false), (3, v9, false), (4, v9, false), (5, v9, true)];
        let differences = compare(&mine, &theirs, version(2, 0));
        assert_eq!(differences.send, vec![1, 2]);
        assert_eq!(differences.supersede, vec![4]);
        assert_eq!(differences.supersede_unknown, vec![3]);
    }

    #[test]
    fn records_that_are_not_published_yet_are_ignored() {
        let theirs = [(1, version(2, 7), false), (2, version(2, 8), false)];
        let differences = compare(&[mine(1, version(1, 1))], &theirs, version(2, 6));
        assert_eq!(differences, Differences::default());
    }

    #[test]
    fn published_record_that_the_primary_no_longer_has_was_deleted_and_is_superseded() {
        let differences = compare(&[], &[(1, version(2, 7), false)], version(2, 7));
        assert_eq!(differences.supersede_unknown, vec![1]);
    }

    #[test]
    fn equal_copies_do_not_differ() {
        let theirs = [(1, 5, false), (2, 6, false)];
        assert_eq!(compare(&[mine(1, 5), mine(2, 6)], &theirs, version(1, 0)), Differences::default());
    }
}
