//! Clients that write and read until told to stop, and keep what they were told.
//!
//! Each client inserts, deletes and overwrites keys of its own, increments shared counters and reads the other
//! clients' registers. A register's values only grow, so a read that begins after a value was acknowledged or read by
//! anybody must not give a smaller one: this checks linearizability of single keys while the cluster is under attack.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::{Cmd, FromRedisValue};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::oracle::{History, Outcome};
use crate::{eventually, lock};

const COUNTERS: u32 = 16;
/// Bounds the memory of a history.
const OPERATIONS_MAX: u64 = 200_000;
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
const ERROR_PAUSE: Duration = Duration::from_millis(5);

/// A load to be put on a cluster.
#[derive(Clone, Debug)]
pub struct Workload {
    addrs: Vec<String>,
    clients: usize,
    seed: u64,
}

impl Workload {
    /// So many clients, spread over these addresses. One whose connection breaks goes on at the next address.
    pub fn new(addrs: Vec<String>, clients: usize) -> Self {
        Self { addrs, clients, seed: 1 }
    }

    /// What the choice of operations depends on. Two loads on one cluster need different ones: it names their keys.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Starts the clients.
    pub fn start(self) -> Load {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            registers: (0..self.clients).map(|_| Mutex::new(Register::default())).collect(),
        });
        let mut tasks = JoinSet::new();
        for id in 0..self.clients {
            let worker = Worker {
                id,
                prefix: format!("{}:{id}", self.seed),
                rng: StdRng::seed_from_u64(self.seed.wrapping_mul(1_000_003) + id as u64),
                addrs: self.addrs.clone(),
                addr: id,
                client: None,
                shared: Arc::clone(&shared),
                history: History::default(),
                inserted: 0,
                own: Vec::new(),
            };
            tasks.spawn(worker.work());
        }
        Load { shared, tasks }
    }
}

/// Clients at work. Dropped, they stop where they are.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<History>,
}

impl Load {
    /// Writes acknowledged so far, all clients together.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `more` writes more were acknowledged.
    ///
    /// # Errors
    /// If that takes longer than `limit`.
    pub async fn wait_for(&self, more: u64, limit: Duration) -> Result<()> {
        let aim = self.acknowledged() + more;
        let probe = async || {
            let now = self.acknowledged();
            anyhow::ensure!(now >= aim, "{now} of {aim} writes are acknowledged");
            Ok(())
        };
        eventually("the load makes progress", limit, probe).await
    }

    /// Lets each client end what it is at, and answers what they were told.
    ///
    /// # Errors
    /// If a client panicked.
    pub async fn stop(mut self) -> Result<History> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut history = History::default();
        while let Some(part) = self.tasks.join_next().await {
            history.merge(part.context("a client of the load")?);
        }
        Ok(history)
    }
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    registers: Vec<Mutex<Register>>,
}

/// One client's present register. After a write with an unknown outcome its writer goes on with another key.
#[derive(Clone, Debug, Default)]
struct Register {
    generation: u64,
    /// The highest value that was acknowledged or read: what a read beginning now must not fall below.
    floor: u64,
    /// The highest value that was sent.
    sent: u64,
}

struct Worker {
    id: usize,
    prefix: String,
    rng: StdRng,
    addrs: Vec<String>,
    addr: usize,
    client: Option<Client>,
    shared: Arc<Shared>,
    history: History,
    inserted: u64,
    /// Own keys that are there for certain, so that they may be deleted.
    own: Vec<String>,
}

impl Worker {
    async fn work(mut self) -> History {
        for _ in 0..OPERATIONS_MAX {
            if self.shared.stop.load(Ordering::Relaxed) {
                break;
            }
            match self.rng.random_range(0..10) {
                0..4 => self.insert().await,
                4 => self.delete().await,
                5..7 => self.write_register().await,
                7..9 => self.read_register().await,
                _ => self.increment().await,
            }
        }
        self.history
    }

