//! The Redis front end: RESP2 and RESP3, pipelined.
//!
//! `connection` runs one client, `parser` and `encoder` read and write RESP, `commands` is the table of
//! commands with their handlers, `reply` encodes outcomes. [`super::order`] decides which operations of one
//! connection may be in flight at the same time.
//!
//! Invariants: replies are in the order of their commands; a command sees the effects of the commands before
//! it on its connection; every buffer is bounded.

mod client;
mod commands;
mod connection;
mod dump;
mod encoder;
#[cfg(any(test, feature = "internals"))]
pub(crate) mod fuzz;

mod inline;
mod lcs;
mod number;
mod operator;
mod parser;
mod reply;
pub mod server;
#[cfg(test)]
mod tests;

use crate::glob;

pub use server::Server;

/// Returns the wall clock in milliseconds since 1970, for texts that operators read. Expiries do not use it:
/// the primary compares them with cluster time.
fn now_ms() -> u64 {
    crate::clock::wall_ms()
}
