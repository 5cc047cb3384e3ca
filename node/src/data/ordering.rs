//! A record's way through a partition: ordered, appended here and on the followers, published.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use caskade_engine::{AppendError, Appended, Record};

use super::message::{Position, replication_answer};
use super::plane::{Completion, Plane, PrimaryState, Role, Waiter};
use super::replica::Rejection;
use super::version::version;
use crate::id::{Partition, Term};
use crate::net::Responder;

/// Pause before an append is made again that the disk had no room for.
const OVERLOAD_PAUSE: Duration = Duration::from_millis(5);

impl Plane {
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
        self.bytes_under_way.fetch_add(record_bytes(&record), Ordering::AcqRel);
        primary.push(record.clone(), self.host.monotonic_ms(), waiter);
        for follower in primary.followers.iter().filter(|follower| !follower.broken) {
            self.send_record(partition, term, (follower.node, follower.session), sequence - 1, &record);
        }
        self.append_ordered(partition, term, sequence, record);
    }

    fn append_ordered(self: &Arc<Self>, partition: Partition, term: Term, sequence: u64, record: Record) {
        let plane = Arc::clone(self);
        self.engine.append(vec![record], move |result| {
            plane.complete(partition, Completion::Appended { term, sequence, result });
        });
    }

    /// An append that a busy disk had no room for is made again: the record has its place in the order.
    pub(super) fn append_later(self: &Arc<Self>, partition: Partition, term: Term, sequence: u64) {
        let plane = Arc::clone(self);
        self.host.spawn(async move {
            tokio::time::sleep(OVERLOAD_PAUSE).await;
            let record = plane.with_primary(partition, term, |primary| primary.record(sequence).cloned());
            if let Some(Some(record)) = record {
                plane.append_ordered(partition, term, sequence, record);
            }
        });
    }

    pub(super) fn on_append_error(&self, partition: Partition, error: &AppendError) {
        match error {
            AppendError::Io(_)
            | AppendError::Poisoned(_)
            | AppendError::Closed
            | AppendError::ErasUsedUp(_)
            | AppendError::VersionsUsedUp => {}
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

    /// Publishes, in order, every record that is durable on all copies.
    pub(super) fn publish_ready(&self, partition: Partition, role: &mut Role) {
        let Role::Primary(primary) = role else { return };
        while let Some(pending) = primary.next_published() {
            self.bytes_under_way.fetch_sub(record_bytes(&pending.record), Ordering::AcqRel);
            if let Some(appended) = pending.appended {
                self.engine.publish(appended);
            }
            primary.answer_digests(|| self.engine.partition_stats(partition).digest);
            for waiter in pending.waiters {
                waiter.reply.send(waiter.result);
            }
        }
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
        self.cells[usize::from(partition)].receiving.fetch_add(1, Ordering::AcqRel);
        self.engine.append(vec![record], move |result| {
            plane.complete(partition, Completion::Received { term, session, sequence, result, reply });
        });
    }

    /// Whether records taken from a primary, possibly of an earlier term, are still on their way to the disk.
    pub(super) fn is_receiving(&self, partition: Partition) -> bool {
        self.cells[usize::from(partition)].receiving.load(Ordering::Acquire) > 0
    }

    pub(super) fn on_received(
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
}

/// What a record counts for in the bound on bytes under way.
pub(super) fn record_bytes(record: &Record) -> u64 {
    (record.key.len() + record.value.as_ref().map_or(0, Bytes::len)) as u64
}
