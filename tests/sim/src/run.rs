//! Runs one simulation: forms a cluster, attacks it while clients use it, heals it, and judges.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Once};
use std::time::Duration;

use bytes::Bytes;
use caskade_engine::slots::partition_of;
use caskade_engine::{Record, SyncPolicy};
use caskade_node::cluster::state::ReplicaRole;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::clients::{Clients, halves, is_pair};
use crate::faults::{Fault, Profile};
use crate::history::{Ask, Told};
use crate::invariants::{self, Watch};
use crate::schedule::draw;
use crate::sides;
use crate::world::{Shape, World};

/// Time limits for a cluster to form, and to heal.
const FORM_MAX: Duration = Duration::from_secs(120);
const HEAL_MAX: Duration = Duration::from_secs(180);
/// Pause between two checks of the invariants.
const LOOK_PAUSE: Duration = Duration::from_millis(40);
/// Pause between two checks whether everything has healed.
const HEAL_PAUSE: Duration = Duration::from_millis(250);
/// Sync policy of nodes with weak sync. The simulation itself decides when they sync.
const WEAK_SYNC: SyncPolicy = SyncPolicy::Interval(400);
/// Time limit and number of tries to read a key at the end.
const FINAL_PATIENCE: Duration = Duration::from_secs(15);
const FINAL_TRIES: usize = 20;
/// Pause between two tries to write a key at the end, and their number: ten seconds.
const WRITE_PAUSE: Duration = Duration::from_millis(250);
const WRITE_TRIES: usize = 40;

/// Result of a clean simulation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Operations of clients.
    pub operations: u64,
    /// Operations with an unknown outcome, of these.
    pub unknown: u64,
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Faults done.
    pub faults: u64,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// Epoch at the end.
    pub epoch: u64,
    /// Elections of a coordinator.
    pub elections: u64,
    /// Takeovers.
    pub takeovers: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operations, unknown, acknowledged, faults, simulated_ms, epoch, elections, takeovers } =
            self;
        write!(
            f,
            "clean operations={operations} unknown={unknown} acknowledged={acknowledged} faults={faults} \
             simulated_ms={simulated_ms} epoch={epoch} elections={elections} takeovers={takeovers}"
        )
    }
}

impl Report {
    /// Returns the report that a line displays; `None` for any other line.
    pub fn parse(line: &str) -> Option<Self> {
        let figures = line.strip_prefix("clean ")?;
        let figure = |name: &str| -> Option<u64> {
            let found = figures.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            found?.parse().ok()
        };
        Some(Self {
            operations: figure("operations")?,
            unknown: figure("unknown")?,
            acknowledged: figure("acknowledged")?,
            faults: figure("faults")?,
            simulated_ms: figure("simulated_ms")?,
            epoch: figure("epoch")?,
            elections: figure("elections")?,
            takeovers: figure("takeovers")?,
        })
    }
}

/// Reason and trace of a failed seed.
#[derive(Debug)]
pub struct Failed {
    /// The violated invariant.
    pub why: String,
    /// The trace, in order.
    pub trace: Vec<String>,
}

thread_local! {
    /// First panic of this thread's simulation that a task caught: the runtime would continue without that
    /// task.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Installs a hook, once, that makes every panic on a simulation's thread fail its seed.
fn note_panics() {
    static NOTED: Once = Once::new();
    NOTED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            before(panic);
            PANIC.with_borrow_mut(|noted| {
                noted.get_or_insert_with(|| panic.to_string());
            });
        }));
    });
}

/// Runs one seed on virtual time. The result is the same in every process that runs no other simulation
/// first.
///
/// # Errors
/// A violated invariant.
pub fn run(seed: u64, profile: Profile) -> Result<Report, Failed> {
    note_panics();
    crate::randomness::seed(seed);
    // On a thread of its own: earlier draws on this thread, by a log for instance, then change nothing.
    let simulation = std::thread::spawn(move || run_here(seed, profile));
    simulation.join().unwrap_or_else(|_| Err(Failed { why: "it panicked".into(), trace: Vec::new() }))
}

fn run_here(seed: u64, profile: Profile) -> Result<Report, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| Failed { why: error.to_string(), trace: Vec::new() })?;
    runtime.block_on(simulate(seed, profile))
}

