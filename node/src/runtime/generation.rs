//! Generations in messages (rule R10): a node of an older generation is no coordinator, voter or primary in a
//! newer one.
//!
//! Every control message names its sender's cluster and generation ([`Envelope`]), once the sender has a
//! state. A node rejects a message of an older generation, and its answer names the newer one. A node that
//! learns of a newer generation, from a message or an answer, gives up its topology log and returns under the
//! newer generation (`superseded_log`). Replication needs only its terms, which a takeover raises.
//!
//! Two logs of the same number that different nodes founded are rivals: neither follows the other, and
//! operators decide.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Node;
use super::control::{CONTROL_BYTES_MAX, Control, ControlAnswer, Envelope, ask};
use super::superseded_log::{NoteSuperseded, Returning};
use crate::cluster::state::ClusterState;
use crate::cluster::takeover::Generation;
use crate::id::{Epoch, NodeId};
use crate::mutation::{Mutation, planted};
use crate::net::{Peers, wire};

/// Time limit for another member to report its generation.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two rounds of asking.
const COMPARE_PAUSE: Duration = Duration::from_millis(500);
/// Rounds between two log lines about missing answers.
const COMPLAINT_ROUNDS: u32 = 10;

/// The node follows another topology log after its next start, which should be immediate.
#[derive(Debug, thiserror::Error)]
#[error("{0}; start the node again")]
pub struct RestartRequired(pub(super) String);

/// A node's report about the topology log that it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GenerationReport {
    /// Generation of the node's state.
    pub(super) generation: Generation,
    /// Epoch of that state; 0 if the node has no state.
    pub(super) epoch: Epoch,
    /// Whether the node has a lease.
    pub(super) serving: bool,
}

impl GenerationReport {
    pub(super) fn of(state: &ClusterState, serving: bool) -> Self {
        Self { generation: state.generation(), epoch: state.epoch, serving }
    }
}

/// Relation of another node's generation to this node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Same,
    Older,
    Newer,
    /// The same number, but another log.
    Rival,
}

fn relation(mine: Generation, theirs: Generation) -> Relation {
    match theirs.number.cmp(&mine.number) {
        std::cmp::Ordering::Less => Relation::Older,
        std::cmp::Ordering::Greater => Relation::Newer,
        // A returning node knows only the number.
        std::cmp::Ordering::Equal if mine.by.is_some() && theirs.by.is_some() && mine.by != theirs.by => {
            Relation::Rival
        }
        std::cmp::Ordering::Equal => Relation::Same,
    }
}

/// Returns the generation that a node follows: that of its state or, without a state, the one for which it
/// gave up its own.
fn followed(state: &ClusterState, floor: u32) -> Generation {
    if state.epoch > 0 { state.generation() } else { Generation { number: floor, by: None } }
}

/// Returns the request as it is sent. `floor` is the generation for which this node gave up its own.
pub(super) fn envelope(state: &ClusterState, floor: u32, question: Control) -> Envelope {
    let has_state = state.epoch > 0;
    Envelope {
        cluster: has_state.then_some(state.cluster_id),
        generation: (has_state || floor > 0).then(|| followed(state, floor)),
        question,
    }
}

/// Returns the reason why a message of another generation is rejected.
fn refusal(mine: Generation, theirs: Generation, relation: Relation) -> String {
    let by = |generation: Generation| {
        generation.by.map_or_else(String::new, |node| format!(", founded by {}", node.short()))
    };
    let (older, newer) = match relation {
        Relation::Rival => {
            return format!(
                "two nodes took over: generation {}{} and generation {}{} are now two clusters, which reject \
                 each other's messages. Choose one. Start the nodes of the other with empty data directories: \
                 they join as new nodes, and the writes of that cluster alone are lost",
                mine.number,
                by(mine),
                theirs.number,
                by(theirs)
            );
        }
        Relation::Newer => (mine, theirs),
        _ => (theirs, mine),
    };
    format!(
        "generation {} of the cluster is over: generation {}{} took over. Messages of the older one are \
         rejected; a node of it gives up its topology log and returns under the newer one, which merges the \
         records that only that node has",
        older.number,
        newer.number,
        by(newer)
    )
}

