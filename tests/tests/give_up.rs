//! A lost or damaged last copy has a way out: an operator gives up what only it holds, in words, and
//! everything else stays.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use caskade_api::GiveUpAnswer;
use caskade_tests::{Builder, Client, Cluster, Finished, binary, eventually, run, with_cluster};

const LIMIT: Duration = Duration::from_secs(180);
const SOON: Duration = Duration::from_secs(20);
const WHOLE_MAX: Duration = Duration::from_secs(60);
const KEYS: usize = 1000;

#[test]
fn damaged_last_copy_is_given_up_by_partition_and_as_a_whole() {
    with_cluster(Builder::new(2), LIMIT, async |cluster| {
        // The records of node 1 are no help: it is down when the loss is accepted.
        damage_the_last_copy(cluster).await?;
        let mut client = cluster.node(0)?.client().await?;
        for key in ["old:1", "new:1", "never written"] {
            is_damaged(&mut client, key).await?;
        }
        warns_of(cluster, 0, "last complete copy of 1024 partitions").await?;

        // What is written anew is known, also after a restart: the damage is the same.
        client.set("new:5", "overwritten").await?;
        eventually("what is known is on disk", SOON, async || {
            ensure!(cluster.node(0)?.data_dir().join("store/damage.kept").exists(), "it is not");
            Ok(())
        })
        .await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.node_mut(0)?.restart().await?;
        let mut client = cluster.node(0)?.client().await?;
        ensure!(client.get("new:5").await?.as_deref() == Some("overwritten"));
        is_damaged(&mut client, "new:6").await?;

        // One partition, after it was looked at, and only in the right words.
        let partition = partition_of(&mut client, "new:1").await?;
        let shown =
            caskctl(cluster, 0, &["partition", "give-up", &partition.to_string()]).await?.success()?;
        let words = format!("lose partition {partition}");
        for part in ["store damaged", "nothing was changed", &words, "data file", "down"] {
            ensure!(shown.contains(part), "{part} is not in {shown}");
        }
        is_damaged(&mut client, "new:1").await?;
        let wrong = give_up(cluster, 0, &partition.to_string(), Some("lose partition")).await?.refusal()?;
        ensure!(wrong.contains("nothing was changed") && wrong.contains(&words), "{wrong}");
        is_damaged(&mut client, "new:1").await?;
        give_up(cluster, 0, &partition.to_string(), Some(&words)).await?.success()?;
        answers(cluster, 0, "new:1").await?;
        let whole = give_up(cluster, 0, &partition.to_string(), None).await?.refusal()?;
        ensure!(whole.contains("is whole"), "{whole}");
        is_damaged(&mut client, "new:6").await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.node_mut(0)?.restart().await?;
        answers(cluster, 0, "new:1").await?;
        let mut client = cluster.node(0)?.client().await?;
        is_damaged(&mut client, "new:6").await?;

        // All of it.
        let answer = lost(cluster, 0, "all").await?;
        ensure!(
            answer.partitions.len() == 1023 && answer.confirmation == "lose 1023 partitions",
            "{answer:#?}"
        );
        ensure!(!answer.places.is_empty(), "it names the damaged places: {answer:#?}");
        give_up(cluster, 0, "all", Some("Lose 1023  partitions")).await?.success()?;
        answers(cluster, 0, "new:6").await?;
        let gone = absent(cluster, 0, &["old", "new"]).await?;
        ensure!(gone == ["old:3", "new:3"], "{gone:?}");
        let mut client = cluster.node(0)?.client().await?;
        client.set("new:3", "again").await?;
        cluster.wait_event(0, "is given up", SOON).await?;
        no_damage(cluster, 0).await?;
        let nothing = give_up(cluster, 0, "all", None).await?.refusal()?;
        ensure!(nothing.contains("nothing to give up"), "{nothing}");

        equal_and_whole_after_restarts(cluster).await
    });
}

