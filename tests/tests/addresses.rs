//! Addresses of nodes: new addresses, host names, listening on all addresses, port mappings, IPv6; and the
//! addresses that nodes return to clients in Redis's format.
//!
//! Tests that remove addresses or change names run nodes in network namespaces (`tests/src/network.rs`); on a
//! machine that does not permit namespaces they print `SKIPPED`. `CASKADE_ADDRESS_ROUNDS` sets the number of
//! moves of all nodes.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use caskade_tests::conformance::reply::Reply;
use caskade_tests::conformance::wire::Wire;
use caskade_tests::{
    Builder, Client, Cluster, Finished, Node, Program, binary, eventually, free_port, run, with_cluster,
    with_own_network, with_prepared, with_prepared_network,
};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(240);
/// Time limit from the last start of a node until the cluster has converged.
const WHOLE_MAX: Duration = Duration::from_secs(10);
const CONVERGE_MAX: Duration = Duration::from_secs(30);
/// Number of keys, spread over all nodes.
const KEYS: usize = 60;

fn rounds(usual: u32) -> u32 {
    std::env::var("CASKADE_ADDRESS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(usual)
}

/// Sets all nodes as bootstrap peers of each node.
fn tell_all(cluster: &mut Cluster) {
    let all: Vec<String> = cluster.nodes().iter().map(Node::peer_addr).collect();
    for node in cluster.nodes_mut() {
        node.set_bootstrap(Some(all.join(",")));
    }
}

/// Starts all nodes, `pause` apart, and waits until they converge; returns the time after the last start.
async fn return_all(cluster: &mut Cluster, pause: Duration) -> Result<Duration> {
    let mut last = Instant::now();
    for index in 0..cluster.nodes().len() {
        if index > 0 {
            tokio::time::sleep(pause).await;
        }
        cluster.node_mut(index)?.spawn()?;
        last = Instant::now();
    }
    for node in cluster.nodes_mut() {
        node.wait_ready().await?;
    }
    cluster.wait_converged(CONVERGE_MAX).await?;
    Ok(last.elapsed())
}

async fn write(cluster: &Cluster, value: &str) -> Result<()> {
    let mut client = cluster.node(0)?.client().await?;
    for key in 0..KEYS {
        client.set(&format!("key:{key}"), value).await?;
    }
    Ok(())
}

async fn all_are(cluster: &Cluster, value: &str) -> Result<()> {
    for node in cluster.nodes() {
        let mut client = node.client().await?;
        for key in 0..KEYS {
            let found = client.get(&format!("key:{key}")).await?;
            ensure!(found.as_deref() == Some(value), "key:{key} is {found:?} at {}", node.addr());
        }
    }
    Ok(())
}

/// Kills all nodes and restarts them at new addresses, `rounds` times. `pauses` are the pauses between the
/// starts, used in turn.
async fn move_all(
    cluster: &mut Cluster,
    rounds: u32,
    pauses: &[Duration],
    change: impl Fn(&mut Cluster) -> Result<()>,
) -> Result<()> {
    let mut took = Vec::new();
    for (round, pause) in (0..rounds).zip(pauses.iter().cycle()) {
        let value = format!("round {round}");
        write(cluster, &value).await?;
        cluster.kill9_all()?;
        change(cluster)?;
        let whole =
            return_all(cluster, *pause).await.with_context(|| format!("round {round}, {pause:?} apart"))?;
        ensure!(whole <= WHOLE_MAX, "round {round}, {pause:?} apart: converged after {whole:?}");
        took.push(whole.as_millis());
        all_are(cluster, &value).await?;
    }
    tell(&format!("converged after {took:?} ms"));
    Ok(())
}

#[expect(clippy::print_stderr, reason = "prints the measured times")]
fn tell(text: &str) {
    eprintln!("{text}");
}

const TOGETHER: Duration = Duration::ZERO;
const STAGGERED: Duration = Duration::from_millis(2500);

#[test]
fn three_nodes_that_return_at_new_addresses_converge_within_ten_seconds() {
    with_own_network(Builder::new(3), LIMIT, async |cluster| {
        move_all(cluster, rounds(4), &[TOGETHER, STAGGERED], |cluster| {
            (0..3).try_for_each(|index| cluster.move_node(index))?;
            tell_all(cluster);
            Ok(())
        })
        .await
    });
}

#[test]
fn three_nodes_that_return_on_new_ports_converge_within_ten_seconds() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        move_all(cluster, rounds(4), &[TOGETHER, STAGGERED], |cluster| {
            cluster.nodes_mut().iter_mut().try_for_each(Node::take_new_ports)?;
            tell_all(cluster);
            Ok(())
        })
        .await
    });
}

