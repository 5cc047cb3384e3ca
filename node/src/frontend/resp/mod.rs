//! The Redis front end: RESP2 and RESP3, pipelined.
//!
//! [`server`] is what its connections share, `connection` runs one of them, `parser` and `encoder` know the bytes,
//! `commands` is the table of what can be asked, `reply` turns outcomes into replies, and [`super::order`] says which
//! operations of one connection may be under way together.
//!
//! Invariants: replies come in the order of their commands; a command sees what the commands before it on its
//! connection did; nothing that is read, kept or written is without a bound.

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

/// Milliseconds since 1970, for what operators read. Expiries are compared with cluster time, by the primary.
fn now_ms() -> u64 {
    crate::clock::wall_ms()
}
