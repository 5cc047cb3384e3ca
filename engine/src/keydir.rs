//! The keydir: for each key where its newest record is, by partition, a lock each.
//!
//! Keys are not held in memory: an entry has the key's 64-bit position (a hash), and who finds an equal position
//! compares the key in the record on disk. That is done outside the lock and settled again inside it, so that
//! no lock is held across a disk access. Invariants: a key has at most one entry, that of the highest version
//! published; the partition's figures are those of its entries, at every moment the lock is free.

use parking_lot::Mutex;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::data_file::{FileTable, Location};
use crate::table::{Entry, Table};
use crate::{Era, PARTITIONS, Partition, PartitionStats};

/// Of [`position_of`]; a change of it would change the order in which all nodes list keys.
const POSITION_SEED: u64 = 0x6361_736b_6164_6531;

/// Where a key is in its partition: equal on every node.
pub(crate) fn position_of(key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, POSITION_SEED)
}

/// One record's share of its partition's digest.
fn digest_of(position: u64, version: u64) -> u64 {
    let mut bytes = [0; 16];
    let (left, right) = bytes.split_at_mut(8);
    left.copy_from_slice(&position.to_le_bytes());
    right.copy_from_slice(&version.to_le_bytes());
    xxh3_64(&bytes)
}

/// What is published: an entry to be, with what its record says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) partition: Partition,
    pub(crate) era: Era,
    pub(crate) key: &'a [u8],
    pub(crate) entry: Entry,
}

/// How an entry of an equal position relates to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    /// It is this key's.
    Same,
    /// It is this key's, as far as can be told: its record is damaged.
    Damaged,
    /// It is another key's.
    Other,
}

#[derive(Debug, Default)]
struct Slice {
    era: Era,
    table: Table,
    stats: PartitionStats,
}

impl Slice {
    fn count(&mut self, entry: &Entry, sign: i64) {
        let stats = &mut self.stats;
        if entry.is_tombstone() {
            stats.tombstones = stats.tombstones.wrapping_add_signed(sign);
            return;
        }
        stats.live_keys = stats.live_keys.wrapping_add_signed(sign);
        stats.live_bytes = stats.live_bytes.wrapping_add_signed(sign * i64::from(entry.location().len));
        let digest = digest_of(entry.position, entry.version);
        stats.digest =
            if sign > 0 { stats.digest.wrapping_add(digest) } else { stats.digest.wrapping_sub(digest) };
    }
}

/// All partitions.
#[derive(Debug)]
pub(crate) struct Keydir {
    slices: Vec<Mutex<Slice>>,
}

impl Keydir {
    pub(crate) fn new(eras: &[Era]) -> Self {
        let slice = |&era| Mutex::new(Slice { era, ..Slice::default() });
        debug_assert_eq!(eras.len(), usize::from(PARTITIONS));
        Self { slices: eras.iter().map(slice).collect() }
    }

    /// # Panics
    /// If there is no such partition: `partition_of` never names one, an owner that does has a bug.
    fn slice(&self, partition: Partition) -> &Mutex<Slice> {
        assert!(partition < PARTITIONS, "partition {partition} does not exist: there are {PARTITIONS}");
        &self.slices[usize::from(partition)]
    }

    pub(crate) fn era(&self, partition: Partition) -> Era {
        self.slice(partition).lock().era
    }

    pub(crate) fn stats(&self, partition: Partition) -> PartitionStats {
        self.slice(partition).lock().stats
    }

    /// Figures of all partitions together; the highest version is the highest of all.
    pub(crate) fn totals(&self) -> PartitionStats {
        let mut totals = PartitionStats::default();
        for slice in &self.slices {
            let stats = slice.lock().stats;
            totals.live_keys += stats.live_keys;
            totals.tombstones += stats.tombstones;
            totals.live_bytes += stats.live_bytes;
            totals.highest_version = totals.highest_version.max(stats.highest_version);
            totals.digest = totals.digest.wrapping_add(stats.digest);
        }
        totals
    }

    /// The entries of this position: one, but for keys that share it.
    pub(crate) fn entries_at(&self, partition: Partition, position: u64) -> Found {
        let slice = self.slice(partition).lock();
        let mut found = slice.table.at(position);
        match (found.next(), found.next()) {
            (None, _) => Found::None,
            (Some(entry), None) => Found::One(*entry),
            (Some(first), Some(second)) => {
                Found::Several([*first, *second].into_iter().chain(found.copied()).collect())
            }
        }
    }

