//! Operations on a running cluster: leave, replace, remove, pause, abort; and upgrades of the peer protocol.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use caskade_api::PROTOCOL_MAX;
use caskade_tests::{Builder, Cluster, Workload, copies_moved, eventually, with_cluster};

const LIMIT: Duration = Duration::from_secs(150);
const CONVERGE_MAX: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);
/// The variable with which a node announces the version that only tests have.
const NEWER_BUILD: (&str, &str) = ("CASKADE_TEST_PROTOCOL_MAX", "2");

/// Writes records of about 1 KiB and returns them.
async fn fill(cluster: &Cluster, count: usize) -> Result<Vec<(String, String)>> {
    let records: Vec<(String, String)> =
        (0..count).map(|number| (format!("record:{number}"), format!("{number:01000}"))).collect();
    cluster.node(0)?.client().await?.set_all(&records).await?;
    Ok(records)
}

async fn ensure_all_there(cluster: &Cluster, records: &[(String, String)]) -> Result<()> {
    let keys: Vec<String> = records.iter().map(|(key, _)| key.clone()).collect();
    let found = cluster.node(0)?.client().await?.get_all(&keys).await?;
    for ((key, value), found) in records.iter().zip(found) {
        ensure!(found.as_deref() == Some(value.as_bytes()), "{key} is {found:?}");
    }
    Ok(())
}

#[test]
fn coordinator_leaves_under_load_without_an_error_and_returns_only_as_a_new_node() {
    with_cluster(Builder::new(4), LIMIT, async |cluster| {
        let records = fill(cluster, 2000).await?;
        let leaving = cluster.coordinator().await?;
        let id = cluster.node(leaving)?.status().await?.node_id;
        let load = Workload::new(
            cluster
                .nodes()
                .iter()
                .enumerate()
                .filter(|(at, _)| *at != leaving)
                .map(|(_, node)| node.addr())
                .collect(),
            4,
        );
        let load = load.start();
        load.wait_for(100, SOON).await?;
        let mut client = cluster.node((leaving + 1) % 4)?.client().await?;
        let planned = client.plan_and_commit(&["LEAVE", &id]).await?;
        ensure!(planned.copies_to_make == planned.copies_ideal, "{planned:?}");
        ensure!(planned.keys > 0 && planned.partitions_unknown == 0, "{planned:?}");

        let mut left = cluster.take_node(leaving)?;
        let finished = left.wait_end(CONVERGE_MAX).await?;
        ensure!(finished.stderr.contains("--join-afresh"), "{}", finished.stderr);
        cluster.wait_converged(CONVERGE_MAX).await?;
        load.wait_for(100, SOON).await?;
        let history = load.stop().await?;
        ensure!(history.errors().is_empty(), "requests failed: {:#?}", history.errors());
        history.check(&mut cluster.node(0)?.client().await?).await?;
        ensure_all_there(cluster, &records).await?;
        let status = cluster.node(0)?.status().await?;
        ensure!(
            status.members.len() == 3 && status.voters.len() == 3 && !status.voters.contains(&id),
            "{status:?}"
        );

        // A founder has no bootstrap peer by default.
        let peer = cluster.node(0)?.peer_addr();
        left.add_flags(&[("--bootstrap", &peer)]);
        left.spawn()?;
        let refused = left.wait_end(SOON).await?.refusal()?;
        ensure!(refused.contains("is no member of this cluster since epoch"), "{refused}");
        left.add_flags(&[("--join-afresh=true", "--insecure=false")]);
        left.restart().await?;
        ensure!(left.data_dir().join("store.removed-1").is_dir(), "the former store was not kept");
        let again = left.status().await?.node_id;
        ensure!(again != id, "the node returned with its old id");
        cluster.put_node(left);
        cluster.wait_converged(CONVERGE_MAX).await?;
        ensure_all_there(cluster, &records).await?;
        cluster.assert_copies_equal(2).await?;
        Ok(())
    });
}

