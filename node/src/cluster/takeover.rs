//! The first state of a new topology log after a takeover, made from the state of one node (rule R10).
//!
//! The nodes that the takeover gives up may have continued after this node last heard from them. Their data
//! must never conflict with the new side's. The generation therefore grows by one, and every term by
//! [`TERMS_PER_TAKEOVER`], more than the lost side can have used: every new version is newer than all of its
//! versions. The epoch grows by more than the lost side can have counted, so that its assignments are never
//! mistaken for new ones (rule R16).
//!
//! Each partition keeps one valid copy, its *base*: the new founder's if it is in-sync, else that of a
//! reachable node, else another in-sync one, whose node the partition then waits for. All other copies are
//! away, and [`OlderGeneration`] until they are in-sync again: the partition's primary writes again the
//! records that only they have.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::apply::Rejected;
use super::state::{ClusterState, MemberStatus, PartitionState, ReplicaRole};
use super::terms::TERM_MAX;
use crate::id::{Epoch, NodeId, Term};
use crate::mutation::{Mutation, planted};

/// Number by which a takeover raises the term of every partition.
pub const TERMS_PER_TAKEOVER: Term = 1 << 16;
/// Number by which a takeover raises the epoch of the state.
const EPOCHS_PER_TAKEOVER: Epoch = 1 << 32;

/// The topology log to which a state belongs. A node of an older generation has no rights in a newer one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Generation {
    /// Number of takeovers.
    pub number: u32,
    /// The node that took over; `None` in the first generation. Two logs of the same number have different
    /// nodes.
    pub by: Option<NodeId>,
}

/// The takeover from which a state descends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenOver {
    /// The node that took over.
    pub by: NodeId,
    /// The first epoch of the generation.
    pub epoch: Epoch,
}

/// Bounds of the records that a copy of an older generation may have and the present one never had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OlderGeneration {
    /// The first term of the generation that gave up the copy. Older records were written before it, or by
    /// the lost side.
    pub first_term: Term,
    /// The highest version of the base at that time, if known: the base never had newer records of this copy.
    pub seen: Option<u64>,
}

/// The foundation of a new generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Takeover {
    /// The node that founds it.
    pub by: NodeId,
    /// The last state of this node.
    pub from: Box<ClusterState>,
    /// The other members that answer this node.
    pub reachable: BTreeSet<NodeId>,
    /// The highest version in the node's store, by partition.
    pub seen: Vec<u64>,
}

/// Number of partitions that a takeover preserves, by availability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prospect {
    /// Partitions that the new founder serves at once.
    pub served: u32,
    /// Partitions that another reachable node serves, once it has returned.
    pub served_by_others: u32,
    /// Partitions that are unavailable until the node with their last complete copy returns.
    pub waiting: u32,
}

impl ClusterState {
    /// Returns the topology log to which the state belongs.
    pub fn generation(&self) -> Generation {
        Generation { number: self.generation, by: self.taken_over.map(|taken| taken.by) }
    }

    /// Returns whether a node could found a new generation from this one without a trace in this state: it
    /// has copies, and registered in this generation.
    pub fn may_have_taken_over(&self, node: NodeId) -> bool {
        let began = self.taken_over.map_or(0, |taken| taken.epoch);
        self.member(node).is_some_and(|member| member.since > began || self.taken_over.is_none())
            && self.replicas_on(node).next().is_some()
    }

    /// Returns the expected result of a takeover by `by`.
    ///
    /// # Errors
    /// The reason why the takeover is impossible, and the alternative. Nothing is changed.
    pub fn prospect(&self, by: NodeId, reachable: &BTreeSet<NodeId>) -> Result<Prospect, String> {
        if self.partitions.is_empty() || self.member(by).is_none() {
            return Err(
                "this node is no member of a cluster, as far as it knows: it has no committed state to \
                        continue from. Run the takeover on a node that was a member"
                    .to_owned(),
            );
        }
        let used_up = self.partitions().find(|(_, state)| state.term > TERM_MAX - TERMS_PER_TAKEOVER - 1);
        if let Some((partition, state)) = used_up {
            return Err(format!(
                "partition {partition} is in term {} of {TERM_MAX}, and a takeover needs {TERMS_PER_TAKEOVER} \
                 more: they are used up. Start the lost nodes, or copy the keys into a new cluster",
                state.term
            ));
        }
        let mut prospect = Prospect::default();
        for state in &self.partitions {
            match state.base(by, reachable) {
                Some(node) if node == by => prospect.served += 1,
                Some(node) if reachable.contains(&node) => prospect.served_by_others += 1,
                _ => prospect.waiting += 1,
            }
        }
        if prospect.served == 0 {
            return Err("this node has no complete copy of any partition: it could serve nothing. Run the \
                        takeover on a node that has one, or start the nodes that are down"
                .to_owned());
        }
        Ok(prospect)
    }

