//! Placement: for every partition the ordered list of the nodes that should hold it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::id::{NodeId, Partition};

/// How many partitions the hash circle is cut into.
pub const PARTITIONS: u16 = 1024;

/// For every partition the ordered list of its replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    table: Vec<Vec<NodeId>>,
}

/// What the ring needs to know of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingMember {
    /// Who it is.
    pub node: NodeId,
    /// Share relative to the others'; 0 holds nothing.
    pub weight: u32,
    /// Failure zone; members that name none share the zone "".
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

impl Ring {
    /// Computes the ring of these members, staying as close as possible to `previous`.
    pub fn compute(previous: &Ring, members: &[RingMember], replication_factor: u8) -> Ring {
        let mut members: Vec<&RingMember> = members.iter().filter(|m| m.weight > 0).collect();
        members.sort_by_key(|m| m.node);
        members.dedup_by_key(|m| m.node);
        let copies = usize::from(replication_factor).min(members.len());
        if copies == 0 {
            return previous.clone();
        }
        let mut left = quotas(&members, copies);
        let mut table = vec![Vec::with_capacity(copies); usize::from(PARTITIONS)];
        for (list, old) in table.iter_mut().zip(&previous.table) {
            for node in old {
                if let Some(left) = left
                    .get_mut(node)
                    .filter(|left| **left > 0 && list.len() < copies)
                {
                    *left -= 1;
                    list.push(*node);
                }
            }
        }
        for list in &mut table {
            while list.len() < copies {
                let free = left.iter().filter(|(node, _)| !list.contains(node));
                let Some(node) = free
                    .max_by_key(|(node, left)| (**left, Reverse(**node)))
                    .map(|(n, _)| *n)
                else {
                    break;
                };
                if let Some(left) = left.get_mut(&node) {
                    *left -= 1;
                }
                list.push(node);
            }
        }
        Ring { table }
    }

    /// The replicas of a partition, the one that should be primary first; empty before the founding.
    pub fn replicas(&self, partition: Partition) -> &[NodeId] {
        self.table.get(usize::from(partition)).map_or(&[], Vec::as_slice)
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
        for list in &self.table {
            hasher.update(&(list.len() as u64).to_le_bytes());
            list.iter().for_each(|node| hasher.update(node.as_bytes()));
        }
        hasher.digest()
    }
}

/// The copies that `new` names and `old` does not.
pub fn moves(old: &Ring, new: &Ring) -> Vec<Move> {
    let moved = |(partition, nodes): (Partition, &[NodeId])| {
        let had = old.replicas(partition);
        let gained = nodes.iter().filter(move |node| !had.contains(node));
        gained
            .map(move |node| Move {
                partition,
                node: *node,
            })
            .collect::<Vec<_>>()
    };
    new.iter().flat_map(moved).collect()
}

fn quotas(members: &[&RingMember], copies: usize) -> BTreeMap<NodeId, i64> {
    let total: u64 = members.iter().map(|m| u64::from(m.weight)).sum();
    let wanted = u64::from(PARTITIONS) * copies as u64;
    let share = |m: &&&RingMember| (u64::from(m.weight) * wanted / total).min(u64::from(PARTITIONS)) as i64;
    members.iter().map(|m| (m.node, share(&m))).collect()
}

/// The fewest copies that any ring of these members could move.
pub fn ideal_moves(previous: &Ring, members: &[RingMember], replication_factor: u8) -> u32 {
    moves(previous, &Ring::compute(previous, members, replication_factor)).len() as u32
}
