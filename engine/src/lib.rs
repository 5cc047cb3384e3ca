//! Placeholder.

/// A partition's number, `0..1024`.
pub type Partition = u16;
