//! Traces of a primary.

use std::error::Error;
use std::fmt::Write as _;

use goldenscript::{ArgumentConsumer, Command, Context, Runner};

use super::{
    Fallible, name_of, node, number, number_or, positional, record, rejection, run_all, show_records,
    show_version,
};
use crate::cluster::state::ReplicaRef;
use crate::partition::{
    AppendFailure, AssignedFollower, Phase, Place, Primary, PrimaryAction, PrimaryEvent, version,
};

/// A primary whose appends, waiters and digests are named by the script.
struct Trace {
    primary: Primary<u64, String, String>,
    /// State that was printed last.
    state: Vec<String>,
}

impl Default for Trace {
    fn default() -> Self {
        Self { primary: Primary::new(1, Phase::Serving, 0), state: Vec::new() }
    }
}

impl Runner for Trace {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        match command.name.as_str() {
            "primary" => {
                let (term, phase) = (number(&mut args, "term")?.try_into()?, Phase::Serving);
                let phase = if args.take_key("phase").is_some() { Phase::Recovering } else { phase };
                self.primary = Primary::new(term, phase, 0);
                self.primary.on_event(PrimaryEvent::Assigned(copies(&mut args)?));
            }
            "order" => {
                let (waiter, now_ms) =
                    (positional(&mut args, "the waiter")?, number_or(&mut args, "now", 0)?);
                let waiter = Some(waiter).filter(|waiter| waiter != "-");
                let mut records = Vec::new();
                while let Some((key, value)) = args.next_key() {
                    records.push(record(key, value));
                }
                self.primary.order(records, now_ms, waiter);
            }
            "wait" => {
                let (waiter, key) = (positional(&mut args, "the waiter")?, args.take_key("key"));
                let waits = match key {
                    Some(key) => self.primary.wait_for_newest(key.as_bytes(), waiter),
                    None => self.primary.wait_for_all(waiter),
                };
                if let Err(waiter) = waits {
                    return Ok(format!("{waiter} is answered at once\n"));
                }
            }
            "digest" => self.primary.digest_after_last(positional(&mut args, "the waiter")?),
            "finish-recovery" => self.primary.finish_recovery(),
            "stop" => self.primary.stop(),
            "abandon" => self.primary.abandon(),
            "suspend-slow" => {
                self.primary.suspend_slow(number(&mut args, "now")?, number(&mut args, "timeout")?)
            }
            "step-down" => {
                let (now_ms, patience_ms) = (number(&mut args, "now")?, number(&mut args, "patience")?);
                let steps_down = self.primary.steps_down(now_ms, patience_ms);
                return Ok(format!("steps down: {steps_down}\n{}", self.output()?));
            }
            "mark-clean" => {
                let (copies, storing) = (number(&mut args, "copies")?, args.next_pos() == Some("storing"));
                self.primary.mark_clean(copies.try_into()?, storing);
            }
            name => {
                let event = event(name, &mut args)?;
                self.primary.on_event(event);
            }
        }
        args.reject_next()?;
        self.output()
    }
}

