//! Tests of operators' changes, and of the reasons for which they are void.

use super::*;
use crate::cluster::ring;
use crate::cluster::samples::{
    after, announcement, caught_up, cluster_of, converged, copied, founded, handed_over, incarnation_of,
    joined, node, primary_ref, replica_ref, restarted, without,
};
use crate::cluster::state::Verdict;
use crate::id::Partition;

fn operate(operation: AdminOperation) -> Change {
    Change::Operate { operation, basis: None }
}

fn leave(number: u8) -> Change {
    operate(AdminOperation::Leave { node: node(number) })
}

fn remove(state: &ClusterState, number: u8, accept_loss: bool) -> Change {
    let incarnation = incarnation_of(state, node(number));
    operate(AdminOperation::Remove { node: node(number), incarnation, accept_loss })
}

fn replace(old: u8, new: u8) -> Change {
    operate(AdminOperation::Replace { old: node(old), new: node(new), accept_loss: false })
}

/// Returns the reason why the change is void; asserts that it changed nothing.
fn refusal(state: &ClusterState, change: Change) -> String {
    let mut after = state.clone();
    match after.apply(&[change]).remove(0) {
        Verdict::Rejected(reason) => {
            assert!(after == *state, "a void change changed something");
            reason
        }
        Verdict::Applied => panic!("it was applied"),
    }
}

/// Asserts that every partition has a primary, first in its list, and at least as many distinct holders as
/// the ring names.
fn check(state: &ClusterState) {
    for (partition, placed) in state.partitions() {
        let nodes: BTreeSet<NodeId> = placed.replicas.iter().map(|replica| replica.node).collect();
        assert_eq!(nodes.len(), placed.replicas.len(), "partition {partition}: a node twice");
        assert_eq!(placed.primary(), placed.replicas.first().map(|replica| replica.node));
        assert!(
            nodes.iter().all(|node| state.members.contains_key(node)),
            "partition {partition}: no member"
        );
    }
}

/// Adds a member without data, which joined with weight 0.
fn witness(state: &ClusterState, number: u8) -> ClusterState {
    let mut announcement = announcement(number, 1);
    announcement.weight = 0;
    after(state, [Change::Register(announcement)])
}

fn plan_id(state: &ClusterState) -> u64 {
    state.plans.running.as_ref().unwrap().id
}

#[test]
fn node_that_leaves_serves_until_its_copies_are_on_other_nodes() {
    let state = cluster_of(4);
    let leaving = after(&state, [leave(2)]);
    let plan = leaving.plans.running.clone().unwrap();
    assert_eq!((plan.copies_total, plan.copies_ideal), (512, 512), "its own copies, and no others");
    assert!(!leaving.ring.names(node(2)));
    assert_eq!(leaving.replicas_on(node(2)).count(), 512, "it gives up no copy before another node has it");
    assert_eq!(leaving.under_replicated(), 0);
    assert!(refusal(&leaving, Change::Retire { node: node(2) }).contains("still holds 512 copies"));
    assert!(refusal(&leaving, leave(2)).contains("leaving already"));
    assert_eq!(leaving.retirable(), []);
    let empty = converged(&leaving);
    assert_eq!(empty.retirable(), [node(2)]);
    let gone = after(&empty, [Change::Retire { node: node(2) }]);
    check(&gone);
    assert_eq!(
        (gone.members.len(), gone.plans.running.clone(), gone.removed_in(node(2))),
        (3, None, Some(gone.epoch))
    );
    let returns = Change::Register(announcement(2, 2));
    assert!(refusal(&gone, returns).contains("was removed"));
}

#[test]
fn last_holder_of_data_cannot_leave_nor_be_given_no_weight() {
    let alone = founded(2);
    assert!(refusal(&alone, leave(1)).contains("no other node could hold the data"));
    let state = witness(&alone, 2);
    assert!(
        refusal(&state, operate(AdminOperation::SetWeight { node: node(1), weight: 0 }))
            .contains("no other node")
    );
    assert!(refusal(&state, leave(9)).contains("no member"));
}

#[test]
fn dead_node_is_removed_and_its_copies_are_made_elsewhere() {
    let state = cluster_of(3);
    assert!(refusal(&state, remove(&state, 2, false)).contains("is up"));
    let down = without(&state, 2);
    assert!(refusal(&down, leave(2)).contains("is down"));
    let stale = operate(AdminOperation::Remove { node: node(2), incarnation: 7, accept_loss: false });
    assert!(refusal(&down, stale).contains("started again"));
    let gone = after(&down, [remove(&down, 2, false)]);
    check(&gone);
    assert_eq!((gone.unavailable(), gone.removed_in(node(2))), (0, Some(gone.epoch)));
    let done = converged(&gone);
    assert_eq!((done.under_replicated(), done.plans.running.clone()), (0, None));
    assert!(done.partitions().all(|(_, placed)| placed.in_sync().count() == 2));
}

