//! Generations on the wire (rule R10): a node of an older one is no coordinator, voter or primary to those of a newer one.
//!
//! Every control message names its sender's generation ([`Control::Of`]) as soon as all members can read that; one that
//! does not is of the first. A message of an older generation is refused, and the answer says so; who learns of a newer
//! one, by a message or an answer, gives up its topology log and returns under the newer generation (`given_up`).
//! Replication needs no more than its terms, which a takeover raises.
//!
//! Two logs of one number that different nodes founded are rivals: neither follows the other, and operators decide.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Node;
use super::control::{CONTROL_BYTES_MAX, Control, ControlAnswer, ask};
use super::given_up::{NoteSuperseded, Returning};
use crate::cluster::protocol::{PROTOCOL_CLUSTERS, PROTOCOL_TAKEOVER};
use crate::cluster::state::ClusterState;
use crate::cluster::takeover::Generation;
use crate::id::{ClusterId, Epoch, NodeId};
use crate::mutation::{Mutation, planted};
use crate::net::{Peers, wire};

/// How long another member may take to say which generation it is of.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two rounds of asking.
const COMPARE_PAUSE: Duration = Duration::from_millis(500);
/// Rounds between two complaints.
const COMPLAINT_ROUNDS: u32 = 10;

/// The node follows another topology log from its next start on, which should be at once.
#[derive(Debug, thiserror::Error)]
#[error("{0}; start the node again")]
pub struct BeginsAnew(pub(super) String);

/// What a node says of the log it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standpoint {
    /// Of which generation its state is.
    pub(super) generation: Generation,
    /// Number of that state; 0 if it has none.
    pub(super) epoch: Epoch,
    /// Whether it has a lease.
    pub(super) serving: bool,
}

impl Standpoint {
    pub(super) fn of(state: &ClusterState, serving: bool) -> Self {
        Self { generation: state.generation(), epoch: state.epoch, serving }
    }
}

/// What another node's generation is to one's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Same,
    Older,
    Newer,
    /// Of the same number, and another log.
    Rival,
}

fn relation(mine: Generation, theirs: Generation) -> Relation {
    match theirs.number.cmp(&mine.number) {
        std::cmp::Ordering::Less => Relation::Older,
        std::cmp::Ordering::Greater => Relation::Newer,
        // One that returns knows the number only.
        std::cmp::Ordering::Equal if mine.by.is_some() && theirs.by.is_some() && mine.by != theirs.by => {
            Relation::Rival
        }
        std::cmp::Ordering::Equal => Relation::Same,
    }
}

/// The generation a node follows: its state's; without a state, the one it gave up its own for.
fn followed(state: &ClusterState, floor: u32) -> Generation {
    if state.epoch > 0 { state.generation() } else { Generation { number: floor, by: None } }
}

/// The question as it is sent: with the sender's generation and its cluster, where they can be read.
pub(super) fn named(state: &ClusterState, floor: u32, question: Control) -> Control {
    let mine = followed(state, floor);
    let is_read = mine.number > 0 || state.speech().protocol >= PROTOCOL_TAKEOVER;
    let question = if is_read { Control::Of(mine, wire::encode(&question).into()) } else { question };
    match state.speech().protocol >= PROTOCOL_CLUSTERS {
        true => Control::In(state.cluster_id, wire::encode(&question).into()),
        false => question,
    }
}

/// A question, and what its sender said of itself.
pub(super) struct Unnamed {
    pub(super) cluster: Option<ClusterId>,
    pub(super) generation: Option<Generation>,
    pub(super) question: Control,
}

/// Reads what [`named`] made.
pub(super) fn unnamed(question: Control) -> Result<Unnamed, String> {
    let inner = |body: Bytes| {
        wire::decode::<Control, CONTROL_BYTES_MAX>(&body)
            .map_err(|_| "the question within the question is none of this protocol".to_owned())
    };
    let (cluster, question) = match question {
        Control::In(cluster, body) => (Some(cluster), inner(body)?),
        question => (None, question),
    };
    let (generation, question) = match question {
        Control::Of(generation, body) => (Some(generation), inner(body)?),
        question => (None, question),
    };
    match question {
        Control::In(..) | Control::Of(..) => {
            Err("the question within the question is none of this protocol".to_owned())
        }
        question => Ok(Unnamed { cluster, generation, question }),
    }
}

