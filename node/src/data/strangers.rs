//! Peers that have no say on the data plane: nodes that are no members, and frames of roles that are over.

use std::fmt::Display;
use std::sync::Arc;

use super::plane::Plane;
use super::replica::Rejection;
use crate::cluster::operations::Membership;
use crate::id::NodeId;
use crate::kv::Failure;
use crate::net::{Class, Refusals, Refused};

impl Plane {
    /// Whether a peer is no member, as far as this node knows; what it sends is then counted as refused.
    pub(super) fn is_stranger(&self, from: NodeId, class: Class) -> bool {
        let view = self.view.load();
        if view.state.epoch == 0 {
            // It has heard of no member yet, and serves nobody.
            return false;
        }
        let refused = match view.state.membership(from) {
            Membership::Member => return false,
            Membership::Removed(_) => Refused::Removed,
            Membership::Stranger => Refused::Stranger,
        };
        self.refuse(refused, from, &format_args!("{class:?}, in epoch {}", view.state.epoch));
        true
    }

    /// What clients are told by a node that is no member any more: no other one answers it. Soon its process ends.
    pub(super) fn no_member(&self) -> Option<Failure> {
        let epoch = self.view.load().state.removed_in(self.node)?;
        Some(Failure::Refused(format!(
            "node {} is no member of its cluster since epoch {epoch}; nothing was done. Ask another node",
            self.node.short()
        )))
    }

    /// The counters of what is refused.
    pub fn refusals(&self) -> &Arc<Refusals> {
        &self.refusals
    }

    /// Counts what was refused, and tells it if that is due.
    pub(super) fn refuse(&self, refused: Refused, from: NodeId, why: &dyn Display) {
        self.refusals.note(refused, self.host.monotonic_ms(), &from, why);
    }

    /// Counts a frame that belongs to a term or an assignment that is over here.
    pub(super) fn count_fenced(&self, from: NodeId, rejection: Rejection) {
        if rejection == Rejection::Stale {
            self.refuse(Refused::Fenced, from, &"its term or assignment is over");
        }
    }
}
