//! Writes 120,000 lines of real text through one node and reads them back through the others; runs Redis's
//! own clients.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use caskade_tests::{Builder, Client, Finished, Node, run, run_for, text, with_cluster};

const LIMIT: Duration = Duration::from_secs(240);
const LINES: usize = 120_000;
/// Number of concurrent connections.
const CONNECTIONS: usize = 4;

#[test]
fn text_stored_line_by_line_through_one_node_is_read_back_through_each_other() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let records: Vec<(String, Vec<u8>)> = text::real_lines(LINES)?
            .into_iter()
            .enumerate()
            .map(|(number, line)| (format!("line:{number}"), line))
            .collect();
        ensure!(records.len() == LINES, "{} lines", records.len());
        let parts: Vec<&[(String, Vec<u8>)]> = records.chunks(LINES.div_ceil(CONNECTIONS)).collect();
        for_each_part(&parts, cluster.node(0)?, async |client, part| client.set_all(part).await).await?;
        for node in &cluster.nodes()[1..] {
            for_each_part(&parts, node, async |client, part| read_back(client, part).await).await?;
        }
        let keys: u64 = cluster.node(2)?.client().await?.ask(&redis::cmd("DBSIZE")).await?;
        ensure!(keys == LINES as u64, "DBSIZE is {keys}");
        ensure!(cluster.assert_copies_equal(2).await? == LINES as u64, "the copies hold every line");
        Ok(())
    });
}

#[test]
fn redis_cli_and_redis_benchmark_work_through_any_node() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        if !has_redis_tools()? {
            return Ok(());
        }
        for node in cluster.nodes() {
            let key = format!("cli:{}", node.port());
            ensure!(cli(node, &["SET", &key, "a value"]).await? == "OK");
            for other in cluster.nodes() {
                // With -c the client follows redirections; without it, any node must answer.
                ensure!(cli(other, &["-c", "GET", &key]).await? == "a value");
                ensure!(cli(other, &["GET", &key]).await? == "a value");
            }
        }
        let node = cluster.node(1)?;
        let mut command = Command::new("redis-benchmark");
        command.args(["-h", "127.0.0.1", "-p", &node.port().to_string()]);
        command.args([
            "-t",
            "ping,set,get,incr,mset",
            "-n",
            "2000",
            "-c",
            "20",
            "-P",
            "8",
            "-r",
            "1000",
            "--csv",
        ]);
        let report = run_for(command, Duration::from_secs(90)).await?.success()?;
        for test in ["PING_INLINE", "SET", "GET", "INCR", "MSET (10 keys)"] {
            ensure!(report.contains(&format!("\"{test}\",")), "no figures of {test}: {report}");
        }
        Ok(())
    });
}

#[test]
fn cluster_client_spreads_requests_over_the_primaries() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let seeds: Vec<String> = cluster.addrs().iter().map(|addr| format!("redis://{addr}/")).collect();
        let mut client = redis::cluster::ClusterClient::new(seeds)?.get_async_connection().await?;
        for number in 0..300 {
            let key = format!("direct:{number}");
            redis::cmd("SET").arg(&key).arg(number).query_async::<()>(&mut client).await?;
            let value: i64 = redis::cmd("GET").arg(&key).query_async(&mut client).await?;
            ensure!(value == number, "{key} is {value}");
        }
        // The client spread its requests: each node executed some.
        for node in cluster.nodes() {
            let sets = sets_of(node).await?;
            ensure!(sets > 0, "{} got no SET", node.addr());
        }
        Ok(())
    });
}

/// Runs `work` for each part on its own connection to `node`, all concurrently.
async fn for_each_part(
    parts: &[&[(String, Vec<u8>)]],
    node: &Node,
    work: impl AsyncFn(&mut Client, &[(String, Vec<u8>)]) -> Result<()>,
) -> Result<()> {
    let one = async |part: &[(String, Vec<u8>)]| work(&mut node.client().await?, part).await;
    let [a, b, c, d] = parts else { bail!("{} parts, not {CONNECTIONS}", parts.len()) };
    tokio::try_join!(one(a), one(b), one(c), one(d))?;
    Ok(())
}

async fn read_back(client: &mut Client, part: &[(String, Vec<u8>)]) -> Result<()> {
    let keys: Vec<String> = part.iter().map(|(key, _)| key.clone()).collect();
    let values = client.get_all(&keys).await?;
    ensure!(values.len() == part.len(), "{} values of {} keys", values.len(), part.len());
    for ((key, line), value) in part.iter().zip(values) {
        ensure!(value.as_ref() == Some(line), "{key} through {client:?} is {value:?}, not {line:?}");
    }
    Ok(())
}

/// Waits until a node reports SETs of its own clients; returns their number.
async fn sets_of(node: &Node) -> Result<u64> {
    let probe = async || {
        let nodes = node.client().await?.nodes().await?.nodes;
        let own = nodes.into_iter().find(|row| row.asked).context("the asked node is in its own answer")?;
        ensure!(own.sets > 0, "no SET is reported yet");
        Ok(own.sets)
    };
    caskade_tests::eventually("the node reports its load", Duration::from_secs(5), probe).await
}

async fn cli(node: &Node, args: &[&str]) -> Result<String> {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &node.port().to_string()]).args(args);
    let finished: Finished = run(command).await?;
    Ok(finished.success()?.trim_end().to_owned())
}

/// Returns whether Redis's programs are installed. The gate installs them and sets `CASKADE_REQUIRE_TOOLS`.
#[expect(clippy::print_stderr, reason = "reports a skipped test")]
fn has_redis_tools() -> Result<bool> {
    let missing = |name: &&str| Command::new(name).arg("--version").output().is_err();
    let Some(name) = ["redis-cli", "redis-benchmark"].into_iter().find(missing) else {
        return Ok(true);
    };
    if std::env::var_os("CASKADE_REQUIRE_TOOLS").is_some() {
        bail!("{name} is not installed (Debian: redis-tools)");
    }
    eprintln!("SKIPPED: {name} is not installed (Debian: redis-tools)");
    Ok(false)
}