#[test]
fn moved_nodes_find_each_other_through_a_common_bootstrap_peer() {
    with_cluster(Builder::new(4), LIMIT, async |cluster| {
        move_all(cluster, rounds(2), &[TOGETHER, Duration::from_secs(1)], |cluster| {
            cluster.nodes_mut().iter_mut().try_for_each(Node::take_new_ports)?;
            // The first node has no bootstrap peer.
            let first = cluster.node(0)?.peer_addr();
            for (index, node) in cluster.nodes_mut().iter_mut().enumerate() {
                node.set_bootstrap((index > 0).then(|| first.clone()));
            }
            Ok(())
        })
        .await
    });
}

#[test]
fn two_nodes_that_both_moved_converge_within_ten_seconds() {
    with_cluster(Builder::new(2), LIMIT, async |cluster| {
        move_all(cluster, rounds(2), &[TOGETHER, STAGGERED], |cluster| {
            cluster.nodes_mut().iter_mut().try_for_each(Node::take_new_ports)?;
            tell_all(cluster);
            Ok(())
        })
        .await
    });
}

#[test]
fn names_are_resolved_again_when_nodes_move() {
    let named = |cluster: &mut Cluster| {
        cluster.name_nodes()?;
        for index in 0..3 {
            let node = cluster.node_mut(index)?;
            node.listen_on_all();
            let name = format!("node-{index}");
            node.add_flags(&[("--advertise", &name), ("--advertise-clients", &name)]);
        }
        Ok(())
    };
    with_prepared_network(Builder::new(3), LIMIT, named, async |cluster| {
        move_all(cluster, rounds(2), &[TOGETHER, STAGGERED], |cluster| {
            (0..3).try_for_each(|index| cluster.move_node(index))?;
            // No node gets an address: the names resolve to the new ones.
            cluster.nodes_mut().iter_mut().for_each(|node| node.set_bootstrap(None));
            cluster.name_nodes()
        })
        .await?;
        for node in cluster.nodes() {
            let mut wire = Wire::connect(&node.addr())?;
            let nodes = text(&wire.ask(&["CLUSTER", "NODES"])?)?;
            for (index, node) in cluster.nodes().iter().enumerate() {
                let (ip, port) = (node.host(), node.port());
                let place = format!(" {ip}:{port}@{},node-{index} ", port_of(&node.peer_addr()));
                ensure!(nodes.contains(&place), "{place} is not in {nodes}");
            }
        }
        Ok(())
    });
}

#[test]
fn name_that_does_not_resolve_is_logged() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        let node = cluster.node_mut(0)?;
        node.stop().await?;
        node.set_bootstrap(Some("no-such-name.invalid:7901".to_owned()));
        node.spawn()?;
        node.wait_ready().await?;
        let log = async || {
            let log = cluster.node(0)?.log();
            let line = log.lines().find(|line| line.contains("does not resolve")).context("not logged")?;
            ensure!(line.contains("WARN") && line.contains("no-such-name.invalid:7901"), "{line}");
            Ok(())
        };
        eventually("the name is logged", Duration::from_secs(10), log).await
    });
}

fn port_of(addr: &str) -> u16 {
    addr.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_default()
}

fn text(reply: &Reply) -> Result<String> {
    match reply {
        Reply::Bulk(bytes) | Reply::Status(bytes) | Reply::Error(bytes) => {
            Ok(String::from_utf8_lossy(bytes).into_owned())
        }
        Reply::Text(b'=', bytes) => {
            Ok(String::from_utf8_lossy(bytes.get(4..).unwrap_or_default()).into_owned())
        }
        other => bail!("{other:?} is not text"),
    }
}

