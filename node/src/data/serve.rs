//! Answers calls of peers on the data plane: requests, replication frames and bulk messages.
//!
//! Rejects calls of nodes that are not members, frames of former primaries or assignments, and bulk messages
//! of closed transfers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use caskade_engine::slots::PARTITIONS;
use caskade_engine::stats::PartitionStats;
use caskade_engine::{AppendError, Record};

use super::catch_up::{MESSAGE_BYTES, keys_at};
use super::message::{
    Answer, Bulk, BulkAction, BulkAnswer, Position, ReplicationFrame, Request, replication_answer,
};
use super::plane::{Plane, Reply, Role};
use super::route::{Executed, damaged};
use crate::id::{NodeId, Partition};
use crate::mutation::{Mutation, planted};
use crate::net::{Class, Refused, Responder, wire};
use crate::partition::{Frame, Phase, Rejection, ReplicaEvent, records_bytes};

/// Upper bound of the bytes of a request or bulk message.
const MESSAGE_BYTES_MAX: usize = 80 << 20;

impl Plane {
    /// Answers a call of a peer. The network calls it in the order of the peer's calls. It never blocks for
    /// long.
    pub fn on_call(self: &Arc<Self>, from: NodeId, class: Class, body: Bytes, reply: Responder) {
        match class {
            Class::Requests if self.is_unauthorized(from, class) => {
                // A node that was admitted just now retries.
                reply.send(wire::encode(&self.not_primary()).into());
            }
            Class::Requests => self.on_request(from, &body, reply),
            Class::Replication => self.on_replication(from, body, reply),
            Class::Bulk => self.on_bulk(from, &body, reply),
            // `runtime` answers control messages. Dropping the reply fails the peer's call.
            Class::Control => tracing::warn!(%from, "rejected a control message that reached the data plane"),
        }
    }

    fn on_request(self: &Arc<Self>, from: NodeId, body: &[u8], reply: Responder) {
        let request = wire::decode::<Request, MESSAGE_BYTES_MAX>(body);
        if let Err(error) = &request {
            self.refuse(Refused::Message, from, error);
        }
        let answer = match request {
            Ok(Request::Execute(operation)) => {
                let partition = caskade_engine::slots::partition_of(&operation.key);
                match self.execute_once(partition, &operation, Reply::Remote(reply)) {
                    Executed::Done(result, reply) => reply.send(result),
                    Executed::NotPrimary(reply) => self.route_elsewhere(operation, reply),
                    Executed::Damaged(key, _, reply) => self.execute_healed(partition, operation, key, reply),
                    Executed::Ordered => {}
                }
                return;
            }
            Ok(Request::KeysPage { partition, from, limit }) if partition < PARTITIONS => {
                self.local_keys_page(partition, from, limit)
            }
            Ok(Request::KeysInOrder { partitions, range, limit }) => {
                self.local_keys_in_order(&partitions, &range, limit)
            }
            Ok(Request::Count) => Answer::Count(self.local_count()),
            Ok(Request::CountExpiring) => Answer::Count(self.local_count_expiring()),
            Ok(Request::Figures) => Answer::Figures(self.local_figures()),
            Ok(Request::Fetch { partition, position, version }) if partition < PARTITIONS => {
                self.fetch_answer(partition, position, version)
            }
            Ok(Request::Damage { partitions }) => return self.answer_damage(partitions, reply),
            Ok(Request::RemoveDamaged { records }) => return self.answer_removal(records, reply),
            Ok(Request::KeysPage { .. } | Request::Fetch { .. }) | Err(_) => self.not_primary(),
        };
        reply.send(wire::encode(&answer).into());
    }

    pub(super) fn not_primary(&self) -> Answer {
        Answer::NotPrimary { epoch: self.view.load().state.epoch }
    }

    /// Returns whether this node serves a partition now, as its primary with a lease.
    pub fn serves(self: &Arc<Self>, partition: Partition) -> bool {
        self.has_lease() && self.with_role(partition, |role| is_serving(role))
    }

    /// Returns the partitions that this node serves now.
    pub fn serving(&self) -> Vec<Partition> {
        if !self.has_lease() {
            return Vec::new();
        }
        (0..PARTITIONS).filter(|at| is_serving(&self.cells[usize::from(*at)].role.lock())).collect()
    }

