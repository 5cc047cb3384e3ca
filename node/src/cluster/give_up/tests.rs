//! Giving up a last copy: the copies that remain, and the changes that are void.

use std::collections::BTreeSet;

use super::*;
use crate::cluster::ring::PARTITIONS;
use crate::cluster::samples::{
    after, announcement, caught_up, cluster_of, converge, incarnation_of, node, without,
};
use crate::cluster::state::{Announcement, Change, StoreCondition, Verdict};

/// The node starts again, on a store of this condition.
fn returned(state: &ClusterState, number: u8, store: StoreCondition) -> ClusterState {
    let incarnation = incarnation_of(state, node(number)) + 1;
    let said = announcement(number, incarnation);
    let said = Announcement { store, ..said };
    after(state, [Change::Register(said)])
}

fn loss(state: &ClusterState, partition: Partition, cause: Cause) -> Loss {
    let holder = state.primary(partition).unwrap();
    let term = state.partition(partition).unwrap().term;
    Loss { partition, term, holder, incarnation: incarnation_of(state, holder), cause }
}

fn given_up(state: &ClusterState, partition: Partition, cause: Cause) -> ClusterState {
    let next = after(state, [Change::GiveUp(vec![loss(state, partition, cause)])]);
    check(&next);
    next
}

fn refusal(state: &ClusterState, losses: Vec<Loss>) -> String {
    let mut next = state.clone();
    match next.apply(&[Change::GiveUp(losses)]).remove(0) {
        Verdict::Rejected(reason) => {
            assert!(next == *state, "a void change changed something");
            reason
        }
        Verdict::Applied => panic!("it was applied"),
    }
}

/// The invariants of every state.
fn check(state: &ClusterState) {
    for (partition, placed) in state.partitions() {
        let nodes: BTreeSet<NodeId> = placed.replicas.iter().map(|replica| replica.node).collect();
        assert_eq!(nodes.len(), placed.replicas.len(), "partition {partition}: a node twice");
        assert_eq!(placed.primary(), placed.replicas.first().map(|replica| replica.node));
        for replica in &placed.replicas {
            let asked_for = state.ring.replicas(partition).contains(&replica.node);
            assert!(replica.stand_in.is_none() || !asked_for, "a stand-in where the ring wants a copy");
            assert!(replica.assigned <= replica.syncing_since && replica.syncing_since <= state.epoch);
            assert!(replica.role != ReplicaRole::Syncing || state.is_up(replica.node));
            let last = placed.is_last_in_sync(replica.node);
            assert!(replica.role != ReplicaRole::InSync || state.is_up(replica.node) || last);
        }
    }
}

/// A partition that the ring has on these two nodes.
fn partition_of(state: &ClusterState, nodes: [u8; 2]) -> Partition {
    let wanted: BTreeSet<NodeId> = nodes.map(node).into();
    let holds = |partition: &Partition| {
        state.ring.replicas(*partition).iter().copied().collect::<BTreeSet<_>>() == wanted
    };
    (0..PARTITIONS).find(holds).unwrap()
}

#[test]
fn copy_of_a_node_that_is_lost_is_replaced_and_never_used_again() {
    let state = cluster_of(3);
    let partition = partition_of(&state, [1, 2]);
    let lost = without(&without(&state, 1), 2);
    assert_eq!(lost.primary(partition), Some(node(2)), "the last to go");
    let term = lost.partition(partition).unwrap().term;
    let next = given_up(&lost, partition, Cause::Down);
    let placed = next.partition(partition).unwrap();
    assert_eq!((placed.primary(), placed.term, placed.settled), (Some(node(3)), term + 1, false));
    for number in [1, 2] {
        let replica = placed.replica(node(number)).unwrap();
        assert_eq!((replica.role, replica.assigned), (ReplicaRole::Away, next.epoch), "it starts empty");
        assert_eq!(replica.unmerged, None, "nothing of it is merged");
    }
    let others = (0..PARTITIONS).filter(|other| *other != partition);
    for other in others {
        assert_eq!(next.partition(other), lost.partition(other), "the others are left alone");
    }
    // It returns with all it had.
    let back = returned(&next, 2, StoreCondition::Whole);
    let replica = *back.partition(partition).unwrap().replica(node(2)).unwrap();
    assert_eq!((replica.role, replica.assigned), (ReplicaRole::Syncing, next.epoch));
    assert!(!replica.complete && back.primary(partition) == Some(node(3)));
    let mut back = returned(&back, 1, StoreCondition::Whole);
    (0..3).for_each(|_| converge(&mut back));
    check(&back);
    assert!(back.converged(partition), "{}", back.partition(partition).unwrap());
}

