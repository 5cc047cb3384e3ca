//! Tests of the partitions that a drained node hands over, keeps, and gets back.

use super::super::ring::PARTITIONS;
use super::super::samples::{
    after, cluster_of, converged, copied, handed_over, incarnation_of, joined, node, restarted, without,
};
use super::super::state::{Change, Verdict};
use super::*;

fn drain(state: &ClusterState, number: u8) -> Change {
    Change::Drain { node: node(number), incarnation: incarnation_of(state, node(number)) }
}

fn drained(state: &ClusterState, number: u8) -> ClusterState {
    after(state, [drain(state, number)])
}

#[test]
fn drained_node_hands_over_every_partition_settled_and_keeps_its_copies() {
    let before = cluster_of(3);
    let held = before.replicas_on(node(2)).count();
    let due = drained(&before, 2);
    assert_eq!(
        due.primaries_of(node(2)),
        before.primaries_of(node(2)),
        "no partition leaves without its consent"
    );
    let state = handed_over(&due);
    assert_eq!((state.primaries_of(node(2)), state.replicas_on(node(2)).count()), (0, held));
    assert_eq!((state.under_replicated(), state.unavailable(), state.moving()), (0, 0, 0));
    for (partition, placed) in before.partitions().filter(|(_, placed)| placed.primary() == Some(node(2))) {
        let now = state.partition(partition).unwrap();
        assert_eq!((now.term, now.settled), (placed.term + 1, true));
    }
}

#[test]
fn drained_node_gets_its_partitions_back_when_draining_ends_or_it_restarts() {
    let away = handed_over(&drained(&cluster_of(3), 2));
    let undrained = after(&away, [Change::Undrain { node: node(2), incarnation: 1 }]);
    assert!(converged(&undrained).primaries_of(node(2)) > 300);
    let restarted = restarted(&away, 2);
    assert!(!restarted.is_draining(node(2)));
    assert!(converged(&restarted).primaries_of(node(2)) > 300);
}

#[test]
fn partition_without_another_complete_copy_stays_until_there_is_one() {
    let alone = drained(&without(&cluster_of(2), 2), 1);
    assert!((0..PARTITIONS).all(|partition| !alone.hand_over_due(partition)));
    let back = copied(&restarted(&alone, 2));
    assert_eq!(handed_over(&back).primaries_of(node(1)), 0);
}

#[test]
fn all_nodes_drained_continue_to_serve() {
    let all = (1..=3).fold(cluster_of(3), |state, number| drained(&state, number));
    let state = handed_over(&all);
    assert_eq!((state.unavailable(), state.moving()), (0, 0), "no node hands partitions over in a circle");
}

#[test]
fn join_ends_although_the_node_that_is_to_be_first_is_drained() {
    let state = copied(&drained(&joined(&cluster_of(3), 4), 4));
    let state = handed_over(&state);
    assert_eq!((state.primaries_of(node(4)), state.moving(), state.plans.running.clone()), (0, 0, None));
    let state = after(&state, [Change::Undrain { node: node(4), incarnation: 1 }]);
    assert!(converged(&state).primaries_of(node(4)) > 200);
}

#[test]
fn draining_is_void_of_a_node_that_is_not_up_or_is_drained_already() {
    let refused = |state: &ClusterState, change: Change, why: &str| {
        let Verdict::Rejected(reason) = state.clone().apply(&[change]).remove(0) else {
            panic!("it was applied");
        };
        assert!(reason.contains(why), "{reason}");
    };
    let state = cluster_of(3);
    refused(&state, Change::Drain { node: node(2), incarnation: 7 }, "incarnation 1, not 7");
    refused(&state, Change::Drain { node: node(9), incarnation: 1 }, "no member");
    refused(&state, Change::Undrain { node: node(2), incarnation: 1 }, "not drained already");
    refused(&drained(&state, 2), drain(&state, 2), "drained already");
    let down = without(&state, 2);
    refused(&down, drain(&down, 2), "is down");
}
