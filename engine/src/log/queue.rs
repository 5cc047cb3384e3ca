//! Appends on their way to the log's thread: one buffer that callers encode into, and who waits for it.

use crate::data_file::Location;
use crate::error::IoError;
use crate::format::{
    BOUND_OF_LOG_FILE, FLAG_IN_BATCH, Header, Kind, MARK_LEN, Salt, begin_batch, encode_record, end_batch,
};
use crate::log::ticket::Caller;
use crate::log::{Appended, AppendedRecord, Done, Prepared, Unwritten};

/// A buffer that grew beyond this is not kept.
const KEPT_BYTES: usize = 4 << 20;

/// What waits for the log's thread.
pub(super) struct Queue {
    salt: Salt,
    filling: Group,
    /// The last group's buffers, to be used again.
    spare: Option<Group>,
    /// Bytes charged for all appends that were not told their result yet.
    pub(super) charged: usize,
    /// Somebody has taken a group and is writing it: the log's thread, or a caller that was alone.
    pub(super) committing: bool,
    pub(super) thread_waits: bool,
    pub(super) closed: bool,
    pub(super) poisoned: Option<IoError>,
}

/// Appends that are written and synced together.
#[derive(Default)]
pub(super) struct Group {
    /// Room for a mark, then the records.
    pub(super) buffer: Vec<u8>,
    pub(super) appends: Vec<Waiting>,
    pub(super) charged: usize,
}

/// Who is told what became of an append.
pub(super) enum Waiting {
    /// A callback, with the records as they are in the group.
    Callback(Appended, Done),
    /// A thread that waits, and has the records itself.
    Caller(Caller),
}

impl Queue {
    pub(super) fn new(salt: Salt) -> Self {
        Self {
            salt,
            filling: Group::default(),
            spare: None,
            charged: 0,
            committing: false,
            thread_waits: false,
            closed: false,
            poisoned: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filling.appends.is_empty()
    }

    pub(super) fn is_open(&self) -> bool {
        !self.closed && self.poisoned.is_none()
    }

    /// Queues records whose callback is told.
    pub(super) fn push(&mut self, records: Vec<Prepared>, charge: usize, done: Done) {
        let appended = self.encoder().encode_owned(self.buffer(), records);
        self.filling.appends.push(Waiting::Callback(appended, done));
        self.charge(charge);
    }

    /// Adds records to the group that is filling; who waits for them is not among its appends yet.
    pub(super) fn add(&mut self, records: &mut [Unwritten<'_>], charge: usize) {
        self.encoder().encode(self.buffer(), records);
        self.charge(charge);
    }

    /// Queues the thread that waits for what it has just added.
    pub(super) fn push_caller(&mut self, caller: Caller) {
        self.filling.appends.push(Waiting::Caller(caller));
    }

    fn encoder(&self) -> Encoder {
        Encoder { salt: self.salt }
    }

    fn buffer(&mut self) -> &mut Vec<u8> {
        let buffer = &mut self.filling.buffer;
        if buffer.is_empty() {
            buffer.resize(MARK_LEN, 0);
        }
        buffer
    }

    fn charge(&mut self, charge: usize) {
        self.filling.charged += charge;
        self.charged += charge;
    }

    /// Hands out the group to whom it is to be committed by, who then calls [`Queue::give_back`].
    pub(super) fn take_group(&mut self) -> Group {
        self.committing = true;
        let next = self.spare.take().unwrap_or_default();
        std::mem::replace(&mut self.filling, next)
    }

    /// Ends the commit of a group whose appends were told; keeps its buffers for the next but one.
    pub(super) fn give_back(&mut self, mut group: Group) {
        self.committing = false;
        self.charged -= group.charged;
        group.appends.clear();
        group.buffer.clear();
        group.charged = 0;
        group.buffer = reusable(group.buffer);
        self.spare = Some(group);
    }
}

/// The buffer, or a new one if it has grown large.
pub(super) fn reusable(buffer: Vec<u8>) -> Vec<u8> {
    if buffer.capacity() > KEPT_BYTES { Vec::new() } else { buffer }
}

/// Turns records into bytes.
pub(super) struct Encoder {
    pub(super) salt: Salt,
}

impl Encoder {
    /// Appends the records to the buffer, as one batch if there are several; notes their offsets in it.
    pub(super) fn encode(&self, buffer: &mut Vec<u8>, records: &mut [Unwritten<'_>]) {
        let count = records.len();
        let batch = self.begin(buffer, count);
        for record in records {
            record.at = self.encode_one(buffer, record, batch.is_some());
        }
        self.end(buffer, batch, count);
    }

    /// The same of records that a callback will be told of.
    pub(super) fn encode_owned(&self, buffer: &mut Vec<u8>, records: Vec<Prepared>) -> Appended {
        let count = records.len();
        let batch = self.begin(buffer, count);
        let encode = |prepared: Prepared| {
            let at = self.encode_one(buffer, &prepared.unwritten(), batch.is_some());
            let Prepared { record, partition, era, position } = prepared;
            let tombstone = record.value.is_none();
            AppendedRecord {
                key: record.key,
                partition,
                era,
                position,
                version: record.version,
                tombstone,
                at,
            }
        };
        let records = records.into_iter().map(encode).collect();
        self.end(buffer, batch, count);
        Appended { records, pin: None }
    }

    fn begin(&self, buffer: &mut Vec<u8>, count: usize) -> Option<usize> {
        (count > 1).then(|| begin_batch(buffer))
    }

    fn end(&self, buffer: &mut [u8], batch: Option<usize>, count: usize) {
        if let Some(start) = batch {
            end_batch(buffer, self.salt, start, count);
        }
    }

    fn encode_one(&self, buffer: &mut Vec<u8>, record: &Unwritten<'_>, in_batch: bool) -> Location {
        let offset = buffer.len();
        let header = Header {
            kind: if record.value.is_none() { Kind::Tombstone } else { Kind::Value },
            flags: if in_batch { FLAG_IN_BATCH } else { 0 },
            key_len: 0,
            value_len: 0,
            user_flags: record.user_flags,
            version: record.version,
            expiry_ms: record.expiry_ms,
            era: record.era,
        };
        encode_record(buffer, self.salt, header, record.key, record.value.unwrap_or(&BOUND_OF_LOG_FILE));
        Location { file: 0, offset: offset as u32, len: (buffer.len() - offset) as u32 }
    }
}
