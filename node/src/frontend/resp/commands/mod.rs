//! The commands: their table (name, arity, keys, handler), the checks before a command runs, and the
//! handlers.
//!
//! Names, arities, flags and error texts are those of Redis 7.2, which clients expect.

mod acl;
mod admit;
mod auth;
mod bits;
mod cask;
mod client;
mod client_list;
mod cluster;
mod command;
mod config;
mod context;
mod describe;
mod errors;
mod expiry;
mod info;
mod keys;
mod latency;
mod memory;
mod properties;
mod range;
mod strings;
mod subcommands;
mod table;
mod transactions;
mod values;
mod wait;

pub(super) use self::admit::handle;
pub(super) use self::command::{Command, Keys};
pub(super) use self::context::{Context, Handled, Reply};
pub(super) use self::table::TABLE;
