//! The two clocks of this machine, and the id of its boot. Nodes read them through
//! [`Host`](crate::host::Host).

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns milliseconds of a clock that never runs backwards and counts suspended time (rule R9). `Instant`
/// does not count suspended time.
pub fn monotonic_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    (now.tv_sec as u64) * 1000 + (now.tv_nsec as u64) / 1_000_000
}

/// Returns the wall clock in milliseconds since 1970.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Returns an id of this boot of the machine, which the kernel draws at random at every boot. 0: the kernel
/// provides none.
pub fn boot() -> u64 {
    let Ok(id) = std::fs::read("/proc/sys/kernel/random/boot_id") else { return 0 };
    // A time namespace has a monotonic clock of its own, so its offsets are part of the id.
    let offsets = std::fs::read("/proc/self/timens_offsets").unwrap_or_default();
    xxhash_rust::xxh3::xxh3_64(&[id, offsets].concat())
}
