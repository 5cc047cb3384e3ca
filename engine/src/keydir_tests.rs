use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::data_file::DataFile;
use crate::file_figures::FileFigure;
use crate::format::{FileHeader, FileKind, Header, Kind, Salt, encode_record};

const SALT: Salt = Salt(7);

/// Writes a data file with these records; returns the place of each.
fn data_file(
    directory: &std::path::Path,
    files: &FileTable,
    slot: FileSlot,
    records: &[(&[u8], u64)],
) -> Vec<Location> {
    let path: PathBuf = directory.join(slot.to_string());
    let header = FileHeader { kind: FileKind::Log, id: slot.into(), salt: SALT };
    let mut bytes = header.encode().to_vec();
    let locations = records.iter().map(|(key, version)| {
        let offset = bytes.len();
        let header = Header {
            kind: Kind::Value,
            flags: 0,
            key_len: 0,
            value_len: 0,
            user_flags: 0,
            version: *version,
            expiry_ms: 0,
            era: 0,
        };
        encode_record(&mut bytes, SALT, header, key, b"value");
        Location { file: slot, offset: offset as u32, len: (bytes.len() - offset) as u32 }
    });
    let locations = locations.collect();
    std::fs::write(&path, &bytes).unwrap();
    let inserted =
        files.insert(|_| DataFile::sealed(slot, path.clone(), &header, bytes.len() as u64)).unwrap();
    assert_eq!(inserted.slot, slot, "slots are allotted in order");
    locations
}

fn no_files() -> FileTable {
    FileTable::new(Arc::new(crate::file_system::RealFileSystem), &crate::options::Options::new("unused"))
}

fn at(file: FileSlot, offset: u32, len: u32) -> Location {
    Location { file, offset, len }
}

fn keydir(index: Index) -> Keydir {
    Keydir::new(&[0; PARTITIONS as usize], index)
}

fn candidate<'a>(key: &'a [u8], position: u64, version: u64, at: Location) -> Candidate<'a> {
    Candidate { partition: 1, era: 0, key, entry: Entry::new(position, version, at, false) }
}

fn figure(live_bytes: u64, tombstone_bytes: u64) -> FileFigure {
    FileFigure { live_bytes, tombstone_bytes }
}

#[test]
fn figures_follow_every_entry() {
    let directory = tempfile::tempdir().unwrap();
    let files = no_files();
    let places = data_file(directory.path(), &files, 3, &[(b"key", 1)]);
    let keydir = keydir(Index::Hash);
    keydir.publish(&files, &candidate(b"key", 5, 1, places[0]));
    let len = u64::from(places[0].len);
    assert_eq!(keydir.figures().of(3), figure(len, 0));
    // The coded length, which exceeds the real one, is subtracted as it was added.
    let tombstone = Entry::new(5, 2, at(700, 40, 100_001), true);
    keydir.publish(&files, &Candidate { entry: tombstone, ..candidate(b"key", 5, 2, places[0]) });
    assert_eq!(keydir.figures().of(3), FileFigure::default());
    assert_eq!(keydir.figures().of(700), figure(0, tombstone.location().len.into()));
    let mut told = Vec::new();
    keydir.collectable(1, 1, |file, bytes| told.push((file, bytes)));
    assert_eq!(told, []);
    keydir.collectable(1, 2, |file, bytes| told.push((file, bytes)));
    assert_eq!(told, [(700, tombstone.location().len)]);
    assert!(!keydir.remove_tombstone(1, &Entry::new(5, 2, at(700, 41, 100_001), true)));
    assert!(keydir.remove_tombstone(1, &tombstone));
    assert!(!keydir.remove_tombstone(1, &tombstone));
    assert_eq!(keydir.figures().of(700), FileFigure::default());
    assert_eq!(keydir.stats(1), PartitionStats { highest_version: 2, ..PartitionStats::default() });
    keydir.publish(&files, &candidate(b"key", 5, 3, at(9, 40, 50)));
    keydir.clear(1, 1);
    assert_eq!(keydir.figures().of(9), FileFigure::default());
    assert_eq!(keydir.stats(1), PartitionStats::default());
}

