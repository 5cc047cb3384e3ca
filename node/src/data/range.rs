//! Keys of the whole cluster in key order, a page at a time.
//!
//! Keys are spread over the partitions by a hash: every primary gives the first keys of its partitions, and they are
//! merged up to where the shortest page ends. A page is right only if each partition was served by the node that answered
//! for it, before and after; else it is asked for anew. Needs the ordered index on every node (`index = "ordered"`).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caskade_engine::{PARTITIONS, ScanError, after_prefix, partition_of_prefix};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::message::{Answer, Request};
use super::plane::Plane;
use super::route::damaged;
use crate::cluster::protocol::PROTOCOL_ACTIONS;
use crate::id::{NodeId, Partition};
use crate::kv::{ActionError, Failure};

/// Pause before a page is asked for again of which a part was not served.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Most keys of one page.
const PAGE_KEYS_MAX: usize = 10_000;

/// Consecutive keys, in the order of their bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRange {
    /// Where it begins.
    pub start: Bound<Bytes>,
    /// Where it ends.
    pub end: Bound<Bytes>,
    /// All its keys begin so.
    pub prefix: Bytes,
}

/// Some keys in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysInOrder {
    /// The keys.
    pub keys: Vec<Bytes>,
    /// The next page begins after this key; nothing after the last page.
    pub next: Option<Bytes>,
}

impl KeyRange {
    /// The keys that begin with these bytes.
    pub fn of_prefix(prefix: Bytes) -> Self {
        let end = after_prefix(&prefix).map_or(Bound::Unbounded, |after| Bound::Excluded(after.into()));
        Self { start: Bound::Included(prefix.clone()), end, prefix }
    }

    /// The partitions it can have keys in: one, where the prefix has a whole hash tag.
    fn partitions(&self) -> impl Iterator<Item = Partition> {
        match partition_of_prefix(&self.prefix) {
            Some(partition) => partition..partition + 1,
            None => 0..PARTITIONS,
        }
    }
}

/// Puts pages of several stores together: they are complete up to where the first of them ends.
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
    /// A page of live keys of a range in key order: `limit` of them, or as many as there are up to `next`.
    ///
    /// # Errors
    /// A partition is not served, or a node keeps no ordered index.
    pub async fn keys_in_order(
        self: &Arc<Self>,
        range: &KeyRange,
        limit: usize,
    ) -> Result<KeysInOrder, Failure> {
        let used = self.view.load().state.speech().protocol;
        if used < PROTOCOL_ACTIONS {
            return Err(Failure::Refused(format!(
                "the members speak version {used} of the peer protocol in common, and scans in key order need version \
                 {PROTOCOL_ACTIONS}: upgrade all nodes"
            )));
        }
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

    /// One page of every primary; or a partition that was not served.
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
        // A partition may have moved, and its data gone, while the page was made.
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
