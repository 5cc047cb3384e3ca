//! Accepts client connections, as many as are allowed, until the node stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::connection::Connection;
use super::parser::Bounds;
use crate::access::Access;
use crate::frontend::clients::Clients;
use crate::frontend::keyspace::Keyspace;
use crate::frontend::security::{Security, TurnedAway};
use crate::frontend::slowlog::SlowLog;
use crate::frontend::stats::Stats;

/// Bytes a request may have beyond its largest value: its keys, its other arguments, further small values.
const REQUEST_OVERHEAD_BYTES: usize = 16 << 20;
/// Most arguments of one command (Redis's own limit).
const ARGS_MAX: usize = 1024 * 1024;
/// How long a connection may go on after the node began to stop: time to answer what it has read.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after an accept that failed, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TOO_MANY: &str = "-ERR max number of clients reached\r\n";
/// Redis's words, with the names of the settings here.
const PROTECTED: &str = "-DENIED Caskade is running in protected mode because protected mode is enabled and no \
    password is set for the default user. In this mode connections are only accepted from the loopback interface. If \
    you want to connect from external computers to Caskade you may adopt one of the following solutions: \
    1) Set an authentication password for the default user: give the node requirepass, or send 'ACL SETUSER default \
    resetpass >password' from the loopback interface (with an ACL file, 'ACL SAVE' makes it permanent). \
    2) Demand client certificates: give the node tls_cert, tls_key, tls_ca and tls_auth_clients=yes. \
    3) Just disable protected mode by giving the node protected_mode=false, and then restarting it, however MAKE SURE \
    Caskade is not publicly accessible from internet if you do so. NOTE: You only need to do one of the above things \
    in order for the server to start accepting connections from the outside.\r\n";

/// Bounds of the front end.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at one time.
    pub connections_max: u64,
    /// Commands of one connection under way at one time.
    pub pipeline_max: usize,
    /// Longest value, bytes.
    pub value_bytes_max: usize,
    /// Whether DEBUG is allowed.
    pub debug_commands: bool,
}

impl Limits {
    pub(super) fn requests(&self) -> Bounds {
        Bounds {
            bulk_bytes_max: self.value_bytes_max,
            args_max: ARGS_MAX,
            request_bytes_max: self.value_bytes_max.saturating_add(REQUEST_OVERHEAD_BYTES),
        }
    }
}

/// What all connections share.
pub struct Server {
    pub(super) keyspace: Arc<dyn Keyspace>,
    pub(super) stats: Arc<Stats>,
    pub(super) limits: Limits,
    pub(super) access: Arc<Access>,
    security: Security,
    /// The limit on connections as it is now.
    pub(super) connections_max: AtomicU64,
    pub(super) clients: Arc<Clients>,
    pub(super) slowlog: SlowLog,
    next_client: AtomicU64,
}

impl Server {
    /// A front end of `keyspace` that counts in `stats`, and lets in whom `security` does.
    pub fn new(
        keyspace: Arc<dyn Keyspace>,
        stats: Arc<Stats>,
        limits: Limits,
        security: Security,
    ) -> Arc<Self> {
        Arc::new(Self {
            keyspace,
            stats,
            limits,
            access: Arc::clone(&security.access),
            security,
            connections_max: AtomicU64::new(limits.connections_max),
            clients: Arc::default(),
            slowlog: SlowLog::default(),
            next_client: AtomicU64::new(1),
        })
    }

    /// Serves `listener` until `stopping` says so, or its sender is gone; then waits for the connections to end.
    pub async fn run(self: Arc<Self>, listener: TcpListener, stopping: watch::Receiver<bool>) {
        let mut stop = stopping.clone();
        if let Some(tls) = &self.security.tls {
            tokio::spawn(Arc::clone(tls).keep_fresh(stopping.clone()));
        }
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stopped(&mut stop) => break,
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a client connection ended abnormally");
                    }
                }
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.open(stream, peer, &stopping, &mut connections),
                    Err(error) => {
                        tracing::warn!(%error, "a client connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIMEOUT, all_ended).await.is_err() {
            tracing::warn!("client connections that did not take their answers were cut");
        }
    }

    fn open(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        stopping: &watch::Receiver<bool>,
        connections: &mut JoinSet<()>,
    ) {
        if self.stats.connections() >= self.connections_max.load(Ordering::Relaxed) {
            self.stats.connection_refused();
            // Without a handshake there is no way to tell a client that expects one.
            if self.security.tls.is_none() {
                connections.spawn(refuse(stream, TOO_MANY));
            }
            return;
        }
        // A small reply must not wait for more to send.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "a connection was gone before it was served");
            return;
        }
        let guard = self.stats.connection_opened();
        let id = self.next_client.fetch_add(1, Ordering::Relaxed);
        let (server, stopping) = (Arc::clone(self), stopping.clone());
        connections.spawn(async move {
            let _open = guard;
            let stream = match server.security.enter(stream, peer).await {
                Ok(stream) => stream,
                Err(turned_away) => return server.turn_away(turned_away, peer).await,
            };
            match Connection::new(server, stream, peer, id).run(stopping).await {
                Ok(()) => tracing::trace!(%peer, "client connection closed"),
                Err(error) => tracing::debug!(%peer, %error, "client connection lost"),
            }
        });
    }

    async fn turn_away(&self, turned_away: TurnedAway, peer: SocketAddr) {
        match turned_away {
            TurnedAway::Handshake(error) => {
                self.stats.handshake_failed();
                tracing::debug!(%peer, %error, "no TLS came about with a client");
            }
            TurnedAway::Protected(stream) => {
                self.stats.connection_refused();
                tracing::debug!(%peer, "a client was turned away by protected mode");
                refuse(stream, PROTECTED).await;
            }
        }
    }
}

/// Waits until the node stops. A sender that is gone means the same.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    drop(stopping.wait_for(|stopping| *stopping).await);
}

/// Says why, as Redis does; a client that does not listen is not waited for.
async fn refuse(mut stream: impl AsyncWrite + Unpin, why: &'static str) {
    let told = async {
        stream.write_all(why.as_bytes()).await?;
        stream.flush().await?;
        stream.shutdown().await
    };
    drop(tokio::time::timeout(Duration::from_secs(1), told).await);
}
