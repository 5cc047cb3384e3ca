//! Summarizes the state of the cluster in one sentence.

use crate::model::{Model, Snapshot};
use crate::theme::Level;
use crate::units;
use caskade_api::PartitionView;

/// Largest difference of a wall clock from cluster time without a warning, in milliseconds. Nodes use the
/// same limit.
const CLOCK_OFFSET_MS_MAX: u64 = 500;

/// State of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Severity.
    pub level: Level,
    /// The state as a sentence without a full stop.
    pub text: String,
}

/// Returns whether exactly the replicas that the ring names are in-sync, and none is syncing or away.
pub fn is_in_place(partition: &PartitionView) -> bool {
    let mut held: Vec<usize> = partition.replicas.iter().map(|(node, _)| *node).collect();
    let mut target = partition.target.clone();
    held.sort_unstable();
    target.sort_unstable();
    held == target && partition.replicas.iter().all(|(_, role)| role == "in-sync")
}

/// Returns the state of the cluster by the last answer. Reports only the worst problem, and its cause if
/// known.
pub fn health(model: &Model) -> Health {
    let (level, text) = match &model.snapshot {
        None if model.failures.is_empty() => (Level::Busy, "reading the state of the cluster ...".to_owned()),
        None => (Level::Bad, format!("no node answers: {}", failures(model))),
        Some(_) if !model.failures.is_empty() => {
            let age = units::seconds(model.now_ms.saturating_sub(model.answered_ms) / 1000);
            (Level::Bad, format!("no node answers, values are {age} old: {}", failures(model)))
        }
        Some(snapshot) => of_answer(snapshot),
    };
    Health { level, text }
}

fn failures(model: &Model) -> String {
    let each: Vec<String> =
        model.failures.iter().map(|failure| format!("{} ({})", failure.addr, failure.error)).collect();
    each.join(", ")
}

fn of_answer(snapshot: &Snapshot) -> (Level, String) {
    let status = &snapshot.status;
    let down = down_nodes(snapshot);
    let because = if down.is_empty() { String::new() } else { format!(": {down}") };
    if status.cluster_id.is_empty() {
        return (
            Level::Busy,
            format!("this node is {}: it belongs to no cluster yet", or(&status.state, "starting")),
        );
    }
    if status.partitions_unavailable > 0 {
        let what = partitions(status.partitions_unavailable);
        return (Level::Bad, format!("{what} unavailable, requests to them wait{because}"));
    }
    let full = with_disk(snapshot, &["minimum", "full"]);
    if !full.is_empty() {
        return (
            Level::Bad,
            format!("{full} at the minimum of free disk space: writes that add data are rejected{because}"),
        );
    }
    if status.partitions_under_replicated > 0 {
        let cause = if down.is_empty() { ": missing copies are being made" } else { &because };
        return (
            Level::Warning,
            format!("{} under-replicated{cause}", partitions(status.partitions_under_replicated)),
        );
    }
    if !down.is_empty() {
        return (Level::Warning, format!("{}, but {down}", copies(status.copies_now)));
    }
    if status.coordinator.is_none() {
        return (Level::Warning, format!("{}, but no coordinator is elected", copies(status.copies_now)));
    }
    if status.copies_now < status.replication_factor {
        let wanted = status.replication_factor;
        return (
            Level::Warning,
            format!("{} instead of {wanted}: the cluster has too few nodes", copies(status.copies_now)),
        );
    }
    if let Some(clock) = wrong_clocks(snapshot) {
        return (Level::Warning, format!("{}, but {clock}", copies(status.copies_now)));
    }
    let low = with_disk(snapshot, &["low"]);
    if !low.is_empty() {
        return (Level::Warning, format!("{}, but {low} low on disk space", copies(status.copies_now)));
    }
    if status.partitions_moving > 0 {
        let moving = partitions(status.partitions_moving);
        return (Level::Busy, format!("{}, {moving} on the move", copies(status.copies_now)));
    }
    (Level::Good, copies(status.copies_now))
}

fn copies(copies: u8) -> String {
    match copies {
        0 => "number of copies unknown".to_owned(),
        1 => "all keys on 1 node only".to_owned(),
        _ => format!("all keys on {copies} nodes"),
    }
}

fn partitions(count: u32) -> String {
    if count == 1 { "1 partition".to_owned() } else { format!("{count} partitions") }
}

/// Returns `node X is down`, `nodes X and Y are down`, or an empty text.
fn down_nodes(snapshot: &Snapshot) -> String {
    let members = snapshot.status.members.iter().filter(|member| member.state == "down");
    let down: Vec<&str> = members.map(|member| units::short(&member.id)).collect();
    match down.as_slice() {
        [] => String::new(),
        [one] => format!("node {one} is down"),
        [first @ .., last] if first.len() < 3 => format!("nodes {} and {last} are down", first.join(", ")),
        many => format!("{} nodes are down", many.len()),
    }
}

