//! One running node: starts its parts, connects them, and stops them.

mod addresses;
mod admin;
mod admission;
mod authorize;
mod bootstrap;
mod clients;
mod cluster_time;
mod control;
mod disk;
mod duties;
mod events;
mod from_settings;
#[cfg(any(test, feature = "internals"))]
pub(crate) mod fuzz;
mod generation;
mod give_up;
mod gossip;
mod join;
mod last_words;
mod lease;
mod leaving;
mod node_operations;
mod operations;
mod private;
mod proposer;
mod protocol_version;
mod rejoin_as_new;
pub mod reload;
mod states;
mod stopping;
mod store;
mod superseded_log;
mod takeover;
mod wiring;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use bytes::Bytes;
use caskade_engine::replicated;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;

use self::addresses::{client_addr, peer_addrs};
use self::bootstrap::HeardAddrs;
use self::control::{CONTROL_BYTES_MAX, Control, ControlAnswer, Envelope};
use self::events::EventLog;
use self::from_settings::{limits, network_config};
pub use self::generation::{RestartRequired, answer_early, compare};
use self::gossip::Reports;
pub use self::join::JoinError;
pub use self::last_words::note_last_words;
use self::proposer::Batch;
pub use self::protocol_version::supported_versions;
use self::stopping::Stopping;
use self::store::{Past, Store, condition as store_condition};
pub use self::superseded_log::{NoteSuperseded, Returning};
use self::wiring::{Inbound, LogTransport};
use crate::cluster::lease::LeaseTable;
use crate::cluster::state::{Announcement, Change};
use crate::cluster::time::TimeKeeper;
use crate::config::Settings;
use crate::data::{self, DamageFound, Plane};
use crate::frontend::limits::ClientLimits;
use crate::frontend::stats::Stats;
use crate::host::Host;
use crate::id::{ClusterId, Epoch, Incarnation, NodeId};
use crate::identity::{ClusterSecret, Identity};
use crate::kv::Operation;
use crate::kv::Ticket;
use crate::net::{Class, Network, Peers, Refusals, Refused, Responder, wire};
use crate::supervise::{Part, Supervisor};
use crate::topology::{Agreement, Topology, TopologyConfig};

/// Number of checks for voters, 10 ms apart, while a topology log begins.
const VOTERS_LOOKS: u32 = 300;
/// Version of this build.
pub const BUILD: &str = env!("CARGO_PKG_VERSION");
/// Time for which the copy of a partition that left this node is kept.
const RELEASE_GRACE_MS: u64 = 5_000;
/// Interval of the rounds that look for slow replicas and released partitions.
const MAINTENANCE_PAUSE: Duration = Duration::from_millis(500);
/// Number of those rounds between two reports to the copies of the tombstones that they may drop.
const CLEAN_ROUNDS: u32 = 4;
/// Time for which a starting member waits for a lease before it answers operators without one.
const STRANDED_AFTER: Duration = Duration::from_secs(10);
/// Time limit for pending writes at a planned stop.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts a new incarnation: increments the number, durably, before it returns.
pub type NextIncarnation = Box<dyn FnMut() -> anyhow::Result<Incarnation> + Send>;

/// Parts of a node, which [`Node::start`] opens or a simulation creates.
pub struct Parts {
    /// Clocks and tasks.
    pub host: Host,
    /// Id of the node.
    pub id: NodeId,
    /// Number of this start of the node.
    pub incarnation: Incarnation,
    /// Starts the next incarnation, after this one was declared down.
    pub next_incarnation: NextIncarnation,
    /// Id of the node's cluster.
    pub cluster_id: ClusterId,
    /// Possible coordinator, until the topology log names one.
    pub coordinator_hint: Option<NodeId>,
    /// Addresses of members, until the topology log names them.
    pub heard_addrs: HashMap<NodeId, Vec<String>>,
    /// Settings of the node.
    pub settings: Settings,
    /// Addresses for peers.
    pub peer_addrs: Vec<String>,
    /// Address for clients.
    pub client_addr: String,
    /// Access to the other nodes.
    pub peers: Peers,
    /// The node's part in the topology log.
    pub topology: Arc<dyn Agreement>,
    /// The node's store.
    pub engine: replicated::Store,
    /// Damage that was found when the store was opened; `None` without damage.
    pub damage: Option<DamageFound>,
    /// Lowest generation that the node follows while it has no committed state.
    pub generation_floor: u32,
    /// Records durably that the node's topology log is superseded.
    pub note_superseded: NoteSuperseded,
}

