//! The committed state as operators see it: the parts of `CASK.STATUS` and `CASK.RING` that depend on the
//! state alone.
//!
//! Pure. The asked node adds the parts that only it knows: its own condition, the coordinator, running tasks.
//! Before the founding everything is empty or zero.

use std::collections::{BTreeMap, BTreeSet};

use super::ring::NodeShare;
use super::state::{ClusterState, Member, MemberStatus, PartitionState, Replica, ReplicaRole};
use super::words::{counted, named};
use crate::api;
use crate::id::{NodeId, Partition};

/// Returns the status of the cluster: epoch, ring hash, copies, members, partitions, and warnings with their
/// remedies.
pub fn status(state: &ClusterState) -> api::Status {
    api::Status {
        epoch: state.epoch,
        ring_hash: ring_hash(state),
        replication_factor: state.replication_factor,
        copies_now: state.copies_now(),
        members: state.members.values().map(|one| member(state, one)).collect(),
        auto_rebalance: !state.manual_rebalance,
        protocol: state.protocol_version,
        generation: state.generation,
        partitions_under_replicated: state.under_replicated(),
        partitions_moving: state.moving(),
        partitions_unavailable: state.unavailable(),
        partitions_with_stand_in: state.with_stand_in(),
        partitions_being_rebuilt: state.being_rebuilt(),
        warnings: warnings(state),
        ..api::Status::default()
    }
}

/// Returns the placement that the copies have and should have, by node and by partition.
pub fn ring(state: &ClusterState) -> api::RingView {
    let index: BTreeMap<NodeId, usize> = state.members.keys().copied().zip(0..).collect();
    // Only members ever have a copy.
    let at = |node: &NodeId| index.get(node).copied();
    let partition = |(partition, placed): (Partition, &PartitionState)| api::PartitionView {
        partition,
        term: placed.term,
        replicas: placed
            .replicas
            .iter()
            .filter_map(|replica| Some((at(&replica.node)?, replica.role.word().to_owned())))
            .collect(),
        target: state.ring.replicas(partition).iter().filter_map(at).collect(),
    };
    api::RingView {
        epoch: state.epoch,
        ring_hash: ring_hash(state),
        replication_factor: state.replication_factor,
        shares: shares(state),
        partitions: state.partitions().map(partition).collect(),
    }
}

fn ring_hash(state: &ClusterState) -> String {
    format!("{:016x}", state.ring_hash())
}

/// Returns one word for the condition of a member.
pub(super) fn member_state(state: &ClusterState, member: &Member) -> &'static str {
    let placement = &state.placement;
    match member.status {
        MemberStatus::Down => "down",
        _ if placement.leaving.contains(&member.announcement.node) => "leaving",
        _ if placement.waiting.contains(&member.announcement.node) => "waiting",
        _ => "up",
    }
}

fn member(state: &ClusterState, member: &Member) -> api::MemberStatus {
    let announced = &member.announcement;
    api::MemberStatus {
        id: announced.node.to_string(),
        state: match member.status {
            MemberStatus::Up => "up",
            MemberStatus::Down => "down",
        }
        .to_owned(),
        draining: member.draining,
        client_addr: announced.client_addr.clone(),
        peer_addrs: announced.peer_addrs.clone(),
        zone: state.zone_of(member).to_owned(),
        weight: state.weight_of(member),
        incarnation: announced.incarnation,
        leaving: state.placement.leaving.contains(&announced.node),
        waiting: state.placement.waiting.contains(&announced.node),
        protocol_min: announced.protocol_min,
        protocol_max: announced.protocol,
    }
}

