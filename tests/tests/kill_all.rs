//! All nodes are killed at once under load and restarted.

use std::time::Duration;

use anyhow::ensure;
use caskade_tests::{Builder, Workload, with_cluster};

const LIMIT: Duration = Duration::from_secs(120);
const RETURN_MAX: Duration = Duration::from_secs(60);

#[test]
fn acknowledged_write_survives_kill_of_all_nodes_at_once() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let load = Workload::new(cluster.addrs(), 8).start();
        load.wait_for(500, Duration::from_secs(30)).await?;
        cluster.kill9_all()?;
        let history = load.stop().await?;
        ensure!(history.acknowledged() >= 500);

        cluster.restart_all().await?;
        cluster.wait_converged(RETURN_MAX).await?;
        for node in cluster.nodes() {
            history.check(&mut node.client().await?).await?;
        }
        cluster.assert_copies_equal(2).await?;

        // The cluster must also accept new writes.
        let load = Workload::new(cluster.addrs(), 4).seed(2).start();
        load.wait_for(200, Duration::from_secs(20)).await?;
        let more = load.stop().await?;
        ensure!(more.errors().is_empty(), "{:#?}", more.errors());
        Ok(())
    });
}

#[test]
fn acknowledged_write_survives_kill_of_the_only_node() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        let load = Workload::new(cluster.addrs(), 4).start();
        load.wait_for(300, Duration::from_secs(20)).await?;
        cluster.kill9_all()?;
        let history = load.stop().await?;
        cluster.restart_all().await?;
        history.check(&mut cluster.node(0)?.client().await?).await
    });
}
