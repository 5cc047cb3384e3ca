//! The coordinator's table of leases. Pure: times are arguments, in milliseconds of a monotonic clock.
//!
//! A lease never extends beyond the last confirmation of this coordinator by a majority of voters plus the
//! length of a lease; the confirmation counts from its request (rule R9). A node is overdue only when its
//! lease has expired, plus 5 % for drifting clocks. A new coordinator first waits until its predecessors'
//! grants have ended: one lease after a majority of voters last confirmed any of them
//! ([`latest_confirmation`]).
//!
//! A node that was found overdue is *condemned*: this incarnation gets no more leases. The entry that
//! declares it down may be in flight, and reports about that entry may be wrong. Only a newer incarnation
//! ends this.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::id::{Incarnation, NodeId};
use crate::mutation::{Mutation, planted};

/// Returns the time before which a new coordinator declares no node down: live nodes need it to learn of the
/// election and to renew their leases.
const fn renewal_ms(lease_ms: u64) -> u64 {
    lease_ms * 3 / 8
}

/// Reason why no lease is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoLease {
    /// No majority of voters has confirmed the coordinator recently enough.
    Unconfirmed,
    /// This incarnation was found overdue, or a newer one has registered: it will be declared down.
    Condemned,
}

/// Leases that one coordinator has granted since its election.
#[derive(Debug)]
pub struct LeaseTable {
    lease_ms: u64,
    since_ms: u64,
    /// End of the last grant of a former coordinator; `None` until a majority of voters has answered.
    former_until_ms: Option<u64>,
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
    /// Creates the table of a coordinator elected now.
    pub fn new(lease_ms: u64, now_ms: u64) -> Self {
        Self {
            lease_ms,
            since_ms: now_ms,
            former_until_ms: None,
            confirmed_ms: None,
            granted: HashMap::new(),
        }
    }

    /// Creates the table of the same node elected again, now. Its former grants do not count, because another
    /// coordinator may have granted leases since. Condemned nodes stay condemned: their entry may still be in
    /// flight.
    pub fn elected_again(mut self, now_ms: u64) -> Self {
        self.granted.retain(|_, grant| grant.condemned);
        Self { granted: self.granted, ..Self::new(self.lease_ms, now_ms) }
    }

    /// Returns whether the voters' last confirmation of a former coordinator is still unknown.
    pub fn awaits_former(&self) -> bool {
        self.former_until_ms.is_none()
    }

    /// Sets the latest moment at which a former coordinator may have been confirmed: see
    /// [`latest_confirmation`].
    pub fn former_confirmed(&mut self, latest_ms: u64) {
        self.former_until_ms = Some(latest_ms + self.lease_ms);
    }

    /// Returns when every grant of a former coordinator has ended, and every live node has had the time to
    /// renew its lease. No grant outlives one lease from the election: a majority elected this coordinator
    /// after another majority confirmed the former one, and the two share a voter.
    fn waited_out_ms(&self) -> u64 {
        let longest_ms = self.since_ms + self.lease_ms;
        let former_ms = self.former_until_ms.map_or(longest_ms, |until_ms| until_ms.min(longest_ms));
        former_ms.max(self.since_ms + renewal_ms(self.lease_ms))
    }

    /// Records that a majority of voters confirmed the coordinator after the request at `asked_ms`.
    pub fn confirmed(&mut self, asked_ms: u64) {
        self.confirmed_ms = self.confirmed_ms.max(Some(asked_ms));
    }

    /// Grants a lease; returns its length in milliseconds, which the holder counts from its request.
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

    /// Returns those of `up` whose lease has expired. They are condemned from now on, and are returned by
    /// each call until they are no longer up.
    pub fn overdue(
        &mut self,
        up: impl IntoIterator<Item = (NodeId, Incarnation)>,
        now_ms: u64,
    ) -> Vec<(NodeId, Incarnation)> {
        let waited_out_ms = self.waited_out_ms();
        let mut overdue = Vec::new();
        for (node, incarnation) in up {
            let grant = self.granted.entry(node).or_insert(Grant::until(incarnation, 0));
            if grant.incarnation != incarnation {
                // A new registration: the node has one lease's time to request its first lease.
                *grant = Grant::until(incarnation, now_ms + self.lease_ms);
            }
            let until_ms = grant.until_ms.max(waited_out_ms);
            if now_ms > until_ms + self.lease_ms / 20 {
                grant.condemned = true;
                overdue.push((node, incarnation));
            }
        }
        overdue
    }