/// A running node.
pub struct Node {
    id: NodeId,
    cluster_id: ClusterId,
    settings: Settings,
    host: Host,
    incarnations: Mutex<NextIncarnation>,
    incarnation: AtomicU64,
    /// Notified after each increment of `incarnation`; the task that follows the committed states waits for
    /// it.
    returned: Notify,
    peer_addrs: Vec<String>,
    client_addr: String,
    peers: Peers,
    topology: Arc<dyn Agreement>,
    plane: Arc<Plane>,
    stats: Arc<Stats>,
    client_limits: Arc<ClientLimits>,
    /// The settings as CONFIG GET shows them: operators can change a few while the node runs.
    shown_settings: ArcSwap<Settings>,
    reports: Reports,
    refusals: Arc<Refusals>,
    events: EventLog,
    batches: mpsc::Sender<Batch>,
    /// As coordinator: the term of its election, and the leases it granted in that term.
    leases: Mutex<Option<(u64, LeaseTable)>>,
    /// As coordinator: the same term, and its decisions about cluster time in that term.
    time_keeper: Mutex<Option<(u64, TimeKeeper)>>,
    /// Nodes whose wall clocks are known to be wrong.
    wrong_clocks: Mutex<BTreeSet<NodeId>>,
    registering: Mutex<HashSet<(NodeId, Incarnation)>>,
    /// Members that are down: the epoch in which they went down, and the time when this node learnt of it.
    seen_down: Mutex<BTreeMap<NodeId, (Epoch, u64)>>,
    /// Addresses that are not committed: of nodes that are not members yet, and of members that have moved.
    /// At most `HEARD_ADDRS_MAX` nodes.
    heard_addrs: Mutex<BTreeMap<NodeId, HeardAddrs>>,
    /// Possible coordinator, while the topology log names none.
    coordinator_hint: Mutex<Option<NodeId>>,
    started_ms: u64,
    stopping: Stopping,
    /// Whether the node hands over, or has handed over, its roles for a planned stop.
    leaving: AtomicBool,
    /// Reason why this process can never get a lease again, once that is known.
    refusal: watch::Sender<Option<String>>,
    /// Whether the node must be started again after this process has stopped.
    anew: AtomicBool,
    generation_floor: u32,
    note_superseded: NoteSuperseded,
    /// Held during a takeover or its preview.
    taking_over: tokio::sync::Mutex<()>,
    /// Whether the node founds, or has founded, a generation to which only its next process belongs.
    founding: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
    /// Held while a snapshot of the store is made: one at a time.
    snapshots: tokio::sync::Mutex<()>,
}

impl Node {
    /// Starts a node: opens its store, finds its cluster, and takes part in it. Returns once the node is
    /// registered and has a lease. A former member also returns after [`STRANDED_AFTER`] without a lease, so
    /// that an operator can query the node, or start a takeover.
    ///
    /// # Errors
    /// The reason why the node cannot start, and the remedy; [`RestartRequired`] if the remedy is a start in
    /// a new process.
    pub async fn start(
        settings: Settings,
        listener: &TcpListener,
        supervisor: &Supervisor,
    ) -> anyhow::Result<Arc<Self>> {
        if !settings.join_afresh {
            return Self::start_once(settings, listener, supervisor).await;
        }
        let (data_dir, bootstrap) = (settings.data_dir.clone(), settings.bootstrap.clone());
        rejoin_as_new::move_aside(&data_dir, &bootstrap)?;
        match Self::start_once(settings.clone(), listener, supervisor).await {
            // The coordinator has only just reported the removal.
            Err(_) if rejoin_as_new::was_removed(&data_dir) => {
                rejoin_as_new::move_aside(&data_dir, &bootstrap)?;
                supervisor.watch_again();
                Self::start_once(settings, listener, supervisor).await
            }
            started => started,
        }
    }

