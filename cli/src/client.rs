//! A connection to one node, and the meaning of its errors. Every wait is bounded.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use caskade_tui::login::Login;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, RedisError, Value};
use serde::de::DeserializeOwned;

/// Time limit of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit of an answer: longer than a node itself waits for a partition without a primary.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

const LOG_IN: &str =
    "; log in with --askpass or CASKADE_PASSWORD, and --user for a user other than the default";

/// Client address of a node, and the login to use there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addr {
    host: String,
    port: u16,
    login: Arc<Login>,
}

impl Addr {
    /// Returns the same address with this login.
    pub(crate) fn with_login(self, login: Login) -> Self {
        Self { login: Arc::new(login), ..self }
    }

    /// Returns the address of another node with the same login.
    pub(crate) fn at(&self, host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port, login: Arc::clone(&self.login) }
    }

    /// Returns the host name or IP address, without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Returns the login to use.
    pub(crate) fn login(&self) -> &Login {
        &self.login
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl FromStr for Addr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not HOST:PORT, such as 127.0.0.1:7900 or [::1]:7900");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        match bare {
            Some(host) if !host.is_empty() => Ok(Self { host: host.to_owned(), port, login: Arc::default() }),
            None if !host.is_empty() && !host.contains([':', '[', ']', '/']) => {
                Ok(Self { host: host.to_owned(), port, login: Arc::default() })
            }
            _ => Err(wrong()),
        }
    }
}

/// Failure of a request. Each text states the consequence for the data and what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// No connection was established; nothing was sent.
    #[error(
        "cannot connect to {addr}: {cause}; nothing was sent; start a node there with \
         `caskd --data-dir DIR --listen {addr}`, start a local cluster with `caskctl playground`, or name \
         another node with --addr"
    )]
    NoConnection {
        /// The node that was called.
        addr: Addr,
        /// The error of the operating system.
        cause: String,
    },
    /// The connection was lost, or no answer arrived in time.
    #[error(
        "{addr} did not answer: {cause}; a write may or may not have been applied: read the key before you \
         try again; `caskctl status` at another node shows the state of the cluster"
    )]
    NoAnswer {
        /// The node that was asked.
        addr: Addr,
        /// The error of the connection.
        cause: String,
    },
    /// The node answered with an error.
    #[error("{addr} refused: {answer}{hint}")]
    Refused {
        /// The node that answered.
        addr: Addr,
        /// The error text of the node.
        answer: String,
        /// The remedy, or empty.
        hint: &'static str,
    },
    /// The answer has a form that this build cannot read.
    #[error(
        "cannot read the answer of {addr}: {cause}; a write may have been applied; use caskctl and caskd of \
         the same version"
    )]
    Unreadable {
        /// The node that answered.
        addr: Addr,
        /// The error of the parser.
        cause: String,
    },
}

/// A connection to one node.
#[derive(Clone)]
pub(crate) struct Client {
    connection: MultiplexedConnection,
    addr: Addr,
}

