//! Pages of the cluster's keys in key order.
//!
//! Keys are spread over the partitions by a hash. So every primary returns the first keys of its partitions,
//! and the pages are merged up to the end of the page that ends first. Invariant: a page counts only if each
//! partition was served by the answering node before and after the read; else it is requested again. Rejects
//! the request unless every node has the ordered index (`index = "ordered"`).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caskade_engine::error::ScanError;
use caskade_engine::scan::after_prefix;
use caskade_engine::slots::{PARTITIONS, partition_of_prefix};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::message::{Answer, Request};
use super::plane::Plane;
use super::route::damaged;
use crate::id::{NodeId, Partition};
use crate::kv::{ActionError, Failure};

/// Pause before a page is requested again because a partition was not served.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Upper bound of the keys of one page.
const PAGE_KEYS_MAX: usize = 10_000;

/// A range of keys in the order of their bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRange {
    /// Lower bound.
    pub start: Bound<Bytes>,
    /// Upper bound.
    pub end: Bound<Bytes>,
    /// Common prefix of all keys of the range; may be empty.
    pub prefix: Bytes,
}

/// One page of keys in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysInOrder {
    /// The keys.
    pub keys: Vec<Bytes>,
    /// Key after which the next page begins; `None`: this is the last page.
    pub next: Option<Bytes>,
}

impl KeyRange {
    /// Creates the range of the keys that begin with `prefix`.
    pub fn of_prefix(prefix: Bytes) -> Self {
        let end = after_prefix(&prefix).map_or(Bound::Unbounded, |after| Bound::Excluded(after.into()));
        Self { start: Bound::Included(prefix.clone()), end, prefix }
    }

    /// Returns the partitions that may have keys of the range: a single one if the prefix has a whole hash
    /// tag.
    fn partitions(&self) -> impl Iterator<Item = Partition> {
        match partition_of_prefix(&self.prefix) {
            Some(partition) => partition..partition + 1,
            None => 0..PARTITIONS,
        }
    }
}

/// Merges pages of several stores. The result ends where the first of the pages ends: only up to there all
/// are complete.
fn merge(pages: Vec<KeysInOrder>, limit: usize) -> KeysInOrder {
    let horizon = pages.iter().filter_map(|page| page.next.clone()).min();
    let mut keys: Vec<Bytes> = pages.into_iter().flat_map(|page| page.keys).collect();
    keys.retain(|key| horizon.as_ref().is_none_or(|horizon| key <= horizon));
    keys.sort_unstable();
    let next = if keys.len() > limit { keys.get(limit - 1).cloned() } else { horizon };
    keys.truncate(limit);
    KeysInOrder { keys, next }
}

