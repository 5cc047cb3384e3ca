//! The state that results from the log's entries, and its snapshots.
//!
//! The state is in memory. The disk holds the last snapshot, from which, with the log, the node rebuilds the
//! state at start. A snapshot replaces its predecessor atomically, and never a newer one. Every state is
//! published as soon as it is applied.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::codec;
use super::error::TopologyError;
use super::files::{self, Kind};
use super::types::{
    Applied, Entry, LogId, Snapshot, SnapshotMeta, StorageError, StorageIoError, StoredMembership, TypeConfig,
};
use crate::cluster::state::ClusterState;

/// Name of the snapshot's file.
pub(super) const SNAPSHOT_NAME: &str = "snapshot";
const SNAPSHOT: Kind = Kind { magic: *b"CKADTSNP", former: Some(*b"CASKSNAP"), version: 1 };

/// The present state, its last applied entry and its membership; cheap to clone.
#[derive(Clone, Default)]
struct View {
    state: Arc<ClusterState>,
    applied: Option<LogId>,
    membership: StoredMembership,
}

/// A snapshot as it is stored and sent.
#[derive(Clone, Serialize, Deserialize)]
struct StoredSnapshot {
    meta: SnapshotMeta,
    /// The encoded [`ClusterState`].
    data: Vec<u8>,
}

impl StoredSnapshot {
    fn view(&self) -> Result<View, String> {
        let state = Arc::new(codec::decode(&self.data)?);
        Ok(View { state, applied: self.meta.last_log_id, membership: self.meta.last_membership.clone() })
    }

    fn to_send(&self) -> Snapshot {
        Snapshot { meta: self.meta.clone(), snapshot: Box::new(Cursor::new(self.data.clone())) }
    }
}

/// The state machine. Clones share it.
#[derive(Clone)]
pub(crate) struct StateMachine {
    path: Arc<PathBuf>,
    view: Arc<Mutex<View>>,
    /// The snapshot on disk. Locked while it is written, so that the newest one wins.
    snapshot: Arc<tokio::sync::Mutex<Option<StoredSnapshot>>>,
    /// Number of snapshots built since the start. It distinguishes two snapshots of the same entry.
    built: Arc<AtomicU64>,
    published: Arc<watch::Sender<Arc<ClusterState>>>,
}

impl StateMachine {
    /// Restores the state of the snapshot in `dir`, if it exists. Blocks.
    ///
    /// # Errors
    /// [`TopologyError::Damaged`] if the snapshot's bytes are not those that were written.
    pub(crate) fn open(dir: &Path) -> Result<Self, TopologyError> {
        let path = dir.join(SNAPSHOT_NAME);
        let damaged = |what: String| TopologyError::damaged(&path, 0, what);
        let snapshot: Option<StoredSnapshot> = match files::read(&path, SNAPSHOT)? {
            Some(body) => Some(codec::decode(&body).map_err(damaged)?),
            None => None,
        };
        let view =
            snapshot.as_ref().map(StoredSnapshot::view).transpose().map_err(damaged)?.unwrap_or_default();
        let published = Arc::new(watch::Sender::new(Arc::clone(&view.state)));
        Ok(Self {
            path: Arc::new(path),
            view: Arc::new(Mutex::new(view)),
            snapshot: Arc::new(tokio::sync::Mutex::new(snapshot)),
            built: Arc::default(),
            published,
        })
    }

    /// Returns a receiver of the newest applied state.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.published.subscribe()
    }

    fn publish(&self, state: &Arc<ClusterState>) {
        self.published.send_if_modified(|present| {
            // Every change of a state increments its epoch. A comparison of all partitions would cost more
            // than most entries.
            let changed = present.epoch != state.epoch;
            *present = Arc::clone(state);
            changed
        });
    }

    /// Stores `new` as the snapshot, unless the present one is newer; returns the one that is then stored.
    async fn keep(&self, new: StoredSnapshot) -> Result<StoredSnapshot, StorageError> {
        let mut present = self.snapshot.lock().await;
        if let Some(present) = present.as_ref()
            && present.meta.last_log_id > new.meta.last_log_id
        {
            return Ok(present.clone());
        }
        let failed = |error: String| {
            StorageIoError::write_snapshot(Some(new.meta.signature()), AnyError::error(error))
        };
        let body = codec::encode(&new).map_err(failed)?;
        let path = Arc::clone(&self.path);
        let written = tokio::task::spawn_blocking(move || files::replace(&path, SNAPSHOT, &body)).await;
        match written {
            Ok(Ok(())) => Ok(present.insert(new).clone()),
            Ok(Err(error)) => Err(failed(error.to_string()).into()),
            Err(error) => Err(failed(error.to_string()).into()),
        }
    }
}

/// Builds a snapshot of its view.
pub(crate) struct SnapshotBuilder {
    machine: StateMachine,
    view: View,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let View { state, applied, membership } = &self.view;
        let data = codec::encode(state.as_ref())
            .map_err(|error| StorageIoError::read_state_machine(AnyError::error(error)))?;
        let built = self.machine.built.fetch_add(1, Ordering::Relaxed);
        let at = applied.map_or_else(|| "none".to_owned(), |id| id.index.to_string());
        let meta = SnapshotMeta {
            last_log_id: *applied,
            last_membership: membership.clone(),
            snapshot_id: format!("{at}-{}-{built}", state.epoch),
        };
        Ok(self.machine.keep(StoredSnapshot { meta, data }).await?.to_send())
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let view = self.view.lock();
        Ok((view.applied, view.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut view = self.view.lock();
        let mut results = Vec::new();
        for entry in entries {
            view.applied = Some(entry.log_id);
            let verdicts = match entry.payload {
                EntryPayload::Blank => Vec::new(),
                EntryPayload::Normal(proposal) => {
                    proposal.apply(entry.log_id.leader_id.term, Arc::make_mut(&mut view.state))
                }
                EntryPayload::Membership(membership) => {
                    view.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Vec::new()
                }
            };
            results.push(Applied { epoch: view.state.epoch, verdicts });
        }
        self.publish(&view.state);
        Ok(results)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { machine: self.clone(), view: self.view.lock().clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let received = StoredSnapshot { meta: meta.clone(), data: snapshot.into_inner() };
        let view = received
            .view()
            .map_err(|error| StorageIoError::read_snapshot(Some(meta.signature()), AnyError::error(error)))?;
        self.keep(received).await?;
        let mut present = self.view.lock();
        *present = view;
        self.publish(&present.state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        Ok(self.snapshot.lock().await.as_ref().map(StoredSnapshot::to_send))
    }
}
