//! A planned stop as the cluster sees it: other nodes take over the roles of the node before it stops, and
//! clients are not affected.
//!
//! The steps, in this order. The node is drained: it hands its partitions over to other in-sync replicas,
//! each with its consent and within milliseconds. If it is the coordinator, another voter is elected while
//! all leases continue. Then it declares itself down, and stays up until the other nodes know. Each step has
//! a time limit; steps that are incomplete by then end as after a crash of the node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Node;
use super::control::{Control, ControlAnswer};
use crate::cluster::state::{Change, ClusterState};
use crate::id::{Epoch, NodeId};
use crate::topology::voters_wanted;

/// Time limit for handing over the partitions.
pub(super) const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts to commit that this node is drained.
const DRAIN_TRIES: usize = 3;
/// Time limit for the election of another coordinator.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit of one voter between the request to stand for election and its election.
const CANDIDACY_TIMEOUT: Duration = Duration::from_millis(150);
/// The same for the voters that are asked first, and need not win.
const FIRST_CANDIDACY_TIMEOUT: Duration = Duration::from_millis(50);
/// Time limit for other nodes to receive a committed state.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval at which the end of a step is checked.
const PAUSE: Duration = Duration::from_millis(5);

impl Node {
    /// Hands over the roles that other nodes can take: primary of its partitions, and coordinator. The node
    /// keeps its copies. Has no effect the second time.
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
        tracing::info!(
            took_ms = self.host.monotonic_ms() - began_ms,
            "handed over the roles that other nodes can take"
        );
    }

    async fn give_partitions_away(self: &Arc<Self>) {
        if !self.drain_itself().await {
            return tracing::warn!(
                "could not hand over the partitions: they are available again once this node is declared down"
            );
        }
        let drained = |state: &ClusterState| state.is_draining(self.id) && !has_successors(state, self.id);
        let done = || drained(&self.topology.state()) || !self.plane.has_lease();
        self.wait_for(HAND_OVER_TIMEOUT, done).await;
        let kept = self.topology.state().primaries_of(self.id);
        if kept > 0 {
            tracing::warn!(
                partitions = kept,
                "no other node has a complete copy of these partitions, or took \
                them over in time: those without another complete copy are unavailable until this node returns"
            );
        }
    }

    /// Commits that this node is drained; returns whether it is.
    async fn drain_itself(self: &Arc<Self>) -> bool {
        let drained = || self.topology.state().is_draining(self.id);
        for _ in 0..DRAIN_TRIES {
            if drained() || !self.plane.has_lease() {
                break;
            }
            let incarnation = self.incarnation.load(Ordering::Acquire);
            // A lost answer does not matter: the state decides.
            if let Err(error) = self.propose(vec![Change::Drain { node: self.id, incarnation }]).await {
                tracing::debug!(error, "could not drain this node; it retries");
            }
            self.wait_for(FOLLOW_TIMEOUT, drained).await;
        }
        drained()
    }

    /// Makes another voter the coordinator. Leases last longer than that takes.
    async fn give_coordination_away(self: &Arc<Self>) {
        let led = || self.topology.coordinator().is_some_and(|node| node != self.id);
        let deadline_ms = self.host.monotonic_ms() + ELECTION_TIMEOUT.as_millis() as u64;
        // Without a lease this node serves no clients that an election could affect.
        while !led() && self.plane.has_lease() && self.host.monotonic_ms() < deadline_ms {
            if let Err(reason) = self.nominate(&led).await {
                tracing::debug!(reason, "no other coordinator is elected yet");
                tokio::time::sleep(PAUSE).await;
            }
        }
        if !led() {
            tracing::warn!(
                "no other node became the coordinator in time: the election follows when this node has stopped"
            );
        }
    }

    /// Asks the other voters to stand for election, and one of them last. By then the others no longer refuse
    /// it in favour of this coordinator.
    async fn nominate(self: &Arc<Self>, led: &impl Fn() -> bool) -> Result<(), String> {
        let others = self.others_up();
        let mut candidates: BTreeSet<NodeId> = &self.topology.voters() & &others;
        if candidates.is_empty() && voters_wanted(self.topology.state().members.len()) == 1 {
            // Of two nodes one votes: make it the other one.
            let heir = *others.first().ok_or("no other node is up")?;
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
            // This node voted for one of them, which has most likely won: wait until this node learns of it.
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
            Ok(ControlAnswer::Registration) => {}
            other => tracing::debug!(%voter, ?other, "a voter did not stand for election"),
        }
    }

    /// Stands for election because the coordinator, `from`, is about to stop.
    pub(super) async fn stand_for_election(&self, from: NodeId) -> ControlAnswer {
        if self.topology.coordinator().is_some_and(|node| node != from) {
            return ControlAnswer::NotCoordinator(self.topology.coordinator());
        }
        match self.topology.stand_for_election().await {
            Ok(()) => ControlAnswer::Registration,
            Err(error) => ControlAnswer::Failed(error.to_string()),
        }
    }

    /// Waits briefly until every other node that is up reports this epoch or a newer one.
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
        // The caller checks the result itself.
        drop(tokio::time::timeout(timeout, looked).await);
    }

    fn others_up(&self) -> BTreeSet<NodeId> {
        let state = self.topology.state();
        let others = state.members.keys().copied().filter(|node| *node != self.id);
        others.filter(|node| state.is_up(*node)).collect()
    }
}

/// Returns whether another node can take over a partition from this node.
pub(super) fn has_successors(state: &ClusterState, node: NodeId) -> bool {
    let mine = state.partitions().filter(|(_, placed)| placed.primary() == Some(node));
    mine.map(|(partition, _)| partition).any(|partition| state.hand_over_due(partition))
}
