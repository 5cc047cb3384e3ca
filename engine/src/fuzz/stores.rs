//! Stores in memory for the fuzz targets, and the records that such a store may serve, computed without the
//! engine's own reader.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use super::*;
use crate::error::{ReadError, SnapshotError};
use crate::file_system::FileSystem;
use crate::format::{BOUND_OF_LOG_FILE, FLAG_IN_BATCH, FileKind, begin_batch, encode_mark, end_batch};
use crate::options::{MergeWindow, Options, SyncPolicy};
use crate::recovery::Recovery;
use crate::replicated::Store;
use crate::slots::partition_of;
use crate::snapshot::{Snapshot, restore_on};

pub(super) const STORE: &str = "/store";
pub(super) const SNAPSHOT: &str = "/snapshot";
pub(super) const RESTORED: &str = "/restored";

/// The key that [`apply_one_more`] writes.
const ONE_MORE: &[u8] = b"one more";

pub(super) fn at(directory: &str, name: &str) -> PathBuf {
    Path::new(directory).join(name)
}

/// Opens a store without background work, in which the engine creates no record by itself.
pub(super) fn open(disk: &FaultyFileSystem, directory: &str) -> Result<(Store, Recovery), OpenError> {
    let options = Options {
        sync: SyncPolicy::Never,
        max_file_size: 64 << 10,
        background: false,
        merge_window: MergeWindow::Never,
        ..Options::new(directory)
    };
    Store::open_on(Arc::new(disk.clone()), options)
}

fn record(parsed: &Parsed<'_>) -> Record {
    Record {
        key: Bytes::copy_from_slice(parsed.key),
        version: parsed.header.version,
        expiry_ms: parsed.header.expiry_ms,
        user_flags: parsed.header.user_flags,
        value: (parsed.header.kind == Kind::Value).then(|| Bytes::copy_from_slice(parsed.value)),
    }
}

/// Returns the record, or the members of the batch, at this offset of a file, with the length of the whole;
/// `None` if it is not whole. Leaves out members that are invalid in a store whose eras are 0.
fn whole_at(bytes: &[u8], offset: usize, salt: Salt) -> Option<(u64, Vec<Record>)> {
    let parsed = Parsed::parse(bytes.get(offset..)?, salt).ok()?;
    let records = match parsed.header.kind {
        Kind::Value | Kind::Tombstone if parsed.header.in_batch() => return None,
        Kind::Value | Kind::Tombstone => vec![parsed],
        Kind::Batch => parsed.members(salt).ok()?.into_iter().map(|(_, member)| member).collect(),
        Kind::Mark => parsed.mark_at(offset as u64, salt).map(|_| Vec::new())?,
    };
    let counting = records.iter().filter(|parsed| parsed.header.era == 0).map(record);
    Some((parsed.header.record_len(), counting.collect()))
}

/// Returns the records that begin at any offset of a data file.
pub(super) fn whole_records(bytes: &[u8], salt: Salt) -> Vec<Record> {
    let whole = |offset| whole_at(bytes, offset, salt);
    (FILE_HEADER_LEN..bytes.len()).filter_map(whole).flat_map(|(_, records)| records).collect()
}

/// Returns the records before the first byte that does not belong to a whole record, and that byte's offset.
pub(super) fn leading_records(bytes: &[u8], salt: Salt) -> (Vec<Record>, usize) {
    let mut offset = FILE_HEADER_LEN;
    let mut leading = Vec::new();
    while let Some((len, records)) = whole_at(bytes, offset, salt) {
        leading.extend(records);
        offset += len as usize;
    }
    (leading, offset)
}

/// Returns the newest version of each key.
pub(super) fn newest(records: &[Record]) -> State {
    let mut newest = State::new();
    for record in records {
        let version = newest.entry(record.key.clone()).or_default();
        *version = record.version.max(*version);
    }
    newest
}

