//! Reconciles with an in-sync replica: after a failover, and when repair finds that two copies differ.
//!
//! An in-sync replica may become the primary at any moment, so it must never hold half of an atomic write.
//! All keys of such a write are of one slot. So the primary settles all differences of a slot by one ordered
//! write of several records (rule R14). The write carries the primary's own state of each key under the
//! primary's term: a tombstone if the primary has no record. A syncing replica never becomes primary before
//! its digest is equal, so it receives the records as they are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caskade_engine::Record;
use caskade_engine::slots::slot_of;

use super::catch_up::{CopyError, Differences, Transfer};
use super::plane::{Plane, PrimaryState};
use super::route::record;
use super::store::{BATCH_BYTES_MAX, batch_bytes};
use crate::id::{NodeId, Partition, Term};
use crate::kv::Effect;
use crate::partition::{Phase, SEQUENCE_MAX};

/// Interval of the checks whether the limit of bytes in flight allows further writes.
pub(super) const ROOM_PAUSE: Duration = Duration::from_millis(5);

impl Plane {
    /// Settles the differences between this primary and an in-sync replica, slot by slot.
    pub(super) async fn settle_differences(
        self: &Arc<Self>,
        transfer: Transfer,
        differences: &Differences,
    ) -> Result<(), CopyError> {
        let Transfer { partition, term, .. } = transfer;
        let keys = self.differing_keys(transfer, differences).await?;
        for keys in keys.into_values() {
            while self.is_full() {
                tokio::time::sleep(ROOM_PAUSE).await;
            }
            self.settle_slot(partition, term, &keys)?;
        }
        Ok(())
    }

    /// Returns the keys in which the two copies differ, by slot.
    async fn differing_keys(
        &self,
        transfer: Transfer,
        differences: &Differences,
    ) -> Result<BTreeMap<u16, Vec<Bytes>>, CopyError> {
        let mut keys = self.own_keys(transfer.partition, &differences.send)?;
        keys.extend(self.own_keys(transfer.partition, &differences.supersede)?);
        keys.extend(self.keys_of(transfer, &differences.supersede_unknown).await?);
        // Two keys at one position are found at each of its differences.
        keys.sort_unstable();
        keys.dedup();
        let mut by_slot: BTreeMap<u16, Vec<Bytes>> = BTreeMap::new();
        for key in keys {
            by_slot.entry(slot_of(&key)).or_default().push(key);
        }
        Ok(by_slot)
    }

    fn settle_slot(
        self: &Arc<Self>,
        partition: Partition,
        term: Term,
        keys: &[Bytes],
    ) -> Result<(), CopyError> {
        let done = self.with_primary(partition, term, |primary| {
            // During a hand-over nothing may be ordered: the write could come after its settlement.
            if primary.phase() == Phase::Stopped || primary.last() + keys.len() as u64 > SEQUENCE_MAX {
                return Err(CopyError::Void);
            }
            let (mut records, mut bytes) = (Vec::with_capacity(keys.len()), 0);
            for key in keys {
                let record = self.newest_state(primary, key)?;
                bytes += batch_bytes(&record);
                records.push(record);
                if bytes > BATCH_BYTES_MAX && records.len() > 1 {
                    return Err(CopyError::TooMuch);
                }
            }
            if !records.is_empty() {
                primary.order(records, self.host.monotonic_ms(), None);
            }
            Ok(())
        });
        done.unwrap_or(Err(CopyError::Void))
    }

    /// Returns this primary's newest record of a key, pending or published; a tombstone if there is none.
    pub(super) fn newest_state(&self, primary: &PrimaryState, key: &Bytes) -> Result<Record, CopyError> {
        Ok(self.newest_record(primary, key)?.unwrap_or_else(|| record(key.clone(), Effect::Remove)))
    }

    /// Returns this primary's newest record of a key, pending or published.
    pub(super) fn newest_record(
        &self,
        primary: &PrimaryState,
        key: &Bytes,
    ) -> Result<Option<Record>, CopyError> {
        if let Some(pending) = primary.newest_pending(key) {
            return Ok(Some(pending.clone()));
        }
        self.engine.read(key).map_err(|error| CopyError::Damaged(error.to_string()))
    }

    /// Proposes to suspend an in-sync replica that differs in more records than one write can carry. As a
    /// syncing replica it then receives the records one by one.
    pub(super) fn give_up_in_sync(self: &Arc<Self>, partition: Partition, term: Term, node: NodeId) {
        self.with_primary(partition, term, |primary| primary.suspend(node));
    }
}
