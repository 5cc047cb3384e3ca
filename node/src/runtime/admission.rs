//! The coordinator's decision about a node that announces itself. Pure.

use crate::cluster::state::{Announcement, ClusterState, MemberStatus};

/// Registration of an announced incarnation in the committed state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Registration {
    /// Registered and up: it may get a lease.
    Up,
    /// Declared down; only a newer incarnation is registered.
    Down,
    /// Not registered yet.
    New,
    /// The announcement can never be registered, for this reason.
    Refused(String),
    /// The node was removed: its data is not accepted.
    Removed(String),
}

/// Returns the registration of the announced incarnation. The protocol versions are compared only when an
/// incarnation is registered, so that a registered one keeps its lease under a coordinator of the next
/// version.
pub(super) fn standing(state: &ClusterState, announcement: &Announcement) -> Registration {
    let Announcement { node, incarnation, .. } = announcement;
    if let Some(member) = state.members.get(node) {
        let registered = member.announcement.incarnation;
        if registered > *incarnation {
            return Registration::Refused(format!(
                "start {incarnation} of node {node} is over, start {registered} is registered, at {}: another \
                 process uses a copy of this data directory, or this one was restored from a backup and lacks \
                 the writes acknowledged since. No data was changed. Keep one process of the node; start the \
                 other with an empty --data-dir: it joins as a new node and receives its share",
                member.announcement.client_addr
            ));
        }
        if registered == *incarnation {
            // A store that was found damaged is whole again once it is healed: the announcement is still of
            // the same process.
            let same = Announcement { store: member.announcement.store, ..announcement.clone() };
            return match member.status {
                _ if member.announcement != same => Registration::Refused(format!(
                    "start {incarnation} of node {node} is registered by another process, at {}: a copy of this \
                     data directory is in use there. No data was changed. Keep one process of the node; start \
                     the other with an empty --data-dir: it joins as a new node and receives its share",
                    member.announcement.client_addr
                )),
                MemberStatus::Down => Registration::Down,
                MemberStatus::Up => Registration::Up,
            };
        }
    }
    if let Some(epoch) = state.removed_in(*node) {
        return Registration::Removed(format!(
            "node {node} is no member of this cluster since epoch {epoch}: it left, was removed or was replaced. The \
             cluster does not accept the data in its data directory; that data was not changed. To use this machine \
             again, start caskd with --join-afresh: it moves the old data aside and joins as a new node"
        ));
    }
    if let Err(reason) = state.check_protocol(announcement) {
        return Registration::Refused(reason);
    }
    Registration::New
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::operations::AdminOperation;
    use crate::cluster::protocol::{PROTOCOL_MAX, PROTOCOL_MIN};
    use crate::cluster::state::{Change, StoreCondition, Verdict};
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
            protocol: PROTOCOL_MAX,
            protocol_min: PROTOCOL_MIN,
            store: StoreCondition::Whole,
        }
    }

    /// Returns a cluster in which start 5 of the node is registered.
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
            Registration::Refused(reason) => reason,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn node_without_the_version_in_use_is_refused_with_both_ranges_and_the_remedy() {
        let (lowest, used) = (PROTOCOL_MAX + 1, PROTOCOL_MAX);
        let newer = Announcement { protocol_min: lowest, protocol: lowest + 1, ..announcement(6) };
        let joiner = Announcement { node: NodeId::from_bytes([2; 32]), ..newer.clone() };
        for announcement in [newer, joiner] {
            let reason = refusal(&announcement);
            let (from, to) = (announcement.protocol_min, announcement.protocol);
            for part in [
                format!("versions {from} to {to} of the peer protocol (caskd 9.8.7)"),
                format!("uses version {used}, and its members have {PROTOCOL_MIN} to {used} in common"),
                "Start this node with".to_owned(),
            ] {
                assert!(reason.contains(&part), "{part} is not in: {reason}");
            }
        }
    }

    #[test]
    fn removed_node_is_refused_until_it_joins_afresh() {
        let mut state = cluster();
        let second = Announcement { node: NodeId::from_bytes([2; 32]), ..announcement(1) };
        state.apply(&[Change::Register(second.clone())]);
        state.apply(&[Change::DeclareDown { node: second.node, incarnation: 1 }]);
        let operation = AdminOperation::Remove { node: second.node, incarnation: 1, accept_loss: false };
        let verdicts = state.apply(&[Change::Operate { operation, basis: None }]);
        assert_eq!(verdicts, [Verdict::Applied]);
        match standing(&state, &Announcement { incarnation: 2, ..second }) {
            Registration::Removed(reason) => assert!(reason.contains("--join-afresh"), "{reason}"),
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn registered_incarnation_keeps_its_standing_and_a_newer_one_is_new() {
        assert_eq!(standing(&cluster(), &announcement(5)), Registration::Up);
        assert_eq!(standing(&cluster(), &announcement(6)), Registration::New);
        let mut down = cluster();
        down.apply(&[Change::DeclareDown { node: announcement(5).node, incarnation: 5 }]);
        assert_eq!(standing(&down, &announcement(5)), Registration::Down);
    }

    #[test]
    fn node_whose_store_was_healed_is_no_other_process() {
        let damaged = Announcement { store: StoreCondition::Damaged, ..announcement(5) };
        assert_eq!(standing(&cluster(), &damaged), Registration::Up);
    }

    #[test]
    fn copy_of_a_data_directory_is_refused_for_good() {
        assert!(refusal(&announcement(4)).contains("start 5 is registered, at 10.0.0.1:7900"));
        let elsewhere = Announcement { client_addr: "10.0.0.2:7900".into(), ..announcement(5) };
        assert!(refusal(&elsewhere).contains("by another process, at 10.0.0.1:7900"));
    }
}
