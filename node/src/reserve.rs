//! A reserve on disk for the files that a node must write even if its disk is full: its incarnation, its
//! claim of the store, its vote, its topology log and snapshot.
//!
//! `notes.reserve` in the data directory is a file of zeros whose blocks are allocated while there is space.
//! A small write that finds no space cuts a piece off the end of that file and retries. It succeeds unless
//! other programs take the freed blocks first. Invariants: only [`with_room`] cuts the file; it is refilled
//! only while the free space is above the low mark; a write that fails for another reason is not retried.
//! Without a reserve a write fails as it would have anyway.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;

const NAME: &str = "notes.reserve";
/// Length of a whole reserve: `BYTES`, or the size of the file system divided by `SHARE` if that is less.
const BYTES: u64 = 8 << 20;
const SHARE: u64 = 32;
/// Bytes cut off at once: few, because other programs may take freed blocks that the write does not need.
const PIECE_BYTES: u64 = 32 << 10;
/// Time for which a write waits for space after the reserve is used up, and the pause between its attempts.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Fills the reserve of a data directory, if it is not whole and there is space for it.
///
/// # Errors
/// A file system call failed; the present reserve is kept.
pub(crate) fn fill(data_dir: &Path) -> io::Result<()> {
    let stat = rustix::fs::statvfs(data_dir)?;
    let wanted = BYTES.min(stat.f_blocks.saturating_mul(stat.f_frsize) / SHARE);
    let path = data_dir.join(NAME);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if file.metadata()?.len() >= wanted {
        return Ok(());
    }
    // `fallocate` allocates blocks without writing them.
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, wanted)?;
    file.sync_all()
}

/// Runs a small write below a data directory. While it finds no space, frees a piece of the reserve and
/// retries. After the reserve is used up, retries for [`PATIENCE`]. Blocks the thread meanwhile.
///
/// # Errors
/// The last error of the write.
pub(crate) fn with_room<T>(path: &Path, mut write: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut gives_up: Option<Instant> = None;
    loop {
        let error = match write() {
            Err(error) if is_no_room(&error) => error,
            done => return done,
        };
        match cut(path) {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot free a piece of the disk reserve for this node's own files")
            }
        }
        let until = *gives_up.get_or_insert_with(|| Instant::now() + PATIENCE);
        if beside(path).is_none() || Instant::now() >= until {
            return Err(error);
        }
        thread::sleep(RETRY_PAUSE);
    }
}

/// Returns whether a call failed for lack of disk space.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Frees a piece of the reserve. Returns false if nothing is left of it.
fn cut(path: &Path) -> io::Result<bool> {
    let Some(reserve) = beside(path) else { return Ok(false) };
    let file: File = OpenOptions::new().write(true).open(&reserve)?;
    let len = file.metadata()?.len();
    if len == 0 {
        return Ok(false);
    }
    file.set_len(len.saturating_sub(PIECE_BYTES))?;
    tracing::warn!(reserve = %reserve.display(), left = len.saturating_sub(PIECE_BYTES), "the disk is full: \
        freed a piece of the reserve for this node's own files");
    Ok(true)
}

/// Returns the reserve of the data directory that has the file, directly or in a folder of it.
fn beside(path: &Path) -> Option<PathBuf> {
    let folders = path.ancestors().skip(1).take(2);
    folders.map(|folder| folder.join(NAME)).find(|reserve| reserve.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> io::Error {
        io::ErrorKind::StorageFull.into()
    }

    #[test]
    fn write_without_space_is_retried_with_a_piece_of_the_reserve_each_time() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path()).unwrap();
        let len = || std::fs::metadata(dir.path().join(NAME)).unwrap().len();
        let whole = len();
        assert!(whole >= 4 * PIECE_BYTES, "{whole}");
        let path = dir.path().join("topology").join("vote");
        let mut failures = 3;
        let written = with_room(&path, || {
            failures -= 1;
            if failures > 0 { Err(full()) } else { Ok(7) }
        });
        assert_eq!((written.unwrap(), len()), (7, whole - 2 * PIECE_BYTES));
        fill(dir.path()).unwrap();
        assert_eq!(len(), whole, "it is refilled");
    }

    #[test]
    fn other_errors_and_a_directory_without_a_reserve_fail_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("incarnation");
        let mut tries = 0;
        let failed: io::Result<()> = with_room(&path, || {
            tries += 1;
            Err(full())
        });
        assert!(is_no_room(&failed.unwrap_err()) && tries == 1);
        fill(dir.path()).unwrap();
        let failed: io::Result<()> = with_room(&path, || Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
