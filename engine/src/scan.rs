//! Scans in key order, over the ordered index.
//!
//! A hash spreads keys over the partitions, so a range has keys in all of them: the scan merges their sorted
//! runs. It takes a few keys of a partition at a time, under its lock, and reads records while it holds no
//! lock. A scan is not a snapshot: a key that exists throughout is returned exactly once, in its place. A key
//! that is written or deleted meanwhile is returned with its newest record, or not at all. Scans fail without
//! the ordered index.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::now_ms;
use crate::core::Core;
use crate::error::{ReadError, ScanError};
use crate::open::OpenStore;
use crate::options::Index;
use crate::record::{Record, Version};
use crate::slots::{PARTITIONS, Partition, partition_of_prefix};

/// Number of keys taken from a partition at once: few at first, since a scan may be short; then it doubles.
const STEP_MIN: usize = 4;
const STEP_MAX: usize = 64;

/// Limit of the keys in a page, whatever the caller requests.
const PAGE_KEYS_MAX: usize = 10_000;

/// Granularity of page boundaries in a partition: [`KeysPage::next`] is a multiple of it, so all keys between
/// two multiples are in the same page. A page number within its partition takes 43 bits. This leaves 10 bits
/// for the partition in an integer that a double represents exactly.
pub const POSITION_STEP: u64 = 1 << 21;

/// A live key, without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// The key.
    pub key: Bytes,
    /// Time at which the key expires, in milliseconds since 1970; 0: never.
    pub expiry_ms: u64,
    /// Version of the key's record.
    pub version: Version,
}

/// A page of a partition's keys, in the order of their positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysPage {
    /// The keys: every live one from the requested position up to `next`.
    pub keys: Vec<KeyInfo>,
    /// Position at which the next page begins, a multiple of [`POSITION_STEP`]; `None` after the last page.
    pub next: Option<u64>,
}

/// Live keys in key order: [`Store::range_page`](crate::replicated::Store::range_page).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangePage {
    /// The keys, expired ones included.
    pub keys: Vec<KeyInfo>,
    /// Key after which the next page begins (`Bound::Excluded`); `None` after the last page.
    pub next: Option<Bytes>,
}

/// Returns a page of about `limit` live keys of a partition from this position on.
pub(crate) fn keys_page(
    core: &Core,
    partition: Partition,
    from: u64,
    limit: usize,
) -> Result<KeysPage, ReadError> {
    let (entries, next) = core.keydir.page(partition, from, limit, POSITION_STEP);
    let mut keys = Vec::with_capacity(entries.len());
    // Keys that share a position are read together.
    for same in entries.chunk_by(|a, b| a.position == b.position) {
        let Some(first) = same.first() else { continue };
        let records = core.read_position(partition, first.position)?;
        for record in records.into_iter().filter(|record| record.value.is_some()) {
            // Copied, so that a listed key does not keep its value in memory.
            let key = Bytes::copy_from_slice(&record.key);
            keys.push(KeyInfo { key, expiry_ms: record.expiry_ms, version: record.version });
        }
    }
    Ok(KeysPage { keys, next })
}

/// Returns the first keys between these bounds, of the given partitions or of all, in key order.
pub(crate) fn range_page(
    core: &Core,
    partitions: Option<&[Partition]>,
    start: Bound<&[u8]>,
    end: Bound<&[u8]>,
    limit: usize,
) -> Result<RangePage, ScanError> {
    let mut chosen = partitions.map_or_else(|| (0..PARTITIONS).collect(), <[Partition]>::to_vec);
    chosen.sort_unstable();
    chosen.dedup();
    let limit = limit.clamp(1, PAGE_KEYS_MAX);
    let step = (limit / chosen.len().max(1) + STEP_MIN).min(STEP_MAX);
    let mut merged = MergedKeys::begin(core, chosen, start, end, step)?;
    let mut page = RangePage::default();
    let mut last = None;
    for _ in 0..limit {
        let Some(key) = merged.next(core) else { return Ok(page) };
        let record = core.read(&key)?.filter(|record| record.value.is_some());
        let key = Bytes::from(key);
        page.keys.extend(record.map(|record| KeyInfo {
            key: key.clone(),
            expiry_ms: record.expiry_ms,
            version: record.version,
        }));
        last = Some(key);
    }
    page.next = last.filter(|_| !merged.is_empty());
    Ok(page)
}

