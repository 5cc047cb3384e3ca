//! Ownership of the store, and the check whether it may be used (rule R4): an emptied or foreign store is
//! rejected before it can decide anything. A partly damaged store is used, and its node announces the damage:
//! see [`crate::data`].
//!
//! `store/owner` names the node and the cluster to which the store belongs. The node writes it before it
//! learns anything of its cluster: a member without the file has lost its store. A store with records but
//! without the file, or with another name in it, was put there by an operator. A store without records
//! belongs to no node.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use caskade_engine::{Options, SyncPolicy, replicated};

use crate::cluster::state::StoreCondition;
use crate::config::Settings;
use crate::data::DamageFound;
use crate::id::{ClusterId, NodeId};
use crate::identity::{IdentityError, replace_file};

const OWNER_FILE: &str = "owner";
const DATA_SUFFIX: &str = ".data";
/// First line of the owner file: its kind, and the version of its format.
const OWNER_FORMAT: &str = "caskade store 1";
/// Upper bound of the length of an owner file.
const OWNER_BYTES_MAX: usize = 1024;

/// Reason why a store may not be used. None of these errors changed it.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The node is a member, but its store is missing.
    #[error(
        "the store of this node is gone: {} {what}, although {}. This node does not start: it would treat every \
         key it had as deleted. {}",
        store.display(), because, WayOut(data_dir)
    )]
    Vanished { store: PathBuf, what: &'static str, because: String, data_dir: PathBuf },
    /// The store belongs to another node.
    #[error(
        "the store in {} belongs to {owner}, but this is node {node} of cluster {cluster}: the node would use \
         its records as those of this cluster. Give --data-dir the whole directory that the store is from, or \
         start with an empty one",
        store.display()
    )]
    Foreign { store: PathBuf, owner: String, node: NodeId, cluster: ClusterId },
    /// The store belongs to this node, but its topology log is missing.
    #[error(
        "the store in {} has this node's records of cluster {cluster}, but the topology log beside it is gone, \
         and with it the decisions that this node had agreed to. {}",
        store.display(), WayOut(data_dir)
    )]
    TopologyGone { store: PathBuf, cluster: ClusterId, data_dir: PathBuf },
    /// The file system returned an error.
    #[error("cannot read {}: {source}; check that this user may read it", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The owner file could not be written.
    #[error(transparent)]
    Write(#[from] IdentityError),
}

/// The remedy for a data directory that must not be used in its present condition.
struct WayOut<'a>(&'a Path);

impl fmt::Display for WayOut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "If the other copies are available (`caskctl status` at another node), move {} away and start with \
             an empty --data-dir: the node joins as a new one and receives its share. If it had the last copy \
             of any key, restore the whole directory from a backup instead",
            self.0.display()
        )
    }
}

/// History of the store's node when it finds its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// The node has a committed state of this cluster: it is, or was about to be, a member.
    Member,
    /// The node has a topology log without a committed state.
    Log,
    /// The node has neither.
    None,
}

/// An open store whose owner is not checked yet.
pub(super) struct Store {
    dir: PathBuf,
    data_dir: PathBuf,
    node: NodeId,
    holds_records: bool,
}

/// Returns the condition of the store that a node announces.
pub(super) fn condition(settings: &Settings, damaged: bool) -> StoreCondition {
    match settings.sync {
        _ if damaged => StoreCondition::Damaged,
        SyncPolicy::Always => StoreCondition::Whole,
        _ => StoreCondition::Unsynced,
    }
}

/// Opens the store, unless all its files are missing; returns its damage.
pub(super) fn open(
    options: Options,
    data_dir: &Path,
) -> anyhow::Result<(replicated::Store, Option<DamageFound>)> {
    let dir = options.path.clone();
    if read_owner(&dir)?.is_some() && !has_data_files(&dir)? {
        let (what, because) = ("has no data files", format!("its file `{OWNER_FILE}` exists"));
        return Err(vanished(&dir, data_dir, what, because).into());
    }
    let (engine, recovery) = replicated::Store::open(options)?;
    tracing::info!(
        files = recovery.files,
        records = recovery.records,
        live_keys = recovery.live_keys,
        cut_bytes = recovery.cut_bytes,
        "opened the store"
    );
    let damage = DamageFound::of(&recovery);
    if let Some(DamageFound { message: damage, .. }) = &damage {
        tracing::error!(damage, "the store is damaged: other copies, if they exist, decide about its keys");
    }
    Ok((engine, damage))
}

fn vanished(store: &Path, data_dir: &Path, what: &'static str, because: String) -> StoreError {
    StoreError::Vanished { store: store.to_owned(), what, because, data_dir: data_dir.to_owned() }
}

impl Store {
    /// Creates the store of `node`, which [`open`] has opened.
    pub(super) fn new(options: &Options, data_dir: &Path, node: NodeId, engine: &replicated::Store) -> Self {
        Self {
            dir: options.path.clone(),
            data_dir: data_dir.to_owned(),
            node,
            holds_records: engine.stats().records_total > 0,
        }
    }