/// Returns which wall clocks differ from cluster time by more than [`CLOCK_OFFSET_MS_MAX`], if any does.
fn wrong_clocks(snapshot: &Snapshot) -> Option<String> {
    let offset = |node: &caskade_api::NodeRow| Some((node.id.clone(), node.clock_offset_ms?));
    let wrong = snapshot.nodes.nodes.iter().filter_map(offset);
    let wrong: Vec<_> =
        wrong.filter(|(_, offset_ms)| offset_ms.unsigned_abs() > CLOCK_OFFSET_MS_MAX).collect();
    match wrong.as_slice() {
        [] => None,
        [(id, offset_ms)] => {
            let (off, way) = (
                units::seconds(offset_ms.unsigned_abs() / 1000),
                if *offset_ms < 0 { "slow" } else { "fast" },
            );
            Some(format!("the clock of node {} is {off} {way}", units::short(id)))
        }
        many => Some(format!("the clocks of {} nodes are wrong", many.len())),
    }
}

/// Returns `node X is` or `3 nodes are each` for the nodes whose disks are in one of these states; empty if
/// none is.
fn with_disk(snapshot: &Snapshot, states: &[&str]) -> String {
    let rows = snapshot.nodes.nodes.iter().filter(|row| row.state == "up");
    let such: Vec<&str> = rows
        .filter(|row| states.contains(&row.disk_state.as_str()))
        .map(|row| units::short(&row.id))
        .collect();
    match such.as_slice() {
        [] => String::new(),
        [one] => format!("node {one} is"),
        many => format!("{} nodes are each", many.len()),
    }
}

fn or<'a>(text: &'a str, absent: &'a str) -> &'a str {
    if text.is_empty() { absent } else { text }
}

