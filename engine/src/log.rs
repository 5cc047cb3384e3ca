//! The log: accepts appends, groups them, makes them durable and reports the results.
//!
//! With `sync = always` callers encode into one buffer. The log's thread takes the whole buffer, writes it
//! behind a mark with one call, syncs once, and reports to all waiting callers; meanwhile the next buffer
//! fills (group commit). A caller that is alone and would wait anyway commits its group itself, which saves
//! two thread switches. Under weaker policies the caller writes at once, under the writer's lock.
//!
//! Invariants: callbacks of queued appends run in the order of the calls, each exactly once, none under a
//! lock. A failed write is undone (the file is cut to its former end) and the log continues. A failed sync,
//! or a write that cannot be undone, poisons the log: the operating system may have dropped unsynced bytes,
//! so that no later sync is reliable. Rejects records that are too long, and appends above the buffer's
//! limit.

mod encoder;
mod queue;
pub(crate) mod record;
mod sync;
mod ticket;
mod writer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use self::encoder::Encoder;
use self::queue::{Group, Queue, Sink, reusable};
use self::record::{Appended, Callback, Done, Place, Prepared, Unwritten};
pub(crate) use self::writer::{Writer, create_active, too_many_files};
use crate::data_file::{Location, Pin};
use crate::directory::Directory;
use crate::error::{AppendError, IoError, OpenError};
use crate::failure::OnFailure;
use crate::format::{MARK_LEN, RECORD_HEADER_LEN, Salt, TOMBSTONE_VALUE_LEN};
use crate::mutation;
use crate::options::{Options, SyncPolicy};
use crate::reserve::TRIES;

/// Name of the log's thread.
const THREAD: &str = "cask-log";

/// Bytes charged for an append besides its records: its callback and its place in the queue.
const APPEND_OVERHEAD: usize = 256;

/// Limit of callbacks that wait for another thread to run them, where appends are written inline.
const DELIVERIES_MAX: usize = 1 << 16;

/// Appends that were taken out of the queue to be written and synced together. Later appends wait until they
/// are committed; dropping them uncommitted stops the log.
#[must_use = "the log continues only after this group is committed"]
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

/// Counters of the log.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Records in the data files, including those found at the start, without those that a merge dropped.
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
    /// Starts the log on the writer's active file.
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

    /// Returns the bytes that wait for the disk.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.shared.queue.charged()
    }

    /// Queues or writes the records; see [`Store::append`](crate::replicated::Store::append).
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

    /// Appends the records and waits until they are durable under the sync policy; stores in each record its
    /// place. Waits for room if the append buffer is full. Must not be called from a callback.
    ///
    /// The caller keeps the pin until the records are published.
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

    /// Flushes, syncs and stops the log; later appends are refused. Only the first call has an effect.
    pub(crate) fn close(&self) -> Result<(), AppendError> {
        if !self.shared.queue.close() {
            return Ok(());
        }
        // The last engine may be dropped in a callback. Then the log's thread empties the queue and closes
        // the file after that callback has returned.
        if self.thread_id == Some(thread::current().id()) {
            return Ok(());
        }
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the log's thread panicked; unsynced appends may be lost; reopen the store");
        }
        while self.thread_id.is_none() && self.commit_waiting() {}
        self.shared.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.shared.writer.lock().finish()
    }

    /// Commits the waiting appends and reports their results, for a log without a thread; returns `false` if
    /// there are none.
    pub(crate) fn commit_waiting(&self) -> bool {
        self.shared.queue.commit_waiting(&*self.shared)
    }

    /// Takes the waiting appends out of the queue, for a log without a thread; `None` if there are none.
    pub(crate) fn take_waiting(&self) -> Option<TakenGroup> {
        let group = self.shared.queue.take_waiting()?;
        Some(TakenGroup { shared: Arc::clone(&self.shared), group })
    }

    /// Makes every append durable that has returned.
    pub(crate) fn sync(&self) -> Result<(), AppendError> {
        self.shared.sync_outside_lock()
    }

    /// Completes the active file and begins the next, unless the active file is empty. Returns the active
    /// file's id: earlier appends are in log files with lower ids, later ones in this file or in higher ones.
    pub(crate) fn seal_active(&self) -> Result<u64, AppendError> {
        let directory = &self.shared.directory;
        let mut sealed = self.shared.writer.lock().seal_active(directory);
        for _ in 0..TRIES {
            let is_full = matches!(sealed, Err(AppendError::NoSpace(_)));
            // A completed file can be merged, which frees more space.
            if !is_full || !directory.reserve().release(0) {
                break;
            }
            sealed = self.shared.writer.lock().seal_active(directory);
        }
        sealed
    }

    /// Sets the size at which the next file is begun, unless the options set a lower one.
    pub(crate) fn set_file_limit(&self, bytes: u64) {
        self.file_limit.store(bytes, Ordering::Relaxed);
    }

    /// Returns the size in bytes at which the next file is begun.
    pub(crate) fn file_limit(&self) -> u64 {
        self.file_limit.load(Ordering::Relaxed)
    }

    /// Returns an id below which no file holds, or will hold, an append that is not published yet.
    pub(crate) fn settled_below(&self) -> u64 {
        self.shared.writer.lock().settled_below()
    }

    /// Returns [`Self::settled_below`] or a lower id, without taking a lock.
    pub(crate) fn settled_hint(&self) -> u64 {
        self.settled_hint.load(Ordering::Acquire)
    }

    /// Stops the log after a failure elsewhere in the directory that leaves the content of the disk unknown.
    pub(crate) fn poison(&self, error: IoError) -> AppendError {
        let error = self.shared.writer.lock().poison(error);
        self.shared.queue.poison(error.clone());
        AppendError::Poisoned(error)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "cannot sync the store at its close; unsynced appends may be lost");
        }
    }
}

