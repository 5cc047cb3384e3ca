//! Tests of the choice of stand-ins, the time from which older records are copied to them, and their release.

use std::collections::BTreeSet;

use super::super::samples::{
    after, announcement, cluster_of, converged, copied, founded, handed_over, incarnation_of, joined, node,
    restarted, suspended, without,
};
use super::super::state::{Announcement, Change, Verdict};
use super::*;

/// Returns every stand-in: its partition, its replica and its purpose.
fn stand_ins(state: &ClusterState) -> Vec<(Partition, Replica, StandIn)> {
    let all = state.partitions().flat_map(|(partition, placed)| {
        placed.stand_ins().map(move |(replica, stand_in)| (partition, *replica, stand_in))
    });
    all.collect()
}

fn rebuild(state: &ClusterState, number: u8) -> Change {
    Change::Rebuild { node: node(number), incarnation: incarnation_of(state, node(number)) }
}

fn rebuilt(state: &ClusterState, number: u8) -> ClusterState {
    after(state, [rebuild(state, number)])
}

#[test]
fn entry_that_takes_a_node_away_names_a_stand_in_for_each_of_its_copies() {
    let before = cluster_of(3);
    let lost: BTreeSet<Partition> = before.replicas_on(node(2)).map(|(partition, _)| partition).collect();
    let state = without(&before, 2);
    assert_eq!(state.epoch, before.epoch + 1);
    let named = stand_ins(&state);
    assert_eq!(named.iter().map(|(partition, ..)| *partition).collect::<BTreeSet<_>>(), lost);
    for (_, replica, stand_in) in named {
        assert_eq!((stand_in.of, stand_in.rebuild), (node(2), false));
        assert!(replica.is_waiting_stand_in() && state.is_up(replica.node));
        assert_eq!((replica.assigned, replica.syncing_since), (state.epoch, state.epoch));
    }
    assert_eq!(state.copies_now(), 2, "every new write goes to two nodes");
    assert_eq!(state.with_stand_in(), lost.len() as u32);
    // Copies that are not complete are counted neither as present nor as moving.
    assert_eq!((state.under_replicated(), state.being_rebuilt()), (lost.len() as u32, 0));
    assert_eq!((state.moving(), state.copies_in_progress().count()), (0, 0));
}

#[test]
fn replica_that_is_suspended_has_a_stand_in_by_the_same_entry() {
    let before = cluster_of(3);
    let state = suspended(&before, 3, 5);
    assert_eq!((state.epoch, state.with_stand_in()), (before.epoch + 1, 5));
    assert!(stand_ins(&state).iter().all(|(_, _, stand_in)| stand_in.of == node(3)));
    assert_eq!(state.copies_now(), 2);
}

#[test]
fn stand_ins_are_shared_by_what_nodes_hold_for_their_weight() {
    let heavy = Announcement { weight: 200, ..announcement(6, 1) };
    let state = converged(&after(&cluster_of(5), [Change::Register(heavy)]));
    let state = without(&state, 1);
    let held = |number| state.replicas_on(node(number)).count() as i64;
    // 1024 partitions, two copies each: what node 1 held is shared by four of 100 and one of 200.
    for (number, share) in [(2, 341), (3, 341), (4, 341), (5, 341), (6, 683)] {
        assert!((held(number) - share).abs() <= 8, "node {number} holds {}", held(number));
    }
}

#[test]
fn stand_in_is_in_another_zone_where_there_is_one() {
    let zoned = |number, zone: &str| {
        Change::Register(Announcement { zone: zone.to_owned(), ..announcement(number, 1) })
    };
    let changes = [zoned(2, "a"), zoned(3, "a"), zoned(4, "b"), zoned(5, "b")];
    let state = without(&converged(&after(&founded(2), changes)), 4);
    let zone = |node| state.member(node).unwrap().announcement.zone.clone();
    assert!(state.with_stand_in() > 300);
    for (partition, replica, _) in stand_ins(&state) {
        let primary = zone(state.primary(partition).unwrap());
        assert!(primary.is_empty() || zone(replica.node) != primary, "partition {partition}");
    }
}

#[test]
fn node_that_returns_before_gets_what_it_missed_and_its_stand_ins_go() {
    let away = without(&cluster_of(3), 2);
    let back = restarted(&away, 2);
    assert_eq!(back.with_stand_in(), away.with_stand_in(), "until every replica is in-sync again");
    let catching_up = back.copies_in_progress().count() as u32;
    assert_eq!(catching_up, away.with_stand_in(), "only the records that the node itself lacks are copied");
    let caught_up = copied(&back);
    assert_eq!((caught_up.with_stand_in(), caught_up.under_replicated()), (0, 0));
    converged(&caught_up);
}

