//! Measures how long clients wait when a node is killed or stopped, repeatedly and under load.
//!
//! The gate runs a few rounds; `CASKADE_FAILOVER_ROUNDS=20 cargo test --workspace --test failover --
//! --nocapture` runs the number of docs/performance.md. The test asserts that no acknowledged write is lost
//! and that requests succeed within their time-out. It prints the times, which depend on the machine.

#![expect(clippy::print_stdout, reason = "prints the measured times")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use caskade_tests::oracle::History;
use caskade_tests::{Builder, Client, Cluster, SteadyLoad, Workload, keys_led_by, with_cluster};
use tokio::task::JoinSet;

const NODES: usize = 3;
const KILLS: u32 = 5;
const STOPS: u32 = 3;
/// Number of partitions of the killed node whose failover is measured.
const KEYS: usize = 8;
const SOON: Duration = Duration::from_secs(30);
const WHOLE_MAX: Duration = Duration::from_secs(60);
const ROUND_MAX: Duration = Duration::from_secs(90);
/// `request_timeout_ms` of the nodes. Longer than the default, which a busy machine can exceed when the
/// coordinator is killed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
const BEFORE: Duration = Duration::from_millis(1500);
/// Longer than a lease, an election, and the wait of a new coordinator after it.
const AFTERWARDS: Duration = Duration::from_secs(5);

fn rounds(default: u32) -> Result<u32> {
    std::env::var("CASKADE_FAILOVER_ROUNDS").map_or(Ok(default), |text| Ok(text.parse()?))
}

fn builder() -> Builder {
    Builder::new(NODES).arg("--request-timeout-ms", &REQUEST_TIMEOUT.as_millis().to_string())
}

fn limit(rounds: u32) -> Duration {
    ROUND_MAX * (rounds + 1)
}

#[test]
fn keys_of_a_killed_node_are_written_again_within_the_request_time_out() {
    let rounds = rounds(KILLS).expect("a number of rounds");
    with_cluster(builder(), limit(rounds), async |cluster| {
        let (mut told, mut times) = (History::default(), Times::default());
        for round in 0..rounds {
            let (victim, role) = victim(cluster, round as usize).await?;
            let wait = one_kill(cluster, victim, u64::from(round) + 1, &mut told).await;
            let wait = wait.with_context(|| format!("round {round}, {role:?} killed"))?;
            println!("kill -9 of {role:?}: all of {KEYS} keys written again after {} ms", wait.as_millis());
            times.add(role, wait);
        }
        println!("kill -9, {rounds} rounds: {}", times.medians());
        Ok(())
    });
}

#[test]
fn repeated_stops_of_nodes_fail_no_request() {
    let rounds = rounds(STOPS).expect("a number of rounds");
    with_cluster(builder(), limit(rounds), async |cluster| {
        let (mut told, mut times) = (History::default(), Times::default());
        for round in 0..rounds {
            let (victim, role) = victim(cluster, round as usize).await?;
            let (wait, quiet) = one_stop(cluster, victim, u64::from(round) + 1, &mut told)
                .await
                .with_context(|| format!("round {round}, {role:?} stopped"))?;
            println!(
                "SIGTERM to {role:?}: longest wait of an operation {} ms, {} ms before",
                wait.as_millis(),
                quiet.as_millis()
            );
            times.add(role, wait);
        }
        println!("SIGTERM, {rounds} rounds, longest waits: {}", times.medians());
        Ok(())
    });
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Coordinator,
    OtherNode,
}

/// Returns the victim of a round: every node in turn, counted from the present coordinator, so that the
/// coordinator is the victim as often as any other node.
async fn victim(cluster: &Cluster, round: usize) -> Result<(usize, Role)> {
    let coordinator = cluster.wait_coordinator(SOON).await?;
    let role = if round.is_multiple_of(NODES) { Role::Coordinator } else { Role::OtherNode };
    Ok(((coordinator + round) % NODES, role))
}

/// Times of all rounds with the role of the victim.
#[derive(Debug, Default)]
struct Times(Vec<(Role, Duration)>);

impl Times {
    fn add(&mut self, role: Role, time: Duration) {
        self.0.push((role, time));
    }

