//! Figures of an open store, of one of its partitions, and of its file system.

pub use crate::file_system::Space;
use crate::record::Version;

/// Figures of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Number of records in the data files, including dead ones and tombstones.
    pub records_total: u64,
    /// Number of keys with a live record.
    pub live_keys: u64,
    /// Number of keys whose newest record is a tombstone.
    pub tombstones: u64,
    /// Bytes of the data files, without preallocated space.
    pub disk_bytes: u64,
    /// Bytes of the live keys' records.
    pub live_bytes: u64,
    /// Number of data files.
    pub data_files: u64,
    /// Number of data files that are open.
    pub open_files: u64,
    /// Number of appends since the store was opened: calls of [`Store::append`], and writes of an [`Engine`].
    ///
    /// [`Store::append`]: crate::replicated::Store::append
    /// [`Engine`]: crate::Engine
    pub appends: u64,
    /// Number of syncs of data files since the store was opened.
    pub syncs: u64,
    /// Bytes of appends that wait for the disk.
    pub waiting_bytes: u64,
    /// Bytes that the reserve holds: see [`Options::reserve_bytes`](crate::Options::reserve_bytes).
    pub reserve_bytes: u64,
}

impl EngineStats {
    /// Returns the bytes of the data files for every 100 bytes of live records; 0 if no record is live.
    pub fn disk_per_live_percent(&self) -> u64 {
        self.disk_bytes.saturating_mul(100).checked_div(self.live_bytes).unwrap_or(0)
    }
}

/// Figures of one partition; every publication updates them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionStats {
    /// Number of keys whose newest record is a value, expired or not.
    pub live_keys: u64,
    /// Number of live keys whose record has an expiry, past or not.
    pub expiring_keys: u64,
    /// Number of keys whose newest record is a tombstone.
    pub tombstones: u64,
    /// Bytes of the live keys' records, including headers and keys.
    pub live_bytes: u64,
    /// Highest version published in the partition since it was last dropped.
    pub highest_version: Version,
    /// Sum of a hash of position and version of each live key: equal for equal sets of live keys and
    /// versions.
    pub digest: u64,
}
