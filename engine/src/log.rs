//! The log: takes appends, groups them, makes them durable, tells who waits.
//!
//! With `sync = always` callers encode into one buffer; the log's thread takes the whole buffer, writes it behind
//! a mark with one call, syncs once, and tells all who wait; meanwhile the next buffer fills (group commit). A
//! thread that is alone and would wait anyway commits its group itself, which saves two changes of threads.
//! With weaker policies the caller writes at once, under the writer's lock.
//!
//! Invariants: callbacks of queued appends run in the order of the calls, each exactly once, none under a lock.
//! A failed write is taken back (the file is cut to where it was) and the log goes on; a failed sync, or a write
//! that cannot be taken back, poisons the log: the operating system may have dropped what it did not sync,
//! so no later sync could be believed. Refuses what is too long, and appends above the buffer's bound.

mod encoder;
mod queue;
mod sync;
mod ticket;
mod writer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use self::encoder::Encoder;
use self::queue::{Group, Queue, Sink, reusable};
pub(crate) use self::writer::{Writer, create_active, too_many_files};
use crate::data_file::{Location, Pin};
use crate::directory::Directory;
use crate::error::{AppendError, IoError, OpenError};
use crate::failure::OnFailure;
use crate::format::{MARK_LEN, RECORD_HEADER_LEN, Salt, TOMBSTONE_VALUE_LEN};
use crate::keydir::Candidate;
use crate::options::{Options, SyncPolicy};
use crate::reserve::TRIES;
use crate::table::Entry;
use crate::{Era, Partition, Record, Version, mutation};

/// Name of the log's thread.
const THREAD: &str = "cask-log";

/// What an append is charged beyond its bytes: its callback and its place in the queue.
const APPEND_OVERHEAD: usize = 256;

/// Callbacks that may wait for another thread to run them, where appends are written inline.
const DELIVERIES_MAX: usize = 1 << 16;

/// Called once, with what became of the append.
pub(crate) type Done = Box<dyn FnOnce(Result<Appended, AppendError>) + Send>;

/// Where a group of appends begins, and that its file is to be kept.
type Place = (Location, Pin);

/// Who is told of a queued append, and its records as they are in their group.
type Callback = (Appended, Done);

/// Records that are in the log and not yet visible: give it to [`Engine::publish`](crate::Engine::publish).
///
/// Dropping it leaves the records unpublished until the store is opened anew, which finds and publishes them.
#[derive(Clone, Debug)]
#[must_use = "records become visible when this is published"]
pub struct Appended {
    pub(crate) records: Vec<AppendedRecord>,
    /// Of the file they are in; none until they are written.
    pub(crate) pin: Option<Pin>,
}

impl Appended {
    /// How many records it is of.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it is of none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// Appends that were taken out of the queue to be written and synced together. Later appends wait until they are
/// committed; dropping them uncommitted stops the log.
#[must_use = "the log goes on only after this group is committed"]
pub struct TakenGroup {
    shared: Arc<Shared>,
    group: Group,
}

impl TakenGroup {
    /// Writes and syncs the appends, and runs their callbacks.
    pub fn commit(self) {
        self.shared.queue.commit(&*self.shared, self.group);
    }
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct AppendedRecord {
    pub(crate) key: Bytes,
    pub(crate) partition: Partition,
    pub(crate) era: Era,
    pub(crate) position: u64,
    pub(crate) version: u64,
    pub(crate) tombstone: bool,
    pub(crate) expires: bool,
    /// Until it is written: file 0, and the offset in its group.
    pub(crate) at: Location,
}

impl AppendedRecord {
    pub(crate) fn candidate(&self) -> Candidate<'_> {
        let entry =
            Entry::new(self.position, self.version, self.at, self.tombstone).with_expiry(self.expires);
        Candidate { partition: self.partition, era: self.era, key: &self.key, entry }
    }
}

/// A record with what was computed of its key, before any lock of the log is taken.
pub(crate) struct Prepared {
    pub(crate) record: Record,
    pub(crate) partition: Partition,
    pub(crate) era: Era,
    pub(crate) position: u64,
}

impl Prepared {
    pub(crate) fn unwritten(&self) -> Unwritten<'_> {
        let Self { record, partition, era, position } = self;
        Unwritten {
            key: &record.key,
            value: record.value.as_deref(),
            version: record.version,
            expiry_ms: record.expiry_ms,
            user_flags: record.user_flags,
            partition: *partition,
            era: *era,
            position: *position,
            at: UNWRITTEN,
        }
    }
}