    pub(super) fn local_keys_page(self: &Arc<Self>, partition: Partition, from: u64, limit: u32) -> Answer {
        if !self.serves(partition) {
            return self.not_primary();
        }
        if self.damage.is_in(partition) {
            return Answer::Failed(self.lost(partition));
        }
        let page = match self.engine.keys_page(partition, from, limit as usize) {
            Ok(page) => page,
            Err(error) => return Answer::Failed(damaged(&error)),
        };
        let now = self.cluster_ms();
        let live = page.keys.into_iter().filter(|key| key.expiry_ms == 0 || key.expiry_ms > now);
        let keys = live.map(|key| key.key).collect();
        // The partition may have moved, and its data been dropped, during the read.
        if self.serves(partition) { Answer::Keys { keys, next: page.next } } else { self.not_primary() }
    }

    pub(super) fn local_count(self: &Arc<Self>) -> u64 {
        self.sum_of_primaries(|stats| stats.live_keys)
    }

    /// Returns the number of live keys with an expiry, of all partitions this node is primary of.
    pub(super) fn local_count_expiring(self: &Arc<Self>) -> u64 {
        self.sum_of_primaries(|stats| stats.expiring_keys)
    }

    fn sum_of_primaries(self: &Arc<Self>, figure: impl Fn(&PartitionStats) -> u64) -> u64 {
        let counted = (0..PARTITIONS)
            .filter(|partition| self.with_role(*partition, |role| matches!(role, Role::Primary(_))));
        counted.map(|partition| figure(&self.engine.partition_stats(partition))).sum()
    }

    fn on_replication(self: &Arc<Self>, from: NodeId, body: Bytes, reply: Responder) {
        let Some(frame) = ReplicationFrame::decode(body) else {
            self.refuse(Refused::Message, from, &"a replication frame");
            return reply.send(self.replication_answer(Err(Rejection::Failed)));
        };
        let position = match &frame {
            ReplicationFrame::Replicate(position, ..)
            | ReplicationFrame::Digest(position)
            | ReplicationFrame::Clean(position, ..) => *position,
        };
        if self.is_unauthorized(from, Class::Replication) {
            return reply.send(self.replication_answer(Err(self.unless_behind(&position))));
        }
        let (partition, term, place) = (position.partition, position.term, position.place());
        self.with_role(partition, |role| {
            let Role::Replica(log) = role else {
                if planted(Mutation::NoFencing)
                    && let ReplicationFrame::Replicate(_, records) = frame
                {
                    let sequence = place.previous.saturating_add(records.len() as u64);
                    return self.store(partition, term, (place.session, sequence), records, reply);
                }
                let rejection = self.unless_behind(&position);
                self.count_fenced(from, rejection);
                return reply.send(self.replication_answer(Err(rejection)));
            };
            let frame = match frame {
                ReplicationFrame::Replicate(_, records) => Frame::Replicate(records),
                ReplicationFrame::Digest(_) => Frame::Digest,
                ReplicationFrame::Clean(_, up_to, transfers_from) => Frame::Clean { up_to, transfers_from },
            };
            let appends = self.appends(partition);
            log.on_event(ReplicaEvent::Received { from, term, place, frame, appends, reply });
        });
    }

    /// Encodes the answer to a replication frame, with the state of this node's disk.
    pub(super) fn replication_answer(&self, result: Result<Option<u64>, Rejection>) -> Bytes {
        replication_answer(result, self.disk_state())
    }

    /// Returns the rejection of a frame that no role here accepts: `Behind` if the sender's state is newer,
    /// so that the role may follow, else `Stale`.
    fn unless_behind(&self, position: &Position) -> Rejection {
        let behind = position.epoch > self.view.load().state.epoch;
        if behind { Rejection::Behind } else { Rejection::Stale }
    }