    /// Checks that the store belongs to this node in this cluster; a store without records becomes its own.
    /// Must be called before the node learns anything of the cluster.
    ///
    /// # Errors
    /// [`StoreError`]: the store is missing or belongs to another node.
    pub(super) fn claim(&self, cluster: ClusterId, past: Past) -> Result<(), StoreError> {
        let wanted = owner_text(self.node, cluster);
        let found = read_owner(&self.dir)?;
        match found {
            Some(owner) if owner == wanted => {
                if past == Past::None && self.holds_records {
                    return Err(StoreError::TopologyGone {
                        store: self.dir.clone(),
                        cluster,
                        data_dir: self.data_dir.clone(),
                    });
                }
                Ok(())
            }
            None if past == Past::Member => {
                let because = format!("this node is a member of cluster {cluster}");
                let what = "has no file `owner`";
                Err(vanished(&self.dir, &self.data_dir, what, because))
            }
            Some(owner) if past == Past::Member || self.holds_records => Err(self.foreign(&owner, cluster)),
            None if self.holds_records => Err(self.foreign("", cluster)),
            _ => Ok(replace_file(&self.dir.join(OWNER_FILE), wanted.as_bytes())?),
        }
    }

    fn foreign(&self, owner: &str, cluster: ClusterId) -> StoreError {
        let mut lines = owner.lines();
        let owner = match (lines.next(), lines.next(), lines.next()) {
            (Some(OWNER_FORMAT), Some(node), Some(cluster)) => format!("{node} of {cluster}"),
            (None, ..) => format!("no node: it has records, but no file `{OWNER_FILE}`"),
            _ => format!("an unknown node: its file `{OWNER_FILE}` is damaged or of another version"),
        };
        StoreError::Foreign { store: self.dir.clone(), owner, node: self.node, cluster }
    }
}

fn owner_text(node: NodeId, cluster: ClusterId) -> String {
    format!("{OWNER_FORMAT}\nnode {node}\ncluster {cluster}\n")
}

/// Returns the contents of the owner file, if it exists.
fn read_owner(dir: &Path) -> Result<Option<String>, StoreError> {
    let path = dir.join(OWNER_FILE);
    match fs::read(&path) {
        Ok(mut bytes) => {
            bytes.truncate(OWNER_BYTES_MAX);
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Io { path, source }),
    }
}

fn has_data_files(dir: &Path) -> Result<bool, StoreError> {
    let failed = |source| StoreError::Io { path: dir.to_owned(), source };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name.to_string_lossy().ends_with(DATA_SUFFIX) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::from_bytes([1; 32]);
    const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);
    const OTHER: ClusterId = ClusterId::from_bytes([8; 16]);

    fn store(dir: &Path, node: NodeId, holds_records: bool) -> Store {
        Store { dir: dir.to_owned(), data_dir: dir.to_owned(), node, holds_records }
    }

    #[test]
    fn store_without_records_becomes_its_node_s_and_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path(), NODE, false).claim(CLUSTER, Past::None).unwrap();
        store(dir.path(), NODE, true).claim(CLUSTER, Past::Member).unwrap();
        store(dir.path(), NODE, true).claim(CLUSTER, Past::Log).unwrap();
        // A founding or joining that failed leaves no claim.
        let empty = tempfile::tempdir().unwrap();
        store(empty.path(), NODE, false).claim(CLUSTER, Past::None).unwrap();
        store(empty.path(), NODE, false).claim(OTHER, Past::Log).unwrap();
        store(empty.path(), NODE, true).claim(OTHER, Past::Member).unwrap();
    }

    #[test]
    fn member_whose_store_vanished_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let error = store(dir.path(), NODE, false).claim(CLUSTER, Past::Member);
        let said = error.unwrap_err().to_string();
        assert!(said.contains("is gone") && said.contains("empty --data-dir"), "{said}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was written");
    }

    #[test]
    fn records_of_another_node_or_cluster_or_of_no_node_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let unowned = store(dir.path(), NODE, true).claim(CLUSTER, Past::None);
        assert!(unowned.unwrap_err().to_string().contains("belongs to no node"));
        store(dir.path(), NODE, false).claim(CLUSTER, Past::None).unwrap();
        let other_node = NodeId::from_bytes([2; 32]);
        for (node, cluster) in [(other_node, CLUSTER), (NODE, OTHER)] {
            for past in [Past::None, Past::Log, Past::Member] {
                let said = store(dir.path(), node, true).claim(cluster, past).unwrap_err().to_string();
                assert!(said.contains(&format!("belongs to node {NODE} of cluster {CLUSTER}")), "{said}");
            }
        }
        let said = store(dir.path(), NODE, true).claim(CLUSTER, Past::None).unwrap_err().to_string();
        assert!(said.contains("topology log beside it is gone"), "{said}");
    }
}
