//! Routes commands on keys to the nodes that serve them.
//!
//! The router sends every command to the node at `--addr` until a node answers `MOVED`. From then on it sends
//! each command to the primary of its slot. It reads the slot map once (`CLUSTER SLOTS`); each later `MOVED`
//! corrects it.
//!
//! Invariant: the router sends a command again only after an explicit rejection (`MOVED`, `TRYAGAIN`) or a
//! failed connection attempt: nothing was executed then (R7). Attempts are bounded; the last rejection is the
//! answer.

use std::collections::BTreeMap;
use std::time::Duration;

use caskade_engine::slots::SLOTS;
use redis::{Cmd, Pipeline, Value};
use tokio::task::JoinSet;

use crate::client::{Addr, Client, ClientError};

/// Maximum number of attempts per command, failed connection attempts included.
const ATTEMPTS_MAX: u32 = 6;
/// Pause before a retry of a command that no node can serve now.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Commands that are sent together: the slot of each, and a function that builds it for each attempt.
pub(crate) struct Batch<'a> {
    /// Slot of each command; `None`: it names no key.
    pub(crate) slots: Vec<Option<u16>>,
    pub(crate) command: &'a (dyn Fn(usize) -> Cmd + Sync),
}

/// Connections to the nodes of a cluster, opened on first use.
pub(crate) struct Router {
    first: Addr,
    nodes: BTreeMap<String, Client>,
    /// `None` until a node redirects.
    slots: Option<SlotMap>,
}

/// The primary of each slot.
struct SlotMap {
    primaries: Vec<Option<Addr>>,
}

/// Node, indices and answers of a group of commands that was sent to one node.
type Sent = (Addr, Vec<usize>, Result<Vec<Value>, ClientError>);

impl Router {
    /// Creates a router without a connection.
    pub(crate) fn new(first: &Addr) -> Self {
        Self { first: first.clone(), nodes: BTreeMap::new(), slots: None }
    }

    /// Creates a router and connects it to `addr`.
    pub(crate) async fn connect(addr: &Addr) -> Result<Self, ClientError> {
        let mut router = Self::new(addr);
        router.connect_first().await?;
        Ok(router)
    }

    /// Connects to the first node, if commands are sent there and no connection exists.
    pub(crate) async fn connect_first(&mut self) -> Result<(), ClientError> {
        if self.slots.is_none() {
            self.client(&self.first.clone()).await?;
        }
        Ok(())
    }

    /// Sends one command and returns its answer.
    pub(crate) async fn ask(&mut self, command: &Cmd, slot: Option<u16>) -> Result<Value, ClientError> {
        let batch = Batch { slots: vec![slot], command: &|_| command.clone() };
        match self.ask_all(&batch).await.pop() {
            Some(answer) => answer,
            None => {
                Err(ClientError::NoAnswer { addr: self.first.clone(), cause: "nothing was sent".to_owned() })
            }
        }
    }

