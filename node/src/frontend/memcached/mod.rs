//! The memcached front end: the text protocol with meta commands, pipelined, on the keyspace of the Redis
//! clients.
//!
//! `protocol` is what `frontend::connection` needs of it to run one client, `parser` cuts bytes into requests
//! (`text` and `meta`: command lines, `words`: their words), `reply` encodes outcomes. Specification:
//! memcached's `protocol.txt`, else memcached 1.6.18.
//!
//! Invariant: a failure is reported as an error, never as a miss.
//!
//! Rejects, with a `CLIENT_ERROR`, stale marks, win tokens and the time of the last access: records have no
//! room for them. The cas value is the record's version; unlike in memcached, a new expiry alone changes it.

#[cfg(any(test, feature = "internals"))]
pub(crate) mod fuzz;
mod gate;
mod meta;
mod parser;
mod protocol;
mod reply;
mod request;
mod state;
mod stats;
#[cfg(test)]
mod tests;
mod text;
mod words;

pub use self::protocol::serve;

/// Reply to `version`: the memcached release whose protocol this is, and Caskade's version.
const VERSION: &str = concat!("1.6.18-caskade-", env!("CARGO_PKG_VERSION"));
/// Longest key on a command line, bytes.
const KEY_BYTES_MAX: usize = 250;
