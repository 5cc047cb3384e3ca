//! Errors of the topology log, and their remedies.

use std::io;
use std::path::{Path, PathBuf};

use crate::id::NodeId;

/// The topology log cannot be opened or founded.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The file system returned an error.
    #[error("cannot {doing} '{}': {source}; no data was lost; fix the cause and start the node again", path.display())]
    Io {
        /// The attempted operation: "write", "open".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file's bytes are not those that were written.
    #[error(
        "'{}' is damaged at byte {offset}: {what}. This node cannot use its part of the topology log. \
         Restore the file from a backup. Or, if other members are healthy, move the data directory away and \
         start with an empty one: the node joins as a new member, and the others rebuild its copies",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Offset in bytes at which the damage begins.
        offset: u64,
        /// The damage.
        what: String,
    },
    /// A file of a build before the first release.
    #[error(
        "'{}' was written by a build before the first release, and this build cannot read it; no data was \
         changed; start the build that wrote it, or start this one with an empty data directory",
        path.display()
    )]
    Former {
        /// The file.
        path: PathBuf,
    },
    /// A file of another format version.
    #[error(
        "'{}' has format {found}, this build reads {expected}: start a build that reads format {found}",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The version of the file.
        found: u32,
        /// The version that this build reads.
        expected: u32,
    },
    /// Another process has the directory open.
    #[error("'{}' is used by another process: stop it, or give this node its own data directory", path.display())]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// The settings contradict each other.
    #[error("the topology settings are not valid: {0}")]
    Config(String),
    /// The node already belongs to a cluster.
    #[error("this node already belongs to a cluster; to found another, start with an empty data directory")]
    AlreadyMember,
    /// The founding failed; the state is unchanged.
    #[error("the cluster was not founded: {0}")]
    NotFounded(String),
    /// The consensus engine stopped.
    #[error("the topology log has stopped: {0}; no data was lost; restart the node")]
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

/// Reason why a proposal got no verdict.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node is not the coordinator; nothing was proposed.
    #[error("this node is not the coordinator (known here: {}); nothing was changed", known(.0))]
    NotCoordinator(Option<NodeId>),
    /// Nothing was proposed, for this reason.
    #[error("the proposal was refused: {0}; nothing was changed")]
    Refused(String),
    /// The proposal may still be committed, now or later: read the state before a retry.
    #[error("the outcome of the proposal is unknown: {0}; it may still be committed")]
    Unknown(String),
    /// The topology log has stopped on this node; nothing was proposed.
    #[error("the topology log has stopped on this node; nothing was changed, restart the node")]
    Stopped,
}

fn known(node: &Option<NodeId>) -> String {
    node.as_ref().map_or_else(|| "none".to_owned(), NodeId::to_string)
}
