//! The partitions of one node, each behind its own lock, and the state they share.
//!
//! Completions (durable appends, acknowledgements) may arrive on any thread, even on the one that holds the
//! partition's lock. They are put into the cell's inbox. The thread that holds the lock empties the inbox
//! before and after it unlocks. So no completion waits for another lock, and none is lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use caskade_engine::AppendError;
use caskade_engine::options::Budget;
use caskade_engine::replicated::{Appended, Store};
use caskade_engine::slots::PARTITIONS;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use super::assignments::Assignments;
use super::cluster_time;
use super::damage::{Damage, DamageFound};
use super::forwards::Forwards;
use super::heal::HealCounters;
use super::message::Answer;
use super::missing::Missing;
use super::notices::Notices;
use super::rejoin::Rejoins;
use super::space::Disks;
use super::tail::Tails;
use super::tasks::TaskBoard;
use crate::cluster::state::{Change, ClusterState};
use crate::cluster::time::ClusterClock;
use crate::disk::{DiskState, Mark};
use crate::host::Host;
use crate::id::{Incarnation, NodeId, Partition, Term};
use crate::kv::{Failure, Outcome};
use crate::mutation::{Mutation, planted};
use crate::net::{Peers, Refusals, Responder, wire};
use crate::partition::{AppendFailure, Primary, PrimaryEvent, Rejection, ReplicaLog};

/// Sessions and transfers that one primary can number.
const SESSIONS_PER_PRIMARY: u64 = 1 << 32;

/// Limits of pending writes, waiting requests, background rates and free disk space.
#[derive(Clone, Copy, Debug)]
pub struct DataLimits {
    /// Time that a request waits for a primary, in milliseconds.
    pub request_timeout_ms: u64,
    /// Time that a write waits for a replica before the primary proposes to suspend it (rule R8), in
    /// milliseconds.
    pub replica_timeout_ms: u64,
    /// Pending writes of one partition; further ones are refused.
    pub pending_max: usize,
    /// Requests that wait for a primary at once; further ones are refused.
    pub waiting_max: usize,
    /// Bytes of keys and values of all pending writes and waiting requests; further ones are refused.
    pub in_flight_bytes_max: u64,
    /// Maximum length of a value that a command computes from the present one, bytes.
    pub value_bytes_max: u64,
    /// Rate of all copies of partitions from this node, bytes per second.
    pub migration_bytes_per_s: u64,
    /// Rate at which complete data files are verified, bytes per second; 0: never.
    pub scrub_bytes_per_s: u64,
    /// Interval in which each partition's copies are compared once, in milliseconds.
    pub repair_interval_ms: u64,
    /// Free space of the data directory below which the node warns.
    pub disk_low: Mark,
    /// Free space of the data directory below which the node refuses writes that add data.
    pub disk_minimum: Mark,
}

/// Queues of the data plane's proposals to the coordinator. A proposal that finds its queue full is dropped,
/// and made again while it is due.
pub struct Proposals {
    /// Queue of the proposals that a caller waits for.
    pub urgent: mpsc::Sender<Change>,
    /// Queue of the others ([`Change::can_wait`]), so that they never delay urgent ones.
    pub patient: mpsc::Sender<Change>,
}

/// Dependencies of the data plane.
pub struct Parts {
    /// This node.
    pub node: NodeId,
    /// Its store.
    pub engine: Store,
    /// Damage that was found when the store was opened; `None` if there is none.
    pub damage: Option<DamageFound>,
    /// Sends calls to other nodes.
    pub peers: Peers,
    /// Queues of proposals to the coordinator.
    pub proposals: Proposals,
    /// Limits of pending writes, waiting requests, background rates and free disk space.
    pub limits: DataLimits,
    /// Clocks and task starter.
    pub host: Host,
}

/// A committed state, with the parts that every request needs.
pub(super) struct View {
    pub(super) state: Arc<ClusterState>,
    /// Incarnation under which this node holds its roles; `None`: it holds no role.
    pub(super) takes_part: Option<Incarnation>,
    /// The live primary of each partition.
    pub(super) primaries: Vec<Option<NodeId>>,
}

/// Receiver of an operation's outcome.
pub(super) enum Reply {
    /// A client's connection on this node.
    Local(oneshot::Sender<Result<Outcome, Failure>>),
    /// Another node, for a client of it.
    Remote(Responder),
}