async fn simulate(seed: u64, profile: Profile) -> Result<Report, Failed> {
    let mut rng = StdRng::seed_from_u64(seed);
    let nodes = *[3, 3, 3, 4, 4, 5].get(rng.random_range(0..6)).unwrap_or(&3);
    let (replicas, formed) = (if rng.random_ratio(1, 6) { 3 } else { 2 }, rng.random_ratio(7, 8));
    let rebuild_delay_ms = *[100, 1_500, 300_000].get(rng.random_range(0..3)).unwrap_or(&300_000);
    // Two of five voters may be down at one time, and then a rebuilt stand-in would leave no copy to take
    // from.
    let (nodes, rebuild_delay_ms) =
        if profile == Profile::Weak { (5, 300_000) } else { (nodes, rebuild_delay_ms) };
    let takeovers = profile == Profile::Takeover;
    let (nodes, replicas, formed) = if takeovers { (2, 2, true) } else { (nodes, replicas, formed) };
    let (sync_pause, sync) = match profile {
        Profile::Weak => (Shape::WEAK_SYNC_PAUSE, WEAK_SYNC),
        _ => (Shape::SYNC_PAUSE, SyncPolicy::Always),
    };
    let shape = Shape { nodes, replicas, formed, rebuild_delay_ms, sync_pause, sync, takeovers };
    let world = Arc::new(Mutex::new(World::new(rng.random(), &shape)));
    world.lock().only_disks = profile == Profile::Disk;
    let trace = world.lock().trace();
    let result = phases(&mut rng, profile, &shape, &world).await;
    result.map_err(|why| Failed { why, trace: trace.lines() })
}

async fn phases(
    rng: &mut StdRng,
    profile: Profile,
    shape: &Shape,
    world: &Arc<Mutex<World>>,
) -> Result<Report, String> {
    let mut watched = invariants::watched();
    wait_healed(world, &mut watched, FORM_MAX)
        .await
        .map_err(|why| format!("the cluster did not form: {why}"))?;
    world.lock().note("the cluster is formed");
    let clients = Clients::new(world.clone(), !shape.takeovers);
    clients.start(rng.random(), rng.random_range(3..=8));
    let length_ms = rng.random_range(4_000..20_000) + if shape.takeovers { 10_000 } else { 0 };
    let schedule = draw(rng, profile, shape.nodes, length_ms);
    attack(world, &mut watched, &schedule, length_ms).await?;
    world.lock().heal();
    wait_healed(world, &mut watched, HEAL_MAX).await.map_err(|why| format!("it did not heal: {why}"))?;
    clients.stop().await;
    write_everywhere(rng, &clients, world).await?;
    if profile != Profile::Weak && rng.random_ratio(1, 3) {
        world.lock().restart_everything();
        wait_healed(world, &mut watched, HEAL_MAX)
            .await
            .map_err(|why| format!("it did not come back as a whole: {why}"))?;
    }
    let absent = read_all(&clients, world).await?;
    wait_healed(world, &mut watched, HEAL_MAX)
        .await
        .map_err(|why| format!("it did not stay healed: {why}"))?;
    for invariant in invariants::healed() {
        invariant.check(&world.lock())?;
    }
    has_no_record(&world.lock(), &absent)?;
    let history = clients.history();
    let world = world.lock();
    match &world.taken_over {
        None => history.check().map_err(|error| error.to_string())?,
        Some(taken) => sides::check_sides(&history, taken)?,
    }
    let (operations, unknown) = history.count();
    Ok(Report {
        operations: operations as u64,
        unknown: unknown as u64,
        acknowledged: clients.acknowledged(),
        faults: schedule.len() as u64,
        simulated_ms: world.began.elapsed().as_millis() as u64,
        epoch: world.log.state().epoch,
        elections: world.log.elections(),
        takeovers: u64::from(world.taken_over.is_some()),
    })
}

