//! Limit of terms: the version of a record has 24 bits for its term (`data/version.rs`).
//!
//! An entry that would begin a term beyond the last is void, so that no term is used twice (rule R1). By then
//! the partition has changed its primary 16 million times.

use super::ring::PARTITIONS;
use super::state::{Change, ClusterState, PartitionState};
use crate::id::{NodeId, Term};

/// The last term of a partition.
pub const TERM_MAX: Term = (1 << 24) - 1;

impl PartitionState {
    /// Returns whether the present term is the last.
    pub(super) fn has_used_its_terms(&self) -> bool {
        self.term >= TERM_MAX
    }
}

impl ClusterState {
    /// Checks that a change does not begin a term beyond the last.
    pub(super) fn check_terms_left(&self, change: &Change) -> Result<(), String> {
        let ends = |state: &PartitionState| match change {
            Change::Register(announcement) => leads(state, announcement.node),
            Change::DeclareDown { node, .. } => leads(state, *node) && state.in_sync().count() > 1,
            Change::SuspendReplica { replica, .. } => leads(state, replica.node),
            _ => true,
        };
        // Check only the partition of the change, because an entry contains many such changes.
        let looked_at = match change {
            Change::Register(_) | Change::DeclareDown { .. } => 0..PARTITIONS,
            Change::HandOver(primary)
            | Change::StepDown(primary)
            | Change::SuspendReplica { primary, .. } => {
                primary.partition..primary.partition.saturating_add(1)
            }
            _ => 0..0,
        };
        let state_of = |partition| Some((partition, self.partition(partition)?));
        let mut used_up = looked_at.filter_map(state_of).filter(|(_, state)| state.has_used_its_terms());
        match used_up.find(|(_, state)| ends(state)) {
            None => Ok(()),
            Some((partition, _)) => Err(format!(
                "partition {partition} has used all its {TERM_MAX} terms: its primary can neither change nor \
                 restart. Its copies have all acknowledged writes; copy the keys into a new cluster"
            )),
        }
    }
}

fn leads(state: &PartitionState, node: NodeId) -> bool {
    state.primary() == Some(node)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::samples::{after, announcement, cluster_of, hand_over, joined, node};
    use super::super::state::Verdict;
    use super::*;

    fn reason(state: &ClusterState, change: Change) -> String {
        let mut after = state.clone();
        let verdict = after.apply(&[change]).remove(0);
        assert_eq!(after, *state, "a void change changed something");
        match verdict {
            Verdict::Rejected(reason) => reason,
            Verdict::Applied => panic!("it was applied"),
        }
    }

    #[test]
    fn change_that_needs_a_term_after_the_last_is_void_with_a_reason() {
        let mut state = cluster_of(2);
        let primary = state.primary(7).unwrap();
        Arc::make_mut(&mut state.partitions[7]).term = TERM_MAX - 1;
        let mut state = after(&state, [hand_over(&state, 7)]);
        assert_eq!(state.partition(7).unwrap().term, TERM_MAX, "the last one is used");
        let number = if primary == node(1) { 1 } else { 2 };
        for change in [
            hand_over(&state, 7),
            Change::DeclareDown { node: primary, incarnation: 1 },
            Change::Register(announcement(number, 2)),
        ] {
            let reason = reason(&state, change);
            assert!(reason.contains("partition 7 has used all its 16777215 terms"), "{reason}");
        }
        // Other partitions are not blocked, and no primary stops serving for a hand-over that is impossible.
        state = joined(&state, 3);
        assert!(!state.hand_over_due(7));
        let other = if number == 1 { 2 } else { 1 };
        after(&state, [Change::Register(announcement(other, 2))]);
    }
}