    /// Records that this coordinator heard from a node without a lease: the node is alive, and has half a
    /// lease's time to request one.
    pub fn heard(&mut self, node: NodeId, incarnation: Incarnation, now_ms: u64) {
        let grant = self.granted.entry(node).or_insert(Grant::until(incarnation, 0));
        if grant.incarnation == incarnation && !grant.condemned {
            grant.until_ms = grant.until_ms.max(now_ms + self.lease_ms / 2);
        }
    }

    /// Records a registration: the node has two leases' time to request its first lease.
    pub fn registered(&mut self, node: NodeId, incarnation: Incarnation, now_ms: u64) {
        self.granted.insert(node, Grant::until(incarnation, now_ms + 2 * self.lease_ms));
    }
}

/// The last confirmation of a coordinator by this voter, separately for the newest term of the log and older
/// ones. In memory only: a voter that starts counts its start as a confirmation, because its former process
/// may have confirmed a coordinator until then.
#[derive(Debug)]
pub struct LastConfirmation {
    /// The newest recorded term, and the last confirmation in it.
    term: u64,
    latest_ms: u64,
    /// The last confirmation in any older term.
    earlier_ms: u64,
}

impl LastConfirmation {
    /// Creates the record of a voter that starts now.
    pub fn at_start(now_ms: u64) -> Self {
        let earlier_ms = if planted(Mutation::ForgetfulVoter) { 0 } else { now_ms };
        Self { term: 0, latest_ms: 0, earlier_ms }
    }

    /// Records that the coordinator of `term` may be confirmed. Called before the voter handles the message,
    /// so that no confirmation is ever missing here. A message that the voter then rejects does no harm.
    pub fn note(&mut self, term: u64, now_ms: u64) {
        if term > self.term {
            self.earlier_ms = self.earlier_ms.max(self.latest_ms);
            (self.term, self.latest_ms) = (term, now_ms);
        } else if term == self.term {
            self.latest_ms = self.latest_ms.max(now_ms);
        } else {
            self.earlier_ms = self.earlier_ms.max(now_ms);
        }
    }

    /// Returns how many milliseconds ago a coordinator of a term before `term` may last have been confirmed.
    pub fn age_before_ms(&self, term: u64, now_ms: u64) -> u64 {
        let last_ms = if self.term == term { self.earlier_ms } else { self.earlier_ms.max(self.latest_ms) };
        now_ms.saturating_sub(last_ms)
    }
}

