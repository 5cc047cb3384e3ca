//! Space kept for what frees space: a file of allocated zeros that is cut when the disk is full, and filled again later.
//!
//! Deletions, the eras file (without which no merge removes its inputs) and merges themselves need some bytes before
//! they give any back. Free space that this store leaves alone is no reserve for them where other programs fill the
//! disk as well; blocks that are allocated to a file of its own are. Cutting that file frees them for the call that is
//! tried again at once; another program may still take them first, so the file is cut piece by piece.
//!
//! Invariants: appends of values never draw on it; it grows only while twice its size is free. A file system that
//! cannot allocate has none.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::file_system::{FileSystem, OpenMode, Space};

/// The file's name.
const RESERVE_NAME: &str = "reserve";

/// It is of this size at most: one part in so many of the file system.
const SHARE: u64 = 64;

/// It is filled to a multiple of this, and cut by this much at least.
const STEP_BYTES: u64 = 64 << 10;

/// How often a call is tried again, each time with more of the reserve.
pub(crate) const TRIES: usize = 3;

/// The reserve of one store.
#[derive(Debug)]
pub(crate) struct Reserve {
    file_system: Arc<dyn FileSystem>,
    path: PathBuf,
    /// Bytes that it should have, on a file system that is large enough.
    wanted: u64,
    /// Bytes that it has.
    held: AtomicU64,
    /// The file system cannot allocate.
    unsupported: AtomicBool,
    /// Held while the file is changed.
    changing: Mutex<()>,
}

impl Reserve {
    /// Takes over what an earlier process left of it in this directory; removes it if none is wanted.
    pub(crate) fn open(file_system: Arc<dyn FileSystem>, directory: &Path, wanted: u64) -> Self {
        let path = directory.join(RESERVE_NAME);
        let found = file_system.open(&path, OpenMode::Read).and_then(|file| file.len());
        if wanted == 0 && found.is_ok() {
            // Best effort: it costs space and nothing else.
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

    /// Bytes that can be had.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Acquire)
    }

    /// Frees at least so many bytes of it, or what there is; tells whether that is anything.
    pub(crate) fn release(&self, bytes: u64) -> bool {
        let _changing = self.changing.lock();
        let held = self.held();
        if held == 0 {
            return false;
        }
        let left = held.saturating_sub(bytes.max(STEP_BYTES));
        let cut = self.file_system.open(&self.path, OpenMode::ReadWrite).and_then(|file| {
            file.set_len(left)?;
            // Some file systems give blocks back only then.
            file.sync_all()
        });
        match cut {
            Ok(()) => tracing::warn!(
                released = held - left,
                left,
                "the disk is full: the store draws on its reserve"
            ),
            Err(error) => tracing::warn!(%error, "the store's reserve cannot be cut"),
        }
        // What could not be cut is not counted on again before the next start.
        self.held.store(left, Ordering::Release);
        true
    }

    /// Fills it, if there is room enough.
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
                tracing::info!("this file system allocates no space ahead: the store has no reserve there");
            }
            Err(error) => tracing::debug!(%error, "the store's reserve cannot be filled"),
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
    use crate::FaultyFileSystem;

    #[test]
    fn reserve_is_filled_with_room_and_cut_without() {
        let file_system = FaultyFileSystem::new();
        file_system.create_directory(Path::new("/store")).unwrap();
        file_system.set_capacity(Some(64 << 20));
        let shared: Arc<dyn FileSystem> = Arc::new(file_system.clone());
        let space = || file_system.space(Path::new("/store")).unwrap();
        let reserve = Reserve::open(shared.clone(), Path::new("/store"), 8 << 20);
        assert!(!reserve.release(1), "there is none yet");
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