impl Shared {
    /// Returns the bytes that records of these lengths will take in the file, or an error if they are too
    /// long.
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

    /// Commits groups until the log is closed and the queue is empty.
    fn run_group_commit(&self) {
        self.queue.run(self);
        self.finish();
    }

    /// Closes the file after the last append was answered, so an error can only be logged.
    fn finish(&self) {
        if let Err(error) = self.writer.lock().finish() {
            tracing::error!(%error, "cannot sync the store at its close; unsynced appends may be lost");
        }
    }

    /// Writes one group; its first bytes are room for a mark.
    fn write(&self, writer: &mut Writer, buffer: &mut [u8]) -> Result<Place, AppendError> {
        let before = writer.files_begun();
        let base = writer.write(&self.directory, buffer)?;
        if writer.files_begun() != before {
            self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        }
        self.counters.bytes.store(writer.bytes_written(), Ordering::Relaxed);
        Ok((base, writer.pin()))
    }

    /// Converts offsets within the group into places in the file.
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

    /// Writes the bytes that `encode` produces; returns their place, and the result of `encode`.
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

    /// Runs waiting callbacks in order. If another thread is running them already, leaves these to it.
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

    /// Runs a callback; catches its panic, because other callbacks still wait for the log's thread.
    fn run_callback(&self, done: Done, result: Result<Appended, AppendError>) {
        if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
            tracing::error!("a callback of an append panicked");
            self.on_failure.report(THREAD, "a callback of an append panicked");
        }
    }

    /// Syncs written bytes at every interval until the log is closed.
    fn run_interval(&self) {
        let SyncPolicy::Interval(ms) = self.sync else {
            return;
        };
        let interval = Duration::from_millis(ms);
        let mut next = Instant::now() + interval;
        while !self.queue.wait_closed(next) {
            mutation::end_if_told(THREAD);
            next = Instant::now() + interval;
            // A failure poisons the log, so every later append fails.
            let _ = self.sync_outside_lock();
        }
    }

    /// Syncs the bytes written so far, while writes continue.
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

    fn report(&self, (appended, done): Callback, outcome: Result<Place, AppendError>) {
        self.run_callback(done, outcome.map(|place| self.locate(appended, place)));
    }
}

/// Lengths of the parts of a record that its writer chooses.
struct Lens {
    key: usize,
    value: Option<usize>,
}

fn lens(record: &Unwritten<'_>) -> Lens {
    Lens { key: record.key.len(), value: record.value.map(<[u8]>::len) }
}

/// Converts an offset within a group that was written at `base` into a place in the file.
fn place(at: &mut Location, base: Location) {
    at.file = base.file;
    at.offset += base.offset;
}

/// Returns a salt for a new file.
pub(crate) fn random_salt() -> Salt {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // Two words of the operating system's randomness, mixed by SipHash.
    Salt(RandomState::new().build_hasher().finish())
}

#[cfg(test)]
mod schedules;
#[cfg(test)]
mod tests;
