//! The clients: they read, write, delete and count a few keys through any node, and record the replies. Some
//! keys expire; some are written in pairs, by one write, at their primary.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use caskade_engine::slots::partition_of;
use caskade_node::kv::{
    Action, Condition, Deadline, ExpireCondition, ExpiryPolicy, Failure, Operation, Outcome, Step, Ticket,
    Transaction,
};
use caskade_node::runtime::Node;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::history::{Ask, Event, History, Side, Told, When};
use crate::world::World;

/// Numbers of keys that hold values, of further ones that are seldom written, so that their records get old,
/// and of keys that hold sums.
const REGISTERS: u64 = 10;
const COLD: u64 = 30;
const COUNTERS: u64 = 3;
/// Numbers of keys that expire, and of pairs of keys that are written together.
const EXPIRING: u64 = 5;
const PAIRS: u64 = 2;
const PAIR: &str = "pair";
/// Partitions of all keys: several, so that the fate of one write of a partition can be told from that of the
/// next key's.
const PARTITIONS: u64 = 6;
/// Keys that are written at the end, each of a partition of its own.
const FINAL_KEYS: u64 = 24;
/// Times that a client waits for a value, and for the outcome of a write, in milliseconds: one of these. A
/// client that waits long at a cut-off node asks nothing of the others. The longest is longer than a request
/// may take.
const READ_PATIENCE_MS: [u64; 4] = [60, 300, 1_000, 15_000];
const WRITE_PATIENCE_MS: [u64; 4] = [1_000, 2_500, 15_000, 15_000];

/// Longest lifetime of a key whose expiry a client follows, start of its reads before the expiry, and their
/// number.
const FOLLOWED_MS_MAX: u64 = 1_000;
const FOLLOWED_EARLY_MS: u64 = 150;
const FOLLOWED_READS: usize = 12;
const FOLLOW_PATIENCE: Duration = Duration::from_millis(3_000);

/// State that the clients of one simulation share.
pub struct Clients {
    world: Arc<Mutex<World>>,
    began: Instant,
    history: Mutex<History>,
    stopped: AtomicBool,
    values: AtomicU64,
    stamp: AtomicU64,
    /// Operations in flight.
    open: AtomicU64,
    acknowledged: AtomicU64,
    /// Whether pairs are written.
    pairs: bool,
}

impl Clients {
    /// Creates the state without clients. With takeovers there are no pairs, since a merge by value orders
    /// each record by itself.
    pub fn new(world: Arc<Mutex<World>>, pairs: bool) -> Arc<Self> {
        let began = world.lock().began;
        Arc::new(Self {
            world,
            began,
            history: Mutex::default(),
            stopped: AtomicBool::new(false),
            values: AtomicU64::new(0),
            stamp: AtomicU64::new(0),
            open: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            pairs,
        })
    }

    /// Starts this number of clients.
    pub fn start(self: &Arc<Self>, seed: u64, count: u64) {
        for client in 0..count {
            tokio::spawn(Arc::clone(self).work(StdRng::seed_from_u64(seed ^ (client + 1))));
        }
    }

    /// Stops the clients; waits until their operations have ended.
    pub async fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        while self.open.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns the history so far.
    pub fn history(&self) -> History {
        self.history.lock().clone()
    }

