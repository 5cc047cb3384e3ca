//! Restores damaged records from another copy (promise P5).
//!
//! Invariants: a version has the same content on every copy (rule R1). So any node that holds the record
//! whole may be its source, in any role. A node with a damaged record cannot be, because every read verifies
//! the checksum. A restored record keeps its version, so digests do not change. A record that no node holds
//! whole stays damaged. Requests for its key fail with an error: the answer is never "absent" or older (rule
//! R4).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use caskade_engine::replicated::DamagedStretch;
use caskade_engine::slots::partition_of;
use caskade_engine::{AppendError, Record};
use futures::StreamExt as _;
use tokio::sync::oneshot;

use super::message::{Answer, Request};
use super::plane::{Plane, Reply};
use super::route::Executed;
use super::tasks::Work;
use crate::api::HealStats;
use crate::cluster::events::Severity;
use crate::cluster::state::ReplicaRole;
use crate::id::{NodeId, Partition};
use crate::kv::Operation;

/// Upper bound of the records restored at once.
const RESTORES_MAX: usize = 16;
/// Upper bound of the attempts of a request whose record cannot be restored at present.
const TRIES_MAX: u32 = 5;
/// Pause between two attempts; a pending write that replaces the record is published meanwhile.
const TRY_PAUSE: Duration = Duration::from_millis(20);

/// Result of healing one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Healed {
    /// The record was restored from this node's copy.
    From(NodeId),
    /// The record was whole, and was moved out of a damaged stretch.
    Moved,
    /// The key has another version now, or none.
    Overtaken,
    /// No other node that answers has the record, or it could not be written.
    NoCopy,
}

/// Counters of [`HealStats`].
#[derive(Debug, Default)]
pub(super) struct HealCounters {
    pub(super) scrubbed_bytes: AtomicU64,
    pub(super) damaged_stretches: AtomicU64,
    restored_records: AtomicU64,
    missing_records: AtomicU64,
}

