//! `CASK.TAKEOVER`: this node founds a new generation of the cluster from its committed state, because the
//! nodes that could elect a coordinator are lost for good (rule R10).
//!
//! It refuses while they may not be lost: while this node or a reachable one has a lease, while a majority of
//! the voters answers, and while a reachable node has a newer state. Without a confirmation it only previews
//! the takeover. At risk are writes that the lost nodes acknowledged and this node never received: they are
//! missing until such a node returns and its records are merged, and for good if it never does.
//!
//! With `pair_takeover = auto`, one of two nodes takes over without an operator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use caskade_engine::slots::PARTITIONS;
use tokio::sync::oneshot;

use super::Node;
use super::control::{Control, ControlAnswer};
use super::generation::GenerationReport;
use crate::api::TakeoverAnswer;
use crate::cluster::state::{Change, ClusterState};
use crate::cluster::takeover::{Prospect, Takeover};
use crate::config::PairTakeover;
use crate::id::NodeId;

/// Time limit for the other nodes to report their generation.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Time to send the answer to the command before this process closes its connections.
const ANSWER_PAUSE: Duration = Duration::from_millis(200);
/// With `pair_takeover = auto`: leases for which the other node must be silent before this one takes over.
const SILENT_LEASES: u64 = 5;
/// Lower bound of that time in milliseconds.
const SILENT_MS_MIN: u64 = 10_000;

impl Node {
    /// `CASK.TAKEOVER`: returns the preview; with `confirmed`, takes over, and this process must be started
    /// again.
    ///
    /// # Errors
    /// The reason why no takeover is possible here, or not yet. Nothing was changed.
    pub async fn take_over(self: &Arc<Self>, confirmed: bool) -> Result<TakeoverAnswer, String> {
        let (sender, answer) = oneshot::channel();
        let node = Arc::clone(self);
        // A task of its own: the client may disconnect, and a founded log must be used at once.
        self.host.spawn(async move { drop(sender.send(node.take_over_once(confirmed).await)) });
        let ended = |_| {
            Err("this process ended before the takeover was complete: `caskctl status` shows whether it was done"
                .to_owned())
        };
        answer.await.unwrap_or_else(ended)
    }

    async fn take_over_once(self: &Arc<Self>, confirmed: bool) -> Result<TakeoverAnswer, String> {
        let Ok(_one_at_a_time) = self.taking_over.try_lock() else {
            return Err("a takeover is already running on this node".to_owned());
        };
        // Set before the others are asked: a voter that starts in the meantime has answered, or waits.
        self.founding.store(confirmed, Ordering::Release);
        let answer = self.take_over_if_possible(confirmed).await;
        self.founding.store(answer.as_ref().is_ok_and(|answer| answer.done), Ordering::Release);
        answer
    }

    async fn take_over_if_possible(self: &Arc<Self>, confirmed: bool) -> Result<TakeoverAnswer, String> {
        let state = self.topology.state();
        self.check_no_coordinator()?;
        let answers = self.standpoints(&state).await?;
        check_answers(&state, &self.topology.voters(), self.id, &answers)?;
        let reachable: BTreeSet<NodeId> = answers.keys().copied().collect();
        let prospect = state.prospect(self.id, &reachable)?;
        let mut answer = answer(&state, self.id, &reachable, prospect);
        if !confirmed {
            return Ok(answer);
        }
        // A coordinator may have returned in the meantime.
        self.check_no_coordinator()?;
        self.plane.end_lease();
        let seen = (0..PARTITIONS).map(|p| self.plane.engine().partition_stats(p).highest_version).collect();
        let takeover = Takeover { by: self.id, from: Box::new(state.as_ref().clone()), reachable, seen };
        self.topology.found_next(Change::TakeOver(takeover)).await?;
        tracing::warn!(generation = answer.generation, "this node takes over and restarts");
        let node = Arc::clone(self);
        self.host.spawn(async move {
            tokio::time::sleep(ANSWER_PAUSE).await;
            node.request_restart("this node took over: it restarts as the founder of a new generation");
        });
        answer.done = true;
        Ok(answer)
    }

