//! Accepts the client connections of a protocol up to their limit, until the node stops.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::connection::{Connection, stopped};
use super::context::FrontEndContext;
use super::protocol::{Accepted, ClientProtocol, Place};
use super::security::{Stream, TurnedAway};
use super::tls::Tls;
use crate::machine::OPERATOR_CONNECTIONS;
use crate::supervise::contained;

/// Time that connections get, after the node has begun to stop, to answer the commands that they have read.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time a rejected client gets to read the reason.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Clients that are rejected at one time with [`REFUSAL_TIMEOUT`] to read the reason.
const REFUSALS_MAX: usize = 64;
/// Time a client gets to read the reason when the node has no file descriptor for other clients.
const SHORT_REFUSAL_TIMEOUT: Duration = Duration::from_millis(250);
/// Interval at which the lack of file descriptors is logged.
const SHORT_LOGGED_EVERY: Duration = Duration::from_secs(10);
/// Maximum reads of a rejected client's input, which is dropped.
const UNREAD_READS_MAX: usize = 64;
/// Time without traffic after which the system probes whether the client's machine is up (as in Redis).
const KEEPALIVE: Duration = Duration::from_secs(300);

/// Serves the clients of one protocol on `listener` until `stopping` is `true` or its sender is dropped. Then
/// waits at most [`STOP_TIMEOUT`] for the connections to end.
pub(super) async fn run<P: ClientProtocol>(
    state: P::State,
    listener: TcpListener,
    stopping: watch::Receiver<bool>,
) {
    let state = Arc::new(state);
    accept::<P>(Arc::clone(&state), listener, stopping).await;
    P::stop(&state);
}

async fn accept<P: ClientProtocol>(
    state: Arc<P::State>,
    listener: TcpListener,
    stopping: watch::Receiver<bool>,
) {
    let mut stop = stopping.clone();
    let mut entrance = Entrance::<P> {
        state,
        listener,
        stopping,
        connections: JoinSet::new(),
        refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
        spare: spare_file(),
        short: None,
    };
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            Some(ended) = entrance.connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(front_end = P::NAME, %error, "a client connection ended abnormally");
                }
            }
            accepted = entrance.listener.accept() => match accepted {
                Ok((stream, peer)) if entrance.has_spare() => entrance.open(stream, peer),
                Ok((stream, _)) => entrance.trade_for_spare(stream).await,
                Err(error) if is_out_of_files(&error) => entrance.turn_one_away(&error).await,
                Err(error) => {
                    tracing::warn!(front_end = P::NAME, %error, "cannot accept a client connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    let Entrance { listener, mut connections, .. } = entrance;
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_TIMEOUT, all_ended).await.is_err() {
        tracing::warn!(
            front_end = P::NAME,
            "closed connections at the stop of the node although replies were still to be sent"
        );
    }
}

/// A listening port, and its connections.
struct Entrance<P: ClientProtocol> {
    state: Arc<P::State>,
    listener: TcpListener,
    stopping: watch::Receiver<bool>,
    connections: JoinSet<()>,
    /// Permits for rejecting clients with time to read the reason.
    refusals: Arc<Semaphore>,
    /// A spare file descriptor. When no other is free, it is closed to accept a client and reject it with an
    /// error.
    spare: Option<File>,
    /// Time of the last log line about missing file descriptors.
    short: Option<Instant>,
}

impl<P: ClientProtocol> Entrance<P> {
    fn open(&mut self, stream: TcpStream, peer: SocketAddr) {
        let FrontEndContext { stats, limits, .. } = P::context(&self.state);
        let (open, most) = (stats.connections(), limits.connections_max.load(Ordering::Relaxed));
        let place = if open < most {
            Place::Client
        } else if P::OPERATORS && open < most.saturating_add(OPERATOR_CONNECTIONS) {
            Place::Operator
        } else {
            return self.turn_away(stream);
        };
        // Without TCP_NODELAY a small reply would wait for more data.
        let prepared = stream.set_nodelay(true).and_then(|()| {
            SockRef::from(&stream)
                .set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3))
        });
        if let Err(error) = prepared {
            tracing::debug!(%peer, %error, "a client disconnected before it was served");
            return;
        }
        let guard = stats.connection_opened(place == Place::Client);
        let (state, stopping) = (Arc::clone(&self.state), self.stopping.clone());
        // A panic in this task ends only this connection: no client may end the node with one bad request.
        self.connections.spawn(contained(async move {
            let _open = guard;
            match enter::<P>(state, stream, (peer, place), stopping).await {
                Ok(()) => tracing::trace!(front_end = P::NAME, %peer, "client connection closed"),
                Err(error) => tracing::debug!(front_end = P::NAME, %peer, %error, "client connection lost"),
            }
        }));
    }

    /// Rejects a client beyond the limit on connections. Beyond [`REFUSALS_MAX`] rejections at one time, it
    /// does not wait for the client to read the reason.
    fn turn_away(&mut self, stream: TcpStream) {
        let FrontEndContext { stats, security, .. } = P::context(&self.state);
        stats.connection_refused();
        match Arc::clone(&self.refusals).try_acquire_owned() {
            Ok(permit) => {
                let tls = security.tls.clone();
                self.connections.spawn(contained(async move {
                    let _permit = permit;
                    refuse_one_too_many::<P>(stream, tls, REFUSAL_TIMEOUT).await;
                }));
            }
            // The error is sent if the socket's buffer has room for it; nothing waits.
            Err(_) if security.tls.is_none() => drop(SockRef::from(&stream).send(P::TOO_MANY.as_bytes())),
            Err(_) => {}
        }
    }

    /// Returns whether the spare file descriptor is open; first opens it if another part of the process took
    /// its place.
    fn has_spare(&mut self) -> bool {
        if self.spare.is_none() {
            self.spare = spare_file();
        }
        self.spare.is_some()
    }

    /// Rejects a client that was accepted with the last file descriptor, which becomes the spare one. If this
    /// client were served, no descriptor would be left, and the next clients would wait without an answer.
    async fn trade_for_spare(&mut self, stream: TcpStream) {
        self.log_shortage(&Errno::MFILE.into());
        self.reject(stream).await;
        self.spare = spare_file();
    }

    /// Accepts one connection with the spare file descriptor, rejects its client and closes it. Otherwise the
    /// client would wait without an answer until a descriptor is free.
    async fn turn_one_away(&mut self, error: &io::Error) {
        self.log_shortage(error);
        if let Some(spare) = self.spare.take() {
            drop(spare);
            match self.listener.accept().now_or_never() {
                Some(Ok((stream, _))) => self.reject(stream).await,
                // No client waits: without a descriptor the system fails before it looks for a connection.
                // The number must not stay free, because any other part of the process may take it.
                None => {}
                // Another part of the process took the freed descriptor.
                Some(Err(_)) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        } else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
        self.spare = spare_file();
    }

    /// Counts and rejects a client for which no file descriptor is left.
    async fn reject(&self, stream: TcpStream) {
        let FrontEndContext { stats, security, .. } = P::context(&self.state);
        stats.connection_refused();
        refuse_one_too_many::<P>(stream, security.tls.clone(), SHORT_REFUSAL_TIMEOUT).await;
    }

    /// Logs that no file descriptor is left, at most once in [`SHORT_LOGGED_EVERY`].
    fn log_shortage(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.short.is_none_or(|logged| now.saturating_duration_since(logged) >= SHORT_LOGGED_EVERY) {
            self.short = Some(now);
            tracing::warn!(
                front_end = P::NAME,
                %error,
                "no file is left for another client connection: the node rejects new clients until others \
                 disconnect; raise the limit of open files (ulimit -n, or LimitNOFILE of the service), or \
                 lower max_clients or max_open_files"
            );
        }
    }
}

