//! A connection to one node, and what its errors mean.
//!
//! Refuses nothing itself; every wait is bounded.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use caskade_tui::login::Login;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, RedisError, Value};
use serde::de::DeserializeOwned;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take: longer than a node itself waits for a partition without a primary.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

const LOG_IN: &str =
    ". Log in: --askpass or CASKADE_PASSWORD, and --user for another user than the default one";

/// Where a node's clients connect, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addr {
    host: String,
    port: u16,
    login: Arc<Login>,
}

impl Addr {
    /// The same place, as somebody.
    pub(crate) fn with_login(self, login: Login) -> Self {
        Self { login: Arc::new(login), ..self }
    }

    /// Another node, as the same user.
    pub(crate) fn at(&self, host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port, login: Arc::clone(&self.login) }
    }

    /// Host name or IP address, without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// As whom.
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

/// Why a request was not answered as hoped; each says what it means for the data and what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody listens there.
    #[error(
        "cannot connect to {addr}: {cause}. Nothing was sent. Is a node running there? Start one with \
         `caskd --data-dir DIR --listen {addr}`, or a local cluster with `caskctl playground`, or name \
         another node with --addr"
    )]
    NoConnection {
        /// Who was called.
        addr: Addr,
        /// What the system said.
        cause: String,
    },
    /// The connection was lost, or the answer is late.
    #[error(
        "{addr} did not answer: {cause}. If this was a write, it may or may not have been done: read the \
         key before you try again. `caskctl status` at another node tells how the cluster is"
    )]
    NoAnswer {
        /// Who was asked.
        addr: Addr,
        /// What went wrong.
        cause: String,
    },
    /// The node said no.
    #[error("{addr} refused: {answer}{hint}")]
    Refused {
        /// Who said so.
        addr: Addr,
        /// Its words.
        answer: String,
        /// What to do, or empty.
        hint: &'static str,
    },
    /// The answer has a form this build does not know.
    #[error("{addr} answered what this caskctl cannot read: {cause}. Are caskctl and caskd of one version?")]
    Unreadable {
        /// Who answered.
        addr: Addr,
        /// What is wrong with it.
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
    /// Connects.
    pub(crate) async fn connect(addr: &Addr) -> Result<Self, ClientError> {
        let refused = |cause: String| ClientError::NoConnection { addr: addr.clone(), cause };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT));
        // The library's own limit leaves out the name's look-up.
        let connecting = addr.login.connect(&addr.host, addr.port, &config);
        let connection = tokio::time::timeout(2 * CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| refused("no connection in time".to_owned()))?
            .map_err(|error| not_let_in(addr, &error))?;
        Ok(Self { connection, addr: addr.clone() })
    }

    /// Sends one command.
    pub(crate) async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, ClientError> {
        let answer: Value =
            self.connection.send_packed_command(command).await.map_err(|error| self.explain(&error))?;
        let answer = answer.extract_error().map_err(|error| self.explain(&error))?;
        redis::from_redis_value(answer).map_err(|error| self.unreadable(&error))
    }

    /// The node it is connected to.
    pub(crate) fn addr(&self) -> &Addr {
        &self.addr
    }

    /// Sends several commands at once; a refused one is an [`Value::ServerError`] among the answers.
    pub(crate) async fn ask_all(&mut self, commands: &redis::Pipeline) -> Result<Vec<Value>, ClientError> {
        let sent = self.connection.send_packed_commands(commands, 0, commands.len()).await;
        sent.map_err(|error| self.explain(&error))
    }

    /// Asks a `CASK.*` question: the JSON as the node sent it.
    pub(crate) async fn question(&mut self, command: &Cmd) -> Result<String, ClientError> {
        self.ask(command).await
    }

    /// Reads an answer of [`Client::question`].
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
            ". This server is no Caskade node: give the address of one with --addr"
        } else if answer.contains("NOAUTH") {
            LOG_IN
        } else {
            ""
        };
        Self::Refused { addr, answer, hint }
    }

    /// Returns whether a node refused a command because its keys are of several slots; it did nothing then.
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

/// Why a connection did not come about: nobody is there, or the node does not let this client in.
fn not_let_in(addr: &Addr, error: &RedisError) -> ClientError {
    let answer = words(error);
    let hint = if answer.contains("NOAUTH") || answer.contains("NOPERM") {
        LOG_IN
    } else if answer.contains("WRONGPASS") {
        ". Is the password right? --askpass asks for it, --user names another user than the default one"
    } else if matches!(error.kind(), redis::ErrorKind::Server(_)) {
        ""
    } else {
        return ClientError::NoConnection { addr: addr.clone(), cause: answer };
    };
    ClientError::Refused { addr: addr.clone(), answer, hint }
}

/// What went wrong, in the words of whoever said it.
pub(crate) fn words(error: &RedisError) -> String {
    if error.is_timeout() {
        return format!("nothing came within {} s", ANSWER_TIMEOUT.as_secs());
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