#[test]
fn loading_is_publishing() {
    let (published, loaded) = (keydir(Index::Ordered), keydir(Index::Ordered));
    let entries: Vec<Entry> = (0..500_u64)
        .map(|number| {
            let place = at((number % 3 + 1) as u16, number as u32, 5000 + number as u32 * 40);
            Entry::new(number << 50, number + 1, place, number % 7 == 0)
        })
        .collect();
    let name = |entry: &Entry| Box::<[u8]>::from(entry.version.to_be_bytes());
    for entry in &entries {
        let key = name(entry);
        published
            .publish(&no_files(), &Candidate { entry: *entry, ..candidate(&key, 0, 0, entry.location()) });
    }
    // The former content is removed.
    loaded.publish(&no_files(), &candidate(b"gone", 77, 9, at(1, 1, 99)));
    let keys = entries.iter().filter(|entry| !entry.is_tombstone()).map(name).collect();
    loaded.load(1, &entries, 3, keys);
    assert_eq!(loaded.stats(1), published.stats(1));
    assert_eq!(loaded.entries(1), published.entries(1));
    let run = |keydir: &Keydir| keydir.keys_in(1, Bound::Unbounded, Bound::Unbounded, 1000).unwrap().keys;
    assert_eq!(run(&loaded), run(&published));
    for file in 1..=3 {
        assert_eq!(loaded.figures().of(file), published.figures().of(file));
    }
    loaded.load(1, &[], 800, Vec::new());
    assert_eq!(loaded.stats(1), PartitionStats { highest_version: 800, ..PartitionStats::default() });
    assert_eq!(loaded.figures().of(1), FileFigure::default());
}

#[test]
fn copy_is_pointed_to_only_while_the_original_is_the_newest() {
    let keydir = keydir(Index::Hash);
    let files = no_files();
    keydir.publish(&files, &candidate(b"key", 5, 2, at(1, 40, 90)));
    assert!(keydir.is_at(1, 0, 5, (1, 40)));
    assert!(!keydir.is_at(1, 1, 5, (1, 40)) && !keydir.is_at(1, 0, 5, (1, 41)));
    let copy = candidate(b"key", 5, 2, at(8, 77, 90));
    assert!(!keydir.relocate(&files, &copy, |file| file == 2));
    assert!(!keydir.relocate(&files, &Candidate { era: 1, ..copy }, |_| true));
    assert!(!keydir.relocate(&files, &candidate(b"key", 5, 1, at(8, 77, 90)), |_| true));
    assert!(!keydir.relocate(&files, &candidate(b"key", 6, 2, at(8, 77, 90)), |_| true));
    assert!(keydir.relocate(&files, &copy, |file| file == 1));
    assert!(keydir.is_at(1, 0, 5, (8, 77)) && !keydir.is_at(1, 0, 5, (1, 40)));
    assert_eq!((keydir.figures().of(1), keydir.figures().of(8)), (figure(0, 0), figure(90, 0)));
    assert_eq!(keydir.stats(1).live_bytes, 90);
}

#[test]
fn keys_that_share_a_position_and_a_version_are_told_apart_when_moved() {
    let directory = tempfile::tempdir().unwrap();
    let files = no_files();
    let keydir = keydir(Index::Hash);
    let records: [(&[u8], u64); 2] = [(b"key-a", 2), (b"key-b", 2)];
    let old = data_file(directory.path(), &files, 1, &records);
    let new = data_file(directory.path(), &files, 2, &records);
    let position = position_of(b"key-a");
    for ((key, version), place) in records.iter().zip(&old) {
        keydir.publish(&files, &candidate(key, position, *version, *place));
    }
    let moved = |index: usize| keydir.is_at(1, 0, position, (2, new[index].offset));
    assert!(keydir.relocate(&files, &candidate(b"key-b", position, 2, new[1]), |file| file == 1));
    assert!(moved(1) && !moved(0));
    // The entry points to the copy already.
    assert!(!keydir.relocate(&files, &candidate(b"key-b", position, 2, new[1]), |file| file == 1));
    assert!(keydir.relocate(&files, &candidate(b"key-a", position, 2, new[0]), |file| file == 1));
    assert!(moved(1) && moved(0));
    assert_eq!(keydir.stats(1).live_keys, 2);
}

