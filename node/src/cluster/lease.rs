//! Leases as the coordinator keeps them. Pure: times are arguments, milliseconds of a monotonic clock.
//!
//! A node is granted a lease never beyond the last moment a majority of voters confirmed this coordinator plus
//! the lease's length; the confirmation counts from when it was asked for (rule R9). A node is overdue only
//! when its lease, and 5 % for drifting clocks, has run out; a new coordinator first waits out what its
//! predecessor may have granted.
//!
//! Whoever was found overdue is *condemned*: this incarnation is granted nothing more, since the entry that
//! declares it down may be under way, and whatever is heard of that entry may be wrong. Only a newer
//! incarnation ends it.

use std::collections::HashMap;

use crate::id::{Incarnation, NodeId};

/// Why no lease is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoLease {
    /// No majority of voters has confirmed the coordinator lately.
    Unconfirmed,
    /// This incarnation was found overdue, or a newer one has come: it will be declared down.
    Condemned,
}

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
    condemned: bool,
}

impl Grant {
    fn until(incarnation: Incarnation, until_ms: u64) -> Self {
        Self { incarnation, until_ms, condemned: false }
    }
}

impl LeaseTable {
    /// The table of a coordinator elected now.
    pub fn new(lease_ms: u64, now_ms: u64) -> Self {
        Self { lease_ms, since_ms: now_ms, confirmed_ms: None, granted: HashMap::new() }
    }

    /// The table of the same node elected again, now: what it granted before says nothing of what others
    /// granted meanwhile, but those it condemned may still have an entry under way.
    pub fn elected_again(mut self, now_ms: u64) -> Self {
        self.granted.retain(|_, grant| grant.condemned);
        Self { granted: self.granted, ..Self::new(self.lease_ms, now_ms) }
    }

    /// A majority of voters confirmed the coordinator when asked at `asked_ms`.
    pub fn confirmed(&mut self, asked_ms: u64) {
        self.confirmed_ms = self.confirmed_ms.max(Some(asked_ms));
    }

    /// Grants a lease: for how many milliseconds, counted by the holder from when it asked.
    ///
    /// # Errors
    /// [`NoLease`]; the table is then unchanged.
    pub fn grant(&mut self, node: NodeId, incarnation: Incarnation, now_ms: u64) -> Result<u64, NoLease> {
        let confirmed_ms = self.confirmed_ms.ok_or(NoLease::Unconfirmed)?;
        let until_ms = confirmed_ms + self.lease_ms;
        let length_ms =
            until_ms.checked_sub(now_ms).filter(|length| *length > 0).ok_or(NoLease::Unconfirmed)?;
        if self.granted.get(&node).is_some_and(|grant| {
            grant.incarnation > incarnation || (grant.incarnation == incarnation && grant.condemned)
        }) {
            return Err(NoLease::Condemned);
        }
        self.granted.insert(node, Grant::until(incarnation, until_ms));
        Ok(length_ms)
    }

    /// Those of `up` whose lease has run out. They are condemned from now on, and answered again each time
    /// until they are no longer up.
    pub fn overdue(
        &mut self,
        up: impl IntoIterator<Item = (NodeId, Incarnation)>,
        now_ms: u64,
    ) -> Vec<(NodeId, Incarnation)> {
        let waited_out = self.since_ms + self.lease_ms;
        let mut overdue = Vec::new();
        for (node, incarnation) in up {
            let grant = self.granted.entry(node).or_insert(Grant::until(incarnation, waited_out));
            if grant.incarnation != incarnation {
                // Just registered: it has a lease's time to ask for its first one.
                *grant = Grant::until(incarnation, now_ms + self.lease_ms);
            }
            let until_ms = grant.until_ms.max(waited_out);
            if now_ms > until_ms + self.lease_ms / 20 {
                grant.condemned = true;
                overdue.push((node, incarnation));
            }
        }
        overdue
    }

    /// A node is being registered: it has two leases' time to ask for its first one.
    pub fn registered(&mut self, node: NodeId, incarnation: Incarnation, now_ms: u64) {
        self.granted.insert(node, Grant::until(incarnation, now_ms + 2 * self.lease_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::from_bytes([1; 32]);

    #[test]
    fn no_lease_without_a_majority() {
        let mut table = LeaseTable::new(2000, 0);
        assert_eq!(table.grant(NODE, 1, 10), Err(NoLease::Unconfirmed));
        table.confirmed(10);
        assert_eq!(table.grant(NODE, 1, 110), Ok(1900));
        let late = table.grant(NODE, 1, 2010);
        assert_eq!(late, Err(NoLease::Unconfirmed), "the confirmation is too old");
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

    /// A table that found the node overdue, and a majority that confirms the coordinator at that moment.
    fn table_that_condemned() -> LeaseTable {
        let mut table = LeaseTable::new(2000, 0);
        table.confirmed(0);
        table.grant(NODE, 1, 0).unwrap();
        assert_eq!(table.overdue([(NODE, 1)], 2101), vec![(NODE, 1)]);
        table.confirmed(2101);
        table
    }

    #[test]
    fn node_found_overdue_is_granted_nothing_more_whatever_became_of_the_entry() {
        let mut table = table_that_condemned();
        assert_eq!(table.grant(NODE, 1, 2102), Err(NoLease::Condemned));
        // The outcome of the entry was unknown: the node is still up, so it is declared down again.
        assert_eq!(table.overdue([(NODE, 1)], 2200), vec![(NODE, 1)]);
        assert_eq!(table.grant(NODE, 1, 2201), Err(NoLease::Condemned));
        // It was committed: nobody asks for it any more, and a late question of it still gets nothing.
        assert!(table.overdue([], 2300).is_empty());
        assert_eq!(table.grant(NODE, 1, 2301), Err(NoLease::Condemned));
    }

    #[test]
    fn condemned_node_is_granted_a_lease_in_its_next_incarnation_only() {
        let mut table = table_that_condemned();
        table.registered(NODE, 2, 2200);
        assert_eq!(table.grant(NODE, 2, 2300), Ok(1801));
        assert!(table.overdue([(NODE, 2)], 4000).is_empty());
        assert_eq!(table.grant(NODE, 1, 2301), Err(NoLease::Condemned));
    }

    #[test]
    fn coordinator_elected_again_waits_a_lease_and_grants_nothing_to_the_condemned() {
        let mut table = table_that_condemned().elected_again(10_000);
        assert_eq!(table.grant(NODE, 1, 10_000), Err(NoLease::Unconfirmed));
        table.confirmed(10_000);
        assert_eq!(table.grant(NODE, 1, 10_001), Err(NoLease::Condemned));
        // Another coordinator may have granted it a lease meanwhile.
        assert!(table.overdue([(NODE, 1)], 12_100).is_empty());
        assert_eq!(table.overdue([(NODE, 1)], 12_101), vec![(NODE, 1)]);
    }
}
