//! What operators do to the topology, as changes of the committed state: leave, remove, replace, weights, zones, the
//! number of copies, and the control of the plan that follows from them.
//!
//! An [`Operation`] may name the [`Basis`] it was planned on: it is void when ring or members have changed since.
//! Whatever an operation changes is here and not in what nodes announce, so that a restart does not undo it.
//! It refuses what would leave no node that holds data, and a loss of data that was not accepted in words.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::apply::Void;
use super::protocol::Speech;
use super::ring::{PARTITIONS, Ring};
use super::state::{Change, ClusterState, Member, MemberStatus, PartitionState, Plan, ReplicaRole};
use super::words::counted;
use crate::id::{Epoch, Incarnation, NodeId, Partition};

/// Removed members that are remembered; the oldest are forgotten.
pub const REMOVED_MAX: usize = 256;
/// Copies a key can have.
pub const COPIES_MAX: u8 = 5;
/// Largest weight of a member.
pub const WEIGHT_MAX: u32 = 10_000;
/// Longest name of a zone, in bytes.
pub const ZONE_BYTES_MAX: usize = 64;
/// Slowest and fastest pace of copying that can be set, in bytes a second.
pub const THROTTLE_BYTES_PER_S: std::ops::RangeInclusive<u64> = 64 << 10..=64 << 30;

/// An operator's change of where the copies should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// A live node gives up its copies and is then no member any more.
    Leave {
        /// Which node.
        node: NodeId,
    },
    /// A node that is down is no member any more; its copies are made on others. Void while it holds the last
    /// in-sync replica of a partition, unless that loss is accepted.
    Remove {
        /// Which node.
        node: NodeId,
        /// The incarnation that was declared down.
        incarnation: Incarnation,
        /// Whether what only this node holds may be lost.
        accept_loss: bool,
    },
    /// A node that holds nothing takes exactly the places of another, which leaves or, if it is down, is removed.
    Replace {
        /// The node that goes.
        old: NodeId,
        /// The node that takes its places.
        new: NodeId,
        /// As in [`Operation::Remove`], if `old` is down.
        accept_loss: bool,
    },
    /// Sets a member's share of the data; holds until the node announces another one than it did.
    SetWeight {
        /// Which node.
        node: NodeId,
        /// Its share relative to the others'; 0 holds nothing.
        weight: u32,
    },
    /// Sets a member's failure zone; holds until the node announces another one than it did.
    SetZone {
        /// Which node.
        node: NodeId,
        /// Its zone; empty for none.
        zone: String,
    },
    /// Sets how many copies each key should have.
    SetReplicas {
        /// 1 to [`COPIES_MAX`].
        copies: u8,
    },
    /// Gives members that were admitted without data their share.
    Rebalance,
}

/// What an operation was planned on, and what was to come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    /// [`ClusterState::basis_hash`] of the state it was planned on.
    pub members: u64,
    /// Hash of the ring it was to lead to.
    pub ring: u64,
}

/// What an operator set for a member, in place of what it announces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Its weight.
    pub weight: Option<u32>,
    /// Its zone.
    pub zone: Option<String>,
}

/// What the ring is computed from, besides what members announce.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// What operators set.
    pub overrides: BTreeMap<NodeId, Override>,
    /// Members that give up their copies and then go.
    pub leaving: BTreeSet<NodeId>,
    /// Members that were admitted without data until a rebalance.
    pub waiting: BTreeSet<NodeId>,
}

/// A node that was a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Which node.
    pub node: NodeId,
    /// The epoch in which it went.
    pub epoch: Epoch,
}

/// The ring before the running plan, and what it was computed from: where an abort leads back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    ring: Ring,
    replication_factor: u8,
    placement: Placement,
}

/// The last time a replica of a partition became in-sync, and the digests that were compared for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flip {
    /// The epoch in which it did.
    pub epoch: Epoch,
    /// The replica's node.
    pub node: NodeId,
    /// Digest of the primary's copy.
    pub source_digest: u64,
    /// Digest of the replica's, after the same write.
    pub target_digest: u64,
}

