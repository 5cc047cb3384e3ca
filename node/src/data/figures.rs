//! Sizes of partitions, as their primaries count them: the input of plan previews.

use std::collections::BTreeSet;
use std::sync::Arc;

use caskade_engine::slots::PARTITIONS;

use super::message::{Answer, Request};
use super::plane::{Plane, Role};
use crate::cluster::plan::{PartitionSize, SizesByPartition};
use crate::id::{NodeId, Partition};

impl Plane {
    /// Returns live keys and bytes of every partition whose primary answers. Asks the nodes one after the
    /// other, each once.
    pub async fn figures(self: &Arc<Self>) -> SizesByPartition {
        let view = self.view.load_full();
        let mut figures = SizesByPartition::new();
        let nodes: BTreeSet<NodeId> = view.primaries.iter().flatten().copied().collect();
        for node in nodes {
            let answer = match node == self.node {
                true => Answer::Figures(self.local_figures()),
                false => self.ask(node, &Request::Figures).await,
            };
            if let Answer::Figures(told) = answer {
                figures.extend(
                    told.into_iter()
                        .map(|(partition, keys, bytes)| (partition, PartitionSize { keys, bytes })),
                );
            }
        }
        figures
    }

    pub(super) fn local_figures(self: &Arc<Self>) -> Vec<(Partition, u64, u64)> {
        let mine =
            |partition: &Partition| self.with_role(*partition, |role| matches!(role, Role::Primary(_)));
        let figure = |partition| {
            let stats = self.engine.partition_stats(partition);
            (partition, stats.live_keys, stats.live_bytes)
        };
        (0..PARTITIONS).filter(mine).map(figure).collect()
    }
}
