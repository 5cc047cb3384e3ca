//! `COMMAND`: what there is to be asked, told from the tables.

use super::subcommands::{self, SUBCOMMANDS, Subcommand};
use super::{COMMANDS, Command, Context, Kind, by_name, syntax_error};
use crate::access::catalogue;
use crate::frontend::resp::encoder::Encoder;
use crate::frontend::resp::glob;
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::{Handled, Refusal, Reply};

/// What a name of one or, with `|`, two parts means.
enum Named {
    Command(&'static Command),
    Subcommand(&'static Subcommand),
}

fn named(name: &[u8]) -> Option<Named> {
    let (first, second) = match name.iter().position(|byte| *byte == b'|') {
        Some(at) => (name.get(..at)?, name.get(at + 1..)),
        None => (name, None),
    };
    match second {
        Some(second) => subcommands::find(first, second).map(Named::Subcommand),
        None => by_name(first).map(Named::Command),
    }
}

/// `COMMAND`, with or without a subcommand.
pub(super) fn command(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    if args.len() > 1 {
        return subcommands::run(context, args);
    }
    write_all(&mut context.to, COMMANDS.iter().map(|command| Some(Named::Command(command))));
    Ok(Reply::Written)
}

pub(super) fn count(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    context.to.integer(COMMANDS.len() as i64);
    Ok(Reply::Written)
}

pub(super) fn info(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    if args.len() == 2 {
        write_all(&mut context.to, COMMANDS.iter().map(|command| Some(Named::Command(command))));
    } else {
        write_all(&mut context.to, args.from(2).map(named));
    }
    Ok(Reply::Written)
}

pub(super) fn docs(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let asked: Vec<Named> = match args.len() {
        2 => COMMANDS.iter().map(Named::Command).collect(),
        _ => args.from(2).filter_map(named).collect(),
    };
    context.to.map(asked.len());
    for one in asked {
        match one {
            Named::Command(command) => write_docs(&mut context.to, command),
            Named::Subcommand(sub) => write_sub_docs(&mut context.to, sub),
        }
    }
    Ok(Reply::Written)
}

/// `COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN pattern]`
pub(super) fn list(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let all = COMMANDS.iter().map(|command| command.name).chain(SUBCOMMANDS.iter().map(|sub| sub.name));
    let mut names: Vec<&str> = all.collect();
    if args.len() == 5 && args.get(2).eq_ignore_ascii_case(b"filterby") {
        let value = args.get(4);
        match args.get(3).to_ascii_lowercase().as_slice() {
            b"module" => names.clear(),
            b"pattern" => names.retain(|name| glob::matches(value, name.as_bytes(), true)),
            b"aclcat" => names.retain(|name| has_category(name, value)),
            _ => return Err(syntax_error()),
        }
    } else if args.len() != 2 {
        return Err(syntax_error());
    }
    context.to.array(names.len());
    names.iter().for_each(|name| context.to.bulk(name.as_bytes()));
    Ok(Reply::Written)
}

/// Whether a command is of an ACL category: of its group, or of what it does to keys.
fn has_category(name: &str, category: &[u8]) -> bool {
    let command = by_name(name.split('|').next().unwrap_or(name).as_bytes());
    command.is_some_and(|command| {
        let group = match command.group {
            "generic" => "keyspace",
            "transactions" => "transaction",
            "server" | "cluster" => "admin",
            group => group,
        };
        let does = match command.kind {
            Kind::Read => "read",
            Kind::Write | Kind::Delete => "write",
            Kind::Other | Kind::Barrier => "",
        };
        !category.is_empty()
            && [group, does].iter().any(|known| category.eq_ignore_ascii_case(known.as_bytes()))
    })
}

fn write_all(to: &mut Encoder<'_>, asked: impl Iterator<Item = Option<Named>>) {
    let asked: Vec<_> = asked.collect();
    to.array(asked.len());
    for one in asked {
        match one {
            Some(Named::Command(command)) => write_command(to, command),
            Some(Named::Subcommand(sub)) => write_subcommand(to, sub),
            None => to.null(),
        }
    }
}

fn write_command(to: &mut Encoder<'_>, command: &Command) {
    to.array(10);
    to.bulk(command.name.as_bytes());
    to.integer(command.arity.into());
    to.set(command.flags().len());
    command.flags().iter().for_each(|flag| to.status(flag));
    to.integer(command.keys.first.into());
    to.integer(command.keys.last.into());
    to.integer(command.keys.step.into());
    write_categories(to, command.name);
    // Tips and key specifications are not told.
    (0..2).for_each(|_| to.array(0));
    let subs: Vec<_> = subcommands::of(command.name).collect();
    to.array(subs.len());
    subs.into_iter().for_each(|sub| write_subcommand(to, sub));
}

fn write_categories(to: &mut Encoder<'_>, name: &str) {
    let names: Vec<_> =
        catalogue::find(name).into_iter().flat_map(|entry| entry.categories.names()).collect();
    to.set(names.len());
    names.iter().for_each(|name| to.status(&format!("@{name}")));
}

fn write_subcommand(to: &mut Encoder<'_>, sub: &Subcommand) {
    to.array(10);
    to.bulk(sub.name.as_bytes());
    to.integer(sub.arity.into());
    to.set(2);
    to.status("loading");
    to.status("stale");
    (0..3).for_each(|_| to.integer(0));
    write_categories(to, sub.name);
    (0..3).for_each(|_| to.array(0));
}

fn write_docs(to: &mut Encoder<'_>, command: &Command) {
    let subs: Vec<_> = subcommands::of(command.name).collect();
    to.name(command.name);
    to.map(if subs.is_empty() { 2 } else { 3 });
    to.name("summary");
    to.name(command.summary);
    to.name("group");
    to.name(command.group);
    if !subs.is_empty() {
        to.name("subcommands");
        to.map(subs.len());
        subs.into_iter().for_each(|sub| write_sub_docs(to, sub));
    }
}

fn write_sub_docs(to: &mut Encoder<'_>, sub: &Subcommand) {
    to.name(sub.name);
    to.map(2);
    to.name("summary");
    to.name(sub.summary);
    to.name("group");
    to.name(by_name(sub.command().as_bytes()).map_or("server", |command| command.group));
}

/// The command that is asked about, and where its keys are.
fn keys_of(args: Args<'_>) -> Result<(&'static Command, Vec<usize>), Refusal> {
    let asked = args.skip(2);
    let command = by_name(asked.get(0)).ok_or("ERR Invalid command specified")?;
    let has_subcommands = subcommands::of(command.name).next().is_some();
    if has_subcommands && asked.len() > 1 && subcommands::find(asked.get(0), asked.get(1)).is_none() {
        return Err("ERR Invalid command specified".into());
    }
    let keys: Vec<usize> = command.keys.of(asked).collect();
    if command.keys.first == 0 {
        return Err("ERR The command has no key arguments".into());
    }
    if !command.arity_fits(asked) {
        return Err("ERR Invalid number of arguments specified for command".into());
    }
    match keys.is_empty() {
        true => Err("ERR Invalid arguments specified for command".into()),
        false => Ok((command, keys)),
    }
}

pub(super) fn get_keys(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let (_, keys) = keys_of(args)?;
    context.to.array(keys.len());
    keys.into_iter().for_each(|index| context.to.bulk(args.get(2 + index)));
    Ok(Reply::Written)
}

pub(super) fn get_keys_and_flags(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let (command, keys) = keys_of(args)?;
    let flags: &[&str] = match command.kind {
        Kind::Read => &["RO", "access"],
        Kind::Delete => &["RM", "delete"],
        Kind::Write | Kind::Other | Kind::Barrier => &["RW", "access", "update"],
    };
    context.to.array(keys.len());
    for index in keys {
        context.to.array(2);
        context.to.bulk(args.get(2 + index));
        context.to.set(flags.len());
        flags.iter().for_each(|flag| context.to.status(flag));
    }
    Ok(Reply::Written)
}
