//! Who may ask what on the control class: whoever is admitted may introduce itself and ask to be taken in, members may do
//! the rest, and nodes of another cluster nothing. What is refused is counted.

use std::fmt::Display;

use super::Node;
use super::control::{Control, ControlAnswer};
use crate::api::PeerFigures;
use crate::cluster::operations::Membership;
use crate::cluster::state::Announcement;
use crate::id::{ClusterId, NodeId};
use crate::net::Refused;

impl Node {
    /// Counts what was refused of a peer, and tells it if that is due.
    pub(super) fn note_refused(&self, refused: Refused, from: NodeId, why: &dyn Display) {
        self.refusals.note(refused, self.host.monotonic_ms(), &from, why);
    }

    /// Refuses what names another cluster.
    pub(super) fn check_cluster(&self, from: NodeId, named: Option<ClusterId>) -> Result<(), ControlAnswer> {
        match named {
            Some(theirs) if theirs != self.cluster_id => {
                self.note_refused(Refused::OtherCluster, from, &format_args!("it is of cluster {theirs}"));
                Err(ControlAnswer::Failed(format!(
                    "this node is of cluster {}, the question of cluster {theirs}: nothing was done",
                    self.cluster_id
                )))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what the asker may not ask.
    pub(super) fn check_asker(&self, from: NodeId, question: &Control) -> Result<(), ControlAnswer> {
        // Who asks these is to be told something, member or not.
        if matches!(question, Control::Hello | Control::Compare | Control::Lease(..)) {
            return Ok(());
        }
        let state = self.topology.state();
        let refused = match state.membership(from) {
            Membership::Member => return Ok(()),
            // A node that was away does not know yet whom the log has taken in since.
            Membership::Stranger if matches!(question, Control::Raft(_)) => return Ok(()),
            Membership::Stranger => Refused::Stranger,
            // A coordinator that was removed still ends its work, until it votes no more.
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

    /// Counts an announcement of what is over: a removed node, or an earlier start of a member. Whether it was one.
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
                let why = format_args!("it is start {incarnation}, start {registered} is registered");
                self.note_refused(Refused::OldIncarnation, *node, &why);
                true
            }
            _ => false,
        }
    }

    /// The peer network's figures.
    pub(super) fn peer_figures(&self) -> PeerFigures {
        let stats = self.peers.stats();
        PeerFigures {
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