/// Returns the first key after all keys with this prefix, if it exists.
#[must_use]
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|&byte| byte < u8::MAX)?;
    let mut after = prefix.get(..=kept)?.to_vec();
    *after.last_mut()? += 1;
    Some(after)
}

/// Iterator over a range in key order: [`Engine::range`](crate::Engine::range) and
/// [`Engine::prefix`](crate::Engine::prefix).
#[derive(Debug)]
#[must_use = "a scan does nothing until it is iterated"]
pub struct Scan {
    store: Arc<OpenStore>,
    keys: MergedKeys,
}

impl Scan {
    /// Begins a scan between these bounds.
    pub(crate) fn range(
        store: Arc<OpenStore>,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> Result<Self, ScanError> {
        let keys = MergedKeys::begin(&store, 0..PARTITIONS, start, end, STEP_MIN)?;
        Ok(Self { store, keys })
    }

    /// Begins a scan of the keys with this prefix.
    pub(crate) fn prefix(store: Arc<OpenStore>, prefix: &[u8]) -> Result<Self, ScanError> {
        let partitions = match partition_of_prefix(prefix) {
            Some(partition) => partition..partition + 1,
            None => 0..PARTITIONS,
        };
        let after = after_prefix(prefix);
        let end = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let keys = MergedKeys::begin(&store, partitions, Bound::Included(prefix), end, STEP_MIN)?;
        Ok(Self { store, keys })
    }
}

impl Iterator for Scan {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let key = self.keys.next(&self.store)?;
            match self.store.read(&key) {
                Ok(Some(record)) if record.is_present(now_ms()) => return Some(Ok(record)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The keys of several partitions, merged into one sequence.
#[derive(Debug)]
struct MergedKeys {
    end: Bound<Vec<u8>>,
    partitions: Vec<Cursor>,
    /// The next key of each partition that has one, with the partition's index; the lowest is on top.
    heads: BinaryHeap<Reverse<(Box<[u8]>, usize)>>,
}

/// Position of a scan in one partition.
#[derive(Debug)]
struct Cursor {
    partition: Partition,
    /// Keys taken from the partition and not returned yet.
    ready: std::vec::IntoIter<Box<[u8]>>,
    /// Whether the partition had more keys than these.
    more: bool,
    /// Number of keys to take next.
    step: usize,
}

impl MergedKeys {
    fn begin(
        core: &Core,
        partitions: impl IntoIterator<Item = Partition>,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        step: usize,
    ) -> Result<Self, ScanError> {
        if core.keydir.index() != Index::Ordered {
            return Err(ScanError::NoOrderedIndex);
        }
        let mut merged =
            Self { end: end.map(<[u8]>::to_vec), partitions: Vec::new(), heads: BinaryHeap::new() };
        for (index, partition) in partitions.into_iter().enumerate() {
            let mut cursor = Cursor { partition, ready: Vec::new().into_iter(), more: true, step };
            if let Some(head) = cursor.next(core, start, merged.end.as_ref().map(Vec::as_slice)) {
                merged.heads.push(Reverse((head, index)));
            }
            merged.partitions.push(cursor);
        }
        Ok(merged)
    }

    fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    fn next(&mut self, core: &Core) -> Option<Box<[u8]>> {
        let Reverse((key, index)) = self.heads.pop()?;
        let end = self.end.as_ref().map(Vec::as_slice);
        let cursor = self.partitions.get_mut(index)?;
        if let Some(head) = cursor.next(core, Bound::Excluded(&key), end) {
            self.heads.push(Reverse((head, index)));
        }
        Some(key)
    }
}

impl Cursor {
    /// Returns the partition's next key; takes more keys from `start` on if none is ready.
    fn next(&mut self, core: &Core, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Option<Box<[u8]>> {
        if self.ready.as_slice().is_empty() && self.more {
            let run = core.keydir.keys_in(self.partition, start, end, self.step).unwrap_or_default();
            self.ready = run.keys.into_iter();
            self.more = run.more;
            self.step = (self.step * 2).min(STEP_MAX);
        }
        self.ready.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_ends_before_the_next_one() {
        assert_eq!(after_prefix(b"ab").as_deref(), Some(&b"ac"[..]));
        assert_eq!(after_prefix(b"a\xff\xff").as_deref(), Some(&b"b"[..]));
        assert_eq!(after_prefix(b"\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }
}
