//! One fault after another, drawn from a seed, while clients write: nothing acknowledged is lost, every key behaves
//! like one copy, and the copies are equal whenever the cluster is whole again.
//!
//! The gate runs a short share. `CASKADE_CHAOS_ROUNDS=200 cargo test --workspace --test chaos -- --nocapture` runs
//! more, and `CASKADE_CHAOS_SEED=N` draws the same faults again; their timing is the machine's.

#![expect(clippy::print_stdout, reason = "whoever runs it for hours wants to see what happens, and the seed")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use caskade_tests::oracle::History;
use caskade_tests::{Builder, Cluster, Workload, eventually, with_cluster};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const ROUNDS: u64 = 6;
const NODES: usize = 4;
const CLIENTS: usize = 8;
/// For a round, at its slowest.
const ROUND_MAX: Duration = Duration::from_secs(150);
/// Until a change of the members is committed.
const STEP_MAX: Duration = Duration::from_secs(30);
const WHOLE_MAX: Duration = Duration::from_secs(60);

/// What is done to one node, or to the members. The cluster has to bear one at a time.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// SIGKILL, and started again after so many milliseconds.
    Kill { down_ms: u64 },
    /// SIGTERM, and started again at once.
    Restart,
    /// SIGSTOP for so many milliseconds: shorter and longer than its lease.
    Pause { ms: u64 },
    /// SIGKILL, started again, and killed once more while it catches up.
    KillTwice,
    /// A node joins, and this one leaves before that one has all its data. The new one may be killed and started again
    /// meanwhile.
    Exchange { kill: bool },
}

impl Fault {
    fn draw(rng: &mut StdRng) -> Self {
        match rng.random_range(0..6) {
            0 => Self::Kill { down_ms: rng.random_range(0..4000) },
            1 => Self::Restart,
            2 => Self::Pause { ms: rng.random_range(200..4000) },
            3 => Self::KillTwice,
            kind => Self::Exchange { kill: kind == 4 },
        }
    }

    async fn happen(self, cluster: &mut Cluster, victim: usize) -> Result<()> {
        let pause = |ms| tokio::time::sleep(Duration::from_millis(ms));
        let node = cluster.node_mut(victim)?;
        match self {
            Self::Kill { down_ms } => {
                node.kill9()?;
                pause(down_ms).await;
                node.restart().await
            }
            Self::Restart => node.restart().await,
            Self::Pause { ms } => {
                node.pause()?;
                pause(ms).await;
                node.resume()
            }
            Self::KillTwice => {
                node.kill9()?;
                node.restart().await?;
                node.kill9()?;
                node.restart().await
            }
            Self::Exchange { kill } => exchange(cluster, victim, kill).await,
        }
    }
}

/// The cluster has as many nodes afterwards, of which one is new.
async fn exchange(cluster: &mut Cluster, victim: usize, kill: bool) -> Result<()> {
    let id = cluster.node(victim)?.status().await?.node_id;
    let joined = cluster.add_node().await?;
    // What is planned is void if the ring changes before it is committed, as it may while a node joins.
    eventually("the leave is committed", STEP_MAX, async || {
        let mut client = cluster.node((victim + 1) % NODES)?.client().await?;
        client.plan_and_commit(&["LEAVE", &id]).await
    })
    .await?;
    if kill {
        cluster.node_mut(joined)?.kill9()?;
        cluster.node_mut(joined)?.restart().await?;
    }
    let mut leaving = cluster.take_node(victim)?;
    let ended = leaving.wait_end(WHOLE_MAX).await.context("the node leaves")?;
    ensure!(ended.stderr.contains("--join-afresh"), "it ended for another reason: {}", ended.stderr);
    Ok(())
}

#[test]
fn nothing_is_lost_whatever_happens_to_one_node_at_a_time() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let rounds = number("CASKADE_CHAOS_ROUNDS", ROUNDS);
    let seed = number("CASKADE_CHAOS_SEED", rand::random_range(0..1_000_000));
    println!("CASKADE_CHAOS_SEED={seed}, {rounds} rounds");
    let limit = Duration::from_secs(60) + ROUND_MAX * u32::try_from(rounds).expect("a number of rounds");
    with_cluster(Builder::new(NODES), limit, async |cluster| {
        let (mut rng, mut told) = (StdRng::seed_from_u64(seed), History::default());
        for round in 0..rounds {
            let (victim, fault) = (rng.random_range(0..NODES), Fault::draw(&mut rng));
            println!("seed {seed}, round {round}: {fault:?} of node {victim}");
            let outcome = one_round(cluster, victim, fault, round + 1, &mut told).await;
            outcome.with_context(|| format!("seed {seed}, round {round}: {fault:?} of node {victim}"))?;
        }
        Ok(())
    });
}

/// `told` is what clients were told in all rounds: the counters they add to are the same ones.
async fn one_round(
    cluster: &mut Cluster,
    victim: usize,
    fault: Fault,
    round: u64,
    told: &mut History,
) -> Result<()> {
    let load = Workload::new(cluster.addrs(), CLIENTS).seed(round).start();
    load.wait_for(150, Duration::from_secs(20)).await?;
    fault.happen(cluster, victim).await?;
    load.wait_for(150, Duration::from_secs(30)).await.context("the load goes on")?;
    told.merge(load.stop().await?);
    cluster.wait_converged(WHOLE_MAX).await.context("the cluster becomes whole")?;
    for node in cluster.nodes() {
        told.check(&mut node.client().await?).await?;
    }
    let copies = cluster.assert_copies_equal(2).await?;
    ensure!(copies > 0, "there is something to compare");
    Ok(())
}