/// Answers a control message before the node is assembled, while it compares generations: reports the log
/// that it follows, and answers no other request.
pub fn answer_early(state: &ClusterState, body: &[u8]) -> Option<Bytes> {
    let envelope = wire::decode::<Envelope, CONTROL_BYTES_MAX>(body).ok()?;
    let Control::Compare = envelope.question else { return None };
    Some(wire::encode(&ControlAnswer::Compared(GenerationReport::of(state, false))).into())
}

impl Node {
    pub(super) fn followed_generation(&self) -> Generation {
        followed(&self.topology.state(), self.generation_floor)
    }

    /// Rejects a request of a node of another generation where necessary; gives up this node's generation if
    /// the other is newer.
    pub(super) fn check_generation(
        self: &Arc<Self>,
        from: NodeId,
        named: Option<Generation>,
        question: &Control,
    ) -> Result<(), ControlAnswer> {
        let mine = self.followed_generation();
        let theirs = match named {
            Some(generation) => generation,
            // A node that is not a member yet has no generation.
            None if matches!(question, Control::Lease(..))
                && self.topology.state().member(from).is_none() =>
            {
                mine
            }
            None => Generation::default(),
        };
        let relation = relation(mine, theirs);
        if relation == Relation::Newer {
            self.give_up_generation(theirs, from);
        }
        // These requests serve to find out the generation.
        if relation == Relation::Same || matches!(question, Control::Hello | Control::Compare) {
            return Ok(());
        }
        let reason = refusal(mine, theirs, relation);
        match relation {
            Relation::Rival => tracing::error!(%from, reason, "rejected a message of another generation"),
            _ => tracing::debug!(%from, reason, "rejected a message of another generation"),
        }
        Err(ControlAnswer::OtherGeneration { generation: mine, reason })
    }

    /// Sends a message of this node's topology log to another node, as the log itself does: the one of the
    /// older generation learns of the newer one. For a simulation, whose model of the log sends no messages.
    ///
    /// # Errors
    /// The other node does not answer, or is of another generation.
    pub async fn send_of_log(self: &Arc<Self>, to: NodeId) -> Result<(), String> {
        self.ask(to, Control::Raft(Bytes::new()), COMPARE_TIMEOUT).await.map(drop)
    }

    /// Handles a peer's answer that names another generation.
    pub(super) fn learn_generation(self: &Arc<Self>, theirs: Generation, from: NodeId) {
        if relation(self.followed_generation(), theirs) == Relation::Newer {
            self.give_up_generation(theirs, from);
        }
    }

    /// Handles a newer generation that took over: this process stops, and the next one returns under that
    /// generation.
    fn give_up_generation(self: &Arc<Self>, newer: Generation, from: NodeId) {
        // Serve nothing under the older generation from here on, even if the disk fails.
        self.plane.end_lease();
        if self.refusal.borrow().is_some() {
            return;
        }
        let reason = format!(
            "node {} is of generation {}, which took over from this node's generation {}: this node gives up \
             its topology log and returns under the newer one, which merges the writes that only this node has",
            from.short(),
            newer.number,
            self.followed_generation().number
        );
        if let Err(error) = give_up(&self.note_superseded, &self.topology.state(), newer, Some(from)) {
            return self.refuse(&format!("{reason}. But this cannot be recorded on disk: {error:#}"));
        }
        self.request_restart(&reason);
    }

    /// Makes this process serve nothing more; its supervisor must start the node again at once.
    pub(super) fn request_restart(&self, reason: &str) {
        self.anew.store(true, Ordering::Release);
        self.refuse(reason);
    }

    /// Returns whether the node must be started again after it was [refused](Self::refused).
    pub fn must_restart(&self) -> bool {
        self.anew.load(Ordering::Acquire)
    }
}

/// Records on disk that this node gives up its log for a newer generation.
fn give_up(
    note: &NoteSuperseded,
    state: &ClusterState,
    newer: Generation,
    from: Option<NodeId>,
) -> anyhow::Result<()> {
    // First the node that reported it: others may be lost.
    let mut members: Vec<_> = state.members.iter().collect();
    members.sort_by_key(|(node, _)| Some(**node) != from);
    let addrs = members.into_iter().flat_map(|(_, member)| member.announcement.peer_addrs.iter().cloned());
    note(&Returning { generation: newer.number, addrs: addrs.collect() })
}

