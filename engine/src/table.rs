//! The hash table of one partition: linear probing in the order of positions.
//!
//! A position's home slot is `position * homes / 2^64`, which grows with the position. Within a run of
//! occupied slots entries are sorted ("ordered hash tables", Amble and Knuth 1974). So the whole table is
//! sorted by position: pages and inventories need no sorting, a miss ends at the first greater position, and
//! the table may grow by any factor. It grows by an eighth when it is nine tenths full: 24 bytes an entry
//! become 27 to 31.
//!
//! Slots are allocated in blocks of one size, and the table grows in place. So growth needs no second copy,
//! and a freed block fits the next allocation: a thousand tables that grow alike do not fragment memory.

use crate::data_file::{FileSlot, Location};
use crate::format::{RECORD_HEADER_LEN, TOMBSTONE_VALUE_LEN};
use crate::length;
use crate::record::InventoryEntry;

/// The index entry of one key: 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Entry {
    pub(crate) position: u64,
    pub(crate) version: u64,
    offset: u32,
    /// Slot of the file; 0: this table slot is empty.
    file: FileSlot,
    /// Code of the record's length, plus [`EXPIRING`] for a value that expires, or plus [`TOMBSTONE`] for a
    /// tombstone.
    len_and_kind: u16,
}

const _: () = assert!(size_of::<Entry>() == 24);

/// Number of length codes.
const CODES: u16 = length::code_of(length::LEN_MAX) + 1;
/// First code of values that expire.
const EXPIRING: u16 = CODES;
/// First code of tombstones. They have fewer codes, since tombstones are short.
const TOMBSTONE: u16 = 2 * CODES;
const TOMBSTONE_CODE_MAX: u16 = u16::MAX - TOMBSTONE;
const TOMBSTONE_LEN_MAX: u32 = (RECORD_HEADER_LEN + u16::MAX as usize + TOMBSTONE_VALUE_LEN) as u32;
const _: () = assert!(length::code_of(TOMBSTONE_LEN_MAX) <= TOMBSTONE_CODE_MAX);
const EMPTY: Entry = Entry { position: 0, version: 0, offset: 0, file: 0, len_and_kind: 0 };

/// Slots in a block: 3 KiB.
const BLOCK_SLOTS: usize = 128;
/// Slots after the last home, for the run that extends beyond it. A longer run, which is rare, adds a block.
const SLOTS_BEYOND: usize = 32;

impl Entry {
    /// Creates an entry. `at.len` must be at most 2^31, and `at.file` must not be 0.
    pub(crate) fn new(position: u64, version: u64, at: Location, tombstone: bool) -> Self {
        debug_assert!(at.file != 0);
        let code = length::code_of(at.len);
        debug_assert!(!tombstone || code <= TOMBSTONE_CODE_MAX);
        let len_and_kind = if tombstone { TOMBSTONE + code.min(TOMBSTONE_CODE_MAX) } else { code };
        Self { position, version, offset: at.offset, file: at.file, len_and_kind }
    }

    /// Returns the entry with the given expiry bit; a tombstone stays unchanged.
    pub(crate) fn with_expiry(mut self, expires: bool) -> Self {
        if expires && self.len_and_kind < EXPIRING {
            self.len_and_kind += EXPIRING;
        }
        self
    }

    /// Returns whether the entry is of a value with an expiry, past or not.
    pub(crate) fn expires(&self) -> bool {
        (EXPIRING..TOMBSTONE).contains(&self.len_and_kind)
    }

    fn code(&self) -> u16 {
        match self.len_and_kind {
            tombstone @ TOMBSTONE.. => tombstone - TOMBSTONE,
            expiring @ EXPIRING.. => expiring - EXPIRING,
            code => code,
        }
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        self.len_and_kind >= TOMBSTONE
    }

    /// Returns the place of the record, with the length to read.
    pub(crate) fn location(&self) -> Location {
        Location { file: self.file, offset: self.offset, len: length::at_most(self.code()) }
    }

    /// Returns whether the other entry is of a copy of the same record, as far as entries show.
    pub(crate) fn is_copy_of(&self, other: &Self) -> bool {
        // Ignores the expiry bit: only statistics depend on it, and a merge must find the record it copied.
        let record = |entry: &Self| (entry.position, entry.version, entry.is_tombstone(), entry.code());
        record(self) == record(other)
    }

    fn is_empty(&self) -> bool {
        self.file == 0
    }
}