    /// Returns the number of acknowledged writes.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    async fn work(self: Arc<Self>, mut rng: StdRng) {
        loop {
            tokio::time::sleep(Duration::from_millis(rng.random_range(1..60))).await;
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let (key, ask) = self.choose(&mut rng);
            let node = {
                let running = self.world.lock().running();
                running.choose(&mut rng).copied()
            };
            if let Some(node) = node {
                let ask = if self.world.lock().leaves_alone(node, &key) { Ask::Read } else { ask };
                let patience = if ask == Ask::Read { READ_PATIENCE_MS } else { WRITE_PATIENCE_MS };
                let patience = patience.choose(&mut rng).copied().unwrap_or_default();
                let patience = Duration::from_millis(patience);
                let told = self.ask(node, key.clone(), ask.clone(), patience).await;
                self.follow_up(&mut rng, key, &ask, &told).await;
            }
        }
    }

    /// Looks at once where the next operations would hide a broken rule: at both keys of a pair whose write
    /// has an unknown outcome, and at a key about to expire, again and again through different nodes.
    async fn follow_up(&self, rng: &mut StdRng, key: Bytes, ask: &Ask, told: &Told) {
        match (ask, told) {
            (Ask::SetBoth(_), Told::Unknown) => {
                self.read_anywhere(rng, key.clone(), Ask::Read).await;
                self.read_anywhere(rng, key, Ask::ReadOther).await;
            }
            (Ask::SetFor(_, length_ms, _), Told::Set(true)) if *length_ms < FOLLOWED_MS_MAX => {
                let early_ms = rng.random_range(0..FOLLOWED_EARLY_MS);
                tokio::time::sleep(Duration::from_millis(length_ms.saturating_sub(early_ms))).await;
                for _ in 0..FOLLOWED_READS {
                    self.read_anywhere(rng, key.clone(), Ask::Read).await;
                    tokio::time::sleep(Duration::from_millis(rng.random_range(1..20))).await;
                }
            }
            _ => {}
        }
    }

    async fn read_anywhere(&self, rng: &mut StdRng, key: Bytes, ask: Ask) {
        let running = self.world.lock().running();
        if let (false, Some(node)) = (self.stopped.load(Ordering::SeqCst), running.choose(rng)) {
            self.ask(*node, key, ask, FOLLOW_PATIENCE).await;
        }
    }

    fn choose(&self, rng: &mut StdRng) -> (Bytes, Ask) {
        // Half of all operations concern one key of each kind.
        let number = |rng: &mut StdRng, of| if rng.random() { 0 } else { rng.random_range(0..of) };
        match rng.random_range(0..16) {
            0..3 => return self.choose_expiring(rng),
            3 | 4 if self.pairs => {
                let key = key(PAIR, rng.random_range(0..PAIRS));
                let ask = match rng.random_range(0..5) {
                    0 | 1 => Ask::Read,
                    2 => Ask::ReadOther,
                    _ => Ask::SetBoth(self.value(1)),
                };
                return (key, ask);
            }
            _ => {}
        }
        if rng.random_ratio(1, 4) {
            let key = key("sum", number(rng, COUNTERS));
            let ask = match rng.random_range(0..10) {
                0..3 => Ask::Read,
                3 => Ask::Delete,
                _ => Ask::Add(rng.random_range(1..5)),
            };
            return (key, ask);
        }
        // Further keys are written seldom and deleted often, so that some stay deleted.
        let (number, asks) = match rng.random_range(0..5) {
            0 => (REGISTERS + rng.random_range(0..COLD), 24),
            _ => (number(rng, REGISTERS), 20),
        };
        let key = key("key", number);
        // Some values are long, so that data files are sealed and merged.
        let pad = if rng.random_ratio(1, 8) { 4096 } else { 1 };
        let value = || self.value(pad);
        let ask = match rng.random_range(0..asks) {
            0..7 => Ask::Read,
            7..14 => Ask::Set(value(), When::Always),
            14..16 => Ask::Set(value(), When::Absent),
            16 => Ask::Set(value(), When::Present),
            _ => Ask::Delete,
        };
        (key, ask)
    }

    fn choose_expiring(&self, rng: &mut StdRng) -> (Bytes, Ask) {
        let key = key("ttl", rng.random_range(0..EXPIRING));
        let length_ms = rng.random_range(20..3_000);
        // Some as a client takes a lock.
        let when = if rng.random_ratio(1, 3) { When::Absent } else { When::Always };
        let ask = match rng.random_range(0..16) {
            0..8 => Ask::Read,
            8..12 => Ask::SetFor(self.value(1), length_ms, when),
            12 => Ask::Set(self.value(1), When::Absent),
            13 => Ask::Persist,
            14 => Ask::Delete,
            _ => Ask::Expire(length_ms),
        };
        (key, ask)
    }

    /// Returns the keys that are written at the end: in the partitions of the clients' other keys, and in
    /// further ones.
    pub fn final_keys(&self) -> Vec<Bytes> {
        (0..FINAL_KEYS).map(|number| format!("{{{number}}}end").into()).collect()
    }

    /// Writes such a key.
    pub async fn write_finally(&self, number: usize, key: Bytes, patience: Duration) -> Told {
        self.ask(number, key, Ask::Set(self.value(1), When::Always), patience).await
    }

    /// Returns a value that no other write has, padded to this width.
    fn value(&self, width: usize) -> Bytes {
        Bytes::from(format!("v{:<width$}", self.values.fetch_add(1, Ordering::SeqCst)))
    }

    /// Returns the node to ask in place of the chosen one: pairs are written at their primary only.
    fn node_for(&self, number: usize, key: &[u8], ask: &Ask) -> usize {
        if !matches!(ask, Ask::SetBoth(_)) {
            return number;
        }
        let world = self.world.lock();
        let primary = world.log.state().primary(partition_of(&halves(key).0));
        world.nodes.iter().position(|node| Some(node.id) == primary).unwrap_or(number)
    }

    /// Asks a node, and records its reply or the time-out.
    pub async fn ask(&self, number: usize, key: Bytes, ask: Ask, patience: Duration) -> Told {
        let number = self.node_for(number, &key, &ask);
        let process = {
            let world = self.world.lock();
            let of = &world.nodes[number];
            let process = of.process.as_ref();
            process.map(|process| (process.node.clone(), process.host.clone(), of.id, of.log.generation()))
        };
        let Some((node, host, id, generation)) = process else { return Told::Refused };
        let partition = partition_of(&halves(&key).0);
        let sends_on = || node.plane().state().primary(partition) != Some(id);
        let sent_on = sends_on();
        self.open.fetch_add(1, Ordering::SeqCst);
        let called = self.stamp();
        let (sender, answer) = oneshot::channel();
        let (asked, of) = (ask.clone(), key.clone());
        let asks = node.clone();
        host.spawn(async move { drop(sender.send(submit(&asks, &of, &asked).wait().await)) });
        let told = match tokio::time::timeout(patience, answer).await {
            Ok(Ok(Ok(outcome))) => told(&ask, outcome),
            Ok(Ok(Err(Failure::Refused(_) | Failure::Action(_) | Failure::NoRoom(_)))) => Told::Refused,
            _ => Told::Unknown,
        };
        if !matches!(told, Told::Refused | Told::Unknown) && !ask.reads() {
            self.acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        tracing::info!("client: node {number} {:?} {ask:?} -> {told:?}", key);
        let side = Side { generation, sent_on: sent_on || sends_on(), lost: false };
        let event = Event { ask, called, answered: self.stamp(), told: told.clone(), node: number, side };
        self.history.lock().add(key, event);
        self.open.fetch_sub(1, Ordering::SeqCst);
        told
    }

    /// Returns the present moment in thousandths of a microsecond; no two events have the same.
    fn stamp(&self) -> u64 {
        let now = self.began.elapsed().as_micros() as u64 * 1000;
        let last = self.stamp.load(Ordering::SeqCst);
        self.stamp.store(now.max(last + 1), Ordering::SeqCst);
        now.max(last + 1)
    }
}

