//! At any time at most one node serves a partition.

use caskade_engine::PARTITIONS;

use super::Watch;
use crate::world::World;

/// See the module.
#[derive(Default)]
pub(super) struct OnePrimary;

impl Watch for OnePrimary {
    fn check(&mut self, world: &World) -> Result<(), String> {
        let running: Vec<_> = world
            .running()
            .into_iter()
            .filter_map(|number| {
                let process = world.nodes[number].process.as_ref()?;
                process.node.plane().has_lease().then(|| (number, process.node.plane()))
            })
            .collect();
        for partition in 0..PARTITIONS {
            let serving: Vec<usize> = running
                .iter()
                .filter(|(_, plane)| plane.serves(partition))
                .map(|(number, _)| *number)
                .collect();
            if serving.len() > 1 {
                return Err(format!("partition {partition} is served by nodes {serving:?} at the same time"));
            }
        }
        Ok(())
    }
}
