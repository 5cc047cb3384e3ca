//! What clients may take of a node: one set of bounds for all front ends together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::Settings;

/// Bytes that a request may have beyond its largest value (its keys, other arguments, further small values), and a reply
/// beyond the largest value.
const OVERHEAD_BYTES: usize = 16 << 20;

/// The bounds. Two of them can change while the node runs.
#[derive(Debug)]
pub struct Limits {
    /// Connections at one time.
    pub connections_max: AtomicU64,
    /// Data files that the node keeps open beside them.
    pub data_files: u64,
    /// Seconds a connection may say nothing; 0 is for ever.
    pub idle_s: AtomicU64,
    /// How long a client may take nothing of its replies.
    pub patience: Duration,
    /// Commands of one connection under way at one time.
    pub pipeline_max: usize,
    /// Longest value, bytes.
    pub value_bytes_max: usize,
    /// Bytes of requests and replies that all connections may have in memory together.
    pub buffer_bytes_max: u64,
    /// Whether DEBUG is allowed.
    pub debug_commands: bool,
    /// What the connections have in memory now.
    pub(super) buffer_bytes: AtomicU64,
}

impl Default for Limits {
    fn default() -> Self {
        Self::from_settings(&Settings::default())
    }
}

impl Limits {
    /// As the settings say.
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

    /// Takes over what can change while the node runs, where `changed` says that it did.
    pub fn take_over(&self, settings: &Settings, changed: impl Fn(&str) -> bool) {
        if changed("max_clients") {
            self.connections_max.store(settings.max_clients.into(), Ordering::Relaxed);
        }
        if changed("client_idle_s") {
            self.idle_s.store(settings.client_idle_s, Ordering::Relaxed);
        }
    }

    /// Longest request, and longest reply to one command, bytes.
    pub fn message_bytes_max(&self) -> usize {
        self.value_bytes_max.saturating_add(OVERHEAD_BYTES)
    }

    /// Bytes that the connections have in memory now.
    pub fn buffer_bytes(&self) -> u64 {
        self.buffer_bytes.load(Ordering::Relaxed)
    }
}
