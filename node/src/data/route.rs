//! Routes requests to the partition's primary, which may be this node.
//!
//! A request that finds no serving primary, or whose primary does not answer, waits up to the request
//! time-out. Invariant: a write is sent again only if it never left this node, or if its primary refused it
//! explicitly before it got a version (rule R7).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use caskade_engine::scan::POSITION_STEP;
use caskade_engine::slots::{PARTITIONS, partition_of};
use caskade_engine::{ReadError, Record};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::forwards::{Sender, unanswered};
use super::message::{Answer, Request};
use super::plane::{Plane, PrimaryState, Reply, Role, Waiter};
use crate::id::{Epoch, NodeId, Partition};
use crate::kv::{Action, At, Condition, Effect, Entry, ExpiryPolicy, Failure, Operation, Outcome, evaluate};
use crate::kv::{CURSOR_MAX, ScanPage, Ticket};
use crate::mutation::{Mutation, planted};
use crate::net::{CallError, Class, wire};
use crate::partition::{Phase, SEQUENCE_MAX, version};

/// Upper bound of the bytes of an answer to a request.
const ANSWER_BYTES_MAX: usize = 80 << 20;
/// Pause before a page of keys is requested again because one of its records is damaged.
const DAMAGED_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause between two attempts of one request. The wait for progress is ten times as long.
const PAUSE_MS_MAX: u64 = 20;
/// Longest pause between progress and the next attempt.
const REST_MS_MAX: u64 = 5;
/// Minimum time that an attempt waits for an answer.
const ANSWER_MIN: Duration = Duration::from_millis(100);
/// Bits of a SCAN cursor that hold the position within a partition. With the bits of the partition they are
/// 53, the precision of a double: clients in JavaScript and PHP read cursors as doubles.
const CURSOR_PLACE_BITS: u32 = 43;
/// Low bits of a position that a cursor omits: pages end at multiples of [`POSITION_STEP`].
const CURSOR_DROPPED_BITS: u32 = POSITION_STEP.trailing_zeros();
const _: () = assert!(CURSOR_PLACE_BITS + CURSOR_DROPPED_BITS == u64::BITS);
const _: () = assert!((PARTITIONS as u64) << CURSOR_PLACE_BITS == CURSOR_MAX + 1);
/// Upper bound of the partitions that one SCAN call visits before it answers.
const SCAN_PARTITIONS_MAX: u16 = 128;

/// Immediate result of an operation at its primary.
pub(super) enum Executed {
    /// The operation is answered.
    Done(Result<Outcome, Failure>, Reply),
    /// The answer follows when the record is published.
    Ordered,
    /// The record of a key that the operation needs is damaged here: nothing was done.
    Damaged(Bytes, ReadError, Reply),
    /// This node does not serve the partition: nothing was done.
    NotPrimary(Reply),
}

impl Executed {
    /// Returns the answer at once, unless it waits for pending writes.
    pub(super) fn unless_waiting(waits: Result<(), Waiter>) -> Self {
        match waits {
            Ok(()) => Self::Ordered,
            Err(Waiter { result, reply }) => Self::Done(result, reply),
        }
    }
}

/// Reason why the state of a key is unknown.
pub(super) enum Unknown {
    /// Its record is damaged: another copy may have it.
    Damaged(ReadError),
    /// A record newer than the one found may have been lost.
    Lost,
}

/// Result of one attempt to reach the primary.
enum Attempt {
    Final(Result<Outcome, Failure>),
    /// Nothing was done: retry after this node has applied a newer state.
    Again,
    /// Nothing was done: the asked node has an older state than this one, and will apply the newer one at any
    /// moment.
    AgainSoon,
}