impl Trace {
    /// Prints the actions, and the lines of the state that changed.
    fn output(&mut self) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        let mut actions = self.primary.take_actions();
        for action in actions.drain(..) {
            writeln!(out, "{}", self.show(action))?;
        }
        self.primary.reuse(actions);
        let mut state = vec![format!("term={} {:?}", self.primary.term(), self.primary.phase())];
        let followers = self.primary.followers().iter();
        state.extend(followers.map(|follower| {
            let in_sync = if follower.is_in_sync() { "in-sync" } else { "syncing" };
            format!("{} {in_sync} {follower}", name_of(follower.node()))
        }));
        for line in state.iter().filter(|line| !self.state.contains(line)) {
            writeln!(out, "= {line}")?;
        }
        self.state = state;
        Ok(out)
    }

    fn show(&self, action: PrimaryAction<u64, String, String>) -> String {
        match action {
            PrimaryAction::Ordered { bytes } => format!("ordered bytes={bytes}"),
            PrimaryAction::Released { bytes } => format!("released bytes={bytes}"),
            PrimaryAction::Append(writes) => {
                let records = self.primary.pending(writes).map(|(_, records)| show_records(records));
                format!("append {}", records.collect::<Vec<_>>().join(" "))
            }
            PrimaryAction::Send { to, place, writes } => {
                let records = self.primary.pending(writes).map(|(_, records)| show_records(records));
                let records = records.collect::<Vec<_>>().join(" ");
                format!("send {} {} {records}", name_of(to), show_place(place))
            }
            PrimaryAction::Publish(append) => format!("publish {append}"),
            PrimaryAction::Answer(waiter) => format!("answer {waiter}"),
            PrimaryAction::Abandon(waiter) => format!("abandon {waiter}"),
            PrimaryAction::Refuse(waiter) => format!("refuse {waiter}"),
            PrimaryAction::Digest(waiter) => format!("digest {waiter}"),
            PrimaryAction::Suspend(name) => format!("suspend {}", name_of(name.node)),
            PrimaryAction::MarkClean { up_to } => format!("mark-clean {}", show_version(up_to)),
            PrimaryAction::SendMark { to, place, up_to, transfers_from } => format!(
                "send-mark {} {} up-to={} transfers-from={transfers_from}",
                name_of(to),
                show_place(place),
                show_version(up_to)
            ),
            PrimaryAction::Wake { at_ms } => format!("wake at={at_ms}"),
        }
    }
}

fn event(name: &str, args: &mut ArgumentConsumer<'_>) -> Fallible<PrimaryEvent<u64>> {
    Ok(match name {
        "assigned" => PrimaryEvent::Assigned(copies(args)?),
        "appended" => {
            let sequence = positional(args, "the sequence")?.parse()?;
            PrimaryEvent::Appended { sequence, append: sequence }
        }
        "append-failed" => {
            let sequence = positional(args, "the sequence")?.parse()?;
            let failure = match positional(args, "the failure")?.as_str() {
                "overloaded" => AppendFailure::Overloaded,
                "no-space" => AppendFailure::NoSpace,
                other => return Err(format!("unknown failure {other}").into()),
            };
            PrimaryEvent::AppendFailed { sequence, failure, now_ms: number(args, "now")? }
        }
        "acknowledged" => {
            let (node, session) = (node(&positional(args, "the node")?)?, number(args, "session")?);
            PrimaryEvent::Acknowledged { node, session, sequence: number(args, "sequence")? }
        }
        "rejected" => {
            let node = node(&positional(args, "the node")?)?;
            let rejection = rejection(&positional(args, "the rejection")?)?;
            let (session, now_ms) = (number(args, "session")?, number(args, "now")?);
            PrimaryEvent::Rejected { node, session, rejection, now_ms }
        }
        "gap-before-digest" => {
            let node = node(&positional(args, "the node")?)?;
            PrimaryEvent::GapBeforeDigest { node, session: number(args, "session")? }
        }
        "marked-clean" => {
            let (node, session) = (node(&positional(args, "the node")?)?, number(args, "session")?);
            let up_to = version(number(args, "term")?.try_into()?, number(args, "sequence")?);
            PrimaryEvent::MarkedClean { node, session, up_to }
        }
        "tick" => PrimaryEvent::Tick { now_ms: number(args, "now")? },
        other => return Err(format!("unknown command {other}").into()),
    })
}

/// Returns the copies of `n2 n3/syncing`; the present state of each began in the epoch `since=`.
fn copies(args: &mut ArgumentConsumer<'_>) -> Fallible<Vec<AssignedFollower>> {
    let syncing_since = number_or(args, "since", 1)?;
    let mut copies = Vec::new();
    while let Some(name) = args.next_pos() {
        let (name, in_sync) = name.strip_suffix("/syncing").map_or((name, true), |name| (name, false));
        let name = ReplicaRef { node: node(name)?, incarnation: 1, syncing_since };
        copies.push(AssignedFollower { name, assigned: 1, in_sync });
    }
    Ok(copies)
}

fn show_place(place: Place) -> String {
    format!("session={} begins={} previous={}", place.session, place.begins, place.previous)
}

#[test]
fn primary_acts_as_its_traces_show() {
    run_all::<Trace>("primary");
}
