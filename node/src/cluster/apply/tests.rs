//! Tests of each change, and of any order of changes, stale ones included: every acknowledged write keeps a
//! holder.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::cluster::samples::{
    announcement, cases, caught_up, converge, hand_over, incarnation_of, node, primary_ref, replica_ref,
};
use crate::id::Term;

fn apply(state: &mut ClusterState, change: Change) -> Result<(), String> {
    let before = state.clone();
    match state.apply(&[change]).remove(0) {
        Verdict::Applied => {
            check(&before, state);
            Ok(())
        }
        Verdict::Rejected(reason) => {
            assert!(*state == before, "a void change changed something");
            Err(reason)
        }
    }
}

/// Asserts the invariants between two consecutive states.
fn check(before: &ClusterState, after: &ClusterState) {
    assert_eq!(after.epoch, before.epoch + 1);
    assert_eq!(after.partitions.len(), usize::from(PARTITIONS));
    for (partition, state) in after.partitions() {
        let nodes: BTreeSet<NodeId> = state.replicas.iter().map(|replica| replica.node).collect();
        assert_eq!(nodes.len(), state.replicas.len(), "partition {partition}: a node twice");
        assert_eq!(state.primary(), state.replicas.first().map(|r| r.node), "the first replica is in-sync");
        assert!(state.primary().is_some(), "partition {partition}: no replica is in-sync");
        for replica in &state.replicas {
            let asked_for = after.ring.replicas(partition).contains(&replica.node);
            assert!(replica.stand_in.is_none() || !asked_for, "a stand-in where the ring wants a copy");
            assert!(replica.assigned <= replica.syncing_since && replica.syncing_since <= after.epoch);
            let up = after.is_up(replica.node);
            match replica.role {
                ReplicaRole::Syncing => assert!(up, "a syncing replica on a node that is down"),
                ReplicaRole::InSync => assert!(up || state.in_sync().count() == 1, "down, and not the last"),
                ReplicaRole::Away => {}
            }
        }
        let receives = |replica: &&Replica| replica.role != ReplicaRole::Away && after.is_up(replica.node);
        let lacking = after.is_live_primary(partition) && state.replicas.iter().filter(receives).count() < 2;
        let free = after.members.keys().any(|node| after.is_up(*node) && !nodes.contains(node));
        assert!(!lacking || !free, "partition {partition} has no stand-in");
        let Some(former) = before.partition(partition) else {
            continue;
        };
        assert!(state.term >= former.term, "partition {partition}: the term decreased");
        let incarnation = |cluster: &ClusterState| {
            let primary = cluster.primary(partition)?;
            Some((primary, cluster.member(primary)?.announcement.incarnation))
        };
        let same_primary = incarnation(before) == incarnation(after);
        assert!(same_primary || state.term > former.term, "partition {partition}: two primaries in one term");
    }
}

fn founded() -> ClusterState {
    let mut state = ClusterState::default();
    let founder = announcement(1, 1);
    let cluster_id = ClusterId::from_bytes([7; 16]);
    let (lease_ms, rebuild_delay_ms) = (2000, 300_000);
    let found = Change::Found { cluster_id, replication_factor: 2, lease_ms, rebuild_delay_ms, founder };
    apply(&mut state, found).unwrap();
    state
}

fn register(state: &mut ClusterState, number: u8, incarnation: Incarnation) -> Result<(), String> {
    apply(state, Change::Register(announcement(number, incarnation)))
}

fn suspend(state: &ClusterState, partition: Partition, replica: &Replica) -> Change {
    Change::SuspendReplica { primary: primary_ref(state, partition), replica: replica_ref(state, replica) }
}

fn resume(state: &ClusterState, partition: Partition, replica: &Replica) -> Change {
    Change::ResumeReplica { partition, replica: replica_ref(state, replica) }
}

fn cluster_of(count: u8) -> ClusterState {
    let mut state = founded();
    for number in 2..=count {
        register(&mut state, number, 1).unwrap();
        converge(&mut state);
    }
    assert!((0..PARTITIONS).all(|partition| state.converged(partition)), "all is where it should be");
    state
}

