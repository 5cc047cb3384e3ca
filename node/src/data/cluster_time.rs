//! This node's estimate of cluster time, and what it keeps of that on disk.

use std::sync::Arc;

use caskade_engine::Engine;
use parking_lot::Mutex;

use super::plane::Plane;
use crate::cluster::time::{ClusterClock, TimeRecord, TimeReport};
use crate::host::Host;

/// Under which the engine keeps the record.
const NAME: &str = "cluster-time";

/// The clock as this process found it on disk. One that cannot be read is as one that was never written: the node then learns
/// cluster time from the others.
pub(super) fn restore(engine: &Engine, host: &Host) -> Mutex<ClusterClock> {
    let record = match engine.kept(NAME) {
        Ok(bytes) => bytes.and_then(|bytes| TimeRecord::decode(&bytes)),
        Err(error) => {
            tracing::warn!(%error, "cannot read the record of cluster time; the other nodes tell it");
            None
        }
    };
    Mutex::new(ClusterClock::restore(record.as_ref(), host.boot(), host.monotonic_ms(), host.wall_ms()))
}

impl Plane {
    /// Returns cluster time as this node estimates it, in milliseconds since 1970: what expiries are compared with. It never
    /// goes back while the node has a lease.
    pub fn cluster_ms(&self) -> u64 {
        let clock = self.cluster_clock.lock();
        // Read under the lock: an earlier reading would be of before the last sample.
        clock.now_ms(self.host.monotonic_ms())
    }

    /// Runs `f` on the clock, with the reading of the monotonic clock.
    pub(crate) fn with_cluster_clock<T>(&self, f: impl FnOnce(&mut ClusterClock, u64) -> T) -> T {
        let mut clock = self.cluster_clock.lock();
        let now_ms = self.host.monotonic_ms();
        f(&mut clock, now_ms)
    }

    /// Returns whether this node has received cluster time and recorded none yet.
    pub fn lacks_time_record(&self) -> bool {
        self.cluster_clock.lock().lacks_record()
    }

    /// Returns what this node reports of its clocks.
    pub fn time_report(&self) -> TimeReport {
        let wall_ms = self.host.wall_ms();
        self.with_cluster_clock(|clock, now_ms| clock.report(now_ms, wall_ms))
    }

    /// Writes down what the next process of this node goes on from. Blocks until it is durable.
    pub fn record_cluster_time(self: &Arc<Self>) {
        let (boot, wall_ms) = (self.host.boot(), self.host.wall_ms());
        let Some(record) = self.with_cluster_clock(|clock, now_ms| clock.record(boot, now_ms, wall_ms))
        else {
            return;
        };
        if let Err(error) = self.engine.keep(NAME, &record.encode()) {
            tracing::warn!(%error, "cannot record cluster time; after a restart of the machine it goes on from an older record");
        }
    }
}
