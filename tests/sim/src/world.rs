//! The simulated cluster: its nodes with their disks and processes, and the operations on them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use caskade_engine::replicated::{Store, TakenGroup};
use caskade_engine::testing::FaultyFileSystem;
use caskade_engine::{Options, SyncPolicy};
use caskade_node::cluster::operations::AdminOperation;
use caskade_node::cluster::state::{
    Announcement, Change, ClusterState, PrimaryRef, ReplicaRef, ReplicaRole, StoreCondition,
};
use caskade_node::config::Settings;
use caskade_node::data::DamageFound;
use caskade_node::disk::Mark;
use caskade_node::host::Host;
use caskade_node::id::{ClusterId, Incarnation, NodeId};
use caskade_node::net::Peers;
use caskade_node::runtime::{BUILD, Node, Parts, supported_versions};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use crate::agreement::ModelLog;
use crate::machine::{Clocks, Handle, SimMachine};
use crate::network::SimNetwork;
use crate::takeover::note_superseded;

/// Name of the cluster of all simulations.
const CLUSTER: ClusterId = ClusterId::from_bytes([0xca; 16]);
/// Size at which a data file is sealed, in bytes: a few hundred records.
const MAX_FILE_SIZE: u64 = 64 << 10;
/// Low mark of free space, in bytes: a few records.
pub const DISK_LOW: u64 = 192 << 10;
/// Minimum mark of free space, in bytes.
pub const DISK_MINIMUM: u64 = 96 << 10;
/// Pause between two merges and checks for hint files.
const TEND_PAUSE: Duration = Duration::from_secs(3);

/// Members of a formed cluster that are placed in the ring one after the other; further ones are placed at
/// once.
const ONE_BY_ONE_MAX: usize = 16;

/// Properties of the cluster of a seed.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Nodes at the beginning.
    pub nodes: usize,
    /// Copies of each key.
    pub replicas: u8,
    /// Whether all nodes are members from the beginning; else all but the first join.
    pub formed: bool,
    /// Time a node is away before its copies are made again, in milliseconds.
    pub rebuild_delay_ms: u32,
    /// Longest pause of a disk between two syncs, in microseconds.
    pub sync_pause: Duration,
    /// Sync policy of a node's store.
    pub sync: SyncPolicy,
    /// Whether there are takeovers: then the only voter of two compares generations when it starts.
    pub takeovers: bool,
}

impl Shape {
    /// Pause of a disk in a cluster under attack, in microseconds.
    pub const SYNC_PAUSE: Duration = Duration::from_millis(2);
    /// The same with weak sync.
    pub const WEAK_SYNC_PAUSE: Duration = Duration::from_millis(400);
}

/// Running process of a node.
pub struct Process {
    /// The node.
    pub node: Arc<Node>,
    /// Its machine.
    pub machine: Arc<SimMachine>,
    /// Its clocks and tasks.
    pub host: Host,
    /// Its store.
    pub engine: Store,
    /// Time of its start, in microseconds.
    pub since_us: u64,
    /// Once it must begin again: whether it has stopped.
    pub(crate) ending: Option<Arc<AtomicBool>>,
}

/// Process that compares generations before its node is assembled (rule R10).
pub(crate) struct Comparing {
    pub(crate) parts: Parts,
    pub(crate) machine: Arc<SimMachine>,
    pub(crate) engine: Store,
    pub(crate) seed: u64,
    /// Whether its log must be given up, once that is known.
    pub(crate) outcome: Arc<Mutex<Option<Result<bool, String>>>>,
}

/// Course of a takeover.
#[derive(Clone, Copy, Debug)]
pub struct TakenOver {
    /// Time at which the next log was founded, in microseconds.
    pub at_us: u64,
    /// See [`Next`](crate::agreement::Next).
    pub parted_us: u64,
    /// Time at which nothing of the side that was given up was left to be merged, in microseconds.
    pub merged_us: Option<u64>,
}

/// One node, running or not.
pub struct SimNode {
    /// Its name.
    pub id: NodeId,
    /// Its disk.
    pub disk: FaultyFileSystem,
    /// Its process, if one runs.
    pub process: Option<Process>,
    /// The topology log on its disk.
    pub log: ModelLog,
    pub(crate) comparing: Option<Comparing>,
    /// Note on its disk: the generation for which that log must be given up.
    pub(crate) superseded: Arc<Mutex<Option<u32>>>,
    /// Note on its disk: the generation for which it gave a log up.
    pub(crate) generation_floor: u32,
    /// Its machine's clocks.
    pub clocks: Clocks,
    incarnation: Arc<AtomicU64>,
    /// Longest pause of its disk between two syncs, in microseconds.
    sync_pause_us: Arc<AtomicU64>,
}

