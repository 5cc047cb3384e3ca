//! Replication sessions: a primary's frames to each follower, and its reaction to a rejection.

use std::sync::Arc;
use std::time::Duration;

use caskade_engine::Record;

use super::message::{Position, ReplicationFrame, read_replication_answer};
use super::plane::{Completion, Plane, PrimaryState};
use super::primary::Follower;
use super::replica::Rejection;
use crate::id::{NodeId, Partition, Term};
use crate::net::{CallError, Class};

impl Plane {
    /// Returns the position of a frame to a follower, in its present session.
    pub(super) fn position(
        &self,
        partition: Partition,
        term: Term,
        follower: &Follower,
        previous: u64,
    ) -> Position {
        let Follower { assigned, session, begins, .. } = *follower;
        let epoch = self.view.load().state.epoch;
        Position { partition, term, epoch, assigned, session, begins, previous }
    }

    pub(super) fn send_write(
        self: &Arc<Self>,
        partition: Partition,
        term: Term,
        follower: &Follower,
        previous: u64,
        records: &[Record],
    ) {
        let sequence = previous + records.len() as u64;
        let (node, session) = (follower.node, follower.session);
        let position = self.position(partition, term, follower, previous);
        let frame = ReplicationFrame::replicate(position, records);
        let plane = Arc::clone(self);
        self.peers.call_with(node, Class::Replication, frame, move |answer| {
            let (result, disk) = match answer {
                Ok(body) => read_replication_answer(body),
                Err(CallError::NotSent(_) | CallError::Lost(_)) => (Err(Rejection::Gap), None),
            };
            let result = result.map(|_| ());
            plane.complete(partition, Completion::Acked { term, node, session, sequence, result, disk });
        });
    }

    /// Opens a new session to a follower and sends it all pending writes that it has not acknowledged.
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
        (follower.session, follower.begins, follower.broken) = (session, follower.acked, false);
        let follower = follower.clone();
        primary.note_sent();
        for (sequence, records) in primary.unacked(follower.acked) {
            let previous = sequence - records.len() as u64;
            self.send_write(partition, term, &follower, previous, records);
        }
    }

    pub(super) fn on_rejection(
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
        if rejection == Rejection::NoRoom {
            self.suspend_full_replica(partition, primary, node);
        }
        // A replica that is behind applies the missing log entry within milliseconds. A stale primary waits
        // for the committed state that ends its term.
        let delay_ms = match rejection {
            Rejection::Behind => 3,
            Rejection::NoRoom => 250,
            _ => 50,
        };
        let plane = Arc::clone(self);
        self.host.spawn(async move {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            plane.with_primary(partition, term, |primary| {
                if primary.follower(node).is_some_and(|f| f.session == session && f.broken) {
                    plane.open_session(partition, primary, node);
                }
            });
        });
    }
}
