//! A full disk prevents only writes that add data: no store fails for lack of room, and every partition with
//! a live primary is served, so that reads continue. Checked where only disks fail, a moment after a process
//! ended or started.

use std::collections::{BTreeMap, BTreeSet};

use caskade_engine::slots::PARTITIONS;
use caskade_node::id::Partition;

use super::Watch;
use crate::machine::virtual_us;
use crate::world::World;

/// Time that a partition may be unserved, in microseconds: a primary without room for a write that others may
/// hold tries again for a second, then gives the partition up to a replica that may do the same.
const UNSERVED_US_MAX: u64 = 5_000_000;
/// Time after the end or start of a process in which leases and returns are in progress, in microseconds.
const SETTLES_US: u64 = 8_000_000;
/// Looks between two checks of all partitions.
const LOOKS_EVERY: u32 = 5;

/// Unserved partitions, and the time since when.
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
