//! Errors by operation: what happened, what it means for the data, what to do next.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// An input or output call that failed, with what it was for.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}{}", path.display(), hint(source))]
pub struct IoError {
    /// What was tried: "open", "sync".
    pub action: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: Arc<io::Error>,
}

impl IoError {
    /// Returns whether the call failed because there is no room on the file system, or the quota is used up.
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
            "; free some space on this file system (the store goes on reading, and writes once there is room)"
        }
        io::ErrorKind::PermissionDenied => {
            "; give the user that runs this program the right to read and write there, or name another directory"
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

/// Why a store was not opened. Nothing in it was changed but leftovers of an interrupted start.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// Options out of bounds: all of them.
    #[error("bad options: {}", .0.join("; "))]
    Options(Vec<String>),
    /// Another process, or another engine in this one, has the directory.
    #[error("{} is in use by process {pid}; stop it, or name another directory", path.display())]
    Locked {
        /// The store's directory.
        path: PathBuf,
        /// The process that has it, as it wrote itself into the lock file ("?" if it has not yet).
        pid: String,
    },
    /// A snapshot, or the beginning of one, or of a store that was being restored.
    #[error(
        "{} is a snapshot, or a store that was not restored to its end: to open a snapshot, restore it to another \
         directory; to restore again, remove what is there",
        path.display()
    )]
    IsSnapshot {
        /// The directory.
        path: PathBuf,
    },
    /// A file of another format version.
    #[error("{}: {reason}; open the store with the build that wrote it", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What it says.
        reason: String,
    },
    /// The file that tells dropped partitions from present ones is missing or damaged.
    #[error(
        "{}: {reason}; without it dropped partitions cannot be told from present ones. Put the file back from a \
         backup of this directory, or start this node with an empty directory so that it is filled by its peers",
        path.display()
    )]
    Eras {
        /// The eras file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system said no.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The log's thread could not be started.
    #[error("cannot start the log's thread: {0}; raise the limit of processes")]
    Thread(Arc<io::Error>),
}

/// Why records were not appended. Each variant says what that means for them.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// A key, a value or a set of records is too long. Nothing was written.
    #[error("{what} of {bytes} bytes: at most {max} are taken; nothing was written")]
    TooLarge {
        /// What is too long.
        what: &'static str,
        /// How long it is.
        bytes: u64,
        /// How long it may be.
        max: u64,
    },
    /// The append buffer is full: the disk is slower than the writers. Nothing was written.
    #[error(
        "the disk is slower than the writers: {waiting} wait, at most {max} may; nothing was written, try again later"
    )]
    Overloaded {
        /// Bytes that wait (where appends are written inline: callbacks).
        waiting: usize,
        /// Their bound: `append_buffer_bytes`.
        max: usize,
    },
    /// There is no room on the file system. Nothing was written, and nothing of it will be seen. The store goes on:
    /// it reads, and takes appends again as soon as there is room, without being opened anew.
    #[error("nothing was written: {0}")]
    NoSpace(IoError),
    /// Writing failed for another reason than want of space. Nothing was written, and nothing of it will be seen;
    /// later appends may succeed.
    #[error("nothing was written: {0}")]
    Io(IoError),
    /// An earlier sync failed, so that what is on disk is unknown. The store reads, but takes no appends until
    /// it is opened anew. Records that waited for the failed sync may or may not be there then.
    #[error(
        "the log is stopped since {0}; the store goes on reading; check the disk, then open the store anew"
    )]
    Poisoned(IoError),
    /// The engine was closed. Nothing was written.
    #[error("the store is closed; nothing was written")]
    Closed,
    /// A partition was dropped 2^32 times.
    #[error(
        "partition {0} cannot be dropped again: its eras are used up; copy the data into a new directory"
    )]
    ErasUsedUp(crate::Partition),
    /// A record has the highest version there is, so that none is left for a new one. Nothing was written.
    #[error("versions are used up; nothing was written; copy the data into a new directory")]
    VersionsUsedUp,
}

impl From<IoError> for AppendError {
    fn from(error: IoError) -> Self {
        if error.is_no_space() { Self::NoSpace(error) } else { Self::Io(error) }
    }
}

/// Why a record could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The record's bytes are not what was written. Nothing can be told of the key from this copy.
    #[error(
        "{} at offset {offset}: the record is damaged: {reason}; restore the key from another copy (writing it anew \
         also heals it)",
        path.display()
    )]
    Damaged {
        /// The data file.
        path: PathBuf,
        /// Where the record begins.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system said no.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// Why keys could not be scanned in order.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ScanError {
    /// The store keeps no keys in order.
    #[error(
        "the store was opened without the ordered index; set index = \"ordered\" and open it anew, or scan in hash \
         order with keys_page"
    )]
    NoOrderedIndex,
    /// While reading.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why data files were not merged, or not all of them. The store holds what it held, and goes on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MergeError {
    /// It was told to stop.
    #[error("the merge was stopped; what it had not completed is as it was")]
    Stopped,
    /// There is no room for what is live in the files.
    #[error(
        "a merge needs {needed} bytes of free space and there are {free}; free some on this file system, or let keys be \
         deleted: files without live records are removed without any"
    )]
    NoRoom {
        /// Bytes that the smallest merge that is due needs.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// What was written could not be read back.
    #[error(
        "{}: what a merge wrote there cannot be read back; the files it was copied from are kept; check the disk",
        path.display()
    )]
    Unverified {
        /// The file that was written.
        path: PathBuf,
    },
    /// A record was not copied that is live: a fault of the engine, found before anything was removed.
    #[error("{}: a merge missed a live record; the file is kept; please report this", path.display())]
    StillLive {
        /// The file that was to be removed.
        path: PathBuf,
    },
    /// Too many files of earlier merges are still there.
    #[error(
        "{files} data files that were merged cannot be removed; nothing is lost, but no space is freed; see that this \
         user may remove files there, then merge again"
    )]
    NotRemoved {
        /// How many.
        files: usize,
    },
    /// The log refuses to begin a new file.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The operating system said no.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// Why a snapshot was not made, or not restored. The store it was to be made of is as it was.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The directory to write to has something in it.
    #[error("{} is not empty; name a directory that is, or is not there", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// Some of the store's files cannot be read at all: a snapshot would not show that they are missing.
    #[error("data files {files:?} of the store cannot be read; restore their keys from another copy first")]
    Unreadable {
        /// Their ids.
        files: Vec<u64>,
    },
    /// Hard links do not reach there.
    #[error(
        "{} is on another file system than the store, where hard links do not reach; name a directory on the same one, \
         and copy the snapshot from there",
        path.display()
    )]
    OtherFileSystem {
        /// The directory.
        path: PathBuf,
    },
    /// What should be a snapshot is none.
    #[error("{} is no snapshot: it has no marker", path.display())]
    NoSnapshot {
        /// The directory.
        path: PathBuf,
    },
    /// The snapshot cannot be relied on.
    #[error("the snapshot {} is not whole: {reason}; take another one", path.display())]
    NotWhole {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory to restore to cannot be had, or the snapshot's files not be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log refuses to complete its file.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The operating system said no.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// Why an operation of the embedded interface failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// While reading.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// While writing.
    #[error(transparent)]
    Append(#[from] AppendError),
}
