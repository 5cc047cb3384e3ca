//! The copies of a partition are on distinct nodes, and the first of them is in-sync: the last in-sync one is
//! never given up.

use caskade_node::cluster::state::{ClusterState, ReplicaRole};

use super::Watch;
use crate::world::World;

/// The invariant of this module.
#[derive(Default)]
pub(super) struct Placement {
    checked: u64,
}

impl Watch for Placement {
    fn check(&mut self, world: &World) -> Result<(), String> {
        for (number, state) in world.log.states_after(self.checked) {
            self.checked = number;
            self.check_state(&state)?;
        }
        Ok(())
    }
}

impl Placement {
    fn check_state(&self, state: &ClusterState) -> Result<(), String> {
        for (number, partition) in state.partitions.iter().enumerate() {
            let mut nodes: Vec<_> = partition.replicas.iter().map(|replica| replica.node).collect();
            if partition.replicas.first().is_none_or(|first| first.role != ReplicaRole::InSync) {
                return Err(format!("the first copy of partition {number} is not in-sync: {partition:?}"));
            }
            nodes.sort_unstable();
            nodes.dedup();
            if nodes.len() != partition.replicas.len() {
                return Err(format!("two copies of partition {number} are on one node: {partition:?}"));
            }
        }
        for (partition, nodes) in state.ring.iter() {
            let mut distinct = nodes.to_vec();
            distinct.sort_unstable();
            distinct.dedup();
            if distinct.len() != nodes.len() {
                return Err(format!("the ring names a node twice for partition {partition}"));
            }
        }
        Ok(())
    }
}
