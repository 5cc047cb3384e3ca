//! Gives up what only the last complete copy of a partition holds, or held, because an operator accepts that
//! loss.
//!
//! Two cases, as [`Cause`] names them:
//!
//! - The copy is on a node that is down, and stays down. The best of the other copies on nodes that are up,
//!   or an empty one, becomes the partition's in-sync set under a new term. The replicas of nodes that are
//!   down are assigned again: a store from before starts empty when its node returns (R16), so nobody serves
//!   or spreads it, and its frames are of an older term.
//! - The copy is on a node that is up, and its store is damaged. The copy stays the partition's base. Its
//!   replica entry says from now on that nothing is missing: its node answers for every key with what its
//!   store holds.
//!
//! Other copies on nodes that are up become [`OlderGeneration`]: the primary orders what only they hold
//! again, before it makes them equal to itself. Pure and deterministic. Rejects a partition whose last
//! complete copy can still serve.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::apply::Rejected;
use super::state::{ClusterState, Member, MemberStatus, PartitionState, Replica, ReplicaRole, StandIn};
use super::takeover::OlderGeneration;
use crate::id::{Epoch, Incarnation, NodeId, Partition, Term};

/// Reason why the last complete copy of a partition does not serve all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// Its node is down.
    Down,
    /// Its node is up, and its store was found damaged when it was opened: it may lack any record of the
    /// partition.
    Damaged,
    /// Its node is up, and it has records that no copy holds whole. The node deletes their keys after this is
    /// committed; the committed state stays as it is.
    Records,
}

/// One partition that is given up, as the proposer saw it. Rejected unless all of it is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Which partition.
    pub partition: Partition,
    /// Its term.
    pub term: Term,
    /// The node of its primary, the last in-sync replica.
    pub holder: NodeId,
    /// The registered incarnation of that node.
    pub incarnation: Incarnation,
    /// Fault of that copy.
    pub cause: Cause,
}

impl ClusterState {
    /// Applies [`Change::GiveUp`](super::state::Change::GiveUp): all losses or, if one is void, none.
    pub(super) fn give_up(&mut self, losses: &[Loss], epoch: Epoch) -> Result<(), Rejected> {
        if losses.is_empty() {
            return Err("no partition is named".to_owned());
        }
        for loss in losses {
            self.check_loss(loss)?;
        }
        let former = self.partitions.clone();
        for loss in losses {
            let done = match loss.cause {
                Cause::Down => self.give_up_lost(loss, epoch),
                Cause::Damaged => self.give_up_damaged(loss, epoch),
                Cause::Records => Ok(()),
            };
            if let Err(reason) = done {
                self.partitions = former;
                return Err(reason);
            }
        }
        Ok(())
    }

    fn check_loss(&self, loss: &Loss) -> Result<(), Rejected> {
        let Loss { partition, term, holder, incarnation, cause } = *loss;
        let state = self.partition(partition).ok_or_else(|| format!("there is no partition {partition}"))?;
        let (short, up) = (holder.short(), self.is_up(holder));
        if (state.term, state.primary()) != (term, Some(holder)) {
            return Err(format!(
                "partition {partition} has another primary or term by now: look at it again"
            ));
        }
        let registered = self.member(holder).map(|member| member.announcement.incarnation);
        if registered != Some(incarnation) {
            return Err(format!("node {short} was started again since: look at partition {partition} again"));
        }
        if cause == Cause::Down && state.has_used_its_terms() {
            return Err(format!("partition {partition} has no term left: copy the keys into a new cluster"));
        }
        match cause {
            Cause::Down if up => Err(format!(
                "partition {partition} has a complete copy on node {short}, which is up: there is nothing to \
                 give up"
            )),
            Cause::Damaged | Cause::Records if !up => {
                Err(format!("node {short} went down since: look at partition {partition} again"))
            }
            Cause::Damaged if !state.is_last_in_sync(holder) => Err(format!(
                "partition {partition} has another complete copy by now, which the damaged one is restored \
                 from: there is nothing to give up"
            )),
            _ => Ok(()),
        }
    }

