//! Tests of the status of clusters in good and bad order.

use super::super::samples::{
    after, announcement, cluster_of, converged, founded, joined, node, suspended, without,
};
use super::super::state::Change;
use super::*;

/// Returns the only warning of the state.
fn warning(state: &ClusterState) -> String {
    let warnings = status(state).warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    warnings[0].clone()
}

#[test]
fn before_the_founding_the_status_is_empty() {
    let state = ClusterState::default();
    let shown = status(&state);
    assert_eq!((shown.epoch, shown.copies_now, shown.members.len(), shown.warnings.len()), (0, 0, 0, 0));
    assert!(ring(&state).shares.is_empty() && ring(&state).partitions.is_empty());
}

#[test]
fn without_a_coordinator_the_warning_names_the_voters_that_must_run() {
    let text = no_coordinator(&[1, 2, 3].map(node).into());
    assert!(text.contains("2 of the voters (nodes") && text.contains(&node(2).short()), "{text}");
}

#[test]
fn one_node_is_warned_to_have_one_copy_of_everything() {
    let state = founded(2);
    let shown = status(&state);
    assert_eq!((shown.copies_now, shown.replication_factor), (1, 2));
    assert_eq!(
        (shown.partitions_under_replicated, shown.partitions_moving, shown.partitions_unavailable),
        (0, 0, 0)
    );
    assert!(warning(&state).contains("one copy of everything"));
}

#[test]
fn a_cluster_in_order_has_no_warnings() {
    let state = cluster_of(3);
    let shown = status(&state);
    assert_eq!((shown.epoch, shown.copies_now, shown.warnings.len()), (state.epoch, 2, 0));
    assert_eq!(shown.ring_hash, format!("{:016x}", state.ring_hash()));
    assert_eq!(shown.ring_hash, ring(&state).ring_hash);
    let members: Vec<(String, &str)> =
        shown.members.iter().map(|m| (m.id.clone(), m.state.as_str())).collect();
    assert_eq!(members, [1, 2, 3].map(|n| (node(n).to_string(), "up")));
    assert_eq!(shown.members[1].peer_addrs, ["/ip4/127.0.0.1/tcp/2"]);
}

#[test]
fn a_joining_second_node_is_announced_as_copies_being_made() {
    let state = joined(&founded(2), 2);
    let shown = status(&state);
    assert_eq!(
        (shown.copies_now, shown.partitions_under_replicated, shown.partitions_moving),
        (2, 1024, 1024)
    );
    assert!(warning(&state).starts_with("1024 partitions with one complete copy, another being made"));
}

#[test]
fn a_down_node_is_named_with_what_its_partitions_wait_for() {
    let state = without(&cluster_of(3), 2);
    let shown = status(&state);
    assert_eq!((shown.copies_now, shown.partitions_unavailable), (2, 0));
    assert_eq!(shown.members[1].state, "down");
    assert_eq!(
        (shown.partitions_with_stand_in, shown.partitions_being_rebuilt),
        (shown.partitions_under_replicated, 0)
    );
    let under_replicated =
        format!("{} partitions with one copy of the older records", shown.partitions_under_replicated);
    assert!(shown.warnings[0].starts_with(&under_replicated), "{:?}", shown.warnings);
    assert!(shown.warnings[0].ends_with(&format!("waits for node {}", node(2).short())));
    assert!(shown.warnings[1].starts_with(&format!("node {} is down", node(2).short())));
    assert_eq!(shown.warnings.len(), 2);
}

#[test]
fn unavailable_partitions_come_first_and_say_which_node_to_start() {
    let state = without(&without(&cluster_of(2), 1), 2);
    let shown = status(&state);
    assert_eq!((shown.copies_now, shown.partitions_unavailable), (0, 1024));
    let first = &shown.warnings[0];
    assert!(first.starts_with("1024 partitions unavailable"), "{first}");
    assert!(first.contains(&node(2).short()) && !first.contains(&node(1).short()), "{first}");
    assert!(first.contains("Start it again"), "{first}");
}

#[test]
fn a_replica_that_does_not_keep_up_is_named_though_its_node_is_up() {
    let state = suspended(&cluster_of(3), 3, 5);
    let warning = warning(&state);
    assert!(warning.starts_with("5 partitions with one copy of the older records"), "{warning}");
    assert!(warning.contains(&node(3).short()), "{warning}");
}

