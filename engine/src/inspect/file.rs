//! Reads one data file and its hint file, and compares them.

use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::place::Place;
use super::report::{Damage, DamagedKey, DataFileKind, HintState, InspectError, InspectOptions};
use crate::data_file::open_to_read;
use crate::error::IoError;
use crate::file_scan::{Bounds, End};
use crate::file_system::FileHandle;
use crate::format::hint::{HintEntry, section_entries};
use crate::format::{FileHeader, Header, Kind, RECORD_HEADER_LEN};
use crate::hint_file::{HintSource, Sections, Visited, entry_of, scanner_of, visit};
use crate::progress::Progress;
use crate::recovery::load::blocks_of;
use crate::recovery::{Known, MARK_MISSING, QUARANTINED_LISTED_MAX};
use crate::slots::partition_of;

/// Limit of the keys listed for one damaged stretch.
const DAMAGED_KEYS_MAX: usize = 100;

/// Findings about one data file.
pub(super) struct FileRead {
    pub(super) known: Known,
    pub(super) kind: DataFileKind,
    /// Bytes up to the end of the last record.
    pub(super) bytes: u64,
    pub(super) torn_bytes: u64,
    pub(super) batches: Option<u64>,
    pub(super) hint: HintState,
    pub(super) damage: Vec<Damage>,
    pub(super) damage_total: u64,
    /// Whether opening the store finds the damage.
    pub(super) at_open: bool,
    /// The hints of its records.
    pub(super) source: HintSource,
}

/// Result of a pass through a data file.
struct Scanned {
    end: End,
    batches: u64,
    digest: Digest,
    sections: Option<Sections>,
    damage: Vec<Damage>,
    damage_total: u64,
}

/// Digest of hint entries, independent of their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Digest {
    entries: u64,
    sum: u64,
}

impl Digest {
    fn add(&mut self, entry: &HintEntry<'_>, buffer: &mut Vec<u8>) {
        buffer.clear();
        entry.encode(buffer);
        self.entries += 1;
        self.sum = self.sum.wrapping_add(xxh3_64(buffer));
    }
}

pub(super) fn read_file(
    place: &Place<'_>,
    known: &Known,
    options: &InspectOptions,
) -> Result<FileRead, InspectError> {
    let header = match known.usable() {
        Ok(header) => header,
        Err(stretch) => return Ok(unreadable(known, Damage { stretch, keys: Vec::new() })),
    };
    let is_active = place.active == Some(known.id);
    let bounds = if is_active { Bounds::Active } else { Bounds::Sealed };
    let (mut hint, opened) = open_hint(place, known, &header, is_active);
    let file = open_to_read(place.file_system, &known.path)?;
    let pass = |sections| scan(&file, known, &header, bounds, sections, &options.progress);
    let mut scanned = if options.verify || opened.is_none() { Some(pass(opened.is_none())?) } else { None };
    if let Some(source) = &opened {
        hint = check_hint(place, source, scanned.as_mut());
        if hint != HintState::Good {
            // The hint is invalid, as is known only now: the data file itself is read for its records.
            options.progress.expect(known.len);
            scanned = Some(pass(true)?);
        }
    }
    let kind = DataFileKind::of(header.kind, is_active);
    let at_open = !matches!(hint, HintState::Good | HintState::Misleading);
    let Some(scanned) = scanned else {
        let source = opened.unwrap_or_default();
        return Ok(FileRead { source, ..blank(known, kind, hint) });
    };
    let source = match (scanned.sections, opened) {
        (Some(sections), _) => HintSource::in_memory(sections),
        (None, opened) => opened.unwrap_or_default(),
    };
    Ok(FileRead {
        bytes: scanned.end.offset,
        torn_bytes: scanned.end.cut_bytes,
        batches: Some(scanned.batches),
        damage: scanned.damage,
        damage_total: scanned.damage_total,
        at_open,
        source,
        ..blank(known, kind, hint)
    })
}

fn blank(known: &Known, kind: DataFileKind, hint: HintState) -> FileRead {
    FileRead {
        known: known.clone(),
        kind,
        bytes: known.len,
        torn_bytes: 0,
        batches: None,
        hint,
        damage: Vec::new(),
        damage_total: 0,
        at_open: false,
        source: HintSource::default(),
    }
}

fn unreadable(known: &Known, damage: Damage) -> FileRead {
    let read = blank(known, DataFileKind::Unknown, HintState::Unneeded);
    FileRead { damage: vec![damage], damage_total: 1, at_open: true, ..read }
}

fn open_hint(
    place: &Place<'_>,
    known: &Known,
    header: &FileHeader,
    is_active: bool,
) -> (HintState, Option<HintSource>) {
    if is_active {
        return (HintState::Unneeded, None);
    }
    if !place.has_hint(known.id) {
        return (HintState::Missing, None);
    }
    match HintSource::open(place.file_system, &place.hint_path(known.id), header, known.len) {
        Ok(source) => (HintState::Good, Some(source)),
        Err(reason) => (HintState::Unusable(reason), None),
    }
}

/// Reads a whole hint. If its data file was read, compares both, and takes the keys of damaged stretches from
/// the hint.
fn check_hint(place: &Place<'_>, source: &HintSource, scanned: Option<&mut Scanned>) -> HintState {
    let mut none = Vec::new();
    let wanted = scanned.as_ref().map(|scanned| scanned.digest);
    // If not all damage is listed, surplus entries of the hint cannot be recognized.
    let comparable =
        scanned.as_ref().is_none_or(|scanned| scanned.damage_total == scanned.damage.len() as u64);
    let damage = scanned.map_or(&mut none, |scanned| &mut scanned.damage);
    damage.iter_mut().for_each(|damage| damage.keys.clear());
    match digest_of(place, source, damage) {
        Err(reason) => HintState::Unusable(reason),
        Ok(digest) if comparable && wanted.is_some_and(|wanted| wanted != digest) => HintState::Misleading,
        Ok(_) => HintState::Good,
    }
}

