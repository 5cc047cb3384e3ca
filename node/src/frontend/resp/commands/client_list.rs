//! `CLIENT`: information about connections, and commands that end, pause or configure them.

use std::sync::Arc;
use std::time::Duration;

use super::context::{Context, Handled, Reply};
use super::errors::{integer, syntax_error, wrong_subcommand};
use crate::access::Access;
use crate::frontend::clients::Registered;
use crate::frontend::resp::client::Replies;
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::Refusal;

pub(super) fn id(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    context.to.integer(i64::try_from(context.client.id).unwrap_or(i64::MAX));
    Ok(Reply::Written)
}

pub(super) fn getname(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    match context.client.name.is_empty() {
        true => context.to.null(),
        false => context.to.bulk(context.client.name.as_bytes()),
    }
    Ok(Reply::Written)
}

pub(super) fn setname(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    context.client.name = printable(args.get(2), "Client names")?;
    context.ok()
}

pub(super) fn setinfo(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let option = args.get(2);
    if option.eq_ignore_ascii_case(b"lib-name") {
        context.client.library = printable(args.get(3), "lib-name")?;
    } else if option.eq_ignore_ascii_case(b"lib-ver") {
        context.client.library_version = printable(args.get(3), "lib-ver")?;
    } else {
        return Err(format!("ERR Unrecognized option '{}'", String::from_utf8_lossy(option)).into());
    }
    context.ok()
}

/// Returns `text` if it consists of printable characters without blanks, so that it fits a line of CLIENT
/// LIST.
pub(super) fn printable(text: &[u8], what: &str) -> Result<String, Refusal> {
    match text.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        true => Ok(String::from_utf8_lossy(text).into_owned()),
        false => Err(format!("ERR {what} cannot contain spaces, newlines or special characters.").into()),
    }
}

/// Returns the line of this connection for CLIENT LIST and ACL LOG.
pub(super) fn describe(context: &Context<'_>) -> String {
    context.client.show();
    context.client.registered.line()
}

pub(super) fn info(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    let line = format!("{}\n", describe(context));
    context.to.text(&line);
    Ok(Reply::Written)
}

/// Returns whether `name` is the client type `normal`, which all clients have.
///
/// # Errors
/// Redis has no client type of this name.
fn is_normal(name: &[u8]) -> Result<bool, Refusal> {
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    match ["normal", "master", "slave", "replica", "pubsub"].iter().any(|known| is(known)) {
        true => Ok(is("normal")),
        false => Err(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(name)).into()),
    }
}

pub(super) fn list(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let option = args.get(2);
    let mut clients = context.server.clients.all();
    if args.len() == 4 && option.eq_ignore_ascii_case(b"type") {
        if !is_normal(args.get(3))? {
            clients.clear();
        }
    } else if args.len() > 3 && option.eq_ignore_ascii_case(b"id") {
        let ids: Result<Vec<i64>, Refusal> =
            args.from(3).map(|id| integer(id).map_err(|_| "ERR Invalid client ID".into())).collect();
        let ids = ids?;
        clients.retain(|client| i64::try_from(client.id).is_ok_and(|id| ids.contains(&id)));
    } else if args.len() != 2 {
        return Err(syntax_error());
    }
    context.client.show();
    let text: String = clients.iter().map(|client| client.line() + "\n").collect();
    context.to.text(&text);
    Ok(Reply::Written)
}

/// Filter of the clients that CLIENT KILL ends.
#[derive(Default)]
struct Filter {
    id: Option<i64>,
    normal: Option<bool>,
    addr: Option<String>,
    laddr: Option<String>,
    user: Option<String>,
    skip_me: bool,
}

impl Filter {
    /// Reads the filter from the arguments.
    ///
    /// # Errors
    /// Redis's error for a wrong argument, or for a user that `access` does not have.
    fn read(access: &Access, args: Args<'_>) -> Result<Self, Refusal> {
        let mut filter = Self { skip_me: true, ..Self::default() };
        let text = |index: usize| String::from_utf8_lossy(args.get(index)).into_owned();
        for index in (2..args.len()).step_by(2) {
            let value = args.get(index + 1);
            let is =
                |name: &str| index + 1 < args.len() && args.get(index).eq_ignore_ascii_case(name.as_bytes());
            if is("id") {
                let id = integer(value).ok().filter(|id| *id >= 1);
                filter.id = Some(id.ok_or("ERR client-id should be greater than 0")?);
            } else if is("type") {
                filter.normal = Some(is_normal(value)?);
            } else if is("addr") {
                filter.addr = Some(text(index + 1));
            } else if is("laddr") {
                filter.laddr = Some(text(index + 1));
            } else if is("user") {
                let user = text(index + 1);
                if access.user(value).is_none() {
                    return Err(format!("ERR No such user '{user}'").into());
                }
                filter.user = Some(user);
            } else if is("skipme") && value.eq_ignore_ascii_case(b"yes") {
                filter.skip_me = true;
            } else if is("skipme") && value.eq_ignore_ascii_case(b"no") {
                filter.skip_me = false;
            } else {
                return Err(syntax_error());
            }
        }
        Ok(filter)
    }

