//! Functions of the fuzz targets in `tests/fuzz/engine`, and of the property tests here. Each function gives
//! arbitrary bytes to a decoder, and to a store that finds them on its disk. It panics if a promise is
//! broken.
//!
//! The promises: no input makes the engine panic, or allocate more than a small multiple of the files' bytes;
//! a decoded value encodes to the same bytes; a store serves only valid records of its data files; whole
//! records before the first bad byte are found, and bytes that are no record are reported; opening a store,
//! also through hints, and merging it do not change the served records.
//!
//! The first byte of an input states whether its checksums are repaired first ([`MEND`]). So the fuzzer tests
//! both the checksums and the code behind them. Inputs above [`INPUT_MAX`] are ignored.
#![allow(clippy::expect_used, reason = "a broken promise must panic")]

mod stores;

use std::collections::BTreeMap;

use bytes::Bytes;

use self::stores::{
    RESTORED, SNAPSHOT, STORE, Sealed, apply_one_more, at, newest, open, serves_only, snapshot_store,
};
use crate::directory::MARKER_NAME;
use crate::error::OpenError;
use crate::file_system::FaultyFileSystem;
use crate::format::hint::{HINT_HEADER_LEN, HintHeader, SectionHead, section_entries};
use crate::format::marker::{self, Marker};
use crate::format::{
    CRC_LEN, ERAS_MAGIC, Eras, FILE_HEADER_LEN, FileHeader, Header, Kind, Parsed, RECORD_HEADER_LEN, Salt,
    encode_record, fix_checksums,
};
use crate::record::{Record, Version};
use crate::slots::PARTITIONS;

/// Bytes of the longest input that is tried.
pub const INPUT_MAX: usize = 48 << 10;

/// Bit of an input's first byte: repair the checksums, and other fields that chance cannot find.
pub const MEND: u8 = 1;

/// Bit of an input's first byte, for a data file: the file is not the newest one.
pub const SEALED: u8 = 2;

/// Salt of all files made here, so that a run can be repeated.
const SALT: Salt = Salt(0x0123_4567_89ab_cdef);

fn input(input: &[u8]) -> Option<(u8, Vec<u8>)> {
    let (mode, bytes) = input.split_first()?;
    (bytes.len() <= INPUT_MAX).then(|| (*mode, bytes.to_vec()))
}

/// Tests one record, or a batch with its members, at the beginning of the bytes.
pub fn record(bytes: &[u8]) {
    let Some((mode, mut bytes)) = input(bytes) else { return };
    if mode & MEND != 0 {
        fix_checksums::records(&mut bytes, FILE_HEADER_LEN as u64, SALT);
    }
    if let Ok(header) = Header::decode(&bytes) {
        assert_eq!(header.encode()[CRC_LEN..], bytes[CRC_LEN..RECORD_HEADER_LEN], "{header:?}");
    }
    let Ok(parsed) = Parsed::parse(&bytes, SALT) else { return };
    assert_eq!(encoded(&parsed), bytes[..parsed.header.record_len() as usize]);
    if parsed.header.kind == Kind::Batch
        && let Ok(members) = parsed.members(SALT)
    {
        let mut value = Vec::new();
        for (offset, member) in members {
            assert_eq!(offset, RECORD_HEADER_LEN + value.len());
            value.extend(encoded(&member));
        }
        assert_eq!(value, parsed.value);
    }
}

fn encoded(record: &Parsed<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_record(&mut bytes, SALT, record.header, record.key, record.value);
    bytes
}

