//! A data file that a merge writes, under a temporary name until it is complete.

use std::sync::Arc;

use crate::data_file::{DataFile, FileTable};
use crate::directory::Directory;
use crate::error::IoError;
use crate::file_system::FileHandle;
use crate::format::{
    FILE_HEADER_LEN, FileHeader, FileKind, Header, Kind, MARK_LEN, Parsed, encode_mark, encode_record,
};
use crate::log::{random_salt, too_many_files};

/// Bytes buffered before they are written.
const BUFFER_BYTES: usize = 1 << 20;

pub(super) struct Output {
    header: FileHeader,
    handle: Arc<dyn FileHandle>,
    /// Bytes written so far, and bytes that wait to be written.
    written: u64,
    buffer: Vec<u8>,
    reach: u64,
    /// The highest bound of its tombstones.
    bound: u64,
}

impl Output {
    /// Begins an output. `settled_below` returns the lowest file that holds anything unpublished; it is
    /// called after the output's id was allocated.
    pub(super) fn begin(directory: &Directory, settled_below: impl FnOnce() -> u64) -> Result<Self, IoError> {
        let header = FileHeader { kind: FileKind::Merged, id: directory.allocate_id()?, salt: random_salt() };
        let reach = settled_below().min(header.id);
        let handle = directory.create_temporary(&directory.data_path(header.id))?;
        Ok(Self { header, handle, written: 0, buffer: header.encode().to_vec(), reach, bound: 0 })
    }

    /// Returns whether a record of this length fits into a file of at most `max_file_size`. A single record
    /// always fits.
    pub(super) fn has_room(&self, len: u64, max_file_size: u64) -> bool {
        let end = self.written + self.buffer.len() as u64;
        end == FILE_HEADER_LEN as u64 || end + len + MARK_LEN as u64 <= max_file_size
    }

    /// Appends a copy of the record outside any batch; `bound` is that of a tombstone.
    pub(super) fn push(&mut self, record: &Parsed<'_>, bound: Option<u64>) -> Result<(), IoError> {
        let header = Header { flags: 0, ..record.header };
        debug_assert_eq!(bound.is_some(), header.kind == Kind::Tombstone);
        self.bound = self.bound.max(bound.unwrap_or(0));
        let bound = bound.map(u64::to_le_bytes);
        let value = bound.as_ref().map_or(record.value, |bound| bound);
        encode_record(&mut self.buffer, self.header.salt, header, record.key, value);
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), IoError> {
        let failed = |e| IoError::new("write", format!("data file {}", self.header.id), e);
        self.handle.write_all_at(&self.buffer, self.written).map_err(failed)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Adds it to the data files; nothing points to it yet.
    pub(super) fn complete(
        mut self,
        directory: &Directory,
        files: &FileTable,
    ) -> Result<(Arc<DataFile>, Arc<dyn FileHandle>), IoError> {
        let path = directory.data_path(self.header.id);
        let completed = self.write_end(directory).and_then(|()| {
            let new = |slot| DataFile::sealed(slot, path.clone(), &self.header, self.written);
            files.insert(new).ok_or_else(|| too_many_files(&path))
        });
        match completed {
            Ok(file) => {
                file.lower_reach(self.reach);
                file.raise_bound(self.bound);
                Ok((file, self.handle))
            }
            Err(error) => {
                let _ = directory.remove(&path);
                self.discard(directory);
                Err(error)
            }
        }
    }

    /// Writes the rest and the end mark. The mark may reach the disk only after the bytes that it covers are
    /// durable.
    fn write_end(&mut self, directory: &Directory) -> Result<(), IoError> {
        let path = directory.data_path(self.header.id);
        let failed = |action| {
            let path = path.clone();
            move |e| IoError::new(action, path, e)
        };
        self.flush()?;
        self.handle.sync_data().map_err(failed("sync"))?;
        self.buffer.extend_from_slice(&encode_mark(self.header.salt, self.written, self.written));
        self.flush()?;
        self.handle.sync_all().map_err(failed("sync"))?;
        directory.put_in_place(&path)
    }

    /// Removes the temporary file.
    pub(super) fn discard(self, directory: &Directory) {
        directory.remove_temporary(&directory.data_path(self.header.id));
    }
}
