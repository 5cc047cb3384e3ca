//! Takeovers (rule R10): the log of each node, the change of its process to another log, and the operator who
//! asks for it.
//!
//! As in `caskd` with its files, a node uses the log it founded from its next start on, and gives up a
//! superseded log at its next start. A process that must begin again stops and is started at once; it may be
//! killed meanwhile, and so may a process that compares generations. A node that gave up its log finds the
//! newest one without a search.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use caskade_engine::replicated::Store;
use caskade_node::runtime::{NoteSuperseded, Parts, answer_early, compare};
use parking_lot::Mutex;

use crate::machine::SimMachine;
use crate::world::{Comparing, TakenOver, World};

/// Returns a function that records on a disk the generation for which the log on it must be given up.
pub(crate) fn note_superseded(superseded: &Arc<Mutex<Option<u32>>>) -> NoteSuperseded {
    let superseded = Arc::clone(superseded);
    Box::new(move |returning| {
        *superseded.lock() = Some(returning.generation);
        Ok(())
    })
}

impl World {
    /// Chooses the log for a start: the log that the node founded, the newest one if it gave its own up, else
    /// its own.
    pub(crate) fn settle_log(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let superseded = node.superseded.lock().take();
        if let Some(next) = node.log.next().filter(|next| next.by == node.id) {
            (node.log, node.generation_floor) = (next.log.clone(), 0);
            self.log = next.log;
            self.note(&format!("node {number} is in the log that it founded"));
        } else if let Some(generation) = superseded {
            (node.log, node.generation_floor) = (self.log.clone(), generation);
            self.note(&format!("node {number} returns under generation {generation}"));
        }
    }

    /// Returns whether a node that starts compares generations first: it votes alone, and holds a committed
    /// state.
    pub(crate) fn compares(&self, number: usize, parts: &Parts) -> bool {
        let node = &self.nodes[number];
        let votes_alone = node.log.voters().into_iter().eq([node.id]);
        self.takeovers && votes_alone && parts.topology.watch().borrow().epoch > 0
    }

    pub(crate) fn begin_comparing(
        &mut self,
        number: usize,
        parts: Parts,
        machine: Arc<SimMachine>,
        (engine, seed): (Store, u64),
    ) {
        let node = &mut self.nodes[number];
        let (state, peers, id) = (parts.topology.watch().borrow().clone(), parts.peers.clone(), parts.id);
        let early = state.clone();
        self.network.serve_early(id, Arc::new(move |body| answer_early(&early, body)));
        let outcome = Arc::new(Mutex::new(None));
        let (note, told) = (note_superseded(&node.superseded), outcome.clone());
        parts.host.spawn(async move {
            let newer = compare(&note, id, &peers, &state).await;
            *told.lock() = Some(newer.map_err(|error| error.to_string()));
        });
        node.comparing = Some(Comparing { parts, machine, engine, seed, outcome });
    }

    /// Continues the processes that have compared generations, and restarts those that must begin again.
    ///
    /// # Errors
    /// A node met a rival of its generation, which no simulation contains.
    pub fn tend_generations(&mut self) -> Result<(), String> {
        for number in 0..self.nodes.len() {
            let compared = self.nodes[number].comparing.as_ref().and_then(|it| it.outcome.lock().take());
            match compared {
                None => {}
                Some(Err(error)) => return Err(format!("node {number} cannot compare generations: {error}")),
                Some(Ok(true)) => self.request_restart(number),
                Some(Ok(false)) => {
                    let Some(comparing) = self.nodes[number].comparing.take() else { continue };
                    self.note(&format!("node {number} has compared generations"));
                    let Comparing { parts, machine, engine, seed, .. } = comparing;
                    self.assemble(number, parts, machine, (engine, seed));
                }
            }
            if self.has_ended(number) {
                self.request_restart(number);
            }
        }
        self.watch_merging();
        Ok(())
    }

    /// Returns whether a process that must begin again has stopped; asks it to stop if that was not done.
    fn has_ended(&mut self, number: usize) -> bool {
        let Some(process) = &mut self.nodes[number].process else { return false };
        if !process.node.must_restart() {
            return false;
        }
        if let Some(ending) = &process.ending {
            return ending.load(Ordering::SeqCst);
        }
        let (node, ended) = (process.node.clone(), Arc::new(AtomicBool::new(false)));
        process.ending = Some(ended.clone());
        process.host.spawn(async move {
            node.stop().await;
            ended.store(true, Ordering::SeqCst);
        });
        false
    }

    fn request_restart(&mut self, number: usize) {
        self.note(&format!("node {number} is started again under another generation"));
        self.crash(number, false);
        self.start(number);
    }

    /// Records the time of a takeover, and the time at which nothing was left to be merged.
    fn watch_merging(&mut self) {
        if self.taken_over.is_none() {
            let next = self.nodes.iter().find_map(|node| node.log.next());
            self.taken_over =
                next.map(|next| TakenOver { at_us: next.at_us, parted_us: next.parted_us, merged_us: None });
        }
        let Some(TakenOver { merged_us: merged_us @ None, .. }) = &mut self.taken_over else { return };
        let state = self.log.state();
        let mut replicas = state.partitions().flat_map(|(_, entry)| &entry.replicas);
        if self.log.generation() > 0 && replicas.all(|replica| replica.unmerged.is_none()) {
            *merged_us = Some(crate::machine::virtual_us());
            self.note("everything is merged");
        }
    }

    /// Returns the newest generation that was founded, in use or not.
    pub fn newest_generation(&self) -> u32 {
        u32::from(self.taken_over.is_some())
    }

    /// Returns whether a client must not write a key through this node. The side that took over leaves half
    /// of all keys alone until everything is merged.
    pub fn leaves_alone(&self, number: usize, key: &[u8]) -> bool {
        let merged = self.taken_over.is_none_or(|taken| taken.merged_us.is_some());
        !merged && self.nodes[number].log.generation() > 0 && key.last().is_some_and(|last| last % 2 == 1)
    }

    /// Has an operator ask a node to take over, unless a takeover was founded already.
    pub(crate) fn take_over(&mut self, number: usize) {
        if self.nodes.iter().any(|node| node.log.generation() > 0 || node.log.next().is_some()) {
            return;
        }
        let Some(process) = &self.nodes[number].process else { return };
        let (node, trace, began) = (process.node.clone(), self.trace(), self.began);
        process.host.spawn(async move {
            let answer = node.take_over(true).await.map(|answer| answer.generation);
            trace.note(began, &format!("node {number} is asked to take over: {answer:?}"));
        });
    }
}
