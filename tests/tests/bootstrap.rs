//! Nodes find each other through a bootstrap peer and agree. A node that must not start exits with the reason
//! and the remedy.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use caskade_tests::{
    Builder, Cluster, Finished, Permit, Program, binary, free_port, run_for, with_cluster, with_limit,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Time limit within which a rejected node must exit.
const REFUSED_MAX: Duration = Duration::from_secs(20);

#[test]
fn three_nodes_agree_on_one_coordinator_epoch_and_ring() {
    // `with_cluster` waits until the nodes agree on epoch, ring hash and coordinator.
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        for node in cluster.nodes() {
            let nodes = node.client().await?.nodes().await?.nodes;
            ensure!(
                nodes.len() == 3 && nodes.iter().filter(|row| row.coordinator).count() == 1,
                "{nodes:#?}"
            );
            let asked: Vec<_> = nodes.iter().filter(|row| row.asked).collect();
            ensure!(asked.len() == 1 && asked[0].client_addr == node.addr(), "{nodes:#?}");
        }
        let status = cluster.node(0)?.status().await?;
        ensure!(status.copies_now == 2 && status.replication_factor == 2, "{status:#?}");
        ensure!(status.voters.len() == 3, "three nodes are three voters: {:?}", status.voters);
        Ok(())
    });
}

#[test]
fn each_node_holds_its_share_and_no_partition_twice() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let ring = cluster.ring(1).await?;
        ensure!(ring.partitions.len() == 1024, "{} partitions", ring.partitions.len());
        for partition in &ring.partitions {
            let holders: BTreeSet<_> = partition.replicas.iter().map(|(node, _)| node).collect();
            ensure!(holders.len() == 2 && partition.replicas.len() == 2, "{partition:?}");
        }
        for share in &ring.shares {
            // 2048 copies and 1024 primaries over three nodes.
            ensure!((682..=683).contains(&share.copies), "{share:?}");
            ensure!((340..=343).contains(&share.primaries), "{share:?}");
        }
        Ok(())
    });
}

#[test]
fn copies_are_in_different_zones_if_there_are_two() {
    with_cluster(Builder::new(4).zones(&["east", "west"]), LIMIT, async |cluster| {
        let ring = cluster.ring(0).await?;
        for partition in &ring.partitions {
            let zone = |&(node, _): &(usize, String)| ring.shares.get(node).map(|share| share.zone.clone());
            let zones: BTreeSet<_> = partition.replicas.iter().map(zone).collect();
            ensure!(zones.len() == 2, "{partition:?} is in {zones:?}");
        }
        Ok(())
    });
}

#[test]
fn write_through_one_node_is_read_through_every_node() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        for (index, node) in cluster.nodes().iter().enumerate() {
            node.client().await?.set(&format!("key:{index}"), &format!("value {index}")).await?;
        }
        for node in cluster.nodes() {
            let mut client = node.client().await?;
            for index in 0..3 {
                let value = client.get(&format!("key:{index}")).await?;
                ensure!(value == Some(format!("value {index}")), "{} answers {value:?}", node.addr());
            }
        }
        Ok(())
    });
}

#[test]
fn node_of_a_cluster_of_one_serves_and_warns_that_it_is_alone() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        let mut client = cluster.node(0)?.client().await?;
        client.set("k", "v").await?;
        ensure!(client.get("k").await?.as_deref() == Some("v"));
        let status = client.status().await?;
        ensure!(status.copies_now == 1 && !status.warnings.is_empty(), "{status:#?}");
        Ok(())
    });
}

#[test]
fn bootstrap_peers_are_tried_until_one_answers_and_a_node_may_be_its_own() {
    with_limit(LIMIT, async || {
        let _permit = Permit::acquire().await?;
        let folder = tempfile::tempdir()?;
        let secret = private_secret(folder.path())?;
        let start = |name: &str, args: &[&str]| {
            Program::start(caskd(&folder.path().join(name), &secret, args)?, &folder.path().join(name))
        };
        let (nobody, port) = (format!("127.0.0.1:{}", free_port()?), free_port()?);
        let (founder, multiaddr) = (format!("127.0.0.1:{port}"), format!("/ip4/127.0.0.1/tcp/{port}"));
        // No bootstrap peer answers yet: the node waits and does not found a cluster of its own.
        let mut second = start("second", &["--bootstrap", &nobody, "--bootstrap", &multiaddr])?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        ensure!(second.stdout().is_empty(), "{}", second.output());
        let mut first = start("first", &["--peer-listen", &founder, "--bootstrap", &founder])?;
        let cluster_of = |line: String| line.split_once("cluster=").map(|(_, id)| id.to_owned());
        let ready = |line: &str| line.starts_with("ready");
        let founded = cluster_of(first.wait_for_line(REFUSED_MAX, ready).await?);
        let joined = cluster_of(second.wait_for_line(REFUSED_MAX, ready).await?);
        ensure!(founded.is_some() && founded == joined, "{founded:?} {joined:?}");
        Ok(())
    });
}

#[test]
fn wrong_secret_is_refused() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        let folder = tempfile::tempdir()?;
        let secret = folder.path().join("other-secret");
        write_private(&secret, "another secret, long enough to be one")?;
        let data = folder.path().join("data");
        let said = refused(&data, &secret, &["--bootstrap", &cluster.node(0)?.peer_addr()]).await?;
        ensure!(said.contains("secret") && said.contains("--cluster-secret-file"), "{said}");
        ensure!(cluster.node(0)?.status().await?.members.len() == 1, "the rejected node became a member");
        Ok(())
    });
}

