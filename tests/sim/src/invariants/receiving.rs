//! Every write reaches as many copies as possible: the entry that takes a copy out names a stand-in, which
//! stays until the in-sync set has its full size. No in-sync copy is released before.

use std::collections::BTreeSet;
use std::sync::Arc;

use caskade_node::cluster::state::{ClusterState, PartitionState, ReplicaRole};
use caskade_node::id::{NodeId, Partition};

use super::Watch;
use crate::world::World;

/// The last state that was checked.
#[derive(Default)]
pub(super) struct Receiving {
    checked: u64,
    /// The state at that number.
    former: Arc<ClusterState>,
}

impl Watch for Receiving {
    fn check(&mut self, world: &World) -> Result<(), String> {
        for (number, state) in world.log.states_after(self.checked) {
            self.checked = number;
            self.check_state(&state, &world.log.suspended_in(number))?;
        }
        Ok(())
    }
}

impl Receiving {
    fn check_state(
        &mut self,
        state: &Arc<ClusterState>,
        suspended: &BTreeSet<(Partition, NodeId)>,
    ) -> Result<(), String> {
        let mut before = std::mem::replace(&mut self.former, Arc::clone(state));
        if before.generation != state.generation {
            // A takeover continues from the state of one node.
            before = Arc::default();
        }
        let changed = state.changed_since(&before);
        let changed = || changed.iter().filter_map(|number| Some((*number, state.partition(*number)?)));
        for (number, partition) in changed() {
            let Some(former) = before.partition(number) else { continue };
            let (former, now) = (&in_sync(&before, former), &in_sync(state, partition));
            // One entry may make a copy in-sync, release another for it, and note a restart of the first, or
            // of a third. A stand-in whose node went down is dropped, not released; the same holds where a
            // copy was taken out before the ring changed.
            let restarted =
                |node: NodeId| state.member(node).is_some_and(|member| member.since == state.epoch);
            let released = former.iter().find(|node| {
                let stayed =
                    state.is_up(**node) && !restarted(**node) && !suspended.contains(&(number, **node));
                stayed && partition.replica(**node).is_none()
            });
            let wanted = wanted(state, partition).min(former.len());
            let held = |node: &NodeId| former.contains(node) || now.contains(node) || restarted(*node);
            let whole = partition.replicas.iter().filter(|replica| held(&replica.node)).count();
            if let Some(released) = released.filter(|_| whole < wanted) {
                return Err(format!(
                    "the copy of partition {number} on node {} is released with {whole} of {wanted} \
                     in-sync: {partition:?}",
                    released.short()
                ));
            }
        }
        for (number, partition) in changed() {
            let up = |role: fn(ReplicaRole) -> bool| {
                let replicas = partition.replicas.iter();
                replicas.filter(|replica| role(replica.role) && state.is_up(replica.node)).count()
            };
            // Without a primary no copy receives writes.
            if !state.is_live_primary(number) {
                continue;
            }
            let receiving = up(|role| role != ReplicaRole::Away);
            let wanted = wanted(state, partition);
            if receiving < wanted {
                return Err(format!(
                    "{receiving} of {wanted} copies of partition {number} get writes: {partition:?}"
                ));
            }
        }
        Ok(())
    }
}

/// Returns the number of in-sync copies on nodes that are up.
fn in_sync(state: &ClusterState, partition: &PartitionState) -> Vec<NodeId> {
    let nodes = partition.replicas.iter().filter(|replica| replica.role == ReplicaRole::InSync);
    nodes.map(|replica| replica.node).filter(|node| state.is_up(*node)).collect()
}

/// Returns the number of copies a partition can have now: the intended number, if enough nodes are up, hold
/// data, and were not taken out as too slow.
fn wanted(state: &ClusterState, partition: &PartitionState) -> usize {
    let holds = state.members.values().filter(|member| state.share_of(member) > 0);
    let nodes = holds.map(|member| member.announcement.node).filter(|node| state.is_up(*node));
    let can =
        nodes.filter(|node| partition.replica(*node).is_none_or(|replica| replica.role != ReplicaRole::Away));
    usize::from(state.replication_factor).min(can.count())
}
