//! Tests of the choice of voters.

use std::collections::{BTreeMap, BTreeSet};

use super::{announcement, node};
use crate::cluster::state::{Member, MemberStatus};
use crate::id::NodeId;
use crate::topology::choose_voters;

/// Returns the members that `words` describes: `1a` is node 1 in zone a, `2b!` is node 2 in zone b, down.
fn members(words: &str) -> BTreeMap<NodeId, Member> {
    words
        .split_whitespace()
        .map(|word| {
            let (number, zone) = word.trim_end_matches('!').split_at(1);
            let mut announcement = announcement(number.parse().unwrap());
            announcement.zone = zone.to_owned();
            let status = if word.ends_with('!') { MemberStatus::Down } else { MemberStatus::Up };
            (announcement.node, Member { announcement, status, draining: false, since: 1 })
        })
        .collect()
}

fn set(numbers: &[u64]) -> BTreeSet<NodeId> {
    numbers.iter().map(|number| node(*number)).collect()
}

#[test]
fn voters_are_few_odd_up_and_spread_over_zones() {
    // Present voters, members, coordinator, long down, expected voters, reason.
    type Row = (&'static [u64], &'static str, Option<u64>, &'static [u64], &'static [u64], &'static str);
    let table: &[Row] = &[
        (&[], "", None, &[], &[], "no members"),
        (&[1], "1a", Some(1), &[], &[1], "one node votes"),
        (&[1], "1a 2a", Some(1), &[], &[1], "of two nodes the founder votes"),
        (&[2], "1a 2a", Some(2), &[], &[2], "of two nodes the founder votes, whatever its id"),
        (&[1], "1a 2a 3a", Some(1), &[], &[1, 2, 3], "three of three"),
        (&[1], "1a 2a 3a!", Some(1), &[], &[1], "two voters are worse than one"),
        (&[1, 2, 3], "1a 2a 3a 4a", Some(1), &[], &[1, 2, 3], "three of four, the present ones stay"),
        (&[1, 2, 3], "1a 2a 3a 4a 5a", Some(1), &[], &[1, 2, 3, 4, 5], "five of five"),
        (&[1, 2, 3], "1a 2a 3a 4a 5a!", Some(1), &[], &[1, 2, 3], "no fifth is up: three stay"),
        (&[1, 2, 3], "1a 2a 3a! 4a", Some(1), &[], &[1, 2, 3], "briefly down: stays"),
        (&[1, 2, 3], "1a 2a 3a! 4a", Some(1), &[3], &[1, 2, 4], "long down: replaced"),
        (&[1, 2, 3], "1a 2a 3a!", Some(1), &[3], &[1, 2, 3], "long down, but no node can replace it"),
        (&[1, 2, 3], "1a 2a 3a! 4a!", Some(1), &[3], &[1, 2, 3], "a node that is down replaces no voter"),
        (&[1], "1a 2a 3b 4c", Some(1), &[], &[1, 3, 4], "one per zone"),
        (
            &[1, 2, 3],
            "1a 2a 3b 4b 5c 6c",
            Some(1),
            &[],
            &[1, 2, 3, 4, 5],
            "the emptiest zones are filled, the lowest name first",
        ),
        (&[1, 2, 3], "1a 2a", Some(2), &[], &[2], "shrunk to two: the coordinator"),
        (
            &[1, 2, 3, 4, 5],
            "1a 2a! 3b 4c",
            Some(4),
            &[],
            &[1, 3, 4],
            "shrunk: voters that are down are dropped first",
        ),
        (&[9], "1a 2a 3a", None, &[], &[1, 2, 3], "no present voter is a member"),
    ];
    for (present, words, coordinator, long_down, expected, why) in table {
        let chosen = choose_voters(&set(present), &members(words), coordinator.map(node), &set(long_down));
        assert_eq!(chosen, set(expected), "{why}: voters {present:?}, members {words}");
        let again = choose_voters(&chosen, &members(words), coordinator.map(node), &set(long_down));
        assert_eq!(again, chosen, "{why}: the choice is stable");
    }
}
