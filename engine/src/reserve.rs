//! A file of preallocated space, cut when the disk is full so that operations that free space can proceed,
//! and filled again later.
//!
//! Deletions, writes of the eras file (without which no merge removes its inputs) and merges need some bytes
//! before they free any. Unused free space is no reserve, because other programs may fill the disk; blocks
//! allocated to a file are. Cutting the file frees blocks for a call that is retried at once. Another program
//! may take them first, so the file is cut piece by piece.
//!
//! Invariants: appends of values never draw on the reserve; it grows only while twice its size is free. On a
//! file system that cannot preallocate there is no reserve.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::file_system::{FileSystem, OpenMode, Space};

/// Name of the file.
const RESERVE_NAME: &str = "reserve";

/// Divisor of the file system's size that limits the reserve.
const SHARE: u64 = 64;

/// Granularity in bytes: the file is filled to a multiple of it, and cut by at least this much.
const STEP_BYTES: u64 = 64 << 10;

/// Limit of retries of a failed call, each after more of the reserve was freed.
pub(crate) const TRIES: usize = 3;

/// The reserve of one store.
#[derive(Debug)]
pub(crate) struct Reserve {
    file_system: Arc<dyn FileSystem>,
    path: PathBuf,
    /// Target size in bytes, on a file system that is large enough.
    wanted: u64,
    /// Present size in bytes.
    held: AtomicU64,
    /// Whether the file system cannot preallocate.
    unsupported: AtomicBool,
    /// Held while the file is changed.
    changing: Mutex<()>,
}

impl Reserve {
    /// Adopts the reserve that an earlier process left in this directory; removes it if `wanted` is 0.
    pub(crate) fn open(file_system: Arc<dyn FileSystem>, directory: &Path, wanted: u64) -> Self {
        let path = directory.join(RESERVE_NAME);
        let found = file_system.open(&path, OpenMode::Read).and_then(|file| file.len());
        if wanted == 0 && found.is_ok() {
            // Best effort: a file that stays only costs space.
            let _ = file_system.remove(&path);
        }
        let held = AtomicU64::new(if wanted == 0 { 0 } else { found.unwrap_or(0) });
        Self {
            file_system,
            path,
            wanted,
            held,
            unsupported: AtomicBool::new(false),
            changing: Mutex::new(()),
        }
    }

    /// Returns the bytes that can be freed.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Acquire)
    }

    /// Frees at least this many bytes of the reserve, or all of it; returns whether it freed any.
    pub(crate) fn release(&self, bytes: u64) -> bool {
        let _changing = self.changing.lock();
        let held = self.held();
        if held == 0 {
            return false;
        }
        let left = held.saturating_sub(bytes.max(STEP_BYTES));
        let cut = self.file_system.open(&self.path, OpenMode::ReadWrite).and_then(|file| {
            file.set_len(left)?;
            // Some file systems free the blocks only at a sync.
            file.sync_all()
        });
        match cut {
            Ok(()) => tracing::warn!(
                released = held - left,
                left,
                "the disk is full: the store freed a part of its reserve"
            ),
            Err(error) => tracing::warn!(%error, "cannot cut the store's reserve"),
        }
        // Bytes that could not be cut are not counted on before the next start.
        self.held.store(left, Ordering::Release);
        true
    }

    /// Fills the reserve, if there is enough room.
    pub(crate) fn fill(&self, space: Space) {
        let size = self.wanted.min(space.total_bytes / SHARE) / STEP_BYTES * STEP_BYTES;
        if self.held() >= size || space.free_bytes < 2 * size || self.unsupported.load(Ordering::Relaxed) {
            return;
        }
        let _changing = self.changing.lock();
        match self.grow(size) {
            Ok(()) => self.held.store(size, Ordering::Release),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                self.unsupported.store(true, Ordering::Relaxed);
                tracing::info!("this file system cannot preallocate space: the store has no reserve");
            }
            Err(error) => tracing::debug!(%error, "cannot fill the store's reserve"),
        }
    }

    fn grow(&self, size: u64) -> io::Result<()> {
        let file = match self.file_system.open(&self.path, OpenMode::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.file_system.open(&self.path, OpenMode::Create)?
            }
            opened => opened?,
        };
        let len = file.len()?;
        if len < size { file.allocate(len, size - len) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_system::FaultyFileSystem;

    #[test]
    fn reserve_is_filled_with_room_and_cut_without() {
        let file_system = FaultyFileSystem::new();
        file_system.create_directory(Path::new("/store")).unwrap();
        file_system.set_capacity(Some(64 << 20));
        let shared: Arc<dyn FileSystem> = Arc::new(file_system.clone());
        let space = || file_system.space(Path::new("/store")).unwrap();
        let reserve = Reserve::open(shared.clone(), Path::new("/store"), 8 << 20);
        assert!(!reserve.release(1), "the reserve is still empty");
        reserve.fill(space());
        assert_eq!(
            (reserve.held(), file_system.used_bytes()),
            (1 << 20, 1 << 20),
            "a part of the file system"
        );
        file_system.leave_free(0);
        assert!(reserve.release(1));
        assert_eq!((reserve.held(), space().free_bytes), ((1 << 20) - STEP_BYTES, STEP_BYTES));
        reserve.fill(space());
        assert_eq!(reserve.held(), (1 << 20) - STEP_BYTES, "there is no room");
        let again = Reserve::open(shared.clone(), Path::new("/store"), 8 << 20);
        assert_eq!(again.held(), (1 << 20) - STEP_BYTES);
        assert!(again.release(u64::MAX) && !again.release(1));
        file_system.set_capacity(Some(64 << 20));
        again.fill(space());
        assert_eq!(again.held(), 1 << 20);
        assert_eq!(Reserve::open(shared, Path::new("/store"), 0).held(), 0);
        assert_eq!(file_system.used_bytes(), 0, "none is wanted");
    }
}
