//! The commands: their table (name, arity, keys, handler), the checks before a command runs, and shared
//! helpers.
//!
//! Names, arities, flags and error texts are those of Redis 7.2, which clients expect.

mod acl;
mod auth;
mod bits;
mod cask;
mod client;
mod client_list;
mod cluster;
mod config;
mod describe;
mod expiry;
mod info;
mod keys;
mod latency;
mod memory;
mod properties;
mod range;
mod strings;
mod subcommands;
mod table;
mod transactions;
mod values;
mod wait;

use std::sync::Arc;

use caskade_engine::slot_of;
use parking_lot::Mutex;

use super::client::{Client, Fate};
use super::encoder::Encoder;
use super::parser::Args;
use super::reply::{Handled, Later, Refusal, Reply, Room};
use super::state::ServerState;
use crate::frontend::keyspace::Keyspace;
use crate::frontend::stats::Tally;
use crate::kv::{Action, Operation, Step, Ticket, Transaction, parse_integer};

pub(super) use self::subcommands::{is_whole, name_of};
pub(super) use self::table::COMMANDS;
pub(super) use self::transactions::{Collected, Queue, Watched};
pub(super) use self::wait::Written;

/// Longest key in bytes: the limit of a record.
const KEY_BYTES_MAX: usize = 65_535;
/// Maximum in-flight operations of one command. A command with more keys runs in steps.
const TOGETHER_MAX: usize = 512;

/// Effect of a command on its keys, for the counters and the order rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Reads keys.
    Read,
    /// Writes keys.
    Write,
    /// Deletes keys.
    Delete,
    /// Accesses no key, and may complete while others are in flight.
    Other,
    /// Runs alone: depends on all commands before it, or affects the replies to those after it.
    Barrier,
}

/// Positions of the keys among the arguments, as in Redis's COMMAND reply: first, last (negative: from the
/// end), step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    pub(super) first: i32,
    pub(super) last: i32,
    pub(super) step: i32,
}

impl Keys {
    pub(super) const NONE: Self = Self { first: 0, last: 0, step: 0 };
    pub(super) const FIRST: Self = Self { first: 1, last: 1, step: 1 };
    pub(super) const ALL: Self = Self { first: 1, last: -1, step: 1 };
    pub(super) const PAIRS: Self = Self { first: 1, last: -1, step: 2 };
    pub(super) const TWO: Self = Self { first: 1, last: 2, step: 1 };
    pub(super) const SECOND: Self = Self { first: 2, last: 2, step: 1 };
    pub(super) const FROM_SECOND: Self = Self { first: 2, last: -1, step: 1 };

    /// Returns the positions of a command's keys among its arguments.
    pub(super) fn of(&self, args: Args<'_>) -> impl Iterator<Item = usize> + use<> {
        let count = args.len() as i32;
        let last = if self.last < 0 { count + self.last } else { self.last };
        let range = if self.first > 0 { self.first..last.min(count - 1) + 1 } else { 0..0 };
        range.step_by(self.step.max(1) as usize).map(|index| index as usize)
    }
}

/// Function that runs a command.
pub(super) type Handler = fn(&mut Context<'_>, Args<'_>) -> Handled;

/// One row of the table.
pub(super) struct Command {
    /// Lower-case name.
    pub(super) name: &'static str,
    /// Number of arguments, including the name. Negative: the minimum.
    pub(super) arity: i32,
    pub(super) kind: Kind,
    pub(super) keys: Keys,
    /// Redis's group of the command.
    pub(super) group: &'static str,
    /// Description in one sentence, for COMMAND DOCS.
    pub(super) summary: &'static str,
    pub(super) handler: Handler,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Command {
    /// Returns whether the command can change a key.
    pub(super) fn writes(&self) -> bool {
        matches!(self.kind, Kind::Write | Kind::Delete)
    }

    /// Returns whether the keys may be of several slots, because the command runs on each key separately.
    fn scatters(&self) -> bool {
        matches!(self.name, "mget" | "mset" | "del" | "unlink" | "exists" | "touch")
    }

    /// Returns whether the command has to run alone.
    pub(super) fn is_barrier(&self, args: Args<'_>) -> bool {
        self.kind == Kind::Barrier || args.len() > TOGETHER_MAX
    }

    pub(super) fn arity_fits(&self, args: Args<'_>) -> bool {
        let count = args.len() as i32;
        if self.arity < 0 { count >= -self.arity } else { count == self.arity }
    }
}

/// State of server and connection for a handler.
pub(super) struct Context<'a> {
    pub(super) server: &'a Arc<ServerState>,
    pub(super) client: &'a mut Client,
    pub(super) to: Encoder<'a>,
    pub(super) tally: &'a mut Tally,
    /// The steps of the transaction that EXEC collects; `None` outside EXEC.
    pub(super) collected: Option<&'a Mutex<Collected>>,
}

