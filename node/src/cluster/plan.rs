//! Preview of an operation before its commit: the copies to make, with source, target, keys and bytes, the
//! balance before and after, and obstacles to a proper placement.
//!
//! Pure: the preview applies the operation to a copy of the state with the same function as a commit, so that
//! plan and execution cannot differ. It rejects an operation that a commit would find void, with the same
//! text.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::operations::{AdminOperation, Basis};
use super::ring;
use super::state::{Announcement, Change, ClusterState, Replica, ReplicaRole, StoreCondition, Verdict};
use super::view;
use crate::api::{PlanDone, PlanMove, PlanPreview, PlanShare, PlanStatus, Task};
use crate::id::{NodeId, Partition};

/// Live keys and bytes of one partition, as its primary counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionSize {
    /// Keys.
    pub keys: u64,
    /// Bytes of the records of these keys.
    pub bytes: u64,
}

/// The figures of partitions; partitions without figures from their primary are absent.
pub type SizesByPartition = BTreeMap<Partition, PartitionSize>;

/// Subject of a preview.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// An operation.
    Operation(AdminOperation),
    /// A node of this weight and zone joins.
    Join {
        /// Weight of the node.
        weight: u32,
        /// Zone of the node.
        zone: String,
    },
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}", self.members, self.ring)
    }
}

impl FromStr for Basis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("'{text}' is not the token of a plan: a token is two numbers of 16 hexadecimal digits")
        };
        let (members, ring) = text.split_once('-').ok_or_else(wrong)?;
        let number = |digits: &str| u64::from_str_radix(digits, 16).map_err(|_| wrong());
        Ok(Self { members: number(members)?, ring: number(ring)? })
    }
}

/// Space on a node's disk, according to its report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskRoom {
    /// Free bytes.
    pub free: u64,
    /// The node's low mark, in free bytes; 0: it has no low mark.
    pub low: u64,
}

/// The disk space of nodes; nodes without a report are absent.
pub type DiskRooms = BTreeMap<NodeId, DiskRoom>;

/// Returns the expected result of an operation or a join.
///
/// `bytes_per_s` is the pace at which one node sends copies. Copies that would leave a node less free space
/// than its low mark are rejected. If they replace those of a removed or dead node, they are only listed as a
/// violation.
///
/// # Errors
/// The reason why a commit would be void.
pub fn preview(
    state: &ClusterState,
    question: &Question,
    figures: &SizesByPartition,
    rooms: &DiskRooms,
    bytes_per_s: u64,
) -> Result<PlanPreview, String> {
    let (change, joins) = match question {
        Question::Operation(operation) => {
            (Change::Operate { operation: operation.clone(), basis: None }, false)
        }
        Question::Join { weight, zone } => (Change::Register(newcomer(state, *weight, zone)), true),
    };
    let mut after = state.clone();
    if joins {
        after.manual_rebalance = false;
    }
    if let Some(Verdict::Rejected(reason)) = after.apply(&[change]).into_iter().next() {
        return Err(reason);
    }
    let copies = Copies::between(state, &after, figures);
    let short = copies.short_of_room(rooms);
    let restores = matches!(
        question,
        Question::Operation(AdminOperation::Remove { .. } | AdminOperation::Replace { .. })
    );
    if !short.is_empty() && !restores {
        return Err(format!(
            "{}; nothing was changed. Enlarge those file systems, delete keys, or add a node first",
            short.join("; ")
        ));
    }
    let basis = Basis { members: state.basis_hash(), ring: after.ring_hash() };
    let members = after.ring_members();
    Ok(PlanPreview {
        epoch: state.epoch,
        token: if joins { String::new() } else { basis.to_string() },
        ring_hash_before: format!("{:016x}", state.ring_hash()),
        ring_hash_after: format!("{:016x}", after.ring_hash()),
        copies_to_make: copies.made,
        copies_ideal: ring::ideal_moves(&state.ring, &members, after.replication_factor),
        copies_to_release: copies.released,
        primaries_to_move: primaries_moved(state, &after),
        keys: copies.moves.values().map(|figure| figure.1.keys).sum(),
        bytes: copies.moves.values().map(|figure| figure.1.bytes).sum(),
        partitions_unknown: copies.unknown,
        eta_s: copies.slowest_source_bytes() as f64 / bytes_per_s.max(1) as f64,
        bytes_per_s,
        moves: copies.moves(),
        before: balance(state),
        after: balance(&after),
        violations: after
            .ring
            .violations(&members, after.replication_factor)
            .reasons
            .into_iter()
            .chain(short)
            .collect(),
        joins_a_running_plan: state.plans.running.is_some(),
        ..PlanPreview::default()
    })
}

/// Returns the announcement of a fictitious node, to preview a join.
fn newcomer(state: &ClusterState, weight: u32, zone: &str) -> Announcement {
    let version = state.protocol_version;
    let free = (0..=u8::MAX).map(|number| NodeId::from_bytes([number; 32]));
    let unused = |node: &NodeId| !state.members.contains_key(node) && state.removed_in(*node).is_none();
    Announcement {
        node: free.into_iter().find(unused).unwrap_or_default(),
        incarnation: 1,
        peer_addrs: Vec::new(),
        client_addr: String::new(),
        zone: zone.to_owned(),
        weight,
        build: String::new(),
        protocol: version,
        protocol_min: version,
        store: StoreCondition::Whole,
    }
}

/// The copies that one state has assigned and another has not.
#[derive(Default)]
struct Copies {
    /// By source (the primary, if it is up) and target: number of partitions, keys and bytes.
    moves: BTreeMap<(Option<NodeId>, NodeId), (u32, PartitionSize)>,
    made: u32,
    released: u32,
    unknown: u32,
}