/// Tests a data file with its header: as the only file of a store, or followed by another.
pub fn data_file(bytes: &[u8]) {
    let Some((mode, mut bytes)) = input(bytes) else { return };
    if mode & MEND != 0 {
        fix_checksums::data_file(&mut bytes, 1, SALT);
    }
    let header = FileHeader::decode(&bytes);
    if let Ok(header) = header {
        assert_eq!(header.encode(), bytes[..FILE_HEADER_LEN]);
    }
    let salt = header.map_or(SALT, |header| header.salt);
    let mut valid = stores::whole_records(&bytes, salt);
    let (leading, whole_end) = stores::leading_records(&bytes, salt);
    let disk = stores::with_data_file(&bytes, mode & SEALED != 0, &mut valid);
    let (engine, found) = match open(&disk, STORE) {
        Ok(opened) => opened,
        Err(OpenError::Format { .. }) => return,
        Err(error) => panic!("the store does not open: {error}"),
    };
    let mut served = serves_only(&engine, &valid);
    if header.is_ok_and(|header| header.id == 1) {
        for (key, version) in newest(&leading) {
            assert!(served.get(&key).is_some_and(|&served| served >= version), "a whole record is missing");
        }
        let whole = whole_end == bytes.len();
        assert!(whole || mode & SEALED == 0 || found.is_damaged(), "damage at {whole_end} was not reported");
    } else {
        assert!(found.is_damaged(), "damage to the header was not reported");
    }
    engine.close().expect("it closes");
    let (engine, again) = open(&disk, STORE).expect("it opens again");
    assert!(
        again.cut_bytes == 0 && again.quarantined_total <= found.quarantined_total,
        "{found:?} {again:?}"
    );
    assert_eq!(serves_only(&engine, &valid), served, "opened again");
    // A merge leaves damaged files out, or fails.
    let _ = engine.merge();
    // Every partition is clean up to version 0: a tombstone of version 0 may be dropped.
    served.retain(|_, version| *version > 0);
    let mut merged = serves_only(&engine, &valid);
    merged.retain(|_, version| *version > 0);
    assert_eq!(merged, served, "merged");
    apply_one_more(&engine, &valid);
}

/// Tests a hint file beside a valid data file. With [`MEND`] the bytes are a section of an otherwise valid
/// hint: partition (2), number of entries (2), entries.
pub fn hint_file(bytes: &[u8]) {
    let Some((mode, bytes)) = input(bytes) else { return };
    let store = Sealed::get();
    let bytes = if mode & MEND != 0 { with_section(&store.hint, &bytes) } else { bytes };
    let believed = believed(&bytes);
    let disk = store.disk();
    disk.write_file(at(STORE, "0000000001.hint"), &bytes).expect("it is written");
    let (engine, recovery) = open(&disk, STORE).expect("the store opens");
    assert!(!recovery.is_damaged(), "{recovery:?}");
    let served = serves_only(&engine, &store.records);
    if !believed {
        assert_eq!(served, newest(&store.records), "the data file was not used instead of the hint");
    }
    let _ = engine.merge();
    serves_only(&engine, &store.records);
    apply_one_more(&engine, &store.records);
}

/// Returns a whole hint with one section replaced and valid checksums.
fn with_section(hint: &[u8], input: &[u8]) -> Vec<u8> {
    let Some(([p0, p1, e0, e1], section)) = input.split_first_chunk() else { return hint.to_vec() };
    let mut header = HintHeader::decode(hint).expect("the hint is right");
    let partition = usize::from(u16::from_le_bytes([*p0, *p1]) % PARTITIONS);
    let replaced = SectionHead {
        bytes: section.len() as u32,
        entries: u16::from_le_bytes([*e0, *e1]).into(),
        crc: crc32fast::hash(section),
    };
    let mut rest = &hint[HINT_HEADER_LEN..];
    let mut sections = Vec::new();
    for (number, head) in header.sections.iter_mut().enumerate() {
        let (old, after) = rest.split_at(head.bytes as usize);
        rest = after;
        if number == partition {
            *head = replaced;
        }
        sections.extend_from_slice(if number == partition { section } else { old });
    }
    [header.encode(), sections].concat()
}

