//! The memcached front end: the text protocol with its meta commands, pipelined, on the keyspace Redis clients use.
//!
//! [`server`] is what its connections share, `connection` runs one of them, `parser` cuts bytes into requests (`text` and `meta`
//! know the command lines, `words` their words), `reply` turns outcomes into replies, `stats` answers the command of that
//! name. The specification is memcached's `protocol.txt` and, where that is silent, what memcached 1.6.18 does.
//!
//! Invariants: replies come in the order of their commands; a command sees what the commands before it on its connection
//! did; nothing that is read, kept or written is without a bound; what failed is told as an error, never as a miss.
//!
//! What a cache can do and a store cannot, or has no room for in its records, is refused with a `CLIENT_ERROR` that says so:
//! stale marks and win tokens, the time of the last access. The version of a record is its cas value: other than in
//! memcached it changes also when only the expiry does.

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

/// What `version` answers: the memcached whose protocol is spoken, and what speaks it.
const VERSION: &str = concat!("1.6.18-caskade-", env!("CARGO_PKG_VERSION"));
/// Longest key on a command line, bytes.
const KEY_BYTES_MAX: usize = 250;
