//! Limits what a store that was found damaged at its opening may decide (rule R4). The damaged stretches
//! may have held any record, so all its partitions count as damaged.
//!
//! If other copies are in-sync, this copy is syncing as after any restart. It is made equal to theirs, and
//! the committed entry that makes it in-sync ends the damage of the partition. If not, this node stays the
//! last in-sync replica:
//!
//! - It knows a key only if its newest record is of a term that began after the damage was found: no lost
//!   record is newer. Other keys fail with an error, never as absent or older. Blind writes still work.
//! - No other copy is made equal to this one, and no tombstone is marked as unneeded.
//!
//! The damage of a partition also ends when an operator gives its lost records up (`cluster/give_up.rs`). The
//! bounds are kept on disk with the places that were found damaged, so that a restart that finds no other
//! places has the same bounds. When no partition is damaged any more, the damaged files are given up, and the
//! next start finds no damage.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use caskade_engine::Recovery;
use caskade_engine::replicated::Store;
use caskade_engine::slots::PARTITIONS;

use super::plane::Plane;
use crate::cluster::events::Severity;
use crate::cluster::state::{ClusterState, ReplicaRole};
use crate::id::{NodeId, Partition, Term};
use crate::kv::Failure;
use crate::mutation::{Mutation, planted};
use crate::partition::version;

/// Bound of a whole partition: no record is missing.
const WHOLE: u64 = 0;
/// Bound of a damaged partition before its next term: records of any version may be missing.
const UNBOUNDED: u64 = u64::MAX;

/// Name of the file in the store that keeps the damage.
const NAME: &str = "damage";
/// Magic of this file. Then: count of places u32, each place (file id, offset, bytes) u64 x 3, bound of each
/// partition u64, CRC32 of all bytes before it. Integers are little-endian.
const MAGIC: [u8; 8] = *b"CASKDMG1";
/// Maximum number of damaged places in a report.
const PLACES_REPORTED_MAX: usize = 10;

/// A damaged stretch of a data file: file id, offset, bytes.
type Place = (u64, u64, u64);

/// Damage that was found when a store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DamageFound {
    /// Text for the operator.
    pub message: String,
    /// The damaged stretches that recovery lists.
    places: Vec<Place>,
    /// Whether `places` has all damaged stretches.
    is_complete: bool,
}

impl DamageFound {
    /// Returns the damage that a recovery found; `None` without damage.
    pub fn of(recovery: &Recovery) -> Option<Self> {
        let first = recovery.quarantined.first()?;
        let places: Vec<Place> =
            recovery.quarantined.iter().map(|found| (found.file_id, found.offset, found.bytes)).collect();
        let message = format!(
            "{}, at byte {}: {} bytes are not those that were written ({}); {} damaged places in total",
            first.path.display(),
            first.offset,
            first.bytes,
            first.reason,
            recovery.quarantined_total
        );
        Some(Self { message, is_complete: places.len() as u64 == recovery.quarantined_total, places })
    }

    fn encode(&self, below: &[u64]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&(self.places.len() as u32).to_le_bytes());
        for (file, offset, len) in &self.places {
            [file, offset, len].iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        }
        below.iter().for_each(|below| bytes.extend_from_slice(&below.to_le_bytes()));
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the kept file; returns the bound of each partition. `None` if the file is not valid, or this
    /// damage has a place that the file does not have.
    fn known(&self, kept: &[u8]) -> Option<Vec<u64>> {
        let (bytes, crc) = kept.split_last_chunk::<4>()?;
        let rest =
            bytes.strip_prefix(&MAGIC).filter(|_| crc32fast::hash(bytes) == u32::from_le_bytes(*crc))?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let numbers: Vec<u64> = rest
            .chunks_exact(8)
            .filter_map(|chunk| Some(u64::from_le_bytes(chunk.try_into().ok()?)))
            .collect();
        let places = (u32::from_le_bytes(*count) as usize).checked_mul(3)?;
        let (places, below) = numbers.split_at_checked(places)?;
        if below.len() != usize::from(PARTITIONS) || rest.len() % 8 != 0 {
            return None;
        }
        let kept: BTreeSet<&[u64]> = places.chunks_exact(3).collect();
        let is_kept = |place: &Place| kept.contains(&[place.0, place.1, place.2][..]);
        (self.is_complete && self.places.iter().all(is_kept)).then(|| below.to_vec())
    }
}

/// The damaged partitions, each with the bound of the missing versions.
#[derive(Debug)]
pub(super) struct Damage {
    /// By partition: all missing records have versions below this.
    below: Vec<AtomicU64>,
    /// Damage that was found when the store was opened.
    found: DamageFound,
    /// Whether `below` differs from the file.
    is_unkept: AtomicBool,
    /// Whether the damaged files were given up, or there are none.
    done: AtomicBool,
}

