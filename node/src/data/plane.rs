//! The partitions of one node, each behind its own lock, and the machinery they share.
//!
//! Completions (durable appends, acknowledgements) may arrive on any thread, also on the one that holds the
//! partition's lock. They go through the cell's inbox, which whoever holds the lock empties before and after
//! unlocking: no completion waits for another lock, none is lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use caskade_engine::{AppendError, Appended, Engine, PARTITIONS, Record};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use super::message::{Answer, Position, ReplicationFrame, read_replication_answer, replication_answer};
use super::primary::{Phase, Primary};
use super::replica::{Rejection, ReplicaLog};
use super::tasks::TaskBoard;
use super::version::version;
use crate::clock::monotonic_ms;
use crate::cluster::state::{Change, ClusterState, ReplicaRole};
use crate::id::{NodeId, Partition, Term};
use crate::kv::{Failure, Outcome};
use crate::net::{CallError, Class, Network, Responder, wire};

/// Pause before an append is made again that the disk had no room for.
const OVERLOAD_PAUSE: Duration = Duration::from_millis(5);
/// How long a replica that was taken out is left alone before it is taken back.
const RESUME_PAUSE_MS: u64 = 5_000;

/// Bounds and times of the data plane.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a request waits for a primary, in milliseconds.
    pub request_timeout_ms: u64,
    /// How long a write waits for a replica before the replica is taken out (rule R8), in milliseconds.
    pub replica_timeout_ms: u64,
    /// Pending writes of one partition; more are refused.
    pub pending_max: usize,
    /// Requests that may wait for a primary at once; more are refused.
    pub waiting_max: usize,
    /// Bytes of keys and values of all pending writes and waiting requests together; more are refused.
    pub bytes_under_way_max: u64,
    /// Bytes a second all copying of partitions from this node may use.
    pub migration_bytes_per_s: u64,
}

/// Where the data plane's proposals go: whoever brings them to the coordinator. One that finds the queue full
/// is dropped; what it stands for is proposed again while it is still due.
pub type Proposals = mpsc::Sender<Change>;

/// What the data plane is made from.
pub struct Parts {
    /// This node.
    pub node: NodeId,
    /// Its store.
    pub engine: Engine,
    /// Its peers.
    pub network: Network,
    /// Takes its proposals.
    pub proposals: Proposals,
    /// Bounds.
    pub limits: Limits,
}

/// A committed state, and what of it every request needs.
pub(super) struct View {
    pub(super) state: Arc<ClusterState>,
    /// The live primary of each partition.
    pub(super) primaries: Vec<Option<NodeId>>,
}

/// Who waits for the outcome of an operation.
pub(super) enum Reply {
    /// A client's connection on this node.
    Local(oneshot::Sender<Result<Outcome, Failure>>),
    /// Another node, on behalf of its client.
    Remote(Responder),
}

impl Reply {
    pub(super) fn send(self, result: Result<Outcome, Failure>) {
        match self {
            // A client that went away is not told.
            Self::Local(sender) => drop(sender.send(result)),
            Self::Remote(responder) => {
                let answer = match result {
                    Ok(outcome) => Answer::Outcome(outcome.into()),
                    Err(failure) => Answer::Failed(failure),
                };
                responder.send(wire::encode(&answer).into());
            }
        }
    }
}

/// An answer that may be given once a record is published (rule R6).
pub(super) struct Waiter {
    pub(super) result: Result<Outcome, Failure>,
    pub(super) reply: Reply,
}

pub(super) type PrimaryState = Primary<Appended, Waiter>;
pub(super) type ReplicaState = ReplicaLog<Responder>;

/// What this node is to a partition.
pub(super) enum Role {
    /// Nothing, since this moment of the monotonic clock: its data may go.
    Idle { since_ms: u64 },
    /// A copy that gets nothing at present, and is kept for its return.
    Away,
    /// A copy that follows.
    Replica(ReplicaState),
    /// The one that orders.
    Primary(PrimaryState),
}

