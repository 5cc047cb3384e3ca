//! The steps of a write in its partition: ordering, append here and on the followers, publication.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use caskade_engine::replicated::Appended;
use caskade_engine::{AppendError, Record};

use super::message::Position;
use super::plane::{Completion, Plane, PrimaryState, Role, Waiter};
use super::replica::Rejection;
use super::version::version;
use crate::cluster::events::Severity;

use crate::id::{Partition, Term};
use crate::mutation::{Mutation, planted};
use crate::net::Responder;

/// Upper bound of the [`batch_bytes`] of all records of one write: below the limits of a frame and of the
/// log.
pub(super) const BATCH_BYTES_MAX: u64 = 48 << 20;
/// Upper bound of a record's header in a frame or a data file, bytes.
const BATCH_RECORD_OVERHEAD: u64 = 64;
/// Pause before an append is retried that the overloaded log rejected.
pub(super) const OVERLOAD_PAUSE: Duration = Duration::from_millis(5);

impl Plane {
    /// Orders a record as the partition's next write: appends it here and sends it to every follower.
    pub(super) fn order(
        self: &Arc<Self>,
        partition: Partition,
        primary: &mut PrimaryState,
        record: Record,
        waiter: Option<Waiter>,
    ) {
        self.order_batch(partition, primary, vec![record], waiter);
    }

    /// Orders several records of one partition as one write, with consecutive versions. On every copy they
    /// are one frame and one engine batch: they are appended, published and recovered after a crash together
    /// or not at all (rule R14).
    ///
    /// The caller passes at least one record and each key once. Several records must have at most
    /// [`BATCH_BYTES_MAX`] of [`batch_bytes`], and their sequences must not exceed the maximum.
    pub(super) fn order_batch(
        self: &Arc<Self>,
        partition: Partition,
        primary: &mut PrimaryState,
        mut records: Vec<Record>,
        waiter: Option<Waiter>,
    ) {
        if planted(Mutation::SplitBatch)
            && records.len() > 1
            && let Some(last) = records.pop()
        {
            self.order_batch(partition, primary, records, None);
            return self.order(partition, primary, last, waiter);
        }
        let (term, previous) = (primary.term, primary.last());
        for (record, sequence) in records.iter_mut().zip(previous + 1..) {
            record.version = version(term, sequence);
        }
        let sequence = previous + records.len() as u64;
        let bytes = records_bytes(&records);
        self.in_flight_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.note_appending(bytes);
        primary.push(records.clone(), self.host.monotonic_ms(), waiter);
        for follower in primary.followers.iter().filter(|follower| !follower.broken) {
            self.send_write(partition, term, follower, previous, &records);
        }
        self.append_ordered(partition, term, sequence, records);
    }

    fn append_ordered(
        self: &Arc<Self>,
        partition: Partition,
        term: Term,
        sequence: u64,
        records: Vec<Record>,
    ) {
        let plane = Arc::clone(self);
        self.engine.append(records, move |result| {
            plane.complete(partition, Completion::Appended { term, sequence, result });
        });
    }

    /// Retries an append that failed because the disk is overloaded or full: the write already has its place
    /// in the order.
    pub(super) fn append_later(
        self: &Arc<Self>,
        partition: Partition,
        term: Term,
        sequence: u64,
        pause: Duration,
    ) {
        let plane = Arc::clone(self);
        self.host.spawn(async move {
            tokio::time::sleep(pause).await;
            let records = plane.with_primary(partition, term, |primary| {
                primary.append_again(sequence).map(<[Record]>::to_vec)
            });
            if let Some(Some(records)) = records {
                plane.append_ordered(partition, term, sequence, records);
            }
        });
    }

    pub(super) fn on_append_error(&self, partition: Partition, error: &AppendError) {
        match error {
            AppendError::NoSpace(_) => return self.note_no_space(partition, error),
            AppendError::Io(_)
            | AppendError::Poisoned(_)
            | AppendError::Closed
            | AppendError::ErasUsedUp(_)
            | AppendError::VersionsUsedUp => {}
            AppendError::Overloaded { .. } => {
                return tracing::debug!(partition, %error, "the log is overloaded; the append is retried");
            }
            AppendError::TooLarge { .. } => {
                return tracing::warn!(partition, %error, "rejected a record of a peer: it is too large here; \
                    nothing was written; set max_value_bytes to the same value on all nodes");
            }
        }
        if !self.store_failed.swap(true, Ordering::AcqRel) {
            tracing::error!(partition, %error, "the store failed a write: this node gives up its partitions; \
                acknowledged writes are on the other copies; repair the disk, then restart the node");
        }
        self.end_lease();
    }

