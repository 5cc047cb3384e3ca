//! How much of the ring each member should hold: its weight's share, at most one copy of a partition.

use super::{PARTITIONS, RingMember};

/// An exact share, as a fraction of whole copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    copies: u64,
    of: u64,
}

impl Share {
    /// The share as a number, for people.
    pub(super) fn ideal(self) -> f64 {
        self.copies as f64 / self.of as f64
    }

    /// The whole numbers next to the share, which are equal where it is whole.
    pub(super) fn bounds(self) -> Bounds {
        Bounds { least: (self.copies / self.of) as usize, most: self.copies.div_ceil(self.of) as usize }
    }

    /// One of `parts` equal parts of it.
    pub(super) fn part(self, parts: usize) -> Share {
        Share { copies: self.copies, of: self.of * parts as u64 }
    }
}

/// How many assignments a node may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) least: usize,
    pub(super) most: usize,
}

/// The share of each member, in the order given, when every partition has `copies` of them. What a heavy
/// member cannot hold, because it holds a copy of every partition already, is shared by the others.
pub(super) fn shares(members: &[&RingMember], copies: usize) -> Vec<Share> {
    let partitions = u64::from(PARTITIONS);
    let mut by_weight: Vec<usize> = (0..members.len()).collect();
    by_weight.sort_by_key(|index| std::cmp::Reverse(members[*index].weight));
    let mut copies_left = partitions * copies as u64;
    let mut weight_left: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    let mut shares = vec![Share { copies: 0, of: 1 }; members.len()];
    for index in by_weight {
        let weight = u64::from(members[index].weight);
        if weight * copies_left > partitions * weight_left {
            shares[index] = Share { copies: partitions, of: 1 };
            copies_left -= partitions;
            weight_left -= weight;
        } else if weight_left > 0 {
            // From here on nobody is capped, so that both sums stay what they are.
            shares[index] = Share { copies: weight * copies_left, of: weight_left };
        }
    }
    shares
}