/// Where a record is that is not written yet.
pub(crate) const UNWRITTEN: Location = Location { file: 0, offset: 0, len: 0 };

/// The same of a record whose bytes are the caller's, who waits; and where it is once it is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unwritten<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) version: Version,
    pub(crate) expiry_ms: u64,
    pub(crate) user_flags: u32,
    pub(crate) partition: Partition,
    pub(crate) era: Era,
    pub(crate) position: u64,
    pub(crate) at: Location,
}

impl<'a> Unwritten<'a> {
    /// What is to be published, once it is written.
    pub(crate) fn candidate(&self) -> Candidate<'a> {
        let entry = Entry::new(self.position, self.version, self.at, self.value.is_none())
            .with_expiry(self.expiry_ms != 0);
        Candidate { partition: self.partition, era: self.era, key: self.key, entry }
    }
}

/// What the log counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Records in the data files: with those found at the start, without those that a merge dropped.
    pub(crate) records: AtomicU64,
    pub(crate) appends: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) syncs: AtomicU64,
}

/// The log of one store.
pub(crate) struct Log {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    thread_id: Option<ThreadId>,
    settled_hint: Arc<AtomicU64>,
    file_limit: Arc<AtomicU64>,
}

struct Shared {
    sync: SyncPolicy,
    value_bytes_max: u32,
    buffer_bytes_max: usize,
    directory: Arc<Directory>,
    counters: Counters,
    salt: Salt,
    queue: Queue,
    writer: Mutex<Writer>,
    on_failure: OnFailure,
}

impl Log {
    /// Starts the log on the active file the writer has.
    pub(crate) fn start(
        options: &Options,
        directory: Arc<Directory>,
        writer: Writer,
    ) -> Result<Self, OpenError> {
        let settled_hint = writer.settled_hint().clone();
        let file_limit = writer.file_limit_handle().clone();
        let shared = Arc::new(Shared {
            sync: options.sync,
            value_bytes_max: options.max_value_bytes,
            buffer_bytes_max: options.append_buffer_bytes,
            directory,
            counters: Counters::default(),
            salt: writer.salt(),
            queue: Queue::new(options.append_buffer_bytes),
            writer: Mutex::new(writer),
            on_failure: options.on_failure.clone(),
        });
        let run: Option<fn(&Shared)> = match options.sync {
            _ if !options.log_thread => None,
            SyncPolicy::Always => Some(Shared::run_group_commit),
            SyncPolicy::Interval(_) => Some(Shared::run_interval),
            SyncPolicy::Never => None,
        };
        let mut thread = None;
        if let Some(run) = run {
            let shared = shared.clone();
            let builder = thread::Builder::new().name(THREAD.to_owned());
            let run = move || {
                let _guard = shared.on_failure.guard(THREAD);
                run(&shared);
            };
            let handle = builder.spawn(run).map_err(|e| OpenError::Thread(Arc::new(e)))?;
            thread = Some(handle);
        }
        let thread_id = thread.as_ref().map(|handle| handle.thread().id());
        Ok(Self { shared, thread: Mutex::new(thread), thread_id, settled_hint, file_limit })
    }

    pub(crate) fn thread_id(&self) -> Option<ThreadId> {
        self.thread_id
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Bytes that wait for the disk.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.shared.queue.charged()
    }

