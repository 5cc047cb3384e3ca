//! Accepts client connections, as many as are allowed, until the node stops: the same for all front ends.

use std::fs::File;
use std::future::Future;
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

use super::limits::Limits;
use super::security::{Security, Stream, TurnedAway};
use super::stats::Stats;
use super::tls::Tls;
use crate::machine::OPERATOR_CONNECTIONS;
use crate::supervise::contained;

/// How long a connection may go on after the node began to stop: time to answer what it has read.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after an accept that failed, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a client that is turned away is given to take the reason.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Clients that are told at one time, with time to listen, that they are too many.
const REFUSALS_MAX: usize = 64;
/// How long one of them is given when there are no files for others.
const SHORT_REFUSAL_TIMEOUT: Duration = Duration::from_millis(250);
/// How often the want of files is logged.
const SHORT_LOGGED_EVERY: Duration = Duration::from_secs(10);
/// Pieces of input of a refused client that are read and dropped.
const UNREAD_READS_MAX: usize = 64;
/// How long the end of a connection may take to be sent.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
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

/// What a connection was accepted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// One of the clients.
    Client,
    /// One beyond the limit on clients, for an operator only.
    Operator,
}

/// A protocol that clients speak.
pub(super) trait FrontEnd: Send + Sync + Sized + 'static {
    /// Its name in the log.
    const NAME: &'static str;
    /// What a client is told that is one too many.
    const TOO_MANY: &'static str;
    /// Whether operators may connect beyond the limit on connections.
    const OPERATORS: bool;
    /// What a client from another machine is told while everybody would be let in.
    const PROTECTED: &'static str;

    /// What it has in common with the others.
    fn door(&self) -> &Door;

    /// Serves a client until it goes, or the node stops.
    fn serve(
        self: Arc<Self>,
        stream: Stream,
        from: (SocketAddr, Place),
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
    let mut entrance = Entrance {
        front_end,
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
                    tracing::error!(%error, "a {} connection ended abnormally", F::NAME);
                }
            }
            accepted = entrance.listener.accept() => match accepted {
                Ok((stream, peer)) => entrance.open(stream, peer),
                Err(error) if is_out_of_files(&error) => entrance.turn_one_away(&error).await,
                Err(error) => {
                    tracing::warn!(%error, "a {} connection could not be accepted", F::NAME);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    let Entrance { listener, mut connections, .. } = entrance;
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_TIMEOUT, all_ended).await.is_err() {
        tracing::warn!("{} connections that did not take their answers were cut", F::NAME);
    }
}

/// A port, and the connections that came through it.
struct Entrance<F> {
    front_end: Arc<F>,
    listener: TcpListener,
    stopping: watch::Receiver<bool>,
    connections: JoinSet<()>,
    /// How many clients can be told at one time that they are too many.
    refusals: Arc<Semaphore>,
    /// An open file that is closed when there are no others, so that a client can be told so.
    spare: Option<File>,
    /// When clients were last turned away for want of files, and that was logged.
    short: Option<Instant>,
}

