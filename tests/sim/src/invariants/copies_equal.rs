//! After healing, all copies of a partition are equal.

use caskade_engine::slots::PARTITIONS;
use caskade_node::cluster::state::ReplicaRole;

use super::Healed;
use crate::world::World;

/// The invariant of this module.
pub(super) struct CopiesEqual;

impl Healed for CopiesEqual {
    fn check(&self, world: &World) -> Result<(), String> {
        let state = world.log.state();
        for partition in 0..PARTITIONS {
            let replicas = &state.partitions[usize::from(partition)].replicas;
            let mut copies = Vec::new();
            for replica in replicas.iter().filter(|replica| replica.role == ReplicaRole::InSync) {
                let node = world.nodes.iter().position(|node| node.id == replica.node);
                let process = node.and_then(|number| Some((number, world.nodes[number].process.as_ref()?)));
                let Some((number, process)) = process else { continue };
                let stats = process.engine.partition_stats(partition);
                copies.push((number, stats.digest, stats.live_keys, process.engine.inventory(partition)));
            }
            if copies.iter().any(|copy| (copy.1, copy.2) != (copies[0].1, copies[0].2)) {
                return Err(format!(
                    "the copies of partition {partition} differ (node, digest, keys, records): {copies:?}"
                ));
            }
        }
        Ok(())
    }
}
