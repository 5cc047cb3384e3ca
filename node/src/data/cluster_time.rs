//! This node's estimate of cluster time, and its record on disk.

use std::sync::Arc;

use caskade_engine::replicated::Store;
use parking_lot::Mutex;

use super::plane::Plane;
use crate::cluster::time::{ClusterClock, TimeRecord, TimeReport};
use crate::host::Host;

/// Name of the engine's metadata entry with the record.
const NAME: &str = "cluster-time";

/// Restores the clock from the record on disk. A record that cannot be read counts as absent: the node then
/// learns cluster time from the others.
pub(super) fn restore(engine: &Store, host: &Host) -> Mutex<ClusterClock> {
    let record = match engine.read_metadata(NAME) {
        Ok(bytes) => bytes.and_then(|bytes| TimeRecord::decode(&bytes)),
        Err(error) => {
            tracing::warn!(%error, "cannot read the record of cluster time; the other nodes send it");
            None
        }
    };
    Mutex::new(ClusterClock::restore(record.as_ref(), host.boot(), host.monotonic_ms(), host.wall_ms()))
}

impl Plane {
    /// Returns this node's estimate of cluster time, in milliseconds since 1970, which expiries are compared
    /// with. It never decreases while the node has a lease.
    pub fn cluster_ms(&self) -> u64 {
        let clock = self.cluster_clock.lock();
        // Read under the lock: an earlier reading could precede the last sample.
        clock.now_ms(self.host.monotonic_ms())
    }

    /// Runs `f` on the clock, with a reading of the monotonic clock.
    pub(crate) fn with_cluster_clock<T>(&self, f: impl FnOnce(&mut ClusterClock, u64) -> T) -> T {
        let mut clock = self.cluster_clock.lock();
        let now_ms = self.host.monotonic_ms();
        f(&mut clock, now_ms)
    }

    /// Returns whether this node has received cluster time and recorded none yet.
    pub fn lacks_time_record(&self) -> bool {
        self.cluster_clock.lock().lacks_record()
    }

    /// Returns this node's report about its clocks.
    pub fn time_report(&self) -> TimeReport {
        let wall_ms = self.host.wall_ms();
        self.with_cluster_clock(|clock, now_ms| clock.report(now_ms, wall_ms))
    }

    /// Records the clock's state for the next process of this node. Blocks until the record is durable.
    pub fn record_cluster_time(self: &Arc<Self>) {
        let (boot, wall_ms) = (self.host.boot(), self.host.wall_ms());
        let Some(record) = self.with_cluster_clock(|clock, now_ms| clock.record(boot, now_ms, wall_ms))
        else {
            return;
        };
        if let Err(error) = self.engine.write_metadata(NAME, &record.encode()) {
            tracing::warn!(
                %error,
                "cannot record cluster time; after a restart of the machine this node starts from an older \
                 record"
            );
        }
    }
}
