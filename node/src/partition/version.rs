//! Layout of a record's version: the term of the primary that ordered it, then its sequence in that term.
//!
//! ```text
//! 63        40 39                    0
//! | term (24) | sequence (40)         |
//! ```

use crate::cluster::terms::TERM_MAX;
use crate::id::Term;

/// Bits of a version that hold the sequence.
const SEQUENCE_BITS: u32 = 40;
/// Last sequence of a term: a primary that reaches it needs a new term.
pub(crate) const SEQUENCE_MAX: u64 = (1 << SEQUENCE_BITS) - 1;

const _: () = assert!(TERM_MAX as u64 == u64::MAX >> SEQUENCE_BITS, "every term has its versions");

/// Returns the version of record number `sequence` of `term`.
pub(crate) fn version(term: Term, sequence: u64) -> u64 {
    (u64::from(term) << SEQUENCE_BITS) | sequence
}

/// Returns the term of a version.
#[cfg(test)]
fn term_of(version: u64) -> Term {
    (version >> SEQUENCE_BITS) as Term
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_term_is_newer_than_any_sequence_of_an_earlier_one() {
        assert!(version(2, 0) > version(1, SEQUENCE_MAX));
        assert_eq!(term_of(version(7, 123)), 7);
    }
}
