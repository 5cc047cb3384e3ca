use std::collections::BTreeSet;

use super::*;

fn create(file_system: &FaultyFileSystem, path: &str) -> Arc<dyn FileHandle> {
    file_system.open(Path::new(path), OpenMode::Create).unwrap()
}

/// Creates a file system with a durable directory `/d`.
fn with_directory() -> FaultyFileSystem {
    let file_system = FaultyFileSystem::new();
    file_system.create_directory(Path::new("/d")).unwrap();
    file_system.sync_directory(Path::new("/")).unwrap();
    file_system
}

/// Creates a file system with one durable file of these bytes.
fn with_file(bytes: &[u8]) -> (FaultyFileSystem, Arc<dyn FileHandle>) {
    let file_system = with_directory();
    let file = create(&file_system, "/d/file");
    file.write_all_at(bytes, 0).unwrap();
    file.sync_all().unwrap();
    file_system.sync_directory(Path::new("/d")).unwrap();
    (file_system, file)
}

/// Returns all contents that crashes leave of the file.
fn outcomes(file_system: &FaultyFileSystem, path: &str) -> BTreeSet<Option<Vec<u8>>> {
    (0..2000).map(|seed| file_system.crashed(seed).read_file(path).ok()).collect()
}

#[test]
fn synced_bytes_survive_a_crash_and_unsynced_ones_may_not() {
    let (file_system, file) = with_file(b"durable");
    assert_eq!(outcomes(&file_system, "/d/file"), [Some(b"durable".to_vec())].into());
    file.write_all_at(b" or not", 7).unwrap();
    let found = outcomes(&file_system, "/d/file");
    // Torn at any byte; the length may have grown without the bytes.
    for cut in 0..=7 {
        let torn = b"durable or not"[..7 + cut].to_vec();
        assert!(found.contains(&Some(torn.clone())), "{torn:?}");
    }
    assert!(found.contains(&Some(b"durable\0\0\0\0\0\0\0".to_vec())));
    assert_eq!(found.len(), 9);
    assert_eq!(file_system.killed().read_file("/d/file").unwrap(), b"durable or not");
    file.sync_data().unwrap();
    assert_eq!(outcomes(&file_system, "/d/file"), [Some(b"durable or not".to_vec())].into());
}

#[test]
fn sectors_of_an_unsynced_write_survive_one_by_one() {
    let (file_system, file) = with_file(&[1; 4 * 512]);
    file.write_all_at(&[2; 4 * 512], 0).unwrap();
    let whole_sectors: BTreeSet<Vec<u8>> = outcomes(&file_system, "/d/file")
        .into_iter()
        .flatten()
        .filter(|bytes| bytes.chunks(512).all(|sector| sector.iter().all(|&byte| byte == sector[0])))
        .map(|bytes| bytes.chunks(512).map(|sector| sector[0]).collect())
        .collect();
    assert_eq!(whole_sectors.len(), 16, "{whole_sectors:?}");
}

#[test]
fn files_lose_unsynced_bytes_independently() {
    let file_system = with_directory();
    for path in ["/d/a", "/d/b"] {
        create(&file_system, path).write_all_at(b"x", 0).unwrap();
    }
    file_system.sync_directory(Path::new("/d")).unwrap();
    let pairs: BTreeSet<_> = (0..200)
        .map(|seed| file_system.crashed(seed))
        .map(|image| (image.read_file("/d/a").unwrap() == b"x", image.read_file("/d/b").unwrap() == b"x"))
        .collect();
    assert_eq!(pairs.len(), 4);
}

#[test]
fn cut_that_was_not_synced_may_be_undone() {
    let (file_system, file) = with_file(b"0123456789");
    file.set_len(4).unwrap();
    file.write_all_at(b"xy", 4).unwrap();
    let found = outcomes(&file_system, "/d/file");
    for bytes in [&b"0123456789"[..], b"0123", b"0123xy"] {
        assert!(found.contains(&Some(bytes.to_vec())), "{bytes:?}");
    }
}