#[test]
fn a_founded_cluster_serves_every_partition_from_its_founder() {
    let mut state = founded();
    assert_eq!((state.epoch, state.unavailable(), state.under_replicated(), state.moving()), (1, 0, 0, 0));
    assert!(state.partitions.iter().all(|p| p.term == 1 && p.settled && p.primary() == Some(node(1))));
    assert_eq!((state.copies_now(), state.plans.running.is_none()), (1, true));
    let again = Change::Found {
        cluster_id: ClusterId::default(),
        replication_factor: 2,
        lease_ms: 1,
        rebuild_delay_ms: 1,
        founder: announcement(2, 1),
    };
    assert!(apply(&mut state, again).unwrap_err().contains("founded already"));
}

#[test]
fn nothing_applies_before_the_founding() {
    let mut state = ClusterState::default();
    assert!(register(&mut state, 1, 1).unwrap_err().contains("not founded"));
    let mut witness = announcement(1, 1);
    witness.weight = 0;
    let found = |founder, replication_factor| Change::Found {
        cluster_id: ClusterId::default(),
        replication_factor,
        lease_ms: 2000,
        rebuild_delay_ms: 300_000,
        founder,
    };
    assert!(apply(&mut state, found(witness, 2)).unwrap_err().contains("weight 0"));
    assert!(apply(&mut state, found(announcement(1, 1), 0)).unwrap_err().contains("factor"));
    assert_eq!(state, ClusterState::default());
}

#[test]
fn a_batch_of_changes_is_one_epoch_and_a_void_one_is_none() {
    let mut state = founded();
    let verdicts = state.apply(&[
        Change::Register(announcement(2, 1)),
        Change::Register(announcement(2, 1)),
        Change::Register(announcement(3, 1)),
    ]);
    assert!(matches!(verdicts[..], [Verdict::Applied, Verdict::Rejected(_), Verdict::Applied]));
    assert_eq!(state.epoch, 2);
    state.apply(&[Change::Register(announcement(2, 1))]);
    state.apply(&[]);
    assert_eq!(state.epoch, 2);
}

#[test]
fn a_join_is_a_plan_that_ends_when_its_copies_are_made_and_the_old_ones_released() {
    let mut state = cluster_of(3);
    register(&mut state, 4, 1).unwrap();
    let plan = state.plans.running.clone().unwrap();
    assert_eq!((plan.copies_total, plan.copies_ideal, plan.epoch), (512, 512, state.epoch));
    assert_eq!(plan.cause, format!("node {} joined", node(4).short()));
    assert_eq!((state.copies_in_progress().count(), state.plan_copies_made()), (512, Some(0)));
    // The replaced copies serve until then; some partitions only change their first replica.
    let due = (0..PARTITIONS).filter(|partition| state.hand_over_due(*partition));
    let handed_over = due.count() as u32;
    assert_eq!((state.under_replicated(), state.moving(), state.copies_now()), (0, 512 + handed_over, 2));
    converge(&mut state);
    assert_eq!((state.plans.running.clone(), state.moving(), state.under_replicated()), (None, 0, 0));
    assert!((0..PARTITIONS).all(|partition| state.converged(partition)));
    assert_eq!(state.replicas_on(node(4)).count(), 512);
}

#[test]
fn an_old_copy_serves_until_the_new_one_is_in_sync_and_primacy_moves_by_hand_over_only() {
    let mut state = cluster_of(2);
    register(&mut state, 3, 1).unwrap();
    let leaves = |partition: &Partition| {
        !state.ring.replicas(*partition).contains(&state.primary(*partition).unwrap())
    };
    let partition = (0..PARTITIONS).find(leaves).unwrap();
    let (primary, term) = (state.primary(partition), state.partition(partition).unwrap().term);
    let copy = *state.partition(partition).unwrap().replica(node(3)).unwrap();
    let change = caught_up(&state, partition, &copy);
    apply(&mut state, change).unwrap();
    assert_eq!(state.primary(partition), primary, "catching up moves no primary");
    assert!(state.hand_over_due(partition));
    let change = hand_over(&state, partition);
    apply(&mut state, change.clone()).unwrap();
    let after = state.partition(partition).unwrap();
    assert_eq!((after.term, after.settled), (term + 1, true));
    assert!(state.converged(partition) && after.primary() != primary);
    assert!(apply(&mut state, change).unwrap_err().contains("term"), "a repetition is void");
}

