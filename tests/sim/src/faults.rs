//! The faults of a simulation: a schedule drawn from the seed, and the effect of each fault on the world.

use std::path::Path;
use std::time::Duration;

use caskade_engine::testing::{Fault as DiskFault, FaultyFileSystem, FileCall};
use caskade_node::cluster::operations::AdminOperation;
use caskade_node::cluster::state::{Change, PartitionState, Replica, ReplicaRole};
use caskade_node::id::Incarnation;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::world::World;

/// Kinds of faults of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// All kinds.
    Mixed,
    /// Joins, planned stops, removals, and crashes during them.
    Membership,
    /// Bits that flip on one disk, and restarts of its node. With another fault beside it the last whole copy
    /// may be out of reach, and nothing could be healed.
    Damage,
    /// Stores that sync late. One of two copies is down when the other's machine loses power; a third node
    /// has the writes since then (rule R5). Losses that weak sync allows do not count.
    Weak,
    /// Of two nodes the voter is lost, or only cut off, perhaps after the other one was away while the voter
    /// continued. An operator has the other one take over, and the lost one returns (rule R10).
    Takeover,
    /// Disks of one, two and all nodes that fill and have room again; besides, a few kills and power losses.
    Disk,
}

/// One fault, or the end of one.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A process is killed; its written bytes stay.
    Kill(usize),
    /// A machine loses power: unsynced bytes may be lost.
    PowerLoss(usize),
    /// With weak sync: all writes acknowledged up to the present epoch count as synced from now on.
    Settle,
    /// With weak sync: a machine loses power, if others have every write since the last [`Fault::Settle`].
    WeakPowerLoss(usize),
    /// A process receives the request for a planned stop.
    PlannedStop(usize),
    /// A process is started again.
    Restart(usize),
    /// A process is stopped where it is (SIGSTOP), and continued.
    Pause(usize),
    /// The end of a pause.
    Resume(usize),
    /// No message passes from the first to the second.
    Block(usize, usize),
    /// The end of a block.
    Open(usize, usize),
    /// The connections between two nodes break.
    Break(usize, usize),
    /// The messages of a node take so many times longer.
    Slow(usize, u32),
    /// A sync of a node's disk takes up to so many milliseconds.
    SlowDisk(usize, u64),
    /// Other programs fill a node's disk until so many bytes are free; `None`: it has unlimited room again.
    DiskFull(usize, Option<u64>),
    /// The next sync of a node's disk fails.
    SyncFails(usize),
    /// The next write of a node's disk fails with an I/O error, and no later one: later appends succeed.
    WriteFails(usize),
    /// The same for lack of space.
    WriteFindsNoRoom(usize),
    /// A bit of a complete data file flips, and perhaps one of its hint file. Only if every partition there
    /// has another in-sync copy, and no other disk flipped bits before. The second number selects the place.
    BitFlip(usize, u64),
    /// The voters elect a leader, even if there is one.
    Election,
    /// Committed states reach a node up to so many milliseconds late.
    LateLog(usize, u64),
    /// A node's wall clock is set to an error of so many milliseconds: up to years.
    WallClock(usize, i64),
    /// A new node joins.
    Join,
    /// An operator has a node leave; its copies move to the others.
    Leave(usize),
    /// An operator has a down node removed.
    Remove(usize),
    /// An operator drains a node, or ends the drain.
    Drain(usize, bool),
    /// An operator changes a node's weight.
    Weight(usize, u32),
    /// An operator asks a node to take over, if no takeover was founded.
    TakeOver(usize),
}

