//! The keydir: an index of the newest record of each key, by partition, with one lock each.
//!
//! Keys are not held in memory: an entry has the key's 64-bit position (a hash). If positions are equal, the
//! keydir compares the key with the one in the record on disk. It does so outside the lock and then rechecks
//! under the lock, so that no lock is held across a disk access. Invariants: a key has at most one entry,
//! that of the highest version published; whenever a partition's lock is free, its statistics, the byte
//! counts of its files and its ordered keys match its entries.

use std::collections::HashMap;
use std::ops::Bound;

use parking_lot::{Mutex, MutexGuard};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::data_file::{FileSlot, FileTable, Location};
use crate::file_figures::FileStats;
use crate::format::Era;
use crate::options::Index;
use crate::ordered::{KeyRun, OrderedKeys};
use crate::record::Version;
use crate::slots::{PARTITIONS, Partition};
use crate::stats::PartitionStats;
use crate::table::{Entry, Table};

/// Seed of [`position_of`]; changing it would change the order in which all nodes list keys.
const POSITION_SEED: u64 = 0x6361_736b_6164_6531;

/// Returns the position of a key in its partition: equal on every node.
pub(crate) fn position_of(key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, POSITION_SEED)
}

/// Returns the term that one record adds to its partition's digest.
fn digest_of(position: u64, version: u64) -> u64 {
    let mut bytes = [0; 16];
    let (left, right) = bytes.split_at_mut(8);
    left.copy_from_slice(&position.to_le_bytes());
    right.copy_from_slice(&version.to_le_bytes());
    xxh3_64(&bytes)
}

/// A record to be published: its key and its future entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) partition: Partition,
    pub(crate) era: Era,
    pub(crate) key: &'a [u8],
    pub(crate) entry: Entry,
}

/// Result of publishing a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// Nothing changed: the candidate has another era, or was published before.
    Void,
    /// The key had no entry.
    New,
    /// The candidate replaced this entry.
    Replaced(Entry),
    /// Nothing changed: this entry is as new or newer.
    Overtaken(Entry),
}

/// Relation of an entry to a key with the same position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    /// The entry is of this key.
    Same,
    /// The entry's record is damaged, so the entry is treated as being of this key.
    Damaged,
    /// The entry is of another key.
    Other,
}

#[derive(Debug, Default)]
struct Slice {
    era: Era,
    table: Table,
    stats: PartitionStats,
    /// The live keys, if the index is ordered.
    keys: Option<OrderedKeys>,
}

impl Slice {
    fn empty(era: Era, index: Index) -> Self {
        let keys = (index == Index::Ordered).then(OrderedKeys::default);
        Self { era, keys, ..Self::default() }
    }

    /// Adds an entry to the statistics, or with a `sign` of -1 subtracts it. Both use the bytes of its coded
    /// length.
    fn count(&mut self, entry: &Entry, sign: i64) {
        let stats = &mut self.stats;
        if entry.is_tombstone() {
            stats.tombstones = stats.tombstones.wrapping_add_signed(sign);
            return;
        }
        stats.live_keys = stats.live_keys.wrapping_add_signed(sign);
        stats.expiring_keys = stats.expiring_keys.wrapping_add_signed(sign * i64::from(entry.expires()));
        stats.live_bytes = stats.live_bytes.wrapping_add_signed(sign * i64::from(entry.location().len));
        let digest = digest_of(entry.position, entry.version);
        stats.digest =
            if sign > 0 { stats.digest.wrapping_add(digest) } else { stats.digest.wrapping_sub(digest) };
    }

    /// Updates the ordered keys for an entry that was inserted.
    fn note_key(&mut self, candidate: &Candidate<'_>) {
        match &mut self.keys {
            None => {}
            Some(keys) if candidate.entry.is_tombstone() => keys.remove(candidate.key),
            Some(keys) => keys.insert(candidate.key),
        }
    }
}

/// The entries of all partitions.
#[derive(Debug)]
pub(crate) struct Keydir {
    index: Index,
    slices: Vec<Mutex<Slice>>,
    figures: FileStats,
}

