//! Stand-ins: copies in addition to the ring's, for partitions of which a copy is away (rules R8, R15).
//!
//! The entry that makes a copy away also names a stand-in for it: a syncing replica that receives all new
//! writes from then on, so that an acknowledged write is on as many nodes as before. Older records are copied
//! to it only when the node has been away for some time, or on request ([`Change::Rebuild`]): a node that
//! returns earlier needs only the records it missed. A complete stand-in is in-sync like any other replica,
//! and may become primary. It stays until all replicas that the ring names are in-sync.
//!
//! Invariants: a stand-in is on a node that was up and of weight above 0 when it was named, and is the
//! partition's only replica there. A partition without a live primary gets no stand-in. Deterministic.
//!
//! [`Change::Rebuild`]: super::state::Change::Rebuild

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::ring::PARTITIONS;
use super::state::{ClusterState, Member, MemberStatus, PartitionState, Replica, ReplicaRole, StandIn};
use crate::id::{Epoch, Incarnation, NodeId, Partition};

/// A node that could hold one more copy.
struct Candidate {
    node: NodeId,
    zone: String,
    weight: u64,
    copies: u64,
}

impl Candidate {
    /// Orders candidates: first the one with fewer copies for its weight, then the lower id.
    fn compare(&self, other: &Self) -> Ordering {
        let (mine, theirs) = (self.copies * other.weight, other.copies * self.weight);
        mine.cmp(&theirs).then(self.node.cmp(&other.node))
    }
}

impl Replica {
    /// Returns whether this is a stand-in that receives only new writes: nothing is copied to it yet.
    pub fn is_waiting_stand_in(&self) -> bool {
        self.role == ReplicaRole::Syncing && self.stand_in.is_some_and(|stand_in| !stand_in.rebuild)
    }

    /// Returns whether this is a stand-in to which older records are being copied.
    pub fn is_being_rebuilt(&self) -> bool {
        self.role == ReplicaRole::Syncing && self.stand_in.is_some_and(|stand_in| stand_in.rebuild)
    }
}

impl PartitionState {
    /// Returns the stand-ins among the replicas.
    pub fn stand_ins(&self) -> impl Iterator<Item = (&Replica, StandIn)> {
        self.replicas.iter().filter_map(|replica| Some((replica, replica.stand_in?)))
    }

    /// Turns stand-ins that a new ring names into ordinary copies: in-sync ones stay, the others are made
    /// like any other copy.
    pub(super) fn adopt_stand_ins(&mut self, target: &[NodeId]) {
        let adopted = |replica: &Replica| replica.stand_in.is_some() && target.contains(&replica.node);
        // One whose writes are still to be merged is not emptied.
        let stays = |replica: &Replica| replica.role == ReplicaRole::InSync || replica.unmerged.is_some();
        self.replicas.retain(|replica| !adopted(replica) || stays(replica));
        let kept = self.replicas.iter_mut().filter(|replica| adopted(replica));
        kept.for_each(|replica| replica.stand_in = None);
    }

    /// Returns the node for whose copy a further stand-in is: first a node that is away and has no stand-in.
    fn lacking(&self) -> Option<NodeId> {
        let away = || {
            let away = self.replicas.iter().filter(|replica| replica.role == ReplicaRole::Away);
            away.filter(|replica| replica.stand_in.is_none()).map(|replica| replica.node)
        };
        let has_one = |node: &NodeId| self.stand_ins().any(|(_, stand_in)| stand_in.of == *node);
        away().find(|node| !has_one(node)).or_else(|| away().next())
    }
}

impl ClusterState {
    /// Returns how many partitions have a stand-in.
    pub fn with_stand_in(&self) -> u32 {
        self.partitions.iter().filter(|state| state.stand_ins().next().is_some()).count() as u32
    }

    /// Returns how many partitions have a stand-in to which older records are being copied.
    pub fn being_rebuilt(&self) -> u32 {
        let rebuilt = |state: &&Arc<PartitionState>| state.replicas.iter().any(Replica::is_being_rebuilt);
        self.partitions.iter().filter(rebuilt).count() as u32
    }

    /// Returns whether a stand-in for this node's copies waits for
    /// [`Change::Rebuild`](super::state::Change::Rebuild).
    pub fn awaits_rebuild(&self, node: NodeId) -> bool {
        self.partitions.iter().flat_map(|state| state.stand_ins()).any(|(_, stand_in)| waits(&stand_in, node))
    }

