//! A file system in memory that loses what was not synced.

/// To be written.
#[derive(Debug)]
pub struct FaultyFileSystem;
