//! Events for operators, derived from changes of the committed state; every node keeps them in its log of
//! events.
//!
//! Pure: the events follow from two states, which need not be consecutive. One event states one fact about
//! any number of partitions, so that a change of all of them gives only a few events. Copying over many
//! states gives an event for each step, not for each partition.

mod members;
mod operations;
mod partitions;
mod stand_ins;

use super::state::{ClusterState, PartitionState, Plan};
use super::words::{counted, named};
use crate::api::Event;
use crate::id::{NodeId, Partition};

/// Returns the events between two committed states, causes before their consequences, as of `time_ms`
/// (milliseconds since 1970).
pub fn between(old: &ClusterState, new: &ClusterState, time_ms: u64) -> Vec<Event> {
    let mut news = News { old, new, changed: new.changed_since(old), time_ms, events: Vec::new() };
    if new.epoch <= old.epoch {
        return news.events;
    }
    if old.partitions.is_empty() {
        news.first_state();
        return news.events;
    }
    news.members();
    news.partitions();
    news.operations();
    news.stand_ins();
    news.plan();
    news.fully_replicated();
    news.events
}

/// Importance of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// An expected change.
    Info,
    /// A condition to watch.
    Warning,
    /// A present fault.
    Error,
}

impl Severity {
    /// Returns its name in events.
    pub fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Subject of an event.
#[derive(Clone, Copy)]
enum Kind {
    Member,
    Plan,
    Migration,
    Failover,
}

/// Two states and the events of their differences.
struct News<'a> {
    old: &'a ClusterState,
    new: &'a ClusterState,
    changed: Vec<Partition>,
    time_ms: u64,
    events: Vec<Event>,
}

impl<'a> News<'a> {
    /// Returns the changed partitions in their new state.
    fn changed_partitions(&self) -> impl Iterator<Item = (Partition, &'a PartitionState)> {
        let new = self.new;
        self.changed.iter().filter_map(move |number| Some((*number, new.partition(*number)?)))
    }

    fn report(&mut self, severity: Severity, kind: Kind, node: Option<NodeId>, message: String) {
        let kind = match kind {
            Kind::Member => "member",
            Kind::Plan => "plan",
            Kind::Migration => "migration",
            Kind::Failover => "failover",
        };
        self.events.push(Event {
            time_ms: self.time_ms,
            epoch: self.new.epoch,
            severity: severity.word().to_owned(),
            kind: kind.to_owned(),
            node: node.map(|node| node.to_string()).unwrap_or_default(),
            message,
        });
    }

    /// Reports the first state: a node that joins gets no events about how the state arose.
    fn first_state(&mut self) {
        let members: Vec<NodeId> = self.new.members.keys().copied().collect();
        match members[..] {
            [founder] => {
                let message = format!("node {} founded cluster {}", founder.short(), self.new.cluster_id);
                self.report(Severity::Info, Kind::Member, Some(founder), message);
            }
            _ => {
                let (members, epoch) = (counted(members.len() as u32, "member"), self.new.epoch);
                let message = format!("cluster {} has {members} in epoch {epoch}", self.new.cluster_id);
                self.report(Severity::Info, Kind::Member, None, message);
            }
        }
    }

    fn plan(&mut self) {
        let (old, new) = (self.old.plans.running.as_ref(), self.new.plans.running.as_ref());
        let running = |plan: &&Plan| old.is_some_and(|old| old.id == plan.id);
        if let Some(ended) = old.filter(|plan| new.is_none_or(|new| new.id != plan.id)) {
            let message = match new {
                _ if self.went_back() => {
                    format!(
                        "plan {} was aborted ({}): the copies return to their former nodes",
                        ended.id, ended.cause
                    )
                }
                None if self.new.plans.total == ended.id => format!(
                    "plan {} is done ({}): its copies are made and those they replace released",
                    ended.id, ended.cause
                ),
                _ => format!("plan {} was superseded by a later plan ({})", ended.id, ended.cause),
            };
            self.report(Severity::Info, Kind::Plan, None, message);
        }
        if let Some(started) = new.filter(|plan| !running(plan)) {
            let message = format!(
                "plan {} starts ({}): {} to make, of which the shares alone require {}",
                started.id,
                started.cause,
                counted(started.copies_total, "copy"),
                started.copies_ideal
            );
            self.report(Severity::Info, Kind::Plan, None, message);
        } else if new.is_none() && self.new.plans.total > old.map_or(self.old.plans.total, |plan| plan.id) {
            let message = format!("plan {} started and is already done", self.new.plans.total);
            self.report(Severity::Info, Kind::Plan, None, message);
        }
    }

    /// Returns whether the ring is the one from before the plan that was running.
    fn went_back(&self) -> bool {
        let before = self.old.plans.before.as_ref();
        self.old.ring != self.new.ring && before.is_some_and(|before| *before.ring() == self.new.ring)
    }

    fn fully_replicated(&mut self) {
        let completed = |partition: &Partition| {
            self.old.is_under_replicated(*partition) && !self.new.is_under_replicated(*partition)
        };
        if self.changed.iter().any(completed) && self.new.under_replicated() == 0 {
            let copies = self.new.ring.iter().map(|(_, nodes)| nodes.len()).max().unwrap_or(0) as u32;
            let message = match copies {
                1 => "every partition has its only copy".to_owned(),
                _ => format!("every partition has its {copies} copies, all in sync"),
            };
            self.report(Severity::Info, Kind::Migration, None, message);
        }
    }
}

#[cfg(test)]
mod tests;
