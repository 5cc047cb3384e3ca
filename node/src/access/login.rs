//! Log-ins: the throttle, the comparison of passwords, and the reply's delay after a failure.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use caskade_api::password::Secret;

use super::account::{Account, Session};
use super::log::Reason;
use super::{Access, DEFAULT};
use crate::supervise::contained_call;

/// Longest password, in bytes; a longer one counts as wrong.
const PASSWORD_BYTES_MAX: usize = 64 * 1024;

/// A log-in.
#[derive(Clone)]
pub struct Login {
    /// Name of the user.
    pub user: Vec<u8>,
    /// Password that the client sent.
    pub password: Vec<u8>,
    /// Address of the client.
    pub peer: IpAddr,
    /// Command of the log-in, for the log.
    pub command: &'static str,
    /// Description of the connection, for the log.
    pub client: String,
}

impl Login {
    /// Creates a log-in as the default user.
    pub fn default_user(password: &[u8], peer: IpAddr, command: &'static str, client: String) -> Self {
        Self { user: DEFAULT.as_bytes().to_vec(), password: password.to_vec(), peer, command, client }
    }
}

/// Failed log-in. Its text is the error reply, code first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The user does not exist or is disabled, or the password is wrong. The reply does not reveal which.
    #[error("WRONGPASS invalid username-password pair or user is disabled.")]
    Wrong,
    /// Too many log-ins from this address have failed: the password was not checked.
    #[error(
        "WRONGPASS too many log-ins failed from this address; the password was not checked. Try again in \
         {seconds} s"
    )]
    Throttled {
        /// Seconds until the next log-in is checked.
        seconds: u64,
    },
}

impl Access {
    /// Authenticates a client as a user. Delays the reply to a wrong password by up to about two seconds.
    ///
    /// # Errors
    /// The log-in failed or was throttled; the connection keeps its session.
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
        tracing::debug!(peer = %login.peer, %user, "log-in failed");
        let (command, now_ms) = (login.command.as_bytes(), crate::clock::wall_ms());
        self.log.lock().add(Reason::Auth, command, &user, login.client, now_ms);
        self.throttle.lock().failed(login.peer, Instant::now())
    }

    /// Compares a slow hash on a blocking thread. At most `SLOW_MAX` run at one time.
    async fn knows_slowly(&self, account: Option<Arc<Account>>, login: &Login) -> Result<bool, LoginError> {
        // The semaphore is never closed; without a permit the password counts as wrong.
        let Ok(_permit) = self.slow.acquire().await else { return Ok(false) };
        // Other log-ins from the address may have failed while this one waited.
        self.throttled(login.peer)?;
        let login = login.clone();
        // A panic in the comparison fails this log-in only.
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

/// Computes a slow hash without a use, so that the time does not reveal which users exist.
fn take_as_long(password: &[u8]) {
    static NOBODY: OnceLock<Option<Secret>> = OnceLock::new();
    if let Some(secret) = NOBODY.get_or_init(|| Secret::argon2(b"").ok()) {
        std::hint::black_box(secret.matches(password.get(..PASSWORD_BYTES_MAX).unwrap_or(password)));
    }
}
