//! Application of changes to the committed state: [`ClusterState::apply`].
//!
//! Invariants after the founding: the first replica of every partition is in-sync and is its primary. No node
//! appears twice in a partition. Epochs and terms only grow. A replica on a down member is away, unless it is
//! the last in-sync one, which is never given up. A copy is released only when all replicas that the ring
//! names are in-sync. A partition that lacks a copy gets a stand-in in the same entry (`stand_in.rs`).
//!
//! A change is void, and changes nothing, when the facts it was decided on no longer hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::operations::Promotion;
use super::ring::{self, PARTITIONS, Ring, RingMember};
use super::state::{
    Announcement, Change, ClusterState, Member, MemberStatus, PartitionState, Plan, PrimaryRef, Replica,
    ReplicaRef, ReplicaRole, StoreCondition, Verdict,
};
use crate::id::{ClusterId, Epoch, Incarnation, NodeId, Partition};
use crate::mutation::{Mutation, planted};

/// Reason why a change is void.
pub(super) type Rejected = String;

impl ClusterState {
    /// Applies the changes in order. If at least one of them is applied, the epoch grows by one.
    ///
    /// Returns one verdict for each change. Deterministic: equal states and changes give equal states.
    pub fn apply(&mut self, changes: &[Change]) -> Vec<Verdict> {
        if let [Change::TakeOver(takeover)] = changes {
            let done = self.take_over(takeover);
            return vec![done.map_or_else(Verdict::Rejected, |()| Verdict::Applied)];
        }
        let epoch = self.epoch + 1;
        let verdicts: Vec<Verdict> = changes
            .iter()
            .map(|change| match self.apply_one(change, epoch) {
                Ok(()) => Verdict::Applied,
                Err(reason) => Verdict::Rejected(reason),
            })
            .collect();
        if verdicts.contains(&Verdict::Applied) {
            self.epoch = epoch;
            self.after_change(epoch);
        }
        verdicts
    }

    /// Applies the consequences of a change, in the same entry.
    pub(super) fn after_change(&mut self, epoch: Epoch) {
        self.name_stand_ins(epoch);
        self.finish_plan();
    }

    fn apply_one(&mut self, change: &Change, epoch: Epoch) -> Result<(), Rejected> {
        if self.partitions.is_empty() && !matches!(change, Change::Found { .. }) {
            return Err("the cluster is not founded".to_owned());
        }
        self.check_terms_left(change)?;
        match change {
            Change::Found { cluster_id, replication_factor, lease_ms, rebuild_delay_ms, founder } => {
                self.found(*cluster_id, *replication_factor, founder, epoch)?;
                (self.lease_ms, self.rebuild_delay_ms) = (*lease_ms, *rebuild_delay_ms);
                Ok(())
            }
            Change::Register(announcement) => self.register(announcement, epoch),
            Change::DeclareDown { node, incarnation } => self.declare_down(*node, *incarnation, epoch),
            Change::CaughtUp { primary, replica, source_digest, target_digest, sent_keys, sent_bytes } => {
                self.check_primary(primary)?;
                let promotion = Promotion {
                    epoch,
                    node: replica.node,
                    source_digest: *source_digest,
                    target_digest: *target_digest,
                };
                let planned = self.is_planned_copy(primary.partition, replica.node);
                self.promote_copy(primary.partition, replica, promotion)?;
                if let Some(plan) = self.plans.running.as_mut().filter(|_| planned) {
                    plan.moved_keys = plan.moved_keys.saturating_add(*sent_keys);
                    plan.moved_bytes = plan.moved_bytes.saturating_add(*sent_bytes);
                }
                Ok(())
            }
            Change::HandOver(primary) => {
                self.check_primary(primary)?;
                self.hand_over(primary.partition);
                Ok(())
            }
            Change::SuspendReplica { primary, replica } => {
                self.check_primary(primary)?;
                self.suspend(primary.partition, replica)
            }
            Change::ResumeReplica { partition, replica } => self.resume(*partition, replica, epoch),
            Change::Rebuild { node, incarnation } => self.rebuild(*node, *incarnation),
            Change::Drain { node, incarnation } => self.set_draining(*node, *incarnation, true),
            Change::Undrain { node, incarnation } => self.set_draining(*node, *incarnation, false),
            Change::RaiseProtocol(version) => self.raise_protocol(*version),
            Change::StepDown(primary) => {
                self.check_primary(primary)?;
                self.step_down(primary.partition)
            }
            Change::GiveUp(losses) => self.give_up(losses, epoch),
            Change::TakeOver(_) => Err("a takeover must be the only change of its entry".to_owned()),
            Change::Operate { .. }
            | Change::Retire { .. }
            | Change::PausePlan { .. }
            | Change::ResumePlan { .. }
            | Change::AbortPlan { .. }
            | Change::SetThrottle { .. }
            | Change::SetAutoRebalance { .. } => self.apply_operation(change, epoch),
        }
    }

