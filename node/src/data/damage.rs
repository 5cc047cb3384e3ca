//! Limits what a store that was found damaged at its opening may decide (rule R4). The damaged stretches may
//! have held any record, so all its partitions count as damaged.
//!
//! If other copies are in-sync, this copy is syncing as after any restart. It is made equal to theirs, and
//! the committed entry that makes it in-sync ends the damage of the partition. If not, this node stays the
//! last in-sync replica:
//!
//! - It knows a key only if its newest record is of a term that began after the damage was found: no lost
//!   record is newer. Other keys fail with an error, never as absent or older. Blind writes still work.
//! - No other copy is made equal to this one, and no tombstone is marked as unneeded.
//!
//! When no partition is damaged any more, the files are given up. An earlier restart finds the damage again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use caskade_engine::PARTITIONS;

use super::notices::Weight;
use super::plane::Plane;
use super::version::version;
use crate::cluster::state::{ClusterState, ReplicaRole};
use crate::id::{NodeId, Partition, Term};
use crate::kv::Failure;
use crate::mutation::{Mutation, planted};

/// Bound of a whole partition: no record is missing.
const WHOLE: u64 = 0;
/// Bound of a damaged partition before its next term: records of any version may be missing.
const UNBOUNDED: u64 = u64::MAX;

/// The damaged partitions, each with the bound of the missing versions.
#[derive(Debug)]
pub(super) struct Damage {
    /// By partition: all missing records have versions below this.
    below: Vec<AtomicU64>,
    /// Whether the damaged files were given up, or there are none.
    done: AtomicBool,
}

impl Damage {
    /// Creates the state of a store that was found damaged at its opening, or whole.
    pub(super) fn new(found: bool) -> Self {
        let found = found && !planted(Mutation::TrustDamage);
        let below = if found { UNBOUNDED } else { WHOLE };
        let below = (0..PARTITIONS).map(|_| AtomicU64::new(below)).collect();
        Self { below, done: AtomicBool::new(!found) }
    }

    fn below(&self, partition: Partition) -> u64 {
        self.below.get(usize::from(partition)).map_or(WHOLE, |below| below.load(Ordering::Acquire))
    }

    fn set(&self, partition: Partition, from: impl Fn(u64) -> bool, to: u64) {
        if let Some(below) = self.below.get(usize::from(partition))
            && from(below.load(Ordering::Acquire))
        {
            below.store(to, Ordering::Release);
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
        if self.damage.done.load(Ordering::Acquire) || self.is_damaged() {
            return;
        }
        if let Err(error) = self.engine.give_up_lost() {
            return tracing::warn!(%error, "cannot give up damaged data files; no data was changed; retrying");
        }
        self.damage.done.store(true, Ordering::Release);
        let message = format!(
            "the store of node {} was found damaged when it started; all its partitions were restored from \
             other copies, and the damaged data files will be replaced",
            self.node.short()
        );
        self.tell(Weight::Warning, self.node, message);
    }

    pub(super) fn tell_damage(&self, found: &str) {
        let message = format!(
            "the store of node {} is damaged: {found}. Its copies are restored from other nodes before they \
             count as in-sync. Where it has the only complete copy, requests for keys that were not written \
             since then fail with DAMAGED: if nodes with other copies are down, start them; else restore the \
             data directory from a backup",
            self.node.short()
        );
        self.tell(Weight::Error, self.node, message);
    }

    /// Returns the failure for a key of which a newer record may have been lost.
    pub(super) fn lost(&self, partition: Partition) -> Failure {
        Failure::Damaged(format!(
            "the store of node {} was found damaged when it started, and no other node has a complete copy \
             of partition {partition}, so this key may have been lost or have an outdated value; nothing was \
             done; overwrite the key with a plain SET, or restore the data; `caskctl events` lists the \
             damage",
            self.node.short()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_ordered_after_the_damage_is_known() {
        let damage = Damage::new(true);
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

    #[test]
    fn whole_store_knows_every_key() {
        let damage = Damage::new(false);
        damage.begin_term(1, 5);
        assert!(!damage.is_anywhere() && damage.proves(1, None));
    }
}
