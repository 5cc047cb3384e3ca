//! Tests of the topology plane.

mod nodes;
mod store;
mod voters;

use crate::cluster::state::{Announcement, Change, StoreCondition};
use crate::id::{ClusterId, NodeId};

/// openraft's storage suite makes node ids from numbers.
impl From<u64> for NodeId {
    fn from(number: u64) -> Self {
        node(number)
    }
}

fn node(number: u64) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    NodeId::from_bytes(bytes)
}

fn announcement(number: u64) -> Announcement {
    Announcement {
        node: node(number),
        incarnation: 1,
        peer_addrs: vec![format!("/ip4/127.0.0.1/tcp/{}", 7000 + number)],
        client_addr: format!("127.0.0.1:{}", 8000 + number),
        zone: String::new(),
        weight: 100,
        build: "test".to_owned(),
        protocol: 1,
        protocol_min: 1,
        store: StoreCondition::Whole,
    }
}

fn found(number: u64) -> Change {
    Change::Found {
        cluster_id: ClusterId::from_bytes([7; 16]),
        replication_factor: 2,
        lease_ms: 2000,
        rebuild_delay_ms: 300_000,
        founder: announcement(number),
    }
}
