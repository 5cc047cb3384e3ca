//! Loss of a majority of the voters: takeovers, and the return of the nodes that were given up.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use caskade_api::TakeoverAnswer;
use caskade_tests::{Builder, Client, Cluster, Finished, binary, eventually, run, with_cluster};

const LIMIT: Duration = Duration::from_secs(240);
const SOON: Duration = Duration::from_secs(60);
const RETURN_MAX: Duration = Duration::from_secs(90);

#[test]
fn one_of_two_takes_over_and_the_data_of_the_lost_founder_is_merged_by_value() {
    with_cluster(Builder::new(2), LIMIT, async |cluster| {
        let mut founder = cluster.node(0)?.client().await?;
        write(&mut founder, &["old", "gone-by-founder", "gone-by-other", "both"], "before").await?;
        // The founder serves alone and is then killed: the other node does not have these writes.
        let other = cluster.node(1)?.status().await?.node_id;
        cluster.node_mut(1)?.kill9()?;
        cluster.wait_member_state(&other, "down", SOON).await?;
        write(&mut founder, &["only-founder", "both"], "founder").await?;
        delete(&mut founder, "gone-by-founder").await?;
        cluster.node_mut(0)?.kill9()?;

        cluster.node_mut(1)?.spawn()?;
        let refused = refused_without_lease(cluster, 1).await?;
        ensure!(refused.contains("caskctl cluster takeover"), "the remedy is not in: {refused}");
        let mut stale = cluster.node(1)?.client().await?;
        let _: String = stale.ask(&redis::cmd("READONLY")).await?;
        expect(&mut stale, "old", Some("before")).await?;
        let told = ctl(cluster, 1, &["cluster", "takeover"]).await?.success()?;
        ensure!(told.contains("At risk") && told.contains("nothing was changed"), "{told}");
        take_over(cluster, 1).await?;

        let mut client = cluster.node(1)?.client().await?;
        write(&mut client, &["only-other", "both"], "other").await?;
        delete(&mut client, "gone-by-other").await?;
        cluster.node_mut(0)?.restart().await?;
        cluster.wait_converged(RETURN_MAX).await?;
        for node in cluster.nodes() {
            let mut client = node.client().await?;
            expect(&mut client, "old", Some("before")).await?;
            expect(&mut client, "only-founder", Some("founder")).await?;
            expect(&mut client, "only-other", Some("other")).await?;
            expect(&mut client, "both", Some("other")).await?;
            expect(&mut client, "gone-by-founder", None).await?;
            expect(&mut client, "gone-by-other", None).await?;
            ensure!(node.status().await?.generation == 1);
        }
        cluster.assert_copies_equal(2).await?;
        assert_merged(
            cluster,
            1,
            &[&format!("{KEYS} writes"), &format!("{KEYS} deletions"), &format!("{KEYS} keys")],
        )
        .await?;
        let set_aside = cluster.node(0)?.data_dir().join("topology.given-up-1");
        ensure!(set_aside.exists(), "the founder's former log was not kept");

        // Both nodes can restart, so that they are a cluster of two again.
        cluster.node_mut(0)?.restart().await?;
        cluster.node_mut(1)?.restart().await?;
        cluster.wait_converged(RETURN_MAX).await?;
        write(&mut cluster.node(0)?.client().await?, &["after"], "all").await
    });
}

