//! A store that is damaged, emptied or another's decides nothing: the node says so and does not start.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use caskade_tests::{Builder, Cluster, binary, run_for, with_cluster};

const LIMIT: Duration = Duration::from_secs(90);
/// How long a node that is refused may take to say so.
const REFUSED_MAX: Duration = Duration::from_secs(20);
const NODE: usize = 2;

#[test]
fn store_with_one_damaged_byte_is_refused_with_file_place_and_way_out() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        write_and_stop(cluster).await?;
        let file = data_files(cluster)?.into_iter().next().context("a data file")?;
        let mut bytes = std::fs::read(&file)?;
        // In the first records; a store that was closed has synced all of its bytes.
        let at = bytes.get_mut(100).context("the data file holds records")?;
        *at ^= 0x10;
        std::fs::write(&file, &bytes)?;
        let said = refused(cluster).await?;
        let place = format!("{}, at byte ", file.display());
        for part in ["the store is damaged", &place, "empty --data-dir", "caskctl status"] {
            ensure!(said.contains(part), "'{part}' is not in: {said}");
        }
        // The same once more: starting did not paint it over.
        ensure!(refused(cluster).await?.contains("the store is damaged"));
        others_serve(cluster).await?;

        // The way out that was named.
        std::fs::rename(data_dir(cluster)?, data_dir(cluster)?.with_extension("away"))?;
        cluster.node_mut(NODE)?.restart().await?;
        cluster.node(NODE)?.client().await?.set("after", "all").await
    });
}

#[test]
fn emptied_store_is_refused_however_it_was_emptied() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        write_and_stop(cluster).await?;
        let store = data_dir(cluster)?.join("store");
        for file in data_files(cluster)? {
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
fn store_of_another_node_is_refused_by_members_and_founders() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let other = cluster.node(1)?.status().await?.node_id;
        write_and_stop(cluster).await?;
        let (mine, theirs) = (data_dir(cluster)?.join("store"), cluster.node(1)?.data_dir().join("store"));
        cluster.node_mut(1)?.stop().await?;
        std::fs::rename(&mine, mine.with_extension("away"))?;
        std::fs::rename(&theirs, &mine)?;
        let said = refused(cluster).await?;
        ensure!(said.contains(&format!("belongs to node {other} of cluster")), "{said}");

        // Neither does a node that founds a cluster take it over.
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

/// Puts records on every node and stops the one whose store is tampered with.
async fn write_and_stop(cluster: &mut Cluster) -> Result<()> {
    let keys: Vec<String> = (0..1000).map(|number| format!("key:{number}")).collect();
    let records: Vec<(&String, &str)> = keys.iter().map(|key| (key, "a value")).collect();
    cluster.node(0)?.client().await?.set_all(&records).await?;
    cluster.node_mut(NODE)?.stop().await
}

/// What the node says when it is started and refuses.
async fn refused(cluster: &Cluster) -> Result<String> {
    let mut command = Command::new(binary("caskd")?);
    command.args(cluster.node(NODE)?.command_line());
    run_for(command, REFUSED_MAX).await?.refusal()
}

async fn others_serve(cluster: &Cluster) -> Result<()> {
    let keys: Vec<String> = (0..1000).map(|number| format!("key:{number}")).collect();
    let found = cluster.node(0)?.client().await?.get_all(&keys).await?;
    ensure!(
        found.iter().all(|value| value.as_deref() == Some(b"a value".as_slice())),
        "the other copies are whole"
    );
    Ok(())
}

fn data_dir(cluster: &Cluster) -> Result<PathBuf> {
    Ok(cluster.node(NODE)?.data_dir())
}

fn data_files(cluster: &Cluster) -> Result<Vec<PathBuf>> {
    let is_data = |path: &Path| path.extension().is_some_and(|extension| extension == "data");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(data_dir(cluster)?.join("store"))? {
        files.extend(Some(entry?.path()).filter(|path| is_data(path)));
    }
    files.sort();
    Ok(files)
}