impl World {
    /// Applies a fault, if the present world allows it.
    pub fn suffer(&mut self, fault: &Fault) {
        match *fault {
            Fault::Kill(node) => self.crash(node, false),
            Fault::PowerLoss(node) => self.crash(node, true),
            Fault::Settle => self.settled_epoch = self.log.state().epoch,
            Fault::WeakPowerLoss(node) if self.can_lose_its_tail(node) => self.crash(node, true),
            Fault::WeakPowerLoss(_) => {}
            Fault::PlannedStop(node) => self.stop(node),
            Fault::Restart(node) => self.restart(node),
            Fault::Pause(node) => self.pause(node, true),
            Fault::Resume(node) => self.pause(node, false),
            Fault::Block(from, to) => self.block(from, to),
            Fault::Open(from, to) => {
                self.note(&format!("messages pass from node {from} to node {to}"));
                self.network.open(self.nodes[from].id, self.nodes[to].id);
            }
            Fault::Break(a, b) => {
                self.note(&format!("the connection of nodes {a} and {b} breaks"));
                self.network.break_connection(self.nodes[a].id, self.nodes[b].id);
            }
            Fault::Slow(node, factor) => {
                self.note(&format!("messages of node {node} take {factor} times as long"));
                self.network.slow_down(self.nodes[node].id, factor);
            }
            Fault::SlowDisk(node, ms) => {
                self.note(&format!("a sync of node {node} takes up to {ms} ms"));
                self.set_sync_pause(node, Duration::from_millis(ms));
            }
            Fault::DiskFull(node, Some(left)) => {
                self.note(&format!("the disk of node {node} has {left} bytes left"));
                self.nodes[node].disk.leave_free(left);
            }
            Fault::DiskFull(node, None) => {
                self.note(&format!("the disk of node {node} has room"));
                self.nodes[node].disk.set_capacity(None);
            }
            Fault::SyncFails(node) => {
                self.note(&format!("the next sync of node {node} fails"));
                self.nodes[node].disk.inject(DiskFault::io_error(FileCall::Sync, 0));
            }
            Fault::WriteFails(node) => {
                self.note(&format!("the next write of node {node} fails"));
                self.nodes[node].disk.inject(DiskFault::io_error(FileCall::Write, 0).on(".data"));
            }
            Fault::WriteFindsNoRoom(node) => {
                self.note(&format!("the next write of node {node} finds no room"));
                self.nodes[node].disk.inject(DiskFault::disk_full(FileCall::Write, 0).on(".data"));
            }
            Fault::BitFlip(node, seed) => self.flip_bit(node, seed),
            Fault::Election => {
                self.note("an election");
                self.log.elect();
            }
            Fault::LateLog(node, ms) => {
                self.note(&format!("node {node} follows up to {ms} ms late"));
                self.log.make_late(self.nodes[node].id, ms);
            }
            Fault::WallClock(node, skew_ms) => self.set_wall_clock(node, skew_ms),
            Fault::Join => {
                let node = self.add_node();
                self.note(&format!("node {node} joins"));
                self.start(node);
            }
            Fault::Leave(node) => self.leave(node),
            Fault::Remove(node) => self.remove(node),
            Fault::Drain(node, drained) => self.drain(node, drained),
            Fault::TakeOver(node) => self.take_over(node),
            Fault::Weight(node, weight) => self.weigh(node, weight),
        }
    }

    fn block(&mut self, from: usize, to: usize) {
        self.note(&format!("nothing passes from node {from} to node {to}"));
        self.network.block(self.nodes[from].id, self.nodes[to].id);
        if self.rng.random_bool(0.3) {
            self.network.break_connection(self.nodes[from].id, self.nodes[to].id);
        }
    }

    fn set_wall_clock(&mut self, node: usize, skew_ms: i64) {
        // Not while the machine is off: if all machines are off, only their clocks know for how long. And one
        // clock at a time: a power loss of all machines may take the setting back, and two wrong clocks of
        // three decide what cluster time is.
        let others = self.nodes.iter().enumerate().filter(|(number, _)| *number != node);
        let alone = others.into_iter().all(|(_, other)| other.clocks.keeps_its_wall_clock());
        if alone && self.nodes[node].process.is_some() {
            self.note(&format!("the wall clock of node {node} is set, wrong by {skew_ms} ms"));
            self.nodes[node].clocks.set_wall_clock(skew_ms);
        }
    }

    fn leave(&mut self, node: usize) {
        let leaves = AdminOperation::Leave { node: self.nodes[node].id };
        self.operate(&format!("node {node} is to leave"), |_| Change::Operate {
            operation: leaves,
            basis: None,
        });
    }

    fn remove(&mut self, node: usize) {
        let id = self.nodes[node].id;
        self.operate(&format!("node {node} is to be removed"), |incarnation_of| {
            let removes =
                AdminOperation::Remove { node: id, incarnation: incarnation_of(node), accept_loss: false };
            Change::Operate { operation: removes, basis: None }
        });
    }

    fn drain(&mut self, node: usize, drained: bool) {
        let id = self.nodes[node].id;
        let what = if drained { "to be drained" } else { "drained no more" };
        self.operate(&format!("node {node} is {what}"), |incarnation_of| {
            let (node, incarnation) = (id, incarnation_of(node));
            if drained { Change::Drain { node, incarnation } } else { Change::Undrain { node, incarnation } }
        });
    }

    fn weigh(&mut self, node: usize, weight: u32) {
        let sets = AdminOperation::SetWeight { node: self.nodes[node].id, weight };
        self.operate(&format!("node {node} is to weigh {weight}"), |_| Change::Operate {
            operation: sets,
            basis: None,
        });
    }

