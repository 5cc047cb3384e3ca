//! A damaged store is healed from other copies; without other copies the node answers an error for keys it
//! cannot know. A node does not start with an emptied store or with the store of another node.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use caskade_tests::{Builder, Cluster, binary, eventually, run_for, with_cluster};

const LIMIT: Duration = Duration::from_secs(90);
/// Time limit within which a node that must not start exits.
const REFUSED_MAX: Duration = Duration::from_secs(20);
/// Time limit of healing.
const HEALED_MAX: Duration = Duration::from_secs(40);
const NODE: usize = 2;

#[test]
fn damaged_store_is_healed_by_the_other_copies_and_whole_at_the_next_start() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        write_and_stop(cluster).await?;
        let damaged = damage(cluster, NODE)?;
        cluster.node_mut(NODE)?.restart().await?;
        cluster.wait_event(NODE, "is damaged", HEALED_MAX).await?;
        cluster.wait_converged(HEALED_MAX).await?;
        cluster.assert_copies_equal(2).await?;
        holds_all(cluster, NODE).await?;
        cluster.wait_event(NODE, "all its partitions were restored from other copies", HEALED_MAX).await?;
        // Healing replaces the damaged file.
        eventually("the damaged file is removed", HEALED_MAX, async || {
            ensure!(!damaged.exists(), "the file still exists");
            Ok(())
        })
        .await?;
        cluster.node_mut(NODE)?.restart().await?;
        cluster.wait_converged(HEALED_MAX).await?;
        let events = cluster.node(NODE)?.client().await?.events().await?;
        ensure!(!events.iter().any(|event| event.message.contains("is damaged")), "{events:#?}");
        // Stop another node: this node's copies alone must be complete.
        cluster.node_mut(0)?.stop().await?;
        holds_all(cluster, NODE).await
    });
}

#[test]
fn last_copy_on_a_damaged_store_answers_an_error_and_never_an_old_or_no_value() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        let mut client = cluster.node(0)?.client().await?;
        client.set("key:1", "old").await?;
        client.set("key:1", "new").await?;
        client.set("key:2", "a value").await?;
        cluster.node_mut(0)?.stop().await?;
        damage(cluster, 0)?;
        cluster.node_mut(0)?.restart().await?;
        cluster.wait_event(0, "is damaged", HEALED_MAX).await?;
        let mut client = cluster.node(0)?.client().await?;
        for key in ["key:1", "key:2", "never written"] {
            let error = client.get(key).await.err().context("a value that cannot be known was returned")?;
            ensure!(format!("{error:#}").contains("DAMAGED"), "{error:#}");
        }
        // A write that does not depend on the old value succeeds; afterwards the key is readable.
        client.set("key:2", "another").await?;
        ensure!(client.get("key:2").await?.as_deref() == Some("another"));
        Ok(())
    });
}

#[test]
fn emptied_store_is_rejected_however_it_was_emptied() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        write_and_stop(cluster).await?;
        let store = data_dir(cluster)?.join("store");
        for file in data_files(cluster, NODE)? {
            std::fs::remove_file(file)?;
        }
        let said = refused(cluster).await?;
        ensure!(said.contains("has no data files") && said.contains("empty --data-dir"), "{said}");

        for entry in std::fs::read_dir(&store)? {
            std::fs::remove_file(entry?.path())?;
        }
        let said = refused(cluster).await?;
        ensure!(said.contains("is gone") && said.contains("empty --data-dir"), "{said}");

        std::fs::remove_dir_all(&store)?;
        let said = refused(cluster).await?;
        ensure!(said.contains("is gone") && said.contains(&store.display().to_string()), "{said}");
        others_serve(cluster).await
    });
}

#[test]
fn store_of_another_node_is_rejected_by_members_and_founders() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let other = cluster.node(1)?.status().await?.node_id;
        write_and_stop(cluster).await?;
        let (mine, theirs) = (data_dir(cluster)?.join("store"), cluster.node(1)?.data_dir().join("store"));
        cluster.node_mut(1)?.stop().await?;
        std::fs::rename(&mine, mine.with_extension("away"))?;
        std::fs::rename(&theirs, &mine)?;
        let said = refused(cluster).await?;
        ensure!(said.contains(&format!("belongs to node {other} of cluster")), "{said}");

        // A node that founds a cluster rejects it too.
        let folder = tempfile::tempdir()?;
        std::fs::rename(&mine, folder.path().join("store"))?;
        let mut founder = Command::new(binary("caskd")?);
        founder.arg("--data-dir").arg(folder.path());
        for flag in ["--listen", "--peer-listen"] {
            founder.args([flag, &format!("127.0.0.1:{}", caskade_tests::free_port()?)]);
        }
        let said = run_for(founder, REFUSED_MAX).await?.refusal()?;
        ensure!(said.contains(&format!("belongs to node {other} of cluster")), "{said}");
        ensure!(said.contains("start with an empty one"), "{said}");
        Ok(())
    });
}

/// Writes records to every node and stops the node whose store the test changes.
async fn write_and_stop(cluster: &mut Cluster) -> Result<()> {
    let keys: Vec<String> = (0..1000).map(|number| format!("key:{number}")).collect();
    let records: Vec<(&String, &str)> = keys.iter().map(|key| (key, "a value")).collect();
    cluster.node(0)?.client().await?.set_all(&records).await?;
    cluster.node_mut(NODE)?.stop().await
}

/// Flips a bit in the first records of a stopped node, whose store has synced all bytes.
fn damage(cluster: &Cluster, node: usize) -> Result<PathBuf> {
    let file = data_files(cluster, node)?.into_iter().next().context("a data file")?;
    let mut bytes = std::fs::read(&file)?;
    *bytes.get_mut(100).context("the data file holds records")? ^= 0x10;
    std::fs::write(&file, &bytes)?;
    Ok(file)
}

/// Starts the node, which must exit with an error, and returns its output.
async fn refused(cluster: &Cluster) -> Result<String> {
    let mut command = Command::new(binary("caskd")?);
    command.args(cluster.node(NODE)?.command_line());
    run_for(command, REFUSED_MAX).await?.refusal()
}

async fn others_serve(cluster: &Cluster) -> Result<()> {
    holds_all(cluster, 0).await
}

async fn holds_all(cluster: &Cluster, node: usize) -> Result<()> {
    let keys: Vec<String> = (0..1000).map(|number| format!("key:{number}")).collect();
    let found = cluster.node(node)?.client().await?.get_all(&keys).await?;
    ensure!(
        found.iter().all(|value| value.as_deref() == Some(b"a value".as_slice())),
        "a record is missing or wrong"
    );
    Ok(())
}

fn data_dir(cluster: &Cluster) -> Result<PathBuf> {
    Ok(cluster.node(NODE)?.data_dir())
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