    /// Queues or writes the records; see [`Engine::append`](crate::Engine::append).
    pub(crate) fn append(&self, records: Vec<Prepared>, done: Done) {
        let shared = &*self.shared;
        let lens = records.iter().map(|prepared| lens(&prepared.unwritten()));
        let bytes = match shared.encoded_bytes(lens) {
            Ok(bytes) => bytes,
            Err(error) => return done(Err(error)),
        };
        shared.counters.appends.fetch_add(1, Ordering::Relaxed);
        if shared.sync == SyncPolicy::Always {
            shared.append_queued(records, bytes, done);
        } else {
            shared.append_inline(records, done);
        }
    }

    /// Appends the records and waits until they are durable under the sync policy; says in each where it is.
    /// Waits for room if the append buffer is full. Not to be called from a callback.
    ///
    /// The pin is to be kept until they are published.
    pub(crate) fn append_now(&self, records: &mut [Unwritten<'_>]) -> Result<Pin, AppendError> {
        let shared = &*self.shared;
        let bytes = shared.encoded_bytes(records.iter().map(lens))?;
        shared.counters.appends.fetch_add(1, Ordering::Relaxed);
        let (base, pin) = if shared.sync == SyncPolicy::Always {
            // A callback that waited for room would wait for itself.
            let wait_for_room = self.thread_id != Some(thread::current().id());
            let encode = |buffer: &mut Vec<u8>| shared.encoder().encode(buffer, records);
            if self.thread_id.is_none() {
                self.commit_waiting();
            }
            shared.queue.append_and_wait(shared, bytes + APPEND_OVERHEAD, wait_for_room, encode)?
        } else {
            shared
                .write_inline(&mut shared.writer.lock(), |encoder, buffer| encoder.encode(buffer, records))?
                .0
        };
        for record in &mut *records {
            place(&mut record.at, base);
        }
        shared.counters.records.fetch_add(records.len() as u64, Ordering::Relaxed);
        Ok(pin)
    }

    /// Flushes, syncs and stops the log; later appends are refused. Only the first call does anything.
    pub(crate) fn close(&self) -> Result<(), AppendError> {
        if !self.shared.queue.close() {
            return Ok(());
        }
        // The last engine may go away in a callback: then the log's thread empties the queue and closes the file
        // when that callback has returned.
        if self.thread_id == Some(thread::current().id()) {
            return Ok(());
        }
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the log's thread panicked; what it had not synced may be lost");
        }
        while self.thread_id.is_none() && self.commit_waiting() {}
        self.shared.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.shared.writer.lock().finish()
    }

    /// Where there is no thread: commits the appends that wait, and tells; false if there are none.
    pub(crate) fn commit_waiting(&self) -> bool {
        self.shared.queue.commit_waiting(&*self.shared)
    }

    /// Where there is no thread: takes the appends that wait out of the queue; `None` if there are none.
    pub(crate) fn take_waiting(&self) -> Option<TakenGroup> {
        let group = self.shared.queue.take_waiting()?;
        Some(TakenGroup { shared: Arc::clone(&self.shared), group })
    }

    /// Makes everything durable whose append has returned.
    pub(crate) fn sync(&self) -> Result<(), AppendError> {
        self.shared.sync_outside_lock()
    }

    /// Completes the active file and begins the next, unless there is nothing in it. Returns the active file's id:
    /// what was appended before is in lower log files, what is appended from now on in this or higher ones.
    pub(crate) fn seal_active(&self) -> Result<u64, AppendError> {
        let directory = &self.shared.directory;
        let mut sealed = self.shared.writer.lock().seal_active(directory);
        for _ in 0..TRIES {
            let is_full = matches!(sealed, Err(AppendError::NoSpace(_)));
            // What is in the file can be merged then, which frees more.
            if !is_full || !directory.reserve().release(0) {
                break;
            }
            sealed = self.shared.writer.lock().seal_active(directory);
        }
        sealed
    }

