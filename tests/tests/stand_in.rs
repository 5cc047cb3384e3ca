//! While a node is down, stand-ins on other nodes replace its copies: new writes are on two nodes at once,
//! and after the rebuild all records are.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use caskade_api::Status;
use caskade_tests::{Builder, Cluster, Workload, binary, eventually, run, with_cluster};

const LIMIT: Duration = Duration::from_secs(150);
const DOWN_MAX: Duration = Duration::from_secs(15);
const REBUILT_MAX: Duration = Duration::from_secs(60);
const WHOLE_MAX: Duration = Duration::from_secs(60);

#[test]
fn acknowledged_write_survives_the_loss_of_a_second_node_once_the_first_is_rebuilt() {
    // Three of five nodes remain, which is a majority of the voters.
    let builder = Builder::new(5).arg("--rebuild-delay-ms", "1500");
    with_cluster(builder, LIMIT, async |cluster| {
        let load = Workload::new(cluster.addrs(), 6).start();
        load.wait_for(300, Duration::from_secs(30)).await?;
        for victim in [1, 3] {
            cluster.node_mut(victim)?.kill9()?;
            // The stand-ins receive new writes while they are rebuilt.
            load.wait_for(100, Duration::from_secs(40)).await?;
            let status =
                rebuilt(cluster).await.with_context(|| format!("after the loss of node {victim}"))?;
            ensure!(status.partitions_unavailable == 0, "{status:#?}");
        }
        let history = load.stop().await?;
        history.check(&mut cluster.node(0)?.client().await?).await?;
        cluster.assert_copies_equal(2).await?;

        cluster.restart_all().await?;
        cluster.wait_converged(WHOLE_MAX).await?;
        let status = cluster.node(0)?.status().await?;
        ensure!(status.partitions_with_stand_in == 0, "stand-ins were not released: {status:#?}");
        history.check(&mut cluster.node(1)?.client().await?).await?;
        cluster.assert_copies_equal(2).await?;
        Ok(())
    });
}

#[test]
fn copies_of_a_node_are_rebuilt_on_command_and_not_before_the_delay() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let records: Vec<(String, String)> =
            (0..3000).map(|number| (format!("old:{number}"), number.to_string())).collect();
        cluster.node(0)?.client().await?.set_all(&records).await?;
        let victim = (cluster.coordinator().await? + 1) % 3;
        let other = (victim + 1) % 3;
        let id = cluster.node(victim)?.status().await?.node_id;
        cluster.node_mut(victim)?.kill9()?;
        cluster.wait_member_state(&id, "down", DOWN_MAX).await?;
        let status = cluster.node(other)?.status().await?;
        ensure!(status.copies_now == 2, "new writes are not on two nodes: {status:#?}");
        let (stand_ins, lacking) = (status.partitions_with_stand_in, status.partitions_under_replicated);
        ensure!(stand_ins > 600 && stand_ins == lacking, "{status:#?}");
        let copies = status.tasks.iter().filter(|task| task.kind != "scrub").count();
        ensure!(status.partitions_being_rebuilt == 0 && copies == 0, "{status:#?}");

        let told = caskctl(cluster, other, &["node", "rebuild", &id[id.len() - 6..]]).await?;
        ensure!(told.contains("stand-ins"), "{told}");
        let status = rebuilt(cluster).await?;
        ensure!(
            status.partitions_with_stand_in == stand_ins,
            "stand-ins must stay until the node returns: {status:#?}"
        );
        cluster.assert_copies_equal(2).await?;

        cluster.node_mut(victim)?.restart().await?;
        cluster.wait_converged(WHOLE_MAX).await?;
        ensure!(cluster.node(other)?.status().await?.partitions_with_stand_in == 0);
        let keys: Vec<String> = records.iter().map(|(key, _)| key.clone()).collect();
        let found = cluster.node(victim)?.client().await?.get_all(&keys).await?;
        ensure!(found.iter().all(Option::is_some), "a record is missing");
        cluster.assert_copies_equal(2).await?;
        Ok(())
    });
}

/// Waits until every partition has two complete copies on nodes that run.
async fn rebuilt(cluster: &Cluster) -> Result<Status> {
    eventually("the lost copies are rebuilt", REBUILT_MAX, async || {
        let running = cluster.nodes().iter().find(|node| node.answers()).context("no node runs")?;
        let status = running.status().await?;
        let down = status.members.iter().filter(|member| member.state == "down").count();
        let dead = cluster.nodes().iter().filter(|node| !node.is_running()).count();
        ensure!(down == dead, "{down} of {dead} nodes are declared down");
        ensure!(status.partitions_with_stand_in > 0, "no stand-in");
        ensure!(
            status.partitions_under_replicated == 0,
            "{} partitions lack a copy",
            status.partitions_under_replicated
        );
        Ok(status)
    })
    .await
}

async fn caskctl(cluster: &Cluster, index: usize, args: &[&str]) -> Result<String> {
    let mut command = Command::new(binary("caskctl")?);
    command.args(["--addr", &cluster.node(index)?.addr()]).args(args);
    run(command).await?.success()
}
