//! Switches for tests: a planted bug that the simulator must find, and the end of a thread by a panic. Both
//! exist only in builds with the feature `mutations` and debug assertions, and are off until a test requests
//! them.

#[cfg(all(feature = "mutations", debug_assertions))]
static BY_AGE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Makes all merges drop every tombstone they find from now on, whatever older records are left.
#[cfg(all(feature = "mutations", debug_assertions))]
pub fn drop_tombstones_by_age() {
    BY_AGE.store(true, std::sync::atomic::Ordering::Relaxed);
}

/// Returns whether merges drop every tombstone.
#[cfg(all(feature = "mutations", debug_assertions))]
pub(crate) fn drops_tombstones_by_age() -> bool {
    BY_AGE.load(std::sync::atomic::Ordering::Relaxed)
}

/// Returns whether merges drop every tombstone: never in this build.
#[cfg(not(all(feature = "mutations", debug_assertions)))]
pub(crate) const fn drops_tombstones_by_age() -> bool {
    false
}

/// Name of the thread that must end.
#[cfg(all(feature = "mutations", debug_assertions))]
static TO_END: std::sync::Mutex<&str> = std::sync::Mutex::new("");

/// Ends the threads of this name, in all stores of the process, by a panic, when they next have work to do.
#[cfg(all(feature = "mutations", debug_assertions))]
pub fn end_thread(name: &'static str) {
    *TO_END.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = name;
}

/// Panics if this thread must end.
#[cfg(all(feature = "mutations", debug_assertions))]
pub(crate) fn end_if_told(name: &str) {
    let told = *TO_END.lock().unwrap_or_else(std::sync::PoisonError::into_inner) == name;
    assert!(!told, "a test ended this thread");
}

/// Never panics in this build.
#[cfg(not(all(feature = "mutations", debug_assertions)))]
pub(crate) const fn end_if_told(_: &str) {}
