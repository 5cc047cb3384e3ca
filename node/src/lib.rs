//! The Caskade node: everything `caskd` is made of, and the types its clients share.
//!
//! Folder by folder: [`cluster`] decides (pure: no I/O, no clock), [`topology`] agrees (consensus log),
//! [`net`] talks to peers, [`data`] keeps and copies records, [`kv`] says what a command does to a key,
//! [`frontend`] talks to clients, [`access`] says which of them may do what. [`api`] is what `caskctl` and `casktop` read.

pub mod access;
pub mod api;
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
mod reserve;
pub mod runtime;
pub mod supervise;
pub mod topology;
