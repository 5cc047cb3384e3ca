//! Nodes stop, pause and return while the others serve.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use caskade_tests::{Builder, Cluster, Workload, with_cluster};

const LIMIT: Duration = Duration::from_secs(150);
const RETURN_MAX: Duration = Duration::from_secs(60);

#[test]
fn restart_of_each_node_in_turn_loses_nothing() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let load = Workload::new(cluster.addrs(), 6).start();
        for index in 0..3 {
            load.wait_for(100, Duration::from_secs(30)).await?;
            let before = incarnation(cluster, index).await?;
            cluster.node_mut(index)?.restart().await?;
            cluster.wait_converged(RETURN_MAX).await.with_context(|| format!("node {index} returns"))?;
            let after = incarnation(cluster, index).await?;
            ensure!(after > before, "start {after} follows start {before}");
        }
        load.wait_for(100, Duration::from_secs(30)).await?;
        let history = load.stop().await?;
        for node in cluster.nodes() {
            history.check(&mut node.client().await?).await?;
        }
        cluster.assert_copies_equal(2).await?;
        Ok(())
    });
}

#[test]
fn deleted_key_stays_deleted_when_a_node_returns_that_missed_it() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let keys: Vec<String> = (0..500).map(|number| format!("doomed:{number}")).collect();
        let records: Vec<(&String, &str)> = keys.iter().map(|key| (key, "x")).collect();
        cluster.node(0)?.client().await?.set_all(&records).await?;
        let id = cluster.node(2)?.status().await?.node_id;
        cluster.node_mut(2)?.kill9()?;
        cluster.wait_member_state(&id, "down", Duration::from_secs(10)).await?;
        let mut client = cluster.node(1)?.client().await?;
        for key in &keys {
            let removed: i64 = client.ask(redis::cmd("DEL").arg(key)).await?;
            ensure!(removed == 1, "DEL {key} is {removed}");
        }
        cluster.node_mut(2)?.restart().await?;
        cluster.wait_converged(RETURN_MAX).await?;
        ensure!(cluster.assert_copies_equal(2).await? == 0, "a copy still holds a key");
        for node in cluster.nodes() {
            let found = node.client().await?.get_all(&keys).await?;
            ensure!(found.iter().all(Option::is_none), "{} returned deleted keys", node.addr());
        }
        Ok(())
    });
}

#[test]
fn paused_node_never_answers_what_others_have_overwritten() {
    // Clients are connected to the paused node too. Every read checks its answers after the pause against
    // values that other nodes acknowledged meanwhile.
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let load = Workload::new(cluster.addrs(), 9).start();
        load.wait_for(200, Duration::from_secs(20)).await?;
        cluster.node_mut(1)?.pause()?;
        tokio::time::sleep(Duration::from_secs(6)).await;
        load.wait_for(50, Duration::from_secs(20)).await?;
        cluster.node_mut(1)?.resume()?;
        cluster.wait_converged(RETURN_MAX).await?;
        load.wait_for(200, Duration::from_secs(20)).await?;
        let history = load.stop().await?;
        history.check(&mut cluster.node(1)?.client().await?).await?;
        cluster.assert_copies_equal(2).await?;
        Ok(())
    });
}

#[test]
fn node_that_wakes_just_as_its_lease_runs_out_never_answers_what_others_have_overwritten() {
    // The coordinator declares a node down 2.1 s after granting a lease of 2 s. These pauses end around that
    // moment, when another grant would let the node serve values that others overwrite.
    const ROUNDS: usize = 5;
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let load = Workload::new(cluster.addrs(), 9).start();
        load.wait_for(200, Duration::from_secs(20)).await?;
        for _ in 0..ROUNDS {
            let pause = Duration::from_millis(rand::random_range(2050..=2400));
            cluster.node_mut(1)?.pause()?;
            tokio::time::sleep(pause).await;
            cluster.node_mut(1)?.resume()?;
            load.wait_for(50, Duration::from_secs(20))
                .await
                .with_context(|| format!("after a pause of {pause:?}"))?;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        cluster.wait_converged(RETURN_MAX).await?;
        let history = load.stop().await?;
        history.check(&mut cluster.node(1)?.client().await?).await?;
        cluster.assert_copies_equal(2).await?;
        Ok(())
    });
}

/// Returns the registered incarnation of node `index`.
async fn incarnation(cluster: &Cluster, index: usize) -> Result<u64> {
    let status = cluster.node(index)?.status().await?;
    let own = status.members.iter().find(|member| member.id == status.node_id);
    Ok(own.context("the node is a member")?.incarnation)
}
