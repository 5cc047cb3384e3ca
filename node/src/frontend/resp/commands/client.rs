//! Commands on the connection itself.

use super::{Context, integer, syntax_error, unknown_subcommand, wrong_arity};
use crate::frontend::resp::encoder::Protocol;
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

/// No password can be set in this build: every user but the default one is unknown.
fn authenticate(user: Option<&[u8]>) -> Result<(), Refusal> {
    match user {
        None => Err("ERR AUTH <password> called without any password configured for the default user. \
                     Are you sure your configuration is correct?"
            .into()),
        Some(b"default") => Ok(()),
        Some(_) => Err("WRONGPASS invalid username-password pair or user is disabled.".into()),
    }
}

pub(super) fn auth(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    match args.len() {
        2 => authenticate(None)?,
        3 => authenticate(Some(args.get(1)))?,
        _ => return Err(syntax_error()),
    }
    context.ok()
}

/// `HELLO [protover [AUTH username password] [SETNAME clientname]]`
pub(super) fn hello(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let mut protocol = context.to.protocol;
    if args.len() > 1 {
        protocol = match integer(args.get(1)) {
            Ok(2) => Protocol::Resp2,
            Ok(3) => Protocol::Resp3,
            Ok(_) => return Err("NOPROTO unsupported protocol version".into()),
            Err(_) => return Err("ERR Protocol version is not an integer or out of range".into()),
        };
    }
    let mut name = None;
    let mut index = 2;
    while index < args.len() {
        let option = args.get(index);
        if option.eq_ignore_ascii_case(b"auth") && index + 2 < args.len() {
            authenticate(Some(args.get(index + 1)))?;
            index += 3;
        } else if option.eq_ignore_ascii_case(b"setname") && index + 1 < args.len() {
            name = Some(printable(args.get(index + 1), "Client names")?);
            index += 2;
        } else {
            return Err(
                format!("ERR Syntax error in HELLO option '{}'", String::from_utf8_lossy(option)).into()
            );
        }
    }
    if let Some(name) = name {
        context.client.name = name;
    }
    context.client.protocol = protocol;
    context.to.protocol = protocol;
    greet(context)
}

fn greet(context: &mut Context<'_>) -> Handled {
    let (to, id) = (&mut context.to, context.client.id);
    to.map(7);
    to.name("server");
    to.name("redis");
    to.name("version");
    to.name(REDIS_VERSION);
    to.name("proto");
    to.integer(to.protocol.number());
    to.name("id");
    to.integer(i64::try_from(id).unwrap_or(i64::MAX));
    to.name("mode");
    to.name("cluster");
    to.name("role");
    to.name("master");
    to.name("modules");
    to.array(0);
    Ok(Reply::Written)
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
fn printable(text: &[u8], what: &str) -> Result<String, Refusal> {
    match text.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        true => Ok(String::from_utf8_lossy(text).into_owned()),
        false => Err(format!("ERR {what} cannot contain spaces, newlines or special characters.").into()),
    }
}

fn describe(context: &Context<'_>) -> String {
    let client = &context.client;
    format!(
        "id={} addr={} laddr={} name={} age={} db=0 resp={} lib-name={} lib-ver={}\n",
        client.id,
        client.peer,
        client.local,
        client.name,
        client.since.elapsed().as_secs(),
        client.protocol.number(),
        client.library,
        client.library_version
    )
}
