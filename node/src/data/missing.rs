//! Notes damaged records of this node's store that no copy that answers has whole, and removes them when an
//! operator gives them up.
//!
//! A record is noted when healing finds no source for it ([`heal`](super::heal)), and stays noted until the
//! keydir has another version of its key or the record is whole again. So a report of damage ends with its
//! cause. The primary deletes a key that is given up as any client's deletion does: every copy gets the
//! tombstone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caskade_engine::slots::PARTITIONS;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::heal::Healed;
use super::message::{Answer, Request};
use super::plane::{Plane, Reply, Role, Waiter};
use super::route::record;
use crate::cluster::events::Severity;
use crate::id::{NodeId, Partition};
use crate::kv::{Effect, Outcome};
use crate::net::{Responder, wire};
use crate::partition::{Phase, SEQUENCE_MAX};

/// Maximum number of noted records; others are noted when these are mended.
const NOTED_MAX: usize = 65_536;
/// Maximum number of records that one report names.
const NAMED_MAX: usize = 1000;
/// Maximum number of noted records that one round looks for.
const LOOKED_FOR_MAX: usize = 256;
/// Maximum number of records that one request removes.
const REMOVED_MAX: usize = 64;
/// Time for a removal to find the partition served and the tombstone published.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(4);
/// Pause before a removal looks again whether the partition is served.
const SERVED_PAUSE: Duration = Duration::from_millis(20);

/// A record by partition, position and version.
pub type DamagedRecord = (Partition, u64, u64);

/// Damage of one partition on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPartition {
    /// Which partition.
    pub partition: Partition,
    /// Live keys of the copy.
    pub keys: u64,
    /// The store was damaged when it was opened, and the node is the primary: any key may be missing.
    pub lacks: bool,
    /// Of such a copy: live keys whose record is from before the damage was found, and which may be older
    /// than it should be.
    pub uncertain_keys: u64,
    /// Records that are known, and damaged on all copies that answer.
    pub records_total: u64,
    /// Version and position of the first of them, and their keys where these can be told.
    pub records: Vec<(u64, u64, Option<Bytes>)>,
}

/// The records that are noted, by place; the value is the version.
#[derive(Debug, Default)]
pub(super) struct Missing(Mutex<BTreeMap<(Partition, u64), u64>>);

impl Missing {
    /// Notes that no other copy has the record at this place.
    pub(super) fn is_missing(&self, partition: Partition, position: u64, version: u64) {
        let mut noted = self.0.lock();
        if noted.len() < NOTED_MAX || noted.contains_key(&(partition, position)) {
            noted.insert((partition, position), version);
        }
    }

    /// Forgets what was noted of this place.
    pub(super) fn is_there(&self, partition: Partition, position: u64) {
        self.0.lock().remove(&(partition, position));
    }

    fn all(&self) -> Vec<DamagedRecord> {
        self.0
            .lock()
            .iter()
            .map(|((partition, position), version)| (*partition, *position, *version))
            .collect()
    }
}

impl Plane {
    /// Returns the damaged records that no copy that answers has whole, by partition.
    pub fn missing_records(&self) -> Vec<DamagedRecord> {
        self.missing.0.lock().retain(|(partition, position), version| {
            self.engine.has_version(*partition, *position, *version)
        });
        self.missing.all()
    }

    /// Returns how many partitions this node is primary of although records of them may be missing.
    pub fn damaged_partitions(self: &Arc<Self>) -> u32 {
        if !self.is_damaged() {
            return 0;
        }
        (0..PARTITIONS).filter(|partition| self.lacks(*partition)).count() as u32
    }

    fn lacks(self: &Arc<Self>, partition: Partition) -> bool {
        let leads = || self.with_role(partition, |role| matches!(role, Role::Primary(_)));
        self.damage.is_in(partition) && leads()
    }

    /// Restores noted records from copies that were not there before: a node that has one may have returned.
    pub(super) async fn look_for_missing(&self) {
        for (partition, position, version) in self.missing_records().into_iter().take(LOOKED_FOR_MAX) {
            self.heal_record(partition, position, version).await;
        }
    }

    /// Returns what of these partitions is damaged on a node, of all if none is named, and where its store
    /// is.
    ///
    /// # Errors
    /// The node does not answer.
    pub async fn damage_of(
        self: &Arc<Self>,
        node: NodeId,
        partitions: &[Partition],
    ) -> Result<(Vec<DamagedPartition>, Vec<String>), String> {
        if node == self.node {
            return Ok((self.local_damage(partitions), self.damage.places()));
        }
        match self.ask(node, &Request::Damage { partitions: partitions.to_vec() }).await {
            Answer::Damage { partitions, places } => Ok((partitions, places)),
            _ => {
                Err(format!("node {} does not answer what of its store is damaged: try again", node.short()))
            }
        }
    }

    fn local_damage(self: &Arc<Self>, partitions: &[Partition]) -> Vec<DamagedPartition> {
        let mut found: BTreeMap<Partition, DamagedPartition> = BTreeMap::new();
        let named: Vec<Partition> = match partitions {
            [] => (0..PARTITIONS).filter(|partition| self.lacks(*partition)).collect(),
            named => named.iter().copied().filter(|partition| *partition < PARTITIONS).collect(),
        };
        for partition in named {
            found.insert(partition, self.damaged_partition(partition));
        }
        let mut named = 0;
        for (partition, position, version) in self.missing_records() {
            if !partitions.is_empty() && !found.contains_key(&partition) {
                continue;
            }
            let of_it = found.entry(partition).or_insert_with(|| self.damaged_partition(partition));
            of_it.records_total += 1;
            if named < NAMED_MAX {
                let key = self.engine.key_of_damaged(partition, position, version);
                of_it.records.push((version, position, key));
                named += 1;
            }
        }
        found.into_values().collect()
    }