#[test]
fn names_survive_a_crash_in_the_order_of_their_changes() {
    let (file_system, _) = with_file(b"old");
    let new = create(&file_system, "/d/new");
    new.write_all_at(b"new", 0).unwrap();
    new.sync_all().unwrap();
    file_system.rename(Path::new("/d/new"), Path::new("/d/file")).unwrap();
    file_system.hard_link(Path::new("/d/file"), Path::new("/d/link")).unwrap();
    file_system.remove(Path::new("/d/file")).unwrap();
    let mut found = BTreeSet::new();
    for seed in 0..500 {
        let image = file_system.crashed(seed);
        let names = image.list(Path::new("/d")).unwrap();
        found.insert(
            names.iter().map(|name| (name.clone(), image.read_file(format!("/d/{name}")).unwrap())).collect(),
        );
    }
    let file = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    let expected: BTreeSet<Vec<_>> = [
        vec![file("file", b"old")],
        vec![file("file", b"old"), file("new", b"new")],
        vec![file("file", b"new")],
        vec![file("file", b"new"), file("link", b"new")],
        vec![file("link", b"new")],
    ]
    .into();
    assert_eq!(found, expected);
    file_system.sync_directory(Path::new("/d")).unwrap();
    assert_eq!(file_system.crashed(1).files(), [PathBuf::from("/d/link")]);
}

#[test]
fn removed_file_stays_readable_while_it_is_open() {
    let (file_system, file) = with_file(b"content");
    file_system.remove(Path::new("/d/file")).unwrap();
    file_system.sync_directory(Path::new("/d")).unwrap();
    assert!(!file_system.exists(Path::new("/d/file")).unwrap());
    let mut bytes = [0; 7];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"content");
    file_system.set_capacity(Some(10));
    assert_eq!(file_system.space(Path::new("/")).unwrap().free_bytes, 3);
    drop(file);
    assert_eq!(file_system.space(Path::new("/")).unwrap().free_bytes, 10);
}

#[test]
fn names_of_one_file_share_its_content() {
    let (file_system, file) = with_file(b"one");
    file_system.hard_link(Path::new("/d/file"), Path::new("/d/link")).unwrap();
    file.write_all_at(b"two", 0).unwrap();
    assert_eq!(file_system.read_file("/d/link").unwrap(), b"two");
    let taken = file_system.hard_link(Path::new("/d/file"), Path::new("/d/link")).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
}