    fn found(
        &mut self,
        cluster_id: ClusterId,
        replication_factor: u8,
        founder: &Announcement,
        epoch: Epoch,
    ) -> Result<(), Rejected> {
        if self.epoch != 0 || !self.partitions.is_empty() {
            return Err(format!("cluster {} is founded already", self.cluster_id));
        }
        if replication_factor == 0 {
            return Err("the replication factor is 0: choose 1 or more".to_owned());
        }
        if founder.weight == 0 {
            return Err(
                "a node of weight 0 holds no data and cannot found a cluster: give it a weight".to_owned()
            );
        }
        self.cluster_id = cluster_id;
        self.replication_factor = replication_factor;
        self.protocol_version = founder.protocol;
        Arc::make_mut(&mut self.members).insert(founder.node, admitted(founder, epoch));
        self.ring = Ring::compute(&Ring::default(), &self.ring_members(), replication_factor);
        let only = Replica::assigned(founder.node, ReplicaRole::InSync, epoch);
        let partition = Arc::new(PartitionState { term: 1, settled: true, replicas: vec![only] });
        self.partitions = vec![partition; usize::from(PARTITIONS)];
        Ok(())
    }

    fn register(&mut self, announcement: &Announcement, epoch: Epoch) -> Result<(), Rejected> {
        let node = announcement.node;
        let former = self.members.get(&node).map(|member| member.announcement.clone());
        if let Some(former) = &former
            && announcement.incarnation <= former.incarnation
        {
            let (old, new) = (former.incarnation, announcement.incarnation);
            return Err(format!("incarnation {new} is not newer than the registered {old}"));
        }
        if let Some(removed) = self.removed_in(node) {
            return Err(format!(
                "node {} was removed in epoch {removed}: it must join as a new node (--join-afresh)",
                node.short()
            ));
        }
        self.check_protocol(announcement)?;
        let (before, had_plan) = (self.before(), self.plans.running.is_some());
        Arc::make_mut(&mut self.members).insert(node, admitted(announcement, epoch));
        match former {
            None => self.place_new(announcement, epoch),
            Some(former) => {
                let stores = (former.store, announcement.store);
                let (members, partitions) = (&self.members, &mut self.partitions);
                partitions
                    .iter_mut()
                    .map(Arc::make_mut)
                    .for_each(|partition| partition.restart_of(node, stores, members, epoch));
                self.follow_announced(&former, announcement, epoch);
            }
        }
        self.note_before(before, had_plan);
        Ok(())
    }

    /// Gives a new member its share of the data, at once or with the next rebalance.
    fn place_new(&mut self, announcement: &Announcement, epoch: Epoch) {
        let node = announcement.node;
        if announcement.weight == 0 {
            return;
        }
        if self.manual_rebalance {
            self.placement.waiting.insert(node);
        } else {
            self.retarget(format!("node {} joined", node.short()), epoch);
        }
    }

