//! Performs the actions of a replica, in their order and under the partition's lock. Failed appends of every
//! role.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use caskade_engine::replicated::Appended;
use caskade_engine::{AppendError, Record};

use super::plane::{Completion, Plane, ReplicaState, Role};
use crate::cluster::events::Severity;
use crate::id::{Partition, Term};
use crate::mutation::{Mutation, planted};
use crate::net::Responder;
use crate::partition::{Appends, Rejection, ReplicaAction, ReplicaEvent, records_bytes};

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

    /// Performs the actions that a replica has put into its list.
    pub(super) fn perform_of_replica(self: &Arc<Self>, partition: Partition, log: &mut ReplicaState) {
        loop {
            let mut actions = log.take_actions();
            if actions.is_empty() {
                return log.reuse(actions);
            }
            for action in actions.drain(..) {
                self.perform_replica_action(partition, log, action);
            }
            log.reuse(actions);
        }
    }

    fn perform_replica_action(
        self: &Arc<Self>,
        partition: Partition,
        log: &mut ReplicaState,
        action: ReplicaAction<Appended, Responder>,
    ) {
        match action {
            ReplicaAction::Store { session, sequence, records, reply } if self.contradicts(&records) => {
                let rejection = Rejection::Failed;
                log.on_event(ReplicaEvent::NotStored { session, sequence, rejection, reply });
            }
            ReplicaAction::Store { session, sequence, records, reply } => {
                self.store(partition, log.term(), (session, sequence), records, reply);
            }
            ReplicaAction::Publish(appended) => self.engine.publish(appended),
            ReplicaAction::Reply(reply, result) => {
                reply.send(self.replication_answer(result.map(|()| None)));
            }
            ReplicaAction::Digest(reply) => {
                let digest = self.engine.partition_stats(partition).digest;
                reply.send(self.replication_answer(Ok(Some(digest))));
            }
            ReplicaAction::MarkClean { up_to } => self.engine.mark_clean(partition, up_to),
            ReplicaAction::NoteFenced(from) => self.count_fenced(from, Rejection::Stale),
        }
    }

    /// Appends a write of the primary; its end enters the inbox of the partition.
    pub(super) fn store(
        self: &Arc<Self>,
        partition: Partition,
        term: Term,
        (session, sequence): (u64, u64),
        records: Vec<Record>,
        reply: Responder,
    ) {
        let plane = Arc::clone(self);
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

    /// Returns the appends of records received from primaries, possibly of earlier terms, that are pending.
    pub(super) fn appends(&self, partition: Partition) -> Appends {
        let cell = &self.cells[usize::from(partition)];
        Appends {
            received: cell.receiving.load(Ordering::Acquire) > 0,
            transferred: cell.storing.load(Ordering::Acquire) > 0,
        }
    }

    /// Passes the end of an append on to the replica, or replies for a term that is over.
    pub(super) fn on_received(
        &self,
        partition: Partition,
        role: &mut Role,
        (term, session, sequence): (Term, u64, u64),
        result: Result<Appended, AppendError>,
        reply: Responder,
    ) {
        let log = match role {
            Role::Replica(log) if log.term() == term => Some(log),
            _ => None,
        };
        let result = result.map_err(|error| {
            self.on_append_error(partition, &error);
            let no_room = matches!(error, AppendError::NoSpace(_));
            if no_room { Rejection::NoRoom } else { Rejection::Failed }
        });
        match (log, result) {
            (Some(log), Ok(append)) => {
                log.on_event(ReplicaEvent::Stored { session, sequence, append, reply });
            }
            (Some(log), Err(rejection)) => {
                log.on_event(ReplicaEvent::NotStored { session, sequence, rejection, reply });
            }
            // The record is in the log, so it is published in any role: the keydir keeps the highest version.
            // Under another term the sender is no longer the primary. With an acknowledgement it could answer
            // its client for a write that the present primary may not have.
            (None, Ok(appended)) => {
                self.engine.publish(appended);
                let taken = if planted(Mutation::NoFencing) { Ok(None) } else { Err(Rejection::Stale) };
                reply.send(self.replication_answer(taken));
            }
            (None, Err(rejection)) => reply.send(self.replication_answer(Err(rejection))),
        }
    }
}

/// Returns the bytes that a record counts for in [`BATCH_BYTES_MAX`]: key, value and overhead.
pub(super) fn batch_bytes(record: &Record) -> u64 {
    records_bytes(std::slice::from_ref(record)) + BATCH_RECORD_OVERHEAD
}
