//! Properties of commands for rules: categories, subcommands, access to keys.
//!
//! A command that is not in the table counts as most dangerous, so that no new command is allowed by
//! accident.

mod table;

use self::table::ENTRIES;
use super::categories::Categories;
use super::categories::bits::{ADMIN, DANGER, SLOW};

/// Access of a command to a key, for patterns that allow only reading or only writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAccess {
    /// The command neither returns nor changes the value (EXISTS): every matching pattern allows it.
    None,
    /// The command returns the value or a part of it.
    Read,
    /// The command changes or removes the value.
    Write,
    /// The command both returns and changes the value.
    Both,
}

impl KeyAccess {
    /// Returns whether the pattern must allow reading.
    pub(super) fn reads(self) -> bool {
        matches!(self, Self::Read | Self::Both)
    }

    /// Returns whether the pattern must allow writing.
    pub(super) fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Both)
    }
}

/// One command or subcommand.
#[derive(Debug)]
pub struct Entry {
    /// Lower-case name; for a subcommand, `command|subcommand`.
    pub name: &'static str,
    /// Categories of the command.
    pub categories: Categories,
    /// Access to the first key.
    pub first: KeyAccess,
    /// Access to the other keys.
    pub rest: KeyAccess,
}

static UNKNOWN: Entry = Entry {
    name: "",
    categories: Categories(ADMIN | SLOW | DANGER),
    first: KeyAccess::Both,
    rest: KeyAccess::Both,
};

/// Returns the entry of `name`, which must be in lower case.
pub fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES.binary_search_by(|entry| entry.name.cmp(name)).ok().and_then(|place| ENTRIES.get(place))
}

/// Returns the entry of the subcommand `argument` of `command`.
fn find_sub(command: &str, argument: &[u8]) -> Option<&'static Entry> {
    subcommands(command).iter().find(|entry| {
        let sub = entry.name.get(command.len() + 1..).unwrap_or_default();
        sub.as_bytes().eq_ignore_ascii_case(argument)
    })
}

/// Returns the entries of the subcommands of a command.
pub fn subcommands(command: &str) -> &'static [Entry] {
    // `|` sorts after all letters, so longer names lie between a command and its subcommands.
    let begin = ENTRIES.partition_point(|entry| less(entry, command));
    let rest = ENTRIES.get(begin..).unwrap_or_default();
    let count = rest.iter().take_while(|entry| is_sub(entry, command)).count();
    rest.get(..count).unwrap_or_default()
}

fn is_sub(entry: &Entry, command: &str) -> bool {
    entry.name.strip_prefix(command).is_some_and(|rest| rest.starts_with('|'))
}

/// Returns whether `entry` sorts before the first subcommand of `command`.
fn less(entry: &Entry, command: &str) -> bool {
    entry.name.bytes().lt(command.bytes().chain([b'|']))
}

/// Returns all entries, sorted by name.
pub fn all() -> &'static [Entry] {
    ENTRIES
}

/// A requested command, with the properties that rules check.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Lower-case name.
    pub command: &'a str,
    /// First argument, which may name a subcommand; empty if there is none.
    pub argument: &'a [u8],
    entry: &'static Entry,
    is_sub: bool,
}

impl<'a> Asked<'a> {
    /// Creates the request for the command with this lower-case name and this first argument.
    pub fn new(command: &'a str, argument: &'a [u8]) -> Self {
        let plain = find(command);
        let sub = match plain {
            Some(_) if !argument.is_empty() => find_sub(command, argument),
            _ => None,
        };
        Self { command, argument, entry: sub.or(plain).unwrap_or(&UNKNOWN), is_sub: sub.is_some() }
    }

    /// Returns the name with the subcommand, as in replies.
    pub fn full_name(&self) -> &'a str {
        if self.is_sub { self.entry.name } else { self.command }
    }

    /// Returns the categories of the subcommand if there is one, else of the command.
    pub fn categories(&self) -> Categories {
        self.entry.categories
    }

    /// Returns the access to key number `index`, from 0.
    pub fn key_access(&self, index: usize) -> KeyAccess {
        if index == 0 { self.entry.first } else { self.entry.rest }
    }

    /// Returns whether the command returns values of keys that it does not name, so that only a user with
    /// access to all keys may run it.
    pub fn tells_any_key(&self) -> bool {
        matches!(self.command, "cask.range" | "cask.prefix")
    }

    /// Returns whether clients may send the command before they log in.
    pub fn needs_no_user(&self) -> bool {
        matches!(self.command, "auth" | "hello" | "quit" | "reset")
    }
}
