//! Gives the records of one data file, in their order.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::file::{Batches, apparent_key};
use super::place::Place;
use super::{Damage, DamagedKey, InspectError};
use crate::data_file::open_to_read;
use crate::error::IoError;
use crate::file_scan::Bounds;
use crate::file_system::{FileSystem, RealFileSystem};
use crate::format::{Kind, bound_of};
use crate::hint_file::{Visited, scanner_of, visit};
use crate::recovery::MARK_MISSING;
use crate::slot::partition_of;
use crate::{Partition, Record};

/// One thing in a data file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dumped {
    /// A record.
    Record(DumpedRecord),
    /// A stretch that should hold records and does not.
    Damaged(Damage),
    /// What opening the store cuts from the end of the active file.
    Torn {
        /// Where it begins.
        offset: u64,
        /// How many bytes it has, zeros after it not counted.
        bytes: u64,
    },
}

/// A record of a data file, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpedRecord {
    /// The record.
    pub record: Record,
    /// Where it begins.
    pub offset: u64,
    /// Bytes of all of it.
    pub bytes: u64,
    /// The partition of its key.
    pub partition: Partition,
    /// How often the partition had been dropped when it was written.
    pub era: u32,
    /// Of a tombstone: the highest id of a file that may hold an older record which it hides.
    pub bound: Option<u64>,
    /// Where the atomic batch begins that it is in.
    pub batch_offset: Option<u64>,
}

/// Gives all that is in one data file of a store that is not open, or of a snapshot, until `give` says to break.
pub fn dump(
    path: &Path,
    file_id: u64,
    give: &mut dyn FnMut(Dumped) -> ControlFlow<()>,
) -> Result<(), InspectError> {
    dump_on(&(Arc::new(RealFileSystem) as Arc<dyn FileSystem>), path, file_id, give)
}

/// The same on another file system.
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

/// Why a dump ends before the file does.
enum Ended {
    Early,
    Failed(IoError),
}

impl From<IoError> for Ended {
    fn from(error: IoError) -> Self {
        Self::Failed(error)
    }
}