impl Plane {
    /// Starts an operation; never blocks.
    pub fn submit(self: &Arc<Self>, operation: Operation) -> Ticket {
        let operation = self.as_entered(operation);
        let partition = partition_of(&operation.key);
        let primary = self.view.load().primaries[usize::from(partition)];
        if let Some(node) = primary
            && node != self.node
        {
            return self.forward(node, operation);
        }
        let (sender, answer) = oneshot::channel();
        match self.execute_once(partition, &operation, Reply::Local(sender)) {
            Executed::Done(result, _) => Ticket::Ready(result),
            Executed::Ordered => Ticket::Waiting { answer, ordered: true },
            Executed::NotPrimary(Reply::Local(sender)) => {
                self.route_later(operation, sender, self.request_deadline());
                Ticket::Waiting { answer, ordered: false }
            }
            Executed::NotPrimary(Reply::Remote(_)) => Ticket::Waiting { answer, ordered: false },
            Executed::Damaged(key, _, reply) => {
                self.execute_healed(partition, operation, key, reply);
                Ticket::Waiting { answer, ordered: false }
            }
        }
    }

    /// Returns the operation as this node forwards it: relative times stay relative, since the primary adds
    /// them.
    fn as_entered(&self, operation: Operation) -> Operation {
        if !planted(Mutation::EntryNodeClock) {
            return operation;
        }
        let Operation { key, action } = operation;
        Operation { key, action: action.anchored(self.host.wall_ms()) }
    }

    /// Executes an operation if this node serves its partition. Does not restore damaged records.
    pub(super) fn execute_once(
        self: &Arc<Self>,
        partition: Partition,
        operation: &Operation,
        reply: Reply,
    ) -> Executed {
        self.with_role(partition, |role| match role {
            Role::Primary(primary)
                if primary.phase() == Phase::Serving
                    && let Some(lease) = self.lease() =>
            {
                match self.execute_as_primary(partition, primary, operation, reply) {
                    // The lease ended during the execution, for instance because the process was paused. A
                    // read may be stale, so it is routed again. A write is safe: it is answered only after
                    // all followers acknowledged it, and those of a newer term reject it.
                    Executed::Done(_, reply) if !self.held_until_now(lease) => Executed::NotPrimary(reply),
                    executed => executed,
                }
            }
            Role::Primary(_) | Role::Replica(_)
                if planted(Mutation::StaleReads) && operation.action == Action::Read =>
            {
                let found = self.engine.read(&operation.key).map(|found| found.and_then(entry));
                Executed::Done(found.map(Outcome::Entry).map_err(|error| damaged(&error)), reply)
            }
            _ => Executed::NotPrimary(reply),
        })
    }

    fn execute_as_primary(
        self: &Arc<Self>,
        partition: Partition,
        primary: &mut PrimaryState,
        operation: &Operation,
        reply: Reply,
    ) -> Executed {
        let Operation { key, action } = operation;
        if primary.pending_len() >= self.limits.pending_max {
            return Executed::Done(Err(overloaded(primary.pending_len())), reply);
        }
        if action.writes() && self.is_full() {
            return Executed::Done(Err(full()), reply);
        }
        if primary.last() >= SEQUENCE_MAX {
            // 2^40 writes in one term: any change of the primary begins a new term.
            let text = "the version numbers of this partition's term are used up; nothing was done; restart \
                        the partition's primary";
            return Executed::Done(Err(Failure::Refused(text.into())), reply);
        }
        if let Action::Transaction(transaction) = action {
            return self.execute_together(partition, primary, transaction, reply);
        }
        let (mut current, mut unpublished) = match self.current(partition, primary, key, action) {
            Ok(found) => found,
            Err(Unknown::Damaged(error)) => return Executed::Damaged(key.clone(), error, reply),
            Err(Unknown::Lost) => return Executed::Done(Err(self.lost(partition)), reply),
        };
        let at = self.at(primary);
        let is_expired = |entry: &Option<Entry>| {
            entry.as_ref().is_some_and(|entry| entry.expiry_ms != 0 && entry.expiry_ms <= at.now_ms)
        };
        if is_expired(&current)
            && let Some(pending) = primary.newest_pending(key)
        {
            // A pending write saw the key before it expired and may have extended its expiry. The key was
            // then never absent.
            (current, unpublished) = (entry(pending.clone()), true);
        }
        let expired = is_expired(&current);
        let (mut effect, outcome) = match evaluate(action, current.as_ref(), &at) {
            Ok((effect, outcome)) => (effect, Ok(outcome)),
            Err(error) => (Effect::Nothing, Err(Failure::Action(error))),
        };
        if expired && effect == Effect::Nothing && !planted(Mutation::HideExpired) {
            // Only the primary expires a key, and answers "absent" after the tombstone is published (rule
            // R13).
            effect = Effect::Remove;
        }
        if expired && effect != Effect::Nothing {
            self.expired_keys.fetch_add(1, Ordering::Relaxed);
        }
        let waiter = Waiter { result: outcome, reply };
        let record = match effect {
            Effect::Nothing => {
                let waits = if unpublished { primary.wait_for_newest(key, waiter) } else { Err(waiter) };
                return Executed::unless_waiting(waits);
            }
            effect => record(key.clone(), effect),
        };
        let expires = matches!(action, Action::Expire(..));
        if let Some(failure) = self.no_room(primary, expires, record.value.is_some()) {
            if planted(Mutation::RefuseAfterOrdering) {
                primary.order(vec![record], self.host.monotonic_ms(), None);
            }
            return Executed::Done(Err(failure), waiter.reply);
        }
        primary.order(vec![record], self.host.monotonic_ms(), Some(waiter));
        Executed::Ordered
    }