/// Returns the addresses to which a node redirects keys, each once.
fn redirections(wire: &mut Wire) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for key in 0..KEYS {
        let answer = wire.ask(&["GET", &format!("key:{key}")])?;
        let Some(error) = answer.error() else { continue };
        let error = String::from_utf8_lossy(error).into_owned();
        let to = error.strip_prefix("MOVED ").and_then(|rest| rest.split_once(' '));
        let (slot, place) = to.with_context(|| error.clone())?;
        ensure!(slot.parse::<u16>().is_ok_and(|slot| slot < 16384), "{error}");
        if !found.iter().any(|known| known == place) {
            found.push(place.to_owned());
        }
    }
    ensure!(!found.is_empty(), "the node redirects no key");
    Ok(found)
}

/// Returns the hosts of all nodes in every answer of a node that contains them.
async fn hosts_told(addr: &str) -> Result<Vec<String>> {
    let mut wire = Wire::connect(addr)?;
    let mut hosts = Vec::new();
    for range in wire.ask(&["CLUSTER", "SLOTS"])?.elements().context("slots")? {
        for node in range.elements().into_iter().flatten().skip(2) {
            hosts.push(text(node.elements().and_then(|parts| parts.first()).context("a host")?)?);
        }
    }
    for line in text(&wire.ask(&["CLUSTER", "NODES"])?)?.lines() {
        let place = line.split(' ').nth(1).context("a place")?;
        hosts.push(place.rsplit_once(':').context("a port")?.0.to_owned());
    }
    let mut client = Client::connect(addr).await?;
    let (status, nodes) = (client.status().await?, client.nodes().await?);
    let members = status.members.iter().map(|member| member.client_addr.clone());
    for place in members.chain(nodes.nodes.iter().map(|row| row.client_addr.clone())) {
        hosts.push(place.rsplit_once(':').context("a port")?.0.to_owned());
    }
    Ok(hosts)
}

#[test]
fn nodes_that_listen_on_all_addresses_return_reachable_ones() {
    let open = |cluster: &mut Cluster| {
        cluster.nodes_mut().iter_mut().for_each(Node::listen_on_all);
        Ok(())
    };
    with_prepared_network(Builder::new(3).arg("--redirect", "moved"), LIMIT, open, async |cluster| {
        let known: Vec<String> = cluster.nodes().iter().map(|node| node.host().to_string()).collect();
        for node in cluster.nodes() {
            let mut wanted = known.clone();
            wanted.sort();
            // Until two nodes are connected, one returns the address that the other announced for itself.
            eventually("the node returns reachable addresses", Duration::from_secs(10), async || {
                let mut told = hosts_told(&node.addr()).await?;
                told.sort();
                told.dedup();
                ensure!(told == wanted, "{} returns {told:?} instead of {wanted:?}", node.addr());
                Ok(())
            })
            .await?;
            for to in redirections(&mut Wire::connect(&node.addr())?)? {
                ensure!(cluster.nodes().iter().any(|node| node.addr() == to), "MOVED to {to}");
            }
            ensure!(node.log().contains("advertise"), "no warning about --advertise at the start");
            ensure!(!node.status().await?.members.iter().any(|m| m.peer_addrs.join(" ").contains("0.0.0.0")));
        }
        // After a restart, nodes find each other only by the addresses learned from others.
        cluster.kill9_all()?;
        return_all(cluster, TOGETHER).await.map(drop)
    });
}

