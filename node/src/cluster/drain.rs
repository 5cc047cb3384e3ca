//! The successor of a partition's primary, and drained nodes, which must not be primary.
//!
//! A node is drained before a planned stop, or by an operator (`caskctl node drain`). It keeps its copies and
//! acknowledges writes, so that no copy moves. It only hands over its partitions, each with its consent (rule
//! R3). A partition of which it has the only complete copy stays with it.

use std::sync::Arc;

use super::state::{ClusterState, MemberStatus};
use crate::id::{Incarnation, NodeId, Partition};

impl ClusterState {
    /// Returns whether the node must not be primary of any partition.
    pub fn is_draining(&self, node: NodeId) -> bool {
        self.member(node).is_some_and(|member| member.draining)
    }

    /// Returns the node to which the primary should hand the partition over, if any. If all the ring's
    /// replicas are in-sync: the first of them that is up and not drained. Otherwise, if the primary itself
    /// is drained: any other in-sync replica that is up and not drained.
    pub fn successor(&self, partition: Partition) -> Option<NodeId> {
        let state = self.partition(partition)?;
        let primary = state.primary().filter(|node| self.is_up(*node) && !state.has_used_its_terms())?;
        let takes = |node: &NodeId| self.is_up(*node) && !self.is_draining(*node);
        let target = self.ring.replicas(partition);
        if target.iter().all(|node| state.is_in_sync(*node))
            && let Some(first) = target.iter().copied().find(takes)
        {
            return (first != primary).then_some(first);
        }
        let mut in_sync = state.in_sync().map(|replica| replica.node);
        if self.is_draining(primary) { in_sync.find(takes) } else { None }
    }

    /// Returns the number of partitions of which this node is primary.
    pub fn primaries_of(&self, node: NodeId) -> u32 {
        self.partitions.iter().filter(|state| state.primary() == Some(node)).count() as u32
    }

    /// Begins or ends the draining of a node that is up.
    pub(super) fn set_draining(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        draining: bool,
    ) -> Result<(), String> {
        let name = node.short();
        let member = Arc::make_mut(&mut self.members)
            .get_mut(&node)
            .ok_or_else(|| format!("node {name} is no member"))?;
        let registered = member.announcement.incarnation;
        if registered != incarnation {
            return Err(format!("node {name} has incarnation {registered}, not {incarnation}"));
        }
        if member.status == MemberStatus::Down {
            return Err(format!("node {name} is down"));
        }
        if member.draining == draining {
            return Err(format!(
                "node {name} is {} already",
                if draining { "drained" } else { "not drained" }
            ));
        }
        member.draining = draining;
        Ok(())
    }

    /// Ends the primary's term. The successor gets the next term; without a successor, the same primary gets
    /// it.
    pub(super) fn hand_over(&mut self, partition: Partition) {
        let successor = self.successor(partition);
        let Some(state) = self.partitions.get_mut(usize::from(partition)).map(Arc::make_mut) else {
            return;
        };
        if let Some(next) = successor {
            state.release_and_sort(self.ring.replicas(partition), None);
            if let Some(at) = state.replicas.iter().position(|replica| replica.node == next) {
                state.replicas[..=at].rotate_right(1);
            }
        }
        state.begin_term(true);
    }
}

#[cfg(test)]
mod tests;
