//! Shared parts of the front ends' tests: a keyspace in memory, and a client that checks replies.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeBounds as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::context::FrontEndContext;
use super::keyspace::{AdminRequest, ClusterSlots, Keyspace};
use super::limits::ClientLimits;
use super::security::Security;
use crate::clock::wall_ms;
use crate::data::{KeyRange, KeysInOrder};
use crate::id::NodeId;
use crate::kv::{
    Action, At, Concluded, Effect, Entry, Failure, Operation, Outcome, ScanPage, Ticket, conclude, evaluate,
};

/// A keyspace in memory. Operations on keys that begin with `slow` complete late and in any order. Their
/// writes become visible when they complete, as in the real keyspace.
#[derive(Clone)]
pub(super) struct Memory {
    entries: Arc<Mutex<BTreeMap<Bytes, Entry>>>,
    /// Versions assigned so far.
    versions: Arc<AtomicU64>,
    value_bytes_max: usize,
}

impl Memory {
    pub(super) fn of_values_to(value_bytes_max: usize) -> Self {
        Self { entries: Arc::default(), versions: Arc::default(), value_bytes_max }
    }

    fn execute(&self, operation: &Operation) -> Result<Outcome, Failure> {
        let mut entries = self.entries.lock();
        let version = self.versions.fetch_add(1, Ordering::Relaxed) + 1;
        let at = At { now_ms: wall_ms(), version, value_bytes_max: self.value_bytes_max as u64 };
        let (effects, outcome) = match &operation.action {
            Action::Transaction(transaction) => {
                let read = |key: &Bytes| Ok::<_, Infallible>(entries.get(key).cloned());
                let Ok(Concluded { effects, outcome }) = conclude(transaction, &at, read);
                (effects, outcome)
            }
            action => {
                let (effect, outcome) = evaluate(action, entries.get(&operation.key), &at)?;
                (vec![(operation.key.clone(), effect)], outcome)
            }
        };
        for ((key, effect), version) in effects.into_iter().zip(version..) {
            match effect {
                Effect::Nothing => {}
                Effect::Write { value, user_flags, expiry_ms } => {
                    entries.insert(key, Entry { value, user_flags, expiry_ms, version });
                }
                Effect::Remove => drop(entries.remove(&key)),
            }
        }
        Ok(outcome)
    }
}

impl Keyspace for Memory {
    fn cluster_ms(&self) -> u64 {
        wall_ms()
    }

    fn submit(&self, operation: Operation) -> Ticket {
        if operation.key.starts_with(b"refused") {
            return Ticket::Ready(Err(Failure::Refused("no\r\nprimary".to_owned())));
        }
        if !operation.key.starts_with(b"slow") {
            return Ticket::Ready(self.execute(&operation));
        }
        let (sender, answer) = oneshot::channel();
        let memory = self.clone();
        let pause = Duration::from_millis(u64::from(rand::random::<u8>() % 8));
        if operation.key.starts_with(b"slow-but-there") {
            drop(sender.send(self.execute(&operation)));
            return Ticket::Waiting { answer, ordered: false };
        }
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            if !operation.key.starts_with(b"slow-lost") {
                drop(sender.send(memory.execute(&operation)));
            }
        });
        Ticket::Waiting { answer, ordered: false }
    }

    /// Returns a page of keys. The cursor is the first bytes of the next key, so it stays valid while keys
    /// are removed.
    fn scan(&self, cursor: u64, limit: usize) -> BoxFuture<'_, Result<ScanPage, Failure>> {
        let entries = self.entries.lock();
        let mut keys: Vec<Bytes> = entries.keys().filter(|key| begin(key) >= cursor).cloned().collect();
        let next = keys.get(limit).map_or(0, |key| begin(key));
        keys.retain(|key| next == 0 || begin(key) < next);
        Box::pin(async move { Ok(ScanPage { next, keys }) })
    }

    fn keys_in_order(&self, range: KeyRange, limit: usize) -> BoxFuture<'_, Result<KeysInOrder, Failure>> {
        let mut keys: Vec<Bytes> = self.entries.lock().keys().cloned().collect();
        keys.retain(|key| (range.start.clone(), range.end.clone()).contains(key));
        let next = (keys.len() > limit).then(|| keys[limit - 1].clone());
        keys.truncate(limit);
        Box::pin(async move { Ok(KeysInOrder { keys, next }) })
    }

    fn count(&self) -> BoxFuture<'_, Result<u64, Failure>> {
        let count = self.entries.lock().len() as u64;
        Box::pin(async move { Ok(count) })
    }

    fn cluster_slots(&self, _: Option<IpAddr>) -> ClusterSlots {
        ClusterSlots { node: NodeId::from_bytes([1; 32]), epoch: 1, nodes: Vec::new(), ranges: Vec::new() }
    }

    fn admin(&self, _: AdminRequest, _: Option<IpAddr>) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(async { Err("not in this test".to_owned()) })
    }

    fn healing(&self) -> crate::api::HealStats {
        crate::api::HealStats::default()
    }

    fn store(&self) -> (caskade_engine::stats::EngineStats, Option<caskade_engine::task::TaskStatus>) {
        Default::default()
    }

    fn settings(&self) -> Vec<(String, String)> {
        vec![("sync".to_owned(), "always".to_owned())]
    }
}

/// Returns the first eight bytes of a key as a number with the same order.
fn begin(key: &[u8]) -> u64 {
    let mut first = [0; 8];
    first.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    u64::from_be_bytes(first)
}

/// Creates the shared state of a front end that admits everybody.
pub(super) fn context(limits: ClientLimits) -> FrontEndContext {
    FrontEndContext { stats: Arc::default(), limits: Arc::new(limits), security: Security::open() }
}

/// Listens on a free port.
pub(super) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Sends `request`, and checks that the next bytes received are `expected`.
pub(super) async fn ask(stream: &mut TcpStream, request: &str, expected: &str) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut found = vec![0; expected.len()];
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut found));
    let told = read.await.map(|read| read.is_ok());
    assert_eq!(String::from_utf8_lossy(&found), expected, "{request} {told:?}");
}