#[test]
fn last_of_three_takes_over_and_the_others_return_under_it() {
    with_cluster(Builder::new(3).replicas(3), LIMIT, async |cluster| {
        write(&mut cluster.node(0)?.client().await?, &["old"], "before").await?;
        let refused = ctl(cluster, 2, &["cluster", "takeover", "--yes"]).await?.refusal()?;
        ensure!(refused.contains("nothing to take over"), "{refused}");
        cluster.node_mut(0)?.kill9()?;
        cluster.node_mut(1)?.kill9()?;
        let refused = refused_without_lease(cluster, 2).await?;
        ensure!(refused.contains("caskctl cluster takeover"), "the remedy is not in: {refused}");
        take_over(cluster, 2).await?;
        let mut client = cluster.node(2)?.client().await?;
        for key in names("old") {
            expect_one(&mut client, &key, Some("before")).await?;
        }
        write(&mut client, &["new"], "after").await?;
        // The two returning nodes are a majority of the former voters; they nevertheless accept the new
        // generation.
        cluster.restart_all().await?;
        cluster.wait_converged(RETURN_MAX).await?;
        for node in cluster.nodes() {
            let mut client = node.client().await?;
            expect(&mut client, "old", Some("before")).await?;
            expect(&mut client, "new", Some("after")).await?;
            ensure!(node.status().await?.generation == 1);
        }
        cluster.assert_copies_equal(3).await.map(drop)
    });
}

#[test]
fn witness_makes_a_takeover_needless() {
    with_cluster(Builder::new(2), LIMIT, async |cluster| {
        let witness = cluster.add_node_with(&[("--weight", "0")]).await?;
        eventually("the cluster has three voters", SOON, async || {
            let voters = cluster.node(0)?.status().await?.voters.len();
            ensure!(voters == 3, "the cluster has {voters} voters");
            Ok(())
        })
        .await?;
        cluster.wait_converged(SOON).await?;
        write(&mut cluster.node(0)?.client().await?, &["old"], "before").await?;
        let id = cluster.node(witness)?.status().await?.node_id;
        let share = cluster.ring(0).await?.shares.into_iter().find(|share| share.id == id);
        ensure!(share.is_none_or(|share| share.copies == 0), "the witness holds data");
        cluster.node_mut(0)?.kill9()?;
        eventually("the other data node serves", SOON, async || {
            write(&mut cluster.node(1)?.client().await?, &["new"], "after").await
        })
        .await?;
        expect(&mut cluster.node(witness)?.client().await?, "old", Some("before")).await?;
        ensure!(cluster.node(1)?.status().await?.generation == 0, "a node took over");
        cluster.node_mut(0)?.restart().await?;
        cluster.wait_converged(RETURN_MAX).await?;
        cluster.assert_copies_equal(2).await.map(drop)
    });
}

#[test]
fn one_of_two_takes_over_by_itself_with_pair_takeover_auto() {
    with_cluster(Builder::new(2).arg("--pair-takeover", "auto"), LIMIT, async |cluster| {
        write(&mut cluster.node(0)?.client().await?, &["old"], "before").await?;
        cluster.node_mut(0)?.kill9()?;
        wait_serving(cluster, 1, 1).await?;
        let mut client = cluster.node(1)?.client().await?;
        expect(&mut client, "old", Some("before")).await?;
        write(&mut client, &["new"], "after").await?;
        cluster.node_mut(0)?.restart().await?;
        cluster.wait_converged(RETURN_MAX).await?;
        expect(&mut cluster.node(0)?.client().await?, "new", Some("after")).await?;
        cluster.assert_copies_equal(2).await.map(drop)
    });
}

#[test]
fn restarted_founder_of_two_serves_only_after_contact_or_with_serve_alone() {
    with_cluster(Builder::new(2), LIMIT, async |cluster| {
        let other = cluster.node(1)?.status().await?.node_id;
        cluster.node_mut(1)?.kill9()?;
        cluster.wait_member_state(&other, "down", SOON).await?;
        write(&mut cluster.node(0)?.client().await?, &["old"], "before").await?;
        cluster.node_mut(0)?.kill9()?;
        cluster.node_mut(0)?.spawn()?;
        tokio::time::sleep(Duration::from_secs(6)).await;
        ensure!(
            cluster.node(0)?.status().await.is_err(),
            "the founder serves although the other node may have taken over"
        );
        cluster.node_mut(0)?.kill9()?;
        cluster.node_mut(0)?.set_variable("CASKADE_SERVE_ALONE", Some("true"));
        cluster.node_mut(0)?.restart().await?;
        expect(&mut cluster.node(0)?.client().await?, "old", Some("before")).await?;
        cluster.node_mut(0)?.set_variable("CASKADE_SERVE_ALONE", None);
        cluster.node_mut(0)?.kill9()?;
        cluster.restart_all().await?;
        cluster.wait_converged(RETURN_MAX).await
    });
}

