//! The memcached port: answers like memcached's, the same keys as for Redis clients, through any node.

use std::iter;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use caskade_tests::memcached::compare::Pair;
use caskade_tests::memcached::differences::{DIFFERENCES, Difference};
use caskade_tests::memcached::document::document;
use caskade_tests::memcached::steps::steps;
use caskade_tests::memcached::{Line, Memcached};
use caskade_tests::{Builder, Python, with_cluster};
use redis::cmd;

const LIMIT: Duration = Duration::from_secs(240);
/// Commands per sequence; all keys are removed after it.
const SEQUENCE: usize = 500;
/// Minimum number of commands sent to both servers.
const COMMANDS_MIN: usize = 60_000;

#[test]
fn random_commands_are_answered_as_by_memcached() {
    with_cluster(one_node(), LIMIT, async |cluster| {
        let Some(memcached) = Memcached::start()? else { return Ok(()) };
        let mut pair = Pair::connect(&cluster.node(0)?.memcached_addr(), memcached.addr())?;
        let seeds = match std::env::var("CASKADE_MEMCACHED_SEED") {
            Ok(seed) => vec![seed.parse()?],
            Err(_) => (1..=COMMANDS_MIN.div_ceil(SEQUENCE) as u64).collect(),
        };
        for seed in seeds {
            compare(&mut pair, seed)?;
        }
        Ok(())
    });
}

fn compare(pair: &mut Pair, seed: u64) -> Result<()> {
    let steps = steps(seed, SEQUENCE);
    if let Some(found) = pair.run(&steps)? {
        let told = pair.shrink(steps, found)?;
        bail!("CASKADE_MEMCACHED_SEED={seed}: {told}");
    }
    Ok(())
}

/// Describes a node without fsync, because these tests kill no node.
fn one_node() -> Builder {
    Builder::new(1).sync("never")
}

#[test]
fn known_differences_are_as_documented() {
    let builder = one_node().arg("--max-value-bytes", "1M");
    with_cluster(builder, LIMIT, async |cluster| {
        let Some(memcached) = Memcached::start()? else { return Ok(()) };
        for known in DIFFERENCES.iter().filter(|known| !known.send.is_empty()) {
            let ours = last_answer(&cluster.node(0)?.memcached_addr(), known)?;
            let theirs = last_answer(memcached.addr(), known)?;
            ensure!(ours.starts_with(known.caskade), "{}: Caskade answers {ours:?}", known.about);
            ensure!(
                !known.caskade.is_empty() || ours.is_empty(),
                "{}: Caskade answers {ours:?}",
                known.about
            );
            ensure!(theirs.starts_with(known.memcached), "{}: memcached answers {theirs:?}", known.about);
            ensure!(ours != theirs, "{} is not a difference: {ours:?}", known.about);
        }
        Ok(())
    });
}

/// Returns the answer to the last of the commands that show a difference.
fn last_answer(addr: &str, known: &Difference) -> Result<String> {
    let mut line = Line::connect(addr)?;
    let (mut cas, mut last) = (String::new(), String::new());
    for command in iter::once(&"flush_all\r\n").chain(known.send) {
        let bytes = command.replace("{cas}", &cas).replace("{700K}", &"x".repeat(700 << 10));
        let bytes = bytes.replace("{2M}", &"x".repeat(2 << 20)).into_bytes();
        let answer = line.ask(&[bytes])?.pop().unwrap_or_default();
        last = String::from_utf8_lossy(&answer).into_owned();
        if let Some(told) = last.lines().next().and_then(|line| line.split(' ').nth(4)) {
            cas = told.to_owned();
        }
    }
    Ok(last)
}

#[test]
fn document_is_up_to_date() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/memcached.md");
    if std::env::var_os("CASKADE_BLESS").is_some() {
        std::fs::write(&path, document())?;
    }
    let written = std::fs::read_to_string(&path)?;
    ensure!(
        written == document(),
        "docs/memcached.md is out of date; rewrite it with CASKADE_BLESS=1, and read the diff"
    );
    Ok(())
}

#[test]
fn same_keys_are_seen_by_both_kinds_of_clients() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        let node = cluster.node(0)?;
        let (mut redis, mut line) = (node.client().await?, Line::connect(&node.memcached_addr())?);
        let mut ask = |command: &str| -> Result<String> {
            let answers = line.ask(&[command.as_bytes().to_vec()])?;
            Ok(String::from_utf8_lossy(&answers.concat()).into_owned())
        };
        ensure!(ask("set k 9 100 2\r\n41\r\n")? == "STORED\r\n");
        let number: i64 = redis.ask(cmd("INCR").arg("k")).await?;
        ensure!(number == 42);
        let left: i64 = redis.ask(cmd("TTL").arg("k")).await?;
        ensure!((95..=100).contains(&left), "{left}");
        ensure!(
            ask("get k\r\n")? == "VALUE k 9 2\r\n42\r\nEND\r\n",
            "a write of a Redis client lost the flags"
        );
        let _: String = redis.ask(cmd("SET").arg("two words").arg("x")).await?;
        ensure!(ask("mg dHdvIHdvcmRz b v\r\n")? == "VA 1\r\nx\r\n");
        ensure!(ask("set quick 0 1 1\r\nx\r\n")? == "STORED\r\n");
        std::thread::sleep(Duration::from_millis(1200));
        ensure!(ask("get quick\r\n")? == "END\r\n");
        ensure!(ask("flush_all\r\n")? == "OK\r\n");
        let keys: i64 = redis.ask(&cmd("DBSIZE")).await?;
        ensure!(keys == 0, "{keys} keys are left");
        Ok(())
    });
}

#[test]
fn pymemcache_works_with_one_node_and_with_three() {
    python_script("pymemcache", "with_pymemcache.py");
}

#[test]
fn python_memcached_works_with_one_node_and_with_three() {
    python_script("python-memcached", "with_python_memcached.py");
}

/// Runs a script that uses `package` against one node, then against three.
fn python_script(package: &str, script: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
    for nodes in [1, 3] {
        with_cluster(Builder::new(nodes).sync("interval:20"), LIMIT, async |cluster| {
            let Some(python) = Python::with(&[package]).await? else { return Ok(()) };
            let addrs = cluster.nodes().iter().map(|node| node.memcached_addr());
            let said = python.run(&script, addrs).await?;
            ensure!(said.trim() == "ok", "{said}");
            Ok(())
        });
    }
}