#[test]
fn directory_of_another_cluster_is_refused() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        let mut other = Cluster::start(1).await?;
        other.node_mut(0)?.stop().await?;
        let data = other.node(0)?.data_dir();
        let bootstrap = cluster.node(0)?.peer_addr();
        let said = refused(&data, cluster.secret_file(), &["--bootstrap", &bootstrap]).await?;
        ensure!(said.contains("belongs to cluster") && said.contains("--data-dir"), "{said}");
        // The rejection changed nothing: the directory still works in its own cluster.
        other.node_mut(0)?.restart().await
    });
}

#[test]
fn port_in_use_is_refused() {
    with_limit(LIMIT, async || {
        let folder = tempfile::tempdir()?;
        let secret = private_secret(folder.path())?;
        for flag in ["--listen", "--peer-listen"] {
            let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
            let address = taken.local_addr()?.to_string();
            let said = refused(&folder.path().join("data"), &secret, &[flag, &address]).await?;
            ensure!(said.contains(&address) && said.contains(flag), "{flag}: {said}");
        }
        Ok(())
    });
}

#[test]
fn directory_that_cannot_be_written_is_refused() {
    with_limit(LIMIT, async || {
        let folder = tempfile::tempdir()?;
        let secret = private_secret(folder.path())?;
        // Permissions do not stop root, who may run this test: even root cannot create a directory below a
        // file.
        let below_a_file = secret.join("data");
        for data in [below_a_file.as_path(), Path::new("/proc/caskade")] {
            let said = refused(data, &secret, &[]).await?;
            ensure!(said.contains(&data.display().to_string()) && said.contains("--data-dir"), "{said}");
        }
        Ok(())
    });
}

#[test]
fn secret_that_is_missing_or_open_to_others_is_refused() {
    with_limit(LIMIT, async || {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        let missing = folder.path().join("missing");
        let said = refused(&data, &missing, &[]).await?;
        ensure!(said.contains(&missing.display().to_string()), "{said}");

        let open = private_secret(folder.path())?;
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644))?;
        let said = refused(&data, &open, &[]).await?;
        ensure!(said.contains(&open.display().to_string()) && said.contains("chmod 600"), "{said}");
        Ok(())
    });
}

#[test]
fn data_directory_serves_one_process() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        let said = refused(&cluster.node(0)?.data_dir(), cluster.secret_file(), &[]).await?;
        ensure!(said.contains(&cluster.node(0)?.data_dir().display().to_string()), "{said}");
        cluster.node(0)?.client().await?.set("still", "served").await
    });
}

#[test]
fn copy_of_a_data_directory_is_refused_while_the_node_lives_elsewhere() {
    with_cluster(Builder::new(2), LIMIT, async |cluster| {
        let folder = tempfile::tempdir()?;
        let (same_start, older, newer) =
            (folder.path().join("same"), folder.path().join("older"), folder.path().join("newer"));
        let secret = cluster.secret_file().to_owned();
        let peer = cluster.node(0)?.peer_addr();
        let original = cluster.node_mut(1)?;
        original.stop().await?;
        for copy in [&same_start, &older, &newer] {
            copy_folder(&original.data_dir(), copy)?;
        }
        original.restart().await?;
        let said = refused(&same_start, &secret, &["--bootstrap", &peer]).await?;
        ensure!(
            said.contains("registered by another process, at ") && said.contains("empty --data-dir"),
            "{said}"
        );
        original.restart().await?;
        let said = refused(&older, &secret, &["--bootstrap", &peer]).await?;
        ensure!(said.contains("start 2 of node") && said.contains("start 3 is registered, at "), "{said}");
        ensure!(said.contains(&original.addr()) && said.contains("empty --data-dir"), "{said}");

        // A copy with a higher incarnation than the running process takes its place; the process then ends.
        std::fs::write(newer.join("incarnation"), "7\n")?;
        let command = caskd(&newer, &secret, &["--bootstrap", &peer])?;
        let mut copy = Program::start(command, &folder.path().join("copy"))?;
        copy.wait_for_line(REFUSED_MAX, |line| line.starts_with("ready")).await?;
        let ended = original.wait_end(REFUSED_MAX).await?.refusal()?;
        ensure!(ended.contains("start 8 is registered, at "), "{ended}");
        Ok(())
    });
}

#[test]
fn open_port_without_a_secret_is_refused() {
    with_limit(LIMIT, async || {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(binary("caskd")?);
        command.arg("--data-dir").arg(folder.path().join("data"));
        command.args(["--listen", &format!("0.0.0.0:{}", free_port()?)]);
        command.args(["--peer-listen", &format!("127.0.0.1:{}", free_port()?)]);
        let said = run_for(command, REFUSED_MAX).await?.refusal()?;
        ensure!(said.contains("--cluster-secret-file") && said.contains("--insecure"), "{said}");
        Ok(())
    });
}

/// Starts `caskd`, which must exit with an error, and returns its output.
async fn refused(data: &Path, secret: &Path, args: &[&str]) -> Result<String> {
    let finished: Finished = run_for(caskd(data, secret, args)?, REFUSED_MAX).await?;
    finished.refusal().with_context(|| format!("caskd {args:?} on {}", data.display()))
}

/// Returns a command for `caskd`, with free ports unless `args` name them.
fn caskd(data: &Path, secret: &Path, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary("caskd")?);
    command.arg("--data-dir").arg(data).arg("--cluster-secret-file").arg(secret);
    for flag in ["--listen", "--peer-listen", "--http-listen", "--memcached-listen"] {
        if !args.contains(&flag) {
            command.args([flag, &format!("127.0.0.1:{}", free_port()?)]);
        }
    }
    command.args(args);
    Ok(command)
}

/// Copies a data directory.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            // Also copies the permissions.
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn private_secret(folder: &Path) -> Result<std::path::PathBuf> {
    let path = folder.join("secret");
    write_private(&path, "a secret, long enough to be one")?;
    Ok(path)
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(())
}
