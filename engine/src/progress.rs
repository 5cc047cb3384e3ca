//! Progress of a long call, readable from another thread.

use std::sync::atomic::{AtomicU64, Ordering};

/// Progress of a long call.
#[derive(Debug, Default)]
pub struct Progress {
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
}

impl Progress {
    /// Returns the number of bytes that are done.
    pub fn bytes_done(&self) -> u64 {
        self.bytes_done.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes to do, as far as known; it may grow.
    pub fn bytes_total(&self) -> u64 {
        self.bytes_total.load(Ordering::Relaxed)
    }

    /// Adds bytes to the total.
    pub(crate) fn expect(&self, bytes: u64) {
        self.bytes_total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds bytes to those that are done.
    pub(crate) fn advance(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }
}
