//! Sources of values, and problems with them.

use std::fmt;
use std::path::PathBuf;

/// Source of a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The default: no source gave a value.
    #[default]
    Default,
    /// A key of the settings file.
    File {
        /// Path of the file.
        path: PathBuf,
        /// Line of the key, from 1.
        line: usize,
        /// Name of the key.
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

/// One error in the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} (from {source_of})")]
pub struct Problem {
    /// Text: the error, the allowed values, and the remedy.
    pub what: String,
    /// Source of the wrong value.
    pub source_of: Source,
}

impl Problem {
    pub(super) fn new(source_of: &Source, what: impl Into<String>) -> Self {
        Self { what: what.into(), source_of: source_of.clone() }
    }
}
