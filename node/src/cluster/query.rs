//! What the committed state says: questions that need no more than the state.

use std::sync::Arc;

use super::state::{ClusterState, Member, MemberStatus, PartitionState, Replica, ReplicaRole};
use crate::id::{NodeId, Partition};

impl ReplicaRole {
    /// The word for it in answers and messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::InSync => "in-sync",
            Self::Syncing => "syncing",
            Self::Away => "away",
        }
    }
}

impl PartitionState {
    /// The node that orders the partition's writes: the first in-sync replica's.
    pub fn primary(&self) -> Option<NodeId> {
        self.in_sync().next().map(|replica| replica.node)
    }

    /// The replicas that hold every acknowledged write, the primary first.
    pub fn in_sync(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(|replica| replica.role == ReplicaRole::InSync)
    }

    /// The replica a node holds.
    pub fn replica(&self, node: NodeId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.node == node)
    }

    /// Whether the node holds every acknowledged write.
    pub fn is_in_sync(&self, node: NodeId) -> bool {
        self.replica(node).is_some_and(|replica| replica.role == ReplicaRole::InSync)
    }
}

impl ClusterState {
    /// A node that was admitted.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node)
    }

    /// How many members are to hold data: all but witnesses.
    pub fn data_members(&self) -> usize {
        self.members.values().filter(|member| self.weight_of(member) > 0).count()
    }

    /// Whether the node is a member and has not been declared down.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.member(node).is_some_and(|member| member.status == MemberStatus::Up)
    }

    /// The state of a partition; none before the founding.
    pub fn partition(&self, partition: Partition) -> Option<&PartitionState> {
        self.partitions.get(usize::from(partition)).map(Arc::as_ref)
    }

    /// Every partition with its state.
    pub fn partitions(&self) -> impl Iterator<Item = (Partition, &PartitionState)> {
        (0..).zip(self.partitions.iter().map(Arc::as_ref))
    }

    /// The partitions of which anything may be another than in `former`: those whose own state is, and all of them where
    /// the members or the ring are.
    pub fn changed_since(&self, former: &Self) -> Vec<Partition> {
        let all = self.members != former.members || self.ring != former.ring;
        // Of states that share them, a comparison of the pointers.
        let differs =
            |(at, state): &(usize, &Arc<PartitionState>)| all || former.partitions.get(*at) != Some(*state);
        let changed = self.partitions.iter().enumerate().filter(differs);
        changed.map(|(at, _)| at as Partition).collect()
    }

    /// The node that orders the partition's writes, be it up or not.
    pub fn primary(&self, partition: Partition) -> Option<NodeId> {
        self.partition(partition)?.primary()
    }

    /// Whether the partition's primary is up.
    pub fn is_live_primary(&self, partition: Partition) -> bool {
        self.primary(partition).is_some_and(|node| self.is_up(node))
    }

    /// Whether the partition's replicas are those the ring names, in its order, and all in-sync.
    pub fn converged(&self, partition: Partition) -> bool {
        self.partition(partition).is_some_and(|state| {
            let target = self.ring.replicas(partition);
            state.replicas.iter().map(|replica| &replica.node).eq(target)
                && state.replicas.iter().all(|replica| replica.role == ReplicaRole::InSync)
        })
    }

    /// Whether the primary should hand the partition over: see [`Self::successor`].
    pub fn hand_over_due(&self, partition: Partition) -> bool {
        self.successor(partition).is_some()
    }

    /// Whether the partition has fewer in-sync replicas on members that are up than the ring names. In a
    /// cluster with fewer nodes than the replication factor, the ring names as many as there are nodes.
    pub fn is_under_replicated(&self, partition: Partition) -> bool {
        self.partition(partition).is_some_and(|state| {
            state.in_sync().filter(|replica| self.is_up(replica.node)).count()
                < self.ring.replicas(partition).len()
        })
    }

    /// Whether something is on its way: a copy is being made, one is to be released, or the primary is to
    /// hand over. An away replica alone is not on its way, and neither is a stand-in: it is where it should be.
    pub fn is_moving(&self, partition: Partition) -> bool {
        let target = self.ring.replicas(partition);
        let on_its_way = |replica: &Replica| {
            let moves = replica.role == ReplicaRole::Syncing || !target.contains(&replica.node);
            moves && replica.stand_in.is_none()
        };
        let state = self.partition(partition);
        state.is_some_and(|state| state.replicas.iter().any(on_its_way)) || self.hand_over_due(partition)
    }

    /// How many partitions [`Self::is_under_replicated`] holds of.
    pub fn under_replicated(&self) -> u32 {
        self.count(|partition| self.is_under_replicated(partition))
    }

    /// How many partitions [`Self::is_moving`] holds of.
    pub fn moving(&self) -> u32 {
        self.count(|partition| self.is_moving(partition))
    }

    /// How many partitions have no primary that is up: their requests wait, then fail.
    pub fn unavailable(&self) -> u32 {
        self.count(|partition| !self.is_live_primary(partition))
    }

    /// Copies that a new write gets at least, whatever its key: in-sync and syncing replicas of members that are up.
    pub fn copies_now(&self) -> u8 {
        let receives = |replica: &&Replica| replica.role != ReplicaRole::Away && self.is_up(replica.node);
        let copies = self.partitions.iter().map(|state| state.replicas.iter().filter(receives).count());
        copies.min().map_or(0, |copies| u8::try_from(copies).unwrap_or(u8::MAX))
    }

    /// Hash of the ring: equal states have equal ones.
    pub fn ring_hash(&self) -> u64 {
        self.ring.hash()
    }

    /// The partitions a node holds a replica of, with that replica.
    pub fn replicas_on(&self, node: NodeId) -> impl Iterator<Item = (Partition, &Replica)> {
        self.partitions().filter_map(move |(partition, state)| Some((partition, state.replica(node)?)))
    }

    /// Copies in the making: syncing replicas, with the node each is copied from. Stand-ins that wait are none.
    pub fn copies_in_progress(&self) -> impl Iterator<Item = (Partition, NodeId, &Replica)> {
        self.partitions().flat_map(|(partition, state)| {
            let syncing = state.replicas.iter().filter(|replica| replica.role == ReplicaRole::Syncing);
            let syncing = syncing.filter(|replica| !replica.is_waiting_stand_in());
            state
                .primary()
                .into_iter()
                .flat_map(move |primary| syncing.clone().map(move |replica| (partition, primary, replica)))
        })
    }

    /// How many copies the running plan has made, of [`super::state::Plan::copies_total`].
    pub fn plan_copies_made(&self) -> Option<u32> {
        let plan = self.plan.as_ref()?;
        let replicas = self.partitions.iter().flat_map(|state| &state.replicas);
        let missing = replicas.filter(|replica| replica.is_new_since(plan.epoch)).count() as u32;
        Some(plan.copies_total.saturating_sub(missing))
    }

    fn count(&self, holds: impl Fn(Partition) -> bool) -> u32 {
        self.partitions().filter(|(partition, _)| holds(*partition)).count() as u32
    }
}
