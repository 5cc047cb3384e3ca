//! A model of the topology log: the behaviour of a correct consensus, with its possible delays and bad luck.
//!
//! There is one list of committed states. A leader commits, and is confirmed, only at an instant at which it
//! can talk with a majority of the voters that have promised themselves to no later term. A former leader
//! believes that it leads until it learns otherwise. Proposals are delayed, repeated, committed without the
//! knowledge of their proposer, or left behind for a later leader to commit or to drop. States reach a node
//! late, and several at once; after a restart a node may begin with an older one.
//!
//! A takeover founds a next log beside the present one, with one voter (rule R10); its founder uses it from
//! its next start on. No log has more than one next log, and no next log has a rival.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caskade_node::cluster::lease::LastConfirmation;
use caskade_node::cluster::state::{Change, ClusterState, Verdict};
use caskade_node::id::{Epoch, NodeId, Partition};
use caskade_node::topology::{Agreement, Committed, Proposal, ProposeError, choose_voters};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::machine::SimMachine;
use crate::network::SimNetwork;

/// Time until voters without a message of a leader elect one, in milliseconds.
const ELECTION_MS: std::ops::Range<u64> = 1100..1400;
/// Time that a proposal waits for a majority.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that a leader waits for its confirmation.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);
/// Committed states kept; a restarted node begins with one of them.
const STATES_KEPT: u64 = 64;
/// Time to found a next log, in microseconds.
const FOUND_NEXT_US: std::ops::Range<u64> = 5_000..400_000;
/// Distance of the numbers of a next log's states from those of the log before.
const NUMBERS_PER_TAKEOVER: u64 = 1 << 32;
/// Pause between a leader's messages to nodes that take no part in its log, after a takeover.
const REACH_PAUSE: Duration = Duration::from_millis(250);

/// A node's part in the log.
struct Part {
    states: watch::Sender<Arc<ClusterState>>,
    coordinator: watch::Sender<Option<NodeId>>,
    /// Term in which it believes to lead.
    leads: Option<u64>,
    /// Its last confirmation of a leader, as its node records it.
    last_confirmation: LastConfirmation,
    machine: Arc<SimMachine>,
}

struct Log {
    rng: StdRng,
    /// Newest committed states, by number.
    states: BTreeMap<u64, Arc<ClusterState>>,
    /// Copies that were taken out of the in-sync set, by the number of the state.
    suspended: BTreeMap<u64, BTreeSet<(Partition, NodeId)>>,
    term: u64,
    leader: Option<NodeId>,
    led_at: Instant,
    election_ms: u64,
    /// Last term that each voter promised itself to.
    promised: BTreeMap<NodeId, u64>,
    voters: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    parts: BTreeMap<NodeId, Part>,
    /// Newest state on each node's disk.
    applied: BTreeMap<NodeId, u64>,
    /// Proposals that found no majority and may still be committed.
    left_behind: Vec<Vec<Change>>,
    /// Nodes that follow late, and the most milliseconds of that.
    late: BTreeMap<NodeId, u64>,
    elections: u64,
    /// First microsecond of each epoch.
    epochs: Vec<(Epoch, u64)>,
    next: Option<Next>,
}

/// Log that a takeover founded.
#[derive(Clone)]
pub struct Next {
    /// Node that took over.
    pub by: NodeId,
    /// The log.
    pub log: ModelLog,
    /// Time of the founding, in microseconds.
    pub at_us: u64,
    /// Time at which the log before first committed an entry that the new one does not know; without such an
    /// entry, the time of the founding. The founder has all writes acknowledged earlier.
    pub parted_us: u64,
}

/// The log; a clone shares it.
#[derive(Clone)]
pub struct ModelLog {
    log: Arc<Mutex<Log>>,
    network: SimNetwork,
    grown: Arc<watch::Sender<u64>>,
    generation: u32,
}