    /// Returns the time, version and length limit for the evaluation of the next operation.
    pub(super) fn at(&self, primary: &PrimaryState) -> At {
        At {
            now_ms: self.cluster_ms(),
            version: version(primary.term(), primary.last() + 1),
            value_bytes_max: self.limits.value_bytes_max,
        }
    }

    /// Returns the number of keys that this node, as their primary, found expired and removed or replaced
    /// since its start. A plain SET does not read the key, so it is not counted.
    pub fn expired_keys(&self) -> u64 {
        self.expired_keys.load(Ordering::Relaxed)
    }

    /// Returns whether the operations in flight have reached the limit of bytes.
    pub(super) fn is_full(&self) -> bool {
        self.in_flight_bytes.load(Ordering::Acquire) >= self.limits.in_flight_bytes_max
    }

    /// Returns the state of the key that the action must see, and whether that state is still unpublished.
    fn current(
        &self,
        partition: Partition,
        primary: &PrimaryState,
        key: &[u8],
        action: &Action,
    ) -> Result<(Option<Entry>, bool), Unknown> {
        if is_blind(action) {
            return Ok((None, false));
        }
        if action.writes()
            && let Some(pending) = primary.newest_pending(key)
        {
            return Ok((entry(pending.clone()), true));
        }
        Ok((self.published(partition, key)?, false))
    }

    /// Returns the published state of a key.
    pub(super) fn published(&self, partition: Partition, key: &[u8]) -> Result<Option<Entry>, Unknown> {
        let found = self.engine.read(key).map_err(Unknown::Damaged)?;
        if !self.damage.proves(partition, found.as_ref().map(|record| record.version)) {
            return Err(Unknown::Lost);
        }
        Ok(found.and_then(entry))
    }

    fn forward(self: &Arc<Self>, node: NodeId, operation: Operation) -> Ticket {
        let (sender, answer) = oneshot::channel();
        let (plane, writes) = (Arc::clone(self), operation.action.writes());
        let body = wire::encode(&Request::Execute(operation.clone())).into();
        let waiting = self.wait_for_answer(writes, sender);
        self.peers.call_with(node, Class::Requests, body, move |answer| {
            // After the time-out the request is gone from the table, and its client has got an error.
            let Some((sender, deadline)) = plane.forwards.take(waiting) else { return };
            match read_answer(answer, writes, plane.view.load().state.epoch) {
                Attempt::Final(result) => drop(sender.send(result)),
                Attempt::Again | Attempt::AgainSoon => plane.route_later(operation, sender, deadline),
            }
        });
        Ticket::Waiting { answer, ordered: false }
    }

    /// Starts a task that retries the operation until a primary serves it or the deadline passes.
    fn route_later(self: &Arc<Self>, operation: Operation, sender: Sender, deadline: Instant) {
        let Some(waiting) = self.begin_waiting(&operation) else {
            return drop(sender.send(Err(full())));
        };
        let plane = Arc::clone(self);
        self.host.spawn(async move {
            let result = plane.route_until_answered(operation, deadline).await;
            drop(waiting);
            drop(sender.send(result));
        });
    }

