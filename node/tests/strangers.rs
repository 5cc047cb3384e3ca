//! Nodes reject every message of non-members on their peer ports, log the rejection, and count it where
//! operators see it.
//!
//! The non-members use the node's own network code, with their own key and secret, or with those of a node.
//! The tests write the messages as bytes, because their types are private to the node.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use caskade_node::cluster::report::NodeReport;
use caskade_node::cluster::state::{Announcement, StoreCondition};
use caskade_node::cluster::time::TimeReport;
use caskade_node::id::{ClusterId, NodeId};
use caskade_node::identity::{ClusterSecret, Identity};
use caskade_node::net::{Class, DialError, Handler, Network, NetworkConfig, Responder, wire};
use caskade_tests::{Builder, Cluster, Node, binary, eventually, run, with_cluster};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(90);
const SOON: Duration = Duration::from_secs(20);

/// First byte of the answer "not the primary, nothing was executed".
const NOT_PRIMARY: u8 = 2;
/// First byte of the answer "failed" on the control class.
const FAILED: u8 = 7;
/// First byte of the answer "this process can never get a lease".
const REFUSED_FOR_GOOD: u8 = 8;

/// A handler that ignores everything.
struct Silent;

impl Handler for Silent {
    fn on_call(&self, _: NodeId, _: Class, _: bytes::Bytes, _: Responder) {}
    fn on_gossip(&self, _: NodeId, _: Vec<u8>) {}
    fn on_peer(&self, _: NodeId, _: bool) {}
}

/// Starts the network of a non-member with the key in `folder`.
async fn stranger(folder: &Path, secret: &[u8]) -> Result<Network> {
    let keypair = Identity::load_or_create(folder)?.keypair;
    let config = NetworkConfig::new(keypair, vec!["127.0.0.1:0".parse()?], ClusterSecret::from_bytes(secret));
    Ok(Network::start(config, Arc::new(Silent)).await?)
}

/// Adds the addresses of the nodes to the non-member's peers.
async fn introduce(stranger: &Network, nodes: &[Node]) -> Result<()> {
    let mut book = HashMap::new();
    for node in nodes.iter().filter(|node| node.is_running()) {
        book.insert(stranger.dial(&node.peer_addr()).await?, vec![node.peer_addr()]);
    }
    stranger.peers().set_peers(book);
    Ok(())
}

/// Calls a node and returns the first byte of its answer.
async fn call(from: &Network, node: &Node, class: Class, body: &[u8]) -> Result<u8> {
    let to = id_of(node).await?;
    let answer = from.peers().call(to, class, bytes::Bytes::copy_from_slice(body)).await?;
    answer.first().copied().context("an empty answer")
}

async fn id_of(node: &Node) -> Result<NodeId> {
    Ok(node.status().await?.node_id.parse()?)
}

/// Returns the number of rejections of a kind in `CASK.STATUS` of a node.
async fn refused(node: &Node, kind: &str) -> Result<u64> {
    let status = node.status().await?;
    status.peers.refused.get(kind).copied().with_context(|| format!("CASK.STATUS has no kind {kind}"))
}

async fn wait_refused(node: &Node, kind: &str) -> Result<()> {
    eventually("a refusal", SOON, async || {
        let count = refused(node, kind).await?;
        ensure!(count > 0, "the node rejected nothing of the kind {kind}");
        Ok(())
    })
    .await
}

/// Waits until the log has a line of this kind with this text: a node writes its log later than it counts.
async fn ensure_told(node: &Node, text: &str, kind: &str) -> Result<()> {
    let lines = || node.log().lines().filter(|line| line.contains(text) && line.contains(kind)).count();
    eventually("the log line of a rejection", SOON, async || {
        ensure!(lines() > 0, "no line of the log contains: {text}");
        Ok(())
    })
    .await?;
    ensure!(lines() <= 9, "{} lines of the log contain: {text}\n{}", lines(), node.log());
    Ok(())
}

