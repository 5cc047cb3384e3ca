//! A replica that does not acknowledge is removed from the in-sync set, so that writes succeed; later it
//! returns.

use std::time::Duration;

use anyhow::ensure;
use caskade_tests::{Builder, Workload, eventually, with_cluster};

const LIMIT: Duration = Duration::from_secs(90);
/// Much longer than a write waits for a replica, and shorter than the lease.
const OUT_MAX: Duration = Duration::from_secs(15);
/// Enough clients that some wait for the paused node as a replica, not as a primary.
const CLIENTS: usize = 12;
const BACK_MAX: Duration = Duration::from_secs(40);

#[test]
fn slow_replica_is_removed_and_returns_without_a_restart() {
    // With a long lease the paused node stays up: requests wait for its primaries, and its replicas are
    // removed.
    let builder = Builder::new(3).arg("--lease-ms", "20000");
    with_cluster(builder, LIMIT, async |cluster| {
        let victim = (cluster.coordinator().await? + 1) % 3;
        let other = (victim + 1) % 3;
        let load = Workload::new(vec![cluster.node(other)?.addr()], CLIENTS).start();
        load.wait_for(200, Duration::from_secs(20)).await?;
        cluster.node_mut(victim)?.pause()?;
        let status = eventually("the paused replica is removed from the in-sync set", OUT_MAX, async || {
            let status = cluster.node(other)?.status().await?;
            ensure!(status.partitions_under_replicated > 0, "no partition lacks a copy");
            Ok(status)
        })
        .await?;
        ensure!(status.members.iter().all(|member| member.state == "up"), "a node is down: {status:#?}");
        cluster.node_mut(victim)?.resume()?;
        let history = load.stop().await?;
        cluster.wait_converged(BACK_MAX).await?;
        cluster.assert_copies_equal(2).await?;
        history.check(&mut cluster.node(other)?.client().await?).await?;
        ensure!(cluster.node(victim)?.status().await?.partitions_under_replicated == 0);
        Ok(())
    });
}