#[test]
fn partition_without_any_live_copy_starts_empty_on_a_node_that_is_up() {
    let state = cluster_of(3);
    let partition = partition_of(&state, [1, 2]);
    let down = |number: u8| Change::DeclareDown {
        node: node(number),
        incarnation: incarnation_of(&state, node(number)),
    };
    let lost = after(&state, [down(1), down(2)]);
    assert!(lost.partition(partition).unwrap().replica(node(3)).is_none(), "nobody stood in");
    let next = given_up(&lost, partition, Cause::Down);
    let placed = next.partition(partition).unwrap();
    let base = placed.replicas.first().unwrap();
    assert_eq!((base.node, base.role, base.assigned), (node(3), ReplicaRole::InSync, next.epoch));
    assert!(base.stand_in.is_some(), "the ring keeps the places of the others");
    let mut back = returned(&returned(&next, 1, StoreCondition::Whole), 2, StoreCondition::Whole);
    (0..3).for_each(|_| converge(&mut back));
    assert!(back.converged(partition), "{}", back.partition(partition).unwrap());
}

#[test]
fn best_of_the_live_copies_counts_and_the_others_are_merged_into_it() {
    let state = cluster_of(4);
    let partition = partition_of(&state, [1, 2]);
    // Node 1 misses writes, which a stand-in gets; it is back, and node 2 goes before it has caught up.
    let behind = returned(&without(&state, 1), 1, StoreCondition::Whole);
    let stand_in = behind.partition(partition).unwrap().stand_ins().next().map(|(replica, _)| replica.node);
    let stand_in = stand_in.unwrap();
    let lost = without(&behind, 2);
    assert_eq!(lost.primary(partition), Some(node(2)));
    let next = given_up(&lost, partition, Cause::Down);
    let placed = next.partition(partition).unwrap();
    assert_eq!(placed.primary(), Some(node(1)), "it had everything once");
    assert_eq!(placed.replica(node(1)).unwrap().unmerged, None);
    let merged = placed.replica(stand_in).unwrap();
    assert_eq!(merged.unmerged, Some(OlderGeneration { first_term: placed.term, seen: None }));
    assert_eq!(merged.role, ReplicaRole::Syncing);
    assert!(merged.is_being_rebuilt(), "it does not wait: it may have what the base lacks");
    assert_eq!(placed.replica(node(2)).unwrap().assigned, next.epoch);
    // It is not released before that.
    let back = returned(&next, 2, StoreCondition::Whole);
    let lost_copy = *back.partition(partition).unwrap().replica(node(2)).unwrap();
    let back = after(&back, [caught_up(&back, partition, &lost_copy)]);
    let stays = back.partition(partition).unwrap().replica(stand_in);
    assert!(
        stays.is_some_and(|replica| replica.unmerged.is_some()),
        "{}",
        back.partition(partition).unwrap()
    );
    let stays = *stays.unwrap();
    let back = after(&back, [caught_up(&back, partition, &stays)]);
    assert!(back.partition(partition).unwrap().replica(stand_in).is_none(), "now it is");
}

#[test]
fn copy_that_lacks_nothing_acknowledged_comes_before_all_others() {
    let state = cluster_of(4);
    let partition = partition_of(&state, [1, 2]);
    let primary = state.primary(partition).unwrap();
    let other = if primary == node(1) { 2 } else { 1 };
    // It restarts on a whole store, and receives every write since.
    let back = returned(&state, other, StoreCondition::Whole);
    assert!(back.partition(partition).unwrap().replica(node(other)).unwrap().complete);
    let lost = without(&back, if other == 1 { 2 } else { 1 });
    assert_eq!(lost.primary(partition), Some(primary), "it waits for the node that is in-sync");
    assert_eq!(given_up(&lost, partition, Cause::Down).primary(partition), Some(node(other)));
}

