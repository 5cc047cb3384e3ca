//! State of merges: the running one, the space, the clean partitions, the restores that a merge waits for.
//!
//! It knows no store; [`crate::core::Core`] holds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::record::Version;
use crate::slots::{PARTITIONS, Partition};
use crate::task::TaskStatus;

/// Interval at which a merge checks whether the running restores have ended.
const RESTORES_NAP: Duration = Duration::from_millis(1);
/// Number of checks after which the merge gives up; it is retried later.
const RESTORES_NAPS_MAX: u32 = 1000;

/// State that merges keep between runs.
#[derive(Debug)]
pub(crate) struct Merges {
    /// Held during a run, and by operations that need the files to stay. Meanwhile only log files are added,
    /// and no data file is removed.
    pub(crate) running: Mutex<()>,
    pub(super) stop: AtomicBool,
    /// The store is being closed: a run must stop, and no other may begin.
    closing: AtomicBool,
    /// Limit of the bytes that a run may copy; lowered after a run that found no room.
    pub(super) copied_max: AtomicU64,
    /// Whether space is low: merges then ignore their window and their budget.
    space_low: AtomicBool,
    /// The version up to which each partition is clean, as its owner declared; by partition.
    clean: Vec<AtomicU64>,
    pub(super) status: Mutex<Option<TaskStatus>>,
    pub(crate) restores: Restores,
    /// Ids of files that could not be read at the start: their records are unknown.
    pub(crate) unreadable: Mutex<Vec<u64>>,
}

impl Merges {
    pub(crate) fn new(unreadable: Vec<u64>) -> Self {
        Self {
            running: Mutex::new(()),
            stop: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            space_low: AtomicBool::new(false),
            copied_max: AtomicU64::new(u64::MAX),
            clean: (0..PARTITIONS).map(|_| AtomicU64::new(0)).collect(),
            status: Mutex::new(None),
            restores: Restores::default(),
            unreadable: Mutex::new(unreadable),
        }
    }

    /// Returns the status of the running merge, or else of the last one.
    pub(crate) fn status(&self) -> Option<TaskStatus> {
        self.status.lock().clone()
    }

    /// Makes a running merge end soon; everything it did not complete stays unchanged.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Declares a partition clean up to this version.
    pub(crate) fn mark_clean(&self, partition: Partition, up_to: Version) {
        if let Some(clean) = self.clean.get(usize::from(partition)) {
            clean.fetch_max(up_to, Ordering::AcqRel);
        }
    }

    /// Revokes the declaration of [`Self::mark_clean`] for a dropped partition.
    pub(crate) fn forget_clean(&self, partition: Partition) {
        if let Some(clean) = self.clean.get(usize::from(partition)) {
            clean.store(0, Ordering::Release);
        }
    }

    /// Returns the version up to which a partition is clean.
    pub(super) fn clean_up_to(&self, replicated: bool, partition: Partition) -> Version {
        if !replicated {
            return Version::MAX;
        }
        self.clean.get(usize::from(partition)).map_or(0, |clean| clean.load(Ordering::Acquire))
    }

    /// Sets whether space is low.
    pub(crate) fn set_space_low(&self, low: bool) {
        if self.space_low.swap(low, Ordering::AcqRel) != low {
            tracing::info!(low, "the low-space state of the store has changed");
        }
    }

    /// Returns whether space is low.
    pub(crate) fn is_space_low(&self) -> bool {
        self.space_low.load(Ordering::Acquire)
    }

    /// Makes a running merge end soon, and all later ones at once.
    pub(crate) fn stop_for_good(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Returns whether the running merge must end.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire) || self.closing.load(Ordering::Acquire)
    }
}

/// Number of running restores.
#[derive(Debug, Default)]
pub(crate) struct Restores(Arc<AtomicUsize>);

impl Restores {
    /// Counts a restore until the returned value is dropped.
    pub(crate) fn begin(&self) -> Restoring {
        self.0.fetch_add(1, Ordering::SeqCst);
        Restoring(self.0.clone())
    }

    /// Waits until no restore runs; returns whether this happened in time.
    pub(super) fn wait(&self) -> bool {
        for _ in 0..RESTORES_NAPS_MAX {
            if self.0.load(Ordering::SeqCst) == 0 {
                return true;
            }
            std::thread::sleep(RESTORES_NAP);
        }
        false
    }
}

/// A running restore.
#[must_use = "merges wait only while it exists"]
pub(crate) struct Restoring(Arc<AtomicUsize>);

impl Drop for Restoring {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