/// Returns the digest of a hint's entries, except those in damaged stretches: their keys are added to the
/// stretches.
fn digest_of(place: &Place<'_>, source: &HintSource, damage: &mut [Damage]) -> Result<Digest, String> {
    let mut digest = Digest::default();
    let mut buffer = Vec::new();
    for partitions in blocks_of(source.bytes()) {
        let sections = source.read(place.file_system, partitions.clone()).map_err(|e| e.to_string())?;
        for (partition, (head, bytes)) in partitions.zip(&sections) {
            for entry in section_entries(head, bytes).map_err(|bad| bad.to_string())? {
                let entry = entry.map_err(|bad| bad.to_string())?;
                if usize::from(partition_of(entry.key)) != partition {
                    return Err("it has a key in the section of another partition".to_owned());
                }
                match stretch_at(damage, entry.offset.into()) {
                    Some(damage) => damage.add_key(entry.key, true),
                    None => digest.add(&entry, &mut buffer),
                }
            }
        }
    }
    Ok(digest)
}

/// Returns the damaged stretch that contains this offset; the stretches are sorted.
fn stretch_at(damage: &mut [Damage], offset: u64) -> Option<&mut Damage> {
    let after = damage.partition_point(|damage| damage.stretch.offset <= offset);
    let damage = damage.get_mut(after.checked_sub(1)?)?;
    (offset - damage.stretch.offset < damage.stretch.bytes).then_some(damage)
}

impl Damage {
    fn add_key(&mut self, key: &[u8], certain: bool) {
        if self.keys.len() < DAMAGED_KEYS_MAX {
            self.keys.push(DamagedKey { key: Bytes::copy_from_slice(key), certain });
        }
    }
}

fn scan(
    file: &Arc<dyn FileHandle>,
    known: &Known,
    header: &FileHeader,
    bounds: Bounds,
    sections: bool,
    progress: &Progress,
) -> Result<Scanned, InspectError> {
    let mut sections = sections.then(Sections::new);
    let mut digest = Digest::default();
    let (mut damage, mut damage_total) = (Vec::new(), 0);
    let mut note = |stretch| {
        damage_total += 1;
        if damage.len() < QUARANTINED_LISTED_MAX {
            damage.push(Damage { stretch, keys: Vec::new() });
        }
    };
    let mut batches = Batches::default();
    let mut buffer = Vec::new();
    let mut reached = 0;
    let mut scanner = scanner_of(file, &known.path, header, known.len);
    let end = visit(&mut scanner, header, bounds, |visited| {
        let offset = match visited {
            Visited::Record(offset, record) => {
                batches.meet(offset, &record.header);
                let entry = entry_of(known.id, offset, record);
                digest.add(&entry, &mut buffer);
                if let Some(sections) = &mut sections {
                    sections.push(&entry);
                }
                offset
            }
            Visited::Bad { offset, bytes, reason } => {
                note(known.quarantined(offset, bytes, reason));
                offset
            }
        };
        progress.advance(offset.saturating_sub(reached));
        reached = reached.max(offset);
        Ok::<_, IoError>(())
    })?;
    progress.advance(known.len.saturating_sub(reached));
    if bounds == Bounds::Sealed && !end.ends_marked {
        note(known.quarantined(end.offset, 0, MARK_MISSING));
    }
    for damage in &mut damage {
        if let Some(key) = apparent_key(&**file, damage, known.len) {
            damage.add_key(&key, false);
        }
    }
    Ok(Scanned { end, batches: batches.count, digest, sections, damage, damage_total })
}

/// Returns the key that a damaged record appears to have.
pub(super) fn apparent_key(file: &dyn FileHandle, damage: &Damage, file_len: u64) -> Option<Vec<u8>> {
    let mut bytes = [0; RECORD_HEADER_LEN];
    let offset = damage.stretch.offset;
    file.read_exact_at(&mut bytes, offset).ok()?;
    let header = Header::decode(&bytes).ok()?;
    let has_key = matches!(header.kind, Kind::Value | Kind::Tombstone);
    if !has_key || header.record_len() > damage.stretch.bytes.min(file_len.saturating_sub(offset)) {
        return None;
    }
    let mut key = vec![0; header.key_len.into()];
    file.read_exact_at(&mut key, offset + RECORD_HEADER_LEN as u64).ok()?;
    Some(key)
}

/// Assigns records to batches by their offsets: the records of one batch are adjacent.
#[derive(Debug, Default)]
pub(super) struct Batches {
    pub(super) count: u64,
    /// Offset of the batch of the last record, and the offset of that record's end.
    current: Option<(u64, u64)>,
}

impl Batches {
    /// Registers the record at this offset as the next one. Returns the offset of its batch, if it is in one.
    pub(super) fn meet(&mut self, offset: u64, header: &Header) -> Option<u64> {
        if !header.in_batch() {
            self.current = None;
            return None;
        }
        let begin = match self.current {
            Some((begin, end)) if end == offset => begin,
            _ => {
                self.count += 1;
                offset.saturating_sub(RECORD_HEADER_LEN as u64)
            }
        };
        self.current = Some((begin, offset + header.record_len()));
        Some(begin)
    }
}
