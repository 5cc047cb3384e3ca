//! Events of stand-ins: they were named, or older records are being copied to them.

use std::collections::BTreeMap;

use super::partitions::Group;
use super::{Kind, News, Severity, counted, named};
use crate::cluster::state::{ClusterState, StandIn};
use crate::id::{NodeId, Partition};

impl News<'_> {
    pub(super) fn stand_ins(&mut self) {
        let (mut named_for, mut filled_for) = (BTreeMap::new(), BTreeMap::new());
        for (partition, placed) in self.changed_partitions() {
            for (replica, stand_in) in placed.stand_ins() {
                let before = stand_in_of(self.old, partition, replica.node);
                if before.is_none() {
                    note(&mut named_for, stand_in.of, replica.node);
                }
                if stand_in.rebuild && before.is_none_or(|before| !before.rebuild) {
                    note(&mut filled_for, stand_in.of, replica.node);
                }
            }
        }
        let many = "have a stand-in for a copy that is away";
        self.grouped(Severity::Info, Kind::Failover, named_for, many, |_, of, group| {
            let partitions = counted(group.partitions, "partition");
            let by = named(&group.nodes);
            format!("{partitions}: {by} receive new writes in place of node {}", of.short())
        });
        let many = "are being rebuilt on stand-ins";
        self.grouped(Severity::Info, Kind::Migration, filled_for, many, |_, of, group| {
            let partitions = counted(group.partitions, "partition");
            format!(
                "{partitions} of node {}, which stays away, are copied to {}",
                of.short(),
                named(&group.nodes)
            )
        });
    }
}

fn note(groups: &mut BTreeMap<NodeId, Group>, of: NodeId, by: NodeId) {
    let group = groups.entry(of).or_default();
    group.partitions += 1;
    group.nodes.insert(by);
}

fn stand_in_of(state: &ClusterState, partition: Partition, node: NodeId) -> Option<StandIn> {
    state.partition(partition)?.replica(node)?.stand_in
}
