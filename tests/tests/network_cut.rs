//! Network partitions while clients use all nodes. An isolated node never returns stale data, the others keep
//! serving, and after the partition the cluster converges.
//!
//! The nodes are in network namespaces; see `tests/src/network.rs`. On a machine that does not permit them
//! these tests print `SKIPPED`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use caskade_tests::oracle::{History, Outcome};
use caskade_tests::{Builder, Client, Cluster, Workload, with_own_network};
use redis::{RedisError, RedisResult, Value};
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(150);
const NODES: usize = 3;
/// Longer than a lease of 2 s on a clock that is 5 % slow, counted from the last possible grant.
const LEASE_GONE: Duration = Duration::from_millis(2500);
/// Time limit until the others have declared the node down, elected a coordinator if necessary, and serve all
/// keys.
const GO_ON_MAX: Duration = Duration::from_secs(20);
/// The request time-out, plus time for a slow machine.
const TOLD_MAX: Duration = Duration::from_secs(8);
const WHOLE_MAX: Duration = Duration::from_secs(60);
/// Number of keys read and written through the isolated node; some of every node's partitions.
const KEYS: usize = 48;

/// Packets that are lost between one node and the others.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    All,
    /// Packets to the node.
    WhatItHears,
    /// Packets from the node.
    WhatItSays,
}

#[test]
fn node_that_is_cut_off_answers_nothing_stale_and_returns() {
    with_own_network(Builder::new(NODES), LIMIT, async |cluster| {
        let victim = (cluster.coordinator().await? + 1) % NODES;
        cut_off_under_load(cluster, victim, Cut::All, 1).await
    });
}

#[test]
fn coordinator_that_is_cut_off_answers_nothing_stale_and_returns() {
    with_own_network(Builder::new(NODES), LIMIT, async |cluster| {
        let victim = cluster.coordinator().await?;
        cut_off_under_load(cluster, victim, Cut::All, 1).await
    });
}

#[test]
fn node_that_is_cut_off_in_one_direction_answers_nothing_stale_and_returns() {
    with_own_network(Builder::new(NODES), LIMIT, async |cluster| {
        let victim = (cluster.coordinator().await? + 1) % NODES;
        cut_off_under_load(cluster, victim, Cut::WhatItHears, 1)
            .await
            .context("a node that receives nothing")?;
        let victim = cluster.coordinator().await?;
        cut_off_under_load(cluster, victim, Cut::WhatItSays, 3)
            .await
            .context("a coordinator whose packets are lost")
    });
}

#[test]
fn node_without_a_link_to_the_coordinator_keeps_every_key_linearizable() {
    // The third node reaches both. This test does not check which node is coordinator then, only that keys
    // are linearizable for clients of all three nodes, and that some nodes keep serving.
    with_own_network(Builder::new(NODES), LIMIT, async |cluster| {
        let coordinator = cluster.coordinator().await?;
        let victim = (coordinator + 1) % NODES;
        let load = Workload::new(cluster.addrs(), 9).start();
        load.wait_for(200, GO_ON_MAX).await?;
        let network = cluster.network_mut()?;
        network.cut(victim, coordinator)?;
        network.cut(coordinator, victim)?;
        tokio::time::sleep(LEASE_GONE).await;
        load.wait_for(300, GO_ON_MAX).await.context("some node keeps serving")?;
        cluster.network_mut()?.mend()?;
        cluster.wait_converged(WHOLE_MAX).await.context("after the cut")?;
        load.wait_for(200, GO_ON_MAX).await?;
        whole_and_as_told(cluster, &load.stop().await?).await
    });
}

