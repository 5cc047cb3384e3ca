//! What the coordinator makes of a node that announces itself. Pure.

use crate::cluster::state::{Announcement, ClusterState, MemberStatus};
use crate::data::PROTOCOL;

/// What an announced incarnation is to the committed state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is registered and up: it may be granted a lease.
    Up,
    /// It was declared down; only a newer incarnation is taken back.
    Down,
    /// It is to be registered.
    New,
    /// It can never be what it announces, for this reason.
    Refused(String),
}

/// How the node that announces itself stands. The protocol is compared when an incarnation is registered, so
/// that one that was registered keeps its lease under a coordinator of the next version.
pub(super) fn standing(state: &ClusterState, announcement: &Announcement) -> Standing {
    let Announcement { node, incarnation, protocol, .. } = announcement;
    if let Some(member) = state.members.get(node) {
        let registered = member.announcement.incarnation;
        if registered > *incarnation {
            return Standing::Refused(format!(
                "start {incarnation} of node {node} is over, start {registered} is registered, at {}: another \
                 process uses a copy of this data directory, or this one was restored from a backup and lacks \
                 what was acknowledged since. No data was changed. Keep one process of the node; start the \
                 other with an empty --data-dir: it joins as a new node and is sent its share",
                member.announcement.client_addr
            ));
        }
        if registered == *incarnation {
            return match member.status {
                _ if member.announcement != *announcement => Standing::Refused(format!(
                    "start {incarnation} of node {node} is registered by another process, at {}: a copy of this \
                     data directory is in use there. No data was changed. Keep one process of the node; start \
                     the other with an empty --data-dir: it joins as a new node and is sent its share",
                    member.announcement.client_addr
                )),
                MemberStatus::Down => Standing::Down,
                MemberStatus::Up => Standing::Up,
            };
        }
    }
    if *protocol != PROTOCOL {
        return Standing::Refused(format!(
            "this node speaks version {protocol} of the peer protocol (caskd {}), the cluster's coordinator \
             version {PROTOCOL} (caskd {}): nothing was joined and no data was changed. Start this node with \
             the caskd that the cluster runs",
            announcement.build,
            super::BUILD
        ));
    }
    Standing::New
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::state::Change;
    use crate::id::{ClusterId, NodeId};

    fn announcement(incarnation: u64) -> Announcement {
        Announcement {
            node: NodeId::from_bytes([1; 32]),
            incarnation,
            peer_addrs: Vec::new(),
            client_addr: "10.0.0.1:7900".into(),
            zone: String::new(),
            weight: 100,
            build: "9.8.7".into(),
            protocol: PROTOCOL,
        }
    }

    /// A cluster in which start 5 of the node is registered.
    fn cluster() -> ClusterState {
        let mut state = ClusterState::default();
        let verdicts = state.apply(&[Change::Found {
            cluster_id: ClusterId::default(),
            replication_factor: 1,
            lease_ms: 2000,
            rebuild_delay_ms: 300_000,
            founder: announcement(5),
        }]);
        assert_eq!(verdicts.len(), 1);
        state
    }

    fn refusal(announcement: &Announcement) -> String {
        match standing(&cluster(), announcement) {
            Standing::Refused(reason) => reason,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn node_of_another_protocol_is_refused_with_both_numbers_and_the_way_out() {
        let (theirs, ours) = (PROTOCOL + 1, PROTOCOL);
        let joiner = Announcement { node: NodeId::from_bytes([2; 32]), protocol: theirs, ..announcement(1) };
        let returning = Announcement { protocol: theirs, ..announcement(6) };
        for announcement in [joiner, returning] {
            let reason = refusal(&announcement);
            for part in [
                format!("version {theirs} of the peer protocol (caskd 9.8.7)"),
                format!("version {ours} (caskd {})", super::super::BUILD),
                "Start this node with".to_owned(),
            ] {
                assert!(reason.contains(&part), "{part} is not in: {reason}");
            }
        }
    }

    #[test]
    fn registered_incarnation_keeps_its_standing_and_a_newer_one_is_new() {
        assert_eq!(standing(&cluster(), &announcement(5)), Standing::Up);
        assert_eq!(standing(&cluster(), &announcement(6)), Standing::New);
        let mut down = cluster();
        down.apply(&[Change::DeclareDown { node: announcement(5).node, incarnation: 5 }]);
        assert_eq!(standing(&down, &announcement(5)), Standing::Down);
    }

    #[test]
    fn copy_of_a_data_directory_is_refused_for_good() {
        assert!(refusal(&announcement(4)).contains("start 5 is registered, at 10.0.0.1:7900"));
        let elsewhere = Announcement { client_addr: "10.0.0.2:7900".into(), ..announcement(5) };
        assert!(refusal(&elsewhere).contains("by another process, at 10.0.0.1:7900"));
    }
}
