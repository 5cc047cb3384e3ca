//! The network between the simulated nodes.
//!
//! As over TCP, messages on one connection arrive in order or not at all. A blocked path holds them back
//! until the path opens or the connection breaks. A broken connection ends every call on it: the sender never
//! learns whether it was handled. Its messages may arrive all the same, seconds late and after those of the
//! next connection, as happens where a kernel sends on for a process that has closed or died. A paused
//! process finds the messages that had arrived before. Calls of different classes overtake each other. Gossip
//! may be lost. The seed draws all delays.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caskade_node::id::NodeId;
use caskade_node::net::{CallError, Class, Done, Responder, Transport};
use caskade_node::runtime::Node;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::machine::SimMachine;

/// Chance in a thousand that a gossiped report is lost.
const GOSSIP_LOSS: u32 = 100;
/// Chance in a thousand that messages of a connection arrive after it broke; and the most milliseconds they
/// are late: one of these.
const LATE_OF_1000: u32 = 250;
const LATE_MS_MAX: [u64; 3] = [20, 500, 6_000];

type Pair = (NodeId, NodeId);

/// Key of a lane, on which parcels arrive in the order of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lane {
    connection: u64,
    from: NodeId,
    to: NodeId,
    class: u8,
    answers: bool,
}

/// Process that takes part.
#[derive(Clone)]
struct Endpoint {
    machine: Arc<SimMachine>,
    node: Option<Arc<Node>>,
    /// Answers the control class before the node exists.
    early: Option<Early>,
}

/// Function that answers a call, or drops it.
pub type Early = Arc<dyn Fn(&[u8]) -> Option<Bytes> + Send + Sync>;

/// Parcel on a lane: an action at its end, on a running machine.
struct Parcel {
    due: Instant,
    /// Process it is for: a restarted process never receives parcels for the one before.
    machine: Option<Arc<SimMachine>>,
    deliver: Box<dyn FnOnce(&Endpoint) + Send>,
}

/// Unanswered call.
struct OpenCall {
    from: NodeId,
    connection: u64,
    done: Done,
}

/// Gossip sent to one node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard {
    /// Number of reports.
    pub reports: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Most reports in one second.
    pub most_in_a_second: u64,
    /// Last second with a report, and its number of reports.
    second: (u64, u64),
}

impl Heard {
    fn add(&mut self, bytes: usize) {
        let now_s = crate::machine::virtual_us() / 1_000_000;
        if self.second.0 != now_s {
            self.second = (now_s, 0);
        }
        self.second.1 += 1;
        self.reports += 1;
        self.bytes += bytes as u64;
        self.most_in_a_second = self.most_in_a_second.max(self.second.1);
    }
}

struct State {
    rng: StdRng,
    endpoints: BTreeMap<NodeId, Endpoint>,
    /// Lanes of the present connections.
    lanes: BTreeMap<Lane, mpsc::UnboundedSender<Parcel>>,
    /// Present connection of a pair; the next call replaces a broken one.
    connections: BTreeMap<Pair, u64>,
    /// Broken connections whose messages arrive all the same, from the given time on.
    late: BTreeMap<u64, Instant>,
    calls: BTreeMap<u64, OpenCall>,
    next: u64,
    /// Blocked directions, with the number of blocks.
    blocked: BTreeMap<Pair, u32>,
    /// Nodes with slow messages, and the factor.
    slow: BTreeMap<NodeId, u32>,
    /// Most unanswered calls at one time.
    calls_max: usize,
    heard: BTreeMap<NodeId, Heard>,
}

/// The network; a clone shares it.
#[derive(Clone)]
pub struct SimNetwork {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
}

