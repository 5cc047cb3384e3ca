//! The topology plane: a small consensus log whose state machine is the [`ClusterState`].
//!
//! At most five members vote (see [`choose_voters`]); the others are learners. The leader of the log is the
//! coordinator. This folder reaches agreement on changes; [`crate::cluster`] decides them. `log_store`,
//! `log_file`, `state_machine` and `files` store the log in the directory `topology/`, `network` exchanges
//! its messages, `driver` chooses the voters.
//!
//! Invariants: a returned or published state is committed. An acknowledged entry is on the disks of a
//! majority of voters.
//!
//! A damaged file is rejected and never repaired by guessing. Failures of nodes are detected by leases, not
//! here; the owner of a key decides about the key.

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

/// Passes arbitrary bytes to the decoder of the log's messages: see [`crate::fuzz`].
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

/// Longest encoding of one proposal in bytes: several proposals and their framing must fit one message.
pub const PROPOSAL_BYTES_MAX: usize = 1 << 20;
/// Entries after which the node builds a new snapshot.
const SNAPSHOT_EVERY_ENTRIES: u64 = 500;
/// Entries kept although a snapshot covers them, so that a node that was down briefly needs no snapshot.
const KEPT_ENTRIES: u64 = 300;
/// Entries a node may lack before it receives a snapshot instead.
const LAG_ENTRIES_MAX: u64 = 1000;
const _: () = assert!(LAG_ENTRIES_MAX > SNAPSHOT_EVERY_ENTRIES, "a snapshot must end the lag");

/// Settings of a node's part in the topology log. All times in milliseconds.
#[derive(Clone, Debug)]
pub struct TopologyConfig {
    /// Directory of the log; created if it is missing.
    pub dir: PathBuf,
    /// Id of this node: the same at every start with this directory.
    pub node: NodeId,
    /// Interval of the coordinator's heartbeats. The effective interval is 1.5 times as long, because
    /// openraft's tick is. Default 250. Must be below [`Self::election_timeout_min_ms`].
    pub heartbeat_ms: u64,
    /// Lower bound of the random part of an election's delay. Default 400.
    ///
    /// The delay after the last heartbeat is `election_timeout_max_ms` plus the random part: 1.1 to 1.4 s by
    /// default. Within that time an election ends and live nodes renew their leases, before the leases of a
    /// dead coordinator expire.
    pub election_timeout_min_ms: u64,
    /// Upper bound of the random part. Default 700.
    pub election_timeout_max_ms: u64,
    /// Time after which the outcome of a proposal is reported as unknown. Default 5000.
    pub propose_timeout_ms: u64,
    /// Time limit of [`Topology::confirm_leadership`]. Default 1000.
    pub confirm_timeout_ms: u64,
    /// Time limit for a new voter to catch up before [`Topology::set_membership`] fails. Default 2000.
    pub catch_up_timeout_ms: u64,
    /// Supervisor of the log's tasks and thread.
    pub supervisor: Supervisor,
}

impl TopologyConfig {
    /// Creates the default settings.
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

/// Outcome of a committed proposal, which is applied on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The epoch after the proposal.
    pub epoch: Epoch,
    /// One verdict per change, in order.
    pub verdicts: Vec<Verdict>,
}