    async fn start_once(
        settings: Settings,
        listener: &TcpListener,
        supervisor: &Supervisor,
    ) -> anyhow::Result<Arc<Self>> {
        let data_dir = settings.data_dir.clone();
        let returning = prepare_data_dir(&data_dir)?;
        let generation_floor = returning.as_ref().map_or(0, |returning| returning.generation);
        let secret = settings.cluster_secret_file.as_deref().map(ClusterSecret::load).transpose()?;
        let options = from_settings::engine_options(&settings, supervisor);
        let (engine, damage) = store::open(options.clone(), &data_dir)?;
        let mut identity = Identity::load_or_create(&data_dir)?;
        let store = Store::new(&options, &data_dir, identity.node, &engine);
        let inbound = Arc::new(Inbound::default());
        let config = network_config(&settings, &identity, secret, supervisor);
        let network = Network::start(config, inbound.clone()).await?;
        let mut topology_config = TopologyConfig::new(data_dir.join("topology"), identity.node);
        topology_config.supervisor = supervisor.clone();
        let transport =
            LogTransport { peers: network.peers(), inbound: inbound.clone(), floor: generation_floor };
        let topology = Topology::open(topology_config, Arc::new(transport)).await?;
        drop(inbound.topology.set(topology.clone()));

        let client_addr = client_addr(&settings, listener)?;
        let peer_addrs = peer_addrs(&settings, &network).await;
        let addrs = (client_addr.as_str(), peer_addrs.as_slice());
        let joined = join_cluster(&settings, &identity, &store, &network, &topology, addrs, returning).await;
        let joined = match joined {
            Ok(joined) => joined,
            Err(error) => {
                // Release the ports and files before another start.
                topology.shutdown().await;
                network.peers().shutdown().await;
                drop(engine.close());
                return Err(error);
            }
        };
        let id = identity.node;
        network.subscribe(&format!("caskade/1/{}", joined.cluster_id));
        let parts = Parts {
            host: Host::real(supervisor.clone()),
            id,
            incarnation: identity.incarnation,
            next_incarnation: Box::new(move || Ok(identity.bump_incarnation()?)),
            cluster_id: joined.cluster_id,
            coordinator_hint: joined.coordinator.filter(|node| *node != id),
            heard_addrs: joined.members.into_iter().collect(),
            settings,
            peer_addrs,
            client_addr,
            peers: network.peers(),
            topology: Arc::new(topology),
            engine,
            damage,
            generation_floor,
            note_superseded: {
                let data_dir = data_dir.clone();
                Box::new(move |returning| superseded_log::note(&data_dir, returning))
            },
        };
        let node = Self::assemble(parts, |node| drop(inbound.node.set(node)));
        let bootstrap = node.host.spawn_essential(Part::Bootstrap, node.clone().run_bootstrap(network));
        node.tasks.lock().push(bootstrap);
        node.report_last_words(&data_dir);
        let reserve = node.host.spawn_essential(Part::Reserve, node.clone().run_reserve());
        node.tasks.lock().push(reserve);
        let refusal = tokio::select! {
            biased;
            () = node.wait_until_serving() => return Ok(node),
            () = node.wait_until_stranded() => return Ok(node),
            reason = node.refused() => reason,
            ended = supervisor.ended() => return Err(ended.into()),
        };
        node.stop().await;
        Err(if node.must_restart() { RestartRequired(refusal).into() } else { anyhow::anyhow!(refusal) })
    }