    /// Begins the next file after so many bytes from now on, if the options do not say fewer.
    pub(crate) fn set_file_limit(&self, bytes: u64) {
        self.file_limit.store(bytes, Ordering::Relaxed);
    }

    /// Bytes after which the next file is begun.
    pub(crate) fn file_limit(&self) -> u64 {
        self.file_limit.load(Ordering::Relaxed)
    }

    /// No append that is not published yet is, or will be, in a file of a lower id.
    pub(crate) fn settled_below(&self) -> u64 {
        self.shared.writer.lock().settled_below()
    }

    /// The same, or lower, at no cost.
    pub(crate) fn settled_hint(&self) -> u64 {
        self.settled_hint.load(Ordering::Acquire)
    }

    /// Stops the log because of a failure elsewhere in the directory that leaves open what is on disk.
    pub(crate) fn poison(&self, error: IoError) -> AppendError {
        let error = self.shared.writer.lock().poison(error);
        self.shared.queue.poison(error.clone());
        AppendError::Poisoned(error)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the store could not be synced when it was closed");
        }
    }
}

impl Shared {
    /// Bytes that records of these lengths will take in the file, if they may be appended at all.
    fn encoded_bytes(&self, lens: impl ExactSizeIterator<Item = Lens>) -> Result<usize, AppendError> {
        let too_large = |what, bytes: usize, max: usize| {
            Err(AppendError::TooLarge { what, bytes: bytes as u64, max: max as u64 })
        };
        let mut total = if lens.len() > 1 { RECORD_HEADER_LEN } else { 0 };
        for Lens { key, value } in lens {
            if key > usize::from(u16::MAX) {
                return too_large("a key", key, u16::MAX.into());
            }
            let value_len = value.unwrap_or(TOMBSTONE_VALUE_LEN);
            if value.is_some() && value_len > self.value_bytes_max as usize {
                return too_large("a value", value_len, self.value_bytes_max as usize);
            }
            total += RECORD_HEADER_LEN + key + value_len;
        }
        let max = self.buffer_bytes_max - MARK_LEN - APPEND_OVERHEAD;
        if total > max { too_large("a set of records", total, max) } else { Ok(total) }
    }

    fn append_queued(&self, records: Vec<Prepared>, bytes: usize, done: Done) {
        let encode =
            |(records, done), buffer: &mut Vec<u8>| (self.encoder().encode_owned(buffer, records), done);
        if let Err((error, (_, done))) = self.queue.push(bytes + APPEND_OVERHEAD, (records, done), encode) {
            done(Err(error));
        }
    }

    fn encoder(&self) -> Encoder {
        Encoder { salt: self.salt }
    }

    /// Until the log is closed and the queue empty.
    fn run_group_commit(&self) {
        self.queue.run(self);
        self.finish();
    }

    /// Closes the file, when nobody can be told how that went any more.
    fn finish(&self) {
        if let Err(error) = self.writer.lock().finish() {
            tracing::error!(%error, "the store could not be synced when it was closed");
        }
    }

    /// Writes one group, whose first bytes are room for a mark.
    fn write(&self, writer: &mut Writer, buffer: &mut [u8]) -> Result<Place, AppendError> {
        let before = writer.files_begun();
        let base = writer.write(&self.directory, buffer)?;
        if writer.files_begun() != before {
            self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        }
        self.counters.bytes.store(writer.bytes_written(), Ordering::Relaxed);
        Ok((base, writer.pin()))
    }

    /// Turns offsets within the group into places in the file.
    fn locate(&self, mut appended: Appended, (base, pin): Place) -> Appended {
        appended.pin = Some(pin);
        for record in &mut appended.records {
            place(&mut record.at, base);
        }
        self.counters.records.fetch_add(appended.len() as u64, Ordering::Relaxed);
        appended
    }

