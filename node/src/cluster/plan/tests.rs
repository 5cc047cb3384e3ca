//! Tests of previews, and of their agreement with commits.

use super::*;
use crate::cluster::ring::PARTITIONS;
use crate::cluster::samples::{after, cluster_of, joined, node, without};
use crate::cluster::state::ReplicaRole;

const PACE: u64 = 1 << 20;

fn figures() -> SizesByPartition {
    (0..PARTITIONS).map(|partition| (partition, PartitionSize { keys: 10, bytes: 4096 })).collect()
}

fn plan(state: &ClusterState, operation: AdminOperation) -> PlanPreview {
    preview(state, &Question::Operation(operation), &figures(), &DiskRooms::new(), PACE).unwrap()
}

#[test]
fn preview_says_what_is_copied_in_keys_and_bytes_and_how_long_it_takes() {
    let state = cluster_of(4);
    let plan = plan(&state, AdminOperation::Leave { node: node(2) });
    assert_eq!((plan.copies_to_make, plan.copies_ideal, plan.copies_to_release), (512, 512, 512));
    assert_eq!((plan.keys, plan.bytes, plan.partitions_unknown), (5120, 512 * 4096, 0));
    assert_eq!(plan.moves.iter().map(|copied| copied.partitions).sum::<u32>(), 512);
    let mut sent: BTreeMap<&str, u64> = BTreeMap::new();
    plan.moves.iter().for_each(|copied| *sent.entry(&copied.source).or_default() += copied.bytes);
    let most = sent.values().max().copied().unwrap();
    assert!((plan.eta_s - most as f64 / PACE as f64).abs() < 1e-9);
    let copies = |shares: &[PlanShare]| shares.iter().map(|share| share.copies).collect::<Vec<_>>();
    assert_eq!(copies(&plan.before), [512; 4]);
    let mut left = copies(&plan.after);
    left.sort_unstable();
    assert_eq!(left, [0, 682, 683, 683]);
    assert!(plan.violations.is_empty() && !plan.joins_a_running_plan);
}

#[test]
fn committed_operation_does_what_its_preview_said() {
    let state = cluster_of(3);
    for operation in [
        AdminOperation::Leave { node: node(3) },
        AdminOperation::SetWeight { node: node(1), weight: 300 },
        AdminOperation::SetReplicas { copies: 3 },
        AdminOperation::SetReplicas { copies: 1 },
    ] {
        let plan = plan(&state, operation.clone());
        let basis: Basis = plan.token.parse().unwrap();
        let committed = after(&state, [Change::Operate { operation, basis: Some(basis) }]);
        assert_eq!(format!("{:016x}", committed.ring_hash()), plan.ring_hash_after);
        let syncing = committed.copies_in_progress().count() as u32;
        assert_eq!(syncing, plan.copies_to_make);
    }
}

#[test]
fn violated_constraints_and_refusals_are_told_before_anything_is_done() {
    let state = cluster_of(2);
    let plan = plan(&state, AdminOperation::Leave { node: node(2) });
    assert!(
        plan.violations.iter().any(|reason| reason.contains("2 copies need 2 nodes")),
        "{:?}",
        plan.violations
    );
    let question =
        Question::Operation(AdminOperation::Remove { node: node(2), incarnation: 1, accept_loss: false });
    assert!(preview(&state, &question, &figures(), &DiskRooms::new(), PACE).unwrap_err().contains("is up"));
}

#[test]
fn join_is_previewed_for_a_node_that_is_not_there_yet() {
    let state = cluster_of(3);
    let question = Question::Join { weight: 100, zone: String::new() };
    let plan = preview(&state, &question, &SizesByPartition::new(), &DiskRooms::new(), PACE).unwrap();
    assert_eq!((plan.copies_to_make, plan.partitions_unknown, plan.token.as_str()), (512, 512, ""));
    assert_eq!(plan.after.len(), 4);
    let second = joined(&state, 9);
    assert!(preview(&second, &question, &figures(), &DiskRooms::new(), PACE).unwrap().joins_a_running_plan);
}

#[test]
fn copy_without_a_living_source_is_told_as_such() {
    let state = cluster_of(2);
    let down = without(&without(&state, 1), 2);
    let question = Question::Join { weight: 100, zone: String::new() };
    let plan = preview(&down, &question, &figures(), &DiskRooms::new(), PACE).unwrap();
    assert!(plan.moves.iter().all(|copied| copied.source.is_empty()), "{:?}", plan.moves);
}

#[test]
fn token_is_read_as_it_was_written_and_nonsense_refused() {
    let basis = Basis { members: 0x0123, ring: u64::MAX };
    assert_eq!(basis.to_string().parse(), Ok(basis));
    for text in ["", "-", "12", "x-y", "1-2-3"] {
        assert!(text.parse::<Basis>().is_err(), "{text}");
    }
}

#[test]
fn status_tells_how_far_the_plan_is_and_that_it_is_paused() {
    let state = joined(&cluster_of(3), 4);
    let task = Task {
        kind: "migration".to_owned(),
        bytes_done: 100,
        bytes_total: 300,
        bytes_per_s: 50.0,
        ..Task::default()
    };
    let running = status(&state, &[task.clone(), Task::default()]).unwrap();
    assert_eq!((running.copies_made, running.copies_total, running.can_abort), (0, 512, true));
    assert_eq!((running.bytes_per_s, running.eta_s), (50.0, Some(4.0)));
    let paused = after(&state, [Change::PausePlan { plan: running.id }]);
    let paused = status(&paused, &[task]).unwrap();
    assert_eq!((paused.paused, paused.bytes_per_s, paused.eta_s), (true, 0.0, None));
    assert!(state.copies_in_progress().all(|(_, _, replica)| replica.role == ReplicaRole::Syncing));
    assert_eq!(status(&cluster_of(3), &[]), None);
}

#[test]
fn copies_that_would_leave_a_node_below_its_low_mark_are_refused_unless_they_restore_lost_ones() {
    let state = cluster_of(3);
    let leaves = Question::Operation(AdminOperation::Leave { node: node(3) });
    let free = |free: u64| DiskRooms::from([(node(1), DiskRoom { free, low: 1 << 20 })]);
    let received: u64 = {
        let plan = preview(&state, &leaves, &figures(), &DiskRooms::new(), PACE).unwrap();
        let to_first = plan.moves.iter().filter(|copied| copied.target == node(1).to_string());
        to_first.map(|copied| copied.bytes).sum()
    };
    assert!(received > 0);
    assert!(preview(&state, &leaves, &figures(), &free(received + (1 << 20)), PACE).is_ok());
    let refused = preview(&state, &leaves, &figures(), &free(received + (1 << 20) - 1), PACE).unwrap_err();
    assert!(refused.contains("low mark") && refused.contains("nothing was changed"), "{refused}");
    // Copies that replace those of a dead node are made nevertheless, and the preview lists them.
    let down = without(&state, 3);
    let removes = AdminOperation::Remove { node: node(3), incarnation: 1, accept_loss: true };
    let plan = preview(&down, &Question::Operation(removes), &figures(), &free(0), PACE).unwrap();
    assert!(plan.violations.iter().any(|reason| reason.contains("low mark")), "{:?}", plan.violations);
}