impl SimNetwork {
    /// Creates a network without nodes.
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            endpoints: BTreeMap::new(),
            lanes: BTreeMap::new(),
            connections: BTreeMap::new(),
            late: BTreeMap::new(),
            calls: BTreeMap::new(),
            next: 0,
            blocked: BTreeMap::new(),
            slow: BTreeMap::new(),
            calls_max: 0,
            heard: BTreeMap::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::new(watch::Sender::new(0)) }
    }

    /// Adds a process; calls reach it once [`SimNetwork::serve`] has named its node.
    pub fn attach(&self, id: NodeId, machine: Arc<SimMachine>) -> Arc<dyn Transport> {
        self.state
            .lock()
            .endpoints
            .insert(id, Endpoint { machine: machine.clone(), node: None, early: None });
        Arc::new(Port { network: self.clone(), id, machine })
    }

    /// Sets the function that answers calls of the control class until the node exists.
    pub fn serve_early(&self, id: NodeId, early: Early) {
        if let Some(endpoint) = self.state.lock().endpoints.get_mut(&id) {
            endpoint.early = Some(early);
        }
    }

    /// Starts a task of a node's process, if that runs.
    pub fn with_node<F: Future<Output = ()> + Send + 'static>(
        &self,
        id: NodeId,
        task: impl FnOnce(Arc<Node>) -> F,
    ) {
        let endpoint = self.state.lock().endpoints.get(&id).cloned();
        if let Some(Endpoint { node: Some(node), .. }) = endpoint {
            node.host().clone().spawn(task(node));
        }
    }

    /// Passes calls to this node from now on.
    pub fn serve(&self, id: NodeId, node: Arc<Node>) {
        if let Some(endpoint) = self.state.lock().endpoints.get_mut(&id) {
            endpoint.node = Some(node);
        }
    }

    /// Removes a process: its peers learn of it within `notice`.
    pub fn detach(&self, id: NodeId, notice: Duration) {
        self.state.lock().endpoints.remove(&id);
        self.break_connections(|pair| pair.0 == id || pair.1 == id, notice);
    }

    /// Blocks all messages from one node to the other, until the same number of calls of
    /// [`SimNetwork::open`].
    pub fn block(&self, from: NodeId, to: NodeId) {
        *self.state.lock().blocked.entry((from, to)).or_default() += 1;
    }

    /// Ends one [`SimNetwork::block`].
    pub fn open(&self, from: NodeId, to: NodeId) {
        let mut state = self.state.lock();
        if let Some(count) = state.blocked.get_mut(&(from, to)) {
            *count -= 1;
            if *count == 0 {
                state.blocked.remove(&(from, to));
            }
        }
        drop(state);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Opens every path, and makes every node as fast as the others.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.blocked.clear();
        state.slow.clear();
        drop(state);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Multiplies the delays of a node's messages, sent and received; 1 is normal.
    pub fn slow_down(&self, id: NodeId, factor: u32) {
        self.state.lock().slow.insert(id, factor);
    }

    /// Breaks the connections between two nodes.
    pub fn break_connection(&self, a: NodeId, b: NodeId) {
        // One side may use a new connection before it learns the outcome of calls on the old one.
        let millis = self.state.lock().rng.random_range(1..300);
        self.break_connections(|pair| *pair == ordered(a, b), Duration::from_millis(millis));
    }

    /// Returns whether messages pass in both directions, and both processes run.
    pub fn can_talk(&self, a: NodeId, b: NodeId) -> bool {
        let state = self.state.lock();
        let running =
            |id| state.endpoints.get(&id).is_some_and(|endpoint: &Endpoint| endpoint.machine.is_running());
        let open = !state.blocked.contains_key(&(a, b)) && !state.blocked.contains_key(&(b, a));
        running(a) && running(b) && (a == b || open)
    }

    /// Returns the most calls that were unanswered at one time.
    pub fn calls_max(&self) -> usize {
        self.state.lock().calls_max
    }

    /// Returns the gossip sent to each node since the last call.
    pub fn take_heard(&self) -> BTreeMap<NodeId, Heard> {
        std::mem::take(&mut self.state.lock().heard)
    }

    /// Ends the calls on the connections of these pairs, at their senders, within `notice`.
    fn break_connections(&self, which: impl Fn(&Pair) -> bool, notice: Duration) {
        let mut state = self.state.lock();
        let broken: Vec<u64> = state
            .connections
            .iter()
            .filter(|(pair, _)| which(pair))
            .map(|(_, connection)| *connection)
            .collect();
        state.connections.retain(|pair, _| !which(pair));
        state.lanes.retain(|lane, _| !broken.contains(&lane.connection));
        for connection in &broken {
            if state.rng.random_ratio(LATE_OF_1000, 1000) {
                let late_ms = *LATE_MS_MAX.choose(&mut state.rng).unwrap_or(&1);
                let late = Duration::from_millis(state.rng.random_range(0..late_ms));
                state.late.insert(*connection, Instant::now() + late);
            }
        }
        let lost: Vec<u64> = state
            .calls
            .iter()
            .filter(|(_, call)| broken.contains(&call.connection))
            .map(|(id, _)| *id)
            .collect();
        let mut ends = Vec::new();
        for id in lost {
            if let Some(call) = state.calls.remove(&id) {
                let sender = state.endpoints.get(&call.from).map(|endpoint| Arc::clone(&endpoint.machine));
                ends.push((sender, call.done));
            }
        }
        let delay = notice.mul_f64(state.rng.random_range(0.1..1.0));
        drop(state);
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            for (sender, done) in ends {
                finish(sender, done, Err(CallError::Lost("the connection broke".into()))).await;
            }
        });
    }

    fn push(&self, sender: &Port, to: NodeId, class: Class, body: Bytes, done: Done) {
        let from = sender.id;
        let mut state = self.state.lock();
        let pair = ordered(from, to);
        let blocked = state.blocked.contains_key(&(from, to)) || state.blocked.contains_key(&(to, from));
        let answers = |endpoint: &Endpoint| endpoint.node.is_some() || endpoint.early.is_some();
        let there = state.endpoints.get(&to).is_some_and(answers);
        if !state.connections.contains_key(&pair) && (blocked || !there) {
            // A new connection has no peer: it is refused soon, or times out.
            let delay = Duration::from_millis(if blocked { state.rng.random_range(20..1000) } else { 1 });
            drop(state);
            let machine = Arc::clone(&sender.machine);
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                finish(Some(machine), done, Err(CallError::NotSent("nobody answers".into()))).await;
            });
            return;
        }
        let id = state.number();
        let fresh = state.number();
        let connection = *state.connections.entry(pair).or_insert(fresh);
        state.calls.insert(id, OpenCall { from, connection, done });
        state.calls_max = state.calls_max.max(state.calls.len());
        let network = self.clone();
        let deliver = Box::new(move |endpoint: &Endpoint| {
            let reply =
                Responder::new(move |answer| network.answer(id, (from, to), class, connection, answer));
            if let Some(node) = &endpoint.node {
                node.on_call(from, class, body, reply);
            } else if let Some(early) = &endpoint.early
                && class == Class::Control
                && let Some(answer) = early(&body)
            {
                reply.send(answer);
            }
        });
        let lane = Lane { connection, from, to, class: class as u8, answers: false };
        self.send(&mut state, lane, deliver);
    }

    /// Sends the answer of a call back; `None` for a call that was dropped.
    fn answer(&self, id: u64, (from, to): Pair, class: Class, connection: u64, answer: Option<Bytes>) {
        let network = self.clone();
        let mut state = self.state.lock();
        // A dead process sends nothing.
        if state.endpoints.get(&to).is_none_or(|endpoint| endpoint.machine.is_dead()) {
            return;
        }
        // The caller waits no longer: its connection broke.
        if !state.calls.contains_key(&id) {
            return;
        }
        let result = answer.ok_or_else(|| CallError::Lost("the peer dropped the call".into()));
        let deliver = Box::new(move |_: &Endpoint| {
            let call = network.state.lock().calls.remove(&id);
            if let Some(call) = call {
                call.done.finish(result);
            }
        });
        let lane = Lane { connection, from: to, to: from, class: class as u8, answers: true };
        self.send(&mut state, lane, deliver);
    }

    fn send(&self, state: &mut State, lane: Lane, deliver: Box<dyn FnOnce(&Endpoint) + Send>) {
        let due = Instant::now() + state.delay(lane.from, lane.to);
        let machine = state.endpoints.get(&lane.to).map(|endpoint| Arc::clone(&endpoint.machine));
        let parcels = state.lanes.entry(lane).or_insert_with(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            tokio::spawn(self.clone().carry(lane, receiver));
            sender
        });
        // The lane lives as long as its connection.
        let _ = parcels.send(Parcel { due, machine, deliver });
    }

    /// Delivers the parcels of one lane in order, and also the rest if the connection breaks late or not at
    /// all.
    async fn carry(self, lane: Lane, mut parcels: mpsc::UnboundedReceiver<Parcel>) {
        while let Some(parcel) = parcels.recv().await {
            tokio::time::sleep_until(parcel.due).await;
            if !self.arrives(lane).await {
                return;
            }
            // A paused process handles the parcels that have arrived once it continues, even if the
            // connection is broken by then.
            let endpoint = self.state.lock().endpoints.get(&lane.to).cloned();
            let is_same = |endpoint: &Endpoint| {
                parcel.machine.as_ref().is_some_and(|machine| Arc::ptr_eq(machine, &endpoint.machine))
            };
            let Some(endpoint) = endpoint.filter(is_same) else { return };
            if !endpoint.machine.running().await {
                return;
            }
            endpoint.machine.step(|| (parcel.deliver)(&endpoint));
        }
    }

    /// Waits until the next parcel of a lane arrives. Returns false if none arrives any more.
    async fn arrives(&self, lane: Lane) -> bool {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let (blocked, current, late) = {
                let state = self.state.lock();
                let current = state.connections.get(&ordered(lane.from, lane.to)) == Some(&lane.connection);
                let late = state.late.get(&lane.connection).copied();
                (state.blocked.contains_key(&(lane.from, lane.to)), current, late)
            };
            match late.filter(|_| !current) {
                None if !current => return false,
                Some(late) if late > Instant::now() => tokio::time::sleep_until(late).await,
                _ if !blocked => return true,
                _ => drop(tokio::time::timeout(Duration::from_millis(100), changed.changed()).await),
            }
        }
    }

    fn gossip(&self, from: NodeId, data: &[u8]) {
        let mut state = self.state.lock();
        let others: Vec<NodeId> = state.endpoints.keys().copied().filter(|id| *id != from).collect();
        let data: Arc<[u8]> = data.into();
        for to in others {
            state.heard.entry(to).or_default().add(data.len());
            if state.rng.random_ratio(GOSSIP_LOSS, 1000) || state.blocked.contains_key(&(from, to)) {
                continue;
            }
            let (delay, data, network) = (state.delay(from, to), Arc::clone(&data), self.clone());
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let endpoint = network.state.lock().endpoints.get(&to).cloned();
                if let Some(Endpoint { machine, node: Some(node), .. }) = endpoint
                    && machine.is_running()
                {
                    machine.step(|| node.on_gossip(from, &data));
                }
            });
        }
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn delay(&mut self, from: NodeId, to: NodeId) -> Duration {
        let micros = match self.rng.random_range(0..100) {
            0 => self.rng.random_range(5_000..60_000),
            1..=9 => self.rng.random_range(1_000..5_000),
            _ => self.rng.random_range(50..1_000),
        };
        let slow = |id| self.slow.get(&id).copied().unwrap_or(1);
        Duration::from_micros(micros) * slow(from).max(slow(to))
    }
}

