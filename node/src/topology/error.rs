//! What can go wrong with the topology log, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::id::NodeId;

/// The topology log cannot be opened or founded.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The file system refused.
    #[error("cannot {doing} '{}': {source}; nothing was lost, mend the cause and start the node again", path.display())]
    Io {
        /// What was attempted: "write", "open".
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file's bytes are not those that were written.
    #[error(
        "'{}' is damaged at byte {offset}: {what}. This node's part of the topology log cannot be trusted; \
         restore the file from a backup, or, if other members are well, move the data directory away and \
         start with an empty one: the node joins anew and its copies are rebuilt from the others",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where the damage begins, in bytes.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A file of another format version.
    #[error("'{}' has format {found}, this build reads {expected}: start a build that reads it", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// What this build reads.
        expected: u32,
    },
    /// Another process has the directory open.
    #[error("'{}' is used by another process: stop it, or give this node its own data directory", path.display())]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// The settings contradict each other.
    #[error("the topology settings are refused: {0}")]
    Config(String),
    /// The node already belongs to a cluster.
    #[error("this node already belongs to a cluster; to found another, start with an empty data directory")]
    AlreadyMember,
    /// The founding did not come about; the state is as it was.
    #[error("the cluster was not founded: {0}")]
    NotFounded(String),
    /// The consensus engine stopped.
    #[error("the topology log has stopped: {0}; the data is unharmed, restart the node")]
    Stopped(String),
}

impl TopologyError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }

    pub(super) fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), offset, what: what.into() }
    }
}

/// A proposal did not get its answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node is not the coordinator; nothing was proposed.
    #[error("this node is not the coordinator (known here: {}); nothing was changed", known(.0))]
    NotCoordinator(Option<NodeId>),
    /// Nothing was proposed, for this reason.
    #[error("the proposal was refused: {0}; nothing was changed")]
    Refused(String),
    /// The proposal may still be committed, now or later: look at the state before trying again.
    #[error("the outcome of the proposal is unknown: {0}; it may still be committed")]
    Unknown(String),
    /// The topology log has stopped on this node; nothing was proposed.
    #[error("the topology log has stopped on this node; nothing was changed, restart the node")]
    Stopped,
}

fn known(node: &Option<NodeId>) -> String {
    node.as_ref().map_or_else(|| "none".to_owned(), NodeId::to_string)
}
