//! Tests of the events of each sort of change, and of their small number.

use std::sync::Arc;

use super::super::operations::AdminOperation;
use super::super::samples::{
    after, announcement, caught_up, cluster_of, converged, copied, founded, handed_over, joined, node,
    primary_ref, replica_ref, restarted, suspended, without,
};
use super::super::state::{Announcement, Change, ReplicaRole};
use super::*;

/// Returns severity, kind and message of each event.
fn told(old: &ClusterState, new: &ClusterState) -> Vec<(String, String, String)> {
    let events = between(old, new, 77);
    assert!(events.iter().all(|event| event.time_ms == 77 && event.epoch == new.epoch));
    assert!(events.len() <= 12 && events.iter().all(|event| event.message.len() < 250), "{events:#?}");
    events.into_iter().map(|event| (event.severity, event.kind, event.message)).collect()
}

/// Asserts that exactly one event of this severity and kind contains all of these words.
fn assert_told(events: &[(String, String, String)], severity: &str, kind: &str, words: &[&str]) {
    let fits = |(s, k, message): &&(String, String, String)| {
        s == severity && k == kind && words.iter().all(|word| message.contains(word))
    };
    assert_eq!(events.iter().filter(fits).count(), 1, "{severity} {kind} {words:?} in {events:#?}");
}

#[test]
fn nothing_changed_is_no_news_and_neither_is_an_older_state() {
    let state = cluster_of(2);
    assert!(between(&state, &state, 1).is_empty());
    assert!(between(&state, &founded(2), 1).is_empty());
}

#[test]
fn the_first_state_is_one_event() {
    let none = ClusterState::default();
    let events = told(&none, &founded(2));
    assert_told(&events, "info", "member", &[&node(1).short(), "founded cluster 0707"]);
    let events = told(&none, &cluster_of(3));
    assert_eq!(events.len(), 1);
    assert_told(&events, "info", "member", &["3 members"]);
}

#[test]
fn a_join_is_told_with_its_plan_and_what_moves_against_the_ideal() {
    let before = cluster_of(3);
    let events = told(&before, &joined(&before, 4));
    let name = node(4).short();
    assert_told(
        &events,
        "info",
        "member",
        &[&format!("node {name} joined: clients at 127.0.0.1:4"), "weight 100"],
    );
    let plan = format!(
        "plan 3 starts (node {name} joined): 512 copies to make, of which the shares alone require 512"
    );
    assert_told(&events, "info", "plan", &[&plan]);
    assert_eq!(events.len(), 2);
}

#[test]
fn a_plan_is_done_when_its_copies_are_made_and_the_old_ones_released() {
    let start = joined(&cluster_of(3), 4);
    let made = copied(&start);
    let events = told(&start, &made);
    for source in [1, 2, 3] {
        let source = format!("all copies from node {} are complete", node(source).short());
        assert_told(&events, "info", "migration", &[&node(4).short(), &source]);
    }
    let events = told(&made, &handed_over(&made));
    assert_eq!(events.len(), 1, "a hand-over has no event of its own: {events:?}");
    assert_told(&events, "info", "plan", &["plan 3 is done"]);
}

#[test]
fn a_join_in_many_steps_gives_few_events() {
    let mut state = joined(&founded(2), 2);
    let mut events = Vec::new();
    while state.copies_in_progress().next().is_some() {
        let (partition, _, replica) = state.copies_in_progress().next().unwrap();
        let next = after(&state, [caught_up(&state, partition, replica)]);
        events.extend(told(&state, &next));
        state = next;
    }
    let (digests, steps): (Vec<&str>, Vec<&str>) = events
        .iter()
        .filter(|(_, kind, message)| kind == "migration" && message.starts_with("node"))
        .map(|(_, _, message)| message.as_str())
        .partition(|message| message.contains("sum of digests"));
    assert_eq!((steps.len(), digests.len()), (8, 8), "{steps:#?} {digests:#?}");
    assert!(digests[0].contains("128 partitions became in-sync"), "{digests:#?}");
    assert!(digests[7].contains("1024 partitions became in-sync"), "{digests:#?}");
    assert!(steps[0].contains("896 copies left to make from node"), "{steps:#?}");
    assert!(steps[7].contains("are complete"), "{steps:#?}");
    assert_told(&events, "info", "migration", &["every partition has its 2 copies"]);
    assert_told(&events, "info", "plan", &["plan 1 is done"]);
}

#[test]
fn a_second_plan_supersedes_the_first() {
    let first = joined(&cluster_of(3), 4);
    let events = told(&first, &joined(&first, 5));
    assert_told(&events, "info", "plan", &["plan 3 was superseded"]);
    assert_told(&events, "info", "plan", &["plan 4 starts"]);
}

#[test]
fn a_whole_plan_between_two_states_is_still_told() {
    let before = cluster_of(3);
    let events = told(&before, &converged(&joined(&before, 4)));
    assert_told(&events, "info", "member", &["joined"]);
    assert_told(&events, "info", "plan", &["plan 3 started and is already done"]);
}

