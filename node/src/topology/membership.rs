//! Changes of the voters and learners.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::{ChangeMembers, EmptyNode};

use super::types::Metrics;
use super::{ProposeError, Topology};
use crate::id::NodeId;

/// Maximum of entries that a learner may lack when it becomes a voter.
const CATCH_UP_ENTRIES_MAX: u64 = 16;

impl Topology {
    /// Returns the voters. During a change of the voters, those of both configurations.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.inner.raft.metrics().borrow().membership_config.membership().voter_ids().collect()
    }

    /// Returns the voter sets, of each of which a majority must agree: two sets during a change of the voters.
    pub fn voter_sets(&self) -> Vec<BTreeSet<NodeId>> {
        self.inner.raft.metrics().borrow().membership_config.membership().get_joint_config().clone()
    }

    /// Returns the learners: nodes that receive every entry without voting.
    pub fn learners(&self) -> BTreeSet<NodeId> {
        self.inner.raft.metrics().borrow().membership_config.membership().learner_ids().collect()
    }

    /// Makes exactly `voters` vote, and exactly the other `learners` learn. Works only at the coordinator. A
    /// node in both sets votes. Does nothing if the membership is already as wanted. The next call, also of
    /// the next coordinator, completes an interrupted change.
    ///
    /// An unreachable node delays nothing. As a learner it is recorded, and the log tries to reach it in the
    /// background. As a new voter it must first catch up: if it does not within `catch_up_timeout_ms`, the
    /// voters stay unchanged and the call is refused.
    ///
    /// # Errors
    /// [`ProposeError`]; after `Unknown` or `Refused`, learners may have been added already.
    pub async fn set_membership(
        &self,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
    ) -> Result<(), ProposeError> {
        let _one_at_a_time = self.inner.changing_membership.lock().await;
        self.require_coordinator()?;
        if voters.is_empty() {
            return Err(ProposeError::Refused("a cluster needs at least one voter".to_owned()));
        }
        let wanted = &voters | &learners;
        let missing = &wanted - &self.taking_part();
        if !missing.is_empty() {
            let nodes: BTreeMap<_, _> = missing.into_iter().map(|node| (node, EmptyNode {})).collect();
            self.change(ChangeMembers::AddNodes(nodes)).await?;
        }
        if self.voters_differ(&voters) {
            self.wait_caught_up(&voters - &self.voters()).await?;
            self.change(ChangeMembers::ReplaceAllVoters(voters)).await?;
        }
        let surplus = &self.taking_part() - &wanted;
        if !surplus.is_empty() {
            self.change(ChangeMembers::RemoveNodes(surplus)).await?;
        }
        Ok(())
    }

    fn taking_part(&self) -> BTreeSet<NodeId> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.nodes().map(|(node, _)| *node).collect()
    }

    fn voters_differ(&self, wanted: &BTreeSet<NodeId>) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.membership().get_joint_config().as_slice() != std::slice::from_ref(wanted)
    }

    async fn change(&self, change: ChangeMembers<NodeId, EmptyNode>) -> Result<(), ProposeError> {
        // Former voters stay as learners; the last step removes nodes that must not take part at all.
        let retain = true;
        let log_id = self.bounded(self.inner.raft.change_membership(change, retain)).await?.log_id;
        // Wait for the metrics, because the next step reads them.
        let patience = Some(Duration::from_millis(self.inner.config.propose_timeout_ms));
        let seen = |metrics: &Metrics| *metrics.membership_config.log_id() >= Some(log_id);
        let waited = self.inner.raft.wait(patience).metrics(seen, "the change of membership").await;
        waited.map(drop).map_err(|error| ProposeError::Unknown(error.to_string()))
    }

    /// Waits until these learners lack at most `CATCH_UP_ENTRIES_MAX` entries.
    async fn wait_caught_up(&self, nodes: BTreeSet<NodeId>) -> Result<(), ProposeError> {
        let patience = Duration::from_millis(self.inner.config.catch_up_timeout_ms);
        let over = |metrics: &Metrics| metrics.replication.is_none() || behind(metrics, &nodes).is_none();
        let waited = self.inner.raft.wait(Some(patience)).metrics(over, "new voters to catch up").await;
        self.require_coordinator()?;
        if waited.is_ok() {
            return Ok(());
        }
        let metrics = self.inner.raft.metrics();
        let behind = behind(&metrics.borrow(), &nodes);
        behind.map_or(Ok(()), |node| {
            Err(ProposeError::Refused(format!(
                "{node} cannot become a voter: it did not catch up in {patience:?}"
            )))
        })
    }
}

/// Returns the first of `nodes` that lacks too many entries.
fn behind(metrics: &Metrics, nodes: &BTreeSet<NodeId>) -> Option<NodeId> {
    let last = metrics.last_log_index.unwrap_or(0);
    let has = |node: &NodeId| metrics.replication.as_ref()?.get(node).copied().flatten().map(|id| id.index);
    nodes
        .iter()
        .copied()
        .find(|node| has(node).is_none_or(|index| index.saturating_add(CATCH_UP_ENTRIES_MAX) < last))
}