    /// Puts the best of the other copies into the place of the lost one.
    fn give_up_lost(&mut self, loss: &Loss, epoch: Epoch) -> Result<(), Rejected> {
        let Loss { partition, holder, .. } = *loss;
        let target = self.ring.replicas(partition).to_vec();
        let spare = self.spare_for(partition, holder, epoch)?;
        let members = Arc::clone(&self.members);
        if let Some(state) = self.partitions.get_mut(usize::from(partition)).map(Arc::make_mut) {
            state.replicas.retain(|replica| is_up(&members, replica.node));
            if state.replicas.is_empty() {
                state.replicas.push(spare);
            }
            state.promote(|node| is_up(&members, node), epoch);
            for node in target {
                if state.replica(node).is_none() {
                    let role = if is_up(&members, node) { ReplicaRole::Syncing } else { ReplicaRole::Away };
                    state.replicas.push(Replica::assigned(node, role, epoch));
                }
            }
        }
        self.arrange(partition);
        Ok(())
    }

    /// Returns an empty copy, for a partition that has no copy on a node that is up.
    fn spare_for(&self, partition: Partition, lost: NodeId, epoch: Epoch) -> Result<Replica, Rejected> {
        let target = self.ring.replicas(partition);
        let in_ring = target.iter().copied().find(|node| self.is_up(*node));
        let node = in_ring.or_else(|| self.least_loaded()).ok_or_else(|| {
            format!("no node that is up can hold partition {partition}: start one, or give one a weight")
        })?;
        // Outside of the ring it stands in for the lost one, until that place is filled.
        let stand_in = (!target.contains(&node)).then_some(StandIn { of: lost, rebuild: true });
        Ok(Replica { stand_in, ..Replica::assigned(node, ReplicaRole::Syncing, epoch) })
    }

    /// Makes the damaged copy count as complete.
    fn give_up_damaged(&mut self, loss: &Loss, epoch: Epoch) -> Result<(), Rejected> {
        let members = Arc::clone(&self.members);
        let Some(state) = self.partitions.get_mut(usize::from(loss.partition)).map(Arc::make_mut) else {
            return Ok(());
        };
        let first_term = state.term;
        for replica in &mut state.replicas {
            if replica.node == loss.holder {
                replica.syncing_since = epoch;
            } else if is_up(&members, replica.node) && replica.assigned != epoch {
                replica.is_to_merge(OlderGeneration { first_term, seen: None });
            }
        }
        Ok(())
    }
}

impl PartitionState {
    /// Makes the best of the replicas, none of which is in-sync, the primary, under a new term. The best one
    /// is on a node that is up and holds the most, as far as the state shows. The other copies on nodes that
    /// are up are merged by value before they are made equal to it: they may hold writes that it lacks.
    pub(super) fn promote(&mut self, up: impl Fn(NodeId) -> bool, epoch: Epoch) {
        let rank = |at: &usize| {
            let replica = &self.replicas[*at];
            let empty = replica.assigned == epoch;
            let (waits, away) = (replica.is_waiting_stand_in(), replica.role != ReplicaRole::Syncing);
            (!up(replica.node), !replica.complete, empty, waits, replica.assigned, away)
        };
        let Some(best) = (0..self.replicas.len()).min_by_key(rank) else { return };
        (self.replicas[best].role, self.replicas[best].complete) = (ReplicaRole::InSync, false);
        (self.replicas[best].syncing_since, self.replicas[best].unmerged) = (epoch, None);
        self.replicas[..=best].rotate_right(1);
        self.begin_term(false);
        let unmerged = OlderGeneration { first_term: self.term, seen: None };
        let others = self.replicas.iter_mut().skip(1).filter(|replica| replica.assigned != epoch);
        others.filter(|replica| up(replica.node)).for_each(|replica| replica.is_to_merge(unmerged));
    }
}

impl Replica {
    /// Marks a copy whose writes the primary has to merge. A stand-in does not wait for its rebuild delay.
    fn is_to_merge(&mut self, unmerged: OlderGeneration) {
        self.unmerged = self.unmerged.or(Some(unmerged));
        // The records that this copy received in earlier terms are not all records of the new base.
        self.complete = false;
        if let Some(stand_in) = &mut self.stand_in {
            stand_in.rebuild = true;
        }
    }
}

fn is_up(members: &BTreeMap<NodeId, Member>, node: NodeId) -> bool {
    members.get(&node).is_some_and(|member| member.status == MemberStatus::Up)
}

#[cfg(test)]
mod tests;