impl Plane {
    /// Returns a page of live keys of a range in key order: `limit` keys, or all keys up to `next`.
    ///
    /// # Errors
    /// A partition is not served, or a node has no ordered index.
    pub async fn keys_in_order(
        self: &Arc<Self>,
        range: &KeyRange,
        limit: usize,
    ) -> Result<KeysInOrder, Failure> {
        let deadline = Instant::now() + Duration::from_millis(self.limits.request_timeout_ms);
        let limit = limit.clamp(1, PAGE_KEYS_MAX);
        loop {
            match self.pages(range, limit).await? {
                Ok(pages) => return Ok(merge(pages, limit)),
                Err(unserved) if Instant::now() >= deadline => {
                    return Err(self.no_primary(unserved, self.limits.request_timeout_ms));
                }
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// Requests one page from every primary. Returns the pages, or a partition that was not served.
    async fn pages(
        self: &Arc<Self>,
        range: &KeyRange,
        limit: usize,
    ) -> Result<Result<Vec<KeysInOrder>, Partition>, Failure> {
        let view = self.view.load_full();
        let mut by_node: BTreeMap<NodeId, Vec<Partition>> = BTreeMap::new();
        for partition in range.partitions() {
            match view.primaries.get(usize::from(partition)).copied().flatten() {
                Some(node) => by_node.entry(node).or_default().push(partition),
                None => return Ok(Err(partition)),
            }
        }
        let ask = |(node, partitions): (NodeId, Vec<Partition>)| async move {
            let first = partitions.first().copied().unwrap_or_default();
            let (range, limit) = (range.clone(), limit as u32);
            let answer = if node == self.node {
                self.local_keys_in_order(&partitions, &range, limit)
            } else {
                self.ask(node, &Request::KeysInOrder { partitions, range, limit }).await
            };
            (first, answer)
        };
        let answers = futures::future::join_all(by_node.into_iter().map(ask)).await;
        let mut pages = Vec::with_capacity(answers.len());
        for (first, answer) in answers {
            match answer {
                Answer::KeysInOrder { keys, next } => pages.push(KeysInOrder { keys, next }),
                Answer::Failed(Failure::Damaged(_)) => return Ok(Err(first)),
                Answer::Failed(failure) => return Err(failure),
                _ => return Ok(Err(first)),
            }
        }
        Ok(Ok(pages))
    }

    pub(super) fn local_keys_in_order(
        self: &Arc<Self>,
        partitions: &[Partition],
        range: &KeyRange,
        limit: u32,
    ) -> Answer {
        let serves_all =
            || partitions.iter().all(|partition| *partition < PARTITIONS && self.serves(*partition));
        if !serves_all() {
            return self.not_primary();
        }
        if let Some(partition) = partitions.iter().find(|partition| self.damage.is_in(**partition)) {
            return Answer::Failed(self.lost(*partition));
        }
        let start = range.start.as_ref().map(|key| &key[..]);
        let end = range.end.as_ref().map(|key| &key[..]);
        let page = match self.engine.range_page(Some(partitions), start, end, limit as usize) {
            Ok(page) => page,
            Err(ScanError::Read(error)) => return Answer::Failed(damaged(&error)),
            Err(ScanError::NoOrderedIndex) => {
                return Answer::Failed(Failure::Action(ActionError::NoOrderedIndex));
            }
        };
        let now = self.cluster_ms();
        let live = page.keys.into_iter().filter(|key| key.expiry_ms == 0 || key.expiry_ms > now);
        let keys = live.map(|key| key.key).collect();
        // A partition may have moved, and its data been dropped, during the read.
        if serves_all() { Answer::KeysInOrder { keys, next: page.next } } else { self.not_primary() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(keys: &[&'static str], next: Option<&'static str>) -> KeysInOrder {
        KeysInOrder { keys: keys.iter().map(|key| Bytes::from(*key)).collect(), next: next.map(Bytes::from) }
    }

    #[test]
    fn pages_are_merged_up_to_where_the_first_of_them_ends() {
        let pages = || vec![page(&["a", "d"], Some("d")), page(&["b", "c", "e"], None)];
        assert_eq!(merge(pages(), 10), page(&["a", "b", "c", "d"], Some("d")));
        assert_eq!(merge(pages(), 2), page(&["a", "b"], Some("b")));
        assert_eq!(merge(vec![page(&["b"], None), page(&["a"], None)], 2), page(&["a", "b"], None));
        assert_eq!(merge(vec![page(&[], Some("b")), page(&["c"], None)], 2), page(&[], Some("b")));
    }

    #[test]
    fn prefix_ends_before_the_next_one() {
        assert_eq!(KeyRange::of_prefix(Bytes::from("ab")).end, Bound::Excluded(Bytes::from("ac")));
        assert_eq!(KeyRange::of_prefix(Bytes::from_static(b"\xff")).end, Bound::Unbounded);
        assert_eq!(KeyRange::of_prefix(Bytes::from("a{b}")).partitions().count(), 1);
        assert_eq!(KeyRange::of_prefix(Bytes::from("a")).partitions().count(), usize::from(PARTITIONS));
    }
}
