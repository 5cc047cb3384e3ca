//! What the engine asks of a file system, and no more: so that tests can give it one that fails.
//!
//! A store opened with [`Engine::open`](crate::Engine::open) is on [`RealFileSystem`]. [`FaultyFileSystem`] holds files
//! in memory, loses at a crash what was not synced, and fails when told to.
//!
//! Contract, as POSIX has it: written bytes are durable once the file was synced; a created, renamed, linked or
//! removed name is durable once its directory was. Positioned calls of several threads do not disturb each other.

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

/// A multiple of any machine's page size: where a stretch to be mapped may begin.
pub const MAPPING_STEP: u64 = 64 << 10;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// It must be there; only read.
    Read,
    /// It must be there; read and written.
    ReadWrite,
    /// Made, or emptied if it is there; read and written.
    Create,
}

/// Names and files.
pub trait FileSystem: Debug + Send + Sync {
    /// Opens or makes a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn FileHandle>>;

    /// Names of the entries of a directory, in no particular order; those that are no text are left out.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;

    /// Whether something has this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Makes a directory and its parents; fine if it is there.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// Gives a file another name, in the place of what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name, which must be free.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Takes a file's exclusive lock until what is returned is dropped; makes the file, which then holds this text, if
    /// there is room for it.
    /// [`io::ErrorKind::WouldBlock`] if another has the lock.
    fn lock(&self, path: &Path, text: &str) -> io::Result<Box<dyn Debug + Send + Sync>>;

    /// Returns how large the file system of this directory is, and how much of it can still be written.
    fn space(&self, directory: &Path) -> io::Result<Space>;
}

/// Space of a file system, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this process can still write: without those that the file system keeps for the superuser.
    pub free_bytes: u64,
    /// Bytes of the whole file system.
    pub total_bytes: u64,
}

/// An open file.
pub trait FileHandle: Debug + Send + Sync {
    /// Reads into the start of `buffer`; returns how much, 0 only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes the start of `bytes`; returns how much.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Bytes of the file.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Cuts the file, or lengthens it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Lengthens the file with zeros whose space is reserved. [`io::ErrorKind::Unsupported`] if it cannot be.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes the content durable, and of the length what is needed to read it.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes content and attributes durable.
    fn sync_all(&self) -> io::Result<()>;

    /// The first `len` bytes as memory, where the file system can; never to be written after.
    fn map(&self, len: u64) -> io::Result<Option<Mapping>> {
        let _ = len;
        Ok(None)
    }

    /// A stretch of the file as memory that can be written, where the file system can. Its space was reserved with
    /// [`FileHandle::allocate`]; the offset is a multiple of [`MAPPING_STEP`]; the file is not cut as long as it is mapped.
    /// What is written counts as written by [`FileHandle::write_at`].
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
