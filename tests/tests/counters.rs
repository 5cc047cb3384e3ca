//! The counters in INFO are exact: the test executes the same operations on a node and on a `redis-server`,
//! compares the counters of both, and compares those of the node with the operations.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use caskade_tests::conformance::reference::Reference;
use caskade_tests::conformance::reply::Reply;
use caskade_tests::conformance::wire::{Wire, Words, encoded};
use caskade_tests::{Builder, Cluster, with_cluster};

const LIMIT: Duration = Duration::from_secs(90);
/// Counters that must be equal on both servers.
const COMMON: [&str; 8] = [
    "total_commands_processed",
    "total_connections_received",
    "rejected_connections",
    "total_net_input_bytes",
    "keyspace_hits",
    "keyspace_misses",
    "expired_keys",
    "total_error_replies",
];

type Figures = BTreeMap<String, u64>;

/// Returns the numbers in INFO; those of commandstats have names such as `cmdstat_get.calls`.
fn figures(text: &str) -> Figures {
    let mut all = Figures::new();
    for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
        if let Ok(number) = value.parse() {
            all.insert(name.to_owned(), number);
        }
        for (part, number) in value.split(',').filter_map(|part| part.split_once('=')) {
            all.extend(number.parse().map(|number| (format!("{name}.{part}"), number)));
        }
    }
    all
}

/// One server, and the connection that reads its counters.
struct Server {
    addr: String,
    asking: Wire,
}

impl Server {
    fn new(addr: &str) -> Result<Self> {
        Ok(Self { addr: addr.to_owned(), asking: Wire::connect(addr)? })
    }

    /// Returns its counters, and the size of the reply in bytes.
    fn figures(&mut self) -> Result<(Figures, u64)> {
        let reply = self.asking.ask(&["INFO", "everything"])?;
        let Reply::Bulk(text) = &reply else { anyhow::bail!("INFO: {reply:?}") };
        let length = text.len() + format!("${}\r\n\r\n", text.len()).len();
        Ok((figures(&String::from_utf8_lossy(text)), length as u64))
    }
}

/// Commands, one per line. Their keys are of one slot.
const COMMANDS: &str = "\
SET {t}a 1
SET {t}b hello
GET {t}a
GET {t}none
MGET {t}a {t}none {t}b
EXISTS {t}a {t}none
TOUCH {t}a
TYPE {t}a
TYPE {t}none
STRLEN {t}b
GETRANGE {t}b 0 2
GETRANGE {t}none 0 2
SUBSTR {t}b 0 2
TTL {t}a
PTTL {t}none
EXPIRETIME {t}a
SET {t}a 2 GET
SET {t}none 2 XX GET
GETSET {t}a 3
GETEX {t}a EX 1000
PERSIST {t}a
EXPIRE {t}a 1000
INCR {t}n
INCR {t}b
INCRBYFLOAT {t}n 1.5
APPEND {t}b x
DUMP {t}b
OBJECT ENCODING {t}b
LCS {t}a {t}b
GETDEL {t}n
GETDEL {t}n
DEL {t}none
SETNX {t}a 1
SET {t}a 1 XX NX
SET {t}a 1 EX x
GET
GET a b
NOSUCH a
CLIENT NOSUCH
CLIENT SETNAME counting
CONFIG NOSUCH
ECHO hi
PING
MULTI
SET {t}a 5
GET {t}a
INCR {t}b
EXEC
MULTI
SET {t}a 6
DISCARD
MULTI
GET
GET {t}a
EXEC
EXEC
DISCARD
SET {t}short 1 PX 20
SLEEP
GET {t}short
GET {t}short
RENAME {t}a {t}c
UNLINK {t}c {t}b";