/// Compares generations before the only voter of a cluster starts to serve: none of the members that could
/// have taken over in the meantime may have done so.
///
/// Waits until each of them has reported its generation. Returns whether one took over: then this node's log
/// is given up.
///
/// # Errors
/// The file system cannot record that, or a rival log of the same number exists.
pub async fn compare(
    note: &NoteSuperseded,
    own: NodeId,
    peers: &Peers,
    state: &ClusterState,
) -> anyhow::Result<bool> {
    let may_have = |node: &&NodeId| **node != own && state.may_have_taken_over(**node);
    let mut unheard: BTreeSet<NodeId> = state.members.keys().filter(may_have).copied().collect();
    if unheard.is_empty() || planted(Mutation::ServeUncompared) {
        return Ok(false);
    }
    let addrs = |(node, member): (&NodeId, &crate::cluster::state::Member)| {
        (*node, member.announcement.peer_addrs.clone())
    };
    let book: HashMap<_, _> = state.members.iter().filter(|(node, _)| **node != own).map(addrs).collect();
    peers.set_peers(book);
    for round in 1_u32.. {
        for node in unheard.clone() {
            let envelope = envelope(state, 0, Control::Compare);
            match ask(peers, node, &envelope, COMPARE_TIMEOUT).await {
                Ok(ControlAnswer::Compared(theirs)) => {
                    let theirs = theirs.generation;
                    match relation(state.generation(), theirs) {
                        Relation::Newer => {
                            give_up(note, state, theirs, Some(node))?;
                            return Ok(true);
                        }
                        Relation::Rival => {
                            anyhow::bail!(refusal(state.generation(), theirs, Relation::Rival));
                        }
                        _ => {
                            unheard.remove(&node);
                        }
                    }
                }
                other => {
                    tracing::debug!(%node, ?other, "the other member did not report its generation")
                }
            }
        }
        if unheard.is_empty() {
            return Ok(false);
        }
        if round == 1 || round % COMPLAINT_ROUNDS == 0 {
            let nodes: Vec<String> = unheard.iter().map(NodeId::short).collect();
            tracing::error!(
                "this node is the only voter, and while it was down {} may have taken over: this node serves \
                 nothing until that node answers. If that node is lost for good, or if you know that no \
                 `caskctl cluster takeover` was run there, start this node with --serve-alone",
                nodes.join(", ")
            );
        }
        tokio::time::sleep(COMPARE_PAUSE).await;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ClusterId;

    const A: Generation = Generation { number: 1, by: Some(NodeId::from_bytes([1; 32])) };
    const B: Generation = Generation { number: 1, by: Some(NodeId::from_bytes([2; 32])) };

    #[test]
    fn generations_of_one_number_are_the_same_only_if_one_node_founded_them() {
        let first = Generation::default();
        assert_eq!(relation(first, first), Relation::Same);
        assert_eq!(relation(first, A), Relation::Newer);
        assert_eq!(relation(A, first), Relation::Older);
        assert_eq!(relation(A, B), Relation::Rival);
        assert_eq!(relation(A, Generation { number: 1, by: None }), Relation::Same, "a node that returns");
        assert!(refusal(A, B, Relation::Rival).contains("empty data directories"));
        assert!(
            refusal(first, A, Relation::Newer)
                .starts_with("generation 0 of the cluster is over: generation 1")
        );
        assert_eq!(refusal(first, A, Relation::Newer), refusal(A, first, Relation::Older));
    }

    #[test]
    fn envelope_names_cluster_and_generation_once_its_sender_has_a_state() {
        let new = envelope(&ClusterState::default(), 0, Control::Hello);
        assert_eq!((new.cluster, new.generation), (None, None));
        let cluster_id = ClusterId::from_bytes([7; 16]);
        let state = ClusterState { epoch: 5, cluster_id, ..ClusterState::default() };
        let member = envelope(&state, 0, Control::Hello);
        assert_eq!((member.cluster, member.generation), (Some(cluster_id), Some(Generation::default())));
        let returning = envelope(&ClusterState::default(), 2, Control::Hello);
        let followed = Generation { number: 2, by: None };
        assert_eq!((returning.cluster, returning.generation), (None, Some(followed)));
    }
}