/// The simulated cluster.
pub struct World {
    /// Beginning of the simulation.
    pub began: Instant,
    /// Randomness of the choice of faults.
    pub rng: StdRng,
    /// The network.
    pub network: SimNetwork,
    /// The topology log; of several, the one of the newest generation.
    pub log: ModelLog,
    /// The takeover, if there was one.
    pub taken_over: Option<TakenOver>,
    /// The nodes.
    pub nodes: Vec<SimNode>,
    /// Node whose disk flips bits, if any: never two, so that one whole copy is left.
    pub flipping: Option<usize>,
    /// With weak sync: the newest epoch of a moment ago. Writes acknowledged before it are synced.
    pub settled_epoch: u64,
    /// Whether only disks fail and, in few seeds, processes.
    pub only_disks: bool,
    /// Time at which a process last ended or started, in microseconds.
    pub process_changed_us: u64,
    settings: Settings,
    sync_pause: Duration,
    pub(crate) takeovers: bool,
    trace: Arc<Trace>,
}

/// The trace of a simulation, for the analysis of a failure.
#[derive(Default)]
pub struct Trace(Mutex<Vec<String>>);

impl Trace {
    /// Adds a line.
    pub fn note(&self, began: Instant, text: &str) {
        let line = format!("{:>8} ms  {text}", began.elapsed().as_millis());
        tracing::info!("=== {text}");
        self.0.lock().push(line);
    }

    /// Returns all lines.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

impl World {
    /// Creates a cluster with one running node, which founds it.
    pub fn new(seed: u64, shape: &Shape) -> Self {
        crate::machine::begin(Instant::now());
        let mut rng = StdRng::seed_from_u64(seed);
        let network = SimNetwork::new(rng.random());
        let log = ModelLog::new(rng.random(), network.clone());
        let mut settings = Settings::default();
        (settings.replicas, settings.sync) = (shape.replicas, shape.sync);
        settings.rebuild_delay_ms = shape.rebuild_delay_ms;
        (settings.disk_low, settings.disk_minimum) = (Mark::Bytes(DISK_LOW), Mark::Bytes(DISK_MINIMUM));
        let mut world = Self {
            began: Instant::now(),
            rng,
            network,
            log,
            taken_over: None,
            nodes: Vec::new(),
            flipping: None,
            settled_epoch: 0,
            only_disks: false,
            process_changed_us: 0,
            settings,
            sync_pause: shape.sync_pause,
            takeovers: shape.takeovers,
            trace: Arc::default(),
        };
        for _ in 0..shape.nodes {
            world.add_node();
        }
        world.found(shape);
        for number in 0..shape.nodes {
            world.start(number);
        }
        world
    }

    /// Founds the cluster: with its first node alone, or with all of them, each with its empty share.
    fn found(&self, shape: &Shape) {
        let (replication_factor, lease_ms) = (shape.replicas, self.settings.lease_ms);
        let founder = self.announcement(0, 1);
        let rebuild_delay_ms = self.settings.rebuild_delay_ms;
        let found =
            Change::Found { cluster_id: CLUSTER, replication_factor, lease_ms, rebuild_delay_ms, founder };
        let mut state = ClusterState::default();
        state.apply(&[found]);
        let members = if shape.formed { shape.nodes } else { 1 };
        let registered = (1..members).map(|number| Change::Register(self.announcement(number, 1)));
        if members > ONE_BY_ONE_MAX {
            let mut changes = vec![Change::SetAutoRebalance { enabled: false }];
            changes.extend(registered);
            changes.push(Change::Operate { operation: AdminOperation::Rebalance, basis: None });
            changes.push(Change::SetAutoRebalance { enabled: true });
            state.apply(&changes);
        } else {
            registered.for_each(|change| drop(state.apply(&[change])));
        }
        loop {
            let due = settling(&state);
            if due.is_empty() {
                break;
            }
            state.apply(&due);
        }
        let nodes = self.nodes.iter().take(members).map(|node| node.id);
        self.log.found(nodes.collect(), state);
    }

    /// Returns the trace so far.
    pub fn trace(&self) -> Arc<Trace> {
        Arc::clone(&self.trace)
    }

    /// Adds a line to the trace.
    pub fn note(&self, text: &str) {
        self.trace.note(self.began, text);
    }