    /// Returns the damage of a partition without its known records.
    fn damaged_partition(self: &Arc<Self>, partition: Partition) -> DamagedPartition {
        let lacks = self.lacks(partition);
        let keys = self.engine.partition_stats(partition).live_keys;
        let uncertain = |entry: &&caskade_engine::replicated::InventoryEntry| {
            !entry.tombstone && !self.damage.proves(partition, Some(entry.version))
        };
        let uncertain_keys = match lacks {
            true => self.engine.inventory(partition).iter().filter(uncertain).count() as u64,
            false => 0,
        };
        DamagedPartition { partition, keys, lacks, uncertain_keys, ..DamagedPartition::default() }
    }

    pub(super) fn answer_damage(self: &Arc<Self>, partitions: Vec<Partition>, reply: Responder) {
        let plane = Arc::clone(self);
        // Off the caller's path: it looks at all keys of these partitions.
        self.host.spawn(async move {
            let (partitions, places) = (plane.local_damage(&partitions), plane.damage.places());
            reply.send(wire::encode(&Answer::Damage { partitions, places }).into());
        });
    }

    pub(super) fn answer_removal(self: &Arc<Self>, records: Vec<DamagedRecord>, reply: Responder) {
        let plane = Arc::clone(self);
        self.host.spawn(async move {
            let removed = plane.remove_damaged_here(&records).await;
            reply.send(wire::encode(&Answer::Count(removed)).into());
        });
    }

    /// Makes the primary of these damaged records delete their keys; returns the number of deleted keys.
    pub async fn remove_damaged(self: &Arc<Self>, node: NodeId, records: &[DamagedRecord]) -> u64 {
        let mut removed = 0;
        for records in records.chunks(REMOVED_MAX) {
            removed += match node == self.node {
                true => self.remove_damaged_here(records).await,
                false => match self.ask(node, &Request::RemoveDamaged { records: records.to_vec() }).await {
                    Answer::Count(removed) => removed,
                    _ => 0,
                },
            };
        }
        removed
    }

    async fn remove_damaged_here(self: &Arc<Self>, records: &[DamagedRecord]) -> u64 {
        let deadline = Instant::now() + REMOVAL_TIMEOUT;
        let (mut removed, mut partitions) = (0, BTreeSet::new());
        for (partition, position, version) in records.iter().copied().take(REMOVED_MAX) {
            // One that is whole again, or overwritten, is not given up.
            if partition >= PARTITIONS
                || self.heal_record(partition, position, version).await != Healed::NoCopy
            {
                continue;
            }
            let done = match self.engine.key_of_damaged(partition, position, version) {
                Some(key) => self.delete_damaged(partition, position, version, key, deadline).await,
                None => self.forget_damaged(partition, position, version),
            };
            removed += u64::from(done);
            partitions.extend(done.then_some(partition));
        }
        if removed > 0 {
            let named: Vec<String> = partitions.iter().map(ToString::to_string).collect();
            let message = format!(
                "an operator gave up {removed} damaged records of partition {} on node {}: their keys are \
                 deleted",
                named.join(", "),
                self.node.short()
            );
            self.report(Severity::Warning, self.node, message);
        }
        removed
    }

    /// Orders the deletion of a key whose record is damaged, and waits until it is published.
    async fn delete_damaged(
        self: &Arc<Self>,
        partition: Partition,
        position: u64,
        version: u64,
        key: Bytes,
        deadline: Instant,
    ) -> bool {
        while Instant::now() < deadline {
            let (sender, published) = oneshot::channel();
            let ordered = self.with_role(partition, |role| match role {
                Role::Primary(primary)
                    if primary.phase() == Phase::Serving
                        && self.lease().is_some()
                        && primary.pending_len() < self.limits.pending_max
                        && primary.last() < SEQUENCE_MAX =>
                {
                    let overtaken = primary.newest_pending(&key).is_some()
                        || !self.engine.has_version(partition, position, version);
                    if !overtaken {
                        let waiter =
                            Waiter { result: Ok(Outcome::Changed(true)), reply: Reply::Local(sender) };
                        let tombstone = record(key.clone(), Effect::Remove);
                        primary.order(vec![tombstone], self.host.monotonic_ms(), Some(waiter));
                    }
                    Some(!overtaken)
                }
                _ => None,
            });
            match ordered {
                Some(true) => {
                    let published = tokio::time::timeout_at(deadline, published).await;
                    return matches!(published, Ok(Ok(Ok(_))));
                }
                Some(false) => return false,
                None => tokio::time::sleep(SERVED_PAUSE).await,
            }
        }
        false
    }

    /// Forgets a record whose key no node can name, and for which no tombstone can be written.
    fn forget_damaged(self: &Arc<Self>, partition: Partition, position: u64, version: u64) -> bool {
        self.with_role(partition, |role| {
            matches!(role, Role::Primary(_)) && self.engine.forget_damaged(partition, position, version)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_is_noted_once_and_within_bounds() {
        let missing = Missing::default();
        missing.is_missing(7, 1, 5);
        missing.is_missing(7, 1, 6);
        missing.is_missing(8, 1, 5);
        assert_eq!(missing.all(), [(7, 1, 6), (8, 1, 5)]);
        missing.is_there(7, 1);
        assert_eq!(missing.all(), [(8, 1, 5)]);
        (0..2 * NOTED_MAX as u64).for_each(|position| missing.is_missing(9, position, 1));
        assert_eq!(missing.all().len(), NOTED_MAX);
        missing.is_missing(8, 1, 9);
        assert_eq!(missing.all().first(), Some(&(8, 1, 9)), "what is noted is kept up");
    }
}
