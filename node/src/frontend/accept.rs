//! Accepts client connections, as many as are allowed, until the node stops: the same for all front ends.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::limits::Limits;
use super::security::{Security, Stream, TurnedAway};
use super::stats::Stats;

/// How long a connection may go on after the node began to stop: time to answer what it has read.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after an accept that failed, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a client that is turned away is given to take the reason.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// After so long a silence the system asks whether the client's machine is still there (as in Redis).
const KEEPALIVE: Duration = Duration::from_secs(300);

/// What the front ends of a node have in common.
#[derive(Clone, Debug)]
pub struct Door {
    /// Where they count.
    pub stats: Arc<Stats>,
    /// The bounds of them all together.
    pub limits: Arc<Limits>,
    /// Who gets in.
    pub security: Security,
}

/// A protocol that clients speak.
pub(super) trait FrontEnd: Send + Sync + Sized + 'static {
    /// Its name in the log.
    const NAME: &'static str;
    /// What a client is told that is one too many.
    const TOO_MANY: &'static str;
    /// What a client from another machine is told while everybody would be let in.
    const PROTECTED: &'static str;

    /// What it has in common with the others.
    fn door(&self) -> &Door;

    /// Serves a client until it goes, or the node stops.
    fn serve(
        self: Arc<Self>,
        stream: Stream,
        peer: SocketAddr,
        stopping: watch::Receiver<bool>,
    ) -> impl Future<Output = io::Result<()>> + Send;
}

/// Serves `listener` until `stopping` says so, or its sender is gone; then waits for the connections to end.
pub(super) async fn run<F: FrontEnd>(
    front_end: Arc<F>,
    listener: TcpListener,
    stopping: watch::Receiver<bool>,
) {
    let mut stop = stopping.clone();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a {} connection ended abnormally", F::NAME);
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => open(&front_end, stream, peer, &stopping, &mut connections),
                Err(error) => {
                    tracing::warn!(%error, "a {} connection could not be accepted", F::NAME);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_TIMEOUT, all_ended).await.is_err() {
        tracing::warn!("{} connections that did not take their answers were cut", F::NAME);
    }
}

fn open<F: FrontEnd>(
    front_end: &Arc<F>,
    stream: TcpStream,
    peer: SocketAddr,
    stopping: &watch::Receiver<bool>,
    connections: &mut JoinSet<()>,
) {
    let Door { stats, limits, security } = front_end.door();
    if stats.connections() >= limits.connections_max.load(Ordering::Relaxed) {
        stats.connection_refused();
        // Without a handshake there is no way to tell a client that expects one.
        if security.tls.is_none() {
            connections.spawn(refuse(stream, F::TOO_MANY));
        }
        return;
    }
    // A small reply must not wait for more to send.
    let prepared = stream.set_nodelay(true).and_then(|()| {
        SockRef::from(&stream)
            .set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3))
    });
    if let Err(error) = prepared {
        tracing::debug!(%peer, %error, "a connection was gone before it was served");
        return;
    }
    let guard = stats.connection_opened();
    let (front_end, stopping) = (Arc::clone(front_end), stopping.clone());
    connections.spawn(async move {
        let _open = guard;
        match enter(front_end, stream, peer, stopping).await {
            Ok(()) => tracing::trace!(%peer, "{} connection closed", F::NAME),
            Err(error) => tracing::debug!(%peer, %error, "{} connection lost", F::NAME),
        }
    });
}

/// One accepted connection, from its first byte on.
async fn enter<F: FrontEnd>(
    front_end: Arc<F>,
    stream: TcpStream,
    peer: SocketAddr,
    stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    let Door { stats, security, .. } = front_end.door();
    match security.enter(stream, peer).await {
        // Boxed, so that a connection is as small as what it is doing.
        Ok(stream) => Box::pin(front_end.serve(stream, peer, stopping)).await,
        Err(TurnedAway::Handshake(error)) => {
            stats.handshake_failed();
            Err(error)
        }
        Err(TurnedAway::Protected(stream)) => {
            stats.connection_refused();
            tracing::debug!(%peer, "a client was turned away by protected mode");
            refuse(stream, F::PROTECTED).await;
            Ok(())
        }
    }
}

/// Waits until the node stops. A sender that is gone means the same.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    drop(stopping.wait_for(|stopping| *stopping).await);
}

/// Says why, in the protocol's words; a client that does not listen is not waited for.
async fn refuse(mut stream: impl AsyncWrite + Unpin, why: &'static str) {
    let told = async {
        stream.write_all(why.as_bytes()).await?;
        stream.flush().await?;
        stream.shutdown().await
    };
    drop(tokio::time::timeout(REFUSAL_TIMEOUT, told).await);
}
