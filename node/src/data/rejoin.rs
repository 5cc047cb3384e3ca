//! Merges a copy of an older generation **by value** (rule R10). Records that only this copy has were written
//! by the side that a takeover left behind. The primary orders them again, like client writes. A reconcile
//! would treat them as never acknowledged and remove them. The same is done with the live copies
//! of a partition whose last complete copy was given up ([`crate::cluster::give_up`]).
//!
//! Runs before the copies are compared, while the replica is [`OlderGeneration`] in the committed state.
//! Examines old records that the base of the takeover had not seen: those above its highest version then, if
//! known.
//!
//! - Key not written or deleted since the takeover: the primary orders the replica's record again.
//! - Otherwise the present generation's state stands. If the two differ, the key is in conflict: counted,
//!   logged, and the first keys are named in an event.
//!
//! The merge can be repeated from any point: a record ordered before is found equal, or is the newest one.

use std::collections::BTreeMap;
use std::sync::Arc;

use caskade_engine::Record;
use caskade_engine::replicated::InventoryEntry;
use parking_lot::Mutex;

use super::catch_up::{CopyError, POSITIONS_PER_ASK, Transfer, unexpected};
use super::message::{BulkAction, BulkAnswer};
use super::plane::Plane;
use super::reconcile::ROOM_PAUSE;
use super::tasks::Work;
use crate::cluster::events::Severity;
use crate::cluster::state::ClusterState;
use crate::cluster::takeover::OlderGeneration;
use crate::id::{NodeId, Partition};
use crate::mutation::{Mutation, planted};
use crate::partition::{Phase, SEQUENCE_MAX, version};

/// Upper bound of the keys in conflict that the event names.
const NAMED_MAX: usize = 10;
/// Upper bound of the keys in conflict that are logged for one returned node; further ones are only counted.
const LOGGED_MAX: u64 = 1000;

/// Counts of the records that only one returned node had.
#[derive(Clone, Debug, Default)]
struct Rejoined {
    written: u64,
    deleted: u64,
    conflicts: u64,
    named: Vec<String>,
}

/// Counts of merged records by returned node, until the event is reported.
#[derive(Debug, Default)]
pub(super) struct Rejoins(Mutex<BTreeMap<NodeId, Rejoined>>);

/// Decision on a record of an older generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Order the record again.
    Write,
    /// Ignore the record: it is superseded, or present already.
    Leave,
    /// Ignore the record and report the key: both sides changed it.
    Conflict,
}

/// Returns the positions of the replica's records to examine. Both lists ascend by position.
fn unseen(mine: &[InventoryEntry], theirs: &[(u64, u64, bool)], unmerged: &OlderGeneration) -> Vec<u64> {
    let here = |position: u64| {
        let from = mine.partition_point(|entry| entry.position < position);
        mine.iter().skip(from).take_while(move |entry| entry.position == position).map(|entry| entry.version)
    };
    let of_interest = |&&(position, theirs, _): &&(u64, u64, bool)| {
        theirs < version(unmerged.first_term, 0)
            && match unmerged.seen {
                Some(seen) => theirs > seen && here(position).all(|mine| mine != theirs),
                // A newer record here was written later, or is indistinguishable from such a record.
                None => here(position).all(|mine| mine < theirs),
            }
    };
    let mut positions: Vec<u64> = theirs.iter().filter(of_interest).map(|entry| entry.0).collect();
    positions.dedup();
    positions
}

/// Decides by the primary's newest record of the key, pending or published, including tombstones.
fn verdict(current: Option<&Record>, theirs: &Record, unmerged: &OlderGeneration) -> Verdict {
    let began = version(unmerged.first_term, 0);
    let old = theirs.version < began && unmerged.seen.is_none_or(|seen| theirs.version > seen);
    match current {
        _ if !old => Verdict::Leave,
        Some(mine) if mine.version >= began => {
            let same = (&mine.value, mine.expiry_ms, mine.user_flags)
                == (&theirs.value, theirs.expiry_ms, theirs.user_flags);
            if same || unmerged.seen.is_none() { Verdict::Leave } else { Verdict::Conflict }
        }
        Some(mine) if mine.version >= theirs.version => Verdict::Leave,
        None if theirs.value.is_none() => Verdict::Leave,
        _ => Verdict::Write,
    }
}

