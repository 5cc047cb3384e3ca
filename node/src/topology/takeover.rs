//! Founds a new topology log beside the present one from this node's state: the first half of a takeover.
//!
//! The node builds the log completely under another name, with its first entry committed and in a snapshot,
//! and then renames it to [`NEXT_FOLDER`]. From that moment the next start of the node uses it, and sets the
//! present log aside. After an earlier crash the present log stays in use, unchanged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::types::Metrics;
use super::{RaftTransport, Topology, TopologyConfig, TopologyError, files};
use crate::cluster::state::Change;
use crate::id::NodeId;

/// Folder of the log that the node's next start uses, beside the folder of the present one.
pub const NEXT_FOLDER: &str = "topology.next";
/// Folder of that log while it is being built.
const UNFINISHED_FOLDER: &str = "topology.unfinished";
/// Time limit of the first snapshot.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);

/// A transport that reaches no node: the new log has one voter.
struct Nobody;

impl RaftTransport for Nobody {
    fn call(&self, to: NodeId, _body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async move { Err(format!("{to} is not a member of the log that is being founded")) })
    }
}

impl Topology {
    /// Builds the log that this node's next start uses, with `change` as its first entry.
    ///
    /// # Errors
    /// [`TopologyError`]; the present log stays in use.
    pub async fn found_next(&self, change: Change) -> Result<(), TopologyError> {
        let config = &self.inner.config;
        let beside = |name: &str| config.dir.with_file_name(name);
        let (unfinished, next) = (beside(UNFINISHED_FOLDER), beside(NEXT_FOLDER));
        remove_if_there(&unfinished)?;
        let log = Self::open(TopologyConfig { dir: unfinished.clone(), ..config.clone() }, Arc::new(Nobody))
            .await?;
        let founded = match log.found(change, Vec::new()).await {
            Ok(()) => log.snapshot().await,
            Err(error) => Err(error),
        };
        log.shutdown().await;
        founded?;
        std::fs::rename(&unfinished, &next)
            .and_then(|()| files::sync_directory_of(&next))
            .map_err(|error| TopologyError::io("rename", &unfinished, error))
    }

    /// Builds a snapshot of all applied entries, and waits for it.
    async fn snapshot(&self) -> Result<(), TopologyError> {
        let raft = &self.inner.raft;
        let not = |error: &dyn std::fmt::Display| TopologyError::NotFounded(error.to_string());
        raft.trigger().snapshot().await.map_err(|error| not(&error))?;
        let there = |metrics: &Metrics| metrics.snapshot.is_some();
        let made = raft.wait(Some(SNAPSHOT_TIMEOUT)).metrics(there, "the first snapshot").await;
        made.map(drop).map_err(|error| not(&error))
    }
}

fn remove_if_there(path: &PathBuf) -> Result<(), TopologyError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(TopologyError::io("remove", Path::new(path), error))
        }
        _ => Ok(()),
    }
}
