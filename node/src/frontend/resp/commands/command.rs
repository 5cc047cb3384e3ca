//! The rows of the tables of commands and subcommands, and the lookup in them.

use super::context::{Context, Handled};
use super::errors::unknown_subcommand;
use crate::frontend::resp::parser::Args;

/// Maximum in-flight operations of one command. A command with more keys runs in steps.
pub(super) const TOGETHER_MAX: usize = 512;

/// Effect of a command on its keys, for the counters and the order rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::frontend::resp) enum Kind {
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
pub(in crate::frontend::resp) struct Keys {
    pub(in crate::frontend::resp) first: i32,
    pub(in crate::frontend::resp) last: i32,
    pub(in crate::frontend::resp) step: i32,
}

impl Keys {
    pub(in crate::frontend::resp) const NONE: Self = Self { first: 0, last: 0, step: 0 };
    pub(in crate::frontend::resp) const FIRST: Self = Self { first: 1, last: 1, step: 1 };
    pub(in crate::frontend::resp) const ALL: Self = Self { first: 1, last: -1, step: 1 };
    pub(in crate::frontend::resp) const PAIRS: Self = Self { first: 1, last: -1, step: 2 };
    pub(in crate::frontend::resp) const TWO: Self = Self { first: 1, last: 2, step: 1 };
    pub(in crate::frontend::resp) const SECOND: Self = Self { first: 2, last: 2, step: 1 };
    pub(in crate::frontend::resp) const FROM_SECOND: Self = Self { first: 2, last: -1, step: 1 };

    /// Returns the positions of a command's keys among its arguments.
    pub(in crate::frontend::resp) fn of(&self, args: Args<'_>) -> impl Iterator<Item = usize> + use<> {
        let count = args.len() as i32;
        let last = if self.last < 0 { count + self.last } else { self.last };
        let range = if self.first > 0 { self.first..last.min(count - 1) + 1 } else { 0..0 };
        range.step_by(self.step.max(1) as usize).map(|index| index as usize)
    }
}

/// Function that runs a command.
pub(in crate::frontend::resp) type Handler = fn(&mut Context<'_>, Args<'_>) -> Handled;

/// One row of the table of commands.
pub(in crate::frontend::resp) struct Command {
    /// Lower-case name.
    pub(in crate::frontend::resp) name: &'static str,
    /// Number of arguments, including the name. Negative: the minimum.
    pub(in crate::frontend::resp) arity: i32,
    pub(in crate::frontend::resp) kind: Kind,
    pub(in crate::frontend::resp) keys: Keys,
    /// Redis's group of the command.
    pub(in crate::frontend::resp) group: &'static str,
    /// Description in one sentence, for COMMAND DOCS.
    pub(in crate::frontend::resp) summary: &'static str,
    pub(in crate::frontend::resp) handler: Handler,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Command {
    /// Returns whether the command can change a key.
    pub(in crate::frontend::resp) fn writes(&self) -> bool {
        matches!(self.kind, Kind::Write | Kind::Delete)
    }

    /// Returns whether the keys may be of several slots, because the command runs on each key separately.
    pub(super) fn scatters(&self) -> bool {
        matches!(self.name, "mget" | "mset" | "del" | "unlink" | "exists" | "touch")
    }

    /// Returns whether the command has to run alone.
    pub(in crate::frontend::resp) fn is_barrier(&self, args: Args<'_>) -> bool {
        self.kind == Kind::Barrier || args.len() > TOGETHER_MAX
    }

    /// Returns whether the command may have subcommands. Keeps the lookup away from frequent commands, which
    /// have none.
    pub(super) fn may_have_subcommands(&self) -> bool {
        self.kind == Kind::Barrier || self.name == "object"
    }

    pub(in crate::frontend::resp) fn arity_fits(&self, args: Args<'_>) -> bool {
        let count = args.len() as i32;
        if self.arity < 0 { count >= -self.arity } else { count == self.arity }
    }

    /// Runs the command, which was admitted.
    pub(super) fn run(&self, context: &mut Context<'_>, args: Args<'_>) -> Handled {
        context.client.last_command = self.name;
        match self.kind {
            Kind::Read => context.tally.gets += 1,
            Kind::Write => context.tally.sets += 1,
            Kind::Delete => context.tally.deletes += 1,
            Kind::Other | Kind::Barrier => {}
        }
        (self.handler)(context, args)
    }
}

/// One row of the table of subcommands.
pub(in crate::frontend::resp) struct Subcommand {
    /// Lower-case name: `command|subcommand`.
    pub(super) name: &'static str,
    /// Number of arguments, including both names. Negative: the minimum.
    pub(super) arity: i32,
    /// Arguments after the name, as HELP shows them.
    pub(super) form: &'static str,
    /// Description in one sentence, for HELP and COMMAND DOCS.
    pub(super) summary: &'static str,
    pub(super) handler: Handler,
}

impl Subcommand {
    /// Returns the name of the command.
    pub(super) fn command(&self) -> &'static str {
        self.name.split_once('|').map_or(self.name, |(command, _)| command)
    }