    fn check_no_coordinator(&self) -> Result<(), String> {
        if self.refusal.borrow().is_some() || self.stopping.has_begun() {
            return Err("this node is stopping; nothing was changed".to_owned());
        }
        if self.plane.has_lease() {
            return Err(
                "a coordinator grants this node its lease: there is nothing to take over; nothing was \
                        changed. `caskctl status` shows the problem"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Returns this node's report about its topology log. Fails during a takeover and afterwards: a starting
    /// voter of two would otherwise take the ending generation for the newest, and serve in it.
    pub(super) fn standpoint(&self) -> ControlAnswer {
        if self.founding.load(Ordering::Acquire) {
            return ControlAnswer::Failed("a takeover is running on this node".to_owned());
        }
        ControlAnswer::Compared(GenerationReport::of(&self.topology.state(), self.plane.has_lease()))
    }

    /// Returns the reports of the other members that answer.
    async fn standpoints(
        self: &Arc<Self>,
        state: &ClusterState,
    ) -> Result<BTreeMap<NodeId, GenerationReport>, String> {
        let others = state.members.keys().copied().filter(|node| *node != self.id);
        let asked = others.map(|node| async move {
            match self.ask(node, Control::Compare, ASK_TIMEOUT).await {
                Ok(ControlAnswer::Compared(standpoint)) => Some(Ok((node, standpoint))),
                Ok(ControlAnswer::Failed(reason)) => Some(Err(format!(
                    "node {}: {reason}; nothing was changed. Try again later",
                    node.short()
                ))),
                other => {
                    tracing::debug!(%node, ?other, "a member did not report its generation");
                    None
                }
            }
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// With `pair_takeover = auto` and no lease since `since_ms`: takes over if it is due.
    pub(super) async fn take_over_if_due(self: &Arc<Self>, since_ms: u64) {
        let state = self.topology.state();
        let silent_ms = SILENT_MS_MIN.max(u64::from(state.lease_ms) * SILENT_LEASES);
        let of_a_pair = state.members.len() == 2 && !self.topology.voters().contains(&self.id);
        let due = of_a_pair && self.host.monotonic_ms() >= since_ms + silent_ms;
        if self.settings.pair_takeover != PairTakeover::Auto || !due {
            return;
        }
        match self.take_over(true).await {
            Ok(answer) => tracing::warn!(answer.message, "pair_takeover = auto: the other node is silent"),
            Err(reason) => tracing::warn!(reason, "pair_takeover = auto: this node does not take over yet"),
        }
    }
}

/// Refuses a takeover if the answering nodes do not need it.
fn check_answers(
    state: &ClusterState,
    voters: &BTreeSet<NodeId>,
    own: NodeId,
    answers: &BTreeMap<NodeId, GenerationReport>,
) -> Result<(), String> {
    for (node, standpoint) in answers {
        let node = node.short();
        if standpoint.generation.number > state.generation {
            return Err(format!(
                "node {node} is of generation {}, which took over already: nothing was changed. This node \
                 joins that generation by itself",
                standpoint.generation.number
            ));
        }
        if standpoint.serving {
            return Err(format!(
                "node {node} has a lease: a coordinator exists, but this node does not reach it. Nothing was \
                 changed; repair the network"
            ));
        }
        if standpoint.generation == state.generation() && standpoint.epoch > state.epoch {
            return Err(format!(
                "node {node} has a newer committed state (epoch {}, here {}): nothing was changed. Run the takeover \
                 there",
                standpoint.epoch, state.epoch
            ));
        }
    }
    let there = voters.iter().filter(|voter| **voter == own || answers.contains_key(*voter)).count();
    if there > voters.len() / 2 {
        return Err(format!(
            "{there} of {} voters answer, a majority: they elect a coordinator within a few seconds. Nothing was \
             changed",
            voters.len()
        ));
    }
    Ok(())
}

fn answer(
    state: &ClusterState,
    own: NodeId,
    reachable: &BTreeSet<NodeId>,
    prospect: Prospect,
) -> TakeoverAnswer {
    let others = state.members.keys().copied().filter(|node| *node != own);
    let (answering, lost): (Vec<NodeId>, Vec<NodeId>) = others.partition(|node| reachable.contains(node));
    let short = |nodes: &[NodeId]| nodes.iter().map(|node| node.short()).collect::<Vec<_>>().join(", ");
    let Prospect { served, served_by_others, waiting } = prospect;
    let mut message = format!(
        "node {} founds generation {} of the cluster from its last state, of epoch {}. Given up: {}. ",
        own.short(),
        state.generation.saturating_add(1),
        state.epoch,
        if lost.is_empty() { "no node".to_owned() } else { short(&lost) },
    );
    message.push_str(&format!(
        "{served} of {} partitions are served here at once",
        served + served_by_others + waiting
    ));
    if served_by_others > 0 {
        message.push_str(&format!(
            ", {served_by_others} by the other nodes that answer ({})",
            short(&answering)
        ));
    }
    if waiting > 0 {
        message.push_str(&format!(", {waiting} wait for a lost node, which has their only complete copy"));
    }
    message.push_str(
        ". At risk: writes that the lost nodes acknowledged after this node last heard from them. They are \
         missing from now on. If such a node returns, it is no longer a voter or primary: it gives up its \
         topology log. Records that only it has are written again, except for keys that were written here \
         since: those are reported as conflicts. Be sure that the lost nodes do not serve clients at this \
         moment: writes that they still acknowledge are at risk, too",
    );
    TakeoverAnswer {
        done: false,
        message,
        generation: state.generation.saturating_add(1),
        partitions_served: served,
        partitions_served_by_others: served_by_others,
        partitions_waiting: waiting,
        lost: lost.iter().map(ToString::to_string).collect(),
        reachable: answering.iter().map(ToString::to_string).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::takeover::Generation;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    /// Runs the checks at node 3, in epoch 9, with these voters and answers.
    fn checked(voters: &[u8], answers: &[(u8, u32, u64, bool)]) -> Result<(), String> {
        let state = ClusterState { epoch: 9, ..ClusterState::default() };
        let voters = voters.iter().map(|number| node(*number)).collect();
        let standpoint = |(number, generation, epoch, serving): &(u8, u32, u64, bool)| {
            let generation = Generation { number: *generation, by: None };
            (node(*number), GenerationReport { generation, epoch: *epoch, serving: *serving })
        };
        check_answers(&state, &voters, node(3), &answers.iter().map(standpoint).collect())
    }

    #[test]
    fn takeover_is_refused_while_others_do_not_need_it() {
        let refused = |voters: &[u8], answers: &[_]| checked(voters, answers).unwrap_err();
        assert!(refused(&[1, 2, 3], &[(1, 0, 9, false)]).contains("2 of 3 voters answer"));
        assert!(refused(&[1], &[(1, 0, 9, false)]).contains("1 of 1 voters"));
        assert!(refused(&[1, 2, 3], &[(4, 0, 9, true)]).contains("has a lease"));
        assert!(refused(&[1, 2, 3], &[(4, 0, 10, false)]).contains("Run the takeover there"));
        assert!(refused(&[1, 2, 3], &[(4, 1, 99, false)]).contains("took over already"));
    }

    #[test]
    fn takeover_is_possible_once_a_majority_of_voters_is_silent() {
        assert_eq!(checked(&[1], &[]), Ok(()));
        assert_eq!(checked(&[1, 2, 3], &[(4, 0, 9, false), (5, 0, 7, false)]), Ok(()));
    }
}