fn announcement(node: NodeId, incarnation: u64) -> Announcement {
    Announcement {
        node,
        incarnation,
        peer_addrs: Vec::new(),
        client_addr: "127.0.0.1:1".into(),
        zone: String::new(),
        weight: 100,
        build: "0.0.0".into(),
        protocol: caskade_node::cluster::protocol::PROTOCOL_MAX,
        protocol_min: 1,
        store: StoreCondition::Whole,
    }
}

fn report(cluster_id: ClusterId, node: NodeId, incarnation: u64) -> NodeReport {
    let announcement = announcement(node, incarnation);
    NodeReport { cluster_id, announcement, ring_hash: 0, row: Default::default(), tasks: Vec::new() }
}

fn cluster_id(text: &str) -> Result<ClusterId> {
    let bytes: Result<Vec<u8>, _> =
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16)).collect();
    Ok(ClusterId::from_bytes(bytes?.try_into().ok().context("sixteen bytes")?))
}

/// Sends every request that only members may send; the node must reject each.
async fn ensure_has_no_say(from: &Network, node: &Node) -> Result<()> {
    // Request::Execute: removes the key; Request::Count.
    let delete = [&[0, 3][..], b"key", &[3]].concat();
    for request in [&delete[..], &[2]] {
        let answer = call(from, node, Class::Requests, request).await?;
        ensure!(answer == NOT_PRIMARY, "a request was answered with {answer}");
    }
    // Control::Propose with an empty change, and Control::Stand, each in an envelope without a state.
    for question in [&[0, 0, 3, 0][..], &[0, 0, 4]] {
        let answer = call(from, node, Class::Control, question).await?;
        ensure!(answer == FAILED, "a question was answered with {answer}");
    }
    // A request for a digest of partition 0 in the name of its primary.
    let digest = [&[2][..], &[0; 46]].concat();
    let answer = call(from, node, Class::Replication, &digest).await?;
    ensure!((1..=2).contains(&answer), "replication was answered with {answer}");
    // Bulk of partition 0, BulkAction::Inventory; answered with BulkAnswer::Refused.
    let answer = call(from, node, Class::Bulk, &[0; 5]).await?;
    ensure!(answer == 3, "a bulk message was answered with {answer}");
    Ok(())
}

#[test]
fn messages_of_non_members_are_rejected_logged_and_counted() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let folder = tempfile::tempdir()?;
        let secret = std::fs::read(cluster.secret_file())?;
        let node = cluster.node(0)?;
        let mut client = node.client().await?;
        client.set("key", "value").await?;

        let other = stranger(folder.path(), b"another secret, long enough to be one").await?;
        ensure!(other.dial(&node.peer_addr()).await == Err(DialError::SecretRefused));
        wait_refused(node, "secret").await?;
        ensure_told(node, "rejected a connection: it does not have this node's cluster secret", "secret")
            .await?;
        other.peers().shutdown().await;

        let stranger = stranger(folder.path(), &secret).await?;
        introduce(&stranger, cluster.nodes()).await?;
        for node in cluster.nodes() {
            ensure_has_no_say(&stranger, node).await?;
            ensure!(refused(node, "stranger").await? >= 6);
            ensure_told(node, "this node does not know as a member", "stranger").await?;
        }
        // Bytes that are not a message of any kind.
        let rubbish = [0xff; 60];
        let answer = call(&stranger, node, Class::Replication, &rubbish).await?;
        ensure!(answer == 4, "{answer}");
        ensure!(
            call(&stranger, node, Class::Control, &rubbish).await.is_err(),
            "an invalid control message was answered"
        );
        ensure!(refused(node, "message").await? >= 2);
        ensure_told(node, "dropped a message of a peer that this node cannot decode", "message").await?;
        ensure!(client.get("key").await?.as_deref() == Some("value"), "the key was changed");

        gossip_of_strangers_is_dropped(&stranger, node).await?;
        replayed_connection_is_refused(&stranger, node).await?;
        operators_see_it(node, &mut client).await?;
        stranger.peers().shutdown().await;
        let nodes = client.nodes().await?.nodes;
        ensure!(nodes.len() == 3, "a non-member joined: {nodes:?}");
        Ok(())
    });
}

