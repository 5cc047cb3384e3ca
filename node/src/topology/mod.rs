//! The topology plane: a tiny consensus log whose state machine is the [`ClusterState`].
//!
//! At most five members vote (see [`choose_voters`]); the others learn. The leader of the log is the
//! coordinator. Everything here is about agreeing; what is agreed on is decided in [`crate::cluster`].
//!
//! - `log_store`, `log_file`, `state_machine`, `files`: what is kept on disk, in the directory `topology/`.
//! - `network`: the messages, carried by a [`RaftTransport`].
//! - `driver`: who should vote.
//!
//! Invariants: a state that was returned or published is committed; an acknowledged entry is on the disks of
//! a majority of voters; a damaged file is refused, never repaired by guessing. What is *not* here: failure
//! detection of nodes (leases), and anything a key's owner decides.

mod agreement;
mod codec;
mod driver;
mod error;
mod files;
mod log_file;
mod log_store;
mod membership;
mod network;
mod state_machine;
mod succession;
mod takeover;
mod types;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{CheckIsLeaderError, ClientWriteError, RaftError};
use openraft::{EmptyNode, ServerState, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_blocking};

pub use self::agreement::Agreement;
pub use self::driver::{choose_voters, voters_wanted};
pub use self::error::{ProposeError, TopologyError};
pub use self::network::RaftTransport;
pub use self::takeover::NEXT_FOLDER;

/// Gives arbitrary bytes to the decoder of the log's messages: see [`crate::fuzz`].
#[cfg(any(test, feature = "internals"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    network::fuzz(bytes);
}

use self::log_store::LogStore;
use self::network::Network;
use self::state_machine::StateMachine;
pub use self::types::Proposal;
use self::types::{Metrics, Raft};
use crate::clock::monotonic_ms;
use crate::cluster::lease::LastConfirmation;
use crate::cluster::state::{Change, ClusterState, Verdict};
use crate::id::{Epoch, NodeId};
use crate::supervise::{Part, Supervisor, ThreadGuard};

/// Longest encoding of one proposal: several of them, and what frames them, must fit one message.
pub const PROPOSAL_BYTES_MAX: usize = 1 << 20;
/// Entries after which a new snapshot is made.
const SNAPSHOT_EVERY_ENTRIES: u64 = 500;
/// Entries kept although a snapshot has them, so that a node that was away briefly needs no snapshot.
const KEPT_ENTRIES: u64 = 300;
/// Entries a node may be behind before it gets a snapshot instead.
const LAG_ENTRIES_MAX: u64 = 1000;
const _: () = assert!(LAG_ENTRIES_MAX > SNAPSHOT_EVERY_ENTRIES, "or a snapshot would not end the lag");

/// How a node takes part in the topology log. All times in milliseconds.
#[derive(Clone, Debug)]
pub struct TopologyConfig {
    /// Where the log is kept; made if it is not there.
    pub dir: PathBuf,
    /// Who this node is. The same on every start with this directory.
    pub node: NodeId,
    /// How often the coordinator calls; in effect half as long again, openraft's tick being 1.5 of it.
    /// Default 250. Must be below [`Self::election_timeout_min_ms`].
    pub heartbeat_ms: u64,
    /// Shortest of the random part of an election's delay. Default 400. The delay after the coordinator was
    /// last heard is `election_timeout_max_ms` plus this random part: by default 1.1 to 1.4 s. With that an election is
    /// over, and living nodes have renewed their leases, before those that a coordinator that died granted have ended.
    pub election_timeout_min_ms: u64,
    /// Longest of the same. Default 700.
    pub election_timeout_max_ms: u64,
    /// How long a proposal is waited for before its outcome is called unknown. Default 5000.
    pub propose_timeout_ms: u64,
    /// How long [`Topology::confirm_leadership`] may take. Default 1000.
    pub confirm_timeout_ms: u64,
    /// How long a new voter may take to catch up before [`Topology::set_membership`] gives up. Default 2000.
    pub catch_up_timeout_ms: u64,
    /// What watches its tasks and its thread.
    pub supervisor: Supervisor,
}

