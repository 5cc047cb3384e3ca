//! Actions of a partition: what its shell performs, in the order of the list, before it unlocks the
//! partition.

use caskade_engine::Record;

use super::event::Rejection;
use super::follower::Place;
use crate::cluster::state::ReplicaRef;
use crate::id::NodeId;

/// Consecutive pending writes, by the sequences of their records. An action names records and carries
/// none, so that the log and the frames can borrow them from the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Writes {
    /// Sequence of the first record.
    pub(crate) first: u64,
    /// Sequence of the last record.
    pub(crate) last: u64,
}

/// An action of a primary. `A` is the handle of a durable local append, `W` waits for an outcome, `D` for
/// a digest.
#[derive(Debug)]
pub(crate) enum PrimaryAction<A, W, D> {
    /// Count these bytes of keys and values as in flight: a write entered the order.
    Ordered { bytes: u64 },
    /// Count them as in flight no longer: a write was published, taken back or abandoned.
    Released { bytes: u64 },
    /// Append these writes to the log of this node, each as one batch (R14). The order of the appends is
    /// the order of their sequences.
    Append(Writes),
    /// Send these writes to a follower, each as one frame (R14). The first of them has this place.
    Send { to: NodeId, place: Place, writes: Writes },
    /// Make the records of a write visible: every copy has it (R2).
    Publish(A),
    /// Send the answer that waited: all writes that it reveals are published (R6).
    Answer(W),
    /// Report to the waiter that the outcome is unknown, because the role ended first (R7).
    Abandon(W),
    /// Report to the waiter that this node's disk has no room, and that nothing was written.
    Refuse(W),
    /// Pass the partition's digest on, as it is at this place of the list: between two publications.
    Digest(D),
    /// Propose to suspend a follower that cannot acknowledge (R8).
    Suspend(ReplicaRef),
    /// Mark this node's store as clean up to this version (R12).
    MarkClean { up_to: u64 },
    /// Send that mark to a follower. Transfers with numbers below `transfers_from` are closed by it.
    SendMark { to: NodeId, place: Place, up_to: u64, transfers_from: u64 },
    /// Pass [`PrimaryEvent::Tick`](super::PrimaryEvent::Tick) on at this reading of the monotonic clock,
    /// in milliseconds.
    Wake { at_ms: u64 },
}

/// An action of a replica. `A` is the handle of a durable append, `R` a peer's call that waits for its reply.
#[derive(Debug)]
pub(crate) enum ReplicaAction<A, R> {
    /// Append the records of one write as one batch (R14), unless one of them contradicts a record with the
    /// same version (R1). The end is an event, in both cases; a contradiction is one before the next frame.
    Store { session: u64, sequence: u64, records: Vec<Record>, reply: R },
    /// Make the records of a write visible: its append is durable.
    Publish(A),
    /// Acknowledge the write and all before it, or reject the frame (R2).
    Reply(R, Result<(), Rejection>),
    /// Reply with the partition's digest, as it is at this place of the list: between two publications.
    Digest(R),
    /// Mark this node's store as clean up to this version (R12).
    MarkClean { up_to: u64 },
    /// Count a frame of a term, an assignment or a session that is over.
    NoteFenced(NodeId),
}