async fn gossip_of_strangers_is_dropped(stranger: &Network, node: &Node) -> Result<()> {
    let status = node.status().await?;
    stranger.subscribe(&format!("caskade/1/{}", status.cluster_id));
    let other = report(ClusterId::from_bytes([7; 16]), stranger.local(), 1);
    let before = refused(node, "message").await?;
    eventually("a refused gossip", SOON, async || {
        stranger.peers().publish(wire::encode(&other));
        stranger.peers().publish(b"no report".to_vec());
        let (of_other, messages) = (refused(node, "other_cluster").await?, refused(node, "message").await?);
        ensure!(of_other > 0 && messages > before, "{of_other} {messages}");
        Ok(())
    })
    .await?;
    ensure_told(node, "rejected a message of a node of another cluster", "other_cluster").await
}

/// Records the bytes of a good connection and sends them again on another one.
async fn replayed_connection_is_refused(stranger: &Network, node: &Node) -> Result<()> {
    let to: SocketAddr = node.peer_addr().parse()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let way = listener.local_addr()?.to_string();
    let said = Arc::new(Mutex::new(Vec::new()));
    let recorded = Arc::clone(&said);
    let passing = tokio::spawn(async move {
        let (here, _) = listener.accept().await?;
        let (mut from, mut back) = here.into_split();
        let (mut answers, mut there) = TcpStream::connect(to).await?.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
        let mut chunk = [0; 4096];
        loop {
            let len = from.read(&mut chunk).await?;
            if len == 0 {
                return Ok::<_, std::io::Error>(());
            }
            recorded.lock().map(|mut said| said.extend_from_slice(&chunk[..len])).ok();
            there.write_all(&chunk[..len]).await?;
        }
    });
    let id = id_of(node).await?;
    stranger.peers().disconnect(id);
    eventually("the end of the connection", SOON, async || {
        ensure!(!stranger.connected().contains(&id));
        Ok(())
    })
    .await?;
    stranger.peers().set_peers(HashMap::from([(id, vec![way])]));
    let answer = stranger.peers().call(id, Class::Requests, bytes::Bytes::from_static(&[2])).await?;
    ensure!(answer.first() == Some(&NOT_PRIMARY));
    passing.abort();
    let said = said.lock().map_err(|_| anyhow::anyhow!("the recorder failed"))?.clone();
    ensure!(said.len() > 200, "{} bytes were recorded", said.len());
    let before = refused(node, "handshake").await?;
    let mut again = TcpStream::connect(to).await?;
    let _ = again.write_all(&said).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(SOON, again.read_to_end(&mut answer)).await?;
    ensure!(answer.len() < 300, "a replay got {} bytes", answer.len());
    eventually("a refused handshake", SOON, async || {
        ensure!(refused(node, "handshake").await? == before + 1);
        Ok(())
    })
    .await?;
    ensure_told(node, "or that replays an earlier one", "handshake").await
}

/// Checks that operators see the counters in `caskctl status`, and their monitoring in INFO.
async fn operators_see_it(node: &Node, client: &mut caskade_tests::Client) -> Result<()> {
    let mut command = Command::new(binary("caskctl")?);
    command.args(["--addr", &node.addr(), "status"]);
    let shown = run(command).await?.success()?;
    let line =
        shown.lines().find(|line| line.starts_with("peers")).context("the status has no line about peers")?;
    ensure!(line.contains("stranger ") && line.contains("handshake ") && line.contains("secret "), "{line}");
    let info: String = client.ask(redis::cmd("INFO").arg("cluster")).await?;
    for kind in ["secret", "stranger", "message", "other_cluster", "handshake"] {
        let name = format!("caskade_peer_refused_{kind}:");
        let count =
            info.lines().find_map(|line| line.strip_prefix(&name)).context("INFO does not contain it")?;
        ensure!(count.trim().parse::<u64>()? > 0, "{name}{count}");
    }
    Ok(())
}

