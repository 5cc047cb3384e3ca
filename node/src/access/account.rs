//! Accounts, which connections share, and the session of a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use super::catalogue::Asked;
use super::user::{Refused, User};

/// The present state of a user, shared by the user's connections.
#[derive(Debug)]
pub struct Account {
    user: ArcSwap<User>,
    ended: AtomicBool,
}

impl Account {
    pub(super) fn new(user: User) -> Self {
        Self { user: ArcSwap::from_pointee(user), ended: AtomicBool::new(false) }
    }

    /// Returns the present state of the user.
    pub fn user(&self) -> Arc<User> {
        self.user.load_full()
    }

    pub(super) fn set(&self, user: User) {
        self.user.store(Arc::new(user));
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }
}

/// The user of a connection.
#[derive(Clone, Debug)]
pub struct Session {
    account: Arc<Account>,
    /// Whether the client logged in, or connected while the default user had no password.
    pub(super) authenticated: bool,
}

impl Session {
    pub(super) fn new(account: Arc<Account>, authenticated: bool) -> Self {
        Self { account, authenticated }
    }

    /// Returns the present state of the user.
    pub fn user(&self) -> arc_swap::Guard<Arc<User>> {
        self.account.user.load()
    }

    /// Returns whether the user was deleted or replaced: the connection must close.
    pub fn has_ended(&self) -> bool {
        self.account.ended.load(Ordering::Acquire)
    }
}

/// Reason why a command is denied. Its text is Redis's error, code first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The client has not logged in.
    #[error("NOAUTH Authentication required.")]
    NoAuth,
    /// The user may not run the command.
    #[error("NOPERM User {user} has no permissions to run the '{command}' command")]
    Command {
        /// Name of the user.
        user: String,
        /// Name of the command, with its subcommand.
        command: String,
    },
    /// The user may not access a key in this way.
    #[error("NOPERM No permissions to access a key")]
    Key {
        /// Name of the user.
        user: String,
        /// The key.
        key: Vec<u8>,
    },
}

impl Denied {
    pub(super) fn of(refused: Refused, user: &str, asked: &Asked<'_>) -> Self {
        let user = user.to_owned();
        match refused {
            Refused::Command => Self::Command { user, command: asked.full_name().to_owned() },
            Refused::Key(key) => Self::Key { user, key },
        }
    }
}
