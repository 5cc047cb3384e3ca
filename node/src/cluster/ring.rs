//! Placement: for every partition the ordered list of the nodes that should hold it.
//!
//! [`Ring::compute`] is a pure function of the previous ring and the members, so that every node can compute
//! the ring itself and compare hashes. In falling order of importance it sees to it that
//! 1. the copies of a partition are on distinct nodes, as many as the replication factor says, or as there
//!    are nodes;
//! 2. each node holds its weighted share of copies, rounded up or down;
//! 3. as few copies as possible share a zone with another copy of their partition;
//! 4. as few copies as possible move;
//! 5. each node is first in the list for its weighted share of partitions, rounded up or down;
//! 6. as few partitions as possible change their first node.
//!
//! Each is optimal given those above it; see `docs/decisions/0003-ring-placement.md`. A node that names
//! no zone is a zone of its own. It refuses nothing: without members that hold data the ring stays as it was.

mod assign;
mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use self::assign::{Problem, assign};
use self::share::{Bounds, Share, shares};
use crate::id::{NodeId, Partition};

/// How many partitions the hash circle is cut into.
pub const PARTITIONS: u16 = 1024;

/// For every partition the ordered list of its replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    /// Shared by the states of one ring.
    table: Arc<Vec<Vec<NodeId>>>,
}

/// What the ring needs to know of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingMember {
    /// Who it is.
    pub node: NodeId,
    /// Share relative to the others'; 0 holds nothing.
    pub weight: u32,
    /// Failure zone; a member that names none is a zone of its own.
    pub zone: String,
}

/// A copy that one ring names and another does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which partition.
    pub partition: Partition,
    /// The node that gets the copy.
    pub node: NodeId,
}

/// What a node holds by the ring, and what its exact share would be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeShare {
    /// Which node.
    pub node: NodeId,
    /// Copies the ring names it for.
    pub copies: u32,
    /// Partitions the ring names it first for.
    pub primaries: u32,
    /// Its exact share of copies.
    pub copies_ideal: f64,
    /// Its exact share of primaries.
    pub primaries_ideal: f64,
}

/// Why copies are not all in distinct zones, or not as many as the replication factor says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    /// Partitions that have two copies in one zone.
    pub partitions_sharing_a_zone: u32,
    /// One sentence a cause; empty if nothing is violated.
    pub reasons: Vec<String>,
}

impl Ring {
    /// Computes the ring of these members, staying as close as possible to `previous`. Takes some
    /// milliseconds.
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
            // The first, then those that were there in their order, then the new ones.
            let place = |node: &usize| present.iter().position(|other| other == node).unwrap_or(usize::MAX);
            nodes.sort_by_key(|node| (!first.contains(node), place(node), *node));
            nodes.into_iter().map(|node| members[node].node).collect()
        };
        let table: Vec<_> = holders.into_iter().zip(first).zip(present).map(ordered).collect();
        Ring { table: Arc::new(table) }
    }

    /// The replicas of a partition, the one that should be primary first; empty before the founding.
    pub fn replicas(&self, partition: Partition) -> &[NodeId] {
        self.table.get(usize::from(partition)).map_or(&[], Vec::as_slice)
    }

    /// The same ring with `new` in every place of `old`.
    pub fn substituted(&self, old: NodeId, new: NodeId) -> Ring {
        let place = |node: &NodeId| if *node == old { new } else { *node };
        let table: Vec<_> = self.table.iter().map(|nodes| nodes.iter().map(place).collect()).collect();
        Ring { table: Arc::new(table) }
    }

    /// Whether the node has any place in it.
    pub fn names(&self, node: NodeId) -> bool {
        self.table.iter().any(|nodes| nodes.contains(&node))
    }

    /// All nodes that have a place in it.
    pub fn nodes(&self) -> BTreeSet<NodeId> {
        self.table.iter().flatten().copied().collect()
    }

    /// Whether no partition is placed.
    pub fn is_empty(&self) -> bool {
        self.table.iter().all(Vec::is_empty)
    }

    /// Every partition with its replicas.
    pub fn iter(&self) -> impl Iterator<Item = (Partition, &[NodeId])> {
        (0..PARTITIONS).zip(self.table.iter().map(Vec::as_slice))
    }

    /// Hash of the table: equal on all nodes that hold the same ring.
    pub fn hash(&self) -> u64 {
        let mut hasher = Xxh3::new();
        for list in self.table.iter() {
            hasher.update(&(list.len() as u64).to_le_bytes());
            list.iter().for_each(|node| hasher.update(node.as_bytes()));
        }
        hasher.digest()
    }

    /// What each member holds and should hold, in the order given.
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

    /// What keeps the copies of some partitions from being in distinct zones, or from being as many as they
    /// should. If no member names a zone, none is asked for.
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
                "zone '{zone}' has {held} copies to hold by the weights of its nodes, which is more than one of \
                 each of the {PARTITIONS} partitions: {copies} share it with another copy"
            )
        }));
        Violations { partitions_sharing_a_zone: sharing, reasons }
    }
}

/// The copies that `new` names and `old` does not.
pub fn moves(old: &Ring, new: &Ring) -> Vec<Move> {
    let mut moves = Vec::new();
    for (partition, nodes) in new.iter() {
        let gained = nodes.iter().filter(|node| !old.replicas(partition).contains(node));
        moves.extend(gained.map(|node| Move { partition, node: *node }));
    }
    moves
}

/// The copies that must move whatever the placement, going by the shares alone: what the nodes lack, and at
/// least what has no place to stay. Distinct nodes and zones can ask for more.
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

/// The members that hold data, in the order of their names, each once.
fn holders(members: &[RingMember]) -> Vec<&RingMember> {
    let mut holders: Vec<&RingMember> = members.iter().filter(|member| member.weight > 0).collect();
    holders.sort_by_key(|member| member.node);
    holders.dedup_by_key(|member| member.node);
    holders
}

/// The table of a ring with the members' numbers for their names; others are left out.
fn numbered(ring: &Ring, members: &[&RingMember]) -> Vec<Vec<usize>> {
    let number = |node: &NodeId| members.binary_search_by_key(node, |member| member.node).ok();
    (0..PARTITIONS).map(|partition| ring.replicas(partition).iter().filter_map(number).collect()).collect()
}

/// For each member the number of its zone, where it shares that with another.
fn shared_zones(members: &[&RingMember]) -> Vec<Option<usize>> {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    members.iter().for_each(|member| *count.entry(&member.zone).or_default() += 1);
    let shared = count.into_iter().filter(|(zone, members)| *members > 1 && !zone.is_empty());
    let numbers: BTreeMap<&str, usize> = shared.zip(0..).map(|((zone, _), number)| (zone, number)).collect();
    members.iter().map(|member| numbers.get(member.zone.as_str()).copied()).collect()
}

#[cfg(test)]
mod tests;
