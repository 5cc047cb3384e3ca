//! How many clusters run at once on this machine: at most two, over all test processes of one target folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::binaries::profile_folder;

/// A node is a process with an fsync for every batch of writes: more clusters at once would measure each other.
const CLUSTERS_MAX: usize = 2;
const RETRY: Duration = Duration::from_millis(50);
/// Longer than any test may take, times the tests that can be ahead.
const WAIT_MAX: Duration = Duration::from_secs(900);

/// The right to run one cluster, given back when dropped (or when the process ends, however it ends).
#[derive(Debug)]
pub struct Permit {
    _locked: File,
}

impl Permit {
    /// Waits for a free place.
    ///
    /// # Errors
    /// If the lock files cannot be opened, or no place was free for a quarter of an hour.
    pub async fn acquire() -> Result<Self> {
        let folder = profile_folder()?;
        for _ in 0..(WAIT_MAX.as_millis() / RETRY.as_millis()) {
            for place in 0..CLUSTERS_MAX {
                let path = folder.join(format!("caskade-tests-{place}.lock"));
                let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
                let file = file.with_context(|| format!("opening {}", path.display()))?;
                match file.try_lock() {
                    Ok(()) => return Ok(Self { _locked: file }),
                    Err(TryLockError::WouldBlock) => {}
                    Err(TryLockError::Error(error)) => {
                        return Err(error).with_context(|| format!("locking {}", path.display()));
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
        bail!("other tests' clusters have held all {CLUSTERS_MAX} places for {WAIT_MAX:?}")
    }
}