#[test]
fn dead_node_is_replaced_by_a_node_that_takes_exactly_its_partitions() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let records = fill(cluster, 2000).await?;
        cluster.add_node_with(&[("--weight", "0")]).await?;
        cluster.wait_converged(CONVERGE_MAX).await?;
        let ids = cluster.ids().await?;
        let before = cluster.ring(0).await?;
        let (old, new) = (ids.get(1).context("three nodes")?, ids.get(3).context("four nodes")?);
        let mut client = cluster.node(0)?.client().await?;
        cluster.node_mut(1)?.kill9()?;
        cluster.wait_member_state(old, "down", SOON).await?;
        let planned = client.plan_and_commit(&["REPLACE", old, new]).await?;
        ensure!(planned.moves.iter().all(|copied| copied.target == *new), "{:?}", planned.moves);
        cluster.take_node(1)?;
        cluster.wait_converged(CONVERGE_MAX).await?;
        let after = cluster.ring(0).await?;
        let moved = copies_moved(&before, &after)?;
        let places = before.shares.iter().find(|share| share.id == *old).context("its share")?.copies;
        ensure!(moved == places as usize, "{moved} copies moved instead of {places}");
        ensure_all_there(cluster, &records).await?;
        cluster.assert_copies_equal(2).await?;
        Ok(())
    });
}

#[test]
fn dead_node_is_removed_and_returns_as_a_new_node() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        fill(cluster, 200).await?;
        let ids = cluster.ids().await?;
        let id = ids.get(2).context("three nodes")?;
        cluster.node_mut(1)?.kill9()?;
        cluster.wait_member_state(ids.get(1).context("three nodes")?, "down", SOON).await?;
        let mut client = cluster.node(0)?.client().await?;
        let up = client.preview(&["REMOVE", id]).await;
        ensure!(format!("{:#}", up.unwrap_err()).contains("is up"));
        let dead = client.plan_and_commit(&["REMOVE", ids.get(1).context("three nodes")?]).await?;
        ensure!(dead.copies_to_make > 0, "{dead:?}");
        let mut removed = cluster.take_node(1)?;
        cluster.wait_converged(CONVERGE_MAX).await?;
        cluster.assert_copies_equal(2).await?;
        // The node learns of its removal only now, and joins as a new node in the same start.
        removed.add_flags(&[("--join-afresh=true", "--insecure=false")]);
        removed.restart().await?;
        ensure!(removed.data_dir().join("store.removed-1").is_dir(), "the former store was not kept");
        cluster.put_node(removed);
        cluster.wait_converged(CONVERGE_MAX).await?;
        cluster.assert_copies_equal(2).await?;
        Ok(())
    });
}

#[test]
fn plan_is_slowed_paused_resumed_and_aborted_while_it_runs() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let records = fill(cluster, 6000).await?;
        let before = cluster.ring(0).await?;
        let mut client = cluster.node(0)?.client().await?;
        // About 3 MiB are copied at 64 KiB per second from each node, so that the plan runs for several
        // seconds.
        client.plan(&["THROTTLE", "65536"]).await?;
        let joined = cluster.add_node().await?;
        let made = async |client: &mut caskade_tests::Client| {
            let plan = client.plan(&["STATUS"]).await?.plan.context("no plan is running")?;
            anyhow::Ok((plan.copies_made, plan.paused))
        };
        eventually("some copies are made", SOON, async || {
            let (made, _) = made(&mut cluster.node(0)?.client().await?).await?;
            ensure!(made > 2, "{made} copies");
            Ok(())
        })
        .await?;
        client.plan(&["PAUSE"]).await?;
        // Copies in flight at the pause may still end within a second.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let paused = made(&mut client).await?;
        ensure!(paused.1, "the status does not report the pause");
        tokio::time::sleep(Duration::from_secs(2)).await;
        ensure!(made(&mut client).await? == paused, "copies were made while the plan was paused");
        let warnings = cluster.node(joined)?.status().await?.warnings;
        ensure!(warnings.iter().any(|warning| warning.contains("is paused")), "{warnings:?}");
        client.plan(&["RESUME"]).await?;
        eventually("copying continues", SOON, async || {
            let now = made(&mut cluster.node(0)?.client().await?).await?;
            ensure!(now.0 > paused.0, "{now:?}");
            Ok(())
        })
        .await?;
        client.plan(&["ABORT"]).await?;
        client.plan(&["THROTTLE", "DEFAULT"]).await?;
        cluster.wait_converged(CONVERGE_MAX).await?;
        let after = cluster.ring(0).await?;
        ensure!(after.ring_hash == before.ring_hash, "the ring is not the one before the plan");
        ensure_all_there(cluster, &records).await?;
        // The node is a member without data until a rebalance.
        client.plan_and_commit(&["REBALANCE"]).await?;
        cluster.wait_converged(CONVERGE_MAX).await?;
        let shares = cluster.ring(joined).await?.shares;
        ensure!(shares.iter().all(|share| (511..=513).contains(&share.in_sync)), "{shares:?}");
        ensure_all_there(cluster, &records).await?;
        cluster.assert_copies_equal(2).await?;
        Ok(())
    });
}

