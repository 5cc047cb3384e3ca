//! Events of a partition: what happened, as the machines learn it. An event carries the time only where
//! the time decides.

use super::follower::AssignedFollower;
use crate::id::NodeId;

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
