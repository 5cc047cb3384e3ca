//! A replica as its primary sees it: the session to it, and how far it has acknowledged. Pure: no I/O, no
//! clock.
//!
//! Invariants: acknowledgements count for the present session only. A session begins after the last write
//! that the follower acknowledged. A follower whose session broke receives no frame until a new session
//! opens.

use super::event::Rejection;
use crate::cluster::state::ReplicaRef;
use crate::id::{Epoch, NodeId};

/// Pause before a new session to a replica that is behind: it applies the missing log entry within
/// milliseconds.
const BEHIND_PAUSE_MS: u64 = 3;
/// Pause before a new session to a replica whose disk had no space.
const NO_ROOM_PAUSE_MS: u64 = 250;
/// Pause before a new session after any other rejection. A stale primary waits for the committed state
/// that ends its term.
const SESSION_PAUSE_MS: u64 = 50;

/// A replica that receives every write, as the committed state names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AssignedFollower {
    /// The copy.
    pub(crate) name: ReplicaRef,
    /// Epoch in which the copy was assigned to the node.
    pub(crate) assigned: Epoch,
    /// Whether it holds every acknowledged write.
    pub(crate) in_sync: bool,
}

/// Place of a frame in the session to a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Epoch in which the copy was assigned to the follower (R16).
    pub(crate) assigned: Epoch,
    /// Number of the session.
    pub(crate) session: u64,
    /// Sequence after which the session begins.
    pub(crate) begins: u64,
    /// Last sequence before the frame.
    pub(crate) previous: u64,
}

/// A replica that must acknowledge every write.
#[derive(Debug)]
pub(crate) struct Follower {
    copy: AssignedFollower,
    session: u64,
    begins: u64,
    acked: u64,
    /// When a new session is due, because the present one broke: all unacknowledged writes are sent again
    /// in it.
    retry_ms: Option<u64>,
    clean: Option<u64>,
}

impl Follower {
    /// Creates a follower that needs no write up to `published` by its session: the copy brings those.
    pub(super) fn new(copy: AssignedFollower, published: u64) -> Self {
        Self { copy, session: 0, begins: published, acked: published, retry_ms: None, clean: None }
    }

    /// Returns the follower's node.
    pub(crate) fn node(&self) -> NodeId {
        self.copy.name.node
    }

    /// Returns the name of the copy in proposals.
    pub(crate) fn name(&self) -> ReplicaRef {
        self.copy.name
    }

    /// Returns the epoch in which the copy was assigned to the node.
    pub(crate) fn assigned(&self) -> Epoch {
        self.copy.assigned
    }

    /// Returns whether the committed state counts it as in-sync: it holds every acknowledged write.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.copy.in_sync
    }

    /// Returns whether the session broke and no new one is open yet.
    pub(crate) fn is_broken(&self) -> bool {
        self.retry_ms.is_some()
    }

    /// Returns the sequence up to which all writes are durable on the follower.
    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    /// Returns whether the follower has marked its store as clean up to this version.
    pub(super) fn is_clean_up_to(&self, version: u64) -> bool {
        self.clean == Some(version)
    }

    /// Returns whether a new session is due.
    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        self.retry_ms.is_some_and(|at_ms| at_ms <= now_ms)
    }

    /// Returns the place of a frame after `previous` in the present session.
    pub(super) fn place(&self, previous: u64) -> Place {
        Place { assigned: self.copy.assigned, session: self.session, begins: self.begins, previous }
    }

    /// Takes over whether the copy is in-sync, if the committed state still names this copy.
    pub(super) fn stays(&mut self, copy: &AssignedFollower) -> bool {
        let same = self.copy.name == copy.name;
        if same {
            self.copy.in_sync = copy.in_sync;
        }
        same
    }

    /// Opens a session after the last acknowledged write. Acknowledgements of the former one are void.
    pub(super) fn open(&mut self, session: u64) {
        (self.session, self.begins, self.retry_ms) = (session, self.acked, None);
    }

    /// Returns whether a message belongs to the present session.
    pub(super) fn is_in(&self, session: u64) -> bool {
        self.session == session
    }

    /// Notes that all writes up to `sequence` are durable on the follower.
    pub(super) fn acknowledge(&mut self, sequence: u64) {
        self.acked = self.acked.max(sequence);
    }

    /// Notes that the session broke. Returns when a new one is due.
    pub(super) fn break_off(&mut self, rejection: Rejection, now_ms: u64) -> u64 {
        let pause_ms = match rejection {
            Rejection::Behind => BEHIND_PAUSE_MS,
            Rejection::NoRoom => NO_ROOM_PAUSE_MS,
            Rejection::Stale | Rejection::Gap | Rejection::Failed => SESSION_PAUSE_MS,
        };
        *self.retry_ms.insert(now_ms + pause_ms)
    }

    /// Notes that the follower marked its store as clean up to a version.
    pub(super) fn mark_clean(&mut self, up_to: u64) {
        self.clean = self.clean.max(Some(up_to));
    }
}

#[cfg(test)]
impl std::fmt::Display for Follower {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "session={} begins={}", self.session, self.begins)?;
        match self.retry_ms {
            Some(at_ms) => write!(out, " broken until={at_ms}"),
            None => Ok(()),
        }
    }
}
