//! Operators' changes to the committed state: leave, remove, replace, weights, zones, the number of copies,
//! and the control of the resulting plan.
//!
//! An [`AdminOperation`] may name the [`Basis`] it was planned on: it is void if the ring or the members have
//! changed since. The results of an operation are stored here, not in the announcements of nodes, so that a
//! restart does not undo them.
//!
//! Rejects an operation that would leave no node with data, and a loss of data that the operator did not
//! accept explicitly.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::apply::Rejected;
use super::ring::{PARTITIONS, Ring};
use super::state::{Change, ClusterState, Member, MemberStatus, Plan};
use super::words::counted;
use crate::id::{Epoch, Incarnation, NodeId};

/// Maximum of removed members that are remembered; the oldest are forgotten.
pub const REMOVED_MAX: usize = 256;
/// Maximum of copies of a key.
pub const COPIES_MAX: u8 = 5;
/// Largest weight of a member.
pub const WEIGHT_MAX: u32 = 10_000;
/// Longest name of a zone, in bytes.
pub const ZONE_BYTES_MAX: usize = 64;
/// Slowest and fastest settable pace of copying, in bytes a second.
pub const THROTTLE_BYTES_PER_S: std::ops::RangeInclusive<u64> = 64 << 10..=64 << 30;

/// An operator's change of the placement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminOperation {
    /// Removes a live node from the cluster, after its copies were made on other nodes.
    Leave {
        /// The node.
        node: NodeId,
    },
    /// Removes a node that is down; its copies are made on other nodes. Rejected while the node has the last
    /// in-sync replica of a partition, unless the loss is accepted.
    Remove {
        /// The node.
        node: NodeId,
        /// The incarnation that was declared down.
        incarnation: Incarnation,
        /// Whether writes that only this node has may be lost.
        accept_loss: bool,
    },
    /// Puts a node without data in exactly the places of another node, which leaves or, if it is down, is
    /// removed.
    Replace {
        /// The node to replace.
        old: NodeId,
        /// The node that takes over its places.
        new: NodeId,
        /// As in [`AdminOperation::Remove`], if `old` is down.
        accept_loss: bool,
    },
    /// Sets a member's share of the data, until the node announces a different weight than before.
    SetWeight {
        /// The node.
        node: NodeId,
        /// Its share relative to the other weights; 0 holds no data.
        weight: u32,
    },
    /// Sets a member's failure zone, until the node announces a different zone than before.
    SetZone {
        /// The node.
        node: NodeId,
        /// Its zone; empty for none.
        zone: String,
    },
    /// Sets the number of copies that each key should have.
    SetReplicas {
        /// 1 to [`COPIES_MAX`].
        copies: u8,
    },
    /// Gives their share of the data to members that were admitted without data.
    Rebalance,
}

/// The state on which an operation was planned, and its expected result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    /// [`ClusterState::basis_hash`] of the state it was planned on.
    pub members: u64,
    /// Hash of the expected ring.
    pub ring: u64,
}

/// An operator's settings for a member, which replace those it announces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Weight of the member.
    pub weight: Option<u32>,
    /// Zone of the member.
    pub zone: Option<String>,
}

/// Inputs of the ring that operators control.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Settings for single members.
    pub overrides: BTreeMap<NodeId, Override>,
    /// Members that hand over their copies and then leave.
    pub leaving: BTreeSet<NodeId>,
    /// Members without data until the next rebalance.
    pub waiting: BTreeSet<NodeId>,
}

/// A former member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The node.
    pub node: NodeId,
    /// The epoch in which it was removed.
    pub epoch: Epoch,
}

/// The ring before the running plan, and its inputs: an abort restores them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    ring: Ring,
    replication_factor: u8,
    placement: Placement,
}

/// The last time a replica of a partition became in-sync, and the digests compared then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// The epoch in which it became in-sync.
    pub epoch: Epoch,
    /// The replica's node.
    pub node: NodeId,
    /// Digest of the primary's copy.
    pub source_digest: u64,
    /// Digest of the replica's copy, after the same write.
    pub target_digest: u64,
}

/// The running plan, and those before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plans {
    /// The running plan; `None` if the copies are where the ring names them.
    pub running: Option<Plan>,
    /// Whether the copying of the running plan is paused.
    pub paused: bool,
    /// The state that an abort of the running plan restores.
    pub before: Option<Before>,
    /// The last plan that has ended.
    pub last: Option<Plan>,
    /// Number of plans since the founding, which is the id of the newest.
    pub total: u64,
}

impl Before {
    /// Returns the ring before the plan.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }
}

