//! Identifiers of nodes, clusters and partitions, and the counters that order events: epoch, term,
//! incarnation.

use std::fmt;
use std::str::FromStr;

use libp2p::PeerId;
use libp2p::identity::{PublicKey, ed25519};
use serde::{Deserialize, Serialize};

/// Number of a committed cluster state; every change of the state adds 1.
pub type Epoch = u64;

/// Number of primaries that one partition has had; fits into the 24 bits that a version has for it.
pub type Term = u32;

/// Number of starts of one node; messages of an older incarnation are void.
pub type Incarnation = u64;

/// A partition's number, `0..1024`.
pub type Partition = caskade_engine::slots::Partition;

/// Identity of a node: its ed25519 public key, from which its libp2p `PeerId` is derived.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct NodeId([u8; 32]);

/// First bytes of the `PeerId` of an ed25519 key: the head of an identity multihash of 36 bytes, which hold
/// the key in protobuf.
const PEER_ID_HEAD: [u8; 6] = [0, 36, 8, 1, 18, 32];

impl NodeId {
    /// Wraps the 32 bytes of an ed25519 public key.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 bytes of the public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the libp2p name of this node, or `None` if the bytes are not a point of the curve.
    pub fn peer_id(&self) -> Option<PeerId> {
        let key = ed25519::PublicKey::try_from_bytes(&self.0).ok()?;
        Some(PublicKey::from(key).to_peer_id())
    }

    /// Returns the node id of a libp2p peer, or `None` if its key is not an ed25519 key.
    pub fn from_peer_id(peer: &PeerId) -> Option<Self> {
        // An ed25519 PeerId is an identity multihash of the protobuf-encoded key.
        let key = PublicKey::try_decode_protobuf(peer.as_ref().digest()).ok()?;
        Some(Self(key.try_into_ed25519().ok()?.to_bytes()))
    }

    /// Returns the last six characters of the name, for tables: all names begin with the same characters.
    pub fn short(&self) -> String {
        let name = self.to_string();
        name[name.len().saturating_sub(6)..].to_owned()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names are formatted often, so the expensive check whether the bytes are a point of the curve is
        // left out.
        let mut name = [0; 38];
        let (head, key) = name.split_at_mut(PEER_ID_HEAD.len());
        head.copy_from_slice(&PEER_ID_HEAD);
        key.copy_from_slice(&self.0);
        PeerId::from_bytes(&name).map_err(|_| fmt::Error)?.fmt(f)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// A text that is not a node id.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a node id (an ed25519 PeerId such as 12D3KooW...)")]
pub struct BadNodeId(String);

impl FromStr for NodeId {
    type Err = BadNodeId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let peer: PeerId = text.parse().map_err(|_| BadNodeId(text.to_owned()))?;
        Self::from_peer_id(&peer).ok_or_else(|| BadNodeId(text.to_owned()))
    }
}

/// Identity of a cluster; the founding node draws it at random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ClusterId([u8; 16]);

impl ClusterId {
    /// Wraps 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_node_is_its_peer_id_and_is_read_back() {
        let key = libp2p::identity::Keypair::generate_ed25519().public();
        let node = NodeId::from_peer_id(&key.to_peer_id()).unwrap();
        assert_eq!(node.to_string(), key.to_peer_id().to_string());
        assert_eq!(node.peer_id(), Some(key.to_peer_id()));
        assert_eq!(node.to_string().parse::<NodeId>().unwrap(), node);
        assert!(NodeId::from_bytes([0xff; 32]).to_string().starts_with("12D3KooW"), "no point of the curve");
    }
}