impl Plane {
    /// Merges the records that only the replica has, if its store is of an older generation.
    pub(super) async fn merge_by_value(self: &Arc<Self>, transfer: Transfer) -> Result<(), CopyError> {
        let Transfer { partition, node, .. } = transfer;
        let Some(unmerged) = unmerged(&self.state(), partition, node) else { return Ok(()) };
        if planted(Mutation::ReconcileOlderGeneration) {
            return Ok(());
        }
        // The entry makes `report_merged` report the end, even if there is nothing to merge.
        self.merging.0.lock().entry(node).or_default();
        let theirs = self.inventory_of(transfer).await?;
        let positions = unseen(&self.engine.inventory(partition), &theirs, &unmerged);
        let (work, keys) = (Work::Rejoin(node), positions.len() as u64);
        self.tasks.add_work(work, "rejoin", "data of an older generation", keys, 0);
        let merged = self.merge_positions(transfer, &unmerged, &positions).await;
        self.tasks.finish_work(work);
        merged
    }

    /// Merges the replica's records at these positions.
    async fn merge_positions(
        self: &Arc<Self>,
        transfer: Transfer,
        unmerged: &OlderGeneration,
        positions: &[u64],
    ) -> Result<(), CopyError> {
        for positions in positions.chunks(POSITIONS_PER_ASK) {
            let mut left = positions;
            while !left.is_empty() {
                let (records, done) = match self.bulk(transfer, BulkAction::Records(left.to_vec())).await? {
                    BulkAnswer::Records { records, positions } if positions > 0 => {
                        (records, positions as usize)
                    }
                    other => return Err(unexpected(&other)),
                };
                for record in records {
                    self.merge_record(transfer, unmerged, record).await?;
                }
                self.tasks.advance(Work::Rejoin(transfer.node), done as u64, 0);
                left = left.get(done..).unwrap_or_default();
            }
        }
        Ok(())
    }

    async fn merge_record(
        self: &Arc<Self>,
        transfer: Transfer,
        unmerged: &OlderGeneration,
        theirs: Record,
    ) -> Result<(), CopyError> {
        let Transfer { partition, term, node, .. } = transfer;
        loop {
            let room = !self.is_full();
            let decided = self.with_primary(partition, term, |primary| {
                if primary.phase() != Phase::Serving || primary.last() >= SEQUENCE_MAX {
                    return Err(CopyError::Void);
                }
                if !room || primary.pending_len() >= self.limits.pending_max {
                    return Ok(None);
                }
                let verdict = verdict(self.newest_record(primary, &theirs.key)?.as_ref(), &theirs, unmerged);
                if verdict == Verdict::Write {
                    primary.order(vec![theirs.clone()], self.host.monotonic_ms(), None);
                }
                Ok(Some(verdict))
            });
            match decided.unwrap_or(Err(CopyError::Void))? {
                Some(verdict) => {
                    self.note_merged(node, verdict, &theirs);
                    return Ok(());
                }
                None => tokio::time::sleep(ROOM_PAUSE).await,
            }
        }
    }

    fn note_merged(&self, node: NodeId, verdict: Verdict, record: &Record) {
        let mut merging = self.merging.0.lock();
        let merged = merging.entry(node).or_default();
        match (verdict, &record.value) {
            (Verdict::Leave, _) => {}
            (Verdict::Write, Some(_)) => merged.written += 1,
            (Verdict::Write, None) => merged.deleted += 1,
            (Verdict::Conflict, _) => {
                merged.conflicts += 1;
                let key = record.key.escape_ascii().to_string();
                if merged.conflicts <= LOGGED_MAX {
                    tracing::warn!(%node, key, "a key was changed on both sides of a takeover; it keeps the \
                        value of the present generation");
                }
                if merged.named.len() < NAMED_MAX {
                    merged.named.push(key);
                }
            }
        }
    }

