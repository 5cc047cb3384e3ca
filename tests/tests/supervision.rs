//! A node whose part (thread or task) ends unexpectedly exits with its own exit code, so that other nodes
//! take over.
//!
//! Needs programs built with the planted bugs (`DEBUG END-PART`), as the harness builds them. These tests
//! fail with programs in `CASKADE_BIN_DIR` that lack them.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use caskade_api::{EXIT_PART_ENDED, Part};
use caskade_tests::{
    Builder, Client, Cluster, Permit, Program, Workload, binary, free_port, run, with_cluster, with_limit,
};
use redis::{RedisResult, TlsCertificates, Value};

const LIMIT: Duration = Duration::from_secs(300);
/// Time limit from the end of a part to the end of its process: the goodbye to peers takes at most 1 s, and
/// the node aborts what hangs after 5 s.
const END_MAX: Duration = Duration::from_secs(10);
const RETURN_MAX: Duration = Duration::from_secs(30);

#[test]
fn end_of_any_part_ends_its_node_and_the_others_serve() {
    let builder = Builder::new(3).variable("CASKADE_DEBUG_COMMANDS", "true");
    with_cluster(builder, LIMIT, async |cluster| {
        let load = Workload::new(cluster.addrs(), 4).start();
        // This part exists only with TLS; see below.
        let parts = Part::ALL.iter().filter(|part| **part != Part::Certificates);
        for (number, part) in parts.enumerate() {
            end_part(cluster, number, *part).await.with_context(|| format!("the part {}", part.name()))?;
        }
        let history = load.stop().await?;
        history.check(&mut cluster.node(0)?.client().await?).await
    });
}

async fn end_part(cluster: &mut Cluster, number: usize, part: Part) -> Result<()> {
    let victim = number % 3;
    // A part can end by a panic or by returning.
    let how = if number.is_multiple_of(2) { "panic" } else { "return" };
    ask_to_end(&mut cluster.node(victim)?.client().await?, part, how).await?;
    let ended = cluster.node_mut(victim)?.wait_end(END_MAX).await?;
    ensure!(ended.code == Some(EXIT_PART_ENDED.into()), "ended with {:?}: {}", ended.code, ended.stderr);
    let said = format!("caskd stops: {} of this node ended: ", part.name());
    ensure!(ended.stderr.contains(&said) && ended.stderr.contains("start it again"), "{}", ended.stderr);
    for other in [(victim + 1) % 3, (victim + 2) % 3] {
        let mut client = cluster.node(other)?.client().await?;
        for key in 0..20 {
            let key = format!("{}:{key}", part.name());
            client.set(&key, how).await?;
            ensure!(client.get(&key).await?.as_deref() == Some(how));
        }
    }
    cluster.node_mut(victim)?.restart().await?;
    let events = cluster.node(victim)?.client().await?.events().await?;
    let report =
        events.iter().find(|event| event.message.contains("the last process of this node stopped itself"));
    let report = report.with_context(|| format!("no event: {events:?}"))?;
    ensure!(report.message.contains(part.name()) && report.severity == "error", "{report:?}");
    cluster.wait_converged(RETURN_MAX).await
}

async fn ask_to_end(client: &mut Client, part: Part, how: &str) -> Result<()> {
    let answer: RedisResult<Value> =
        client.ask(redis::cmd("DEBUG").arg("END-PART").arg(part.name()).arg(how)).await;
    match answer {
        // The node may exit before it answers.
        Err(error) if error.is_io_error() || error.is_connection_dropped() => Ok(()),
        answer => answer.map(drop).context("DEBUG END-PART"),
    }
}

#[test]
fn panic_while_serving_a_client_ends_only_that_connection() {
    let builder = Builder::new(1).variable("CASKADE_DEBUG_COMMANDS", "true");
    with_cluster(builder, LIMIT, async |cluster| {
        let mut other = cluster.node(0)?.client().await?;
        other.set("k", "v").await?;
        for _ in 0..3 {
            let mut client = cluster.node(0)?.client().await?;
            let answer: RedisResult<Value> = client.ask(redis::cmd("DEBUG").arg("PANIC")).await;
            ensure!(answer.is_err_and(|error| error.is_io_error() || error.is_connection_dropped()));
        }
        ensure!(other.get("k").await?.as_deref() == Some("v"), "the other connection ended");
        ensure!(cluster.node(0)?.log().contains("panic: a test asked for it"), "the panic is not in the log");
        cluster.node_mut(0)?.stop().await
    });
}

#[test]
fn end_of_the_certificate_reloader_ends_its_node() {
    with_limit(LIMIT, async || {
        let _permit = Permit::acquire().await?;
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        for args in [&["ca"][..], &["node", "--name", "node", "--name", "127.0.0.1"][..]] {
            let mut command = Command::new(binary("caskctl")?);
            command
                .arg("cert")
                .arg(args[0])
                .args(["--dir", "tls"])
                .args(&args[1..])
                .current_dir(folder.path());
            run(command).await?.success()?;
        }
        let (port, peer) = (free_port()?, free_port()?);
        let mut command = Command::new(binary("caskd")?);
        command.arg("--data-dir").arg(path("data")).args(["--listen", &format!("127.0.0.1:{port}")]);
        command.args(["--peer-listen", &format!("127.0.0.1:{peer}"), "--debug-commands=true"]);
        command.arg("--tls-cert").arg(path("tls/node.crt")).arg("--tls-key").arg(path("tls/node.key"));
        let mut program = Program::start(command, &path("node"))?;
        program.wait_for_line(RETURN_MAX, |line| line.starts_with("ready")).await?;
        let root = std::fs::read(path("tls/ca.crt"))?;
        let tls = TlsCertificates { client_tls: None, root_cert: Some(root) };
        let client = redis::Client::build_with_tls(format!("rediss://127.0.0.1:{port}/"), tls)?;
        let mut client = client.get_multiplexed_async_connection().await?;
        let name = Part::Certificates.name();
        let asked = redis::cmd("DEBUG")
            .arg("END-PART")
            .arg(name)
            .arg("panic")
            .query_async::<Value>(&mut client)
            .await;
        ensure!(asked.as_ref().map_or_else(|error| error.is_io_error(), |_| true), "{asked:?}");
        let status = program.wait(END_MAX).await?;
        ensure!(status.code() == Some(EXIT_PART_ENDED.into()), "{status}: {}", program.output());
        ensure!(program.output().contains("certificates of this node ended"), "{}", program.output());
        Ok(())
    });
}