#[test]
fn a_hand_over_that_is_not_possible_gives_the_same_primary_a_new_term() {
    let mut state = cluster_of(2);
    register(&mut state, 3, 1).unwrap();
    let before = state.partition(5).unwrap().clone();
    let change = hand_over(&state, 5);
    apply(&mut state, change).unwrap();
    let after = state.partition(5).unwrap();
    assert_eq!((after.primary(), after.term, after.settled), (before.primary(), before.term + 1, true));
}

#[test]
fn a_node_that_goes_down_loses_its_primaries_and_keeps_its_place() {
    let mut state = cluster_of(3);
    let down = apply(&mut state, Change::DeclareDown { node: node(2), incarnation: 1 });
    assert_eq!(down, Ok(()));
    assert_eq!(state.unavailable(), 0);
    assert!(state.under_replicated() > 600);
    for (partition, state) in state.partitions() {
        assert_ne!(state.primary(), Some(node(2)), "partition {partition}");
        assert!(state.replica(node(2)).is_none_or(|replica| replica.role == ReplicaRole::Away));
    }
    assert!(apply(&mut state, Change::DeclareDown { node: node(2), incarnation: 1 }).is_err(), "it is down");
    assert!(register(&mut state, 2, 1).is_err(), "the same incarnation does not return");
    register(&mut state, 2, 2).unwrap();
    let epoch = state.epoch;
    assert!(
        state.replicas_on(node(2)).all(|(_, r)| (r.role, r.syncing_since) == (ReplicaRole::Syncing, epoch))
    );
    assert!(state.replicas_on(node(2)).all(|(_, replica)| replica.assigned < epoch), "it keeps what it held");
    converge(&mut state);
    assert!((0..PARTITIONS).all(|partition| state.converged(partition)), "its primaries are balanced back");
}

#[test]
fn the_last_in_sync_replica_waits_for_its_node() {
    let mut state = cluster_of(2);
    apply(&mut state, Change::DeclareDown { node: node(1), incarnation: 1 }).unwrap();
    apply(&mut state, Change::DeclareDown { node: node(2), incarnation: 1 }).unwrap();
    assert_eq!(state.unavailable(), 1024);
    register(&mut state, 1, 2).unwrap();
    assert_eq!(state.unavailable(), 1024, "the replica that was lost first may lack writes");
    let (_, replica) = state.replicas_on(node(1)).next().map(|(p, r)| (p, *r)).unwrap();
    let change = caught_up(&state, 0, &replica);
    assert!(apply(&mut state, change).unwrap_err().contains("down"), "no primary can confirm it");
    let terms: Vec<Term> = state.partitions.iter().map(|partition| partition.term).collect();
    register(&mut state, 2, 2).unwrap();
    assert_eq!(state.unavailable(), 0);
    let newer = state.partitions.iter().zip(terms).all(|(partition, term)| partition.term == term + 1);
    assert!(newer, "a restart begins a new term");
    assert!(state.partitions.iter().all(|partition| !partition.settled));
}

#[test]
fn a_restart_unnoticed_makes_its_replicas_syncing_and_moves_its_primaries() {
    let mut state = cluster_of(3);
    let before = state.clone();
    register(&mut state, 3, 2).unwrap();
    for (partition, replica) in before.replicas_on(node(3)) {
        let after = state.partition(partition).unwrap();
        assert_eq!(after.replica(node(3)).map(|r| r.role), Some(ReplicaRole::Syncing));
        let was_primary = before.primary(partition) == Some(node(3));
        let former = before.partition(partition).unwrap();
        assert_eq!((after.term - former.term, after.settled), (u32::from(was_primary), !was_primary));
        let stale = caught_up(&before, partition, replica);
        assert!(matches!(state.clone().apply(&[stale])[0], Verdict::Rejected(_)));
    }
}

