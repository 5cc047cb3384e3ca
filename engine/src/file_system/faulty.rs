//! A file system in memory that loses unsynced data at a crash, and fails on demand.
//!
//! It guarantees no more than POSIX. A power loss ([`FaultyFileSystem::crashed`]) affects each file
//! independently. The bytes written since its last sync are present, absent, present up to some byte, or
//! present in some sectors. Of a directory's unsynced name changes the first few are in effect, the others
//! not. A file without a name stays readable through its open handles. Two names of one file share its
//! content.
//!
//! Invariants: all behaviour follows from the calls and the seeds; clones are the same file system; an image
//! ([`FaultyFileSystem::crashed`], [`FaultyFileSystem::killed`], a [`Moment`]) shares nothing with its
//! original. Rejects paths with `..`, and renames from one directory to another.

mod crash;
mod faults;
mod handle;
mod tree;

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use self::crash::after_power_loss;
use self::faults::{Control, Verdict};
pub use self::faults::{Fault, FileCall};
use self::handle::{Handle, Lock};
use self::tree::{Content, NodeId, Tree};
use super::{FileHandle, FileSystem, OpenMode, Space};

/// Size in bytes of a file system whose capacity was not set.
const TOTAL_BYTES_DEFAULT: u64 = 1 << 40;

/// A file system in memory, for tests. Clones are the same file system.
#[derive(Clone, Default)]
pub struct FaultyFileSystem(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    tree: Tree,
    control: Control,
    open: BTreeMap<NodeId, Open>,
    locked: Vec<NodeId>,
    moments: Option<Vec<Moment>>,
}

/// An open file.
struct Open {
    handles: usize,
    /// Its present name, or the last one it had.
    path: PathBuf,
}

/// An instant in the life of a file system: just before a call that changes it.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Number of the call, from 0 on.
    pub call: u64,
    /// Kind of the call.
    pub kind: FileCall,
    /// The file or directory of the call.
    pub path: PathBuf,
    /// All files and names before the call; unsynced changes are still unsynced.
    pub before: FaultyFileSystem,
}

impl Debug for FaultyFileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("FaultyFileSystem")
            .field("calls", &state.control.calls)
            .field("files", &state.tree.files().len())
            .finish_non_exhaustive()
    }
}

/// Images and content.
impl FaultyFileSystem {
    /// Creates an empty file system of unlimited capacity that does not fail.
    pub fn new() -> Self {
        Self::default()
    }

    fn of(tree: Tree) -> Self {
        Self(Arc::new(Mutex::new(State { tree, ..State::default() })))
    }

    /// Returns a possible image after a power loss at this moment, one for each seed. In the image everything
    /// is durable, nothing is open or locked, and no faults are set.
    pub fn crashed(&self, seed: u64) -> Self {
        Self::of(after_power_loss(&self.0.lock().tree, seed))
    }

    /// Returns the image after `kill -9` at this moment: all written bytes, of which the unsynced ones are
    /// still unsynced. Nothing is open or locked, and no faults are set.
    pub fn killed(&self) -> Self {
        Self::of(self.0.lock().tree.clone())
    }

    /// Starts to record an image before each call that changes something, for [`FaultyFileSystem::moments`].
    pub fn remember(&self) {
        self.0.lock().moments.get_or_insert_default();
    }

    /// Returns the images recorded since [`FaultyFileSystem::remember`], oldest first.
    pub fn moments(&self) -> Vec<Moment> {
        self.0.lock().moments.clone().unwrap_or_default()
    }

    /// Returns the paths of all files that have a name, sorted.
    pub fn files(&self) -> Vec<PathBuf> {
        self.0.lock().tree.files()
    }

    /// Returns a file's bytes as a process would read them now. Does not count as a call.
    pub fn read_file(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let state = self.0.lock();
        let node = state.tree.file(path.as_ref())?;
        Ok(state.tree.content(node)?.bytes().to_vec())
    }