    /// Makes this the first state of a new generation. Rejected unless this state is not founded.
    pub(super) fn take_over(&mut self, takeover: &Takeover) -> Result<(), Rejected> {
        if self.epoch != 0 || !self.partitions.is_empty() {
            return Err(format!("cluster {} is founded already", self.cluster_id));
        }
        takeover.from.prospect(takeover.by, &takeover.reachable)?;
        let mut state = takeover.from.as_ref().clone();
        let epoch = state.epoch.saturating_add(EPOCHS_PER_TAKEOVER);
        (state.epoch, state.generation) = (epoch, state.generation.saturating_add(1));
        state.taken_over = Some(TakenOver { by: takeover.by, epoch });
        for (node, member) in Arc::make_mut(&mut state.members) {
            // The others return as new incarnations: their knowledge is of another log.
            let present = *node == takeover.by;
            member.status = if present { MemberStatus::Up } else { MemberStatus::Down };
            (member.since, member.draining) = (epoch, false);
        }
        for (index, partition) in state.partitions.iter_mut().map(Arc::make_mut).enumerate() {
            let seen = takeover.seen.get(index).copied();
            partition.take_over(takeover.by, &takeover.reachable, seen);
        }
        state.after_change(epoch);
        *self = state;
        Ok(())
    }
}

impl PartitionState {
    /// Returns the node whose copy is valid from now on.
    fn base(&self, by: NodeId, reachable: &BTreeSet<NodeId>) -> Option<NodeId> {
        let in_sync = || self.in_sync().map(|replica| replica.node);
        let own = in_sync().find(|node| *node == by);
        own.or_else(|| in_sync().find(|node| reachable.contains(node))).or_else(|| self.primary())
    }