#[test]
fn damaged_last_copy_counts_as_it_is_and_live_copies_are_merged_into_it() {
    let state = without(&cluster_of(2), 2);
    let damaged = returned(&state, 1, StoreCondition::Damaged);
    let partition = 7;
    let registered = damaged.member(node(1)).unwrap().since;
    for (before, merges) in [(damaged.clone(), false), (returned(&damaged, 2, StoreCondition::Whole), true)] {
        let base = *before.partition(partition).unwrap().replica(node(1)).unwrap();
        assert!(base.role == ReplicaRole::InSync && base.syncing_since < registered, "it is uncertain");
        let next = given_up(&before, partition, Cause::Damaged);
        let (former, placed) = (before.partition(partition).unwrap(), next.partition(partition).unwrap());
        assert_eq!((placed.term, placed.primary()), (former.term, Some(node(1))));
        let base = placed.replica(node(1)).unwrap();
        assert_eq!(
            (base.syncing_since, base.assigned),
            (next.epoch, former.replica(node(1)).unwrap().assigned)
        );
        let other = placed.replica(node(2)).unwrap();
        let unmerged = OlderGeneration { first_term: placed.term, seen: None };
        assert_eq!(other.unmerged, merges.then_some(unmerged));
        assert_eq!(other.assigned, former.replica(node(2)).unwrap().assigned);
    }
}

#[test]
fn known_damaged_records_leave_the_state_as_it_is() {
    let state = cluster_of(2);
    let next = given_up(&state, 7, Cause::Records);
    assert_eq!(next, ClusterState { epoch: state.epoch + 1, ..state });
}

#[test]
fn what_can_serve_is_not_given_up() {
    let state = cluster_of(3);
    let reason = refusal(&state, vec![loss(&state, 3, Cause::Down)]);
    assert!(reason.contains("which is up: there is nothing to give up"), "{reason}");
    let reason = refusal(&state, vec![loss(&state, 3, Cause::Damaged)]);
    assert!(reason.contains("another complete copy"), "{reason}");
    let down = without(&without(&state, 1), 2);
    let partition = partition_of(&state, [1, 2]);
    let reason = refusal(&down, vec![loss(&down, partition, Cause::Damaged)]);
    assert!(reason.contains("went down"), "{reason}");
}

#[test]
fn loss_that_was_looked_at_in_another_state_is_void_and_takes_the_others_with_it() {
    let state = cluster_of(3);
    let partition = partition_of(&state, [1, 2]);
    let lost = without(&without(&state, 1), 2);
    let right = loss(&lost, partition, Cause::Down);
    let others: Vec<Partition> = (0..PARTITIONS).filter(|other| !lost.is_live_primary(*other)).collect();
    let other = *others.iter().find(|other| **other != partition).unwrap();
    for wrong in [
        Loss { term: right.term + 1, ..right },
        Loss { holder: node(1), ..right },
        Loss { incarnation: 9, ..right },
        Loss { partition: PARTITIONS, ..right },
    ] {
        refusal(&lost, vec![loss(&lost, other, Cause::Down), wrong]);
    }
    refusal(&lost, Vec::new());
    let back = returned(&lost, 2, StoreCondition::Whole);
    assert!(refusal(&back, vec![right]).contains("another primary or term"), "it is back");
    let all = others.iter().map(|partition| loss(&lost, *partition, Cause::Down)).collect();
    let next = after(&lost, [Change::GiveUp(all)]);
    check(&next);
    assert_eq!(next.unavailable(), 0);
}

#[test]
fn nobody_that_is_up_can_hold_it() {
    let mut witness = announcement(3, 1);
    witness.weight = 0;
    let state = after(&cluster_of(2), [Change::Register(witness)]);
    let lost = without(&without(&state, 1), 2);
    let reason = refusal(&lost, vec![loss(&lost, 5, Cause::Down)]);
    assert!(reason.contains("start one"), "{reason}");
}
