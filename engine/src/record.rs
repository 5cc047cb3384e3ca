//! Records, the versions that order them, and the entries that name them.

use bytes::Bytes;

use crate::format;

/// Version of a record. Of all records of a key, the one with the highest version counts.
pub type Version = u64;

/// One record of a data file: a version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key, at most 65,535 bytes; may be empty.
    pub key: Bytes,
    /// The version. Of all records of a key, the one with the highest version counts.
    pub version: Version,
    /// Time at which the key expires, in milliseconds since 1970; 0: never. An [`Engine`](crate::Engine)
    /// treats an expired key as absent; a [`replicated::Store`](crate::replicated::Store) judges no time.
    pub expiry_ms: u64,
    /// Flags of the owner; the engine stores them unchanged.
    pub user_flags: u32,
    /// The value. `None` is a tombstone: the key was deleted.
    pub value: Option<Bytes>,
}

impl Record {
    /// Returns the size of the record in a data file, in bytes, as [`PartitionStats::live_bytes`] counts it.
    ///
    /// [`PartitionStats::live_bytes`]: crate::stats::PartitionStats::live_bytes
    pub fn stored_bytes(&self) -> u64 {
        (format::RECORD_HEADER_LEN + self.key.len() + self.value.as_ref().map_or(0, Bytes::len)) as u64
    }

    /// Returns whether the record has a value that has not expired at this time, in milliseconds since 1970.
    pub(crate) fn is_present(&self, now_ms: u64) -> bool {
        self.value.is_some() && (self.expiry_ms == 0 || self.expiry_ms > now_ms)
    }
}

/// The newest record of one key in a partition, without key and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InventoryEntry {
    /// Hash of the key: its place in the partition, equal on every node.
    pub position: u64,
    /// Version of the newest record.
    pub version: Version,
    /// Whether the newest record is a tombstone.
    pub tombstone: bool,
}
