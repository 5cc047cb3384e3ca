//! What rules need to know of a command: its categories, its subcommands, what it does to its keys.
//!
//! A command that is not in the table counts as the most dangerous there is, so that a new one is open to nobody by
//! accident.

mod table;

use self::table::ENTRIES;
use super::categories::Categories;
use super::categories::bits::{ADMIN, DANGER, SLOW};

/// What a command does to a key, for patterns that allow reading or writing only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAccess {
    /// It neither tells nor changes the value (EXISTS): any pattern will do.
    None,
    /// It tells the value, or a part of it.
    Read,
    /// It changes the value or removes it.
    Write,
    /// Both.
    Both,
}

impl KeyAccess {
    /// Whether it needs to read.
    pub(super) fn reads(self) -> bool {
        matches!(self, Self::Read | Self::Both)
    }

    /// Whether it needs to write.
    pub(super) fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Both)
    }
}

/// One command or subcommand.
#[derive(Debug)]
pub struct Entry {
    /// Lower-case name; of a subcommand `command|subcommand`.
    pub name: &'static str,
    /// Its categories.
    pub categories: Categories,
    /// What it does to its first key.
    pub first: KeyAccess,
    /// What it does to its other keys.
    pub rest: KeyAccess,
}

static UNKNOWN: Entry = Entry {
    name: "",
    categories: Categories(ADMIN | SLOW | DANGER),
    first: KeyAccess::Both,
    rest: KeyAccess::Both,
};

/// The entry of `name`, lower case, if there is one.
pub fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES.binary_search_by(|entry| entry.name.cmp(name)).ok().and_then(|place| ENTRIES.get(place))
}

/// The entry of the subcommand `argument` of `command`, if `command` has such.
fn find_sub(command: &str, argument: &[u8]) -> Option<&'static Entry> {
    subcommands(command).iter().find(|entry| {
        let sub = entry.name.get(command.len() + 1..).unwrap_or_default();
        sub.as_bytes().eq_ignore_ascii_case(argument)
    })
}

/// The entries of the subcommands of a command.
pub fn subcommands(command: &str) -> &'static [Entry] {
    // `|` comes after all letters, so that longer names are between a command and its subcommands.
    let begin = ENTRIES.partition_point(|entry| less(entry, command));
    let rest = ENTRIES.get(begin..).unwrap_or_default();
    let count = rest.iter().take_while(|entry| is_sub(entry, command)).count();
    rest.get(..count).unwrap_or_default()
}

fn is_sub(entry: &Entry, command: &str) -> bool {
    entry.name.strip_prefix(command).is_some_and(|rest| rest.starts_with('|'))
}

/// Whether `entry` comes before the first subcommand of `command`.
fn less(entry: &Entry, command: &str) -> bool {
    entry.name.bytes().lt(command.bytes().chain([b'|']))
}

/// All entries, in the order of their names.
pub fn all() -> &'static [Entry] {
    ENTRIES
}

/// A command that somebody wants to run, as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Lower-case name.
    pub command: &'a str,
    /// Its first argument, which may name a subcommand; empty if there is none.
    pub argument: &'a [u8],
    entry: &'static Entry,
    is_sub: bool,
}

impl<'a> Asked<'a> {
    /// The command of this lower-case name with this first argument.
    pub fn new(command: &'a str, argument: &'a [u8]) -> Self {
        let plain = find(command);
        let sub = match plain {
            Some(_) if !argument.is_empty() => find_sub(command, argument),
            _ => None,
        };
        Self { command, argument, entry: sub.or(plain).unwrap_or(&UNKNOWN), is_sub: sub.is_some() }
    }

    /// The name with the subcommand, as replies tell it.
    pub fn full_name(&self) -> &'a str {
        if self.is_sub { self.entry.name } else { self.command }
    }

    /// The categories of it, or of its subcommand.
    pub fn categories(&self) -> Categories {
        self.entry.categories
    }

    /// What it does to its key number `index`, from 0.
    pub fn key_access(&self, index: usize) -> KeyAccess {
        if index == 0 { self.entry.first } else { self.entry.rest }
    }

    /// Whether it tells values of keys that it does not name: no pattern can allow some of them only.
    pub fn tells_any_key(&self) -> bool {
        matches!(self.command, "cask.range" | "cask.prefix")
    }

    /// Whether clients may send it before they said who they are.
    pub fn needs_no_user(&self) -> bool {
        matches!(self.command, "auth" | "hello" | "quit" | "reset")
    }
}