#[test]
fn ordered_keys_are_the_live_ones() {
    let keydir = keydir(Index::Ordered);
    let files = no_files();
    let keys = || {
        let run = keydir.keys_in(1, Bound::Unbounded, Bound::Unbounded, 100).unwrap();
        run.keys.concat()
    };
    for (key, position) in [(b"b", 1), (b"a", 2), (b"c", 3)] {
        keydir.publish(&files, &candidate(key, position, 5, at(1, position as u32, 50)));
    }
    assert_eq!(keys(), b"abc");
    let tombstone = |version, offset| Entry::new(2, version, at(1, offset, 50), true);
    keydir.publish(&files, &Candidate { entry: tombstone(4, 10), ..candidate(b"a", 2, 4, at(1, 10, 50)) });
    assert_eq!(keys(), b"abc");
    keydir.publish(&files, &Candidate { entry: tombstone(6, 11), ..candidate(b"a", 2, 6, at(1, 11, 50)) });
    assert_eq!(keys(), b"bc");
    keydir.clear(1, 1);
    assert_eq!(keys(), b"");
    assert!(super::tests::keydir(Index::Hash).keys_in(1, Bound::Unbounded, Bound::Unbounded, 1).is_none());
}

#[derive(Clone, Debug)]
enum Step {
    Publish {
        key: u8,
        version: u64,
        tombstone: bool,
        file: FileSlot,
        len: u32,
    },
    /// The entry with this index moves to this file, if it is in a lower one.
    Relocate(prop::sample::Index, FileSlot),
    RemoveTombstone(prop::sample::Index),
    Clear,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let publish = (0..40u8, 1..90u64, any::<bool>(), 1..600u16, 40..3_000_000u32).prop_map(
        |(key, version, tombstone, file, len)| Step::Publish { key, version, tombstone, file, len },
    );
    let step = prop_oneof![
        12 => publish,
        4 => (any::<prop::sample::Index>(), 1..600u16).prop_map(|(index, file)| Step::Relocate(index, file)),
        4 => any::<prop::sample::Index>().prop_map(Step::RemoveTombstone),
        1 => Just(Step::Clear),
    ];
    prop::collection::vec(step, 1..150)
}

/// Checks the figures of a keydir against sums over its entries.
fn check_figures(keydir: &Keydir) {
    let entries = keydir.entries(1);
    let mut files = std::collections::BTreeMap::<FileSlot, FileFigure>::new();
    let mut stats =
        PartitionStats { highest_version: keydir.stats(1).highest_version, ..PartitionStats::default() };
    for entry in &entries {
        let bytes = u64::from(entry.location().len);
        let figure = files.entry(entry.location().file).or_default();
        if entry.is_tombstone() {
            figure.tombstone_bytes += bytes;
            stats.tombstones += 1;
        } else {
            figure.live_bytes += bytes;
            stats.live_keys += 1;
            stats.expiring_keys += u64::from(entry.expires());
            stats.live_bytes += bytes;
            stats.digest = stats.digest.wrapping_add(digest_of(entry.position, entry.version));
        }
    }
    assert_eq!(keydir.stats(1), stats);
    for file in 0..600 {
        assert_eq!(keydir.figures().of(file), files.remove(&file).unwrap_or_default());
    }
    let keys = keydir.keys_in(1, Bound::Unbounded, Bound::Unbounded, 1000).unwrap().keys;
    assert_eq!(keys.len() as u64, stats.live_keys);
}

