//! Caskade's storage engine: a Bitcask (Sheehy and Smith, "Bitcask: A Log-Structured Hash Table for Fast
//! Key/Value Data", 2010). It keeps one log of records on disk. An index in memory locates the newest record
//! of each key.
//!
//! A store is **a map that keeps, for each key, the record with the highest version**. Applying records in
//! any order, any number of times, yields the same map. So recovery, migration and repair are the same
//! operation.
//!
//! A store has two doors. A program that embeds it opens an [`Engine`], which draws versions from a counter
//! and judges expiry: [`Engine::get`], [`Engine::put`], [`Engine::delete`], [`Engine::write`] and
//! [`Engine::put_if_version`]. In a cluster the owner opens a [`replicated::Store`]: it assigns the versions
//! (`term << 40 | sequence`), judges expiry, appends and publishes. The files are the same: a closed store
//! may be opened through the other door.
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
//!   themselves only if an ordered index was requested ([`options::Index`]);
//! - at most one engine has a directory open.
//!
//! The engine has no network, cluster or async runtime code; every call is synchronous.
//!
//! The root has the names that a program which embeds the store needs. The rest is behind it:
//! [`replicated`] has the operations of an owner that replicates the store; [`options`], [`slots`], [`scan`],
//! [`snapshot`], [`inspect`], [`task`], [`stats`] and [`error`] have the types of their subjects, and
//! [`testing`] the file systems on which a store can be opened.
//!
//! Private modules: `format` defines the byte layout; `directory` manages file names, ids and the lock;
//! `data_file` reads records; `log` appends and commits; `keydir` is the index (built of `table`s, with
//! `length` codes, `file_figures` and `ordered` keys); `recovery` opens a store; `scrub` finds damage while
//! the store is open; `conflict` finds records that contradict it; `embedded` is the interface for a program
//! that embeds the store.

mod background;
mod budget;
mod clock;
mod conflict;
mod core;
mod data_file;
mod directory;
mod embedded;
mod engine;
pub mod error;
mod failure;
mod file_figures;
mod file_scan;
mod file_system;
mod format;
#[cfg(any(test, feature = "internals"))]
#[doc(hidden)]
pub mod fuzz;
mod hint_file;
pub mod inspect;
mod iter;
mod keydir;
mod length;
mod log;
mod merge;
mod metadata;
#[cfg(all(feature = "mutations", debug_assertions))]
pub mod mutation;
#[cfg(not(all(feature = "mutations", debug_assertions)))]
mod mutation;
mod open;
pub mod options;
mod ordered;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod parts;
mod progress;
mod record;
mod recovery;
pub mod replicated;
mod reserve;
pub mod scan;
mod scrub;
pub mod slots;
pub mod snapshot;
pub mod stats;
mod stripes;
mod table;
pub mod task;
pub mod testing;

pub use crate::embedded::{Batch, Conditional};
pub use crate::engine::Engine;
pub use crate::error::{AppendError, OpenError, ReadError, StoreError};
pub use crate::iter::Iter;
pub use crate::options::{Options, SyncPolicy};
pub use crate::record::{Record, Version};
pub use crate::recovery::Recovery;
pub use crate::snapshot::{Snapshot, restore};