#[test]
fn a_damaged_store_leaves_the_last_in_sync_place_to_a_copy_that_lacks_nothing() {
    let damaged = |state: &ClusterState, number| {
        let incarnation = incarnation_of(state, node(number)) + 1;
        Change::Register(Announcement { store: StoreCondition::Damaged, ..announcement(number, incarnation) })
    };
    let mut state = cluster_of(2);
    let undamaged = state.clone();
    register(&mut state, 1, 2).unwrap();
    let change = damaged(&state, 2);
    let before = state.clone();
    apply(&mut state, change).unwrap();
    for (partition, after) in state.partitions() {
        assert_eq!((after.primary(), after.settled), (Some(node(1)), false));
        assert!(after.term > before.partition(partition).unwrap().term);
        assert_eq!(after.replica(node(2)).unwrap().role, ReplicaRole::Syncing);
    }
    // A copy that was away may lack later writes; so may a copy on a store that is damaged, or not synced.
    let mut away = undamaged.clone();
    apply(&mut away, Change::DeclareDown { node: node(1), incarnation: 1 }).unwrap();
    register(&mut away, 1, 2).unwrap();
    let mut twice = undamaged.clone();
    let change = damaged(&twice, 1);
    apply(&mut twice, change).unwrap();
    let mut unsynced = undamaged;
    let store = StoreCondition::Unsynced;
    apply(&mut unsynced, Change::Register(Announcement { store, ..announcement(1, 2) })).unwrap();
    for mut state in [away, twice, unsynced] {
        let change = damaged(&state, 2);
        apply(&mut state, change).unwrap();
        assert!(state.partitions().all(|(_, partition)| partition.primary() == Some(node(2))));
    }
}

#[test]
fn a_suspended_replica_is_away_until_it_is_resumed() {
    let mut state = cluster_of(3);
    let backup = state.partition(9).unwrap().replicas[1];
    let change = suspend(&state, 9, &backup);
    apply(&mut state, change).unwrap();
    assert_eq!(state.partition(9).unwrap().replicas[1].role, ReplicaRole::Away);
    let last = state.partition(9).unwrap().replicas[0];
    let change = suspend(&state, 9, &last);
    assert!(apply(&mut state, change).unwrap_err().contains("last in-sync"));
    let change = resume(&state, 9, &backup);
    apply(&mut state, change.clone()).unwrap();
    let resumed = state.partition(9).unwrap().replicas[1];
    assert_eq!((resumed.role, resumed.syncing_since), (ReplicaRole::Syncing, state.epoch));
    assert!(apply(&mut state, change).is_err());
    let stale = Replica { syncing_since: backup.syncing_since, ..resumed };
    let change = caught_up(&state, 9, &stale);
    assert!(
        apply(&mut state, change).unwrap_err().contains("epoch"),
        "the replica caught up in an earlier epoch"
    );
    let change = caught_up(&state, 9, &resumed);
    apply(&mut state, change).unwrap();
    assert!(state.converged(9));
}

#[test]
fn a_primary_that_suspends_itself_gives_up_its_primacy() {
    let mut state = cluster_of(2);
    let before = state.partition(3).unwrap().clone();
    let change = suspend(&state, 3, &before.replicas[0]);
    apply(&mut state, change).unwrap();
    let after = state.partition(3).unwrap();
    assert_eq!(after.primary(), Some(before.replicas[1].node));
    assert_eq!((after.term, after.settled), (before.term + 1, false));
}

#[test]
fn a_witness_joins_without_a_plan_and_a_new_weight_is_one() {
    let mut state = cluster_of(2);
    let mut witness = announcement(3, 1);
    witness.weight = 0;
    apply(&mut state, Change::Register(witness.clone())).unwrap();
    assert_eq!((state.plans.running.clone(), state.replicas_on(node(3)).count()), (None, 0));
    witness.weight = 50;
    witness.incarnation = 2;
    apply(&mut state, Change::Register(witness)).unwrap();
    assert!(state.plans.running.as_ref().unwrap().cause.contains("weight from 0 to 50"));
    assert!(state.replicas_on(node(3)).count() > 400);
}

