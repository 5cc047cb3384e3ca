//! Clients that send requests at a constant rate, independent of the answers (an open loop).
//!
//! Each request has a due time, and its latency counts from then. Therefore a node that stalls for a second
//! delays all requests of that second in the measurement, not only one (no coordinated omission).

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::lock;

/// Parameters of a paced load.
#[derive(Clone, Copy, Debug)]
pub struct Paced {
    /// Requests per second, half of them writes.
    pub per_s: u32,
    /// Number of keys: `key_of(0)` and following.
    pub keys: u64,
}

/// Latencies of the requests in an interval.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Duration>);

/// A running load. Dropping it stops the clients.
#[derive(Debug)]
pub struct PacedLoad {
    times: Arc<Mutex<Times>>,
    clients: JoinSet<Result<()>>,
}

/// Returns the key of record `number`.
pub fn key_of(number: u64) -> String {
    format!("record:{number:010}")
}

/// Returns the value of record `number` in this write; every write has a different value.
pub fn value_of(number: u64, write: u64) -> String {
    format!("{number:010}:{write:<89}")
}

impl Times {
    /// Returns the number of latencies.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the latency that this share of the requests did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut times = self.0.clone();
        times.sort_unstable();
        let at = ((times.len() as f64 * share).ceil() as usize).saturating_sub(1);
        times.get(at).copied().unwrap_or_default()
    }
}

impl PacedLoad {
    /// Starts one client per address.
    ///
    /// # Errors
    /// A client cannot connect.
    pub async fn start(addrs: &[String], paced: Paced) -> Result<Self> {
        ensure!(
            !addrs.is_empty() && paced.per_s > 0 && paced.keys > 0,
            "a paced load needs an address, a rate and keys"
        );
        let times = Arc::new(Mutex::new(Times::default()));
        let mut clients = JoinSet::new();
        let period = Duration::from_secs_f64(addrs.len() as f64 / f64::from(paced.per_s));
        for (number, addr) in addrs.iter().enumerate() {
            let client = Client::connect(addr).await?;
            clients.spawn(one_client(client, number as u64, period, paced.keys, Arc::clone(&times)));
        }
        Ok(Self { times, clients })
    }

    /// Returns and clears the latencies since the start or the last call.
    pub fn take(&self) -> Times {
        std::mem::take(&mut lock(&self.times))
    }

    /// Stops the load and returns the latencies that were not taken yet.
    ///
    /// # Errors
    /// A request failed, or a read returned a value that was never written.
    pub async fn stop(mut self) -> Result<Times> {
        // A client ends by itself only if a request failed.
        while let Some(ended) = self.clients.try_join_next() {
            ended.context("a client of the load")??;
        }
        self.clients.shutdown().await;
        Ok(self.take())
    }
}

async fn one_client(
    client: Client,
    number: u64,
    period: Duration,
    keys: u64,
    times: Arc<Mutex<Times>>,
) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(number);
    let mut requests = JoinSet::new();
    let mut due = Instant::now();
    for count in 0_u64.. {
        due += period;
        tokio::time::sleep_until(due.into()).await;
        let (client, key) = (client.clone(), rng.random_range(0..keys));
        requests.spawn(one_request(client, key, count, due));
        while let Some(answered) = requests.try_join_next() {
            let taken = answered.context("a request of the load")??;
            lock(&times).0.push(taken);
        }
    }
    Ok(())
}

async fn one_request(mut client: Client, number: u64, count: u64, due: Instant) -> Result<Duration> {
    let key = key_of(number);
    if count.is_multiple_of(2) {
        client.set(&key, &value_of(number, count)).await?;
    } else {
        let found = client.get(&key).await?.unwrap_or_default();
        ensure!(found.starts_with(&format!("{number:010}:")), "{key} was read as '{found}'");
    }
    Ok(due.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantile_is_a_time_that_was_measured() {
        let times = Times((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(times.quantile(0.99), Duration::from_millis(99));
        assert_eq!(times.quantile(0.5), Duration::from_millis(50));
        assert_eq!(Times::default().quantile(0.99), Duration::ZERO);
        assert_eq!(value_of(7, 1).len(), 100);
    }
}