/// Isolates a node under load. The loads use `seed` and `seed + 1`; every round on a cluster needs different
/// seeds.
async fn cut_off_under_load(cluster: &mut Cluster, victim: usize, cut: Cut, seed: u64) -> Result<()> {
    let addrs = cluster.addrs();
    let others: Vec<String> =
        (1..NODES).filter_map(|step| addrs.get((victim + step) % NODES).cloned()).collect();
    let other = others.first().context("another node")?.clone();
    let mut told = History::default();
    // A third of these clients use the victim and read values that the clients of the others write.
    let load = Workload::new(addrs, 9).seed(seed).start();
    load.wait_for(200, GO_ON_MAX).await?;
    let overwritten: Vec<String> = (0..KEYS).map(|number| format!("overwritten:{seed}:{number}")).collect();
    let mut client = Client::connect(&other).await?;
    write_all(&mut client, &overwritten, "before", &mut told).await?;

    make(cluster, victim, cut)?;
    let began = Instant::now();
    let others_load = Workload::new(others, 4).seed(seed + 1).start();
    others_load.wait_for(300, GO_ON_MAX).await.context("the other nodes keep serving")?;
    write_all(&mut client, &overwritten, "during", &mut told).await?;
    tokio::time::sleep(LEASE_GONE.saturating_sub(began.elapsed())).await;
    answers_nothing(cluster.node(victim)?.client().await?, &overwritten, seed, &mut told).await?;
    ensure!(cluster.node(victim)?.status().await?.state == "no-lease", "the isolated node reports a lease");
    others_load.wait_for(300, GO_ON_MAX).await.context("the other nodes still serve")?;

    cluster.network_mut()?.mend()?;
    cluster.wait_converged(WHOLE_MAX).await.context("the node returns")?;
    load.wait_for(200, GO_ON_MAX).await?;
    told.merge(load.stop().await?);
    told.merge(others_load.stop().await?);
    // Counters are the same keys in every round.
    let told = if seed == 1 { told } else { told.without_counters() };
    whole_and_as_told(cluster, &told).await
}

fn make(cluster: &mut Cluster, victim: usize, cut: Cut) -> Result<()> {
    let network = cluster.network_mut()?;
    for other in (0..NODES).filter(|&other| other != victim) {
        if cut != Cut::WhatItSays {
            network.cut(other, victim)?;
        }
        if cut != Cut::WhatItHears {
            network.cut(victim, other)?;
        }
    }
    Ok(())
}

async fn write_all(client: &mut Client, keys: &[String], value: &str, told: &mut History) -> Result<()> {
    for key in keys {
        client.set(key, value).await?;
        told.wrote(key, Some(value.to_owned()), Outcome::Acknowledged);
    }
    Ok(())
}

/// Reads and writes through a node without a lease: each request must be answered with an error in time.
async fn answers_nothing(client: Client, read: &[String], seed: u64, told: &mut History) -> Result<()> {
    let asked = Instant::now();
    let mut requests = JoinSet::new();
    for key in read {
        let (mut client, key) = (client.clone(), key.clone());
        requests.spawn(async move { (key.clone(), true, client.ask(redis::cmd("GET").arg(&key)).await) });
    }
    for number in 0..KEYS {
        let (mut client, key) = (client.clone(), format!("refused:{seed}:{number}"));
        requests.spawn(async move {
            let answer = client.ask(redis::cmd("SET").arg(&key).arg("never")).await;
            (key, false, answer)
        });
    }
    while let Some(request) = requests.join_next().await {
        let (key, is_read, answer): (String, bool, RedisResult<Value>) = request.context("a request")?;
        let error = match answer {
            Err(error) => error,
            Ok(value) => anyhow::bail!("{key} was answered with {value:?} by a node without a lease"),
        };
        says_what_to_do(&error).with_context(|| format!("the error of {key}: {error}"))?;
        if !is_read {
            told.wrote(&key, Some("never".to_owned()), Outcome::of_error(&error));
        }
    }
    ensure!(asked.elapsed() <= TOLD_MAX, "the last error came after {:?}", asked.elapsed());
    Ok(())
}

/// Checks that an error is one of the documented errors of a node, not an error of the connection.
fn says_what_to_do(error: &RedisError) -> Result<()> {
    let known = ["TRYAGAIN", "CLUSTERDOWN", "UNKNOWN"];
    ensure!(error.code().is_some_and(|code| known.contains(&code)), "{:?} is not in {known:?}", error.code());
    Ok(())
}

async fn whole_and_as_told(cluster: &Cluster, told: &History) -> Result<()> {
    cluster.wait_converged(WHOLE_MAX).await?;
    for node in cluster.nodes() {
        told.check(&mut node.client().await?).await?;
    }
    cluster.assert_copies_equal(2).await?;
    Ok(())
}
