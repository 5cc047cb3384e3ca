//! Every write reaches as many copies as there can be: where a copy is away, a stand-in takes its place in the entry
//! that takes it out, and stays until as many copies as there should be are in-sync.

use caskade_node::cluster::state::{ClusterState, PartitionState, ReplicaRole};
use caskade_node::id::Epoch;

use super::Watch;
use crate::world::World;

/// See the module.
#[derive(Default)]
pub(super) struct Receiving {
    checked: Epoch,
}

impl Watch for Receiving {
    fn check(&mut self, world: &World) -> Result<(), String> {
        let state = world.log.state();
        if state.epoch == self.checked {
            return Ok(());
        }
        self.checked = state.epoch;
        for (number, partition) in state.partitions() {
            let up = |role: fn(ReplicaRole) -> bool| {
                let replicas = partition.replicas.iter();
                replicas.filter(|replica| role(replica.role) && state.is_up(replica.node)).count()
            };
            // Without a primary there is nothing to be received.
            if !state.is_live_primary(number) {
                continue;
            }
            let receiving = up(|role| role != ReplicaRole::Away);
            let wanted = wanted(&state, partition);
            if receiving < wanted {
                return Err(format!(
                    "{receiving} of {wanted} copies of partition {number} get writes: {partition:?}"
                ));
            }
        }
        Ok(())
    }
}

/// Copies a partition can have now: as many as it should, if there are enough nodes that are up, are given data, and were
/// not taken out for being slow.
fn wanted(state: &ClusterState, partition: &PartitionState) -> usize {
    let holds = state.members.values().filter(|member| state.share_of(member) > 0);
    let nodes = holds.map(|member| member.announcement.node).filter(|node| state.is_up(*node));
    let can =
        nodes.filter(|node| partition.replica(*node).is_none_or(|replica| replica.role != ReplicaRole::Away));
    usize::from(state.replication_factor).min(can.count())
}
