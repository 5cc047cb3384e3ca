//! Choice of the members that vote in the topology log. Pure: the coordinator performs the choice.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::state::{Member, MemberStatus};
use crate::id::NodeId;

/// Returns how many voters a cluster of this many members should have. Two voters are worse than one: a
/// failure of either one would stop both.
pub const fn voters_wanted(members: usize) -> usize {
    match members {
        0 => 0,
        1 | 2 => 1,
        3 | 4 => 3,
        _ => 5,
    }
}

/// Chooses which of `members` vote, given the `present` voters.
///
/// Voters that are up stay, first of all the `coordinator`. A voter that is down stays too, unless it is in
/// `long_down` and a member that is up can replace it. New voters are members that are up, spread over the
/// zones as evenly as possible. The number is odd: if fewer members than [`voters_wanted`] can vote, it is
/// the next lower odd number.
///
/// The result is empty only if no member is known. If `present` has no member left that may stay, as before
/// the founding, the voters are chosen from the members that are up.
pub fn choose_voters(
    present: &BTreeSet<NodeId>,
    members: &BTreeMap<NodeId, Member>,
    coordinator: Option<NodeId>,
    long_down: &BTreeSet<NodeId>,
) -> BTreeSet<NodeId> {
    let rank = |(id, member): (&NodeId, &Member)| {
        let up = member.status == MemberStatus::Up;
        match (present.contains(id), up) {
            (true, true) if Some(*id) == coordinator => Some(Rank::Coordinator),
            (true, true) => Some(Rank::Voter),
            (true, false) if !long_down.contains(id) => Some(Rank::VoterDown),
            (false, true) => Some(Rank::Candidate),
            (true, false) => Some(Rank::VoterLongDown),
            (false, false) => None,
        }
    };
    let ranked = |wanted: Rank| members.iter().filter(move |entry| rank(*entry) == Some(wanted));
    let mut chosen = Chosen::default();
    let wanted = voters_wanted(members.len());
    for rank in Rank::IN_ORDER {
        chosen.take(ranked(rank).map(|(id, member)| (*id, zone(member))).collect(), wanted);
    }
    if chosen.order.len() % 2 == 0 {
        // The last chosen node has the lowest rank.
        chosen.order.pop();
    }
    chosen.order.into_iter().collect()
}

/// Order in which nodes are chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rank {
    Coordinator,
    Voter,
    VoterDown,
    Candidate,
    VoterLongDown,
}

impl Rank {
    const IN_ORDER: [Self; 5] =
        [Self::Coordinator, Self::Voter, Self::VoterDown, Self::Candidate, Self::VoterLongDown];
}

fn zone(member: &Member) -> &str {
    &member.announcement.zone
}

#[derive(Default)]
struct Chosen<'a> {
    order: Vec<NodeId>,
    in_zone: BTreeMap<&'a str, usize>,
}

impl<'a> Chosen<'a> {
    /// Chooses from `candidates` until `wanted` nodes are chosen: first the zone with the fewest, then the
    /// lowest id.
    fn take(&mut self, mut candidates: BTreeMap<NodeId, &'a str>, wanted: usize) {
        while self.order.len() < wanted {
            let load = |zone: &str| self.in_zone.get(zone).copied().unwrap_or(0);
            let best = candidates.iter().min_by_key(|(_, zone)| load(zone)).map(|(id, zone)| (*id, *zone));
            let Some((id, zone)) = best else { return };
            candidates.remove(&id);
            self.order.push(id);
            *self.in_zone.entry(zone).or_default() += 1;
        }
    }
}
