//! Performs the actions of a partition's role, in their order and under the partition's lock.
//!
//! So sequences, frames on each link and appends of a partition have one order. Ends of appends and calls
//! enter the partition's inbox, because they may arrive on the thread that performs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::message::{Position, ReplicationFrame, read_replication_answer};
use super::plane::{Completion, Plane, PrimaryState, Role, Waiter};
use crate::cluster::state::{Change, PrimaryRef, ReplicaRef};
use crate::id::{NodeId, Partition, Term};
use crate::kv::Failure;
use crate::net::{CallError, Class};
use crate::partition::{Place, PrimaryAction, PrimaryEvent, Rejection, Writes};

impl Plane {
    /// Performs the actions that the role has put into its list.
    pub(super) fn perform(self: &Arc<Self>, partition: Partition, role: &mut Role) {
        match role {
            Role::Primary(primary) => self.perform_of_primary(partition, primary),
            Role::Replica(log) => self.perform_of_replica(partition, log),
            Role::Idle { .. } | Role::Away => {}
        }
    }

    fn perform_of_primary(self: &Arc<Self>, partition: Partition, primary: &mut PrimaryState) {
        let mut actions = primary.take_actions();
        for action in actions.drain(..) {
            match action {
                PrimaryAction::Ordered { bytes } => {
                    self.in_flight_bytes.fetch_add(bytes, Ordering::AcqRel);
                    self.note_appending(bytes);
                }
                PrimaryAction::Released { bytes } => {
                    self.in_flight_bytes.fetch_sub(bytes, Ordering::AcqRel);
                }
                PrimaryAction::Append(writes) => self.append(partition, primary, writes),
                PrimaryAction::Send { to, place, writes } => self.send(partition, primary, to, place, writes),
                PrimaryAction::Publish(appended) => self.engine.publish(appended),
                PrimaryAction::Answer(Waiter { result, reply }) => reply.send(result),
                PrimaryAction::Abandon(waiter) => waiter.reply.send(Err(role_lost())),
                PrimaryAction::Refuse(waiter) => waiter.reply.send(Err(self.refused_for_room(self.node))),
                // The receiver is gone if its comparison timed out.
                PrimaryAction::Digest(waiter) => {
                    let _ = waiter.send(self.engine.partition_stats(partition).digest);
                }
                PrimaryAction::Suspend(name) => self.propose_suspension(partition, primary.term(), name),
                PrimaryAction::MarkClean { up_to } => self.engine.mark_clean(partition, up_to),
                PrimaryAction::SendMark { to, place, up_to, transfers_from } => {
                    self.send_mark(partition, primary.term(), (to, place), up_to, transfers_from);
                }
                PrimaryAction::Wake { at_ms } => self.wake(partition, primary.term(), at_ms),
            }
        }
        primary.reuse(actions);
    }

    /// Returns the position of a frame, by the committed state that this node has applied.
    pub(super) fn position(&self, partition: Partition, term: Term, place: Place) -> Position {
        let Place { assigned, session, begins, previous } = place;
        let epoch = self.view.load().state.epoch;
        Position { partition, term, epoch, assigned, session, begins, previous }
    }

    fn append(self: &Arc<Self>, partition: Partition, primary: &PrimaryState, writes: Writes) {
        let term = primary.term();
        for (sequence, records) in primary.pending(writes) {
            let plane = Arc::clone(self);
            self.engine.append(records.to_vec(), move |result| {
                plane.complete(partition, Completion::Appended { term, sequence, result });
            });
        }
    }

    fn send(
        self: &Arc<Self>,
        partition: Partition,
        primary: &PrimaryState,
        node: NodeId,
        place: Place,
        writes: Writes,
    ) {
        let (term, session) = (primary.term(), place.session);
        for (sequence, records) in primary.pending(writes) {
            let previous = sequence - records.len() as u64;
            let position = self.position(partition, term, Place { previous, ..place });
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
    }

    fn send_mark(
        self: &Arc<Self>,
        partition: Partition,
        term: Term,
        (node, place): (NodeId, Place),
        up_to: u64,
        transfers_from: u64,
    ) {
        let frame = ReplicationFrame::clean(self.position(partition, term, place), up_to, transfers_from);
        let (plane, session) = (Arc::clone(self), place.session);
        self.peers.call_with(node, Class::Replication, frame, move |answer| {
            // If the follower rejects the mark, the next round sends it again.
            if answer.is_ok_and(|body| read_replication_answer(body).0.is_ok()) {
                plane.with_primary(partition, term, |primary| {
                    primary.on_event(PrimaryEvent::MarkedClean { node, session, up_to });
                });
            }
        });
    }

    /// Proposes to suspend a replica that cannot acknowledge (rule R8).
    fn propose_suspension(&self, partition: Partition, term: Term, replica: ReplicaRef) {
        let state = self.state();
        let Some(member) = state.members.get(&self.node) else { return };
        let primary = PrimaryRef { partition, term, incarnation: member.announcement.incarnation };
        self.propose(Change::SuspendReplica { primary, replica });
    }

    fn wake(self: &Arc<Self>, partition: Partition, term: Term, at_ms: u64) {
        let pause = Duration::from_millis(at_ms.saturating_sub(self.host.monotonic_ms()));
        let plane = Arc::clone(self);
        self.host.spawn(async move {
            tokio::time::sleep(pause).await;
            // The timer decides that the time is reached: the clock may run slower than it.
            let now_ms = plane.host.monotonic_ms().max(at_ms);
            plane.with_primary(partition, term, |primary| primary.on_event(PrimaryEvent::Tick { now_ms }));
        });
    }
}

/// Returns the failure of an operation whose role ended before every copy acknowledged it (rule R7).
fn role_lost() -> Failure {
    Failure::Unknown(
        "the primary of this key changed before every copy acknowledged the write; the write may or may not \
         have been applied; read the key to find out"
            .into(),
    )
}
