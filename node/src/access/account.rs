//! A user that connections refer to, and what a connection has of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use super::catalogue::Asked;
use super::user::{Refused, User};

/// A user as it is now; shared by the connections that are it.
#[derive(Debug)]
pub struct Account {
    user: ArcSwap<User>,
    ended: AtomicBool,
}

impl Account {
    pub(super) fn new(user: User) -> Self {
        Self { user: ArcSwap::from_pointee(user), ended: AtomicBool::new(false) }
    }

    /// The user now.
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

/// Who a connection is.
#[derive(Clone, Debug)]
pub struct Session {
    account: Arc<Account>,
    /// Whether it logged in, or came while the default user needed no password.
    pub(super) authenticated: bool,
}

impl Session {
    pub(super) fn new(account: Arc<Account>, authenticated: bool) -> Self {
        Self { account, authenticated }
    }

    /// The user, as it is now.
    pub fn user(&self) -> arc_swap::Guard<Arc<User>> {
        self.account.user.load()
    }

    /// Whether the user is no more: the connection is to be closed.
    pub fn has_ended(&self) -> bool {
        self.account.ended.load(Ordering::Acquire)
    }
}

/// Why a command is not run. As text it is Redis's error, code first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nobody has logged in.
    #[error("NOAUTH Authentication required.")]
    NoAuth,
    /// The user may not run the command.
    #[error("NOPERM User {user} has no permissions to run the '{command}' command")]
    Command {
        /// Who.
        user: String,
        /// What, with its subcommand.
        command: String,
    },
    /// The user may not use a key so.
    #[error("NOPERM No permissions to access a key")]
    Key {
        /// Who.
        user: String,
        /// Which key.
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
