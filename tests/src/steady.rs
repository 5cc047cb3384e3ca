//! A load in which every request must succeed: one failed request fails the test. Measures the longest wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use crate::client::Client;

const KEYS: u64 = 5000;

/// Clients that write and read their own keys, one request at a time, and measure each answer.
#[derive(Debug)]
pub struct SteadyLoad {
    stop: Arc<AtomicBool>,
    longest_us: Arc<AtomicU64>,
    clients: JoinSet<Result<u64>>,
}

impl SteadyLoad {
    /// Starts this number of clients, spread over the addresses.
    ///
    /// # Errors
    /// A client cannot connect.
    pub async fn start(addrs: &[String], clients: usize) -> Result<Self> {
        let (stop, longest_us) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        ensure!(!addrs.is_empty(), "no address of a node");
        let mut tasks = JoinSet::new();
        for (number, addr) in addrs.iter().cycle().take(clients).enumerate() {
            let client = Client::connect(addr).await?;
            tasks.spawn(one_client(client, number, stop.clone(), longest_us.clone()));
        }
        Ok(Self { stop, longest_us, clients: tasks })
    }

    /// Returns the longest wait for an answer since the start or the last [`Self::forget`].
    pub fn longest_wait(&self) -> Duration {
        Duration::from_micros(self.longest_us.load(Ordering::Relaxed))
    }

    /// Resets the longest wait.
    pub fn forget(&self) {
        self.longest_us.store(0, Ordering::Relaxed);
    }

    /// Stops the clients; returns the longest wait and the number of operations.
    ///
    /// # Errors
    /// A request failed, or a read did not return the written value.
    pub async fn stop(mut self) -> Result<(Duration, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut operations = 0;
        while let Some(done) = self.clients.join_next().await {
            operations += done.context("a client of the load")??;
        }
        Ok((self.longest_wait(), operations))
    }
}

async fn one_client(
    mut client: Client,
    number: usize,
    stop: Arc<AtomicBool>,
    longest_us: Arc<AtomicU64>,
) -> Result<u64> {
    let mut operations = 0;
    while !stop.load(Ordering::Relaxed) {
        let (key, value) = (format!("{number}:{}", operations % KEYS), operations.to_string());
        let asked = Instant::now();
        client.set(&key, &value).await?;
        let written = asked.elapsed();
        let asked = Instant::now();
        let found = client.get(&key).await?;
        ensure!(found.as_deref() == Some(&value), "{key} was read as {found:?} after {value} was written");
        let longest = written.max(asked.elapsed());
        longest_us.fetch_max(longest.as_micros() as u64, Ordering::Relaxed);
        operations += 1;
    }
    Ok(operations * 2)
}