    /// Formats the medians of all rounds and of each role.
    fn medians(&self) -> String {
        let median_of = |wanted: Option<Role>| {
            let chosen = self.0.iter().filter(|(role, _)| wanted.is_none_or(|wanted| wanted == *role));
            median(chosen.map(|(_, time)| *time).collect()).as_millis()
        };
        let (all, coordinator, other) =
            (median_of(None), median_of(Some(Role::Coordinator)), median_of(Some(Role::OtherNode)));
        format!("median {all} ms; of the coordinator {coordinator} ms, of other nodes {other} ms")
    }
}

/// Kills a node under load. Returns the time until keys of [`KEYS`] of its partitions are written again.
async fn one_kill(cluster: &mut Cluster, victim: usize, seed: u64, told: &mut History) -> Result<Duration> {
    let id = cluster.node(victim)?.status().await?.node_id;
    let mut client = cluster.node((victim + 1) % NODES)?.client().await?;
    let ring = client.ring().await?;
    let keys = keys_led_by(&mut client, &ring, &id, KEYS).await?;
    let clients = [client, cluster.node((victim + 2) % NODES)?.client().await?];
    let load = Workload::new(cluster.addrs(), 6).seed(seed).start();
    load.wait_for(200, SOON).await?;

    let killed = Instant::now();
    cluster.node_mut(victim)?.kill9()?;
    let mut writes = JoinSet::new();
    for (key, client) in keys.into_iter().zip(clients.iter().cycle()) {
        writes.spawn(write_until_done(client.clone(), key, killed));
    }
    let mut slowest = Duration::ZERO;
    while let Some(written) = writes.join_next().await {
        slowest = slowest.max(written.context("a client")??);
    }
    load.wait_for(200, SOON).await.context("the load makes progress after the kill")?;
    told.merge(load.stop().await?);
    return_and_check(cluster, victim, told).await?;
    Ok(slowest)
}

/// Retries the write of a key until it is acknowledged; returns the time since the kill.
async fn write_until_done(mut client: Client, key: String, killed: Instant) -> Result<Duration> {
    loop {
        let written: redis::RedisResult<()> = client.ask(redis::cmd("SET").arg(&key).arg("again")).await;
        let after = killed.elapsed();
        match written {
            Ok(()) if after <= REQUEST_TIMEOUT => return Ok(after),
            Ok(()) => anyhow::bail!("{key} was written only {after:?} after the kill"),
            Err(error) => ensure!(after <= REQUEST_TIMEOUT, "{key}: {error}, {after:?} after the kill"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Stops a node under load. Returns the longest wait of clients of the other nodes, from the signal until
/// [`AFTERWARDS`] after the end of the node, and the longest wait during [`BEFORE`].
async fn one_stop(
    cluster: &mut Cluster,
    victim: usize,
    seed: u64,
    told: &mut History,
) -> Result<(Duration, Duration)> {
    let addrs = cluster.addrs();
    let others: Vec<String> =
        (1..NODES).filter_map(|step| addrs.get((victim + step) % NODES).cloned()).collect();
    let load = Workload::new(addrs, 3).seed(seed).start();
    let steady = SteadyLoad::start(&others, 4).await?;
    load.wait_for(200, SOON).await?;
    steady.forget();
    tokio::time::sleep(BEFORE).await;
    let quiet = steady.longest_wait();
    steady.forget();
    cluster.node_mut(victim)?.stop().await?;
    tokio::time::sleep(AFTERWARDS).await;
    let (wait, _) = steady.stop().await?;
    ensure!(wait <= REQUEST_TIMEOUT, "an operation waited {wait:?}");
    told.merge(load.stop().await?);
    return_and_check(cluster, victim, told).await?;
    Ok((wait, quiet))
}

/// Restarts the victim and checks the cluster. `told` has the answers to clients of all rounds, because the
/// rounds share the counters.
async fn return_and_check(cluster: &mut Cluster, victim: usize, told: &History) -> Result<()> {
    cluster.node_mut(victim)?.restart().await?;
    cluster.wait_converged(WHOLE_MAX).await.context("the node returns")?;
    for node in cluster.nodes() {
        told.check(&mut node.client().await?).await?;
    }
    cluster.assert_copies_equal(2).await?;
    Ok(())
}

/// Returns the median; zero if `times` is empty.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let upper = times.get(times.len() / 2).copied().unwrap_or_default();
    let lower = times.get(times.len().saturating_sub(1) / 2).copied().unwrap_or_default();
    (lower + upper) / 2
}
