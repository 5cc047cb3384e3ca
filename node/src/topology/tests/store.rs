//! Tests of the log, the vote and the snapshot on disk.

use std::path::Path;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload, RaftLogReader, RaftSnapshotBuilder, Vote};
use tempfile::TempDir;

use super::{announcement, found, node};
use crate::cluster::state::{Change, Verdict};
use crate::supervise::{Part, Supervisor, ThreadGuard};
use crate::topology::error::TopologyError;
use crate::topology::log_file;
use crate::topology::log_store::LogStore;
use crate::topology::state_machine::StateMachine;
use crate::topology::types::{Entry, LogId, Proposal, StorageError, TypeConfig};

struct OnDisk;

fn guard() -> ThreadGuard {
    Supervisor::default().thread(Part::TopologyLog)
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let log = LogStore::open(dir.path(), guard()).unwrap();
        let machine = StateMachine::open(dir.path()).unwrap();
        Ok((dir, log, machine))
    }
}

#[test]
fn openraft_storage_suite_passes() {
    Suite::test_all(OnDisk).unwrap();
}

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, node(1)), index)
}

fn entry(index: u64) -> Entry {
    let changes = vec![Change::Register(announcement(index))];
    Entry { log_id: log_id(index), payload: EntryPayload::Normal(changes.into()) }
}

async fn indices(log: &mut LogStore) -> Vec<u64> {
    log.try_get_log_entries(..).await.unwrap().iter().map(|entry| entry.log_id.index).collect()
}

fn open(dir: &Path) -> LogStore {
    LogStore::open(dir, guard()).unwrap()
}

#[tokio::test]
async fn flushed_entries_are_present_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    log.save_vote(&Vote::new_committed(3, node(2))).await.unwrap();
    log.blocking_append((0..10).map(entry)).await.unwrap();
    log.truncate(log_id(8)).await.unwrap();
    log.blocking_append([entry(8)]).await.unwrap();
    log.purge(log_id(2)).await.unwrap();
    log.save_committed(Some(log_id(5))).await.unwrap();
    assert!(matches!(LogStore::open(dir.path(), guard()), Err(TopologyError::InUse { .. })));
    log.close().await;

    let mut log = open(dir.path());
    assert_eq!(indices(&mut log).await, (3..9).collect::<Vec<_>>());
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(3, node(2))));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(5)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(2)), Some(log_id(8))));
    assert_eq!(log.try_get_log_entries(4..5).await.unwrap()[0].payload_changes(), entry(4).payload_changes());
}

trait Changes {
    fn payload_changes(&self) -> Vec<Change>;
}

impl Changes for Entry {
    fn payload_changes(&self) -> Vec<Change> {
        match &self.payload {
            EntryPayload::Normal(proposal) => proposal.changes.clone(),
            _ => Vec::new(),
        }
    }
}

/// Returns the bytes of a log of five flushes, and the file's length after each.
async fn five_flushes() -> (Vec<u8>, Vec<usize>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = open(dir.path());
    let mut lengths = Vec::new();
    for index in 0..5 {
        log.blocking_append([entry(index)]).await.unwrap();
        lengths.push(std::fs::metadata(&path).unwrap().len() as usize);
    }
    log.close().await;
    (std::fs::read(&path).unwrap(), lengths)
}

#[tokio::test]
async fn log_cut_at_any_byte_gives_the_whole_records_before_it() {
    let (bytes, lengths) = five_flushes().await;
    let path = Path::new("log");
    let header = 24;
    for cut in 0..=bytes.len() {
        match log_file::replay(path, &bytes[..cut]) {
            Ok((log, whole)) => {
                let complete = lengths.iter().filter(|length| **length <= cut).count();
                assert_eq!(log.entries.len(), complete, "cut at {cut}");
                assert_eq!(whole, lengths[..complete].last().copied().unwrap_or(header), "cut at {cut}");
            }
            Err(TopologyError::Damaged { .. }) => assert!(cut < header, "cut at {cut} is a torn tail"),
            Err(other) => panic!("cut at {cut}: {other}"),
        }
    }
}