    /// Applies another weight or zone that a member announces; it replaces the value that an operator had
    /// set.
    fn follow_announced(&mut self, former: &Announcement, announcement: &Announcement, epoch: Epoch) {
        let node = announcement.node;
        if let Some(set) = self.placement.overrides.get_mut(&node) {
            set.weight = set.weight.filter(|_| former.weight == announcement.weight);
            set.zone = set.zone.take().filter(|_| former.zone == announcement.zone);
        }
        if former.weight != announcement.weight {
            let weight = announcement.weight;
            self.retarget(
                format!("node {} changed its weight from {} to {weight}", node.short(), former.weight),
                epoch,
            );
        } else if former.zone != announcement.zone {
            self.retarget(
                format!("node {} changed its zone to '{}'", node.short(), announcement.zone),
                epoch,
            );
        }
    }

    fn declare_down(&mut self, node: NodeId, incarnation: Incarnation, epoch: Epoch) -> Result<(), Rejected> {
        self.check_up(node, incarnation)?;
        if let Some(member) = Arc::make_mut(&mut self.members).get_mut(&node) {
            member.status = MemberStatus::Down;
            member.since = epoch;
        }
        self.partitions.iter_mut().map(Arc::make_mut).for_each(|partition| partition.loss_of(node));
        Ok(())
    }

    fn caught_up(&mut self, partition: Partition, named: &ReplicaRef) -> Result<(), Rejected> {
        self.check_up(named.node, named.incarnation)?;
        let state = self.partition_mut(partition)?;
        let replica = state.named(named)?;
        if replica.role != ReplicaRole::Syncing {
            return Err(format!("the replica is {}, not syncing", replica.role.word()));
        }
        (replica.role, replica.complete, replica.unmerged) = (ReplicaRole::InSync, false, None);
        self.arrange(partition);
        Ok(())
    }

    /// Makes a copy in-sync after its comparison with the primary's: both digests must be equal.
    fn promote_copy(
        &mut self,
        partition: Partition,
        named: &ReplicaRef,
        promotion: Promotion,
    ) -> Result<(), Rejected> {
        if promotion.source_digest != promotion.target_digest {
            return Err(format!(
                "the copies differ: {:016x} on the primary, {:016x} on node {}",
                promotion.source_digest,
                promotion.target_digest,
                promotion.node.short()
            ));
        }
        self.caught_up(partition, named)?;
        Arc::make_mut(&mut self.promotions).insert(partition, promotion);
        Ok(())
    }

    fn suspend(&mut self, partition: Partition, named: &ReplicaRef) -> Result<(), Rejected> {
        self.check_up(named.node, named.incarnation)?;
        let state = self.partition_mut(partition)?;
        if state.named(named)?.role == ReplicaRole::Away {
            return Err("the replica is away already".to_owned());
        }
        if state.is_last_in_sync(named.node) {
            return Err("the last in-sync replica is never removed".to_owned());
        }
        state.demote(named.node, ReplicaRole::Away);
        Ok(())
    }

    /// Ends the term of a primary that cannot append: its last writes may be on other copies only.
    fn step_down(&mut self, partition: Partition) -> Result<(), Rejected> {
        let state = self.partition_mut(partition)?;
        match state.primary() {
            Some(primary) if !state.is_last_in_sync(primary) => state.demote(primary, ReplicaRole::Away),
            _ => state.begin_term(false),
        }
        Ok(())
    }

    fn resume(&mut self, partition: Partition, named: &ReplicaRef, epoch: Epoch) -> Result<(), Rejected> {
        self.check_up(named.node, named.incarnation)?;
        let replica = self.partition_mut(partition)?.named(named)?;
        if replica.role != ReplicaRole::Away {
            return Err(format!("the replica is {}, not away", replica.role.word()));
        }
        replica.role = ReplicaRole::Syncing;
        replica.syncing_since = epoch;
        Ok(())
    }

    /// Releases surplus copies and sorts the others; the primary does not change.
    pub(super) fn arrange(&mut self, partition: Partition) {
        if let Some(state) = self.partitions.get_mut(usize::from(partition)).map(Arc::make_mut) {
            let primary = state.replicas.first().map(|replica| replica.node);
            state.release_and_sort(self.ring.replicas(partition), primary);
        }
    }

