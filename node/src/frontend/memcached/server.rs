//! Accepts memcached clients, as many as are allowed together with those of other front ends, until the node stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::connection::Connection;
use crate::frontend::flush::flush;
use crate::frontend::keyspace::Keyspace;
use crate::frontend::resp::Limits;
use crate::frontend::security::{Security, TurnedAway};
use crate::frontend::stats::Stats;

/// How long a connection may go on after the node began to stop: time to answer what it has read.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const TOO_MANY: &str = "ERROR Too many open connections\r\n";
/// What a client from another machine is told while everybody would be let in.
const PROTECTED: &str = "SERVER_ERROR protected mode: this node serves only clients on its own machine, since no password is set for \
    the default user. Set requirepass or an ACL file, or protected_mode = false if the network is trusted\r\n";
/// Pause after an accept that failed, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
pub struct Server {
    pub(super) keyspace: Arc<dyn Keyspace>,
    pub(super) stats: Arc<Stats>,
    pub(super) limits: Limits,
    pub(super) security: Security,
    /// The removal of all keys that waits for its time: the last one asked for, as in memcached.
    flush: Mutex<Option<AbortHandle>>,
}

impl Server {
    /// A front end of `keyspace` that counts in `stats`, which it shares with the others: so do they the limit of
    /// connections.
    pub fn new(
        keyspace: Arc<dyn Keyspace>,
        stats: Arc<Stats>,
        limits: Limits,
        security: Security,
    ) -> Arc<Self> {
        Arc::new(Self { keyspace, stats, limits, security, flush: Mutex::default() })
    }

    /// Serves `listener` until `stopping` says so, or its sender is gone; then waits for the connections to end.
    pub async fn run(self: Arc<Self>, listener: TcpListener, stopping: watch::Receiver<bool>) {
        let mut stop = stopping.clone();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stopped(&mut stop) => break,
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a memcached connection ended abnormally");
                    }
                }
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.open(stream, peer, &stopping, &mut connections),
                    Err(error) => {
                        tracing::warn!(%error, "a memcached connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        self.set_flush(None);
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIMEOUT, all_ended).await.is_err() {
            tracing::warn!("memcached connections that did not take their answers were cut");
        }
    }

    fn open(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        stopping: &watch::Receiver<bool>,
        connections: &mut JoinSet<()>,
    ) {
        if self.stats.connections() >= self.limits.connections_max {
            self.stats.connection_refused();
            connections.spawn(refuse(stream, TOO_MANY));
            return;
        }
        // A small reply must not wait for more to send.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "a connection was gone before it was served");
            return;
        }
        let guard = self.stats.connection_opened();
        let (server, stopping) = (Arc::clone(self), stopping.clone());
        connections.spawn(async move {
            let _open = guard;
            match server.serve(stream, peer, stopping).await {
                Ok(()) => tracing::trace!(%peer, "memcached connection closed"),
                Err(error) => tracing::debug!(%peer, %error, "memcached connection lost"),
            }
        });
    }

    /// One accepted connection, from its first byte on.
    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        stopping: watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        match self.security.enter(stream, peer).await {
            Ok(stream) => Connection::new(self, stream, peer).run(stopping).await,
            Err(TurnedAway::Handshake(error)) => {
                self.stats.handshake_failed();
                Err(error)
            }
            Err(TurnedAway::Protected(stream)) => {
                self.stats.connection_refused();
                refuse(stream, PROTECTED).await;
                Ok(())
            }
        }
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

/// Waits until the node stops. A sender that is gone means the same.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    drop(stopping.wait_for(|stopping| *stopping).await);
}

/// Says why, as memcached does; a client that does not listen is not waited for.
async fn refuse(mut stream: impl AsyncWrite + Unpin, why: &'static str) {
    let told = async {
        stream.write_all(why.as_bytes()).await?;
        stream.flush().await
    };
    drop(tokio::time::timeout(Duration::from_secs(1), told).await);
}
