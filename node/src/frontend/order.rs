//! The order rule of a pipeline: which operations of one connection may be in flight at the same time.
//!
//! Invariant: each command of a connection sees the effects of the commands before it. An operation that
//! completes at once needs no tracking. An operation in flight holds a *claim* on its key:
//! - a read waits for every write of the same key, because reads see only published writes;
//! - a write waits for reads and writes of the same key that do not have their place in the key's order yet.
//!
//! Keys are compared by a hash of 62 bits: a false match costs time, never order.

use std::collections::VecDeque;

use xxhash_rust::xxh3::xxh3_64;

const WRITES: u64 = 1;
const ORDERED: u64 = 2;
const FLAGS: u64 = WRITES | ORDERED;

/// Hash by which claims identify a key; its two lowest bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::frontend) struct KeyHash(u64);

impl KeyHash {
    pub(in crate::frontend) fn of(key: &[u8]) -> Self {
        Self(xxh3_64(key) & !FLAGS)
    }
}

/// Claims of the operations in flight, oldest first.
#[derive(Debug, Default)]
pub(in crate::frontend) struct Claims(VecDeque<u64>);

impl Claims {
    pub(in crate::frontend) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(in crate::frontend) fn push(&mut self, key: KeyHash, writes: bool, ordered: bool) {
        let flags = if writes { WRITES } else { 0 } | if ordered { ORDERED } else { 0 };
        self.0.push_back(key.0 | flags);
    }

    /// Removes the `count` oldest claims.
    pub(in crate::frontend) fn pop(&mut self, count: usize) {
        self.0.drain(..count.min(self.0.len()));
    }

    /// Returns whether an operation on the key has to wait.
    pub(in crate::frontend) fn bar(&self, key: KeyHash, writes: bool) -> bool {
        self.0.iter().any(|&claim| {
            let claimed_by_write = claim & WRITES != 0;
            let ordered = claim & ORDERED != 0;
            claim & !FLAGS == key.0 && if writes { !ordered } else { claimed_by_write }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_wait_for_writes_and_writes_wait_for_operations_without_a_place() {
        let (a, b) = (KeyHash::of(b"a"), KeyHash::of(b"b"));
        let barred = |writes, ordered| {
            let mut claims = Claims::default();
            claims.push(a, writes, ordered);
            assert!(!claims.bar(b, true) && !claims.bar(b, false));
            (claims.bar(a, false), claims.bar(a, true))
        };
        assert_eq!(barred(true, true), (true, false));
        assert_eq!(barred(true, false), (true, true));
        assert_eq!(barred(false, false), (false, true));
        assert_eq!(barred(false, true), (false, false));
    }

    #[test]
    fn answered_operations_block_nothing() {
        let (mut claims, a) = (Claims::default(), KeyHash::of(b"a"));
        claims.push(a, true, false);
        claims.push(a, true, false);
        claims.pop(1);
        assert!(claims.bar(a, true));
        claims.pop(1);
        assert!(!claims.bar(a, true) && claims.is_empty());
    }
}
