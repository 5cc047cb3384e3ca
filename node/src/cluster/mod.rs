//! What is decided, apart from how it is done: pure functions and state machines, no I/O, no clock.

pub mod events;
pub mod lease;
pub mod report;
pub mod ring;
pub mod state;