    /// Creates a node that was never started, with an empty disk.
    pub fn add_node(&mut self) -> usize {
        let number = self.nodes.len();
        let mut id = [0xff; 32];
        // Beyond 256 nodes the second byte distinguishes them.
        (id[0], id[1]) = (number as u8, 0xff - (number >> 8) as u8);
        let clocks = Clocks::draw(&mut self.rng);
        self.nodes.push(SimNode {
            id: NodeId::from_bytes(id),
            disk: FaultyFileSystem::new(),
            process: None,
            log: self.log.clone(),
            comparing: None,
            superseded: Arc::default(),
            generation_floor: 0,
            clocks,
            incarnation: Arc::default(),
            sync_pause_us: Arc::new(AtomicU64::new(self.sync_pause.as_micros() as u64)),
        });
        number
    }

    /// Starts a node's process on the contents of its disk. Returns false if it cannot start now.
    pub fn start(&mut self, number: usize) -> bool {
        let (engine, recovery) =
            match Store::open_on(Arc::new(self.nodes[number].disk.clone()), self.options()) {
                Ok(opened) => opened,
                Err(error) => {
                    self.note(&format!("node {number} does not start: {error}"));
                    return false;
                }
            };
        let damage = DamageFound::of(&recovery);
        if let Some(DamageFound { message, .. }) = &damage {
            self.note(&format!("the store of node {number} is damaged: {message}"));
        }
        self.settle_log(number);
        let seed = self.rng.random();
        let node = &self.nodes[number];
        let machine = SimMachine::new(format!("n{number}").into(), self.began, node.clocks.clone());
        let host = Host::simulated(Arc::new(Handle(machine.clone())));
        let incarnation = node.incarnation.fetch_add(1, Ordering::SeqCst) + 1;
        let counter = node.incarnation.clone();
        let own = self.announcement(number, incarnation);
        let parts = Parts {
            host: host.clone(),
            id: node.id,
            incarnation,
            next_incarnation: Box::new(move || Ok(counter.fetch_add(1, Ordering::SeqCst) + 1)),
            cluster_id: CLUSTER,
            coordinator_hint: self.log.leader().filter(|leader| *leader != node.id),
            heard_addrs: HashMap::new(),
            settings: self.settings.clone(),
            peer_addrs: own.peer_addrs,
            client_addr: own.client_addr,
            peers: Peers::new(self.network.attach(node.id, machine.clone())),
            topology: node.log.join(node.id, machine.clone()),
            engine: engine.clone(),
            damage,
            generation_floor: node.generation_floor,
            note_superseded: note_superseded(&node.superseded),
        };
        self.note(&format!("node {number} starts, incarnation {incarnation}"));
        if self.compares(number, &parts) {
            self.begin_comparing(number, parts, machine, (engine, seed));
        } else {
            self.assemble(number, parts, machine, (engine, seed));
        }
        true
    }

    /// Assembles a node that runs from now on.
    pub(crate) fn assemble(
        &mut self,
        number: usize,
        parts: Parts,
        machine: Arc<SimMachine>,
        (engine, seed): (Store, u64),
    ) {
        let (network, id, host) = (self.network.clone(), parts.id, parts.host.clone());
        let node = machine.step(|| Node::assemble(parts, |node| network.serve(id, node)));
        let sync_pause_us = self.nodes[number].sync_pause_us.clone();
        // The tasks of a half-assembled node run no further; the seed fails.
        let crashed = machine.clone();
        host.supervisor().on_end(move || crashed.kill());
        host.spawn(run_disk(engine.clone(), self.settings.sync, seed, sync_pause_us));
        let since_us = crate::machine::virtual_us();
        self.process_changed_us = since_us;
        self.nodes[number].process = Some(Process { node, machine, host, engine, since_us, ending: None });
    }

    /// Returns the part of a node that has ended unexpectedly, if one has.
    pub fn ended_part(&self) -> Option<String> {
        let mut processes =
            self.nodes.iter().enumerate().filter_map(|(number, node)| Some((number, node.process.as_ref()?)));
        processes.find_map(|(number, process)| {
            let ended = process.host.supervisor().has_ended()?;
            Some(format!("node {number} lost a part: {ended}"))
        })
    }

    /// Ends a process at once. With `power_loss` its disk keeps only synced bytes, and its peers notice late.
    pub fn crash(&mut self, number: usize, power_loss: bool) {
        let process = self.nodes[number].process.take().map(|process| process.machine);
        let comparing = self.nodes[number].comparing.take().map(|comparing| comparing.machine);
        let Some(machine) = process.or(comparing) else { return };
        self.note(&format!("node {number} {}", if power_loss { "loses power" } else { "is killed" }));
        machine.kill();
        self.process_changed_us = crate::machine::virtual_us();
        let seed = self.rng.random();
        let node = &mut self.nodes[number];
        if power_loss {
            node.clocks.reboot(&mut self.rng);
        }
        node.disk = if power_loss { node.disk.crashed(seed) } else { node.disk.killed() };
        let notice = Duration::from_millis(if power_loss { 5_000 } else { 5 });
        self.network.detach(node.id, notice);
        node.log.leave(node.id);
    }

