//! The steps of a write on a follower: append, publication, acknowledgement. Failed appends of every role.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use caskade_engine::replicated::Appended;
use caskade_engine::{AppendError, Record};

use super::message::Position;
use super::plane::{Completion, Plane, Role};
use crate::cluster::events::Severity;
use crate::id::{Partition, Term};
use crate::mutation::{Mutation, planted};
use crate::net::Responder;
use crate::partition::{Rejection, records_bytes};

/// Upper bound of the [`batch_bytes`] of all records of one write: below the limits of a frame and of the
/// log.
pub(super) const BATCH_BYTES_MAX: u64 = 48 << 20;
/// Upper bound of a record's header in a frame or a data file, bytes.
const BATCH_RECORD_OVERHEAD: u64 = 64;

impl Plane {
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

/// Returns the bytes that a record counts for in [`BATCH_BYTES_MAX`]: key, value and overhead.
pub(super) fn batch_bytes(record: &Record) -> u64 {
    records_bytes(std::slice::from_ref(record)) + BATCH_RECORD_OVERHEAD
}
