//! One node of three is killed (SIGKILL) while clients write.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use caskade_tests::{Builder, Cluster, Workload, with_cluster};

const LIMIT: Duration = Duration::from_secs(120);
/// Time after the kill within which every acknowledged write must be readable from another node.
const READABLE_MAX: Duration = Duration::from_secs(10);
const RETURN_MAX: Duration = Duration::from_secs(60);

#[test]
fn acknowledged_write_survives_kill_of_coordinator() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let victim = cluster.coordinator().await?;
        kill_under_load(cluster, victim).await
    });
}

#[test]
fn acknowledged_write_survives_kill_of_another_node() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let coordinator = cluster.coordinator().await?;
        kill_under_load(cluster, (coordinator + 1) % 3).await
    });
}

async fn kill_under_load(cluster: &mut Cluster, victim: usize) -> Result<()> {
    let other = (victim + 1) % 3;
    let id = cluster.node(victim)?.status().await?.node_id;
    let load = Workload::new(cluster.addrs(), 8).start();
    load.wait_for(300, Duration::from_secs(20)).await?;

    cluster.node_mut(victim)?.kill9()?;
    let killed = Instant::now();
    // Each client finishes its request: one to partitions of the killed node waits for their new primaries.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let history = load.stop().await?;
    history.check(&mut cluster.node(other)?.client().await?).await?;
    ensure!(
        killed.elapsed() <= READABLE_MAX,
        "all writes were readable only {:?} after the kill",
        killed.elapsed()
    );

    // While the node is down, clients write, overwrite and delete: its return must not undo any of that.
    cluster.wait_coordinator(READABLE_MAX).await?;
    cluster.wait_member_state(&id, "down", READABLE_MAX).await?;
    let survivors = cluster.nodes().iter().filter(|node| node.answers()).map(|node| node.addr()).collect();
    let load = Workload::new(survivors, 4).seed(2).start();
    load.wait_for(300, Duration::from_secs(20)).await?;
    let more = load.stop().await?;
    ensure!(more.errors().is_empty(), "requests failed with two nodes of three: {:#?}", more.errors());

    cluster.node_mut(victim)?.restart().await?;
    cluster.wait_converged(RETURN_MAX).await.context("the killed node returns")?;
    cluster.assert_copies_equal(2).await?;
    let mut returned = cluster.node(victim)?.client().await?;
    history.without_counters().check(&mut returned).await?;
    more.without_counters().check(&mut returned).await?;
    let mut both = history;
    both.merge(more);
    both.check(&mut returned).await
}

#[test]
fn node_that_joined_with_another_lease_setting_grants_leases_of_the_cluster_s_length() {
    // The cluster uses the founder's 2 s. With their own setting of 60 s the other nodes would confirm
    // themselves as coordinators too rarely for any node to get a lease.
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        for _ in 0..2 {
            cluster.add_node_with(&[("--lease-ms", "60000")]).await?;
        }
        cluster.wait_converged(Duration::from_secs(60)).await?;
        cluster.node_mut(0)?.kill9()?;
        let load = Workload::new(vec![cluster.node(1)?.addr(), cluster.node(2)?.addr()], 4).start();
        load.wait_for(500, Duration::from_secs(30)).await?;
        // Wait for three lease times, so that leases are renewed.
        tokio::time::sleep(Duration::from_secs(6)).await;
        load.wait_for(500, Duration::from_secs(10)).await?;
        load.stop().await?;
        Ok(())
    });
}