/// What operators have set and started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operations {
    /// What the ring is computed from, besides announcements.
    pub placement: Placement,
    /// Nodes that were members; the newest last, [`REMOVED_MAX`] at most.
    pub removed: Vec<Removed>,
    /// Whether a joining node waits for a rebalance to be given data.
    pub manual_rebalance: bool,
    /// Whether the running plan copies nothing for now.
    pub paused: bool,
    /// The pace of copying on every node, in bytes a second, in place of each node's setting.
    pub throttle_bytes_per_s: Option<u64>,
    /// Where an abort of the running plan leads back to.
    pub before: Option<Before>,
    /// The last plan that came to its end.
    pub last_plan: Option<Plan>,
    /// What the members speak to one another.
    pub speech: Speech,
    /// The last flip of each partition. Shared by the states in which it is the same.
    pub flips: Arc<BTreeMap<Partition, Flip>>,
}

impl Before {
    /// The ring before the plan.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }
}

/// What a node is to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// A member, up or down.
    Member,
    /// It was one, up to this epoch.
    Removed(Epoch),
    /// It never was one, as far as the state knows.
    Stranger,
}

impl ClusterState {
    /// Applies one of the changes that operators make or that follow from theirs.
    pub(super) fn apply_operation(&mut self, change: &Change, epoch: Epoch) -> Result<(), Void> {
        match change {
            Change::Operate { operation, basis } => self.operate(operation, *basis, epoch),
            Change::Retire { node } => self.retire(*node, epoch),
            Change::PausePlan { plan } => self.set_paused(*plan, true),
            Change::ResumePlan { plan } => self.set_paused(*plan, false),
            Change::AbortPlan { plan } => self.abort(*plan, epoch),
            Change::SetThrottle { bytes_per_s } => self.set_throttle(*bytes_per_s),
            Change::SetAutoRebalance { enabled } => {
                self.operations.manual_rebalance = !enabled;
                Ok(())
            }
            _ => Err("this is no operation".to_owned()),
        }
    }

    /// Hash of all that a plan depends on: the ring, the members and what was set for them. A restart of a node does
    /// not change it, its going down does.
    pub fn basis_hash(&self) -> u64 {
        let mut hasher = Xxh3::new();
        hasher.update(&self.ring.hash().to_le_bytes());
        hasher.update(&[self.replication_factor]);
        for (node, member) in self.members.iter() {
            hasher.update(node.as_bytes());
            hasher.update(&[u8::from(self.is_up(*node))]);
            hasher.update(&self.weight_of(member).to_le_bytes());
            hasher.update(&self.share_of(member).to_le_bytes());
            let zone = self.zone_of(member);
            hasher.update(&(zone.len() as u64).to_le_bytes());
            hasher.update(zone.as_bytes());
        }
        hasher.digest()
    }

    /// The weight of a member: what was set for it, else what it announces.
    pub fn weight_of(&self, member: &Member) -> u32 {
        let set = self.operations.placement.overrides.get(&member.announcement.node);
        set.and_then(|set| set.weight).unwrap_or(member.announcement.weight)
    }

    /// The zone of a member: what was set for it, else what it announces.
    pub fn zone_of<'a>(&'a self, member: &'a Member) -> &'a str {
        let set = self.operations.placement.overrides.get(&member.announcement.node);
        set.and_then(|set| set.zone.as_deref()).unwrap_or(&member.announcement.zone)
    }

    /// The weight the ring counts a member with: none while it leaves, or waits for a rebalance.
    pub fn share_of(&self, member: &Member) -> u32 {
        let Placement { leaving, waiting, .. } = &self.operations.placement;
        let node = &member.announcement.node;
        if leaving.contains(node) || waiting.contains(node) { 0 } else { self.weight_of(member) }
    }

    /// What a node is to the cluster.
    pub fn membership(&self, node: NodeId) -> Membership {
        if self.members.contains_key(&node) {
            return Membership::Member;
        }
        self.removed_in(node).map_or(Membership::Stranger, Membership::Removed)
    }

    /// When a node ceased to be a member, if it was one and that is remembered.
    pub fn removed_in(&self, node: NodeId) -> Option<Epoch> {
        self.operations.removed.iter().find(|removed| removed.node == node).map(|removed| removed.epoch)
    }

    /// Members that leave and hold nothing any more: they can be retired.
    pub fn retirable(&self) -> Vec<NodeId> {
        let leaving = self.operations.placement.leaving.iter().copied();
        leaving.filter(|node| self.check_retirable(*node).is_ok()).collect()
    }

