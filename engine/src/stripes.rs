//! State of the embedded interface: the counter of versions, and the locks that keys share.
//!
//! Each key's position names one of [`STRIPES`] locks. Several are locked in ascending order, so that no two
//! threads wait for each other. No version is drawn twice, and none is drawn below one that it must follow.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::AppendError;
use crate::keydir::position_of;
use crate::record::Version;
use crate::slots::{Partition, partition_of};

/// Number of locks that keys share. With few more writers than threads, two keys rarely share one by chance.
const STRIPES: usize = 1024;

/// Versions and locks of the embedded interface.
#[derive(Debug)]
pub(crate) struct Embedded {
    /// The last version drawn.
    last_version: AtomicU64,
    stripes: Vec<RwLock<()>>,
}

impl Embedded {
    /// Creates the state; the first version drawn is above `highest_version`.
    pub(crate) fn new(highest_version: Version) -> Self {
        let stripes = (0..STRIPES).map(|_| RwLock::new(())).collect();
        Self { last_version: AtomicU64::new(highest_version), stripes }
    }

    /// Returns the last version drawn.
    pub(crate) fn last_version(&self) -> Version {
        self.last_version.load(Ordering::Relaxed)
    }

    /// Locks a key for a plain put.
    pub(crate) fn shared(&self, place: Place) -> RwLockReadGuard<'_, ()> {
        self.stripes[place.stripe()].read()
    }

    /// Locks a key for an operation that must follow all earlier writes of it.
    pub(crate) fn exclusive(&self, place: Place) -> RwLockWriteGuard<'_, ()> {
        self.stripes[place.stripe()].write()
    }

    /// Locks several keys like [`Self::exclusive`], in ascending order of their locks.
    pub(crate) fn all_exclusive(&self, places: &[Place]) -> Vec<RwLockWriteGuard<'_, ()>> {
        let mut stripes: Vec<usize> = places.iter().map(|place| place.stripe()).collect();
        stripes.sort_unstable();
        stripes.dedup();
        stripes.into_iter().map(|stripe| self.stripes[stripe].write()).collect()
    }

    /// Draws a version above all drawn before, and above `highest`.
    pub(crate) fn draw_version(&self, highest: Version) -> Result<Version, AppendError> {
        // Checked first: an owner's versions are seldom above the counter, and a load is cheaper than a
        // `fetch_max`.
        if self.last_version.load(Ordering::Relaxed) < highest {
            self.last_version.fetch_max(highest, Ordering::Relaxed);
        }
        let last = self.last_version.fetch_add(1, Ordering::Relaxed);
        last.checked_add(1).ok_or_else(|| {
            // The counter must stay at its maximum, so that the next call fails too.
            self.last_version.fetch_max(Version::MAX, Ordering::Relaxed);
            AppendError::VersionsUsedUp
        })
    }
}

/// Partition and position of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) partition: Partition,
    pub(crate) position: u64,
}

impl Place {
    pub(crate) fn of(key: &[u8]) -> Self {
        Self { partition: partition_of(key), position: position_of(key) }
    }

    fn stripe(self) -> usize {
        (self.position % STRIPES as u64) as usize
    }
}
