//! At any time at most one node of a generation serves a partition. A node of an older one, which the operator who had
//! the other side take over was to make sure of, may go on; but none that was started since (rule R10).

use std::collections::BTreeMap;

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
                let generation = world.nodes[number].log.generation();
                process.node.plane().has_lease().then_some((number, generation, process))
            })
            .collect();
        let taken_us = world.taken_over.map_or(u64::MAX, |taken| taken.at_us);
        for (number, generation, process) in &running {
            // In one round trip it may have been granted what it asked for before.
            if *generation < world.newest_generation() && process.since_us > taken_us {
                return Err(format!(
                    "node {number} serves in generation {generation}, and was started after the takeover"
                ));
            }
        }
        let mut served = BTreeMap::new();
        for (number, generation, process) in &running {
            for partition in process.node.plane().serving() {
                if let Some(other) = served.insert((partition, *generation), *number) {
                    return Err(format!(
                        "partition {partition} is served by nodes {other} and {number} at the same time"
                    ));
                }
            }
        }
        Ok(())
    }
}