    /// Assembles a node and starts its loops. `wire` receives the node before they run: from then on, peers'
    /// calls and gossip must reach it through [`Node::on_call`] and [`Node::on_gossip`].
    pub fn assemble(parts: Parts, wire: impl FnOnce(Arc<Self>)) -> Arc<Self> {
        let (urgent, urgent_proposed) = mpsc::channel(proposer::QUEUE_MAX);
        let (patient, patient_proposed) = mpsc::channel(proposer::QUEUE_MAX);
        let (batches, batched) = mpsc::channel(proposer::QUEUE_MAX);
        let Parts { host, id, settings, peers, .. } = parts;
        let plane = Plane::new(data::Parts {
            node: id,
            engine: parts.engine,
            damage: parts.damage,
            peers: peers.clone(),
            proposals: data::Proposals { urgent, patient },
            limits: limits(&settings),
            host: host.clone(),
        });
        let node = Arc::new(Self {
            id,
            cluster_id: parts.cluster_id,
            started_ms: host.monotonic_ms(),
            host,
            incarnation: AtomicU64::new(parts.incarnation),
            returned: Notify::new(),
            incarnations: Mutex::new(parts.next_incarnation),
            client_limits: Arc::new(ClientLimits::from_settings(&settings)),
            shown_settings: ArcSwap::from_pointee(settings.clone()),
            settings,
            peer_addrs: parts.peer_addrs,
            client_addr: parts.client_addr,
            refusals: plane.refusals().clone(),
            peers,
            topology: parts.topology,
            plane,
            stats: Arc::default(),
            reports: Reports::default(),
            events: EventLog::default(),
            batches,
            leases: Mutex::default(),
            time_keeper: Mutex::default(),
            wrong_clocks: Mutex::default(),
            registering: Mutex::default(),
            seen_down: Mutex::default(),
            heard_addrs: Mutex::default(),
            coordinator_hint: Mutex::new(parts.coordinator_hint),
            stopping: Stopping::default(),
            leaving: AtomicBool::default(),
            refusal: watch::Sender::default(),
            anew: AtomicBool::default(),
            generation_floor: parts.generation_floor,
            note_superseded: parts.note_superseded,
            taking_over: tokio::sync::Mutex::default(),
            founding: AtomicBool::default(),
            tasks: Mutex::default(),
            snapshots: tokio::sync::Mutex::default(),
        });
        node.hear_addrs(parts.heard_addrs);
        let plane = Arc::downgrade(&node.plane);
        node.host.supervisor().on_end(move || {
            if let Some(plane) = plane.upgrade() {
                plane.give_up_lease();
            }
        });
        node.update_peers();
        wire(node.clone());
        node.spawn_loops([urgent_proposed, patient_proposed], batched);
        node
    }

    /// Handles a call of a peer.
    pub fn on_call(self: &Arc<Self>, from: NodeId, class: Class, body: Bytes, reply: Responder) {
        if class == Class::Control {
            self.on_control(from, &body, reply);
        } else {
            self.plane.on_call(from, class, body, reply);
        }
    }

    /// Handles a gossip message of a peer.
    pub fn on_gossip(self: &Arc<Self>, from: NodeId, data: &[u8]) {
        self.on_report(from, data);
    }

    fn spawn_loops(self: &Arc<Self>, proposed: [mpsc::Receiver<Change>; 2], batched: mpsc::Receiver<Batch>) {
        let ([urgent, patient], host) = (proposed, &self.host);
        let tasks = [
            host.spawn_essential(Part::States, self.clone().run_states()),
            host.spawn_essential(Part::Lease, self.clone().run_lease()),
            host.spawn_essential(Part::Duties, self.clone().run_duties()),
            host.spawn_essential(Part::Confirmations, self.clone().run_confirmations()),
            host.spawn_essential(Part::Reports, self.clone().run_reports()),
            host.spawn_essential(Part::Batches, self.clone().run_batches(batched)),
            host.spawn_essential(Part::UrgentProposals, self.clone().run_proposals(urgent)),
            host.spawn_essential(Part::PatientProposals, self.clone().run_proposals(patient)),
            host.spawn_essential(Part::Maintenance, self.clone().run_maintenance()),
            host.spawn_essential(Part::Scrub, self.plane.clone().run_scrub()),
            host.spawn_essential(Part::Repair, self.plane.clone().run_repair()),
            host.spawn_essential(Part::Measurements, self.plane.clone().run_measurements()),
        ];
        self.tasks.lock().extend(tasks);
    }

