//! Queues stay within their bounds.

use super::Watch;
use crate::world::World;

/// Calls in flight of a cluster of this size with a handful of clients; far below the limits of the links.
const CALLS_MAX: usize = 100_000;

/// Counts the looks.
#[derive(Default)]
pub(super) struct Bounds(u32);

/// Looks between two checks of a store's figures, which cost a walk over all partitions.
const STORES_EVERY: u32 = 16;

impl Watch for Bounds {
    fn check(&mut self, world: &World) -> Result<(), String> {
        if world.network.calls_max() > CALLS_MAX {
            return Err(format!("{} calls were unanswered at one time", world.network.calls_max()));
        }
        for number in world.running() {
            let Some(process) = &world.nodes[number].process else { continue };
            let plane = process.node.plane();
            let (bytes, waiting) = plane.under_way();
            let limits = plane.limits();
            if bytes > limits.in_flight_bytes_max || waiting > limits.waiting_max {
                return Err(format!("node {number} has {waiting} requests waiting, {bytes} bytes under way"));
            }
            let waiting = if self.0 == 0 { process.engine.stats().waiting_bytes } else { 0 };
            if waiting > 4 << 20 {
                return Err(format!("{waiting} bytes wait for the log of node {number}"));
            }
        }
        self.0 = (self.0 + 1) % STORES_EVERY;
        Ok(())
    }
}
