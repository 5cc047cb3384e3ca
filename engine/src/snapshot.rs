//! Snapshots: a copy of the store at one instant, made of hard links while reads and writes continue; and the
//! restore of a snapshot.
//!
//! A snapshot completes the active file, so that no process writes to any file of the snapshot any more. It
//! waits for a running merge. The directory of a snapshot, and the target of a restore, has a *marker*. While
//! the marker is "partial", the directory is a leftover. The engine never opens a directory with a marker as
//! a store, because it would write to files that another store shares.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::core::Core;
use crate::data_file::open_to_read;
use crate::directory::{
    MARKER_NAME, create_directory, data_name, eras_name, hint_name, list, lock, read_eras, read_small,
    sync_directory, write_whole,
};
use crate::error::{IoError, SnapshotError};
use crate::file_system::{FileSystem, OpenMode, RealFileSystem};
use crate::format::marker::{Listed, Marker};
use crate::progress::Progress;

/// Bytes copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// Size of a snapshot or a restored store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Number of data files.
    pub data_files: usize,
    /// Bytes of the data files.
    pub data_bytes: u64,
}

/// Makes a snapshot of an open store: see [`Engine::snapshot`](crate::Engine::snapshot).
pub(crate) fn take(core: &Core, to: &Path) -> Result<Snapshot, SnapshotError> {
    let file_system = &**core.directory.file_system();
    let unreadable = core.merges.unreadable.lock().clone();
    if !unreadable.is_empty() {
        return Err(SnapshotError::Unreadable { files: unreadable });
    }
    make_empty(file_system, to)?;
    write_marker(file_system, to, &Marker::Partial)?;
    // While these locks are held, no file is removed and no partition is dropped.
    let _running = core.merges.running.lock();
    let eras = core.eras.lock();
    let below = core.log.seal_active()?;
    let mut listed = Vec::new();
    let (listing, _) = list(file_system, core.directory.path())?;
    for file in core.files.all() {
        if file.is_log() && file.id >= below {
            continue;
        }
        link(file_system, core.directory.path(), to, &data_name(file.id))?;
        listed.push(Listed { id: file.id, len: file.len() });
        if listing.hints.binary_search(&file.id).is_ok() {
            link(file_system, core.directory.path(), to, &hint_name(file.id))?;
        }
    }
    let mut copy = eras.clone();
    // The snapshot has only the listed files, so no file remains to be removed.
    copy.removed.clear();
    write_whole(file_system, &to.join(eras_name()), &copy.encode())?;
    sync_directory(file_system, to)?;
    let data_bytes = listed.iter().map(|file| file.len).sum();
    let snapshot = Snapshot { data_files: listed.len(), data_bytes };
    write_marker(file_system, to, &Marker::Complete(listed))?;
    Ok(snapshot)
}

/// Creates a store in `to`, which must be empty or not exist, from a snapshot. The store is an independent
/// copy.
pub fn restore(snapshot: &Path, to: &Path) -> Result<Snapshot, SnapshotError> {
    restore_on(&(Arc::new(RealFileSystem) as Arc<dyn FileSystem>), snapshot, to)
}

/// Restores a snapshot like [`restore`]; `progress` counts the bytes of data files.
pub fn restore_watched(snapshot: &Path, to: &Path, progress: &Progress) -> Result<Snapshot, SnapshotError> {
    restore_to(&RealFileSystem, snapshot, to, progress)
}

/// Restores a snapshot like [`restore`], on the given file system.
pub fn restore_on(
    file_system: &Arc<dyn FileSystem>,
    snapshot: &Path,
    to: &Path,
) -> Result<Snapshot, SnapshotError> {
    restore_to(&**file_system, snapshot, to, &Progress::default())
}

