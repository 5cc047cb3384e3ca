//! Makes a replica equal to its primary: the one mechanism behind failover, return and migration (DESIGN:
//! *reconcile*).
//!
//! Digests are compared at an exact place in the order of writes. While they differ, the lists of positions
//! and versions are: what the replica lacks is sent; what it has newer, of an earlier term, was never
//! acknowledged and is superseded by ordering the primary's own state of that key again. Writes go on meanwhile.
//! Towards an in-sync replica: see [`reconcile`](super::reconcile).

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caskade_engine::{Engine, InventoryEntry, ReadError};
use tokio::sync::oneshot;

use super::message::{Bulk, BulkAction, BulkAnswer, ReplicationFrame, WireRecord, read_replication_answer};
use super::plane::Plane;
use super::primary::Phase;
use super::replica::Rejection;
use super::tasks::Job;
use super::version::version;
use crate::cluster::state::{Change, ClusterState, PartitionState, Replica, ReplicaRole};
use crate::id::{Epoch, NodeId, Partition, Term};
use crate::mutation::{Mutation, planted};
use crate::net::{Class, wire};

/// Times the lists are compared before the copy is begun anew.
const ROUNDS_MAX: usize = 8;
/// Positions whose keys are asked for at once.
pub(super) const POSITIONS_PER_ASK: usize = 64;
/// Bytes of records in one message, unless a single record is larger. So few that no request waits long for the reading
/// and storing of one.
pub(super) const MESSAGE_BYTES: usize = 64 << 10;
/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 80 << 20;
/// How long a peer may take to answer one bulk message.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause before a copy that failed is tried again.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How often a new primary looks whether all it took as a replica is on its disk.
const RECEIVING_PAUSE: Duration = Duration::from_millis(1);
/// Pause before a copy is tried again of which a record is damaged here.
const DAMAGED_PAUSE: Duration = Duration::from_secs(10);
/// How often a paused copy looks whether it goes on, if nothing tells it before.
const PAUSED_PAUSE: Duration = Duration::from_secs(1);
/// Into so many parts a second's worth of bytes is cut while the pace is kept; [`COPIES_MAX`](super::tasks) copies wait
/// for one another.
const PACE_PARTS_PER_S: u64 = 16;
/// How long a proposal may take to be committed before it is made again.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a copy did not come to its end; it is begun anew while it is due.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    #[error("this node is no longer the primary of that term, or the replica no longer its follower")]
    Void,
    #[error("the replica did not answer: {0}")]
    Unreachable(String),
    #[error("the replica refused: {0}")]
    Refused(String),
    #[error("a record to be copied cannot be read here: {0}")]
    Damaged(String),
    #[error("the copies still differ after {ROUNDS_MAX} rounds")]
    Differ,
    #[error("the store of this node was found damaged: its state of a key may not be the newest")]
    Lost,
    #[error("the plan is paused")]
    Paused,
    #[error("they differ in more than one write can carry")]
    TooMuch,
}

/// What was sent for one copy, all tries together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) keys: u64,
    pub(super) bytes: u64,
}

/// Digests of the two copies after the same write, found equal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Compared {
    pub(super) mine: u64,
    pub(super) theirs: u64,
}

/// One try to bring a replica up to date.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) partition: Partition,
    pub(super) term: Term,
    /// The replica's.
    pub(super) node: NodeId,
    /// Epoch in which the copy was assigned to it.
    assigned: Epoch,
    /// Names it, so that it can be closed.
    session: u64,
}

/// What two copies of a partition differ in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// Positions of records the replica lacks, or has older.
    pub(super) send: Vec<u64>,
    /// Positions of tombstones of which the replica has nothing at all: its state of these keys is right.
    tombstones: Vec<u64>,
    /// Positions of records it has newer, both sides knowing the key.
    pub(super) supersede: Vec<u64>,
    /// Positions of records only it has.
    pub(super) supersede_unknown: Vec<u64>,
}

impl Plane {
    /// Begins the copies that the committed state asks this node for.
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
        // A damaged copy is nobody's source, nor is one that lacks its last writes.
        let lacks = self.damage.is_in(partition) || self.tails.is_due(partition);
        if entry.primary() != Some(self.node) || lacks {
            return;
        }
        let syncing = entry.replicas.iter().filter(|replica| replica.role == ReplicaRole::Syncing);
        // A node that is away for a moment only needs no copy made anew.
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

    /// Whether the copy is still asked for.
    fn is_due(self: &Arc<Self>, partition: Partition, term: Term, node: NodeId, since: Epoch) -> bool {
        let due = self.with_primary(partition, term, |primary| {
            primary.follower(node).is_some_and(|f| f.syncing_since == since && !f.in_sync)
        });
        due == Some(true)
    }

