//! Epochs and terms never go back, neither in the committed states nor in the states that one process
//! follows.

use std::collections::BTreeMap;

use caskade_node::id::{Epoch, Incarnation, NodeId, Term};

use super::Watch;
use crate::world::World;

/// The newest epochs and terms so far.
#[derive(Default)]
pub(super) struct Forward {
    epoch: Epoch,
    terms: Vec<Term>,
    followed: BTreeMap<NodeId, (Incarnation, Epoch)>,
}

impl Watch for Forward {
    fn check(&mut self, world: &World) -> Result<(), String> {
        let state = world.log.state();
        if state.epoch < self.epoch {
            return Err(format!("the epoch went back from {} to {}", self.epoch, state.epoch));
        }
        self.epoch = state.epoch;
        let terms: Vec<Term> = state.partitions.iter().map(|partition| partition.term).collect();
        if let Some(partition) = self.terms.iter().zip(&terms).position(|(old, new)| new < old) {
            return Err(format!("the term of partition {partition} went back"));
        }
        self.terms = terms;
        for number in world.running() {
            let node = &world.nodes[number];
            let Some(process) = &node.process else { continue };
            let now = (process.node.incarnation(), process.node.plane().state().epoch);
            let before = self.followed.insert(node.id, now);
            if let Some((incarnation, epoch)) = before
                && incarnation == now.0
                && now.1 < epoch
            {
                return Err(format!("node {number} followed epoch {epoch} and then {}", now.1));
            }
        }
        Ok(())
    }
}
