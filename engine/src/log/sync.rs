//! The locks of the queue of appends. Tests under a scheduler compile the queue with another module in the
//! place of this one.

pub(super) use std::thread_local;

pub(super) use parking_lot::{Condvar, Mutex};