/// Makes sure that node 1 becomes equal to node 0, that what was given up does not return, and that the
/// damage is gone.
async fn equal_and_whole_after_restarts(cluster: &mut Cluster) -> Result<()> {
    cluster.node_mut(1)?.restart().await?;
    cluster.wait_converged(WHOLE_MAX).await?;
    cluster.assert_copies_equal(2).await?;
    for node in [0, 1] {
        ensure!(absent(cluster, node, &["old", "new"]).await? == ["old:3"], "node {node}");
    }
    cluster.node_mut(0)?.restart().await?;
    cluster.wait_converged(WHOLE_MAX).await?;
    let events = cluster.node(0)?.client().await?.events().await?;
    ensure!(!events.iter().any(|event| event.message.contains("is damaged")), "{events:#?}");
    no_damage(cluster, 0).await
}

#[test]
fn what_a_live_copy_has_of_a_damaged_one_is_merged_and_not_lost() {
    with_cluster(Builder::new(2), LIMIT, async |cluster| {
        damage_the_last_copy(cluster).await?;
        cluster.node_mut(1)?.restart().await?;
        let mut client = cluster.node(0)?.client().await?;
        eventually("node 1 takes part", SOON, async || {
            let members = cluster.node(0)?.status().await?.members;
            ensure!(members.iter().all(|member| member.state == "up"), "{members:#?}");
            Ok(())
        })
        .await?;
        is_damaged(&mut client, "old:1").await?;
        let answer = lost(cluster, 1, "all").await?;
        ensure!(answer.partitions.iter().all(|lost| lost.merged.len() == 1), "{answer:#?}");
        give_up(cluster, 1, "all", Some(&answer.confirmation)).await?.success()?;
        cluster.wait_converged(WHOLE_MAX).await?;
        let gone = absent(cluster, 0, &["old", "new"]).await?;
        ensure!(gone == ["new:3"], "node 1 had the others: {gone:?}");
        cluster.assert_copies_equal(2).await?;
        no_damage(cluster, 1).await
    });
}

#[test]
fn damage_of_single_records_ends_when_they_are_overwritten_given_up_or_healed() {
    with_cluster(Builder::new(2), LIMIT, async |cluster| {
        set(cluster, 0, "key", KEYS).await?;
        cluster.node_mut(1)?.stop().await?;
        for key in ["key:7", "key:8", "key:9"] {
            flip(cluster, 0, &value_of(key))?;
        }
        let mut client = cluster.node(0)?.client().await?;
        for key in ["key:7", "key:8", "key:9"] {
            is_damaged(&mut client, key).await?;
        }
        ensure!(client.get("key:10").await? == Some(value_of("key:10")));
        damaged_records(cluster, 0, 3).await?;
        warns_of(cluster, 0, "3 records on node").await?;

        client.set("key:7", "overwritten").await?;
        damaged_records(cluster, 0, 2).await?;

        let answer = lost(cluster, 0, "all").await?;
        let named: Vec<&String> = answer.partitions.iter().flat_map(|lost| &lost.damaged_keys).collect();
        ensure!(
            named.len() == 2 && named.iter().all(|key| *key == "key:8" || *key == "key:9"),
            "{answer:#?}"
        );
        let partition = partition_of(&mut client, "key:8").await?.to_string();
        let one = lost(cluster, 0, &partition).await?;
        ensure!(one.confirmation == "lose 1 record" && one.partitions.len() == 1, "{one:#?}");
        give_up(cluster, 0, &partition, Some(&one.confirmation)).await?.success()?;
        ensure!(client.get("key:8").await?.is_none(), "it is absent");
        client.set("key:8", "again").await?;
        damaged_records(cluster, 0, 1).await?;
        cluster.wait_event(0, "gave up 1 damaged records", SOON).await?;

        // The copy that has it returns: it is healed although nobody asks for it.
        cluster.node_mut(1)?.restart().await?;
        damaged_records(cluster, 0, 0).await?;
        ensure!(client.get("key:9").await? == Some(value_of("key:9")));
        no_damage(cluster, 0).await?;
        cluster.wait_converged(WHOLE_MAX).await?;
        cluster.assert_copies_equal(2).await?;
        Ok(())
    });
}

