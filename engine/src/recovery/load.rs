//! Fills the keydir from the hints of all files, one block of partitions at a time.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::{Source, in_parallel};
use crate::data_file::{DataFile, Location};
use crate::directory::Directory;
use crate::error::OpenError;
use crate::format::Bad;
use crate::format::hint::{HintEntry, SectionHead, section_entries};
use crate::hint_file::HintSource;
use crate::keydir::{Keydir, position_of};
use crate::options::Index;
use crate::slots::{PARTITIONS, Partition};
use crate::table::Entry;

/// Approximate memory of one block's sections.
const BLOCK_BYTES: u64 = 32 << 20;

/// The sections of a block, by file.
type Block = Vec<Vec<(SectionHead, Vec<u8>)>>;

/// A record of a partition, with the index of its source.
pub(crate) struct Found<'a> {
    position: u64,
    pub(crate) entry: HintEntry<'a>,
    pub(crate) source: usize,
}

/// Result of loading one block.
enum BlockLoaded {
    /// The highest version in the block.
    Whole(u64),
    /// Indices of the files whose hints are invalid.
    BadHints(Vec<usize>),
}

/// Loads all partitions. Returns the highest version of all records or, inside `Ok`, the indices of the files
/// whose hint is invalid. In that case the loaded content is invalid too.
pub(super) fn load(
    directory: &Directory,
    keydir: &Keydir,
    sources: &[Source],
) -> Result<Result<u64, BTreeSet<usize>>, OpenError> {
    let bytes: u64 = sources.iter().map(|source| source.hint.bytes()).sum();
    let blocks = blocks_of(bytes);
    let loaded = in_parallel(blocks.len(), |block| {
        load_block(directory, keydir, sources, blocks.get(block).cloned().unwrap_or_default())
    })?;
    let mut highest_version = 0;
    let mut bad = BTreeSet::new();
    for block in loaded {
        match block {
            BlockLoaded::Whole(version) => highest_version = highest_version.max(version),
            BlockLoaded::BadHints(indices) => bad.extend(indices),
        }
    }
    Ok(if bad.is_empty() { Ok(highest_version) } else { Err(bad) })
}

/// Returns the partitions in blocks, for this many bytes of sections in total.
pub(crate) fn blocks_of(bytes: u64) -> Vec<Range<usize>> {
    let blocks = (bytes / BLOCK_BYTES + 1).next_power_of_two().clamp(16, PARTITIONS.into()) as usize;
    let step = usize::from(PARTITIONS) / blocks;
    (0..blocks).map(|block| block * step..(block + 1) * step).collect()
}

fn load_block(
    directory: &Directory,
    keydir: &Keydir,
    sources: &[Source],
    partitions: Range<usize>,
) -> Result<BlockLoaded, OpenError> {
    let mut block: Block = Vec::with_capacity(sources.len());
    let mut bad = Vec::new();
    for source in sources {
        match source.hint.read(&**directory.file_system(), partitions.clone()) {
            Ok(sections) => block.push(sections),
            Err(error) => {
                tracing::warn!(%error, "cannot read a hint file; scanning its data file");
                bad.push(source.index);
                block.push(Vec::new());
            }
        }
    }
    let mut highest_version = 0;
    for (at, partition) in partitions.enumerate() {
        match load_partition(keydir, sources, &block, at, partition as Partition) {
            Ok(version) => highest_version = highest_version.max(version),
            Err(indices) => bad.extend(indices),
        }
    }
    Ok(if bad.is_empty() { BlockLoaded::Whole(highest_version) } else { BlockLoaded::BadHints(bad) })
}