    fn append_inline(&self, records: Vec<Prepared>, done: Done) {
        let mut writer = self.writer.lock();
        if writer.deliveries.len() >= DELIVERIES_MAX {
            drop(writer);
            return done(Err(AppendError::Overloaded { waiting: DELIVERIES_MAX, max: DELIVERIES_MAX }));
        }
        let encode = |encoder: Encoder, buffer: &mut Vec<u8>| encoder.encode_owned(buffer, records);
        let result =
            self.write_inline(&mut writer, encode).map(|(place, appended)| self.locate(appended, place));
        writer.deliveries.push_back((done, result));
        self.deliver(writer);
    }

    /// Writes what this encodes; returns where that begins, and what encoding it returned.
    fn write_inline<T>(
        &self,
        writer: &mut Writer,
        encode: impl FnOnce(Encoder, &mut Vec<u8>) -> T,
    ) -> Result<(Place, T), AppendError> {
        let mut buffer = std::mem::take(&mut writer.scratch);
        let encoder = self.encoder();
        buffer.clear();
        buffer.resize(MARK_LEN, 0);
        let encoded = encode(encoder, &mut buffer);
        let result = self.write(writer, &mut buffer);
        writer.scratch = reusable(buffer);
        Ok((result?, encoded))
    }

    /// Runs waiting callbacks in order. Who finds another thread at it leaves its own to that one.
    fn deliver(&self, mut writer: MutexGuard<'_, Writer>) {
        if writer.delivering {
            return;
        }
        writer.delivering = true;
        while let Some((done, result)) = writer.deliveries.pop_front() {
            MutexGuard::unlocked(&mut writer, || self.run_callback(done, result));
        }
        writer.delivering = false;
    }

    /// A callback that panics must not take the log's thread with it: others wait for theirs.
    fn run_callback(&self, done: Done, result: Result<Appended, AppendError>) {
        if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
            tracing::error!("a callback of an append panicked");
            self.on_failure.report(THREAD, "a callback of an append panicked");
        }
    }

    /// Until the log is closed: syncs what was written since the last time.
    fn run_interval(&self) {
        let SyncPolicy::Interval(ms) = self.sync else {
            return;
        };
        let interval = Duration::from_millis(ms);
        let mut next = Instant::now() + interval;
        while !self.queue.wait_closed(next) {
            mutation::end_if_told(THREAD);
            next = Instant::now() + interval;
            // A failure poisons the log, which tells every later append.
            let _ = self.sync_outside_lock();
        }
    }

    /// Syncs what was written up to now, while writes go on.
    fn sync_outside_lock(&self) -> Result<(), AppendError> {
        let Some(pending) = self.writer.lock().unsynced()? else {
            return Ok(());
        };
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        let result = pending.sync();
        self.writer.lock().synced(&pending, result)
    }
}

impl Sink for Shared {
    fn commit(&self, group: &mut [u8]) -> Result<Place, AppendError> {
        mutation::end_if_told(THREAD);
        let mut writer = self.writer.lock();
        let place = self.write(&mut writer, group)?;
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        writer.sync_group()?;
        Ok(place)
    }

    fn tell(&self, (appended, done): Callback, outcome: Result<Place, AppendError>) {
        self.run_callback(done, outcome.map(|place| self.locate(appended, place)));
    }
}

/// How long the parts of a record are that its writer chooses.
struct Lens {
    key: usize,
    value: Option<usize>,
}

fn lens(record: &Unwritten<'_>) -> Lens {
    Lens { key: record.key.len(), value: record.value.map(<[u8]>::len) }
}

/// Turns an offset within a group that was written at `base` into a place in the file.
fn place(at: &mut Location, base: Location) {
    at.file = base.file;
    at.offset += base.offset;
}

/// The salt of a new file.
pub(crate) fn random_salt() -> Salt {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // Two words of the operating system's randomness, mixed by SipHash.
    Salt(RandomState::new().build_hasher().finish())
}

#[cfg(test)]
mod schedules;
#[cfg(test)]
mod tests;
