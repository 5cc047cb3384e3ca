//! Keys and values of a benchmark, as pure functions of the seed and the key's number.
//!
//! A value is 8 bytes of hash of its key (cut if the value is shorter), then a slice of one random block.
//! Values are cheap to generate and compare, hard to compress, and differ from each other.

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

/// Slices of the block begin within this many bytes.
const SHIFTS: u64 = 4096;

/// Keys and values of one benchmark.
pub(super) struct Dataset {
    seed: u64,
    size: usize,
    keyspace: u64,
    block: Vec<u8>,
}

impl Dataset {
    /// Creates `keyspace` keys with values of `size` bytes.
    pub(super) fn new(seed: u64, size: usize, keyspace: u64) -> Self {
        let mut block = vec![0; size + SHIFTS as usize];
        SmallRng::seed_from_u64(seed).fill_bytes(&mut block);
        Self { seed, size, keyspace: keyspace.max(1), block }
    }

    /// Returns a pseudorandom number, always the same for the same request.
    pub(super) fn draw(&self, request: u64) -> u64 {
        // SplitMix64's finalizer (Steele, Lea, Flood 2014): one step of a generator that needs no state.
        let mut x = request.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.seed;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Returns the key number of a request that visits all keys in order.
    pub(super) fn in_order(&self, request: u64) -> u64 {
        request % self.keyspace
    }

    /// Returns the key number of a request that takes a random key.
    pub(super) fn at_random(&self, request: u64) -> u64 {
        self.draw(request) % self.keyspace
    }

    /// Returns key number `number`.
    pub(super) fn key(&self, number: u64) -> String {
        format!("bench:{}:{number:012}", self.seed)
    }

    fn parts(&self, number: u64) -> ([u8; 8], &[u8]) {
        let hash = self.draw(!number);
        let start = (hash % SHIFTS) as usize;
        let body = self.block.get(start..start + self.size).unwrap_or_default();
        (hash.to_le_bytes(), body)
    }

    /// Returns the size of a value in bytes.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Returns the value of key number `number`.
    pub(super) fn value(&self, number: u64) -> Vec<u8> {
        let (stamp, body) = self.parts(number);
        let mut value = body.to_vec();
        value.iter_mut().zip(stamp).for_each(|(byte, stamp)| *byte = stamp);
        value
    }

    /// Returns whether `value` is the value of key number `number`.
    pub(super) fn is_value(&self, number: u64, value: &[u8]) -> bool {
        let (stamp, body) = self.parts(number);
        let stamped = stamp.len().min(self.size);
        value.len() == self.size
            && value.iter().zip(stamp).all(|(byte, stamp)| *byte == stamp)
            && value.get(stamped..) == body.get(stamped..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_different_keys_differ() {
        for size in [0, 1, 8, 9, 1000, 70_000] {
            let data = Dataset::new(7, size, 100);
            assert_eq!(data.value(3).len(), size);
            assert!(data.is_value(3, &data.value(3)));
            assert_eq!(Dataset::new(7, size, 100).value(3), data.value(3));
            if size > 8 {
                assert!(!data.is_value(4, &data.value(3)), "size {size}");
                let mut torn = data.value(3);
                torn[size - 1] ^= 1;
                assert!(!data.is_value(3, &torn), "size {size}");
                assert!(!data.is_value(3, &data.value(3)[1..]));
            }
        }
    }

    #[test]
    fn requests_stay_within_the_keyspace() {
        let data = Dataset::new(1, 8, 10);
        assert!((0..1000).all(|request| data.in_order(request) < 10 && data.at_random(request) < 10));
        assert_eq!(
            (0..10).map(|request| data.in_order(request)).collect::<Vec<_>>(),
            (0..10).collect::<Vec<_>>()
        );
    }
}
