//! Users and permissions for all front ends: Redis's ACLs. [`Access`] is shared by all connections; `rules`
//! parses users, `user` decides, `catalogue` classifies commands, `throttle` limits guessing, `file` stores
//! users.
//!
//! Invariants: passwords are stored as hashes and compared in constant time. A change of a user applies to
//! the next command of its connections; deleting a user ends them. A denial changes nothing, is counted and
//! logged.
//!
//! Differences from Redis: hashes may also be Argon2 (`#$argon2id$v=19$...`); `<` and `>` use only SHA-256.
//! `requirepass` also applies with an ACL file, unless the file defines the default user. Failed log-ins are
//! throttled by address. Rules for channels are stored without effect, because there are no channels.

mod account;
pub mod catalogue;
pub mod categories;
mod describe;
mod file;
mod log;
mod login;
mod rules;
#[cfg(test)]
mod tests;
mod throttle;
mod user;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use caskade_api::password::Secret;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, watch};

pub use self::account::{Account, Denied, Session};
pub use self::catalogue::{Asked, KeyAccess};
pub use self::file::FileError;
pub use self::log::{LogEntry, Reason};
pub use self::login::{Login, LoginError};
pub use self::rules::{RuleError, RulesError};
pub use self::user::{Refused, Selector, User};

use self::log::Log;
use self::throttle::Throttle;

/// Name of the user that a connection has before it logs in.
pub const DEFAULT: &str = "default";
/// Maximum number of users.
const USERS_MAX: usize = 10_000;
/// Maximum number of slow hashes computed at one time.
const SLOW_MAX: usize = 2;

/// Settings for users.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Password of the default user. Empty: no password.
    pub requirepass: String,
    /// Path of the ACL file.
    pub file: Option<PathBuf>,
    /// Whether to reject clients from other machines while the default user has no password (protected mode).
    pub protected: bool,
}

/// Numbers of denials since the start of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Denials {
    /// Failed log-ins.
    pub auth: u64,
    /// Log-ins that the throttle rejected without checking the password.
    pub throttled: u64,
    /// Commands that the user may not run.
    pub command: u64,
    /// Commands with a key that the user may not access.
    pub key: u64,
    /// Connections that protected mode rejected.
    pub protected: u64,
}

#[derive(Debug, Default)]
struct Counters {
    auth: AtomicU64,
    throttled: AtomicU64,
    command: AtomicU64,
    key: AtomicU64,
    protected: AtomicU64,
}

/// The users of a node.
#[derive(Debug)]
pub struct Access {
    options: Options,
    default: Arc<Account>,
    accounts: RwLock<BTreeMap<String, Arc<Account>>>,
    log: Mutex<Log>,
    throttle: Mutex<Throttle>,
    slow: Semaphore,
    counters: Counters,
    changes: watch::Sender<u64>,
}

/// Rejected change of a user. The user is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The name is not a valid user name.
    #[error("Usernames can't contain spaces or null characters")]
    Name,
    /// A rule is not valid.
    #[error("{0}")]
    Rules(#[from] RulesError),
    /// The user's line in an ACL file would not be parsed as the same user.
    #[error(
        "an ACL file cannot store these rules in this form; nothing was changed; write them in another \
        form"
    )]
    Unwritable,
    /// The node has `USERS_MAX` users.
    #[error("there are {USERS_MAX} users already; nothing was changed; delete a user first")]
    TooMany,
    /// The default user, which every new connection has, cannot be deleted.
    #[error("The 'default' user cannot be removed")]
    Default,
}

/// Returns the name of a user; `None` if it is not valid.
fn user_name(name: &[u8]) -> Option<&str> {
    let blank = |c: char| c.is_whitespace() || c == '\0';
    std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && !name.contains(blank))
}

impl Access {
    /// Creates the users that the options and the ACL file define.
    ///
    /// # Errors
    /// The ACL file cannot be used.
    pub fn new(options: Options) -> Result<Arc<Self>, FileError> {
        let access = Self::with(options);
        if access.options.file.is_some() {
            access.load()?;
        }
        Ok(Arc::new(access))
    }