/// Returns one share per member, in the members' order. A share is at most one copy of every partition.
fn shares(state: &ClusterState) -> Vec<api::RingShare> {
    let mut held: BTreeMap<NodeId, Held> = BTreeMap::new();
    for placed in &state.partitions {
        for replica in &placed.replicas {
            let held = held.entry(replica.node).or_default();
            match replica.role {
                ReplicaRole::InSync => held.in_sync += 1,
                ReplicaRole::Syncing => held.syncing += 1,
                ReplicaRole::Away => {}
            }
        }
        if let Some(primary) = placed.primary() {
            held.entry(primary).or_default().primaries += 1;
        }
    }
    let exact = state.ring.shares(&state.ring_members(), state.replication_factor);
    let share = |(member, share): (&Member, NodeShare)| {
        let held = held.get(&share.node).copied().unwrap_or_default();
        api::RingShare {
            id: share.node.to_string(),
            zone: state.zone_of(member).to_owned(),
            weight: state.weight_of(member),
            copies: share.copies,
            copies_ideal: share.copies_ideal,
            primaries: held.primaries,
            in_sync: held.in_sync,
            syncing: held.syncing,
        }
    };
    state.members.values().zip(exact).map(share).collect()
}

/// Copies that a node has now.
#[derive(Clone, Copy, Default)]
struct Held {
    primaries: u32,
    in_sync: u32,
    syncing: u32,
}

/// Returns the warnings for operators, worst first; each contains the remedy.
fn warnings(state: &ClusterState) -> Vec<String> {
    if state.partitions.is_empty() {
        return Vec::new();
    }
    let mut warnings: Vec<String> = [
        unavailable(state),
        one_copy_left(state),
        stood_in_for(state),
        one_copy_so_far(state),
        down(state),
        drained(state),
    ]
    .into_iter()
    .flatten()
    .collect();
    warnings.extend(placement(state));
    warnings.extend(held_back(state));
    warnings
}

/// Returns warnings of operations that an operator has paused, or still has to start.
fn held_back(state: &ClusterState) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(plan) = state.plans.running.as_ref().filter(|_| state.plans.paused) {
        warnings.push(format!(
            "plan {} ({}) is paused: its copies are not made until `caskctl plan resume`",
            plan.id, plan.cause
        ));
    }
    let waiting = &state.placement.waiting;
    if !waiting.is_empty() {
        let (hold, is) = (if waiting.len() == 1 { "holds" } else { "hold" }, named(waiting));
        warnings
            .push(format!("{is} {hold} no data yet: `caskctl plan rebalance` shows and assigns the share"));
    }
    warnings
}

fn unavailable(state: &ClusterState) -> Option<String> {
    let mut waited_for = BTreeSet::new();
    let lost = state.partitions().filter(|(partition, _)| !state.is_live_primary(*partition));
    let count = lost.map(|(_, placed)| waited_for.extend(placed.primary())).count() as u32;
    (count > 0).then(|| {
        format!(
            "{} unavailable: the last complete copy is on {}, which is down. Requests for their keys wait, \
             then fail. Start it again with its data directory, which has the acknowledged writes; if that is \
             lost, see `caskctl partition give-up all`",
            counted(count, "partition"),
            named(&waited_for),
        )
    })
}

/// Warns of partitions that have one copy because the others are on nodes that are down or do not keep up.
fn one_copy_left(state: &ClusterState) -> Option<String> {
    let mut waited_for = BTreeSet::new();
    let mut count = 0;
    for (partition, placed) in state.partitions() {
        if has_one_copy(state, partition) && !is_copied(state, partition) && !is_stood_in_for(placed) {
            count += 1;
            let away = placed.replicas.iter().filter(|replica| replica.role == ReplicaRole::Away);
            waited_for.extend(away.map(|replica| replica.node));
        }
    }
    (count > 0).then(|| {
        format!(
            "{} with one copy left, and no other being made: each waits for {}. Start it again; until then the \
             loss of one more node makes keys unavailable",
            counted(count, "partition"),
            named(&waited_for),
        )
    })
}

