//! A planted bug, which the simulator must find, and the end of a thread, for tests of its owner: in builds with the
//! feature `mutations` only, and there not before it is asked for.

#[cfg(all(feature = "mutations", debug_assertions))]
static BY_AGE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// From now on merges drop every tombstone they meet, whatever older records are left.
#[cfg(all(feature = "mutations", debug_assertions))]
pub fn drop_tombstones_by_age() {
    BY_AGE.store(true, std::sync::atomic::Ordering::Relaxed);
}

/// Whether merges do.
#[cfg(all(feature = "mutations", debug_assertions))]
pub(crate) fn drops_tombstones_by_age() -> bool {
    BY_AGE.load(std::sync::atomic::Ordering::Relaxed)
}

/// Whether merges do: never.
#[cfg(not(all(feature = "mutations", debug_assertions)))]
pub(crate) const fn drops_tombstones_by_age() -> bool {
    false
}

/// The thread that is to end.
#[cfg(all(feature = "mutations", debug_assertions))]
static TO_END: std::sync::Mutex<&str> = std::sync::Mutex::new("");

/// Ends the threads of this name, in all stores of the process, by a panic, when they next have something to do.
#[cfg(all(feature = "mutations", debug_assertions))]
pub fn end_thread(name: &'static str) {
    *TO_END.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = name;
}

/// Panics if this thread is to end.
#[cfg(all(feature = "mutations", debug_assertions))]
pub(crate) fn end_if_told(name: &str) {
    let told = *TO_END.lock().unwrap_or_else(std::sync::PoisonError::into_inner) == name;
    assert!(!told, "a test ended this thread");
}

/// Panics if this thread is to end: never.
#[cfg(not(all(feature = "mutations", debug_assertions)))]
pub(crate) const fn end_if_told(_: &str) {}
