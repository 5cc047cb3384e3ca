//! Clients that write and read until they are stopped, and record the answers.
//!
//! Each client inserts, deletes and overwrites its own keys, increments shared counters and reads the
//! registers of all clients. The values of a register only grow. Therefore a read that begins after any
//! client wrote or read a value must not return a smaller one: this checks linearizability of single keys
//! during faults.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redis::{Cmd, FromRedisValue};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::oracle::{History, Outcome};
use crate::{eventually, lock};

const COUNTERS: u32 = 16;
/// Maximum number of operations per client; bounds the memory of a history.
const OPERATIONS_MAX: u64 = 200_000;
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
const ERROR_PAUSE: Duration = Duration::from_millis(5);

/// Parameters of a load.
#[derive(Clone, Debug)]
pub struct Workload {
    addrs: Vec<String>,
    clients: usize,
    seed: u64,
}

impl Workload {
    /// Describes a load of this number of clients, spread over the addresses. A client whose connection
    /// breaks continues at the next address.
    pub fn new(addrs: Vec<String>, clients: usize) -> Self {
        Self { addrs, clients, seed: 1 }
    }

    /// Sets the seed of the operations. Two loads on one cluster need different seeds, because their keys
    /// contain the seed.
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

/// A running load. Dropping it aborts the clients.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<History>,
}

impl Load {
    /// Returns the number of acknowledged writes of all clients so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `more` further writes are acknowledged.
    ///
    /// # Errors
    /// That takes longer than `limit`.
    pub async fn wait_for(&self, more: u64, limit: Duration) -> Result<()> {
        let aim = self.acknowledged() + more;
        let probe = async || {
            let now = self.acknowledged();
            anyhow::ensure!(now >= aim, "{now} of {aim} writes are acknowledged");
            Ok(())
        };
        eventually("the load makes progress", limit, probe).await
    }

    /// Lets each client finish its operation, stops them and returns all answers.
    ///
    /// # Errors
    /// A client panicked.
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

/// The present register of one client. After a write of unknown outcome its writer continues with another
/// key.
#[derive(Clone, Debug, Default)]
struct Register {
    generation: u64,
    /// The highest value acknowledged or read: a read that begins now must not return a smaller one.
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
    /// Own keys that exist for certain, so that they may be deleted.
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

    /// Sends a command once. Records an error and returns the outcome of the command, if it is a write.
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

    /// Returns the key of a register. It contains only the seed and the owner, so that every client can
    /// compute it.
    fn register_key(&self, owner: usize, generation: u64) -> String {
        let seed = self.prefix.split(':').next().unwrap_or_default();
        format!("register:{seed}:{owner}:{generation}")
    }
}
