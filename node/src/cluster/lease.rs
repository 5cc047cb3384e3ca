//! Leases as the coordinator keeps them. Pure: times are arguments, milliseconds of a monotonic clock.
//!
//! A node is granted a lease never beyond the last moment a majority of voters confirmed this coordinator plus
//! the lease's length; the confirmation counts from when it was asked for (rule R9). A node is overdue only
//! when its lease, and 5 % for drifting clocks, has run out; a new coordinator first waits out what its
//! predecessor may have granted.

use std::collections::HashMap;

use crate::id::{Incarnation, NodeId};

/// What one coordinator has granted since it was elected.
#[derive(Debug)]
pub struct LeaseTable {
    lease_ms: u64,
    since_ms: u64,
    confirmed_ms: Option<u64>,
    granted: HashMap<NodeId, Grant>,
}

#[derive(Clone, Copy, Debug)]
struct Grant {
    incarnation: Incarnation,
    until_ms: u64,
}

impl LeaseTable {
    /// The table of a coordinator elected now.
    pub fn new(lease_ms: u64, now_ms: u64) -> Self {
        Self {
            lease_ms,
            since_ms: now_ms,
            confirmed_ms: None,
            granted: HashMap::new(),
        }
    }

    /// A majority of voters confirmed the coordinator when asked at `asked_ms`.
    pub fn confirmed(&mut self, asked_ms: u64) {
        self.confirmed_ms = self.confirmed_ms.max(Some(asked_ms));
    }

    /// Grants a lease: for how many milliseconds, counted by the holder from when it asked. `None` while no
    /// majority has confirmed the coordinator lately.
    pub fn grant(&mut self, node: NodeId, incarnation: Incarnation, now_ms: u64) -> Option<u64> {
        let until_ms = self.confirmed_ms? + self.lease_ms;
        let length_ms = until_ms.checked_sub(now_ms).filter(|length| *length > 0)?;
        self.granted.insert(
            node,
            Grant {
                incarnation,
                until_ms,
            },
        );
        Some(length_ms)
    }

    /// Those of `up` whose lease has run out.
    pub fn overdue(
        &mut self,
        up: impl IntoIterator<Item = (NodeId, Incarnation)>,
        now_ms: u64,
    ) -> Vec<(NodeId, Incarnation)> {
        let waited_out = self.since_ms + self.lease_ms;
        let mut overdue = Vec::new();
        for (node, incarnation) in up {
            let grant = self.granted.entry(node).or_insert(Grant {
                incarnation,
                until_ms: waited_out,
            });
            if grant.incarnation != incarnation {
                // Just registered: it has a lease's time to ask for its first one.
                *grant = Grant {
                    incarnation,
                    until_ms: now_ms + self.lease_ms,
                };
            }
            let until_ms = grant.until_ms.max(waited_out);
            if now_ms > until_ms + self.lease_ms / 20 {
                overdue.push((node, incarnation));
            }
        }
        overdue
    }

    /// Forgets a node, so that its next registration starts afresh.
    pub fn forget(&mut self, node: NodeId) {
        self.granted.remove(&node);
    }

    /// A node was just registered: it has two leases' time to ask for its first one.
    pub fn registered(&mut self, node: NodeId, incarnation: Incarnation, now_ms: u64) {
        self.granted.insert(
            node,
            Grant {
                incarnation,
                until_ms: now_ms + 2 * self.lease_ms,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::from_bytes([1; 32]);

    #[test]
    fn no_lease_without_a_majority() {
        let mut table = LeaseTable::new(2000, 0);
        assert_eq!(table.grant(NODE, 1, 10), None);
        table.confirmed(10);
        assert_eq!(table.grant(NODE, 1, 110), Some(1900));
        assert_eq!(table.grant(NODE, 1, 2010), None, "the confirmation is too old");
    }

    #[test]
    fn a_node_is_overdue_only_after_its_lease_and_the_drift() {
        let mut table = LeaseTable::new(2000, 0);
        table.confirmed(5000);
        table.grant(NODE, 1, 5000).unwrap();
        assert!(table.overdue([(NODE, 1)], 7100).is_empty());
        assert_eq!(table.overdue([(NODE, 1)], 7101), vec![(NODE, 1)]);
    }

    #[test]
    fn a_new_coordinator_waits_a_full_lease() {
        let mut table = LeaseTable::new(2000, 10_000);
        assert!(table.overdue([(NODE, 1)], 12_100).is_empty());
        assert_eq!(table.overdue([(NODE, 1)], 12_101), vec![(NODE, 1)]);
    }

    #[test]
    fn a_new_incarnation_is_not_judged_by_the_lease_of_the_former() {
        let mut table = LeaseTable::new(2000, 0);
        table.confirmed(0);
        table.grant(NODE, 1, 0).unwrap();
        assert!(table.overdue([(NODE, 2)], 60_000).is_empty());
        assert_eq!(table.overdue([(NODE, 2)], 62_101), vec![(NODE, 2)]);
    }
}
