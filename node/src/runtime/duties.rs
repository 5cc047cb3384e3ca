//! The coordinator's duties, done by whichever node leads the topology log: it admits nodes, grants leases,
//! declares nodes down, and picks the voters. The ring and what moves follow from the committed changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Node;
use super::admission::{Standing, standing};
use super::control::ControlAnswer;
use crate::cluster::lease::{LeaseTable, NoLease};
use crate::cluster::state::{Announcement, Change, Member, MemberStatus, Verdict};
use crate::id::{Incarnation, NodeId};
use crate::topology::choose_voters;

/// How often the coordinator looks for what is due.
const ROUND: Duration = Duration::from_millis(100);
/// How often a majority is asked to confirm the coordinator, as a part of the lease.
const CONFIRMATIONS_PER_LEASE: u64 = 8;
/// A voter is replaced only after it has been down for this long.
const VOTER_DOWN_MAX: Duration = Duration::from_secs(300);

impl Node {
    /// Whether this node is the coordinator, as far as it knows.
    pub(super) fn is_coordinator(&self) -> bool {
        self.topology.coordinator() == Some(self.id)
    }

    /// Does the duties while this node is the coordinator.
    pub(super) async fn run_duties(self: Arc<Self>) {
        loop {
            tokio::time::sleep(ROUND).await;
            // By every node: a new coordinator knows how long others have been down.
            self.note_down();
            if !self.is_coordinator() {
                *self.leases.lock() = None;
                continue;
            }
            self.declare_overdue().await;
            self.rebuild_long_down().await;
            // Who is about to go has chosen already.
            if !self.leaving.load(Ordering::Acquire) {
                self.choose_members().await;
            }
        }
    }

    /// Keeps asking the voters to confirm the coordinator: leases are granted up to the last confirmation.
    pub(super) async fn run_confirmations(self: Arc<Self>) {
        loop {
            let asked_ms = self.host.monotonic_ms();
            let elected = self.with_leases(|_| ()).and(self.topology.leading());
            if elected.is_some()
                && self.topology.confirm_leadership().await.is_ok()
                // What a former term's voters confirmed says nothing of this one.
                && self.topology.leading() == elected
            {
                self.with_leases(|leases| leases.confirmed(asked_ms));
            }
            // Taken each time: a node that joins learns the cluster's lease only after its start.
            let pause =
                self.lease_ms().map(|lease_ms| Duration::from_millis(lease_ms / CONFIRMATIONS_PER_LEASE));
            tokio::time::sleep(pause.unwrap_or(ROUND)).await;
        }
    }

    /// The lease table of this coordinator, made anew for each term it was elected for.
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

    /// Answers a node that asks for a lease; registers it first if it must be.
    pub(super) fn answer_lease(self: &Arc<Self>, announcement: Announcement) -> ControlAnswer {
        if !self.is_coordinator() {
            return ControlAnswer::NotCoordinator(self.topology.coordinator());
        }
        let (node, incarnation) = (announcement.node, announcement.incarnation);
        match standing(&self.topology.state(), &announcement) {
            Standing::Up => self.grant(node, incarnation),
            Standing::Down => ControlAnswer::DeclaredDown,
            Standing::Refused(reason) => ControlAnswer::Refused(reason),
            Standing::New => {
                self.register(announcement);
                ControlAnswer::NotYet("the node is being registered".into())
            }
        }
    }

    fn grant(&self, node: NodeId, incarnation: Incarnation) -> ControlAnswer {
        let granted = self.with_leases(|leases| {
            // Read once more: an entry of a former coordinator is applied here before a majority confirms this one.
            let up = self.topology.state().is_up(node);
            up.then(|| leases.grant(node, incarnation, self.host.monotonic_ms()))
        });
        match granted.flatten() {
            Some(Ok(length_ms)) => ControlAnswer::Granted(length_ms),
            Some(Err(NoLease::Unconfirmed)) => {
                ControlAnswer::NotYet("no majority of voters confirms the coordinator".into())
            }
            Some(Err(NoLease::Condemned)) => {
                ControlAnswer::NotYet("its lease had run out; the node is being declared down".into())
            }
            None => ControlAnswer::NotYet("the coordinator or the node's standing has just changed".into()),
        }
    }

    /// Registers a node that was heard of by gossip, if it is one to be registered.
    pub(super) fn register_heard(self: &Arc<Self>, announcement: &Announcement) {
        match standing(&self.topology.state(), announcement) {
            Standing::New => self.register(announcement.clone()),
            standing => tracing::debug!(node = %announcement.node, ?standing, "a report registers nobody"),
        }
    }

    /// Registers a node that announced itself, once at a time.
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
                Ok([Verdict::Void(reason)]) => {
                    tracing::info!(node = %key.0, reason, "a node was not registered; it asks again");
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(node = %key.0, %error, "a node could not be registered; it asks again");
                }
            }
            node.registering.lock().remove(&key);
        });
    }

    async fn declare_overdue(&self) {
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
        // They are condemned: whatever the outcome, none is granted a lease, and those still up are declared
        // down again in the next round.
        match self.propose_here(changes).await {
            Ok(verdicts) => tracing::debug!(?verdicts, "nodes whose lease has run out"),
            Err(error) => {
                tracing::warn!(%error, "nodes whose lease has run out could not be declared down; trying again");
            }
        }
    }

    /// Gives every member its part in the topology log.
    async fn choose_members(&self) {
        let state = self.topology.state();
        let down_long = self.down_longer_than(VOTER_DOWN_MAX);
        let voters = choose_voters(&self.topology.voters(), &state.members, Some(self.id), &down_long);
        let everyone: BTreeSet<NodeId> = state.members.keys().copied().collect();
        let learners: BTreeSet<NodeId> = everyone.difference(&voters).copied().collect();
        if voters == self.topology.voters() && learners == self.topology.learners() {
            return;
        }
        if let Err(error) = self.topology.set_membership(voters, learners).await {
            tracing::debug!(%error, "the topology log's members could not be set; trying again");
        }
    }

    /// Has the copies of nodes that stay away made anew.
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
            tracing::warn!(%error, "the rebuilding of copies could not be committed; trying again");
        }
    }

    /// Notes since when members are down, and forgets it of those that are not any more.
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

    /// Members that this node has seen down for `length` at least.
    fn down_longer_than(&self, length: Duration) -> BTreeSet<NodeId> {
        let (seen, now) = (self.seen_down.lock(), self.host.monotonic_ms());
        let long = seen.iter().filter(|(_, (_, since_ms))| now >= since_ms + length.as_millis() as u64);
        long.map(|(node, _)| *node).collect()
    }

    /// Before a planned stop: the cluster need not wait for the lease to run out.
    pub(super) async fn say_goodbye(&self) {
        let alone = self.topology.state().members.len() < 2;
        if alone || !self.plane.has_lease() {
            return;
        }
        self.plane.end_lease();
        let incarnation = self.incarnation.load(Ordering::Acquire);
        let goodbye = Change::DeclareDown { node: self.id, incarnation };
        match self.propose(vec![goodbye]).await {
            // Until all know, requests and records still come here and must be told to go elsewhere.
            Ok(_) => self.wait_until_followed(self.topology.state().epoch).await,
            Err(error) => {
                tracing::warn!(
                    error,
                    "could not say goodbye: the cluster notices when the lease has run out"
                );
            }
        }
    }
}
