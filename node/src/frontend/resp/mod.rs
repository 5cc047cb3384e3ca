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
mod written;

pub use self::protocol::serve;

/// Returns the wall clock in milliseconds since 1970, for texts that operators read. Expiries do not use it:
/// the primary compares them with cluster time.
fn now_ms() -> u64 {
    crate::clock::wall_ms()
}
