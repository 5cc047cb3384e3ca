//! States to test with.

use super::state::{Announcement, Change, ClusterState, Replica, Verdict};
use crate::id::{ClusterId, Incarnation, NodeId, Partition};
use caskade_engine::PARTITIONS;

/// A node by number.
pub(super) fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

/// What that node says of itself.
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

/// Which start of a node is registered.
pub(super) fn incarnation_of(state: &ClusterState, node: NodeId) -> Incarnation {
    state
        .member(node)
        .map_or(0, |member| member.announcement.incarnation)
}

/// What a primary proposes of a copy that is done.
pub(super) fn caught_up(state: &ClusterState, partition: Partition, replica: &Replica) -> Change {
    let primary = state.primary(partition).unwrap();
    Change::CaughtUp {
        partition,
        term: state.partition(partition).unwrap().term,
        primary_incarnation: incarnation_of(state, primary),
        node: replica.node,
        incarnation: incarnation_of(state, replica.node),
        syncing_since: replica.syncing_since,
    }
}

/// What a primary proposes of a partition it should not keep.
pub(super) fn hand_over(state: &ClusterState, partition: Partition) -> Change {
    let primary_incarnation = incarnation_of(state, state.primary(partition).unwrap());
    Change::HandOver {
        partition,
        term: state.partition(partition).unwrap().term,
        primary_incarnation,
    }
}

/// Every copy that is syncing gets done, every hand-over that is due is made.
pub(super) fn converge(state: &mut ClusterState) {
    let caught: Vec<Change> = state
        .copies_in_progress()
        .map(|(partition, _, replica)| caught_up(state, partition, replica))
        .collect();
    state.apply(&caught);
    let due = |partition: &Partition| state.hand_over_due(*partition);
    let handed: Vec<Change> = (0..PARTITIONS)
        .filter(due)
        .map(|partition| hand_over(state, partition))
        .collect();
    state.apply(&handed);
}

/// A cluster that node 1 founded.
pub(super) fn founded() -> ClusterState {
    let mut state = ClusterState::default();
    let founder = announcement(1, 1);
    let cluster_id = ClusterId::from_bytes([7; 16]);
    apply(
        &mut state,
        Change::Found {
            cluster_id,
            replication_factor: 2,
            lease_ms: 2000,
            founder,
        },
    );
    state
}

/// Registers a node; it must be allowed.
pub(super) fn register(state: &mut ClusterState, number: u8, incarnation: Incarnation) {
    apply(state, Change::Register(announcement(number, incarnation)));
}

/// Declares a node down; it must be up.
pub(super) fn down(state: &mut ClusterState, number: u8) {
    let incarnation = incarnation_of(state, node(number));
    apply(
        state,
        Change::DeclareDown {
            node: node(number),
            incarnation,
        },
    );
}

fn apply(state: &mut ClusterState, change: Change) {
    let verdicts = state.apply(&[change]);
    assert!(matches!(verdicts.as_slice(), [Verdict::Applied]), "{verdicts:?}");
}

/// Nodes 1 to `count`, all copies where they should be.
pub(super) fn cluster_of(count: u8) -> ClusterState {
    let mut state = founded();
    for number in 2..=count {
        register(&mut state, number, 1);
        converge(&mut state);
    }
    state
}
