//! `CASK.*`: administrative commands that Redis does not have. Replies are JSON of the types in
//! [`crate::api`].

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use super::context::{Context, Handled, later};
use super::errors::{integer, wrong_arity};
use crate::frontend::keyspace::AdminRequest;
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::Refusal;

/// Events of CASK.EVENTS without a count.
const EVENTS: usize = 100;

pub(super) fn status(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    ask(context, AdminRequest::Status)
}

pub(super) fn nodes(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    ask(context, AdminRequest::Nodes)
}

pub(super) fn ring(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    ask(context, AdminRequest::Ring)
}

pub(super) fn tasks(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    ask(context, AdminRequest::Tasks)
}

pub(super) fn digests(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    ask(context, AdminRequest::Digests)
}

/// `CASK.EVENTS [count]`
pub(super) fn events(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let limit = match args.len() {
        1 => EVENTS,
        2 => usize::try_from(integer(args.get(1))?)
            .map_err(|_| Refusal::from("ERR count must not be negative"))?,
        _ => return Err(wrong_arity("cask.events")),
    };
    ask(context, AdminRequest::Events { limit })
}

/// `CASK.SNAPSHOT directory`
pub(super) fn snapshot(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let directory = OsStr::from_bytes(args.get(1)).into();
    ask(context, AdminRequest::Snapshot { directory })
}

/// `CASK.REBUILD node`
pub(super) fn rebuild(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    ask(context, AdminRequest::Rebuild { node: text(args.get(1)) })
}

/// `CASK.DRAIN node`
pub(super) fn drain(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    ask(context, AdminRequest::Drain { node: text(args.get(1)) })
}

/// `CASK.UNDRAIN node`
pub(super) fn undrain(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    ask(context, AdminRequest::Undrain { node: text(args.get(1)) })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `CASK.TAKEOVER [YES]`
pub(super) fn takeover(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let confirmed = match args.len() {
        1 => false,
        2 if args.get(1).eq_ignore_ascii_case(b"yes") => true,
        _ => return Err("ERR CASK.TAKEOVER takes YES, or no argument for a preview".into()),
    };
    ask(context, AdminRequest::TakeOver { confirmed })
}

/// `CASK.GIVEUP partitions [CONFIRM words ...]`
pub(super) fn giveup(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let confirmation = match args.len() {
        2 => None,
        4.. if args.get(2).eq_ignore_ascii_case(b"confirm") => Some(words(args)[2..].join(" ")),
        _ => {
            let usage = "ERR CASK.GIVEUP takes partitions (17, 3,5-9, ALL), and CONFIRM and the words it \
                         asks for to do it";
            return Err(usage.into());
        }
    };
    ask(context, AdminRequest::GiveUp { partitions: text(args.get(1)), confirmation })
}

/// `CASK.PLAN what ...`
pub(super) fn plan(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    ask(context, AdminRequest::Plan { words: words(args) })
}

/// `CASK.COMMIT operation ... token`
pub(super) fn commit(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    ask(context, AdminRequest::Commit { words: words(args) })
}

/// Returns the arguments after the command's name, as text.
fn words(args: Args<'_>) -> Vec<String> {
    (1..args.len()).map(|at| String::from_utf8_lossy(args.get(at)).into_owned()).collect()
}

fn ask(context: &mut Context<'_>, request: AdminRequest) -> Handled {
    let (keyspace, local) = (context.server.keyspace.clone(), context.client.local);
    let answer = async move {
        keyspace.admin(request, local).await.map_err(|text| Refusal::from(format!("ERR {text}")))
    };
    later(context, answer, |json, to| to.bulk(json.as_bytes()))
}