/// Warns of partitions whose older records have one copy, while new ones have more.
fn stood_in_for(state: &ClusterState) -> Option<String> {
    let mut waited_for = BTreeSet::new();
    let mut count = 0;
    for (partition, placed) in state.partitions() {
        if has_one_copy(state, partition) && !is_copied(state, partition) && is_stood_in_for(placed) {
            count += 1;
            waited_for.extend(placed.stand_ins().map(|(_, stand_in)| stand_in.of));
        }
    }
    (count > 0).then(|| {
        format!(
            "{} with one copy of the older records; new writes also have a copy on a stand-in. The older \
             records are copied to it when the node they wait for has been down for {} s, or at once by \
             `caskctl node rebuild`: each waits for {}",
            counted(count, "partition"),
            state.rebuild_delay_ms / 1000,
            named(&waited_for),
        )
    })
}

fn is_stood_in_for(placed: &PartitionState) -> bool {
    placed.replicas.iter().any(Replica::is_waiting_stand_in)
}

/// Warns of partitions whose second copy is being made.
fn one_copy_so_far(state: &ClusterState) -> Option<String> {
    let count = state
        .partitions()
        .filter(|(partition, _)| has_one_copy(state, *partition) && is_copied(state, *partition))
        .count() as u32;
    (count > 0).then(|| {
        format!(
            "{} with one complete copy, another being made: stop no node until that is done",
            counted(count, "partition"),
        )
    })
}

/// Returns whether the partition has one live complete copy, while the ring names more.
fn has_one_copy(state: &ClusterState, partition: Partition) -> bool {
    let live = |placed: &PartitionState| placed.in_sync().filter(|replica| state.is_up(replica.node)).count();
    state.ring.replicas(partition).len() > 1 && state.partition(partition).map(live) == Some(1)
}

fn is_copied(state: &ClusterState, partition: Partition) -> bool {
    let copied = |replica: &Replica| replica.role == ReplicaRole::Syncing && !replica.is_waiting_stand_in();
    state.partition(partition).is_some_and(|placed| placed.replicas.iter().any(copied))
}

fn down(state: &ClusterState) -> Option<String> {
    let down: BTreeSet<NodeId> = state.members.keys().copied().filter(|node| !state.is_up(*node)).collect();
    let is = if down.len() == 1 { "is" } else { "are" };
    (!down.is_empty())
        .then(|| format!("{} {is} down: start it again, and it catches up by itself", named(&down)))
}

/// Returns the warning for a cluster without a known coordinator, given the nodes that vote for one.
pub fn no_coordinator(voters: &BTreeSet<NodeId>) -> String {
    let majority = voters.len() / 2 + 1;
    format!(
        "no coordinator is known: {majority} of the voters ({}) must run and reach each other to elect one. \
         Until then leases expire and requests are rejected; no data is lost. Start the voters that are down, \
         with their data directories",
        named(voters)
    )
}

fn drained(state: &ClusterState) -> Option<String> {
    let up = state.members.keys().copied().filter(|node| state.is_up(*node));
    let drained: BTreeSet<NodeId> = up.filter(|node| state.is_draining(*node)).collect();
    let is = if drained.len() == 1 { "is" } else { "are" };
    let text = "drained: other nodes are primary of the partitions; `caskctl node undrain` ends this";
    (!drained.is_empty()).then(|| format!("{} {is} {text}", named(&drained)))
}

/// Returns the reasons why a key has fewer copies than it should have, or why they are not in distinct zones.
fn placement(state: &ClusterState) -> Vec<String> {
    let members = state.ring_members();
    if members.iter().filter(|member| member.weight > 0).count() == 1 {
        return vec![
            "one node holds data: there is one copy of everything, and it is lost with that node's disk. Start \
             a second node with --bootstrap and a peer address of this one"
                .to_owned(),
        ];
    }
    if state.replication_factor == 1 {
        return vec![
            "the cluster was founded with one copy of each key: what a node holds is lost with its disk, and \
             unavailable while it is down"
                .to_owned(),
        ];
    }
    state.ring.violations(&members, state.replication_factor).reasons
}

#[cfg(test)]
mod tests;
