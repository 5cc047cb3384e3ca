//! The memcached front end: the text protocol with meta commands, pipelined, on the keyspace of the Redis
//! clients.
//!
//! `connection` runs one client, `parser` cuts bytes into requests (`text` and `meta`: command lines,
//! `words`: their words), `reply` encodes outcomes. Specification: memcached's `protocol.txt`, else memcached
//! 1.6.18.
//!
//! Invariants: replies are in the order of their commands; a command sees the effects of the commands before
//! it on its connection; every buffer is bounded; a failure is reported as an error, never as a miss.
//!
//! Rejects, with a `CLIENT_ERROR`, stale marks, win tokens and the time of the last access: records have no
//! room for them. The cas value is the record's version; unlike in memcached, a new expiry alone changes it.

mod connection;
#[cfg(any(test, feature = "internals"))]
pub(crate) mod fuzz;
mod gate;
mod meta;
mod parser;
mod reply;
mod request;
pub mod server;
mod stats;
#[cfg(test)]
mod tests;
mod text;
mod words;

pub use server::Server;

/// Reply to `version`: the memcached release whose protocol this is, and Caskade's version.
const VERSION: &str = concat!("1.6.18-caskade-", env!("CARGO_PKG_VERSION"));
/// Longest key on a command line, bytes.
const KEY_BYTES_MAX: usize = 250;
