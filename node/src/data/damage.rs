//! What a store that was damaged when it was opened still decides: nothing (rule R4).
//!
//! What its damaged stretches held is not known, so every partition it held before counts as damaged. Where others
//! are in-sync this node's copy is syncing, as after any restart: it is made equal to theirs, and the committed entry
//! that makes it in-sync says that nothing is missing any more. Where nobody else has everything this node stays the
//! last in-sync replica, and its primary, with these limits:
//!
//! - A key is known only if its newest record here is of a term that began after the damage was found, or later:
//!   nothing that was lost is newer. All other keys are answered with an error, never as absent or older. Writes that
//!   need not know the key go on.
//! - Nobody is made equal to this copy, and no tombstone is said to be unneeded.
//!
//! When no partition is damaged any more the damaged files are given up, and the next start finds none. A restart before
//! that finds the damage again, and begins anew.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use caskade_engine::PARTITIONS;

use super::notices::Weight;
use super::plane::Plane;
use super::version::version;
use crate::cluster::state::{ClusterState, ReplicaRole};
use crate::id::{NodeId, Partition, Term};
use crate::kv::Failure;
use crate::mutation::{Mutation, planted};

/// Nothing is missing.
const WHOLE: u64 = 0;
/// Anything may be missing, whatever its version.
const UNBOUNDED: u64 = u64::MAX;

/// Which partitions are damaged, and up to where.
#[derive(Debug)]
pub(super) struct Damage {
    /// By partition: whatever is missing is of a lower version than this.
    below: Vec<AtomicU64>,
    /// The files were given up, or there are none.
    done: AtomicBool,
}

impl Damage {
    /// Of a store that was found damaged, or not.
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

    /// Whether records of the partition may be missing.
    pub(super) fn is_in(&self, partition: Partition) -> bool {
        self.below(partition) != WHOLE
    }

    fn is_anywhere(&self) -> bool {
        (0..PARTITIONS).any(|partition| self.is_in(partition))
    }

    /// This node orders the partition's writes from now on, in a term in which none of what is missing was ordered.
    pub(super) fn begin_term(&self, partition: Partition, term: Term) {
        self.set(partition, |below| below == UNBOUNDED, version(term, 0));
    }

    /// The partition lacks nothing any more.
    fn heal(&self, partition: Partition) {
        self.set(partition, |below| below != WHOLE, WHOLE);
    }

    /// Whether what was found of a key, a version or nothing, is its newest record for certain.
    pub(super) fn proves(&self, partition: Partition, found: Option<u64>) -> bool {
        match self.below(partition) {
            WHOLE => true,
            below => found.is_some_and(|version| version >= below),
        }
    }
}

/// Whether the committed state says that this node's copy of a partition was made equal to another one, or is none,
/// since it registered its present incarnation.
fn is_made_anew(state: &ClusterState, node: NodeId, partition: Partition) -> bool {
    let (Some(member), Some(entry)) = (state.member(node), state.partition(partition)) else { return false };
    match entry.replica(node) {
        // What is assigned again after this starts empty (rule R16).
        None => true,
        Some(replica) => replica.role == ReplicaRole::InSync && replica.syncing_since >= member.since,
    }
}

impl Plane {
    /// Whether the store was damaged when it was opened, and is not healed.
    pub fn is_damaged(&self) -> bool {
        self.damage.is_anywhere()
    }

    /// Takes note of the partitions that were brought up to date. The state names this node's present incarnation.
    pub(super) fn note_healed(&self, state: &ClusterState) {
        if self.damage.done.load(Ordering::Acquire) {
            return;
        }
        for partition in (0..PARTITIONS).filter(|partition| is_made_anew(state, self.node, *partition)) {
            self.damage.heal(partition);
        }
    }

    /// Gives up the damaged files once no partition lacks anything.
    pub fn give_up_lost_files(&self) {
        if self.damage.done.load(Ordering::Acquire) || self.is_damaged() {
            return;
        }
        if let Err(error) = self.engine.give_up_lost() {
            return tracing::warn!(%error, "damaged data files were not given up; trying again");
        }
        self.damage.done.store(true, Ordering::Release);
        let message = format!(
            "the store of node {} was found damaged when it started; all its partitions were restored from other \
             copies, and the damaged data files are going to be replaced",
            self.node.short()
        );
        self.tell(Weight::Warning, self.node, message);
    }

    pub(super) fn tell_damage(&self, found: &str) {
        let message = format!(
            "the store of node {} is damaged: {found}. Its partitions are restored from other copies before they count. \
             Where it has the only complete copy, keys that were not written since are answered with DAMAGED: if nodes \
             with other copies are down, start them; else restore the data directory from a backup",
            self.node.short()
        );
        self.tell(Weight::Error, self.node, message);
    }

    /// What is answered for a key of which a newer record may have been lost.
    pub(super) fn lost(&self, partition: Partition) -> Failure {
        Failure::Damaged(format!(
            "the store of node {} was found damaged when it started, and no other node has all of partition \
             {partition}: this key may have been lost, or be older than it should be; nothing was done. A write that \
             replaces it whatever it was (SET) mends it; `caskctl events` tells what is damaged",
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
        // A later term of the same primary proves no more.
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
