//! Nodes with wrong wall clocks: by three seconds in both directions, and by two years. Keys nevertheless
//! expire in true time, also across failovers and restarts.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use caskade_tests::{Builder, Client, Cluster, Faketime, with_cluster};

const LIMIT: Duration = Duration::from_secs(180);
/// Seconds by which each node's wall clock is ahead.
const AHEAD_S: [i64; 4] = [0, 3, -3, 63_072_000];
/// Maximum error of an expiry: too early, and too late.
const EARLY_MAX: Duration = Duration::from_millis(150);
const LATE_MAX: Duration = Duration::from_secs(1);
const KEYS: usize = 200;
/// Interval of the reads of each key.
const LOOK_PAUSE: Duration = Duration::from_millis(40);
/// Maximum difference of the nodes' answers for one key, in milliseconds.
const TTL_APART_MAX_MS: i64 = 1_000;

fn with_wrong_clocks(test: impl AsyncFnOnce(&mut Cluster) -> Result<()>) {
    let mut builder = Builder::new(AHEAD_S.len());
    match Faketime::find() {
        Ok(None) => return,
        Ok(Some(faketime)) => {
            for (node, ahead_s) in AHEAD_S.into_iter().enumerate() {
                for (name, value) in faketime.variables(ahead_s) {
                    builder = builder.node_variable(node, name, &value);
                }
            }
        }
        Err(error) => panic!("{error:#}"),
    }
    with_cluster(builder, LIMIT, test);
}

/// Connections to the nodes, reopened when they break.
#[derive(Clone)]
struct Nodes {
    addrs: Vec<String>,
    clients: Vec<Option<Client>>,
}

impl Nodes {
    fn new(cluster: &Cluster) -> Self {
        let addrs = cluster.addrs();
        Self { clients: vec![None; addrs.len()], addrs }
    }

    /// Sends a command to a node; returns `None` if it does not answer.
    async fn ask<T: redis::FromRedisValue>(&mut self, node: usize, command: &redis::Cmd) -> Option<T> {
        let node = node % self.addrs.len();
        let client = &mut self.clients[node];
        if client.is_none() {
            *client = Client::try_connect(&self.addrs[node]).await.ok();
        }
        let answer = client.as_mut()?.ask(command).await;
        if answer.is_err() {
            *client = None;
        }
        answer.ok()
    }
}

/// A key whose expiry was set at a moment between `called` and `answered`.
#[derive(Clone, Copy)]
struct Given {
    called: Instant,
    answered: Instant,
    length: Duration,
}

