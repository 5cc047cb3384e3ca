//! The Redis front end: RESP2 and RESP3, pipelined.
//!
//! `protocol` is what `frontend::connection` needs of RESP to run one client, `parser` and `encoder` read and
//! write RESP, `commands` is the table of commands with their handlers, `reply` encodes outcomes.

mod client;
mod commands;
mod dump;
mod encoder;
#[cfg(any(test, feature = "internals"))]
pub(crate) mod fuzz;

mod inline;
mod lcs;
mod number;
mod operator;
mod parser;
mod protocol;
mod reply;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

use self::protocol::Resp;
use super::context::FrontEndContext;
use super::keyspace::Keyspace;
use super::protocol::ClientProtocol as _;
use super::server;
use crate::glob;

/// Serves Redis clients of `keyspace` on `listener`, with the limits and the security of `context`, until
/// `stopping` is `true` or its sender is dropped; then waits for the connections to end.
pub async fn serve(
    keyspace: Arc<dyn Keyspace>,
    context: FrontEndContext,
    listener: TcpListener,
    stopping: watch::Receiver<bool>,
) {
    server::run::<Resp>(Resp::state(keyspace, context), listener, stopping).await;
}

/// Returns the wall clock in milliseconds since 1970, for texts that operators read. Expiries do not use it:
/// the primary compares them with cluster time.
fn now_ms() -> u64 {
    crate::clock::wall_ms()
}
