//! A failing log never affects its node: a full disk, a closed pipe, a pipe that is never read. Also tests
//! SIGHUP.

use std::fs::OpenOptions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use caskade_tests::{Builder, Cluster, Node, Stderr, binary, with_cluster, with_limit};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(120);
/// Time limit of a failover: a lease, an election, and the promotion of copies.
const FAILOVER_MAX: Duration = Duration::from_secs(15);
const SOON: Duration = Duration::from_secs(10);

#[test]
fn node_starts_serves_and_stops_with_a_failing_log() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        for stderr in [Stderr::Full, Stderr::Closed, Stderr::Unread] {
            let node = cluster.node_mut(0)?;
            node.stop().await?;
            node.set_stderr(stderr);
            if stderr == Stderr::Unread {
                // Makes more lines than the pipe and the queue hold.
                node.set_variable("CASKADE_LOG_LEVEL", Some("trace"));
            }
            node.restart().await.with_context(|| format!("{stderr:?}"))?;
            serves_and_counts(node).await.with_context(|| format!("{stderr:?}"))?;
        }
        // `stop` fails unless the exit code is 0.
        cluster.node_mut(0)?.stop().await
    });
}

/// Sends requests until the node has dropped a line of its log.
async fn serves_and_counts(node: &Node) -> Result<()> {
    let mut client = node.client().await?;
    let began = std::time::Instant::now();
    let mut number = 0;
    while client.status().await?.log_lines_dropped == 0 {
        ensure!(began.elapsed() < Duration::from_secs(60), "no line was dropped");
        for _ in 0..100 {
            let (key, value) = (format!("k{number}"), number.to_string());
            client.set(&key, &value).await?;
            ensure!(client.get(&key).await?.as_deref() == Some(value.as_str()));
            number += 1;
        }
        // At level trace the node logs each connection: this makes more lines than the pipe and the queue
        // hold.
        for _ in 0..500 {
            drop(tokio::net::TcpStream::connect(node.addr()).await?);
        }
    }
    let said: String = client.ask(redis::cmd("INFO").arg("stats")).await?;
    ensure!(!said.contains("caskade_log_lines_dropped:0"), "{said}");
    Ok(())
}

#[test]
fn coordinator_with_a_full_log_disk_handles_a_failover() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        // One node logs to a file, the others to standard error.
        for index in 0..3 {
            let node = cluster.node_mut(index)?;
            node.stop().await?;
            match index {
                0 => node.add_flags(&[("--log-file", "/dev/full")]),
                _ => node.set_stderr(Stderr::Full),
            }
            node.restart().await?;
            cluster.wait_converged(SOON).await?;
        }
        fails_over(cluster).await?;
        let coordinator = cluster.coordinator().await?;
        ensure!(cluster.node(coordinator)?.status().await?.log_lines_dropped > 0);
        Ok(())
    });
}

/// Kills a node that is not the coordinator, and waits until every partition is available.
async fn fails_over(cluster: &mut Cluster) -> Result<()> {
    let coordinator = cluster.coordinator().await?;
    let victim = (coordinator + 1) % 3;
    let id = cluster.node(victim)?.status().await?.node_id;
    cluster.node_mut(victim)?.kill9()?;
    cluster.wait_member_state(&id, "down", FAILOVER_MAX).await?;
    let node = cluster.node(coordinator)?;
    let began = std::time::Instant::now();
    loop {
        let status = node.status().await?;
        if status.partitions_unavailable == 0 {
            break;
        }
        ensure!(
            began.elapsed() < FAILOVER_MAX,
            "{} partitions are unavailable",
            status.partitions_unavailable
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut client = node.client().await?;
    for number in 0..200 {
        client.set(&format!("after{number}"), "v").await?;
    }
    Ok(())
}

#[test]
fn closed_output_pipe_is_no_error_and_a_full_disk_is_one() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        let addr = cluster.node(0)?.addr();
        let caskctl: [&[&str]; 2] = [&["nodes"], &["--json", "status"]];
        for args in caskctl {
            let command = || -> Result<Command> {
                let mut command = Command::new(binary("caskctl")?);
                command.args(["--addr", &addr]).args(args);
                Ok(command)
            };
            check_output(&command, Some(0)).await.with_context(|| format!("caskctl {args:?}"))?;
        }
        let casktop = || -> Result<Command> {
            let mut command = Command::new(binary("casktop")?);
            command.args(["--addr", &addr, "--once"]);
            Ok(command)
        };
        check_output(&casktop, Some(0)).await.context("casktop")
    });
}

