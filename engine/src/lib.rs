//! Caskade's storage engine: a Bitcask (Sheehy and Smith, "Bitcask: A Log-Structured Hash Table for Fast
//! Key/Value Data", 2010). It keeps one log of records on disk. An index in memory locates the newest record
//! of each key.
//!
//! A store is **a map that keeps, for each key, the record with the highest version**. Applying records in
//! any order, any number of times, yields the same map. So recovery, migration and repair are the same
//! operation.
//!
//! Two kinds of program use a store. In a cluster the owner assigns the versions (`term << 40 | sequence`),
//! judges expiry and drives [`Engine::append`] and [`Engine::publish`]. A program that embeds the store takes
//! versions from a counter, through [`Engine::get`], [`Engine::put`], [`Engine::delete`], [`Engine::write`]
//! and [`Engine::put_if_version`].
//!
//! ```
//! # let directory = tempfile::tempdir()?;
//! use caskade_engine::{Engine, Options};
//!
//! let (engine, recovery) = Engine::open(Options::new(directory.path()))?;
//! assert!(!recovery.is_damaged());
//! engine.put(b"greeting", b"hello")?;
//! assert_eq!(engine.get(b"greeting")?.as_deref(), Some(&b"hello"[..]));
//! engine.delete(b"greeting")?;
//! assert!(!engine.contains(b"greeting")?);
//! engine.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Guarantees:
//! - an append that was acknowledged under [`SyncPolicy::Always`] survives any crash;
//! - the engine never returns a record whose checksum or key does not match;
//! - after a crash either all records of one append are present, or none;
//! - the index takes about 29 bytes of memory per key, whatever the key's length; it holds the keys
//!   themselves only if an ordered index was requested ([`Index`]);
//! - at most one engine has a directory open.
//!
//! The engine has no network, cluster or async runtime code; every call is synchronous.
//!
//! Modules: `format` defines the byte layout; `directory` manages file names, ids and the lock; `data_file`
//! reads records; `log` appends and commits; `keydir` is the index (built of `table`s, with `length` codes,
//! `file_figures` and `ordered` keys); `scan` reads in key order; `recovery` opens a store; `scrub` finds
//! damage while the store is open; `conflict` finds records that contradict it; `inspect` examines a store
//! that is not open; `slot` hashes keys to partitions; `embedded` is the interface for a program that embeds
//! the store.

mod background;
mod budget;
mod conflict;
mod data_file;
mod directory;
mod embedded;
mod engine;
mod error;
mod failure;
mod file_figures;
mod file_scan;
mod file_system;
mod format;
#[cfg(any(test, feature = "internals"))]
#[doc(hidden)]
pub mod fuzz;
mod hint_file;
mod inspect;
mod kept;
mod keydir;
mod length;
mod log;
mod merge;
#[cfg(all(feature = "mutations", debug_assertions))]
pub mod mutation;
#[cfg(not(all(feature = "mutations", debug_assertions)))]
mod mutation;
mod options;
mod ordered;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod parts;
mod progress;
mod recovery;
mod reserve;
mod scan;
mod scrub;
mod slot;
mod snapshot;
mod table;
mod task;

use bytes::Bytes;

pub use crate::budget::Budget;
pub use crate::conflict::Conflict;
pub use crate::embedded::{Batch, Conditional, Iter};
pub use crate::engine::{Engine, EngineStats};
pub use crate::error::{
    AppendError, IoError, MergeError, OpenError, ReadError, ScanError, SnapshotError, StoreError,
};
pub use crate::failure::OnFailure;
pub use crate::file_system::{
    Fault, FaultyFileSystem, FileCall, FileHandle, FileSystem, MAPPING_STEP, Mapping, Moment, OpenMode,
    RealFileSystem, Space, WritableMapping,
};
pub use crate::inspect::{
    Damage, DamagedKey, DataFileKind, Dumped, DumpedRecord, FileInspection, HintState, InspectError,
    InspectOptions, Inspection, RecordStats, dump, dump_on, inspect, inspect_on,
};
pub use crate::log::{Appended, TakenGroup};
pub use crate::merge::Merged;
pub use crate::options::{BadIndex, BadMergeWindow, BadSyncPolicy, Index, MergeWindow, Options, SyncPolicy};
pub use crate::progress::Progress;
pub use crate::recovery::{Quarantined, Recovery};
pub use crate::scan::{RangePage, Scan, after_prefix};
pub use crate::scrub::{DamagedStretch, Scrubbed};
pub use crate::slot::{partition_of, partition_of_prefix, slot_of};
pub use crate::snapshot::{Snapshot, restore, restore_on, restore_watched};
pub use crate::task::{TaskKind, TaskState, TaskStatus};

/// A partition's number, `0..1024`.
pub type Partition = u16;

/// Version of a record. Of all records of a key, the one with the highest version counts.
pub type Version = u64;

/// Number of times that a partition was dropped.
pub(crate) type Era = u32;

/// Number of partitions.
pub const PARTITIONS: u16 = 1024;

/// Number of slots; 16 consecutive slots make a partition.
pub const SLOTS: u16 = 16_384;

/// Granularity of page boundaries in a partition: [`KeysPage::next`] is a multiple of it, so all keys between
/// two multiples are in the same page. A page number within its partition takes 43 bits. This leaves 10 bits
/// for the partition in an integer that a double represents exactly.
pub const POSITION_STEP: u64 = 1 << 21;

/// One record of a data file: a version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key, at most 65,535 bytes; may be empty.
    pub key: Bytes,
    /// The version. Of all records of a key, the one with the highest version counts.
    pub version: Version,
    /// Time at which the key expires, in milliseconds since 1970; 0: never. The engine stores it without
    /// judging it, except in stores that are not [`Options::replicated`].
    pub expiry_ms: u64,
    /// Flags of the owner; the engine stores them unchanged.
    pub user_flags: u32,
    /// The value. `None` is a tombstone: the key was deleted.
    pub value: Option<Bytes>,
}

impl Record {
    /// Returns the size of the record in a data file, in bytes, as [`PartitionStats::live_bytes`] counts it.
    pub fn stored_bytes(&self) -> u64 {
        (format::RECORD_HEADER_LEN + self.key.len() + self.value.as_ref().map_or(0, bytes::Bytes::len)) as u64
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

/// A live key, without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// The key.
    pub key: Bytes,
    /// Time at which the key expires, in milliseconds since 1970; 0: never.
    pub expiry_ms: u64,
    /// Version of the key's record.
    pub version: Version,
}

/// A page of a partition's keys, in the order of their positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysPage {
    /// The keys: every live one from the requested position up to `next`.
    pub keys: Vec<KeyInfo>,
    /// Position at which the next page begins, a multiple of [`POSITION_STEP`]; `None` after the last page.
    pub next: Option<u64>,
}
