//! A user and its permissions. Pure: uses no connection, file or clock.
//!
//! Redis's semantics: the last rule that names a command decides; if no rule names it, the base decides (all
//! commands or none). A command is allowed if the user's own permissions, or one of its selectors, allow the
//! command and all of its keys.

use caskade_api::password::Secret;

use super::catalogue::{Asked, KeyAccess};
use super::categories::Categories;
use crate::glob;

/// A user, as its rules define it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Name of the user.
    pub name: String,
    /// Whether the user can log in.
    pub enabled: bool,
    /// Whether any password is accepted.
    pub nopass: bool,
    pub(super) secrets: Vec<Secret>,
    pub(super) root: Selector,
    pub(super) selectors: Vec<Selector>,
}

/// One set of permissions, which must allow both the command and its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Whether commands that no rule names are allowed.
    pub(super) all_commands: bool,
    pub(super) rules: Vec<CommandRule>,
    pub(super) all_keys: bool,
    pub(super) keys: Vec<KeyPattern>,
    /// Rules for channels are stored without effect: there are no channels.
    pub(super) all_channels: bool,
    pub(super) channels: Vec<Vec<u8>>,
}

/// A rule for commands: `+get`, `-@dangerous`, `+config|get`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommandRule {
    pub(super) allow: bool,
    /// Text of the rule, in lower case, without the sign.
    pub(super) text: String,
    pub(super) names: Named,
}

/// Commands that a rule names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Category(Categories),
    /// A command with all its subcommands.
    Command,
    /// A subcommand, or a command with a first argument. The number is the length of the command's name in
    /// the text.
    Argument(usize),
}

/// A pattern for keys: `~pattern`, `%R~pattern`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyPattern {
    pub(super) reads: bool,
    pub(super) writes: bool,
    pub(super) pattern: Vec<u8>,
}

/// Missing permission of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Permission to run the command.
    Command,
    /// Permission to access this key with the command.
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
    /// Creates all permissions, which the default user has by default.
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
    /// Creates a user that has no permissions and cannot log in.
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

    /// Creates the default user before any rule: no password, all permissions.
    pub fn everybody() -> Self {
        Self { enabled: true, nopass: true, root: Selector::everything(), ..Self::new(super::DEFAULT) }
    }

    /// Returns whether the user has all permissions, so that no check is necessary.
    pub fn is_unrestricted(&self) -> bool {
        self.root.is_everything()
    }

    /// Checks whether the user may run a command on `keys`, each with the command's access to it.
    ///
    /// # Errors
    /// The missing permission. If one selector allows the command but not a key, that key.
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

    /// Returns whether the user may log in with `password`. Compares all of the user's passwords, so that the
    /// time does not reveal which one matched.
    pub fn knows(&self, password: &[u8]) -> bool {
        let known = self.secrets.iter().fold(false, |known, secret| secret.matches(password) | known);
        self.enabled && (self.nopass || known)
    }

    /// Returns whether [`User::knows`] is slow.
    pub fn is_slow(&self) -> bool {
        self.secrets.iter().any(Secret::is_slow)
    }

    /// Returns whether the user needs no password and is enabled.
    pub fn is_open(&self) -> bool {
        self.enabled && self.nopass
    }
}
