//! Translation of the settings for each part of the node.

use caskade_api::STORE_FOLDER;
use caskade_engine::Options;
use caskade_engine::options::{Budget, OnFailure};

use crate::config::Settings;
use crate::data::DataLimits;
use crate::identity::{ClusterSecret, Identity};
use crate::net::NetworkConfig;
use crate::supervise::Supervisor;

/// Maximum of pending writes of one partition.
const PENDING_MAX: usize = 8192;
/// Maximum of requests that wait for a primary.
const WAITING_MAX: usize = 65_536;
/// Maximum of bytes of pending writes and waiting requests of one node.
const BYTES_UNDER_WAY_MAX: u64 = 512 << 20;
/// Time for which a write waits for a replica before the replica is suspended.
const REPLICA_TIMEOUT_MS: u64 = 3000;

/// Returns the options of the store.
pub(super) fn engine_options(settings: &Settings, supervisor: &Supervisor) -> Options {
    let mut options = Options::new(settings.data_dir.join(STORE_FOLDER));
    options.sync = settings.sync;
    options.max_file_size = settings.max_file_size;
    options.max_value_bytes = u32::try_from(settings.max_value_bytes).unwrap_or(u32::MAX);
    options.max_open_files = usize::try_from(settings.max_open_files).unwrap_or(usize::MAX);
    options.map_files = settings.map_files;
    options.index = settings.index;
    options.merge_trigger = settings.merge_trigger;
    options.merge_trigger_bytes = settings.merge_trigger_bytes;
    options.merge_small_file = settings.merge_small_file;
    options.merge_window = settings.merge_window;
    // The other background work reaches the whole budget through this part.
    options.budget = Budget::new(settings.background_bytes_per_s).part(settings.merge_bytes_per_s);
    // The data plane watches the free space, with its own marks.
    options.low_free_bytes = 0;
    let supervisor = supervisor.clone();
    options.on_failure = OnFailure::new(move |thread, how| supervisor.report(thread, how.to_owned()));
    options
}

/// Returns the configuration of the peer network.
pub(super) fn network_config(
    settings: &Settings,
    identity: &Identity,
    secret: Option<ClusterSecret>,
    supervisor: &Supervisor,
) -> NetworkConfig {
    let mut config = NetworkConfig::new(identity.keypair.clone(), vec![settings.peer_listen], secret);
    config.insecure = settings.insecure;
    config.supervisor = supervisor.clone();
    config
}

/// Returns the limits and times of the data plane.
pub(super) fn limits(settings: &Settings) -> DataLimits {
    DataLimits {
        request_timeout_ms: settings.request_timeout_ms,
        replica_timeout_ms: REPLICA_TIMEOUT_MS,
        pending_max: PENDING_MAX,
        waiting_max: WAITING_MAX,
        in_flight_bytes_max: BYTES_UNDER_WAY_MAX,
        value_bytes_max: settings.max_value_bytes,
        migration_bytes_per_s: settings.migration_bytes_per_s,
        scrub_bytes_per_s: settings.scrub_bytes_per_s,
        repair_interval_ms: settings.repair_interval_ms,
        disk_low: settings.disk_low,
        disk_minimum: settings.disk_minimum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_settings_default_to_those_of_the_engine_and_reach_it() {
        let settings = Settings::default();
        let supervisor = Supervisor::default();
        let theirs = Options::new(settings.data_dir.join(STORE_FOLDER));
        let ours = engine_options(&settings, &supervisor);
        assert_eq!(ours.validate(), Ok(()));
        // A node uses larger files, and watches the free space itself.
        let (max_file_size, low_free_bytes) = (ours.max_file_size, 0);
        let (budget, on_failure) = (ours.budget.clone(), ours.on_failure.clone());
        assert_eq!(ours, Options { max_file_size, low_free_bytes, budget, on_failure, ..theirs });
        let mut changed = settings;
        changed.merge_bytes_per_s = 5;
        changed.background_bytes_per_s = 50;
        changed.merge_trigger = 7;
        changed.max_open_files = 9;
        let options = engine_options(&changed, &supervisor);
        assert_eq!((options.budget.bytes_per_s(), options.merge_trigger, options.max_open_files), (5, 7, 9));
        assert_eq!(options.budget.whole().bytes_per_s(), 50);
    }
}