    /// Remembers where the present plan began, around something that retargets the ring.
    pub(super) fn before(&self) -> Before {
        Before {
            ring: self.ring.clone(),
            replication_factor: self.replication_factor,
            placement: self.operations.placement.clone(),
        }
    }

    /// A plan that begins leads back to `before`; one that was running already, to where that began.
    pub(super) fn note_before(&mut self, before: Before, had_plan: bool) {
        if !had_plan {
            self.operations.before = self.plan.is_some().then_some(before);
        }
    }

    fn operate(&mut self, operation: &Operation, basis: Option<Basis>, epoch: Epoch) -> Result<(), Void> {
        if basis.is_some_and(|basis| basis.members != self.basis_hash()) {
            return Err(
                "the ring or the members have changed since this was planned: plan it again".to_owned()
            );
        }
        // A copy, so that whatever is found wrong on the way leaves nothing behind.
        let mut next = self.clone();
        let (before, had_plan) = (self.before(), self.plan.is_some());
        match operation {
            Operation::Leave { node } => next.leave(*node, epoch)?,
            Operation::Remove { node, incarnation, accept_loss } => {
                next.remove(*node, *incarnation, *accept_loss, epoch)?;
            }
            Operation::Replace { old, new, accept_loss } => next.replace(*old, *new, *accept_loss, epoch)?,
            Operation::SetWeight { node, weight } => next.set_weight(*node, *weight, epoch)?,
            Operation::SetZone { node, zone } => next.set_zone(*node, zone, epoch)?,
            Operation::SetReplicas { copies } => next.set_replicas(*copies, epoch)?,
            Operation::Rebalance => next.rebalance(epoch)?,
        }
        if basis.is_some_and(|basis| basis.ring != next.ring.hash()) {
            return Err("it would lead to another ring than the planned one: plan it again".to_owned());
        }
        next.note_before(before, had_plan);
        *self = next;
        Ok(())
    }

    fn leave(&mut self, node: NodeId, epoch: Epoch) -> Result<(), Void> {
        let short = node.short();
        if self.known(node)?.status == MemberStatus::Down {
            return Err(format!("node {short} is down: start it again, or remove it"));
        }
        if !self.operations.placement.leaving.insert(node) {
            return Err(format!("node {short} is leaving already"));
        }
        self.check_holders()?;
        self.retarget(format!("node {short} leaves"), epoch);
        Ok(())
    }

    fn remove(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        accept_loss: bool,
        epoch: Epoch,
    ) -> Result<(), Void> {
        self.check_removable(node, Some(incarnation), accept_loss)?;
        self.forget(node, epoch);
        self.check_holders()?;
        self.retarget(format!("node {} was removed", node.short()), epoch);
        self.promote_the_rest(epoch);
        Ok(())
    }

    fn replace(&mut self, old: NodeId, new: NodeId, accept_loss: bool, epoch: Epoch) -> Result<(), Void> {
        let (old_short, new_short) = (old.short(), new.short());
        let weight = self.weight_of(self.known(old)?);
        let (down, announced) = (!self.is_up(old), self.known(new)?.announcement.weight);
        if old == new {
            return Err(format!("node {old_short} cannot take its own place"));
        }
        if !self.is_up(new) {
            return Err(format!("node {new_short} is down: start it first"));
        }
        if !self.ring.names(old) {
            return Err(format!(
                "the ring has no place of node {old_short}: if it is leaving, abort that plan first, then replace it"
            ));
        }
        if self.ring.names(new) || self.replicas_on(new).next().is_some() {
            return Err(format!(
                "node {new_short} holds data already, and so cannot take exactly the places of another: start a \
                 new node with --weight 0, or with auto-rebalance off, and name that one"
            ));
        }
        let ring = self.ring.substituted(old, new);
        if down {
            self.check_removable(old, None, accept_loss)?;
            self.forget(old, epoch);
        } else {
            self.operations.placement.leaving.insert(old);
        }
        let placement = &mut self.operations.placement;
        placement.waiting.remove(&new);
        placement.overrides.entry(new).or_default().weight = (announced != weight).then_some(weight);
        self.adopt(ring, format!("node {new_short} replaces node {old_short}"), epoch);
        self.promote_the_rest(epoch);
        Ok(())
    }

