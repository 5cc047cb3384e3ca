//! Repair of the copies of two nodes in one process: damage is healed, tombstones are collected.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caskade_engine::Record;
use caskade_engine::replicated::Store;
use caskade_engine::slots::PARTITIONS;
use caskade_node::config::Settings;
use caskade_node::kv::{Action, Condition, ExpiryPolicy, Operation, Outcome};
use caskade_node::runtime::Node;
use caskade_node::supervise::Supervisor;
use futures::future::join_all;
use tokio::net::TcpListener;

const SECRET: &str = "a secret for the tests of one process";
const KEYS: usize = 3000;
/// Time limit of a wait, also on a slow machine.
const WAIT_MAX: Duration = Duration::from_secs(60);

struct Running {
    node: Arc<Node>,
    store: PathBuf,
    _listener: TcpListener,
}

async fn start(dir: &Path, bootstrap: Option<String>, scrub_bytes_per_s: u64) -> Running {
    let secret = dir.with_extension("secret");
    std::fs::write(&secret, SECRET).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut settings = Settings::default();
    settings.data_dir = dir.to_owned();
    settings.peer_listen = "127.0.0.1:0".parse().unwrap();
    settings.cluster_secret_file = Some(secret);
    settings.bootstrap = bootstrap.into_iter().collect();
    settings.lease_ms = 1000;
    settings.max_file_size = 1 << 20;
    settings.scrub_bytes_per_s = scrub_bytes_per_s;
    settings.repair_interval_ms = 2000;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = Node::start(settings, &listener, &Supervisor::default()).await.unwrap();
    Running { node, store: dir.join("store"), _listener: listener }
}

async fn pair(dir: &Path, scrub_bytes_per_s: u64) -> (Running, Running) {
    let a = start(&dir.join("a"), None, scrub_bytes_per_s).await;
    let b = start(&dir.join("b"), Some(a.node.peer_listen_addr()), scrub_bytes_per_s).await;
    converged(&[&a, &b]).await;
    (a, b)
}

async fn converged(nodes: &[&Running]) {
    eventually("the cluster converges", || {
        nodes.iter().all(|running| {
            let status = running.node.status();
            status.members.iter().filter(|member| member.state == "up").count() == nodes.len()
                && status.partitions_under_replicated + status.partitions_moving == 0
                && status.epoch == nodes[0].node.status().epoch
        })
    })
    .await;
}

async fn eventually(what: &str, done: impl Fn() -> bool) {
    let until = tokio::time::Instant::now() + WAIT_MAX;
    while !done() {
        assert!(tokio::time::Instant::now() < until, "{what}: not within {WAIT_MAX:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn key(number: usize) -> Bytes {
    format!("key-{number}").into()
}

fn value(number: usize) -> Bytes {
    format!("value {number} ").repeat(80).into()
}

fn set(number: usize) -> Operation {
    let action = Action::Set {
        value: value(number),
        user_flags: 0,
        expiry: ExpiryPolicy::Clear,
        condition: Condition::Always,
        return_old: false,
    };
    Operation { key: key(number), action }
}

/// Runs one operation on each key through this node.
async fn run_all(running: &Running, operation: impl Fn(usize) -> Operation) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for from in (0..KEYS).step_by(500) {
        let run = |number| running.node.submit(operation(number)).wait();
        outcomes.extend(join_all((from..from + 500).map(run)).await);
    }
    outcomes.into_iter().map(Result::unwrap).collect()
}

async fn assert_all_read(running: &Running) {
    let read = |number| Operation { key: key(number), action: Action::Read };
    for (number, outcome) in run_all(running, read).await.into_iter().enumerate() {
        let Outcome::Entry(Some(entry)) = outcome else { panic!("key {number} is missing") };
        assert_eq!(entry.value, value(number));
    }
}

/// Returns whether both copies of every key are whole and equal.
fn copies_are_equal(a: &Store, b: &Store) -> bool {
    let whole =
        |engine: &Store| (0..KEYS).all(|number| engine.read(&key(number)).is_ok_and(|found| found.is_some()));
    let equal = |partition| a.partition_stats(partition).digest == b.partition_stats(partition).digest;
    (0..PARTITIONS).all(equal) && whole(a) && whole(b)
}

/// Flips a bit in every `step` bytes of all complete data files; returns the number of flipped bits.
fn flip_bits(running: &Running, step: usize) -> usize {
    let mut flipped = 0;
    for id in running.node.engine().sealed_files() {
        let path = running.store.join(format!("{id:010}.data"));
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let len = file.metadata().unwrap().len();
        for at in (8192..len.saturating_sub(8192)).step_by(step) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 4], at).unwrap();
            flipped += 1;
        }
    }
    flipped
}

