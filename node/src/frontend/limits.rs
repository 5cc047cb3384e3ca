//! Limits of the resources that clients may use: one set for all front ends together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::Settings;

/// Bytes that a request may have beyond its largest value (keys, other arguments, further small values), and
/// a reply beyond the largest value.
const OVERHEAD_BYTES: usize = 16 << 20;

/// Limits of connections, memory and pipelines. `connections_max` and `idle_s` can change while the
/// node runs.
#[derive(Debug)]
pub struct ClientLimits {
    /// Maximum number of open connections.
    pub connections_max: AtomicU64,
    /// Data files that the node keeps open besides the connections.
    pub data_files: u64,
    /// Seconds without input after which a connection is closed. 0: never.
    pub idle_s: AtomicU64,
    /// Time without progress in sending a reply after which a connection is closed.
    pub patience: Duration,
    /// Maximum number of in-flight commands of one connection.
    pub pipeline_max: usize,
    /// Longest value, bytes.
    pub value_bytes_max: usize,
    /// Maximum bytes of requests and replies in memory, over all connections.
    pub buffer_bytes_max: u64,
    /// Whether DEBUG is allowed.
    pub debug_commands: bool,
    /// Bytes of requests and replies in memory now, over all connections.
    pub(super) buffer_bytes: AtomicU64,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self::from_settings(&Settings::default())
    }
}

impl ClientLimits {
    /// Creates the limits that the settings specify.
    pub fn from_settings(settings: &Settings) -> Self {
        Self {
            connections_max: AtomicU64::new(settings.max_clients.into()),
            data_files: settings.max_open_files,
            idle_s: AtomicU64::new(settings.client_idle_s),
            patience: Duration::from_secs(settings.client_unread_s),
            pipeline_max: settings.max_pipeline as usize,
            value_bytes_max: usize::try_from(settings.max_value_bytes).unwrap_or(usize::MAX),
            buffer_bytes_max: settings.client_buffer_bytes,
            debug_commands: settings.debug_commands,
            buffer_bytes: AtomicU64::new(0),
        }
    }

    /// Applies the settings that can change while the node runs, if `changed` returns `true` for their name.
    pub fn take_over(&self, settings: &Settings, changed: impl Fn(&str) -> bool) {
        if changed("max_clients") {
            self.connections_max.store(settings.max_clients.into(), Ordering::Relaxed);
        }
        if changed("client_idle_s") {
            self.idle_s.store(settings.client_idle_s, Ordering::Relaxed);
        }
    }

    /// Returns the length limit of a request, and of the reply to one command, in bytes.
    pub fn message_bytes_max(&self) -> usize {
        self.value_bytes_max.saturating_add(OVERHEAD_BYTES)
    }

    /// Returns the bytes of requests and replies in memory now, over all connections.
    pub fn buffer_bytes(&self) -> u64 {
        self.buffer_bytes.load(Ordering::Relaxed)
    }
}