impl Keydir {
    pub(crate) fn new(eras: &[Era], index: Index) -> Self {
        debug_assert_eq!(eras.len(), usize::from(PARTITIONS));
        let slices = eras.iter().map(|&era| Mutex::new(Slice::empty(era, index))).collect();
        Self { index, slices, figures: FileStats::new() }
    }

    pub(crate) fn index(&self) -> Index {
        self.index
    }

    /// Returns the slice of a partition.
    ///
    /// # Panics
    /// Panics if the partition does not exist: `partition_of` never returns such a number, so an owner that
    /// passes one has a bug.
    fn slice(&self, partition: Partition) -> &Mutex<Slice> {
        assert!(partition < PARTITIONS, "partition {partition} does not exist: there are {PARTITIONS}");
        &self.slices[usize::from(partition)]
    }

    pub(crate) fn era(&self, partition: Partition) -> Era {
        self.slice(partition).lock().era
    }

    /// Returns the partition's era and the highest version published in it.
    pub(crate) fn era_and_highest(&self, partition: Partition) -> (Era, Version) {
        let slice = self.slice(partition).lock();
        (slice.era, slice.stats.highest_version)
    }

    pub(crate) fn stats(&self, partition: Partition) -> PartitionStats {
        self.slice(partition).lock().stats
    }

    /// Returns the sums of all partitions' figures; the highest version is their maximum.
    pub(crate) fn totals(&self) -> PartitionStats {
        let mut totals = PartitionStats::default();
        for slice in &self.slices {
            let stats = slice.lock().stats;
            totals.live_keys += stats.live_keys;
            totals.expiring_keys += stats.expiring_keys;
            totals.tombstones += stats.tombstones;
            totals.live_bytes += stats.live_bytes;
            totals.highest_version = totals.highest_version.max(stats.highest_version);
            totals.digest = totals.digest.wrapping_add(stats.digest);
        }
        totals
    }

    /// Returns the entries of this position: at most one, unless several keys share it.
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

    /// Returns the partition's highest version, and its entry of this position and version, if it exists.
    pub(crate) fn version_at(
        &self,
        partition: Partition,
        position: u64,
        version: Version,
    ) -> (Version, Option<Entry>) {
        let slice = self.slice(partition).lock();
        let entry = slice.table.at(position).find(|entry| entry.version == version).copied();
        (slice.stats.highest_version, entry)
    }

    /// Calls `show` with every entry, ordered by position, under the partition's lock: `show` must be short.
    pub(crate) fn visit(&self, partition: Partition, show: impl FnMut(&Entry)) {
        self.slice(partition).lock().table.from(0).for_each(show);
    }

    /// Returns all entries, ordered by position.
    pub(crate) fn entries(&self, partition: Partition) -> Vec<Entry> {
        let slice = self.slice(partition).lock();
        let mut entries = Vec::with_capacity(slice.table.len());
        entries.extend(slice.table.from(0).copied());
        entries
    }

    /// Returns at least `limit` live entries from this position on, or all if there are fewer, and the
    /// position of the next page: a multiple of `step`. The page has all live entries below that position.
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

    /// Empties a partition and sets its new era.
    pub(crate) fn clear(&self, partition: Partition, era: Era) {
        self.exchange(partition, |_| Slice::empty(era, self.index));
    }

    /// Replaces the content of a partition, in its present era, by entries sorted by position, one for each
    /// key. `highest_version` may be above theirs. `keys` are the live keys, in any order; only an ordered
    /// index needs them.
    pub(crate) fn load(
        &self,
        partition: Partition,
        entries: &[Entry],
        highest_version: Version,
        keys: Vec<Box<[u8]>>,
    ) {
        let mut loaded = Slice { table: Table::from_sorted(entries), ..Slice::empty(0, self.index) };
        for entry in entries {
            loaded.count(entry, 1);
            self.figures.add(entry);
            loaded.stats.highest_version = loaded.stats.highest_version.max(entry.version);
        }
        loaded.stats.highest_version = loaded.stats.highest_version.max(highest_version);
        loaded.keys = loaded.keys.map(|_| keys.into_iter().collect());
        self.exchange(partition, |old| Slice { era: old.era, ..loaded });
    }

