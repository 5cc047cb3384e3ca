//! Asks the nodes: one round of `CASK.*` requests at a time, to the node that answered last.
//!
//! If that node does not answer, the source tries the members it last named and the other given addresses in
//! turn. Every step has a time limit, so that a round ends. The answer omits and names requests that the node
//! rejects (an older build may lack a command). A node that rejects `CASK.STATUS` or `CASK.NODES` counts as
//! not answering.

use std::time::Duration;

use caskade_api::{Event, Nodes, RingView, Status, Task};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use serde::de::DeserializeOwned;

use crate::login::Login;
use crate::model::{Failure, Snapshot};
use crate::update::Round;

/// Time limit of a connection attempt, in milliseconds.
const CONNECT_MS: u64 = 1_000;
/// Time limit of an answer, in milliseconds.
const ANSWER_MS: u64 = 2_000;
/// Maximum number of addresses tried in one round.
const TRIES_MAX: usize = 16;
/// Maximum number of remembered member addresses.
const KNOWN_MAX: usize = 256;
/// Number of events requested.
const EVENTS_MAX: u32 = 200;

/// Connection to the cluster: the addresses to ask, and the node that answered last.
pub struct Source {
    given: Vec<String>,
    known: Vec<String>,
    current: String,
    connection: Option<MultiplexedConnection>,
    login: Login,
    /// Node, epoch and hash of the ring that the dashboard has. The ring is requested again when one of them
    /// changes.
    ring_of: Option<(String, u64, String)>,
}

impl Source {
    /// Creates a source that asks the first of `addrs` (`HOST:PORT`) first. The caller rejects an empty list.
    pub fn new(addrs: Vec<String>) -> Self {
        let current = addrs.first().cloned().unwrap_or_default();
        Self {
            given: addrs,
            known: Vec::new(),
            current,
            connection: None,
            login: Login::default(),
            ring_of: None,
        }
    }

    /// Returns the source with this login.
    pub fn with_login(self, login: Login) -> Self {
        Self { login, ..self }
    }

    /// Runs one round of requests. Returns within `TRIES_MAX * (2 * CONNECT_MS + 2 * ANSWER_MS)`
    /// milliseconds.
    pub async fn poll(&mut self) -> Round {
        let mut failures = Vec::new();
        for addr in self.candidates().into_iter().take(TRIES_MAX) {
            match self.ask(&addr).await {
                Ok(snapshot) => {
                    self.remember(&snapshot);
                    return Round { answer: Some(snapshot), failures };
                }
                Err(error) => {
                    self.connection = None;
                    failures.push(Failure { addr, error });
                }
            }
        }
        Round { answer: None, failures }
    }

    /// Makes the next round start with another node, if one is known.
    pub fn go_on(&mut self) {
        if let Some(next) = self.candidates().into_iter().nth(1) {
            self.connection = None;
            self.current = next;
        }
    }

    /// Returns the current address, then all others in a fixed order that starts after it.
    fn candidates(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for addr in self.known.iter().chain(&self.given) {
            if !all.contains(addr) {
                all.push(addr.clone());
            }
        }
        match all.iter().position(|addr| *addr == self.current) {
            Some(at) => all.rotate_left(at),
            None => all.insert(0, self.current.clone()),
        }
        all
    }

    fn remember(&mut self, snapshot: &Snapshot) {
        self.current.clone_from(&snapshot.addr);
        let members = snapshot.status.members.iter().map(|member| &member.client_addr);
        self.known = members.filter(|addr| !addr.is_empty()).take(KNOWN_MAX).cloned().collect();
        if let Some(ring) = &snapshot.ring {
            self.ring_of = Some((snapshot.addr.clone(), ring.epoch, ring.ring_hash.clone()));
        }
    }

    async fn ask(&mut self, addr: &str) -> Result<Snapshot, String> {
        let connection = match (&self.connection, addr == self.current) {
            (Some(connection), true) => connection.clone(),
            _ => connect(addr, &self.login).await?,
        };
        self.connection = Some(connection.clone());
        self.current = addr.to_owned();
        let limit = Duration::from_millis(2 * ANSWER_MS);
        let asked = tokio::time::timeout(limit, self.questions(connection, addr)).await;
        asked.unwrap_or_else(|_| Err(format!("no answer within {} s", limit.as_secs())))
    }

