//! Whole nodes, without front ends, in one process: founding, joining, copies, failover, return.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caskade_node::config::Settings;
use caskade_node::kv::{Action, Condition, Deadline, ExpiryPolicy, Failure, Operation, Outcome, Ticket};
use caskade_node::runtime::Node;
use caskade_node::supervise::Supervisor;
use tokio::net::TcpListener;

const SECRET: &str = "a secret for the tests of one process";

struct Running {
    node: Arc<Node>,
    _listener: TcpListener,
}

async fn start(dir: &Path, bootstrap: Option<String>) -> Running {
    let secret = dir.with_extension("secret");
    std::fs::write(&secret, SECRET).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut settings = Settings::default();
    settings.data_dir = dir.to_owned();
    settings.peer_listen = "127.0.0.1:0".parse().unwrap();
    settings.cluster_secret_file = Some(secret);
    settings.bootstrap = bootstrap.into_iter().collect();
    settings.lease_ms = 1000;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = Node::start(settings, &listener, &Supervisor::default()).await.unwrap();
    Running { node, _listener: listener }
}

async fn run(running: &Running, key: &str, action: Action) -> Result<Outcome, Failure> {
    let operation = Operation { key: Bytes::copy_from_slice(key.as_bytes()), action };
    match running.node.submit(operation) {
        Ticket::Ready(result) => result,
        Ticket::Waiting { answer, .. } => answer.await.unwrap(),
    }
}

fn set(value: &str) -> Action {
    Action::Set {
        value: Bytes::copy_from_slice(value.as_bytes()),
        user_flags: 0,
        expiry: ExpiryPolicy::Clear,
        condition: Condition::Always,
        return_old: false,
    }
}

async fn converged(nodes: &[&Running]) {
    for _ in 0..600 {
        let status: Vec<_> = nodes.iter().map(|n| n.node.status()).collect();
        let same = status.iter().all(|s| s.epoch == status[0].epoch && s.members.len() == nodes.len());
        if same && status.iter().all(|s| s.partitions_under_replicated + s.partitions_moving == 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not converged: {:#?}", nodes.iter().map(|n| n.node.status()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_write_is_read_through_every_node() {
    let dir = tempfile::tempdir().unwrap();
    let a = start(&dir.path().join("a"), None).await;
    for i in 0..200 {
        run(&a, &format!("early-{i}"), set(&i.to_string())).await.unwrap();
    }
    let bootstrap = a.node.peer_listen_addr();
    let b = start(&dir.path().join("b"), Some(bootstrap.clone())).await;
    let c = start(&dir.path().join("c"), Some(bootstrap)).await;
    converged(&[&a, &b, &c]).await;
    for i in 0..200 {
        run(&b, &format!("late-{i}"), set(&i.to_string())).await.unwrap();
    }
    for node in [&a, &b, &c] {
        for i in 0..200 {
            for kind in ["early", "late"] {
                let outcome = run(node, &format!("{kind}-{i}"), Action::Read).await.unwrap();
                let Outcome::Entry(Some(entry)) = outcome else { panic!("{kind}-{i} is missing") };
                assert_eq!(entry.value, i.to_string());
            }
        }
    }
    for running in [&c, &b, &a] {
        running.node.stop().await;
    }
}

/// The usual refill of a cache: the value expires, one client writes it again, another client reads it.
#[tokio::test(flavor = "multi_thread")]
async fn read_of_an_expired_key_does_not_remove_the_pending_write_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let a = start(&dir.path().join("a"), None).await;
    for round in 0..50 {
        let key = Bytes::from(format!("cached-{round}"));
        let submit = |action: Action| a.node.submit(Operation { key: key.clone(), action });
        let mut short = set("old");
        if let Action::Set { expiry, .. } = &mut short {
            *expiry = ExpiryPolicy::Until(Deadline::In(2));
        }
        submit(short).wait().await.unwrap();
        tokio::time::sleep(Duration::from_millis(4)).await;
        let (write, read) = (submit(set("new")), submit(Action::Read));
        write.wait().await.unwrap();
        // The write may have found the key expired or not. The read depends on its outcome, so it waits for
        // it.
        let Outcome::Entry(Some(seen)) = read.wait().await.unwrap() else {
            panic!("round {round}: the read does not see the write before it");
        };
        assert_eq!(seen.value, "new");
        let Outcome::Entry(Some(entry)) = submit(Action::Read).wait().await.unwrap() else {
            panic!("round {round}: the acknowledged write is gone");
        };
        assert_eq!(entry.value, "new");
    }
    a.node.stop().await;
}
