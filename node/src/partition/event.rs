//! Events of a partition: what happened, as the machines learn it. An event carries the time only where
//! the time decides.

use caskade_engine::Record;

use super::follower::{AssignedFollower, Place};
use crate::id::{NodeId, Term};

/// Reason why a replica did not accept a frame; its primary reacts to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// The sender's term is over: it is no longer the primary, or not of this session.
    Stale,
    /// This node has not applied the state with the sender's term or assignment yet: the primary retries
    /// shortly.
    Behind,
    /// Records before this one are missing: the primary sends them again in a new session.
    Gap,
    /// The append failed on this node.
    Failed,
    /// This node's disk had no space for the append.
    NoRoom,
}

/// Reason why an append of the primary failed that it repeats: nothing of the write is on this disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AppendFailure {
    /// The log has more bytes to write than its limit.
    Overloaded,
    /// The disk had no space.
    NoSpace,
}

/// An event at a primary. `A` is the handle of a local append. Times are milliseconds of the monotonic
/// clock.
#[derive(Debug)]
pub(crate) enum PrimaryEvent<A> {
    /// A committed state names these replicas, besides the primary's own, as those that receive every
    /// write.
    Assigned(Vec<AssignedFollower>),
    /// The local append of the write `sequence` is durable.
    Appended { sequence: u64, append: A },
    /// The local append of the write `sequence` failed.
    AppendFailed { sequence: u64, failure: AppendFailure, now_ms: u64 },
    /// A follower acknowledged all writes of the session up to `sequence`.
    Acknowledged { node: NodeId, session: u64, sequence: u64 },
    /// A follower rejected a frame of the session, or the frame or its answer was lost.
    Rejected { node: NodeId, session: u64, rejection: Rejection, now_ms: u64 },
    /// A follower found a gap before a request for its digest.
    GapBeforeDigest { node: NodeId, session: u64 },
    /// A follower marked its store as clean up to a version.
    MarkedClean { node: NodeId, session: u64, up_to: u64 },
    /// A time that [`PrimaryAction::Wake`](super::PrimaryAction::Wake) named is reached.
    Tick { now_ms: u64 },
}

/// Content of a frame of the replication stream.
#[derive(Debug)]
pub(crate) enum Frame {
    /// The next write: its records, at least one, whose sequences follow the frame's place.
    Replicate(Vec<Record>),
    /// Request for the digest after all writes before the frame.
    Digest,
    /// Mark of the version up to which the partition is clean, and the first session whose transfers stay
    /// open.
    Clean { up_to: u64, transfers_from: u64 },
}

/// Appends of this partition that are pending on this node, of this role and of former ones.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Appends {
    /// Whether records of replication frames are being appended.
    pub(crate) received: bool,
    /// Whether records of transfers are being appended.
    pub(crate) transferred: bool,
}

impl Appends {
    /// Returns whether any append is pending.
    pub(crate) fn is_any(self) -> bool {
        self.received || self.transferred
    }
}

/// An event at a replica. `A` is the handle of a durable append, `R` a peer's call that waits for its reply.
#[derive(Debug)]
pub(crate) enum ReplicaEvent<A, R> {
    /// A frame arrived from a node that claims to be the primary of `term`.
    Received { from: NodeId, term: Term, place: Place, frame: Frame, appends: Appends, reply: R },
    /// The append of the write `sequence` is durable.
    Stored { session: u64, sequence: u64, append: A, reply: R },
    /// The write `sequence` is not on this disk: its append failed, or a record of it contradicts one with
    /// the same version (R1).
    NotStored { session: u64, sequence: u64, rejection: Rejection, reply: R },
}
