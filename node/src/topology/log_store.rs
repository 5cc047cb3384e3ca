//! openraft's log and vote, stored on disk.
//!
//! The entries are in memory and in [`LogFile`]; the vote has a small file of its own. One thread performs
//! all writes in the order of the requests, so that the runtime never waits for a disk. Requests queued
//! together share one fsync.
//!
//! An entry is reported as flushed, and a vote as saved, only once it is on disk. After the first failed
//! write the thread writes nothing more: the contents of the disk are then unknown, and the consensus engine
//! stops with the error.

use std::fmt::Debug;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::ops::{Bound, RangeBounds};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::error::TopologyError;
use super::files::{self, Kind};
use super::log_file::{Log, LogFile, Record};
use super::types::{Entry, LogId, StorageError, StorageIoError, TypeConfig, Vote};
use super::{codec, state_machine};
#[cfg(all(feature = "mutations", debug_assertions))]
use crate::supervise::Supervisor;
use crate::supervise::{Part, ThreadGuard};

const LOG_NAME: &str = "log";
const VOTE_NAME: &str = "vote";
const LOCK_NAME: &str = "LOCK";
const VOTE: Kind = Kind { magic: *b"CASKVOTE", former: None, version: 1 };

/// Maximum of jobs queued for the writing thread; openraft itself has only a few outstanding.
const QUEUE_JOBS_MAX: usize = 256;
/// Maximum of jobs that share one fsync.
const BATCH_JOBS_MAX: usize = 64;
/// Maximum of entry bytes returned for one replication message.
const READ_BYTES_MAX: usize = 1 << 20;
/// A file shorter than this is never rewritten.
const REWRITE_BYTES_MIN: u64 = 1 << 20;

/// Work of the writing thread.
enum Job {
    /// Append entries; report them once they are on disk.
    Append { bodies: Vec<Vec<u8>>, flushed: LogFlushed<TypeConfig> },
    /// Append a record that need not be durable: after a crash it is derived from other data.
    Note { body: Vec<u8> },
    /// Append a record; report it once it is on disk.
    Record { body: Vec<u8>, done: Done },
    /// Replace the vote.
    Vote { body: Vec<u8>, done: Done },
    /// Replace the log file by a shorter one with the same meaning.
    Rewrite { bodies: Vec<Vec<u8>> },
    /// Finish, and release the directory.
    Close { done: Done },
    /// End the thread by a panic, for a test.
    #[cfg(all(feature = "mutations", debug_assertions))]
    Panic,
}

type Done = oneshot::Sender<io::Result<()>>;

/// The log store. Clones read and write the same log.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: Arc<Mutex<Log>>,
    vote: Arc<Mutex<Option<Vote>>>,
    jobs: mpsc::Sender<Job>,
    file_bytes: Arc<AtomicU64>,
}

impl LogStore {
    /// Opens the log in `dir`, which must exist; creates an empty one if none ever existed. Its thread holds
    /// `guard`. Blocks.
    ///
    /// # Errors
    /// See [`TopologyError`]. A torn tail is not an error: it is cut off and logged.
    pub(crate) fn open(dir: &Path, guard: ThreadGuard) -> Result<Self, TopologyError> {
        let lock = lock(&dir.join(LOCK_NAME))?;
        let (log_path, vote_path) = (dir.join(LOG_NAME), dir.join(VOTE_NAME));
        let vote = read_vote(&vote_path)?;
        let exists =
            log_path.try_exists().map_err(|error| TopologyError::io("look for", &log_path, error))?;
        let (file, log) = match exists {
            true => LogFile::open(&log_path)?,
            // The log is created before the vote and the snapshot: if one of them exists without it, the log
            // was lost.
            false if vote.is_some() || dir.join(state_machine::SNAPSHOT_NAME).exists() => {
                return Err(TopologyError::damaged(&log_path, 0, "the file is missing"));
            }
            false => (LogFile::create(&log_path)?, Log::default()),
        };
        let file_bytes = Arc::new(AtomicU64::new(file.len()));
        let (jobs, queue) = mpsc::channel(QUEUE_JOBS_MAX);
        let writer = Writer { file, vote_path, file_bytes: Arc::clone(&file_bytes), failed: None, lock };
        std::thread::Builder::new()
            .name(Part::TopologyLog.name().to_owned())
            .spawn(move || {
                let _guard = guard;
                writer.run(queue);
            })
            .map_err(|error| TopologyError::io("start the writing thread for", &log_path, error))?;
        let (log, vote) = (Arc::new(Mutex::new(log)), Arc::new(Mutex::new(vote)));
        Ok(Self { log, vote, jobs, file_bytes })
    }

