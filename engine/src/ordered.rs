//! The live keys of one partition in order, for scans; kept only if the ordered index was requested.
//!
//! The keydir holds them beside the partition's table, under the same lock, and updates both together. The
//! index lists keys, not values: a scan reads each key like any other reader, and skips keys that were
//! deleted meanwhile.

use std::collections::BTreeSet;
use std::ops::Bound;

/// Bytes of keys after which a run ends; its first key may be longer.
const RUN_BYTES_MAX: usize = 16 << 10;

/// The live keys of a partition.
#[derive(Debug, Default)]
pub(crate) struct OrderedKeys(BTreeSet<Box<[u8]>>);

/// Consecutive keys of a range.
#[derive(Debug, Default)]
pub(crate) struct KeyRun {
    pub(crate) keys: Vec<Box<[u8]>>,
    /// Whether the range has more keys.
    pub(crate) more: bool,
}

impl FromIterator<Box<[u8]>> for OrderedKeys {
    fn from_iter<I: IntoIterator<Item = Box<[u8]>>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

impl OrderedKeys {
    pub(crate) fn insert(&mut self, key: &[u8]) {
        // Most writes are of keys that exist already: those cost no allocation.
        if !self.0.contains(key) {
            self.0.insert(key.into());
        }
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        self.0.remove(key);
    }

    /// Returns the first key of which this holds. Looks at all keys.
    pub(crate) fn find(&self, is_it: impl Fn(&[u8]) -> bool) -> Option<&[u8]> {
        self.0.iter().map(AsRef::as_ref).find(|key| is_it(key))
    }

    /// Returns the first keys of a range: at most `keys_max`, and only one if it is very long.
    pub(crate) fn run(&self, start: Bound<&[u8]>, end: Bound<&[u8]>, keys_max: usize) -> KeyRun {
        let mut run = KeyRun::default();
        if is_empty(start, end) {
            return run;
        }
        let mut bytes = 0;
        for key in self.0.range::<[u8], _>((start, end)) {
            if run.keys.len() >= keys_max.max(1) || bytes > RUN_BYTES_MAX {
                run.more = true;
                break;
            }
            bytes += key.len();
            run.keys.push(key.clone());
        }
        run
    }
}

/// Returns whether no key can be in this range; `BTreeSet::range` panics at some such ranges.
fn is_empty(start: Bound<&[u8]>, end: Bound<&[u8]>) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start >= end
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> OrderedKeys {
        [&b"a"[..], b"b", b"c", b"d"].into_iter().map(Box::from).collect()
    }

    fn run(start: Bound<&[u8]>, end: Bound<&[u8]>, keys_max: usize) -> (Vec<u8>, bool) {
        let run = keys().run(start, end, keys_max);
        (run.keys.concat(), run.more)
    }

    #[test]
    fn run_is_the_beginning_of_its_range() {
        assert_eq!(run(Bound::Unbounded, Bound::Unbounded, 9), (b"abcd".to_vec(), false));
        assert_eq!(run(Bound::Excluded(b"a"), Bound::Unbounded, 2), (b"bc".to_vec(), true));
        assert_eq!(run(Bound::Excluded(b"a"), Bound::Included(b"c"), 2), (b"bc".to_vec(), false));
        assert_eq!(run(Bound::Unbounded, Bound::Excluded(b"b"), 0), (b"a".to_vec(), false));
    }

    #[test]
    fn empty_and_reversed_ranges_have_no_keys() {
        let nothing = (Vec::new(), false);
        assert_eq!(run(Bound::Included(b"c"), Bound::Included(b"b"), 9), nothing);
        assert_eq!(run(Bound::Included(b"b"), Bound::Excluded(b"b"), 9), nothing);
        assert_eq!(run(Bound::Excluded(b"b"), Bound::Excluded(b"b"), 9), nothing);
        assert_eq!(run(Bound::Included(b"b"), Bound::Included(b"b"), 9), (b"b".to_vec(), false));
    }

    #[test]
    fn long_keys_make_short_runs() {
        let long: OrderedKeys = (0..9).map(|number| vec![number; 60_000].into()).collect();
        let run = long.run(Bound::Unbounded, Bound::Unbounded, 9);
        assert_eq!((run.keys.len(), run.more), (1, true));
    }
    /// `CASKADE_KEY_LEN=20 cargo test -p caskade-engine --lib memory_of_the_ordered_index -- --ignored --nocapture`
    #[test]
    #[ignore = "takes seconds and prints figures"]
    #[expect(clippy::print_stdout, reason = "printing figures is its purpose")]
    fn memory_of_the_ordered_index() {
        const KEYS: u64 = 1_000_000;
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            let pages: usize = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
            (pages * rustix::param::page_size()) as f64
        };
        let key_len = std::env::var("CASKADE_KEY_LEN").map_or(20, |len| len.parse::<usize>().unwrap());
        let before = resident();
        let mut sets: Vec<OrderedKeys> =
            (0..crate::slots::PARTITIONS).map(|_| OrderedKeys::default()).collect();
        let mut key = vec![b'k'; key_len.max(8)];
        for number in 0..KEYS {
            let hash = xxhash_rust::xxh3::xxh3_64(&number.to_le_bytes());
            *key.last_chunk_mut().unwrap() = hash.to_be_bytes();
            sets[(hash % 1024) as usize].insert(&key);
        }
        let bytes = (resident() - before) / KEYS as f64;
        println!("keys of {} bytes: {bytes:.1} bytes a key", key.len());
        drop(sets);
    }
}