#[test]
fn clients_get_the_address_that_they_use_themselves() {
    let open = |cluster: &mut Cluster| {
        cluster.nodes_mut().iter_mut().for_each(Node::listen_on_all);
        Ok(())
    };
    with_prepared(Builder::new(2).arg("--redirect", "moved"), LIMIT, open, async |cluster| {
        for host in ["127.0.0.1", "127.0.0.7"] {
            for node in cluster.nodes() {
                let told = hosts_told(&format!("{host}:{}", node.port())).await?;
                ensure!(told.iter().all(|told| told == host), "a client of {host} gets {told:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn ipv6_addresses_are_written_as_redis_writes_them() {
    let six = |cluster: &mut Cluster| {
        let host: IpAddr = "::1".parse()?;
        cluster.nodes_mut().iter_mut().for_each(|node| node.set_host(host));
        tell_all(cluster);
        cluster.node_mut(0)?.set_bootstrap(None);
        Ok(())
    };
    with_prepared(Builder::new(3).arg("--redirect", "moved"), LIMIT, six, async |cluster| {
        let bare: Vec<String> = cluster.nodes().iter().map(|node| format!("::1:{}", node.port())).collect();
        for node in cluster.nodes() {
            let to = redirections(&mut Wire::connect(&node.addr())?)?;
            ensure!(to.iter().all(|to| bare.contains(to)), "{to:?} are not all in {bare:?}");
            let told = hosts_told(&node.addr()).await?;
            ensure!(told.iter().all(|host| host == "::1" || host == "[::1]"), "{told:?}");
        }
        // Clients must accept this form: the Rust cluster client, redis-cli and caskctl.
        let seed = format!("redis://{}/", cluster.node(0)?.addr());
        let mut client = redis::cluster::ClusterClient::new(vec![seed])?.get_async_connection().await?;
        let addr = cluster.node(1)?.addr();
        for key in 0..KEYS {
            let (key, value) = (format!("key:{key}"), format!("value {key}"));
            let _: () = redis::cmd("SET").arg(&key).arg(&value).query_async(&mut client).await?;
            ensure!(caskctl(&addr, &["get", &key]).await?.success()? == value, "{key} by caskctl");
        }
        let mut cli = Command::new("redis-cli");
        cli.args(["-c", "-h", "::1", "-p", &cluster.node(2)?.port().to_string(), "GET", "key:7"]);
        match run(cli).await {
            Ok(finished) => ensure!(finished.success()?.trim() == "value 7", "by redis-cli"),
            Err(error) if std::env::var_os("CASKADE_REQUIRE_TOOLS").is_some() => return Err(error),
            Err(error) => tell(&format!("SKIPPED: {error:#} (Debian: redis-tools)")),
        }
        Ok(())
    });
}

/// Forwards a port of this machine to another address, as a port mapping does.
async fn forward(to: String) -> Result<u16> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], free_port()?))).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let to = to.clone();
            tokio::spawn(async move {
                let Ok(mut to) = TcpStream::connect(&to).await else { return };
                drop(tokio::io::copy_bidirectional(&mut from, &mut to).await);
            });
        }
    });
    Ok(port)
}

#[test]
fn nodes_behind_a_port_mapping_are_reached_at_their_advertised_addresses() {
    with_cluster(Builder::new(3).arg("--redirect", "moved"), LIMIT, async |cluster| {
        let mut mapped = Vec::new();
        for index in 0..3 {
            let node = cluster.node_mut(index)?;
            let (peer, clients) = (forward(node.peer_addr()).await?, forward(node.addr()).await?);
            let (peer, clients) = (format!("127.0.0.1:{peer}"), format!("localhost:{clients}"));
            node.stop().await?;
            node.add_flags(&[("--advertise", &peer), ("--advertise-clients", &clients)]);
            node.spawn()?;
            node.wait_ready().await?;
            mapped.push((peer, clients));
        }
        cluster.wait_converged(CONVERGE_MAX).await?;
        for node in cluster.nodes() {
            let status = node.status().await?;
            for (member, index) in status.members.iter().zip(0..) {
                let peer = member.peer_addrs.join(" ").replace("/ip4/", "").replace("/tcp/", ":");
                let told = (peer, member.client_addr.clone());
                ensure!(mapped.contains(&told), "member {index}: {told:?} is not in {mapped:?}");
            }
            for to in redirections(&mut Wire::connect(&node.addr())?)? {
                ensure!(mapped.iter().any(|(_, clients)| *clients == to), "MOVED to {to}");
            }
        }
        write_by_caskctl(cluster).await
    });
}

