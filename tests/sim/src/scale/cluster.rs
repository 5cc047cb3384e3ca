//! A formed cluster of any size that one more node joins, in simulated time.
//!
//! Real are every node's planes, engine, leases, duties and reports, and the ring. Modelled are the network's
//! delays and the consensus log (`agreement.rs`), which commits and delivers with a few milliseconds of delay
//! whatever the number of learners. There are no clients.

use std::sync::Arc;
use std::time::Duration;

use caskade_engine::SyncPolicy;
use caskade_node::cluster::ring::{Ring, RingMember};
use caskade_node::cluster::state::{ClusterState, MemberStatus};
use caskade_node::id::NodeId;
use tokio::time::Instant;

use crate::world::{Shape, World};

/// Time limits for the nodes to serve, and for the join to be complete.
const SERVE_MAX: Duration = Duration::from_secs(30);
/// Time over which gossip is counted.
const COUNT_TIME: Duration = Duration::from_secs(10);
/// Resolution of the measured times.
const STEP: Duration = Duration::from_millis(5);
/// Pause of the disks, which have little to do.
const SYNC_PAUSE: Duration = Duration::from_millis(400);

/// Figures of one cluster.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Members before the join.
    pub nodes: usize,
    /// Bytes of an average report, as it is encoded.
    pub report_bytes: f64,
    /// Reports sent to an average node in a second without a change.
    pub heard_per_s: f64,
    /// Most reports sent to one node in one second, the join included.
    pub most_in_a_second: u64,
    /// Time from the start of the joining node to the committed epoch that has it as a member.
    pub committed: Duration,
    /// Time until it has a lease, and serves.
    pub serving: Duration,
    /// Time until its copies are in-sync and the copies they replace are released.
    pub complete: Duration,
    /// Copies that the join moved.
    pub copies_moved: u32,
    /// Computing time of the ring, by the wall clock.
    pub ring: Duration,
}

/// Forms a cluster of this many nodes and has one more join. Returns its figures.
///
/// # Errors
/// The cluster does not serve, or the join does not complete.
pub fn grow(nodes: usize) -> Result<Seen, String> {
    crate::randomness::seed(nodes as u64);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let seen = runtime.block_on(grow_here(nodes));
    // A thousand nodes are dropped without an orderly end.
    runtime.shutdown_background();
    seen
}

async fn grow_here(nodes: usize) -> Result<Seen, String> {
    let shape = Shape {
        nodes,
        replicas: 2,
        formed: true,
        rebuild_delay_ms: 300_000,
        sync_pause: SYNC_PAUSE,
        sync: SyncPolicy::Always,
        takeovers: false,
    };
    let mut world = World::new(nodes as u64, &shape);
    wait(&world, SERVE_MAX, |world| all_serve(world, nodes)).await.map_err(|_| "a node does not serve")?;
    world.network.take_heard();
    tokio::time::sleep(COUNT_TIME).await;
    let heard: Vec<_> = world.network.take_heard().into_values().collect();
    let (reports, bytes) = heard.iter().fold((0, 0), |sum, one| (sum.0 + one.reports, sum.1 + one.bytes));

    let before = world.log.state();
    let began = Instant::now();
    let joining = world.add_node();
    if !world.start(joining) {
        return Err("the node that joins does not start".to_owned());
    }
    let id = world.nodes[joining].id;
    let is_up = |state: &ClusterState| {
        state.member(id).is_some_and(|member| member.status == MemberStatus::Up) && state.epoch > before.epoch
    };
    wait(&world, SERVE_MAX, |world| is_up(&world.log.state())).await.map_err(|_| "it is not registered")?;
    let (committed, copies_moved) = (began.elapsed(), planned(&world.log.state()));
    wait(&world, SERVE_MAX, |world| serves(world, joining)).await.map_err(|_| "the new node has no lease")?;
    let serving = began.elapsed();
    let done = |world: &World| world.log.state().plans.running.is_none();
    wait(&world, SERVE_MAX, done).await.map_err(|_| "its copies are not made")?;
    let complete = began.elapsed();
    let joined = world.network.take_heard();
    let most_in_a_second = heard.iter().chain(joined.values()).map(|one| one.most_in_a_second).max();
    Ok(Seen {
        nodes,
        report_bytes: bytes as f64 / (reports.max(1)) as f64,
        heard_per_s: reports as f64 / nodes as f64 / COUNT_TIME.as_secs_f64(),
        most_in_a_second: most_in_a_second.unwrap_or(0),
        committed,
        serving,
        complete,
        copies_moved,
        ring: ring_time(&before, id),
    })
}

/// Waits until a condition holds.
async fn wait(world: &World, limit: Duration, is_so: impl Fn(&World) -> bool) -> Result<(), ()> {
    let began = Instant::now();
    while !is_so(world) {
        if began.elapsed() > limit {
            return Err(());
        }
        tokio::time::sleep(STEP).await;
    }
    Ok(())
}

fn serves(world: &World, number: usize) -> bool {
    world.nodes[number].process.as_ref().is_some_and(|process| process.node.is_serving())
}

fn all_serve(world: &World, nodes: usize) -> bool {
    (0..nodes).all(|number| serves(world, number))
}

fn planned(state: &ClusterState) -> u32 {
    state.plans.running.as_ref().map_or(0, |plan| plan.copies_total)
}

/// Measures the time that one core takes for the ring of these members and one more.
fn ring_time(state: &Arc<ClusterState>, joining: NodeId) -> Duration {
    let member = |node: &NodeId| RingMember { node: *node, weight: 100, zone: String::new() };
    let mut members: Vec<RingMember> = state.members.keys().map(member).collect();
    members.push(member(&joining));
    let clock = std::time::Instant::now();
    let ring = Ring::compute(&state.ring, &members, state.replication_factor);
    let took = clock.elapsed();
    assert!(ring.names(joining), "the new node has its share");
    took
}
