//! Open files and held locks.

use std::io;

use super::faults::{FileCall, Verdict};
use super::tree::NodeId;
use super::{FaultyFileSystem, State};
use crate::file_system::FileHandle;

/// A held lock.
#[derive(Debug)]
pub(super) struct Lock {
    pub(super) file_system: FaultyFileSystem,
    pub(super) node: NodeId,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.file_system.0.lock();
        state.locked.retain(|&node| node != self.node);
        state.close(self.node);
    }
}

/// An open file.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) file_system: FaultyFileSystem,
    pub(super) node: NodeId,
    pub(super) writable: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.file_system.0.lock().close(self.node);
    }
}

impl Handle {
    fn call<T>(&self, kind: FileCall, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.file_system.0.lock();
        if kind.changes() && !self.writable && !matches!(kind, FileCall::Sync) {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        let name = state.name(self.node);
        state.call(kind, &name, act)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.file_system.0.lock();
        let name = state.name(self.node);
        match state.enter(FileCall::Sync, &name) {
            Verdict::Proceed => {
                state.tree.content_mut(self.node)?.sync();
                Ok(())
            }
            Verdict::Fail { error, .. } => {
                // As on Linux: the bytes stay readable, and later syncs treat them as synced. A dead process
                // has synced nothing.
                if !state.control.is_dead() {
                    state.tree.content_mut(self.node)?.lose_unsynced();
                }
                Err(error)
            }
        }
    }

    fn lengthen(&self, state: &mut State, len: u64) -> io::Result<()> {
        let old = state.tree.content(self.node)?.len();
        let more = len.saturating_sub(old);
        if state.room(more) < more {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if len > old {
            state.tree.content_mut(self.node)?.set_len(len);
        }
        Ok(())
    }
}

impl FileHandle for Handle {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.call(FileCall::Read, |state| {
            let wanted = state.control.transfer(buffer.len());
            let content = state.tree.content(self.node)?;
            let bytes =
                usize::try_from(offset).ok().and_then(|at| content.bytes().get(at..)).unwrap_or_default();
            let read = bytes.len().min(wanted);
            buffer[..read].copy_from_slice(&bytes[..read]);
            Ok(read)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.file_system.0.lock();
        if !self.writable {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        let name = state.name(self.node);
        let (wanted, error) = match state.enter(FileCall::Write, &name) {
            Verdict::Proceed => (state.control.transfer(bytes.len()), None),
            Verdict::Fail { error, part } => {
                let part = part.map_or(0, |mut draw| draw.below(bytes.len() as u64 + 1));
                (part as usize, Some(error))
            }
        };
        let len = state.tree.content(self.node)?.len();
        let inside = len.saturating_sub(offset).min(wanted as u64);
        let gap = offset.saturating_sub(len);
        let more = wanted as u64 - inside;
        let fits = inside + state.room(gap + more).saturating_sub(gap);
        if fits > 0 {
            state.tree.content_mut(self.node)?.write(offset, &bytes[..fits as usize]);
        }
        match error {
            Some(error) => Err(error),
            None if fits == 0 && wanted > 0 => Err(io::ErrorKind::StorageFull.into()),
            None => Ok(fits as usize),
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.call(FileCall::Len, |state| Ok(state.tree.content(self.node)?.len()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.call(FileCall::SetLen, |state| {
            self.lengthen(state, len)?;
            state.tree.content_mut(self.node)?.set_len(len);
            Ok(())
        })
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        self.call(FileCall::Allocate, |state| self.lengthen(state, end))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }
}