fn told_of(running: &Running, what: &str) -> bool {
    running.node.newest_events(1000).iter().any(|event| event.kind == "store" && event.message.contains(what))
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_record_is_answered_right_and_healed_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = pair(dir.path(), 0).await;
    run_all(&a, set).await;
    assert!(flip_bits(&a, 50_000) > 20);
    assert_all_read(&b).await;
    // The reads show that the files are damaged, so the scrubber heals the rest of them, too.
    eventually("both copies are whole", || copies_are_equal(a.node.engine(), b.node.engine())).await;
    eventually("the operator is told", || told_of(&a, "was restored from node")).await;
    assert_all_read(&a).await;
    a.node.stop().await;
    b.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scrubber_finds_and_heals_damage_that_no_read_finds() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = pair(dir.path(), 64 << 20).await;
    run_all(&a, set).await;
    assert!(flip_bits(&b, 100_000) > 10);
    eventually("the operator is told", || told_of(&b, "the file will be replaced")).await;
    eventually("both copies are whole", || {
        b.node.engine().damaged_files().is_empty() && copies_are_equal(a.node.engine(), b.node.engine())
    })
    .await;
    assert_all_read(&a).await;
    a.node.stop().await;
    b.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_sync_copies_that_differ_are_reported_and_made_equal() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = pair(dir.path(), 0).await;
    run_all(&a, set).await;
    // Only a fault can cause this: a single copy gets records.
    let stray = |key: &'static str, version| Record {
        key: Bytes::from_static(key.as_bytes()),
        version,
        expiry_ms: 0,
        user_flags: 0,
        value: Some(Bytes::from_static(b"stray")),
    };
    b.node.engine().apply(vec![stray("{tag}1", 5), stray("{tag}2", 6)]).unwrap();
    a.node.engine().apply(vec![stray("{other}1", 5)]).unwrap();
    assert!(!copies_are_equal(a.node.engine(), b.node.engine()));
    eventually("both copies are equal", || copies_are_equal(a.node.engine(), b.node.engine())).await;
    eventually("the operator is told", || {
        [&a, &b].into_iter().any(|node| told_of(node, "differ though both are in-sync"))
            && [&a, &b].into_iter().any(|node| told_of(node, "are equal again"))
    })
    .await;
    assert_all_read(&b).await;
    a.node.stop().await;
    b.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tombstones_go_on_all_copies_and_never_while_one_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = pair(dir.path(), 0).await;
    let delete = |number| Operation { key: key(number), action: Action::Delete };
    let tombstones = |running: &Running| running.node.engine().stats().tombstones;
    let collected = |running: &Running| {
        running.node.engine().merge().unwrap();
        tombstones(running) == 0
    };
    run_all(&a, set).await;
    run_all(&a, delete).await;
    assert!(tombstones(&a) == KEYS as u64 && tombstones(&b) == KEYS as u64);
    eventually("tombstones are collected", || collected(&a) && collected(&b)).await;

    run_all(&a, set).await;
    b.node.stop().await;
    run_all(&a, delete).await;
    // Longer than a primary takes to mark a partition clean.
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        a.node.engine().merge().unwrap();
    }
    assert_eq!(tombstones(&a), KEYS as u64, "the node that is away still has the keys");
    a.node.stop().await;
}
