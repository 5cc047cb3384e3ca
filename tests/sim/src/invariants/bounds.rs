//! Queues stay within their bounds.

use super::Watch;
use crate::world::World;

/// Calls under way of a cluster of this size with a handful of clients; far below what the links would take.
const CALLS_MAX: usize = 100_000;

/// See the module.
#[derive(Default)]
pub(super) struct Bounds;

impl Watch for Bounds {
    fn check(&mut self, world: &World) -> Result<(), String> {
        if world.network.calls_max() > CALLS_MAX {
            return Err(format!("{} calls were unanswered at one time", world.network.calls_max()));
        }
        for number in world.running() {
            let Some(process) = &world.nodes[number].process else { continue };
            let (plane, stats) = (process.node.plane(), process.engine.stats());
            let (bytes, waiting) = plane.under_way();
            let limits = plane.limits();
            if bytes > limits.bytes_under_way_max || waiting > limits.waiting_max {
                return Err(format!("node {number} has {waiting} requests waiting, {bytes} bytes under way"));
            }
            if stats.waiting_bytes > 4 << 20 {
                return Err(format!("{} bytes wait for the log of node {number}", stats.waiting_bytes));
            }
        }
        Ok(())
    }
}
