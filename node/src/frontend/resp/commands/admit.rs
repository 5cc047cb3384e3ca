//! The checks before a command runs or is queued.

use caskade_engine::slots::slot_of;

use super::command::Command;
use super::context::{Context, Handled};
use super::errors::{cross_slot, unknown_command, unknown_subcommand, wrong_arity};
use super::{auth, transactions};
use crate::frontend::resp::client::Fate;
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::Refusal;

/// Longest key in bytes: the limit of a record.
const KEY_BYTES_MAX: usize = 65_535;

/// Runs a command, or queues it in the open transaction.
///
/// # Errors
/// The command was rejected; nothing of it ran.
pub(in crate::frontend::resp) fn handle(
    command: Option<&'static Command>,
    context: &mut Context<'_>,
    args: Args<'_>,
) -> Handled {
    context.client.fate = Fate::Rejected;
    let admitted = admit(command, context, args);
    let command = match admitted {
        Ok(command) => command,
        Err(refusal) => return Err(transactions::not_admitted(context, command, refusal)),
    };
    if context.client.queue.is_some() && !transactions::is_immediate(command) {
        let queued = transactions::queue(context, command, args)?;
        context.client.fate = Fate::Queued;
        return Ok(queued);
    }
    context.client.fate = Fate::Run;
    command.run(context, args)
}

/// Checks a command and its keys before it runs or is queued.
///
/// # Errors
/// The error reply: unknown command, wrong arity, no permission, long key, several slots, or MOVED.
fn admit(
    command: Option<&'static Command>,
    context: &Context<'_>,
    args: Args<'_>,
) -> Result<&'static Command, Refusal> {
    let command = command.ok_or_else(|| unknown_command(args))?;
    if !command.arity_fits(args) {
        return Err(wrong_arity(command.name));
    }
    admit_subcommand(command, context, args)?;
    if context.client.queue.is_some() && matches!(command.name, "auth" | "hello" | "flushall" | "flushdb") {
        return Err("ERR Command not allowed inside a transaction".into());
    }
    auth::check(command, context, args)?;
    let keys = || command.keys.of(args).map(|index| args.get(index));
    if let Some(long) = keys().map(<[u8]>::len).find(|len| *len > KEY_BYTES_MAX) {
        let reason = format!(
            "ERR a key of {long} bytes is too long: the maximum is {KEY_BYTES_MAX}; nothing was changed"
        );
        return Err(reason.into());
    }
    let Some(first) = keys().next() else { return Ok(command) };
    let keyspace = &context.server.keyspace;
    let together = context.client.queue.is_some() || !command.scatters() || keyspace.redirects();
    if together && keys().any(|key| slot_of(key) != slot_of(first)) {
        return Err(cross_slot());
    }
    let readonly = context.client.readonly && !command.writes();
    match keyspace.elsewhere(first, readonly, context.client.local) {
        Some(place) => Err(format!("MOVED {} {}", slot_of(first), place.in_redis_form()).into()),
        None => Ok(command),
    }
}

/// Checks the subcommand before the command is run or queued.
///
/// # Errors
/// Redis's error for an unknown subcommand or a wrong number of arguments.
fn admit_subcommand(command: &Command, context: &Context<'_>, args: Args<'_>) -> Result<(), Refusal> {
    let table = context.table;
    // COMMAND is valid without a subcommand.
    if !command.may_have_subcommands()
        || args.len() < 2
        || table.subcommands_of(command.name).next().is_none()
    {
        return Ok(());
    }
    let sub = table.subcommand(args.get(0), args.get(1)).ok_or_else(|| unknown_subcommand(args))?;
    if sub.arity_fits(args.len()) { Ok(()) } else { Err(wrong_arity(sub.name)) }
}
