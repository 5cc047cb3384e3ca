//! Runs `caskctl` as a user does, against real nodes.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use caskade_api::{Event, Nodes, RingView, Status, Task};
use caskade_tests::{
    Builder, Client, Cluster, Finished, Permit, Program, binary, eventually, run, with_cluster, with_limit,
};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn keys_are_written_and_read() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        let done = async |args: &[&str]| ctl(cluster, args).await?.success();
        ensure!(done(&["set", "greeting", "hello"]).await?.trim() == "OK");
        ensure!(
            done(&["get", "greeting"]).await? == "hello",
            "the value is not byte for byte, without a line end"
        );
        ensure!(done(&["exists", "greeting"]).await?.trim() == "1");
        ensure!(done(&["incr", "visits"]).await?.trim() == "1");
        ensure!(done(&["incr", "visits", "--by", "41"]).await?.trim() == "42");
        ensure!(done(&["mset", "a", "1", "b", "2"]).await?.trim() == "OK");
        ensure!(done(&["mget", "a", "b"]).await? == "1\n2\n");
        ensure!(done(&["ttl", "a"]).await?.contains("never"));
        done(&["expire", "a", "100"]).await?;
        let left: f64 = done(&["ttl", "a"]).await?.trim().parse()?;
        ensure!((90.0..=100.0).contains(&left), "{left} s are left of 100");
        let mut keys: Vec<String> = done(&["scan"]).await?.lines().map(str::to_owned).collect();
        keys.sort();
        ensure!(keys == ["a", "b", "greeting", "visits"], "{keys:?}");
        ensure!(done(&["scan", "--match", "g*"]).await?.trim() == "greeting");
        ensure!(done(&["del", "greeting", "absent"]).await?.trim() == "1");
        Ok(())
    });
}

#[test]
fn exit_code_distinguishes_no_from_failure() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        ensure!(ctl(cluster, &["get", "absent"]).await?.code == Some(1));
        ensure!(ctl(cluster, &["set", "k", "v", "--nx"]).await?.code == Some(0));
        ensure!(ctl(cluster, &["set", "k", "w", "--nx"]).await?.code == Some(1));
        let no_number = ctl(cluster, &["incr", "k"]).await?;
        ensure!(no_number.code == Some(2) && no_number.stderr.contains("integer"), "{no_number:?}");
        let addr = cluster.node(0)?.addr();
        cluster.node_mut(0)?.stop().await?;
        let nobody = caskctl(&addr, &["get", "k"]).await?;
        ensure!(nobody.code == Some(2) && nobody.stderr.contains(&addr), "{nobody:?}");
        Ok(())
    });
}

#[test]
fn cluster_is_shown_in_tables_and_as_json() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let json = async |command: &str| ctl(cluster, &["--json", command]).await?.success();
        let status: Status = serde_json::from_str(&json("status").await?)?;
        ensure!(status.members.len() == 3 && status.coordinator.is_some(), "{status:#?}");
        let nodes: Nodes = serde_json::from_str(&json("nodes").await?)?;
        ensure!(nodes.nodes.len() == 3, "{nodes:#?}");
        let ring: RingView = serde_json::from_str(&json("ring").await?)?;
        ensure!(ring.partitions.len() == 1024 && ring.ring_hash == status.ring_hash);
        let tasks: Vec<Task> = serde_json::from_str(&json("tasks").await?)?;
        ensure!(tasks.is_empty(), "{tasks:#?}");
        let events = json("events").await?;
        let events: Vec<Event> = serde_json::from_str(&events)
            .or_else(|_| events.lines().map(serde_json::from_str).collect::<Result<Vec<Event>, _>>())?;
        ensure!(events.iter().any(|event| event.kind == "member"), "three nodes joined: {events:#?}");

        for command in ["status", "nodes", "ring"] {
            let table = ctl(cluster, &[command]).await?.success()?;
            for id in cluster.ids().await? {
                ensure!(table.contains(&id[id.len() - 6..]), "{command} does not name {id}:\n{table}");
            }
        }
        ctl(cluster, &["tasks"]).await?.success()?;
        ctl(cluster, &["events"]).await?.success()?;
        Ok(())
    });
}

#[test]
fn bench_measures_each_kind_of_load() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        for load in ["W", "R", "SW", "RW"] {
            let args = ["bench", "-t", load, "-s", "100", "-n", "500", "-c", "4", "-P", "4"];
            let report = ctl(cluster, &args).await?.success()?;
            ensure!(report.contains("ops/s") && report.contains("p99"), "{load}: {report}");
        }
        Ok(())
    });
}