    fn set_weight(&mut self, node: NodeId, weight: u32, epoch: Epoch) -> Result<(), Void> {
        let (member, short) = (self.known(node)?, node.short());
        let former = self.weight_of(member);
        let announced = member.announcement.weight;
        if former == weight {
            return Err(format!("node {short} has weight {weight} already"));
        }
        if weight > WEIGHT_MAX {
            return Err(format!("a weight is {WEIGHT_MAX} at most"));
        }
        let set = self.operations.placement.overrides.entry(node).or_default();
        set.weight = (announced != weight).then_some(weight);
        self.check_holders()?;
        self.retarget(format!("weight of node {short} set from {former} to {weight}"), epoch);
        Ok(())
    }

    fn set_zone(&mut self, node: NodeId, zone: &str, epoch: Epoch) -> Result<(), Void> {
        let (member, short) = (self.known(node)?, node.short());
        if self.zone_of(member) == zone {
            return Err(format!("node {short} is in zone '{zone}' already"));
        }
        if zone.len() > ZONE_BYTES_MAX {
            return Err(format!("the name of a zone has {ZONE_BYTES_MAX} bytes at most"));
        }
        let announced = member.announcement.zone.clone();
        let set = self.operations.placement.overrides.entry(node).or_default();
        set.zone = (announced != zone).then(|| zone.to_owned());
        self.retarget(format!("zone of node {short} set to '{zone}'"), epoch);
        Ok(())
    }

    fn set_replicas(&mut self, copies: u8, epoch: Epoch) -> Result<(), Void> {
        let former = self.replication_factor;
        if !(1..=COPIES_MAX).contains(&copies) {
            return Err(format!("a key can have 1 to {COPIES_MAX} copies"));
        }
        if copies == former {
            return Err(format!("{} a key is what is asked for already", counted(copies.into(), "copy")));
        }
        self.replication_factor = copies;
        self.retarget(format!("copies of each key set from {former} to {copies}"), epoch);
        Ok(())
    }

    fn rebalance(&mut self, epoch: Epoch) -> Result<(), Void> {
        let waiting = std::mem::take(&mut self.operations.placement.waiting);
        let former = self.ring.hash();
        self.retarget(
            format!("rebalance: {} given data", counted(waiting.len() as u32, "waiting node")),
            epoch,
        );
        if waiting.is_empty() && self.ring.hash() == former {
            return Err("the ring is what it should be: nothing is to be done".to_owned());
        }
        Ok(())
    }

    fn retire(&mut self, node: NodeId, epoch: Epoch) -> Result<(), Void> {
        self.check_retirable(node)?;
        self.forget(node, epoch);
        Ok(())
    }

    fn check_retirable(&self, node: NodeId) -> Result<(), Void> {
        let short = node.short();
        self.known(node)?;
        if !self.operations.placement.leaving.contains(&node) {
            return Err(format!("node {short} is not leaving"));
        }
        let held = self.replicas_on(node).count() as u32;
        if held > 0 || self.ring.names(node) {
            return Err(format!("node {short} still holds {}", counted(held, "copy")));
        }
        Ok(())
    }

    fn set_paused(&mut self, plan: u64, paused: bool) -> Result<(), Void> {
        self.check_plan(plan)?;
        if self.operations.paused == paused {
            return Err(format!(
                "plan {plan} {}",
                if paused { "is paused already" } else { "is not paused" }
            ));
        }
        self.operations.paused = paused;
        Ok(())
    }

    fn set_throttle(&mut self, bytes_per_s: Option<u64>) -> Result<(), Void> {
        let bounds = THROTTLE_BYTES_PER_S;
        if bytes_per_s.is_some_and(|rate| !bounds.contains(&rate)) {
            return Err(format!("a pace is {} to {} bytes a second", bounds.start(), bounds.end()));
        }
        self.operations.throttle_bytes_per_s = bytes_per_s;
        Ok(())
    }

