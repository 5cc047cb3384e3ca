//! States for tests, made by the same changes as real states.

use caskade_engine::slots::PARTITIONS;
use proptest::prelude::ProptestConfig;

use super::state::{
    Announcement, Change, ClusterState, PrimaryRef, Replica, ReplicaRef, ReplicaRole, StoreCondition, Verdict,
};
use crate::id::{ClusterId, Incarnation, NodeId, Partition};

/// Returns the number of cases of a property test: `PROPTEST_CASES`, or a default that keeps the build fast.
pub(super) fn cases(cases: u32) -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(cases),
    }
}

/// Returns the node with this number.
pub(crate) fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

/// Returns the announcement of the node with this number.
pub(crate) fn announcement(number: u8, incarnation: Incarnation) -> Announcement {
    Announcement {
        node: node(number),
        incarnation,
        peer_addrs: vec![format!("/ip4/127.0.0.1/tcp/{number}")],
        client_addr: format!("127.0.0.1:{number}"),
        zone: String::new(),
        weight: 100,
        build: "0.1.0".to_owned(),
        protocol: 1,
        protocol_min: 1,
        store: StoreCondition::Whole,
    }
}

/// Returns the registered incarnation of a node.
pub(super) fn incarnation_of(state: &ClusterState, node: NodeId) -> Incarnation {
    state.member(node).map_or(0, |member| member.announcement.incarnation)
}

/// Returns the partition's primary, as a change names it.
pub(super) fn primary_ref(state: &ClusterState, partition: Partition) -> PrimaryRef {
    let incarnation = incarnation_of(state, state.primary(partition).unwrap());
    PrimaryRef { partition, term: state.partition(partition).unwrap().term, incarnation }
}

/// Returns the replica, as a change names it.
pub(super) fn replica_ref(state: &ClusterState, replica: &Replica) -> ReplicaRef {
    let Replica { node, syncing_since, .. } = *replica;
    ReplicaRef { node, incarnation: incarnation_of(state, node), syncing_since }
}

/// Returns the change that a primary proposes for a complete copy.
pub(super) fn caught_up(state: &ClusterState, partition: Partition, replica: &Replica) -> Change {
    Change::CaughtUp {
        primary: primary_ref(state, partition),
        replica: replica_ref(state, replica),
        source_digest: 0,
        target_digest: 0,
        sent_keys: 0,
        sent_bytes: 0,
    }
}

/// Returns the change that a primary proposes for a partition that it should hand over.
pub(super) fn hand_over(state: &ClusterState, partition: Partition) -> Change {
    Change::HandOver(primary_ref(state, partition))
}

/// Completes every syncing copy, and performs every hand-over that is due.
pub(super) fn converge(state: &mut ClusterState) {
    let caught: Vec<Change> = state
        .copies_in_progress()
        .map(|(partition, _, replica)| caught_up(state, partition, replica))
        .collect();
    state.apply(&caught);
    let due = |partition: &Partition| state.hand_over_due(*partition);
    let handed: Vec<Change> =
        (0..PARTITIONS).filter(due).map(|partition| hand_over(state, partition)).collect();
    state.apply(&handed);
}

/// Returns a cluster of node 1 alone.
pub(super) fn founded(replication_factor: u8) -> ClusterState {
    let cluster_id = ClusterId::from_bytes([7; 16]);
    let founder = announcement(1, 1);
    let (lease_ms, rebuild_delay_ms) = (2000, 300_000);
    let found = Change::Found { cluster_id, replication_factor, lease_ms, rebuild_delay_ms, founder };
    after(&ClusterState::default(), [found])
}

/// Returns a cluster of nodes 1 to `count`, with its copies where the ring names them.
pub(super) fn cluster_of(count: u8) -> ClusterState {
    (2..=count).fold(founded(2), |state, number| converged(&joined(&state, number)))
}

/// Returns the state after these changes, each of which must be applied.
pub(super) fn after(state: &ClusterState, changes: impl IntoIterator<Item = Change>) -> ClusterState {
    let changes: Vec<Change> = changes.into_iter().collect();
    let mut state = state.clone();
    let verdicts = state.apply(&changes);
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Applied), "{verdicts:?}");
    state
}

pub(super) fn joined(state: &ClusterState, number: u8) -> ClusterState {
    after(state, [Change::Register(announcement(number, 1))])
}

/// Declares the node down.
pub(super) fn without(state: &ClusterState, number: u8) -> ClusterState {
    let incarnation = incarnation_of(state, node(number));
    after(state, [Change::DeclareDown { node: node(number), incarnation }])
}

/// Registers the node's next incarnation.
pub(super) fn restarted(state: &ClusterState, number: u8) -> ClusterState {
    let incarnation = incarnation_of(state, node(number)) + 1;
    after(state, [Change::Register(announcement(number, incarnation))])
}

/// Completes every copy in progress.
pub(super) fn copied(state: &ClusterState) -> ClusterState {
    let copies = state.copies_in_progress();
    after(state, copies.map(|(partition, _, replica)| caught_up(state, partition, replica)))
}

/// Performs every hand-over that is due.
pub(super) fn handed_over(state: &ClusterState) -> ClusterState {
    let due = (0..PARTITIONS).filter(|partition| state.hand_over_due(*partition));
    after(state, due.map(|partition| hand_over(state, partition)))
}

/// Moves all copies where the ring names them.
pub(super) fn converged(state: &ClusterState) -> ClusterState {
    let mut state = state.clone();
    converge(&mut state);
    assert!((0..PARTITIONS).all(|partition| state.converged(partition)));
    state
}

/// Suspends the non-primary replica of node `number`, on the first `count` partitions that have one.
pub(super) fn suspended(state: &ClusterState, number: u8, count: usize) -> ClusterState {
    let backups = state.replicas_on(node(number)).filter(|(partition, replica)| {
        replica.role == ReplicaRole::InSync && state.primary(*partition) != Some(node(number))
    });
    let changes = backups.take(count).map(|(partition, replica)| Change::SuspendReplica {
        primary: primary_ref(state, partition),
        replica: replica_ref(state, replica),
    });
    after(state, changes)
}