    /// Makes the stand-ins for the node's copies receive the older records from now on.
    pub(super) fn rebuild(&mut self, node: NodeId, incarnation: Incarnation) -> Result<(), String> {
        let name = node.short();
        let member = self.member(node).ok_or_else(|| format!("node {name} is no member"))?;
        let registered = member.announcement.incarnation;
        if registered != incarnation {
            return Err(format!("node {name} has incarnation {registered}, not {incarnation}"));
        }
        let mut waited = false;
        for replica in self.partitions.iter_mut().map(Arc::make_mut).flat_map(|state| &mut state.replicas) {
            if let Some(stand_in) = replica.stand_in.as_mut().filter(|stand_in| waits(stand_in, node)) {
                stand_in.rebuild = true;
                waited = true;
            }
        }
        if waited { Ok(()) } else { Err(format!("no stand-in for a copy of node {name} waits to be filled")) }
    }

    /// Names a stand-in for every partition in which fewer copies receive writes than could.
    pub(super) fn name_stand_ins(&mut self, epoch: Epoch) {
        let holds_data = |member: &&Member| self.share_of(member) > 0;
        let up = self.members.values().filter(holds_data).filter(|m| self.is_up(m.announcement.node)).count();
        let wanted = usize::from(self.replication_factor).min(up);
        let all_up = self.members.values().all(|member| member.status == MemberStatus::Up);
        let lacks = |partition: &Partition| {
            // Shortcut, because this runs for every entry of the log: while all members are up, the roles
            // suffice.
            let has_all = |state: &PartitionState| {
                state.replicas.iter().filter(|replica| replica.role != ReplicaRole::Away).count() >= wanted
            };
            let suffices = all_up && self.partition(*partition).is_some_and(has_all);
            !suffices && self.is_live_primary(*partition) && self.receiving(*partition).count() < wanted
        };
        let lacking: Vec<Partition> = (0..PARTITIONS).filter(lacks).collect();
        if lacking.is_empty() {
            return;
        }
        let mut candidates = self.candidates();
        for partition in lacking {
            while self.receiving(partition).count() < wanted
                && let Some((at, of)) = self.choose(partition, &candidates)
            {
                candidates[at].copies += 1;
                let stand_in = Some(StandIn { of, rebuild: false });
                let replica = Replica::assigned(candidates[at].node, ReplicaRole::Syncing, epoch);
                Arc::make_mut(&mut self.partitions[usize::from(partition)])
                    .replicas
                    .push(Replica { stand_in, ..replica });
            }
        }
    }

    /// Returns the replicas that receive new writes.
    fn receiving(&self, partition: Partition) -> impl Iterator<Item = &Replica> {
        let replicas = self.partition(partition).into_iter().flat_map(|state| &state.replicas);
        replicas.filter(|replica| replica.role != ReplicaRole::Away && self.is_up(replica.node))
    }

    /// Returns the nodes that can hold copies, in the order of their ids.
    fn candidates(&self) -> Vec<Candidate> {
        let mut copies: BTreeMap<NodeId, u64> = BTreeMap::new();
        for replica in self.partitions.iter().flat_map(|state| &state.replicas) {
            *copies.entry(replica.node).or_default() += 1;
        }
        let takes = |member: &&Member| self.share_of(member) > 0 && self.is_up(member.announcement.node);
        let candidate = |member: &Member| Candidate {
            node: member.announcement.node,
            zone: self.zone_of(member).to_owned(),
            weight: self.share_of(member).into(),
            copies: copies.get(&member.announcement.node).copied().unwrap_or(0),
        };
        self.members.values().filter(takes).map(candidate).collect()
    }

    /// The node that is up and has the least to hold for its weight, if any holds data.
    pub(super) fn least_loaded(&self) -> Option<NodeId> {
        self.candidates().into_iter().min_by(Candidate::compare).map(|candidate| candidate.node)
    }

    /// Returns the candidate that should hold a copy of the partition, and the node for which it stands in.
    /// Prefers zones without a copy, then the candidate with the least to hold.
    fn choose(&self, partition: Partition, candidates: &[Candidate]) -> Option<(usize, NodeId)> {
        let state = self.partition(partition)?;
        let of = state.lacking()?;
        let zone = |node: NodeId| self.member(node).map_or("", |member| self.zone_of(member));
        let taken: Vec<&str> = self.receiving(partition).map(|replica| zone(replica.node)).collect();
        // A node without a zone is a zone of its own.
        let shares_zone =
            |candidate: &Candidate| !candidate.zone.is_empty() && taken.contains(&candidate.zone.as_str());
        let free = (0..).zip(candidates).filter(|(_, candidate)| state.replica(candidate.node).is_none());
        let best =
            free.min_by(|(_, a), (_, b)| shares_zone(a).cmp(&shares_zone(b)).then_with(|| a.compare(b)));
        best.map(|(at, _)| (at, of))
    }
}

fn waits(stand_in: &StandIn, node: NodeId) -> bool {
    stand_in.of == node && !stand_in.rebuild
}

#[cfg(test)]
mod tests;
