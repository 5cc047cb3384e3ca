//! Appends on their way to the log's thread: one buffer that callers encode into, and who waits for it.

use crate::data_file::Location;
use crate::error::IoError;
use crate::format::{
    BOUND_OF_LOG_FILE, FLAG_IN_BATCH, Header, Kind, MARK_LEN, Salt, begin_batch, encode_record, end_batch,
};
use crate::log::{Appended, AppendedRecord, Done, Prepared};

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
    pub(super) thread_waits: bool,
    pub(super) closed: bool,
    pub(super) poisoned: Option<IoError>,
}

/// Appends that are written and synced together.
#[derive(Default)]
pub(super) struct Group {
    /// Room for a mark, then the records.
    pub(super) buffer: Vec<u8>,
    pub(super) appends: Vec<(Appended, Done)>,
    pub(super) charged: usize,
}

impl Queue {
    pub(super) fn new(salt: Salt) -> Self {
        Self {
            salt,
            filling: Group::default(),
            spare: None,
            charged: 0,
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

    pub(super) fn push(&mut self, records: Vec<Prepared>, charge: usize, done: Done) {
        let group = &mut self.filling;
        if group.buffer.is_empty() {
            group.buffer.resize(MARK_LEN, 0);
        }
        let encoder = Encoder { salt: self.salt };
        let appended = encoder.encode(&mut group.buffer, records);
        group.appends.push((appended, done));
        group.charged += charge;
        self.charged += charge;
    }

    pub(super) fn take_group(&mut self) -> Group {
        let next = self.spare.take().unwrap_or_default();
        std::mem::replace(&mut self.filling, next)
    }

    /// Keeps the buffers of a finished group for the next but one.
    pub(super) fn give_back(&mut self, mut group: Group) {
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
    /// Appends the records to the buffer, as one batch if there are several; tells their offsets in it.
    pub(super) fn encode(&self, buffer: &mut Vec<u8>, records: Vec<Prepared>) -> Appended {
        let count = records.len();
        if count < 2 {
            let records = records.into_iter().map(|record| self.encode_one(buffer, record, 0)).collect();
            return Appended { records, pin: None };
        }
        let start = begin_batch(buffer);
        let members =
            records.into_iter().map(|record| self.encode_one(buffer, record, FLAG_IN_BATCH)).collect();
        end_batch(buffer, self.salt, start, count);
        Appended { records: members, pin: None }
    }

    fn encode_one(&self, buffer: &mut Vec<u8>, prepared: Prepared, flags: u8) -> AppendedRecord {
        let Prepared { record, partition, era, position } = prepared;
        let offset = buffer.len();
        let tombstone = record.value.is_none();
        let header = Header {
            kind: if tombstone { Kind::Tombstone } else { Kind::Value },
            flags,
            key_len: 0,
            value_len: 0,
            user_flags: record.user_flags,
            version: record.version,
            expiry_ms: record.expiry_ms,
            era,
        };
        let value = record.value.as_deref().unwrap_or(&BOUND_OF_LOG_FILE);
        encode_record(buffer, self.salt, header, &record.key, value);
        let at = Location { file: 0, offset: offset as u32, len: (buffer.len() - offset) as u32 };
        AppendedRecord { key: record.key, partition, era, position, version: record.version, tombstone, at }
    }
}
