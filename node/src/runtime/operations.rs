//! `CASK.PLAN` and `CASK.COMMIT`: previews and control of the topology's operations.
//!
//! The asked node makes a plan from its own state. A commit is void unless the coordinator's state agrees in
//! everything that the plan depends on ([`Basis`]). A node proposes only changes that all members can decode.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::Node;
use super::duties::retirable;
use crate::api::{PlanAnswer, PlanPreview};
use crate::cluster::operations::{AdminOperation, Basis};
use crate::cluster::plan::{self, Question};
use crate::cluster::state::{Change, ClusterState, Verdict};
use crate::id::NodeId;

/// Time for which a node waits to receive the committed state, so that its answer includes it.
const SEEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Syntax of the commands.
const USAGE: &str = "CASK.PLAN STATUS | PAUSE | RESUME | ABORT | THROTTLE BYTES-PER-S|DEFAULT | AUTO ON|OFF | \
    JOIN [WEIGHT n] [ZONE name] | operation; CASK.COMMIT operation TOKEN; where operation is LEAVE node | \
    REMOVE node [ACCEPT-LOSS] | REPLACE old new [ACCEPT-LOSS] | WEIGHT node n | ZONE node name | REPLICAS n | \
    REBALANCE";

/// A parsed command.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Request {
    Status,
    Ask(Question),
    Pause,
    Resume,
    Abort,
    Throttle(Option<u64>),
    Auto(bool),
}

impl Node {
    /// `CASK.PLAN`, with the words after it; returns JSON.
    pub(super) async fn plan(self: &Arc<Self>, words: &[String]) -> Result<String, String> {
        let state = self.topology.state();
        let running = || state.plans.running.as_ref().map(|plan| plan.id).ok_or("no plan is running");
        let (change, message) = match parse(&state, words)? {
            Request::Status => return json(&self.plan_answer(String::new())),
            Request::Ask(question) => return json(&self.preview(&state, &question).await?),
            Request::Pause => (Change::PausePlan { plan: running()? }, "the plan is paused"),
            Request::Resume => (Change::ResumePlan { plan: running()? }, "the plan continues"),
            Request::Abort => (Change::AbortPlan { plan: running()? }, "the plan is aborted"),
            Request::Throttle(bytes_per_s) => (Change::SetThrottle { bytes_per_s }, "the pace is set"),
            Request::Auto(enabled) => (Change::SetAutoRebalance { enabled }, "it is set"),
        };
        json(&self.commit_change(change, message).await?)
    }

    /// `CASK.COMMIT`, with the words after it; returns JSON.
    pub(super) async fn commit(self: &Arc<Self>, words: &[String]) -> Result<String, String> {
        let (token, words) = words.split_last().ok_or(USAGE)?;
        let Request::Ask(Question::Operation(operation)) = parse(&self.topology.state(), words)? else {
            return Err(format!("this command is not committed with a token: {USAGE}"));
        };
        let basis = Some(Basis::from_str(token)?);
        json(&self.commit_change(Change::Operate { operation, basis }, "committed").await?)
    }

    async fn commit_change(self: &Arc<Self>, change: Change, message: &str) -> Result<PlanAnswer, String> {
        let epoch = self.topology.state().epoch;
        let verdicts = self.propose(vec![change]).await;
        match verdicts
            .map_err(|error| format!("{error}; `caskctl plan status` shows whether it was done"))?
            .first()
        {
            Some(Verdict::Applied) => {}
            Some(Verdict::Rejected(reason)) => return Err(format!("nothing was changed: {reason}")),
            None => return Err("the coordinator gave no verdict; ask `caskctl plan status`".to_owned()),
        }
        let mut states = self.topology.watch();
        let newer = states.wait_for(|seen| seen.epoch > epoch);
        // A time-out does not matter: the change is committed, and only this node's answer is of an older
        // state.
        let _ = tokio::time::timeout(SEEN_TIMEOUT, newer).await;
        Ok(self.plan_answer(message.to_owned()))
    }

    fn plan_answer(&self, message: String) -> PlanAnswer {
        let state = self.topology.state();
        PlanAnswer {
            message,
            epoch: state.epoch,
            plan: plan::status(&state, &self.cluster_tasks()),
            last: plan::last(&state),
            auto_rebalance: !state.manual_rebalance,
            throttle_bytes_per_s: state.throttle_bytes_per_s,
        }
    }