    /// Replaces a file's bytes, or creates the file: durable at once, and visible to open handles. For tests
    /// that damage files. The directory must exist. Does not count as a call.
    pub fn write_file(&self, path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        let node = match state.tree.file(path.as_ref()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let node = state.tree.create(path.as_ref())?;
                state.tree.sync_parent(path.as_ref())?;
                node
            }
            found => found?,
        };
        *state.tree.content_mut(node)? = Content::durable(bytes.to_vec());
        Ok(())
    }
}

/// Failures.
impl FaultyFileSystem {
    /// Returns the number of calls so far, including those that failed.
    pub fn calls(&self) -> u64 {
        self.0.lock().control.calls
    }

    /// Makes later calls fail.
    pub fn inject(&self, fault: Fault) {
        self.0.lock().control.faults.push(fault);
    }

    /// Ends all faults of [`FaultyFileSystem::inject`]; returns the number of calls that they made fail.
    pub fn clear_faults(&self) -> u64 {
        let control = &mut self.0.lock().control;
        control.faults.clear();
        std::mem::take(&mut control.failed)
    }

    /// Simulates the death of the process after this many calls, counted from the beginning: every later call
    /// fails, and changes nothing.
    pub fn crash_after(&self, calls: u64) {
        self.0.lock().control.crash(calls, None);
    }

    /// Simulates the death of the process like [`Self::crash_after`], but the first failing call may be half
    /// done: a write writes a prefix drawn from the seed; any other call is done or not.
    pub fn crash_within(&self, calls: u64, seed: u64) {
        self.0.lock().control.crash(calls, Some(seed));
    }

    /// Returns whether calls fail because of [`FaultyFileSystem::crash_after`].
    pub fn is_dead(&self) -> bool {
        self.0.lock().control.is_dead()
    }

    /// Makes each read and write transfer only a part of the requested bytes, at least one, drawn from the
    /// seed. `None` ends this.
    pub fn set_short_transfers(&self, seed: Option<u64>) {
        self.0.lock().control.set_short_transfers(seed);
    }

    /// Sets the limit of the bytes of all files together, including open ones without a name; `None`: no
    /// limit. Beyond it calls fail with [`io::ErrorKind::StorageFull`]. A write fails if there is no room for
    /// its first byte; with room for a part, it writes that part. An allocation or extension fails if it does
    /// not fit as a whole. If no byte is free, every call fails that creates a file or directory. Removing
    /// and cutting files frees their bytes at once.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().control.capacity = bytes;
    }

    /// Sets the capacity so that this many bytes are free now, as if other programs had filled the rest.
    /// Files that are removed or cut later free their bytes for all users.
    pub fn leave_free(&self, bytes: u64) {
        let mut state = self.0.lock();
        state.control.capacity = Some(state.tree.used(&state.open).saturating_add(bytes));
    }

    /// Returns the bytes of all files together, including open ones without a name.
    pub fn used_bytes(&self) -> u64 {
        let state = self.0.lock();
        state.tree.used(&state.open)
    }

    /// Sets the free bytes that [`FileSystem::space`] reports; `None`: the true value.
    pub fn set_free_bytes(&self, bytes: Option<u64>) {
        self.0.lock().control.free_bytes = bytes;
    }
}