/// Something that was under way and has ended.
enum Completion {
    Appended {
        term: Term,
        sequence: u64,
        result: Result<Appended, AppendError>,
    },
    Acked {
        term: Term,
        node: NodeId,
        session: u64,
        sequence: u64,
        result: Result<(), Rejection>,
    },
    Received {
        term: Term,
        session: u64,
        sequence: u64,
        result: Result<Appended, AppendError>,
        reply: Responder,
    },
}

/// One partition.
struct Cell {
    role: Mutex<Role>,
    inbox: Mutex<Vec<Completion>>,
    /// Records taken from a primary whose appends have not ended.
    receiving: AtomicUsize,
}

/// The data plane of one node.
pub struct Plane {
    pub(super) node: NodeId,
    pub(super) engine: Engine,
    pub(super) network: Network,
    pub(super) limits: Limits,
    pub(super) view: ArcSwap<View>,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) tasks: TaskBoard,
    pub(super) waiting: AtomicUsize,
    /// Bytes of keys and values of all operations under way here: pending writes and waiting requests.
    pub(super) bytes_under_way: AtomicU64,
    proposals: Proposals,
    cells: Vec<Cell>,
    lease_until_ms: AtomicU64,
    sessions: AtomicU64,
    store_failed: AtomicBool,
    /// Since when replicas of partitions this node is primary of have been away while their nodes are up.
    away_since: Mutex<HashMap<(Partition, NodeId), u64>>,
    /// Counts what may let a waiting request go on.
    progress: watch::Sender<u64>,
}