    async fn copy(self: Arc<Self>, partition: Partition, term: Term, node: NodeId, syncing_since: Epoch) {
        let mut sent = Sent::default();
        while self.is_due(partition, term, node, syncing_since) {
            if self.is_paused(partition, node) {
                // Without a permit: a node that returns is not kept waiting by a plan that is paused.
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
                    tracing::error!(partition, %node, %error, "this partition cannot be copied; writing the \
                        damaged keys anew, or removing them, mends it");
                    tokio::time::sleep(DAMAGED_PAUSE).await;
                }
                Err(error) => {
                    tracing::debug!(partition, %node, %error, "a copy did not come to its end; trying again");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
        self.tasks.finish(node);
        self.tasks.end(Job::Copy { partition, term, node, syncing_since });
        // A copy that ended void may be due again in another form.
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
        let (Some(primary_incarnation), Some(incarnation)) =
            (incarnation_of(self.node), incarnation_of(node))
        else {
            return;
        };
        let (source_digest, target_digest) = (digests.mine, digests.theirs);
        tracing::debug!(
            partition,
            %node,
            source_digest = format!("{source_digest:016x}"),
            target_digest = format!("{target_digest:016x}"),
            "a copy is made"
        );
        self.propose(match state.asks_for_digests() {
            true => Change::CaughtUpEqual {
                partition,
                term,
                primary_incarnation,
                node,
                incarnation,
                syncing_since,
                source_digest,
                target_digest,
                sent_keys: sent.keys,
                sent_bytes: sent.bytes,
            },
            false => {
                Change::CaughtUp { partition, term, primary_incarnation, node, incarnation, syncing_since }
            }
        });
        self.wait_until(COMMIT_TIMEOUT, || !self.is_due(partition, term, node, syncing_since)).await;
    }

    /// Waits until `done`, at most `timeout`.
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

    /// After a failover: reconciles with the other in-sync replicas, then serves. Before that it takes what those in
    /// `tails` received and it lost.
    pub(super) fn spawn_recovery(self: &Arc<Self>, partition: Partition, term: Term, tails: Vec<NodeId>) {
        let plane = Arc::clone(self);
        self.host.spawn(async move {
            if !tails.is_empty() {
                plane.take_tails(partition, term, &tails).await;
            }
            let mut reconciled: Vec<NodeId> = Vec::new();
            while plane.is_receiving(partition) {
                tokio::time::sleep(RECEIVING_PAUSE).await;
            }
            loop {
                let next = plane.with_primary(partition, term, |primary| {
                    let next = primary.followers.iter().find(|f| f.in_sync && !reconciled.contains(&f.node));
                    if next.is_none() && primary.phase == Phase::Recovering {
                        primary.phase = Phase::Serving;
                    }
                    next.map(|follower| follower.node)
                });
                let Some(Some(node)) = next else { break };
                match plane.catch_up(partition, term, node, &mut Sent::default()).await {
                    Ok(_) => reconciled.push(node),
                    Err(CopyError::TooMuch) => {
                        plane.give_up_in_sync(partition, term, node);
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                    Err(error) => {
                        tracing::debug!(partition, %node, %error, "not reconciled yet; trying again");
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

    /// Begins a transfer between this primary and a follower.
    pub(super) fn transfer(
        self: &Arc<Self>,
        partition: Partition,
        term: Term,
        node: NodeId,
    ) -> Result<Transfer, CopyError> {
        // What this sends late, after it was given up and the partition declared clean, is void.
        let session = self.next_session();
        let assigned = self.with_primary(partition, term, |p| p.follower(node).map(|f| f.assigned)).flatten();
        Ok(Transfer { partition, term, node, assigned: assigned.ok_or(CopyError::Void)?, session })
    }

    pub(super) async fn compare_digests(
        self: &Arc<Self>,
        partition: Partition,
        term: Term,
        node: NodeId,
    ) -> Result<Compared, CopyError> {
        // Both sides are asked under the lock: the frame takes its place in the order of the writes.
        let asked = self.with_primary(partition, term, |primary| {
            let last = primary.last();
            let follower = primary.follower(node).filter(|follower| !follower.broken)?.clone();
            let mine = primary.digest_after(last, || self.engine.partition_stats(partition).digest);
            let frame = ReplicationFrame::digest(self.position(partition, term, &follower, last));
            Some((mine, self.peers.call(node, Class::Replication, frame), follower.session))
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
            Ok(None) => return Err(CopyError::Refused("it named no digest".into())),
            Err(rejection) => {
                self.reopen(partition, term, node, session, rejection);
                return Err(CopyError::Refused(format!("{rejection:?}")));
            }
        };
        let mine = await_digest(mine).await?;
        tracing::trace!(partition, %node, mine, theirs, "compared digests");
        Ok(Compared { mine, theirs })
    }

    /// A session the replica does not accept is opened anew.
    fn reopen(
        self: &Arc<Self>,
        partition: Partition,
        term: Term,
        node: NodeId,
        session: u64,
        rejection: Rejection,
    ) {
        if rejection != Rejection::Gap {
            return;
        }
        self.with_primary(partition, term, |primary| {
            if primary.follower(node).is_some_and(|follower| follower.session == session) {
                self.open_session(partition, primary, node);
            }
        });
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
        if self.with_primary(partition, term, |p| p.follower(node).is_some_and(|f| f.in_sync)) == Some(true) {
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

    /// Position, version and whether it is a tombstone, of all records the replica has.
    pub(super) async fn inventory_of(&self, transfer: Transfer) -> Result<Vec<(u64, u64, bool)>, CopyError> {
        match self.bulk(transfer, BulkAction::Inventory).await? {
            BulkAnswer::Inventory(entries) => Ok(entries),
            other => Err(unexpected(&other)),
        }
    }

    /// The keys of the replica's records at these positions.
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

    /// The keys of this node's own records at these positions.
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
                // As a plan's figures count them, so that the two can be compared.
                bytes += record.stored_bytes() as usize;
                batch.push(WireRecord::from(record));
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
        batch: Vec<WireRecord>,
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

    /// Whether this copy belongs to a plan that is paused. A node that returns, or that a failure made a copy
    /// necessary on, is not held up.
    fn is_paused(&self, partition: Partition, node: NodeId) -> bool {
        let state = self.state();
        let Some(plan) = state.plan.as_ref().filter(|_| state.operations.paused) else {
            return false;
        };
        let replica = state.partition(partition).and_then(|placed| placed.replica(node));
        let planned = state.ring.replicas(partition).contains(&node);
        planned && replica.is_some_and(|replica| replica.is_new_since(plan.epoch))
    }

    /// Bytes a second that all copying from this node may use at present.
    pub fn pace_bytes_per_s(&self) -> u64 {
        self.state().operations.throttle_bytes_per_s.unwrap_or(self.limits.migration_bytes_per_s)
    }

    /// Waits until so many bytes may be sent, by the pace of copying and by the budget of all background work. Paid in small parts, so that a new pace or a pause is heeded at once.
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

    /// Orders this node's own state of a key again, under its own term.
    fn supersede(self: &Arc<Self>, partition: Partition, term: Term, key: Bytes) -> Result<(), CopyError> {
        let done = self.with_primary(partition, term, |primary| {
            // The partition is being given away: what is ordered now would come after its settlement.
            if primary.phase == Phase::Stopped {
                return Err(CopyError::Void);
            }
            let record = self.newest_state(primary, &key)?;
            self.order(partition, primary, record, None);
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
            .map_err(|error| CopyError::Refused(format!("its answer cannot be read: {error}")))
    }
}

/// The kind of a copy as a task, and its cause in words.
fn why_copied(state: &ClusterState, replica: &Replica) -> (&'static str, String) {
    if let Some(stand_in) = replica.stand_in {
        return ("rebuild", format!("node {} is away", stand_in.of.short()));
    }
    match &state.plan {
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
        _ => CopyError::Refused("an answer to another question".into()),
    }
}

/// The keys of the records at these positions, one record read at a time.
pub(super) fn keys_at(
    engine: &Engine,
    partition: Partition,
    positions: &[u64],
) -> Result<Vec<Bytes>, ReadError> {
    let mut keys = Vec::with_capacity(positions.len());
    for position in positions {
        let records = engine.read_positions(partition, &[*position])?;
        // Copied, so that no value is kept in memory for its key.
        keys.extend(records.iter().map(|record| Bytes::copy_from_slice(&record.key)));
    }
    Ok(keys)
}

/// Compares two lists that ascend by position. `theirs` holds position, version and whether it is a tombstone.
/// What was published before `theirs` was asked for has versions up to `settled`, and is in `mine`, unless it is superseded.
/// Where the replica has a newer record than that, it is left alone: it is under way.
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
    fn what_the_replica_lacks_is_sent_and_what_only_it_has_is_superseded() {
        let (v1, v2, v9) = (version(1, 1), version(1, 2), version(1, 9));
        let mine = [mine(1, v1), mine(2, v2), mine(4, v1)];
        let theirs = [(2, v1, false), (3, v9, false), (4, v9, false), (5, v9, true)];
        let differences = compare(&mine, &theirs, version(2, 0));
        assert_eq!(differences.send, vec![1, 2]);
        assert_eq!(differences.supersede, vec![4]);
        assert_eq!(differences.supersede_unknown, vec![3]);
    }

    #[test]
    fn records_that_are_not_published_yet_are_under_way_and_left_alone() {
        let theirs = [(1, version(2, 7), false), (2, version(2, 8), false)];
        let differences = compare(&[mine(1, version(1, 1))], &theirs, version(2, 6));
        assert_eq!(differences, Differences::default());
    }

    #[test]
    fn a_published_record_that_the_primary_has_no_more_was_deleted_and_is_superseded() {
        let differences = compare(&[], &[(1, version(2, 7), false)], version(2, 7));
        assert_eq!(differences.supersede_unknown, vec![1]);
    }

    #[test]
    fn equal_copies_do_not_differ() {
        let theirs = [(1, 5, false), (2, 6, false)];
        assert_eq!(compare(&[mine(1, 5), mine(2, 6)], &theirs, version(1, 0)), Differences::default());
    }
}