#[tokio::test]
async fn no_flipped_byte_loses_an_entry_that_a_later_flush_vouches_for() {
    let (bytes, lengths) = five_flushes().await;
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x40;
        match log_file::replay(Path::new("log"), &flipped) {
            Ok((log, _)) => {
                assert!(at >= lengths[3], "the flip at {at} was not detected");
                assert_eq!(log.entries.len(), 4);
            }
            Err(error) => {
                assert!(matches!(error, TopologyError::Damaged { .. }), "flip at {at}: {error}");
                assert!(at < lengths[3], "flip at {at}: the last flush is a torn tail");
                assert!(error.to_string().contains("'log' is damaged at byte"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn torn_tail_is_cut_and_appending_continues() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let (mut bytes, lengths) = five_flushes().await;
    // Cut in the middle: a record may itself end with zeros.
    bytes.truncate(lengths[3].midpoint(lengths[4]));
    bytes.extend_from_slice(&[0; 100]);
    std::fs::write(&path, &bytes).unwrap();

    let mut log = open(dir.path());
    assert_eq!(indices(&mut log).await, [0, 1, 2, 3]);
    log.blocking_append([entry(4)]).await.unwrap();
    log.close().await;
    assert_eq!(indices(&mut open(dir.path())).await, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn purged_log_is_rewritten_short_and_keeps_its_meaning() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = open(dir.path());
    let large = |index| {
        let mut large = announcement(index);
        large.build = "x".repeat(64 << 10);
        Entry { log_id: log_id(index), payload: EntryPayload::Normal(vec![Change::Register(large)].into()) }
    };
    log.blocking_append((0..40).map(large)).await.unwrap();
    log.save_committed(Some(log_id(39))).await.unwrap();
    let before = std::fs::metadata(&path).unwrap().len();
    log.purge(log_id(37)).await.unwrap();
    log.blocking_append([large(40)]).await.unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < before / 4);
    log.close().await;

    let mut log = open(dir.path());
    assert_eq!(indices(&mut log).await, [38, 39, 40]);
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(39)));
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(37)));
    log.close().await;

    let bytes = std::fs::read(&path).unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    assert!(log_file::replay(&path, &flipped).is_err(), "a rewritten file was complete when it got its name");
}

#[tokio::test]
async fn one_replication_message_is_bounded_but_never_empty() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    let large = |index| {
        let mut large = announcement(index);
        large.build = "x".repeat(700 << 10);
        Entry { log_id: log_id(index), payload: EntryPayload::Normal(vec![Change::Register(large)].into()) }
    };
    log.blocking_append((0..4).map(large)).await.unwrap();
    assert_eq!(log.limited_get_log_entries(1, 4).await.unwrap().len(), 1);
    assert!(log.blocking_append([entry(9)]).await.is_err(), "a gap is rejected");
}

#[tokio::test]
async fn decision_of_a_coordinator_is_void_in_a_later_term_of_the_same_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = StateMachine::open(dir.path()).unwrap();
    let term = log_id(1).leader_id.term;
    let decided = |index, change, elected| Entry {
        log_id: log_id(index),
        payload: EntryPayload::Normal(Proposal { changes: vec![change], elected }),
    };
    let (founded, down) = (found(1), Change::DeclareDown { node: node(1), incarnation: 1 });
    let entries =
        [decided(1, founded, None), decided(2, down.clone(), Some(term - 1)), decided(3, down, Some(term))];
    let applied = machine.apply(entries).await.unwrap();
    assert_eq!(applied.iter().map(|applied| applied.epoch).collect::<Vec<_>>(), [1, 1, 2]);
    assert!(matches!(&applied[1].verdicts[..], [Verdict::Rejected(reason)] if reason.contains("term")));
}

#[tokio::test]
async fn damaged_vote_or_snapshot_or_a_missing_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    log.save_vote(&Vote::new(3, node(2))).await.unwrap();
    log.close().await;
    let mut machine = StateMachine::open(dir.path()).unwrap();
    machine
        .apply([Entry { log_id: log_id(1), payload: EntryPayload::Normal(vec![found(1)].into()) }])
        .await
        .unwrap();
    machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let reopened = StateMachine::open(dir.path()).unwrap();
    assert_eq!(*reopened.watch().borrow(), *machine.watch().borrow());
    assert_eq!(reopened.watch().borrow().epoch, 1);

    let flip_last = |name: &str| {
        let path = dir.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
    };
    flip_last("snapshot");
    assert!(matches!(StateMachine::open(dir.path()), Err(TopologyError::Damaged { .. })));
    std::fs::remove_file(dir.path().join("log")).unwrap();
    let missing = LogStore::open(dir.path(), guard()).err().unwrap();
    assert!(missing.to_string().contains("the file is missing"), "{missing}");
    flip_last("vote");
    assert!(matches!(LogStore::open(dir.path(), guard()), Err(TopologyError::Damaged { .. })));
}

#[tokio::test]
async fn files_of_builds_before_the_first_release_are_rejected_as_such() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close().await;
    let mut machine = StateMachine::open(dir.path()).unwrap();
    machine
        .apply([Entry { log_id: log_id(1), payload: EntryPayload::Normal(vec![found(1)].into()) }])
        .await
        .unwrap();
    machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let log = dir.path().join("log");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[..8].copy_from_slice(b"CASKTLOG");
    let sum = crc32fast::hash(&bytes[..20]).to_le_bytes();
    std::fs::write(&log, [&bytes[..20], &sum, &bytes[24..]].concat()).unwrap();
    let error = LogStore::open(dir.path(), guard()).err().unwrap();
    assert!(error.to_string().contains("before the first release"), "{error}");
    // A snapshot's checksum does not cover its first bytes.
    let snapshot = dir.path().join("snapshot");
    let mut bytes = std::fs::read(&snapshot).unwrap();
    bytes[..8].copy_from_slice(b"CASKSNAP");
    std::fs::write(&snapshot, &bytes).unwrap();
    let error = StateMachine::open(dir.path()).err().unwrap();
    assert!(error.to_string().contains("before the first release"), "{error}");
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&snapshot, &bytes).unwrap();
    assert!(matches!(StateMachine::open(dir.path()), Err(TopologyError::Damaged { .. })));
}