    /// Writes the queued records and releases the directory; the store rejects later requests.
    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.jobs.send(Job::Close { done }).await.is_ok()
            && let Ok(Err(error)) = closed.await
        {
            tracing::warn!(%error, "closed the topology log after a failed write");
        }
    }

    /// Ends the thread when a test requests it.
    #[cfg(all(feature = "mutations", debug_assertions))]
    pub(crate) fn end_when_told(&self, supervisor: Supervisor) -> impl Future<Output = ()> + Send + 'static {
        // The thread ends with the last store, also while this task waits.
        let jobs = self.jobs.downgrade();
        async move {
            supervisor.told_to_end(Part::TopologyLog).await;
            if let Some(jobs) = jobs.upgrade() {
                drop(jobs.send(Job::Panic).await);
            }
        }
    }

    async fn send(&self, job: Job) -> io::Result<()> {
        self.jobs.send(job).await.map_err(|_| closed())
    }

    async fn ask(&self, job: impl FnOnce(Done) -> Job) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.send(job(done)).await?;
        answer.await.map_err(|_| closed())?
    }

    /// Requests a rewrite if most of the file is obsolete.
    async fn shorten(&self) -> io::Result<()> {
        let bodies = {
            let log = self.log.lock();
            let file_bytes = self.file_bytes.load(Ordering::Relaxed);
            if file_bytes < REWRITE_BYTES_MIN || file_bytes / 2 < log.live_bytes() as u64 {
                return Ok(());
            }
            log.bodies().map_err(io::Error::other)?
        };
        self.send(Job::Rewrite { bodies }).await
    }
}

fn closed() -> io::Error {
    io::Error::other("the topology log is closed")
}

fn lock(path: &Path) -> Result<File, TopologyError> {
    // The file is never replaced: another process may hold a lock on it.
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(|error| TopologyError::io("create", path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(TopologyError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(TopologyError::io("lock", path, error)),
    }
}

fn read_vote(path: &Path) -> Result<Option<Vote>, TopologyError> {
    let Some(body) = files::read(path, VOTE)? else {
        return Ok(None);
    };
    codec::decode(&body).map(Some).map_err(|what| TopologyError::damaged(path, 0, what))
}

/// State of the thread that performs all writes.
struct Writer {
    file: LogFile,
    vote_path: PathBuf,
    file_bytes: Arc<AtomicU64>,
    failed: Option<String>,
    /// Held until the thread ends.
    lock: File,
}

/// Receiver of the outcome once the present batch is on disk.
enum Waiter {
    Entries(LogFlushed<TypeConfig>),
    Record(Done),
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut waiting = Vec::new();
        while let Some(first) = queue.blocking_recv() {
            let mut next = Some(first);
            let mut taken = 0;
            while let Some(job) = next {
                if let Job::Close { done } = job {
                    self.settle(&mut waiting);
                    let last = self.outcome();
                    drop(self);
                    // Release the lock before the answer: the caller may open the directory again at once.
                    let _ = done.send(last);
                    return;
                }
                self.take(job, &mut waiting);
                taken += 1;
                next = if taken < BATCH_JOBS_MAX { queue.try_recv().ok() } else { None };
            }
            self.settle(&mut waiting);
        }
    }

    fn take(&mut self, job: Job, waiting: &mut Vec<Waiter>) {
        match job {
            Job::Append { bodies, flushed } => {
                bodies.iter().for_each(|body| self.file.push(body));
                waiting.push(Waiter::Entries(flushed));
            }
            Job::Note { body } => self.file.push(&body),
            Job::Record { body, done } => {
                self.file.push(&body);
                waiting.push(Waiter::Record(done));
            }
            Job::Vote { body, done } => {
                self.settle(waiting);
                let path = self.vote_path.clone();
                self.attempt(|_| files::replace(&path, VOTE, &body));
                let _ = done.send(self.outcome());
            }
            Job::Rewrite { bodies } => {
                self.settle(waiting);
                self.attempt(|file| file.rewrite(&bodies));
            }
            // The caller handles this job.
            Job::Close { done } => drop(done),
            #[cfg(all(feature = "mutations", debug_assertions))]
            Job::Panic => panic!("a test ended this thread"),
        }
    }

    /// Writes the queued records, syncs if a waiter needs it, and reports the outcome to the waiters.
    fn settle(&mut self, waiting: &mut Vec<Waiter>) {
        let sync = !waiting.is_empty();
        self.attempt(|file| file.flush(sync));
        self.file_bytes.store(self.file.len(), Ordering::Relaxed);
        for waiter in waiting.drain(..) {
            match waiter {
                Waiter::Entries(flushed) => flushed.log_io_completed(self.outcome()),
                Waiter::Record(done) => drop(done.send(self.outcome())),
            }
        }
    }

    fn attempt(&mut self, write: impl FnOnce(&mut LogFile) -> io::Result<()>) {
        if self.failed.is_some() {
            return;
        }
        if let Err(error) = write(&mut self.file) {
            tracing::error!(
                %error,
                "a write of the topology log failed; this node writes no more of it until a restart"
            );
            self.failed = Some(error.to_string());
        }
    }

    fn outcome(&self) -> io::Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(why) => Err(io::Error::other(format!("cannot write the topology log: {why}"))),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Closing the file would unlock it too; this makes it explicit.
        let _ = self.lock.unlock();
    }
}

