//! A new topology log beside the present one, founded on what this node holds: the first half of a takeover.
//!
//! It is made whole under another name, with its first entry committed and in a snapshot, and is then renamed to
//! [`NEXT_FOLDER`]: from that moment on the next start of the node uses it, and sets the present log aside. A crash before
//! leaves the present log in use, and nothing else.

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

/// The log a node's next start uses, beside the folder of the present one.
pub const NEXT_FOLDER: &str = "topology.next";
/// The same while it is being made.
const UNFINISHED_FOLDER: &str = "topology.unfinished";
/// How long the first snapshot may take.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);

/// Reaches nobody: the new log has one voter.
struct Nobody;

impl RaftTransport for Nobody {
    fn call(&self, to: NodeId, _body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async move { Err(format!("{to} does not belong to a log that is being founded")) })
    }
}

impl Topology {
    /// Makes the log that this node's next start is to use; `change` is its first entry.
    ///
    /// # Errors
    /// The present log stays in use.
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

    /// Makes a snapshot of all that is applied, and waits for it.
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
