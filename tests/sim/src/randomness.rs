//! The operating system's randomness, taken from the seed.
//!
//! Hash tables and tokio's scheduler draw their seeds from `getrandom`, so that the order of woken waiters
//! differs from run to run. This program defines the function itself: all draws are the same in every run of
//! a seed. A process simulates one seed only, since tokio also counts its draws.

use std::sync::atomic::{AtomicU64, Ordering};

static SEED: AtomicU64 = AtomicU64::new(0);

/// Makes all randomness of this process follow from the seed.
pub fn seed(seed: u64) {
    SEED.store(seed, Ordering::SeqCst);
}

/// Replaces the C library's function of this name.
///
/// # Safety
/// `buffer` points to `len` writable bytes, as the C library's callers promise.
#[expect(unsafe_code, reason = "a C function is replaced")]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, len: usize, _flags: u32) -> isize {
    let seed = SEED.load(Ordering::SeqCst).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for i in 0..len {
        // SAFETY: within the buffer, by the contract of the function.
        unsafe { buffer.add(i).write((seed >> (i % 8 * 8)) as u8 ^ i as u8) };
    }
    len as isize
}