impl TopologyConfig {
    /// The defaults.
    pub fn new(dir: impl Into<PathBuf>, node: NodeId) -> Self {
        Self {
            dir: dir.into(),
            node,
            heartbeat_ms: 250,
            election_timeout_min_ms: 400,
            election_timeout_max_ms: 700,
            propose_timeout_ms: 5000,
            confirm_timeout_ms: 1000,
            catch_up_timeout_ms: 2000,
            supervisor: Supervisor::default(),
        }
    }

    fn for_raft(&self) -> Result<openraft::Config, TopologyError> {
        let config = openraft::Config {
            cluster_name: "caskade".to_owned(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_timeout_min_ms,
            election_timeout_max: self.election_timeout_max_ms,
            install_snapshot_timeout: 5000,
            snapshot_max_chunk_size: 1 << 20,
            max_payload_entries: 64,
            replication_lag_threshold: LAG_ENTRIES_MAX,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY_ENTRIES),
            max_in_snapshot_log_to_keep: KEPT_ENTRIES,
            purge_batch_size: 64,
            ..openraft::Config::default()
        };
        config.validate().map_err(|error| TopologyError::Config(error.to_string()))
    }
}

/// What a proposal came to: it is committed, and applied on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The epoch after it.
    pub epoch: Epoch,
    /// One verdict a change, in order.
    pub verdicts: Vec<Verdict>,
}

/// A node's part in the topology log; a clone is the same one.
#[derive(Clone)]
pub struct Topology {
    inner: Arc<Inner>,
}

struct Inner {
    config: TopologyConfig,
    raft: Raft,
    log: LogStore,
    states: watch::Receiver<Arc<ClusterState>>,
    coordinator: watch::Receiver<Option<NodeId>>,
    follower: AbortHandle,
    last_confirmation: Mutex<LastConfirmation>,
    /// It is being shut down: from now on it may end.
    closing: Arc<AtomicBool>,
    /// Held while the set of voters and learners is changed, one change at a time.
    changing_membership: tokio::sync::Mutex<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Topology {
    /// Opens the log in the configured directory and starts to take part. A node that was never told of a
    /// cluster waits to be [made a learner](Self::set_membership) by one, or to [found](Self::found) one.
    ///
    /// # Errors
    /// See [`TopologyError`]: a directory in use, damaged, or one that cannot be written.
    pub async fn open(
        config: TopologyConfig,
        transport: Arc<dyn RaftTransport>,
    ) -> Result<Self, TopologyError> {
        let last_confirmation = Mutex::new(LastConfirmation::at_start(monotonic_ms()));
        let raft_config = Arc::new(config.for_raft()?);
        let (dir, supervisor) = (config.dir.clone(), config.supervisor.clone());
        let guard = supervisor.thread(Part::TopologyLog);
        let (log, machine) = spawn_blocking(move || open_files(dir, guard))
            .await
            .map_err(|error| TopologyError::Stopped(error.to_string()))??;
        let states = machine.watch();
        let started = Raft::new(config.node, raft_config, Network(transport), log.clone(), machine).await;
        let raft = match started {
            Ok(raft) => raft,
            Err(error) => {
                log.close().await;
                return Err(TopologyError::Stopped(error.to_string()));
            }
        };
        let (leader, coordinator) = watch::channel(None);
        let closing = Arc::new(AtomicBool::new(false));
        let follow = follow_leader(raft.metrics(), leader, Arc::clone(&closing));
        let follower = tokio::spawn(supervisor.essential_until(Part::Topology, follow)).abort_handle();
        #[cfg(all(feature = "mutations", debug_assertions))]
        tokio::spawn(log.end_when_told(supervisor));
        let changing_membership = tokio::sync::Mutex::default();
        let inner = Inner {
            config,
            raft,
            log,
            states,
            coordinator,
            follower,
            closing,
            last_confirmation,
            changing_membership,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether the node belongs to a cluster: it founded one, or one made it a learner.
    pub async fn is_initialized(&self) -> bool {
        self.inner.raft.is_initialized().await.unwrap_or(false)
    }

    /// Founds a cluster: this node is its only voter, and commits `change`, a [`Change::Found`] or a
    /// [`Change::TakeOver`].
    /// A founding that a crash cut short is completed.
    ///
    /// # Errors
    /// [`TopologyError::AlreadyMember`], [`TopologyError::NotFounded`].
    pub async fn found(&self, change: Change, more: Vec<Change>) -> Result<(), TopologyError> {
        let Inner { raft, config, .. } = self.inner.as_ref();
        if !matches!(change, Change::Found { .. } | Change::TakeOver(_)) {
            return Err(TopologyError::NotFounded("this change founds no cluster".to_owned()));
        }
        if self.state().epoch > 0 {
            return Err(TopologyError::AlreadyMember);
        }
        let changes: Vec<Change> = std::iter::once(change).chain(more).collect();
        let alone = BTreeSet::from([config.node]);
        if !self.is_initialized().await {
            let not = |error: &dyn std::fmt::Display| TopologyError::NotFounded(error.to_string());
            raft.initialize(alone).await.map_err(|error| not(&error))?;
        } else if self.voters() != alone {
            return Err(TopologyError::AlreadyMember);
        }
        let patience = Some(Duration::from_millis(config.propose_timeout_ms));
        raft.wait(patience)
            .state(ServerState::Leader, "to found the cluster")
            .await
            .map_err(|error| TopologyError::NotFounded(error.to_string()))?;
        let committed =
            self.propose(changes).await.map_err(|error| TopologyError::NotFounded(error.to_string()))?;
        match committed.verdicts.into_iter().next() {
            Some(Verdict::Applied) => Ok(()),
            Some(Verdict::Void(why)) => Err(TopologyError::NotFounded(why)),
            None => Err(TopologyError::NotFounded("no verdict was given".to_owned())),
        }
    }

    /// The last state applied here; older than the committed one by what has not arrived yet.
    pub fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.inner.states.borrow())
    }

    /// The states as they are applied; a slow reader sees the newest only.
    pub fn watch(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.inner.states.clone()
    }

    /// The leader of the log, as far as this node knows; it may have been replaced since.
    pub fn coordinator(&self) -> Option<NodeId> {
        *self.inner.coordinator.borrow()
    }

    /// The same, as it changes.
    pub fn watch_coordinator(&self) -> watch::Receiver<Option<NodeId>> {
        self.inner.coordinator.clone()
    }

    /// The term of the log that this node leads, if it leads one: two answers that differ are two elections.
    pub fn leading(&self) -> Option<u64> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow();
        let leads = metrics.state == ServerState::Leader && metrics.running_state.is_ok();
        leads.then_some(metrics.current_term)
    }

