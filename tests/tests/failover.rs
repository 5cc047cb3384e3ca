//! How long clients wait when a node ends: killed, or told to stop; again and again, under load.
//!
//! The gate runs a few rounds; `CASKADE_FAILOVER_ROUNDS=20 cargo test --workspace --test failover -- --nocapture` runs as many as
//! docs/performance.md speaks of. What is asserted is that nothing acknowledged is lost and that requests come through
//! within their time-out; the times are printed, and depend on the machine.

#![expect(clippy::print_stdout, reason = "the times are what the test is about")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use caskade_tests::oracle::History;
use caskade_tests::{Builder, Client, Cluster, SteadyLoad, Workload, keys_led_by, with_cluster};
use tokio::task::JoinSet;

const NODES: usize = 3;
const KILLS: u32 = 5;
const STOPS: u32 = 3;
/// Partitions of the killed node that are waited for.
const KEYS: usize = 8;
const SOON: Duration = Duration::from_secs(30);
const WHOLE_MAX: Duration = Duration::from_secs(60);
const ROUND_MAX: Duration = Duration::from_secs(90);
/// `request_timeout_ms`, after which a request that waits would be answered with an error. Longer than the default, which a
/// busy machine can exceed when the coordinator is killed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
const BEFORE: Duration = Duration::from_millis(1500);
/// More than a lease, an election and what a new coordinator waits after that.
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
fn stop_of_a_node_fails_no_request_however_often_it_is_done() {
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

/// Every node in turn, counted from the coordinator of that moment: it is the victim as often as any other.
async fn victim(cluster: &Cluster, round: usize) -> Result<(usize, Role)> {
    let coordinator = cluster.wait_coordinator(SOON).await?;
    let role = if round.is_multiple_of(NODES) { Role::Coordinator } else { Role::OtherNode };
    Ok(((coordinator + round) % NODES, role))
}

/// The times of all rounds, by what the victim was.
#[derive(Debug, Default)]
struct Times(Vec<(Role, Duration)>);

impl Times {
    fn add(&mut self, role: Role, time: Duration) {
        self.0.push((role, time));
    }

    /// In words, of all and of each role.
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

/// From the kill until the last of some keys, all of which had their primaries there, is written.
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
    load.wait_for(200, SOON).await.context("the load goes on")?;
    told.merge(load.stop().await?);
    return_and_check(cluster, victim, told).await?;
    Ok(slowest)
}

/// Writes a key again and again until that is acknowledged; answers how long after the kill it was.
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

/// The longest wait of any operation of the others' clients, from the signal until well after the node's end, and the
/// longest in a second and a half before it.
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

/// `told` is what clients were told in all rounds: the counters they add to are the same ones.
async fn return_and_check(cluster: &mut Cluster, victim: usize, told: &History) -> Result<()> {
    cluster.node_mut(victim)?.restart().await?;
    cluster.wait_converged(WHOLE_MAX).await.context("the node returns")?;
    for node in cluster.nodes() {
        told.check(&mut node.client().await?).await?;
    }
    cluster.assert_copies_equal(2).await?;
    Ok(())
}

/// The middle one, or the mean of the two in the middle; nothing of nothing.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let upper = times.get(times.len() / 2).copied().unwrap_or_default();
    let lower = times.get(times.len().saturating_sub(1) / 2).copied().unwrap_or_default();
    (lower + upper) / 2
}
