//! The two clocks of this machine, and which boot they are of. Nodes read them through [`Host`](crate::host::Host).

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds of a clock that never goes back and counts suspended time (rule R9): `Instant` does not.
pub fn monotonic_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    (now.tv_sec as u64) * 1000 + (now.tv_nsec as u64) / 1_000_000
}

/// Milliseconds since 1970.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Names the time since this machine was switched on: the kernel draws it anew at every boot. 0 where it tells none.
pub fn boot() -> u64 {
    let Ok(id) = std::fs::read("/proc/sys/kernel/random/boot_id") else { return 0 };
    // The monotonic clock of a time namespace of its own is another one.
    let offsets = std::fs::read("/proc/self/timens_offsets").unwrap_or_default();
    xxhash_rust::xxh3::xxh3_64(&[id, offsets].concat())
}