    /// Recomputes the ring and assigns the copies it names.
    pub(super) fn retarget(&mut self, cause: String, epoch: Epoch) {
        let ring = Ring::compute(&self.ring, &self.ring_members(), self.replication_factor);
        self.adopt(ring, cause, epoch);
    }

    /// Replaces the ring and assigns the copies it names.
    pub(super) fn adopt(&mut self, ring: Ring, cause: String, epoch: Epoch) {
        let ideal = ring::ideal_moves(&self.ring, &self.ring_members(), self.replication_factor);
        // The new plan also finishes the copies that an unfinished plan still had to make.
        let carried = self.copies_in_the_making(&ring);
        self.ring = ring;
        let mut added = 0;
        for (partition, state) in (0..).zip(&mut self.partitions) {
            added += Arc::make_mut(state).retarget(self.ring.replicas(partition), &self.members, epoch);
        }
        (0..PARTITIONS).for_each(|partition| self.arrange(partition));
        if added + carried > 0 {
            self.plans.total += 1;
            let (copies_total, copies_ideal) = (added + carried, ideal + carried);
            let (id, moved_keys, moved_bytes) = (self.plans.total, 0, 0);
            self.plans.running =
                Some(Plan { id, cause, epoch, copies_total, copies_ideal, moved_keys, moved_bytes });
        }
    }

    /// Counts the incomplete copies of the running plan that `ring` still names.
    fn copies_in_the_making(&self, ring: &Ring) -> u32 {
        let Some(plan) = &self.plans.running else { return 0 };
        let made_for = |partition: Partition, replica: &Replica| {
            replica.is_new_since(plan.epoch) && ring.replicas(partition).contains(&replica.node)
        };
        let partitions = (0..).zip(&self.partitions);
        let counts =
            partitions.map(|(p, state)| state.replicas.iter().filter(|r| made_for(p, r)).count() as u32);
        counts.sum()
    }

    /// Returns whether the running plan includes this copy, and it is incomplete.
    fn is_planned_copy(&self, partition: Partition, node: NodeId) -> bool {
        let Some(plan) = &self.plans.running else { return false };
        let replica = self.partition(partition).and_then(|placed| placed.replica(node));
        let made_for_it = replica.is_some_and(|replica| replica.is_new_since(plan.epoch));
        made_for_it && self.ring.replicas(partition).contains(&node)
    }

    /// Clears the plan when its copies are complete and those they replace are released.
    fn finish_plan(&mut self) {
        let Some(plan) = &self.plans.running else { return };
        let done = |(partition, state): (Partition, &PartitionState)| {
            let target = self.ring.replicas(partition);
            state.replicas.iter().filter(|replica| replica.stand_in.is_none()).all(|replica| {
                target.contains(&replica.node)
                    && !(replica.role == ReplicaRole::Syncing && replica.is_new_since(plan.epoch))
            })
        };
        if self.partitions().all(done) {
            self.plans.last = self.plans.running.take();
            self.plans.before = None;
            self.plans.paused = false;
        }
    }

    /// Returns the members as the ring needs them, in their order.
    pub(super) fn ring_members(&self) -> Vec<RingMember> {
        let member = |member: &Member| RingMember {
            node: member.announcement.node,
            weight: self.share_of(member),
            zone: self.zone_of(member).to_owned(),
        };
        self.members.values().map(member).collect()
    }

    fn partition_mut(&mut self, partition: Partition) -> Result<&mut PartitionState, Rejected> {
        let state = self.partitions.get_mut(usize::from(partition)).map(Arc::make_mut);
        state.ok_or_else(|| format!("partition {partition} does not exist"))
    }

