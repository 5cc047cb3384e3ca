//! The coordinator's duties, performed by the node that leads the topology log: it admits nodes, grants
//! leases, declares nodes down, and chooses the voters. The ring and the moves follow from the committed
//! changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;

use super::Node;
use super::admission::{Registration, standing};
use super::control::{Control, ControlAnswer};
use crate::cluster::lease::{LeaseTable, NoLease, latest_confirmation};
use crate::cluster::state::{Announcement, Change, ClusterState, Member, MemberStatus, Verdict};
use crate::cluster::time::TimeReport;
use crate::id::{Incarnation, NodeId};
use crate::topology::{Committed, Proposal, choose_voters};

/// Interval of the coordinator's rounds.
const ROUND: Duration = Duration::from_millis(100);
/// Confirmations requested from the voters per lease.
const CONFIRMATIONS_PER_LEASE: u64 = 8;
/// Time limit for a node of which a part has ended to declare itself down.
const LAST_GOODBYE_MAX: Duration = Duration::from_secs(1);
/// Pause before the node retries to declare itself down.
const GOODBYE_PAUSE: Duration = Duration::from_millis(20);
/// Time limit for a voter to report its last confirmation of a coordinator; a voter that is down delays no
/// longer.
const LAST_CONFIRMED_TIMEOUT: Duration = Duration::from_millis(150);
/// Time for which a voter must be down before it is replaced.
const VOTER_DOWN_MAX: Duration = Duration::from_secs(300);

/// Returns the members that may vote: all except those that leave, unless no other member exists. Their zones
/// are those in use.
fn may_vote(state: &ClusterState) -> BTreeMap<NodeId, Member> {
    let leaving = &state.placement.leaving;
    let staying = state.members.iter().filter(|(node, _)| !leaving.contains(node));
    let with_zone = |(node, member): (&NodeId, &Member)| {
        let mut member = member.clone();
        member.announcement.zone = state.zone_of(&member).to_owned();
        (*node, member)
    };
    let staying: BTreeMap<NodeId, Member> = staying.map(with_zone).collect();
    if staying.is_empty() { state.members.as_ref().clone() } else { staying }
}

/// Returns the changes that retire members without copies, except voters, so that the log loses a voter only
/// by its own change.
pub(super) fn retirable(state: &ClusterState, voters: &BTreeSet<NodeId>) -> Vec<Change> {
    let gone = state.retirable().into_iter().filter(|node| !voters.contains(node));
    gone.map(|node| Change::Retire { node }).collect()
}

impl Node {
    /// Returns whether this node is the coordinator, as far as it knows.
    pub(super) fn is_coordinator(&self) -> bool {
        self.topology.coordinator() == Some(self.id)
    }

    /// Performs the duties while this node is the coordinator.
    pub(super) async fn run_duties(self: Arc<Self>) {
        loop {
            tokio::time::sleep(ROUND).await;
            // Every node does this, so that a new coordinator knows how long others have been down.
            self.note_down();
            if !self.is_coordinator() {
                *self.leases.lock() = None;
                continue;
            }
            self.ask_former_leases().await;
            self.declare_overdue().await;
            self.rebuild_long_down().await;
            // A coordinator that is about to stop has chosen already.
            if !self.leaving.load(Ordering::Acquire) {
                self.choose_members().await;
            }
            self.retire_left().await;
            self.raise_protocol().await;
        }
    }

    /// Requests confirmations of the coordinator from the voters: leases extend from the last confirmation.
    pub(super) async fn run_confirmations(self: Arc<Self>) {
        loop {
            let asked_ms = self.host.monotonic_ms();
            let elected = self.with_leases(|_| ()).and(self.topology.leading());
            if elected.is_some()
                && self.topology.confirm_leadership().await.is_ok()
                // A confirmation by the voters of a former term is not valid in this one.
                && self.topology.leading() == elected
            {
                self.with_leases(|leases| leases.confirmed(asked_ms));
            }
            // Read in each round: a node that joins learns the cluster's lease only after its start.
            let pause =
                self.lease_ms().map(|lease_ms| Duration::from_millis(lease_ms / CONFIRMATIONS_PER_LEASE));
            tokio::time::sleep(pause.unwrap_or(ROUND)).await;
        }
    }

