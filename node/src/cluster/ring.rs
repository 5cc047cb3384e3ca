//! Placement: for every partition the ordered list of the nodes that should hold it.
//!
//! [`Ring::compute`] is a pure function of the previous ring and the members, so that every node can compute
//! the ring itself and compare hashes. The ring satisfies, in falling order of importance:
//! 1. the copies of a partition are on distinct nodes, as many as the replication factor says, or as there
//!    are nodes;
//! 2. each node holds its weighted share of copies, rounded up or down;
//! 3. as few copies as possible share a zone with another copy of their partition;
//! 4. as few copies as possible move;
//! 5. each node is first in the list for its weighted share of partitions, rounded up or down;
//! 6. as few partitions as possible change their first node.
//!
//! Each is optimal given those above it; see `docs/decisions/0003-ring-placement.md`. A node without a zone
//! is a zone of its own. No input is rejected: without members that hold data the ring stays unchanged.

mod assign;
mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use self::assign::{Problem, assign};
use self::share::{Bounds, Share, shares};
use crate::id::{NodeId, Partition};

/// Number of partitions of the hash space.
pub const PARTITIONS: u16 = 1024;

/// For every partition, the ordered list of its replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    /// Shared by all states with the same ring.
    table: Arc<Vec<Vec<NodeId>>>,
}

/// A member as the ring needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingMember {
    /// Id of the member.
    pub node: NodeId,
    /// Share relative to the other weights; 0 holds no data.
    pub weight: u32,
    /// Failure zone; a member without a zone is a zone of its own.
    pub zone: String,
}

/// A copy that a ring names and its predecessor does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The partition.
    pub partition: Partition,
    /// The node that gets the copy.
    pub node: NodeId,
}

/// A node's share of the ring, and its exact share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeShare {
    /// The node.
    pub node: NodeId,
    /// Copies that the ring assigns to it.
    pub copies: u32,
    /// Partitions for which the ring names it first.
    pub primaries: u32,
    /// Its exact share of copies.
    pub copies_ideal: f64,
    /// Its exact share of primaries.
    pub primaries_ideal: f64,
}

/// Deviations from distinct zones and from the replication factor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    /// Partitions that have two copies in one zone.
    pub partitions_sharing_a_zone: u32,
    /// One sentence per cause; empty without violations.
    pub reasons: Vec<String>,
}

impl Ring {
    /// Computes the ring of these members, as close as possible to `previous`. Takes a few milliseconds.
    pub fn compute(previous: &Ring, members: &[RingMember], replication_factor: u8) -> Ring {
        let members = holders(members);
        let copies = usize::from(replication_factor).min(members.len());
        if copies == 0 {
            return previous.clone();
        }
        let shares = shares(&members, copies);
        let present = numbered(previous, &members);
        let holders = assign(&Problem {
            needs: copies,
            bounds: shares.iter().map(|share| share.bounds()).collect(),
            zones: shared_zones(&members),
            present: present.clone(),
            allowed: None,
        });
        let stays_first = |(list, nodes): (&Vec<usize>, &Vec<usize>)| {
            list.first().copied().filter(|node| nodes.contains(node)).into_iter().collect()
        };
        let first = assign(&Problem {
            needs: 1,
            bounds: shares.iter().map(|share| share.part(copies).bounds()).collect(),
            zones: vec![None; members.len()],
            present: present.iter().zip(&holders).map(stays_first).collect(),
            allowed: Some(holders.clone()),
        });
        let ordered = |((mut nodes, first), present): ((Vec<usize>, Vec<usize>), Vec<usize>)| {
            // First the first node, then the present nodes in their order, then the new ones.
            let place = |node: &usize| present.iter().position(|other| other == node).unwrap_or(usize::MAX);
            nodes.sort_by_key(|node| (!first.contains(node), place(node), *node));
            nodes.into_iter().map(|node| members[node].node).collect()
        };
        let table: Vec<_> = holders.into_iter().zip(first).zip(present).map(ordered).collect();
        Ring { table: Arc::new(table) }
    }

    /// Returns the replicas of a partition, first the one that should be primary; empty before the founding.
    pub fn replicas(&self, partition: Partition) -> &[NodeId] {
        self.table.get(usize::from(partition)).map_or(&[], Vec::as_slice)
    }

    /// Returns the ring with `new` in every place of `old`.
    pub fn substituted(&self, old: NodeId, new: NodeId) -> Ring {
        let place = |node: &NodeId| if *node == old { new } else { *node };
        let table: Vec<_> = self.table.iter().map(|nodes| nodes.iter().map(place).collect()).collect();
        Ring { table: Arc::new(table) }
    }

    /// Returns whether the ring assigns any copy to the node.
    pub fn names(&self, node: NodeId) -> bool {
        self.table.iter().any(|nodes| nodes.contains(&node))
    }

    /// Returns all nodes to which the ring assigns a copy.
    pub fn nodes(&self) -> BTreeSet<NodeId> {
        self.table.iter().flatten().copied().collect()
    }

    /// Returns whether no partition is placed.
    pub fn is_empty(&self) -> bool {
        self.table.iter().all(Vec::is_empty)
    }

    /// Returns every partition with its replicas.
    pub fn iter(&self) -> impl Iterator<Item = (Partition, &[NodeId])> {
        (0..PARTITIONS).zip(self.table.iter().map(Vec::as_slice))
    }

    /// Returns the hash of the table, which is equal on all nodes with the same ring.
    pub fn hash(&self) -> u64 {
        let mut hasher = Xxh3::new();
        for list in self.table.iter() {
            hasher.update(&(list.len() as u64).to_le_bytes());
            list.iter().for_each(|node| hasher.update(node.as_bytes()));
        }
        hasher.digest()
    }