/// A node's relation to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// A member, up or down.
    Member,
    /// A former member, removed in this epoch.
    Removed(Epoch),
    /// Never a member, as far as the state knows.
    Unknown,
}

impl ClusterState {
    /// Applies a change that an operator made, or that results from one.
    pub(super) fn apply_operation(&mut self, change: &Change, epoch: Epoch) -> Result<(), Rejected> {
        match change {
            Change::Operate { operation, basis } => self.operate(operation, *basis, epoch),
            Change::Retire { node } => self.retire(*node, epoch),
            Change::PausePlan { plan } => self.set_paused(*plan, true),
            Change::ResumePlan { plan } => self.set_paused(*plan, false),
            Change::AbortPlan { plan } => self.abort(*plan, epoch),
            Change::SetThrottle { bytes_per_s } => self.set_throttle(*bytes_per_s),
            Change::SetAutoRebalance { enabled } => {
                self.manual_rebalance = !enabled;
                Ok(())
            }
            _ => Err("this change is not an operation".to_owned()),
        }
    }

    /// Returns the hash of all inputs of a plan: the ring, the members and their settings. A restart of a
    /// node does not change it; a node that is declared down does.
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

    /// Returns the weight of a member: the operator's setting, or else the announced one.
    pub fn weight_of(&self, member: &Member) -> u32 {
        let set = self.placement.overrides.get(&member.announcement.node);
        set.and_then(|set| set.weight).unwrap_or(member.announcement.weight)
    }

    /// Returns the zone of a member: the operator's setting, or else the announced one.
    pub fn zone_of<'a>(&'a self, member: &'a Member) -> &'a str {
        let set = self.placement.overrides.get(&member.announcement.node);
        set.and_then(|set| set.zone.as_deref()).unwrap_or(&member.announcement.zone)
    }

    /// Returns the weight that the ring uses for a member: 0 while it leaves, or waits for a rebalance.
    pub fn share_of(&self, member: &Member) -> u32 {
        let Placement { leaving, waiting, .. } = &self.placement;
        let node = &member.announcement.node;
        if leaving.contains(node) || waiting.contains(node) { 0 } else { self.weight_of(member) }
    }

    /// Returns a node's relation to the cluster.
    pub fn membership(&self, node: NodeId) -> Membership {
        if self.members.contains_key(&node) {
            return Membership::Member;
        }
        self.removed_in(node).map_or(Membership::Unknown, Membership::Removed)
    }

    /// Returns the epoch in which the node was removed. `None`: it never was a member, still is one, or more
    /// than `REMOVED_MAX` nodes were removed after it.
    pub fn removed_in(&self, node: NodeId) -> Option<Epoch> {
        self.removed.iter().find(|removed| removed.node == node).map(|removed| removed.epoch)
    }

    /// Returns the leaving members that have no copy any more: they can be retired.
    pub fn retirable(&self) -> Vec<NodeId> {
        let leaving = self.placement.leaving.iter().copied();
        leaving.filter(|node| self.check_retirable(*node).is_ok()).collect()
    }

    /// Returns the state that an abort would restore, before a change of the ring.
    pub(super) fn before(&self) -> Before {
        Before {
            ring: self.ring.clone(),
            replication_factor: self.replication_factor,
            placement: self.placement.clone(),
        }
    }

    /// Stores `before` if a plan has begun. If a plan was running already, an abort still restores the state
    /// before that plan.
    pub(super) fn note_before(&mut self, before: Before, had_plan: bool) {
        if !had_plan {
            self.plans.before = self.plans.running.is_some().then_some(before);
        }
    }

    fn operate(
        &mut self,
        operation: &AdminOperation,
        basis: Option<Basis>,
        epoch: Epoch,
    ) -> Result<(), Rejected> {
        if basis.is_some_and(|basis| basis.members != self.basis_hash()) {
            return Err(
                "the ring or the members have changed since this was planned: plan it again".to_owned()
            );
        }
        // Work on a copy, so that an error leaves the state unchanged.
        let mut next = self.clone();
        let (before, had_plan) = (self.before(), self.plans.running.is_some());
        match operation {
            AdminOperation::Leave { node } => next.leave(*node, epoch)?,
            AdminOperation::Remove { node, incarnation, accept_loss } => {
                next.remove(*node, *incarnation, *accept_loss, epoch)?;
            }
            AdminOperation::Replace { old, new, accept_loss } => {
                next.replace(*old, *new, *accept_loss, epoch)?
            }
            AdminOperation::SetWeight { node, weight } => next.set_weight(*node, *weight, epoch)?,
            AdminOperation::SetZone { node, zone } => next.set_zone(*node, zone, epoch)?,
            AdminOperation::SetReplicas { copies } => next.set_replicas(*copies, epoch)?,
            AdminOperation::Rebalance => next.rebalance(epoch)?,
        }
        if basis.is_some_and(|basis| basis.ring != next.ring.hash()) {
            return Err(
                "the operation would lead to another ring than the planned one: plan it again".to_owned()
            );
        }
        next.note_before(before, had_plan);
        *self = next;
        Ok(())
    }