impl Client {
    /// Connects and logs in, within 10 s.
    pub(crate) async fn connect(addr: &Addr) -> Result<Self, ClientError> {
        let refused = |cause: String| ClientError::NoConnection { addr: addr.clone(), cause };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT));
        // The library's own time limit does not include resolving the host name.
        let connecting = addr.login.connect(&addr.host, addr.port, &config);
        let connection = tokio::time::timeout(2 * CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| refused("no connection within 10 s".to_owned()))?
            .map_err(|error| not_let_in(addr, &error))?;
        Ok(Self { connection, addr: addr.clone() })
    }

    /// Sends one command and returns its answer. An error of the node is an error.
    pub(crate) async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, ClientError> {
        let answer: Value =
            self.connection.send_packed_command(command).await.map_err(|error| self.explain(&error))?;
        let answer = answer.extract_error().map_err(|error| self.explain(&error))?;
        redis::from_redis_value(answer).map_err(|error| self.unreadable(&error))
    }

    /// Returns the node that this connection leads to.
    pub(crate) fn addr(&self) -> &Addr {
        &self.addr
    }

    /// Sends several commands in one pipeline. A rejected one is a [`Value::ServerError`] among the answers.
    pub(crate) async fn ask_all(&mut self, commands: &redis::Pipeline) -> Result<Vec<Value>, ClientError> {
        let sent = self.connection.send_packed_commands(commands, 0, commands.len()).await;
        sent.map_err(|error| self.explain(&error))
    }

    /// Sends a `CASK.*` command and returns the JSON text unchanged.
    pub(crate) async fn question(&mut self, command: &Cmd) -> Result<String, ClientError> {
        self.ask(command).await
    }

    /// Parses an answer of [`Client::question`].
    pub(crate) fn read<T: DeserializeOwned>(&self, json: &str) -> Result<T, ClientError> {
        serde_json::from_str(json).map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, cause: &dyn fmt::Display) -> ClientError {
        ClientError::Unreadable { addr: self.addr.clone(), cause: cause.to_string() }
    }

    fn explain(&self, error: &RedisError) -> ClientError {
        ClientError::of(&self.addr, error)
    }
}

impl ClientError {
    /// Returns the error of a request to this node.
    pub(crate) fn of(addr: &Addr, error: &RedisError) -> Self {
        let addr = addr.clone();
        if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
            return Self::NoAnswer { addr, cause: words(error) };
        }
        let answer = words(error);
        let hint = if answer.to_ascii_lowercase().contains("unknown command 'cask.") {
            "; this server is not a Caskade node: name one with --addr"
        } else if answer.contains("NOAUTH") {
            LOG_IN
        } else {
            ""
        };
        Self::Refused { addr, answer, hint }
    }

    /// Returns whether a node rejected a command because its keys are in several slots; it changed nothing
    /// then.
    pub(crate) fn is_cross_slot(&self) -> bool {
        matches!(self, Self::Refused { answer, .. } if answer.starts_with("CROSSSLOT"))
    }

    /// Returns whether the command may have been executed.
    pub(crate) fn is_unknown(&self) -> bool {
        match self {
            Self::NoAnswer { .. } | Self::Unreadable { .. } => true,
            Self::Refused { answer, .. } => answer.starts_with("UNKNOWN"),
            Self::NoConnection { .. } => false,
        }
    }
}

/// Returns the error of a failed connection: no node listens there, or the node rejects the login.
fn not_let_in(addr: &Addr, error: &RedisError) -> ClientError {
    let answer = words(error);
    let hint = if answer.contains("NOAUTH") || answer.contains("NOPERM") {
        LOG_IN
    } else if answer.contains("WRONGPASS") {
        "; check the password (--askpass prompts for it) and the user (--user)"
    } else if matches!(error.kind(), redis::ErrorKind::Server(_)) {
        ""
    } else {
        return ClientError::NoConnection { addr: addr.clone(), cause: answer };
    };
    ClientError::Refused { addr: addr.clone(), answer, hint }
}

/// Returns the text of an error: the node's own words if it sent any.
pub(crate) fn words(error: &RedisError) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
    }
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_written() {
        for text in ["127.0.0.1:7900", "[::1]:7900", "db1.example:1"] {
            assert_eq!(text.parse::<Addr>().unwrap().to_string(), text);
        }
        for text in ["7900", "host", ":7900", "host:0", "::1:7900", "redis://h:1", "[]:1", "h:99999"] {
            assert!(text.parse::<Addr>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn refused_connection_says_how_to_start_a_node() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr: Addr = listener.local_addr().unwrap().to_string().parse().unwrap();
        drop(listener);
        let error = Client::connect(&addr).await.err().unwrap().to_string();
        assert!(error.contains("refused") && error.contains("caskctl playground"), "{error}");
    }
}
