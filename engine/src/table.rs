//! One partition's hash table: linear probing in the order of positions.
//!
//! A position's home slot is `position * homes / 2^64`, which grows with the position; within a run of occupied
//! slots entries are sorted ("ordered hash tables", Amble and Knuth 1974). So the whole table is sorted by
//! position: pages and inventories need no sorting, a miss ends at the first greater position, and it may
//! grow by any factor. It grows by a quarter at nine tenths full: 28 bytes an entry become 31 to 39.

/// What is known of one key: 28 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, packed(4))]
pub(crate) struct Entry {
    pub(crate) position: u64,
    pub(crate) version: u64,
    /// 0 in an empty slot.
    file: FileId,
    offset: u32,
    /// Bytes of the record; its highest bit says that it is a tombstone.
    len_and_kind: u32,
}

use crate::data_file::{FileId, Location};

const _: () = assert!(size_of::<Entry>() == 28);

const TOMBSTONE: u32 = 1 << 31;
const EMPTY: Entry = Entry { position: 0, version: 0, file: 0, offset: 0, len_and_kind: 0 };
const HOMES_MIN: usize = 4;
/// Slots added when a run of occupied slots reaches the end of the table.
const OVERFLOW_STEP: usize = 8;

impl Entry {
    /// `at.len` must be below 2^31, `at.file` not 0.
    pub(crate) fn new(position: u64, version: u64, at: Location, tombstone: bool) -> Self {
        debug_assert!(at.len < TOMBSTONE && at.file != 0);
        let kind = if tombstone { TOMBSTONE } else { 0 };
        Self { position, version, file: at.file, offset: at.offset, len_and_kind: at.len | kind }
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        self.len_and_kind & TOMBSTONE != 0
    }

    pub(crate) fn location(&self) -> Location {
        Location { file: self.file, offset: self.offset, len: self.len_and_kind & !TOMBSTONE }
    }

    fn is_empty(&self) -> bool {
        self.file == 0
    }
}

/// The entries of one partition, sorted by position.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// `homes` home slots and some more for runs that go beyond the last.
    slots: Vec<Entry>,
    homes: usize,
    len: usize,
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The entries of this position.
    pub(crate) fn at(&self, position: u64) -> impl Iterator<Item = &Entry> {
        self.from(position).take_while(move |entry| entry.position == position)
    }

    /// The entries of this position and above, ascending.
    pub(crate) fn from(&self, position: u64) -> impl Iterator<Item = &Entry> {
        let run = self.slots.get(self.home(position)..).unwrap_or_default();
        Search { slots: run, position, seen: 0 }
    }

    pub(crate) fn insert(&mut self, entry: Entry) {
        if (self.len + 1) * 10 > self.homes * 9 {
            self.grow();
        }
        let goes_before = |slot: &Entry| slot.is_empty() || slot.position > entry.position;
        let at = self.find(self.home(entry.position), goes_before);
        let free = self.find(at, Entry::is_empty);
        self.slots.copy_within(at..free, at + 1);
        self.slots[at] = entry;
        self.len += 1;
    }

    /// Puts `new` in the place of `old`, which must be there and have the same position.
    pub(crate) fn replace(&mut self, old: &Entry, new: Entry) {
        debug_assert_eq!({ old.position }, { new.position });
        let home = self.home(old.position);
        if let Some(slot) = self.slots.iter_mut().skip(home).find(|slot| *slot == old) {
            *slot = new;
        }
    }

    fn home(&self, position: u64) -> usize {
        ((u128::from(position) * self.homes as u128) >> 64) as usize
    }

    /// The first slot from `start` on for which this holds; makes an empty one at the end if there is none.
    fn find(&mut self, start: usize, holds: impl Fn(&Entry) -> bool) -> usize {
        if let Some(at) = self.slots[start..].iter().position(holds) {
            return start + at;
        }
        let end = self.slots.len();
        self.slots.reserve_exact(OVERFLOW_STEP);
        self.slots.resize(end + OVERFLOW_STEP, EMPTY);
        end
    }

    fn grow(&mut self) {
        self.homes = (self.homes + self.homes / 4).max(self.homes + HOMES_MIN);
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; self.homes + OVERFLOW_STEP]);
        let mut next = 0;
        for entry in old.into_iter().filter(|entry| !entry.is_empty()) {
            let at = self.find(next.max(self.home(entry.position)), |_| true);
            self.slots[at] = entry;
            next = at + 1;
        }
    }
}

/// Goes over the entries from a position on. The slots begin at that position's home, so that only the first
/// run can hold lower ones; empty slots are passed over, of which there are few: a table is 0.7 to 0.9 full.
struct Search<'a> {
    slots: &'a [Entry],
    position: u64,
    seen: usize,
}

impl<'a> Iterator for Search<'a> {
    type Item = &'a Entry;

    fn next(&mut self) -> Option<&'a Entry> {
        loop {
            let slot = self.slots.get(self.seen)?;
            self.seen += 1;
            if !slot.is_empty() && slot.position >= self.position {
                return Some(slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(position: u64, version: u64) -> Entry {
        Entry::new(position, version, Location { file: 1, offset: version as u32, len: 40 }, false)
    }

    proptest! {
        #[test]
        fn table_is_a_sorted_list(positions in prop::collection::vec(prop_oneof![any::<u64>(), 0..9u64, Just(u64::MAX)], 0..400), from: u64) {
            let mut table = Table::default();
            let mut model = Vec::new();
            for (version, &position) in positions.iter().enumerate() {
                table.insert(entry(position, version as u64));
                model.push(entry(position, version as u64));
            }
            model.sort_by_key(|entry| entry.position);
            prop_assert_eq!(table.len(), model.len());
            prop_assert!(table.from(0).eq(&model));
            prop_assert!(table.from(from).eq(model.iter().filter(|entry| entry.position >= from)));
            for position in positions {
                prop_assert!(table.at(position).eq(model.iter().filter(|entry| entry.position == position)));
            }
        }
    }

    #[test]
    fn entry_takes_at_most_40_bytes_at_any_count() {
        let mut table = Table::default();
        let mut position: u64 = 0;
        for count in 1..40_000_u64 {
            position = position.wrapping_add(0x9E37_79B9_7F4A_7C15);
            table.insert(entry(position, count));
            if count > 1000 {
                let bytes = table.slots.capacity() * size_of::<Entry>();
                assert!(bytes as f64 / count as f64 <= 40.0, "{bytes} bytes for {count}");
            }
        }
    }
}
