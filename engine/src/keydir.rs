//! The keydir: for each key where its newest record is, by partition, a lock each.
//!
//! Keys are not held in memory: an entry has the key's 64-bit position (a hash), and who finds an equal position
//! compares the key in the record on disk. That is done outside the lock and settled again inside it, so that
//! no lock is held across a disk access. Invariants: a key has at most one entry, that of the highest version
//! published; the partition's figures, its files' figures and its ordered keys are those of its entries, at every
//! moment the lock is free.

use std::collections::HashMap;
use std::ops::Bound;

use parking_lot::{Mutex, MutexGuard};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::data_file::{FileSlot, FileTable, Location};
use crate::file_figures::FileFigures;
use crate::options::Index;
use crate::ordered::{KeyRun, OrderedKeys};
use crate::table::{Entry, Table};
use crate::{Era, PARTITIONS, Partition, PartitionStats, Version};

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

/// What became of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// It was of another era, or published before.
    Void,
    /// It is the first of its key.
    New,
    /// It took this one's place.
    Replaced(Entry),
    /// This one is as new or newer.
    Overtaken(Entry),
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
    /// The live keys, if they are kept in order.
    keys: Option<OrderedKeys>,
}

impl Slice {
    fn empty(era: Era, index: Index) -> Self {
        let keys = (index == Index::Ordered).then(OrderedKeys::default);
        Self { era, keys, ..Self::default() }
    }

    /// Counts an entry that comes, or with -1 one that goes. Its bytes are those of its coded length both times.
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

    /// Keeps the ordered keys in step with an entry that was taken in.
    fn note_key(&mut self, candidate: &Candidate<'_>) {
        match &mut self.keys {
            None => {}
            Some(keys) if candidate.entry.is_tombstone() => keys.remove(candidate.key),
            Some(keys) => keys.insert(candidate.key),
        }
    }
}

/// All partitions.
#[derive(Debug)]
pub(crate) struct Keydir {
    index: Index,
    slices: Vec<Mutex<Slice>>,
    figures: FileFigures,
}

impl Keydir {
    pub(crate) fn new(eras: &[Era], index: Index) -> Self {
        debug_assert_eq!(eras.len(), usize::from(PARTITIONS));
        let slices = eras.iter().map(|&era| Mutex::new(Slice::empty(era, index))).collect();
        Self { index, slices, figures: FileFigures::new() }
    }

    pub(crate) fn index(&self) -> Index {
        self.index
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

    /// The partition's era and the highest version published in it.
    pub(crate) fn era_and_highest(&self, partition: Partition) -> (Era, Version) {
        let slice = self.slice(partition).lock();
        (slice.era, slice.stats.highest_version)
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
            totals.expiring_keys += stats.expiring_keys;
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

    /// The partition's highest version, and its entry of this position and version, if there is one.
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

    /// Shows all entries, by position. Called under the partition's lock: `show` must be short.
    pub(crate) fn visit(&self, partition: Partition, show: impl FnMut(&Entry)) {
        self.slice(partition).lock().table.from(0).for_each(show);
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
        self.exchange(partition, |_| Slice::empty(era, self.index));
    }

    /// Fills a partition anew, of this era, with entries sorted by position, one a key. `highest_version` may be
    /// above theirs. `keys` are the live ones, in any order; they are needed only if they are kept in order.
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

    /// Puts another slice in a partition's place; what was there is given back after the lock is.
    fn exchange(&self, partition: Partition, new: impl FnOnce(&Slice) -> Slice) {
        let mut slice = self.slice(partition).lock();
        let new = new(&slice);
        let old = std::mem::replace(&mut *slice, new);
        drop(slice);
        old.table.from(0).for_each(|entry| self.figures.subtract(entry));
    }

    /// Some live keys in this range, in order, from its beginning on; `None` if they are not kept in order.
    pub(crate) fn keys_in(
        &self,
        partition: Partition,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        keys_max: usize,
    ) -> Option<KeyRun> {
        self.slice(partition).lock().keys.as_ref().map(|keys| keys.run(start, end, keys_max))
    }

    /// Takes the candidate in if its era is the partition's and its version the key's highest.
    pub(crate) fn publish(&self, files: &FileTable, candidate: &Candidate<'_>) -> Published {
        settle(files, candidate, |known| {
            self.try_publish(&mut self.slice(candidate.partition).lock(), candidate, known)
        })
    }

    /// Publishes several at once, under the locks of all their partitions: who reads one of them, reads all. Tells
    /// what became of each when the locks are free.
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
            // Ascending, as by all who take several.
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

    /// Of each candidate it is known how it relates to what is there; to those before it, its key tells.
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
            debug_assert!(done.is_some(), "all that is in the way is known");
            published.push(done.unwrap_or(Published::Void));
        }
        published
    }

    /// Publishes, or returns an entry whose relation to the candidate's key must be known first.
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
            // A copy of the same record: it serves if the one there is damaged.
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

/// What a merge needs.
impl Keydir {
    /// How many bytes of each file are live.
    pub(crate) fn figures(&self) -> &FileFigures {
        &self.figures
    }

    /// Points the entry of the copy's key and version to the copy, if the era is still the partition's and that
    /// entry is in a file of which `may_move` holds (called under a lock: it must be short). Tells whether it did.
    ///
    /// Where keys share the position, the key on disk decides, as when it was published. One entry alone is the
    /// copy's if position, version and length are: for it to be another's, the copy's key would have to have no
    /// entry, while a record of it that nothing overtook is still there to be copied.
    pub(crate) fn relocate(
        &self,
        files: &FileTable,
        copy: &Candidate<'_>,
        may_move: impl Fn(FileSlot) -> bool,
    ) -> bool {
        settle(files, copy, |known| self.try_relocate(copy, &may_move, known))
    }

    /// Relocates, or returns an entry whose relation to the copy's key must be known first.
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

    /// Whether the keydir points to the record at this very place.
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

    /// Forgets a tombstone, if it is still exactly this entry; tells whether it did.
    pub(crate) fn remove_tombstone(&self, partition: Partition, tombstone: &Entry) -> bool {
        let mut slice = self.slice(partition).lock();
        if !tombstone.is_tombstone() || !slice.table.remove(tombstone) {
            return false;
        }
        slice.count(tombstone, -1);
        self.figures.subtract(tombstone);
        true
    }

    /// The tombstones whose records are in files of which this holds.
    pub(crate) fn tombstones_in(&self, partition: Partition, is_in: impl Fn(FileSlot) -> bool) -> Vec<Entry> {
        let slice = self.slice(partition).lock();
        if slice.stats.tombstones == 0 {
            return Vec::new();
        }
        let is_one = |entry: &&Entry| entry.is_tombstone() && is_in(entry.location().file);
        slice.table.from(0).filter(is_one).copied().collect()
    }

    /// Tells the file and the bytes of each tombstone up to this version. Called under the partition's lock:
    /// `tell` must be short.
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

/// Tries until it is known how all entries in the way relate to the candidate's key. They are compared on disk
/// between two tries, while the lock is free; an entry that changed meanwhile is another one.
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

#[cfg(test)]
#[path = "keydir_tests.rs"]
mod tests;