impl Damage {
    /// Creates the state of a store that was just opened, with the kept bounds if they apply.
    pub(super) fn load(engine: &Store, found: Option<DamageFound>) -> Self {
        let kept = found.as_ref().and_then(|found| match engine.read_metadata(NAME) {
            Ok(kept) => found.known(&kept?),
            Err(error) => {
                tracing::warn!(%error, "cannot read what was kept of the store's damage: all its partitions \
                                        count as damaged");
                None
            }
        });
        Self::new(found, kept)
    }

    /// Creates the state; `kept` are the bounds of the partitions, if a former process kept them.
    fn new(found: Option<DamageFound>, kept: Option<Vec<u64>>) -> Self {
        let found = found.filter(|_| !planted(Mutation::TrustDamage));
        let below = match (&found, kept) {
            (None, _) => vec![WHOLE; usize::from(PARTITIONS)],
            (Some(_), Some(kept)) => kept,
            (Some(_), None) => vec![UNBOUNDED; usize::from(PARTITIONS)],
        };
        let below = below.into_iter().map(AtomicU64::new).collect();
        let done = AtomicBool::new(found.is_none());
        Self { below, found: found.unwrap_or_default(), is_unkept: AtomicBool::new(false), done }
    }

    /// Writes the bounds to the store's directory if they have changed.
    fn keep(&self, engine: &Store) {
        if !self.is_unkept.swap(false, Ordering::AcqRel) || !self.found.is_complete {
            return;
        }
        let below: Vec<u64> = self.below.iter().map(|below| below.load(Ordering::Acquire)).collect();
        if let Err(error) = engine.write_metadata(NAME, &self.found.encode(&below)) {
            tracing::debug!(%error, "cannot keep the bounds of the store's damage; retrying");
            self.is_unkept.store(true, Ordering::Release);
        }
    }

    /// Returns the damaged places as text, `PLACES_REPORTED_MAX` at most.
    pub(super) fn places(&self) -> Vec<String> {
        let place = |(file, offset, bytes): &Place| format!("data file {file}, byte {offset}: {bytes} bytes");
        self.found.places.iter().take(PLACES_REPORTED_MAX).map(place).collect()
    }

    fn below(&self, partition: Partition) -> u64 {
        self.below.get(usize::from(partition)).map_or(WHOLE, |below| below.load(Ordering::Acquire))
    }

    fn set(&self, partition: Partition, from: impl Fn(u64) -> bool, to: u64) {
        if let Some(below) = self.below.get(usize::from(partition))
            && from(below.load(Ordering::Acquire))
        {
            below.store(to, Ordering::Release);
            self.is_unkept.store(true, Ordering::Release);
        }
    }

    /// Returns whether records of the partition may be missing.
    pub(super) fn is_in(&self, partition: Partition) -> bool {
        self.below(partition) != WHOLE
    }

    fn is_anywhere(&self) -> bool {
        (0..PARTITIONS).any(|partition| self.is_in(partition))
    }

    /// Notes that this node is the partition's primary in a new term: no missing record is of this term.
    pub(super) fn begin_term(&self, partition: Partition, term: Term) {
        self.set(partition, |below| below == UNBOUNDED, version(term, 0));
    }

    /// Notes that no record of the partition is missing any more.
    fn heal(&self, partition: Partition) {
        self.set(partition, |below| below != WHOLE, WHOLE);
    }

    /// Returns whether the version found for a key, or its absence, is certainly the newest state of the key.
    pub(super) fn proves(&self, partition: Partition, found: Option<u64>) -> bool {
        match self.below(partition) {
            WHOLE => true,
            below => found.is_some_and(|version| version >= below),
        }
    }
}

/// Returns whether the committed state proves this node's copy of a partition whole: the copy was made equal
/// to another one under the node's present incarnation, or the node has no copy.
fn is_made_anew(state: &ClusterState, node: NodeId, partition: Partition) -> bool {
    let (Some(member), Some(entry)) = (state.member(node), state.partition(partition)) else { return false };
    match entry.replica(node) {
        // A copy that is assigned later starts empty (rule R16).
        None => true,
        Some(replica) => replica.role == ReplicaRole::InSync && replica.syncing_since >= member.since,
    }
}

impl Plane {
    /// Returns whether the store was found damaged at its opening and is not healed yet.
    pub fn is_damaged(&self) -> bool {
        self.damage.is_anywhere()
    }