#[test]
fn caskd_config_treats_closed_pipes_and_full_disks_alike() {
    with_limit(LIMIT, async || {
        let config = || -> Result<Command> {
            let mut command = Command::new(binary("caskd")?);
            command.arg("config");
            Ok(command)
        };
        check_output(&config, Some(0)).await
    });
}

async fn check_output(command: &dyn Fn() -> Result<Command>, quiet: Option<i32>) -> Result<()> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let output = output(command()?.stdout(writer))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == quiet && said.is_empty(), "{:?}: {said}", output.status);
    let full = OpenOptions::new().write(true).open("/dev/full")?;
    let output = self::output(command()?.stdout(full))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("No space left"), "{:?}: {said}", output.status);
    ensure!(!said.contains("panicked"), "{said}");
    Ok(())
}

fn output(command: &mut Command) -> Result<std::process::Output> {
    command
        .stderr(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()?
        .wait_with_output()
        .context("waiting for the program")
}

#[test]
fn sighup_reloads_what_it_can_and_logs_what_needs_a_restart() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        let (file, users, log, moved) = (path("caskd.toml"), path("users"), path("log"), path("log.1"));
        std::fs::write(&file, "max_clients = 100\nzone = \"one\"\n")?;
        std::fs::write(&users, "")?;
        let node = cluster.node_mut(0)?;
        node.stop().await?;
        let text = |path: &Path| path.display().to_string();
        node.add_flags(&[
            ("--config", &text(&file)),
            ("--aclfile", &text(&users)),
            ("--log-file", &text(&log)),
        ]);
        node.restart().await?;
        ensure!(std::fs::metadata(&log)?.permissions().mode() & 0o777 == 0o600);
        ensure!(config(node, "maxclients").await? == "100");

        std::fs::write(
            &file,
            "max_clients = 200\nclient_idle_s = 77\nzone = \"two\"\nlog_level = \"debug\"\n",
        )?;
        std::fs::write(&users, "user default on nopass ~* +@all\nuser alice on >secret ~* +@all\n")?;
        std::fs::rename(&log, &moved)?;
        node.signal(Signal::HUP)?;
        wait_for_log(&log, "adopted the users of the ACL file").await?;
        let said = std::fs::read_to_string(&log)?;
        ensure!(said.contains("need a restart of the node") && said.contains("zone"), "{said}");
        ensure!(config(node, "maxclients").await? == "200");
        ensure!(config(node, "max_clients").await? == "200");
        ensure!(config(node, "timeout").await? == "77");
        ensure!(config(node, "log_level").await? == "debug");
        ensure!(config(node, "zone").await? == "one", "a setting that needs a restart changed");
        let logged_in: String =
            node.client().await?.ask(redis::cmd("AUTH").arg("alice").arg("secret")).await?;
        ensure!(logged_in == "OK");
        ensure!(!std::fs::read_to_string(&moved)?.contains("SIGHUP"), "the node wrote to the moved log");

        // Invalid files change nothing, and one invalid file does not keep the others from being read.
        std::fs::write(&file, "max_clients = 0\n")?;
        std::fs::write(&users, "user alice is not a rule\n")?;
        node.signal(Signal::HUP)?;
        wait_for_log(&log, "the ACL file is not valid; the users stay unchanged").await?;
        let said = std::fs::read_to_string(&log)?;
        ensure!(
            said.contains("the new settings are not valid; the old ones stay in use")
                && said.contains("max_clients"),
            "{said}"
        );
        ensure!(config(node, "maxclients").await? == "200");
        let logged_in: String =
            node.client().await?.ask(redis::cmd("AUTH").arg("alice").arg("secret")).await?;
        ensure!(logged_in == "OK");
        // The node could not restart with these files, so that this test only stops it.
        node.stop().await
    });
}

async fn config(node: &Node, name: &str) -> Result<String> {
    let pair: Vec<String> = node.client().await?.ask(redis::cmd("CONFIG").arg("GET").arg(name)).await?;
    pair.into_iter().nth(1).with_context(|| format!("no {name}"))
}

async fn wait_for_log(log: &Path, text: &str) -> Result<()> {
    let began = std::time::Instant::now();
    while !std::fs::read_to_string(log).unwrap_or_default().contains(text) {
        let said = || std::fs::read_to_string(log).unwrap_or_default();
        ensure!(began.elapsed() < SOON, "{text:?} is not in the log: {}", said());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