    /// Reports returned nodes whose copies are merged in all partitions that this node is primary of.
    pub fn report_merged(&self) {
        let state = self.state();
        let own = || state.partitions().filter(|(_, entry)| entry.primary() == Some(self.node));
        let waits = |node: NodeId| own().any(|(p, _)| unmerged(&state, p, node).is_some());
        let done: Vec<(NodeId, Rejoined)> =
            self.merging.0.lock().extract_if(.., |node, _| !waits(*node)).collect();
        for (node, merged) in done {
            let Rejoined { written, deleted, conflicts, named } = merged;
            let mut message = format!(
                "node {} returned with data of an older generation or of partitions that were given up, and \
                 node {} merged it by value: it applied {written} writes and {deleted} deletions that only \
                 the returned node had; {conflicts} keys had changed on both sides and keep the value of the \
                 present generation",
                node.short(),
                self.node.short()
            );
            if conflicts > 0 {
                message.push_str(&format!(": {}", named.join(", ")));
                if conflicts > named.len() as u64 {
                    message.push_str(" and others (they are in this node's log)");
                }
            }
            self.report(Severity::Warning, node, message);
        }
    }
}

fn unmerged(state: &ClusterState, partition: Partition, node: NodeId) -> Option<OlderGeneration> {
    state.partition(partition)?.replica(node)?.unmerged
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const SEEN: OlderGeneration = OlderGeneration { first_term: 100, seen: Some(0x0500_0000_0009) };

    fn record(term: u32, sequence: u64, value: Option<&'static str>) -> Record {
        Record {
            key: Bytes::from_static(b"key"),
            version: version(term, sequence),
            expiry_ms: 0,
            user_flags: 0,
            value: value.map(|value| Bytes::from_static(value.as_bytes())),
        }
    }

    fn mine(position: u64, version: u64) -> InventoryEntry {
        InventoryEntry { position, version, tombstone: false }
    }

    #[test]
    fn only_records_that_the_base_never_saw_are_examined() {
        let (seen, later, new) = (version(5, 9), version(5, 10), version(100, 1));
        assert_eq!(SEEN.seen, Some(seen));
        let here = [mine(1, seen), mine(2, seen), mine(3, new), mine(4, later)];
        let theirs = [
            (1, seen, false),
            (2, later, false),
            (3, later, true),
            (4, later, false),
            (5, later, false),
            (6, seen, false),
            (7, new, false),
        ];
        assert_eq!(
            unseen(&here, &theirs, &SEEN),
            [2, 3, 5],
            "a record that is absent here was deleted here, if the base had seen it"
        );
        let unknown = OlderGeneration { seen: None, ..SEEN };
        assert_eq!(unseen(&here, &theirs, &unknown), [2, 5, 6]);
    }

    #[test]
    fn write_of_the_lost_side_is_ordered_again_if_the_key_did_not_change_since() {
        let theirs = record(5, 10, Some("theirs"));
        assert_eq!(verdict(None, &theirs, &SEEN), Verdict::Write);
        assert_eq!(verdict(Some(&record(5, 3, Some("old"))), &theirs, &SEEN), Verdict::Write);
        let deletion = record(5, 10, None);
        assert_eq!(verdict(Some(&record(5, 3, Some("old"))), &deletion, &SEEN), Verdict::Write);
        assert_eq!(verdict(None, &deletion, &SEEN), Verdict::Leave, "the key is absent");
    }

    #[test]
    fn key_changed_on_both_sides_keeps_the_present_generation_s_state() {
        let theirs = record(5, 10, Some("theirs"));
        assert_eq!(verdict(Some(&record(100, 1, Some("mine"))), &theirs, &SEEN), Verdict::Conflict);
        assert_eq!(
            verdict(Some(&record(100, 1, None)), &theirs, &SEEN),
            Verdict::Conflict,
            "deleted stays deleted"
        );
        assert_eq!(verdict(Some(&record(100, 1, Some("theirs"))), &theirs, &SEEN), Verdict::Leave);
    }

    #[test]
    fn record_that_the_base_had_seen_is_never_restored() {
        assert_eq!(verdict(None, &record(5, 9, Some("deleted since")), &SEEN), Verdict::Leave);
        let unknown = OlderGeneration { seen: None, ..SEEN };
        assert_eq!(verdict(Some(&record(6, 1, None)), &record(5, 10, Some("old")), &unknown), Verdict::Leave);
        assert_eq!(
            verdict(Some(&record(100, 1, None)), &record(5, 10, Some("old")), &unknown),
            Verdict::Leave
        );
    }
}