impl Reply {
    pub(super) fn send(self, result: Result<Outcome, Failure>) {
        match self {
            // The send fails if the client has disconnected.
            Self::Local(sender) => drop(sender.send(result)),
            Self::Remote(responder) => {
                let answer = match result {
                    Ok(outcome) => Answer::Outcome(outcome),
                    Err(failure) => Answer::Failed(failure),
                };
                responder.send(wire::encode(&answer).into());
            }
        }
    }
}

/// An answer that must wait until a record is published (rule R6).
pub(super) struct Waiter {
    pub(super) result: Result<Outcome, Failure>,
    pub(super) reply: Reply,
}

pub(super) type PrimaryState = Primary<Appended, Waiter, oneshot::Sender<u64>>;
pub(super) type ReplicaState = ReplicaLog<Appended, Responder>;

/// Role of this node for a partition.
pub(super) enum Role {
    /// No replica, since this reading of the monotonic clock: its data may be dropped.
    Idle { since_ms: u64 },
    /// A replica that is away: it receives nothing, and keeps its data for its return.
    Away,
    /// A replica that follows the primary.
    Replica(ReplicaState),
    /// The primary, which orders the writes.
    Primary(PrimaryState),
}

/// End of an append or of a call to a follower.
pub(super) enum Completion {
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
        /// State of the follower's disk, if its answer has it.
        disk: Option<DiskState>,
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
pub(super) struct Cell {
    pub(super) role: Mutex<Role>,
    inbox: Mutex<Vec<Completion>>,
    /// Replication frames whose appends are pending.
    pub(super) receiving: AtomicUsize,
    /// Bulk messages whose appends are pending.
    pub(super) storing: AtomicUsize,
}

/// A lease as it was at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    /// Its end by this node's monotonic clock; it may have been extended since.
    until_ms: u64,
    /// Number of leases that had been ended early.
    ended: u64,
}

/// Guard of a partition's lock. If a panic drops it, the node ends, because the partition's state may be
/// inconsistent.
struct Held<'a> {
    host: &'a Host,
    partition: Partition,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let part = format!("partition {}", self.partition);
            self.host.supervisor().report(&part, "a panic under its lock".to_owned());
        }
    }
}

/// The data plane of one node.
pub struct Plane {
    pub(super) node: NodeId,
    pub(super) engine: Store,
    pub(super) peers: Peers,
    pub(super) refusals: Arc<Refusals>,
    pub(super) limits: DataLimits,
    pub(super) view: ArcSwap<View>,
    pub(super) host: Host,
    pub(super) tasks: TaskBoard,
    /// Rate budget shared by all background work of this node, including merges.
    pub(super) background: Budget,
    /// Free disk space of this node and of other nodes.
    pub(super) disks: Disks,
    pub(super) notices: Notices,
    pub(super) healing: HealCounters,
    pub(super) damage: Damage,
    /// Damaged records that no copy that answers has whole.
    pub(super) missing: Missing,
    /// Counts of merged records of an older generation.
    pub(super) merging: Rejoins,
    /// Text for clients and the operator: the reason why this node has had no lease for a while, and the
    /// remedy.
    pub(super) no_lease_reason: Mutex<Option<String>>,
    pub(super) tails: Tails,
    /// Requests that wait for another node's answer.
    pub(super) forwards: Forwards,
    /// Number of requests that wait for a primary.
    pub(super) waiting: AtomicUsize,
    /// Keys that this node, as their primary, found expired.
    pub(super) expired_keys: AtomicU64,
    /// Bytes of keys and values of all operations in flight here: pending writes and waiting requests.
    pub(super) in_flight_bytes: AtomicU64,
    proposals: Proposals,
    pub(super) assignments: Assignments,
    pub(super) cells: Vec<Cell>,
    lease_until_ms: AtomicU64,
    /// Number of calls of [`Plane::end_lease`].
    leases_ended: AtomicU64,
    /// Whether this process has given up leases for good: it ignores further grants.
    lease_given_up: AtomicBool,
    pub(super) cluster_clock: Mutex<ClusterClock>,
    /// Session numbers given to primaries of this node, a range each.
    sessions: AtomicU64,
    pub(super) store_failed: AtomicBool,
    /// Replicas that are away although their nodes are up, of partitions this node is primary of, with the
    /// time since when.
    pub(super) away_since: Mutex<HashMap<(Partition, NodeId), u64>>,
    /// Counter of events that may let a waiting request proceed.
    progress: watch::Sender<u64>,
}

