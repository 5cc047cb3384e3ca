//! Restores damaged records from another copy (promise P5).
//!
//! A version names one content on every copy (rule R1), so whoever holds a record of that version whole may be its
//! source, whatever its role; one who holds it damaged cannot be: its checksum is verified whenever it is read. What was
//! restored has the version it had, so digests do not change. What nobody holds whole stays damaged, and its key is
//! answered with an error, never as absent or older (rule R4).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use caskade_engine::{AppendError, DamagedStretch, Record, partition_of};
use futures::StreamExt as _;
use tokio::sync::oneshot;

use super::message::{Answer, Request};
use super::notices::Weight;
use super::plane::{Plane, Reply};
use super::route::Executed;
use crate::api::HealFigures;
use crate::cluster::state::ReplicaRole;
use crate::id::{NodeId, Partition};
use crate::kv::Operation;

/// Records restored at once.
const RESTORES_MAX: usize = 16;
/// How often a request is tried again whose record cannot be restored at present.
const TRIES_MAX: u32 = 5;
/// Pause between two of those: a record that is being overwritten is published meanwhile.
const TRY_PAUSE: Duration = Duration::from_millis(20);

/// What became of one damaged record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Healed {
    /// It was taken from this node's copy: it is whole again.
    From(NodeId),
    /// It was whole, and is out of a damaged stretch now.
    Moved,
    /// Its key has another version by now, or none.
    Overtaken,
    /// No other copy that answers has it.
    NoCopy,
}

/// [`HealFigures`], while they are counted.
#[derive(Debug, Default)]
pub(super) struct HealCounters {
    pub(super) scrubbed_bytes: AtomicU64,
    pub(super) damaged_stretches: AtomicU64,
    restored_records: AtomicU64,
    missing_records: AtomicU64,
}

impl Plane {
    /// What was found damaged and healed.
    pub fn heal_figures(&self) -> HealFigures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HealFigures {
            scrubbed_bytes: read(&self.healing.scrubbed_bytes),
            damaged_stretches: read(&self.healing.damaged_stretches),
            restored_records: read(&self.healing.restored_records),
            missing_records: read(&self.healing.missing_records),
        }
    }

    /// Makes the record of this position and version whole, if need be from another copy.
    pub(super) async fn heal_record(&self, partition: Partition, position: u64, version: u64) -> Healed {
        let (record, source) = match self.engine.read_version(partition, position, version) {
            Ok(None) => return Healed::Overtaken,
            Ok(Some(record)) => (record, None),
            Err(_) => match self.fetch(partition, position, version).await {
                Some((record, node)) => (record, Some(node)),
                None => {
                    self.healing.missing_records.fetch_add(1, Ordering::Relaxed);
                    return Healed::NoCopy;
                }
            },
        };
        match (self.restore(record).await, source) {
            (Ok(true), Some(node)) => {
                self.healing.restored_records.fetch_add(1, Ordering::Relaxed);
                Healed::From(node)
            }
            (Ok(true), None) => Healed::Moved,
            (Ok(false), _) => Healed::Overtaken,
            (Err(error), _) => {
                self.on_append_error(partition, &error);
                Healed::NoCopy
            }
        }
    }

    /// The record of this position and version, whole, and who has it: those that are in-sync are asked first.
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

    /// The record of this position and version that another node has; none if it gives another one.
    pub(super) async fn fetch_from(
        &self,
        node: NodeId,
        partition: Partition,
        position: u64,
        version: u64,
    ) -> Option<Record> {
        let request = Request::Fetch { partition, position, version };
        let Answer::Record(Some(record)) = self.ask(node, &request).await else { return None };
        let record = Record::from(record);
        (record.version == version && partition_of(&record.key) == partition).then_some(record)
    }

    /// What another node is answered that asks for a record.
    pub(super) fn fetch_answer(&self, partition: Partition, position: u64, version: u64) -> Answer {
        match self.engine.read_version(partition, position, version) {
            Ok(record) => Answer::Record(record.map(Into::into)),
            // It is damaged here, too.
            Err(_) => Answer::Record(None),
        }
    }

    async fn restore(&self, record: Record) -> Result<bool, AppendError> {
        let (sender, restored) = oneshot::channel();
        self.engine.restore(record, move |result| drop(sender.send(result)));
        restored.await.unwrap_or(Err(AppendError::Closed))
    }

    /// Restores what is damaged at a key's place, and tells the operator.
    async fn heal_key(&self, key: &[u8]) {
        let partition = partition_of(key);
        for entry in self.engine.entries_of(key) {
            if self.engine.read_version(partition, entry.position, entry.version).is_ok() {
                continue;
            }
            let (version, here) = (entry.version, self.node.short());
            match self.heal_record(partition, entry.position, version).await {
                Healed::From(node) => self.tell(
                    Weight::Warning,
                    self.node,
                    format!(
                        "a damaged record on node {here} (partition {partition}, version {version}) was restored from \
                         node {} when it was read",
                        node.short()
                    ),
                ),
                Healed::NoCopy => self.tell_missing(partition, version),
                Healed::Moved | Healed::Overtaken => {}
            }
        }
    }

    fn tell_missing(&self, partition: Partition, version: u64) {
        let message = format!(
            "a record on node {} (partition {partition}, version {version}) is damaged and no other copy that answers \
             has it whole: its key is answered with DAMAGED until it is written anew, or a node that has it returns",
            self.node.short()
        );
        self.tell(Weight::Error, self.node, message);
    }

    /// Restores all that counts in damaged stretches of a data file, and says that the file may go. Tells whether it
    /// may.
    pub(super) async fn heal_file(&self, file_id: u64, stretches: &[DamagedStretch]) -> bool {
        let within =
            |stretch: &DamagedStretch| self.engine.records_within(file_id, stretch.offset, stretch.bytes);
        let records: Vec<_> = stretches.iter().flat_map(within).collect();
        let heal = |(partition, entry): (Partition, caskade_engine::InventoryEntry)| async move {
            let healed = self.heal_record(partition, entry.position, entry.version).await;
            if healed == Healed::NoCopy {
                self.tell_missing(partition, entry.version);
            }
            healed
        };
        let healed: Vec<Healed> =
            futures::stream::iter(records).map(heal).buffered(RESTORES_MAX).collect().await;
        let restored = healed.iter().filter(|healed| matches!(healed, Healed::From(_))).count();
        let retired = !healed.contains(&Healed::NoCopy) && self.engine.retire(file_id, stretches);
        if let Some(first) = stretches.first().filter(|_| retired) {
            let message = format!(
                "data file {file_id} of node {} was damaged at {} places, the first at byte {} ({}): {restored} records \
                 were restored from other copies, and the file is going to be replaced",
                self.node.short(),
                stretches.len(),
                first.offset,
                first.reason
            );
            self.tell(Weight::Warning, self.node, message);
        }
        retired
    }

    /// For a request that met a damaged record before it had done anything: restores the record, then executes it.
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