    /// Counts a request as waiting until the guard is dropped. Returns `None` if a limit is reached.
    pub(super) fn begin_waiting(self: &Arc<Self>, operation: &Operation) -> Option<Waiting> {
        if self.is_full() {
            return None;
        }
        let waiting = Waiting { plane: Arc::clone(self), bytes: operation_bytes(operation) };
        self.in_flight_bytes.fetch_add(waiting.bytes, Ordering::AcqRel);
        // Above the limit, dropping `waiting` undoes both counts.
        (self.waiting.fetch_add(1, Ordering::AcqRel) < self.limits.waiting_max).then_some(waiting)
    }

    /// Routes a client's request that this node does not serve; answers `NotPrimary` to a peer's.
    pub(super) fn route_elsewhere(self: &Arc<Self>, operation: Operation, reply: Reply) {
        match reply {
            Reply::Local(sender) => self.route_later(operation, sender, self.request_deadline()),
            Reply::Remote(responder) => responder.send(wire::encode(&self.not_primary()).into()),
        }
    }

    async fn route_until_answered(
        self: &Arc<Self>,
        operation: Operation,
        deadline: Instant,
    ) -> Result<Outcome, Failure> {
        let mut progress = self.watch_progress();
        let mut pause_ms = 2;
        loop {
            progress.mark_unchanged();
            if let Some(failure) = self.no_member() {
                return Err(failure);
            }
            // This node's own state advances with `progress`; another node's state advances without it.
            let (rest_ms, patience_ms) = match self.attempt(&operation, deadline).await {
                Attempt::Final(result) => return result,
                Attempt::Again => (pause_ms.min(REST_MS_MAX), 10 * pause_ms),
                Attempt::AgainSoon => (pause_ms, 0),
            };
            if Instant::now() >= deadline {
                return Err(self.no_primary(partition_of(&operation.key), self.limits.request_timeout_ms));
            }
            // Progress may concern another partition: the pause bounds the rate of useless attempts.
            tokio::time::sleep(Duration::from_millis(rest_ms)).await;
            let _ = tokio::time::timeout(Duration::from_millis(patience_ms), progress.changed()).await;
            pause_ms = (pause_ms * 2).min(PAUSE_MS_MAX);
        }
    }

    async fn attempt(self: &Arc<Self>, operation: &Operation, deadline: Instant) -> Attempt {
        let partition = partition_of(&operation.key);
        let primary = self.view.load().primaries[usize::from(partition)];
        match primary {
            None => Attempt::Again,
            Some(node) if node == self.node => {
                let (sender, answer) = oneshot::channel();
                match self.execute_once(partition, operation, Reply::Local(sender)) {
                    Executed::Done(result, _) => Attempt::Final(result),
                    Executed::Damaged(key, _, reply) => {
                        self.execute_healed(partition, operation.clone(), key, reply);
                        Attempt::Final(answer.await.unwrap_or_else(|_| Err(stopped())))
                    }
                    Executed::Ordered => Attempt::Final(answer.await.unwrap_or_else(|_| Err(stopped()))),
                    Executed::NotPrimary(_) => Attempt::Again,
                }
            }
            Some(node) => {
                let body = wire::encode(&Request::Execute(operation.clone())).into();
                let (call, writes) =
                    (self.peers.call(node, Class::Requests, body), operation.action.writes());
                // A request sent shortly before the deadline still waits `ANSWER_MIN` for its answer.
                match tokio::time::timeout_at(deadline.max(Instant::now() + ANSWER_MIN), call).await {
                    Ok(answer) => read_answer(answer, writes, self.view.load().state.epoch),
                    Err(_) => Attempt::Final(Err(unanswered(writes, self.limits.request_timeout_ms))),
                }
            }
        }
    }