impl Plane {
    /// Creates a data plane that holds no role yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { node, engine, damage, peers, proposals, limits, host } = parts;
        let now_ms = host.monotonic_ms();
        let cell = || Cell {
            role: Mutex::new(Role::Idle { since_ms: now_ms }),
            inbox: Mutex::default(),
            receiving: AtomicUsize::new(0),
            storing: AtomicUsize::new(0),
        };
        let view =
            View { state: Arc::default(), takes_part: None, primaries: vec![None; usize::from(PARTITIONS)] };
        let plane = Arc::new(Self {
            node,
            damage: Damage::load(&engine, damage.clone()),
            missing: Missing::default(),
            tails: Tails::default(),
            assignments: Assignments::load(&engine),
            cluster_clock: cluster_time::restore(&engine, &host),
            background: engine.budget().whole().clone(),
            engine,
            refusals: peers.refusals(),
            peers,
            limits,
            view: ArcSwap::from_pointee(view),
            host,
            tasks: TaskBoard::default(),
            disks: Disks::default(),
            notices: Notices::default(),
            healing: HealCounters::default(),
            merging: Rejoins::default(),
            no_lease_reason: Mutex::default(),
            forwards: Forwards::default(),
            waiting: AtomicUsize::new(0),
            expired_keys: AtomicU64::new(0),
            in_flight_bytes: AtomicU64::new(0),
            proposals,
            cells: (0..PARTITIONS).map(|_| cell()).collect(),
            lease_until_ms: AtomicU64::new(0),
            leases_ended: AtomicU64::new(0),
            lease_given_up: AtomicBool::new(false),
            sessions: AtomicU64::new(0),
            store_failed: AtomicBool::new(false),
            away_since: Mutex::default(),
            progress: watch::Sender::new(0),
        });
        if let Some(found) = damage {
            plane.report_damage(&found.message);
        }
        plane
    }

    /// Returns the committed state that this node has applied.
    pub fn state(&self) -> Arc<ClusterState> {
        self.view.load().state.clone()
    }

    /// Returns the store.
    pub fn engine(&self) -> &Store {
        &self.engine
    }

    /// Extends the lease until that reading of the monotonic clock.
    pub fn extend_lease(&self, until_ms: u64) {
        self.lease_until_ms.fetch_max(until_ms, Ordering::AcqRel);
        self.note_progress();
    }

    /// Ends the lease: this node serves no partition until it is granted a new one.
    pub fn end_lease(&self) {
        self.leases_ended.fetch_add(1, Ordering::AcqRel);
        self.lease_until_ms.store(0, Ordering::Release);
    }

    /// Gives up leases for good: this node serves no partition any more, even if it is granted a lease. Takes
    /// no lock.
    pub fn give_up_lease(&self) {
        self.lease_given_up.store(true, Ordering::Release);
        self.end_lease();
    }

    /// Returns whether this node may answer as a primary now.
    pub fn has_lease(&self) -> bool {
        self.lease().is_some()
    }

    /// Returns the lease that this node holds now.
    pub(super) fn lease(&self) -> Option<Lease> {
        let ended = self.leases_ended.load(Ordering::Acquire);
        // Read before the clock: a lease granted in between would not cover that reading.
        let until_ms = self.lease_until_ms.load(Ordering::Acquire);
        let held = self.host.monotonic_ms() < until_ms || planted(Mutation::NoLease);
        let given_up = self.lease_given_up.load(Ordering::Acquire);
        (held && !given_up).then_some(Lease { until_ms, ended })
    }

    /// Returns whether a lease that [`Plane::lease`] returned was held without a gap until now.
    pub(super) fn held_until_now(&self, lease: Lease) -> bool {
        let in_time = self.host.monotonic_ms() < lease.until_ms || planted(Mutation::NoLease);
        in_time && self.leases_ended.load(Ordering::Acquire) == lease.ended
    }

    /// Returns whether the store failed a write: the node must not stay in any in-sync set (rule R8).
    pub fn store_failed(&self) -> bool {
        self.store_failed.load(Ordering::Acquire)
    }

    /// Returns the bytes of pending writes and waiting requests, and the number of waiting requests.
    pub fn under_way(&self) -> (u64, usize) {
        (self.in_flight_bytes.load(Ordering::Acquire), self.waiting.load(Ordering::Acquire))
    }

    /// Returns the limits.
    pub fn limits(&self) -> &DataLimits {
        &self.limits
    }

    /// Returns the number below the first session of a new primary. Each primary has a range of its own,
    /// above those of all earlier ones: a replica then never takes a session for an older one.
    pub(super) fn session_range(&self) -> u64 {
        self.sessions.fetch_add(SESSIONS_PER_PRIMARY, Ordering::Relaxed)
    }

    pub(super) fn propose(&self, change: Change) {
        let Proposals { urgent, patient } = &self.proposals;
        let queue = if change.can_wait() { patient } else { urgent };
        if let Err(error) = queue.try_send(change) {
            tracing::debug!(%error, "dropped a proposal: its queue is full; it is repeated while it is due");
        }
    }

    pub(super) fn note_progress(&self) {
        self.progress.send_modify(|count| *count += 1);
    }

    pub(super) fn watch_progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// Runs `f` under the partition's lock, then handles the completions that arrived meanwhile.
    pub(super) fn with_role<T>(self: &Arc<Self>, partition: Partition, f: impl FnOnce(&mut Role) -> T) -> T {
        let cell = &self.cells[usize::from(partition)];
        let result = {
            let mut role = cell.role.lock();
            let _held = Held { host: &self.host, partition };
            let result = f(&mut role);
            self.perform(partition, &mut role);
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
            Role::Primary(primary) if primary.term() == term => Some(f(primary)),
            _ => None,
        })
    }

    pub(super) fn complete(self: &Arc<Self>, partition: Partition, completion: Completion) {
        self.cells[usize::from(partition)].inbox.lock().push(completion);
        self.drain_if_free(partition);
    }

    pub(super) fn drain_if_free(self: &Arc<Self>, partition: Partition) {
        let cell = &self.cells[usize::from(partition)];
        while !cell.inbox.lock().is_empty() {
            // The thread that holds the lock checks the inbox again after it unlocks.
            let Some(mut role) = cell.role.try_lock() else {
                return;
            };
            let _held = Held { host: &self.host, partition };
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
            self.perform(partition, role);
        }
    }

    fn on_completion(self: &Arc<Self>, partition: Partition, role: &mut Role, completion: Completion) {
        match (completion, role) {
            (Completion::Appended { term, sequence, result }, Role::Primary(primary))
                if primary.term() == term =>
            {
                self.on_append_end(partition, primary, sequence, result);
            }
            (Completion::Acked { term, node, session, sequence, result, disk }, role) => {
                if let Some(disk) = disk {
                    self.note_disk(node, disk);
                }
                let Role::Primary(primary) = role else { return };
                if primary.term() != term {
                    return;
                }
                primary.on_event(match result {
                    Ok(()) => PrimaryEvent::Acknowledged { node, session, sequence },
                    Err(rejection) => {
                        let now_ms = self.host.monotonic_ms();
                        PrimaryEvent::Rejected { node, session, rejection, now_ms }
                    }
                });
            }
            (Completion::Received { term, session, sequence, result, reply }, role) => {
                self.cells[usize::from(partition)].receiving.fetch_sub(1, Ordering::AcqRel);
                self.on_received(partition, role, (term, session, sequence), result, reply);
            }
            // The role changed meanwhile: completions of the former role are void.
            _ => {}
        }
    }

    fn on_append_end(
        &self,
        partition: Partition,
        primary: &mut PrimaryState,
        sequence: u64,
        result: Result<Appended, AppendError>,
    ) {
        let failure = match result {
            Ok(append) => return primary.on_event(PrimaryEvent::Appended { sequence, append }),
            Err(AppendError::Overloaded { .. }) => AppendFailure::Overloaded,
            Err(error @ AppendError::NoSpace(_)) => {
                self.note_no_space(partition, &error);
                AppendFailure::NoSpace
            }
            Err(error) => return self.on_append_error(partition, &error),
        };
        let now_ms = self.host.monotonic_ms();
        primary.on_event(PrimaryEvent::AppendFailed { sequence, failure, now_ms });
    }
}
