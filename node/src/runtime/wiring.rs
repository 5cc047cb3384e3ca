//! Connection of the network with the node and its topology log, which are created later.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::Node;
use super::control::{CONTROL_BYTES_MAX, Control, ControlAnswer, Envelope};
use super::generation::{answer_early, envelope};
use crate::id::NodeId;
use crate::net::{Class, Handler, Peers, Responder, wire};
use crate::topology::{RaftTransport, Topology};

/// Receiver of the network's calls: the node, once it exists. Before, it only reports the log that this node
/// follows, and leaves other calls unanswered.
#[derive(Default)]
pub(super) struct Inbound {
    pub(super) node: OnceLock<Arc<Node>>,
    pub(super) topology: OnceLock<Topology>,
}

impl Inbound {
    fn answer_early(&self, body: &[u8], reply: Responder) {
        let Some(topology) = self.topology.get() else { return };
        if let Some(answer) = answer_early(&topology.state(), body) {
            reply.send(answer);
        }
    }
}

impl Handler for Inbound {
    fn on_call(&self, from: NodeId, class: Class, body: Bytes, reply: Responder) {
        match self.node.get() {
            Some(node) => node.on_call(from, class, body, reply),
            None if class == Class::Control => self.answer_early(&body, reply),
            None => {}
        }
    }

    fn on_gossip(&self, from: NodeId, data: Vec<u8>) {
        if let Some(node) = self.node.get() {
            node.on_gossip(from, &data);
        }
    }

    fn on_peer(&self, peer: NodeId, connected: bool) {
        tracing::debug!(%peer, connected, "peer connection");
    }
}

/// The topology log's access to its peers: each message names the generation of the log.
pub(super) struct LogTransport {
    pub(super) peers: Peers,
    pub(super) inbound: Arc<Inbound>,
    /// The generation for which this node gave up its own; see [`super::superseded_log`].
    pub(super) floor: u32,
}

impl RaftTransport for LogTransport {
    fn call(&self, to: NodeId, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let question = Control::Raft(body);
        let envelope = match self.inbound.topology.get() {
            Some(topology) => envelope(&topology.state(), self.floor, question),
            None => Envelope::without_state(question),
        };
        let call = self.peers.call(to, Class::Control, wire::encode(&envelope).into());
        let inbound = Arc::clone(&self.inbound);
        Box::pin(async move {
            let body = call.await.map_err(|error| error.to_string())?;
            match wire::decode::<ControlAnswer, CONTROL_BYTES_MAX>(&body) {
                Ok(ControlAnswer::Raft(body)) => Ok(body),
                Ok(ControlAnswer::OtherGeneration { generation, reason }) => {
                    if let Some(node) = inbound.node.get() {
                        node.learn_generation(generation, to);
                    }
                    Err(reason)
                }
                Ok(other) => Err(format!("an answer to another question: {other:?}")),
                Err(error) => Err(error.to_string()),
            }
        })
    }
}