    /// Returns a page of live keys in key-hash order; a cursor stays valid across failover and migration.
    ///
    /// # Errors
    /// No node serves the partition of the cursor.
    pub async fn scan(self: &Arc<Self>, cursor: u64, limit: usize) -> Result<ScanPage, Failure> {
        let (mut partition, mut from) = place_of(cursor);
        let mut keys = Vec::new();
        let last = partition.saturating_add(SCAN_PARTITIONS_MAX).min(PARTITIONS);
        while partition < last && keys.len() < limit {
            let (page, next) = self.keys_page(partition, from, limit - keys.len()).await?;
            keys.extend(page);
            (partition, from) = next.map_or((partition + 1, 0), |next| (partition, next));
        }
        let next = if partition >= PARTITIONS { 0 } else { cursor_at(partition, from) };
        Ok(ScanPage { next, keys })
    }

    /// Returns the cursors of [`Plane::scan`] for a partition: the first one, and the one after the last.
    pub fn cursors_of(partition: Partition) -> (u64, u64) {
        let begin = cursor_at(partition, 0);
        (begin, begin + (1 << CURSOR_PLACE_BITS))
    }

    async fn keys_page(
        self: &Arc<Self>,
        partition: Partition,
        from: u64,
        limit: usize,
    ) -> Result<(Vec<Bytes>, Option<u64>), Failure> {
        let deadline = Instant::now() + Duration::from_millis(self.limits.request_timeout_ms);
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        loop {
            let primary = self.view.load().primaries[usize::from(partition)];
            let answer = match primary {
                None => self.not_primary(),
                Some(node) if node == self.node => self.local_keys_page(partition, from, limit),
                Some(node) => self.ask(node, &Request::KeysPage { partition, from, limit }).await,
            };
            match answer {
                Answer::Keys { keys, next } => return Ok((keys, next)),
                // The record is being restored.
                Answer::Failed(Failure::Damaged(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(DAMAGED_PAUSE).await;
                }
                Answer::Failed(failure) => return Err(failure),
                _ if Instant::now() >= deadline => {
                    return Err(self.no_primary(partition, self.limits.request_timeout_ms));
                }
                _ if let Some(failure) = self.no_member() => return Err(failure),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Returns the number of keys of the cluster, each counted once, at its primary.
    ///
    /// # Errors
    /// A node that is up does not answer, or a partition has no live primary: the sum would be too small.
    pub async fn count(self: &Arc<Self>) -> Result<u64, Failure> {
        self.sum_of_nodes(&Request::Count, self.local_count()).await
    }

    /// Returns the number of keys that have an expiry.
    ///
    /// # Errors
    /// As [`Plane::count`].
    pub async fn count_expiring(self: &Arc<Self>) -> Result<u64, Failure> {
        self.sum_of_nodes(&Request::CountExpiring, self.local_count_expiring()).await
    }

    /// Sums the answers of all nodes that are primary of a partition; `mine` is this node's answer.
    async fn sum_of_nodes(self: &Arc<Self>, request: &Request, mine: u64) -> Result<u64, Failure> {
        let view = self.view.load_full();
        if let Some(partition) = view.primaries.iter().position(Option::is_none) {
            return Err(self.no_primary(partition as Partition, 0));
        }
        let mut nodes = view.primaries.iter().flatten().copied().collect::<Vec<_>>();
        nodes.sort_unstable();
        nodes.dedup();
        let mut total = 0;
        for node in nodes {
            let answer = if node == self.node { Answer::Count(mine) } else { self.ask(node, request).await };
            let Answer::Count(count) = answer else {
                let text =
                    format!("node {node} did not report its number of keys; nothing was changed; retry");
                return Err(Failure::Refused(text));
            };
            total += count;
        }
        Ok(total)
    }

    pub(super) fn no_primary(&self, partition: Partition, waited_ms: u64) -> Failure {
        Failure::Refused(format!(
            "no node serves partition {partition} at present (waited {waited_ms} ms); nothing was done; \
             retry; `caskctl status` shows which nodes are down{}",
            self.no_lease_reason()
        ))
    }

    pub(super) async fn ask(&self, node: NodeId, request: &Request) -> Answer {
        let call = self.peers.call(node, Class::Requests, wire::encode(request).into());
        let timeout = Duration::from_millis(self.limits.request_timeout_ms);
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(body)) => {
                wire::decode::<Answer, ANSWER_BYTES_MAX>(&body).unwrap_or_else(|_| self.not_primary())
            }
            _ => self.not_primary(),
        }
    }
}

/// Returns the partition and the position of a cursor. The partition is beyond all partitions for a cursor
/// that no scan returned.
fn place_of(cursor: u64) -> (Partition, u64) {
    let partition = Partition::try_from(cursor >> CURSOR_PLACE_BITS).unwrap_or(PARTITIONS);
    (partition, cursor << (u64::BITS - CURSOR_PLACE_BITS))
}

/// Returns the cursor of this position, a multiple of [`POSITION_STEP`].
fn cursor_at(partition: Partition, position: u64) -> u64 {
    u64::from(partition) << CURSOR_PLACE_BITS | position >> CURSOR_DROPPED_BITS
}

/// Guard that counts a waiting request and its bytes.
pub(super) struct Waiting {
    plane: Arc<Plane>,
    bytes: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.plane.waiting.fetch_sub(1, Ordering::AcqRel);
        self.plane.in_flight_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// Returns whether the outcome of an action is independent of the key's present state.
fn is_blind(action: &Action) -> bool {
    matches!(
        action,
        Action::Set { expiry: ExpiryPolicy::Clear, condition: Condition::Always, return_old: false, .. }
    )
}

/// Returns the record's entry; `None` for a tombstone.
pub(super) fn entry(record: Record) -> Option<Entry> {
    let Record { version, expiry_ms, user_flags, value, .. } = record;
    Some(Entry { value: value?, user_flags, expiry_ms, version })
}

/// Returns the record that an effect writes: a tombstone unless the effect has a value.
pub(super) fn record(key: Bytes, effect: Effect) -> Record {
    match effect {
        Effect::Write { value, user_flags, expiry_ms } => {
            Record { key, version: 0, expiry_ms, user_flags, value: Some(value) }
        }
        Effect::Nothing | Effect::Remove => {
            Record { key, version: 0, expiry_ms: 0, user_flags: 0, value: None }
        }
    }
}

/// Converts a primary's answer to a result. `epoch` is that of the state this node has applied.
fn read_answer(answer: Result<Bytes, CallError>, writes: bool, epoch: Epoch) -> Attempt {
    match answer.map(|body| wire::decode::<Answer, ANSWER_BYTES_MAX>(&body)) {
        Ok(Ok(Answer::Outcome(outcome))) => Attempt::Final(Ok(outcome)),
        Ok(Ok(Answer::Failed(failure))) => Attempt::Final(Err(failure)),
        Ok(Ok(Answer::NotPrimary { epoch: theirs })) if theirs < epoch => Attempt::AgainSoon,
        Ok(Ok(Answer::NotPrimary { .. })) | Err(CallError::NotSent(_)) => Attempt::Again,
        Err(CallError::Lost(_)) if !writes || planted(Mutation::SecondTry) => Attempt::Again,
        Err(CallError::Lost(reason)) => Attempt::Final(Err(Failure::Unknown(format!(
            "the connection to the primary of this key broke before it answered ({reason}); the write may or \
             may not have been applied; read the key to find out"
        )))),
        Ok(_) => Attempt::Final(Err(Failure::Unknown(
            "this node cannot read the answer of the primary; a write may or may not have been applied; \
             check with caskctl nodes that all nodes run compatible versions"
                .into(),
        ))),
    }
}

pub(super) fn overloaded(pending: usize) -> Failure {
    Failure::Refused(format!(
        "{pending} writes of this partition already wait for its copies; nothing was done; retry later"
    ))
}

pub(super) fn full() -> Failure {
    Failure::Refused(
        "this node has reached its limit of in-flight requests or bytes; nothing was done; retry later"
            .into(),
    )
}

/// Returns the bytes that an operation counts for in the limit of bytes in flight.
fn operation_bytes(operation: &Operation) -> u64 {
    operation.key.len() as u64 + operation.action.bytes()
}

pub(super) fn damaged(error: &ReadError) -> Failure {
    Failure::Damaged(format!("cannot read the record of this key: {error}"))
}

fn stopped() -> Failure {
    Failure::Unknown(
        "this node stopped before it answered; a write may or may not have been applied; read the key to \
         find out"
            .into(),
    )
}

#[cfg(test)]
mod tests;
