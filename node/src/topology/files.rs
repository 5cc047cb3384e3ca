//! Small checksummed files that are replaced whole: the vote and the snapshot.
//!
//! ```text
//! offset  0         8             12         16            24
//!         | magic 8 | version u32 | crc u32  | length u64  | body: length bytes |
//! ```
//! Numbers are little-endian; the CRC32 covers version, length and body. The node writes a file under another
//! name, syncs and renames it, and syncs its directory: after a crash the file is either the old one or the
//! new one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::error::TopologyError;
use crate::reserve;

const HEADER_BYTES: usize = 24;

/// Magics and version of a kind of file.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    /// First bytes of the file.
    pub(super) magic: [u8; 8],
    /// First bytes of such a file of a build before the first release, whose body has another layout.
    pub(super) former: Option<[u8; 8]>,
    /// Version of the body's layout.
    pub(super) version: u32,
}

fn checksum(version: u32, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&version.to_le_bytes());
    crc.update(&(body.len() as u64).to_le_bytes());
    crc.update(body);
    crc.finalize()
}

/// Replaces `path` durably by a file of `kind` with `body`.
pub(super) fn replace(path: &Path, kind: Kind, body: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&kind.magic);
    bytes.extend_from_slice(&kind.version.to_le_bytes());
    bytes.extend_from_slice(&checksum(kind.version, body).to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(body);
    replace_raw(path, &bytes).map(drop)
}

/// Replaces `path` durably by `bytes`, and returns the open file, positioned at its end.
pub(super) fn replace_raw(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let new = temporary(path);
    let file = reserve::with_room(path, || {
        let mut file = create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(file)
    })?;
    fs::rename(&new, path)?;
    sync_directory_of(path)?;
    Ok(file)
}

/// Creates an empty file of mode 0600, after removing a file of that name.
pub(super) fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Creates a directory of mode 0700 and its missing parents. An existing directory keeps its mode.
pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Returns the body of `path`, or `None` if the file does not exist.
pub(super) fn read(path: &Path, kind: Kind) -> Result<Option<Vec<u8>>, TopologyError> {
    let mut bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(TopologyError::io("read", path, error)),
    };
    check(path, kind, &bytes)?;
    Ok(Some(bytes.split_off(HEADER_BYTES)))
}

fn check(path: &Path, kind: Kind, bytes: &[u8]) -> Result<(), TopologyError> {
    let short = || TopologyError::damaged(path, bytes.len() as u64, "the file ends inside its header");
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
    let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (crc, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (length, body) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let sum = u32::from_le_bytes(*crc);
    if Some(*magic) == kind.former && sum == checksum(u32::from_le_bytes(*version), body) {
        return Err(TopologyError::Former { path: path.to_owned() });
    }
    if *magic != kind.magic {
        return Err(TopologyError::damaged(path, 0, "its first bytes are not those of such a file"));
    }
    if u64::from_le_bytes(*length) != body.len() as u64 {
        return Err(TopologyError::damaged(path, 16, "its length differs from the length in its header"));
    }
    let version = u32::from_le_bytes(*version);
    if sum != checksum(version, body) {
        return Err(TopologyError::damaged(path, 12, "its checksum does not match"));
    }
    if version != kind.version {
        return Err(TopologyError::Format { path: path.to_owned(), found: version, expected: kind.version });
    }
    Ok(())
}
