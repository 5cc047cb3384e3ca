//! Limits the clusters that run concurrently to two, over all test processes of one target directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::binaries::profile_folder;

/// Maximum number of clusters. Every node syncs each batch of writes: more clusters would disturb each
/// other's timing.
const CLUSTERS_MAX: usize = 2;
const RETRY: Duration = Duration::from_millis(50);
/// Longer than the time limits of all tests that can be ahead.
const WAIT_MAX: Duration = Duration::from_secs(900);

/// Permission to run one cluster. Dropping it, or the end of the process, releases it.
#[derive(Debug)]
pub struct Permit {
    _locked: File,
}

impl Permit {
    /// Waits for a free permit.
    ///
    /// # Errors
    /// The lock files cannot be opened, or no permit was free for 15 minutes.
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
        bail!("clusters of other tests have held all {CLUSTERS_MAX} permits for {WAIT_MAX:?}")
    }
}
