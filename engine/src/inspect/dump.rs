//! Dumps the records of one data file, in their order.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::file::{Batches, apparent_key};
use super::place::Place;
use super::report::{Damage, DamagedKey, InspectError};
use crate::data_file::open_to_read;
use crate::error::IoError;
use crate::file_scan::Bounds;
use crate::file_system::{FileSystem, RealFileSystem};
use crate::format::{Kind, bound_of};
use crate::hint_file::{Visited, scanner_of, visit};
use crate::record::Record;
use crate::recovery::MARK_MISSING;
use crate::slots::{Partition, partition_of};

/// An item in a data file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dumped {
    /// A record.
    Record(DumpedRecord),
    /// A stretch that should hold records and does not.
    Damaged(Damage),
    /// The torn tail, which opening the store cuts from the active file.
    Torn {
        /// Offset of its begin.
        offset: u64,
        /// Its bytes, without trailing zeros.
        bytes: u64,
    },
}

/// A record of a data file, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpedRecord {
    /// The record.
    pub record: Record,
    /// Offset of the record.
    pub offset: u64,
    /// Bytes of the whole record.
    pub bytes: u64,
    /// The partition of its key.
    pub partition: Partition,
    /// Number of times that the partition had been dropped when the record was written.
    pub era: u32,
    /// For a tombstone: the highest id of a file that may hold an older record which it hides.
    pub bound: Option<u64>,
    /// Offset of the atomic batch that contains the record.
    pub batch_offset: Option<u64>,
}

/// Calls `give` with each item of one data file of a store that is not open, or of a snapshot, until it
/// returns `Break`.
pub fn dump(
    path: &Path,
    file_id: u64,
    give: &mut dyn FnMut(Dumped) -> ControlFlow<()>,
) -> Result<(), InspectError> {
    dump_on(&(Arc::new(RealFileSystem) as Arc<dyn FileSystem>), path, file_id, give)
}

/// Dumps a data file like [`dump`], on the given file system.
pub fn dump_on(
    file_system: &Arc<dyn FileSystem>,
    path: &Path,
    file_id: u64,
    give: &mut dyn FnMut(Dumped) -> ControlFlow<()>,
) -> Result<(), InspectError> {
    let place = Place::open(&**file_system, path)?;
    let known = place.files.iter().find(|known| known.id == file_id);
    let known = known.ok_or_else(|| InspectError::NoFile { path: path.to_owned(), file_id })?;
    let header = known.usable().map_err(InspectError::Unreadable)?;
    let bounds = if place.active == Some(file_id) { Bounds::Active } else { Bounds::Sealed };
    let file = open_to_read(place.file_system, &known.path)?;
    let mut scanner = scanner_of(&file, &known.path, &header, known.len);
    let mut batches = Batches::default();
    let ended = visit(&mut scanner, &header, bounds, |visited| {
        let dumped = match visited {
            Visited::Record(offset, record) => {
                let batch_offset = batches.meet(offset, &record.header);
                let is_tombstone = record.header.kind == Kind::Tombstone;
                Dumped::Record(DumpedRecord {
                    record: Record {
                        key: Bytes::copy_from_slice(record.key),
                        version: record.header.version,
                        expiry_ms: record.header.expiry_ms,
                        user_flags: record.header.user_flags,
                        value: (!is_tombstone).then(|| Bytes::copy_from_slice(record.value)),
                    },
                    offset,
                    bytes: record.header.record_len(),
                    partition: partition_of(record.key),
                    era: record.header.era,
                    bound: is_tombstone.then(|| bound_of(file_id, record.value)),
                    batch_offset,
                })
            }
            Visited::Bad { offset, bytes, reason } => {
                let mut damage =
                    Damage { stretch: known.quarantined(offset, bytes, reason), keys: Vec::new() };
                let key = apparent_key(&*file, &damage, known.len);
                damage.keys.extend(key.map(|key| DamagedKey { key: key.into(), certain: false }));
                Dumped::Damaged(damage)
            }
        };
        if give(dumped).is_break() { Err(Ended::Early) } else { Ok(()) }
    });
    let end = match ended {
        Ok(end) => end,
        Err(Ended::Early) => return Ok(()),
        Err(Ended::Failed(error)) => return Err(error.into()),
    };
    let last = if bounds == Bounds::Sealed && !end.ends_marked {
        let stretch = known.quarantined(end.offset, 0, MARK_MISSING);
        Some(Dumped::Damaged(Damage { stretch, keys: Vec::new() }))
    } else {
        (end.cut_bytes > 0).then_some(Dumped::Torn { offset: end.offset, bytes: end.cut_bytes })
    };
    if let Some(last) = last {
        let _ = give(last);
    }
    Ok(())
}

/// Reason why a dump ends before the end of the file.
enum Ended {
    Early,
    Failed(IoError),
}

impl From<IoError> for Ended {
    fn from(error: IoError) -> Self {
        Self::Failed(error)
    }
}