    fn fits(&self, client: &Registered, me: u64) -> bool {
        self.id.is_none_or(|id| u64::try_from(id) == Ok(client.id))
            && self.normal.unwrap_or(true)
            && self.addr.as_ref().is_none_or(|addr| *addr == client.peer.to_string())
            && self.laddr.as_ref().is_none_or(|addr| *addr == client.local)
            && self.user.as_ref().is_none_or(|user| *user == client.shown().user)
            && !(self.skip_me && client.id == me)
    }
}

pub(super) fn kill(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let me = context.client.id;
    let by_address = args.len() == 3;
    let filter = match by_address {
        true => Filter { addr: Some(String::from_utf8_lossy(args.get(2)).into_owned()), ..Filter::default() },
        false => Filter::read(context.server.access(), args)?,
    };
    let clients = context.server.clients.all();
    let clients: Vec<&Arc<Registered>> = clients.iter().filter(|client| filter.fits(client, me)).collect();
    if by_address && clients.is_empty() {
        return Err("ERR No such client".into());
    }
    for client in clients.iter().filter(|client| client.id != me) {
        client.end();
    }
    match by_address {
        true => context.to.ok(),
        false => context.to.integer(clients.len() as i64),
    }
    // If the client kills its own connection, the reply is still written before it closes.
    Ok(if clients.iter().any(|client| client.id == me) { Reply::Close } else { Reply::Written })
}

pub(super) fn pause(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let all = match args.len() {
        3 => true,
        4 if args.get(3).eq_ignore_ascii_case(b"all") => true,
        4 if args.get(3).eq_ignore_ascii_case(b"write") => false,
        4 => return Err("ERR CLIENT PAUSE mode must be WRITE or ALL".into()),
        _ => return Err(wrong_subcommand(args)),
    };
    let time_ms = integer(args.get(2))
        .map_err(|_| Refusal::from("ERR timeout is not an integer or out of range"))
        .and_then(|ms| u64::try_from(ms).map_err(|_| "ERR timeout is negative".into()))?;
    context.server.clients.pause(Duration::from_millis(time_ms), all);
    context.ok()
}

pub(super) fn unpause(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    context.server.clients.unpause();
    context.ok()
}

/// `CLIENT UNBLOCK`: always 0, because no command blocks its client.
pub(super) fn unblock(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let reason = args.get(3);
    let known = |name: &str| reason.eq_ignore_ascii_case(name.as_bytes());
    if args.len() == 4 && !known("timeout") && !known("error") {
        return Err("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR".into());
    }
    if args.len() > 4 {
        return Err(wrong_subcommand(args));
    }
    integer(args.get(2))?;
    context.to.integer(0);
    Ok(Reply::Written)
}

fn switch(args: Args<'_>) -> Result<bool, Refusal> {
    match args.get(2).to_ascii_lowercase().as_slice() {
        b"on" => Ok(true),
        b"off" => Ok(false),
        _ => Err(syntax_error()),
    }
}

pub(super) fn no_evict(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let on = switch(args)?;
    context.client.registered.show(|shown| shown.no_evict = on);
    context.ok()
}

pub(super) fn no_touch(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let on = switch(args)?;
    context.client.registered.show(|shown| shown.no_touch = on);
    context.ok()
}

/// `CLIENT REPLY`: has no reply of its own unless it switches replies on.
pub(super) fn reply(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let replies = &mut context.client.replies;
    match args.get(2).to_ascii_lowercase().as_slice() {
        b"on" => {
            *replies = Replies::On;
            return context.ok();
        }
        b"off" => *replies = Replies::Off,
        b"skip" if *replies != Replies::Off => *replies = Replies::SkipNext,
        b"skip" => {}
        _ => return Err(syntax_error()),
    }
    Ok(Reply::Written)
}

/// `CLIENT TRACKING`: rejects ON, because the node sends no invalidations to clients that cache values.
pub(super) fn tracking(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let on = switch(args)?;
    let is = |index: usize, names: &[&str]| {
        names.iter().any(|name| args.get(index).eq_ignore_ascii_case(name.as_bytes()))
    };
    let mut index = 3;
    while index < args.len() {
        index += match index + 1 < args.len() && is(index, &["redirect", "prefix"]) {
            true => 2,
            false if is(index, &["bcast", "optin", "optout", "noloop"]) => 1,
            false => return Err(syntax_error()),
        };
    }
    match on {
        true => {
            Err("ERR CLIENT TRACKING ON is not supported: a node does not notify clients of writes that \
                 other nodes accept; do not cache replies, or let them expire"
                .into())
        }
        false => context.ok(),
    }
}

pub(super) fn caching(_context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    Err("ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled".into())
}

pub(super) fn getredir(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    context.to.integer(-1);
    Ok(Reply::Written)
}

pub(super) fn trackinginfo(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    let to = &mut context.to;
    to.map(3);
    to.name("flags");
    to.set(1);
    to.name("off");
    to.name("redirect");
    to.integer(-1);
    to.name("prefixes");
    to.array(0);
    Ok(Reply::Written)
}