#[test]
fn partitions_of_a_node_that_is_lost_for_good_are_given_up_and_its_copy_never_returns() {
    // Of five nodes three remain, which are a majority of the voters.
    with_cluster(Builder::new(5), LIMIT, async |cluster| {
        set(cluster, 0, "old", 3 * KEYS).await?;
        let coordinator = cluster.coordinator().await?;
        let (asked, first, last) = ((coordinator + 1) % 5, (coordinator + 2) % 5, (coordinator + 3) % 5);
        let ids = cluster.ids().await?;
        cluster.node_mut(first)?.stop().await?;
        cluster.wait_member_state(&ids[first], "down", SOON).await?;
        // These are on the stand-ins, too.
        set(cluster, asked, "mid", KEYS).await?;
        cluster.node_mut(last)?.kill9()?;
        cluster.wait_member_state(&ids[last], "down", SOON).await?;
        let unavailable = cluster.node(asked)?.status().await?.partitions_unavailable as usize;
        ensure!(unavailable > 20, "both had copies of {unavailable} partitions only");
        warns_of(cluster, asked, "caskctl partition give-up").await?;

        let answer = lost(cluster, asked, "all").await?;
        ensure!(answer.partitions.len() == unavailable, "{answer:#?}");
        ensure!(answer.confirmation == format!("lose {unavailable} partitions"), "{answer:#?}");
        for lost in &answer.partitions {
            ensure!(lost.cause == "down" && lost.holder == ids[last], "{lost:#?}");
            ensure!(lost.discarded.contains(&ids[last]) && lost.heard_ms_ago.is_some(), "{lost:#?}");
        }
        let partitions: Vec<u16> = answer.partitions.iter().map(|lost| lost.partition).collect();
        let whole =
            (0..1024).find(|partition| !partitions.contains(partition)).context("a whole partition")?;
        let refused = give_up(cluster, asked, &whole.to_string(), Some("lose partition")).await?.refusal()?;
        ensure!(refused.contains("is whole") && refused.contains("is up"), "{refused}");

        give_up(cluster, asked, "all", Some(&answer.confirmation)).await?.success()?;
        ensure!(cluster.node(asked)?.status().await?.partitions_unavailable == 0);
        cluster.wait_event(asked, "given up", SOON).await?;
        let gone = absent(cluster, asked, &["old"]).await?;
        let mut client = cluster.node(asked)?.client().await?;
        let mut expected = Vec::new();
        for key in (0..KEYS).map(|number| format!("old:{number}")) {
            let is_lost = partitions.contains(&partition_of(&mut client, &key).await?);
            expected.extend(is_lost.then_some(key));
        }
        ensure!(!gone.is_empty() && gone == expected, "{gone:?} are absent, not {expected:?}");
        ensure!(absent(cluster, asked, &["mid"]).await?.is_empty(), "the stand-ins had these");
        let (rewritten, left) = gone.split_at(gone.len() / 2);
        for key in rewritten {
            client.set(key, "rewritten").await?;
        }

        // Both return, with all they had.
        cluster.restart_all().await?;
        cluster.wait_converged(WHOLE_MAX).await?;
        cluster.assert_copies_equal(2).await?;
        for node in [first, last, asked] {
            let mut client = cluster.node(node)?.client().await?;
            for key in rewritten {
                ensure!(client.get(key).await?.as_deref() == Some("rewritten"), "{key}");
            }
            ensure!(absent(cluster, node, &["old"]).await? == left, "what was given up is back");
            ensure!(absent(cluster, node, &["mid"]).await?.is_empty());
        }
        Ok(())
    });
}

