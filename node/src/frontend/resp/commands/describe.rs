//! `COMMAND`: descriptions of the commands, from the tables.

use super::command::{Command, CommandTable, Keys, Kind, Subcommand, run_subcommand};
use super::context::{Context, Handled, Reply};
use super::errors::syntax_error;
use super::properties::{self, KeySpec};
use crate::access::catalogue;
use crate::access::categories::Categories;
use crate::frontend::resp::encoder::Encoder;
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::Refusal;
use crate::glob;

/// A command, or a subcommand (`command|subcommand`), found by name.
enum Named {
    Command(&'static Command),
    Subcommand(&'static Subcommand),
}

fn named(table: &CommandTable, name: &[u8]) -> Option<Named> {
    let (first, second) = match name.iter().position(|byte| *byte == b'|') {
        Some(at) => (name.get(..at)?, name.get(at + 1..)),
        None => (name, None),
    };
    match second {
        Some(second) => table.subcommand(first, second).map(Named::Subcommand),
        None => table.by_name(first).map(Named::Command),
    }
}

/// `COMMAND`, with or without a subcommand.
pub(super) fn command(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    if args.len() > 1 {
        return run_subcommand(context, args);
    }
    write_all(context, context.table.commands.iter().map(|command| Some(Named::Command(command))));
    Ok(Reply::Written)
}

pub(super) fn count(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    context.to.integer(context.table.commands.len() as i64);
    Ok(Reply::Written)
}

pub(super) fn info(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    if args.len() == 2 {
        write_all(context, context.table.commands.iter().map(|command| Some(Named::Command(command))));
    } else {
        write_all(context, args.from(2).map(|name| named(context.table, name)));
    }
    Ok(Reply::Written)
}

pub(super) fn docs(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let asked: Vec<Named> = match args.len() {
        2 => context.table.commands.iter().map(Named::Command).collect(),
        _ => args.from(2).filter_map(|name| named(context.table, name)).collect(),
    };
    context.to.map(asked.len());
    for one in asked {
        match one {
            Named::Command(command) => write_docs(&mut context.to, context.table, command),
            Named::Subcommand(sub) => write_sub_docs(&mut context.to, context.table, sub),
        }
    }
    Ok(Reply::Written)
}

/// `COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN pattern]`
pub(super) fn list(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let table = context.table;
    let subcommands = table.subcommands.iter().map(|sub| sub.name);
    let all = table.commands.iter().map(|command| command.name).chain(subcommands);
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

/// Returns whether a command or subcommand belongs to an ACL category.
fn has_category(name: &str, category: &[u8]) -> bool {
    let category = std::str::from_utf8(category).ok().and_then(Categories::named);
    let entry = catalogue::find(name);
    entry.zip(category).is_some_and(|(entry, category)| entry.categories.meets(category))
}

fn write_all(context: &mut Context<'_>, asked: impl Iterator<Item = Option<Named>>) {
    let asked: Vec<_> = asked.collect();
    let (to, table) = (&mut context.to, context.table);
    to.array(asked.len());
    for one in asked {
        match one {
            Some(Named::Command(command)) => write_command(to, table, command),
            Some(Named::Subcommand(sub)) => write_subcommand(to, table, sub),
            None => to.null(),
        }
    }
}

fn write_command(to: &mut Encoder<'_>, table: &CommandTable, command: &Command) {
    let subs: Vec<_> = table.subcommands_of(command.name).collect();
    // COMMAND also runs without a subcommand, but has no keys either way.
    let keys = if subs.is_empty() { command.keys } else { Keys::NONE };
    write_entry(to, table, (command.name, command.arity, keys), &subs);
}

fn write_subcommand(to: &mut Encoder<'_>, table: &CommandTable, sub: &Subcommand) {
    let keys = match properties::of(sub.name).keys {
        [] => Keys::NONE,
        _ => table.by_name(sub.command().as_bytes()).map_or(Keys::NONE, |command| command.keys),
    };
    write_entry(to, table, (sub.name, sub.arity, keys), &[]);
}

/// Writes one element of the reply to COMMAND INFO, in the format of Redis 7.
fn write_entry(
    to: &mut Encoder<'_>,
    table: &CommandTable,
    (name, arity, keys): (&str, i32, Keys),
    subs: &[&Subcommand],
) {
    let properties = properties::of(name);
    to.array(10);
    to.bulk(name.as_bytes());
    to.integer(arity.into());
    write_statuses(to, &properties.flags());
    to.integer(keys.first.into());
    to.integer(keys.last.into());
    to.integer(keys.step.into());
    write_categories(to, name);
    to.set(properties.tips.len());
    properties.tips.iter().for_each(|tip| to.name(tip));
    to.set(properties.keys.len());
    properties.keys.iter().for_each(|keys| write_key_spec(to, keys));
    // Like Redis: an empty set without subcommands, an array with some.
    if subs.is_empty() {
        to.set(0)
    } else {
        to.array(subs.len())
    }
    subs.iter().for_each(|sub| write_subcommand(to, table, sub));
}

fn write_statuses(to: &mut Encoder<'_>, texts: &[&str]) {
    to.set(texts.len());
    texts.iter().for_each(|text| to.status(text));
}

fn write_key_spec(to: &mut Encoder<'_>, keys: &KeySpec) {
    to.map(3 + usize::from(keys.note.is_some()));
    if let Some(note) = keys.note {
        to.name("notes");
        to.name(note);
    }
    to.name("flags");
    write_statuses(to, &keys.flags());
    let (begin, find): (&[_], &[_]) = match &keys.range {
        Some(range) => {
            (&[("index", range.begin)], &[("lastkey", range.last), ("keystep", range.step), ("limit", 0)])
        }
        None => (&[], &[]),
    };
    let known = keys.range.is_some();
    write_spec_part(to, "begin_search", if known { "index" } else { "unknown" }, begin);
    write_spec_part(to, "find_keys", if known { "range" } else { "unknown" }, find);
}

fn write_spec_part(to: &mut Encoder<'_>, name: &str, kind: &str, spec: &[(&str, i64)]) {
    to.name(name);
    to.map(2);
    to.name("type");
    to.name(kind);
    to.name("spec");
    to.map(spec.len());
    for (name, value) in spec {
        to.name(name);
        to.integer(*value);
    }
}

fn write_categories(to: &mut Encoder<'_>, name: &str) {
    let names: Vec<_> =
        catalogue::find(name).into_iter().flat_map(|entry| entry.categories.names()).collect();
    to.set(names.len());
    names.iter().for_each(|name| to.status(&format!("@{name}")));
}

fn write_docs(to: &mut Encoder<'_>, table: &CommandTable, command: &Command) {
    let subs: Vec<_> = table.subcommands_of(command.name).collect();
    to.name(command.name);
    to.map(if subs.is_empty() { 2 } else { 3 });
    to.name("summary");
    to.name(command.summary);
    to.name("group");
    to.name(command.group);
    if !subs.is_empty() {
        to.name("subcommands");
        to.map(subs.len());
        subs.into_iter().for_each(|sub| write_sub_docs(to, table, sub));
    }
}

fn write_sub_docs(to: &mut Encoder<'_>, table: &CommandTable, sub: &Subcommand) {
    to.name(sub.name);
    to.map(2);
    to.name("summary");
    to.name(sub.summary);
    to.name("group");
    to.name(table.by_name(sub.command().as_bytes()).map_or("server", |command| command.group));
}

/// Returns the command in the arguments from the third on, and the positions of its keys.
///
/// # Errors
/// Redis's error for a command that is unknown, has no keys, or has wrong arguments.
fn keys_of(table: &CommandTable, args: Args<'_>) -> Result<(&'static Command, Vec<usize>), Refusal> {
    let asked = args.skip(2);
    let command = table.by_name(asked.get(0)).ok_or("ERR Invalid command specified")?;
    let has_subcommands = table.subcommands_of(command.name).next().is_some();
    if has_subcommands && asked.len() > 1 && table.subcommand(asked.get(0), asked.get(1)).is_none() {
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
    let (_, keys) = keys_of(context.table, args)?;
    context.to.array(keys.len());
    keys.into_iter().for_each(|index| context.to.bulk(args.get(2 + index)));
    Ok(Reply::Written)
}

pub(super) fn get_keys_and_flags(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let (command, keys) = keys_of(context.table, args)?;
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