/// Writes keys with `caskctl`, which follows the addresses that the cluster returns.
async fn write_by_caskctl(cluster: &Cluster) -> Result<()> {
    let addr = cluster.node(0)?.addr();
    for key in 0..10 {
        caskctl(&addr, &["set", &format!("mapped:{key}"), "here"]).await?.success()?;
    }
    Ok(())
}

/// Formats a reply with its ports replaced by names.
fn normalized(reply: &Reply, ports: &[(u16, &str)]) -> String {
    let mut text = format!("{reply:?}");
    if let Reply::Bulk(bytes) | Reply::Text(b'=', bytes) = reply {
        text = String::from_utf8_lossy(bytes).into_owned();
    }
    for (port, name) in ports {
        text = text.replace(&port.to_string(), name);
    }
    text
}

/// Starts a `redis-server` that announces a host name and prefers it.
async fn named_redis(folder: &std::path::Path, port: u16) -> Result<Option<Program>> {
    let mut command = Command::new("redis-server");
    command.args([
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--cluster-enabled",
        "yes",
    ]);
    command.args(["--cluster-announce-hostname", "db1.example", "--cluster-announce-ip", "127.0.0.1"]);
    command.args(["--cluster-preferred-endpoint-type", "hostname"]).current_dir(folder);
    let mut program = match Program::start(command, &folder.join("redis")) {
        Ok(program) => program,
        Err(error) if std::env::var_os("CASKADE_REQUIRE_TOOLS").is_some() => return Err(error),
        Err(error) => {
            tell(&format!("SKIPPED: {error:#} (Debian: redis-server)"));
            return Ok(None);
        }
    };
    program.wait_for_line(Duration::from_secs(20), |line| line.contains("Ready to accept")).await?;
    let taken =
        Wire::connect(&format!("127.0.0.1:{port}"))?.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"])?;
    ensure!(!taken.is_error(""), "{taken:?}");
    Ok(Some(program))
}