impl Given {
    /// Reads a key through one node after the other until it has expired, and checks the time.
    async fn watch(self, mut nodes: Nodes, key: String, first: usize) -> Result<()> {
        let get = redis::cmd("GET").arg(&key).clone();
        for node in first.. {
            let asked = Instant::now();
            let found: Option<Option<String>> = nodes.ask(node, &get).await;
            let (told, since) = (Instant::now(), asked.duration_since(self.answered));
            match found {
                Some(Some(_)) => {
                    ensure!(
                        since < self.length + LATE_MAX,
                        "{key} of {:?} still existed {since:?} later",
                        self.length
                    );
                }
                Some(None) => {
                    let lived = told.duration_since(self.called);
                    ensure!(
                        lived + EARLY_MAX >= self.length,
                        "{key} of {:?} had expired after {lived:?}",
                        self.length
                    );
                    return Ok(());
                }
                None => {}
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Ok(())
    }
}

/// Sets keys through all nodes and starts a watcher for each. Returns when all are set.
async fn set_keys(nodes: &Nodes, name: &str, lengths_s: &[u64]) -> Result<tokio::task::JoinSet<Result<()>>> {
    let (mut watching, mut setter) = (tokio::task::JoinSet::new(), nodes.clone());
    for number in 0..KEYS {
        let (key, length_s) = (format!("{name}-{number}"), lengths_s[number % lengths_s.len()]);
        let set = redis::cmd("SET").arg(&key).arg("v").arg("EX").arg(length_s).clone();
        let called = Instant::now();
        // A SET without an answer may or may not have been applied.
        if setter.ask::<String>(number, &set).await.is_none() {
            continue;
        }
        let given = Given { called, answered: Instant::now(), length: Duration::from_secs(length_s) };
        watching.spawn(given.watch(nodes.clone(), key, number + 1));
    }
    ensure!(watching.len() > KEYS * 3 / 4, "only {} of {KEYS} keys were set", watching.len());
    Ok(watching)
}

async fn all_in_time(mut watching: tokio::task::JoinSet<Result<()>>) -> Result<()> {
    while let Some(watched) = watching.join_next().await {
        watched.context("watching a key")??;
    }
    Ok(())
}

/// Takes a lock through one node, then tries to take it through others until it is granted again.
async fn take_lock(mut nodes: Nodes, number: usize) -> Result<()> {
    const LENGTH: Duration = Duration::from_secs(2);
    let key = format!("lock-{number}");
    let take =
        redis::cmd("SET").arg(&key).arg("me").arg("NX").arg("PX").arg(LENGTH.as_millis() as u64).clone();
    let called = Instant::now();
    let Some(taken) = nodes.ask::<Option<String>>(number, &take).await else { return Ok(()) };
    ensure!(taken.is_some(), "{key} was not granted although it was free");
    let answered = Instant::now();
    for node in number + 1.. {
        let asked = Instant::now();
        match nodes.ask::<Option<String>>(node, &take).await {
            Some(Some(_)) => {
                let held = Instant::now().duration_since(called);
                ensure!(held + EARLY_MAX >= LENGTH, "{key} was granted twice within {held:?}");
                return Ok(());
            }
            Some(None) => {
                let held = asked.duration_since(answered);
                ensure!(held < LENGTH + LATE_MAX, "{key} is still held after {held:?}");
            }
            // The lock may have been granted by this request.
            None => return Ok(()),
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Ok(())
}

/// Checks that all nodes agree on the time to live of a key, and that it is within `left_ms`.
async fn ttls_agree(nodes: &mut Nodes, key: &str, left_ms: std::ops::Range<i64>) -> Result<()> {
    let mut told = Vec::new();
    for node in 0..nodes.addrs.len() {
        if let Some(ms) = nodes.ask::<i64>(node, redis::cmd("PTTL").arg(key)).await {
            told.push(ms);
        }
    }
    let (least, most) = (told.iter().min().copied(), told.iter().max().copied());
    let (Some(least), Some(most)) = (least, most) else { bail!("no node answers") };
    ensure!(most - least <= TTL_APART_MAX_MS, "{key}: {told:?} ms");
    ensure!(left_ms.contains(&least) && left_ms.contains(&most), "{key}: {told:?} ms, not {left_ms:?}");
    Ok(())
}

async fn coordinator(cluster: &Cluster) -> Result<usize> {
    let status = cluster.node(0)?.status().await?;
    let coordinator = status.coordinator.context("the node knows no coordinator")?;
    for (index, node) in cluster.nodes().iter().enumerate() {
        if node.status().await?.node_id == coordinator {
            return Ok(index);
        }
    }
    bail!("the coordinator is not one of these nodes")
}

#[test]
fn keys_expire_and_locks_are_freed_in_true_time_with_wrong_wall_clocks() {
    with_wrong_clocks(async |cluster| {
        let nodes = Nodes::new(cluster);
        let watching = set_keys(&nodes, "key", &[1, 2, 3, 5]).await?;
        let mut locks = tokio::task::JoinSet::new();
        for number in 0..KEYS {
            locks.spawn(take_lock(nodes.clone(), number));
        }
        all_in_time(locks).await?;
        all_in_time(watching).await?;

        let mut nodes = nodes;
        for node in 0..AHEAD_S.len() {
            let key = format!("long-{node}");
            let set = redis::cmd("SET").arg(&key).arg("v").arg("EX").arg(30).clone();
            nodes.ask::<String>(node, &set).await.context("no answer to SET")?;
            ttls_agree(&mut nodes, &key, 28_000..30_001).await?;
        }
        let mut times = BTreeSet::new();
        for node in 0..AHEAD_S.len() {
            let (seconds, _): (i64, i64) =
                nodes.ask(node, &redis::cmd("TIME")).await.context("no answer to TIME")?;
            times.insert(seconds);
        }
        ensure!(times.last().zip(times.first()).is_some_and(|(last, first)| last - first <= 1), "{times:?}");
        Ok(())
    });
}

#[test]
fn keys_expire_in_true_time_across_the_loss_of_the_coordinator_and_of_others() {
    with_wrong_clocks(async |cluster| {
        let nodes = Nodes::new(cluster);
        for round in 0..2 {
            let killed = if round == 0 { coordinator(cluster).await? } else { 3 };
            let watching = set_keys(&nodes, &format!("kill-{round}"), &[4, 6, 8, 10]).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            cluster.node_mut(killed)?.kill9()?;
            all_in_time(watching).await?;
            cluster.node_mut(killed)?.restart().await?;
            cluster.wait_converged(Duration::from_secs(60)).await?;
        }
        Ok(())
    });
}

#[test]
fn keys_expire_in_true_time_across_the_restart_of_all_nodes() {
    with_wrong_clocks(async |cluster| {
        let mut nodes = Nodes::new(cluster);
        let watching = set_keys(&nodes, "restart", &[12, 14, 16, 20]).await?;
        let set = redis::cmd("SET").arg("long").arg("v").arg("EX").arg(100).clone();
        let began = Instant::now();
        nodes.ask::<String>(3, &set).await.context("no answer to SET")?;
        cluster.kill9_all()?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.restart_all().await?;
        let left_ms = 100_000 - began.elapsed().as_millis() as i64;
        ttls_agree(&mut Nodes::new(cluster), "long", left_ms - 1_000..left_ms + 1_000).await?;
        all_in_time(watching).await
    });
}

#[test]
fn node_whose_wall_clock_is_wrong_is_named_in_status_nodes_and_events() {
    with_wrong_clocks(async |cluster| {
        let mut client = cluster.node(0)?.client().await?;
        let mut ids = Vec::new();
        for node in cluster.nodes() {
            ids.push(node.status().await?.node_id);
        }
        // Nodes report every second.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let (status, rows) = (client.status().await?, client.nodes().await?.nodes);
            let events = client.events().await?;
            let named: Vec<bool> = ids
                .iter()
                .map(|id| {
                    let short = &id[id.len() - 6..];
                    let warned = status
                        .warnings
                        .iter()
                        .any(|text| text.contains("wall clock") && text.contains(short));
                    let told = events.iter().any(|event| event.kind == "clock" && event.node == *id);
                    warned && told
                })
                .collect();
            let offsets: Vec<Option<i64>> =
                ids.iter().map(|id| rows.iter().find(|row| row.id == *id)?.clock_offset_ms).collect();
            let right = offsets.iter().zip(AHEAD_S).all(|(offset, ahead_s)| {
                offset.is_some_and(|offset_ms| (offset_ms - ahead_s * 1000).abs() < 300)
            });
            if named == [false, true, true, true] && right {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("named: {named:?}, offsets: {offsets:?}, warnings: {:?}", status.warnings);
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
}