proptest! {
    #[test]
    fn figures_are_those_of_the_entries_whatever_happens(steps in steps()) {
        let (keydir, files) = (keydir(Index::Ordered), no_files());
        let mut offset = 0;
        let mut era = 0;
        for step in steps {
            let entries = keydir.entries(1);
            let chosen = |index: prop::sample::Index| (!entries.is_empty()).then(|| entries[index.index(entries.len())]);
            offset += 1;
            match step {
                Step::Publish { key, version, tombstone, file, len } => {
                    let position = u64::from(key) << 50;
                    let len = if tombstone { len.min(60_000) } else { len };
                    let entry = Entry::new(position, version, at(file, offset, len), tombstone)
                        .with_expiry(version.is_multiple_of(3));
                    // Its record cannot be read, so it counts as this key's.
                    keydir.publish(&files, &Candidate { partition: 1, era, key: &[key], entry });
                    let newest = keydir.entries_at(1, position).as_slice()[0];
                    prop_assert!(newest.version >= version);
                }
                Step::Relocate(index, file) => {
                    let Some(old) = chosen(index) else { continue };
                    let to = Location { file, offset, ..old.location() };
                    let entry = Entry::new(old.position, old.version, to, old.is_tombstone()).with_expiry(old.expires());
                    let copy = Candidate { partition: 1, era, key: &[(old.position >> 50) as u8], entry };
                    let moved = keydir.relocate(&files, &copy, |from| from < file);
                    prop_assert_eq!(moved, old.location().file < file);
                    prop_assert_eq!(keydir.is_at(1, era, old.position, (file, offset)), moved);
                }
                Step::RemoveTombstone(index) => {
                    let Some(old) = chosen(index) else { continue };
                    prop_assert_eq!(keydir.remove_tombstone(1, &old), old.is_tombstone());
                }
                Step::Clear => {
                    era += 1;
                    keydir.clear(1, era);
                }
            }
            check_figures(&keydir);
        }
    }
}

/// Positions of which many are near others, some at both ends of the range.
fn near_positions() -> impl Strategy<Value = Vec<u64>> {
    let centre = prop_oneof![3 => any::<u64>(), 1 => Just(0), 1 => Just(u64::MAX)];
    let distance = prop_oneof![0..4_u64, 0..4 * crate::scan::POSITION_STEP, Just(crate::scan::POSITION_STEP)];
    let group = (centre, prop::collection::vec(distance, 1..12)).prop_map(|(centre, distances)| {
        distances.into_iter().map(move |far| centre.saturating_add(far)).collect()
    });
    prop::collection::vec(group, 1..8).prop_map(|groups: Vec<Vec<u64>>| groups.concat())
}

proptest! {
    /// Pages miss no entry, even if many are between two multiples of the page granularity.
    #[test]
    fn pages_leave_out_no_entry_however_near_entries_are(positions in near_positions(), limit in 1..9_usize) {
        let mut positions = positions;
        positions.sort_unstable();
        let entries: Vec<Entry> = (1..).zip(&positions)
            .map(|(number, position)| Entry::new(*position, number, at(1, number as u32 * 100, 100), false))
            .collect();
        let keydir = keydir(Index::Hash);
        keydir.load(1, &entries, 0, Vec::new());
        let (mut from, mut found) = (0, Vec::new());
        loop {
            let (page, next) = keydir.page(1, from, limit, crate::scan::POSITION_STEP);
            prop_assert!(page.iter().all(|entry| entry.position >= from));
            found.extend(page.iter().map(|entry| entry.position));
            let Some(next) = next else { break };
            prop_assert!(next > from && next.is_multiple_of(crate::scan::POSITION_STEP));
            from = next;
        }
        prop_assert_eq!(found, positions);
    }
}