    async fn run_maintenance(self: Arc<Self>) {
        let mut rounds = 0_u32;
        loop {
            tokio::time::sleep(MAINTENANCE_PAUSE).await;
            rounds = rounds.wrapping_add(1);
            if let Some(reason) = self.topology.stopped()
                && !self.stopping.has_begun()
            {
                self.host.supervisor().report(
                    Part::Topology.name(),
                    format!("the topology log of this node has stopped ({reason})"),
                );
                return std::future::pending().await;
            }
            self.plane.report_merged();
            self.tell_notices();
            if rounds.is_multiple_of(CLEAN_ROUNDS) {
                self.plane.mark_clean_partitions();
            }
            if rounds.is_multiple_of(CLEAN_ROUNDS) || self.plane.lacks_time_record() {
                self.plane.record_cluster_time();
            }
            self.plane.suspend_slow_replicas();
            self.plane.step_down_where_stuck();
            self.plane.resume_replicas();
            self.plane.give_up_lost_files();
            let incarnation = self.incarnation.load(Ordering::Acquire);
            let state = self.plane.state();
            let registered = state.members.get(&self.id).map(|member| member.announcement.incarnation);
            if registered == Some(incarnation) && self.plane.has_lease() {
                self.plane.drop_released(RELEASE_GRACE_MS);
            }
        }
    }

    /// Returns the length of a lease in the cluster; `None` while this node has no committed state. The
    /// node's own setting does not matter, unless it is the founder.
    fn lease_ms(&self) -> Option<u64> {
        let lease_ms = self.topology.state().lease_ms;
        (lease_ms > 0).then_some(lease_ms.into())
    }

    /// Waits until the node has been a member without a lease for [`STRANDED_AFTER`].
    async fn wait_until_stranded(&self) {
        tokio::time::sleep(STRANDED_AFTER).await;
        while self.topology.state().member(self.id).is_none() {
            tokio::time::sleep(STRANDED_AFTER / 10).await;
        }
        tracing::warn!(
            "this node has no lease yet; until it gets one, it answers operators, and reads that may be stale"
        );
    }

    /// Waits until the node is registered and has a lease.
    pub async fn wait_until_serving(&self) {
        while !self.is_serving() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts an operation. Never blocks.
    pub fn submit(&self, operation: Operation) -> Ticket {
        self.plane.submit(operation)
    }

    /// Returns the number of this start of the node.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation.load(Ordering::Acquire)
    }

    /// Returns whether the node was asked to stop, or can never get a lease again.
    pub fn is_stopping(&self) -> bool {
        let asked = self.leaving.load(Ordering::Acquire) || self.stopping.has_begun();
        asked || self.refusal.borrow().is_some()
    }

    /// Returns the node's data plane.
    pub fn plane(&self) -> &Arc<Plane> {
        &self.plane
    }

    /// Returns the address on which this node listens for peers, as a bootstrap address for others.
    pub fn peer_listen_addr(&self) -> String {
        self.peer_addrs.first().cloned().unwrap_or_default()
    }

    /// Returns this node's store, for programs that run a node in their own process.
    pub fn engine(&self) -> &replicated::Store {
        self.plane.engine()
    }

    /// Returns whether this node is registered and has a lease.
    pub fn is_serving(&self) -> bool {
        let state = self.plane.state();
        let registered = state.members.get(&self.id).map(|member| member.announcement.incarnation);
        registered == Some(self.incarnation.load(Ordering::Acquire)) && self.plane.has_lease()
    }

