//! The task that follows the committed states. It is the only caller of
//! [`Plane::follow`](crate::data::Plane::follow), so that roles never return to those of an older state.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Node;
use crate::cluster::state::ClusterState;
use crate::id::{Epoch, Incarnation, NodeId};

/// Pause before the node retries a state for whose adoption it had no room.
const ADOPTION_PAUSE: Duration = Duration::from_millis(500);

/// The state and incarnation that the data plane follows.
struct Followed {
    state: Arc<ClusterState>,
    incarnation: Incarnation,
}

impl Followed {
    /// Returns the steps to follow next, in order; none without changes. A new incarnation first follows the
    /// state before its registration, in which it has no roles, even if the state that registers it has
    /// already arrived (rule R2).
    fn next(
        &mut self,
        state: Arc<ClusterState>,
        incarnation: Incarnation,
    ) -> Vec<(Arc<ClusterState>, Incarnation)> {
        let mut steps = Vec::new();
        if incarnation != self.incarnation {
            steps.push((self.state.clone(), incarnation));
        }
        if !Arc::ptr_eq(&state, &self.state) {
            steps.push((state.clone(), incarnation));
        }
        *self = Self { state, incarnation };
        steps
    }
}

impl Node {
    /// Follows the committed states, and this node's own incarnations.
    pub(super) async fn run_states(self: Arc<Self>) {
        let mut states = self.topology.watch();
        let mut coordinators = self.topology.watch_coordinator();
        let mut coordinator = None;
        // States committed before this start give no events.
        let mut followed = Followed {
            state: states.borrow_and_update().clone(),
            incarnation: self.incarnation.load(Ordering::Acquire),
        };
        self.plane.follow(followed.state.clone(), followed.incarnation);
        self.note_generation(&ClusterState::default(), &followed.state);
        loop {
            // The order matters: a state that names an incarnation was committed after that incarnation had
            // begun.
            let state = states.borrow_and_update().clone();
            let incarnation = self.incarnation.load(Ordering::Acquire);
            if !Arc::ptr_eq(&followed.state, &state) {
                for event in crate::cluster::events::between(&followed.state, &state, self.host.wall_ms()) {
                    self.events.add(event);
                }
                self.note_generation(&followed.state, &state);
                self.update_peers();
            }
            if self.plane.follows_again() {
                self.plane.follow(followed.state.clone(), followed.incarnation);
            }
            for (state, incarnation) in followed.next(state, incarnation) {
                self.plane.follow(state, incarnation);
            }
            let leader = *coordinators.borrow_and_update();
            if leader != coordinator {
                coordinator = leader;
                self.note_coordinator(leader, followed.state.epoch);
            }
            tokio::select! {
                biased;
                changed = states.changed() => if changed.is_err() { return },
                changed = coordinators.changed() => if changed.is_err() { return },
                () = self.returned.notified() => {}
                () = tokio::time::sleep(ADOPTION_PAUSE), if self.plane.follows_again() => {}
            }
        }
    }

    /// Reports the takeover from which a state descends, if the state before did not.
    fn note_generation(&self, old: &ClusterState, new: &ClusterState) {
        let Some(taken) = new.taken_over.filter(|taken| old.taken_over.as_ref() != Some(taken)) else {
            return;
        };
        self.events.add(crate::api::Event {
            time_ms: self.host.wall_ms(),
            epoch: new.epoch,
            severity: "warning".to_owned(),
            kind: "takeover".to_owned(),
            node: taken.by.to_string(),
            message: format!(
                "this is generation {} of the cluster: node {} took over with epoch {}",
                new.generation,
                taken.by.short(),
                taken.epoch
            ),
        });
    }

    fn note_coordinator(&self, coordinator: Option<NodeId>, epoch: Epoch) {
        let (severity, message) = match coordinator {
            Some(node) => ("info", format!("node {} is the coordinator", node.short())),
            None => ("warning", "no coordinator is known; an election is running".to_owned()),
        };
        self.events.add(crate::api::Event {
            time_ms: self.host.wall_ms(),
            epoch,
            severity: severity.to_owned(),
            kind: "coordinator".to_owned(),
            node: coordinator.map(|node| node.to_string()).unwrap_or_default(),
            message,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(epoch: Epoch) -> Arc<ClusterState> {
        Arc::new(ClusterState { epoch, ..ClusterState::default() })
    }

    /// Returns epochs and incarnations in the order in which they are followed.
    fn steps(
        followed: &mut Followed,
        state: &Arc<ClusterState>,
        incarnation: Incarnation,
    ) -> Vec<(u64, u64)> {
        let steps = followed.next(state.clone(), incarnation);
        steps.iter().map(|(state, n)| (state.epoch, *n)).collect()
    }

    #[test]
    fn new_incarnation_has_no_roles_before_it_follows_the_state_that_registers_it() {
        let (old, new) = (state(7), state(8));
        let mut followed = Followed { state: old.clone(), incarnation: 1 };
        assert_eq!(steps(&mut followed, &old, 1), []);
        assert_eq!(steps(&mut followed, &new, 2), [(7, 2), (8, 2)]);
        assert_eq!(steps(&mut followed, &new, 2), []);
        assert_eq!(steps(&mut followed, &new, 3), [(8, 3)]);
    }
}