impl Context<'_> {
    fn submit(&self, key: bytes::Bytes, action: Action) -> Ticket {
        let operation = Operation { key, action };
        if let Some(collected) = self.collected {
            return collected.lock().add(Step::One(operation));
        }
        self.note_write(&operation);
        submit_for(self.client.readonly, self.server.keyspace.as_ref(), operation)
    }

    /// Starts a step on several keys of one slot. The ticket has the answer of this step.
    fn submit_step(&self, step: Step) -> Ticket {
        if let Some(collected) = self.collected {
            return collected.lock().add(step);
        }
        let key = step.keys().first().map(|key| bytes::Bytes::clone(key)).unwrap_or_default();
        let operation = Operation { key, action: Action::Transaction(Transaction::of(step)) };
        self.note_write(&operation);
        self.server.keyspace.submit(operation)
    }

    /// Notes, for WAIT, the partition to which this connection writes.
    fn note_write(&self, operation: &Operation) {
        if operation.action.writes() {
            self.client.written.note(&operation.key);
        }
    }

    /// Returns the limit on the reply to one command.
    fn room(&self) -> Room {
        Room::new(self.server.front_end.limits.message_bytes_max())
    }

    fn ok(&mut self) -> Handled {
        self.to.ok();
        Ok(Reply::Written)
    }
}

/// Starts an operation; `readonly`: the client has sent READONLY.
fn submit_for(readonly: bool, keyspace: &dyn Keyspace, operation: Operation) -> Ticket {
    if readonly { keyspace.submit_stale(operation) } else { keyspace.submit(operation) }
}

/// Returns the command that the arguments name; `None` if it is unknown.
pub(super) fn find(args: Args<'_>) -> Option<&'static Command> {
    by_name(args.get(0))
}

fn by_name(name: &[u8]) -> Option<&'static Command> {
    let order = |command: &Command| {
        let lower = name.iter().map(u8::to_ascii_lowercase);
        command.name.bytes().cmp(lower)
    };
    COMMANDS.binary_search_by(order).ok().and_then(|index| COMMANDS.get(index))
}

/// Runs a command, or queues it in the open transaction.
///
/// # Errors
/// The command was rejected; nothing of it ran.
pub(super) fn handle(
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
    run(command, context, args)
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
    subcommands::admit(command, args)?;
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

/// Runs an admitted command.
fn run(command: &Command, context: &mut Context<'_>, args: Args<'_>) -> Handled {
    context.client.last_command = command.name;
    match command.kind {
        Kind::Read => context.tally.gets += 1,
        Kind::Write => context.tally.sets += 1,
        Kind::Delete => context.tally.deletes += 1,
        Kind::Other | Kind::Barrier => {}
    }
    (command.handler)(context, args)
}

/// Returns the part of an argument that Redis shows in an error: at most `max` bytes, up to the first zero
/// byte.
fn shown(text: &[u8], max: usize) -> &[u8] {
    let text = text.get(..max).unwrap_or(text);
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Maximum bytes of one argument, and of all arguments together, that an error shows.
const SHOWN_MAX: usize = 128;

fn unknown_command(args: Args<'_>) -> Refusal {
    let mut text = b"ERR unknown command '".to_vec();
    text.extend_from_slice(shown(args.get(0), SHOWN_MAX));
    text.extend_from_slice(b"', with args beginning with: ");
    let begin = text.len();
    for arg in args.from(1) {
        let used = text.len() - begin;
        if used >= SHOWN_MAX {
            break;
        }
        text.push(b'\'');
        text.extend_from_slice(shown(arg, SHOWN_MAX - used));
        text.extend_from_slice(b"' ");
    }
    Refusal(text.into())
}

fn wrong_arity(name: &str) -> Refusal {
    format!("ERR wrong number of arguments for '{name}' command").into()
}

fn unknown_subcommand(args: Args<'_>) -> Refusal {
    refuse_subcommand("unknown subcommand", args)
}

/// Returns the error for a known subcommand with wrong arguments.
fn wrong_subcommand(args: Args<'_>) -> Refusal {
    refuse_subcommand("unknown subcommand or wrong number of arguments for", args)
}

fn refuse_subcommand(what: &str, args: Args<'_>) -> Refusal {
    let name = args.get(0).to_ascii_uppercase();
    let parts: [&[u8]; 5] = [b"ERR ", what.as_bytes(), b" '", shown(args.get(1), SHOWN_MAX), b"'. Try "];
    Refusal([parts.concat(), name, b" HELP.".to_vec()].concat().into())
}

fn cross_slot() -> Refusal {
    "CROSSSLOT Keys in request don't hash to the same slot".into()
}

fn syntax_error() -> Refusal {
    "ERR syntax error".into()
}

fn not_an_integer() -> Refusal {
    "ERR value is not an integer or out of range".into()
}

fn integer(text: &[u8]) -> Result<i64, Refusal> {
    parse_integer(text).ok_or_else(not_an_integer)
}

/// Returns a reply that a future computes; `write` encodes the result of `future`.
fn later<T: Send + 'static>(
    context: &Context<'_>,
    future: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    write: impl FnOnce(T, &mut Encoder<'_>) + Send + 'static,
) -> Handled {
    let protocol = context.to.protocol;
    Ok(Reply::Later(Box::pin(async move {
        let (mut out, mut tally) = Later::default();
        let mut to = Encoder::new(&mut out, protocol);
        match future.await {
            Ok(answer) => write(answer, &mut to),
            Err(refusal) => {
                tally.errors += 1;
                to.error(&refusal.0);
            }
        }
        (out, tally)
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_names() {
        assert!(COMMANDS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for command in COMMANDS {
            let upper = command.name.to_ascii_uppercase();
            assert_eq!(by_name(upper.as_bytes()).map(|found| found.name), Some(command.name));
        }
        assert!(by_name(b"").is_none() && by_name(b"getx").is_none());
    }
}
