//! Commands on the connection itself.

use super::{Context, integer, unknown_subcommand, wrong_arity};
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::{Handled, Refusal, Reply};

/// The Redis release whose behaviour this front end has, told to clients that ask.
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
        _ => Err("ERR SELECT is not allowed in cluster mode".into()),
    }
}

/// From now on reads may be stale, where there are no others.
pub(super) fn readonly(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    context.client.readonly = true;
    context.ok()
}

/// Ends [`readonly`].
pub(super) fn readwrite(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    context.client.readonly = false;
    context.ok()
}

pub(super) fn client(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let name = args.get(1).to_ascii_lowercase();
    let fits = |count: usize, name: &str| match args.len() == count {
        true => Ok(()),
        false => Err(wrong_arity(&format!("client|{name}"))),
    };
    match name.as_slice() {
        b"id" => {
            fits(2, "id")?;
            context.to.integer(i64::try_from(context.client.id).unwrap_or(i64::MAX));
        }
        b"getname" => {
            fits(2, "getname")?;
            match context.client.name.is_empty() {
                true => context.to.null(),
                false => context.to.bulk(context.client.name.as_bytes()),
            }
        }
        b"setname" => {
            fits(3, "setname")?;
            context.client.name = printable(args.get(2), "Client names")?;
            context.to.ok();
        }
        b"setinfo" => {
            fits(4, "setinfo")?;
            set_info(context, args)?;
        }
        b"info" => {
            fits(2, "info")?;
            let line = describe(context);
            context.to.text(&line);
        }
        b"help" => help(
            context,
            &[
                "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "GETNAME",
                "    Return the name of the current connection.",
                "ID",
                "    Return the ID of the current connection.",
                "INFO",
                "    Return information about the current client connection.",
                "SETINFO <LIB-NAME|LIB-VER> <value>",
                "    Set client meta attr.",
                "SETNAME <name>",
                "    Assign the name <name> to the current connection.",
            ],
        ),
        _ => return Err(unknown_subcommand(args)),
    }
    Ok(Reply::Written)
}

/// Writes what a subcommand HELP answers.
pub(super) fn help(context: &mut Context<'_>, lines: &[&str]) {
    const END: [&str; 2] = ["HELP", "    Print this help."];
    context.to.array(lines.len() + END.len());
    for line in lines.iter().chain(&END) {
        context.to.status(line);
    }
}

fn set_info(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Refusal> {
    let option = args.get(2);
    if option.eq_ignore_ascii_case(b"lib-name") {
        context.client.library = printable(args.get(3), "lib-name")?;
    } else if option.eq_ignore_ascii_case(b"lib-ver") {
        context.client.library_version = printable(args.get(3), "lib-ver")?;
    } else {
        return Err(format!("ERR Unrecognized option '{}'", String::from_utf8_lossy(option)).into());
    }
    context.to.ok();
    Ok(())
}

/// A name that fits one line of a list.
pub(super) fn printable(text: &[u8], what: &str) -> Result<String, Refusal> {
    match text.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        true => Ok(String::from_utf8_lossy(text).into_owned()),
        false => Err(format!("ERR {what} cannot contain spaces, newlines or special characters.").into()),
    }
}

pub(super) fn describe(context: &Context<'_>) -> String {
    let client = &context.client;
    format!(
        "id={} addr={} laddr={} name={} age={} db=0 user={} resp={} lib-name={} lib-ver={}\n",
        client.id,
        client.peer,
        client.local,
        client.name,
        client.since.elapsed().as_secs(),
        client.session.user().name,
        client.protocol.number(),
        client.library,
        client.library_version
    )
}