/// Why a message of another generation is refused.
fn refusal(mine: Generation, theirs: Generation, relation: Relation) -> String {
    let by = |generation: Generation| {
        generation.by.map_or_else(String::new, |node| format!(", founded by {}", node.short()))
    };
    let (older, newer) = match relation {
        Relation::Rival => {
            return format!(
                "two nodes took over: generation {}{} and generation {}{} are two clusters by now, which refuse each \
                 other. Choose one; start the nodes of the other with empty data directories: they join as new nodes, and \
                 what was written there alone is lost",
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
        "generation {} of the cluster is over: generation {}{} took over. Nothing of the older one is taken; a node of it \
         gives up its topology log and returns under the newer one, which merges what only that node has",
        older.number,
        newer.number,
        by(newer)
    )
}

/// What a node answers on the control class before it is put together, while it compares generations: which log it
/// follows, and nothing else.
pub fn answer_early(state: &ClusterState, body: &[u8]) -> Option<Bytes> {
    let question = wire::decode::<Control, CONTROL_BYTES_MAX>(body).ok().and_then(|q| unnamed(q).ok());
    let Some(Unnamed { question: Control::Compare, .. }) = question else { return None };
    Some(wire::encode(&ControlAnswer::Compared(Standpoint::of(state, false))).into())
}

impl Node {
    pub(super) fn followed_generation(&self) -> Generation {
        followed(&self.topology.state(), self.generation_floor)
    }

    /// Refuses what a node of another generation asks, if it must be; learns from it if that one is newer.
    pub(super) fn check_generation(
        self: &Arc<Self>,
        from: NodeId,
        named: Option<Generation>,
        question: &Control,
    ) -> Result<(), ControlAnswer> {
        let mine = self.followed_generation();
        let theirs = match named {
            Some(generation) => generation,
            // Who is no member yet has no generation.
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
        // These are asked to find that out.
        if relation == Relation::Same || matches!(question, Control::Hello | Control::Compare) {
            return Ok(());
        }
        let reason = refusal(mine, theirs, relation);
        match relation {
            Relation::Rival => tracing::error!(%from, reason, "a message was refused"),
            _ => tracing::debug!(%from, reason, "a message was refused"),
        }
        Err(ControlAnswer::OtherGeneration { generation: mine, reason })
    }

    /// Sends a message of this node's topology log to another node, as the log itself does: whichever of the two is of an
    /// older generation learns that. For a simulation, whose model of the log sends none.
    ///
    /// # Errors
    /// The other node does not answer, or is of another generation.
    pub async fn send_of_log(self: &Arc<Self>, to: NodeId) -> Result<(), String> {
        self.ask(to, Control::Raft(Bytes::new()), COMPARE_TIMEOUT).await.map(drop)
    }

    /// A peer says that it is of another generation.
    pub(super) fn learn_generation(self: &Arc<Self>, theirs: Generation, from: NodeId) {
        if relation(self.followed_generation(), theirs) == Relation::Newer {
            self.give_up_generation(theirs, from);
        }
    }

    /// A newer generation took over: this process ends, and the next one returns under it.
    fn give_up_generation(self: &Arc<Self>, newer: Generation, from: NodeId) {
        // From here on nothing is served under the older one, whatever the disk does.
        self.plane.end_lease();
        if self.refusal.borrow().is_some() {
            return;
        }
        let reason = format!(
            "node {} is of generation {}, which took over from this node's generation {}: its topology log is given up, \
             and it returns under the newer one; what only it has written is merged there",
            from.short(),
            newer.number,
            self.followed_generation().number
        );
        if let Err(error) = give_up(&self.note_superseded, &self.topology.state(), newer, Some(from)) {
            return self.refuse(&format!("{reason}. But that cannot be written down: {error:#}"));
        }
        self.begin_anew(&reason);
    }

    /// This process serves nothing more; whoever started the node is to start it again at once.
    pub(super) fn begin_anew(&self, reason: &str) {
        self.anew.store(true, Ordering::Release);
        self.refuse(reason);
    }

    /// Whether the node, having [refused](Self::refused) to go on, is to be started again.
    pub fn begins_anew(&self) -> bool {
        self.anew.load(Ordering::Acquire)
    }
}

/// Writes down that this node's log is to be given up for that of a newer generation.
fn give_up(
    note: &NoteSuperseded,
    state: &ClusterState,
    newer: Generation,
    from: Option<NodeId>,
) -> anyhow::Result<()> {
    // The node that told first: others may be gone.
    let mut members: Vec<_> = state.members.iter().collect();
    members.sort_by_key(|(node, _)| Some(**node) != from);
    let addrs = members.into_iter().flat_map(|(_, member)| member.announcement.peer_addrs.iter().cloned());
    note(&Returning { generation: newer.number, addrs: addrs.collect() })
}

/// Before the only voter of a cluster starts to serve: none of the members that could have taken over meanwhile did.
///
/// Waits until each of them has said so. Answers whether one did: then this node's log is to be given up.
///
/// # Errors
/// The file system refuses to write that down; or another log of the same number is there.
pub async fn compare(
    note: &NoteSuperseded,
    own: NodeId,
    peers: &Peers,
    state: &ClusterState,
) -> anyhow::Result<bool> {
    let may_have = |node: &&NodeId| **node != own && state.may_have_taken_over(**node);
    let mut unheard: BTreeSet<NodeId> = state.members.keys().filter(may_have).copied().collect();
    let unasked = state.speech().protocol < PROTOCOL_TAKEOVER || planted(Mutation::ServeUncompared);
    if unheard.is_empty() || unasked {
        return Ok(false);
    }
    let addrs = |(node, member): (&NodeId, &crate::cluster::state::Member)| {
        (*node, member.announcement.peer_addrs.clone())
    };
    let book: HashMap<_, _> = state.members.iter().filter(|(node, _)| **node != own).map(addrs).collect();
    peers.set_peers(book);
    for round in 1_u32.. {
        for node in unheard.clone() {
            let question = named(state, 0, Control::Compare);
            match ask(peers, node, &question, COMPARE_TIMEOUT).await {
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
                    tracing::debug!(%node, ?other, "the other member did not say which generation it is of")
                }
            }
        }
        if unheard.is_empty() {
            return Ok(false);
        }
        if round == 1 || round % COMPLAINT_ROUNDS == 0 {
            let nodes: Vec<String> = unheard.iter().map(NodeId::short).collect();
            tracing::error!(
                "this node alone votes for the coordinator, and while it was down {} may have taken over: it serves \
                 nothing until that node answers. If it is gone for good, or it is known that no `caskctl cluster \
                 takeover` was run there, start this node with --serve-alone",
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

    const A: Generation = Generation { number: 1, by: Some(NodeId::from_bytes([1; 32])) };
    const B: Generation = Generation { number: 1, by: Some(NodeId::from_bytes([2; 32])) };

    #[test]
    fn generations_of_one_number_are_the_same_only_if_one_node_founded_them() {
        let first = Generation::default();
        assert_eq!(relation(first, first), Relation::Same);
        assert_eq!(relation(first, A), Relation::Newer);
        assert_eq!(relation(A, first), Relation::Older);
        assert_eq!(relation(A, B), Relation::Rival);
        assert_eq!(relation(A, Generation { number: 1, by: None }), Relation::Same, "one that returns");
        assert!(refusal(A, B, Relation::Rival).contains("empty data directories"));
        assert!(
            refusal(first, A, Relation::Newer)
                .starts_with("generation 0 of the cluster is over: generation 1")
        );
        assert_eq!(refusal(first, A, Relation::Newer), refusal(A, first, Relation::Older));
    }

    #[test]
    fn question_names_its_generation_once_all_members_can_read_that() {
        let mut state = ClusterState { epoch: 5, ..ClusterState::default() };
        assert!(matches!(named(&state, 0, Control::Hello), Control::Hello));
        state.operations.speech.protocol = PROTOCOL_TAKEOVER;
        let Unnamed { cluster, generation, question } = unnamed(named(&state, 0, Control::Hello)).unwrap();
        assert!(matches!((generation, question), (Some(Generation { number: 0, by: None }), Control::Hello)));
        assert_eq!(cluster, None);
        state.operations.speech.protocol = PROTOCOL_CLUSTERS;
        state.cluster_id = ClusterId::from_bytes([7; 16]);
        let read = unnamed(named(&state, 0, Control::Hello)).unwrap();
        assert_eq!((read.cluster, read.generation.is_some()), (Some(state.cluster_id), true));
        let returning = named(&ClusterState::default(), 2, Control::Hello);
        assert!(matches!(unnamed(returning).unwrap().generation, Some(Generation { number: 2, by: None })));
        let nested =
            Control::Of(A, wire::encode(&Control::Of(A, wire::encode(&Control::Hello).into())).into());
        assert!(unnamed(nested).is_err());
    }
}
