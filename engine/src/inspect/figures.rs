//! Counts live and dead records, one block of partitions at a time.

use std::ops::Range;

use super::file::FileRead;
use super::place::Place;
use super::report::{DataFileKind, InspectError, RecordStats};
use crate::error::{IoError, OpenError};
use crate::format::hint::SectionHead;
use crate::format::{FILE_HEADER_LEN, MARK_LEN};
use crate::recovery::in_parallel;
use crate::recovery::load::{Found, blocks_of, collect, newest_of_each_key};

/// Figures by file, and the highest version.
type Counted = (Vec<RecordStats>, u64);

/// Returns the figures of each file, and the highest version of any record.
pub(super) fn count(place: &Place<'_>, reads: &[FileRead]) -> Result<Counted, InspectError> {
    let blocks = blocks_of(reads.iter().map(|read| read.source.bytes()).sum());
    let counted = in_parallel(blocks.len(), |block| {
        count_block(place, reads, blocks.get(block).cloned().unwrap_or_default())
    })?;
    let mut highest_version = 0;
    let new = |read: &FileRead| RecordStats { batches: Some(0), bytes: read.bytes, ..RecordStats::default() };
    let mut figures: Vec<RecordStats> = reads.iter().map(new).collect();
    for (block, version) in counted {
        highest_version = highest_version.max(version);
        figures.iter_mut().zip(&block).for_each(|(figures, block)| figures.add(block));
    }
    for (figures, read) in figures.iter_mut().zip(reads) {
        figures.batches = read.batches;
        if read.kind != DataFileKind::Unknown {
            let frame = (FILE_HEADER_LEN + MARK_LEN) as u64;
            let kept = figures.live_bytes + figures.newest_tombstone_bytes + frame;
            figures.dead_bytes = figures.bytes.saturating_sub(kept);
        }
    }
    Ok((figures, highest_version))
}

fn count_block(
    place: &Place<'_>,
    reads: &[FileRead],
    partitions: Range<usize>,
) -> Result<Counted, InspectError> {
    let mut figures = vec![RecordStats { batches: Some(0), ..RecordStats::default() }; reads.len()];
    let mut highest_version = 0;
    let sections: Vec<Vec<(SectionHead, Vec<u8>)>> = reads
        .iter()
        .map(|read| read.source.read(place.file_system, partitions.clone()))
        .collect::<Result<_, IoError>>()?;
    for (at, partition) in partitions.enumerate() {
        let mut found: Vec<Found<'_>> = Vec::new();
        for (source, (read, sections)) in reads.iter().zip(&sections).enumerate() {
            let Some((head, bytes)) = sections.get(at) else { continue };
            collect(&read.source, head, bytes, source, &mut found)
                .map_err(|bad| changed(place, read, &bad))?;
        }
        for found in &found {
            highest_version = highest_version.max(found.entry.version);
            if let Some(figures) = figures.get_mut(found.source) {
                figures.records += 1;
                let of_kind =
                    if found.entry.bound.is_some() { &mut figures.tombstones } else { &mut figures.values };
                *of_kind += 1;
            }
        }
        if let Some(&era) = place.eras.as_ref().and_then(|eras| eras.get(partition)) {
            found.retain(|found| found.entry.era == era);
        }
        let id_of = |found: &Found<'_>| reads.get(found.source).map_or(0, |read| read.known.id);
        for (newest, _) in newest_of_each_key(&mut found, id_of) {
            let Some(figures) = figures.get_mut(newest.source) else { continue };
            let (records, bytes) = match newest.entry.bound {
                Some(_) => (&mut figures.newest_tombstones, &mut figures.newest_tombstone_bytes),
                None => (&mut figures.live_records, &mut figures.live_bytes),
            };
            *records += 1;
            *bytes += u64::from(newest.entry.len);
        }
    }
    Ok((figures, highest_version))
}

/// Returns the error for a hint that was valid before and is not now.
fn changed(place: &Place<'_>, read: &FileRead, bad: &crate::format::Bad) -> InspectError {
    let path = place.hint_path(read.known.id);
    let error =
        std::io::Error::new(std::io::ErrorKind::InvalidData, format!("it changed while it was read: {bad}"));
    OpenError::from(IoError::new("read", path, error)).into()
}
