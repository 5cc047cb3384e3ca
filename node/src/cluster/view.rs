//! The committed state as people and scripts read it: those parts of the answers of [`crate::api`] that every
//! node tells alike.

use std::collections::BTreeMap;

use super::state::{ClusterState, Member, MemberStatus, PartitionState, Replica, ReplicaRole};
use crate::api::{self, PartitionView, RingShare, RingView, Status};
use crate::id::{NodeId, Partition};

impl MemberStatus {
    /// The word for it in answers.
    fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// What `CASK.STATUS` tells of the state.
pub fn status(state: &ClusterState) -> Status {
    Status {
        epoch: state.epoch,
        ring_hash: format!("{:016x}", state.ring_hash()),
        replication_factor: state.replication_factor,
        copies_now: state.copies_now(),
        members: state.members.values().map(member).collect(),
        partitions_under_replicated: state.under_replicated(),
        partitions_moving: state.moving(),
        partitions_unavailable: state.unavailable(),
        warnings: warnings(state),
        ..Status::default()
    }
}

fn member(member: &Member) -> api::MemberStatus {
    let announcement = &member.announcement;
    api::MemberStatus {
        id: announcement.node.to_string(),
        state: member.status.word().to_owned(),
        client_addr: announcement.client_addr.clone(),
        peer_addrs: announcement.peer_addrs.clone(),
        zone: announcement.zone.clone(),
        weight: announcement.weight,
        incarnation: announcement.incarnation,
    }
}

/// What an operator should know, the worst first.
fn warnings(state: &ClusterState) -> Vec<String> {
    let mut warnings = Vec::new();
    match state.unavailable() {
        0 => {}
        count => warnings.push(format!(
            "{count} partitions have no copy on a node that is up: their keys can be neither read nor written \
             until one of their nodes is back"
        )),
    }
    for member in state
        .members
        .values()
        .filter(|member| member.status == MemberStatus::Down)
    {
        let node = member.announcement.node;
        warnings.push(format!(
            "node {} is down: {} partitions have a copy less until it is back; start it again",
            node.short(),
            state.replicas_on(node).count()
        ));
    }
    let last_copies = state
        .partitions()
        .filter(|(partition, _)| has_one_copy_of_several(state, *partition))
        .count();
    if last_copies > 0 {
        warnings.push(format!(
            "{last_copies} partitions have one copy only: writes to them are acknowledged with that one copy"
        ));
    }
    let members = state.ring_members();
    warnings.extend(state.ring.violations(&members, state.replication_factor).reasons);
    warnings
}

/// Whether just one in-sync copy is on a node that is up, where the ring names more nodes.
fn has_one_copy_of_several(state: &ClusterState, partition: Partition) -> bool {
    let Some(copies) = state.partition(partition) else {
        return false;
    };
    let up = copies
        .in_sync()
        .filter(|replica| state.is_up(replica.node))
        .count();
    up == 1 && state.ring.replicas(partition).len() > 1
}

/// What `CASK.RING` tells.
pub fn ring(state: &ClusterState) -> RingView {
    let places: BTreeMap<NodeId, usize> = state.members.keys().copied().zip(0..).collect();
    let place = |node: &NodeId| places.get(node).copied();
    let view = |(partition, copies): (Partition, &PartitionState)| PartitionView {
        partition,
        term: copies.term,
        replicas: in_order(copies)
            .filter_map(|replica| Some((place(&replica.node)?, replica.role.word().to_owned())))
            .collect(),
        target: state.ring.replicas(partition).iter().filter_map(place).collect(),
    };
    RingView {
        epoch: state.epoch,
        ring_hash: format!("{:016x}", state.ring_hash()),
        replication_factor: state.replication_factor,
        shares: shares(state),
        partitions: state.partitions().map(view).collect(),
    }
}

/// The replicas, the primary first.
fn in_order(copies: &PartitionState) -> impl Iterator<Item = &Replica> {
    let primary = copies.primary();
    let is_primary = move |replica: &&Replica| Some(replica.node) == primary;
    let others = copies.replicas.iter().filter(move |replica| !is_primary(replica));
    copies.replicas.iter().filter(is_primary).chain(others)
}

fn shares(state: &ClusterState) -> Vec<RingShare> {
    let members = state.ring_members();
    let exact = state.ring.shares(&members, state.replication_factor);
    let share = |(member, exact): (super::ring::RingMember, super::ring::NodeShare)| {
        let with_role = |role| {
            state
                .replicas_on(member.node)
                .filter(|(_, replica)| replica.role == role)
                .count() as u32
        };
        let is_primary = |(_, copies): &(Partition, &PartitionState)| copies.primary() == Some(member.node);
        RingShare {
            id: member.node.to_string(),
            copies: exact.copies,
            copies_ideal: exact.copies_ideal,
            primaries: state.partitions().filter(is_primary).count() as u32,
            in_sync: with_role(ReplicaRole::InSync),
            syncing: with_role(ReplicaRole::Syncing),
            zone: member.zone,
            weight: member.weight,
        }
    };
    members.into_iter().zip(exact).map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::samples::{cluster_of, down, node};

    #[test]
    fn a_healthy_cluster_has_nothing_to_warn_of() {
        let status = status(&cluster_of(3));
        assert_eq!(
            (status.members.len(), status.copies_now, status.warnings.len()),
            (3, 2, 0)
        );
        assert_eq!(
            (status.partitions_under_replicated, status.partitions_unavailable),
            (0, 0)
        );
    }

    #[test]
    fn a_cluster_of_one_is_told_that_it_has_one_copy() {
        let status = status(&cluster_of(1));
        assert_eq!(status.copies_now, 1);
        assert!(
            status.warnings[0].contains("2 copies need 2 nodes"),
            "{:?}",
            status.warnings
        );
    }

    #[test]
    fn a_node_that_is_down_is_named_with_what_it_means() {
        let mut state = cluster_of(3);
        down(&mut state, 2);
        let status = status(&state);
        assert_eq!(status.members[1].state, "down");
        assert!(
            status.warnings.iter().any(|text| text.contains(&node(2).short())),
            "{:?}",
            status.warnings
        );
        assert!(
            status.warnings.iter().any(|text| text.contains("one copy only")),
            "{:?}",
            status.warnings
        );
        assert!(status.partitions_under_replicated > 600);
    }

    #[test]
    fn the_ring_tells_every_copy_once_and_the_primary_first() {
        let state = cluster_of(3);
        let view = ring(&state);
        let copies: u32 = view.shares.iter().map(|share| share.in_sync).sum();
        let primaries: u32 = view.shares.iter().map(|share| share.primaries).sum();
        assert_eq!((copies, primaries, view.partitions.len()), (2048, 1024, 1024));
        for partition in &view.partitions {
            let first = state.members.keys().nth(partition.replicas[0].0).copied();
            assert_eq!(first, state.primary(partition.partition));
            assert_eq!(
                partition.target,
                partition
                    .replicas
                    .iter()
                    .map(|(place, _)| *place)
                    .collect::<Vec<_>>()
            );
        }
        let ideal: f64 = view.shares.iter().map(|share| share.copies_ideal).sum();
        assert!((ideal - 2048.0).abs() < 0.01);
    }
}