/// A node's part in the topology log. Clones share it.
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
    /// Set when the shutdown begins: the log may then stop without an error.
    closing: Arc<AtomicBool>,
    /// Held during a change of voters and learners, so that only one change runs at a time.
    changing_membership: tokio::sync::Mutex<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Topology {
    /// Opens the log in the configured directory and takes part in the consensus. A node without a cluster
    /// waits until a cluster [makes it a learner](Self::set_membership), or until it [founds](Self::found)
    /// one.
    ///
    /// # Errors
    /// See [`TopologyError`]: the directory is in use, damaged or not writable.
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

    /// Returns whether the node belongs to a cluster, because it founded one or a cluster made it a learner.
    pub async fn is_initialized(&self) -> bool {
        self.inner.raft.is_initialized().await.unwrap_or(false)
    }

    /// Founds a cluster with this node as its only voter, and commits `change`, a [`Change::Found`] or a
    /// [`Change::TakeOver`], and then `more`. Completes a founding that a crash interrupted.
    ///
    /// # Errors
    /// [`TopologyError::AlreadyMember`], [`TopologyError::NotFounded`].
    pub async fn found(&self, change: Change, more: Vec<Change>) -> Result<(), TopologyError> {
        let Inner { raft, config, .. } = self.inner.as_ref();
        if !matches!(change, Change::Found { .. } | Change::TakeOver(_)) {
            return Err(TopologyError::NotFounded("this change cannot found a cluster".to_owned()));
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
            Some(Verdict::Rejected(why)) => Err(TopologyError::NotFounded(why)),
            None => Err(TopologyError::NotFounded("the log returned no verdict".to_owned())),
        }
    }

    /// Returns the last state applied on this node. It may lack committed entries that have not arrived yet.
    pub fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.inner.states.borrow())
    }

    /// Returns a receiver of the states as they are applied; a slow reader sees only the newest.
    pub fn watch(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.inner.states.clone()
    }

    /// Returns the leader of the log as far as this node knows; another node may have replaced it.
    pub fn coordinator(&self) -> Option<NodeId> {
        *self.inner.coordinator.borrow()
    }

    /// Returns a receiver of [`Self::coordinator`].
    pub fn watch_coordinator(&self) -> watch::Receiver<Option<NodeId>> {
        self.inner.coordinator.clone()
    }

    /// Returns the term of the log that this node leads, if it leads one. Two different terms mean two
    /// elections.
    pub fn leading(&self) -> Option<u64> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow();
        let leads = metrics.state == ServerState::Leader && metrics.running_state.is_ok();
        leads.then_some(metrics.current_term)
    }

    /// Returns why the log has stopped on this node, if it has: a disk failure, or [`Self::shutdown`].
    pub fn stopped(&self) -> Option<String> {
        let metrics = self.inner.raft.metrics();
        let state = &metrics.borrow().running_state;
        state.as_ref().err().map(ToString::to_string)
    }

    /// Commits the changes as one entry, in order; each gets a verdict. Works only at the coordinator.
    ///
    /// # Errors
    /// [`ProposeError`]; nothing was changed after any error except `Unknown`.
    pub async fn propose(&self, proposal: impl Into<Proposal>) -> Result<Committed, ProposeError> {
        self.require_coordinator()?;
        let proposal = proposal.into();
        let bytes = codec::encode(&proposal).map_err(ProposeError::Refused)?.len();
        if bytes > PROPOSAL_BYTES_MAX {
            let why = format!("it has {bytes} bytes, the limit is {PROPOSAL_BYTES_MAX}: split it");
            return Err(ProposeError::Refused(why));
        }
        let written = self.bounded(self.inner.raft.client_write(proposal)).await?;
        Ok(Committed { epoch: written.data.epoch, verdicts: written.data.verdicts })
    }

    /// Confirms that a majority of the voters accepted this node as their leader at some moment after the
    /// call began, and that all entries committed before that moment are applied on this node.
    ///
    /// # Errors
    /// `NotCoordinator`, or `Unknown` if no majority answered in time.
    pub async fn confirm_leadership(&self) -> Result<(), ProposeError> {
        self.require_coordinator()?;
        // This node is one of the voters that confirm its leadership.
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

    /// Returns how many milliseconds ago this node may last have confirmed a coordinator of a term older than
    /// `term`. `None`: it may still confirm one.
    pub fn last_confirmed_before(&self, term: u64) -> Option<u64> {
        let metrics = self.inner.raft.metrics();
        // A vote only grows, and is at least the term in the metrics.
        let promised = metrics.borrow().current_term >= term;
        promised.then(|| self.inner.last_confirmation.lock().age_before_ms(term, monotonic_ms()))
    }

    /// Handles one message of a peer's topology log and returns the answer.
    pub async fn handle(&self, body: Bytes) -> Bytes {
        network::answer(&self.inner.raft, &self.inner.last_confirmation, &body).await
    }

    /// Leaves the consensus and closes the files. Later requests fail.
    pub async fn shutdown(&self) {
        self.inner.closing.store(true, Ordering::Release);
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "the topology log did not stop cleanly");
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

    /// Waits for a submitted entry. The outcome of a submitted entry is unknown if the leadership is lost.
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
            Err(_) => {
                Err(ProposeError::Unknown(format!("no majority of voters accepted it in {patience:?}")))
            }
        }
    }
}

fn open_files(dir: PathBuf, guard: ThreadGuard) -> Result<(LogStore, StateMachine), TopologyError> {
    files::create_directory(&dir).map_err(|error| TopologyError::io("create", &dir, error))?;
    Ok((LogStore::open(&dir, guard)?, StateMachine::open(&dir)?))
}

/// Publishes the leader whenever it changes, and `None` once the log has stopped on this node. Returns after
/// the log has stopped: `Err` with the reason, unless the log is being shut down.
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
            // The engine's task panicked: otherwise it would have reported a reason.
            break "the consensus engine ended without a reason".to_owned();
        }
    };
    if closing.load(Ordering::Acquire) { Ok(()) } else { Err(why) }
}