#[test]
fn two_nodes_of_which_one_is_down_have_one_copy_left_and_none_being_made() {
    let state = without(&cluster_of(2), 2);
    let shown = status(&state);
    assert_eq!((shown.copies_now, shown.partitions_with_stand_in), (1, 0));
    assert!(shown.warnings[0].starts_with("1024 partitions with one copy left"), "{:?}", shown.warnings);
    assert!(shown.warnings[0].contains(&format!("waits for node {}", node(2).short())));
}

#[test]
fn a_zone_with_too_much_weight_and_a_factor_of_one_are_warned_of() {
    let zoned = |number, zone: &str| {
        Change::Register(super::super::state::Announcement {
            zone: zone.to_owned(),
            ..announcement(number, 1)
        })
    };
    let changes = [zoned(2, "a"), zoned(3, "a"), zoned(4, "a")];
    let state = converged(&after(&founded(2), changes));
    assert!(warning(&state).starts_with("zone 'a'"), "{}", warning(&state));
    let single = converged(&joined(&founded(1), 2));
    assert!(warning(&single).contains("founded with one copy"));
}

#[test]
fn the_warnings_of_a_large_cluster_stay_few_and_short() {
    let all = (2..=60).map(|number| Change::Register(announcement(number, 1)));
    let mut state = converged(&after(&founded(2), all));
    for number in 10..50 {
        state = without(&state, number);
    }
    let warnings = status(&state).warnings;
    assert!(warnings.len() <= 4 && warnings.iter().all(|warning| warning.len() < 300), "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("and 36 more are down")), "{warnings:?}");
}

#[test]
fn the_ring_shows_every_share_against_its_exact_size() {
    let witness = Change::Register(super::super::state::Announcement { weight: 0, ..announcement(4, 1) });
    let state = after(&cluster_of(3), [witness]);
    let view = ring(&state);
    assert_eq!((view.shares.len(), view.partitions.len(), view.epoch), (4, 1024, state.epoch));
    for share in &view.shares[..3] {
        assert!((share.copies_ideal - 2048.0 / 3.0).abs() < 1e-9, "{share:?}");
        assert!((f64::from(share.copies) - share.copies_ideal).abs() < 1.0, "{share:?}");
        assert_eq!((share.in_sync, share.syncing), (share.copies, 0));
    }
    assert_eq!(view.shares.iter().map(|share| share.primaries).sum::<u32>(), 1024);
    let nothing = &view.shares[3];
    assert_eq!((nothing.copies, nothing.copies_ideal, nothing.weight), (0, 0.0, 0));
}

#[test]
fn a_share_is_never_more_than_a_copy_of_every_partition() {
    let heavy = Change::Register(super::super::state::Announcement { weight: 10_000, ..announcement(2, 1) });
    let state = converged(&after(&founded(2), [heavy]));
    let ideals: Vec<f64> = ring(&state).shares.iter().map(|share| share.copies_ideal).collect();
    assert_eq!(ideals, [1024.0, 1024.0]);
}

#[test]
fn the_ring_shows_where_copies_are_and_where_they_should_be() {
    let before = cluster_of(3);
    let state = without(&joined(&before, 4), 1);
    let view = ring(&state);
    for (shown, (partition, placed)) in view.partitions.iter().zip(state.partitions()) {
        assert_eq!((shown.partition, shown.term), (partition, placed.term));
        let replicas: Vec<_> = placed.replicas.iter().map(|r| (r.node.to_string(), r.role.word())).collect();
        let named = |at: &usize| view.shares[*at].id.clone();
        let listed: Vec<_> = shown.replicas.iter().map(|(at, role)| (named(at), role.as_str())).collect();
        assert_eq!(
            listed.first().map(|first| first.0.clone()),
            placed.primary().map(|node| node.to_string())
        );
        assert_eq!(listed, replicas);
        let target: Vec<_> = shown.target.iter().map(named).collect();
        assert_eq!(target, state.ring.replicas(partition).iter().map(NodeId::to_string).collect::<Vec<_>>());
    }
    let stands_in =
        state.replicas_on(node(4)).filter(|(_, replica)| replica.stand_in.is_some()).count() as u32;
    assert!(stands_in > 0, "it stands in for node 1, too");
    assert_eq!(view.shares[3].syncing, 512 + stands_in);
    assert!(view.partitions.iter().flat_map(|p| &p.replicas).any(|(_, role)| role == "away"));
}
