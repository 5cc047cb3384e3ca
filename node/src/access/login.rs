//! Logging in.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::account::{Account, Session};
use super::log::Reason;
use super::secret::Secret;
use super::{Access, DEFAULT};
use crate::supervise::contained_call;

/// Longest password, bytes; a longer one is wrong.
const PASSWORD_BYTES_MAX: usize = 64 * 1024;

/// Somebody who wants to be a user.
#[derive(Clone)]
pub struct Login {
    /// Name of the user.
    pub user: Vec<u8>,
    /// Its password.
    pub password: Vec<u8>,
    /// Where the client is.
    pub peer: IpAddr,
    /// The command, for the log.
    pub command: &'static str,
    /// The connection, for the log.
    pub client: String,
}

impl Login {
    /// As the default user.
    pub fn default_user(password: &[u8], peer: IpAddr, command: &'static str, client: String) -> Self {
        Self { user: DEFAULT.as_bytes().to_vec(), password: password.to_vec(), peer, command, client }
    }
}

/// Why it is not let in. As text it is the error reply, code first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// No such user, or not its password, or it is off: which of these is not told.
    #[error("WRONGPASS invalid username-password pair or user is disabled.")]
    Wrong,
    /// Too many failed from there: the password was not looked at.
    #[error(
        "WRONGPASS too many log-ins failed from this address; the password was not looked at. Try again in \
         {seconds} s"
    )]
    Throttled {
        /// When the next one may be tried.
        seconds: u64,
    },
}

impl Access {
    /// Lets a client in as a user. The answer to a wrong password may be held back for some two seconds.
    ///
    /// # Errors
    /// It is not let in; the connection stays who it was.
    pub async fn authenticate(self: &Arc<Self>, login: Login) -> Result<Session, LoginError> {
        self.throttled(login.peer)?;
        let account = self.account(&login.user);
        let slow = match &account {
            Some(account) => account.user().is_slow(),
            None => self.users().iter().any(|user| user.is_slow()),
        };
        let known = if slow {
            self.knows_slowly(account.clone(), &login).await?
        } else {
            knows(account.as_deref(), &login)
        };
        match account.filter(|_| known) {
            Some(account) => Ok(Session::new(account, true)),
            None => {
                tokio::time::sleep(self.failed(login)).await;
                Err(LoginError::Wrong)
            }
        }
    }

    fn throttled(&self, peer: IpAddr) -> Result<(), LoginError> {
        let Some(wait) = self.throttle.lock().wait(peer, Instant::now()) else { return Ok(()) };
        self.counters.throttled.fetch_add(1, Ordering::Relaxed);
        Err(LoginError::Throttled { seconds: wait.as_secs_f64().ceil() as u64 })
    }

    pub(super) fn failed(&self, login: Login) -> Duration {
        self.counters.auth.fetch_add(1, Ordering::Relaxed);
        let user = String::from_utf8_lossy(&login.user);
        tracing::debug!(peer = %login.peer, %user, "a log-in failed");
        let (command, now_ms) = (login.command.as_bytes(), crate::clock::wall_ms());
        self.log.lock().add(Reason::Auth, command, &user, login.client, now_ms);
        self.throttle.lock().failed(login.peer, Instant::now())
    }

    /// On a thread of its own, of which there are few.
    async fn knows_slowly(&self, account: Option<Arc<Account>>, login: &Login) -> Result<bool, LoginError> {
        // It is never closed; without a permit the password counts as wrong.
        let Ok(_permit) = self.slow.acquire().await else { return Ok(false) };
        // Others may have failed while this one waited.
        self.throttled(login.peer)?;
        let login = login.clone();
        // A panic in there is one refused log-in.
        let knows = tokio::task::spawn_blocking(move || {
            contained_call(|| {
                if account.is_none() {
                    take_as_long(&login.password);
                }
                knows(account.as_deref(), &login)
            })
        });
        Ok(knows.await.unwrap_or(false))
    }
}

fn knows(account: Option<&Account>, login: &Login) -> bool {
    login.password.len() <= PASSWORD_BYTES_MAX
        && account.is_some_and(|account| account.user().knows(&login.password))
}

/// Works out a slow hash for nothing, so that the time does not tell which users there are.
fn take_as_long(password: &[u8]) {
    static NOBODY: OnceLock<Option<Secret>> = OnceLock::new();
    if let Some(secret) = NOBODY.get_or_init(|| Secret::argon2(b"").ok()) {
        std::hint::black_box(secret.matches(password.get(..PASSWORD_BYTES_MAX).unwrap_or(password)));
    }
}