impl ModelLog {
    /// Creates an empty log, and the task that elects its leaders.
    pub fn new(seed: u64, network: SimNetwork) -> Self {
        let log = Log {
            rng: StdRng::seed_from_u64(seed),
            states: BTreeMap::from([(0, Arc::default())]),
            suspended: BTreeMap::new(),
            term: 0,
            leader: None,
            led_at: Instant::now(),
            election_ms: ELECTION_MS.start,
            promised: BTreeMap::new(),
            voters: BTreeSet::new(),
            learners: BTreeSet::new(),
            parts: BTreeMap::new(),
            applied: BTreeMap::new(),
            left_behind: Vec::new(),
            late: BTreeMap::new(),
            elections: 0,
            epochs: Vec::new(),
            next: None,
        };
        let grown = Arc::new(watch::Sender::new(0));
        let log = Self { log: Arc::new(Mutex::new(log)), network, grown, generation: 0 };
        tokio::spawn(log.clone().elect_when_due());
        log
    }

    /// Returns the generation of the cluster that uses this log.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Returns the log that replaced this one, if one did.
    pub fn next(&self) -> Option<Next> {
        self.log.lock().next.clone()
    }

    /// Returns the voters.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.log.lock().voters.clone()
    }

    /// Creates the next log, with the founder as its one voter.
    fn found_next(&self, by: NodeId, change: Change) -> Result<(), String> {
        let Change::TakeOver(takeover) = &change else { return Err("no takeover".to_owned()) };
        let known = takeover.from.epoch;
        let mut state = ClusterState::default();
        if let Some(Verdict::Rejected(reason)) = state.apply(&[change]).pop() {
            return Err(reason);
        }
        let mut log = self.log.lock();
        if log.next.is_some() {
            return Err("there is a next log already".to_owned());
        }
        let at_us = crate::machine::virtual_us();
        let parted_us =
            log.epochs.iter().find(|(epoch, _)| *epoch > known).map_or(at_us, |(_, since)| *since);
        let mut next = Self::new(log.rng.random(), self.network.clone());
        next.generation = self.generation + 1;
        let number = log.newest().0 + NUMBERS_PER_TAKEOVER;
        {
            let mut founded = next.log.lock();
            founded.voters = BTreeSet::from([by]);
            founded.states = BTreeMap::from([(number, Arc::new(state))]);
            founded.applied = BTreeMap::from([(by, number)]);
        }
        tokio::spawn(self.clone().reach_out());
        tokio::spawn(next.clone().reach_out());
        log.next = Some(Next { by, log: next, at_us, parted_us });
        Ok(())
    }

    /// As leader, sends to the nodes of this log that take no part in it: they may be in another log, and one
    /// of the two sides learns of that. Nodes that take part need no message: the log hands states to them.
    async fn reach_out(self) {
        loop {
            tokio::time::sleep(REACH_PAUSE).await;
            let calls: Vec<(NodeId, NodeId)> = {
                let log = self.log.lock();
                let leads = |id: &NodeId| log.parts.get(id).is_some_and(|part| part.leads == Some(log.term));
                let Some(leader) = log.leader.filter(leads) else { continue };
                let members = log.voters.iter().chain(&log.learners);
                members.filter(|id| !log.parts.contains_key(*id)).map(|id| (leader, *id)).collect()
            };
            for (leader, other) in calls {
                self.network.with_node(leader, |node| async move { drop(node.send_of_log(other).await) });
            }
        }
    }

    /// Founds the cluster with these members; the state is committed and known to all of them.
    pub fn found(&self, members: Vec<NodeId>, state: ClusterState) {
        let mut log = self.log.lock();
        let voters = choose_voters(&BTreeSet::new(), &state.members, None, &BTreeSet::new());
        log.learners = members.iter().copied().filter(|id| !voters.contains(id)).collect();
        log.voters = voters;
        log.states = BTreeMap::from([(1, Arc::new(state))]);
        log.applied = members.into_iter().map(|id| (id, 1)).collect();
    }

    /// Adds a node's process.
    pub fn join(&self, id: NodeId, machine: Arc<SimMachine>) -> Arc<dyn Agreement> {
        let mut log = self.log.lock();
        let applied = log.applied.get(&id).copied().unwrap_or(0);
        // The disk may lack the last applied states.
        let first = applied.saturating_sub(log.rng.random_range(0..3));
        let first = *log
            .states
            .range(first..)
            .next()
            .or(log.states.last_key_value())
            .unwrap_or((&0, &Arc::default()))
            .0;
        let first = if applied == 0 { 0 } else { first };
        let state = log.states.get(&first).cloned().unwrap_or_default();
        let part = Part {
            states: watch::Sender::new(state),
            coordinator: watch::Sender::new(None),
            leads: None,
            last_confirmation: LastConfirmation::at_start(machine.monotonic_ms()),
            machine: machine.clone(),
        };
        log.parts.insert(id, part);
        log.applied.insert(id, first);
        drop(log);
        tokio::spawn(self.clone().deliver(id, machine));
        Arc::new(Member { log: self.clone(), id })
    }

    /// Removes a node's process.
    pub fn leave(&self, id: NodeId) {
        self.log.lock().parts.remove(&id);
    }

    /// Returns the newest committed state.
    pub fn state(&self) -> Arc<ClusterState> {
        self.log.lock().newest().1
    }

    /// Returns the committed states after this number, each with its own; states that are no longer kept are
    /// left out.
    pub fn states_after(&self, number: u64) -> Vec<(u64, Arc<ClusterState>)> {
        let log = self.log.lock();
        log.states.range(number + 1..).map(|(number, state)| (*number, Arc::clone(state))).collect()
    }

    /// Returns the copies that were taken out of the in-sync set on the way to the state of this number, even
    /// if the same entry took them back.
    pub fn suspended_in(&self, number: u64) -> BTreeSet<(Partition, NodeId)> {
        self.log.lock().suspended.get(&number).cloned().unwrap_or_default()
    }

    /// Returns the leader of the latest election.
    pub fn leader(&self) -> Option<NodeId> {
        self.log.lock().leader
    }

    /// Delays committed states to a node by up to so many milliseconds; 0 is normal.
    pub fn make_late(&self, id: NodeId, late_ms: u64) {
        self.log.lock().late.insert(id, late_ms);
    }

    /// Returns the number of elections.
    pub fn elections(&self) -> u64 {
        self.log.lock().elections
    }

    /// Makes the voters elect a leader now, even if there is one.
    pub fn elect(&self) {
        let mut log = self.log.lock();
        let candidates: Vec<NodeId> =
            log.voters.iter().copied().filter(|id| self.majority(&log, *id, u64::MAX)).collect();
        let Some(elected) = candidates.choose(&mut log.rng).copied() else { return };
        self.begin_term(&mut log, elected);
        drop(log);
        self.grown.send_modify(|count| *count += 1);
    }

    /// Makes a voter stand for election, as requested. It wins if it reaches a majority, but another voter
    /// may win first.
    fn stand(&self, id: NodeId) {
        let mut log = self.log.lock();
        let elects = log.voters.contains(&id) && log.leader != Some(id) && self.majority(&log, id, u64::MAX);
        if !elects || log.rng.random_ratio(1, 10) {
            return;
        }
        self.begin_term(&mut log, id);
        drop(log);
        self.grown.send_modify(|count| *count += 1);
    }

    /// Makes a node the leader; all nodes within its reach learn of it.
    fn begin_term(&self, log: &mut Log, elected: NodeId) {
        log.term += 1;
        log.elections += 1;
        let (term, voters) = (log.term, log.voters.clone());
        for voter in voters.into_iter().filter(|voter| self.network.can_talk(elected, *voter)) {
            log.promised.insert(voter, term);
        }
        log.leader = Some(elected);
        log.led_at = Instant::now();
        log.election_ms = log.rng.random_range(ELECTION_MS);
        if log.rng.random_bool(0.5) {
            // Changes that its predecessor could not commit may have reached it.
            let left = std::mem::take(&mut log.left_behind);
            left.iter().for_each(|changes| drop(log.commit(changes)));
        }
        log.left_behind.clear();
        log.bring_up_to_date(elected);
        if let Some(part) = log.parts.get_mut(&elected) {
            part.leads = Some(term);
            part.coordinator.send_replace(Some(elected));
        }
    }

    async fn elect_when_due(self) {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let due = {
                let mut log = self.log.lock();
                let leads = |id| log.parts.get(&id).is_some_and(|part| part.leads == Some(log.term));
                if log.leader.is_some_and(|leader| leads(leader) && self.majority(&log, leader, log.term)) {
                    log.led_at = Instant::now();
                }
                !log.voters.is_empty() && log.led_at.elapsed() > Duration::from_millis(log.election_ms)
            };
            if due {
                self.elect();
            }
        }
    }

    /// Returns whether a node can talk with a majority of the voters that are promised to no later term.
    fn majority(&self, log: &Log, id: NodeId, term: u64) -> bool {
        log.voters.iter().filter(|voter| self.agrees(log, id, **voter, term)).count() * 2 > log.voters.len()
    }

    /// Returns whether a node can talk with a voter that is promised to no later term.
    fn agrees(&self, log: &Log, id: NodeId, voter: NodeId, term: u64) -> bool {
        self.network.can_talk(id, voter) && log.promised.get(&voter).copied().unwrap_or(0) <= term
    }

    /// Delivers the committed states to a node, late.
    async fn deliver(self, id: NodeId, machine: Arc<SimMachine>) {
        let mut grown = self.grown.subscribe();
        loop {
            let newest = self.log.lock().newest().0;
            let delay = {
                let log = &mut *self.log.lock();
                let late_us = log.late.get(&id).map_or(0, |late_ms| late_ms * 1000);
                let micros = if log.rng.random_ratio(1, 40) { 20_000..400_000 } else { 200..6_000 };
                log.rng.random_range(micros.start..micros.end.max(late_us))
            };
            tokio::time::sleep(Duration::from_micros(delay)).await;
            if machine.is_dead() || !machine.running().await {
                return;
            }
            machine.step(|| self.hand_out(id, newest));
            let _ = tokio::time::timeout(Duration::from_millis(200), grown.changed()).await;
        }
    }

    /// Hands the states up to this one to a node, and the leader, if the node can talk with the leader.
    fn hand_out(&self, id: NodeId, newest: u64) {
        let mut log = self.log.lock();
        let Some(leader) = log.leader else { return };
        let takes_part = log.voters.contains(&id) || log.learners.contains(&id);
        if !takes_part || !self.network.can_talk(leader, id) {
            return;
        }
        if log.applied.get(&id).is_none_or(|applied| *applied < newest) {
            let Some(state) = log.states.get(&newest).cloned() else { return };
            log.applied.insert(id, newest);
            if let Some(part) = log.parts.get(&id) {
                part.states.send_replace(state);
            }
        }
        let term = log.term;
        if let Some(part) = log.parts.get_mut(&id) {
            part.leads = part.leads.filter(|led| *led == term);
            part.coordinator.send_if_modified(|known| known.replace(leader) != Some(leader));
        }
    }

    /// Commits the changes once a majority accepts them.
    async fn propose(&self, id: NodeId, proposal: Proposal) -> Result<Committed, ProposeError> {
        let Some(term) = self.leads(id) else {
            return Err(ProposeError::NotCoordinator(None));
        };
        let Proposal { changes, elected } = proposal;
        if elected.is_some_and(|elected| elected != term) {
            return Err(ProposeError::Unknown("it was decided in another term".into()));
        }
        self.pause(300..4_000).await;
        let began = Instant::now();
        loop {
            if let Some(committed) = self.try_commit(id, term, &changes)? {
                self.grown.send_modify(|count| *count += 1);
                self.pause(100..1_000).await;
                if self.log.lock().rng.random_ratio(1, 50) {
                    return Err(ProposeError::Unknown("the answer was lost".into()));
                }
                return Ok(committed);
            }
            if began.elapsed() > PROPOSE_TIMEOUT {
                let mut log = self.log.lock();
                if log.leader == Some(id) && log.term == term {
                    log.left_behind.push(changes);
                }
                return Err(ProposeError::Unknown("no majority took it in time".into()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn try_commit(
        &self,
        id: NodeId,
        term: u64,
        changes: &[Change],
    ) -> Result<Option<Committed>, ProposeError> {
        let mut log = self.log.lock();
        if log.parts.get(&id).and_then(|part| part.leads) != Some(term) {
            return Err(ProposeError::Unknown("the leadership was lost".into()));
        }
        if !self.majority(&log, id, term) {
            return Ok(None);
        }
        let verdicts = log.commit(changes);
        let committed = Committed { epoch: log.newest().1.epoch, verdicts };
        if log.rng.random_ratio(1, 100) {
            // A proposal that was sent twice.
            log.commit(changes);
        }
        log.bring_up_to_date(id);
        Ok(Some(committed))
    }

    async fn confirm(&self, id: NodeId) -> Result<(), ProposeError> {
        let Some(term) = self.leads(id) else {
            return Err(ProposeError::NotCoordinator(None));
        };
        let began = Instant::now();
        while began.elapsed() < CONFIRM_TIMEOUT {
            self.pause(200..3_000).await;
            if self.leads(id) != Some(term) {
                return Err(ProposeError::NotCoordinator(None));
            }
            if self.is_confirmed(id, term) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(ProposeError::Unknown("no majority answered in time".into()))
    }

    /// Returns whether a majority accepts the node as the leader of that term now; it has applied everything
    /// then.
    fn is_confirmed(&self, id: NodeId, term: u64) -> bool {
        let mut log = self.log.lock();
        let confirmed = self.majority(&log, id, term);
        let agree: Vec<NodeId> =
            log.voters.iter().copied().filter(|voter| self.agrees(&log, id, *voter, term)).collect();
        for voter in agree {
            if let Some(part) = log.parts.get_mut(&voter) {
                part.last_confirmation.note(term, part.machine.monotonic_ms());
            }
        }
        if confirmed {
            log.bring_up_to_date(id);
        }
        confirmed
    }

    async fn set_members(
        &self,
        id: NodeId,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
    ) -> Result<(), ProposeError> {
        let Some(term) = self.leads(id) else {
            return Err(ProposeError::NotCoordinator(None));
        };
        self.pause(1_000..10_000).await;
        let mut log = self.log.lock();
        let former = std::mem::replace(&mut log.voters, voters.clone());
        if log.leader != Some(id) || log.term != term || !self.majority(&log, id, term) {
            log.voters = former;
            return Err(ProposeError::Unknown("no majority took it".into()));
        }
        log.voters = former;
        if !self.majority(&log, id, term) {
            return Err(ProposeError::Unknown("no majority took it".into()));
        }
        log.learners = learners.difference(&voters).copied().collect();
        for voter in &voters {
            let promised = log.promised.get(voter).copied().unwrap_or(0).max(term);
            log.promised.insert(*voter, promised);
        }
        if !voters.contains(&id) {
            // A node that loses its vote steps down with that commit.
            log.leader = None;
            if let Some(part) = log.parts.get_mut(&id) {
                part.leads = None;
            }
        }
        log.voters = voters;
        drop(log);
        self.grown.send_modify(|count| *count += 1);
        Ok(())
    }

    fn leads(&self, id: NodeId) -> Option<u64> {
        self.log.lock().parts.get(&id)?.leads
    }

    async fn pause(&self, micros: std::ops::Range<u64>) {
        let micros = self.log.lock().rng.random_range(micros);
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }
}

impl Log {
    fn newest(&self) -> (u64, Arc<ClusterState>) {
        self.states.last_key_value().map(|(number, state)| (*number, Arc::clone(state))).unwrap_or_default()
    }

    fn commit(&mut self, changes: &[Change]) -> Vec<Verdict> {
        let (number, former) = self.newest();
        let mut state = ClusterState::clone(&former);
        let verdicts = state.apply(changes);
        if state.epoch > former.epoch {
            self.epochs.push((state.epoch, crate::machine::virtual_us()));
        }
        let changed =
            state.partitions().zip(&former.partitions).filter(|((_, now), before)| **now != ***before);
        changed.for_each(|((partition, now), _)| tracing::trace!(partition, epoch = state.epoch, "{now}"));
        let oldest = (number + 1).saturating_sub(STATES_KEPT);
        self.suspended.insert(
            number + 1,
            changes.iter().zip(&verdicts).filter_map(|change| suspended(&former, change)).collect(),
        );
        self.suspended = self.suspended.split_off(&oldest);
        self.states.insert(number + 1, Arc::new(state));
        self.states = self.states.split_off(&oldest);
        verdicts
    }

    /// Makes the node apply everything.
    fn bring_up_to_date(&mut self, id: NodeId) {
        let (number, state) = self.newest();
        if self.applied.insert(id, number) != Some(number)
            && let Some(part) = self.parts.get(&id)
        {
            part.states.send_replace(state);
        }
    }
}

/// Returns the copy that the change took out of the in-sync set.
fn suspended(former: &ClusterState, (change, verdict): (&Change, &Verdict)) -> Option<(Partition, NodeId)> {
    match change {
        Change::SuspendReplica { primary, replica } if *verdict == Verdict::Applied => {
            Some((primary.partition, replica.node))
        }
        Change::StepDown(primary) if *verdict == Verdict::Applied => {
            Some((primary.partition, former.primary(primary.partition)?))
        }
        _ => None,
    }
}

/// The part of one node, as the node sees it.
struct Member {
    log: ModelLog,
    id: NodeId,
}

impl Member {
    /// A process whose part has ended receives nothing more.
    fn part<T>(&self, f: impl FnOnce(&Part) -> T) -> Option<T> {
        self.log.log.lock().parts.get(&self.id).map(f)
    }
}

impl Agreement for Member {
    fn watch(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.part(|part| part.states.subscribe()).unwrap_or_else(|| watch::channel(Arc::default()).1)
    }

    fn watch_coordinator(&self) -> watch::Receiver<Option<NodeId>> {
        self.part(|part| part.coordinator.subscribe()).unwrap_or_else(|| watch::channel(None).1)
    }

    fn leading(&self) -> Option<u64> {
        self.log.leads(self.id)
    }

    fn stopped(&self) -> Option<String> {
        None
    }

    fn voters(&self) -> BTreeSet<NodeId> {
        self.log.log.lock().voters.clone()
    }

    fn voter_sets(&self) -> Vec<BTreeSet<NodeId>> {
        vec![self.voters()]
    }

    fn last_confirmed_before(&self, term: u64) -> Option<u64> {
        let log = self.log.log.lock();
        let promised = log.promised.get(&self.id).is_some_and(|promised| *promised >= term);
        let part = log.parts.get(&self.id)?;
        promised.then(|| part.last_confirmation.age_before_ms(term, part.machine.monotonic_ms()))
    }

    fn learners(&self) -> BTreeSet<NodeId> {
        self.log.log.lock().learners.clone()
    }

    fn propose(&self, proposal: Proposal) -> BoxFuture<'_, Result<Committed, ProposeError>> {
        Box::pin(self.log.propose(self.id, proposal))
    }

    fn confirm_leadership(&self) -> BoxFuture<'_, Result<(), ProposeError>> {
        Box::pin(self.log.confirm(self.id))
    }

    fn set_membership(
        &self,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
    ) -> BoxFuture<'_, Result<(), ProposeError>> {
        Box::pin(self.log.set_members(self.id, voters, learners))
    }

    fn stand_for_election(&self) -> BoxFuture<'_, Result<(), ProposeError>> {
        self.log.stand(self.id);
        Box::pin(std::future::ready(Ok(())))
    }

    fn wait_replicated<'a>(&'a self, _nodes: &'a BTreeSet<NodeId>, _patience: Duration) -> BoxFuture<'a, ()> {
        // An elected voter is brought up to date here.
        Box::pin(std::future::ready(()))
    }

    fn handle(&self, _body: Bytes) -> BoxFuture<'_, Bytes> {
        Box::pin(std::future::ready(Bytes::new()))
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        self.log.leave(self.id);
        Box::pin(std::future::ready(()))
    }

    fn found_next(&self, change: Change) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            self.log.pause(FOUND_NEXT_US).await;
            self.log.found_next(self.id, change)
        })
    }
}