fn spare_file() -> Option<File> {
    File::open("/dev/null").ok()
}

fn is_out_of_files(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Rejects a client beyond the limit on connections, over TLS if the port uses TLS.
async fn refuse_one_too_many<P: ClientProtocol>(stream: TcpStream, tls: Option<Arc<Tls>>, limit: Duration) {
    let told = async {
        match tls {
            None => refuse(stream, P::TOO_MANY).await,
            Some(tls) => match tls.accept(stream).await {
                Ok(stream) => refuse(stream, P::TOO_MANY).await,
                Err(error) => tracing::debug!(%error, "the TLS handshake of a rejected client failed"),
            },
        }
    };
    drop(tokio::time::timeout(limit, told).await);
}

/// Runs one accepted connection from its first byte on.
async fn enter<P: ClientProtocol>(
    state: Arc<P::State>,
    stream: TcpStream,
    (peer, place): (SocketAddr, Place),
    stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    let FrontEndContext { stats, security, .. } = P::context(&state);
    match security.enter(stream, peer).await {
        // Boxed, so that the future of a connection that is still in its handshake stays small.
        Ok(stream) => Box::pin(serve::<P>(Arc::clone(&state), stream, (peer, place), stopping)).await,
        Err(TurnedAway::Handshake(error)) => {
            stats.handshake_failed();
            Err(error)
        }
        Err(TurnedAway::Protected(stream)) => {
            stats.connection_refused();
            tracing::debug!(%peer, "protected mode rejected a client");
            refuse(stream, P::PROTECTED).await;
            Ok(())
        }
    }
}

/// Serves a client until it disconnects or the node stops.
async fn serve<P: ClientProtocol>(
    state: Arc<P::State>,
    stream: Stream,
    (peer, place): (SocketAddr, Place),
    stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    let accepted = Accepted { peer, local: stream.tcp().local_addr().ok(), place };
    Connection::<P, _>::new(state, stream, accepted).run(stopping).await
}

/// Sends the reason of a rejection and closes the connection. Waits at most [`REFUSAL_TIMEOUT`].
async fn refuse(mut stream: impl AsyncRead + AsyncWrite + Unpin, why: &'static str) {
    let told = async {
        stream.write_all(why.as_bytes()).await?;
        stream.flush().await?;
        stream.shutdown().await?;
        // A socket closed with unread input sends a reset, which can overtake the reason.
        let mut unread = [0; 1024];
        for _ in 0..UNREAD_READS_MAX {
            if stream.read(&mut unread).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    drop(tokio::time::timeout(REFUSAL_TIMEOUT, told).await);
}