    /// As a new coordinator: asks the voters for their last confirmation of a former coordinator, so that it
    /// waits only for the rest of that one's grants. With too few answers, the next round repeats it.
    async fn ask_former_leases(self: &Arc<Self>) {
        let Some(elected) = self.topology.leading() else { return };
        if !self.with_leases(|leases| leases.awaits_former()).unwrap_or_default() {
            return;
        }
        let voter_sets = self.topology.voter_sets();
        let voters: BTreeSet<NodeId> = voter_sets.iter().flatten().copied().collect();
        let answers = join_all(voters.into_iter().map(|voter| self.ask_last_confirmed(voter, elected))).await;
        let confirmed_ms: BTreeMap<NodeId, u64> = answers.into_iter().flatten().collect();
        let (state, now_ms) = (self.topology.state(), self.host.monotonic_ms());
        let heard = confirmed_ms.keys().filter_map(|voter| state.member(*voter));
        for Announcement { node, incarnation, .. } in heard.map(|member| &member.announcement) {
            self.with_leases(|leases| leases.heard(*node, *incarnation, now_ms));
        }
        let Some(latest_ms) = latest_confirmation(&voter_sets, &confirmed_ms) else { return };
        // The table may by now be of another election, which the voters were not asked about.
        if self.topology.leading() == Some(elected) {
            self.with_leases(|leases| leases.former_confirmed(latest_ms));
        }
    }

    /// Returns the time, by this node's clock, at which a voter last confirmed a coordinator of a term before
    /// `elected`. `None`: the voter did not answer in time, or may still confirm one.
    async fn ask_last_confirmed(self: &Arc<Self>, voter: NodeId, elected: u64) -> Option<(NodeId, u64)> {
        let age_ms = if voter == self.id {
            self.topology.last_confirmed_before(elected)?
        } else {
            let question = Control::LastConfirmed { term: elected };
            match self.ask(voter, question, LAST_CONFIRMED_TIMEOUT).await {
                Ok(ControlAnswer::LastConfirmed { age_ms }) => age_ms,
                _ => return None,
            }
        };
        // Counted back from the arrival of the answer: the result is at worst later than the confirmation.
        Some((voter, self.host.monotonic_ms().saturating_sub(age_ms)))
    }

    /// Calls `f` with the lease table of this coordinator, which is a new one for each term of its election.
    fn with_leases<T>(&self, f: impl FnOnce(&mut LeaseTable) -> T) -> Option<T> {
        let mut leases = self.leases.lock();
        let (term, lease_ms) = (self.topology.leading()?, self.lease_ms()?);
        let now_ms = self.host.monotonic_ms();
        let table = match leases.take() {
            Some((elected, table)) if elected == term => table,
            Some((_, former)) => former.elected_again(now_ms),
            None => LeaseTable::new(lease_ms, now_ms),
        };
        let (_, table) = leases.insert((term, table));
        Some(f(table))
    }

    /// Answers a request for a lease; registers the node first if necessary.
    pub(super) fn answer_lease(
        self: &Arc<Self>,
        announcement: Announcement,
        time: TimeReport,
    ) -> ControlAnswer {
        if !self.is_coordinator() {
            return ControlAnswer::NotCoordinator(self.topology.coordinator());
        }
        let (node, incarnation) = (announcement.node, announcement.incarnation);
        self.note_time(node, time);
        match standing(&self.topology.state(), &announcement) {
            Registration::Up => self.grant(node, incarnation),
            Registration::Down => ControlAnswer::DeclaredDown,
            Registration::Refused(reason) => ControlAnswer::Refused(reason),
            Registration::Removed(reason) => ControlAnswer::Removed(reason),
            Registration::New => {
                self.register(announcement);
                ControlAnswer::NotYet("the node is being registered".into())
            }
        }
    }

    fn grant(&self, node: NodeId, incarnation: Incarnation) -> ControlAnswer {
        let granted = self.with_leases(|leases| {
            // Check again: an entry of a former coordinator is applied here before a majority confirms this
            // one.
            let up = self.topology.state().is_up(node);
            let now_ms = self.host.monotonic_ms();
            up.then(|| {
                leases
                    .grant(node, incarnation, now_ms)
                    .inspect_err(|_| leases.heard(node, incarnation, now_ms))
            })
        });
        match granted.flatten() {
            // Cluster time is sent only with a lease, and so only by a coordinator that a majority confirmed.
            Some(Ok(length_ms)) => match self.time_to_grant() {
                Some(time_us) => ControlAnswer::Granted { length_ms, time_us },
                None => ControlAnswer::NotYet("a majority of voters has to report cluster time first".into()),
            },
            Some(Err(NoLease::Unconfirmed)) => {
                ControlAnswer::NotYet("no majority of voters confirms the coordinator".into())
            }
            Some(Err(NoLease::Condemned)) => {
                ControlAnswer::NotYet("its lease had expired; the node is being declared down".into())
            }
            None => {
                ControlAnswer::NotYet("the coordinator or the node's registration has just changed".into())
            }
        }
    }

