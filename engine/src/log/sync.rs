//! What the queue of appends locks and waits with. Its tests under a scheduler compile it with another module in the
//! place of this one.

pub(super) use std::thread_local;

pub(super) use parking_lot::{Condvar, Mutex};