#[test]
fn a_second_join_takes_over_what_the_first_plan_had_to_copy() {
    let mut state = cluster_of(3);
    register(&mut state, 4, 1).unwrap();
    register(&mut state, 5, 1).unwrap();
    let plan = state.plans.running.clone().unwrap();
    assert_eq!((plan.id, plan.copies_total), (4, state.copies_in_progress().count() as u32));
    assert_eq!(plan.copies_total, 819, "410 of the fifth, and what the fourth keeps of its 512");
    converge(&mut state);
    assert_eq!((state.plans.running.clone(), state.moving()), (None, 0));
}

/// Nodes with processes that may be dead, and their copies; every acknowledged write is on disk.
struct World {
    state: ClusterState,
    /// Incarnation of each node's process; absent if the process is dead.
    running: BTreeMap<NodeId, Option<Incarnation>>,
    starts: BTreeMap<NodeId, Incarnation>,
    /// Nodes whose store was damaged, with the incarnation that detected it.
    damaged: BTreeMap<NodeId, Incarnation>,
    /// The writes on each node, by partition.
    held: BTreeMap<(NodeId, Partition), BTreeSet<u32>>,
    acknowledged: BTreeMap<Partition, BTreeSet<u32>>,
    writes: u32,
    /// Primaries that have stopped and wait for a hand-over of this term.
    stopped: BTreeSet<(Partition, Term)>,
    /// Changes proposed and not delivered yet: they may arrive late, in any order, or twice.
    proposed: Vec<Change>,
}

/// The partitions that the world observes; the others change in the same way.
const WATCHED: [Partition; 6] = [0, 1, 2, 300, 777, 1023];

#[derive(Clone, Debug)]
enum Event {
    Start(u8),
    /// The node loses all data of its store, and detects it.
    StartDamaged(u8),
    Kill(u8),
    DeclareDown(u8),
    Write(Index),
    Copy(Index, Index),
    Suspend(Index, Index),
    Rebuild(u8),
    Resume(Index, Index),
    HandOver(Index),
    Deliver(Index),
    DeliverAgain(Index),
    DeliverAll,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let at = || any::<Index>();
    let event = prop_oneof![
        3 => (1..=5u8).prop_map(Event::Start),
        1 => (1..=5u8).prop_map(Event::StartDamaged),
        2 => (1..=5u8).prop_map(Event::Kill),
        2 => (1..=5u8).prop_map(Event::DeclareDown),
        8 => at().prop_map(Event::Write),
        8 => (at(), at()).prop_map(|(p, r)| Event::Copy(p, r)),
        2 => (at(), at()).prop_map(|(p, r)| Event::Suspend(p, r)),
        2 => (at(), at()).prop_map(|(p, r)| Event::Resume(p, r)),
        1 => (1..=5u8).prop_map(Event::Rebuild),
        3 => at().prop_map(Event::HandOver),
        6 => at().prop_map(Event::Deliver),
        2 => at().prop_map(Event::DeliverAgain),
        4 => Just(Event::DeliverAll),
    ];
    prop::collection::vec(event, 1..120)
}

impl World {
    fn new() -> Self {
        let state = founded();
        let running = BTreeMap::from([(node(1), Some(1))]);
        Self {
            state,
            running,
            starts: BTreeMap::from([(node(1), 1)]),
            damaged: BTreeMap::new(),
            held: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            writes: 0,
            stopped: BTreeSet::new(),
            proposed: Vec::new(),
        }
    }

    /// Returns whether the node's process is the registered one, and up.
    fn takes_part(&self, node: NodeId) -> bool {
        let running = self.running.get(&node).copied().flatten();
        running == Some(incarnation_of(&self.state, node)) && self.state.is_up(node)
    }