#[test]
fn a_node_that_goes_down_is_told_with_who_took_over() {
    let before = cluster_of(3);
    let events = told(&before, &without(&before, 2));
    assert_told(&events, "warning", "member", &[&format!("node {} was declared down", node(2).short())]);
    let took_over = before.partitions.iter().filter(|partition| partition.primary() == Some(node(2))).count();
    let (first, third) = (node(1).short(), node(3).short());
    let message =
        format!("{took_over} partitions of node {}, which went down: now served by nodes", node(2).short());
    assert_told(&events, "warning", "failover", &[&message, &first, &third]);
    let stand_ins = format!("new writes in place of node {}", node(2).short());
    assert_told(&events, "info", "failover", &[&stand_ins, &first, &third]);
    assert_eq!(events.len(), 3);
}

#[test]
fn rebuilding_is_told_with_its_node_and_its_targets_and_so_is_its_end() {
    let before = without(&cluster_of(3), 2);
    let incarnation = 1;
    let told_to = after(&before, [Change::Rebuild { node: node(2), incarnation }]);
    let events = told(&before, &told_to);
    let (name, first, third) = (node(2).short(), node(1).short(), node(3).short());
    assert_told(
        &events,
        "info",
        "migration",
        &[&format!("of node {name}, which stays away"), &first, &third],
    );
    assert_eq!(events.len(), 1);
    let events = told(&told_to, &copied(&told_to));
    assert_told(&events, "info", "migration", &["every partition has its 2 copies, all in sync"]);
}

#[test]
fn a_return_is_told_and_that_every_copy_is_in_sync_again() {
    let before = without(&cluster_of(3), 2);
    let back = restarted(&before, 2);
    let events = told(&before, &back);
    let behind = format!("{} copies to catch up", back.replicas_on(node(2)).count());
    assert_told(&events, "info", "member", &["returned: incarnation 2", &behind]);
    assert_eq!(events.len(), 1);
    let events = told(&back, &copied(&back));
    assert_told(&events, "info", "migration", &["every partition has its 2 copies, all in sync"]);
}

#[test]
fn a_restart_that_nobody_missed_is_told_with_who_took_over() {
    let before = cluster_of(3);
    let events = told(&before, &restarted(&before, 3));
    assert_told(&events, "info", "member", &["restarted before it was declared down: incarnation 2"]);
    assert_told(&events, "warning", "failover", &["which restarted"]);
    assert_eq!(events.len(), 2);
}

#[test]
fn the_loss_of_the_last_copies_is_an_error_and_their_return_is_told() {
    let one = without(&cluster_of(2), 1);
    let none = without(&one, 2);
    let events = told(&one, &none);
    assert_told(
        &events,
        "error",
        "failover",
        &["1024 partitions unavailable", &node(2).short(), "Start it again"],
    );
    let events = told(&none, &restarted(&none, 2));
    assert_told(&events, "info", "failover", &["1024 partitions available again", &node(2).short()]);
}

#[test]
fn a_replica_that_does_not_keep_up_is_told_of_and_when_it_takes_part_again() {
    let before = cluster_of(3);
    let slow = suspended(&before, 3, 5);
    assert_told(&told(&before, &slow), "warning", "failover", &["was taken out of 5 partitions"]);
    let away = slow.replicas_on(node(3)).filter(|(_, replica)| replica.role == ReplicaRole::Away);
    let resume = away.map(|(partition, replica)| Change::ResumeReplica {
        partition,
        replica: replica_ref(&slow, replica),
    });
    let events = told(&slow, &after(&slow, resume));
    assert_told(&events, "info", "failover", &["takes part in 5 partitions again"]);
}

#[test]
fn a_new_weight_or_zone_is_told_with_the_old_one() {
    let before = cluster_of(3);
    let announcement = Announcement { weight: 50, zone: "b".to_owned(), ..announcement(2, 2) };
    let events = told(&before, &after(&before, [Change::Register(announcement)]));
    assert_told(&events, "info", "member", &["weight from '100' to '50', its zone from '' to 'b'"]);
    assert_told(&events, "info", "plan", &["changed its weight"]);
}

#[test]
fn a_witness_that_joins_is_told_to_hold_no_data() {
    let before = cluster_of(2);
    let witness = Announcement { weight: 0, ..announcement(3, 1) };
    let events = told(&before, &after(&before, [Change::Register(witness)]));
    assert_told(&events, "info", "member", &["a witness that holds no data"]);
    assert_eq!(events.len(), 1);
}

/// `told` asserts the limits of number and length.
#[test]
fn what_happens_to_half_of_a_large_cluster_is_a_handful_of_events() {
    let all = (2..=60).map(|number| Change::Register(announcement(number, 1)));
    let joining = after(&founded(2), all);
    assert_told(&told(&founded(2), &joining), "info", "member", &["and 55 more joined"]);
    let before = converged(&joining);
    told(&joining, &before);
    let down = |number| Change::DeclareDown { node: node(number), incarnation: 1 };
    let half = after(&before, (1..=30).map(down));
    let events = told(&before, &half);
    assert_told(&events, "warning", "member", &["and 26 more were declared down"]);
    assert_told(&events, "warning", "failover", &["changed their primary"]);
    assert_told(&events, "error", "failover", &["became unavailable"]);
    let back = after(&half, (1..=30).map(|number| Change::Register(announcement(number, 2))));
    assert_told(&told(&half, &back), "info", "failover", &["are available again"]);
}