    fn take_over(&mut self, by: NodeId, reachable: &BTreeSet<NodeId>, seen: Option<u64>) {
        if !planted(Mutation::TermsOfTheLostSide) {
            self.term += TERMS_PER_TAKEOVER;
        }
        self.settled = false;
        let Some(base) = self.base(by, reachable) else { return };
        let unmerged = OlderGeneration { first_term: self.term, seen: seen.filter(|_| base == by) };
        self.replicas.retain(|replica| replica.node == base || replica.stand_in.is_none());
        for replica in self.replicas.iter_mut().filter(|replica| replica.node != base) {
            (replica.role, replica.complete) = (ReplicaRole::Away, false);
            // A copy that an earlier takeover gave up, and that has not returned since, also lacks the
            // earlier records. The founder's own copy of a partition in which it is not in-sync has nothing
            // that was acknowledged.
            replica.unmerged = replica.unmerged.or(Some(unmerged)).filter(|_| replica.node != by);
        }
        self.replicas.sort_by_key(|replica| replica.node != base);
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{after, announcement, cluster_of, converge, node};
    use super::super::state::{Change, Verdict};
    use super::*;

    fn takeover(from: &ClusterState, by: u8, reachable: &[u8]) -> Change {
        let reachable = reachable.iter().map(|number| node(*number)).collect();
        Change::TakeOver(Takeover {
            by: node(by),
            from: Box::new(from.clone()),
            reachable,
            seen: vec![77; 1024],
        })
    }

    fn taken_over(from: &ClusterState, by: u8, reachable: &[u8]) -> ClusterState {
        let mut state = ClusterState::default();
        assert_eq!(state.apply(&[takeover(from, by, reachable)]), [Verdict::Applied]);
        state
    }

    #[test]
    fn one_of_two_continues_alone_above_every_term_of_the_lost_side() {
        let before = cluster_of(2);
        let state = taken_over(&before, 2, &[]);
        assert_eq!(state.generation(), Generation { number: 1, by: Some(node(2)) });
        assert!(state.epoch > before.epoch && state.is_up(node(2)) && !state.is_up(node(1)));
        for (partition, entry) in state.partitions() {
            assert_eq!(entry.primary(), Some(node(2)));
            assert_eq!(entry.term, before.partition(partition).unwrap().term + TERMS_PER_TAKEOVER);
            let lost = entry.replica(node(1)).unwrap();
            assert_eq!(lost.role, ReplicaRole::Away);
            assert_eq!(lost.unmerged, Some(OlderGeneration { first_term: entry.term, seen: Some(77) }));
        }
    }

    #[test]
    fn returning_copy_is_unmerged_until_it_is_in_sync() {
        let state = taken_over(&cluster_of(2), 2, &[]);
        let state =
            after(&state, [Change::Register(announcement(2, 2)), Change::Register(announcement(1, 2))]);
        let of_lost = |state: &ClusterState| *state.partition(3).unwrap().replica(node(1)).unwrap();
        assert_eq!(state.primary(3), Some(node(2)), "the base stays the primary");
        assert!(of_lost(&state).role == ReplicaRole::Syncing && of_lost(&state).unmerged.is_some());
        let mut state = state;
        converge(&mut state);
        assert!(of_lost(&state).role == ReplicaRole::InSync && of_lost(&state).unmerged.is_none());
    }

    #[test]
    fn partition_is_kept_where_a_complete_copy_answers_and_else_waits_for_its_node() {
        let before = cluster_of(4);
        let (by, answers) = (node(4), node(3));
        let state = taken_over(&before, 4, &[3]);
        let prospect = before.prospect(by, &BTreeSet::from([answers])).unwrap();
        let mut found = Prospect::default();
        for (partition, entry) in before.partitions() {
            let base = state.primary(partition).unwrap();
            assert!(entry.is_in_sync(base), "partition {partition}");
            match (entry.is_in_sync(by), entry.is_in_sync(answers)) {
                (true, _) => found.served += u32::from(base == by),
                (_, true) => found.served_by_others += u32::from(base == answers),
                _ => found.waiting += 1,
            }
        }
        assert_eq!(found, prospect);
        assert!(prospect.waiting > 0 && prospect.served_by_others > 0);
    }

    #[test]
    fn second_takeover_remembers_what_a_copy_missed_since_the_first() {
        let first = taken_over(&cluster_of(2), 2, &[]);
        let second = taken_over(&first, 2, &[]);
        assert_eq!(second.generation, 2);
        let of_lost = |state: &ClusterState| state.partition(0).unwrap().replica(node(1)).unwrap().unmerged;
        assert_eq!(of_lost(&second), of_lost(&first));
    }

    #[test]
    fn takeover_without_terms_left_or_a_complete_copy_is_void_with_a_reason() {
        let mut before = cluster_of(2);
        Arc::make_mut(&mut before.partitions[9]).term = TERM_MAX - TERMS_PER_TAKEOVER;
        let void = |from: &ClusterState, by| match ClusterState::default()
            .apply(&[takeover(from, by, &[])])
            .remove(0)
        {
            Verdict::Rejected(reason) => reason,
            Verdict::Applied => panic!("it was applied"),
        };
        assert!(void(&before, 2).contains("partition 9"), "{}", void(&before, 2));
        assert!(void(&cluster_of(2), 9).contains("no member"));
        let mut witnessed = cluster_of(2);
        let first = witnessed.members[&node(1)].clone();
        Arc::make_mut(&mut witnessed.members).insert(node(5), first);
        assert!(void(&witnessed, 5).contains("no complete copy"));
        assert!(void(&ClusterState::default(), 1).contains("no member"));
        let founded = cluster_of(1);
        assert!(matches!(founded.clone().apply(&[takeover(&founded, 1, &[])])[0], Verdict::Rejected(_)));
    }

    #[test]
    fn only_a_node_that_was_up_in_this_generation_can_have_ended_it() {
        let before = cluster_of(2);
        assert!(before.may_have_taken_over(node(1)));
        let state = taken_over(&before, 2, &[]);
        assert!(!state.may_have_taken_over(node(1)), "it has not registered since");
        let state = after(&state, [Change::Register(announcement(1, 2))]);
        assert!(state.may_have_taken_over(node(1)));
    }
}
