//! The number of live bytes in each data file, by file slot. Merges choose their inputs by it.
//!
//! The keydir updates the counters with every entry that it adds, moves or removes, under the lock of the
//! entry's partition; reads take no lock. Bytes are coded lengths ([`crate::length`]), and the same value is
//! added and subtracted. So a file without entries is at exactly 0, and any other file at most 0.1 % above
//! the true value.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::data_file::FileSlot;
use crate::table::Entry;

/// Slots whose counters are allocated together.
const CHUNK_SLOTS: usize = 256;
const CHUNKS: usize = (FileSlot::MAX as usize + 1) / CHUNK_SLOTS;

/// The live bytes of one data file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileFigure {
    /// Bytes of the records of live keys.
    pub(crate) live_bytes: u64,
    /// Bytes of the tombstones that are their key's newest record.
    pub(crate) tombstone_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    live_bytes: AtomicU64,
    tombstone_bytes: AtomicU64,
}

type Chunk = OnceLock<Box<[Counters; CHUNK_SLOTS]>>;

/// The counters of all data files.
#[derive(Debug)]
pub(crate) struct FileStats {
    chunks: Box<[Chunk; CHUNKS]>,
}

impl FileStats {
    pub(crate) fn new() -> Self {
        Self { chunks: Box::new([const { OnceLock::new() }; CHUNKS]) }
    }

    /// Returns the live bytes of this file, as the keydir counts them.
    pub(crate) fn of(&self, file: FileSlot) -> FileFigure {
        let (chunk, index) = (usize::from(file) / CHUNK_SLOTS, usize::from(file) % CHUNK_SLOTS);
        let Some(counters) = self.chunks[chunk].get().map(|chunk| &chunk[index]) else {
            return FileFigure::default();
        };
        FileFigure {
            live_bytes: counters.live_bytes.load(Ordering::Acquire),
            tombstone_bytes: counters.tombstone_bytes.load(Ordering::Acquire),
        }
    }

    pub(crate) fn add(&self, entry: &Entry) {
        let bytes = entry.location().len.into();
        self.counter(entry).fetch_add(bytes, Ordering::Release);
    }

    /// Subtracts the bytes that [`Self::add`] added for this entry.
    pub(crate) fn subtract(&self, entry: &Entry) {
        let bytes = u64::from(entry.location().len);
        let before = self.counter(entry).fetch_sub(bytes, Ordering::Release);
        debug_assert!(before >= bytes);
    }

    fn counter(&self, entry: &Entry) -> &AtomicU64 {
        let file = usize::from(entry.location().file);
        let new_chunk = || Box::new([const { Counters::new() }; CHUNK_SLOTS]);
        let counters = &self.chunks[file / CHUNK_SLOTS].get_or_init(new_chunk)[file % CHUNK_SLOTS];
        if entry.is_tombstone() { &counters.tombstone_bytes } else { &counters.live_bytes }
    }
}

impl Counters {
    const fn new() -> Self {
        Self { live_bytes: AtomicU64::new(0), tombstone_bytes: AtomicU64::new(0) }
    }
}
