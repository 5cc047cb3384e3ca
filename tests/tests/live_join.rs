//! A fourth node joins while clients read and write.

use std::time::Duration;

use anyhow::ensure;
use caskade_tests::{Builder, Workload, copies_moved, with_cluster};

const LIMIT: Duration = Duration::from_secs(120);
const JOIN_MAX: Duration = Duration::from_secs(60);
const RECORDS: usize = 20_000;

#[test]
fn node_joins_under_load_without_an_error_a_lost_write_or_a_needless_copy() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let records: Vec<(String, String)> =
            (0..RECORDS).map(|number| (format!("before:{number}"), format!("{number:0100}"))).collect();
        cluster.node(0)?.client().await?.set_all(&records).await?;
        let before = cluster.ring(0).await?;

        let load = Workload::new(cluster.addrs(), 8).start();
        load.wait_for(200, Duration::from_secs(20)).await?;
        let joined = cluster.add_node().await?;
        cluster.wait_converged(JOIN_MAX).await?;
        load.wait_for(200, Duration::from_secs(20)).await?;
        let history = load.stop().await?;
        ensure!(history.errors().is_empty(), "requests failed: {:#?}", history.errors());

        // Check through the new node, which serves its own share and forwards requests for the rest.
        let mut client = cluster.node(joined)?.client().await?;
        history.check(&mut client).await?;
        let keys: Vec<String> = records.iter().map(|(key, _)| key.clone()).collect();
        for ((key, value), found) in records.iter().zip(client.get_all(&keys).await?) {
            ensure!(found.as_deref() == Some(value.as_bytes()), "{key} is {found:?} after the join");
        }

        let after = cluster.ring(joined).await?;
        let moved = copies_moved(&before, &after)?;
        // A fourth of the 2048 copies belongs to the new node; any other moved copy was unnecessary.
        let ideal = 2048 / 4;
        ensure!(moved as f64 <= 1.05 * f64::from(ideal), "{moved} copies moved, {ideal} are necessary");
        for share in &after.shares {
            ensure!((511..=513).contains(&share.in_sync), "{share:?}");
        }
        cluster.assert_copies_equal(2).await?;
        Ok(())
    });
}

#[test]
fn two_nodes_that_join_at_once_both_get_their_share() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        cluster.node(0)?.client().await?.set("k", "v").await?;
        cluster.add_node().await?;
        // The second node joins while the copies for the first are being made.
        cluster.add_node().await?;
        cluster.wait_converged(JOIN_MAX).await?;
        for node in cluster.nodes() {
            ensure!(node.client().await?.get("k").await?.as_deref() == Some("v"), "{}", node.addr());
        }
        ensure!(cluster.assert_copies_equal(2).await? == 1, "the only key is not in both copies");
        Ok(())
    });
}