/// Returns the name of a key: its tag determines its slot.
fn key(kind: &str, number: u64) -> Bytes {
    format!("{{{}}}{kind}-{number}", number % PARTITIONS).into()
}

/// Returns the two keys of a pair; of any other key that key itself, twice.
pub(crate) fn halves(key: &[u8]) -> (Bytes, Bytes) {
    let half = |which: &[u8]| -> Bytes { [key, which].concat().into() };
    if is_pair(key) { (half(b"a"), half(b"b")) } else { (half(b""), half(b"")) }
}

/// Returns whether the key stands for a pair.
pub fn is_pair(key: &[u8]) -> bool {
    key.windows(PAIR.len()).any(|part| part == PAIR.as_bytes())
}

/// Starts an operation at a node.
fn submit(node: &Node, key: &[u8], ask: &Ask) -> Ticket {
    let (one, other) = halves(key);
    let set = |value: &Bytes, expiry, condition| Action::Set {
        value: value.clone(),
        user_flags: 0,
        expiry,
        condition,
        return_old: false,
    };
    let (key, action) = match ask {
        Ask::SetBoth(value) => {
            let step = |key: &Bytes| {
                let action = set(value, ExpiryPolicy::Clear, Condition::Always);
                Step::One(Operation { key: key.clone(), action })
            };
            let transaction = Transaction { watched: Vec::new(), steps: vec![step(&one), step(&other)] };
            (one, Action::Transaction(transaction))
        }
        Ask::ReadOther => (other, Action::Read),
        Ask::Read => (one, Action::Read),
        Ask::Delete => (one, Action::Delete),
        Ask::Add(n) => (one, Action::Add(*n)),
        Ask::Expire(length_ms) => (one, Action::Expire(Deadline::In(*length_ms), ExpireCondition::Always)),
        Ask::Persist => (one, Action::Persist),
        Ask::SetFor(value, length_ms, when) => {
            (one, set(value, ExpiryPolicy::Until(Deadline::In(*length_ms)), condition(*when)))
        }
        Ask::Set(value, when) => (one, set(value, ExpiryPolicy::Clear, condition(*when))),
    };
    node.submit(Operation { key, action })
}

fn condition(when: When) -> Condition {
    match when {
        When::Always => Condition::Always,
        When::Absent => Condition::Absent,
        When::Present => Condition::Present,
    }
}

fn told(ask: &Ask, outcome: Outcome) -> Told {
    match (ask, outcome) {
        (Ask::Read | Ask::ReadOther, Outcome::Entry(entry)) => Told::Value(entry.map(|entry| entry.value)),
        (Ask::Set(..) | Ask::SetFor(..), Outcome::Set { version, .. }) => Told::Set(version.is_some()),
        (Ask::Delete, Outcome::Changed(changed)) => Told::Deleted(changed),
        (Ask::SetBoth(_), Outcome::Transaction(Some(outcomes))) => {
            let written = |outcome: &_| matches!(outcome, Ok(Outcome::Set { version: Some(_), .. }));
            Told::Changed(outcomes.iter().all(written))
        }
        (Ask::Expire(_) | Ask::Persist, Outcome::Changed(changed)) => Told::Changed(changed),
        (Ask::Add(_), Outcome::Integer(sum)) => Told::Sum(sum),
        // A reply to another question explains nothing: the check fails on it.
        (_, outcome) => Told::Value(Some(Bytes::from(format!("{outcome:?}")))),
    }
}
