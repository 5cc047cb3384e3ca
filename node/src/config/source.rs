//! Where a value came from, and what is wrong with it.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Nobody gave one.
    #[default]
    Default,
    /// A key of the settings file.
    File {
        /// The file.
        path: PathBuf,
        /// Line of the key, from 1.
        line: usize,
        /// The key.
        key: String,
    },
    /// An environment variable, by name.
    Variable(String),
    /// A flag of the command line, with its dashes.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, key } => write!(f, "{}:{line} {key}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One thing that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} (from {source_of})")]
pub struct Problem {
    /// What is wrong, what is allowed, and what to do.
    pub what: String,
    /// Where the offending value came from.
    pub source_of: Source,
}

impl Problem {
    pub(super) fn new(source_of: &Source, what: impl Into<String>) -> Self {
        Self { what: what.into(), source_of: source_of.clone() }
    }
}