#[test]
fn names_are_returned_in_the_format_of_redis_7() {
    with_cluster(Builder::new(1), LIMIT, async |cluster| {
        let folder = tempfile::tempdir()?;
        let port = free_port()?;
        let Some(_redis) = named_redis(folder.path(), port).await? else { return Ok(()) };
        let node = cluster.node_mut(0)?;
        node.stop().await?;
        node.add_flags(&[("--advertise-clients", "db1.example")]);
        node.spawn()?;
        node.wait_ready().await?;
        let (mut ours, mut theirs) =
            (Wire::connect(&node.addr())?, Wire::connect(&format!("127.0.0.1:{port}"))?);
        let (our_id, their_id) =
            (text(&ours.ask(&["CLUSTER", "MYID"])?)?, text(&theirs.ask(&["CLUSTER", "MYID"])?)?);
        let our_ports = [(node.port(), "PORT"), (port_of(&node.peer_addr()), "BUS")];
        let their_ports = [(port + 10_000, "BUS"), (port, "PORT")];
        for protocol in ["2", "3"] {
            ours.ask(&["HELLO", protocol])?;
            theirs.ask(&["HELLO", protocol])?;
            for question in ["SLOTS", "SHARDS"] {
                let our = normalized(&replaced(&ours.ask(&["CLUSTER", question])?, &our_id), &our_ports);
                let their =
                    normalized(&replaced(&theirs.ask(&["CLUSTER", question])?, &their_id), &their_ports);
                ensure!(our == their, "{question}, RESP{protocol}:\n{our}\n{their}");
            }
            let line = |reply: &Reply, id: &str, ports: &[(u16, &str)]| {
                let text = normalized(reply, ports).replace(id, "ID");
                let words = text.trim().trim_start_matches("txt:").split(' ').map(str::to_owned);
                // The seventh word is an epoch.
                words
                    .enumerate()
                    .filter(|(at, _)| *at != 6)
                    .map(|(_, word)| word)
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            let our = line(&ours.ask(&["CLUSTER", "NODES"])?, &our_id, &our_ports);
            let their = line(&theirs.ask(&["CLUSTER", "NODES"])?, &their_id, &their_ports);
            ensure!(our == their, "NODES, RESP{protocol}:\n{our}\n{their}");
        }
        Ok(())
    });
}

/// Returns the reply with an id replaced.
fn replaced(reply: &Reply, id: &str) -> Reply {
    match reply {
        Reply::Bulk(bytes) if bytes == id.as_bytes() => Reply::Bulk(b"ID".to_vec()),
        Reply::Many(kind, parts) => Reply::Many(*kind, parts.iter().map(|part| replaced(part, id)).collect()),
        other => other.clone(),
    }
}

async fn caskctl(addr: &str, args: &[&str]) -> Result<Finished> {
    let mut command = Command::new(binary("caskctl")?);
    command.args(["--addr", addr]).args(args);
    run(command).await
}

#[test]
fn caskctl_follows_redirections_and_splits_keys_over_nodes() {
    with_cluster(Builder::new(3).arg("--redirect", "moved"), LIMIT, async |cluster| {
        for node in cluster.nodes() {
            let addr = node.addr();
            let done = async |args: &[&str]| {
                caskctl(&addr, args).await?.success().with_context(|| format!("caskctl {args:?}"))
            };
            // Keys of all three nodes, so that most belong to another node than the one asked.
            let keys: Vec<String> = (0..12).map(|number| format!("at:{}:{number}", node.port())).collect();
            let all: Vec<&str> = keys.iter().map(String::as_str).collect();
            for (number, key) in keys.iter().enumerate() {
                ensure!(done(&["set", key, "7"]).await?.trim() == "OK");
                ensure!(done(&["get", key]).await? == "7");
                ensure!(
                    done(&["incr", key, "--by", &number.to_string()]).await?.trim()
                        == (7 + number).to_string()
                );
                ensure!(done(&["ttl", key]).await?.contains("never"));
                done(&["expire", key, "100"]).await?;
            }
            let mget = done(&[&["mget"], &all[..]].concat()).await?;
            let wanted: String = (0..12).map(|number| format!("{}\n", 7 + number)).collect();
            ensure!(mget == wanted, "{mget}");
            let pairs: Vec<&str> = all.iter().flat_map(|key| [*key, "new"]).collect();
            ensure!(done(&[&["mset"], &pairs[..]].concat()).await?.trim() == "OK");
            ensure!(done(&[&["mget"], &all[..]].concat()).await? == "new\n".repeat(12));
            ensure!(done(&[&["exists", "absent"], &all[..]].concat()).await?.trim() == "12");
            ensure!(done(&[&["del", "absent"], &all[..]].concat()).await?.trim() == "12");
            ensure!(
                caskctl(&addr, &[&["mget"], &all[..]].concat()).await?.code == Some(1),
                "a deleted key exists"
            );
            for load in ["W", "R", "SW", "RW"] {
                let args = ["bench", "-t", load, "-s", "100", "-n", "1000", "-c", "4", "-P", "8"];
                let report = done(&args).await?;
                ensure!(report.contains("errors      0, wrong values 0"), "{load}: {report}");
            }
        }
        Ok(())
    });
}

#[test]
fn caskctl_continues_with_the_next_primary_when_a_node_dies() {
    with_cluster(Builder::new(3).arg("--redirect", "moved"), LIMIT, async |cluster| {
        let addr = cluster.node(0)?.addr();
        caskctl(&addr, &["set", "before", "7"]).await?.success()?;
        cluster.node_mut(1)?.kill9()?;
        let down = async || {
            let status = cluster.node(0)?.status().await?;
            ensure!(
                status.members.iter().any(|member| member.state == "down"),
                "the node is not declared down yet"
            );
            Ok(())
        };
        eventually("the node is declared down", CONVERGE_MAX, down).await?;
        for key in 0..24 {
            caskctl(&addr, &["incr", &format!("after:{key}")]).await?.success()?;
        }
        Ok(())
    });
}
