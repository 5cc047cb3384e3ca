//! Random faults from a seed, one after the other, while clients write. No acknowledged write is lost, every
//! key is linearizable, and the copies are equal whenever the cluster has converged again.
//!
//! The gate runs few rounds. `CASKADE_CHAOS_ROUNDS=200 cargo test --workspace --test chaos -- --nocapture`
//! runs more, and `CASKADE_CHAOS_SEED=N` repeats the faults, but not their timing.

#![expect(clippy::print_stdout, reason = "long runs show their progress and the seed")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use caskade_tests::oracle::History;
use caskade_tests::{Builder, Cluster, Workload, eventually, with_cluster};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const ROUNDS: u64 = 6;
const NODES: usize = 4;
const CLIENTS: usize = 8;
/// Time limit of a round.
const ROUND_MAX: Duration = Duration::from_secs(150);
/// Time limit until a change of the members is committed.
const STEP_MAX: Duration = Duration::from_secs(30);
const WHOLE_MAX: Duration = Duration::from_secs(60);

/// A fault of one node, or a change of the members. The cluster must tolerate one at a time.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// SIGKILL, and a restart after this time.
    Kill { down_ms: u64 },
    /// SIGTERM, and a restart at once.
    Restart,
    /// SIGSTOP for this time: shorter or longer than its lease.
    Pause { ms: u64 },
    /// SIGKILL, a restart, and SIGKILL again while the node catches up.
    KillTwice,
    /// A node joins, and this one leaves before the new one has all its data. With `kill` the new node is
    /// killed and restarted meanwhile.
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

/// Replaces the victim by a new node.
async fn exchange(cluster: &mut Cluster, victim: usize, kill: bool) -> Result<()> {
    let id = cluster.node(victim)?.status().await?.node_id;
    let joined = cluster.add_node().await?;
    // A plan is rejected if the ring changes between its preview and its commit, as it can while a node
    // joins.
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
    ensure!(ended.stderr.contains("--join-afresh"), "the node ended for another reason: {}", ended.stderr);
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

/// Runs one round. `told` has the answers to clients of all rounds, because the rounds share the counters.
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
    load.wait_for(150, Duration::from_secs(30)).await.context("the load makes progress after the fault")?;
    told.merge(load.stop().await?);
    cluster.wait_converged(WHOLE_MAX).await.context("the cluster becomes whole")?;
    for node in cluster.nodes() {
        told.check(&mut node.client().await?).await?;
    }
    let copies = cluster.assert_copies_equal(2).await?;
    ensure!(copies > 0, "the cluster has no keys to compare");
    Ok(())
}