    /// Why the log has stopped on this node, if it has: a disk that failed, or [`Self::shutdown`].
    pub fn stopped(&self) -> Option<String> {
        let metrics = self.inner.raft.metrics();
        let state = &metrics.borrow().running_state;
        state.as_ref().err().map(ToString::to_string)
    }

    /// Commits the changes as one entry, in order; each gets its verdict. At the coordinator only.
    ///
    /// # Errors
    /// [`ProposeError`]; with any but `Unknown` nothing was changed.
    pub async fn propose(&self, proposal: impl Into<Proposal>) -> Result<Committed, ProposeError> {
        self.require_coordinator()?;
        let proposal = proposal.into();
        let bytes = codec::encode(&proposal).map_err(ProposeError::Refused)?.len();
        if bytes > PROPOSAL_BYTES_MAX {
            let why = format!("it has {bytes} bytes, the limit is {PROPOSAL_BYTES_MAX}: propose it in parts");
            return Err(ProposeError::Refused(why));
        }
        let written = self.bounded(self.inner.raft.client_write(proposal)).await?;
        Ok(Committed { epoch: written.data.epoch, verdicts: written.data.verdicts })
    }

    /// Succeeds if a majority of the voters took this node for their leader at some moment after the call
    /// began, and everything committed before that is applied here.
    ///
    /// # Errors
    /// `NotCoordinator`, or `Unknown` if no majority answered in time.
    pub async fn confirm_leadership(&self) -> Result<(), ProposeError> {
        self.require_coordinator()?;
        // This node counts itself among those that confirm it.
        let term = self.inner.raft.metrics().borrow().current_term;
        self.inner.last_confirmation.lock().note(term, monotonic_ms());
        let patience = Duration::from_millis(self.inner.config.confirm_timeout_ms);
        match tokio::time::timeout(patience, self.inner.raft.ensure_linearizable()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(to)))) => {
                Err(ProposeError::NotCoordinator(to.leader_id))
            }
            Ok(Err(RaftError::APIError(error))) => Err(ProposeError::Unknown(error.to_string())),
            Ok(Err(RaftError::Fatal(_))) => Err(ProposeError::Stopped),
            Err(_) => Err(ProposeError::Unknown(format!("no majority of voters answered in {patience:?}"))),
        }
    }

    /// Returns how many milliseconds ago this node may last have confirmed a coordinator of an older term than `term`:
    /// `None` if it may confirm one yet.
    pub fn last_confirmed_before(&self, term: u64) -> Option<u64> {
        let metrics = self.inner.raft.metrics();
        // A vote only grows, and is never older than the metrics say.
        let promised = metrics.borrow().current_term >= term;
        promised.then(|| self.inner.last_confirmation.lock().age_before_ms(term, monotonic_ms()))
    }

    /// Answers one message of a peer's topology log.
    pub async fn handle(&self, body: Bytes) -> Bytes {
        network::answer(&self.inner.raft, &self.inner.last_confirmation, &body).await
    }

    /// Stops taking part and closes the files; everything asked afterwards is refused.
    pub async fn shutdown(&self) {
        self.inner.closing.store(true, Ordering::Release);
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "topology log: did not stop cleanly");
        }
        self.inner.log.close().await;
    }

    fn require_coordinator(&self) -> Result<(), ProposeError> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow();
        match metrics.state {
            ServerState::Shutdown => Err(ProposeError::Stopped),
            ServerState::Leader => Ok(()),
            _ => Err(ProposeError::NotCoordinator(
                metrics.current_leader.filter(|leader| *leader != self.inner.config.node),
            )),
        }
    }

    /// Waits for an entry that was submitted. Once it was, a lost leadership leaves its outcome open.
    async fn bounded<T>(
        &self,
        submitted: impl Future<Output = Result<T, RaftError<NodeId, ClientWriteError<NodeId, EmptyNode>>>>,
    ) -> Result<T, ProposeError> {
        let patience = Duration::from_millis(self.inner.config.propose_timeout_ms);
        match tokio::time::timeout(patience, submitted).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => {
                Err(ProposeError::Refused(error.to_string()))
            }
            Ok(Err(error)) => Err(ProposeError::Unknown(error.to_string())),
            Err(_) => Err(ProposeError::Unknown(format!("no majority of voters took it in {patience:?}"))),
        }
    }
}