fn restore_to(
    file_system: &dyn FileSystem,
    snapshot: &Path,
    to: &Path,
    progress: &Progress,
) -> Result<Snapshot, SnapshotError> {
    let listed = match read_marker(file_system, snapshot)? {
        Some(Marker::Complete(listed)) => listed,
        Some(Marker::Partial) => {
            return Err(SnapshotError::NotWhole {
                path: snapshot.to_owned(),
                reason: "it was not completed".to_owned(),
            });
        }
        None => return Err(SnapshotError::NoSnapshot { path: snapshot.to_owned() }),
    };
    check(file_system, snapshot, &listed)?;
    let data_bytes = listed.iter().map(|file| file.len).sum();
    progress.expect(data_bytes);
    make_empty(file_system, to)?;
    let lock = lock(file_system, to)?;
    write_marker(file_system, to, &Marker::Partial)?;
    let (listing, _) = list(file_system, snapshot)?;
    for file in &listed {
        copy(file_system, snapshot, to, &data_name(file.id), progress)?;
        if listing.hints.binary_search(&file.id).is_ok() {
            copy(file_system, snapshot, to, &hint_name(file.id), &Progress::default())?;
        }
    }
    copy(file_system, snapshot, to, eras_name(), &Progress::default())?;
    sync_directory(file_system, to)?;
    let marker = to.join(MARKER_NAME);
    file_system.remove(&marker).map_err(|e| IoError::new("remove", &marker, e))?;
    sync_directory(file_system, to)?;
    drop(lock);
    Ok(Snapshot { data_files: listed.len(), data_bytes })
}

/// Checks that every data file of a snapshot exists and has the listed length.
fn check(file_system: &dyn FileSystem, snapshot: &Path, listed: &[Listed]) -> Result<(), SnapshotError> {
    let not_whole = |reason| SnapshotError::NotWhole { path: snapshot.to_owned(), reason };
    if read_eras(file_system, snapshot)?.is_none() {
        return Err(not_whole(format!("{} is missing", eras_name())));
    }
    for file in listed {
        let path = snapshot.join(data_name(file.id));
        let len = open_to_read(file_system, &path)?.len().map_err(|e| IoError::new("look at", &path, e))?;
        if len != file.len {
            let reason = format!("{} has {len} bytes instead of {}", path.display(), file.len);
            return Err(not_whole(reason));
        }
    }
    Ok(())
}

/// Creates the directory; rejects one that is not empty.
fn make_empty(file_system: &dyn FileSystem, path: &Path) -> Result<(), SnapshotError> {
    create_directory(file_system, path)?;
    let names = file_system.list(path).map_err(|e| IoError::new("list", path, e))?;
    if names.is_empty() { Ok(()) } else { Err(SnapshotError::NotEmpty { path: path.to_owned() }) }
}

fn link(file_system: &dyn FileSystem, from: &Path, to: &Path, name: &str) -> Result<(), SnapshotError> {
    let target: PathBuf = to.join(name);
    file_system.hard_link(&from.join(name), &target).map_err(|e| match e.kind() {
        io::ErrorKind::CrossesDevices => SnapshotError::OtherFileSystem { path: to.to_owned() },
        _ => IoError::new("link", target, e).into(),
    })
}

fn copy(
    file_system: &dyn FileSystem,
    from: &Path,
    to: &Path,
    name: &str,
    progress: &Progress,
) -> Result<(), IoError> {
    let (source_path, target_path) = (from.join(name), to.join(name));
    let source = open_to_read(file_system, &source_path)?;
    let target = file_system
        .open(&target_path, OpenMode::Create)
        .map_err(|e| IoError::new("create", &target_path, e))?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut offset = 0;
    loop {
        let read = source.read_at(&mut buffer, offset).map_err(|e| IoError::new("read", &source_path, e))?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        target.write_all_at(bytes, offset).map_err(|e| IoError::new("write", &target_path, e))?;
        offset += read as u64;
        progress.advance(read as u64);
    }
    target.sync_all().map_err(|e| IoError::new("sync", &target_path, e))
}

fn write_marker(file_system: &dyn FileSystem, directory: &Path, marker: &Marker) -> Result<(), IoError> {
    write_whole(file_system, &directory.join(MARKER_NAME), &marker.encode())
}

/// Reads a directory's marker; `None` if it has none.
pub(crate) fn read_marker(
    file_system: &dyn FileSystem,
    directory: &Path,
) -> Result<Option<Marker>, SnapshotError> {
    let path = directory.join(MARKER_NAME);
    match read_small(file_system, &path) {
        Ok(bytes) => Marker::decode(&bytes).map(Some).map_err(|bad| SnapshotError::NotWhole {
            path: directory.to_owned(),
            reason: format!("{}: {bad}", path.display()),
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(IoError::new("read", &path, e).into()),
    }
}