fn write_error(error: impl ToString) -> StorageError {
    StorageIoError::write_logs(AnyError::error(error)).into()
}

#[expect(clippy::result_large_err, reason = "it is openraft's error type, and on no path that is hot")]
fn encode(record: &Record) -> Result<Vec<u8>, StorageError> {
    codec::encode(record).map_err(write_error)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        if is_empty(&range) {
            return Ok(Vec::new());
        }
        Ok(self.log.lock().entries.range(range).map(|(_, stored)| stored.entry.clone()).collect())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        let log = self.log.lock();
        let mut bytes = 0;
        let within = |(at, stored): &(usize, &super::log_file::Stored)| {
            bytes += stored.bytes;
            *at == 0 || bytes <= READ_BYTES_MAX
        };
        let entries = log.entries.range(start..end.max(start)).map(|(_, stored)| stored).enumerate();
        Ok(entries.take_while(within).map(|(_, stored)| stored.entry.clone()).collect())
    }
}

/// Returns whether `range` contains no index. `BTreeMap::range` panics on some of these ranges.
fn is_empty(range: &impl RangeBounds<u64>) -> bool {
    let first = match range.start_bound() {
        Bound::Included(at) => Some(*at),
        Bound::Excluded(at) => at.checked_add(1),
        Bound::Unbounded => Some(0),
    };
    match (first, range.end_bound()) {
        (None, _) => true,
        (Some(first), Bound::Included(end)) => first > *end,
        (Some(first), Bound::Excluded(end)) => first >= *end,
        (Some(_), Bound::Unbounded) => false,
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let log = self.log.lock();
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: log.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let error = |error: String| StorageIoError::write_vote(AnyError::error(error));
        let body = codec::encode(vote).map_err(error)?;
        self.ask(|done| Job::Vote { body, done }).await.map_err(|failed| error(failed.to_string()))?;
        *self.vote.lock() = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(*self.vote.lock())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let body = encode(&Record::Committed(committed))?;
        self.log.lock().committed = committed;
        self.send(Job::Note { body }).await.map_err(write_error)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.log.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, flushed: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut bodies = Vec::new();
        {
            let mut log = self.log.lock();
            for entry in entries {
                let record = Record::Entry(entry);
                let body = encode(&record)?;
                log.perform(record, body.len()).map_err(write_error)?;
                bodies.push(body);
            }
        }
        self.send(Job::Append { bodies, flushed }).await.map_err(write_error)
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let record = Record::Truncate(log_id.index);
        let body = encode(&record)?;
        self.log.lock().perform(record, 0).map_err(write_error)?;
        self.ask(|done| Job::Record { body, done }).await.map_err(write_error)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let record = Record::Purge(log_id);
        let body = encode(&record)?;
        self.log.lock().perform(record, 0).map_err(write_error)?;
        self.send(Job::Note { body }).await.map_err(write_error)?;
        self.shorten().await.map_err(write_error)
    }
}