fn open_files(dir: PathBuf, guard: ThreadGuard) -> Result<(LogStore, StateMachine), TopologyError> {
    files::create_directory(&dir).map_err(|error| TopologyError::io("create", &dir, error))?;
    Ok((LogStore::open(&dir, guard)?, StateMachine::open(&dir)?))
}

/// Reports who leads, whenever that changes; nobody, once the log has stopped here. Ends when it has: `Err` says why,
/// unless it is being shut down.
async fn follow_leader(
    mut metrics: watch::Receiver<Metrics>,
    leader: watch::Sender<Option<NodeId>>,
    closing: Arc<AtomicBool>,
) -> Result<(), String> {
    let why = loop {
        let (now, stopped) = {
            let metrics = metrics.borrow_and_update();
            let stopped = metrics.running_state.as_ref().err().map(ToString::to_string);
            (metrics.current_leader.filter(|_| stopped.is_none()), stopped)
        };
        leader.send_if_modified(|known| std::mem::replace(known, now) != now);
        if let Some(why) = stopped {
            break format!("the topology log of this node has stopped ({why})");
        }
        if metrics.changed().await.is_err() {
            leader.send_replace(None);
            // Its task panicked: else it would have said why it stops.
            break "the consensus engine has ended without a reason".to_owned();
        }
    };
    if closing.load(Ordering::Acquire) { Ok(()) } else { Err(why) }
}