    async fn questions(&self, connection: MultiplexedConnection, addr: &str) -> Result<Snapshot, String> {
        let events_max = EVENTS_MAX.to_string();
        let (status, nodes, tasks, events) = tokio::join!(
            question::<Status>(&connection, "CASK.STATUS", None),
            question::<Nodes>(&connection, "CASK.NODES", None),
            question::<Vec<Task>>(&connection, "CASK.TASKS", None),
            question::<Vec<Event>>(&connection, "CASK.EVENTS", Some(&events_max)),
        );
        let (status, nodes) = (status?, nodes?);
        let mut missing = Vec::new();
        let ring = if self
            .ring_of
            .as_ref()
            .is_some_and(|of| *of == (addr.to_owned(), status.epoch, status.ring_hash.clone()))
        {
            None
        } else {
            question::<RingView>(&connection, "CASK.RING", None)
                .await
                .map_err(|error| missing.push(error))
                .ok()
        };
        // If CASK.TASKS failed, use the running tasks from the status.
        let tasks = tasks.unwrap_or_else(|_| status.tasks.clone());
        let events = events.map_err(|error| missing.push(error)).unwrap_or_default();
        Ok(Snapshot { addr: addr.to_owned(), status, nodes, ring, tasks, events, missing })
    }
}

async fn connect(addr: &str, login: &Login) -> Result<MultiplexedConnection, String> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_millis(CONNECT_MS)))
        .set_response_timeout(Some(Duration::from_millis(ANSWER_MS)));
    let connecting = connect_to(addr, login, &config);
    // The library's own time limit does not include resolving the host name.
    match tokio::time::timeout(Duration::from_millis(2 * CONNECT_MS), connecting).await {
        Ok(connected) => connected,
        Err(_) => Err("no connection within 2 s".to_owned()),
    }
}

/// Connects to `HOST:PORT` with the login, or to a URL, which contains its own login.
async fn connect_to(
    addr: &str,
    login: &Login,
    config: &AsyncConnectionConfig,
) -> Result<MultiplexedConnection, String> {
    if addr.contains("://") {
        let client = redis::Client::open(addr).map_err(|error| format!("not a valid URL: {error}"))?;
        let connected = client.get_multiplexed_async_connection_with_config(config).await;
        return connected.map_err(|error| words(&error));
    }
    let parts = addr.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = parts.ok_or("not HOST:PORT")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    login.connect(host, port, config).await.map_err(|error| words(&error))
}

async fn question<T: DeserializeOwned>(
    connection: &MultiplexedConnection,
    name: &str,
    argument: Option<&str>,
) -> Result<T, String> {
    let mut command = redis::cmd(name);
    if let Some(argument) = argument {
        command.arg(argument);
    }
    let answer: String = command
        .query_async(&mut connection.clone())
        .await
        .map_err(|error| format!("{name}: {}", words(&error)))?;
    serde_json::from_str(&answer).map_err(|error| {
        format!("{name}: cannot read the answer: {error}; use casktop and caskd of the same version")
    })
}

/// Returns a short text for the error.
fn words(error: &redis::RedisError) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    if error.is_connection_refusal() {
        return "connection refused".to_owned();
    }
    if error.is_connection_dropped() {
        return "connection lost".to_owned();
    }
    error.detail().map_or_else(|| error.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use caskade_api::MemberStatus;

    fn named(addr: &str, members: &[&str]) -> Snapshot {
        let member =
            |addr: &&str| MemberStatus { client_addr: (*addr).to_owned(), ..MemberStatus::default() };
        let status = Status { members: members.iter().map(member).collect(), ..Status::default() };
        Snapshot { addr: addr.to_owned(), status, ..Snapshot::default() }
    }

    #[test]
    fn node_that_answered_last_is_asked_first_then_the_members_it_named() {
        let mut source = Source::new(vec!["seed:1".into(), "seed:2".into()]);
        assert_eq!(source.candidates(), ["seed:1", "seed:2"]);
        source.remember(&named("b:1", &["a:1", "b:1", "c:1", ""]));
        assert_eq!(source.candidates(), ["b:1", "c:1", "seed:1", "seed:2", "a:1"]);
        source.go_on();
        assert_eq!(source.candidates().first().map(String::as_str), Some("c:1"));
    }
}
