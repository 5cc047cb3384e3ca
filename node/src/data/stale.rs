//! Reads without a lease (rule R11): only for connections that allow stale answers, and only from a copy that
//! is in-sync by the last committed state this node received.

use std::sync::Arc;

use caskade_engine::slots::partition_of;

use super::plane::Plane;
use super::route::{damaged, entry};
use crate::kv::{Action, At, Failure, Operation, Outcome, Ticket, evaluate};

impl Plane {
    /// Starts an operation like [`Plane::submit`], but answers reads from this node's own copy while it has
    /// no lease.
    pub fn submit_stale(self: &Arc<Self>, operation: Operation) -> Ticket {
        let of_one_key = !matches!(operation.action, Action::Transaction(_));
        if self.has_lease() || operation.action.writes() || !of_one_key {
            return self.submit(operation);
        }
        Ticket::Ready(self.read_stale(&operation))
    }

    fn read_stale(&self, operation: &Operation) -> Result<Outcome, Failure> {
        let Operation { key, action } = operation;
        let partition = partition_of(key);
        if !self.state().partition(partition).is_some_and(|entry| entry.is_in_sync(self.node)) {
            return Err(Failure::Refused(format!(
                "node {} has no lease, and had no complete copy of partition {partition} when it last \
                 received a committed state, so it cannot answer even a stale read; nothing was changed; ask \
                 another node{}",
                self.node.short(),
                self.no_lease_reason()
            )));
        }
        let found = self.engine.read(key).map_err(|error| damaged(&error))?;
        if !self.damage.proves(partition, found.as_ref().map(|record| record.version)) {
            return Err(self.lost(partition));
        }
        let now_ms = self.cluster_ms();
        let live = found.and_then(entry).filter(|entry| entry.expiry_ms == 0 || entry.expiry_ms > now_ms);
        let at = At { now_ms, version: 0, value_bytes_max: 0 };
        let (_, outcome) = evaluate(action, live.as_ref(), &at).map_err(Failure::Action)?;
        Ok(outcome)
    }

    /// Sets the reason why this node has no lease, for errors and the status; `None`: it has one.
    pub fn set_no_lease_reason(&self, no_lease_reason: Option<String>) {
        *self.no_lease_reason.lock() = no_lease_reason;
    }

    /// Returns a sentence to append to an error; empty if no reason is set.
    pub(super) fn no_lease_reason(&self) -> String {
        self.no_lease_reason
            .lock()
            .as_ref()
            .map(|no_lease_reason| format!(". {no_lease_reason}"))
            .unwrap_or_default()
    }
}