impl State {
    /// Counts a call, and executes it unless it must fail.
    fn call<T>(
        &mut self,
        kind: FileCall,
        path: &Path,
        act: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> io::Result<T> {
        match self.enter(kind, path) {
            Verdict::Proceed => act(self),
            Verdict::Fail { error, part } => {
                // A call other than a write cannot be half done: it is done or not.
                if part.is_some_and(|mut draw| draw.coin()) {
                    let _ = act(self);
                }
                Err(error)
            }
        }
    }

    fn enter(&mut self, kind: FileCall, path: &Path) -> Verdict {
        if kind.changes()
            && !self.control.is_dead()
            && let Some(moments) = &mut self.moments
        {
            let before = FaultyFileSystem::of(self.tree.clone());
            moments.push(Moment { call: self.control.calls, kind, path: path.to_owned(), before });
        }
        self.control.enter(kind, path)
    }

    /// Returns how many of `wanted` further bytes fit.
    fn room(&self, wanted: u64) -> u64 {
        match self.control.capacity {
            Some(capacity) => capacity.saturating_sub(self.tree.used(&self.open)).min(wanted),
            None => wanted,
        }
    }

    /// Returns an error if no byte is free: nothing new can be created.
    fn check_room(&self) -> io::Result<()> {
        if self.room(1) == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn space(&self) -> Space {
        let total_bytes = self.control.capacity.unwrap_or(TOTAL_BYTES_DEFAULT);
        let free_bytes = self.control.free_bytes.unwrap_or_else(|| self.room(TOTAL_BYTES_DEFAULT));
        Space { free_bytes, total_bytes: total_bytes.max(free_bytes) }
    }

    fn opened(&mut self, node: NodeId, path: &Path) {
        self.open.entry(node).or_insert_with(|| Open { handles: 0, path: path.to_owned() }).handles += 1;
    }

    /// Returns the path under which faults match calls on an open file.
    fn name(&self, node: NodeId) -> PathBuf {
        self.open.get(&node).map(|open| open.path.clone()).unwrap_or_default()
    }

    fn close(&mut self, node: NodeId) {
        if let Some(open) = self.open.get_mut(&node) {
            open.handles -= 1;
            if open.handles == 0 {
                self.open.remove(&node);
                self.tree.collect(&self.open);
            }
        }
    }
}

impl FileSystem for FaultyFileSystem {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn FileHandle>> {
        let kind = if mode == OpenMode::Create { FileCall::Create } else { FileCall::Open };
        let node = self.0.lock().call(kind, path, |state| {
            let node = match state.tree.file(path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && mode == OpenMode::Create => {
                    state.check_room()?;
                    state.tree.create(path)?
                }
                found => found?,
            };
            if mode == OpenMode::Create {
                state.tree.content_mut(node)?.set_len(0);
            }
            state.opened(node, path);
            Ok(node)
        })?;
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(Handle { file_system: self.clone(), node, writable }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.0.lock().call(FileCall::List, directory, |state| state.tree.list(directory))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.lock().call(FileCall::Exists, path, |state| state.tree.exists(path))
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.0.lock().call(FileCall::CreateDirectory, path, |state| {
            if !state.tree.exists(path)? {
                state.check_room()?;
            }
            state.tree.create_directory(path)
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.lock().call(FileCall::Rename, to, |state| {
            let node = state.tree.rename(from, to)?;
            state.open.entry(node).and_modify(|open| open.path = to.to_owned());
            state.tree.collect(&state.open);
            Ok(())
        })
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.lock().call(FileCall::Link, to, |state| state.tree.link(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().call(FileCall::Remove, path, |state| {
            state.tree.remove(path)?;
            state.tree.collect(&state.open);
            Ok(())
        })
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.0.lock().call(FileCall::SyncDirectory, path, |state| {
            state.tree.sync_directory(path)?;
            state.tree.collect(&state.open);
            Ok(())
        })
    }

    fn lock(&self, path: &Path, text: &str) -> io::Result<Box<dyn Debug + Send + Sync>> {
        let node = self.0.lock().call(FileCall::Lock, path, |state| {
            let node = match state.tree.file(path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    state.check_room()?;
                    state.tree.create(path)?
                }
                found => found?,
            };
            if state.locked.contains(&node) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            state.tree.content_mut(node)?.set_len(0);
            // If the text does not fit as a whole, the file stays empty.
            if state.room(text.len() as u64) == text.len() as u64 {
                state.tree.content_mut(node)?.write(0, text.as_bytes());
            }
            state.locked.push(node);
            state.opened(node, path);
            Ok(node)
        })?;
        Ok(Box::new(Lock { file_system: self.clone(), node }))
    }

    fn space(&self, directory: &Path) -> io::Result<Space> {
        self.0.lock().call(FileCall::Space, directory, |state| Ok(state.space()))
    }
}

#[cfg(test)]
mod tests;
