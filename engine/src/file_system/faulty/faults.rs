//! Selection of the calls that fail: counters, faults, the crash, and the seeds for all draws.

use std::io;
use std::path::Path;

/// Kind of a call to the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileCall {
    /// Opening an existing file.
    Open,
    /// Opening a file that is created, or emptied.
    Create,
    /// Listing a directory.
    List,
    /// Checking whether a name exists.
    Exists,
    /// Creating a directory.
    CreateDirectory,
    /// Renaming a file; its path is the new one.
    Rename,
    /// Giving a file a second name; its path is the new one.
    Link,
    /// Removing a name.
    Remove,
    /// Syncing a directory.
    SyncDirectory,
    /// Locking a file.
    Lock,
    /// Reading the free and total space.
    Space,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Reading a file's length.
    Len,
    /// Setting a file's length.
    SetLen,
    /// Reserving space.
    Allocate,
    /// Syncing a file.
    Sync,
}

impl FileCall {
    /// All kinds of calls.
    pub const ALL: [Self; 17] = [
        Self::Open,
        Self::Create,
        Self::List,
        Self::Exists,
        Self::CreateDirectory,
        Self::Rename,
        Self::Link,
        Self::Remove,
        Self::SyncDirectory,
        Self::Lock,
        Self::Space,
        Self::Read,
        Self::Write,
        Self::Len,
        Self::SetLen,
        Self::Allocate,
        Self::Sync,
    ];

    /// Returns whether the call changes names, content, or the durable part of them.
    pub fn changes(self) -> bool {
        !matches!(self, Self::Open | Self::List | Self::Exists | Self::Space | Self::Read | Self::Len)
    }
}

/// Selection of calls that fail.
///
/// A failing write may write some of its bytes first. A failing sync of a file loses for ever the bytes that
/// it should have made durable: they can be read until the next power loss, and no later sync saves them,
/// unless they are rewritten. Other failing calls change nothing.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Kind of the calls; `None`: any.
    pub call: Option<FileCall>,
    /// Suffix of the paths; empty: any path. An open file has the path it was last opened with or renamed to.
    pub path_ends: String,
    /// Number of matching calls that succeed first.
    pub skip: u64,
    /// Number of matching calls that fail after those; `u64::MAX`: all.
    pub times: u64,
    /// Error number of the operating system: `libc::EIO`, `libc::ENOSPC`.
    pub errno: i32,
}

impl Fault {
    /// Creates a fault: one call of this kind fails with an input or output error, after `skip` that succeed.
    pub fn io_error(call: FileCall, skip: u64) -> Self {
        Self { call: Some(call), path_ends: String::new(), skip, times: 1, errno: libc::EIO }
    }

    /// Creates a fault: one call of this kind fails for lack of space, after `skip` that succeed.
    pub fn disk_full(call: FileCall, skip: u64) -> Self {
        Self { errno: libc::ENOSPC, ..Self::io_error(call, skip) }
    }

    /// Returns the fault extended to all later calls.
    #[must_use]
    pub fn lasting(self) -> Self {
        Self { times: u64::MAX, ..self }
    }

    /// Returns the fault limited to paths with this suffix.
    #[must_use]
    pub fn on(self, path_ends: impl Into<String>) -> Self {
        Self { path_ends: path_ends.into(), ..self }
    }

    fn concerns(&self, call: FileCall, path: &Path) -> bool {
        self.call.is_none_or(|kind| kind == call) && path.to_string_lossy().ends_with(&self.path_ends)
    }
}

/// Decision about a call.
pub(super) enum Verdict {
    Proceed,
    /// The call fails; with `part`, some of it may be done before.
    Fail {
        error: io::Error,
        part: Option<Draw>,
    },
}

/// Settings made by the test.
#[derive(Debug, Default)]
pub(super) struct Control {
    pub(super) calls: u64,
    pub(super) faults: Vec<Fault>,
    /// Number of calls that faults made fail.
    pub(super) failed: u64,
    crash_at: Option<(u64, Option<u64>)>,
    dead: bool,
    short: Option<Draw>,
    pub(super) capacity: Option<u64>,
    pub(super) free_bytes: Option<u64>,
}

impl Control {
    pub(super) fn crash(&mut self, calls: u64, seed: Option<u64>) {
        self.crash_at = Some((calls, seed));
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead || self.crash_at.is_some_and(|(at, _)| self.calls > at)
    }

    pub(super) fn set_short_transfers(&mut self, seed: Option<u64>) {
        self.short = seed.map(Draw::new);
    }

    /// Returns how many of `wanted` bytes a read or write transfers.
    pub(super) fn transfer(&mut self, wanted: usize) -> usize {
        match &mut self.short {
            Some(draw) if wanted > 1 => 1 + draw.below(wanted as u64) as usize,
            _ => wanted,
        }
    }

    /// Counts the call, and decides whether it fails.
    pub(super) fn enter(&mut self, call: FileCall, path: &Path) -> Verdict {
        let number = self.calls;
        self.calls += 1;
        if let Some((at, seed)) = self.crash_at
            && number >= at
        {
            let first = !std::mem::replace(&mut self.dead, true);
            let part = seed.filter(|_| first && call.changes()).map(Draw::new);
            return Verdict::Fail { error: io::Error::other("the process is dead"), part };
        }
        let mut errno = None;
        for fault in self.faults.iter_mut().filter(|fault| fault.concerns(call, path)) {
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if fault.times > 0 {
                fault.times -= 1;
                errno = Some(fault.errno);
            }
        }
        match errno {
            None => Verdict::Proceed,
            Some(errno) => {
                self.failed += 1;
                let part = (call == FileCall::Write).then(|| Draw::new(number));
                Verdict::Fail { error: io::Error::from_raw_os_error(errno), part }
            }
        }
    }
}

/// Generator of numbers from a seed: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014).
#[derive(Clone, Debug)]
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Draws a number from `0..bound`; 0 if the range is empty.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }

    pub(super) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}
