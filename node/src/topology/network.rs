//! Messages of the consensus engine between nodes.
//!
//! This module encodes a message; a [`RaftTransport`], which knows the addresses of nodes, carries it. The
//! receiving side checks a message as far as possible before the engine handles it: the engine trusts its
//! peers and panics on messages that contradict the protocol.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::error::{
    InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, SnapshotMismatch, Unreachable,
};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{AnyError, EmptyNode, RaftNetwork, RaftNetworkFactory};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::codec;
use super::types::{Raft, TypeConfig};
use crate::clock::monotonic_ms;
use crate::cluster::lease::LastConfirmation;
use crate::id::NodeId;

/// Pause before the next attempt to reach an unreachable node.
const RETRY_MS: u64 = 250;

/// Carrier of one message to a node and of its answer.
pub trait RaftTransport: Send + Sync + 'static {
    /// Delivers `body` to `to`, whose node passes it to [`super::Topology::handle`], and returns the result.
    /// The error is the reason why no answer arrived; the node may have received the message nevertheless.
    fn call(&self, to: NodeId, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>>;
}

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<NodeId>),
    Snapshot(InstallSnapshotRequest<TypeConfig>),
}

#[derive(Debug, Serialize, Deserialize)]
enum Response {
    Append(AppendEntriesResponse<NodeId>),
    Vote(VoteResponse<NodeId>),
    Snapshot(InstallSnapshotResponse<NodeId>),
    /// The chunk does not continue the chunks received before.
    Mismatch(SnapshotMismatch),
    /// The node cannot answer, for this reason.
    Refused(String),
}

/// Factory of connections to the other nodes.
pub(super) struct Network(pub(super) Arc<dyn RaftTransport>);

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, _node: &EmptyNode) -> Peer {
        Peer { node: target, transport: Arc::clone(&self.0) }
    }
}

/// The connection to one other node.
pub(super) struct Peer {
    node: NodeId,
    transport: Arc<dyn RaftTransport>,
}

/// Reason why an exchange returned no answer of the expected kind.
enum Failure {
    Unreachable(String),
    Garbled(String),
    Mismatch(SnapshotMismatch),
}

impl Failure {
    fn of(response: Response) -> Self {
        match response {
            Response::Refused(why) => Self::Unreachable(why),
            Response::Mismatch(mismatch) => Self::Mismatch(mismatch),
            other => Self::Garbled(format!("an answer of another kind: {other:?}")),
        }
    }

    fn rpc_error<E: std::error::Error>(self) -> RPCError<NodeId, EmptyNode, E> {
        match self {
            Self::Unreachable(why) => RPCError::Unreachable(Unreachable::new(&AnyError::error(why))),
            Self::Garbled(why) => RPCError::Network(NetworkError::new(&AnyError::error(why))),
            Self::Mismatch(mismatch) => RPCError::Network(NetworkError::new(&mismatch)),
        }
    }
}

impl Peer {
    async fn exchange(&self, request: Request) -> Result<Response, Failure> {
        let body = codec::encode(&request).map_err(Failure::Garbled)?;
        let answer = self.transport.call(self.node, body.into()).await.map_err(Failure::Unreachable)?;
        codec::decode(&answer).map_err(Failure::Garbled)
    }
}

type Answer<T, E = openraft::error::Infallible> =
    Result<T, RPCError<NodeId, EmptyNode, RaftError<NodeId, E>>>;

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Answer<AppendEntriesResponse<NodeId>> {
        match self.exchange(Request::Append(rpc)).await.map_err(Failure::rpc_error)? {
            Response::Append(answer) => Ok(answer),
            other => Err(Failure::of(other).rpc_error()),
        }
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Answer<InstallSnapshotResponse<NodeId>, InstallSnapshotError> {
        match self.exchange(Request::Snapshot(rpc)).await.map_err(Failure::rpc_error)? {
            Response::Snapshot(answer) => Ok(answer),
            Response::Mismatch(mismatch) => {
                let error = InstallSnapshotError::SnapshotMismatch(mismatch);
                Err(RemoteError::new(self.node, RaftError::APIError(error)).into())
            }
            other => Err(Failure::of(other).rpc_error()),
        }
    }

    async fn vote(&mut self, rpc: VoteRequest<NodeId>, _option: RPCOption) -> Answer<VoteResponse<NodeId>> {
        match self.exchange(Request::Vote(rpc)).await.map_err(Failure::rpc_error)? {
            Response::Vote(answer) => Ok(answer),
            other => Err(Failure::of(other).rpc_error()),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(Duration::from_millis(RETRY_MS)))
    }
}

/// Handles one message of a peer. Rejects invalid messages with the reason; such messages change nothing.
pub(super) async fn answer(raft: &Raft, last_confirmation: &Mutex<LastConfirmation>, body: &[u8]) -> Bytes {
    let response = match codec::decode(body).and_then(checked) {
        Ok(request) => {
            if let Request::Append(rpc) = &request {
                // Note this before the log handles the message: an accepted message confirms its sender (rule
                // R9).
                last_confirmation.lock().note(rpc.vote.leader_id().term, monotonic_ms());
            }
            perform(raft, request).await
        }
        Err(why) => Response::Refused(why),
    };
    match codec::encode(&response) {
        Ok(bytes) => bytes.into(),
        // Send no bytes: the peer cannot decode the empty answer and retries.
        Err(_) => Bytes::new(),
    }
}

/// Decodes arbitrary bytes as a request and as a response.
#[cfg(any(test, feature = "internals"))]
pub(super) fn fuzz(bytes: &[u8]) {
    let _ = codec::decode(bytes).and_then(checked);
    let _ = codec::decode::<Response>(bytes);
}

/// Rejects requests that a correct peer never sends.
fn checked(request: Request) -> Result<Request, String> {
    match &request {
        Request::Append(rpc) => {
            let mut expected = rpc.prev_log_id.map_or(0, |id| id.index.saturating_add(1));
            for entry in &rpc.entries {
                if entry.log_id.index != expected {
                    return Err(format!(
                        "found entry {} where entry {expected} is expected",
                        entry.log_id.index
                    ));
                }
                expected = expected.saturating_add(1);
            }
        }
        Request::Snapshot(rpc) => {
            // The receiver fills its buffer up to the offset: a huge offset would exhaust the memory.
            let end = rpc.offset.checked_add(rpc.data.len() as u64);
            if end.is_none_or(|end| end > codec::BYTES_MAX as u64) {
                return Err(format!("the snapshot exceeds {} bytes", codec::BYTES_MAX));
            }
        }
        Request::Vote(_) => {}
    }
    Ok(request)
}

async fn perform(raft: &Raft, request: Request) -> Response {
    match request {
        Request::Append(rpc) => {
            raft.append_entries(rpc).await.map_or_else(|error| refused(&error), Response::Append)
        }
        Request::Vote(rpc) => raft.vote(rpc).await.map_or_else(|error| refused(&error), Response::Vote),
        Request::Snapshot(rpc) => match raft.install_snapshot(rpc).await {
            Ok(answer) => Response::Snapshot(answer),
            Err(RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch))) => {
                Response::Mismatch(mismatch)
            }
            Err(error) => refused(&error),
        },
    }
}

fn refused(error: &impl std::fmt::Display) -> Response {
    Response::Refused(error.to_string())
}
