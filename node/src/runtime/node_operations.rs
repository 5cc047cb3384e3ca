//! Operations on one node (`caskctl node`): this node proposes a change for each.

use std::sync::Arc;

use super::Node;
use super::leaving::{HAND_OVER_TIMEOUT, has_successors};
use crate::api::Accepted;
use crate::cluster::state::{Announcement, Change, ClusterState, Verdict};
use crate::id::NodeId;

impl Node {
    /// `CASK.REBUILD`: makes the copies of a node that is away at once.
    pub(super) async fn rebuild_node(self: &Arc<Self>, name: &str) -> Result<Accepted, String> {
        let Announcement { node, incarnation, .. } = named_member(&self.topology.state(), name)?;
        self.commit_one(Change::Rebuild { node, incarnation }).await?;
        let message = format!(
            "the copies of node {} are being made on its stand-ins; `caskctl tasks` shows the progress",
            node.short()
        );
        Ok(Accepted { message })
    }

    /// `CASK.DRAIN`: drains the node; answers when its partitions are handed over, or no more of them can be.
    pub(super) async fn drain_node(self: &Arc<Self>, name: &str) -> Result<Accepted, String> {
        let Announcement { node, incarnation, .. } = named_member(&self.topology.state(), name)?;
        self.commit_one(Change::Drain { node, incarnation }).await?;
        let mut states = self.topology.watch();
        let drained = states.wait_for(|state| state.is_draining(node) && !has_successors(state, node));
        let left = match tokio::time::timeout(HAND_OVER_TIMEOUT, drained).await {
            Ok(Ok(state)) => state.primaries_of(node),
            _ => self.topology.state().primaries_of(node),
        };
        let name = node.short();
        let message = match left {
            0 => format!("node {name} is drained: it is primary of no partition, and keeps its copies"),
            _ => format!(
                "node {name} is being drained: it is still primary of {left} partitions, of which no other node has \
                 a complete copy yet; it hands each over as soon as one has"
            ),
        };
        Ok(Accepted { message })
    }

    /// `CASK.UNDRAIN`: lets the node be primary again.
    pub(super) async fn undrain_node(self: &Arc<Self>, name: &str) -> Result<Accepted, String> {
        let Announcement { node, incarnation, .. } = named_member(&self.topology.state(), name)?;
        self.commit_one(Change::Undrain { node, incarnation }).await?;
        let message =
            format!("node {} gets back the partitions for which the ring names it first", node.short());
        Ok(Accepted { message })
    }

    /// Commits one change; returns the reason if it is void.
    async fn commit_one(self: &Arc<Self>, change: Change) -> Result<(), String> {
        match self.propose(vec![change]).await?.as_slice() {
            [Verdict::Applied] => Ok(()),
            [Verdict::Rejected(reason)] => Err(format!("{reason}; nothing was changed")),
            verdicts => Err(format!("the coordinator answered {} verdicts to one change", verdicts.len())),
        }
    }
}

/// Returns the announcement of the member that an operator names: by its id, or by the end of it that tables
/// show.
fn named_member(state: &ClusterState, name: &str) -> Result<Announcement, String> {
    let means = |node: &NodeId| !name.is_empty() && node.to_string().ends_with(name);
    let mut named = state.members.iter().filter(|(node, _)| means(node));
    match (named.next(), named.next()) {
        (Some((_, member)), None) => Ok(member.announcement.clone()),
        (Some(_), Some(_)) => Err(format!("'{name}' is the end of several nodes' ids: give more characters")),
        (None, _) => Err(format!("no member's id is or ends with '{name}': `caskctl nodes` lists them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ClusterId;

    #[test]
    fn member_is_named_by_its_id_or_the_end_of_it() {
        let announcement = |node| Announcement {
            node: NodeId::from_bytes([node; 32]),
            incarnation: 1,
            peer_addrs: Vec::new(),
            client_addr: String::new(),
            zone: String::new(),
            weight: 1,
            build: String::new(),
            protocol: 1,
            protocol_min: 1,
            store: crate::cluster::state::StoreCondition::Whole,
        };
        let mut state = ClusterState::default();
        let founder = announcement(1);
        let (cluster_id, replication_factor) = (ClusterId::default(), 2);
        let (lease_ms, rebuild_delay_ms) = (2000, 1000);
        let found = Change::Found { cluster_id, replication_factor, lease_ms, rebuild_delay_ms, founder };
        state.apply(&[found, Change::Register(announcement(3))]);
        for node in [1, 3] {
            let id = NodeId::from_bytes([node; 32]);
            for name in [id.to_string(), id.short()] {
                assert_eq!(named_member(&state, &name).map(|found| found.node), Ok(id), "{name}");
            }
        }
        assert!(named_member(&state, "nobody").is_err_and(|error| error.contains("no member's id")));
        assert!(named_member(&state, "").is_err());
    }
}