type Block = [Entry; BLOCK_SLOTS];

/// The entries of one partition, sorted by position.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "blocks stay where they are when there are more of them")]
pub(crate) struct Table {
    /// `homes` home slots, and more for runs that extend beyond the last one.
    blocks: Vec<Box<Block>>,
    homes: usize,
    len: usize,
}

impl Table {
    /// Creates a table of these entries, which are sorted by position, with some room to grow.
    pub(crate) fn from_sorted(entries: &[Entry]) -> Self {
        debug_assert!(entries.is_sorted_by_key(|entry| entry.position));
        let mut table = Self::default();
        table.set_homes(blocks_for(entries.len()));
        let mut next = 0;
        for entry in entries {
            let at = table.home(entry.position).max(next);
            table.make_slots(at + 1);
            *table.slot_mut(at) = *entry;
            next = at + 1;
        }
        table.len = entries.len();
        table
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the entries of this position.
    pub(crate) fn at(&self, position: u64) -> impl Iterator<Item = &Entry> {
        let home = self.home(position);
        Run { blocks: &self.blocks, block: home / BLOCK_SLOTS, slot: home % BLOCK_SLOTS, position }
    }

    /// Returns the entries from this position on, ascending. Skips empty slots, of which there are few: a
    /// table is 80 % to 90 % full.
    pub(crate) fn from(&self, position: u64) -> impl Iterator<Item = &Entry> {
        self.slots(self.home(position)).filter(move |slot| !slot.is_empty() && slot.position >= position)
    }

    pub(crate) fn insert(&mut self, entry: Entry) {
        if (self.len + 1) * 10 > self.homes * 9 {
            self.grow();
        }
        let goes_before = |slot: &Entry| slot.is_empty() || slot.position > entry.position;
        let at = self.find(self.home(entry.position), goes_before);
        let free = self.find(at, Entry::is_empty);
        self.shift_in(at, free, entry);
        self.len += 1;
    }

    /// Replaces `old` by `new`, which has the same position; returns whether `old` was present.
    pub(crate) fn replace(&mut self, old: &Entry, new: Entry) -> bool {
        debug_assert_eq!(old.position, new.position);
        let Some(at) = self.index_of(old) else { return false };
        *self.slot_mut(at) = new;
        true
    }

    /// Removes this entry; returns whether it was present.
    pub(crate) fn remove(&mut self, entry: &Entry) -> bool {
        let Some(mut at) = self.index_of(entry) else { return false };
        // The entries after it in the run move up, until one is at its home.
        while let Some(follower) = self.slot(at + 1).filter(|slot| !slot.is_empty()) {
            if self.home(follower.position) > at {
                break;
            }
            *self.slot_mut(at) = follower;
            at += 1;
        }
        *self.slot_mut(at) = EMPTY;
        self.len -= 1;
        self.shrink();
        true
    }

    fn home(&self, position: u64) -> usize {
        ((u128::from(position) * self.homes as u128) >> 64) as usize
    }

    fn slots(&self, start: usize) -> impl Iterator<Item = &Entry> {
        let block = start / BLOCK_SLOTS;
        let first = self.blocks.get(block).map_or(&[][..], |slots| &slots[start % BLOCK_SLOTS..]);
        let rest = self.blocks.get(block + 1..).unwrap_or_default();
        first.iter().chain(rest.iter().flat_map(|slots| slots.iter()))
    }

    fn slot(&self, at: usize) -> Option<Entry> {
        self.blocks.get(at / BLOCK_SLOTS).map(|block| block[at % BLOCK_SLOTS])
    }

    /// Returns the slot of this number, which must exist.
    fn slot_mut(&mut self, at: usize) -> &mut Entry {
        &mut self.blocks[at / BLOCK_SLOTS][at % BLOCK_SLOTS]
    }

    fn index_of(&self, entry: &Entry) -> Option<usize> {
        let home = self.home(entry.position);
        let run = self.slots(home).take_while(|slot| !slot.is_empty() && slot.position <= entry.position);
        run.zip(home..).find_map(|(slot, at)| (slot == entry).then_some(at))
    }

    /// Returns the first slot from `start` on for which `holds` returns true; adds an empty one at the end if
    /// there is none.
    fn find(&mut self, start: usize, holds: impl Fn(&Entry) -> bool) -> usize {
        if let Some(beyond) = self.slots(start).position(holds) {
            return start + beyond;
        }
        let end = self.blocks.len() * BLOCK_SLOTS;
        self.make_slots(end + 1);
        end
    }

    /// Moves the slots from `at` up to the empty slot `free` by one, and puts the entry at `at`.
    fn shift_in(&mut self, at: usize, free: usize, entry: Entry) {
        let mut carried = entry;
        let mut from = at % BLOCK_SLOTS;
        for block in at / BLOCK_SLOTS..free / BLOCK_SLOTS {
            let slots = &mut self.blocks[block];
            let last = slots[BLOCK_SLOTS - 1];
            slots.copy_within(from..BLOCK_SLOTS - 1, from + 1);
            slots[from] = carried;
            (carried, from) = (last, 0);
        }
        let slots = &mut self.blocks[free / BLOCK_SLOTS];
        slots.copy_within(from..free % BLOCK_SLOTS, from + 1);
        slots[from] = carried;
    }

    /// Adds blocks until there are at least this many slots.
    fn make_slots(&mut self, slots: usize) {
        let missing = slots.div_ceil(BLOCK_SLOTS).saturating_sub(self.blocks.len());
        self.blocks.reserve_exact(missing);
        self.blocks.extend((0..missing).map(|_| Box::new([EMPTY; BLOCK_SLOTS])));
    }

    fn set_homes(&mut self, blocks: usize) {
        self.make_slots(blocks * BLOCK_SLOTS);
        self.homes = homes_of(blocks);
    }

    /// Adds slots and moves all entries to their new places.
    fn grow(&mut self) {
        let used = self.blocks.len();
        self.set_homes(used + (used / 8).max(1));
        let place = |next: usize, slot: &Entry| self.home(slot.position).max(next) + 1;
        let end = self.slots(0).filter(|slot| !slot.is_empty()).fold(0, place);
        self.make_slots(end);
        // First all entries move to the end. Then each moves down or stays, and meets only slots that are
        // free already.
        let slots = self.blocks.len() * BLOCK_SLOTS;
        let mut first = slots;
        for from in (0..used * BLOCK_SLOTS).rev() {
            let entry = std::mem::replace(self.slot_mut(from), EMPTY);
            if !entry.is_empty() {
                first -= 1;
                *self.slot_mut(first) = entry;
            }
        }
        let mut next = 0;
        for from in first..slots {
            let entry = std::mem::replace(self.slot_mut(from), EMPTY);
            let at = self.home(entry.position).max(next);
            *self.slot_mut(at) = entry;
            next = at + 1;
        }
    }

    /// Rebuilds the table if it is less than 40 % full.
    fn shrink(&mut self) {
        if self.len * 10 < self.homes * 4 && homes_of(blocks_for(self.len)) < self.homes {
            let entries: Vec<Entry> = self.from(0).copied().collect();
            *self = Self::from_sorted(&entries);
        }
    }

    /// Returns the bytes allocated for the table.
    #[cfg(test)]
    fn allocated_bytes(&self) -> usize {
        self.blocks.len() * size_of::<Block>() + self.blocks.capacity() * size_of::<Box<Block>>()
    }
}

/// Iterator over the entries of one position, from its home on. Every read uses it, hence no chain of
/// adapters.
struct Run<'a> {
    blocks: &'a [Box<Block>],
    block: usize,
    slot: usize,
    position: u64,
}

impl<'a> Iterator for Run<'a> {
    type Item = &'a Entry;

    fn next(&mut self) -> Option<&'a Entry> {
        loop {
            let Some(entry) = self.blocks.get(self.block)?.get(self.slot) else {
                (self.block, self.slot) = (self.block + 1, 0);
                continue;
            };
            if entry.is_empty() || entry.position > self.position {
                return None;
            }
            self.slot += 1;
            if entry.position == self.position {
                return Some(entry);
            }
        }
    }
}

/// Returns the number of home slots in a table of this many blocks.
fn homes_of(blocks: usize) -> usize {
    (blocks * BLOCK_SLOTS).saturating_sub(SLOTS_BEYOND)
}

/// Returns the number of blocks of a new table: it is at most 85 % full.
fn blocks_for(entries: usize) -> usize {
    if entries == 0 { 0 } else { ((entries * 20).div_ceil(17) + SLOTS_BEYOND).div_ceil(BLOCK_SLOTS) }
}

impl From<&Entry> for InventoryEntry {
    fn from(entry: &Entry) -> Self {
        Self { position: entry.position, version: entry.version, tombstone: entry.is_tombstone() }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