    /// Returns the name without the command's.
    pub(super) fn own_name(&self) -> &'static str {
        self.name.split_once('|').map_or(self.name, |(_, name)| name)
    }

    pub(super) fn arity_fits(&self, count: usize) -> bool {
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        if self.arity < 0 { count >= -self.arity } else { count == self.arity }
    }
}

impl std::fmt::Debug for Subcommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// All commands and subcommands, each sorted by name.
#[derive(Debug)]
pub(in crate::frontend::resp) struct CommandTable {
    pub(super) commands: &'static [Command],
    pub(super) subcommands: &'static [Subcommand],
}

impl CommandTable {
    /// Returns the command that the arguments name; `None` if it is unknown.
    pub(in crate::frontend::resp) fn find(&self, args: Args<'_>) -> Option<&'static Command> {
        self.by_name(args.get(0))
    }

    /// Returns the command of this name, ignoring case.
    pub(super) fn by_name(&self, name: &[u8]) -> Option<&'static Command> {
        let order = |command: &Command| {
            let lower = name.iter().map(u8::to_ascii_lowercase);
            command.name.bytes().cmp(lower)
        };
        self.commands.binary_search_by(order).ok().and_then(|index| self.commands.get(index))
    }

    /// Returns the subcommands of a command.
    pub(super) fn subcommands_of<'n>(
        &self,
        command: &'n str,
    ) -> impl Iterator<Item = &'static Subcommand> + use<'n> {
        self.subcommands.iter().filter(move |sub| sub.command() == command)
    }

    /// Returns the subcommand with these two names, ignoring case.
    pub(super) fn subcommand(&self, command: &[u8], name: &[u8]) -> Option<&'static Subcommand> {
        let fits = |sub: &&Subcommand| {
            sub.own_name().as_bytes().eq_ignore_ascii_case(name)
                && sub.command().as_bytes().eq_ignore_ascii_case(command)
        };
        self.subcommands.iter().find(fits)
    }

    /// Returns the name under which calls are counted: that of the subcommand if there is one, else the
    /// command's.
    pub(in crate::frontend::resp) fn name_of(&self, command: &Command, args: Args<'_>) -> &'static str {
        let sub =
            if command.may_have_subcommands() { self.subcommand(args.get(0), args.get(1)) } else { None };
        sub.map_or(command.name, |sub| sub.name)
    }

    /// Returns whether the arguments do not name an unknown subcommand.
    pub(in crate::frontend::resp) fn is_whole(&self, command: &Command, args: Args<'_>) -> bool {
        args.len() < 2
            || !command.may_have_subcommands()
            || self.subcommand(args.get(0), args.get(1)).is_some()
            || self.subcommands_of(command.name).next().is_none()
    }
}

/// Runs the subcommand that the arguments name, which was admitted.
pub(super) fn run_subcommand(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let sub = context.table.subcommand(args.get(0), args.get(1)).ok_or_else(|| unknown_subcommand(args))?;
    context.client.last_command = sub.name;
    (sub.handler)(context, args)
}
