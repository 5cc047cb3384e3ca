//! Tests with several nodes in one process, over a network in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::{announcement, found, node};
use crate::cluster::state::{Change, Verdict};
use crate::id::NodeId;
use crate::topology::{ProposeError, RaftTransport, Topology, TopologyConfig, TopologyError};

/// The nodes that can be reached.
#[derive(Clone, Default)]
struct Wires(Arc<Mutex<BTreeMap<NodeId, Topology>>>);

/// One node's end of the network. A node that is cut off reaches no other node.
struct End {
    wires: Wires,
    from: NodeId,
}

impl RaftTransport for End {
    fn call(&self, to: NodeId, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let (target, own) = {
            let wires = self.wires.0.lock();
            (wires.get(&to).cloned(), wires.contains_key(&self.from))
        };
        async move {
            match target {
                Some(target) if own => Ok(target.handle(body).await),
                _ => Err("unplugged".to_owned()),
            }
        }
        .boxed()
    }
}

struct Cluster {
    dir: TempDir,
    wires: Wires,
    nodes: BTreeMap<u64, Topology>,
}

impl Cluster {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), wires: Wires::default(), nodes: BTreeMap::new() }
    }

    fn config(dir: &Path, number: u64) -> TopologyConfig {
        let mut config = TopologyConfig::new(dir.join(number.to_string()), node(number));
        config.heartbeat_ms = 100;
        config.election_timeout_min_ms = 300;
        config.election_timeout_max_ms = 600;
        config
    }

    async fn start(&mut self, number: u64) -> Topology {
        let end = End { wires: self.wires.clone(), from: node(number) };
        let topology = Topology::open(Self::config(self.dir.path(), number), Arc::new(end)).await.unwrap();
        self.nodes.insert(number, topology.clone());
        self.plug(number);
        topology
    }

    fn plug(&self, number: u64) {
        self.wires.0.lock().insert(node(number), self.nodes[&number].clone());
    }

    fn unplug(&self, number: u64) {
        self.wires.0.lock().remove(&node(number));
    }

    async fn stop(&mut self, number: u64) {
        self.unplug(number);
        self.nodes.remove(&number).unwrap().shutdown().await;
    }

    /// Returns a cluster founded by node 1, in which `voters` vote.
    async fn founded(voters: &[u64]) -> Self {
        let mut cluster = Self::new();
        for number in voters {
            cluster.start(*number).await;
        }
        let first = &cluster.nodes[&1];
        first.found(found(1), Vec::new()).await.unwrap();
        for number in &voters[1..] {
            register(first, *number, 1).await;
        }
        first.set_membership(set(voters), BTreeSet::new()).await.unwrap();
        cluster
    }

    /// Waits until all running nodes agree on a coordinator, and returns its number.
    async fn coordinator(&self) -> u64 {
        let mut found = None;
        eventually("all nodes report the same coordinator", || {
            let known: BTreeSet<_> = self.nodes.values().map(Topology::coordinator).collect();
            found = self.nodes.keys().copied().find(|number| known == BTreeSet::from([Some(node(*number))]));
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    async fn all_reach_epoch(&self, epoch: u64) {
        eventually(&format!("all nodes reach epoch {epoch}"), || {
            self.nodes.values().all(|node| node.state().epoch >= epoch)
        })
        .await;
    }
}

fn set(numbers: &[u64]) -> BTreeSet<NodeId> {
    numbers.iter().map(|number| node(*number)).collect()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("this did not happen in 30 s: {what}");
}

fn register_change(number: u64, incarnation: u64) -> Change {
    let mut who = announcement(number);
    who.incarnation = incarnation;
    Change::Register(who)
}

async fn register(topology: &Topology, number: u64, incarnation: u64) -> u64 {
    let committed = topology.propose(vec![register_change(number, incarnation)]).await.unwrap();
    assert_eq!(committed.verdicts, [Verdict::Applied]);
    committed.epoch
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founder_is_coordinator_at_once_and_founds_only_once() {
    let mut cluster = Cluster::new();
    let first = cluster.start(1).await;
    assert!(!first.is_initialized().await);
    assert_eq!(first.propose(vec![found(1)]).await, Err(ProposeError::NotCoordinator(None)));
    first.found(found(1), Vec::new()).await.unwrap();
    assert!(first.is_initialized().await);
    assert_eq!(first.coordinator(), Some(node(1)));
    assert_eq!((first.state().epoch, first.voters()), (1, set(&[1])));
    first.confirm_leadership().await.unwrap();
    assert!(matches!(first.found(found(1), Vec::new()).await, Err(TopologyError::AlreadyMember)));
    let void = first.propose(vec![found(1)]).await.unwrap();
    assert!(matches!(void.verdicts[..], [Verdict::Rejected(_)]));
    first.shutdown().await;
    assert_eq!(first.propose(vec![found(1)]).await, Err(ProposeError::Stopped));
    assert!(first.stopped().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_survives_the_coordinator_and_its_return() {
    let mut cluster = Cluster::founded(&[1, 2, 3]).await;
    let epoch = register(&cluster.nodes[&1], 4, 1).await;
    cluster.all_reach_epoch(epoch).await;
    assert_eq!(cluster.coordinator().await, 1);
    let elsewhere = cluster.nodes[&2].propose(vec![register_change(5, 1)]).await;
    assert_eq!(elsewhere, Err(ProposeError::NotCoordinator(Some(node(1)))));
    let state = cluster.nodes[&1].state();

    cluster.stop(1).await;
    eventually("another node leads", || {
        cluster.nodes.values().any(|topology| topology.coordinator().is_some_and(|id| id != node(1)))
    })
    .await;
    let next = cluster.coordinator().await;
    let leading = cluster.nodes[&next].clone();
    leading.confirm_leadership().await.unwrap();
    assert_eq!(*leading.state(), *state);
    let epoch = register(&leading, 5, 1).await;

    cluster.start(1).await;
    cluster.all_reach_epoch(epoch).await;
    assert_eq!(*cluster.nodes[&1].state(), *leading.state());
    assert_eq!(cluster.nodes[&1].voters(), set(&[1, 2, 3]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_restarted_have_what_was_committed() {
    let mut cluster = Cluster::founded(&[1, 2, 3]).await;
    let epoch = register(&cluster.nodes[&1], 4, 1).await;
    let state = cluster.nodes[&1].state();
    for number in 1..=3 {
        cluster.stop(number).await;
    }
    for number in 1..=3 {
        cluster.start(number).await;
    }
    cluster.all_reach_epoch(epoch).await;
    let leading = cluster.coordinator().await;
    cluster.nodes[&leading].confirm_leadership().await.unwrap();
    for topology in cluster.nodes.values() {
        assert_eq!(*topology.state(), *state);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinator_cut_off_confirms_and_commits_nothing() {
    let cluster = Cluster::founded(&[1, 2, 3]).await;
    assert_eq!(cluster.coordinator().await, 1);
    cluster.unplug(1);
    let first = cluster.nodes[&1].clone();
    assert!(matches!(first.confirm_leadership().await, Err(ProposeError::Unknown(_))));
    let (lost, _) = tokio::join!(first.propose(vec![register_change(9, 1)]), async {
        eventually("the others elect a leader", || cluster.nodes[&2].coordinator() != Some(node(1))).await;
    });
    assert!(matches!(lost, Err(ProposeError::Unknown(_))), "{lost:?}");
    assert!(!first.state().members.contains_key(&node(9)));

    eventually("one of the others leads", || {
        [2, 3].iter().any(|number| cluster.nodes[number].coordinator() == Some(node(*number)))
    })
    .await;
    let leading = if cluster.nodes[&2].coordinator() == Some(node(2)) { 2 } else { 3 };
    let epoch = register(&cluster.nodes[&leading], 8, 1).await;
    cluster.plug(1);
    cluster.all_reach_epoch(epoch).await;
    assert!(first.state().members.contains_key(&node(8)));
    assert!(!first.state().members.contains_key(&node(9)), "the change that was never committed is lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn learner_far_behind_gets_the_snapshot_and_then_every_state() {
    let mut cluster = Cluster::founded(&[1]).await;
    let first = cluster.nodes[&1].clone();
    let mut epoch = 0;
    for incarnation in 2..900 {
        epoch = register(&first, 1, incarnation).await;
    }
    let learner = cluster.start(2).await;
    let mut states = learner.watch();
    first.set_membership(set(&[1]), set(&[2])).await.unwrap();
    cluster.all_reach_epoch(epoch).await;
    assert!(cluster.dir.path().join("2/snapshot").exists(), "the log no longer has all entries");
    assert!(learner.is_initialized().await);
    assert_eq!((learner.learners(), learner.coordinator()), (set(&[2]), Some(node(1))));
    let epoch = register(&first, 3, 1).await;
    states.wait_for(|state| state.epoch == epoch).await.unwrap();
    assert_eq!(*learner.state(), *first.state());
    let log = std::fs::metadata(cluster.dir.path().join("1/log")).unwrap().len();
    assert!(log < 3 << 20, "the log is kept short: {log} bytes");

    cluster.stop(1).await;
    let first = cluster.start(1).await;
    eventually("the only voter leads again", || first.coordinator() == Some(node(1))).await;
    assert_eq!(first.state().epoch, epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn membership_changes_never_wait_for_a_dead_node() {
    let mut cluster = Cluster::founded(&[1, 2, 3]).await;
    let first = cluster.nodes[&1].clone();
    cluster.stop(3).await;
    // Node 4 does not run: it may learn, but not vote.
    first.set_membership(set(&[1, 2, 3]), set(&[4])).await.unwrap();
    assert_eq!(first.learners(), set(&[4]));
    let refused = first.set_membership(set(&[1, 2, 4]), set(&[3])).await;
    assert!(matches!(refused, Err(ProposeError::Refused(_))), "{refused:?}");
    assert_eq!(first.voters(), set(&[1, 2, 3]));
    // Once it runs, it replaces the dead voter.
    cluster.start(4).await;
    eventually("the new node has caught up", || cluster.nodes[&4].state().epoch == first.state().epoch).await;
    first.set_membership(set(&[1, 2, 4]), BTreeSet::new()).await.unwrap();
    first.set_membership(set(&[1, 2, 4]), BTreeSet::new()).await.unwrap();
    assert_eq!((first.voters(), first.learners()), (set(&[1, 2, 4]), BTreeSet::new()));
    // Node 2 can now stop: nodes 1 and 4 are a majority.
    cluster.stop(2).await;
    let epoch = register(&first, 5, 1).await;
    cluster.all_reach_epoch(epoch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_from_a_peer_is_answered_and_changes_nothing() {
    let cluster = Cluster::founded(&[1]).await;
    let first = &cluster.nodes[&1];
    let before = first.state();
    for length in 0..200_usize {
        let body: Vec<u8> = (0..length).map(|at| (at * 31 + length * 7) as u8).collect();
        assert!(!first.handle(body.into()).await.is_empty());
    }
    assert_eq!(*first.state(), *before);
    register(first, 2, 1).await;
}
