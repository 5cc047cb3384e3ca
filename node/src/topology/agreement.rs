//! The node's interface to the topology log: openraft's log, or the model of a simulation.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::{Committed, Proposal, ProposeError, Topology};
use crate::cluster::state::{Change, ClusterState};
use crate::id::NodeId;

/// A node's part in the topology log. [`Topology`] documents the guarantees of each method.
pub trait Agreement: Send + Sync + 'static {
    /// See [`Topology::watch`].
    fn watch(&self) -> watch::Receiver<Arc<ClusterState>>;
    /// See [`Topology::watch_coordinator`].
    fn watch_coordinator(&self) -> watch::Receiver<Option<NodeId>>;
    /// See [`Topology::leading`].
    fn leading(&self) -> Option<u64>;
    /// See [`Topology::stopped`].
    fn stopped(&self) -> Option<String>;
    /// See [`Topology::voters`].
    fn voters(&self) -> BTreeSet<NodeId>;
    /// See [`Topology::voter_sets`].
    fn voter_sets(&self) -> Vec<BTreeSet<NodeId>>;
    /// See [`Topology::last_confirmed_before`].
    fn last_confirmed_before(&self, term: u64) -> Option<u64>;
    /// See [`Topology::learners`].
    fn learners(&self) -> BTreeSet<NodeId>;
    /// See [`Topology::propose`].
    fn propose(&self, proposal: Proposal) -> BoxFuture<'_, Result<Committed, ProposeError>>;
    /// See [`Topology::confirm_leadership`].
    fn confirm_leadership(&self) -> BoxFuture<'_, Result<(), ProposeError>>;
    /// See [`Topology::set_membership`].
    fn set_membership(
        &self,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
    ) -> BoxFuture<'_, Result<(), ProposeError>>;
    /// See [`Topology::stand_for_election`].
    fn stand_for_election(&self) -> BoxFuture<'_, Result<(), ProposeError>>;
    /// See [`Topology::wait_replicated`].
    fn wait_replicated<'a>(&'a self, nodes: &'a BTreeSet<NodeId>, patience: Duration) -> BoxFuture<'a, ()>;
    /// See [`Topology::handle`].
    fn handle(&self, body: Bytes) -> BoxFuture<'_, Bytes>;
    /// See [`Topology::shutdown`].
    fn shutdown(&self) -> BoxFuture<'_, ()>;
    /// Builds the log that this node's next start uses, with `change` as its first entry. On an error the
    /// text is the reason.
    fn found_next(&self, change: Change) -> BoxFuture<'_, Result<(), String>>;

    /// Returns the last state applied on this node. It may lack committed entries that have not arrived yet.
    fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.watch().borrow())
    }

    /// Returns the leader of the log as far as this node knows; another node may have replaced it.
    fn coordinator(&self) -> Option<NodeId> {
        *self.watch_coordinator().borrow()
    }
}

impl Agreement for Topology {
    fn watch(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.watch()
    }

    fn watch_coordinator(&self) -> watch::Receiver<Option<NodeId>> {
        self.watch_coordinator()
    }

    fn leading(&self) -> Option<u64> {
        self.leading()
    }

    fn stopped(&self) -> Option<String> {
        self.stopped()
    }

    fn voters(&self) -> BTreeSet<NodeId> {
        self.voters()
    }

    fn voter_sets(&self) -> Vec<BTreeSet<NodeId>> {
        self.voter_sets()
    }

    fn last_confirmed_before(&self, term: u64) -> Option<u64> {
        self.last_confirmed_before(term)
    }

    fn learners(&self) -> BTreeSet<NodeId> {
        self.learners()
    }

    fn propose(&self, proposal: Proposal) -> BoxFuture<'_, Result<Committed, ProposeError>> {
        Box::pin(self.propose(proposal))
    }

    fn confirm_leadership(&self) -> BoxFuture<'_, Result<(), ProposeError>> {
        Box::pin(self.confirm_leadership())
    }

    fn set_membership(
        &self,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
    ) -> BoxFuture<'_, Result<(), ProposeError>> {
        Box::pin(self.set_membership(voters, learners))
    }

    fn stand_for_election(&self) -> BoxFuture<'_, Result<(), ProposeError>> {
        Box::pin(self.stand_for_election())
    }

    fn wait_replicated<'a>(&'a self, nodes: &'a BTreeSet<NodeId>, patience: Duration) -> BoxFuture<'a, ()> {
        Box::pin(self.wait_replicated(nodes, patience))
    }

    fn handle(&self, body: Bytes) -> BoxFuture<'_, Bytes> {
        Box::pin(self.handle(body))
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shutdown())
    }

    fn found_next(&self, change: Change) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let founded = self.found_next(change).await;
            founded.map_err(|error| format!("{error}; the present topology log stays in use"))
        })
    }
}
