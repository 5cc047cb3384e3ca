//! Rejects and counts messages of peers without authority on the data plane: nodes that are not members, and
//! frames of a former primary or assignment.

use std::fmt::Display;
use std::sync::Arc;

use super::plane::Plane;
use crate::cluster::operations::Membership;
use crate::id::NodeId;
use crate::kv::Failure;
use crate::net::{Class, Refusals, Refused};
use crate::partition::Rejection;

impl Plane {
    /// Returns whether a peer is not a member in the state this node has applied; counts its message as
    /// rejected then.
    pub(super) fn is_unauthorized(&self, from: NodeId, class: Class) -> bool {
        let view = self.view.load();
        if view.state.epoch == 0 {
            // This node knows no members yet, and serves no partition.
            return false;
        }
        let refused = match view.state.membership(from) {
            Membership::Member => return false,
            Membership::Removed(_) => Refused::Removed,
            Membership::Unknown => Refused::Stranger,
        };
        self.refuse(refused, from, &format_args!("{class:?}, in epoch {}", view.state.epoch));
        true
    }

    /// Returns the error for clients of a node that was removed: other nodes do not answer it. Its process
    /// ends soon.
    pub(super) fn no_member(&self) -> Option<Failure> {
        let epoch = self.view.load().state.removed_in(self.node)?;
        Some(Failure::Refused(format!(
            "node {} is no member of its cluster since epoch {epoch}; nothing was done; ask another node",
            self.node.short()
        )))
    }

    /// Returns the counters of rejected messages.
    pub fn refusals(&self) -> &Arc<Refusals> {
        &self.refusals
    }

    /// Counts a rejected message, and logs it if a log line is due.
    pub(super) fn refuse(&self, refused: Refused, from: NodeId, why: &dyn Display) {
        self.refusals.note(refused, self.host.monotonic_ms(), &from, why);
    }

    /// Counts a frame of a term or an assignment that is over here.
    pub(super) fn count_fenced(&self, from: NodeId, rejection: Rejection) {
        if rejection == Rejection::Stale {
            self.refuse(Refused::Fenced, from, &"its term or assignment is over");
        }
    }
}