    fn happen(&mut self, event: &Event) {
        let watched = |index: &Index| WATCHED[index.index(WATCHED.len())];
        match event {
            Event::Start(number) => self.start(*number),
            Event::StartDamaged(number) => {
                let next = self.starts.get(&node(*number)).copied().unwrap_or_default() + 1;
                self.damaged.insert(node(*number), next);
                self.held.retain(|(holder, _), _| *holder != node(*number));
                self.start(*number);
            }
            Event::Kill(number) => drop(self.running.insert(node(*number), None)),
            Event::DeclareDown(number) => {
                // Only after its lease has expired: a process that takes part has one.
                if !self.takes_part(node(*number)) {
                    let incarnation = incarnation_of(&self.state, node(*number));
                    self.proposed.push(Change::DeclareDown { node: node(*number), incarnation });
                }
            }
            Event::Write(index) => self.write(watched(index)),
            Event::Copy(index, replica) => self.copy(watched(index), replica),
            Event::Suspend(index, replica) => {
                self.propose(watched(index), replica, ReplicaRole::InSync, suspend);
            }
            Event::Resume(index, replica) => self.propose(watched(index), replica, ReplicaRole::Away, resume),
            Event::Rebuild(number) => {
                let incarnation = incarnation_of(&self.state, node(*number));
                self.proposed.push(Change::Rebuild { node: node(*number), incarnation });
            }
            Event::HandOver(index) => self.stop(watched(index)),
            Event::Deliver(index) if !self.proposed.is_empty() => {
                let change = self.proposed.remove(index.index(self.proposed.len()));
                self.deliver(&[change]);
            }
            Event::DeliverAgain(index) if !self.proposed.is_empty() => {
                let change = self.proposed[index.index(self.proposed.len())].clone();
                self.deliver(&[change]);
            }
            Event::DeliverAll => {
                let changes = std::mem::take(&mut self.proposed);
                self.deliver(&changes);
            }
            Event::Deliver(_) | Event::DeliverAgain(_) => {}
        }
    }

    fn start(&mut self, number: u8) {
        let node = node(number);
        let start = self.starts.entry(node).or_default();
        *start += 1;
        let mut announcement = announcement(number, *start);
        self.running.insert(node, Some(*start));
        if (0..PARTITIONS).all(|partition| !self.may_lack(node, partition)) {
            self.damaged.remove(&node);
        } else {
            announcement.store = StoreCondition::Damaged;
        }
        self.proposed.push(Change::Register(announcement));
    }

    /// Returns whether a damaged node has not been made equal to another copy since.
    fn may_lack(&self, node: NodeId, partition: Partition) -> bool {
        let Some(damaged) = self.damaged.get(&node) else { return false };
        let (Some(member), Some(state)) = (self.state.member(node), self.state.partition(partition)) else {
            return false;
        };
        let registered = member.announcement.incarnation >= *damaged;
        state.replica(node).is_some_and(|replica| {
            !registered || replica.role != ReplicaRole::InSync || replica.syncing_since < member.since
        })
    }

    fn deliver(&mut self, changes: &[Change]) {
        // A process that began to take part after the proposal has a lease: no coordinator declares it down.
        let allowed = |change: &&Change| match change {
            Change::DeclareDown { node, incarnation } => {
                !(self.takes_part(*node) && incarnation_of(&self.state, *node) == *incarnation)
            }
            _ => true,
        };
        let changes: Vec<Change> = changes.iter().filter(allowed).cloned().collect();
        let before = self.state.clone();
        let verdicts = self.state.apply(&changes);
        if verdicts.contains(&Verdict::Applied) {
            check(&before, &self.state);
        } else {
            assert!(before == self.state);
        }
        // The strictest disk: data that is not assigned, or is of another assignment, is lost.
        let (state, assigned) = (&self.state, |cluster: &ClusterState, partition, node| {
            cluster.partition(partition).and_then(|p| p.replica(node)).map(|replica| replica.assigned)
        });
        self.held.retain(|(node, partition), _| {
            let now = assigned(state, *partition, *node);
            now.is_some() && now == assigned(&before, *partition, *node)
        });
    }

    /// Sends a write to every in-sync and syncing replica; it is acknowledged when all have it.
    fn write(&mut self, partition: Partition) {
        let state = self.state.partition(partition).unwrap().clone();
        let primary = state.primary().unwrap();
        if !self.takes_part(primary) || self.stopped.contains(&(partition, state.term)) {
            return;
        }
        self.writes += 1;
        let receivers = state.replicas.iter().filter(|replica| replica.role != ReplicaRole::Away);
        let mut everywhere = true;
        for replica in receivers {
            if self.takes_part(replica.node) {
                self.held.entry((replica.node, partition)).or_default().insert(self.writes);
            } else {
                everywhere = false;
            }
        }
        if everywhere {
            self.acknowledged.entry(partition).or_default().insert(self.writes);
        }
    }

