//! Follows the committed states: one task, the only caller of [`Plane::follow`](crate::data::Plane::follow), so
//! that roles never go back to those of an older state.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Node;
use crate::cluster::state::ClusterState;
use crate::id::{Epoch, Incarnation, NodeId};

/// Pause before a state that there was no room to adopt is followed again.
const ADOPTION_PAUSE: Duration = Duration::from_millis(500);

/// What the data plane was last told to follow.
struct Followed {
    state: Arc<ClusterState>,
    incarnation: Incarnation,
}

impl Followed {
    /// What to follow next, in order; nothing where nothing is new. A new incarnation is first nothing to
    /// anybody, also if the state that registers it is here already (rule R2).
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
        // What was committed before this start is no news.
        let mut followed = Followed {
            state: states.borrow_and_update().clone(),
            incarnation: self.incarnation.load(Ordering::Acquire),
        };
        self.plane.follow(followed.state.clone(), followed.incarnation);
        self.note_generation(&ClusterState::default(), &followed.state);
        loop {
            // In this order: a state that names an incarnation was committed after that had begun.
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

    /// Tells of the takeover that a state descends from, if the one before did not.
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
            None => ("warning", "there is no coordinator; an election is under way".to_owned()),
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

    /// Epochs and incarnations in the order they are followed.
    fn steps(
        followed: &mut Followed,
        state: &Arc<ClusterState>,
        incarnation: Incarnation,
    ) -> Vec<(u64, u64)> {
        let steps = followed.next(state.clone(), incarnation);
        steps.iter().map(|(state, n)| (state.epoch, *n)).collect()
    }

    #[test]
    fn new_incarnation_is_nothing_to_anybody_before_it_follows_the_state_that_registers_it() {
        let (old, new) = (state(7), state(8));
        let mut followed = Followed { state: old.clone(), incarnation: 1 };
        assert_eq!(steps(&mut followed, &old, 1), []);
        assert_eq!(steps(&mut followed, &new, 2), [(7, 2), (8, 2)]);
        assert_eq!(steps(&mut followed, &new, 2), []);
        assert_eq!(steps(&mut followed, &new, 3), [(8, 3)]);
    }
}
