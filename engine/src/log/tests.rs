//! A log whose file cannot be written, and a callback that panics.

use std::sync::mpsc;

use bytes::Bytes;

use super::*;
use crate::data_file::FileTable;
use crate::file_system::{FileSystem, OpenMode};
use crate::format::FILE_HEADER_LEN;
use crate::record::Record;

/// Creates a log whose active file cannot be written, because it is open for reading only.
fn broken_log(path: &std::path::Path, sync: SyncPolicy) -> Log {
    let options = Options { sync, ..Options::new(path) };
    let file_system = Arc::new(crate::file_system::RealFileSystem);
    let (directory, _) = Directory::open(file_system.clone(), path, 0).unwrap();
    let files = Arc::new(FileTable::new(
        Arc::new(crate::file_system::RealFileSystem),
        &crate::options::Options::new("unused"),
    ));
    let (active, _) = create_active(&directory, &files, random_salt()).unwrap();
    let read_only = file_system.open(&active.path, OpenMode::Read).unwrap();
    let start = FILE_HEADER_LEN as u64;
    let writer = Writer::new(&options, files, (active, read_only), start, (start, false));
    Log::start(&options, Arc::new(directory), writer).unwrap()
}

fn append(log: &Log) -> Result<Appended, AppendError> {
    let record = Record {
        key: Bytes::from_static(b"key"),
        version: 1,
        expiry_ms: 0,
        user_flags: 0,
        value: Some(Bytes::from_static(b"value")),
    };
    let (tell, told) = mpsc::channel();
    let prepared = Prepared { partition: 0, era: 0, position: 0, record };
    log.append(vec![prepared], Box::new(move |result| tell.send(result).unwrap()));
    told.recv().unwrap()
}

#[test]
fn failed_write_that_cannot_be_taken_back_stops_the_log() {
    for sync in [SyncPolicy::Always, SyncPolicy::Never] {
        let directory = tempfile::tempdir().unwrap();
        let log = broken_log(directory.path(), sync);
        for _ in 0..3 {
            let error = append(&log).unwrap_err();
            assert!(matches!(error, AppendError::Poisoned(_)), "{sync}: {error}");
            assert!(error.to_string().contains("reopen the store"), "{error}");
        }
        assert!(matches!(log.close(), Err(AppendError::Poisoned(_))));
    }
}

#[test]
fn callback_that_panics_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (engine, _) = crate::replicated::Store::open(Options::new(directory.path())).unwrap();
    let tombstone = Record { key: Bytes::new(), version: 1, expiry_ms: 0, user_flags: 0, value: None };
    engine.append(vec![tombstone], |_| panic!("in a callback, as the test wants"));
    let (key, value) = (Bytes::from_static(b"key"), Some(Bytes::from_static(b"value")));
    let value = Record { key, version: 2, expiry_ms: 0, user_flags: 0, value };
    engine.apply(vec![value.clone()]).unwrap();
    assert_eq!(engine.read(b"key").unwrap(), Some(value));
}
