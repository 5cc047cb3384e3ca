//! Incoming connections that are not admitted yet: limited in number, and each in bytes and in time.
//!
//! When all slots are taken, the node closes the oldest pending connection of the address that holds the
//! most. A member that can finish its admission therefore connects, however many silent connections are
//! pending. A flood from one address cannot keep other addresses out.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite, FutureExt as _};
use libp2p::Multiaddr;
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use tokio::sync::oneshot;

use super::address::socket_addr;
use super::admission::{AdmissionError, HANDSHAKE_MS_MAX};
use crate::supervise::contained;

/// Maximum of bytes a connection may send before it is admitted. An admission takes less than 1000.
pub(super) const BYTES_MAX: usize = 16 * 1024;

tokio::task_local! {
    /// The allowance of the connection whose admission is being polled.
    static ALLOWANCE: Arc<Allowance>;
}

/// Bytes that a connection has used of its allowance, and whether it is admitted.
#[derive(Debug, Default)]
struct Allowance {
    used: AtomicUsize,
    admitted: AtomicBool,
}

/// Marks the connection whose admission runs in this task as admitted.
pub(super) fn admit() {
    // A connection that this node opened has no allowance: `try_with` fails.
    let _ = ALLOWANCE.try_with(|allowance| allowance.admitted.store(true, Ordering::Relaxed));
}

/// A socket that fails when it receives too many bytes before its connection is admitted.
pub(super) struct Metered<S> {
    socket: S,
    allowance: Option<Arc<Allowance>>,
}

impl<S> Metered<S> {
    /// Creates a socket, which is metered if it is created during the admission of an incoming connection.
    pub(super) fn new(socket: S) -> Self {
        Self { socket, allowance: ALLOWANCE.try_with(Arc::clone).ok() }
    }

    fn take(&mut self, bytes: usize) -> io::Result<()> {
        let Some(allowance) = &self.allowance else { return Ok(()) };
        if allowance.admitted.load(Ordering::Relaxed) {
            self.allowance = None;
        } else if allowance.used.fetch_add(bytes, Ordering::Relaxed) + bytes > BYTES_MAX {
            let why = format!("more than {BYTES_MAX} bytes before it was admitted");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if let Poll::Ready(Ok(bytes)) = &read {
            self.take(*bytes)?;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, parts)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx)
    }
}

/// Connections pending admission, oldest first: their address, and the sender that makes them close.
#[derive(Debug)]
struct Waiting {
    most: usize,
    queue: VecDeque<(Option<IpAddr>, oneshot::Sender<()>)>,
}

impl Waiting {
    /// Adds a pending connection, and closes another one if all slots are taken. The returned receiver
    /// resolves when the added connection must close.
    fn enter(&mut self, from: Option<IpAddr>) -> oneshot::Receiver<()> {
        self.queue.retain(|(_, go)| !go.is_closed());
        while self.queue.len() >= self.most.max(1)
            && let Some((_, go)) = self.victim().and_then(|place| self.queue.remove(place))
        {
            // The send fails if that connection has just been admitted.
            let _ = go.send(());
        }
        let (go, told) = oneshot::channel();
        self.queue.push_back((from, go));
        told
    }

    /// Returns the position of the oldest connection of the address that holds the most. If several addresses
    /// hold as many, it is the oldest of all.
    fn victim(&self) -> Option<usize> {
        let mut counts: HashMap<Option<IpAddr>, usize> = HashMap::new();
        for (from, _) in &self.queue {
            *counts.entry(*from).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        self.queue.iter().position(|(from, _)| counts.get(from) == Some(&most))
    }
}

/// A transport that limits its incoming connections until they are admitted.
pub(super) struct PendingAdmissions<O> {
    inner: Boxed<O>,
    waiting: Waiting,
}

impl<O> PendingAdmissions<O> {
    /// Creates a transport with at most `most` pending connections.
    pub(super) fn new(inner: Boxed<O>, most: usize) -> Self {
        Self { inner, waiting: Waiting { most, queue: VecDeque::new() } }
    }
}

impl<O: Send + 'static> Transport for PendingAdmissions<O> {
    type Output = O;
    type Error = io::Error;
    type ListenerUpgrade = BoxFuture<'static, io::Result<O>>;
    type Dial = <Boxed<O> as Transport>::Dial;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        self.inner.dial(addr, opts)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        let event = std::task::ready!(Pin::new(&mut self.inner).poll(cx));
        let from = match &event {
            TransportEvent::Incoming { send_back_addr, .. } => socket_addr(send_back_addr),
            _ => None,
        };
        Poll::Ready(event.map_upgrade(|upgrade| {
            let told_to_go = self.waiting.enter(from.map(|addr| addr.ip()));
            let limit = Duration::from_millis(HANDSHAKE_MS_MAX);
            let allowance = Arc::new(Allowance::default());
            // A panic caused by the input of a connection that is not admitted must not end the node.
            let upgrade = AssertUnwindSafe(contained(upgrade)).catch_unwind().map(|outcome| {
                outcome.unwrap_or_else(|_| Err(io::Error::other("the admission of a peer panicked")))
            });
            let upgrade = tokio::time::timeout(limit, ALLOWANCE.scope(Arc::clone(&allowance), upgrade));
            Box::pin(async move {
                tokio::select! {
                    biased;
                    outcome = upgrade => match outcome {
                        Err(_) => Err(io::Error::other(AdmissionError::TimedOut)),
                        // The peer was admitted, but already has a connection and needs no second one.
                        Ok(Err(error)) if allowance.admitted.load(Ordering::Relaxed) => {
                            Err(io::Error::new(io::ErrorKind::ConnectionAborted, error))
                        }
                        Ok(outcome) => outcome,
                    },
                    _ = told_to_go => Err(io::Error::other(AdmissionError::GaveWay)),
                }
            }) as Self::ListenerUpgrade
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn when_the_door_is_full_the_oldest_of_the_most_frequent_address_goes() {
        let mut waiting = Waiting { most: 4, queue: VecDeque::new() };
        let mut member = waiting.enter(ip(1));
        let mut strangers: Vec<_> = (0..4).map(|_| waiting.enter(ip(2))).collect();
        let mut is_told = |at: usize| strangers[at].try_recv().is_ok();
        assert_eq!([0, 1, 2, 3].map(&mut is_told), [true, false, false, false]);
        assert!(member.try_recv().is_err(), "the only connection of its address stays");
        let mut more: Vec<_> = (0..100).map(|_| waiting.enter(ip(2))).collect();
        assert!(member.try_recv().is_err());
        assert_eq!(more.iter_mut().filter_map(|told| told.try_recv().ok()).count(), 97);
    }

    #[test]
    fn who_has_finished_makes_room() {
        let mut waiting = Waiting { most: 2, queue: VecDeque::new() };
        let mut first = waiting.enter(ip(1));
        drop(waiting.enter(ip(1)));
        let _third = waiting.enter(ip(1));
        assert!(first.try_recv().is_err());
    }
}