async fn attack(
    world: &Arc<Mutex<World>>,
    watched: &mut [Box<dyn Watch>],
    schedule: &[(u64, Fault)],
    length_ms: u64,
) -> Result<(), String> {
    let began = tokio::time::Instant::now();
    for (due, fault) in schedule {
        while began.elapsed() < Duration::from_millis(*due) {
            look(world, watched)?;
            let left = Duration::from_millis(*due).saturating_sub(began.elapsed());
            tokio::time::sleep(left.min(LOOK_PAUSE)).await;
        }
        world.lock().suffer(fault);
        look(world, watched)?;
    }
    while began.elapsed() < Duration::from_millis(length_ms) {
        look(world, watched)?;
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Ok(())
}

fn look(world: &Arc<Mutex<World>>, watched: &mut [Box<dyn Watch>]) -> Result<(), String> {
    if let Some(panic) = PANIC.take() {
        return Err(format!("a task panicked: {panic}"));
    }
    let mut world = world.lock();
    if let Some(ended) = world.ended_part() {
        return Err(ended);
    }
    world.tend_generations()?;
    watched.iter_mut().try_for_each(|invariant| invariant.check(&world))
}

/// Waits until every partition has all its copies, in-sync and on the nodes of the ring, and every node
/// serves.
async fn wait_healed(
    world: &Arc<Mutex<World>>,
    watched: &mut [Box<dyn Watch>],
    limit: Duration,
) -> Result<(), String> {
    let began = tokio::time::Instant::now();
    loop {
        look(world, watched)?;
        let missing = {
            let mut world = world.lock();
            world.restart_the_fallen();
            missing(&world)
        };
        match missing {
            None => return Ok(()),
            Some(why) if began.elapsed() > limit => return Err(why),
            Some(_) => tokio::time::sleep(HEAL_PAUSE).await,
        }
    }
}

/// Returns the reason why the cluster is not whole.
fn missing(world: &World) -> Option<String> {
    let state = world.log.state();
    for (number, node) in world.nodes.iter().enumerate() {
        if state.removed_in(node.id).is_some() {
            continue;
        }
        let Some(process) = &node.process else { return Some(format!("node {number} does not run")) };
        if !process.node.is_serving() {
            return Some(format!("node {number} does not serve"));
        }
    }
    for (number, partition) in state.partitions.iter().enumerate() {
        let target = state.ring.replicas(number as u16);
        let in_sync = partition.replicas.iter().filter(|replica| replica.role == ReplicaRole::InSync);
        let holders: Vec<_> = in_sync.map(|replica| replica.node).collect();
        if holders != target || partition.replicas.len() != target.len() {
            return Some(format!("partition {number} is {partition:?}, and should be {target:?}"));
        }
    }
    state.plans.running.as_ref().map(|plan| format!("a plan is not done: {plan:?}"))
}

/// Checks that a write through a partition of every kind succeeds without a restart: a healed cluster takes
/// writes.
async fn write_everywhere(
    rng: &mut StdRng,
    clients: &Arc<Clients>,
    world: &Arc<Mutex<World>>,
) -> Result<(), String> {
    for key in clients.final_keys() {
        for tries in 1.. {
            // A present member: it may leave meanwhile.
            let nodes = world.lock().running_members();
            let Some(node) = nodes.choose(rng).copied() else { break };
            if clients.write_finally(node, key.clone(), FINAL_PATIENCE).await == Told::Set(true) {
                break;
            }
            // A node measures its disk, and receives the state of other disks, at intervals.
            tokio::time::sleep(WRITE_PAUSE).await;
            if tries == WRITE_TRIES {
                return Err(format!(
                    "{key:?} cannot be written through node {node}, though everything has healed"
                ));
            }
        }
    }
    Ok(())
}

/// Reads every key through every member; the check of the history then finds lost acknowledged writes.
/// Returns the keys whose last reply was "absent". A node that leaves may cease to be a member meanwhile, and
/// then serves no client.
async fn read_all(clients: &Arc<Clients>, world: &Arc<Mutex<World>>) -> Result<Vec<Bytes>, String> {
    let mut absent = Vec::new();
    let nodes = world.lock().running_members();
    let keys: Vec<_> = clients.history().keys().cloned().collect();
    for key in keys {
        let (one, other) = halves(&key);
        let pair = [(one, Ask::Read), (other, Ask::ReadOther)];
        for (half, ask) in pair.into_iter().take(if is_pair(&key) { 2 } else { 1 }) {
            let mut last = Told::Unknown;
            for node in &nodes {
                last = read_finally(clients, world, *node, &key, &ask).await?;
            }
            if last == Told::Value(None) {
                absent.push(half);
            }
        }
    }
    Ok(absent)
}

async fn read_finally(
    clients: &Arc<Clients>,
    world: &Arc<Mutex<World>>,
    node: usize,
    key: &Bytes,
    ask: &Ask,
) -> Result<Told, String> {
    for _ in 0..FINAL_TRIES {
        let told = clients.ask(node, key.clone(), ask.clone(), FINAL_PATIENCE).await;
        if !matches!(told, Told::Refused | Told::Unknown) || !world.lock().running_members().contains(&node) {
            return Ok(told);
        }
    }
    Err(format!("{key:?} cannot be read through node {node}"))
}

/// Checks that no copy holds a value of these keys, which a primary answered as absent: a copy that does
/// would show them again where its clock is behind (rule R13).
fn has_no_record(world: &World, absent: &[Bytes]) -> Result<(), String> {
    let state = world.log.state();
    for key in absent {
        let partition = &state.partitions[usize::from(partition_of(key))];
        for (number, node) in world.nodes.iter().enumerate() {
            let in_sync = partition.replica(node.id).is_some_and(|copy| copy.role == ReplicaRole::InSync);
            let Some(process) = node.process.as_ref().filter(|_| in_sync) else { continue };
            if let Ok(Some(Record { value: Some(_), expiry_ms, .. })) = process.engine.read(key) {
                return Err(format!(
                    "{key:?} was absent when it was read, and node {number} has a value of it \
                     (expiry {expiry_ms})"
                ));
            }
        }
    }
    Ok(())
}
