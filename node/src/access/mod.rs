//! Who may do what: users with passwords and rules as Redis's ACLs, for every front end.
//!
//! The parts are pure but for [`Access`], which all connections of a node share: `rules` makes users from text,
//! `user` decides, `catalogue` knows the commands, `throttle` bounds guessing, `file` keeps users.
//!
//! Invariants: passwords are kept as hashes and compared in constant time; a change of a user holds for the next command
//! of its connections, and a user that is deleted has none left; what is refused changes nothing, is counted, and
//! stands in the log.
//!
//! What differs from Redis: hashes may be Argon2 (`#$argon2id$v=19$...`), too; `<` and `>` work with SHA-256 only.
//! `requirepass` holds with an ACL file, too, as long as that file does not tell of the default user.
//! Log-ins that fail are throttled by address. Channels are kept, and nothing else, for want of channels.

mod account;
pub mod catalogue;
pub mod categories;
mod describe;
mod file;
mod log;
mod login;
mod rules;
mod secret;
#[cfg(test)]
mod tests;
mod throttle;
mod user;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, watch};

pub use self::account::{Account, Denied, Session};
pub use self::catalogue::{Asked, KeyAccess};
pub use self::file::FileError;
pub use self::log::{LogEntry, Reason};
pub use self::login::{Login, LoginError};
pub use self::rules::{RuleError, RulesError};
pub use self::secret::{Secret, generate};
pub use self::user::{Refused, Selector, User};

use self::log::Log;
use self::throttle::Throttle;

/// The user a connection has before it logs in.
pub const DEFAULT: &str = "default";
/// Users there may be.
const USERS_MAX: usize = 10_000;
/// Slow hashes that are worked out at one time.
const SLOW_MAX: usize = 2;

/// What a node is told of its users.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Password of the default user; empty for none.
    pub requirepass: String,
    /// The ACL file.
    pub file: Option<PathBuf>,
    /// Whether to turn away whoever is not on this machine, as long as everybody is let in.
    pub protected: bool,
}

/// How often something was denied since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Denials {
    /// Log-ins that failed.
    pub auth: u64,
    /// Log-ins that were not even tried, for the throttle.
    pub throttled: u64,
    /// Commands.
    pub command: u64,
    /// Keys.
    pub key: u64,
    /// Connections, by protected mode.
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

/// Why a user is not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The name cannot be one.
    #[error("Usernames can't contain spaces or null characters")]
    Name,
    /// A rule is none.
    #[error("{0}")]
    Rules(#[from] RulesError),
    /// The line of the user in an ACL file would make another user, or none.
    #[error(
        "these rules cannot be kept in an ACL file as they are; nothing was changed. Give them in another form"
    )]
    Unwritable,
    /// A bound of this node.
    #[error("there are {USERS_MAX} users already; nothing was changed. Delete one first")]
    TooMany,
    /// Every connection begins as this one.
    #[error("The 'default' user cannot be removed")]
    Default,
}

/// The name of a user, if it can be one.
fn user_name(name: &[u8]) -> Option<&str> {
    let blank = |c: char| c.is_whitespace() || c == '\0';
    std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && !name.contains(blank))
}

impl Access {
    /// Users as the options, and the ACL file, tell them.
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

    /// Everything open to everybody, for tests and tools.
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

    /// The session of a new connection.
    pub fn session(&self) -> Session {
        Session::new(Arc::clone(&self.default), self.default.user().is_open())
    }

    /// Tells when users were deleted or loaded anew: then a connection asks whether its session has ended.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether a session may run a command on its keys. What is denied is counted and logged; `client` tells
    /// of the connection.
    ///
    /// # Errors
    /// Why not; nothing may be done then.
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

    /// Whether nothing has to be checked: the session's user may do everything.
    pub fn is_free(&self, session: &Session) -> bool {
        self.has_entered(session) && session.user().is_unrestricted()
    }

    /// Whether the session has a user: one that logged in, or the default one if that needs no password.
    pub fn has_entered(&self, session: &Session) -> bool {
        session.authenticated || self.default.user().is_open()
    }

    /// Whether the default user has no password, so that AUTH with a password alone makes no sense.
    pub fn default_is_nopass(&self) -> bool {
        self.default.user().nopass
    }

    /// Whether a client from `peer` is turned away before it says anything: everybody is let in here, and it is not
    /// on this machine. `certified` says that only clients with a certificate of ours come this far.
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

    /// How often what was denied.
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

    /// The newest denials, newest first.
    pub fn log(&self, count: usize) -> Vec<LogEntry> {
        self.log.lock().newest(count)
    }

    /// Forgets the denials.
    pub fn clear_log(&self) {
        self.log.lock().clear();
    }

    /// All users, in the order of their names.
    pub fn users(&self) -> Vec<Arc<User>> {
        self.accounts.read().values().map(|account| account.user()).collect()
    }

    /// The user of this name.
    pub fn user(&self, name: &[u8]) -> Option<Arc<User>> {
        self.account(name).map(|account| account.user())
    }

    fn account(&self, name: &[u8]) -> Option<Arc<Account>> {
        self.accounts.read().get(std::str::from_utf8(name).ok()?).cloned()
    }

    /// Makes a user, or changes one: its connections notice with their next command.
    ///
    /// # Errors
    /// Nothing was changed.
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

    /// Deletes a user and ends its sessions. Says whether there was one.
    ///
    /// # Errors
    /// It is the default user.
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

    /// Whether there is an ACL file.
    pub fn has_file(&self) -> bool {
        self.options.file.is_some()
    }

    /// Takes the users of the ACL file in place of those there are. Users that are not in it, or are others there, have
    /// their sessions ended; the default user's go on.
    ///
    /// # Errors
    /// Nothing was changed.
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
    /// The file is as it was.
    pub fn save(&self) -> Result<(), FileError> {
        let Some(path) = &self.options.file else { return Ok(()) };
        // Held, so that two do not write the same new file.
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
