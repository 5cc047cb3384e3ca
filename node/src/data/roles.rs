//! Follows the committed state: gives this node its role, primary or replica, for each partition. Invariant:
//! a node never acts on an uncommitted state (rule R16).

use std::collections::BTreeSet;
use std::sync::Arc;

use caskade_engine::slots::PARTITIONS;

use super::plane::{Plane, Role, View};
use super::tail;
use crate::cluster::state::{ClusterState, MemberStatus, Replica, ReplicaRef, ReplicaRole};
use crate::id::{Epoch, Incarnation, NodeId, Partition, Term};
use crate::partition::{AssignedFollower, Phase, Primary, PrimaryEvent, ReplicaLog};

/// Role of this node for a partition by the committed state.
enum Assignment {
    Idle,
    Away,
    Replica { term: Term, primary: NodeId, assigned: Epoch },
    Primary { term: Term, settled: bool, followers: Vec<AssignedFollower>, tails: Vec<NodeId> },
}

impl Plane {
    /// Takes on the roles of a newly committed state. `incarnation` is this process's: while the state names
    /// another one, this node holds no role (rule R2).
    pub fn follow(self: &Arc<Self>, state: Arc<ClusterState>, incarnation: Incarnation) {
        let registered = state.member(self.node).is_some_and(|member| {
            member.status == MemberStatus::Up && member.announcement.incarnation == incarnation
        });
        let adopted = if registered { self.adopt_assignments(&state) } else { None };
        let takes_part = adopted.is_some().then_some(incarnation);
        let unadopted = adopted.unwrap_or_default();
        if takes_part.is_some() {
            self.note_healed(&state);
        }
        let former = self.view.load_full();
        let mut changed: BTreeSet<Partition> = if former.takes_part == takes_part {
            state.changed_since(&former.state).into_iter().collect()
        } else {
            (0..PARTITIONS).collect()
        };
        changed.extend(&unadopted);
        changed.extend(self.set_unadopted(unadopted.clone()));
        let changed: Vec<Partition> = changed.into_iter().collect();
        let mut primaries = former.primaries.clone();
        for &partition in &changed {
            let assignment = match takes_part {
                // A partition that could not be adopted for lack of space does not affect the others.
                Some(_) if !unadopted.contains(&partition) => assignment(&state, self.node, partition),
                _ => Assignment::Idle,
            };
            self.assume(partition, assignment);
            if let Some(primary) = primaries.get_mut(usize::from(partition)) {
                *primary = live_primary(&state, partition);
            }
        }
        self.view.store(Arc::new(View { state: state.clone(), takes_part, primaries }));
        self.cut_off_the_dead(&former.state, &state);
        self.forget_disks(&state);
        self.note_progress();
        self.schedule_copies();
        self.schedule_hand_overs(&changed, incarnation);
    }

    /// Closes the connections to nodes that were declared down, so that calls to them fail at once and not
    /// when the connection times out.
    fn cut_off_the_dead(&self, former: &ClusterState, state: &ClusterState) {
        let died = |node: &&NodeId| former.is_up(**node) && !state.is_up(**node);
        for node in state.members.keys().filter(died).filter(|node| **node != self.node) {
            self.peers.disconnect(*node);
        }
    }

    fn assume(self: &Arc<Self>, partition: Partition, assignment: Assignment) {
        self.with_role(partition, |role| match assignment {
            Assignment::Idle => {
                if !matches!(role, Role::Idle { .. }) {
                    self.retire(partition, role);
                    *role = Role::Idle { since_ms: self.host.monotonic_ms() };
                }
            }
            Assignment::Away => {
                if !matches!(role, Role::Away) {
                    self.retire(partition, role);
                    *role = Role::Away;
                }
            }
            Assignment::Replica { term, primary, assigned } => {
                let follows =
                    matches!(role, Role::Replica(log) if log.follows() == (term, primary, assigned));
                if !follows {
                    self.retire(partition, role);
                    *role = Role::Replica(ReplicaLog::new(term, primary, assigned));
                }
            }
            Assignment::Primary { term, settled, followers, tails } => {
                self.assume_primary(partition, role, (term, settled), followers, tails);
            }
        });
    }

    fn assume_primary(
        self: &Arc<Self>,
        partition: Partition,
        role: &mut Role,
        (term, settled): (Term, bool),
        followers: Vec<AssignedFollower>,
        tails: Vec<NodeId>,
    ) {
        if !matches!(role, Role::Primary(primary) if primary.term() == term) {
            self.retire(partition, role);
            // Publish every record received as a replica before serving: the former primary may have
            // acknowledged it.
            let tails = self.tails.begin(partition, tails);
            let reconcile = self.appends(partition).is_any()
                || !tails.is_empty()
                || (!settled && followers.iter().any(|copy| copy.in_sync));
            let phase = if reconcile { Phase::Recovering } else { Phase::Serving };
            *role = Role::Primary(Primary::new(term, phase, self.session_range()));
            self.damage.begin_term(partition, term);
            if reconcile {
                self.spawn_recovery(partition, term, tails);
            }
        }
        if let Role::Primary(primary) = role {
            primary.on_event(PrimaryEvent::Assigned(followers));
        }
    }

    /// Ends a role: all operations that wait for it fail with an unknown outcome.
    pub(super) fn retire(self: &Arc<Self>, partition: Partition, role: &mut Role) {
        if let Role::Primary(primary) = role {
            primary.abandon();
        }
        self.perform(partition, role);
    }
}

/// Returns the partition's primary, if its node is up.
fn live_primary(state: &ClusterState, partition: Partition) -> Option<NodeId> {
    state.primary(partition).filter(|node| state.is_up(*node))
}

fn assignment(state: &ClusterState, node: NodeId, partition: Partition) -> Assignment {
    let Some(entry) = state.partitions.get(usize::from(partition)) else {
        return Assignment::Idle;
    };
    let Some(replica) = entry.replica(node) else {
        return Assignment::Idle;
    };
    match state.primary(partition) {
        Some(primary) if primary == node => {
            let (followers, tails) =
                (followers(state, node, partition), tail::sources(state, node, partition));
            Assignment::Primary { term: entry.term, settled: entry.settled, followers, tails }
        }
        _ if replica.role == ReplicaRole::Away => Assignment::Away,
        Some(primary) => Assignment::Replica { term: entry.term, primary, assigned: replica.assigned },
        None => Assignment::Idle,
    }
}

/// Returns every other replica that receives new writes.
fn followers(state: &ClusterState, primary: NodeId, partition: Partition) -> Vec<AssignedFollower> {
    let entry = &state.partitions[usize::from(partition)];
    let receives = |role| matches!(role, ReplicaRole::InSync | ReplicaRole::Syncing);
    let others = entry.replicas.iter().filter(|r| r.node != primary && receives(r.role));
    others
        .filter_map(|replica| {
            let incarnation = state.members.get(&replica.node)?.announcement.incarnation;
            let Replica { node, assigned, syncing_since, role, .. } = *replica;
            let name = ReplicaRef { node, incarnation, syncing_since };
            Some(AssignedFollower { name, assigned, in_sync: role == ReplicaRole::InSync })
        })
        .collect()
}
