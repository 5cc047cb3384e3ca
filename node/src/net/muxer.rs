//! Closes a connection's multiplexer immediately when this side closes the connection.
//!
//! yamux closes gracefully: it flushes first, and wakes none of its substreams. On a dead connection the
//! flush never ends: a link that waits for an answer, or for the peer to read, would wait for ever, and so
//! would all later calls.
//!
//! [`ClosedAtOnce`] therefore drops the multiplexer. The drop ends every substream, and the peer sees the end
//! of the connection. Calls in flight end as lost, as after any broken connection.

use std::pin::Pin;
use std::task::{Context, Poll};

use libp2p::core::StreamMuxer;
use libp2p::core::muxing::StreamMuxerEvent;

/// A multiplexer whose `poll_close` returns at once, so that it is dropped instead of closed gracefully.
pub(super) struct ClosedAtOnce<M>(pub(super) M);

impl<M: StreamMuxer + Unpin> ClosedAtOnce<M> {
    fn inner(self: Pin<&mut Self>) -> Pin<&mut M> {
        Pin::new(&mut self.get_mut().0)
    }
}

impl<M: StreamMuxer + Unpin> StreamMuxer for ClosedAtOnce<M> {
    type Substream = M::Substream;
    type Error = M::Error;

    fn poll_inbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<M::Substream, M::Error>> {
        self.inner().poll_inbound(cx)
    }

    fn poll_outbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<M::Substream, M::Error>> {
        self.inner().poll_outbound(cx)
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        Poll::Ready(Ok(()))
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        self.inner().poll(cx)
    }
}
