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

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

use self::protocol::Memcached;
use super::context::FrontEndContext;
use super::keyspace::Keyspace;
use super::protocol::ClientProtocol as _;
use super::server;

/// Serves memcached clients of `keyspace` on `listener`, with the limits and the security of `context`, until
/// `stopping` is `true` or its sender is dropped; then waits for the connections to end, and cancels a
/// pending flush_all.
pub async fn serve(
    keyspace: Arc<dyn Keyspace>,
    context: FrontEndContext,
    listener: TcpListener,
    stopping: watch::Receiver<bool>,
) {
    server::run::<Memcached>(Memcached::state(keyspace, context), listener, stopping).await;
}

/// Reply to `version`: the memcached release whose protocol this is, and Caskade's version.
const VERSION: &str = concat!("1.6.18-caskade-", env!("CARGO_PKG_VERSION"));
/// Longest key on a command line, bytes.
const KEY_BYTES_MAX: usize = 250;
