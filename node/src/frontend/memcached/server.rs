//! The memcached front end as a whole: what its connections share.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::connection::Connection;
use crate::frontend::accept::{self, Door, FrontEnd, Place};
use crate::frontend::flush::flush;
use crate::frontend::keyspace::Keyspace;
use crate::frontend::security::Stream;

/// What all connections share.
pub struct Server {
    pub(super) keyspace: Arc<dyn Keyspace>,
    pub(super) door: Door,
    /// The removal of all keys that waits for its time: the last one asked for, as in memcached.
    flush: Mutex<Option<AbortHandle>>,
}

impl Server {
    /// A front end of `keyspace` that lets in whom `door` does.
    pub fn new(keyspace: Arc<dyn Keyspace>, door: Door) -> Arc<Self> {
        Arc::new(Self { keyspace, door, flush: Mutex::default() })
    }

    /// Serves `listener` until `stopping` says so, or its sender is gone; then waits for the connections to end.
    pub async fn run(self: Arc<Self>, listener: TcpListener, stopping: watch::Receiver<bool>) {
        accept::run(Arc::clone(&self), listener, stopping).await;
        self.set_flush(None);
    }

    /// Removes all keys after a while, in the place of what was to be removed before. The end of the node is the end of it.
    pub(super) fn flush_later(&self, delay_s: u64) {
        let keyspace = Arc::clone(&self.keyspace);
        let task = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(delay_s)).await;
            match flush(keyspace.as_ref()).await {
                Ok(keys) => tracing::info!(keys, "a flush_all whose time had come removed all keys"),
                Err(failure) => {
                    tracing::warn!(%failure, "a flush_all whose time had come ended before all keys were removed; send it again");
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
    const PROTECTED: &'static str = "SERVER_ERROR protected mode: this node serves only clients on its own machine, since no \
        password is set for the default user. Set requirepass or an ACL file, or protected_mode = false if the network is trusted\r\n";

    fn door(&self) -> &Door {
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
