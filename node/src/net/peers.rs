//! The peers of a node, as the rest of it calls them: over libp2p, or over a simulated network.

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

/// What carries calls and gossip. It promises what the [module](super) says.
pub trait Transport: Send + Sync + 'static {
    /// Queues a call: see [`Peers::call_with`].
    fn push_call(&self, to: NodeId, class: Class, body: Bytes, done: Done);
    /// Replaces the address book: see [`Peers::set_peers`].
    fn set_peers(&self, peers: HashMap<NodeId, Vec<String>>);
    /// Publishes a gossip; false if it is too long, or the network too busy to take it.
    fn publish(&self, data: Vec<u8>) -> bool;
    /// Closes the connections to a peer; the next call opens one again.
    fn disconnect(&self, peer: NodeId);
    /// The IP address a peer is connected at, or was last: see [`Peers::observed`].
    fn observed(&self, _peer: NodeId) -> Option<IpAddr> {
        None
    }
    /// What the network did and holds.
    fn stats(&self) -> NetStats {
        NetStats::default()
    }
    /// The counters of what is refused: those of the network, where there is one, and of the node.
    fn refusals(&self) -> Arc<Refusals> {
        Arc::default()
    }
    /// Ends every open call, and takes no more.
    fn shutdown(&self) -> BoxFuture<'static, ()>;
}

/// This node's way to its peers. Clones are the same one.
#[derive(Clone)]
pub struct Peers(Arc<dyn Transport>);

impl Peers {
    /// The peers that this transport reaches.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self(transport)
    }

    /// Calls a peer. The call is queued before this returns: calls to one peer and class go out in the order
    /// they were made. `done` runs exactly once, on a task of the network or, if the call cannot be queued,
    /// before this returns; it must be quick.
    pub fn call_with(
        &self,
        to: NodeId,
        class: Class,
        body: Bytes,
        done: impl FnOnce(Result<Bytes, CallError>) + Send + 'static,
    ) {
        self.0.push_call(to, class, body, Done::new(done));
    }

    /// As [`Peers::call_with`], as a future. Queued by this call, not by the first poll; dropping the future
    /// does not take the call back.
    pub fn call(
        &self,
        to: NodeId,
        class: Class,
        body: Bytes,
    ) -> impl Future<Output = Result<Bytes, CallError>> + Send + use<> {
        let (sender, receiver) = oneshot::channel();
        self.call_with(to, class, body, move |result| {
            // A caller that no longer waits has dropped the receiver.
            let _ = sender.send(result);
        });
        async move {
            receiver.await.unwrap_or_else(|_| Err(CallError::Lost("the network was dropped".to_owned())))
        }
    }

    /// Replaces the address book: where each peer is reached (multiaddrs or `HOST:PORT`). Peers with new
    /// addresses are tried at once by the next call.
    pub fn set_peers(&self, peers: HashMap<NodeId, Vec<String>>) {
        self.0.set_peers(peers);
    }

    /// Publishes to the subscribed topics; false if it is too long, or the network too busy to take it.
    pub fn publish(&self, data: Vec<u8>) -> bool {
        self.0.publish(data)
    }

    /// Closes the connections to a peer; the next call opens one again.
    pub fn disconnect(&self, peer: NodeId) {
        self.0.disconnect(peer);
    }

    /// Returns the IP address a peer is connected at, or was last; `None` if it never was, or the transport has no addresses.
    pub fn observed(&self, peer: NodeId) -> Option<IpAddr> {
        self.0.observed(peer)
    }

    /// What the network did and holds.
    pub fn stats(&self) -> NetStats {
        self.0.stats()
    }

    /// The counters of what is refused, to be asked for once: a transport may make new ones each time.
    pub fn refusals(&self) -> Arc<Refusals> {
        self.0.refusals()
    }

    /// Closes every connection, and ends every open call.
    pub async fn shutdown(&self) {
        self.0.shutdown().await;
    }
}