#[test]
fn stand_in_that_is_filled_counts_as_a_copy_and_may_become_primary() {
    let told = rebuilt(&without(&cluster_of(3), 2), 2);
    assert_eq!(told.being_rebuilt(), told.with_stand_in());
    assert!(told.under_replicated() > 0, "the rebuild has begun, and is not done");
    let filled = copied(&told);
    assert_eq!((filled.under_replicated(), filled.being_rebuilt()), (0, 0));
    assert_eq!(filled.with_stand_in(), told.with_stand_in(), "the ring still wants the copy that is away");
    let alone = without(&filled, 1);
    assert_eq!(alone.unavailable(), 0, "each partition had a second complete copy on node 3");
    // It is released, also where it was primary, when the ring's own copies are complete.
    let back = restarted(&restarted(&alone, 1), 2);
    let whole = handed_over(&copied(&back));
    assert_eq!(whole.with_stand_in(), 0);
    converged(&whole);
}

#[test]
fn stand_in_that_is_lost_is_replaced_by_another() {
    let filled = copied(&rebuilt(&without(&cluster_of(4), 2), 2));
    let lost = stand_ins(&filled).iter().filter(|(_, replica, _)| replica.node == node(3)).count();
    let state = without(&filled, 3);
    assert!(lost > 0 && state.copies_now() == 2);
    assert!(stand_ins(&state).iter().all(|(_, replica, _)| state.is_up(replica.node)));
    assert_eq!(state.unavailable(), 0);
    assert!(state.awaits_rebuild(node(2)), "the new stand-in needs the older records, too");
    let state = converged(&handed_over(&copied(&restarted(&restarted(&state, 2), 3))));
    assert_eq!(state.with_stand_in(), 0);
}

#[test]
fn two_nodes_have_no_stand_in_until_a_third_joins() {
    let one = without(&cluster_of(2), 2);
    assert_eq!((one.with_stand_in(), one.copies_now(), one.under_replicated()), (0, 1, 1024));
    let two = joined(&one, 3);
    assert_eq!(two.copies_now(), 2, "where the ring does not name the new node, it stands in");
    assert!(
        stand_ins(&two)
            .iter()
            .all(|(_, replica, stand_in)| { (replica.node, stand_in.of) == (node(3), node(2)) })
    );
    assert_eq!(converged(&copied(&restarted(&two, 2))).with_stand_in(), 0);
}

#[test]
fn witness_stands_in_for_nobody() {
    let witness = Announcement { weight: 0, ..announcement(3, 1) };
    let state = without(&after(&cluster_of(2), [Change::Register(witness)]), 2);
    assert_eq!((state.with_stand_in(), state.unavailable()), (0, 0));
}

#[test]
fn stand_in_that_a_new_ring_names_is_a_copy_like_any_other() {
    let waiting = joined(&without(&cluster_of(3), 2), 4);
    let named = |state: &ClusterState, partition, node| state.ring.replicas(partition).contains(&node);
    for (partition, replica, _) in stand_ins(&waiting) {
        assert!(!named(&waiting, partition, replica.node), "partition {partition}");
    }
    let plan = waiting.plans.running.clone().unwrap();
    let to_make = waiting.copies_in_progress().count() as u32;
    assert_eq!(waiting.plan_copies_made(), Some(0));
    assert!(plan.copies_total >= to_make, "{plan:?} against {to_make}");
    let whole = converged(&copied(&restarted(&waiting, 2)));
    assert_eq!((whole.with_stand_in(), whole.plans.running), (0, None));
}

#[test]
fn rebuild_is_void_without_a_stand_in_that_waits_for_it() {
    let refused = |state: &ClusterState, change: Change, why: &str| {
        let Verdict::Rejected(reason) = state.clone().apply(&[change]).remove(0) else {
            panic!("it was applied");
        };
        assert!(reason.contains(why), "{reason}");
    };
    let whole = cluster_of(3);
    refused(&whole, rebuild(&whole, 2), "no stand-in");
    let away = without(&whole, 2);
    refused(&away, Change::Rebuild { node: node(2), incarnation: 9 }, "incarnation 1, not 9");
    refused(&away, Change::Rebuild { node: node(9), incarnation: 1 }, "no member");
    let told = rebuilt(&away, 2);
    refused(&told, rebuild(&told, 2), "no stand-in");
}