/// Completes the first `count` copies in progress, with this digest on both sides.
fn flipped(state: &ClusterState, count: usize, digest: u64) -> ClusterState {
    let changes = state.copies_in_progress().take(count).map(|(partition, _, replica)| Change::CaughtUp {
        primary: primary_ref(state, partition),
        replica: replica_ref(state, replica),
        source_digest: digest,
        target_digest: digest,
        sent_keys: 0,
        sent_bytes: 0,
    });
    after(state, changes)
}

#[test]
fn digests_of_a_flip_are_told_of_one_by_itself_and_of_many_in_steps_by_their_sums() {
    let mut state = cluster_of(3);
    // Without the copies of the joins, the next one is the only one since then.
    state.promotions = Arc::default();
    let away = suspended(&state, 2, 1);
    let (partition, replica) = away.replicas_on(node(2)).find(|(_, r)| r.role == ReplicaRole::Away).unwrap();
    let resume = Change::ResumeReplica { partition, replica: replica_ref(&away, replica) };
    let syncing = after(&away, [resume]);
    let digests = format!(
        "partition {partition} is in-sync on node {}: digest 00000000000000ab on its primary, \
        00000000000000ab there",
        node(2).short()
    );
    assert_told(&told(&syncing, &flipped(&syncing, 1, 0xab)), "info", "migration", &[&digests]);
    let running = joined(&state, 4);
    let few = flipped(&running, 20, 1);
    assert!(
        told(&running, &few).iter().all(|event| !event.2.contains("digests")),
        "steps, not each partition"
    );
    let rest = told(&few, &flipped(&few, 512, 1));
    let sum = format!(
        "512 partitions became in-sync, sum of digests {:016x} on their primaries, {:016x} there",
        512, 512
    );
    assert_told(&rest, "info", "migration", &[&sum]);
}

#[test]
fn what_an_operator_does_is_told() {
    let state = cluster_of(4);
    let operate = |operation| Change::Operate { operation, basis: None };
    let leaving = after(&state, [operate(AdminOperation::Leave { node: node(2) })]);
    let events = told(&state, &leaving);
    assert_told(&events, "info", "member", &[&node(2).short(), "leaves", "no longer a member"]);
    assert_told(&events, "info", "plan", &["leaves", "512 copies to make"]);
    let plan = leaving.plans.running.as_ref().unwrap().id;
    let paused =
        after(&leaving, [Change::PausePlan { plan }, Change::SetThrottle { bytes_per_s: Some(1 << 20) }]);
    let events = told(&leaving, &paused);
    assert_told(&events, "info", "plan", &["is paused"]);
    assert_told(&events, "info", "plan", &["1048576 bytes a second"]);
    let events = told(&paused, &after(&paused, [Change::AbortPlan { plan }]));
    assert_told(&events, "info", "plan", &["was aborted", "return to their former nodes"]);
    assert_told(&events, "info", "member", &["stays a member"]);
    let empty = converged(&leaving);
    let events = told(&empty, &after(&empty, [Change::Retire { node: node(2) }]));
    assert_told(&events, "info", "member", &[&node(2).short(), "left"]);
}

#[test]
fn last_copy_that_is_given_up_is_told_as_that_and_not_as_a_failover() {
    use super::super::give_up::{Cause, Loss};

    let state = cluster_of(3);
    let gone = node(2).short();
    let lost = without(&without(&state, 1), 2);
    let partitions = lost.partitions().filter(|(partition, _)| !lost.is_live_primary(*partition));
    let losses: Vec<Loss> = partitions
        .map(|(partition, placed)| Loss {
            partition,
            term: placed.term,
            holder: node(2),
            incarnation: 1,
            cause: Cause::Down,
        })
        .collect();
    let count = losses.len();
    let events = told(&lost, &after(&lost, [Change::GiveUp(losses)]));
    let words = [&format!("{count} partitions given up: node {gone}")[..], "discarded when it returns"];
    assert_told(&events, "error", "failover", &words);
    assert!(!events.iter().any(|(.., message)| message.contains("now served by")), "{events:#?}");

    let down = without(&state, 2);
    let alone = |placed: &PartitionState| placed.in_sync().count() == 1 && placed.primary() == Some(node(1));
    let (partition, placed) = down.partitions().find(|(_, placed)| alone(placed)).unwrap();
    let loss = Loss { partition, term: placed.term, holder: node(1), incarnation: 1, cause: Cause::Damaged };
    let events = told(&down, &after(&down, [Change::GiveUp(vec![loss])]));
    let words = [&format!("node {} lost of 1 partition is given up", node(1).short())[..]];
    assert_told(&events, "error", "failover", &words);
}