    /// Creates a default user without password and with all permissions, for tests and tools.
    pub fn open() -> Arc<Self> {
        Arc::new(Self::with(Options::default()))
    }

    fn with(options: Options) -> Self {
        let default = Arc::new(Account::new(first_default(&options)));
        Self {
            options,
            accounts: RwLock::new(BTreeMap::from([(DEFAULT.to_owned(), Arc::clone(&default))])),
            default,
            log: Mutex::default(),
            throttle: Mutex::default(),
            slow: Semaphore::new(SLOW_MAX),
            counters: Counters::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// Creates the session of a new connection.
    pub fn session(&self) -> Session {
        Session::new(Arc::clone(&self.default), self.default.user().is_open())
    }

    /// Returns a receiver that changes when users are deleted or reloaded. A connection then checks whether
    /// its session has ended.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Checks whether a session may run a command on its keys. Counts and logs a denial; `client` returns the
    /// text that describes the connection in the log.
    ///
    /// # Errors
    /// The reason of the denial; the command must not run.
    pub fn check<'k, K>(
        &self,
        session: &Session,
        asked: &Asked<'_>,
        keys: K,
        client: impl FnOnce() -> String,
    ) -> Result<(), Denied>
    where
        K: Iterator<Item = (&'k [u8], KeyAccess)> + Clone,
    {
        if !self.has_entered(session) && !asked.needs_no_user() {
            return Err(Denied::NoAuth);
        }
        let user = session.user();
        let Err(refused) = user.may(asked, keys) else { return Ok(()) };
        let (reason, object, counter) = match &refused {
            Refused::Command => (Reason::Command, asked.full_name().as_bytes(), &self.counters.command),
            Refused::Key(key) => (Reason::Key, key.as_slice(), &self.counters.key),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.log.lock().add(reason, object, &user.name, client(), crate::clock::wall_ms());
        Err(Denied::of(refused, &user.name, asked))
    }

    /// Returns whether no check is necessary, because the session's user has all permissions.
    pub fn is_free(&self, session: &Session) -> bool {
        self.has_entered(session) && session.user().is_unrestricted()
    }

    /// Returns whether the session has logged in, or needs no log-in because the default user has no
    /// password.
    pub fn has_entered(&self, session: &Session) -> bool {
        session.authenticated || self.default.user().is_open()
    }

    /// Returns whether the default user has no password, so that AUTH with only a password is an error.
    pub fn default_is_nopass(&self) -> bool {
        self.default.user().nopass
    }

    /// Returns whether protected mode rejects a client from `peer`, and counts the rejection. It rejects
    /// clients from other machines while the default user has no password. `certified`: the node requires
    /// client certificates, which have been verified.
    pub fn turns_away(&self, peer: IpAddr, certified: bool) -> bool {
        let away = self.options.protected
            && !certified
            && !peer.to_canonical().is_loopback()
            && self.default.user().is_open();
        if away {
            self.counters.protected.fetch_add(1, Ordering::Relaxed);
        }
        away
    }

    /// Returns the numbers of denials.
    pub fn denials(&self) -> Denials {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Denials {
            auth: read(&self.counters.auth),
            throttled: read(&self.counters.throttled),
            command: read(&self.counters.command),
            key: read(&self.counters.key),
            protected: read(&self.counters.protected),
        }
    }

    /// Returns at most `count` entries of the log of denials, newest first.
    pub fn log(&self, count: usize) -> Vec<LogEntry> {
        self.log.lock().newest(count)
    }

    /// Clears the log of denials.
    pub fn clear_log(&self) {
        self.log.lock().clear();
    }

    /// Returns all users, sorted by name.
    pub fn users(&self) -> Vec<Arc<User>> {
        self.accounts.read().values().map(|account| account.user()).collect()
    }

    /// Returns the user with this name.
    pub fn user(&self, name: &[u8]) -> Option<Arc<User>> {
        self.account(name).map(|account| account.user())
    }

    fn account(&self, name: &[u8]) -> Option<Arc<Account>> {
        self.accounts.read().get(std::str::from_utf8(name).ok()?).cloned()
    }

    /// Creates or changes a user. A change applies to the next command of its connections.
    ///
    /// # Errors
    /// The name or a rule is not valid, the rules cannot be stored, or there are too many users. Nothing was
    /// changed.
    pub fn set_user<'r>(
        &self,
        name: &[u8],
        rules: impl IntoIterator<Item = &'r [u8]>,
    ) -> Result<(), ChangeError> {
        let name = user_name(name).ok_or(ChangeError::Name)?;
        let mut accounts = self.accounts.write();
        let known = accounts.get(name).cloned();
        let mut user = known.as_ref().map_or_else(|| User::new(name), |account| User::clone(&account.user()));
        rules::apply(&mut user, rules)?;
        if !file::reads_back(&user) {
            return Err(ChangeError::Unwritable);
        }
        match known {
            Some(account) => account.set(user),
            None if accounts.len() >= USERS_MAX => return Err(ChangeError::TooMany),
            None => drop(accounts.insert(name.to_owned(), Arc::new(Account::new(user)))),
        }
        Ok(())
    }

    /// Deletes a user and ends its sessions. Returns whether the user existed.
    ///
    /// # Errors
    /// The default user cannot be deleted.
    pub fn delete_user(&self, name: &[u8]) -> Result<bool, ChangeError> {
        if name == DEFAULT.as_bytes() {
            return Err(ChangeError::Default);
        }
        let Ok(name) = std::str::from_utf8(name) else { return Ok(false) };
        let Some(account) = self.accounts.write().remove(name) else { return Ok(false) };
        account.end();
        self.changes.send_modify(|changes| *changes += 1);
        Ok(true)
    }

    /// Returns whether an ACL file is set.
    pub fn has_file(&self) -> bool {
        self.options.file.is_some()
    }

    /// Replaces all users with those of the ACL file. Ends the sessions of users that the file lacks or
    /// defines differently; sessions of the default user continue.
    ///
    /// # Errors
    /// The file cannot be used; the users are unchanged.
    pub fn load(&self) -> Result<(), FileError> {
        let Some(path) = &self.options.file else { return Ok(()) };
        let users = file::load(path)?;
        if users.len() > USERS_MAX {
            return Err(FileError::Lines(vec![format!("{}: more than {USERS_MAX} users", path.display())]));
        }
        let mut accounts = self.accounts.write();
        let mut before = std::mem::take(&mut *accounts);
        before.remove(DEFAULT);
        self.default.set(first_default(&self.options));
        accounts.insert(DEFAULT.to_owned(), Arc::clone(&self.default));
        for user in users {
            if user.name == DEFAULT {
                self.default.set(user);
                continue;
            }
            let same = before.remove(&user.name).filter(|account| {
                let same = *account.user() == user;
                if !same {
                    account.end();
                }
                same
            });
            let account = same.unwrap_or_else(|| Arc::new(Account::new(user)));
            accounts.insert(account.user().name.clone(), account);
        }
        before.values().for_each(|account| account.end());
        drop(accounts);
        self.changes.send_modify(|changes| *changes += 1);
        Ok(())
    }

    /// Writes the users to the ACL file.
    ///
    /// # Errors
    /// The file could not be written; it is unchanged.
    pub fn save(&self) -> Result<(), FileError> {
        let Some(path) = &self.options.file else { return Ok(()) };
        // The lock is held while writing, because two writers would use the same temporary file.
        let accounts = self.accounts.write();
        let users: Vec<_> = accounts.values().map(|account| account.user()).collect();
        file::save(path, users.iter().map(Arc::as_ref))
    }
}

fn first_default(options: &Options) -> User {
    let mut user = User::everybody();
    if !options.requirepass.is_empty() {
        user.nopass = false;
        user.secrets.push(Secret::sha256(options.requirepass.as_bytes()));
    }
    user
}