impl<F: FrontEnd> Entrance<F> {
    fn open(&mut self, stream: TcpStream, peer: SocketAddr) {
        let Door { stats, limits, .. } = self.front_end.door();
        let (open, most) = (stats.connections(), limits.connections_max.load(Ordering::Relaxed));
        let place = if open < most {
            Place::Client
        } else if F::OPERATORS && open < most.saturating_add(OPERATOR_CONNECTIONS) {
            Place::Operator
        } else {
            return self.turn_away(stream);
        };
        // A small reply must not wait for more to send.
        let prepared = stream.set_nodelay(true).and_then(|()| {
            SockRef::from(&stream)
                .set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3))
        });
        if let Err(error) = prepared {
            tracing::debug!(%peer, %error, "a connection was gone before it was served");
            return;
        }
        let guard = stats.connection_opened(place == Place::Client);
        let (front_end, stopping) = (Arc::clone(&self.front_end), self.stopping.clone());
        // What panics in there ends this connection only: no client may end the node with one bad request.
        self.connections.spawn(contained(async move {
            let _open = guard;
            match enter(front_end, stream, (peer, place), stopping).await {
                Ok(()) => tracing::trace!(%peer, "{} connection closed", F::NAME),
                Err(error) => tracing::debug!(%peer, %error, "{} connection lost", F::NAME),
            }
        }));
    }

    /// Tells a client that it is one too many. Of many at one time some are told without waiting for them.
    fn turn_away(&mut self, stream: TcpStream) {
        let Door { stats, security, .. } = self.front_end.door();
        stats.connection_refused();
        match Arc::clone(&self.refusals).try_acquire_owned() {
            Ok(permit) => {
                let tls = security.tls.clone();
                self.connections.spawn(contained(async move {
                    let _permit = permit;
                    refuse_one_too_many::<F>(stream, tls, REFUSAL_TIMEOUT).await;
                }));
            }
            // What a new connection has room for is sent at once or not at all.
            Err(_) if security.tls.is_none() => drop(SockRef::from(&stream).send(F::TOO_MANY.as_bytes())),
            Err(_) => {}
        }
    }

    /// Takes a connection with the file that is kept for this, tells the client that there is no room, and closes it: else
    /// it would wait, unanswered, until a file is free.
    async fn turn_one_away(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.short.is_none_or(|logged| now.saturating_duration_since(logged) >= SHORT_LOGGED_EVERY) {
            self.short = Some(now);
            tracing::warn!(
                %error,
                "no file is left for another {} connection: clients are turned away until others go; raise the limit of \
                 open files (ulimit -n, or LimitNOFILE of the service), or lower max_clients or max_open_files",
                F::NAME
            );
        }
        let had_spare = self.spare.take().is_some();
        let accepted = if had_spare { self.listener.accept().now_or_never() } else { None };
        if let Some(Ok((stream, _))) = accepted {
            let Door { stats, security, .. } = self.front_end.door();
            stats.connection_refused();
            refuse_one_too_many::<F>(stream, security.tls.clone(), SHORT_REFUSAL_TIMEOUT).await;
        } else {
            // Something else took the file.
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
        self.spare = spare_file();
    }
}

fn spare_file() -> Option<File> {
    File::open("/dev/null").ok()
}

fn is_out_of_files(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Tells a client why it gets no connection, over TLS where it expects that.
async fn refuse_one_too_many<F: FrontEnd>(stream: TcpStream, tls: Option<Arc<Tls>>, limit: Duration) {
    let told = async {
        match tls {
            None => refuse(stream, F::TOO_MANY).await,
            Some(tls) => match tls.accept(stream).await {
                Ok(stream) => refuse(stream, F::TOO_MANY).await,
                Err(error) => tracing::debug!(%error, "a client too many ended its TLS handshake"),
            },
        }
    };
    drop(tokio::time::timeout(limit, told).await);
}

/// One accepted connection, from its first byte on.
async fn enter<F: FrontEnd>(
    front_end: Arc<F>,
    stream: TcpStream,
    (peer, place): (SocketAddr, Place),
    stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    let Door { stats, security, .. } = front_end.door();
    match security.enter(stream, peer).await {
        // Boxed, so that a connection is as small as what it is doing.
        Ok(stream) => Box::pin(front_end.serve(stream, (peer, place), stopping)).await,
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

/// Ends a connection: over TLS with a close_notify alert, by which the client tells this end from a cut (RFC 8446, 6.1).
/// Waits at most a second for a client that reads nothing.
pub(super) async fn close(stream: &mut (impl AsyncWrite + Unpin)) {
    drop(tokio::time::timeout(CLOSE_TIMEOUT, stream.shutdown()).await);
}

/// Says why, in the protocol's words; a client that does not listen is not waited for.
async fn refuse(mut stream: impl AsyncRead + AsyncWrite + Unpin, why: &'static str) {
    let told = async {
        stream.write_all(why.as_bytes()).await?;
        stream.flush().await?;
        stream.shutdown().await?;
        // Closed with input unread, the reason could be lost on its way.
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