    /// Notes the partitions whose copies were made equal to another one. `state` must have this node's
    /// present incarnation.
    pub(super) fn note_healed(&self, state: &ClusterState) {
        if self.damage.done.load(Ordering::Acquire) {
            return;
        }
        for partition in (0..PARTITIONS).filter(|partition| is_made_anew(state, self.node, *partition)) {
            self.damage.heal(partition);
        }
    }

    /// Gives up the damaged files once no partition is damaged any more.
    pub fn give_up_lost_files(&self) {
        if self.damage.done.load(Ordering::Acquire) {
            return;
        }
        self.damage.keep(&self.engine);
        if self.is_damaged() {
            return;
        }
        if let Err(error) = self.engine.give_up_lost() {
            return tracing::warn!(%error, "cannot give up damaged data files; no data was changed; retrying");
        }
        self.damage.done.store(true, Ordering::Release);
        let message = format!(
            "the store of node {} was found damaged when it started; all its partitions were restored from \
             other copies or their loss was accepted, and the damaged data files will be replaced",
            self.node.short()
        );
        self.report(Severity::Warning, self.node, message);
    }

    pub(super) fn report_damage(&self, found: &str) {
        let message = format!(
            "the store of node {} is damaged: {found}. Its copies are restored from other nodes before they \
             count as in-sync. Where it has the only complete copy, requests for keys that were not written \
             since then fail with DAMAGED: if nodes with other copies are down, start them; else restore the \
             data directory from a backup, or accept the loss (caskctl partition give-up all)",
            self.node.short()
        );
        self.report(Severity::Error, self.node, message);
    }

    /// Returns the failure for a key of which a newer record may have been lost.
    pub(super) fn lost(&self, partition: Partition) -> Failure {
        Failure::Damaged(format!(
            "the store of node {} was found damaged when it started, and no other node has a complete copy \
             of partition {partition}, so this key may have been lost or have an outdated value; nothing was \
             done; overwrite the key with a plain SET, or restore the data; `caskctl partition give-up \
             {partition}` lists the damage, and can accept the loss",
            self.node.short()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_ordered_after_the_damage_is_known() {
        let damage = Damage::new(Some(DamageFound::default()), None);
        assert!(damage.is_in(7) && !damage.proves(7, Some(version(9, 9))) && !damage.proves(7, None));
        damage.begin_term(7, 5);
        // A later term of the same primary does not change the bound.
        damage.begin_term(7, 6);
        assert!(damage.proves(7, Some(version(5, 1))) && damage.proves(7, Some(version(6, 1))));
        assert!(!damage.proves(7, Some(version(4, 1))) && !damage.proves(7, None));
        assert!(damage.is_in(7) && !damage.proves(8, Some(version(5, 1))), "each partition by itself");
        damage.heal(7);
        damage.begin_term(7, 8);
        assert!(!damage.is_in(7) && damage.proves(7, Some(1)) && damage.proves(7, None));
    }

    fn found(places: &[Place]) -> DamageFound {
        DamageFound { message: String::new(), places: places.to_vec(), is_complete: true }
    }

    #[test]
    fn restart_that_finds_no_other_damage_goes_on_with_what_was_known() {
        let first = found(&[(3, 100, 50), (7, 0, 9)]);
        let damage = Damage::new(Some(first.clone()), None);
        damage.begin_term(1, 5);
        damage.heal(2);
        let below: Vec<u64> = damage.below.iter().map(|below| below.load(Ordering::Acquire)).collect();
        let kept = first.encode(&below);
        for again in [first.clone(), found(&[(7, 0, 9)])] {
            let damage = Damage::new(Some(again.clone()), again.known(&kept));
            assert!(damage.proves(1, Some(version(5, 1))) && !damage.proves(1, Some(version(4, 9))));
            assert!(!damage.is_in(2) && !damage.proves(3, Some(version(9, 9))));
        }
    }

    #[test]
    fn further_or_larger_damage_makes_everything_uncertain_again() {
        let first = found(&[(3, 100, 50)]);
        let mut kept = first.encode(&vec![WHOLE; usize::from(PARTITIONS)]);
        assert!(first.known(&kept).is_some());
        assert_eq!(found(&[(3, 100, 51)]).known(&kept), None);
        assert_eq!(found(&[(3, 100, 50), (4, 1, 1)]).known(&kept), None);
        assert_eq!(DamageFound { is_complete: false, ..first.clone() }.known(&kept), None);
        assert_eq!(first.known(&kept[..kept.len() - 1]), None);
        kept[30] ^= 1;
        assert_eq!(first.known(&kept), None);
    }

    #[test]
    fn whole_store_knows_every_key() {
        let damage = Damage::new(None, None);
        damage.begin_term(1, 5);
        assert!(!damage.is_anywhere() && damage.proves(1, None));
    }
}