impl Copies {
    fn between(before: &ClusterState, after: &ClusterState, figures: &SizesByPartition) -> Self {
        let mut copies = Self::default();
        for (partition, placed) in after.partitions() {
            let Some(former) = before.partition(partition) else { continue };
            let source = after.primary(partition).filter(|node| after.is_up(*node));
            // This includes a former stand-in that had only the new writes, and is now a copy to make.
            let is_new = |replica: &&Replica| {
                former.replica(replica.node).is_none_or(|old| {
                    old.stand_in.is_some() && old.role != ReplicaRole::InSync && replica.stand_in.is_none()
                })
            };
            for replica in placed.replicas.iter().filter(is_new) {
                let figure = figures.get(&partition);
                copies.made += 1;
                copies.unknown += u32::from(figure.is_none());
                let (count, sum) = copies.moves.entry((source, replica.node)).or_default();
                *count += 1;
                sum.keys += figure.map_or(0, |figure| figure.keys);
                sum.bytes += figure.map_or(0, |figure| figure.bytes);
            }
            let target = after.ring.replicas(partition);
            copies.released += former.replicas.iter().filter(|r| !target.contains(&r.node)).count() as u32;
        }
        copies
    }

    fn moves(&self) -> Vec<PlanMove> {
        let row = |(&(source, target), &(partitions, figures)): (
            &(Option<NodeId>, NodeId),
            &(u32, PartitionSize),
        )| {
            PlanMove {
                source: source.map(|node| node.to_string()).unwrap_or_default(),
                target: target.to_string(),
                partitions,
                keys: figures.keys,
                bytes: figures.bytes,
            }
        };
        self.moves.iter().map(row).collect()
    }

    /// Returns a sentence for each node that these copies would leave less free space than its low mark.
    fn short_of_room(&self, rooms: &DiskRooms) -> Vec<String> {
        let mut received: BTreeMap<NodeId, u64> = BTreeMap::new();
        for ((_, target), (_, figures)) in &self.moves {
            *received.entry(*target).or_default() += figures.bytes;
        }
        let short = received.into_iter().filter_map(|(node, bytes)| {
            let room = rooms.get(&node).filter(|room| room.low > 0 && bytes > 0)?;
            (room.free.saturating_sub(bytes) < room.low).then(|| {
                format!(
                    "node {} would receive {bytes} bytes and has {} free: less than its low mark of {} would be left",
                    node.short(),
                    room.free,
                    room.low
                )
            })
        });
        short.collect()
    }

    /// Returns the bytes of the node with most to send: every node sends at its own pace, so that node
    /// finishes last.
    fn slowest_source_bytes(&self) -> u64 {
        let mut sent: BTreeMap<Option<NodeId>, u64> = BTreeMap::new();
        for ((source, _), (_, figures)) in &self.moves {
            *sent.entry(*source).or_default() += figures.bytes;
        }
        sent.into_values().max().unwrap_or(0)
    }
}

fn primaries_moved(before: &ClusterState, after: &ClusterState) -> u32 {
    let moved = |(partition, nodes): &(Partition, &[NodeId])| {
        nodes.first().is_some_and(|first| before.primary(*partition) != Some(*first))
    };
    after.ring.iter().filter(moved).count() as u32
}

fn balance(state: &ClusterState) -> Vec<PlanShare> {
    let shares = state.ring.shares(&state.ring_members(), state.replication_factor);
    let row = |(member, share): (&super::state::Member, ring::NodeShare)| PlanShare {
        id: share.node.to_string(),
        state: view::member_state(state, member).to_owned(),
        zone: state.zone_of(member).to_owned(),
        weight: state.weight_of(member),
        copies: share.copies,
        copies_ideal: share.copies_ideal,
        primaries: share.primaries,
        primaries_ideal: share.primaries_ideal,
    };
    state.members.values().zip(shares).map(row).collect()
}

/// Returns the last plan that has ended.
pub fn last(state: &ClusterState) -> Option<PlanDone> {
    let plan = state.plans.last.as_ref()?;
    Some(PlanDone {
        id: plan.id,
        cause: plan.cause.clone(),
        epoch: plan.epoch,
        copies_total: plan.copies_total,
        copies_ideal: plan.copies_ideal,
        moved_keys: plan.moved_keys,
        moved_bytes: plan.moved_bytes,
    })
}

/// Returns the running plan, from the state and the tasks of the nodes.
pub fn status(state: &ClusterState, tasks: &[Task]) -> Option<PlanStatus> {
    let plan = state.plans.running.as_ref()?;
    let migrations = || tasks.iter().filter(|task| task.kind == "migration");
    let left: u64 = migrations().map(|task| task.bytes_total.saturating_sub(task.bytes_done)).sum();
    let bytes_per_s = migrations().fold(0.0, |sum, task| sum + task.bytes_per_s);
    let running = bytes_per_s > 0.0 && !state.plans.paused;
    Some(PlanStatus {
        id: plan.id,
        cause: plan.cause.clone(),
        epoch: plan.epoch,
        copies_total: plan.copies_total,
        copies_ideal: plan.copies_ideal,
        copies_made: state.plan_copies_made().unwrap_or(0),
        partitions_moving: state.moving(),
        paused: state.plans.paused,
        throttle_bytes_per_s: state.throttle_bytes_per_s,
        can_abort: state.plans.before.is_some(),
        moved_keys: plan.moved_keys,
        moved_bytes: plan.moved_bytes,
        bytes_done: migrations().map(|task| task.bytes_done).sum(),
        bytes_total: migrations().map(|task| task.bytes_total).sum(),
        bytes_per_s: if state.plans.paused { 0.0 } else { bytes_per_s },
        eta_s: running.then(|| left as f64 / bytes_per_s),
    })
}

#[cfg(test)]
mod tests;