#[test]
fn last_complete_copy_is_given_up_only_explicitly_and_then_the_best_of_the_others_serves() {
    let state = cluster_of(2);
    let both_down = without(&without(&state, 1), 2);
    let back = restarted(&both_down, 1);
    assert_eq!(back.unavailable(), 1024, "node 2 was the last to stop");
    let reason = refusal(&back, remove(&back, 2, false));
    assert!(
        reason.contains("last complete copy of 1024 partitions") && reason.contains("--accept-loss"),
        "{reason}"
    );
    let terms: Vec<u32> = back.partitions.iter().map(|placed| placed.term).collect();
    let gone = after(&back, [remove(&back, 2, true)]);
    check(&gone);
    assert_eq!(gone.unavailable(), 0);
    assert!(
        gone.partitions.iter().zip(terms).all(|(placed, term)| placed.term == term + 1 && !placed.settled)
    );
    assert!(gone.partitions.iter().all(|placed| placed.primary() == Some(node(1))));
}

#[test]
fn replacement_takes_exactly_the_places_of_the_dead_one() {
    let state = witness(&cluster_of(4), 5);
    assert!(refusal(&state, replace(2, 3)).contains("holds data already"));
    assert!(refusal(&state, replace(5, 5)).contains("its own place"));
    let down = without(&state, 2);
    let replaced = after(&down, [replace(2, 5)]);
    check(&replaced);
    assert_eq!(replaced.ring, state.ring.substituted(node(2), node(5)));
    let moved = ring::moves(&state.ring, &replaced.ring);
    assert!(moved.len() == 512 && moved.iter().all(|copy| copy.node == node(5)), "no other copy moves");
    assert_eq!(replaced.plans.running.as_ref().unwrap().copies_ideal, 512);
    let done = converged(&replaced);
    assert_eq!((done.plans.running.clone(), done.under_replicated(), done.members.len()), (None, 0, 4));
    // The next computation starts from this ring.
    assert!(refusal(&done, operate(AdminOperation::Rebalance)).contains("nothing is to be done"));
    assert_eq!(done.weight_of(done.member(node(5)).unwrap()), 100);
}

#[test]
fn live_node_that_is_replaced_serves_until_then_and_leaves() {
    let state = witness(&cluster_of(3), 4);
    let replaced = after(&state, [replace(1, 4)]);
    assert_eq!((replaced.under_replicated(), replaced.unavailable()), (0, 0));
    let done = converged(&replaced);
    assert_eq!(done.retirable(), [node(1)]);
    assert_eq!(done.ring, state.ring.substituted(node(1), node(4)));
    assert!(refusal(&done, replace(1, 4)).contains("no place of node"));
}

#[test]
fn weight_and_zone_that_were_set_survive_a_restart_until_another_is_announced() {
    let set = after(&cluster_of(3), [operate(AdminOperation::SetWeight { node: node(2), weight: 50 })]);
    assert!(set.plans.running.as_ref().unwrap().cause.contains("from 100 to 50"));
    assert!(
        refusal(&set, operate(AdminOperation::SetWeight { node: node(2), weight: 50 })).contains("already")
    );
    let weight = |state: &ClusterState| state.weight_of(state.member(node(2)).unwrap());
    let again = restarted(&converged(&set), 2);
    assert_eq!((weight(&again), again.ring == set.ring), (50, true));
    let mut announced = announcement(2, 3);
    announced.weight = 100;
    assert_eq!(
        weight(&after(&again, [Change::Register(announced.clone())])),
        50,
        "its announcement has not changed"
    );
    announced.incarnation = 4;
    announced.weight = 70;
    assert_eq!(weight(&after(&again, [Change::Register(announced)])), 70);
    let zoned = after(&set, [operate(AdminOperation::SetZone { node: node(2), zone: "b".to_owned() })]);
    assert_eq!(zoned.zone_of(zoned.member(node(2)).unwrap()), "b");
    assert!(
        refusal(&set, operate(AdminOperation::SetZone { node: node(2), zone: "z".repeat(65) }))
            .contains("64")
    );
}