    /// Sends commands to the nodes that serve them, to all nodes concurrently. Returns one answer per
    /// command, in their order. A rejection is an error.
    pub(crate) async fn ask_all(&mut self, batch: &Batch<'_>) -> Vec<Result<Value, ClientError>> {
        let mut answers: BTreeMap<usize, Result<Value, ClientError>> = BTreeMap::new();
        let mut left: Vec<usize> = (0..batch.slots.len()).collect();
        for attempt in 0..ATTEMPTS_MAX {
            let again = self.attempt(batch, std::mem::take(&mut left), &mut answers).await;
            left = again.commands;
            if left.is_empty() || attempt + 1 == ATTEMPTS_MAX {
                break;
            }
            if again.map_is_old {
                self.read_slots().await;
            }
            if again.pause {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
        answers.into_values().collect()
    }

    /// Sends commands once. Afterwards `answers` holds an answer for every command. Returns the commands that
    /// may be sent again.
    async fn attempt(
        &mut self,
        batch: &Batch<'_>,
        commands: Vec<usize>,
        answers: &mut BTreeMap<usize, Result<Value, ClientError>>,
    ) -> Again {
        let mut again = Again::default();
        let mut groups: BTreeMap<String, (Addr, Vec<usize>)> = BTreeMap::new();
        for index in commands {
            let addr = self.place(batch.slots.get(index).copied().flatten());
            groups.entry(addr.to_string()).or_insert_with(|| (addr, Vec::new())).1.push(index);
        }
        let mut sending: JoinSet<Sent> = JoinSet::new();
        let alone = groups.len() == 1;
        for (addr, indices) in groups.into_values() {
            let mut client = match self.client(&addr).await {
                Ok(client) => client,
                Err(error) => {
                    self.not_connected(&addr, &indices, error, answers, &mut again);
                    continue;
                }
            };
            let mut pipeline = Pipeline::with_capacity(indices.len());
            for index in &indices {
                pipeline.add_command((batch.command)(*index));
            }
            if alone {
                let outcome = client.ask_all(&pipeline).await;
                self.note(&addr, &indices, outcome, answers, &mut again);
            } else {
                sending.spawn(async move {
                    let outcome = client.ask_all(&pipeline).await;
                    (addr, indices, outcome)
                });
            }
        }
        while let Some(sent) = sending.join_next().await {
            // A cancelled or panicked task leaves its commands unanswered; the loop below fills them in.
            let Ok((addr, indices, outcome)) = sent else { continue };
            self.note(&addr, &indices, outcome, answers, &mut again);
        }
        for index in 0..batch.slots.len() {
            answers.entry(index).or_insert_with(|| {
                Err(ClientError::NoAnswer { addr: self.first.clone(), cause: "the task failed".to_owned() })
            });
        }
        again.commands.sort_unstable();
        again
    }

    /// Records a failed connection attempt. If a slot map is known, another node may serve the slots by now:
    /// retry.
    fn not_connected(
        &mut self,
        addr: &Addr,
        indices: &[usize],
        error: ClientError,
        answers: &mut BTreeMap<usize, Result<Value, ClientError>>,
        again: &mut Again,
    ) {
        self.nodes.remove(&addr.to_string());
        if self.slots.is_some() {
            again.commands.extend(indices);
            (again.map_is_old, again.pause) = (true, true);
        }
        for index in indices {
            answers.insert(*index, Err(error.clone()));
        }
    }

    /// Records the answers of one node, and learns from redirections.
    fn note(
        &mut self,
        addr: &Addr,
        indices: &[usize],
        outcome: Result<Vec<Value>, ClientError>,
        answers: &mut BTreeMap<usize, Result<Value, ClientError>>,
        again: &mut Again,
    ) {
        let values = match outcome {
            Ok(values) => values,
            Err(error) => {
                // The node may have executed the commands: do not send them again (R7). Drop the broken
                // connection.
                self.nodes.remove(&addr.to_string());
                answers.extend(indices.iter().map(|index| (*index, Err(error.clone()))));
                return;
            }
        };
        for (index, value) in indices.iter().zip(values) {
            let answer = match value.extract_error() {
                Ok(value) => Ok(value),
                Err(error) => Err(ClientError::of(addr, &error)),
            };
            if let Err(ClientError::Refused { answer, .. }) = &answer {
                if let Some((slot, host, port)) = moved(answer) {
                    again.map_is_old |= self.slots.is_none();
                    let host = if host.is_empty() { addr.host() } else { host };
                    self.learn(slot, addr.at(host, port));
                    again.commands.push(*index);
                } else if answer.starts_with("TRYAGAIN") {
                    again.commands.push(*index);
                    again.pause = true;
                }
            }
            answers.insert(*index, answer);
        }
    }

    /// Returns the node for commands on this slot.
    fn place(&self, slot: Option<u16>) -> Addr {
        let primary = slot.and_then(|slot| self.slots.as_ref()?.primaries.get(usize::from(slot))?.clone());
        primary.unwrap_or_else(|| self.first.clone())
    }

    fn learn(&mut self, slot: u16, primary: Addr) {
        let slots = self.slots.get_or_insert_with(|| SlotMap { primaries: vec![None; usize::from(SLOTS)] });
        if let Some(place) = slots.primaries.get_mut(usize::from(slot)) {
            *place = Some(primary);
        }
    }

    /// Reads the slot map from the first node that returns it. If none does, redirections fill it slot by
    /// slot.
    async fn read_slots(&mut self) {
        let mut asked: Vec<Addr> = vec![self.first.clone()];
        asked.extend(self.nodes.values().map(|client| client.addr().clone()));
        for addr in asked {
            let Ok(mut client) = self.client(&addr).await else { continue };
            let mut command = redis::cmd("CLUSTER");
            command.arg("SLOTS");
            match client.ask::<Value>(&command).await {
                Ok(answer) => {
                    for (slots, host, port) in ranges(&answer) {
                        let host = if host.is_empty() { addr.host() } else { host.as_str() };
                        let primary = addr.at(host, port);
                        slots.for_each(|slot| self.learn(slot, primary.clone()));
                    }
                    return;
                }
                // This user may not run `CLUSTER SLOTS`; redirections suffice.
                Err(ClientError::Refused { .. }) => return,
                Err(_) => drop(self.nodes.remove(&addr.to_string())),
            }
        }
    }

    async fn client(&mut self, addr: &Addr) -> Result<Client, ClientError> {
        let name = addr.to_string();
        if let Some(client) = self.nodes.get(&name) {
            return Ok(client.clone());
        }
        let client = Client::connect(addr).await?;
        self.nodes.insert(name, client.clone());
        Ok(client)
    }
}

/// Commands to send again, and the steps to take before.
#[derive(Default)]
struct Again {
    commands: Vec<usize>,
    map_is_old: bool,
    pause: bool,
}

/// Parses `MOVED SLOT HOST:PORT`. An IPv6 address has no brackets. An empty host is the host of the node that
/// answered.
fn moved(answer: &str) -> Option<(u16, &str, u16)> {
    let (slot, place) = answer.strip_prefix("MOVED ")?.split_once(' ')?;
    let (host, port) = place.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((slot.parse().ok().filter(|slot| *slot < SLOTS)?, host, port.parse().ok()?))
}

/// Parses the answer to `CLUSTER SLOTS` into slots, host and port of their primary. Skips entries it cannot
/// parse.
fn ranges(answer: &Value) -> Vec<(std::ops::RangeInclusive<u16>, String, u16)> {
    let number = |value: &Value| match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    };
    let range = |value: &Value| {
        let Value::Array(parts) = value else { return None };
        let [start, end, Value::Array(primary), ..] = parts.as_slice() else { return None };
        let [host, port, ..] = primary.as_slice() else { return None };
        // As in Redis clients: null, an empty string and `?` stand for the host that was asked.
        let host = match host {
            Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok().filter(|host| host != "?"),
            Value::SimpleString(text) => Some(text.clone()),
            _ => None,
        };
        Some((number(start)?..=number(end)?.min(SLOTS - 1), host.unwrap_or_default(), number(port)?))
    };
    match answer {
        Value::Array(found) => found.iter().filter_map(range).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_name_slot_and_node_also_by_name_and_by_ipv6_address() {
        for (answer, want) in [
            ("MOVED 9343 ::1:21467", Some((9343, "::1", 21467))),
            ("MOVED 9343 [::1]:21467", Some((9343, "::1", 21467))),
            ("MOVED 0 db1.example:7900", Some((0, "db1.example", 7900))),
            ("MOVED 16383 10.0.0.1:1", Some((16383, "10.0.0.1", 1))),
            ("MOVED 5 :7900", Some((5, "", 7900))),
            ("MOVED 16384 10.0.0.1:1", None),
            ("MOVED x 10.0.0.1:1", None),
            ("MOVED 1 10.0.0.1", None),
            ("ERR MOVED 1 10.0.0.1:1", None),
        ] {
            assert_eq!(moved(answer), want, "{answer}");
        }
    }

    #[test]
    fn slots_without_a_host_are_those_of_the_host_that_was_asked() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let node = |host: Value| Value::Array(vec![host, Value::Int(7900), bulk("id"), Value::Array(vec![])]);
        let range = |from, to, host| {
            Value::Array(vec![Value::Int(from), Value::Int(to), node(host), node(bulk("r"))])
        };
        let answer = Value::Array(vec![
            range(0, 15, bulk("db1")),
            range(16, 31, bulk("")),
            range(32, 47, Value::Nil),
            range(48, 63, bulk("?")),
            Value::Int(7),
            range(-1, 3, bulk("x")),
        ]);
        let found: Vec<_> =
            ranges(&answer).into_iter().map(|(slots, host, _)| (*slots.end(), host)).collect();
        let empty = String::new;
        assert_eq!(found, [(15, "db1".to_owned()), (31, empty()), (47, empty()), (63, empty())]);
    }
}
