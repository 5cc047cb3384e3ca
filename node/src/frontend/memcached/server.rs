//! The memcached server: the state that its connections share.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::connection::Connection;
use crate::frontend::accept::{self, FrontEnd, FrontEndContext, Place};
use crate::frontend::flush::flush;
use crate::frontend::keyspace::Keyspace;
use crate::frontend::security::Stream;

/// State that all memcached connections share.
pub struct Server {
    pub(super) keyspace: Arc<dyn Keyspace>,
    pub(super) door: FrontEndContext,
    /// The delayed flush_all, if one is pending. As in memcached, a later one replaces it.
    flush: Mutex<Option<AbortHandle>>,
}

impl Server {
    /// Creates a front end of `keyspace` with the limits and the security of `door`.
    pub fn new(keyspace: Arc<dyn Keyspace>, door: FrontEndContext) -> Arc<Self> {
        Arc::new(Self { keyspace, door, flush: Mutex::default() })
    }

    /// Serves `listener` until `stopping` is `true` or its sender is dropped; then waits for the connections
    /// to end. Cancels a pending flush_all.
    pub async fn run(self: Arc<Self>, listener: TcpListener, stopping: watch::Receiver<bool>) {
        accept::run(Arc::clone(&self), listener, stopping).await;
        self.set_flush(None);
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

    fn set_flush(&self, flush: Option<AbortHandle>) {
        if let Some(before) = std::mem::replace(&mut *self.flush.lock(), flush) {
            before.abort();
        }
    }
}

impl FrontEnd for Server {
    const NAME: &'static str = "memcached";
    const TOO_MANY: &'static str = "ERROR Too many open connections\r\n";
    const OPERATORS: bool = false;
    const PROTECTED: &'static str = "SERVER_ERROR protected mode: this node serves only clients on its own \
        machine, because the default user has no password. Set requirepass or an ACL file, or protected_mode \
        = false if the network is trusted\r\n";

    fn door(&self) -> &FrontEndContext {
        &self.door
    }

    async fn serve(
        self: Arc<Self>,
        stream: Stream,
        (peer, _): (SocketAddr, Place),
        stopping: watch::Receiver<bool>,
    ) -> io::Result<()> {
        Connection::new(self, stream, peer).run(stopping).await
    }
}