    /// Stops a node as planned, in the background.
    pub fn stop(&mut self, number: usize) {
        let Some(process) = &self.nodes[number].process else { return };
        self.note(&format!("node {number} is asked to stop"));
        let node = process.node.clone();
        process.host.spawn(async move { node.stop().await });
    }

    /// Pauses or resumes a process.
    pub fn pause(&mut self, number: usize, paused: bool) {
        let Some(process) = &self.nodes[number].process else { return };
        let machine = process.machine.clone();
        self.note(&format!("node {number} is {}", if paused { "paused" } else { "resumed" }));
        if paused { machine.pause() } else { machine.resume() }
    }

    /// Sets the longest pause of a node's disk between two syncs.
    pub fn set_sync_pause(&self, number: usize, pause: Duration) {
        self.nodes[number].sync_pause_us.store(pause.as_micros() as u64, Ordering::Relaxed);
    }

    /// Returns the numbers of the nodes whose process runs, paused ones included.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|number| self.nodes[*number].process.is_some()).collect()
    }

    /// Returns those of them that were not removed: a removed node ends as soon as it learns of its removal.
    pub fn running_members(&self) -> Vec<usize> {
        let state = self.log.state();
        self.running()
            .into_iter()
            .filter(|number| state.removed_in(self.nodes[*number].id).is_none())
            .collect()
    }

    fn announcement(&self, number: usize, incarnation: Incarnation) -> Announcement {
        let versions = supported_versions();
        Announcement {
            node: self.nodes[number].id,
            incarnation,
            peer_addrs: vec![format!("/sim/{number}")],
            client_addr: format!("node-{number}:7900"),
            zone: self.settings.zone.clone(),
            weight: self.settings.weight,
            build: BUILD.to_owned(),
            protocol: *versions.end(),
            protocol_min: *versions.start(),
            store: match self.settings.sync {
                SyncPolicy::Always => StoreCondition::Whole,
                _ => StoreCondition::Unsynced,
            },
        }
    }

    fn options(&self) -> Options {
        let mut options = Options::new("/store");
        options.sync = self.settings.sync;
        options.max_file_size = MAX_FILE_SIZE;
        options.max_value_bytes = 1 << 16;
        options.append_buffer_bytes = 4 << 20;
        options.merge_small_file = 0;
        options.merge_trigger_bytes = 1 << 14;
        options.map_files = false;
        options.reserve_bytes = 0;
        options.background = false;
        options.log_thread = false;
        options
    }
}

/// Returns the changes that nodes would propose next to place an empty cluster's copies as in the ring.
fn settling(state: &ClusterState) -> Vec<Change> {
    let mut changes = Vec::new();
    for (partition, entry) in state.partitions() {
        let primary = PrimaryRef { partition, term: entry.term, incarnation: 1 };
        let syncing = entry.replicas.iter().filter(|replica| replica.role == ReplicaRole::Syncing);
        changes.extend(syncing.map(|replica| Change::CaughtUp {
            primary,
            replica: ReplicaRef { node: replica.node, incarnation: 1, syncing_since: replica.syncing_since },
            source_digest: 0,
            target_digest: 0,
            sent_keys: 0,
            sent_bytes: 0,
        }));
        if state.hand_over_due(partition) {
            changes.push(Change::HandOver(primary));
        }
    }
    changes
}

/// Does the work of an engine's threads: commits waiting appends, and merges at intervals.
async fn run_disk(engine: Store, sync: SyncPolicy, seed: u64, sync_pause_us: Arc<AtomicU64>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tended = Instant::now();
    loop {
        let longest = sync_pause_us.load(Ordering::Relaxed);
        let (idle, busy) = (rng.random_range(0..=longest / 2), rng.random_range(longest / 4..=longest / 2));
        tokio::time::sleep(Duration::from_micros(idle)).await;
        let group = if sync == SyncPolicy::Always { engine.take_appends() } else { None };
        // Appends that arrive while the disk is busy wait for the next group.
        tokio::time::sleep(Duration::from_micros(busy)).await;
        match sync {
            SyncPolicy::Always => group.into_iter().for_each(TakenGroup::commit),
            // The next append reports a failure.
            _ => drop(engine.sync()),
        }
        if tended.elapsed() >= TEND_PAUSE {
            tended = Instant::now();
            // Stores that sync late are merged completely, so that tombstones are dropped as soon as they may
            // be.
            let tends = if sync == SyncPolicy::Always { engine.run_once() } else { engine.merge() };
            // The next append reports a full or failed disk.
            if let Err(error) = tends {
                tracing::info!(%error, "no merge");
            }
        }
    }
}
