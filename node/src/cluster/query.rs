//! Queries that depend on the committed state alone.

use std::sync::Arc;

use super::state::{ClusterState, Member, MemberStatus, PartitionState, Replica, ReplicaRole};
use crate::id::{NodeId, Partition};

impl ReplicaRole {
    /// Returns the word for the role in answers and messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::InSync => "in-sync",
            Self::Syncing => "syncing",
            Self::Away => "away",
        }
    }
}

impl PartitionState {
    /// Returns the node that orders the partition's writes: that of the first in-sync replica.
    pub fn primary(&self) -> Option<NodeId> {
        self.in_sync().next().map(|replica| replica.node)
    }

    /// Returns the replicas that have every acknowledged write, the primary first.
    pub fn in_sync(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(|replica| replica.role == ReplicaRole::InSync)
    }

    /// Returns the replica on a node.
    pub fn replica(&self, node: NodeId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.node == node)
    }

    /// Returns whether the node has every acknowledged write.
    pub fn is_in_sync(&self, node: NodeId) -> bool {
        self.replica(node).is_some_and(|replica| replica.role == ReplicaRole::InSync)
    }
}

impl ClusterState {
    /// Returns the member with this id.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node)
    }

    /// Returns the number of members that should hold data: all but witnesses.
    pub fn data_members(&self) -> usize {
        self.members.values().filter(|member| self.weight_of(member) > 0).count()
    }

    /// Returns whether the node is a member and has not been declared down.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.member(node).is_some_and(|member| member.status == MemberStatus::Up)
    }

    /// Returns the state of a partition; `None` before the founding.
    pub fn partition(&self, partition: Partition) -> Option<&PartitionState> {
        self.partitions.get(usize::from(partition)).map(Arc::as_ref)
    }

    /// Returns every partition with its state.
    pub fn partitions(&self) -> impl Iterator<Item = (Partition, &PartitionState)> {
        (0..).zip(self.partitions.iter().map(Arc::as_ref))
    }

    /// Returns the partitions that may differ from `former`: those whose own state differs, and all if the
    /// members or the ring differ.
    pub fn changed_since(&self, former: &Self) -> Vec<Partition> {
        let all = self.members != former.members || self.ring != former.ring;
        // If the states share entries, this compares pointers.
        let differs =
            |(at, state): &(usize, &Arc<PartitionState>)| all || former.partitions.get(*at) != Some(*state);
        let changed = self.partitions.iter().enumerate().filter(differs);
        changed.map(|(at, _)| at as Partition).collect()
    }

    /// Returns the node that orders the partition's writes, whether it is up or down.
    pub fn primary(&self, partition: Partition) -> Option<NodeId> {
        self.partition(partition)?.primary()
    }

    /// Returns whether the partition's primary is up.
    pub fn is_live_primary(&self, partition: Partition) -> bool {
        self.primary(partition).is_some_and(|node| self.is_up(node))
    }

    /// Returns whether the partition's replicas are those of the ring, in its order, and all in-sync.
    pub fn converged(&self, partition: Partition) -> bool {
        self.partition(partition).is_some_and(|state| {
            let target = self.ring.replicas(partition);
            state.replicas.iter().map(|replica| &replica.node).eq(target)
                && state.replicas.iter().all(|replica| replica.role == ReplicaRole::InSync)
        })
    }

    /// Returns whether the primary should hand the partition over: see [`Self::successor`].
    pub fn hand_over_due(&self, partition: Partition) -> bool {
        self.successor(partition).is_some()
    }

    /// Returns whether the partition has fewer in-sync replicas on members that are up than the ring names.
    /// In a cluster with fewer nodes than the replication factor, the ring names one replica per node.
    pub fn is_under_replicated(&self, partition: Partition) -> bool {
        self.partition(partition).is_some_and(|state| {
            state.in_sync().filter(|replica| self.is_up(replica.node)).count()
                < self.ring.replicas(partition).len()
        })
    }

    /// Returns whether a change of the partition is pending: a copy is being made, a copy must be released,
    /// or the primary must hand over. An away replica alone is no such change, nor is a stand-in: it is in
    /// its proper place.
    pub fn is_moving(&self, partition: Partition) -> bool {
        let target = self.ring.replicas(partition);
        let on_its_way = |replica: &Replica| {
            let moves = replica.role == ReplicaRole::Syncing || !target.contains(&replica.node);
            moves && replica.stand_in.is_none()
        };
        let state = self.partition(partition);
        state.is_some_and(|state| state.replicas.iter().any(on_its_way)) || self.hand_over_due(partition)
    }

    /// Returns the number of partitions for which [`Self::is_under_replicated`] holds.
    pub fn under_replicated(&self) -> u32 {
        self.count(|partition| self.is_under_replicated(partition))
    }

    /// Returns the number of partitions for which [`Self::is_moving`] holds.
    pub fn moving(&self) -> u32 {
        self.count(|partition| self.is_moving(partition))
    }

    /// Returns the number of partitions without a primary that is up: their requests wait, then fail.
    pub fn unavailable(&self) -> u32 {
        self.count(|partition| !self.is_live_primary(partition))
    }

    /// Returns the fewest copies of a new write of any key: in-sync and syncing replicas on members that are
    /// up.
    pub fn copies_now(&self) -> u8 {
        let receives = |replica: &&Replica| replica.role != ReplicaRole::Away && self.is_up(replica.node);
        let copies = self.partitions.iter().map(|state| state.replicas.iter().filter(receives).count());
        copies.min().map_or(0, |copies| u8::try_from(copies).unwrap_or(u8::MAX))
    }

    /// Returns the hash of the ring, which is equal in equal states.
    pub fn ring_hash(&self) -> u64 {
        self.ring.hash()
    }

    /// Returns the partitions of which a node has a replica, with that replica.
    pub fn replicas_on(&self, node: NodeId) -> impl Iterator<Item = (Partition, &Replica)> {
        self.partitions().filter_map(move |(partition, state)| Some((partition, state.replica(node)?)))
    }

    /// Returns the copies in progress: syncing replicas with their sources, without stand-ins that wait.
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

    /// Returns the number of copies that the running plan has made, of [`super::state::Plan::copies_total`].
    pub fn plan_copies_made(&self) -> Option<u32> {
        let plan = self.plans.running.as_ref()?;
        let replicas = self.partitions.iter().flat_map(|state| &state.replicas);
        let missing = replicas.filter(|replica| replica.is_new_since(plan.epoch)).count() as u32;
        Some(plan.copies_total.saturating_sub(missing))
    }

    fn count(&self, holds: impl Fn(Partition) -> bool) -> u32 {
        self.partitions().filter(|(partition, _)| holds(*partition)).count() as u32
    }
}