    /// Leads the ring back to where it was before the plan. What was released since is copied back; nodes that had
    /// joined stay members, without data.
    fn abort(&mut self, plan: u64, epoch: Epoch) -> Result<(), Void> {
        self.check_plan(plan)?;
        let Some(before) = self.operations.before.clone() else {
            return Err(format!("plan {plan} is itself the way back from an aborted one: pause it instead"));
        };
        if let Some(gone) = before.ring.nodes().into_iter().find(|node| !self.members.contains_key(node)) {
            return Err(format!(
                "plan {plan} cannot be aborted: node {} had copies before it and is no member any more. Pause it, or \
                 let it end",
                gone.short()
            ));
        }
        self.replication_factor = before.replication_factor;
        self.operations.placement = before.placement;
        for (node, member) in self.members.iter() {
            if !before.ring.names(*node) && self.weight_of(member) > 0 {
                let placement = &mut self.operations.placement;
                if !placement.leaving.contains(node) {
                    placement.waiting.insert(*node);
                }
            }
        }
        self.plan = None;
        self.operations.before = None;
        self.operations.paused = false;
        self.adopt(before.ring, format!("plan {plan} was aborted"), epoch);
        Ok(())
    }

    fn check_plan(&self, plan: u64) -> Result<(), Void> {
        match &self.plan {
            Some(running) if running.id == plan => Ok(()),
            Some(running) => Err(format!("plan {} is running, not {plan}", running.id)),
            None => Err("no plan is running".to_owned()),
        }
    }

    fn known(&self, node: NodeId) -> Result<&Member, Void> {
        self.members.get(&node).ok_or_else(|| format!("node {} is no member", node.short()))
    }

    fn check_holders(&self) -> Result<(), Void> {
        match self.members.values().any(|member| self.share_of(member) > 0) {
            true => Ok(()),
            false => {
                Err("no other node could hold the data: start one first, or give one a weight".to_owned())
            }
        }
    }

    fn check_removable(
        &self,
        node: NodeId,
        incarnation: Option<Incarnation>,
        accept_loss: bool,
    ) -> Result<(), Void> {
        let (member, short) = (self.known(node)?, node.short());
        if member.status != MemberStatus::Down {
            return Err(format!(
                "node {short} is up: only a node that is down can be removed; let it leave instead"
            ));
        }
        let registered = member.announcement.incarnation;
        if incarnation.is_some_and(|incarnation| incarnation != registered) {
            return Err(format!("node {short} has been started again since: plan it again"));
        }
        let lost = self.partitions.iter().filter(|partition| partition.is_last_in_sync(node)).count() as u32;
        if lost > 0 && !accept_loss {
            return Err(format!(
                "node {short} has the last complete copy of {}: removed, it takes with it what was acknowledged \
                 there. Start it again with its data directory; if that is gone, accept the loss (--accept-loss)",
                counted(lost, "partition")
            ));
        }
        Ok(())
    }

    /// The node is no member any more, and has no place anywhere but in the ring.
    fn forget(&mut self, node: NodeId, epoch: Epoch) {
        Arc::make_mut(&mut self.members).remove(&node);
        let Operations { placement, removed, .. } = &mut self.operations;
        placement.leaving.remove(&node);
        placement.waiting.remove(&node);
        placement.overrides.remove(&node);
        removed.retain(|former| former.node != node);
        if removed.len() >= REMOVED_MAX {
            removed.remove(0);
        }
        removed.push(Removed { node, epoch });
        for partition in &mut self.partitions {
            Arc::make_mut(partition).replicas.retain(|replica| replica.node != node);
        }
    }

    /// Where the last in-sync replica was given up, the best of the others takes its place, under a new term.
    fn promote_the_rest(&mut self, epoch: Epoch) {
        for partition in 0..PARTITIONS {
            let members = &self.members;
            let up = |node| members.get(&node).is_some_and(|member| member.status == MemberStatus::Up);
            if let Some(state) = self.partitions.get_mut(usize::from(partition)).map(Arc::make_mut)
                && state.primary().is_none()
            {
                state.promote(up, epoch);
            }
            self.arrange(partition);
        }
    }
}

impl PartitionState {
    /// Of replicas none of which is in-sync, makes one the primary: one whose node is up, that was assigned first.
    fn promote(&mut self, up: impl Fn(NodeId) -> bool, epoch: Epoch) {
        let rank = |at: &usize| {
            let replica = &self.replicas[*at];
            (!up(replica.node), replica.assigned, replica.role != ReplicaRole::Syncing)
        };
        let Some(best) = (0..self.replicas.len()).min_by_key(rank) else { return };
        (self.replicas[best].role, self.replicas[best].complete) = (ReplicaRole::InSync, false);
        self.replicas[best].syncing_since = epoch;
        self.replicas[..=best].rotate_right(1);
        self.begin_term(false);
    }
}

#[cfg(test)]
mod tests;
