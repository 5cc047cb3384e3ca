//! Authorization on the control class: an admitted node may introduce itself and request to join, only
//! members may send other requests, and nodes of another cluster may send none. Rejections are counted.

use std::fmt::Display;

use super::Node;
use super::control::{Control, ControlAnswer, Envelope};
use crate::api::PeerStats;
use crate::cluster::operations::Membership;
use crate::cluster::state::Announcement;
use crate::id::{ClusterId, NodeId};
use crate::net::Refused;

impl Node {
    /// Counts a rejection of a peer's message, and logs it if a log line is due.
    pub(super) fn note_refused(&self, refused: Refused, from: NodeId, why: &dyn Display) {
        self.refusals.note(refused, self.host.monotonic_ms(), &from, why);
    }

    /// Rejects a request that names another cluster.
    pub(super) fn check_cluster(&self, from: NodeId, named: Option<ClusterId>) -> Result<(), ControlAnswer> {
        match named {
            Some(theirs) if theirs != self.cluster_id => {
                self.note_refused(Refused::OtherCluster, from, &format_args!("it is of cluster {theirs}"));
                Err(ControlAnswer::Failed(format!(
                    "this node is of cluster {}, the request of cluster {theirs}: nothing was done",
                    self.cluster_id
                )))
            }
            _ => Ok(()),
        }
    }

    /// Rejects a request of a node without a committed state, unless it leads to one. So a node that starts
    /// in a later generation can join it, although it does not name that generation.
    pub(super) fn check_state(&self, from: NodeId, envelope: &Envelope) -> Result<(), ControlAnswer> {
        if envelope.cluster.is_some() || envelope.question.leads_to_state() {
            return Ok(());
        }
        self.check_asker(from, &envelope.question)?;
        tracing::debug!(%from, "rejected a request of a node without a committed state");
        Err(ControlAnswer::Failed(format!(
            "node {} holds no committed state of this cluster yet: nothing was done",
            from.short()
        )))
    }

    /// Rejects a request that its sender may not send.
    pub(super) fn check_asker(&self, from: NodeId, question: &Control) -> Result<(), ControlAnswer> {
        // The sender of these requests needs an answer, whether it is a member or not.
        if question.leads_to_state() {
            return Ok(());
        }
        let state = self.topology.state();
        let refused = match state.membership(from) {
            Membership::Member => return Ok(()),
            // A node that was down does not know yet which nodes the log has admitted since.
            Membership::Unknown if matches!(question, Control::Raft(_)) => return Ok(()),
            Membership::Unknown => Refused::Stranger,
            // A removed coordinator still completes its work while it votes.
            Membership::Removed(_)
                if matches!(question, Control::Raft(_) | Control::Stand)
                    && self.topology.voters().contains(&from) =>
            {
                return Ok(());
            }
            Membership::Removed(_) => Refused::Removed,
        };
        self.note_refused(refused, from, &format_args!("a control message, in epoch {}", state.epoch));
        Err(ControlAnswer::Failed(format!(
            "node {} is no member of this cluster in epoch {}: nothing was done",
            from.short(),
            state.epoch
        )))
    }

    /// Counts an announcement of a removed node or of an earlier start of a member. Returns whether it is
    /// one.
    pub(super) fn is_over(&self, announcement: &Announcement) -> bool {
        let state = self.topology.state();
        let Announcement { node, incarnation, .. } = announcement;
        match (state.membership(*node), state.members.get(node)) {
            (Membership::Removed(epoch), _) => {
                self.note_refused(Refused::Removed, *node, &format_args!("removed in epoch {epoch}"));
                true
            }
            (_, Some(member)) if member.announcement.incarnation > *incarnation => {
                let registered = member.announcement.incarnation;
                let why = format_args!("it is of start {incarnation}, but start {registered} is registered");
                self.note_refused(Refused::OldIncarnation, *node, &why);
                true
            }
            _ => false,
        }
    }

    /// Returns the counters of the peer network.
    pub(super) fn peer_figures(&self) -> PeerStats {
        let stats = self.peers.stats();
        PeerStats {
            connected: stats.peers as u64,
            calls_open: stats.calls_open as u64,
            queued_bytes: stats.queued_bytes as u64,
            calls_sent: stats.calls_sent,
            calls_lost: stats.calls_lost,
            calls_received: stats.calls_received,
            bytes_sent: stats.bytes_sent,
            bytes_received: stats.bytes_received,
            gossip_sent: stats.gossip_sent,
            gossip_received: stats.gossip_received,
            dials_failed: stats.dials_failed,
            refused: self.refusals.counts(),
        }
    }
}
