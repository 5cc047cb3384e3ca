//! A formed cluster of any size that one more node joins, in simulated time.
//!
//! Real: every node's planes, engine, leases, duties and reports, and the ring. Modelled: the network's delays and the
//! consensus log (`agreement.rs`), which commits and delivers with a few milliseconds of delay whatever the number of
//! learners. No client asks for anything.

use std::sync::Arc;
use std::time::Duration;

use caskade_engine::SyncPolicy;
use caskade_node::cluster::ring::{Ring, RingMember};
use caskade_node::cluster::state::{ClusterState, MemberStatus};
use caskade_node::id::NodeId;
use tokio::time::Instant;

use crate::world::{Shape, World};

/// How long the nodes may take to serve, and the join to be complete.
const SERVE_MAX: Duration = Duration::from_secs(30);
/// Over which time gossip is counted.
const COUNT_TIME: Duration = Duration::from_secs(10);
/// How finely times are told.
const STEP: Duration = Duration::from_millis(5);
/// The disks have little to do.
const SYNC_PAUSE: Duration = Duration::from_millis(400);

/// What was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Members before the join.
    pub nodes: usize,
    /// Bytes of an average report, as it is encoded.
    pub report_bytes: f64,
    /// Reports that an average node was sent in a second, nothing having changed.
    pub heard_per_s: f64,
    /// Reports that one node was sent in one second at most, the join included.
    pub most_in_a_second: u64,
    /// From the joining node's start to the committed epoch that has it for a member.
    pub committed: Duration,
    /// To when it has a lease, and serves.
    pub serving: Duration,
    /// To when its copies are in-sync and those they replace released.
    pub complete: Duration,
    /// Copies that the join moved.
    pub copies_moved: u32,
    /// What the ring took to compute, by the wall clock.
    pub ring: Duration,
}

/// Forms a cluster of this many nodes and has one more join.
///
/// # Errors
/// It does not serve, or the join does not come to its end.
pub fn grow(nodes: usize) -> Result<Seen, String> {
    crate::randomness::seed(nodes as u64);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let seen = runtime.block_on(grow_here(nodes));
    // What is left of a thousand nodes is not worth ending in order.
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
    let done = |world: &World| world.log.state().plan.is_none();
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

/// Waits until something is so.
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
    state.plan.as_ref().map_or(0, |plan| plan.copies_total)
}

/// The time one core takes for the ring of these members and one more.
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
