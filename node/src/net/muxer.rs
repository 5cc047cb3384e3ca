//! The multiplexer of a connection, closed at once where this side closes it.
//!
//! yamux closes in good order: it flushes first, and wakes none of its substreams. Of a connection that carries nothing any more
//! (the very one that is closed for that) the flush does not end, and a link that waits for an answer, or for the peer to
//! take more, then waits for ever, with all calls after it. So the order is skipped: the multiplexer is dropped, which ends
//! every substream, and the peer sees the end of the connection. Calls under way end as lost, as after any broken connection.

use std::pin::Pin;
use std::task::{Context, Poll};

use libp2p::core::StreamMuxer;
use libp2p::core::muxing::StreamMuxerEvent;

/// A multiplexer that is closed by being dropped.
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