fn words(line: &str) -> Words {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// Runs all commands on a new connection; returns the bytes sent and received.
fn run(addr: &str) -> Result<(u64, u64)> {
    let mut wire = Wire::connect(addr)?;
    let (mut sent, mut received) = (0, 0);
    for line in COMMANDS.lines() {
        if line == "SLEEP" {
            std::thread::sleep(Duration::from_millis(60));
            continue;
        }
        let bytes = encoded(&words(line));
        wire.send(&bytes)?;
        sent += bytes.len() as u64;
        received += wire.read().with_context(|| line.to_owned())?.bytes() as u64;
    }
    Ok((sent, received))
}

/// Returns the change of each counter by the commands, and the bytes sent and received, including the first
/// INFO.
fn changes(server: &mut Server) -> Result<(Figures, u64, u64)> {
    let (before, told) = server.figures()?;
    let (sent, received) = run(&server.addr)?;
    let (after, _) = server.figures()?;
    let info = encoded(&words("INFO everything")).len() as u64;
    let changed = after.iter().map(|(name, after)| {
        let before = before.get(name).copied().unwrap_or(0);
        (name.clone(), after.saturating_sub(before))
    });
    Ok((changed.collect(), sent + info, received + told))
}

fn counters(cluster: &Cluster, redis: &Reference) -> Result<()> {
    let (mut ours, mut theirs) = (Server::new(&cluster.node(0)?.addr())?, Server::new(redis.addr())?);
    let (theirs, ..) = changes(&mut theirs)?;
    let (ours, sent, received) = changes(&mut ours)?;
    let mut different = Vec::new();
    let mut compare = |name: &str| {
        let of = |figures: &Figures| figures.get(name).copied().unwrap_or(0);
        if of(&ours) != of(&theirs) {
            different.push(format!("{name}: redis {}, caskade {}", of(&theirs), of(&ours)));
        }
    };
    COMMON.iter().for_each(|name| compare(name));
    let of_commands = |name: &&String| {
        name.starts_with("cmdstat_")
            && ["calls", "rejected_calls", "failed_calls"].iter().any(|part| name.ends_with(part))
    };
    let names: std::collections::BTreeSet<&String> =
        ours.keys().chain(theirs.keys()).filter(of_commands).collect();
    ensure!(names.len() > 60, "{names:?}");
    names.iter().for_each(|name| compare(name));
    ensure!(different.is_empty(), "{} counters differ:\n{}", different.len(), different.join("\n"));
    let figure = |name: &str| ours.get(name).copied();
    ensure!(figure("total_net_input_bytes") == Some(sent), "{:?} of {sent}", figure("total_net_input_bytes"));
    ensure!(
        figure("total_net_output_bytes") == Some(received),
        "{:?} of {received}",
        figure("total_net_output_bytes")
    );
    Ok(())
}

#[test]
fn counters_are_exact_and_equal_to_those_of_redis() {
    with_cluster(Builder::new(1).sync("never"), LIMIT, async |cluster| {
        if !Reference::available()? {
            return Ok(());
        }
        let redis = Reference::start().await?;
        tokio::task::block_in_place(|| counters(cluster, &redis))
    });
}

#[test]
fn counters_are_zero_after_a_reset() {
    with_cluster(Builder::new(1).sync("never"), LIMIT, async |cluster| {
        let addr = cluster.node(0)?.addr();
        tokio::task::block_in_place(|| {
            run(&addr)?;
            let mut server = Server::new(&addr)?;
            server.asking.ask(&["CONFIG", "RESETSTAT"])?;
            let (figures, _) = server.figures()?;
            let left: Vec<_> = COMMON
                .iter()
                .filter(|name| **name != "total_commands_processed" && **name != "total_net_input_bytes")
                .filter(|name| figures.get(**name).copied() != Some(0))
                .collect();
            ensure!(left.is_empty(), "{left:?} of {figures:?}");
            ensure!(figures.get("total_commands_processed").is_some_and(|commands| *commands <= 1));
            Ok(())
        })
    });
}

/// Returns `keys` and `expires` of INFO keyspace.
fn keyspace(addr: &str) -> Result<(u64, u64)> {
    let (figures, _) = Server::new(addr)?.figures()?;
    let figure = |name: &str| figures.get(name).copied().unwrap_or(0);
    Ok((figure("db0.keys"), figure("db0.expires")))
}

#[test]
fn keys_with_an_expiry_are_counted_on_all_nodes_and_after_a_restart() {
    with_cluster(Builder::new(2), LIMIT, async |cluster| {
        let addrs = cluster.addrs();
        let first = addrs.first().context("the cluster has no nodes")?.clone();
        tokio::task::block_in_place(|| {
            let mut wire = Wire::connect(&first)?;
            for number in 0..200 {
                let key = format!("k{number}");
                wire.ask(&["SET", &key, "v", "EX", "1000"])?;
                match number % 5 {
                    0 => wire.ask(&["SET", &key, "w"])?,
                    1 => wire.ask(&["PERSIST", &key])?,
                    2 => wire.ask(&["DEL", &key])?,
                    _ => wire.ask(&["SET", &key, "w", "KEEPTTL"])?,
                };
            }
            for addr in &addrs {
                let told = keyspace(addr)?;
                ensure!(told == (160, 80), "{told:?}");
            }
            Ok(())
        })?;
        cluster.node_mut(0)?.restart().await?;
        cluster.wait_converged(LIMIT / 2).await?;
        let told = tokio::task::block_in_place(|| keyspace(&first))?;
        ensure!(told == (160, 80), "after a start: {told:?}");
        Ok(())
    });
}
