//! Records on their way through the log: prepared, unwritten, appended; and the callbacks that wait for them.

use bytes::Bytes;

use crate::data_file::{Location, Pin};
use crate::error::AppendError;
use crate::format::Era;
use crate::keydir::Candidate;
use crate::record::{Record, Version};
use crate::slots::Partition;
use crate::table::Entry;

/// Callback that receives the result of an append, exactly once.
pub(crate) type Done = Box<dyn FnOnce(Result<Appended, AppendError>) + Send>;

/// The place of a group of appends, with a pin that keeps its file.
pub(crate) type Place = (Location, Pin);

/// The callback of a queued append, and its records as they are in their group.
pub(crate) type Callback = (Appended, Done);

/// Records that are in the log and not visible yet: pass it to [`Store::publish`].
///
/// [`Store::publish`]: crate::replicated::Store::publish
///
/// Dropping it leaves the records unpublished until the store is reopened, which finds and publishes them.
#[derive(Clone, Debug)]
#[must_use = "records become visible when this is published"]
pub struct Appended {
    pub(crate) records: Vec<AppendedRecord>,
    /// Pin of the records' file; `None` until they are written.
    pub(crate) pin: Option<Pin>,
}

impl Appended {
    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Returns whether it has no records.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// An appended record.
#[derive(Clone, Debug)]
pub(crate) struct AppendedRecord {
    pub(crate) key: Bytes,
    pub(crate) partition: Partition,
    pub(crate) era: Era,
    pub(crate) position: u64,
    pub(crate) version: u64,
    pub(crate) tombstone: bool,
    pub(crate) expires: bool,
    /// Place of the record. Until it is written: file 0, and the offset in its group.
    pub(crate) at: Location,
}

impl AppendedRecord {
    pub(crate) fn candidate(&self) -> Candidate<'_> {
        let entry =
            Entry::new(self.position, self.version, self.at, self.tombstone).with_expiry(self.expires);
        Candidate { partition: self.partition, era: self.era, key: &self.key, entry }
    }
}

/// A record with the values computed from its key before any lock of the log is taken.
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

/// Place of a record that is not written yet.
pub(crate) const UNWRITTEN: Location = Location { file: 0, offset: 0, len: 0 };

/// A record that borrows its bytes from the waiting caller, with its place after it is written.
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
    /// Returns the candidate to publish after the record is written.
    pub(crate) fn candidate(&self) -> Candidate<'a> {
        let entry = Entry::new(self.position, self.version, self.at, self.value.is_none())
            .with_expiry(self.expiry_ms != 0);
        Candidate { partition: self.partition, era: self.era, key: self.key, entry }
    }
}