    async fn preview(
        self: &Arc<Self>,
        state: &ClusterState,
        question: &Question,
    ) -> Result<PlanPreview, String> {
        let figures = self.plane.figures().await;
        let preview =
            plan::preview(state, question, &figures, &self.disk_rooms(), self.plane.pace_bytes_per_s())?;
        let operation = describe(question);
        let next = match question {
            Question::Operation(_) => format!("CASK.COMMIT {operation} {}", preview.token),
            Question::Join { .. } if state.manual_rebalance => {
                "start caskd with --bootstrap; the node is admitted without data until `caskctl plan rebalance`"
                    .to_owned()
            }
            Question::Join { .. } => "start caskd with --bootstrap: the node receives its share at once".to_owned(),
        };
        Ok(PlanPreview { operation, next, ..preview })
    }

    /// As coordinator: retires members that left and have no copies any more. If one of them still votes,
    /// possibly this node, it first loses its vote.
    pub(super) async fn retire_left(self: &Arc<Self>) {
        let changes = retirable(&self.topology.state(), &self.topology.voters());
        if changes.is_empty() {
            return;
        }
        if let Err(error) = self.propose_here(changes).await {
            tracing::debug!(%error, "could not retire nodes that left; this node retries");
        }
    }
}

fn json<T: serde::Serialize>(answer: &T) -> Result<String, String> {
    serde_json::to_string(answer).map_err(|error| format!("cannot encode the answer as JSON: {error}"))
}

/// Returns the words of an operation, as `CASK.COMMIT` takes them.
fn describe(question: &Question) -> String {
    let loss = |accepted: &bool| if *accepted { " ACCEPT-LOSS" } else { "" };
    match question {
        Question::Join { weight, zone } => format!("JOIN WEIGHT {weight} ZONE '{zone}'"),
        Question::Operation(operation) => match operation {
            AdminOperation::Leave { node } => format!("LEAVE {node}"),
            AdminOperation::Remove { node, accept_loss, .. } => format!("REMOVE {node}{}", loss(accept_loss)),
            AdminOperation::Replace { old, new, accept_loss } => {
                format!("REPLACE {old} {new}{}", loss(accept_loss))
            }
            AdminOperation::SetWeight { node, weight } => format!("WEIGHT {node} {weight}"),
            AdminOperation::SetZone { node, zone } => format!("ZONE {node} '{zone}'"),
            AdminOperation::SetReplicas { copies } => format!("REPLICAS {copies}"),
            AdminOperation::Rebalance => "REBALANCE".to_owned(),
        },
    }
}

fn parse(state: &ClusterState, words: &[String]) -> Result<Request, String> {
    let first = words.first().map(|word| word.to_ascii_uppercase()).unwrap_or_default();
    let rest: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    let is = |word: &str, wanted: &str| word.eq_ignore_ascii_case(wanted);
    let operation = |operation| Ok(Request::Ask(Question::Operation(operation)));
    match (first.as_str(), &rest[..]) {
        ("STATUS", []) => Ok(Request::Status),
        ("PAUSE", []) => Ok(Request::Pause),
        ("RESUME", []) => Ok(Request::Resume),
        ("ABORT", []) => Ok(Request::Abort),
        ("THROTTLE", [word]) if is(word, "DEFAULT") => Ok(Request::Throttle(None)),
        ("THROTTLE", [bytes]) => Ok(Request::Throttle(Some(number(bytes)?))),
        ("AUTO", [word]) if is(word, "ON") => Ok(Request::Auto(true)),
        ("AUTO", [word]) if is(word, "OFF") => Ok(Request::Auto(false)),
        ("JOIN", options) => parse_join(options),
        ("LEAVE", [node]) => operation(AdminOperation::Leave { node: member(state, node)? }),
        ("REMOVE", [node]) => operation(removal(state, node, false)?),
        ("REMOVE", [node, word]) if is(word, "ACCEPT-LOSS") => operation(removal(state, node, true)?),
        ("REPLACE", [old, new]) => operation(replacement(state, old, new, false)?),
        ("REPLACE", [old, new, word]) if is(word, "ACCEPT-LOSS") => {
            operation(replacement(state, old, new, true)?)
        }
        ("WEIGHT", [node, weight]) => {
            operation(AdminOperation::SetWeight { node: member(state, node)?, weight: number(weight)? })
        }
        ("ZONE", [node, zone]) => {
            operation(AdminOperation::SetZone { node: member(state, node)?, zone: (*zone).to_owned() })
        }
        ("REPLICAS", [copies]) => operation(AdminOperation::SetReplicas { copies: number(copies)? }),
        ("REBALANCE", []) => operation(AdminOperation::Rebalance),
        _ => Err(format!("usage: {USAGE}")),
    }
}

