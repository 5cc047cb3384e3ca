//! Commands on the connection itself.

use super::context::{Context, Handled, Reply};
use super::errors::{integer, wrong_arity};
use crate::frontend::resp::client::Replies;
use crate::frontend::resp::encoder::Protocol;
use crate::frontend::resp::parser::Args;

/// The Redis release whose behaviour this front end has, as reported to clients.
pub(super) const REDIS_VERSION: &str = "7.2.0";

pub(super) fn ping(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    match args.len() {
        1 => context.to.status("PONG"),
        2 => context.to.bulk(args.get(1)),
        _ => return Err(wrong_arity("ping")),
    }
    Ok(Reply::Written)
}

pub(super) fn echo(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    context.to.bulk(args.get(1));
    Ok(Reply::Written)
}

pub(super) fn quit(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    context.to.ok();
    Ok(Reply::Close)
}

pub(super) fn select(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    match integer(args.get(1))? {
        0 => context.ok(),
        number if i32::try_from(number).is_err() => {
            Err(format!("ERR value is out of range, value must between {} and {}", i32::MIN, i32::MAX).into())
        }
        _ => Err("ERR SELECT is not allowed in cluster mode".into()),
    }
}

/// `READONLY`: later reads may be stale where no current ones are possible.
pub(super) fn readonly(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    context.client.readonly = true;
    context.ok()
}

/// `READWRITE`: ends [`readonly`].
pub(super) fn readwrite(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    context.client.readonly = false;
    context.ok()
}

/// `ASKING`: has no effect, because every node serves every key.
pub(super) fn asking(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    context.ok()
}

/// `RESET`: resets the connection to its initial state, except its number and the client library's name and
/// version.
pub(super) fn reset(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    let client = &mut context.client;
    client.name.clear();
    client.readonly = false;
    client.queue = None;
    client.watched = Default::default();
    client.replies = Replies::On;
    client.protocol = Protocol::Resp2;
    client.session = context.server.access().session();
    client.registered.show(|shown| (shown.no_evict, shown.no_touch) = (false, false));
    context.to.protocol = Protocol::Resp2;
    context.to.status("RESET");
    Ok(Reply::Written)
}