#[test]
fn playground_serves_and_stops_its_nodes_on_sigterm() {
    with_limit(LIMIT, async || {
        let _permit = Permit::acquire().await?;
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(binary("caskctl")?);
        command.args(["--json", "playground", "--nodes", "3", "--no-dashboard"]);
        let mut playground = Playground(Program::start(command, &folder.path().join("playground"))?);
        let told = playground.0.wait_for_line(Duration::from_secs(60), |line| line.starts_with('{')).await?;
        let told: serde_json::Value = serde_json::from_str(&told)?;
        let nodes = told["nodes"].as_array().context("the output has no nodes")?;
        ensure!(nodes.len() == 3, "{told}");
        let addr = |index: usize| told["nodes"][index]["resp"].as_str().unwrap_or_default().to_owned();

        Client::connect(&addr(0)).await?.set("hello", "world").await?;
        let read = Client::connect(&addr(2)).await?.get("hello").await?;
        ensure!(read.as_deref() == Some("world"), "{read:?}");

        playground.0.signal(Signal::TERM)?;
        let status = playground.0.wait(Duration::from_secs(30)).await?;
        ensure!(status.success(), "the playground ended with {status}: {}", playground.0.output());
        for index in 0..3 {
            let gone = async || {
                let answer = std::net::TcpStream::connect(addr(index));
                ensure!(answer.is_err(), "the node at {} still listens", addr(index));
                Ok(())
            };
            eventually("the node has ended", Duration::from_secs(5), gone).await?;
        }
        let dir = told["dir"].as_str().context("the output has no directory")?;
        ensure!(!std::path::Path::new(dir).exists(), "{dir} was left behind");
        Ok(())
    });
}

/// A playground. Dropping it sends SIGTERM: a killed playground could not stop its nodes.
struct Playground(Program);

impl Drop for Playground {
    fn drop(&mut self) {
        let running = |program: &mut Program| matches!(program.ended(), Ok(None));
        if running(&mut self.0) && self.0.signal(Signal::TERM).is_ok() {
            for _ in 0..200 {
                if !running(&mut self.0) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

async fn ctl(cluster: &Cluster, args: &[&str]) -> Result<Finished> {
    caskctl(&cluster.node(0)?.addr(), args).await
}

async fn caskctl(addr: &str, args: &[&str]) -> Result<Finished> {
    let mut command = Command::new(binary("caskctl")?);
    command.args(["--addr", addr]).args(args);
    run(command).await
}

#[test]
fn store_of_a_node_is_snapshotted_inspected_dumped_and_restored() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        for key in ["a", "b", "c"] {
            ctl(cluster, &["set", key, "one"]).await?.success()?;
        }
        let (addr, data_dir) = (cluster.node(0)?.addr(), cluster.node(0)?.data_dir());
        let made = caskctl(&addr, &["--json", "snapshot", "backup"]).await?.success()?;
        let made: serde_json::Value = serde_json::from_str(&made)?;
        let path = made["path"].as_str().context("the output has no path")?.to_owned();
        ensure!(std::path::Path::new(&path).is_absolute() && made["data_files"] == 1, "{made}");
        let again = caskctl(&addr, &["snapshot", "backup"]).await?;
        ensure!(again.code == Some(2) && again.stderr.contains("is not empty"), "{again:?}");
        let within = caskctl(&addr, &["snapshot", "store/inner"]).await?;
        ensure!(within.code == Some(2) && within.stderr.contains("nothing was made"), "{within:?}");

        // The running node has its store open, but not the snapshot.
        let dir = data_dir.to_string_lossy().into_owned();
        let running = caskctl(&addr, &["store", "inspect", &dir]).await?;
        ensure!(running.code == Some(2) && running.stderr.contains("in use by process"), "{running:?}");
        let found = caskctl(&addr, &["--json", "store", "inspect", "--verify", &path]).await?.success()?;
        let found: serde_json::Value = serde_json::from_str(&found)?;
        ensure!(found["totals"]["live_records"] == 3 && found["damaged"] == false, "{found}");
        let lines = caskctl(&addr, &["store", "dump", &path, "1"]).await?.success()?;
        let lines: Vec<serde_json::Value> =
            lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        ensure!(lines.iter().any(|line| line["key"] == "b" && line["type"] == "value"), "{lines:?}");
        let restored = data_dir.join("restored").to_string_lossy().into_owned();
        let told = caskctl(&addr, &["store", "restore", &path, &restored]).await?.success()?;
        ensure!(told.contains("1 data files"), "{told}");

        // A damaged byte is reported, also by the exit code.
        cluster.node_mut(0)?.stop().await?;
        let whole = caskctl(&addr, &["store", "inspect", "--verify", &dir]).await?.success()?;
        ensure!(whole.contains("every checksum was compared"), "{whole}");
        let file = data_dir.join("store").join("0000000001.data");
        let mut bytes = std::fs::read(&file)?;
        *bytes.get_mut(100).context("the data file holds records")? ^= 0x10;
        std::fs::write(&file, &bytes)?;
        let damaged = caskctl(&addr, &["store", "inspect", "--verify", &dir]).await?;
        ensure!(damaged.code == Some(1) && damaged.stdout.contains("at byte"), "{damaged:?}");
        Ok(())
    });
}
