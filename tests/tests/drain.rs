//! Planned stops and drained nodes: other nodes become primaries, and their clients see no error and no long
//! wait.

#![expect(clippy::print_stdout, reason = "prints the longest wait")]

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use caskade_tests::{Builder, Cluster, SteadyLoad, binary, eventually, run, with_cluster};

const LIMIT: Duration = Duration::from_secs(150);
const CLIENTS: usize = 6;
/// Longer than a lease, an election, and the wait of a new coordinator after it.
const AFTERWARDS: Duration = Duration::from_secs(7);
/// Shorter than a failover, which takes at least a lease, and longer than the promised 100 ms on a busy
/// machine.
const WAIT_MAX: Duration = Duration::from_millis(1500);
const WHOLE_MAX: Duration = Duration::from_secs(60);

#[test]
fn planned_stop_of_any_node_fails_no_request_and_delays_none() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let coordinator = cluster.coordinator().await?;
        for victim in [(coordinator + 1) % 3, coordinator] {
            let is_coordinator = victim == cluster.coordinator().await?;
            let load = SteadyLoad::start(&others(cluster, victim), CLIENTS).await?;
            tokio::time::sleep(Duration::from_secs(2)).await;
            let quiet = load.longest_wait();
            load.forget();
            let stopping = Instant::now();
            cluster.node_mut(victim)?.stop().await?;
            let took = stopping.elapsed();
            tokio::time::sleep(AFTERWARDS).await;
            let (wait, operations) = load.stop().await?;
            println!(
                "planned stop ({}): longest wait {wait:?} of {operations} operations, {quiet:?} before; the \
                 stop took {took:?}",
                if is_coordinator { "the coordinator" } else { "another node" },
            );
            ensure!(wait <= WAIT_MAX, "a request waited {wait:?}");
            cluster.node_mut(victim)?.restart().await?;
            cluster.wait_converged(WHOLE_MAX).await?;
        }
        cluster.assert_copies_equal(2).await?;
        Ok(())
    });
}

#[test]
fn founder_of_two_nodes_can_be_stopped_and_the_other_serves() {
    with_cluster(Builder::new(2), LIMIT, async |cluster| {
        let load = SteadyLoad::start(&others(cluster, 0), CLIENTS).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        load.forget();
        cluster.node_mut(0)?.stop().await?;
        tokio::time::sleep(AFTERWARDS).await;
        let (wait, operations) = load.stop().await?;
        println!("planned stop (founder of two): longest wait {wait:?} of {operations} operations");
        ensure!(wait <= WAIT_MAX, "a request waited {wait:?}");
        cluster.node_mut(0)?.restart().await?;
        cluster.wait_converged(WHOLE_MAX).await?;
        cluster.assert_copies_equal(2).await?;
        Ok(())
    });
}

#[test]
fn drained_node_stays_up_with_its_copies_and_is_primary_again_after_undrain() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let id = cluster.node(1)?.status().await?.node_id;
        let load = SteadyLoad::start(&cluster.addrs(), CLIENTS).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        load.forget();
        let told = caskctl(cluster, &["node", "drain", &id]).await?;
        ensure!(told.contains("primary of no partition"), "{told}");
        ensure!(primaries(cluster, &id).await? == 0);
        let status = cluster.node(1)?.status().await?;
        ensure!(status.state == "serving" && status.partitions_under_replicated == 0, "{status:#?}");
        ensure!(status.members.iter().any(|member| member.id == id && member.draining), "{status:#?}");

        caskctl(cluster, &["node", "undrain", &id]).await?;
        eventually("the node is primary again", WHOLE_MAX, async || {
            let primaries = primaries(cluster, &id).await?;
            ensure!(primaries > 300, "of {primaries} partitions");
            Ok(())
        })
        .await?;
        let (wait, operations) = load.stop().await?;
        println!("drain and undrain: longest wait {wait:?} of {operations} operations");
        ensure!(wait <= WAIT_MAX, "a request waited {wait:?}");
        cluster.wait_converged(WHOLE_MAX).await?;
        cluster.assert_copies_equal(2).await?;
        Ok(())
    });
}

async fn primaries(cluster: &Cluster, id: &str) -> Result<u32> {
    let ring = cluster.ring(0).await?;
    let share = ring.shares.iter().find(|share| share.id == id).context("the node has no share")?;
    Ok(share.primaries)
}

fn others(cluster: &Cluster, victim: usize) -> Vec<String> {
    let nodes = cluster.nodes().iter().enumerate();
    nodes.filter(|(index, _)| *index != victim).map(|(_, node)| node.addr()).collect()
}

async fn caskctl(cluster: &Cluster, args: &[&str]) -> Result<String> {
    let mut command = Command::new(binary("caskctl")?);
    command.args(["--addr", &cluster.node(0)?.addr()]).args(args);
    run(command).await?.success()
}
