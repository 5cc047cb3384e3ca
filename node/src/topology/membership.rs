//! Changing who votes and who learns.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::{ChangeMembers, EmptyNode};

use super::types::Metrics;
use super::{ProposeError, Topology};
use crate::id::NodeId;

/// Entries a learner may lack and still be made a voter.
const CATCH_UP_ENTRIES_MAX: u64 = 16;

impl Topology {
    /// Who votes. While the voters are being exchanged, those of both sides.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.inner.raft.metrics().borrow().membership_config.membership().voter_ids().collect()
    }

    /// Returns the sets of voters of which a majority each must agree: two while the voters are being exchanged.
    pub fn voter_sets(&self) -> Vec<BTreeSet<NodeId>> {
        self.inner.raft.metrics().borrow().membership_config.membership().get_joint_config().clone()
    }

    /// Who gets every entry without voting.
    pub fn learners(&self) -> BTreeSet<NodeId> {
        self.inner.raft.metrics().borrow().membership_config.membership().learner_ids().collect()
    }

    /// Makes exactly `voters` vote and exactly the other `learners` learn. At the coordinator only; a node in
    /// both sets votes. Does nothing where nothing is to be done; what was cut short is completed by the next
    /// call, also by the next coordinator.
    ///
    /// A node that cannot be reached delays nothing: as a learner it is written down and tried in the
    /// background; as a new voter it must first catch up, and if it does not within `catch_up_timeout_ms`, the
    /// voters stay as they were and the call is refused.
    ///
    /// # Errors
    /// [`ProposeError`]; after `Unknown` or a refusal, learners may have been added already.
    pub async fn set_membership(
        &self,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
    ) -> Result<(), ProposeError> {
        let _one_at_a_time = self.inner.changing_membership.lock().await;
        self.require_coordinator()?;
        if voters.is_empty() {
            return Err(ProposeError::Refused("a cluster needs a voter".to_owned()));
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
        // Voters that no longer vote stay as learners; who should not take part at all is removed by name.
        let retain = true;
        let log_id = self.bounded(self.inner.raft.change_membership(change, retain)).await?.log_id;
        // The metrics are what the next step looks at.
        let patience = Some(Duration::from_millis(self.inner.config.propose_timeout_ms));
        let seen = |metrics: &Metrics| *metrics.membership_config.log_id() >= Some(log_id);
        let waited = self.inner.raft.wait(patience).metrics(seen, "the change of membership").await;
        waited.map(drop).map_err(|error| ProposeError::Unknown(error.to_string()))
    }

    /// Waits until these learners have about all entries.
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
                "{node} cannot vote yet, it has not caught up in {patience:?}"
            )))
        })
    }
}

/// The first of `nodes` that lacks too many entries.
fn behind(metrics: &Metrics, nodes: &BTreeSet<NodeId>) -> Option<NodeId> {
    let last = metrics.last_log_index.unwrap_or(0);
    let has = |node: &NodeId| metrics.replication.as_ref()?.get(node).copied().flatten().map(|id| id.index);
    nodes
        .iter()
        .copied()
        .find(|node| has(node).is_none_or(|index| index.saturating_add(CATCH_UP_ENTRIES_MAX) < last))
}
