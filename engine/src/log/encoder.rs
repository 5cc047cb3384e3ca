//! Encodes records: one alone, or several as one batch.

use crate::data_file::Location;
use crate::format::{
    BOUND_OF_LOG_FILE, FLAG_IN_BATCH, Header, Kind, Salt, begin_batch, encode_record, end_batch,
};
use crate::log::record::{Appended, AppendedRecord, Prepared, Unwritten};

/// Encoder for the files with one salt.
pub(super) struct Encoder {
    pub(super) salt: Salt,
}

impl Encoder {
    /// Appends the records to the buffer, as one batch if there are several; stores their offsets in them.
    pub(super) fn encode(&self, buffer: &mut Vec<u8>, records: &mut [Unwritten<'_>]) {
        let count = records.len();
        let batch = self.begin(buffer, count);
        for record in records {
            record.at = self.encode_one(buffer, record, batch.is_some());
        }
        self.end(buffer, batch, count);
    }

    /// Appends owned records, for an append with a callback, like [`Self::encode`].
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
                expires: record.expiry_ms != 0,
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
