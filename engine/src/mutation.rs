//! A planted bug, which the simulator must find: in builds with the feature `mutations` only, and there not before it is
//! asked for.

#[cfg(feature = "mutations")]
static BY_AGE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// From now on merges drop every tombstone they meet, whatever older records are left.
#[cfg(feature = "mutations")]
pub fn drop_tombstones_by_age() {
    BY_AGE.store(true, std::sync::atomic::Ordering::Relaxed);
}

/// Whether merges do.
#[cfg(feature = "mutations")]
pub(crate) fn drops_tombstones_by_age() -> bool {
    BY_AGE.load(std::sync::atomic::Ordering::Relaxed)
}

/// Whether merges do: never.
#[cfg(not(feature = "mutations"))]
pub(crate) const fn drops_tombstones_by_age() -> bool {
    false
}
