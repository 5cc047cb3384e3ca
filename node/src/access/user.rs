//! A user: who it is and what it may do. Pure: knows no connection, no file and no clock.
//!
//! What Redis means by its rules: of the rules for commands the last one that names the command counts, and
//! before them all is the base, everything or nothing. A command is allowed if the user's own permissions, or those of
//! one of its selectors, allow the command and all of its keys.

use super::catalogue::{Asked, KeyAccess};
use super::categories::Categories;
use super::secret::Secret;
use crate::glob;

/// A user, as rules made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Whether it can log in.
    pub enabled: bool,
    /// Whether any password will do.
    pub nopass: bool,
    pub(super) secrets: Vec<Secret>,
    pub(super) root: Selector,
    pub(super) selectors: Vec<Selector>,
}

/// Permissions that count together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// What holds for a command that no rule names.
    pub(super) all_commands: bool,
    pub(super) rules: Vec<CommandRule>,
    pub(super) all_keys: bool,
    pub(super) keys: Vec<KeyPattern>,
    /// Channels are kept as they are told; there is nothing here that has channels.
    pub(super) all_channels: bool,
    pub(super) channels: Vec<Vec<u8>>,
}

/// `+get`, `-@dangerous`, `+config|get`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommandRule {
    pub(super) allow: bool,
    /// What it names, lower case, without the sign.
    pub(super) text: String,
    pub(super) names: Named,
}

/// What a rule for commands names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Category(Categories),
    /// A command with all its subcommands.
    Command,
    /// A subcommand, or a command with this first argument: how long the command's name is.
    Argument(usize),
}

/// `~pattern`, `%R~pattern`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyPattern {
    pub(super) reads: bool,
    pub(super) writes: bool,
    pub(super) pattern: Vec<u8>,
}

/// What a user may not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Run the command at all.
    Command,
    /// Use it on this key.
    Key(Vec<u8>),
}

impl CommandRule {
    fn names(&self, asked: &Asked<'_>) -> bool {
        match self.names {
            Named::Category(category) => asked.categories().meets(category),
            Named::Command => self.text == asked.command,
            Named::Argument(at) => {
                self.text.get(..at) == Some(asked.command)
                    && self
                        .text
                        .as_bytes()
                        .get(at + 1..)
                        .is_some_and(|sub| sub.eq_ignore_ascii_case(asked.argument))
            }
        }
    }
}

impl KeyPattern {
    fn allows(&self, key: &[u8], access: KeyAccess) -> bool {
        (self.reads || !access.reads())
            && (self.writes || !access.writes())
            && glob::matches(&self.pattern, key, false)
    }
}

impl Selector {
    /// Everything: what the default user has until told otherwise.
    pub(super) fn everything() -> Self {
        Self { all_commands: true, all_keys: true, all_channels: true, ..Self::default() }
    }

    fn is_everything(&self) -> bool {
        self.all_commands && self.all_keys && self.rules.is_empty()
    }

    fn allows_command(&self, asked: &Asked<'_>) -> bool {
        let rule = self.rules.iter().rev().find(|rule| rule.names(asked));
        rule.map_or(self.all_commands, |rule| rule.allow)
    }

    fn check<'k>(
        &self,
        asked: &Asked<'_>,
        keys: impl Iterator<Item = (&'k [u8], KeyAccess)>,
    ) -> Result<(), Refused> {
        if !asked.needs_no_user() && !self.allows_command(asked) {
            return Err(Refused::Command);
        }
        if self.all_keys {
            return Ok(());
        }
        if asked.tells_any_key() {
            return Err(Refused::Command);
        }
        for (key, access) in keys {
            if !self.keys.iter().any(|pattern| pattern.allows(key, access)) {
                return Err(Refused::Key(key.to_vec()));
            }
        }
        Ok(())
    }
}

impl User {
    /// A user who may do nothing and cannot log in.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            enabled: false,
            nopass: false,
            secrets: Vec::new(),
            root: Selector::default(),
            selectors: Vec::new(),
        }
    }

    /// The default user as it is before any rule: everybody, and everything allowed.
    pub fn everybody() -> Self {
        Self { enabled: true, nopass: true, root: Selector::everything(), ..Self::new(super::DEFAULT) }
    }

    /// Whether it may do everything: nothing has to be looked at then.
    pub fn is_unrestricted(&self) -> bool {
        self.root.is_everything()
    }

    /// Whether it may run a command on `keys`, each with what is done to it.
    ///
    /// # Errors
    /// What it may not do, by the permissions that come nearest.
    pub fn may<'k, K>(&self, asked: &Asked<'_>, keys: K) -> Result<(), Refused>
    where
        K: Iterator<Item = (&'k [u8], KeyAccess)> + Clone,
    {
        let mut nearest = Refused::Command;
        for selector in std::iter::once(&self.root).chain(&self.selectors) {
            match selector.check(asked, keys.clone()) {
                Ok(()) => return Ok(()),
                Err(refused @ Refused::Key(_)) => nearest = refused,
                Err(Refused::Command) => {}
            }
        }
        Err(nearest)
    }

    /// Whether it may log in with `password`. All of its passwords are tried, so that the time tells none.
    pub fn knows(&self, password: &[u8]) -> bool {
        let known = self.secrets.iter().fold(false, |known, secret| secret.matches(password) | known);
        self.enabled && (self.nopass || known)
    }

    /// Whether finding out takes long.
    pub fn is_slow(&self) -> bool {
        self.secrets.iter().any(Secret::is_slow)
    }

    /// Whether whoever connects is this user.
    pub fn is_open(&self) -> bool {
        self.enabled && self.nopass
    }
}