    /// Returns the clocks and tasks of the node.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Stops in order: hands over its roles, rejects new requests, settles pending writes, declares itself
    /// down, closes the store.
    pub async fn stop(self: &Arc<Self>) {
        self.leave().await;
        self.host.supervisor().release();
        self.stopping.begin();
        self.plane.stop_all(SETTLE_TIMEOUT).await;
        self.say_goodbye().await;
        self.plane.record_cluster_time();
        self.tasks.lock().drain(..).for_each(|task| task.abort());
        self.topology.shutdown().await;
        self.peers.shutdown().await;
        if let Err(error) = self.plane.engine().clone().close() {
            tracing::error!(%error, "the store was not closed cleanly; all acknowledged writes are durable");
        }
    }

    /// Returns the node's announcement.
    fn announcement(&self) -> Announcement {
        let versions = supported_versions();
        Announcement {
            node: self.id,
            incarnation: self.incarnation.load(Ordering::Acquire),
            peer_addrs: self.peer_addrs.clone(),
            client_addr: self.client_addr.clone(),
            zone: self.settings.zone.clone(),
            weight: self.settings.weight,
            build: BUILD.to_owned(),
            protocol: *versions.end(),
            protocol_min: *versions.start(),
            store: store_condition(&self.settings, self.plane.is_damaged()),
        }
    }

    fn on_control(self: &Arc<Self>, from: NodeId, body: &[u8], reply: Responder) {
        let Ok(envelope) = wire::decode::<Envelope, CONTROL_BYTES_MAX>(body) else {
            self.note_refused(Refused::Message, from, &"a control message");
            return;
        };
        let node = Arc::clone(self);
        self.host.spawn(async move {
            let answer = node.answer_control(from, envelope).await;
            reply.send(wire::encode(&answer).into());
        });
    }

    async fn answer_control(self: &Arc<Self>, from: NodeId, envelope: Envelope) -> ControlAnswer {
        let checked = self
            .check_cluster(from, envelope.cluster)
            .and_then(|()| self.check_state(from, &envelope))
            .and_then(|()| self.check_generation(from, envelope.generation, &envelope.question))
            .and_then(|()| self.check_asker(from, &envelope.question));
        if let Err(refused) = checked {
            return refused;
        }
        match envelope.question {
            Control::Compare => self.standpoint(),
            Control::Hello => self.introduce(),
            Control::Raft(body) => ControlAnswer::Raft(self.topology.handle(body).await),
            Control::Lease(announcement, time) if announcement.node == from => {
                let is_over = self.is_over(&announcement);
                if !is_over && !self.topology.state().members.contains_key(&from) {
                    self.note_address(&announcement);
                }
                let answer = self.answer_lease(announcement, time);
                if let ControlAnswer::Refused(reason) = &answer
                    && !is_over
                    && self.topology.state().members.contains_key(&from)
                {
                    self.note_refused(Refused::OldIncarnation, from, reason);
                }
                answer
            }
            Control::Lease(..) => {
                self.note_refused(Refused::Message, from, &"only its holder can request a lease");
                ControlAnswer::Failed("only its holder can request a lease".into())
            }
            Control::Propose(_) if !self.is_coordinator() => {
                ControlAnswer::NotCoordinator(self.topology.coordinator())
            }
            Control::Stand => self.stand_for_election(from).await,
            Control::LastConfirmed { term } => match self.topology.last_confirmed_before(term) {
                Some(age_ms) => ControlAnswer::LastConfirmed { age_ms },
                None => {
                    ControlAnswer::NotYet("this node may still confirm a coordinator of an older term".into())
                }
            },
            Control::Propose(changes) => match self.propose_here(changes).await {
                Ok(verdicts) => ControlAnswer::Proposed(verdicts),
                Err(error) => ControlAnswer::Failed(error.to_string()),
            },
        }
    }
}