#[test]
fn faults_hit_the_calls_they_name() {
    let (file_system, file) = with_file(b"");
    file_system.inject(Fault::disk_full(FileCall::Write, 1).on("file"));
    file.write_all_at(b"a", 0).unwrap();
    assert_eq!(file.write_all_at(b"b", 1).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.write_all_at(b"c", 1).unwrap();
    file_system.inject(Fault::io_error(FileCall::Rename, 0).lasting());
    for _ in 0..3 {
        assert!(file_system.rename(Path::new("/d/file"), Path::new("/d/other")).is_err());
    }
    assert_eq!(file_system.clear_faults(), 4);
    file_system.rename(Path::new("/d/file"), Path::new("/d/other")).unwrap();
    assert_eq!(file_system.read_file("/d/other").unwrap(), b"ac");
    // An open file matches by its new name.
    file_system.inject(Fault::io_error(FileCall::Sync, 0).on("other"));
    assert!(file.sync_data().is_err());
}

#[test]
fn failed_sync_loses_the_bytes_though_a_later_one_succeeds() {
    let (file_system, file) = with_file(b"");
    file.write_all_at(b"lost", 0).unwrap();
    file_system.inject(Fault::io_error(FileCall::Sync, 0));
    assert!(file.sync_data().is_err());
    file.write_all_at(b"kept", 4).unwrap();
    file.sync_data().unwrap();
    assert_eq!(file_system.killed().read_file("/d/file").unwrap(), b"lostkept");
    assert_eq!(outcomes(&file_system, "/d/file"), [Some(b"\0\0\0\0kept".to_vec())].into());
    // Rewritten, they can be synced.
    file.write_all_at(b"lost", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(outcomes(&file_system, "/d/file"), [Some(b"lostkept".to_vec())].into());
}

#[test]
fn full_disk_takes_what_fits() {
    let (file_system, file) = with_file(b"1234");
    file_system.set_capacity(Some(6));
    assert_eq!(file.write_at(b"abcd", 4).unwrap(), 2);
    assert_eq!(file.write_at(b"cd", 6).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.allocate(0, 7).unwrap_err().kind(), io::ErrorKind::StorageFull);
    // Existing bytes can be overwritten.
    assert_eq!(file.write_at(b"xxxxxx", 0).unwrap(), 6);
    file.set_len(0).unwrap();
    file.allocate(0, 6).unwrap();
    assert_eq!(file.len().unwrap(), 6);
}

#[test]
fn disk_without_a_free_byte_makes_nothing_new_and_takes_again_what_is_freed() {
    let (file_system, file) = with_file(b"1234");
    file_system.leave_free(0);
    assert_eq!(file_system.space(Path::new("/")).unwrap(), Space { free_bytes: 0, total_bytes: 4 });
    let full = |result: io::Result<()>| assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
    full(file_system.open(Path::new("/d/new"), OpenMode::Create).map(drop));
    full(file_system.create_directory(Path::new("/e")));
    full(file_system.lock(Path::new("/d/lock"), "me").map(drop));
    full(file.write_all_at(b"5", 4));
    file_system.create_directory(Path::new("/d")).unwrap();
    file_system.rename(Path::new("/d/file"), Path::new("/d/other")).unwrap();
    file.set_len(1).unwrap();
    assert_eq!(file_system.space(Path::new("/")).unwrap().free_bytes, 3);
    file_system.open(Path::new("/d/new"), OpenMode::Create).unwrap().write_all_at(b"567", 0).unwrap();
    full(file.write_all_at(b"8", 1));
    file_system.leave_free(10);
    assert_eq!((file_system.used_bytes(), file_system.space(Path::new("/")).unwrap().total_bytes), (4, 14));
    file_system.remove(Path::new("/d/new")).unwrap();
    assert_eq!(file_system.space(Path::new("/")).unwrap().free_bytes, 13);
}

#[test]
fn dead_process_changes_nothing() {
    let (file_system, file) = with_file(b"before");
    file_system.crash_after(file_system.calls() + 1);
    file.write_all_at(b"B", 0).unwrap();
    assert!(!file_system.is_dead());
    assert!(file.write_all_at(b"E", 1).is_err());
    assert!(file_system.remove(Path::new("/d/file")).is_err() && file_system.is_dead());
    assert_eq!(file_system.killed().read_file("/d/file").unwrap(), b"Before");
    let torn: BTreeSet<usize> = (0..100)
        .map(|seed| {
            let (file_system, file) = with_file(b"");
            file_system.crash_within(file_system.calls(), seed);
            assert!(file.write_at(b"abcd", 0).is_err() && file.write_at(b"abcd", 0).is_err());
            file_system.killed().read_file("/d/file").unwrap().len()
        })
        .collect();
    assert_eq!(torn, (0..=4).collect());
}

#[test]
fn short_transfers_move_at_least_a_byte() {
    let (file_system, file) = with_file(b"");
    file_system.set_short_transfers(Some(7));
    let written: BTreeSet<usize> = (0..100).map(|_| file.write_at(b"abcd", 0).unwrap()).collect();
    assert_eq!(written, (1..=4).collect());
    file.write_all_at(b"abcd", 0).unwrap();
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"abcd");
}

#[test]
fn lock_is_held_until_it_is_dropped_or_the_process_dies() {
    let file_system = with_directory();
    let path = Path::new("/d/lock");
    let lock = file_system.lock(path, "me").unwrap();
    assert_eq!(file_system.lock(path, "you").unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(file_system.read_file(path).unwrap(), b"me");
    file_system.killed().lock(path, "you").unwrap();
    drop(lock);
    file_system.lock(path, "you").unwrap();
}

#[test]
fn moments_are_how_everything_was_before_each_change() {
    let (file_system, file) = with_file(b"");
    file_system.remember();
    let first = file_system.calls();
    file.write_all_at(b"a", 0).unwrap();
    file.len().unwrap();
    file.sync_data().unwrap();
    file.write_all_at(b"b", 1).unwrap();
    let moments = file_system.moments();
    let calls: Vec<_> = moments.iter().map(|moment| (moment.call - first, moment.kind)).collect();
    assert_eq!(calls, [(0, FileCall::Write), (2, FileCall::Sync), (3, FileCall::Write)]);
    let contents: Vec<_> = moments.iter().map(|moment| moment.before.read_file("/d/file").unwrap()).collect();
    assert_eq!(contents, [&b""[..], b"a", b"a"]);
    assert_eq!(outcomes(&moments[2].before, "/d/file"), [Some(b"a".to_vec())].into());
}
