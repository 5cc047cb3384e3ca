//! Marks the version up to which a partition is clean, so that merges may drop tombstones (rule R12).
//!
//! A partition is clean up to V if three conditions hold. All copies that the ring names are in-sync, none is
//! away, and no other copy is being made. All of them have acknowledged everything up to V. No transfer begun
//! before can still bring an older record. The primary decides, and sends the mark to its followers in the
//! replication stream, under its term and session. Each follower marks its own store and rejects further
//! records of transfers begun before. It rejects the mark while such records are being appended.
//!
//! A later change of the committed state does not invalidate a mark: a copy that held everything up to V
//! still holds it when its node returns, and a newly assigned copy starts empty (rule R16).

use std::sync::Arc;

use caskade_engine::slots::PARTITIONS;

use super::plane::{Plane, Role};
use crate::cluster::state::{ClusterState, ReplicaRole};
use crate::id::{NodeId, Partition};
use crate::mutation::{Mutation, planted};

impl Plane {
    /// Marks every partition that is clean and whose primary this node is.
    pub fn mark_clean_partitions(self: &Arc<Self>) {
        if !self.has_lease() {
            return;
        }
        let state = self.state();
        for partition in 0..PARTITIONS {
            if planted(Mutation::AgedTombstones) {
                self.engine.mark_clean(partition, u64::MAX);
            }
            let Some(copies) = whole_copies(&state, partition).filter(|_| !self.damage.is_in(partition))
            else {
                continue;
            };
            self.with_role(partition, |role| {
                if let Role::Primary(primary) = role {
                    primary.mark_clean(copies, self.appends(partition).transferred);
                }
            });
        }
    }
}

/// Returns the number of copies of a partition if all are in-sync, on nodes that are up, and exactly those
/// the ring names; else `None`.
fn whole_copies(state: &ClusterState, partition: Partition) -> Option<usize> {
    let replicas = &state.partitions.get(usize::from(partition))?.replicas;
    if planted(Mutation::CleanWhileAway) {
        return Some(replicas.iter().filter(|replica| replica.role == ReplicaRole::InSync).count());
    }
    let target = state.ring.replicas(partition);
    let is_right = |node: NodeId| target.contains(&node) && state.is_up(node);
    let whole = replicas.iter().all(|r| r.role == ReplicaRole::InSync && is_right(r.node));
    (whole && replicas.len() == target.len()).then_some(replicas.len())
}