fn ordered(a: NodeId, b: NodeId) -> Pair {
    if a < b { (a, b) } else { (b, a) }
}

/// Reports the outcome of a call to its caller, once its machine runs; never, if that is dead.
async fn finish(machine: Option<Arc<SimMachine>>, done: Done, result: Result<Bytes, CallError>) {
    if let Some(machine) = machine
        && machine.running().await
    {
        machine.step(|| done.finish(result));
    }
}

/// End of the network at one node.
struct Port {
    network: SimNetwork,
    id: NodeId,
    machine: Arc<SimMachine>,
}

impl Transport for Port {
    fn push_call(&self, to: NodeId, class: Class, body: Bytes, done: Done) {
        if self.machine.is_dead() {
            return;
        }
        self.network.push(self, to, class, body, done);
    }

    fn set_peers(&self, _peers: HashMap<NodeId, Vec<String>>) {}

    fn publish(&self, data: Vec<u8>) -> bool {
        if self.machine.is_running() {
            self.network.gossip(self.id, &data);
        }
        true
    }

    fn disconnect(&self, peer: NodeId) {
        if self.machine.is_running() {
            self.network.break_connection(self.id, peer);
        }
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.network.detach(self.id, Duration::from_millis(2));
        Box::pin(std::future::ready(()))
    }
}