#[test]
fn node_leaves_although_the_coordinator_and_then_a_target_are_killed() {
    with_cluster(Builder::new(4), LIMIT, async |cluster| {
        let records = fill(cluster, 4000).await?;
        let coordinator = cluster.coordinator().await?;
        let (leaving, asked, target) = ((coordinator + 1) % 4, (coordinator + 2) % 4, (coordinator + 3) % 4);
        let id = cluster.node(leaving)?.status().await?.node_id;
        let mut client = cluster.node(asked)?.client().await?;
        client.plan(&["THROTTLE", "65536"]).await?;
        client.plan_and_commit(&["LEAVE", &id]).await?;
        for victim in [coordinator, target] {
            let made = client.plan(&["STATUS"]).await?.plan.context("the plan is done already")?.copies_made;
            eventually("copying continues", CONVERGE_MAX, async || {
                let plan = cluster.node(asked)?.client().await?.plan(&["STATUS"]).await?.plan;
                let now = plan.context("the plan is done already")?.copies_made;
                ensure!(now > made, "{now} copies");
                Ok(())
            })
            .await?;
            cluster.node_mut(victim)?.kill9()?;
            cluster.wait_coordinator(SOON).await?;
            cluster.node_mut(victim)?.restart().await?;
        }
        eventually("the rate limit is removed", SOON, async || {
            cluster.node(asked)?.client().await?.plan(&["THROTTLE", "DEFAULT"]).await
        })
        .await?;
        let mut left = cluster.take_node(leaving)?;
        left.wait_end(CONVERGE_MAX).await?;
        cluster.wait_converged(CONVERGE_MAX).await?;
        ensure_all_there(cluster, &records).await?;
        cluster.assert_copies_equal(2).await?;
        Ok(())
    });
}

#[test]
fn cluster_is_upgraded_node_by_node_from_the_older_protocol_to_the_newer() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let records = fill(cluster, 1000).await?;
        let load = Workload::new(cluster.addrs(), 4).start();
        load.wait_for(100, SOON).await?;
        for index in 0..3 {
            ensure!(
                cluster.node((index + 1) % 3)?.status().await?.protocol == PROTOCOL_MAX,
                "the cluster uses the newer version before all nodes have it"
            );
            let node = cluster.node_mut(index)?;
            node.set_variable(NEWER_BUILD.0, Some(NEWER_BUILD.1));
            node.restart().await?;
            cluster.wait_converged(CONVERGE_MAX).await?;
        }
        eventually("the newer version is in use", SOON, async || {
            let protocol = cluster.node(0)?.status().await?.protocol;
            ensure!(protocol == PROTOCOL_MAX + 1, "the version is {protocol}");
            Ok(())
        })
        .await?;
        load.wait_for(100, SOON).await?;
        load.stop().await?.check(&mut cluster.node(0)?.client().await?).await?;
        ensure_all_there(cluster, &records).await?;
        let joined = cluster.add_node_with(&[]).await;
        ensure!(joined.is_err(), "a node of the older build cannot join any more");
        let mut older = cluster.take_node(3)?;
        let reason = older.wait_end(SOON).await?.refusal()?;
        ensure!(reason.contains("supports versions 1 to 1 of the peer protocol"), "{reason}");
        ensure!(reason.contains("uses version 2, and its members have 1 to 2 in common"), "{reason}");
        older.set_variable(NEWER_BUILD.0, Some(NEWER_BUILD.1));
        older.restart().await?;
        cluster.put_node(older);
        cluster.wait_converged(CONVERGE_MAX).await?;
        // Its copies become in-sync with digests in the events.
        let events = cluster.node(0)?.client().await?.events().await?;
        let told = events.iter().find(|event| event.message.contains("sum of digests"));
        ensure!(told.is_some(), "{events:#?}");
        cluster.assert_copies_equal(2).await?;
        Ok(())
    });
}
