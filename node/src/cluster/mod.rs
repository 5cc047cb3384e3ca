//! What is decided, apart from how it is done: pure functions and state machines, no I/O, no clock.

mod apply;
pub mod events;
#[cfg(test)]
mod fixture;
pub mod lease;
mod query;
pub mod report;
pub mod ring;
pub mod state;
pub mod view;
mod words;
