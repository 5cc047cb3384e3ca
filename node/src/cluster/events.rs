//! What a change of the committed state means to an operator: one event for each fact.
//!
//! However many partitions a change concerns, it makes a handful of events: those of one kind are counted
//! together. The single steps of a migration are no events; its plan's beginning and end are.

use std::collections::BTreeMap;

use super::state::{ClusterState, Member, MemberStatus};
use crate::api::Event;
use crate::id::NodeId;

/// What happened between two states that follow each other, possibly with others between them.
pub fn between(old: &ClusterState, new: &ClusterState, time_ms: u64) -> Vec<Event> {
    let mut events = Events {
        epoch: new.epoch,
        time_ms,
        list: Vec::new(),
    };
    if old.epoch == 0 && new.epoch > 0 {
        let text = format!("the cluster {} was founded", new.cluster_id);
        events.add("info", "member", None, text);
    }
    members(old, new, &mut events);
    failovers(old, new, &mut events);
    availability(old, new, &mut events);
    plans(old, new, &mut events);
    events.list
}

struct Events {
    epoch: u64,
    time_ms: u64,
    list: Vec<Event>,
}

impl Events {
    fn add(&mut self, severity: &str, kind: &str, node: Option<NodeId>, message: String) {
        self.list.push(Event {
            time_ms: self.time_ms,
            epoch: self.epoch,
            severity: severity.to_owned(),
            kind: kind.to_owned(),
            node: node.map(|node| node.to_string()).unwrap_or_default(),
            message,
        });
    }
}

fn members(old: &ClusterState, new: &ClusterState, events: &mut Events) {
    for (node, member) in &new.members {
        match old.member(*node) {
            None => {
                let addr = &member.announcement.client_addr;
                let text = format!("node {} joined; clients reach it at {addr}", node.short());
                events.add("info", "member", Some(*node), text);
            }
            Some(before) => changed_member(*node, before, member, events),
        }
    }
    for node in old.members.keys().filter(|node| !new.members.contains_key(*node)) {
        events.add(
            "info",
            "member",
            Some(*node),
            format!("node {} left", node.short()),
        );
    }
}

fn changed_member(node: NodeId, old: &Member, new: &Member, events: &mut Events) {
    let (before, now) = (&old.announcement, &new.announcement);
    let name = node.short();
    let mut tell = |severity: &str, text: String| events.add(severity, "member", Some(node), text);
    let start = now.incarnation;
    match (old.status, new.status) {
        (MemberStatus::Up, MemberStatus::Down) => {
            tell(
                "warning",
                format!("node {name} was declared down: its lease ran out, or it was stopped"),
            );
        }
        (MemberStatus::Down, MemberStatus::Up) => {
            tell("info", format!("node {name} is back, by its start {start}"))
        }
        _ if before.incarnation != start => tell(
            "info",
            format!("node {name} was restarted; this is its start {start}"),
        ),
        _ => {}
    }
    if before.weight != now.weight {
        tell(
            "info",
            format!(
                "node {name} has weight {} now, {} before",
                now.weight, before.weight
            ),
        );
    }
    if before.zone != now.zone {
        tell(
            "info",
            format!(
                "node {name} is in zone '{}' now, '{}' before",
                now.zone, before.zone
            ),
        );
    }
    if before.build != now.build {
        tell(
            "info",
            format!(
                "node {name} runs version {} now, {} before",
                now.build, before.build
            ),
        );
    }
}

/// Partitions that another node serves because the one before is down, counted by both.
fn failovers(old: &ClusterState, new: &ClusterState, events: &mut Events) {
    let mut taken: BTreeMap<(NodeId, NodeId), usize> = BTreeMap::new();
    for (partition, _) in new.partitions() {
        if let (Some(from), Some(to)) = (old.primary(partition), new.primary(partition))
            && from != to
            && !new.is_up(from)
        {
            *taken.entry((from, to)).or_default() += 1;
        }
    }
    for ((from, to), count) in taken {
        let text = format!(
            "node {} serves {count} partitions in place of node {}",
            to.short(),
            from.short()
        );
        events.add("warning", "failover", Some(to), text);
    }
}