    fn check_up(&self, node: NodeId, incarnation: Incarnation) -> Result<(), Rejected> {
        let Some(member) = self.members.get(&node) else {
            return Err(format!("node {} is no member", node.short()));
        };
        let registered = member.announcement.incarnation;
        if registered != incarnation {
            return Err(format!("node {} has incarnation {registered}, not {incarnation}", node.short()));
        }
        if member.status == MemberStatus::Down {
            return Err(format!("node {} is down", node.short()));
        }
        Ok(())
    }

    /// Checks that the primary that proposes a change is still the primary, in that term.
    fn check_primary(&self, primary: &PrimaryRef) -> Result<(), Rejected> {
        let PrimaryRef { partition, term, incarnation } = *primary;
        let state =
            self.partition(partition).ok_or_else(|| format!("partition {partition} does not exist"))?;
        if state.term != term {
            return Err(format!("partition {partition} is in term {}, not {term}", state.term));
        }
        let primary = state.primary().ok_or_else(|| format!("partition {partition} has no primary"))?;
        self.check_up(primary, incarnation)
    }
}

fn admitted(announcement: &Announcement, epoch: Epoch) -> Member {
    Member { announcement: announcement.clone(), status: MemberStatus::Up, draining: false, since: epoch }
}

fn is_up(members: &BTreeMap<NodeId, Member>, node: NodeId) -> bool {
    members.get(&node).is_some_and(|member| member.status == MemberStatus::Up)
}

impl Replica {
    /// Creates a copy that is assigned to the node in this epoch.
    pub(super) fn assigned(node: NodeId, role: ReplicaRole, epoch: Epoch) -> Self {
        Self {
            node,
            role,
            assigned: epoch,
            syncing_since: epoch,
            stand_in: None,
            complete: false,
            unmerged: None,
        }
    }

    /// Returns whether this is an incomplete copy that was assigned in this epoch or later. A copy that has
    /// been syncing since its assignment was never complete: it counts for any epoch.
    pub(crate) fn is_new_since(&self, epoch: Epoch) -> bool {
        let never_made = self.role == ReplicaRole::Syncing && self.assigned == self.syncing_since;
        let unmade = self.role != ReplicaRole::InSync && self.stand_in.is_none();
        unmade && (self.assigned >= epoch || never_made)
    }
}

impl PartitionState {
    /// Returns the named replica, if it is still the same assignment in the same role.
    fn named(&mut self, named: &ReplicaRef) -> Result<&mut Replica, Rejected> {
        let replica = self.replicas.iter_mut().find(|replica| replica.node == named.node);
        let replica = replica
            .ok_or_else(|| format!("node {} holds no replica of this partition", named.node.short()))?;
        if replica.syncing_since != named.syncing_since {
            let (is, was) = (replica.syncing_since, named.syncing_since);
            return Err(format!("the replica became syncing in epoch {is}, not {was}"));
        }
        Ok(replica)
    }

    pub(super) fn begin_term(&mut self, settled: bool) {
        self.term += 1;
        self.settled = settled;
    }

    pub(super) fn is_last_in_sync(&self, node: NodeId) -> bool {
        self.is_in_sync(node) && self.in_sync().count() == 1
    }

    /// Handles a new incarnation of the node: its copy is trusted no longer, unless no other node has it
    /// (rules R1, R2). `stores` are the store conditions that the node announced before, and now.
    fn restart_of(
        &mut self,
        node: NodeId,
        stores: (StoreCondition, StoreCondition),
        members: &BTreeMap<NodeId, Member>,
        epoch: Epoch,
    ) {
        let replaced = stores.1 == StoreCondition::Damaged && self.replace_damaged(node, members);
        if self.is_last_in_sync(node) && !replaced {
            if planted(Mutation::OldTermAfterRestart) {
                return;
            }
            return self.begin_term(false);
        }
        let held_all = |replica: &Replica| replica.role == ReplicaRole::InSync || replica.complete;
        let complete = stores == (StoreCondition::Whole, StoreCondition::Whole)
            && self.replica(node).is_some_and(held_all);
        self.demote(node, ReplicaRole::Syncing);
        if let Some(replica) = self.replicas.iter_mut().find(|replica| replica.node == node) {
            (replica.syncing_since, replica.complete) = (epoch, complete);
        }
    }

