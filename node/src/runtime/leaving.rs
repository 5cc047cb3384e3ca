//! A planned stop as the cluster sees it: before the node goes, others take over what it does, and clients
//! notice nothing.
//!
//! In this order: the node is drained, so that its partitions go to other in-sync replicas, each with its consent
//! and within milliseconds; if it is the coordinator, another voter is elected while all leases run on; then it
//! says goodbye, and is there until the others know. Each step has its time; what is not done by then is left to
//! what happens when a node dies.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Node;
use super::control::{Control, ControlAnswer};
use crate::cluster::state::{Change, ClusterState};
use crate::id::{Epoch, NodeId};
use crate::topology::voters_wanted;

/// How long the partitions may take to be handed over.
pub(super) const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is tried to commit that this node is drained.
const DRAIN_TRIES: usize = 3;
/// How long another coordinator may take to be there.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one voter may take from being asked to lead to leading, before the next is asked.
const CANDIDACY_TIMEOUT: Duration = Duration::from_millis(150);
/// The same of those that are asked first, and need not win.
const FIRST_CANDIDACY_TIMEOUT: Duration = Duration::from_millis(50);
/// How long others may take to learn of what was committed.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is looked whether a step is done.
const PAUSE: Duration = Duration::from_millis(5);

impl Node {
    /// Gives away what other nodes can take: the partitions this node is primary of, and the coordinator's
    /// duties. The node goes on holding its copies. Does nothing the second time.
    pub async fn leave(self: &Arc<Self>) {
        if self.leaving.swap(true, Ordering::AcqRel) || self.others_up().is_empty() || !self.is_serving() {
            return;
        }
        let began_ms = self.host.monotonic_ms();
        self.give_partitions_away().await;
        if self.is_coordinator() {
            self.give_coordination_away().await;
        }
        self.wait_until_followed(self.topology.state().epoch).await;
        tracing::info!(took_ms = self.host.monotonic_ms() - began_ms, "handed over what others can take");
    }

    async fn give_partitions_away(self: &Arc<Self>) {
        if !self.drain_itself().await {
            return tracing::warn!(
                "the partitions could not be handed over: they wait for this node to be declared down"
            );
        }
        let drained = |state: &ClusterState| state.is_draining(self.id) && !has_successors(state, self.id);
        let done = || drained(&self.topology.state()) || !self.plane.has_lease();
        self.wait_for(HAND_OVER_TIMEOUT, done).await;
        let kept = self.topology.state().primaries_of(self.id);
        if kept > 0 {
            tracing::warn!(
                partitions = kept,
                "no other node has a complete copy of these partitions, or takes \
                them in time: where there is none they are unavailable until this node is back"
            );
        }
    }

    /// Commits that this node is to be primary of nothing; tells whether that came about.
    async fn drain_itself(self: &Arc<Self>) -> bool {
        let drained = || self.topology.state().is_draining(self.id);
        for _ in 0..DRAIN_TRIES {
            if drained() || !self.plane.has_lease() {
                break;
            }
            let incarnation = self.incarnation.load(Ordering::Acquire);
            // An answer that is lost says nothing: the state does.
            if let Err(error) = self.propose(vec![Change::Drain { node: self.id, incarnation }]).await {
                tracing::debug!(error, "this node could not be drained; trying again");
            }
            self.wait_for(FOLLOW_TIMEOUT, drained).await;
        }
        drained()
    }

    /// Has another voter elected. Leases are good for longer than that takes.
    async fn give_coordination_away(self: &Arc<Self>) {
        let led = || self.topology.coordinator().is_some_and(|node| node != self.id);
        let deadline_ms = self.host.monotonic_ms() + ELECTION_TIMEOUT.as_millis() as u64;
        // Without a lease there is nothing left to spare clients of.
        while !led() && self.plane.has_lease() && self.host.monotonic_ms() < deadline_ms {
            if let Err(reason) = self.nominate(&led).await {
                tracing::debug!(reason, "no other coordinator yet");
                tokio::time::sleep(PAUSE).await;
            }
        }
        if !led() {
            tracing::warn!(
                "no other node became the coordinator in time: an election follows when this one is gone"
            );
        }
    }