    fn on_bulk(self: &Arc<Self>, from: NodeId, body: &[u8], reply: Responder) {
        let refuse = |reply: Responder, text: &str| {
            reply.send(wire::encode(&BulkAnswer::Refused(text.to_owned())).into());
        };
        let Ok(Bulk { partition, term, assigned, session, action }) =
            wire::decode::<Bulk, MESSAGE_BYTES_MAX>(body)
        else {
            self.refuse(Refused::Message, from, &"a bulk message");
            return refuse(reply, "the message cannot be decoded");
        };
        if self.is_unauthorized(from, Class::Bulk) {
            return refuse(reply, "the sender is not a member in the state that this node has applied");
        }
        if partition >= PARTITIONS {
            return refuse(reply, "there is no such partition");
        }
        let stores = matches!(action, BulkAction::Store(_));
        let admitted = self.with_role(partition, |role| match role {
            Role::Replica(log) => {
                if let Err(rejection) = log.check_sender(from, term, assigned) {
                    self.count_fenced(from, rejection);
                    return false;
                }
                let taken = !stores || log.takes_transfer(session);
                if taken && stores {
                    // Counted under the lock, so that its next holder sees the pending append.
                    self.cells[usize::from(partition)].storing.fetch_add(1, Ordering::AcqRel);
                }
                taken
            }
            _ => false,
        });
        if !admitted {
            return refuse(
                reply,
                "this node does not follow that primary in that term and assignment, or the transfer is \
                 closed",
            );
        }
        match action {
            BulkAction::Inventory => reply.send(wire::encode(&self.inventory_answer(partition)).into()),
            BulkAction::Keys(positions) => {
                reply.send(wire::encode(&self.keys_answer(partition, &positions)).into());
            }
            BulkAction::Records(positions) => {
                reply.send(wire::encode(&self.records_answer(partition, &positions)).into());
            }
            BulkAction::Store(records) => self.store_bulk(partition, records, reply),
        }
    }

    fn inventory_answer(&self, partition: Partition) -> BulkAnswer {
        let entries = self.engine.inventory(partition);
        BulkAnswer::Inventory(entries.iter().map(|e| (e.position, e.version, e.tombstone)).collect())
    }

    fn keys_answer(&self, partition: Partition, positions: &[u64]) -> BulkAnswer {
        match keys_at(&self.engine, partition, positions) {
            Ok(keys) => BulkAnswer::Keys(keys),
            Err(error) => BulkAnswer::Refused(error.to_string()),
        }
    }

    fn records_answer(&self, partition: Partition, positions: &[u64]) -> BulkAnswer {
        let (mut records, mut bytes, mut done) = (Vec::new(), 0, 0);
        // One position at a time: a record may have a large value.
        for position in positions {
            let found = match self.engine.read_positions(partition, &[*position]) {
                Ok(found) => found,
                Err(error) => return BulkAnswer::Refused(error.to_string()),
            };
            bytes += found.iter().map(|record| record.stored_bytes() as usize).sum::<usize>();
            records.extend(found);
            done += 1;
            if bytes >= MESSAGE_BYTES {
                break;
            }
        }
        BulkAnswer::Records { records, positions: done }
    }

    /// Appends records of a transfer, which the caller has counted in `storing`.
    fn store_bulk(self: &Arc<Self>, partition: Partition, records: Vec<Record>, reply: Responder) {
        let plane = Arc::clone(self);
        let stored = move || plane.cells[usize::from(partition)].storing.fetch_sub(1, Ordering::AcqRel);
        let (engine, answering) = (self.engine.clone(), Arc::clone(self));
        self.note_appending(records_bytes(&records));
        if self.contradicts(&records) {
            stored();
            let text = "a record is held here with other content under the same version".to_owned();
            return reply.send(wire::encode(&BulkAnswer::Refused(text)).into());
        }
        self.engine.append(records, move |result| {
            let answer = match result {
                Ok(appended) => {
                    engine.publish(appended);
                    BulkAnswer::Stored
                }
                Err(error) => {
                    if matches!(error, AppendError::NoSpace(_)) {
                        answering.note_no_space(partition, &error);
                    }
                    BulkAnswer::Refused(error.to_string())
                }
            };
            stored();
            reply.send(wire::encode(&answer).into());
        });
    }
}

/// Returns whether this node serves the partition, provided that it has a lease.
fn is_serving(role: &Role) -> bool {
    matches!(role, Role::Primary(primary) if primary.phase() == Phase::Serving)
}
