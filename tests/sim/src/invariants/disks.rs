//! A full disk takes nothing but writes that add data: no store fails for want of room, and every partition whose primary
//! is up is served, so that reads go on. Looked at where nothing but disks goes wrong, some time after a process ended or
//! started.

use std::collections::{BTreeMap, BTreeSet};

use caskade_engine::PARTITIONS;
use caskade_node::id::Partition;

use super::Watch;
use crate::machine::virtual_us;
use crate::world::World;

/// How long a partition may be served by nobody: a primary that found no room for a write that others may hold tries
/// again for a second, then gives the partition up to one that may do the same.
const UNSERVED_US_MAX: u64 = 5_000_000;
/// How long after the end or start of a process leases and returns are under way.
const SETTLES_US: u64 = 8_000_000;
/// A look at all partitions is made once in so many times.
const LOOKS_EVERY: u32 = 5;

/// See the module.
#[derive(Default)]
pub(super) struct Disks {
    looks: u32,
    unserved: BTreeMap<Partition, u64>,
}

impl Watch for Disks {
    fn check(&mut self, world: &World) -> Result<(), String> {
        self.looks = (self.looks + 1) % LOOKS_EVERY;
        if !world.only_disks || self.looks != 0 {
            return Ok(());
        }
        let now_us = virtual_us();
        let mut served = BTreeSet::new();
        for number in world.running() {
            let Some(process) = &world.nodes[number].process else { continue };
            let plane = process.node.plane();
            if plane.store_failed() {
                return Err(format!("the store of node {number} failed, though its disk is only full"));
            }
            served.extend(plane.serving());
        }
        if now_us < world.process_changed_us + SETTLES_US {
            self.unserved.clear();
            return Ok(());
        }
        let state = world.log.state();
        for partition in 0..PARTITIONS {
            if served.contains(&partition) || !state.is_live_primary(partition) {
                self.unserved.remove(&partition);
                continue;
            }
            let since_us = *self.unserved.entry(partition).or_insert(now_us);
            if now_us > since_us + UNSERVED_US_MAX {
                return Err(format!(
                    "partition {partition} is served by nobody for {} ms, though its primary is up: {:?}",
                    (now_us - since_us) / 1000,
                    state.partition(partition)
                ));
            }
        }
        Ok(())
    }
}