fn availability(old: &ClusterState, new: &ClusterState, events: &mut Events) {
    let lost = new
        .partitions()
        .filter(|(partition, _)| !new.is_live_primary(*partition) && old.is_live_primary(*partition));
    let found = new.partitions().filter(|(partition, _)| {
        new.is_live_primary(*partition)
            && !old.is_live_primary(*partition)
            && old.partition(*partition).is_some()
    });
    let (lost, found) = (lost.count(), found.count());
    if lost > 0 {
        let text = format!(
            "{lost} partitions have no copy on a node that is up: their keys can be neither read nor written \
             until one of their nodes is back"
        );
        events.add("error", "failover", None, text);
    }
    if found > 0 {
        events.add(
            "info",
            "failover",
            None,
            format!("{found} partitions are served again"),
        );
    }
}

fn plans(old: &ClusterState, new: &ClusterState, events: &mut Events) {
    let id = |state: &ClusterState| state.plan.as_ref().map(|plan| plan.id);
    if let Some(before) = old.plan.as_ref().filter(|before| id(new) != Some(before.id)) {
        let text = match &new.plan {
            None => format!(
                "plan {} is done: every copy is where the ring names it",
                before.id
            ),
            Some(plan) => format!("plan {} goes on in plan {}", before.id, plan.id),
        };
        events.add("info", "plan", None, text);
    }
    if let Some(plan) = new.plan.as_ref().filter(|plan| id(old) != Some(plan.id)) {
        let text = format!(
            "plan {}, because {}: {} copies are to be made, {} is the least possible",
            plan.id, plan.cause, plan.copies_total, plan.copies_ideal
        );
        events.add("info", "plan", None, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::samples::{cluster_of, converge, down, node, register};
    use crate::cluster::state::ClusterState;

    fn told(old: &ClusterState, new: &ClusterState) -> Vec<(String, String)> {
        between(old, new, 7)
            .into_iter()
            .map(|event| (event.severity, event.message))
            .collect()
    }

    #[test]
    fn a_founding_is_told_with_its_founder() {
        let events = told(&ClusterState::default(), &cluster_of(1));
        assert_eq!(events.len(), 2);
        assert!(
            events[0].1.contains("was founded") && events[1].1.contains("joined"),
            "{events:?}"
        );
    }

    #[test]
    fn a_join_is_a_member_and_a_plan_and_ends_with_the_plan() {
        let old = cluster_of(2);
        let mut joined = old.clone();
        register(&mut joined, 3, 1);
        let events = told(&old, &joined);
        assert_eq!(events.len(), 2, "{events:?}");
        assert!(
            events[0].1.contains(&node(3).short()) && events[1].1.starts_with("plan "),
            "{events:?}"
        );
        let mut done = joined.clone();
        converge(&mut done);
        let events = told(&joined, &done);
        assert_eq!(events.len(), 1, "{events:?}");
        assert!(events[0].1.contains("is done"), "{events:?}");
    }

    #[test]
    fn a_death_is_a_member_and_a_failover_for_each_node_that_takes_over() {
        let old = cluster_of(3);
        let mut new = old.clone();
        down(&mut new, 1);
        let events = told(&old, &new);
        assert_eq!(events.len(), 3, "{events:?}");
        assert!(
            events.iter().all(|(severity, _)| severity == "warning"),
            "{events:?}"
        );
        let mut back = new.clone();
        register(&mut back, 1, 2);
        let events = told(&new, &back);
        assert!(events[0].1.contains("is back"), "{events:?}");
    }

    #[test]
    fn partitions_without_a_node_are_an_error_until_they_are_served_again() {
        let old = cluster_of(2);
        let mut dark = old.clone();
        down(&mut dark, 1);
        down(&mut dark, 2);
        assert!(told(&old, &dark).iter().any(|(severity, _)| severity == "error"));
        let mut light = dark.clone();
        register(&mut light, 2, 2);
        assert!(
            told(&dark, &light)
                .iter()
                .any(|(_, text)| text.contains("served again"))
        );
    }
}