    /// Proposes an operator's change through some running node.
    fn operate(&mut self, what: &str, change: impl FnOnce(&dyn Fn(usize) -> Incarnation) -> Change) {
        self.note(what);
        let state = self.log.state();
        let incarnation_of =
            |node: usize| state.members.get(&self.nodes[node].id).map_or(0, |m| m.announcement.incarnation);
        let change = change(&incarnation_of);
        let running = self.running();
        let Some(through) = running.choose(&mut self.rng).copied() else { return };
        let Some(process) = &self.nodes[through].process else { return };
        let (node, trace, began, what) = (process.node.clone(), self.trace(), self.began, what.to_owned());
        process.host.spawn(async move {
            let answer = node.propose(vec![change]).await;
            trace.note(began, &format!("{what}: {answer:?}"));
        });
    }

    /// Returns whether each partition for which the node is in-sync has another in-sync replica, or one that
    /// received everything since the settled epoch, on a running process.
    fn can_lose_its_tail(&self, node: usize) -> bool {
        let (id, state) = (self.nodes[node].id, self.log.state());
        let runs = |id| self.nodes.iter().any(|node| node.id == id && node.process.is_some());
        let receives = |replica: &Replica| match replica.role {
            ReplicaRole::InSync => true,
            ReplicaRole::Syncing => replica.syncing_since <= self.settled_epoch,
            ReplicaRole::Away => false,
        };
        state.partitions().filter(|(_, entry)| entry.is_in_sync(id)).all(|(_, entry)| {
            entry.replicas.iter().any(|replica| replica.node != id && runs(replica.node) && receives(replica))
        })
    }

    fn flip_bit(&mut self, node: usize, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let id = self.nodes[node].id;
        let state = self.log.state();
        let elsewhere = |entry: &PartitionState| entry.in_sync().any(|other| other.node != id);
        let is_safe = state.partitions().all(|(_, entry)| elsewhere(entry));
        if !is_safe || self.flipping.is_some_and(|flipping| flipping != node) {
            return;
        }
        let disk = self.nodes[node].disk.clone();
        let mut files = disk.files();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "data"));
        files.sort();
        // The newest file is still being written.
        files.pop();
        let Some(path) = files.choose(&mut rng).cloned() else { return };
        let Some(at) = flip_in(&disk, &path, &mut rng) else { return };
        self.flipping = Some(node);
        let hint = path.with_extension("hint");
        let hint_too = rng.random_bool(0.5) && flip_in(&disk, &hint, &mut rng).is_some();
        self.note(&format!(
            "a bit flips on the disk of node {node}: {} at byte {at}{}",
            path.display(),
            if hint_too { ", and in its hint file" } else { "" }
        ));
    }

    /// Starts a process again; ends the one before, if it still runs.
    fn restart(&mut self, node: usize) {
        self.crash(node, false);
        self.nodes[node].disk.clear_faults();
        self.start(node);
    }

    /// Ends all faults and pauses; [`World::restart_the_fallen`] starts the nodes that have ended.
    pub fn heal(&mut self) {
        self.note("everything heals");
        self.network.heal();
        for number in 0..self.nodes.len() {
            self.nodes[number].disk.clear_faults();
            self.nodes[number].disk.set_capacity(None);
            self.log.make_late(self.nodes[number].id, 0);
            self.set_sync_pause(number, Duration::from_millis(2));
            self.pause(number, false);
        }
    }

    /// Ends all processes at once; the healing that follows starts them again.
    pub fn restart_everything(&mut self) {
        (0..self.nodes.len()).for_each(|number| self.crash(number, false));
    }

    /// Starts the nodes that do not run, and restarts those whose store or log has failed.
    pub fn restart_the_fallen(&mut self) {
        let state = self.log.state();
        for number in 0..self.nodes.len() {
            let id = self.nodes[number].id;
            if state.removed_in(id).is_some() {
                // A removed node's process ends by itself when it learns of it, and stays ended.
                self.crash(number, false);
                continue;
            }
            if state.is_draining(id) && self.nodes[number].process.is_some() {
                self.suffer(&Fault::Drain(number, false));
            }
            let fallen = match &self.nodes[number].process {
                None => self.nodes[number].comparing.is_none(),
                // `tend_generations` restarts a process that must begin again.
                Some(process) if process.node.must_restart() => false,
                Some(process) => process.node.plane().store_failed() || process.node.is_stopping(),
            };
            if fallen {
                self.restart(number);
            }
        }
    }
}

/// Flips a bit somewhere in a file. Returns its place.
fn flip_in(disk: &FaultyFileSystem, path: &Path, rng: &mut StdRng) -> Option<usize> {
    let mut bytes = disk.read_file(path).ok().filter(|bytes| !bytes.is_empty())?;
    let at = rng.random_range(0..bytes.len());
    *bytes.get_mut(at)? ^= 1 << rng.random_range(0..8);
    disk.write_file(path, &bytes).ok()?;
    Some(at)
}