/// Reads every key that the store may have. Each record found must be one of the valid ones. Returns the
/// found versions.
pub(super) fn serves_only(engine: &Store, valid: &[Record]) -> State {
    let mut served = State::new();
    let keys: BTreeSet<&Bytes> = valid.iter().map(|record| &record.key).collect();
    for &key in &keys {
        match engine.read(key) {
            Ok(Some(record)) => {
                assert!(record.key == key && valid.contains(&record), "not in the file: {key:?} {record:?}");
                served.insert(record.key, record.version);
            }
            // A hint may point anywhere; then the read reports damage.
            Ok(None) | Err(ReadError::Damaged { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    for partition in keys.iter().map(|key| partition_of(key)).collect::<BTreeSet<_>>() {
        if let Ok(page) = engine.keys_page(partition, 0, usize::MAX) {
            assert!(page.keys.iter().all(|found| keys.contains(&found.key)), "{:?}", page.keys);
        }
    }
    served
}

/// Checks that the store still accepts writes.
pub(super) fn apply_one_more(engine: &Store, valid: &[Record]) {
    if valid.iter().any(|record| record.key == ONE_MORE) {
        return;
    }
    let more = value(ONE_MORE, 1, b"more");
    // A tombstone from a false hint may be at this position, or a record of another key that appears damaged.
    engine.apply(vec![more.clone()]).expect("it is written");
    assert_eq!(engine.read(ONE_MORE).expect("it is read"), Some(more));
}

fn value(key: &'static [u8], version: Version, value: &'static [u8]) -> Record {
    let (key, value) = (Bytes::from_static(key), Some(Bytes::from_static(value)));
    Record { key, version, expiry_ms: 0, user_flags: 0, value }
}

/// Appends records to a file, as a batch if there are several.
fn push(file: &mut Vec<u8>, records: &[Record]) {
    let batch = (records.len() > 1).then(|| begin_batch(file));
    for Record { key, version, expiry_ms, user_flags, value } in records {
        let header = Header {
            kind: if value.is_some() { Kind::Value } else { Kind::Tombstone },
            flags: if batch.is_some() { FLAG_IN_BATCH } else { 0 },
            key_len: 0,
            value_len: 0,
            user_flags: *user_flags,
            version: *version,
            expiry_ms: *expiry_ms,
            era: 0,
        };
        encode_record(file, SALT, header, key, value.as_deref().unwrap_or(&BOUND_OF_LOG_FILE));
    }
    if let Some(start) = batch {
        end_batch(file, SALT, start, records.len());
    }
}

/// Returns a complete log file with these appends.
pub(super) fn data_file_of(id: u64, appends: &[Vec<Record>]) -> Vec<u8> {
    let mut file = FileHeader { kind: FileKind::Log, id, salt: SALT }.encode().to_vec();
    appends.iter().for_each(|records| push(&mut file, records));
    let end = file.len() as u64;
    file.extend(encode_mark(SALT, end, end));
    file
}

/// Returns appends whose effects can be distinguished.
pub(super) fn appends() -> Vec<Vec<Record>> {
    let tombstone = |key, version| Record { value: None, ..value(key, version, b"") };
    vec![
        vec![value(b"a", 1, b"first")],
        vec![value(b"b", 2, b"second"), value(b"c", 3, b"third")],
        vec![value(b"a", 4, b"fourth, longer than the first")],
        vec![tombstone(b"b", 5)],
        vec![value(b"d", 6, b""), value(b"e", 7, &[0; 40]), tombstone(b"c", 8)],
        vec![Record { expiry_ms: 1, user_flags: 7, ..value(b"b", 9, b"back again") }],
    ]
}

fn active() -> Vec<Vec<Record>> {
    vec![vec![value(b"in the active file", 20, b"as ever")]]
}

fn write(disk: &FaultyFileSystem, directory: &str, name: &str, bytes: &[u8]) {
    disk.create_directory(Path::new(directory)).expect("it is made");
    disk.write_file(at(directory, name), bytes).expect("it is written");
}

/// Creates a store with this data file 1. If `sealed` is set, adds an active file, and its records to the
/// valid ones.
pub(super) fn with_data_file(bytes: &[u8], sealed: bool, valid: &mut Vec<Record>) -> FaultyFileSystem {
    let disk = FaultyFileSystem::new();
    write(&disk, STORE, "eras", &Eras::new().encode());
    write(&disk, STORE, "0000000001.data", bytes);
    if sealed {
        write(&disk, STORE, "0000000002.data", &data_file_of(2, &active()));
        valid.extend(active().concat());
    }
    disk
}

/// A store of two files, the first of which has a hint.
pub(super) struct Sealed {
    disk: FaultyFileSystem,
    pub(super) hint: Vec<u8>,
    pub(super) eras: Vec<u8>,
    pub(super) marker: Vec<u8>,
    pub(super) records: Vec<Record>,
}

impl Sealed {
    pub(super) fn get() -> &'static Self {
        static SEALED: LazyLock<Sealed> = LazyLock::new(Sealed::make);
        &SEALED
    }

    fn make() -> Self {
        let mut records = appends().concat();
        let disk = with_data_file(&data_file_of(1, &appends()), true, &mut records);
        // Opening the store writes the missing hint.
        let (engine, recovery) = open(&disk, STORE).expect("the store opens");
        assert!(!recovery.is_damaged() && serves_only(&engine, &records) == newest(&records));
        engine.snapshot(Path::new(SNAPSHOT)).expect("a snapshot is made");
        engine.close().expect("it closes");
        let file = |directory, name| disk.read_file(at(directory, name)).expect("it is there");
        let (hint, eras) = (file(STORE, "0000000001.hint"), file(STORE, "eras"));
        Self { hint, eras, marker: file(SNAPSHOT, MARKER_NAME), disk, records }
    }

    /// Returns a copy of the disk.
    pub(super) fn disk(&self) -> FaultyFileSystem {
        self.disk.killed()
    }
}

/// Returns a disk with a snapshot of the [`Sealed`] store.
pub(super) fn snapshot_store() -> FaultyFileSystem {
    Sealed::get().disk()
}

pub(super) fn restore(disk: &FaultyFileSystem) -> Result<Snapshot, SnapshotError> {
    let disk: Arc<dyn FileSystem> = Arc::new(disk.clone());
    restore_on(&disk, Path::new(SNAPSHOT), Path::new(RESTORED))
}
