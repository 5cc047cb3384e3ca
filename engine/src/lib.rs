//! Caskade's storage engine: a Bitcask (Sheehy and Smith, "Bitcask: A Log-Structured Hash Table for Fast
//! Key/Value Data", 2010). One log of records on disk, and in memory for each key where its newest record is.
//!
//! A store is **a map that keeps, for each key, the record with the highest version**. Records may be
//! applied in any order and any number of times: the map is the same. So recovery, migration and repair
//! are all the same operation. Versions come from the owner (in a cluster: `term << 40 | sequence`), who also
//! judges expiry and drives [`Engine::append`] and [`Engine::publish`]; or, in a program that embeds the store,
//! from a counter, with [`Engine::get`], [`Engine::put`], [`Engine::delete`], [`Engine::write`] and
//! [`Engine::put_if_version`].
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
//! What holds, always:
//! - an append that was reported done under [`SyncPolicy::Always`] survives any crash;
//! - a record whose checksum or key does not match is never handed out;
//! - several records appended together are found together after a crash, or not at all;
//! - memory per key is some 29 bytes, whatever the key's length; keys are not held in memory, unless an ordered index
//!   is asked for ([`Index`]);
//! - one engine at a time has a directory.
//!
//! The engine knows nothing of networks, clusters or async runtimes; every call is synchronous.
//!
//! Module by module: `format` is the byte layout; `directory` the files' names, ids and lock; `data_file` reads;
//! `log` appends and commits; `keydir` (of `table`s, with `length` codes, `file_figures` and `ordered` keys) finds;
//! `scan` reads in key order; `recovery` opens; `scrub` finds damage while the store is open, `conflict` what contradicts
//! it; `inspect` looks at a store that is not open; `slot` hashes keys to partitions; `embedded` is the interface of a
//! program that embeds the store.

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
mod tender;

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
    InspectOptions, Inspection, RecordFigures, dump, dump_on, inspect, inspect_on,
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

/// Orders the records of one key: the highest counts.
pub type Version = u64;

/// Counts how often a partition was dropped.
pub(crate) type Era = u32;

/// How many partitions there are.
pub const PARTITIONS: u16 = 1024;

/// How many slots there are; 16 consecutive ones make a partition.
pub const SLOTS: u16 = 16_384;

/// A multiple of this is where a page of keys ends: [`KeysPage::next`]. The place of a page in its partition is a number of
/// 43 bits, which leaves 10 bits for the partition in an integer that is exact in a double. Keys nearer than this to each
/// other are in one page.
pub const POSITION_STEP: u64 = 1 << 21;

/// One entry of a data file: what is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// At most 65,535 bytes; may be empty.
    pub key: Bytes,
    /// Of all records of the key, that of the highest version counts.
    pub version: Version,
    /// When the key ceases to exist, in milliseconds since 1970; 0 is never. Kept, not judged.
    pub expiry_ms: u64,
    /// The owner's; kept as they are.
    pub user_flags: u32,
    /// The value; `None` is a tombstone: the key was deleted.
    pub value: Option<Bytes>,
}

impl Record {
    /// Bytes it has in a data file, as [`PartitionStats::live_bytes`] counts them.
    pub fn stored_bytes(&self) -> u64 {
        (format::RECORD_HEADER_LEN + self.key.len() + self.value.as_ref().map_or(0, bytes::Bytes::len)) as u64
    }
}

/// Figures of one partition, kept up to date by every publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionStats {
    /// Keys whose newest record is a value, expired or not.
    pub live_keys: u64,
    /// Those of them whose record has an expiry, past or not.
    pub expiring_keys: u64,
    /// Keys whose newest record is a tombstone.
    pub tombstones: u64,
    /// Bytes of the live keys' records, headers and keys included.
    pub live_bytes: u64,
    /// The highest version published here since the partition was last dropped.
    pub highest_version: Version,
    /// Sum of a hash of position and version of each live key: equal where the live keys and versions are.
    pub digest: u64,
}

/// What a partition has of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InventoryEntry {
    /// Hash of the key: its place in the partition, equal on every node.
    pub position: u64,
    /// Version of the newest record.
    pub version: Version,
    /// Whether that is a tombstone.
    pub tombstone: bool,
}

/// A live key, without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// The key.
    pub key: Bytes,
    /// When it ceases to exist, in milliseconds since 1970; 0 is never.
    pub expiry_ms: u64,
    /// Version of its record.
    pub version: Version,
}

/// Some keys of a partition, in the order of their positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysPage {
    /// The keys: every live one from the position asked for up to `next`.
    pub keys: Vec<KeyInfo>,
    /// Where the next page begins, a multiple of [`POSITION_STEP`]; `None` after the last one.
    pub next: Option<u64>,
}