/// Returns whether this node is the only voter of the log.
async fn votes_alone(topology: &Topology, own: NodeId) -> bool {
    // The log knows the voters once it has begun.
    for _ in 0..VOTERS_LOOKS {
        let voters = topology.voters();
        if !voters.is_empty() {
            return voters.len() == 1 && voters.contains(&own);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

/// Creates the data directory if it is missing, closes it to other users, and finishes a return to another
/// topology log that a crash interrupted. Returns the generation that the node returns from, if it does.
fn prepare_data_dir(data_dir: &std::path::Path) -> anyhow::Result<Option<superseded_log::Returning>> {
    private::create(data_dir).with_context(|| {
        format!(
            "cannot create the data directory {}: give a directory this user may write with --data-dir",
            data_dir.display()
        )
    })?;
    private::tighten(data_dir);
    superseded_log::settle(data_dir)?;
    superseded_log::returning(data_dir)
}

/// Founds, joins or returns to a cluster, depending on the data directory and the settings.
async fn join_cluster(
    settings: &Settings,
    identity: &Identity,
    store: &Store,
    network: &Network,
    topology: &Topology,
    (client_addr, peer_addrs): (&str, &[String]),
    returning: Option<Returning>,
) -> anyhow::Result<join::Introduction> {
    let state = topology.state();
    if state.epoch > 0 {
        store.claim(state.cluster_id, Past::Member)?;
        if !settings.serve_alone && votes_alone(topology, identity.node).await {
            let data_dir = settings.data_dir.clone();
            let note: NoteSuperseded = Box::new(move |returning| superseded_log::note(&data_dir, returning));
            let peers = network.peers();
            let newer = tokio::select! {
                biased;
                compared = compare(&note, identity.node, &peers, &state) => compared?,
                // The other member may have a new address.
                never = bootstrap::keep_connected(network, &settings.bootstrap) => match never {},
            };
            if newer {
                return Err(RestartRequired(
                    "another node took over: this one returns under the newer generation".to_owned(),
                )
                .into());
            }
        }
        let found = join::check_cluster(network, &settings.bootstrap, state.cluster_id).await?;
        return Ok(found.unwrap_or(join::Introduction {
            cluster_id: state.cluster_id,
            coordinator: None,
            members: Vec::new(),
        }));
    }
    let past = match topology.is_initialized().await {
        true => Past::Log,
        false => Past::None,
    };
    if let Some(returning) = returning {
        let addrs: Vec<String> =
            returning.addrs.into_iter().chain(settings.bootstrap.iter().cloned()).collect();
        let introduction = join::find_cluster_again(network, &addrs).await?;
        store.claim(introduction.cluster_id, Past::Log)?;
        tracing::info!(cluster = %introduction.cluster_id, "this node returns under a newer generation");
        return Ok(introduction);
    }
    if let Some(introduction) = join::find_cluster(network, &settings.bootstrap).await? {
        store.claim(introduction.cluster_id, past)?;
        tracing::info!(cluster = %introduction.cluster_id, "this node joins a cluster");
        return Ok(introduction);
    }
    let cluster_id = ClusterId::from_bytes(rand::random());
    store.claim(cluster_id, past)?;
    let versions = supported_versions();
    let founder = Announcement {
        node: identity.node,
        incarnation: identity.incarnation,
        peer_addrs: peer_addrs.to_vec(),
        client_addr: client_addr.to_owned(),
        zone: settings.zone.clone(),
        weight: settings.weight,
        build: BUILD.to_owned(),
        protocol: *versions.end(),
        protocol_min: *versions.start(),
        // The founder's store is empty.
        store: store_condition(settings, false),
    };
    tracing::info!(cluster = %cluster_id, "this node founds a cluster");
    let (replication_factor, lease_ms) = (settings.replicas, settings.lease_ms);
    // The founder's version is the version in use from now on.
    let set = !settings.auto_rebalance;
    let more = Vec::from_iter(set.then_some(Change::SetAutoRebalance { enabled: false }));
    let rebuild_delay_ms = settings.rebuild_delay_ms;
    let found = Change::Found { cluster_id, replication_factor, lease_ms, rebuild_delay_ms, founder };
    topology.found(found, more).await?;
    Ok(join::Introduction { cluster_id, coordinator: Some(identity.node), members: Vec::new() })
}
