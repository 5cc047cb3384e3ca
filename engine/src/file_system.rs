//! The file system as the engine uses it: an interface, so that tests can replace it by one that fails.
//!
//! [`Engine::open`](crate::Engine::open) opens a store on [`RealFileSystem`]. [`FaultyFileSystem`] keeps
//! files in memory, loses unsynced bytes at a crash, and fails on demand.
//!
//! Contract, as in POSIX: written bytes are durable after the file was synced; a created, renamed, linked or
//! removed name is durable after its directory was synced. Positioned calls of several threads do not affect
//! each other.

mod faulty;
mod mapping;
mod real;

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use self::faulty::{Fault, FaultyFileSystem, FileCall, Moment};
pub use self::mapping::{Mapping, WritableMapping};
pub use self::real::RealFileSystem;

/// Alignment of a mapped stretch in a file: a multiple of the page size of any machine.
pub const MAPPING_STEP: u64 = 64 << 10;

/// Mode in which a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// The file must exist; only read.
    Read,
    /// The file must exist; read and written.
    ReadWrite,
    /// The file is created, or emptied if it exists; read and written.
    Create,
}

/// Interface to names and files.
pub trait FileSystem: Debug + Send + Sync {
    /// Opens or creates a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn FileHandle>>;

    /// Returns the names in a directory, in no particular order, without those that are not UTF-8.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;

    /// Returns whether this name exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Creates a directory and its parents; succeeds if it exists.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// Renames a file; replaces the file that has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name, which must not exist.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Takes a file's exclusive lock until the returned value is dropped. Creates the file, and stores this
    /// text in it if there is room.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`]: another owner has the lock.
    fn lock(&self, path: &Path, text: &str) -> io::Result<Box<dyn Debug + Send + Sync>>;

    /// Returns the size of the file system of this directory, and the bytes that can still be written.
    fn space(&self, directory: &Path) -> io::Result<Space>;
}

/// Space of a file system, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this process can still write, without those reserved for the superuser.
    pub free_bytes: u64,
    /// Bytes of the whole file system.
    pub total_bytes: u64,
}

/// An open file.
pub trait FileHandle: Debug + Send + Sync {
    /// Reads into the start of `buffer`; returns the number of bytes read: 0 only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes the start of `bytes`; returns the number of bytes written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Returns the length of the file in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Returns whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Extends the file with zeros whose space is reserved. Fails with [`io::ErrorKind::Unsupported`] where
    /// the file system cannot reserve space.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes the content durable, and as much of the length as reading it requires.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes content and attributes durable.
    fn sync_all(&self) -> io::Result<()>;

    /// Maps the first `len` bytes, where the file system supports it. They must never be written afterwards.
    fn map(&self, len: u64) -> io::Result<Option<Mapping>> {
        let _ = len;
        Ok(None)
    }

    /// Maps a stretch of the file for writing, where the file system supports it. Its space must be reserved
    /// with [`FileHandle::allocate`], and the offset must be a multiple of [`MAPPING_STEP`]. The file must
    /// not be cut while it is mapped. Bytes written to it count as written by [`FileHandle::write_at`].
    fn map_to_write(&self, offset: u64, len: u64) -> io::Result<Option<WritableMapping>> {
        let _ = (offset, len);
        Ok(None)
    }

    /// Reads exactly this many bytes, or fails with [`io::ErrorKind::UnexpectedEof`].
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    buffer = buffer.get_mut(read..).unwrap_or_default();
                    offset += read as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Writes all of the bytes.
    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = bytes.get(written..).unwrap_or_default();
                    offset += written as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