impl Plane {
    /// A data plane that holds no role yet. Must be called within the runtime that will drive it.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            node,
            engine,
            network,
            proposals,
            limits,
        } = parts;
        let cell = || Cell {
            role: Mutex::new(Role::Idle {
                since_ms: monotonic_ms(),
            }),
            inbox: Mutex::default(),
            receiving: AtomicUsize::new(0),
        };
        let view = View {
            state: Arc::default(),
            primaries: vec![None; usize::from(PARTITIONS)],
        };
        Arc::new(Self {
            node,
            engine,
            network,
            limits,
            view: ArcSwap::from_pointee(view),
            runtime: tokio::runtime::Handle::current(),
            tasks: TaskBoard::default(),
            waiting: AtomicUsize::new(0),
            bytes_under_way: AtomicU64::new(0),
            proposals,
            cells: (0..PARTITIONS).map(|_| cell()).collect(),
            lease_until_ms: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            store_failed: AtomicBool::new(false),
            away_since: Mutex::default(),
            progress: watch::Sender::new(0),
        })
    }

    /// The committed state this node acts on.
    pub fn state(&self) -> Arc<ClusterState> {
        self.view.load().state.clone()
    }

    /// The store.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// This node serves its partitions until that moment of the monotonic clock.
    pub fn extend_lease(&self, until_ms: u64) {
        self.lease_until_ms.fetch_max(until_ms, Ordering::AcqRel);
        self.note_progress();
    }

    /// This node serves nothing until it is granted a new lease.
    pub fn end_lease(&self) {
        self.lease_until_ms.store(0, Ordering::Release);
    }

    /// Whether this node may answer as a primary now.
    pub fn has_lease(&self) -> bool {
        monotonic_ms() < self.lease_until_ms.load(Ordering::Acquire)
    }

    /// Whether the store refused a write: the node must not stay in any in-sync set (rule R8).
    pub fn store_failed(&self) -> bool {
        self.store_failed.load(Ordering::Acquire)
    }

    pub(super) fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn propose(&self, change: Change) {
        if let Err(error) = self.proposals.try_send(change) {
            tracing::debug!(%error, "a proposal was not queued; it is made again while it is due");
        }
    }

    pub(super) fn note_progress(&self) {
        self.progress.send_modify(|count| *count += 1);
    }

    pub(super) fn watch_progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// Runs `f` under the partition's lock, then whatever completed meanwhile.
    pub(super) fn with_role<T>(self: &Arc<Self>, partition: Partition, f: impl FnOnce(&mut Role) -> T) -> T {
        let cell = &self.cells[usize::from(partition)];
        let result = {
            let mut role = cell.role.lock();
            let result = f(&mut role);
            self.drain(partition, cell, &mut role);
            result
        };
        self.drain_if_free(partition);
        result
    }

    /// Runs `f` if this node is the partition's primary of this term.
    pub(super) fn with_primary<T>(
        self: &Arc<Self>,
        partition: Partition,
        term: Term,
        f: impl FnOnce(&mut PrimaryState) -> T,
    ) -> Option<T> {
        self.with_role(partition, |role| match role {
            Role::Primary(primary) if primary.term == term => Some(f(primary)),
            _ => None,
        })
    }

    fn complete(self: &Arc<Self>, partition: Partition, completion: Completion) {
        self.cells[usize::from(partition)].inbox.lock().push(completion);
        self.drain_if_free(partition);
    }

    fn drain_if_free(self: &Arc<Self>, partition: Partition) {
        let cell = &self.cells[usize::from(partition)];
        while !cell.inbox.lock().is_empty() {
            // Whoever holds the lock looks into the inbox after unlocking.
            let Some(mut role) = cell.role.try_lock() else {
                return;
            };
            self.drain(partition, cell, &mut role);
        }
    }

    fn drain(self: &Arc<Self>, partition: Partition, cell: &Cell, role: &mut Role) {
        loop {
            let completions = std::mem::take(&mut *cell.inbox.lock());
            if completions.is_empty() {
                return;
            }
            for completion in completions {
                self.on_completion(partition, role, completion);
            }
            self.publish_ready(partition, role);
        }
    }

    fn on_completion(self: &Arc<Self>, partition: Partition, role: &mut Role, completion: Completion) {
        match (completion, role) {
            (
                Completion::Appended {
                    term,
                    sequence,
                    result,
                },
                Role::Primary(primary),
            ) if primary.term == term => match result {
                Ok(appended) => primary.appended(sequence, appended),
                Err(AppendError::Overloaded { .. }) => self.append_later(partition, term, sequence),
                Err(error) => self.on_append_error(partition, &error),
            },
            (
                Completion::Acked {
                    term,
                    node,
                    session,
                    sequence,
                    result,
                },
                Role::Primary(primary),
            ) if primary.term == term => match result {
                Ok(()) => primary.acked(node, session, sequence),
                Err(rejection) => self.on_rejection(partition, primary, node, session, rejection),
            },
            (
                Completion::Received {
                    term,
                    session,
                    sequence,
                    result,
                    reply,
                },
                role,
            ) => {
                self.cells[usize::from(partition)]
                    .receiving
                    .fetch_sub(1, Ordering::AcqRel);
                self.on_received(partition, role, (term, session, sequence), result, reply);
            }
            // The role changed meanwhile: what its former life had under way is void.
            _ => {}
        }
    }

    /// An append that a busy disk had no room for is made again: the record has its place in the order.
    fn append_later(self: &Arc<Self>, partition: Partition, term: Term, sequence: u64) {
        let plane = Arc::clone(self);
        self.runtime.spawn(async move {
            tokio::time::sleep(OVERLOAD_PAUSE).await;
            let record = plane.with_primary(partition, term, |primary| primary.record(sequence).cloned());
            if let Some(Some(record)) = record {
                plane.append_ordered(partition, term, sequence, record);
            }
        });
    }

    fn on_append_error(&self, partition: Partition, error: &AppendError) {
        match error {
            AppendError::Io(_)
            | AppendError::Poisoned(_)
            | AppendError::Closed
            | AppendError::ErasUsedUp(_) => {}
            AppendError::Overloaded { .. } => {
                return tracing::debug!(partition, %error, "the disk is busy");
            }
            AppendError::TooLarge { .. } => {
                return tracing::warn!(partition, %error, "a peer sent a record that is too large here: \
                    max_value_bytes must be the same on all nodes");
            }
        }
        if !self.store_failed.swap(true, Ordering::AcqRel) {
            tracing::error!(partition, %error, "the store refused a write: this node gives up its partitions; \
                what was acknowledged is on the other copies. Mend the disk, then restart the node");
        }
        self.end_lease();
    }

    fn on_received(
        self: &Arc<Self>,
        partition: Partition,
        role: &mut Role,
        (term, session, sequence): (Term, u64, u64),
        result: Result<Appended, AppendError>,
        reply: Responder,
    ) {
        let log = match role {
            Role::Replica(log) if log.term == term => Some(log),
            _ => None,
        };
        let appended = match result {
            Ok(appended) => appended,
            Err(error) => {
                self.on_append_error(partition, &error);
                if let Some(log) = log {
                    log.failed(session);
                }
                return reply.send(replication_answer(Err(Rejection::Failed)));
            }
        };
        // Whatever the role is now, the record is in the log: the map of highest versions takes it.
        self.engine.publish(appended);
        // Under another term the sender is no longer the primary: an acknowledgement would let it answer its
        // client for a write that the present one may not have seen.
        let Some(log) = log else {
            return reply.send(replication_answer(Err(Rejection::Stale)));
        };
        reply.send(replication_answer(Ok(None)));
        for waiter in log.stored(session, sequence) {
            let digest = self.engine.partition_stats(partition).digest;
            waiter.send(replication_answer(Ok(Some(digest))));
        }
    }

    /// Publishes, in order, every record that is durable on all copies.
    pub(super) fn publish_ready(&self, partition: Partition, role: &mut Role) {
        let Role::Primary(primary) = role else { return };
        while let Some(pending) = primary.next_published() {
            self.bytes_under_way
                .fetch_sub(record_bytes(&pending.record), Ordering::AcqRel);
            if let Some(appended) = pending.appended {
                self.engine.publish(appended);
            }
            primary.answer_digests(|| self.engine.partition_stats(partition).digest);
            for waiter in pending.waiters {
                waiter.reply.send(waiter.result);
            }
        }
    }

    /// Gives a record the next place in the order, appends it here and sends it to every follower.
    pub(super) fn order(
        self: &Arc<Self>,
        partition: Partition,
        primary: &mut PrimaryState,
        mut record: Record,
        waiter: Option<Waiter>,
    ) {
        let (term, sequence) = (primary.term, primary.last() + 1);
        record.version = version(term, sequence);
        self.bytes_under_way
            .fetch_add(record_bytes(&record), Ordering::AcqRel);
        primary.push(record.clone(), monotonic_ms(), waiter);
        for follower in primary.followers.iter().filter(|follower| !follower.broken) {
            self.send_record(
                partition,
                term,
                (follower.node, follower.session),
                sequence - 1,
                &record,
            );
        }
        self.append_ordered(partition, term, sequence, record);
    }

    fn append_ordered(self: &Arc<Self>, partition: Partition, term: Term, sequence: u64, record: Record) {
        let plane = Arc::clone(self);
        self.engine.append(vec![record], move |result| {
            plane.complete(
                partition,
                Completion::Appended {
                    term,
                    sequence,
                    result,
                },
            );
        });
    }

    /// Takes a record from the primary: appends it, and answers once it is durable and published.
    pub(super) fn store_replicated(
        self: &Arc<Self>,
        position: Position,
        sequence: u64,
        record: Record,
        reply: Responder,
    ) {
        let (plane, partition) = (Arc::clone(self), position.partition);
        let (term, session) = (position.term, position.session);
        self.cells[usize::from(partition)]
            .receiving
            .fetch_add(1, Ordering::AcqRel);
        self.engine.append(vec![record], move |result| {
            plane.complete(
                partition,
                Completion::Received {
                    term,
                    session,
                    sequence,
                    result,
                    reply,
                },
            );
        });
    }

    /// Whether records taken from a primary, possibly of an earlier term, are still on their way to the disk.
    pub(super) fn is_receiving(&self, partition: Partition) -> bool {
        self.cells[usize::from(partition)]
            .receiving
            .load(Ordering::Acquire)
            > 0
    }

    pub(super) fn position(&self, partition: Partition, term: Term, session: u64, previous: u64) -> Position {
        Position {
            partition,
            term,
            epoch: self.view.load().state.epoch,
            session,
            previous,
        }
    }

    fn send_record(
        self: &Arc<Self>,
        partition: Partition,
        term: Term,
        (node, session): (NodeId, u64),
        previous: u64,
        record: &Record,
    ) {
        let sequence = previous + 1;
        let position = self.position(partition, term, session, previous);
        let frame = ReplicationFrame::replicate(position, sequence, record);
        let plane = Arc::clone(self);
        self.network
            .call_with(node, Class::Replication, frame, move |answer| {
                let result = match answer {
                    Ok(body) => read_replication_answer(body).map(|_| ()),
                    Err(CallError::NotSent(_) | CallError::Lost(_)) => Err(Rejection::Gap),
                };
                plane.complete(
                    partition,
                    Completion::Acked {
                        term,
                        node,
                        session,
                        sequence,
                        result,
                    },
                );
            });
    }

    /// Opens a new session to a follower and sends it everything it has not acknowledged.
    pub(super) fn open_session(
        self: &Arc<Self>,
        partition: Partition,
        primary: &mut PrimaryState,
        node: NodeId,
    ) {
        let (term, session) = (primary.term, self.next_session());
        let Some(follower) = primary.follower(node) else {
            return;
        };
        (follower.session, follower.broken) = (session, false);
        let acked = follower.acked;
        for (sequence, record) in primary.unacked(acked) {
            self.send_record(partition, term, (node, session), sequence - 1, record);
        }
    }

    fn on_rejection(
        self: &Arc<Self>,
        partition: Partition,
        primary: &mut PrimaryState,
        node: NodeId,
        session: u64,
        rejection: Rejection,
    ) {
        let term = primary.term;
        let Some(follower) = primary.follower(node) else {
            return;
        };
        if follower.session != session || follower.broken {
            return;
        }
        follower.broken = true;
        // A replica that is behind needs the time of one log entry; a stale primary waits for its own news.
        let delay_ms = if rejection == Rejection::Behind { 3 } else { 50 };
        let plane = Arc::clone(self);
        self.runtime.spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(delay_ms)).await;
            plane.with_primary(partition, term, |primary| {
                if primary
                    .follower(node)
                    .is_some_and(|f| f.session == session && f.broken)
                {
                    plane.open_session(partition, primary, node);
                }
            });
        });
    }

    /// Ends a role: everything that waited on it is told that its outcome is unknown.
    pub(super) fn retire(&self, role: &mut Role) {
        let Role::Primary(primary) = role else { return };
        let abandoned = primary.abandon();
        let bytes: u64 = abandoned
            .iter()
            .map(|pending| record_bytes(&pending.record))
            .sum();
        self.bytes_under_way.fetch_sub(bytes, Ordering::AcqRel);
        for waiter in abandoned.into_iter().flat_map(|pending| pending.waiters) {
            waiter.reply.send(Err(Failure::Unknown(
                "the partition's primary changed before every copy had acknowledged: it may or may not \
                 have been done; read the key to know"
                    .into(),
            )));
        }
    }

    /// Drops the data of partitions this node has had no part in for `grace_ms`.
    pub fn drop_released(self: &Arc<Self>, grace_ms: u64) {
        let now = monotonic_ms();
        let idle_long = |role: &Role| matches!(role, Role::Idle { since_ms } if now >= since_ms + grace_ms);
        let mut held = HashMap::new();
        for partition in 0..PARTITIONS {
            let role = self.cells[usize::from(partition)].role.lock();
            let stats = self.engine.partition_stats(partition);
            if idle_long(&role) && stats.live_keys + stats.tombstones > 0 {
                held.insert(partition, role);
            }
        }
        let partitions: Vec<Partition> = held.keys().copied().collect();
        if !partitions.is_empty() {
            match self.engine.drop_partitions(&partitions) {
                Ok(()) => tracing::info!(
                    count = partitions.len(),
                    "dropped the data of released partitions"
                ),
                Err(error) => {
                    tracing::warn!(%error, "could not drop released partitions; trying again later")
                }
            }
        }
        drop(held);
        for partition in partitions {
            self.drain_if_free(partition);
        }
    }

    /// Suspends replicas that have kept a write waiting for too long (rule R8).
    pub fn suspend_slow_replicas(self: &Arc<Self>) {
        let (now, state) = (monotonic_ms(), self.state());
        let Some(incarnation) = state
            .members
            .get(&self.node)
            .map(|member| member.announcement.incarnation)
        else {
            return;
        };
        for partition in 0..PARTITIONS {
            self.with_role(partition, |role| {
                let Role::Primary(primary) = role else { return };
                let Some(oldest_ms) = primary.oldest_pending_ms() else {
                    return;
                };
                if now < oldest_ms + self.limits.replica_timeout_ms {
                    return;
                }
                let (due, term) = (primary.published() + 1, primary.term);
                for follower in primary.followers.iter().filter(|follower| follower.acked < due) {
                    self.propose(Change::SuspendReplica {
                        partition,
                        term,
                        primary_incarnation: incarnation,
                        node: follower.node,
                        incarnation: follower.incarnation,
                        syncing_since: follower.syncing_since,
                    });
                }
            });
        }
    }

    /// Takes replicas back that were taken out for being slow, some time after, while their nodes are up.
    pub fn resume_replicas(self: &Arc<Self>) {
        let (now, state) = (monotonic_ms(), self.state());
        let mut away_since = self.away_since.lock();
        let mut seen = HashMap::new();
        for (partition, entry) in state.partitions() {
            if entry.primary() != Some(self.node) {
                continue;
            }
            let away = entry
                .replicas
                .iter()
                .filter(|replica| replica.role == ReplicaRole::Away);
            for replica in away.filter(|replica| state.is_up(replica.node)) {
                let Some(member) = state.member(replica.node) else {
                    continue;
                };
                let since = away_since.get(&(partition, replica.node)).copied().unwrap_or(now);
                seen.insert((partition, replica.node), since);
                if now >= since + RESUME_PAUSE_MS {
                    self.propose(Change::ResumeReplica {
                        partition,
                        node: replica.node,
                        incarnation: member.announcement.incarnation,
                        syncing_since: replica.syncing_since,
                    });
                }
            }
        }
        *away_since = seen;
    }

    /// The phase of a partition this node is primary of, and its digest and keys if it holds a copy.
    pub fn copy_of(self: &Arc<Self>, partition: Partition) -> Option<(&'static str, u64, u64)> {
        let role = self.with_role(partition, |role| match role {
            Role::Idle { .. } => None,
            Role::Away => Some("away"),
            Role::Replica(_) => Some("replica"),
            Role::Primary(primary) if primary.phase == Phase::Serving => Some("primary"),
            Role::Primary(_) => Some("primary-not-serving"),
        })?;
        let stats = self.engine.partition_stats(partition);
        Some((role, stats.live_keys, stats.digest))
    }

    /// What this node copies at present.
    pub fn report_tasks(&self) -> Vec<crate::api::Task> {
        self.tasks.report(self.node)
    }
}

/// What a record counts for in the bound on bytes under way.
pub(super) fn record_bytes(record: &Record) -> u64 {
    (record.key.len() + record.value.as_ref().map_or(0, Bytes::len)) as u64
}
