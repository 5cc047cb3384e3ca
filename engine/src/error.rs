//! Errors by operation. Each states what happened, what it means for the data, and what to do.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A failed input or output call, with its purpose.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}{}", path.display(), hint(source))]
pub struct IoError {
    /// The attempted action: "open", "sync".
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The error of the operating system.
    pub source: Arc<io::Error>,
}

impl IoError {
    /// Returns whether the call failed because the file system is full or the quota is used up.
    pub fn is_no_space(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    pub(crate) fn new(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self { action, path: path.into(), source: Arc::new(source) }
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space on this file system (the store still reads, and writes once there is room)"
        }
        io::ErrorKind::PermissionDenied => {
            "; let the user of this process read and write there, or name another directory"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "; the file system is mounted read-only: mount it writable, or name another directory"
        }
        _ if source.raw_os_error() == Some(24) => {
            "; raise the limit of open files (ulimit -n) or lower max_open_files"
        }
        _ => "",
    }
}

/// Reason why a store was not opened. Nothing in it was changed except leftovers of an interrupted start.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// Options are out of bounds: the list has all of them.
    #[error("bad options: {}", .0.join("; "))]
    Options(Vec<String>),
    /// Another process, or another engine in this process, has the directory.
    #[error("{} is in use by process {pid}; stop it, or name another directory", path.display())]
    Locked {
        /// The store's directory.
        path: PathBuf,
        /// The process that has it, as it wrote itself into the lock file ("?" if it has not done so yet).
        pid: String,
    },
    /// The directory is a snapshot, an incomplete one, or a store whose restore was not completed.
    #[error(
        "{} is a snapshot, or a store whose restore was not completed; it was not opened; to open a \
         snapshot, restore it to another directory; to restore again, remove its content",
        path.display()
    )]
    IsSnapshot {
        /// The directory.
        path: PathBuf,
    },
    /// A file has another format version, or a build before the first release wrote it.
    #[error("{}: {reason}; open the store with the build that wrote it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The format that the file has, and the one that this build reads.
        reason: String,
    },
    /// The eras file is missing or damaged.
    #[error(
        "{}: {reason}; without it dropped partitions cannot be distinguished from present ones; put the file \
         back from a backup of this directory, or start this node with an empty directory so that its peers \
         fill it",
        path.display()
    )]
    Eras {
        /// The eras file.
        path: PathBuf,
        /// Reason why the file is unusable.
        reason: String,
    },
    /// The operating system reported an error.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The log's thread could not be started.
    #[error("cannot start the log's thread: {0}; raise the limit of processes")]
    Thread(Arc<io::Error>),
}

/// Reason why records were not appended. Each variant states what this means for the records.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// A key, a value or a set of records is too long. Nothing was written.
    #[error("{what} of {bytes} bytes is too long: the limit is {max}; nothing was written")]
    TooLarge {
        /// The object that is too long.
        what: &'static str,
        /// Its size in bytes.
        bytes: u64,
        /// Its limit in bytes.
        max: u64,
    },
    /// The append buffer is full: the disk is slower than the writers. Nothing was written.
    #[error(
        "the disk is slower than the writers: {waiting} wait and the limit is {max}; nothing was written; \
         try again later"
    )]
    Overloaded {
        /// Waiting bytes; waiting callbacks, where appends are written inline.
        waiting: usize,
        /// Limit of waiting bytes: `append_buffer_bytes`.
        max: usize,
    },
    /// The file system is full. Nothing was written and no part of the append will become visible. The store
    /// continues to read, and accepts appends again as soon as there is room, without being reopened.
    #[error("nothing was written: {0}")]
    NoSpace(IoError),
    /// Writing failed for another reason than a full disk. Nothing was written and no part of the append will
    /// become visible; later appends may succeed.
    #[error("nothing was written: {0}")]
    Io(IoError),
    /// An earlier sync failed, so the content of the disk is unknown. The store reads, but accepts no appends
    /// until it is reopened. Records that waited for the failed sync may or may not be present then.
    #[error(
        "the log is stopped since {0}; the store still reads, but accepts no writes; check the disk, then \
         reopen the store"
    )]
    Poisoned(IoError),
    /// The engine was closed. Nothing was written.
    #[error("the store is closed; nothing was written")]
    Closed,
    /// A partition was dropped 2^32 times.
    #[error(
        "partition {0} cannot be dropped again: its eras are used up; copy the data into a new directory"
    )]
    ErasUsedUp(crate::slots::Partition),
    /// A record has the highest possible version, so no version is left for a new one. Nothing was written.
    #[error("versions are used up; nothing was written; copy the data into a new directory")]
    VersionsUsedUp,
}