impl Plane {
    /// Returns the counters of damaged and restored records.
    pub fn heal_figures(&self) -> HealStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HealStats {
            scrubbed_bytes: read(&self.healing.scrubbed_bytes),
            damaged_stretches: read(&self.healing.damaged_stretches),
            restored_records: read(&self.healing.restored_records),
            missing_records: read(&self.healing.missing_records),
        }
    }

    /// Writes the record of this position and version again, from another copy if it is damaged here.
    pub(super) async fn heal_record(&self, partition: Partition, position: u64, version: u64) -> Healed {
        let (record, source) = match self.engine.read_version(partition, position, version) {
            Ok(None) => {
                self.missing.is_there(partition, position);
                return Healed::Overtaken;
            }
            Ok(Some(record)) => (record, None),
            Err(_) => match self.fetch(partition, position, version).await {
                Some((record, node)) => (record, Some(node)),
                None => {
                    self.healing.missing_records.fetch_add(1, Ordering::Relaxed);
                    self.missing.is_missing(partition, position, version);
                    return Healed::NoCopy;
                }
            },
        };
        match (self.restore(record).await, source) {
            (Ok(true), Some(node)) => {
                self.missing.is_there(partition, position);
                self.healing.restored_records.fetch_add(1, Ordering::Relaxed);
                Healed::From(node)
            }
            (Ok(moved), _) => {
                self.missing.is_there(partition, position);
                if moved { Healed::Moved } else { Healed::Overtaken }
            }
            (Err(error), _) => {
                self.on_append_error(partition, &error);
                Healed::NoCopy
            }
        }
    }

    /// Fetches the record of this position and version from another node, in-sync replicas first. Returns the
    /// record and its source.
    async fn fetch(&self, partition: Partition, position: u64, version: u64) -> Option<(Record, NodeId)> {
        let state = self.state();
        let mut replicas = state.partitions.get(usize::from(partition))?.replicas.clone();
        replicas.retain(|replica| replica.node != self.node && state.is_up(replica.node));
        replicas.sort_by_key(|replica| replica.role != ReplicaRole::InSync);
        for replica in replicas {
            if let Some(record) = self.fetch_from(replica.node, partition, position, version).await {
                return Some((record, replica.node));
            }
        }
        None
    }

    /// Fetches the record of this position and version from a node. Returns `None` if the node has none or
    /// returns another one.
    pub(super) async fn fetch_from(
        &self,
        node: NodeId,
        partition: Partition,
        position: u64,
        version: u64,
    ) -> Option<Record> {
        let request = Request::Fetch { partition, position, version };
        let Answer::Record(Some(record)) = self.ask(node, &request).await else { return None };
        (record.version == version && partition_of(&record.key) == partition).then_some(record)
    }

    /// Returns the answer to another node's request for a record.
    pub(super) fn fetch_answer(&self, partition: Partition, position: u64, version: u64) -> Answer {
        match self.engine.read_version(partition, position, version) {
            Ok(record) => Answer::Record(record),
            // The record is damaged on this node, too.
            Err(_) => Answer::Record(None),
        }
    }

    async fn restore(&self, record: Record) -> Result<bool, AppendError> {
        let (sender, restored) = oneshot::channel();
        self.engine.restore(record, move |result| drop(sender.send(result)));
        restored.await.unwrap_or(Err(AppendError::Closed))
    }

    /// Restores the damaged records at a key's position, and reports them to the operator.
    async fn heal_key(&self, key: &[u8]) {
        let partition = partition_of(key);
        for entry in self.engine.entries_of(key) {
            if self.engine.read_version(partition, entry.position, entry.version).is_ok() {
                continue;
            }
            let (version, here) = (entry.version, self.node.short());
            match self.heal_record(partition, entry.position, version).await {
                Healed::From(node) => self.report(
                    Severity::Warning,
                    self.node,
                    format!(
                        "a read found a damaged record on node {here} (partition {partition}, version \
                         {version}); it was restored from node {}",
                        node.short()
                    ),
                ),
                Healed::NoCopy => self.report_missing(partition, version),
                Healed::Moved | Healed::Overtaken => {}
            }
        }
    }

    fn report_missing(&self, partition: Partition, version: u64) {
        let message = format!(
            "a record on node {} (partition {partition}, version {version}) is damaged, and no other node \
             that answers has it whole: requests for its key fail with DAMAGED until the key is overwritten, \
             a node that has the record returns, or the loss is accepted (caskctl partition give-up \
             {partition})",
            self.node.short()
        );
        self.report(Severity::Error, self.node, message);
    }

    /// Restores all live records in damaged stretches of a data file, then marks the file for replacement.
    /// Returns whether the file is marked.
    pub(super) async fn heal_file(&self, file_id: u64, stretches: &[DamagedStretch]) -> bool {
        let within =
            |stretch: &DamagedStretch| self.engine.records_within(file_id, stretch.offset, stretch.bytes);
        let records: Vec<_> = stretches.iter().flat_map(within).collect();
        self.tasks.add_work(Work::Heal, "heal", "damaged data file", records.len() as u64, 0);
        let heal = |(partition, entry): (Partition, caskade_engine::replicated::InventoryEntry)| async move {
            let healed = self.heal_record(partition, entry.position, entry.version).await;
            if healed == Healed::NoCopy {
                self.report_missing(partition, entry.version);
            }
            self.tasks.advance(Work::Heal, 1, 0);
            healed
        };
        let healed: Vec<Healed> =
            futures::stream::iter(records).map(heal).buffered(RESTORES_MAX).collect().await;
        self.tasks.finish_work(Work::Heal);
        let restored = healed.iter().filter(|healed| matches!(healed, Healed::From(_))).count();
        let retired = !healed.contains(&Healed::NoCopy) && self.engine.retire(file_id, stretches);
        if let Some(first) = stretches.first().filter(|_| retired) {
            let message = format!(
                "data file {file_id} of node {} was damaged at {} places, the first at byte {} ({}): \
                 {restored} records were restored from other copies, and the file will be replaced by the \
                 next merge",
                self.node.short(),
                stretches.len(),
                first.offset,
                first.reason
            );
            self.report(Severity::Warning, self.node, message);
        }
        retired
    }

    /// Restores the damaged record that a request found before it had done anything, then executes the
    /// request.
    pub(super) fn execute_healed(
        self: &Arc<Self>,
        partition: Partition,
        operation: Operation,
        damaged: Bytes,
        reply: Reply,
    ) {
        let Some(waiting) = self.begin_waiting(&operation) else {
            return reply.send(Err(super::route::full()));
        };
        let plane = Arc::clone(self);
        self.host.spawn(async move {
            let (mut key, mut reply) = (damaged, reply);
            for attempt in 1.. {
                plane.heal_key(&key).await;
                match plane.execute_once(partition, &operation, reply) {
                    Executed::Damaged(other, _, back) if attempt < TRIES_MAX => (key, reply) = (other, back),
                    Executed::Damaged(_, error, back) => {
                        back.send(Err(super::route::damaged(&error)));
                        break;
                    }
                    Executed::Done(result, back) => {
                        back.send(result);
                        break;
                    }
                    Executed::Ordered => break,
                    Executed::NotPrimary(back) => {
                        plane.route_elsewhere(operation.clone(), back);
                        break;
                    }
                }
                tokio::time::sleep(TRY_PAUSE).await;
            }
            drop(waiting);
        });
    }
}
