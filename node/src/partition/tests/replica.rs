//! Traces of a replica.

use std::error::Error;
use std::fmt::Write as _;

use goldenscript::{ArgumentConsumer, Command, Context, Runner};

use super::{
    Fallible, node, number, number_or, positional, record, rejection, run_all, show_records, show_version,
};
use crate::id::NodeId;
use crate::partition::{Appends, Frame, Place, Rejection, ReplicaAction, ReplicaEvent, ReplicaLog, version};

/// A replica of the assignment 7 whose primary is n1.
struct Trace(ReplicaLog<u64, String>);

impl Default for Trace {
    fn default() -> Self {
        Self(ReplicaLog::new(5, NodeId::from_bytes([1; 32]), 7))
    }
}

impl Runner for Trace {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        match command.name.as_str() {
            "replica" => {
                let primary = node(&positional(&mut args, "the primary")?)?;
                let assigned = number_or(&mut args, "assigned", 7)?;
                self.0 = ReplicaLog::new(number(&mut args, "term")?.try_into()?, primary, assigned);
            }
            "transfer" => {
                let open = self.0.takes_transfer(number(&mut args, "session")?);
                return Ok(format!("{}\n", if open { "open" } else { "closed" }));
            }
            name => {
                let event = event(name, &mut args)?;
                self.0.on_event(event);
            }
        }
        args.reject_next()?;
        let mut out = String::new();
        let mut actions = self.0.take_actions();
        for action in actions.drain(..) {
            writeln!(out, "{}", show(action))?;
        }
        self.0.reuse(actions);
        Ok(out)
    }
}

fn event(name: &str, args: &mut ArgumentConsumer<'_>) -> Fallible<ReplicaEvent<u64, String>> {
    let reply = positional(args, "the reply")?;
    let session = number_or(args, "session", 1)?;
    Ok(match name {
        "stored" | "not-stored" => {
            let sequence = number(args, "sequence")?;
            match name {
                "stored" => ReplicaEvent::Stored { session, sequence, append: sequence, reply },
                _ => {
                    let rejection = rejection(&positional(args, "the rejection")?)?;
                    ReplicaEvent::NotStored { session, sequence, rejection, reply }
                }
            }
        }
        "write" | "digest" | "mark" => {
            let from = node(args.take_key("from").unwrap_or("n1"))?;
            let term = number_or(args, "term", 5)?.try_into()?;
            let (assigned, previous) = (number_or(args, "assigned", 7)?, number(args, "previous")?);
            let place = Place { assigned, session, begins: number_or(args, "begins", 0)?, previous };
            let mut appends = Appends::default();
            while let Some(pending) = args.next_pos() {
                match pending {
                    "receiving" => appends.received = true,
                    "storing" => appends.transferred = true,
                    other => return Err(format!("unknown append {other}").into()),
                }
            }
            let frame = match name {
                "write" => {
                    let mut records = Vec::new();
                    while let Some((key, value)) = args.next_key() {
                        let version = version(term, previous + 1 + records.len() as u64);
                        records.push(caskade_engine::Record { version, ..record(key, value) });
                    }
                    Frame::Replicate(records)
                }
                "digest" => Frame::Digest,
                _ => {
                    let up_to = version(term, number(args, "up-to")?);
                    Frame::Clean { up_to, transfers_from: number(args, "transfers-from")? }
                }
            };
            ReplicaEvent::Received { from, term, place, frame, appends, reply }
        }
        other => return Err(format!("unknown command {other}").into()),
    })
}

fn show(action: ReplicaAction<u64, String>) -> String {
    match action {
        ReplicaAction::Store { session, sequence, records, reply } => {
            format!("store {reply} session={session} sequence={sequence} {}", show_records(&records))
        }
        ReplicaAction::Publish(append) => format!("publish {append}"),
        ReplicaAction::Reply(reply, Ok(())) => format!("reply {reply} ok"),
        ReplicaAction::Reply(reply, Err(rejection)) => {
            let name = match rejection {
                Rejection::Stale => "stale",
                Rejection::Behind => "behind",
                Rejection::Gap => "gap",
                Rejection::Failed => "failed",
                Rejection::NoRoom => "no-room",
            };
            format!("reply {reply} {name}")
        }
        ReplicaAction::Digest(reply) => format!("digest {reply}"),
        ReplicaAction::MarkClean { up_to } => format!("mark-clean {}", show_version(up_to)),
        ReplicaAction::NoteFenced(_) => "note-fenced".to_owned(),
    }
}

#[test]
fn replica_acts_as_its_traces_show() {
    run_all::<Trace>("replica");
}