#[test]
fn copies_of_each_key_become_more_and_fewer() {
    let state = cluster_of(4);
    let set = |copies| operate(AdminOperation::SetReplicas { copies });
    for copies in [0, 6, 2] {
        refusal(&state, set(copies));
    }
    let more = after(&state, [set(3)]);
    assert_eq!(more.plans.running.as_ref().unwrap().copies_total, 1024);
    let more = converged(&more);
    assert!(more.partitions().all(|(_, placed)| placed.in_sync().count() == 3));
    let fewer = converged(&after(&more, [set(2)]));
    assert!(fewer.partitions().all(|(_, placed)| placed.in_sync().count() == 2));
    check(&fewer);
}

#[test]
fn what_was_planned_on_another_state_is_void() {
    let state = cluster_of(3);
    let operation = AdminOperation::Leave { node: node(3) };
    let planned = after(&state, [operate(operation.clone())]);
    let basis = Basis { members: state.basis_hash(), ring: planned.ring.hash() };
    let change = |basis| Change::Operate { operation: operation.clone(), basis: Some(basis) };
    assert_eq!(after(&state, [change(basis)]).ring, planned.ring);
    assert!(refusal(&joined(&state, 4), change(basis)).contains("plan it again"));
    assert!(refusal(&without(&state, 1), change(basis)).contains("have changed"));
    assert!(refusal(&state, change(Basis { ring: 1, ..basis })).contains("another ring"));
    // A restart changes neither the ring nor the members.
    let restarted = restarted(&state, 1);
    assert_eq!(restarted.basis_hash(), state.basis_hash());
}

#[test]
fn joins_wait_for_a_rebalance_if_auto_rebalance_is_off() {
    let state = after(&cluster_of(2), [Change::SetAutoRebalance { enabled: false }]);
    let waiting = joined(&joined(&state, 3), 4);
    assert_eq!((waiting.plans.running.clone(), waiting.ring == state.ring), (None, true));
    assert_eq!(waiting.members.len(), 4);
    let rebalanced = after(&waiting, [operate(AdminOperation::Rebalance)]);
    assert_eq!(rebalanced.plans.running.as_ref().unwrap().copies_total, 1024, "both at once, as one plan");
    assert_eq!(converged(&rebalanced).plans.running, None);
}

#[test]
fn aborted_plan_leads_back_to_where_the_copies_were() {
    let state = cluster_of(3);
    let running = joined(&state, 4);
    assert!(refusal(&running, Change::AbortPlan { plan: plan_id(&running) + 1 }).contains("is running"));
    // At any time: before a copy is made, after all are complete, and after the hand-overs.
    let all_made = copied(&running);
    let mut half = running.clone();
    let made = running.copies_in_progress().take(200);
    let changes: Vec<Change> =
        made.map(|(partition, _, replica)| caught_up(&running, partition, replica)).collect();
    half.apply(&changes);
    for state_of_work in [running.clone(), half.clone(), handed_over(&half)] {
        let aborted = after(&state_of_work, [Change::AbortPlan { plan: plan_id(&state_of_work) }]);
        check(&aborted);
        assert_eq!((&aborted.ring, aborted.unavailable()), (&state.ring, 0));
        let done = converged(&aborted);
        assert_eq!(
            (done.plans.running.clone(), done.replicas_on(node(4)).count(), done.under_replicated()),
            (None, 0, 0)
        );
        assert!(done.placement.waiting.contains(&node(4)), "it stays a member, without data");
        let again = after(&done, [operate(AdminOperation::Rebalance)]);
        assert_eq!(again.ring, running.ring);
    }
    assert!(all_made.plans.running.is_some());
}

#[test]
fn aborted_leave_keeps_the_node_and_a_removal_cannot_be_aborted() {
    let state = cluster_of(4);
    let leaving = after(&state, [leave(2)]);
    let aborted = after(&leaving, [Change::AbortPlan { plan: plan_id(&leaving) }]);
    assert_eq!((&aborted.ring, aborted.placement.leaving.len()), (&state.ring, 0));
    assert_eq!(aborted.plans.running, None, "nothing was moved yet");
    let down = without(&state, 2);
    let removed = after(&down, [remove(&down, 2, false)]);
    let reason = refusal(&removed, Change::AbortPlan { plan: plan_id(&removed) });
    assert!(reason.contains("no longer a member"), "{reason}");
}

#[test]
fn plan_is_paused_and_resumed_and_a_pause_ends_with_it() {
    let running = joined(&cluster_of(3), 4);
    let plan = plan_id(&running);
    assert!(refusal(&running, Change::ResumePlan { plan }).contains("not paused"));
    let paused = after(&running, [Change::PausePlan { plan }]);
    assert!(paused.plans.paused && refusal(&paused, Change::PausePlan { plan }).contains("already"));
    assert!(!after(&paused, [Change::ResumePlan { plan }]).plans.paused);
    assert!(!converged(&paused).plans.paused);
    assert!(refusal(&cluster_of(2), Change::PausePlan { plan: 1 }).contains("no plan"));
}

