//! Decisions about the cluster, apart from their execution: pure functions and state machines, without I/O or
//! clock.

mod apply;
mod drain;
pub mod events;
pub mod give_up;
pub mod lease;
pub mod operations;
pub mod plan;
pub mod protocol;
mod query;
pub mod report;
pub mod ring;
#[cfg(test)]
pub(crate) mod samples;
mod stand_in;
pub mod state;
pub mod takeover;
pub mod terms;
pub mod time;
pub mod view;
mod words;