    /// Replaces a partition's slice; frees the former one after the lock is released.
    fn exchange(&self, partition: Partition, new: impl FnOnce(&Slice) -> Slice) {
        let mut slice = self.slice(partition).lock();
        let new = new(&slice);
        let old = std::mem::replace(&mut *slice, new);
        drop(slice);
        old.table.from(0).for_each(|entry| self.figures.subtract(entry));
    }

    /// Returns the first live keys in this range, in order; `None` if the index is not ordered.
    pub(crate) fn keys_in(
        &self,
        partition: Partition,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        keys_max: usize,
    ) -> Option<KeyRun> {
        self.slice(partition).lock().keys.as_ref().map(|keys| keys.run(start, end, keys_max))
    }

    /// Inserts the candidate if it has the partition's era and the key's highest version.
    pub(crate) fn publish(&self, files: &FileTable, candidate: &Candidate<'_>) -> Published {
        settle(files, candidate, |known| {
            self.try_publish(&mut self.slice(candidate.partition).lock(), candidate, known)
        })
    }

    /// Publishes several candidates at once, under the locks of all their partitions: a reader that sees one
    /// of them sees all. Calls `tell` with each result after the locks are released.
    pub(crate) fn publish_all(
        &self,
        files: &FileTable,
        candidates: &[Candidate<'_>],
        mut tell: impl FnMut(&Candidate<'_>, Published),
    ) {
        if let [alone] = candidates {
            return tell(alone, self.publish(files, alone));
        }
        let mut partitions: Vec<Partition> = candidates.iter().map(|candidate| candidate.partition).collect();
        partitions.sort_unstable();
        partitions.dedup();
        let mut known: Vec<Vec<(Entry, Relation)>> = vec![Vec::new(); candidates.len()];
        let published = loop {
            // Locked in ascending order, like everywhere else where several are held.
            let mut slices: Vec<_> =
                partitions.iter().map(|&partition| self.slice(partition).lock()).collect();
            let place = |candidate: &Candidate<'_>| partitions.binary_search(&candidate.partition).ok();
            let mut unknown = Vec::new();
            for (index, (candidate, known)) in candidates.iter().zip(&known).enumerate() {
                let Some(slice) = place(candidate).and_then(|at| slices.get(at)) else { continue };
                let in_the_way = slice.table.at(candidate.entry.position);
                let is_unknown = |old: &&Entry| !known.iter().any(|(entry, _)| entry == *old);
                unknown.extend(in_the_way.filter(is_unknown).map(|old| (index, *old)));
            }
            if unknown.is_empty() {
                break self.publish_under(&mut slices, place, candidates, &mut known);
            }
            drop(slices);
            for (index, old) in unknown {
                if let (Some(known), Some(candidate)) = (known.get_mut(index), candidates.get(index)) {
                    known.push((old, relate(files, &old, candidate)));
                }
            }
        };
        candidates.iter().zip(published).for_each(|(candidate, published)| tell(candidate, published));
    }

    /// Publishes candidates whose relation to all present entries is known. Relations among the candidates
    /// follow from their keys.
    fn publish_under(
        &self,
        slices: &mut [MutexGuard<'_, Slice>],
        place: impl Fn(&Candidate<'_>) -> Option<usize>,
        candidates: &[Candidate<'_>],
        known: &mut [Vec<(Entry, Relation)>],
    ) -> Vec<Published> {
        let mut at_position: HashMap<(Partition, u64), Vec<usize>> = HashMap::new();
        let mut published = Vec::with_capacity(candidates.len());
        for (index, (candidate, known)) in candidates.iter().zip(known).enumerate() {
            let before = at_position.entry((candidate.partition, candidate.entry.position)).or_default();
            for other in before.iter().filter_map(|&other| candidates.get(other)) {
                let relation = if other.key == candidate.key { Relation::Same } else { Relation::Other };
                known.push((other.entry, relation));
            }
            before.push(index);
            let slice = place(candidate).and_then(|at| slices.get_mut(at));
            let done = slice.and_then(|slice| self.try_publish(slice, candidate, known).ok());
            debug_assert!(done.is_some(), "the relation to every entry of the position is known");
            published.push(done.unwrap_or(Published::Void));
        }
        published
    }

    /// Publishes, or returns an entry whose relation to the candidate's key must be determined first.
    fn try_publish(
        &self,
        slice: &mut Slice,
        candidate: &Candidate<'_>,
        known: &[(Entry, Relation)],
    ) -> Result<Published, Entry> {
        let new = candidate.entry;
        if slice.era != candidate.era {
            return Ok(Published::Void);
        }
        let mut same = None;
        for old in slice.table.at(new.position) {
            if old.location() == new.location() {
                return Ok(Published::Void);
            }
            match known.iter().find(|(entry, _)| entry == old) {
                None => return Err(*old),
                Some((_, Relation::Other)) => {}
                Some((entry, relation)) => same = Some((*entry, *relation)),
            }
        }
        slice.stats.highest_version = slice.stats.highest_version.max(new.version);
        Ok(match same {
            // A copy of the same record replaces the present one only if that is damaged.
            Some((old, relation)) if old.version == new.version && relation != Relation::Damaged => {
                Published::Overtaken(old)
            }
            Some((old, _)) if old.version > new.version => Published::Overtaken(old),
            Some((old, _)) => {
                self.replace(slice, &old, new);
                slice.note_key(candidate);
                Published::Replaced(old)
            }
            None => {
                slice.table.insert(new);
                slice.count(&new, 1);
                self.figures.add(&new);
                slice.note_key(candidate);
                Published::New
            }
        })
    }

    fn replace(&self, slice: &mut Slice, old: &Entry, new: Entry) {
        if slice.table.replace(old, new) {
            slice.count(&new, 1);
            slice.count(old, -1);
            self.figures.add(&new);
            self.figures.subtract(old);
        }
    }
}

/// Functions for merges.
impl Keydir {
    /// Returns the live bytes of each file.
    pub(crate) fn figures(&self) -> &FileStats {
        &self.figures
    }

    /// Points the entry of the copy's key and version to the copy; returns whether it did. Conditions: the
    /// partition's era is the copy's, and `may_move` returns true for the entry's file. `may_move` runs under
    /// a lock: it must be short.
    ///
    /// If several keys share the position, the key on disk decides, as in publishing. A single entry is taken
    /// for the copy's if position, version and length match. For it to be another key's, the copy's key would
    /// have no entry, although a record of it that nothing replaced is still being copied.
    pub(crate) fn relocate(
        &self,
        files: &FileTable,
        copy: &Candidate<'_>,
        may_move: impl Fn(FileSlot) -> bool,
    ) -> bool {
        settle(files, copy, |known| self.try_relocate(copy, &may_move, known))
    }

    /// Relocates, or returns an entry whose relation to the copy's key must be determined first.
    fn try_relocate(
        &self,
        copy: &Candidate<'_>,
        may_move: &impl Fn(FileSlot) -> bool,
        known: &[(Entry, Relation)],
    ) -> Result<bool, Entry> {
        let mut slice = self.slice(copy.partition).lock();
        if slice.era != copy.era {
            return Ok(false);
        }
        let is_alone = slice.table.at(copy.entry.position).count() == 1;
        let moves = |old: &&Entry| old.is_copy_of(&copy.entry) && may_move(old.location().file);
        let mut moved = None;
        for old in slice.table.at(copy.entry.position).filter(moves) {
            match known.iter().find(|(entry, _)| entry == old) {
                Some((_, Relation::Same)) => moved = Some(*old),
                _ if is_alone => moved = Some(*old),
                None => return Err(*old),
                Some(_) => {}
            }
        }
        let Some(old) = moved else { return Ok(false) };
        self.replace(&mut slice, &old, copy.entry);
        Ok(true)
    }

    /// Returns whether the keydir points to the record at exactly this place.
    pub(crate) fn is_at(
        &self,
        partition: Partition,
        era: Era,
        position: u64,
        (file, offset): (FileSlot, u32),
    ) -> bool {
        let slice = self.slice(partition).lock();
        let here = |entry: &Entry| (entry.location().file, entry.location().offset) == (file, offset);
        slice.era == era && slice.table.at(position).any(here)
    }

    /// Removes a tombstone if it is still exactly this entry; returns whether it did.
    pub(crate) fn remove_tombstone(&self, partition: Partition, tombstone: &Entry) -> bool {
        let mut slice = self.slice(partition).lock();
        if !tombstone.is_tombstone() || !slice.table.remove(tombstone) {
            return false;
        }
        slice.count(tombstone, -1);
        self.figures.subtract(tombstone);
        true
    }

    /// Returns the live key at this position, if the keys are kept in order.
    pub(crate) fn ordered_key_at(&self, partition: Partition, position: u64) -> Option<Vec<u8>> {
        let slice = self.slice(partition).lock();
        slice.keys.as_ref()?.find(|key| position_of(key) == position).map(<[u8]>::to_vec)
    }

    /// Forgets a record, if its entry is still exactly this one; returns whether it did.
    pub(crate) fn forget(&self, partition: Partition, entry: &Entry) -> bool {
        let mut slice = self.slice(partition).lock();
        if !slice.table.remove(entry) {
            return false;
        }
        let key = slice
            .keys
            .as_ref()
            .and_then(|keys| keys.find(|key| position_of(key) == entry.position).map(<[u8]>::to_vec));
        if let (Some(keys), Some(key)) = (&mut slice.keys, key) {
            keys.remove(&key);
        }
        slice.count(entry, -1);
        self.figures.subtract(entry);
        true
    }

    /// Returns the tombstones whose records are in files for which `is_in` returns true.
    pub(crate) fn tombstones_in(&self, partition: Partition, is_in: impl Fn(FileSlot) -> bool) -> Vec<Entry> {
        let slice = self.slice(partition).lock();
        if slice.stats.tombstones == 0 {
            return Vec::new();
        }
        let is_one = |entry: &&Entry| entry.is_tombstone() && is_in(entry.location().file);
        slice.table.from(0).filter(is_one).copied().collect()
    }

    /// Calls `tell` with the file and the bytes of each tombstone up to this version, under the partition's
    /// lock: `tell` must be short.
    pub(crate) fn collectable(
        &self,
        partition: Partition,
        up_to: Version,
        mut tell: impl FnMut(FileSlot, u32),
    ) {
        let slice = self.slice(partition).lock();
        if slice.stats.tombstones == 0 {
            return;
        }
        for entry in slice.table.from(0).filter(|entry| entry.is_tombstone() && entry.version <= up_to) {
            tell(entry.location().file, entry.location().len);
        }
    }
}

/// Retries until the relation of all present entries to the candidate's key is known. Keys are compared on
/// disk between two attempts, while the lock is free. An entry that changed meanwhile counts as another
/// entry.
fn settle<T>(
    files: &FileTable,
    candidate: &Candidate<'_>,
    mut attempt: impl FnMut(&[(Entry, Relation)]) -> Result<T, Entry>,
) -> T {
    let mut known = Vec::new();
    loop {
        match attempt(&known) {
            Ok(done) => return done,
            Err(unknown) => known.push((unknown, relate(files, &unknown, candidate))),
        }
    }
}

/// Result of [`Keydir::entries_at`].
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

/// Compares the key on disk. A record whose key cannot be read is treated as this key's: 64-bit positions are
/// equal by chance with a probability of 2^-44 or less, and overwriting a key must be able to heal it.
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

#[cfg(test)]
#[path = "keydir_tests.rs"]
mod tests;
