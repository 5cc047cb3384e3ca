//! Existing Redis clients and libraries, on one node and on three, while a node is killed.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use caskade_tests::{Builder, Cluster, Python, run_for, with_cluster};
use redis::cluster::ClusterClientBuilder;
use redis::{RedisResult, cmd};

const LIMIT: Duration = Duration::from_secs(240);
/// Duration for which cluster clients write.
const LOAD: Duration = Duration::from_secs(14);
/// Time until a node is killed, and time until it is restarted.
const KILL_AFTER: Duration = Duration::from_secs(3);
const AWAY: Duration = Duration::from_secs(4);
const COMMAND_MAX: Duration = Duration::from_secs(90);

fn builder(nodes: usize) -> Builder {
    Builder::new(nodes).sync("interval:20")
}

/// Values of `--redirect`: a node that is not primary forwards the request, or redirects the client.
const REDIRECTS: [&str; 2] = ["proxy", "moved"];

#[test]
fn redis_py_works_with_one_node_and_with_three() {
    for nodes in [1, 3] {
        with_cluster(builder(nodes), LIMIT, async |cluster| {
            let Some(python) = Python::with(&["redis"]).await? else { return Ok(()) };
            let said = python.run(&script("with_redis_py.py"), cluster.addrs()).await?;
            ensure!(said.trim() == "ok", "{said}");
            Ok(())
        });
    }
}

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// Kills a node after [`KILL_AFTER`] and restarts it after [`AWAY`].
async fn kill_one(cluster: &mut Cluster) -> Result<()> {
    tokio::time::sleep(KILL_AFTER).await;
    cluster.node_mut(1)?.kill9()?;
    tokio::time::sleep(AWAY).await;
    cluster.node_mut(1)?.restart().await
}

#[test]
fn redis_cluster_of_python_loses_nothing_while_a_node_is_killed() {
    for redirect in REDIRECTS {
        with_cluster(builder(3).arg("--redirect", redirect), LIMIT, async |cluster| {
            let Some(python) = Python::with(&["redis"]).await? else { return Ok(()) };
            let args = std::iter::once(LOAD.as_secs().to_string()).chain(cluster.addrs());
            let (path, args) = (script("with_redis_cluster.py"), args.collect::<Vec<_>>());
            let (said, killed) = tokio::join!(python.run(&path, args), kill_one(cluster));
            killed?;
            let said = said.with_context(|| format!("redirect = {redirect}"))?;
            ensure!(said.trim() == "ok", "{said}");
            Ok(())
        });
    }
}

#[test]
fn cluster_client_of_rust_loses_nothing_while_a_node_is_killed() {
    for redirect in REDIRECTS {
        with_cluster(builder(3).arg("--redirect", redirect), LIMIT, async |cluster| {
            let addrs: Vec<String> = cluster.addrs().iter().map(|addr| format!("redis://{addr}")).collect();
            let (counted, killed) = tokio::join!(count(&addrs), kill_one(cluster));
            killed?;
            let writes = counted.with_context(|| format!("redirect = {redirect}"))?;
            ensure!(writes > 100, "only {writes} writes");
            Ok(())
        });
    }
}

/// A counter: the highest value returned, and the number of acknowledged increments.
#[derive(Default)]
struct Counter {
    told: i64,
    acknowledged: i64,
}

/// Increments counters for [`LOAD`]; returns the number of acknowledged writes.
async fn count(addrs: &[String]) -> Result<i64> {
    const KEYS: usize = 40;
    let client = ClusterClientBuilder::new(addrs.to_vec()).retries(3).build()?;
    let mut connection = client.get_async_connection().await?;
    let mut counters: Vec<Counter> = Vec::new();
    counters.resize_with(KEYS, Counter::default);
    let (key, end) = (|index: usize| format!("rs:counter:{index}"), Instant::now() + LOAD);
    while Instant::now() < end {
        for (index, counter) in counters.iter_mut().enumerate() {
            let told: RedisResult<i64> = cmd("INCR").arg(key(index)).query_async(&mut connection).await;
            let Ok(told) = told else { continue };
            ensure!(told > counter.told, "{} went from {} to {told}", key(index), counter.told);
            (counter.told, counter.acknowledged) = (told, counter.acknowledged + 1);
        }
    }
    for (index, counter) in counters.iter().enumerate() {
        let value: i64 = cmd("GET").arg(key(index)).query_async(&mut connection).await?;
        let least = counter.told.max(counter.acknowledged);
        ensure!(value >= least, "{} is {value}, of at least {least}", key(index));
    }
    Ok(counters.iter().map(|counter| counter.acknowledged).sum())
}

#[test]
fn redis_benchmark_and_redis_cli_follow_the_slots() {
    for redirect in REDIRECTS {
        with_cluster(builder(3).arg("--redirect", redirect), LIMIT, async |cluster| {
            let port = |cluster: &Cluster| cluster.node(0).map(|node| node.port().to_string());
            let mut bench = Command::new("redis-benchmark");
            bench.args([
                "--cluster",
                "-q",
                "-n",
                "20000",
                "-P",
                "16",
                "-r",
                "1000",
                "-t",
                "set,get,incr,mset",
            ]);
            bench.args(["-p", &port(cluster)?]);
            let Some(said) = output(bench).await? else { return Ok(()) };
            for test in ["SET", "GET", "INCR", "MSET"] {
                ensure!(said.contains(test) && !said.contains("Error"), "{said}");
            }
            for index in 0..50 {
                let (key, value) = (format!("cli:{index}"), format!("value {index}"));
                let cli = |words: &[&str]| {
                    let mut command = Command::new("redis-cli");
                    command.args(["-c", "-p"]).arg(port(cluster).unwrap_or_default()).args(words);
                    output(command)
                };
                let set = cli(&["SET", &key, &value]).await?.unwrap_or_default();
                let got = cli(&["GET", &key]).await?.unwrap_or_default();
                ensure!(set.trim() == "OK" && got.trim() == value, "{set} {got}");
            }
            Ok(())
        });
    }
}

/// Returns the output of a program; `None` if it is not installed.
#[expect(clippy::print_stderr, reason = "reports a skipped test")]
async fn output(command: Command) -> Result<Option<String>> {
    match run_for(command, COMMAND_MAX).await {
        Ok(finished) => finished.success().map(Some),
        Err(error) if std::env::var_os("CASKADE_REQUIRE_TOOLS").is_some() => Err(error),
        Err(error) => {
            eprintln!("SKIPPED: {error:#} (Debian: redis-tools)");
            Ok(None)
        }
    }
}