    /// Publishes, in order, every write that is durable on all copies, and sends the answers that waited for
    /// it.
    pub(super) fn publish_ready(&self, partition: Partition, role: &mut Role) {
        let Role::Primary(primary) = role else { return };
        while let Some(pending) = primary.next_published() {
            self.in_flight_bytes.fetch_sub(records_bytes(&pending.records), Ordering::AcqRel);
            if let Some(appended) = pending.appended {
                self.engine.publish(appended);
            }
            primary.answer_digests(|| self.engine.partition_stats(partition).digest);
            for waiter in pending.waiters {
                waiter.reply.send(waiter.result);
            }
        }
    }

    /// Appends a write of the primary, and acknowledges it once it is durable and published.
    pub(super) fn store_replicated(
        self: &Arc<Self>,
        position: Position,
        sequence: u64,
        records: Vec<Record>,
        reply: Responder,
    ) {
        let (plane, partition) = (Arc::clone(self), position.partition);
        let (term, session) = (position.term, position.session);
        self.cells[usize::from(partition)].receiving.fetch_add(1, Ordering::AcqRel);
        self.note_appending(records_bytes(&records));
        self.engine.append(records, move |result| {
            plane.complete(partition, Completion::Received { term, session, sequence, result, reply });
        });
    }

    /// Returns whether a primary sent a record whose version this node holds with other content (rule R1): a
    /// version was then given twice. Reports it to the operator; the caller must not acknowledge the records.
    pub(super) fn contradicts(&self, records: &[Record]) -> bool {
        let Some(conflict) = self.engine.find_conflict(records) else { return false };
        let message = format!(
            "two records have the same version: {conflict} on node {}, and the partition's primary sent \
             another record with this version. This copy rejects it, so the primary will suspend this \
             replica. Please report this; to repair it, restart one of the two nodes with an empty data \
             directory",
            self.node.short()
        );
        self.report(Severity::Error, self.node, message);
        true
    }

    /// Returns whether appends of records received from a primary, possibly of an earlier term, are pending.
    pub(super) fn is_receiving(&self, partition: Partition) -> bool {
        self.cells[usize::from(partition)].receiving.load(Ordering::Acquire) > 0 || self.is_storing(partition)
    }

    /// Returns whether appends of a transfer's records are pending.
    pub(super) fn is_storing(&self, partition: Partition) -> bool {
        self.cells[usize::from(partition)].storing.load(Ordering::Acquire) > 0
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
                    log.failed(session, sequence);
                }
                let no_room = matches!(error, AppendError::NoSpace(_));
                let rejection = if no_room { Rejection::NoRoom } else { Rejection::Failed };
                return reply.send(self.replication_answer(Err(rejection)));
            }
        };
        // The record is in the log, so it is published in any role: the keydir keeps the highest version.
        self.engine.publish(appended);
        // Under another term the sender is no longer the primary. With an acknowledgement it could answer its
        // client for a write that the present primary may not have.
        let Some(log) = log else {
            let taken = if planted(Mutation::NoFencing) { Ok(None) } else { Err(Rejection::Stale) };
            return reply.send(self.replication_answer(taken));
        };
        let digest_waiters = match log.stored(session, sequence) {
            Ok(digest_waiters) => digest_waiters,
            Err(rejection) => return reply.send(self.replication_answer(Err(rejection))),
        };
        reply.send(self.replication_answer(Ok(None)));
        for waiter in digest_waiters {
            let digest = self.engine.partition_stats(partition).digest;
            waiter.send(self.replication_answer(Ok(Some(digest))));
        }
    }
}

/// Returns the bytes that records count for in the limit of bytes in flight.
pub(super) fn records_bytes(records: &[Record]) -> u64 {
    records.iter().map(|record| (record.key.len() + record.value.as_ref().map_or(0, Bytes::len)) as u64).sum()
}

/// Returns the bytes that a record counts for in [`BATCH_BYTES_MAX`]: key, value and overhead.
pub(super) fn batch_bytes(record: &Record) -> u64 {
    records_bytes(std::slice::from_ref(record)) + BATCH_RECORD_OVERHEAD
}