#[test]
fn pace_is_set_within_bounds_and_reset_to_the_nodes_settings() {
    let state = cluster_of(2);
    let set = |bytes_per_s| Change::SetThrottle { bytes_per_s };
    let slow = after(&state, [set(Some(1 << 20))]);
    assert_eq!(slow.throttle_bytes_per_s, Some(1 << 20));
    assert_eq!(after(&slow, [set(None)]).throttle_bytes_per_s, None);
    assert!(refusal(&state, set(Some(1))).contains("bytes a second"));
}

#[test]
fn removed_members_are_remembered_within_bounds() {
    let mut state = cluster_of(2);
    for _ in 0..3 {
        for number in 3..=200 {
            state.forget(node(number), 9);
        }
    }
    assert_eq!(state.removed.len(), 198, "each once");
    for number in 0..=u8::MAX {
        state.forget(NodeId::from_bytes([number; 32]), 9);
        let mut bytes = [number; 32];
        bytes[0] = number.wrapping_add(1);
        state.forget(NodeId::from_bytes(bytes), 9);
    }
    assert_eq!(state.removed.len(), REMOVED_MAX);
}

/// Returns a cluster that uses version 1, and whose members all support version 2.
fn upgraded(count: u8) -> ClusterState {
    let mut state = cluster_of(count);
    for member in Arc::make_mut(&mut state.members).values_mut() {
        member.announcement.protocol = 2;
    }
    state
}

#[test]
fn protocol_version_is_raised_once_all_members_support_it_and_never_falls() {
    let state = upgraded(3);
    assert_eq!((state.protocol_version, state.version_to_raise()), (1, Some(2)));
    let mut one_older = state.clone();
    Arc::make_mut(&mut one_older.members).get_mut(&node(2)).unwrap().announcement.protocol = 1;
    assert_eq!(one_older.version_to_raise(), None);
    assert!(refusal(&one_older, Change::RaiseProtocol(2)).contains("no higher version in common"));
    assert!(refusal(&state, Change::RaiseProtocol(3)).contains("version 2 in common, not 3"));
    let raised = after(&state, [Change::RaiseProtocol(2)]);
    assert_eq!((raised.protocol_version, raised.version_to_raise()), (2, None));
    let older = Change::Register(announcement(2, 2));
    assert!(
        refusal(&raised, older).contains("supports versions 1 to 1"),
        "it was upgraded, and cannot be downgraded"
    );
}

#[test]
fn replica_becomes_in_sync_only_with_equal_digests() {
    let running = joined(&cluster_of(2), 3);
    let (partition, _, replica) = running.copies_in_progress().next().unwrap();
    let node = replica.node;
    let equal = |source_digest, target_digest| Change::CaughtUp {
        primary: primary_ref(&running, partition),
        replica: replica_ref(&running, replica),
        source_digest,
        target_digest,
        sent_keys: 3,
        sent_bytes: 700,
    };
    assert!(refusal(&running, equal(7, 8)).contains("0000000000000007 on the primary"));
    let flipped = after(&running, [equal(7, 7)]);
    assert!(flipped.partition(partition).unwrap().is_in_sync(node));
    let moved = flipped.plans.running.as_ref().or(flipped.plans.last.as_ref()).unwrap();
    assert_eq!((moved.moved_keys, moved.moved_bytes), (3, 700), "the state counts the moved records");
    let flip = Promotion { epoch: flipped.epoch, node, source_digest: 7, target_digest: 7 };
    assert_eq!(flipped.promotions.get(&partition), Some(&flip));
}

#[test]
fn live_copies_of_a_last_one_that_is_removed_keep_what_only_they_have() {
    let state = cluster_of(4);
    let lost = without(&without(&state, 1), 2);
    let waiting: Vec<Partition> = lost
        .partitions()
        .filter(|(partition, _)| !lost.is_live_primary(*partition))
        .map(|(p, _)| p)
        .collect();
    assert!(!waiting.is_empty());
    let gone = after(&lost, [remove(&lost, 2, true)]);
    check(&gone);
    for partition in waiting {
        let (former, placed) = (lost.partition(partition).unwrap(), gone.partition(partition).unwrap());
        let base = placed.replicas.first().unwrap();
        let stand_in = former.replica(base.node).unwrap_or_else(|| panic!("partition {partition}: {placed}"));
        assert_eq!(base.assigned, stand_in.assigned, "the new writes it was sent are kept: {placed}");
    }
}
