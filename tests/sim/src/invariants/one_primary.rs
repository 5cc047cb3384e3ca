//! At any time at most one node of a generation serves a partition (rule R10).
//!
//! A node of an older generation may serve on, because the operator of a takeover has to make sure that it
//! does not. A node of an older generation that was started after the takeover may not.

use std::collections::BTreeMap;

use super::Watch;
use crate::world::World;

/// The invariant of this module.
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
            // Within one round trip it may have received the lease it asked for before.
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