    async fn insert(&mut self) {
        self.inserted += 1;
        let key = format!("own:{}:{}", self.prefix, self.inserted);
        let value = format!("{:032x}", self.rng.random::<u128>());
        let outcome = self.write(redis::cmd("SET").arg(&key).arg(&value)).await;
        self.history.wrote(&key, Some(value), outcome);
        if outcome == Outcome::Acknowledged {
            self.own.push(key);
        }
    }

    async fn delete(&mut self) {
        if self.own.is_empty() {
            return;
        }
        let key = self.own.swap_remove(self.rng.random_range(0..self.own.len()));
        let outcome = self.write(redis::cmd("DEL").arg(&key)).await;
        self.history.wrote(&key, None, outcome);
    }

    async fn write_register(&mut self) {
        let (generation, value) = {
            let mut register = self.register(self.id);
            register.sent += 1;
            (register.generation, register.sent)
        };
        let key = self.register_key(self.id, generation);
        let outcome = self.write(redis::cmd("SET").arg(&key).arg(value)).await;
        self.history.wrote(&key, Some(value.to_string()), outcome);
        let mut register = self.register(self.id);
        match outcome {
            Outcome::Acknowledged => register.floor = register.floor.max(value),
            Outcome::Unknown => *register = Register { generation: generation + 1, ..Register::default() },
            Outcome::Refused => {}
        }
    }

    async fn read_register(&mut self) {
        let owner = self.rng.random_range(0..self.shared.registers.len());
        let before = self.register(owner).clone();
        let key = self.register_key(owner, before.generation);
        let Ok(value) = self.send::<Option<u64>>(redis::cmd("GET").arg(&key)).await else {
            return;
        };
        let value = value.unwrap_or(0);
        let fault = {
            let mut register = self.register(owner);
            let current = register.generation == before.generation;
            if current {
                register.floor = register.floor.max(value);
            }
            let invented = current && value > register.sent;
            (value < before.floor || invented).then(|| format!("{before:?}, then {register:?}"))
        };
        if let Some(fault) = fault {
            self.history.violated(format!("{key} was read as {value}: {fault}"));
        }
    }

    async fn increment(&mut self) {
        let key = format!("counter:{}", self.rng.random_range(0..COUNTERS));
        match self.send::<i64>(redis::cmd("INCR").arg(&key)).await {
            Ok(answer) => {
                self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                self.history.incremented(&key, answer);
            }
            Err(outcome) => self.history.increment_failed(&key, outcome),
        }
    }

    async fn write(&mut self, command: &Cmd) -> Outcome {
        match self.send::<redis::Value>(command).await {
            Ok(_) => {
                self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                Outcome::Acknowledged
            }
            Err(outcome) => outcome,
        }
    }

    /// Sends a command once. An error is kept, and says what became of the command if it writes.
    async fn send<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Outcome> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => self.connect().await?,
        };
        match client.ask(command).await {
            Ok(answer) => {
                self.client = Some(client);
                Ok(answer)
            }
            Err(error) => {
                self.history.met(format!("{} from {client:?}: {error}", self.prefix));
                if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
                    self.addr += 1;
                } else {
                    self.client = Some(client);
                }
                tokio::time::sleep(ERROR_PAUSE).await;
                Err(Outcome::of_error(&error))
            }
        }
    }

    async fn connect(&mut self) -> Result<Client, Outcome> {
        let addr = self.addrs.get(self.addr % self.addrs.len().max(1)).cloned().unwrap_or_default();
        match Client::try_connect(&addr).await {
            Ok(client) => Ok(client),
            Err(error) => {
                self.history.met(format!("{} connecting to {addr}: {error}", self.prefix));
                self.addr += 1;
                tokio::time::sleep(RECONNECT_PAUSE).await;
                Err(Outcome::Refused)
            }
        }
    }

    fn register(&self, owner: usize) -> std::sync::MutexGuard<'_, Register> {
        lock(&self.shared.registers[owner])
    }

    /// All clients of a load have its seed in their keys, so that a reader can name the owner's.
    fn register_key(&self, owner: usize, generation: u64) -> String {
        let seed = self.prefix.split(':').next().unwrap_or_default();
        format!("register:{seed}:{owner}:{generation}")
    }
}