    /// Asks the other voters to stand for election, the last one when the others do not refuse it any more out
    /// of loyalty to this one.
    async fn nominate(self: &Arc<Self>, led: &impl Fn() -> bool) -> Result<(), String> {
        let others = self.others_up();
        let mut candidates: BTreeSet<NodeId> = &self.topology.voters() & &others;
        if candidates.is_empty() && voters_wanted(self.topology.state().members.len()) == 1 {
            // Of two nodes one votes: from now on the other.
            let heir = *others.first().ok_or("there is no other node")?;
            let everyone = self.topology.state().members.keys().copied().collect();
            let voters = BTreeSet::from([heir]);
            self.topology.set_membership(voters, everyone).await.map_err(|error| error.to_string())?;
            candidates.insert(heir);
        }
        self.topology.wait_replicated(&candidates, FOLLOW_TIMEOUT).await;
        let heir = candidates.pop_last().ok_or("no other voter is up")?;
        let asked = candidates.into_iter().map(|voter| self.ask_to_stand(voter));
        futures::future::join_all(asked).await;
        // One of them may win, with this node's vote: the heir must not stand against it.
        self.wait_for(FIRST_CANDIDACY_TIMEOUT, led).await;
        if self.topology.leading().is_none() {
            // This node's vote went to one of them, who has most likely won and need only be heard of.
            self.wait_for(CANDIDACY_TIMEOUT, led).await;
        }
        if !led() {
            self.ask_to_stand(heir).await;
        }
        self.wait_for(CANDIDACY_TIMEOUT, led).await;
        Ok(())
    }

    async fn ask_to_stand(self: &Arc<Self>, voter: NodeId) {
        match self.ask(voter, Control::Stand, CANDIDACY_TIMEOUT).await {
            Ok(ControlAnswer::Standing) => {}
            other => tracing::debug!(%voter, ?other, "a voter did not stand for election"),
        }
    }

    /// Stands for election because the coordinator, `from`, is about to go.
    pub(super) async fn stand_for_election(&self, from: NodeId) -> ControlAnswer {
        if self.topology.coordinator().is_some_and(|node| node != from) {
            return ControlAnswer::NotCoordinator(self.topology.coordinator());
        }
        match self.topology.stand_for_election().await {
            Ok(()) => ControlAnswer::Standing,
            Err(error) => ControlAnswer::Failed(error.to_string()),
        }
    }

    /// Waits, not for long, until every other node that is up says that it holds this state or a newer one.
    pub(super) async fn wait_until_followed(&self, epoch: Epoch) {
        let follows = || {
            let heard = self.reports.all();
            self.others_up()
                .iter()
                .all(|node| heard.get(node).is_some_and(|heard| heard.report.row.epoch >= epoch))
        };
        self.wait_for(FOLLOW_TIMEOUT, follows).await;
    }

    async fn wait_for(&self, timeout: Duration, done: impl Fn() -> bool) {
        let looked = async {
            while !done() {
                tokio::time::sleep(PAUSE).await;
            }
        };
        // Whoever waits looks himself what has become of it.
        drop(tokio::time::timeout(timeout, looked).await);
    }

    fn others_up(&self) -> BTreeSet<NodeId> {
        let state = self.topology.state();
        let others = state.members.keys().copied().filter(|node| *node != self.id);
        others.filter(|node| state.is_up(*node)).collect()
    }
}

/// Whether there is anybody to take a partition from this node.
pub(super) fn has_successors(state: &ClusterState, node: NodeId) -> bool {
    let mine = state.partitions().filter(|(_, placed)| placed.primary() == Some(node));
    mine.map(|(partition, _)| partition).any(|partition| state.hand_over_due(partition))
}