/// Returns the number of keys in the cluster, and whether it is an estimate.
///
/// Nodes count the copies they hold. The sum is divided by the average number of in-sync copies per partition
/// on live nodes, which is not exact while copies are being made.
pub fn keys(model: &Model) -> Option<(u64, bool)> {
    let snapshot = model.snapshot.as_ref()?;
    let live =
        || snapshot.nodes.nodes.iter().filter(|row| row.state != "down" && row.report_age_ms.is_some());
    let records: u64 = live().map(|row| row.records_live).sum();
    let in_sync: u32 = model
        .ring
        .shares
        .iter()
        .filter(|share| live().any(|row| row.id == share.id))
        .map(|share| share.in_sync)
        .sum();
    let copies = match (model.ring.partitions.len(), in_sync) {
        (0, _) | (_, 0) => f64::from(snapshot.status.copies_now.max(1)),
        (partitions, in_sync) => f64::from(in_sync) / partitions as f64,
    };
    let status = &snapshot.status;
    let estimate = status.partitions_moving + status.partitions_under_replicated > 0;
    Some(((records as f64 / copies).round() as u64, estimate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_in_place_only_when_nothing_is_left_to_do() {
        let in_place = |replicas: &[(usize, &str)], target: &[usize]| {
            let replicas = replicas.iter().map(|(node, role)| (*node, (*role).to_owned()));
            let replicas = replicas.collect();
            is_in_place(&PartitionView { replicas, target: target.to_vec(), ..PartitionView::default() })
        };
        assert!(in_place(&[(0, "in-sync"), (1, "in-sync")], &[1, 0]));
        assert!(!in_place(&[(0, "in-sync"), (1, "syncing")], &[0, 1]));
        assert!(!in_place(&[(0, "in-sync"), (1, "away")], &[0, 1]));
        assert!(!in_place(&[(0, "in-sync"), (1, "in-sync"), (2, "syncing")], &[0, 2]));
    }
    use crate::model::Failure;
    use caskade_api::{MemberStatus, NodeRow, Nodes, RingShare, RingView, Status};

    fn cluster(change: impl FnOnce(&mut Status)) -> Model {
        let mut status = Status {
            cluster_id: "c0".into(),
            coordinator: Some("a".into()),
            replication_factor: 2,
            copies_now: 2,
            ..Status::default()
        };
        change(&mut status);
        Model { snapshot: Some(Snapshot { status, ..Snapshot::default() }), ..Model::default() }
    }

    fn down(ids: &[&str]) -> Vec<MemberStatus> {
        ids.iter()
            .map(|id| MemberStatus { id: (*id).into(), state: "down".into(), ..MemberStatus::default() })
            .collect()
    }

    fn text_of(model: &Model) -> String {
        health(model).text
    }

    #[test]
    fn healthy_cluster_shows_the_number_of_copies() {
        let model = cluster(|_| {});
        assert_eq!(health(&model), Health { level: Level::Good, text: "all keys on 2 nodes".into() });
    }

    #[test]
    fn worst_problem_is_shown_with_its_cause() {
        let model = cluster(|status| {
            status.members = down(&["12D3KooWaaaaaa"]);
            status.partitions_under_replicated = 37;
        });
        assert_eq!(text_of(&model), "37 partitions under-replicated: node aaaaaa is down");
        let model = cluster(|status| {
            status.members = down(&["x", "y"]);
            status.partitions_under_replicated = 37;
            status.partitions_unavailable = 1;
        });
        assert_eq!(text_of(&model), "1 partition unavailable, requests to them wait: nodes x and y are down");
    }

    #[test]
    fn disks_that_are_low_or_full_are_shown() {
        let with = |state: &str| {
            let mut model = cluster(|_| {});
            if let Some(snapshot) = &mut model.snapshot {
                let row = NodeRow {
                    id: "a".into(),
                    state: "up".into(),
                    disk_state: state.into(),
                    ..NodeRow::default()
                };
                snapshot.nodes = Nodes { nodes: vec![row], ..Nodes::default() };
            }
            health(&model)
        };
        assert_eq!(with("ok").level, Level::Good);
        assert_eq!(with("low").text, "all keys on 2 nodes, but node a is low on disk space");
        let full = with("minimum");
        assert_eq!(
            full.text,
            "node a is at the minimum of free disk space: writes that add data are rejected"
        );
        assert_eq!((full.level, with("full")), (Level::Bad, full));
    }

    #[test]
    fn one_node_alone_is_a_warning() {
        let model = cluster(|status| status.copies_now = 1);
        assert_eq!(health(&model).level, Level::Warning);
        assert_eq!(text_of(&model), "all keys on 1 node only instead of 2: the cluster has too few nodes");
    }

    #[test]
    fn unreachable_cluster_shows_the_age_of_the_values() {
        let mut model = cluster(|_| {});
        model.now_ms = 12_000;
        model.failures = vec![Failure { addr: "127.0.0.1:1".into(), error: "connection refused".into() }];
        assert_eq!(text_of(&model), "no node answers, values are 12 s old: 127.0.0.1:1 (connection refused)");
    }

    #[test]
    fn node_whose_clock_is_wrong_is_named() {
        let mut model = cluster(|_| {});
        let row =
            |id: &str, offset_ms| NodeRow { id: id.into(), clock_offset_ms: offset_ms, ..NodeRow::default() };
        let mut with = |rows: Vec<NodeRow>| {
            if let Some(snapshot) = &mut model.snapshot {
                snapshot.nodes = Nodes { nodes: rows, ..Nodes::default() };
            }
            (health(&model).level, text_of(&model))
        };
        assert_eq!(with(vec![row("aaaaaa", Some(499)), row("bbbbbb", None)]).0, Level::Good);
        let (level, text) = with(vec![row("aaaaaa", Some(-3_000)), row("bbbbbb", Some(2))]);
        assert_eq!(
            (level, text.as_str()),
            (Level::Warning, "all keys on 2 nodes, but the clock of node aaaaaa is 3 s slow")
        );
        let (_, text) = with(vec![row("aaaaaa", Some(-3_000)), row("bbbbbb", Some(900))]);
        assert_eq!(text, "all keys on 2 nodes, but the clocks of 2 nodes are wrong");
    }

    #[test]
    fn keys_count_copies_only_once() {
        let mut model = cluster(|_| {});
        let row = |id: &str| NodeRow {
            id: id.into(),
            state: "up".into(),
            records_live: 600,
            report_age_ms: Some(1),
            ..NodeRow::default()
        };
        let share = |id: &str, in_sync| RingShare { id: id.into(), in_sync, ..RingShare::default() };
        if let Some(snapshot) = &mut model.snapshot {
            snapshot.nodes = Nodes { nodes: vec![row("a"), row("b")], ..Nodes::default() };
        }
        assert_eq!(
            keys(&model),
            Some((600, false)),
            "without a ring: divided by the present number of copies"
        );
        model.ring = RingView {
            shares: vec![share("a", 2), share("b", 1)],
            partitions: vec![Default::default(); 2],
            ..RingView::default()
        };
        assert_eq!(
            keys(&model),
            Some((800, false)),
            "with a ring: divided by the in-sync copies per partition"
        );
    }
}