    /// All entries, by position.
    pub(crate) fn entries(&self, partition: Partition) -> Vec<Entry> {
        let slice = self.slice(partition).lock();
        let mut entries = Vec::with_capacity(slice.table.len());
        entries.extend(slice.table.from(0).copied());
        entries
    }

    /// At least `limit` live entries from this position on if there are as many, and the position the next
    /// page begins at: a multiple of `step`, below which none was left out.
    pub(crate) fn page(
        &self,
        partition: Partition,
        from: u64,
        limit: usize,
        step: u64,
    ) -> (Vec<Entry>, Option<u64>) {
        let slice = self.slice(partition).lock();
        let mut live = slice.table.from(from).filter(|entry| !entry.is_tombstone()).peekable();
        let mut page: Vec<Entry> = live.by_ref().take(limit.max(1)).copied().collect();
        let last = page.last().map_or(from, |entry| entry.position);
        let end = (last / step + 1).checked_mul(step);
        while let Some(entry) = live.next_if(|entry| end.is_none_or(|end| entry.position < end)) {
            page.push(*entry);
        }
        let next = live.peek().and(end);
        (page, next)
    }

    /// Empties a partition and gives it its new era.
    pub(crate) fn clear(&self, partition: Partition, era: Era) {
        let emptied =
            std::mem::replace(&mut *self.slice(partition).lock(), Slice { era, ..Slice::default() });
        // Freed after the lock is.
        drop(emptied);
    }

    /// Takes the candidate in if its era is the partition's and its version the key's highest.
    pub(crate) fn publish(&self, files: &FileTable, candidate: &Candidate<'_>) {
        let mut known: Vec<(Entry, Relation)> = Vec::new();
        while let Some(unknown) = self.try_publish(candidate, &known) {
            known.push((unknown, relate(files, &unknown, candidate)));
        }
    }

    /// Publishes, or returns an entry whose relation to the candidate's key must be known first.
    fn try_publish(&self, candidate: &Candidate<'_>, known: &[(Entry, Relation)]) -> Option<Entry> {
        let new = candidate.entry;
        let mut slice = self.slice(candidate.partition).lock();
        if slice.era != candidate.era {
            return None;
        }
        let mut same = None;
        for old in slice.table.at(new.position) {
            if old.location() == new.location() {
                return None;
            }
            match known.iter().find(|(entry, _)| entry == old) {
                None => return Some(*old),
                Some((_, Relation::Other)) => {}
                Some((entry, relation)) => same = Some((*entry, *relation)),
            }
        }
        slice.stats.highest_version = slice.stats.highest_version.max(new.version);
        match same {
            // A copy of the same record: it serves if the one there is damaged.
            Some((old, relation)) if old.version == new.version && relation != Relation::Damaged => {}
            Some((old, _)) if old.version > new.version => {}
            Some((old, _)) => {
                slice.table.replace(&old, new);
                slice.count(&old, -1);
                slice.count(&new, 1);
            }
            None => {
                slice.table.insert(new);
                slice.count(&new, 1);
            }
        }
        None
    }
}

/// What [`Keydir::entries_at`] found.
#[derive(Debug)]
pub(crate) enum Found {
    None,
    One(Entry),
    Several(Vec<Entry>),
}

impl Found {
    pub(crate) fn as_slice(&self) -> &[Entry] {
        match self {
            Self::None => &[],
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Several(entries) => entries,
        }
    }
}

/// Compares the key on disk. A record whose key cannot be read counts as this key's: positions of 64 bits are
/// equal by chance once in 2^44 or less, and who writes a key anew must be able to heal it.
fn relate(files: &FileTable, old: &Entry, candidate: &Candidate<'_>) -> Relation {
    let at: Location = old.location();
    if old.version != candidate.entry.version
        && files.read_key_unverified(at).is_ok_and(|key| key == candidate.key)
    {
        return Relation::Same;
    }
    match files.read(at) {
        Ok(stored) if stored.header.version != old.version => Relation::Damaged,
        Ok(stored) if stored.key() == candidate.key => Relation::Same,
        Ok(stored) if position_of(stored.key()) != old.position => Relation::Damaged,
        Ok(_) => Relation::Other,
        Err(_) => Relation::Damaged,
    }
}
