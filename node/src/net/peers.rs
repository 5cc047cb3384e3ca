//! The node's interface to its peers, over libp2p or over a simulated network.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

pub use super::link::Done;
use super::{CallError, Class, NetStats, Refusals};
use crate::id::NodeId;

/// Carrier of calls and gossip. It gives the guarantees of the [module](super).
pub trait Transport: Send + Sync + 'static {
    /// Queues a call: see [`Peers::call_with`].
    fn push_call(&self, to: NodeId, class: Class, body: Bytes, done: Done);
    /// Replaces the address book: see [`Peers::set_peers`].
    fn set_peers(&self, peers: HashMap<NodeId, Vec<String>>);
    /// Publishes a gossip message; returns false if it is too long, or if the network is too busy to take it.
    fn publish(&self, data: Vec<u8>) -> bool;
    /// Closes the connections to a peer; the next call opens one again.
    fn disconnect(&self, peer: NodeId);
    /// Returns the IP address at which a peer is connected, or was connected last: see [`Peers::observed`].
    fn observed(&self, _peer: NodeId) -> Option<IpAddr> {
        None
    }
    /// Returns the counters and the present contents of the network.
    fn stats(&self) -> NetStats {
        NetStats::default()
    }
    /// Returns the counters of rejections: those of the network, if it has them, and of the node.
    fn refusals(&self) -> Arc<Refusals> {
        Arc::default()
    }
    /// Ends every open call, and rejects later ones.
    fn shutdown(&self) -> BoxFuture<'static, ()>;
}

/// This node's access to its peers. Clones share one transport.
#[derive(Clone)]
pub struct Peers(Arc<dyn Transport>);

impl Peers {
    /// Creates the access to the peers that this transport reaches.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self(transport)
    }

    /// Calls a peer. The call is queued before this returns: calls to one peer and class are sent in the
    /// order they were made. `done` runs exactly once, on a task of the network or, if the call cannot be
    /// queued, before this returns. It must return quickly.
    pub fn call_with(
        &self,
        to: NodeId,
        class: Class,
        body: Bytes,
        done: impl FnOnce(Result<Bytes, CallError>) + Send + 'static,
    ) {
        self.0.push_call(to, class, body, Done::new(done));
    }

    /// Calls a peer as [`Peers::call_with`], and returns the result as a future. The call is queued before
    /// this returns, not at the first poll. Dropping the future does not cancel the call.
    pub fn call(
        &self,
        to: NodeId,
        class: Class,
        body: Bytes,
    ) -> impl Future<Output = Result<Bytes, CallError>> + Send + use<> {
        let (sender, receiver) = oneshot::channel();
        self.call_with(to, class, body, move |result| {
            // The send fails if the caller has dropped the future.
            let _ = sender.send(result);
        });
        async move {
            receiver.await.unwrap_or_else(|_| Err(CallError::Lost("the network was dropped".to_owned())))
        }
    }

    /// Replaces the address book: the addresses of each peer (multiaddrs or `HOST:PORT`). The next call to a
    /// peer with new addresses tries them without a back-off.
    pub fn set_peers(&self, peers: HashMap<NodeId, Vec<String>>) {
        self.0.set_peers(peers);
    }

    /// Publishes to the subscribed topics; returns false if the message is too long, or if the network is too
    /// busy to take it.
    pub fn publish(&self, data: Vec<u8>) -> bool {
        self.0.publish(data)
    }

    /// Closes the connections to a peer; the next call opens one again.
    pub fn disconnect(&self, peer: NodeId) {
        self.0.disconnect(peer);
    }

    /// Returns the IP address at which a peer is connected, or was connected last. `None`: it never was
    /// connected, or the transport has no addresses.
    pub fn observed(&self, peer: NodeId) -> Option<IpAddr> {
        self.0.observed(peer)
    }

    /// Returns the counters and the present contents of the network.
    pub fn stats(&self) -> NetStats {
        self.0.stats()
    }

    /// Returns the counters of rejections. Call it once and keep the result: a transport may create new
    /// counters at each call.
    pub fn refusals(&self) -> Arc<Refusals> {
        self.0.refusals()
    }

    /// Closes every connection, and ends every open call.
    pub async fn shutdown(&self) {
        self.0.shutdown().await;
    }
}