#[test]
fn messages_of_a_removed_member_and_of_an_old_incarnation_are_rejected() {
    with_cluster(Builder::new(3), LIMIT, async |cluster| {
        let secret = std::fs::read(cluster.secret_file())?;
        cluster.node(0)?.client().await?.set("key", "value").await?;
        earlier_start_is_refused(cluster, &secret).await?;

        let ids = cluster.ids().await?;
        let id = ids.get(2).context("three nodes")?;
        cluster.node_mut(2)?.kill9()?;
        cluster.wait_member_state(id, "down", SOON).await?;
        cluster.node(0)?.client().await?.plan_and_commit(&["REMOVE", id]).await?;
        let removed = cluster.take_node(2)?;
        cluster.wait_converged(SOON).await?;
        // Simulate a removed process that still runs, as an isolated one would, with the same key.
        let folder = tempfile::tempdir()?;
        copy_identity(&removed.data_dir(), folder.path())?;
        let ghost = stranger(folder.path(), &secret).await?;
        ensure!(ghost.local().to_string() == *id);
        introduce(&ghost, cluster.nodes()).await?;
        for node in cluster.nodes() {
            ensure_has_no_say(&ghost, node).await?;
            ensure!(refused(node, "removed").await? >= 6);
            ensure_told(node, "was removed from the cluster", "removed").await?;
        }
        let node = cluster.node(0)?;
        let status = node.status().await?;
        ghost.subscribe(&format!("caskade/1/{}", status.cluster_id));
        let report = wire::encode(&report(cluster_id(&status.cluster_id)?, ghost.local(), 99));
        let before = refused(node, "removed").await?;
        eventually("a refused gossip", SOON, async || {
            ghost.peers().publish(report.clone());
            ensure!(refused(node, "removed").await? > before, "its gossip was not counted");
            Ok(())
        })
        .await?;
        ghost.peers().shutdown().await;
        let mut client = node.client().await?;
        ensure!(client.get("key").await?.as_deref() == Some("value"), "the key was changed");
        let nodes = client.nodes().await?.nodes;
        ensure!(nodes.len() == 2, "the removed node joined again: {nodes:?}");
        Ok(())
    });
}

/// Rejects messages of a process with a member's key and an old incarnation.
async fn earlier_start_is_refused(cluster: &mut Cluster, secret: &[u8]) -> Result<()> {
    let coordinator = cluster.coordinator().await?;
    let place = (coordinator + 1) % 3;
    // Stop the present process first, because a node has one gossip connection per peer.
    cluster.node_mut(place)?.kill9()?;
    let node = cluster.node(coordinator)?;
    let folder = tempfile::tempdir()?;
    copy_identity(&cluster.node(place)?.data_dir(), folder.path())?;
    let earlier = stranger(folder.path(), secret).await?;
    introduce(&earlier, std::slice::from_ref(node)).await?;
    let clocks = TimeReport { time_us: 0, error_us: None, floor_us: 0, set_back: false, offset_ms: None };
    let lease = [&[0, 0, 2][..], &wire::encode(&(announcement(earlier.local(), 0), clocks))].concat();
    let answer = call(&earlier, node, Class::Control, &lease).await?;
    ensure!(answer == REFUSED_FOR_GOOD, "it was answered {answer}");
    wait_refused(node, "old_incarnation").await?;
    ensure_told(node, "rejected a message of an earlier start of a node", "old_incarnation").await?;
    let before = refused(node, "old_incarnation").await?;
    let status = node.status().await?;
    earlier.subscribe(&format!("caskade/1/{}", status.cluster_id));
    let report = wire::encode(&report(cluster_id(&status.cluster_id)?, earlier.local(), 0));
    eventually("a refused gossip", SOON, async || {
        earlier.peers().publish(report.clone());
        ensure!(refused(node, "old_incarnation").await? > before, "its gossip was not counted");
        Ok(())
    })
    .await?;
    earlier.peers().shutdown().await;
    cluster.node_mut(place)?.restart().await?;
    cluster.wait_converged(SOON).await
}

fn copy_identity(from: &Path, to: &Path) -> Result<()> {
    for name in ["node.key", "incarnation"] {
        std::fs::copy(from.join(name), to.join(name))?;
    }
    Ok(())
}
