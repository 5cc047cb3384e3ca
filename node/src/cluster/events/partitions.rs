//! Events of partitions: lost primaries, and replicas that were removed from or added to the in-sync set.

use std::collections::{BTreeMap, BTreeSet};

use super::{Kind, News, Severity, counted, named};
use crate::cluster::state::{ClusterState, ReplicaRole};
use crate::id::{NodeId, Partition};

/// Maximum of events of one sort per change of state; of more, one event has all.
const REPORTED_MAX: usize = 4;
/// Copying between two nodes has an event each time this many partitions fewer are left, and at its end.
pub(super) const STEP: u32 = 128;

/// Partitions with the same fact, and the nodes involved.
#[derive(Default)]
pub(super) struct Group {
    pub(super) partitions: u32,
    pub(super) nodes: BTreeSet<NodeId>,
}

impl News<'_> {
    pub(super) fn partitions(&mut self) {
        self.given_up();
        self.failed_over();
        self.lost();
        self.available_again();
        self.taken_out();
        self.copied();
    }

    /// Partitions whose last complete copy was given up: its node is down, or its store is damaged.
    fn given_up(&mut self) {
        let (mut down, mut damaged) = (BTreeMap::<NodeId, Group>::new(), BTreeMap::<NodeId, Group>::new());
        for (partition, former, present) in self.primaries() {
            let (Some(former), Some(present)) = (former, present) else { continue };
            let groups = if self.is_given_up(partition, former, present) {
                &mut down
            } else if former == present && self.counts_as_it_is(partition, present) {
                &mut damaged
            } else {
                continue;
            };
            let group = groups.entry(former).or_default();
            group.partitions += 1;
            group.nodes.insert(present);
        }
        let many = "were given up with the last complete copies of these nodes, which are down";
        self.grouped(Severity::Error, Kind::Failover, down, many, |_, node, group| {
            format!(
                "{} given up: node {}, which is down, had their last complete copy. What only that copy held \
                 is lost. They are served by {}; a copy that node {} still has is discarded when it returns",
                counted(group.partitions, "partition"),
                node.short(),
                named(&group.nodes),
                node.short()
            )
        });
        let many = "count as complete from now on, whatever their damaged stores lost: that is given up";
        self.grouped(Severity::Error, Kind::Failover, damaged, many, |_, node, group| {
            format!(
                "what the damaged store of node {} lost of {} is given up: their keys are answered with what \
                 it holds",
                node.short(),
                counted(group.partitions, "partition")
            )
        });
    }

    /// Whether another copy took the place of the last complete one, whose node was down and did not return.
    fn is_given_up(&self, partition: Partition, former: NodeId, present: NodeId) -> bool {
        let returned = self.new.members.contains_key(&former) && !self.same_incarnation(former);
        former != present
            && !self.old.is_live_primary(partition)
            && !returned
            && self.old.generation == self.new.generation
    }

    /// Whether the primary's copy counts as complete by an entry of its own, within one term.
    fn counts_as_it_is(&self, partition: Partition, primary: NodeId) -> bool {
        let copy = |state: &ClusterState| {
            let placed = state.partition(partition)?;
            Some((placed.term, placed.replica(primary)?.syncing_since))
        };
        let (old, new) = (copy(self.old), copy(self.new));
        let later = old.zip(new).is_some_and(|(old, new)| old.0 == new.0 && old.1 < new.1);
        later && self.same_incarnation(primary)
    }

    /// Reports partitions whose primary lost its role without its consent: another in-sync replica took over.
    fn failed_over(&mut self) {
        let mut groups: BTreeMap<NodeId, Group> = BTreeMap::new();
        for (partition, former, present) in self.primaries() {
            let (Some(former), Some(present)) = (former, present) else {
                continue;
            };
            let consented = self.new.is_up(former)
                && self.same_incarnation(former)
                && role(self.new, partition, former).is_none_or(|role| role == ReplicaRole::InSync);
            if former != present && !consented && !self.is_given_up(partition, former, present) {
                let group = groups.entry(former).or_default();
                group.partitions += 1;
                group.nodes.insert(present);
            }
        }
        self.grouped(
            Severity::Warning,
            Kind::Failover,
            groups,
            "changed their primary",
            |news, former, group| {
                let why = if !news.new.is_up(former) {
                    "which went down"
                } else if !news.same_incarnation(former) {
                    "which restarted"
                } else {
                    "which gave them up"
                };
                let partitions = counted(group.partitions, "partition");
                format!(
                    "{partitions} of node {}, {why}: now served by {}",
                    former.short(),
                    named(&group.nodes)
                )
            },
        );
    }

    /// Reports partitions whose last complete copy is on a node that went down.
    fn lost(&mut self) {
        let mut groups: BTreeMap<NodeId, Group> = BTreeMap::new();
        for (partition, _, primary) in self.primaries() {
            if let Some(primary) = primary
                && self.old.is_live_primary(partition)
                && !self.new.is_live_primary(partition)
            {
                groups.entry(primary).or_default().partitions += 1;
            }
        }
        let many = "became unavailable: the nodes with their last complete copies are down. Start them again";
        self.grouped(Severity::Error, Kind::Failover, groups, many, |_, node, group| {
            format!(
                "{} unavailable: node {} has their last complete copy and is down. Requests for their keys \
                 wait, then fail. Start it again: its data directory has the acknowledged writes",
                counted(group.partitions, "partition"),
                node.short()
            )
        });
    }

    fn available_again(&mut self) {
        let mut groups: BTreeMap<NodeId, Group> = BTreeMap::new();
        for (partition, _, primary) in self.primaries() {
            if let Some(primary) = primary
                && !self.old.is_live_primary(partition)
                && self.new.is_live_primary(partition)
            {
                groups.entry(primary).or_default().partitions += 1;
            }
        }
        self.grouped(Severity::Info, Kind::Failover, groups, "are available again", |_, node, group| {
            let partitions = counted(group.partitions, "partition");
            format!("{partitions} available again, from node {}", node.short())
        });
    }

    /// Reports replicas on nodes that stayed up and became away, or resumed.
    fn taken_out(&mut self) {
        let (mut out, mut back) = (BTreeMap::<NodeId, Group>::new(), BTreeMap::<NodeId, Group>::new());
        for (partition, placed) in self.changed_partitions() {
            for replica in &placed.replicas {
                let was_away = match role(self.old, partition, replica.node) {
                    None => continue,
                    Some(role) => role == ReplicaRole::Away,
                };
                let is_away = replica.role == ReplicaRole::Away;
                let stayed = self.old.is_up(replica.node) && self.new.is_up(replica.node);
                if stayed && self.same_incarnation(replica.node) && was_away != is_away {
                    let groups = if is_away { &mut out } else { &mut back };
                    groups.entry(replica.node).or_default().partitions += 1;
                }
            }
        }
        let many = "lost a replica that could not acknowledge";
        self.grouped(Severity::Warning, Kind::Failover, out, many, |_, node, group| {
            let partitions = counted(group.partitions, "partition");
            format!("node {} was taken out of {partitions}: it could not acknowledge in time", node.short())
        });
        let many = "took a replica back in";
        self.grouped(Severity::Info, Kind::Failover, back, many, |_, node, group| {
            let partitions = counted(group.partitions, "partition");
            format!("node {} takes part in {partitions} again and catches up", node.short())
        });
    }

    /// Reports copies that became in-sync, by source and target.
    fn copied(&mut self) {
        let mut made: BTreeMap<(NodeId, NodeId), u32> = BTreeMap::new();
        for (partition, placed) in self.changed_partitions() {
            let Some(source) = self.old.primary(partition) else {
                continue;
            };
            for replica in placed.in_sync().filter(|replica| replica.node != source) {
                if role(self.old, partition, replica.node) != Some(ReplicaRole::InSync) {
                    *made.entry((source, replica.node)).or_default() += 1;
                }
            }
        }
        let mut to_go: BTreeMap<(NodeId, NodeId), u32> = BTreeMap::new();
        for (_, source, replica) in self.new.copies_in_progress() {
            *to_go.entry((source, replica.node)).or_default() += 1;
        }
        let mut steps: BTreeMap<(NodeId, NodeId), u32> = BTreeMap::new();
        for (pair, made) in made {
            let left = to_go.get(&pair).copied().unwrap_or(0);
            if left.div_ceil(STEP) != (left + made).div_ceil(STEP) {
                steps.insert(pair, left);
            }
        }
        self.steps(&steps);
    }

    /// Reports the progress of copying, by source and target: the copies left.
    fn steps(&mut self, steps: &BTreeMap<(NodeId, NodeId), u32>) {
        let progress = |target: String, source: String, left: u32| match left {
            0 => format!("{target}: all copies from {source} are complete"),
            _ => format!("{target}: {} left to make from {source}", counted(left, "copy")),
        };
        if steps.len() > REPORTED_MAX {
            let targets: BTreeSet<NodeId> = steps.keys().map(|(_, target)| *target).collect();
            let sources: BTreeSet<NodeId> = steps.keys().map(|(source, _)| *source).collect();
            let message = progress(named(&targets), named(&sources), steps.values().sum());
            return self.report(Severity::Info, Kind::Migration, None, message);
        }
        for ((source, target), left) in steps {
            let (to, from) = (format!("node {}", target.short()), format!("node {}", source.short()));
            self.report(Severity::Info, Kind::Migration, Some(*target), progress(to, from, *left));
        }
    }

    /// Returns every changed partition, with its primary in both states.
    fn primaries(&self) -> impl Iterator<Item = (Partition, Option<NodeId>, Option<NodeId>)> {
        self.changed_partitions()
            .map(|(partition, new)| (partition, self.old.primary(partition), new.primary()))
    }

    fn same_incarnation(&self, node: NodeId) -> bool {
        let incarnation = |state: &ClusterState| Some(state.member(node)?.announcement.incarnation);
        incarnation(self.old) == incarnation(self.new)
    }

    /// Adds one event per node, or one event for all if there are more than `REPORTED_MAX`.
    pub(super) fn grouped(
        &mut self,
        severity: Severity,
        kind: Kind,
        groups: BTreeMap<NodeId, Group>,
        happened_to_many: &str,
        one: impl Fn(&Self, NodeId, &Group) -> String,
    ) {
        if groups.len() > REPORTED_MAX {
            let partitions = counted(groups.values().map(|group| group.partitions).sum(), "partition");
            let nodes = named(&groups.into_keys().collect());
            return self.report(severity, kind, None, format!("{partitions} of {nodes} {happened_to_many}"));
        }
        for (node, group) in groups {
            let message = one(self, node, &group);
            self.report(severity, kind, Some(node), message);
        }
    }
}

fn role(state: &ClusterState, partition: Partition, node: NodeId) -> Option<ReplicaRole> {
    Some(state.partition(partition)?.replica(node)?.role)
}