#[test]
fn partitions_that_a_takeover_leaves_waiting_are_given_up_after_it() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        set(cluster, 0, "old", KEYS).await?;
        let ids = cluster.ids().await?;
        for victim in [1, 2] {
            cluster.node_mut(victim)?.kill9()?;
        }
        // Two of three voters are gone.
        let done = eventually("node 0 has lost its lease", SOON, async || {
            caskctl(cluster, 0, &["cluster", "takeover", "--yes"]).await?.success()
        })
        .await?;
        ensure!(done.contains("done"), "{done}");
        let answer = eventually("node 0 serves alone", SOON, async || lost(cluster, 0, "all").await).await?;
        ensure!(answer.partitions.iter().all(|lost| lost.holder != ids[0]), "{answer:#?}");
        give_up(cluster, 0, "all", Some(&answer.confirmation)).await?.success()?;
        ensure!(cluster.node(0)?.status().await?.partitions_unavailable == 0);
        let gone = absent(cluster, 0, &["old"]).await?;
        ensure!(!gone.is_empty() && gone.len() < KEYS, "{} are absent", gone.len());
        cluster.restart_all().await?;
        cluster.wait_converged(WHOLE_MAX).await?;
        cluster.assert_copies_equal(2).await?;
        ensure!(absent(cluster, 1, &["old"]).await? == gone, "what was given up is back");
        Ok(())
    });
}

fn value_of(key: &str) -> String {
    format!("the value of {key}.")
}

async fn set(cluster: &Cluster, node: usize, prefix: &str, count: usize) -> Result<()> {
    let keys = (0..count).map(|number| format!("{prefix}:{number}"));
    let records: Vec<(String, String)> = keys.map(|key| (key.clone(), value_of(&key))).collect();
    cluster.node(node)?.client().await?.set_all(&records).await
}

/// The first thousand keys of these prefixes that are absent; all others have the values they were given.
async fn absent(cluster: &Cluster, node: usize, prefixes: &[&str]) -> Result<Vec<String>> {
    let mut client = cluster.node(node)?.client().await?;
    let mut absent = Vec::new();
    for prefix in prefixes {
        let keys: Vec<String> = (0..KEYS).map(|number| format!("{prefix}:{number}")).collect();
        for (key, value) in keys.iter().zip(client.get_all(&keys).await?) {
            match value.map(String::from_utf8).transpose()? {
                None => absent.push(key.clone()),
                Some(value) if ["again", "rewritten", "overwritten"].contains(&value.as_str()) => {}
                Some(value) => ensure!(value == value_of(key), "{key} is {value}"),
            }
        }
    }
    Ok(absent)
}

async fn partition_of(client: &mut Client, key: &str) -> Result<u16> {
    let slot: u16 = client.ask(redis::cmd("CLUSTER").arg("KEYSLOT").arg(key)).await?;
    Ok(slot / 16)
}

async fn is_damaged(client: &mut Client, key: &str) -> Result<()> {
    let error = client.get(key).await.err().with_context(|| format!("{key} cannot be known"))?;
    ensure!(format!("{error:#}").contains("DAMAGED"), "{error:#}");
    Ok(())
}

async fn answers(cluster: &Cluster, node: usize, key: &str) -> Result<()> {
    eventually("the key is answered", SOON, async || {
        cluster.node(node)?.client().await?.get(key).await.map(drop)
    })
    .await
}

async fn caskctl(cluster: &Cluster, node: usize, args: &[&str]) -> Result<Finished> {
    let mut command = Command::new(binary("caskctl")?);
    command.args(["--addr", &cluster.node(node)?.addr()]).args(args);
    run(command).await
}

async fn give_up(cluster: &Cluster, node: usize, what: &str, words: Option<&str>) -> Result<Finished> {
    let mut args = vec!["partition", "give-up", what];
    args.extend(words.iter().flat_map(|words| ["--confirm", words]));
    caskctl(cluster, node, &args).await
}