    /// If the last in-sync replica is on a damaged store, makes another complete replica in-sync, if one
    /// exists (rule R4). Returns whether it did.
    fn replace_damaged(&mut self, node: NodeId, members: &BTreeMap<NodeId, Member>) -> bool {
        if !self.is_last_in_sync(node) {
            return false;
        }
        let is_heir = |replica: &&mut Replica| {
            replica.role == ReplicaRole::Syncing && replica.complete && is_up(members, replica.node)
        };
        let Some(heir) = self.replicas.iter_mut().find(is_heir) else { return false };
        (heir.role, heir.complete) = (ReplicaRole::InSync, false);
        true
    }

    /// Handles a node that is down. The last in-sync replica waits for its return: no other copy has every
    /// write.
    fn loss_of(&mut self, node: NodeId) {
        if planted(Mutation::PromoteSyncing)
            && self.is_last_in_sync(node)
            && let Some(other) = self.replicas.iter_mut().find(|replica| replica.role == ReplicaRole::Syncing)
        {
            other.role = ReplicaRole::InSync;
        }
        if !self.is_last_in_sync(node) {
            self.demote(node, ReplicaRole::Away);
            // A stand-in does not wait for the return of its node: another stand-in replaces it.
            self.replicas.retain(|replica| replica.node != node || replica.stand_in.is_none());
        }
    }

    /// Removes a replica from the in-sync set; if it was the primary, the next in-sync replica becomes
    /// primary. The caller has checked that one exists.
    fn demote(&mut self, node: NodeId, role: ReplicaRole) {
        let Some(index) = self.replicas.iter().position(|replica| replica.node == node) else {
            return;
        };
        (self.replicas[index].role, self.replicas[index].complete) = (role, false);
        let Some(primary) = self.replicas.iter().position(|replica| replica.role == ReplicaRole::InSync)
        else {
            return;
        };
        if primary != 0 {
            self.replicas[..=primary].rotate_right(1);
            self.begin_term(false);
        }
    }

    /// Assigns the copies that the ring names, and drops the others except in-sync copies and stand-ins.
    /// Returns the number of assigned copies.
    fn retarget(&mut self, target: &[NodeId], members: &BTreeMap<NodeId, Member>, epoch: Epoch) -> u32 {
        self.adopt_stand_ins(target);
        self.replicas.retain(|replica| {
            let merges = replica.role == ReplicaRole::Syncing && replica.unmerged.is_some();
            let stays = replica.role == ReplicaRole::InSync || replica.stand_in.is_some() || merges;
            stays || target.contains(&replica.node)
        });
        let mut added = 0;
        for &node in target {
            if !self.replicas.iter().any(|replica| replica.node == node) {
                let role = if is_up(members, node) { ReplicaRole::Syncing } else { ReplicaRole::Away };
                self.replicas.push(Replica::assigned(node, role, epoch));
                added += 1;
            }
        }
        added
    }

    /// Releases the copies outside `target` if all of `target` is in-sync. Then sorts the others: first the
    /// given primary, then the target, then the rest. A primary outside the target is released only if
    /// `primary` is `None`.
    pub(super) fn release_and_sort(&mut self, target: &[NodeId], primary: Option<NodeId>) {
        let whole = target.iter().all(|node| self.is_in_sync(*node)) || planted(Mutation::EarlyRelease);
        if !target.is_empty() && whole {
            // A live copy whose writes are still to be merged stays until they are.
            let merges =
                |replica: &Replica| replica.role == ReplicaRole::Syncing && replica.unmerged.is_some();
            self.replicas.retain(|replica| {
                Some(replica.node) == primary || target.contains(&replica.node) || merges(replica)
            });
        }
        let place = |node: NodeId| target.iter().position(|named| *named == node).unwrap_or(target.len());
        self.replicas.sort_by_key(|replica| (Some(replica.node) != primary, place(replica.node)));
    }
}

#[cfg(test)]
mod tests;
