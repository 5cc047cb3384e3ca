//! Size of each member's part of the ring: in proportion to its weight, but at most one copy of each
//! partition.

use super::{PARTITIONS, RingMember};

/// An exact share, as a fraction of whole copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    copies: u64,
    of: u64,
}

impl Share {
    /// Returns the share as a number for display.
    pub(super) fn ideal(self) -> f64 {
        self.copies as f64 / self.of as f64
    }

    /// Returns the whole numbers next to the share; both are equal if the share is whole.
    pub(super) fn bounds(self) -> Bounds {
        Bounds { least: (self.copies / self.of) as usize, most: self.copies.div_ceil(self.of) as usize }
    }

    /// Returns one of `parts` equal parts of the share.
    pub(super) fn part(self, parts: usize) -> Share {
        Share { copies: self.copies, of: self.of * parts as u64 }
    }
}

/// Bounds of the number of assignments of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) least: usize,
    pub(super) most: usize,
}

/// Returns the share of each member, in the order given, if every partition has `copies` copies. A heavy
/// member has at most one copy of every partition; the others share its excess.
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
            // No later member is capped, so that both sums stay as they are.
            shares[index] = Share { copies: weight * copies_left, of: weight_left };
        }
    }
    shares
}