fn parse_join(options: &[&str]) -> Result<Request, String> {
    let (mut weight, mut zone) = (100, String::new());
    for pair in options.chunks(2) {
        match pair {
            [name, value] if name.eq_ignore_ascii_case("WEIGHT") => weight = number(value)?,
            [name, value] if name.eq_ignore_ascii_case("ZONE") => (*value).clone_into(&mut zone),
            _ => return Err(format!("usage: {USAGE}")),
        }
    }
    Ok(Request::Ask(Question::Join { weight, zone }))
}

fn removal(state: &ClusterState, node: &str, accept_loss: bool) -> Result<AdminOperation, String> {
    let node = member(state, node)?;
    let incarnation = state.member(node).map_or(0, |member| member.announcement.incarnation);
    Ok(AdminOperation::Remove { node, incarnation, accept_loss })
}

fn replacement(
    state: &ClusterState,
    old: &str,
    new: &str,
    accept_loss: bool,
) -> Result<AdminOperation, String> {
    Ok(AdminOperation::Replace { old: member(state, old)?, new: member(state, new)?, accept_loss })
}

fn number<T: FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("'{word}' is not a valid number here"))
}

/// Returns the member with this id, or the only member whose id ends with `name`.
fn member(state: &ClusterState, name: &str) -> Result<NodeId, String> {
    let ends = |node: &&NodeId| !name.is_empty() && node.to_string().ends_with(name);
    let found: Vec<&NodeId> = state.members.keys().filter(ends).collect();
    match found[..] {
        [node] => Ok(*node),
        [] => Err(format!(
            "no member is named '{name}': `caskctl status` shows them; the end of a name is enough"
        )),
        _ => Err(format!("{} members' names end in '{name}': give more characters", found.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::state::{Announcement, StoreCondition};
    use crate::id::ClusterId;

    fn cluster() -> ClusterState {
        let founder = Announcement {
            node: NodeId::from_bytes([1; 32]),
            incarnation: 3,
            peer_addrs: Vec::new(),
            client_addr: String::new(),
            zone: String::new(),
            weight: 100,
            build: String::new(),
            protocol: 1,
            protocol_min: 1,
            store: StoreCondition::Whole,
        };
        let mut state = ClusterState::default();
        let cluster_id = ClusterId::default();
        state.apply(&[Change::Found {
            cluster_id,
            replication_factor: 2,
            lease_ms: 2000,
            rebuild_delay_ms: 1000,
            founder: founder.clone(),
        }]);
        state.apply(&[Change::Register(Announcement { node: NodeId::from_bytes([2; 32]), ..founder })]);
        state
    }

    fn parsed(text: &str) -> Result<Request, String> {
        parse(&cluster(), &text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn described_operation_is_parsed_back_as_the_same() {
        let (node, other) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        for operation in [
            AdminOperation::Leave { node },
            AdminOperation::Remove { node, incarnation: 3, accept_loss: false },
            AdminOperation::Remove { node, incarnation: 3, accept_loss: true },
            AdminOperation::Replace { old: node, new: other, accept_loss: true },
            AdminOperation::SetWeight { node, weight: 50 },
            AdminOperation::SetReplicas { copies: 3 },
            AdminOperation::Rebalance,
        ] {
            let question = Question::Operation(operation);
            assert_eq!(parsed(&describe(&question)), Ok(Request::Ask(question)));
        }
    }

    #[test]
    fn node_is_named_by_the_end_of_its_name_and_nonsense_is_rejected_with_the_usage() {
        let node = NodeId::from_bytes([1; 32]);
        let leave = Request::Ask(Question::Operation(AdminOperation::Leave { node }));
        assert_eq!(parsed(&format!("leave {}", node.short())), Ok(leave));
        assert!(parsed("leave nobody").unwrap_err().contains("no member is named 'nobody'"));
        for text in
            ["", "leave", "remove a b c", "throttle fast", "auto maybe", "join weight", "replicas 300"]
        {
            assert!(parsed(text).is_err(), "{text}");
        }
        assert_eq!(parsed("throttle default"), Ok(Request::Throttle(None)));
        let join = Question::Join { weight: 7, zone: "b".to_owned() };
        assert_eq!(parsed("join zone b weight 7"), Ok(Request::Ask(join)));
    }
}