    /// Copies every write of the primary to a syncing replica, and proposes that it has caught up.
    fn copy(&mut self, partition: Partition, index: &Index) {
        let Some(replica) = self.pick(partition, index, ReplicaRole::Syncing) else {
            return;
        };
        let primary = self.state.primary(partition).unwrap();
        if self.takes_part(primary) && self.takes_part(replica.node) && !self.may_lack(primary, partition) {
            let all = self.held.get(&(primary, partition)).cloned().unwrap_or_default();
            self.held.entry((replica.node, partition)).or_default().extend(all);
            self.proposed.push(caught_up(&self.state, partition, &replica));
        }
    }

    fn propose(
        &mut self,
        partition: Partition,
        index: &Index,
        role: ReplicaRole,
        change: fn(&ClusterState, Partition, &Replica) -> Change,
    ) {
        if let Some(replica) = self.pick(partition, index, role) {
            self.proposed.push(change(&self.state, partition, &replica));
        }
    }

    fn pick(&self, partition: Partition, index: &Index, role: ReplicaRole) -> Option<Replica> {
        let replicas = &self.state.partition(partition).unwrap().replicas;
        let fit: Vec<&Replica> = replicas.iter().filter(|replica| replica.role == role).collect();
        (!fit.is_empty()).then(|| *fit[index.index(fit.len())])
    }

    fn stop(&mut self, partition: Partition) {
        if self.takes_part(self.state.primary(partition).unwrap()) {
            self.stopped.insert((partition, self.state.partition(partition).unwrap().term));
            self.proposed.push(hand_over(&self.state, partition));
        }
    }

    /// Asserts that every in-sync replica has every acknowledged write, and so has every complete one; except
    /// those on a store that was damaged.
    fn check(&self) {
        for (partition, writes) in &self.acknowledged {
            let replicas = &self.state.partition(*partition).unwrap().replicas;
            let holds_all = |replica: &&Replica| {
                let said = replica.role == ReplicaRole::InSync || replica.complete;
                said && !self.may_lack(replica.node, *partition)
            };
            for replica in replicas.iter().filter(holds_all) {
                let held = self.held.get(&(replica.node, *partition));
                let missing = writes.iter().find(|write| held.is_none_or(|held| !held.contains(write)));
                assert_eq!(missing, None, "partition {partition}: {:?} lacks a write", replica.node);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn every_in_sync_replica_holds_every_acknowledged_write(events in events()) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
            world.check();
        }
    }
}

#[test]
fn primary_that_steps_down_is_away_and_the_last_in_sync_one_begins_a_new_term() {
    let mut state = cluster_of(3);
    let primary = state.primary(7).unwrap();
    let step_down = |state: &ClusterState| Change::StepDown(primary_ref(state, 7));
    let before = state.partition(7).unwrap().clone();
    let change = step_down(&state);
    apply(&mut state, change).unwrap();
    let after = state.partition(7).unwrap().clone();
    assert!(state.primary(7) != Some(primary) && after.is_in_sync(state.primary(7).unwrap()));
    assert_eq!((after.term, after.settled), (before.term + 1, false), "pending writes are not settled");
    assert_eq!(after.replica(primary).unwrap().role, ReplicaRole::Away);
    assert!(after.replicas.iter().any(|replica| replica.stand_in.is_some()), "in the same entry");
    // The successor is now the last in-sync replica.
    let last = state.primary(7).unwrap();
    let change = step_down(&state);
    apply(&mut state, change.clone()).unwrap();
    let again = state.partition(7).unwrap().clone();
    assert_eq!((state.primary(7), again.term, again.settled), (Some(last), after.term + 1, false));
    assert!(again.is_in_sync(last));
    assert!(apply(&mut state, change).unwrap_err().contains("is in term"), "void in a later term");
}