/// Returns the latest moment at which a majority of voters can have confirmed a former coordinator: `None` if too few
/// voters answered.
///
/// `confirmed_ms` contains, for each voter that answered and can no longer confirm an older term, its last
/// confirmation of any coordinator. Each set in `voters` must agree: two sets during a change of the voters.
/// Any majority that confirmed a former coordinator shares a voter with the majority chosen here, so the
/// latest moment of the chosen one is late enough. Of all majorities, the one with the earliest latest moment
/// is chosen.
pub fn latest_confirmation(voters: &[BTreeSet<NodeId>], confirmed_ms: &BTreeMap<NodeId, u64>) -> Option<u64> {
    let of_set = |set: &BTreeSet<NodeId>| {
        let mut moments: Vec<u64> = set.iter().filter_map(|voter| confirmed_ms.get(voter).copied()).collect();
        moments.sort_unstable();
        moments.get(set.len() / 2).copied()
    };
    let moments = voters.iter().map(of_set).collect::<Option<Vec<u64>>>()?;
    moments.into_iter().max()
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
    fn node_found_overdue_gets_no_lease_for_any_outcome_of_the_entry() {
        let mut table = table_that_condemned();
        assert_eq!(table.grant(NODE, 1, 2102), Err(NoLease::Condemned));
        // The outcome of the entry was unknown: the node is still up, so that it is declared down again.
        assert_eq!(table.overdue([(NODE, 1)], 2200), vec![(NODE, 1)]);
        assert_eq!(table.grant(NODE, 1, 2201), Err(NoLease::Condemned));
        // The entry was committed: the node is no longer asked for, and its late request still gets no lease.
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
        // Another coordinator may have granted it a lease in the meantime.
        assert!(table.overdue([(NODE, 1)], 12_100).is_empty());
        assert_eq!(table.overdue([(NODE, 1)], 12_101), vec![(NODE, 1)]);
    }

    fn voter(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    #[test]
    fn new_coordinator_waits_only_for_the_rest_of_the_last_grants() {
        let mut table = LeaseTable::new(2000, 10_000);
        assert!(table.awaits_former());
        // The former coordinator was last confirmed 1.2 s before the election.
        table.former_confirmed(8_800);
        assert!(table.overdue([(NODE, 1)], 10_900).is_empty());
        assert_eq!(table.overdue([(NODE, 1)], 10_901), vec![(NODE, 1)]);
    }

    #[test]
    fn new_coordinator_gives_live_nodes_the_time_to_renew() {
        let mut table = LeaseTable::new(2000, 10_000);
        table.former_confirmed(1_000);
        assert!(table.overdue([(NODE, 1)], 10_850).is_empty(), "three eighths of a lease plus the drift");
        assert_eq!(table.overdue([(NODE, 1)], 10_851), vec![(NODE, 1)]);
    }

    #[test]
    fn node_that_a_new_coordinator_has_heard_of_has_longer_to_renew() {
        let mut table = LeaseTable::new(2000, 10_000);
        table.former_confirmed(1_000);
        table.heard(NODE, 1, 10_300);
        assert!(table.overdue([(NODE, 1)], 11_400).is_empty());
        assert_eq!(table.overdue([(NODE, 1)], 11_401), vec![(NODE, 1)]);
        table.heard(NODE, 1, 11_402);
        assert_eq!(table.overdue([(NODE, 1)], 11_403), vec![(NODE, 1)], "it stays condemned");
    }

    #[test]
    fn no_grant_of_a_former_coordinator_outlives_a_lease_from_the_election() {
        let mut table = LeaseTable::new(2000, 10_000);
        // A voter answered late, and has heard from its former coordinator after the election.
        table.former_confirmed(11_000);
        assert_eq!(table.overdue([(NODE, 1)], 12_101), vec![(NODE, 1)]);
    }

    #[test]
    fn majority_that_confirmed_longest_ago_decides() {
        let three = BTreeSet::from([voter(1), voter(2), voter(3)]);
        let mut confirmed_ms = BTreeMap::from([(voter(2), 700)]);
        assert_eq!(latest_confirmation(std::slice::from_ref(&three), &confirmed_ms), None, "one of three");
        confirmed_ms.insert(voter(3), 900);
        assert_eq!(latest_confirmation(std::slice::from_ref(&three), &confirmed_ms), Some(900));
        confirmed_ms.insert(voter(1), 100);
        assert_eq!(latest_confirmation(std::slice::from_ref(&three), &confirmed_ms), Some(700));
        // A node that does not vote does not count.
        confirmed_ms.insert(voter(9), 1);
        assert_eq!(latest_confirmation(std::slice::from_ref(&three), &confirmed_ms), Some(700));
        let next = BTreeSet::from([voter(3), voter(4), voter(5)]);
        assert_eq!(latest_confirmation(&[three.clone(), next.clone()], &confirmed_ms), None);
        confirmed_ms.insert(voter(4), 800);
        assert_eq!(latest_confirmation(&[three, next], &confirmed_ms), Some(900), "both sets must agree");
    }

    #[test]
    fn voter_that_starts_may_have_confirmed_until_then() {
        let mut last = LastConfirmation::at_start(5_000);
        assert_eq!(last.age_before_ms(7, 5_300), 300);
        last.note(6, 5_200);
        last.note(6, 5_100);
        assert_eq!(last.age_before_ms(7, 5_300), 100);
        assert_eq!(last.age_before_ms(6, 5_300), 300, "only terms before term 6 count");
    }

    #[test]
    fn confirmations_of_the_new_coordinator_itself_do_not_count() {
        let mut last = LastConfirmation::at_start(1_000);
        last.note(3, 2_000);
        last.note(4, 3_000);
        last.note(4, 9_000);
        assert_eq!(last.age_before_ms(4, 9_000), 7_000);
        last.note(3, 9_500);
        assert_eq!(
            last.age_before_ms(4, 9_600),
            100,
            "a late message of the former coordinator may be accepted"
        );
        assert_eq!(last.age_before_ms(5, 9_600), 100);
    }
}
