//! Clusters to test on: made by the changes a real one is made by.

use proptest::prelude::ProptestConfig;

use super::state::{Announcement, Change, ClusterState, ReplicaRole, Verdict};
use crate::id::{ClusterId, Incarnation, NodeId};

/// As many cases of a property as `PROPTEST_CASES` says; without it so many that a build is not held up.
pub(super) fn cases(cases: u32) -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(cases),
    }
}

pub(super) fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

pub(super) fn announcement(number: u8, incarnation: Incarnation) -> Announcement {
    Announcement {
        node: node(number),
        incarnation,
        peer_addrs: vec![format!("/ip4/127.0.0.1/tcp/{number}")],
        client_addr: format!("127.0.0.1:{number}"),
        zone: String::new(),
        weight: 100,
        build: "0.1.0".to_owned(),
        protocol: 1,
    }
}

/// A cluster of node 1 alone.
pub(super) fn founded(replication_factor: u8) -> ClusterState {
    let cluster_id = ClusterId::from_bytes([7; 16]);
    let founder = announcement(1, 1);
    let found = Change::Found {
        cluster_id,
        replication_factor,
        lease_ms: 2000,
        founder,
    };
    after(&ClusterState::default(), [found])
}

/// A cluster of nodes 1 to `count`, its copies where they should be.
pub(super) fn cluster_of(count: u8) -> ClusterState {
    (2..=count).fold(founded(2), |state, number| converged(&joined(&state, number)))
}

/// The state after these changes, each of which applies.
pub(super) fn after(state: &ClusterState, changes: impl IntoIterator<Item = Change>) -> ClusterState {
    let changes: Vec<Change> = changes.into_iter().collect();
    let mut state = state.clone();
    let verdicts = state.apply(&changes);
    assert!(
        verdicts.iter().all(|verdict| *verdict == Verdict::Applied),
        "{verdicts:?}"
    );
    state
}

pub(super) fn joined(state: &ClusterState, number: u8) -> ClusterState {
    after(state, [Change::Register(announcement(number, 1))])
}

/// The node is declared down.
pub(super) fn without(state: &ClusterState, number: u8) -> ClusterState {
    let incarnation = incarnation_of(state, node(number));
    after(
        state,
        [Change::DeclareDown {
            node: node(number),
            incarnation,
        }],
    )
}

/// The node registers its next incarnation.
pub(super) fn restarted(state: &ClusterState, number: u8) -> ClusterState {
    let incarnation = incarnation_of(state, node(number)) + 1;
    after(state, [Change::Register(announcement(number, incarnation))])
}

/// Every copy in the making is made.
pub(super) fn copied(state: &ClusterState) -> ClusterState {
    let made = state
        .copies_in_progress()
        .map(|(partition, primary, replica)| Change::CaughtUp {
            partition,
            term: state.partitions[usize::from(partition)].term,
            primary_incarnation: incarnation_of(state, primary),
            node: replica.node,
            incarnation: incarnation_of(state, replica.node),
            syncing_since: replica.syncing_since,
        });
    after(state, made)
}

/// Every hand-over that is due is made.
pub(super) fn handed_over(state: &ClusterState) -> ClusterState {
    let due = state
        .partitions()
        .filter(|(partition, _)| state.hand_over_due(*partition));
    let changes = due.filter_map(|(partition, placed)| {
        let primary_incarnation = incarnation_of(state, placed.primary()?);
        Some(Change::HandOver {
            partition,
            term: placed.term,
            primary_incarnation,
        })
    });
    after(state, changes)
}

pub(super) fn converged(state: &ClusterState) -> ClusterState {
    let state = handed_over(&copied(state));
    assert!(
        state
            .partitions()
            .all(|(partition, _)| state.converged(partition))
    );
    state
}

/// The replica that is not the primary becomes away, on the first `count` partitions that have one on `number`.
pub(super) fn suspended(state: &ClusterState, number: u8, count: usize) -> ClusterState {
    let backups = state.replicas_on(node(number)).filter(|(partition, replica)| {
        replica.role == ReplicaRole::InSync && state.primary(*partition) != Some(node(number))
    });
    let changes = backups.take(count).filter_map(|(partition, replica)| {
        Some(Change::SuspendReplica {
            partition,
            term: state.partition(partition)?.term,
            primary_incarnation: incarnation_of(state, state.primary(partition)?),
            node: node(number),
            incarnation: incarnation_of(state, node(number)),
            syncing_since: replica.syncing_since,
        })
    });
    after(state, changes)
}

fn incarnation_of(state: &ClusterState, node: NodeId) -> Incarnation {
    state
        .member(node)
        .map_or(0, |member| member.announcement.incarnation)
}
