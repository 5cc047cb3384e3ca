//! The Caskade node: all parts of `caskd`.
//!
//! Pure folders, without I/O or clock: [`cluster`] applies changes to the committed state, [`kv`] evaluates
//! commands on one key, `partition` decides for one partition. [`topology`] runs the consensus log, [`net`]
//! connects to peers, [`data`] replicates and copies records, [`frontend`] serves clients, and [`access`]
//! checks their permissions. [`runtime`] wires the parts together, and [`program`] is `caskd`. The crate
//! [`api`] has what `caskctl` and `casktop` share with the node.

pub mod access;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod data;
pub mod disk;
pub mod frontend;
#[cfg(any(test, feature = "internals"))]
#[doc(hidden)]
pub mod fuzz;
mod glob;
pub mod host;
pub mod id;
pub mod identity;
pub mod kv;
pub mod logging;
pub mod machine;
pub mod mutation;
mod nesting;
pub mod net;
pub(crate) mod partition;
pub mod program;
mod reserve;
pub mod runtime;
pub mod supervise;
pub mod topology;

pub use caskade_api as api;
