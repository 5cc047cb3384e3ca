//! Body of the fuzz target `messages` for the control class and gossip: see [`crate::fuzz`].

use super::BUILD;
use super::control::{Control, ControlAnswer, Envelope};
use super::generation::envelope;
use crate::cluster::report::NodeReport;
use crate::cluster::state::{Announcement, Change, ClusterState, PrimaryRef, StoreCondition};
use crate::cluster::time::TimeReport;
use crate::fuzz::same_again;
use crate::id::{ClusterId, NodeId};
use crate::net::wire;

/// Number of kinds of messages.
pub(crate) const KINDS: u8 = 3;

/// Decodes a message of the given kind.
pub(crate) fn run(kind: u8, bytes: &[u8]) {
    match kind % KINDS {
        0 => drop(same_again::<Envelope>(bytes)),
        1 => drop(same_again::<ControlAnswer>(bytes)),
        _ => drop(same_again::<NodeReport>(bytes)),
    }
}

/// Returns the initial messages, by kind.
pub(crate) fn seeds() -> Vec<(u8, Vec<u8>)> {
    let node = NodeId::from_bytes([1; 32]);
    let announcement = Announcement {
        node,
        incarnation: 3,
        peer_addrs: vec!["/ip4/10.0.0.1/tcp/7901".into()],
        client_addr: "10.0.0.1:7900".into(),
        zone: "z".into(),
        weight: 100,
        build: BUILD.into(),
        protocol: 1,
        protocol_min: 1,
        store: StoreCondition::Whole,
    };
    let hand_over = Change::HandOver(PrimaryRef { partition: 1, term: 2, incarnation: 3 });
    let state = ClusterState { epoch: 5, ..ClusterState::default() };
    let report = NodeReport {
        cluster_id: ClusterId::from_bytes([2; 16]),
        announcement: announcement.clone(),
        ring_hash: 9,
        row: crate::api::NodeRow::default(),
        tasks: vec![crate::api::Task::default()],
    };
    let time = TimeReport {
        time_us: 1 << 50,
        error_us: Some(300),
        floor_us: 1 << 50,
        set_back: false,
        offset_ms: Some(-3),
    };
    let hello = ControlAnswer::Hello {
        cluster_id: Some(report.cluster_id),
        coordinator: Some(node),
        members: vec![(node, announcement.peer_addrs.clone())],
    };
    vec![
        (0, wire::encode(&envelope(&state, 0, Control::Propose(vec![hand_over])))),
        (0, wire::encode(&Envelope::without_state(Control::Lease(announcement, time)))),
        (0, wire::encode(&envelope(&state, 0, Control::Raft("log".into())))),
        (1, wire::encode(&hello)),
        (1, wire::encode(&ControlAnswer::Granted { length_ms: 2000, time_us: 1 << 50 })),
        (2, wire::encode(&report)),
    ]
}