impl From<IoError> for AppendError {
    fn from(error: IoError) -> Self {
        if error.is_no_space() { Self::NoSpace(error) } else { Self::Io(error) }
    }
}

/// Reason why a record could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The record's bytes are not those that were written. The key's state is unknown from this copy.
    #[error(
        "{} at offset {offset}: the record is damaged: {reason}; restore the key from another copy \
         (overwriting it also heals it)",
        path.display()
    )]
    Damaged {
        /// The data file.
        path: PathBuf,
        /// Where the record begins.
        offset: u64,
        /// Description of the damage.
        reason: String,
    },
    /// The operating system reported an error.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// Reason why keys could not be scanned in order.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ScanError {
    /// The store has no ordered index.
    #[error(
        "the store was opened without the ordered index; set index = \"ordered\" and reopen it, or scan in \
         hash order with keys_page"
    )]
    NoOrderedIndex,
    /// A record could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Reason why no data files were merged, or not all of them. The store's content is unchanged, and it stays
/// usable.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MergeError {
    /// The merge was stopped on request.
    #[error("the merge was stopped; the files it had not completed are unchanged")]
    Stopped,
    /// The file system has no room for the live records of the files.
    #[error(
        "a merge needs {needed} bytes of free space and {free} are free; no data was lost; free some space \
         on this file system, or delete keys: files without live records are removed without any free space"
    )]
    NoRoom {
        /// Bytes that the smallest due merge needs.
        needed: u64,
        /// Free bytes.
        free: u64,
    },
    /// The output of a merge could not be read back.
    #[error(
        "{}: the output of a merge cannot be read back; the files it was copied from are kept; check the \
         disk",
        path.display()
    )]
    Unverified {
        /// The output file.
        path: PathBuf,
    },
    /// A merge did not copy a live record: a fault of the engine, found before anything was removed.
    #[error("{}: a merge missed a live record; the file is kept; please report this", path.display())]
    StillLive {
        /// The file that was to be removed.
        path: PathBuf,
    },
    /// Too many merged files could not be removed.
    #[error(
        "{files} merged data files cannot be removed; no data was lost, but no space is freed; let this user \
         remove files there, then merge again"
    )]
    NotRemoved {
        /// Number of such files.
        files: usize,
    },
    /// The log could not begin a new file.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The operating system reported an error.
    #[error(transparent)]
    Io(#[from] IoError),
}

impl MergeError {
    /// Returns whether it failed for lack of space, so that it can be retried as soon as there is some.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::NoRoom { .. } | Self::Append(AppendError::NoSpace(_)) => true,
            Self::Io(error) => error.is_no_space(),
            _ => false,
        }
    }
}

/// Reason why a snapshot was not made, or not restored. The source store is unchanged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The target directory is not empty.
    #[error(
        "{} is not empty; nothing was written; name a directory that is empty or does not exist",
        path.display()
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// Data files of the store cannot be read at all; a snapshot would not show that they are missing.
    #[error("data files {files:?} of the store cannot be read; restore their keys from another copy first")]
    Unreadable {
        /// Ids of these files.
        files: Vec<u64>,
    },
    /// The target is on another file system, which hard links cannot reach.
    #[error(
        "{} is on another file system than the store, so files cannot be hard-linked to it; name a directory \
         on the same one, and copy the snapshot from there",
        path.display()
    )]
    OtherFileSystem {
        /// The directory.
        path: PathBuf,
    },
    /// The directory is not a snapshot.
    #[error("{} is not a snapshot: it has no marker", path.display())]
    NoSnapshot {
        /// The directory.
        path: PathBuf,
    },
    /// The snapshot is incomplete or damaged.
    #[error("the snapshot {} is not whole: {reason}; take another one", path.display())]
    NotWhole {
        /// The directory.
        path: PathBuf,
        /// Description of the defect.
        reason: String,
    },
    /// The target directory could not be used, or the snapshot's files could not be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log could not complete its file.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The operating system reported an error.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// Reason why an operation of the embedded interface failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// A record could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record could not be written.
    #[error(transparent)]
    Append(#[from] AppendError),
}
