//! Authentication and permissions of memcached clients, with the users and rules of all front ends.
//!
//! If the default user needs a password, the first command must be a `set` of any key. Its value is
//! `username password`, as in memcached's own authentication for the text protocol. Until then every other
//! command is rejected. The gate checks each later request as the Redis command with the same effect.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::reply::Shape;
use super::request::{Mode, Request, refuse};
use crate::access::{Access, Asked, KeyAccess, Login, LoginError, Session};
use crate::kv::{Action, Operation};

/// Session of a connection, and the checks on its requests.
pub(super) struct Gate {
    access: Arc<Access>,
    session: Session,
    peer: SocketAddr,
}

impl Gate {
    pub(super) fn new(access: &Arc<Access>, peer: SocketAddr) -> Self {
        Self { access: Arc::clone(access), session: access.session(), peer }
    }

    /// Returns the address of the client.
    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Returns whether the session has ended, for instance because its user was deleted: the connection must
    /// close.
    pub(super) fn has_ended(&self) -> bool {
        self.session.has_ended()
    }

    /// Returns whether the client has logged in or does not need to.
    pub(super) fn has_entered(&self) -> bool {
        self.access.has_entered(&self.session)
    }

    /// Returns the request if it is allowed, else the request that replies with the refusal.
    pub(super) fn pass(&self, request: Request) -> Request {
        if self.access.is_free(&self.session) {
            return request;
        }
        if !self.has_entered() {
            return log_in(request);
        }
        let checked = match &request {
            Request::Say(_) | Request::Refuse(_) | Request::Close(_) | Request::Foreign(_) => Ok(()),
            Request::LogIn { .. } => Ok(()),
            Request::Fetch(fetch) => {
                let command = if fetch.touch.is_some() { "getex" } else { "get" };
                self.check(command, fetch.keys.iter())
            }
            Request::One(operation, _) => {
                self.check(command(&operation.action), std::iter::once(&operation.key[..]))
            }
            Request::Flush { .. } => self.check("flushall", std::iter::empty()),
            Request::Stats(_) => self.check("info", std::iter::empty()),
        };
        checked.map_or_else(|why| Request::Refuse(format!("CLIENT_ERROR {why}").into()), |()| request)
    }

    fn check<'k>(
        &self,
        command: &'static str,
        keys: impl Iterator<Item = &'k [u8]> + Clone,
    ) -> Result<(), String> {
        let asked = Asked::new(command, b"");
        // No memcached command that maps to `set` returns the former value.
        let access = if command == "set" { KeyAccess::Write } else { asked.key_access(0) };
        let keys = keys.map(|key| (key, access));
        let client = || format!("addr={} memcached", self.peer);
        self.access.check(&self.session, &asked, keys, client).map_err(|denied| denied.to_string())
    }

    /// Authenticates the client: `who` is user and password with a blank between.
    ///
    /// # Errors
    /// The client is not authenticated; the session stays as it was.
    pub(super) async fn log_in(&mut self, who: &[u8]) -> Result<(), LoginError> {
        let end = who.iter().position(|byte| *byte == b' ').unwrap_or(who.len());
        let (user, password) = who.split_at(end);
        let password = password.get(1..).unwrap_or_default().trim_ascii_end();
        let login = Login {
            user: user.to_vec(),
            password: password.to_vec(),
            peer: self.peer.ip(),
            command: "set",
            client: format!("addr={} memcached", self.peer),
        };
        self.session = self.access.authenticate(login).await?;
        Ok(())
    }
}

/// Turns a request of a client that has not logged in into its log-in, or into a refusal.
fn log_in(request: Request) -> Request {
    match request {
        Request::One(
            Operation { action: Action::Set { value, .. }, .. },
            Shape::Stored { mode: Mode::Set, cas: false, noreply },
        ) => Request::LogIn { who: value, noreply },
        Request::Close(line) => Request::Close(line),
        Request::Foreign(foreign) => Request::Foreign(foreign),
        Request::Refuse(line) => Request::Refuse(line),
        _ => refuse("CLIENT_ERROR unauthenticated"),
    }
}

/// Returns the Redis command with the effect of `action`, for the rules.
fn command(action: &Action) -> &'static str {
    match action {
        Action::IfVersion(_, action) => command(action),
        Action::Read | Action::Inspect => "get",
        Action::ReadUntil(_) => "getex",
        Action::Extend { .. } => "append",
        Action::Count { down: false, .. } => "incrby",
        Action::Count { down: true, .. } => "decrby",
        Action::Delete => "del",
        Action::Expire(..) => "expire",
        _ => "set",
    }
}

/// Returns the reply to a failed log-in.
pub(super) fn refusal(error: &LoginError) -> Bytes {
    match error {
        LoginError::Wrong => Bytes::from_static(b"CLIENT_ERROR authentication failure"),
        other => format!("CLIENT_ERROR {other}").into(),
    }
}
