//! Every in-sync copy holds all records that the serving primary has published. So every acknowledged write
//! is on all of them at that moment, and not only once everything has healed (promise P1).

use std::collections::BTreeMap;

use caskade_node::cluster::state::{ClusterState, ReplicaRole};
use caskade_node::id::{NodeId, Partition};

use super::Watch;
use crate::world::{Process, World};

/// The invariant of this module.
#[derive(Default)]
pub(super) struct HoldsAll;

impl Watch for HoldsAll {
    fn check(&mut self, world: &World) -> Result<(), String> {
        // A flipped bit removes a record from a copy.
        if world.flipping.is_some() {
            return Ok(());
        }
        for number in world.running() {
            let Some(primary) = &world.nodes[number].process else { continue };
            let known = primary.node.plane().state();
            let serving = primary.node.plane().serving();
            let used = serving
                .into_iter()
                .filter(|partition| primary.engine.partition_stats(*partition).live_keys > 0);
            for partition in used {
                for follower in in_sync(world, number, &known, partition) {
                    compare(partition, (number, primary), follower)?;
                }
            }
        }
        Ok(())
    }
}

/// Returns the other nodes whose copies are in-sync for the primary, and are the same copies in the newest
/// state, of a process that has not restarted since.
fn in_sync<'a>(
    world: &'a World,
    primary: usize,
    known: &ClusterState,
    partition: Partition,
) -> Vec<(usize, &'a Process)> {
    let log = &world.nodes[primary].log;
    let newest = log.state();
    let is_same = |node: NodeId| {
        let replica = |state: &ClusterState| state.partition(partition)?.replica(node).cloned();
        let (Some(then), Some(now)) = (replica(known), replica(&newest)) else { return false };
        let both_in_sync = then.role == ReplicaRole::InSync && now.role == ReplicaRole::InSync;
        both_in_sync && then.assigned == now.assigned
    };
    let others = world.nodes.iter().enumerate().filter(|(number, _)| *number != primary);
    let same = others.filter(|(_, node)| node.log.generation() == log.generation() && is_same(node.id));
    let registered = |id: NodeId| newest.member(id).map(|member| member.announcement.incarnation);
    same.filter_map(|(number, node)| {
        let process = node.process.as_ref()?;
        (registered(node.id) == Some(process.node.incarnation())).then_some((number, process))
    })
    .collect()
}

fn compare(
    partition: Partition,
    (number, primary): (usize, &Process),
    (follower_number, follower): (usize, &Process),
) -> Result<(), String> {
    let digest = |process: &Process| process.engine.partition_stats(partition).digest;
    if digest(primary) == digest(follower) {
        return Ok(());
    }
    let held: BTreeMap<u64, u64> =
        follower.engine.inventory(partition).iter().map(|entry| (entry.position, entry.version)).collect();
    let published = primary.engine.inventory(partition);
    let lacks = |position: &u64, version: u64| held.get(position).is_none_or(|held| *held < version);
    match published.iter().find(|entry| !entry.tombstone && lacks(&entry.position, entry.version)) {
        None => Ok(()),
        Some(missing) => Err(format!(
            "node {number}, primary of partition {partition}, has published {missing:?}, and the in-sync copy on \
             node {follower_number} has {:?} instead",
            held.get(&missing.position)
        )),
    }
}