    fn leave(&mut self, node: NodeId, epoch: Epoch) -> Result<(), Rejected> {
        let short = node.short();
        if self.known(node)?.status == MemberStatus::Down {
            return Err(format!("node {short} is down: start it again, or remove it"));
        }
        if !self.placement.leaving.insert(node) {
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
    ) -> Result<(), Rejected> {
        self.check_removable(node, Some(incarnation), accept_loss)?;
        self.forget(node, epoch);
        self.check_holders()?;
        self.promote_the_rest(epoch);
        self.retarget(format!("node {} was removed", node.short()), epoch);
        self.promote_the_rest(epoch);
        Ok(())
    }

    fn replace(&mut self, old: NodeId, new: NodeId, accept_loss: bool, epoch: Epoch) -> Result<(), Rejected> {
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
                "the ring has no place of node {old_short}: if it is leaving, abort that plan first, then \
                 replace it"
            ));
        }
        if self.ring.names(new) || self.replicas_on(new).next().is_some() {
            return Err(format!(
                "node {new_short} holds data already, and so cannot take exactly the places of another: \
                 start a new node with --weight 0, or with auto-rebalance off, and name that node"
            ));
        }
        let ring = self.ring.substituted(old, new);
        if down {
            self.check_removable(old, None, accept_loss)?;
            self.forget(old, epoch);
            self.promote_the_rest(epoch);
        } else {
            self.placement.leaving.insert(old);
        }
        let placement = &mut self.placement;
        placement.waiting.remove(&new);
        placement.overrides.entry(new).or_default().weight = (announced != weight).then_some(weight);
        self.adopt(ring, format!("node {new_short} replaces node {old_short}"), epoch);
        self.promote_the_rest(epoch);
        Ok(())
    }

    fn set_weight(&mut self, node: NodeId, weight: u32, epoch: Epoch) -> Result<(), Rejected> {
        let (member, short) = (self.known(node)?, node.short());
        let former = self.weight_of(member);
        let announced = member.announcement.weight;
        if former == weight {
            return Err(format!("node {short} has weight {weight} already"));
        }
        if weight > WEIGHT_MAX {
            return Err(format!("a weight is {WEIGHT_MAX} at most"));
        }
        let set = self.placement.overrides.entry(node).or_default();
        set.weight = (announced != weight).then_some(weight);
        self.check_holders()?;
        self.retarget(format!("weight of node {short} set from {former} to {weight}"), epoch);
        Ok(())
    }

    fn set_zone(&mut self, node: NodeId, zone: &str, epoch: Epoch) -> Result<(), Rejected> {
        let (member, short) = (self.known(node)?, node.short());
        if self.zone_of(member) == zone {
            return Err(format!("node {short} is in zone '{zone}' already"));
        }
        if zone.len() > ZONE_BYTES_MAX {
            return Err(format!("the name of a zone has {ZONE_BYTES_MAX} bytes at most"));
        }
        let announced = member.announcement.zone.clone();
        let set = self.placement.overrides.entry(node).or_default();
        set.zone = (announced != zone).then(|| zone.to_owned());
        self.retarget(format!("zone of node {short} set to '{zone}'"), epoch);
        Ok(())
    }

    fn set_replicas(&mut self, copies: u8, epoch: Epoch) -> Result<(), Rejected> {
        let former = self.replication_factor;
        if !(1..=COPIES_MAX).contains(&copies) {
            return Err(format!("a key can have 1 to {COPIES_MAX} copies"));
        }
        if copies == former {
            return Err(format!(
                "the cluster is already set to {} of each key",
                counted(copies.into(), "copy")
            ));
        }
        self.replication_factor = copies;
        self.retarget(format!("copies of each key set from {former} to {copies}"), epoch);
        Ok(())
    }

    fn rebalance(&mut self, epoch: Epoch) -> Result<(), Rejected> {
        let waiting = std::mem::take(&mut self.placement.waiting);
        let former = self.ring.hash();
        self.retarget(
            format!("rebalance: {} given data", counted(waiting.len() as u32, "waiting node")),
            epoch,
        );
        if waiting.is_empty() && self.ring.hash() == former {
            return Err("the ring already has the best placement: nothing is to be done".to_owned());
        }
        Ok(())
    }

    fn retire(&mut self, node: NodeId, epoch: Epoch) -> Result<(), Rejected> {
        self.check_retirable(node)?;
        self.forget(node, epoch);
        Ok(())
    }

    fn check_retirable(&self, node: NodeId) -> Result<(), Rejected> {
        let short = node.short();
        self.known(node)?;
        if !self.placement.leaving.contains(&node) {
            return Err(format!("node {short} is not leaving"));
        }
        let held = self.replicas_on(node).count() as u32;
        if held > 0 || self.ring.names(node) {
            return Err(format!("node {short} still holds {}", counted(held, "copy")));
        }
        Ok(())
    }

    fn set_paused(&mut self, plan: u64, paused: bool) -> Result<(), Rejected> {
        self.check_plan(plan)?;
        if self.plans.paused == paused {
            return Err(format!(
                "plan {plan} {}",
                if paused { "is paused already" } else { "is not paused" }
            ));
        }
        self.plans.paused = paused;
        Ok(())
    }

    fn set_throttle(&mut self, bytes_per_s: Option<u64>) -> Result<(), Rejected> {
        let bounds = THROTTLE_BYTES_PER_S;
        if bytes_per_s.is_some_and(|rate| !bounds.contains(&rate)) {
            return Err(format!("a pace is {} to {} bytes a second", bounds.start(), bounds.end()));
        }
        self.throttle_bytes_per_s = bytes_per_s;
        Ok(())
    }

    /// Restores the ring from before the plan. Copies released since are made again. Nodes that have joined
    /// stay members, without data.
    fn abort(&mut self, plan: u64, epoch: Epoch) -> Result<(), Rejected> {
        self.check_plan(plan)?;
        let Some(before) = self.plans.before.clone() else {
            return Err(format!(
                "plan {plan} undoes an aborted plan and cannot be aborted: pause it instead"
            ));
        };
        if let Some(gone) = before.ring.nodes().into_iter().find(|node| !self.members.contains_key(node)) {
            return Err(format!(
                "plan {plan} cannot be aborted: node {} had copies before it and is no longer a member. \
                 Pause it, or let it finish",
                gone.short()
            ));
        }
        self.replication_factor = before.replication_factor;
        self.placement = before.placement;
        for (node, member) in self.members.iter() {
            if !before.ring.names(*node) && self.weight_of(member) > 0 {
                let placement = &mut self.placement;
                if !placement.leaving.contains(node) {
                    placement.waiting.insert(*node);
                }
            }
        }
        self.plans.running = None;
        self.plans.before = None;
        self.plans.paused = false;
        self.adopt(before.ring, format!("plan {plan} was aborted"), epoch);
        Ok(())
    }

    fn check_plan(&self, plan: u64) -> Result<(), Rejected> {
        match &self.plans.running {
            Some(running) if running.id == plan => Ok(()),
            Some(running) => Err(format!("plan {} is running, not {plan}", running.id)),
            None => Err("no plan is running".to_owned()),
        }
    }

    fn known(&self, node: NodeId) -> Result<&Member, Rejected> {
        self.members.get(&node).ok_or_else(|| format!("node {} is no member", node.short()))
    }

    fn check_holders(&self) -> Result<(), Rejected> {
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
    ) -> Result<(), Rejected> {
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
                "node {short} has the last complete copy of {}: its removal would lose the writes \
                 acknowledged there. Start it again with its data directory; if the directory is lost, \
                 accept the loss (--accept-loss)",
                counted(lost, "partition")
            ));
        }
        Ok(())
    }

    /// Removes the node from the members and from all partitions; only the ring may still name it.
    fn forget(&mut self, node: NodeId, epoch: Epoch) {
        Arc::make_mut(&mut self.members).remove(&node);
        let (placement, removed) = (&mut self.placement, &mut self.removed);
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

    /// In partitions that lost their last in-sync replica, makes the best of the others primary, under a new
    /// term. Called before the ring changes, so that no live copy is released unmerged, and after it, for
    /// partitions without a copy.
    fn promote_the_rest(&mut self, epoch: Epoch) {
        for partition in 0..PARTITIONS {
            let members = &self.members;
            let up = |node| members.get(&node).is_some_and(|member| member.status == MemberStatus::Up);
            if let Some(state) = self.partitions.get_mut(usize::from(partition)).map(Arc::make_mut)
                && state.primary().is_none()
            {
                state.promote(up, epoch);
                self.arrange(partition);
            }
        }
    }
}

#[cfg(test)]
mod tests;
