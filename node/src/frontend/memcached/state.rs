//! The state that all memcached connections share.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::frontend::context::FrontEndContext;
use crate::frontend::flush::flush;
use crate::frontend::keyspace::Keyspace;

/// State that all memcached connections share.
pub(super) struct ServerState {
    pub(super) keyspace: Arc<dyn Keyspace>,
    pub(super) front_end: FrontEndContext,
    /// The delayed flush_all, if one is pending. As in memcached, a later one replaces it.
    flush: Mutex<Option<AbortHandle>>,
}

impl ServerState {
    pub(super) fn new(keyspace: Arc<dyn Keyspace>, front_end: FrontEndContext) -> Self {
        Self { keyspace, front_end, flush: Mutex::default() }
    }

    /// Schedules the removal of all keys in `delay_s` seconds, in place of a pending one. It is lost if the
    /// node stops before that.
    pub(super) fn flush_later(&self, delay_s: u64) {
        let keyspace = Arc::clone(&self.keyspace);
        let task = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(delay_s)).await;
            match flush(keyspace.as_ref()).await {
                Ok(keys) => tracing::info!(keys, "a delayed flush_all removed all keys"),
                Err(failure) => {
                    tracing::warn!(
                        %failure,
                        "a delayed flush_all removed only a part of the keys; send it again"
                    );
                }
            }
        });
        self.set_flush(Some(task.abort_handle()));
    }

    /// Sets the pending flush_all, and cancels the one before it.
    pub(super) fn set_flush(&self, flush: Option<AbortHandle>) {
        if let Some(before) = std::mem::replace(&mut *self.flush.lock(), flush) {
            before.abort();
        }
    }
}