    /// Registers a node known from gossip, if it must be registered.
    pub(super) fn register_heard(self: &Arc<Self>, announcement: &Announcement) {
        match standing(&self.topology.state(), announcement) {
            Registration::New => self.register(announcement.clone()),
            standing => {
                tracing::debug!(node = %announcement.node, ?standing, "a report does not lead to a registration")
            }
        }
    }

    /// Registers a node that announced itself; one registration of an incarnation at a time.
    fn register(self: &Arc<Self>, announcement: Announcement) {
        let key = (announcement.node, announcement.incarnation);
        if !self.registering.lock().insert(key) {
            return;
        }
        let node = Arc::clone(self);
        self.host.spawn(async move {
            let now_ms = node.host.monotonic_ms();
            node.with_leases(|leases| leases.registered(key.0, key.1, now_ms));
            match node.propose_here(vec![Change::Register(announcement)]).await.as_deref() {
                Ok([Verdict::Rejected(reason)]) => {
                    tracing::info!(node = %key.0, reason, "did not register a node; the node retries");
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(node = %key.0, %error, "could not register a node; the node retries");
                }
            }
            node.registering.lock().remove(&key);
        });
    }

    async fn declare_overdue(&self) {
        // Read before the table: if the table is of another term by then, the proposal is void.
        let Some(elected) = self.topology.leading() else { return };
        let state = self.topology.state();
        let up = state.members.values().filter(|member| member.status == MemberStatus::Up);
        let up = up.map(|member| (member.announcement.node, member.announcement.incarnation));
        let overdue =
            self.with_leases(|leases| leases.overdue(up, self.host.monotonic_ms())).unwrap_or_default();
        let changes: Vec<_> = overdue
            .into_iter()
            .map(|(node, incarnation)| Change::DeclareDown { node, incarnation })
            .collect();
        if changes.is_empty() {
            return;
        }
        // The nodes are condemned. For any outcome, none of them gets a lease, and the next round declares
        // those still up down again.
        match self.topology.propose(Proposal { changes, elected: Some(elected) }).await {
            Ok(Committed { verdicts, .. }) => {
                tracing::debug!(?verdicts, "declared nodes down whose lease had expired")
            }
            Err(error) => {
                tracing::warn!(%error, "could not declare nodes down whose lease has expired; this node retries");
            }
        }
    }

    /// Assigns every member its part in the topology log.
    async fn choose_members(&self) {
        let state = self.topology.state();
        let down_long = self.down_longer_than(VOTER_DOWN_MAX);
        let voters = choose_voters(&self.topology.voters(), &may_vote(&state), Some(self.id), &down_long);
        let everyone: BTreeSet<NodeId> = state.members.keys().copied().collect();
        let learners: BTreeSet<NodeId> = everyone.difference(&voters).copied().collect();
        if voters == self.topology.voters() && learners == self.topology.learners() {
            return;
        }
        if let Err(error) = self.topology.set_membership(voters, learners).await {
            tracing::debug!(%error, "could not change the members of the topology log; this node retries");
        }
    }

    /// Proposes to make the copies of nodes that stay away.
    async fn rebuild_long_down(&self) {
        let state = self.topology.state();
        let long = self.down_longer_than(Duration::from_millis(state.rebuild_delay_ms.into()));
        let due = long.into_iter().filter(|node| state.awaits_rebuild(*node));
        let due = due.filter_map(|node| state.member(node));
        let rebuild = |member: &Member| {
            let Announcement { node, incarnation, .. } = member.announcement;
            Change::Rebuild { node, incarnation }
        };
        let changes: Vec<_> = due.map(rebuild).collect();
        if changes.is_empty() {
            return;
        }
        if let Err(error) = self.propose_here(changes).await {
            tracing::warn!(%error, "could not commit the rebuilding of copies; this node retries");
        }
    }

    /// Records since when members are down, and removes those that are no longer down.
    fn note_down(&self) {
        let (state, now) = (self.topology.state(), self.host.monotonic_ms());
        let down = state.members.iter().filter(|(_, member)| member.status == MemberStatus::Down);
        let mut seen = self.seen_down.lock();
        let since = |node: &NodeId, epoch| match seen.get(node) {
            Some((known, since_ms)) if *known == epoch => *since_ms,
            _ => now,
        };
        *seen = down.map(|(node, m)| (*node, (m.since, since(node, m.since)))).collect();
    }