/// Writes half of the keys to two nodes and the other half to node 0 alone; damages one record of each half
/// there, and restarts node 0 alone.
async fn damage_the_last_copy(cluster: &mut Cluster) -> Result<()> {
    set(cluster, 0, "old", KEYS).await?;
    cluster.node_mut(1)?.stop().await?;
    set(cluster, 0, "new", KEYS).await?;
    cluster.node_mut(0)?.stop().await?;
    flip(cluster, 0, &value_of("old:3"))?;
    flip(cluster, 0, &value_of("new:3"))?;
    restart_alone(cluster).await?;
    Ok(())
}

/// Returns the losses that the command lists.
async fn lost(cluster: &Cluster, node: usize, what: &str) -> Result<GiveUpAnswer> {
    let json = caskctl(cluster, node, &["--json", "partition", "give-up", what]).await?.success()?;
    let answer: GiveUpAnswer = serde_json::from_str(&json)?;
    ensure!(!answer.done, "it was only asked");
    Ok(answer)
}

async fn warns_of(cluster: &Cluster, node: usize, what: &str) -> Result<()> {
    eventually("the status warns of it", SOON, async || {
        let warnings = cluster.node(node)?.status().await?.warnings;
        ensure!(warnings.iter().any(|warning| warning.contains(what)), "no '{what}' in {warnings:#?}");
        Ok(())
    })
    .await
}

/// Waits until a node reports so many damaged records.
async fn damaged_records(cluster: &Cluster, node: usize, count: u64) -> Result<()> {
    eventually("the report of damaged records", SOON, async || {
        let nodes = cluster.node(node)?.client().await?.nodes().await?.nodes;
        let row = nodes.iter().find(|row| row.asked).context("its own row")?;
        ensure!(row.damaged_records == count, "{} damaged records, not {count}", row.damaged_records);
        Ok(())
    })
    .await
}

/// Waits until nothing is reported as damaged any more.
async fn no_damage(cluster: &Cluster, node: usize) -> Result<()> {
    eventually("no damage is reported", SOON, async || {
        let nodes = cluster.node(node)?.client().await?.nodes().await?.nodes;
        let damaged = nodes.iter().any(|row| row.damaged_partitions > 0 || row.damaged_records > 0);
        let warnings = cluster.node(node)?.status().await?.warnings;
        ensure!(!damaged && !warnings.iter().any(|warning| warning.contains("damaged")), "{warnings:#?}");
        Ok(())
    })
    .await
}

fn data_files(cluster: &Cluster, node: usize) -> Result<Vec<PathBuf>> {
    let is_data = |path: &Path| path.extension().is_some_and(|extension| extension == "data");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(cluster.node(node)?.data_dir().join("store"))? {
        files.extend(Some(entry?.path()).filter(|path| is_data(path)));
    }
    files.sort();
    Ok(files)
}

/// Starts node 0 of two although the other one is down.
async fn restart_alone(cluster: &mut Cluster) -> Result<()> {
    let node = cluster.node_mut(0)?;
    node.set_variable("CASKADE_SERVE_ALONE", Some("true"));
    node.restart().await
}

/// Flips a bit of a value in the data files of a node, which may run.
fn flip(cluster: &Cluster, node: usize, value: &str) -> Result<()> {
    for file in data_files(cluster, node)? {
        let bytes = std::fs::read(&file)?;
        if let Some(at) = bytes.windows(value.len()).position(|window| window == value.as_bytes()) {
            let flipped = bytes.get(at).context("it is there")? ^ 0x10;
            // In place: a node that has the file open or mapped sees it.
            return Ok(std::fs::File::options()
                .write(true)
                .open(file)?
                .write_all_at(&[flipped], at as u64)?);
        }
    }
    anyhow::bail!("'{value}' is in no data file")
}
