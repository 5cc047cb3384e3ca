//! Events of operators' settings and operations, and of the digests with which copies became in-sync.

use std::collections::{BTreeMap, BTreeSet};

use super::partitions::STEP;
use super::{Kind, News, Severity, counted, named};
use crate::cluster::operations::Promotion;
use crate::id::{Epoch, NodeId, Partition};

/// Maximum of nodes with an event each for the same fact.
const REPORTED_MAX: usize = 4;

impl News<'_> {
    pub(super) fn operations(&mut self) {
        self.leaving();
        self.controlled();
        self.flipped();
        let (old, new) = (self.old.protocol_version, self.new.protocol_version);
        if old != new {
            let message =
                format!("the cluster uses version {new} of the peer protocol from now on (before: {old})");
            self.report(Severity::Info, Kind::Member, None, message);
        }
    }

    fn leaving(&mut self) {
        let (old, new) = (&self.old.placement, &self.new.placement);
        let begun: BTreeSet<NodeId> = new.leaving.difference(&old.leaving).copied().collect();
        let stays = |node: &&NodeId| self.new.members.contains_key(node);
        let ended: BTreeSet<NodeId> = old.leaving.difference(&new.leaving).filter(stays).copied().collect();
        let waits: BTreeSet<NodeId> = new.waiting.difference(&old.waiting).copied().collect();
        for (nodes, what) in [
            (begun, "leaves: its copies are made on other nodes, then it is no longer a member"),
            (ended, "stays a member: its leaving was aborted"),
            (waits, "holds no data until a rebalance"),
        ] {
            if nodes.len() > REPORTED_MAX {
                self.report(Severity::Info, Kind::Member, None, format!("each of {} {what}", named(&nodes)));
                continue;
            }
            for node in nodes {
                self.report(
                    Severity::Info,
                    Kind::Member,
                    Some(node),
                    format!("node {} {what}", node.short()),
                );
            }
        }
    }

    fn controlled(&mut self) {
        let (old, new) = (self.old, self.new);
        if let Some(plan) = self.new.plans.running.as_ref().filter(|_| old.plans.paused != new.plans.paused) {
            let what = if new.plans.paused { "is paused" } else { "continues" };
            self.report(Severity::Info, Kind::Plan, None, format!("plan {} {what}", plan.id));
        }
        if old.throttle_bytes_per_s != new.throttle_bytes_per_s {
            let message = match new.throttle_bytes_per_s {
                Some(rate) => format!("every node copies at {rate} bytes a second at most"),
                None => "every node copies at the pace of its own setting".to_owned(),
            };
            self.report(Severity::Info, Kind::Plan, None, message);
        }
        if old.manual_rebalance != new.manual_rebalance {
            let what = if new.manual_rebalance { "wait for a rebalance" } else { "receive data at once" };
            self.report(Severity::Info, Kind::Plan, None, format!("nodes that join {what}"));
        }
    }

    /// Reports the digests of copies that became in-sync, in the steps of the copying. A single copy has its
    /// own digests. Many copies have the sums of their digests (mod 2^64) on both sides, since the node
    /// returned or the plan began.
    fn flipped(&mut self) {
        if self.old.promotions == self.new.promotions {
            return;
        }
        let mut by_node: BTreeMap<NodeId, Vec<(Partition, Promotion)>> = BTreeMap::new();
        for (partition, flip) in self.new.promotions.iter() {
            by_node.entry(flip.node).or_default().push((*partition, *flip));
        }
        let mut to_go: BTreeMap<NodeId, u32> = BTreeMap::new();
        for (_, _, replica) in self.new.copies_in_progress() {
            *to_go.entry(replica.node).or_default() += 1;
        }
        let mut due: Vec<(NodeId, Vec<(Partition, Promotion)>)> = Vec::new();
        for (node, mut flips) in by_node {
            let made = flips.iter().filter(|(_, flip)| flip.epoch > self.old.epoch).count() as u32;
            let left = to_go.get(&node).copied().unwrap_or(0);
            if left.div_ceil(STEP) == (left + made).div_ceil(STEP) {
                continue;
            }
            let since = self.copying_since(node);
            flips.retain(|(_, flip)| flip.epoch > since);
            due.push((node, flips));
        }
        if due.len() > REPORTED_MAX {
            let nodes = named(&due.iter().map(|(node, _)| *node).collect());
            let all: Vec<(Partition, Promotion)> = due.into_iter().flat_map(|(_, flips)| flips).collect();
            return self.report(Severity::Info, Kind::Migration, None, format!("{nodes}: {}", sums(&all)));
        }
        for (node, flips) in due {
            let message = match flips[..] {
                [(partition, flip)] => format!(
                    "partition {partition} is in-sync on node {}: digest {:016x} on its primary, {:016x} there",
                    node.short(),
                    flip.source_digest,
                    flip.target_digest
                ),
                _ => format!("node {}: {}", node.short(), sums(&flips)),
            };
            self.report(Severity::Info, Kind::Migration, Some(node), message);
        }
    }

    /// Returns the epoch in which the copying to a node began, as far as the states show.
    fn copying_since(&self, node: NodeId) -> Epoch {
        let plan =
            self.new.plans.running.as_ref().or(self.old.plans.running.as_ref()).map_or(0, |plan| plan.epoch);
        plan.max(self.new.member(node).map_or(0, |member| member.since))
    }
}

fn sums(flips: &[(Partition, Promotion)]) -> String {
    let sum = |digest: fn(&Promotion) -> u64| {
        flips.iter().fold(0_u64, |sum, (_, flip)| sum.wrapping_add(digest(flip)))
    };
    format!(
        "{} became in-sync, sum of digests {:016x} on their primaries, {:016x} there",
        counted(flips.len() as u32, "partition"),
        sum(|flip| flip.source_digest),
        sum(|flip| flip.target_digest)
    )
}