    /// Returns the members that this node has seen down for at least `length`.
    fn down_longer_than(&self, length: Duration) -> BTreeSet<NodeId> {
        let (seen, now) = (self.seen_down.lock(), self.host.monotonic_ms());
        let long = seen.iter().filter(|(_, (_, since_ms))| now >= since_ms + length.as_millis() as u64);
        long.map(|(node, _)| *node).collect()
    }

    /// Declares this node down before a planned stop, so that the cluster need not wait for its lease to
    /// expire.
    pub(super) async fn say_goodbye(self: &Arc<Self>) {
        let alone = self.topology.state().members.len() < 2;
        if alone || !self.plane.has_lease() {
            return;
        }
        self.plane.end_lease();
        self.declare_itself_down().await;
    }

    /// Declares this node down after a part of it has ended and it has given up its lease. The other nodes
    /// then need not wait for the end of that lease. Gives up after [`LAST_GOODBYE_MAX`].
    pub async fn end_at_once(self: &Arc<Self>) {
        self.plane.give_up_lease();
        self.stopping.begin();
        if self.topology.state().members.len() > 1
            && tokio::time::timeout(LAST_GOODBYE_MAX, self.declare_itself_down()).await.is_err()
        {
            tracing::warn!(
                "could not declare this node down: the cluster declares it down when its lease has expired"
            );
        }
    }

    async fn declare_itself_down(self: &Arc<Self>) {
        let incarnation = self.incarnation.load(Ordering::Acquire);
        let goodbye = Change::DeclareDown { node: self.id, incarnation };
        // During an election no coordinator accepts it. A repetition does no harm.
        let until_ms = self.host.monotonic_ms() + self.lease_ms().unwrap_or_default();
        while let Err(error) = self.propose(vec![goodbye.clone()]).await {
            if self.host.monotonic_ms() >= until_ms {
                tracing::warn!(
                    error,
                    "could not declare this node down: the cluster declares it down when its lease has expired"
                );
                return;
            }
            tokio::time::sleep(GOODBYE_PAUSE).await;
        }
        // Until all nodes know, requests and records still arrive here and must be redirected.
        self.wait_until_followed(self.topology.state().epoch).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::operations::AdminOperation;
    use crate::cluster::samples::announcement;
    use crate::id::ClusterId;

    fn announced(number: u8, weight: u32) -> Announcement {
        Announcement { weight, ..announcement(number, 1) }
    }

    /// Returns a cluster of nodes 1, 2, and a witness.
    fn cluster() -> ClusterState {
        let mut state = ClusterState::default();
        let found = Change::Found {
            cluster_id: ClusterId::default(),
            replication_factor: 2,
            lease_ms: 2000,
            rebuild_delay_ms: 1000,
            founder: announced(1, 100),
        };
        state.apply(&[found]);
        state.apply(&[Change::Register(announced(2, 100)), Change::Register(announced(3, 0))]);
        state
    }

    fn voters(state: &ClusterState, present: &[u8], coordinator: u8) -> Vec<u8> {
        let node = |number: u8| NodeId::from_bytes([number; 32]);
        let present = present.iter().map(|number| node(*number)).collect();
        let chosen = choose_voters(&present, &may_vote(state), Some(node(coordinator)), &BTreeSet::new());
        chosen.iter().map(|node| node.as_bytes()[0]).collect()
    }

    #[test]
    fn witness_votes_like_any_other() {
        assert_eq!(voters(&cluster(), &[1], 1), [1, 2, 3]);
    }

    #[test]
    fn node_that_leaves_does_not_vote_even_if_it_is_founder_and_coordinator() {
        let mut state = cluster();
        let operation = AdminOperation::Leave { node: NodeId::from_bytes([1; 32]) };
        assert_eq!(state.apply(&[Change::Operate { operation, basis: None }]), [Verdict::Applied]);
        assert_eq!(voters(&state, &[1, 2, 3], 1), [2], "two voters are worse than one");
        state.apply(&[Change::Register(announced(4, 100))]);
        assert_eq!(voters(&state, &[1, 2, 3], 1), [2, 3, 4]);
    }

    #[test]
    fn removed_node_stops_voting_at_once() {
        let mut state = cluster();
        let node = NodeId::from_bytes([2; 32]);
        state.apply(&[Change::Register(announced(4, 100)), Change::DeclareDown { node, incarnation: 1 }]);
        assert_eq!(voters(&state, &[1, 2, 3], 1), [1, 2, 3], "it may return");
        let operation = AdminOperation::Remove { node, incarnation: 1, accept_loss: true };
        assert_eq!(state.apply(&[Change::Operate { operation, basis: None }]), [Verdict::Applied]);
        assert_eq!(voters(&state, &[1, 2, 3], 1), [1, 3, 4]);
    }
}