/// Returns whether all checksums of a hint are valid; checks that decoded parts encode to the same bytes.
fn believed(bytes: &[u8]) -> bool {
    let Ok(header) = HintHeader::decode(bytes) else { return false };
    assert_eq!(header.encode(), bytes[..HINT_HEADER_LEN]);
    let mut rest = &bytes[HINT_HEADER_LEN..];
    let mut whole = true;
    for head in &header.sections {
        let Some((section, after)) = rest.split_at_checked(head.bytes as usize) else { return false };
        rest = after;
        whole &= crc32fast::hash(section) == head.crc;
        let Ok(entries) = section_entries(head, section) else {
            whole = false;
            continue;
        };
        let (mut encoded, mut count) = (Vec::new(), 0);
        for entry in entries {
            match entry {
                Ok(entry) => entry.encode(&mut encoded),
                Err(_) => whole = false,
            }
            count += 1;
        }
        assert!(section.starts_with(&encoded) && count <= section.len() + 1);
    }
    whole && rest.is_empty()
}

/// Tests the eras file of a store that has data.
pub fn eras_file(bytes: &[u8]) {
    let Some((mode, mut bytes)) = input(bytes) else { return };
    if mode & MEND != 0 {
        fix_checksums::small_file(&mut bytes, ERAS_MAGIC);
    }
    let decoded = Eras::decode(&bytes);
    if let Ok(eras) = &decoded {
        assert_eq!(eras.encode(), bytes);
    }
    let store = Sealed::get();
    let disk = store.disk();
    disk.write_file(at(STORE, "eras"), &bytes).expect("it is written");
    match open(&disk, STORE) {
        Ok((engine, _)) => {
            assert!(decoded.is_ok());
            serves_only(&engine, &store.records);
            let _ = engine.merge();
            serves_only(&engine, &store.records);
            apply_one_more(&engine, &store.records);
        }
        Err(OpenError::Eras { .. } | OpenError::Format { .. }) => assert!(decoded.is_err()),
        Err(error) => panic!("the store does not open: {error}"),
    }
}

/// Tests the marker of a snapshot: restores the snapshot, and opens its directory.
pub fn snapshot_marker(bytes: &[u8]) {
    let Some((mode, mut bytes)) = input(bytes) else { return };
    if mode & MEND != 0 {
        fix_checksums::small_file(&mut bytes, marker::MAGIC);
    }
    let decoded = Marker::decode(&bytes);
    if let Ok(marker) = &decoded {
        assert_eq!(marker.encode(), bytes);
    }
    let store = Sealed::get();
    let disk = snapshot_store();
    disk.write_file(at(SNAPSHOT, MARKER_NAME), &bytes).expect("it is written");
    let refused = open(&disk, SNAPSHOT);
    assert!(matches!(refused, Err(OpenError::IsSnapshot { .. })), "a snapshot was opened as a store");
    if stores::restore(&disk).is_ok() {
        assert!(matches!(decoded, Ok(Marker::Complete(_))));
        let (engine, _) = open(&disk, RESTORED).expect("what was restored opens");
        serves_only(&engine, &store.records);
    }
}

/// Returns an initial input for each target, by its name: a valid file, whose checksums are repaired after a
/// mutation.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let store = Sealed::get();
    let data_file = stores::data_file_of(1, &stores::appends());
    let seeds = [
        ("record", data_file[FILE_HEADER_LEN..].to_vec()),
        ("data_file", data_file),
        ("hint_file", section(&store.hint)),
        ("eras_file", store.eras.clone()),
        ("snapshot_marker", store.marker.clone()),
    ];
    seeds.into_iter().map(|(target, file)| (target, [vec![MEND], file].concat())).collect()
}

/// Returns the first section of a hint that has entries, in the format of [`hint_file`].
fn section(hint: &[u8]) -> Vec<u8> {
    let header = HintHeader::decode(hint).expect("the hint is right");
    let partition = header.sections.iter().position(|head| head.entries > 0).unwrap_or_default();
    let SectionHead { bytes, entries, .. } = header.sections[partition];
    let section = &hint[HINT_HEADER_LEN..][..bytes as usize];
    [&(partition as u16).to_le_bytes()[..], &(entries as u16).to_le_bytes(), section].concat()
}

/// Keys with their versions.
type State = BTreeMap<Bytes, Version>;

#[cfg(test)]
mod tests;