/// Loads the newest record of each key into the keydir. Returns the highest version of any record.
fn load_partition(
    keydir: &Keydir,
    sources: &[Source],
    block: &Block,
    at: usize,
    partition: Partition,
) -> Result<u64, Vec<usize>> {
    let mut found = Vec::new();
    let mut bad = Vec::new();
    for (index, (source, sections)) in sources.iter().zip(block).enumerate() {
        let Some((head, bytes)) = sections.get(at) else { continue };
        let before = found.len();
        let collected = collect(&source.hint, head, bytes, index, &mut found);
        let bounds = found.iter().skip(before).filter_map(|found| found.entry.bound);
        source.file.raise_bound(bounds.max().unwrap_or(0));
        if let Err(reason) = collected {
            tracing::warn!(
                file = %source.file.path.display(), %reason, "a hint file is damaged; scanning its data file"
            );
            bad.push(source.index);
        }
    }
    if !bad.is_empty() {
        return Err(bad);
    }
    let highest_version = found.iter().map(|found| found.entry.version).max().unwrap_or(0);
    let era = keydir.era(partition);
    found.retain(|found| found.entry.era == era);
    let highest_of_era = found.iter().map(|found| found.entry.version).max().unwrap_or(0);
    let mut entries = Vec::with_capacity(found.len());
    let mut keys = Vec::new();
    for (newest, older) in newest_of_each_key(&mut found, |found| id_of(sources, found)) {
        let Some(entry) = keydir_entry(sources, newest) else { continue };
        match newest.entry.bound {
            Some(bound) => older.iter().for_each(|older| lower_reach(sources, older, bound)),
            None if keydir.index() == Index::Ordered => keys.push(newest.entry.key.into()),
            None => {}
        }
        entries.push(entry);
    }
    keydir.load(partition, &entries, highest_of_era, keys);
    Ok(highest_version)
}

/// Returns the newest record of each key, with its other records. Equal versions are copies of the same
/// record: then the copy in the file with the highest id is chosen, because a merge may be removing the
/// others.
pub(crate) fn newest_of_each_key<'f, 'a>(
    found: &'f mut [Found<'a>],
    file_id_of: impl Fn(&Found<'a>) -> u64,
) -> impl Iterator<Item = (&'f Found<'a>, &'f [Found<'a>])> {
    found.sort_unstable_by(|a, b| {
        let rank = |found: &Found<'a>| (found.entry.version, file_id_of(found));
        a.position
            .cmp(&b.position)
            .then_with(|| a.entry.key.cmp(b.entry.key))
            .then_with(|| rank(b).cmp(&rank(a)))
    });
    found.chunk_by(|a, b| a.entry.key == b.entry.key).filter_map(<[_]>::split_first)
}

/// Adds the records of a section to `found`.
pub(crate) fn collect<'a>(
    hint: &HintSource,
    head: &SectionHead,
    bytes: &'a [u8],
    source: usize,
    found: &mut Vec<Found<'a>>,
) -> Result<(), Bad> {
    for entry in section_entries(head, bytes)? {
        let entry = entry?;
        if !hint.allows(&entry) {
            return Err(Bad::Fields);
        }
        found.push(Found { position: position_of(entry.key), entry, source });
    }
    Ok(())
}

fn file_of<'a>(sources: &'a [Source], found: &Found<'_>) -> Option<&'a Arc<DataFile>> {
    sources.get(found.source).map(|source| &source.file)
}

fn id_of(sources: &[Source], found: &Found<'_>) -> u64 {
    file_of(sources, found).map_or(0, |file| file.id)
}

fn keydir_entry(sources: &[Source], found: &Found<'_>) -> Option<Entry> {
    let HintEntry { version, offset, len, bound, expires, .. } = found.entry;
    let at = Location { file: file_of(sources, found)?.slot, offset, len };
    Some(Entry::new(found.position, version, at, bound.is_some()).with_expiry(expires))
}

/// Lowers the reach of a file that holds an older record of a tombstone's key, if its id is above the
/// tombstone's bound.
fn lower_reach(sources: &[Source], older: &Found<'_>, bound: u64) {
    if let Some(file) = file_of(sources, older).filter(|file| file.id > bound) {
        file.lower_reach(bound);
    }
}