    /// Returns each member's present and exact share, in the order given.
    pub fn shares(&self, members: &[RingMember], replication_factor: u8) -> Vec<NodeShare> {
        let holders = holders(members);
        let copies = usize::from(replication_factor).min(holders.len());
        let exact: BTreeMap<NodeId, Share> =
            holders.iter().map(|member| member.node).zip(shares(&holders, copies)).collect();
        let mut held: BTreeMap<NodeId, (u32, u32)> = BTreeMap::new();
        for nodes in self.table.iter() {
            nodes.iter().for_each(|node| held.entry(*node).or_default().0 += 1);
            nodes.iter().take(1).for_each(|node| held.entry(*node).or_default().1 += 1);
        }
        let share = |member: &RingMember| {
            let (copies_held, primaries) = held.get(&member.node).copied().unwrap_or_default();
            let ideal = exact.get(&member.node).filter(|_| copies > 0);
            NodeShare {
                node: member.node,
                copies: copies_held,
                primaries,
                copies_ideal: ideal.map_or(0.0, |share| share.ideal()),
                primaries_ideal: ideal.map_or(0.0, |share| share.part(copies).ideal()),
            }
        };
        members.iter().map(share).collect()
    }

    /// Returns the reasons why copies of some partitions are not in distinct zones, or fewer than they should
    /// be. If no member has a zone, distinct zones are not required.
    pub fn violations(&self, members: &[RingMember], replication_factor: u8) -> Violations {
        let members = holders(members);
        let zone_of: BTreeMap<NodeId, &str> = members.iter().map(|m| (m.node, m.zone.as_str())).collect();
        let mut reasons = Vec::new();
        let wanted = usize::from(replication_factor);
        if members.len() < wanted {
            let nodes = members.len();
            reasons
                .push(format!("{wanted} copies need {wanted} nodes that hold data, and there are {nodes}"));
        }
        let mut excess: BTreeMap<&str, u32> = BTreeMap::new();
        let mut sharing = 0;
        for nodes in self.table.iter() {
            let zones: Vec<&str> = nodes
                .iter()
                .filter_map(|n| zone_of.get(n).copied())
                .filter(|zone| !zone.is_empty())
                .collect();
            let again = (1..zones.len()).filter(|at| zones[..*at].contains(&zones[*at]));
            let again: Vec<&str> = again.map(|at| zones[at]).collect();
            sharing += u32::from(!again.is_empty());
            again.into_iter().for_each(|zone| *excess.entry(zone).or_default() += 1);
        }
        reasons.extend(excess.into_iter().map(|(zone, copies)| {
            let held = u32::from(PARTITIONS) + copies;
            format!(
                "zone '{zone}' has {held} copies to hold by the weights of its nodes, more than one of \
                 each of the {PARTITIONS} partitions: {copies} share it with another copy"
            )
        }));
        Violations { partitions_sharing_a_zone: sharing, reasons }
    }
}

/// Returns the copies that `new` names and `old` does not.
pub fn moves(old: &Ring, new: &Ring) -> Vec<Move> {
    let mut moves = Vec::new();
    for (partition, nodes) in new.iter() {
        let gained = nodes.iter().filter(|node| !old.replicas(partition).contains(node));
        moves.extend(gained.map(|node| Move { partition, node: *node }));
    }
    moves
}

/// Returns the number of copies that must move in any placement, by the shares alone: the copies that nodes
/// lack, and at least those that no node can keep. Distinct nodes and zones can require more.
pub fn ideal_moves(previous: &Ring, members: &[RingMember], replication_factor: u8) -> u32 {
    let members = holders(members);
    let copies = usize::from(replication_factor).min(members.len());
    if copies == 0 {
        return 0;
    }
    let mut held = vec![0; members.len()];
    numbered(previous, &members).iter().flatten().for_each(|node| held[*node] += 1);
    let bounds: Vec<Bounds> = shares(&members, copies).iter().map(|share| share.bounds()).collect();
    let pairs = || held.iter().zip(&bounds);
    let lacking: usize = pairs().map(|(held, bounds)| bounds.least.saturating_sub(*held)).sum();
    let staying: usize = pairs().map(|(held, bounds)| (*held).min(bounds.most)).sum();
    lacking.max((usize::from(PARTITIONS) * copies).saturating_sub(staying)) as u32
}

/// Returns the members that hold data, in the order of their ids and without duplicates.
fn holders(members: &[RingMember]) -> Vec<&RingMember> {
    let mut holders: Vec<&RingMember> = members.iter().filter(|member| member.weight > 0).collect();
    holders.sort_by_key(|member| member.node);
    holders.dedup_by_key(|member| member.node);
    holders
}

/// Returns the table of a ring with the index of each member in place of its id; other nodes are left out.
fn numbered(ring: &Ring, members: &[&RingMember]) -> Vec<Vec<usize>> {
    let number = |node: &NodeId| members.binary_search_by_key(node, |member| member.node).ok();
    (0..PARTITIONS).map(|partition| ring.replicas(partition).iter().filter_map(number).collect()).collect()
}

/// Returns for each member the index of its zone, if it shares the zone with another member.
fn shared_zones(members: &[&RingMember]) -> Vec<Option<usize>> {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    members.iter().for_each(|member| *count.entry(&member.zone).or_default() += 1);
    let shared = count.into_iter().filter(|(zone, members)| *members > 1 && !zone.is_empty());
    let numbers: BTreeMap<&str, usize> = shared.zip(0..).map(|((zone, _), number)| (zone, number)).collect();
    members.iter().map(|member| numbers.get(member.zone.as_str()).copied()).collect()
}

#[cfg(test)]
mod tests;