/// Number of keys of each kind.
const KEYS: usize = 40;

fn names(kind: &str) -> Vec<String> {
    (0..KEYS).map(|number| format!("{kind}:{number}")).collect()
}

async fn write(client: &mut Client, kinds: &[&str], value: &str) -> Result<()> {
    for key in kinds.iter().flat_map(|kind| names(kind)) {
        client.set(&key, value).await?;
    }
    Ok(())
}

async fn delete(client: &mut Client, kind: &str) -> Result<()> {
    for key in names(kind) {
        let removed: i64 = client.ask(redis::cmd("DEL").arg(&key)).await?;
        ensure!(removed == 1, "DEL {key} is {removed}");
    }
    Ok(())
}

async fn expect(client: &mut Client, kind: &str, value: Option<&str>) -> Result<()> {
    for key in names(kind) {
        expect_one(client, &key, value).await?;
    }
    Ok(())
}

async fn expect_one(client: &mut Client, key: &str, value: Option<&str>) -> Result<()> {
    let found = client.get(key).await?;
    ensure!(found.as_deref() == value, "{key} is {found:?}, not {value:?}");
    Ok(())
}

/// Returns the error of a write, once the node has reported that it has had no lease for long.
async fn refused_without_lease(cluster: &Cluster, index: usize) -> Result<String> {
    eventually("a write is rejected with the remedy", SOON, async || {
        let mut client = cluster.node(index)?.client().await?;
        let written: redis::RedisResult<String> = client.ask(redis::cmd("SET").arg("k").arg("v")).await;
        match written {
            Ok(answer) => bail!("the write was answered {answer}"),
            Err(error) if error.to_string().contains("has no lease") => Ok(error.to_string()),
            Err(error) => Err(error).context("the error does not mention the lease yet"),
        }
    })
    .await
}

/// Takes over with `caskctl` and waits until the node serves.
async fn take_over(cluster: &Cluster, index: usize) -> Result<()> {
    let said = ctl(cluster, index, &["--json", "cluster", "takeover", "--yes"]).await?.success()?;
    let answer: TakeoverAnswer = serde_json::from_str(&said).with_context(|| said.clone())?;
    ensure!(answer.done && answer.partitions_waiting == 0, "{answer:?}");
    wait_serving(cluster, index, answer.generation).await
}

async fn wait_serving(cluster: &Cluster, index: usize, generation: u32) -> Result<()> {
    eventually("the node that took over serves", SOON, async || {
        let status = cluster.node(index)?.status().await?;
        ensure!(status.state == "serving" && status.generation == generation, "{}", status.state);
        Ok(())
    })
    .await
}

async fn assert_merged(cluster: &Cluster, index: usize, parts: &[&str]) -> Result<()> {
    eventually("an event about the merge", SOON, async || {
        let events = cluster.node(index)?.client().await?.events().await?;
        let merged = events.iter().find(|event| event.message.contains("merged it by value"));
        let message = &merged.context("no event about the merge")?.message;
        for part in parts {
            ensure!(message.contains(part), "{part} is not in: {message}");
        }
        Ok(())
    })
    .await
}

async fn ctl(cluster: &Cluster, index: usize, args: &[&str]) -> Result<Finished> {
    let mut command = Command::new(binary("caskctl")?);
    command.args(["--addr", &cluster.node(index)?.addr()]).args(args);
    run(command).await
}
