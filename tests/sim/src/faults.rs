//! The faults of a simulation: a schedule drawn from the seed, and the effect of each fault on the world.

use std::path::Path;
use std::time::Duration;

use caskade_engine::{Fault as DiskFault, FaultyFileSystem, FileCall};
use caskade_node::cluster::operations::AdminOperation;
use caskade_node::cluster::state::{Change, PartitionState, Replica, ReplicaRole};
use caskade_node::id::Incarnation;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::machine::draw_skew;
use crate::world::{DISK_LOW, DISK_MINIMUM, World};

/// Time after which every node has followed an epoch and then synced all writes acknowledged before.
const WEAK_SETTLED_MS: u64 = 2_000;

/// Kinds of faults of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Faults with their times, in milliseconds from the beginning of the attack.
pub type Schedule = Vec<(u64, Fault)>;

/// Draws a schedule for this number of nodes and milliseconds.
pub fn draw(rng: &mut StdRng, profile: Profile, nodes: usize, length_ms: u64) -> Schedule {
    let mut schedule = Schedule::new();
    if profile == Profile::Damage {
        flips(&mut schedule, rng, nodes, length_ms);
    } else if profile == Profile::Weak {
        weak_rounds(&mut schedule, rng, nodes);
    } else if profile == Profile::Takeover {
        takeover(&mut schedule, rng);
    } else if profile == Profile::Disk {
        disks(&mut schedule, rng, nodes, length_ms);
    } else {
        let mut nodes = Nodes { first: nodes, joined: 0 };
        let mut now = rng.random_range(200..2_000);
        while now < length_ms {
            if profile == Profile::Mixed && rng.random_ratio(1, 4) {
                let (node, skew_ms) = (rng.random_range(0..nodes.count()), draw_skew(rng));
                schedule.push((now, Fault::WallClock(node, skew_ms)));
            }
            if profile == Profile::Mixed && rng.random_ratio(1, 6) {
                now += scene(&mut schedule, rng, &nodes, now);
            } else if profile == Profile::Membership && rng.random_ratio(1, 6) {
                now += removal(&mut schedule, rng, &nodes, now);
            } else {
                one(&mut schedule, rng, profile, &mut nodes, now);
            }
            now += rng.random_range(20..2_500);
        }
    }
    schedule.sort_by_key(|(due, _)| *due);
    schedule
}

/// Number of nodes, as far as a schedule knows it.
struct Nodes {
    first: usize,
    joined: usize,
}

impl Nodes {
    fn count(&self) -> usize {
        self.first + self.joined
    }

    /// Returns two different nodes, if there are two.
    fn two(&self, rng: &mut StdRng) -> (usize, usize) {
        let node = rng.random_range(0..self.count());
        (node, (node + rng.random_range(1..self.count().max(2))) % self.count())
    }
}

/// Adds one fault, and its end.
fn one(schedule: &mut Schedule, rng: &mut StdRng, profile: Profile, nodes: &mut Nodes, now: u64) {
    let (node, other) = nodes.two(rng);
    let lasts = rng.random_range(50..6_000);
    let kind = match profile {
        // Crashes, planned stops, elections and joins only.
        Profile::Membership => *[0, 10, 20, 80, 90, 90, 96, 97, 98, 99].choose(rng).unwrap_or(&99),
        _ => rng.random_range(0..100),
    };
    let mut both = |begin, end| {
        schedule.push((now, begin));
        schedule.push((now + lasts, end));
    };
    match kind {
        0..10 => both(Fault::Kill(node), Fault::Restart(node)),
        10..20 => both(Fault::PowerLoss(node), Fault::Restart(node)),
        20..27 => both(Fault::PlannedStop(node), Fault::Restart(node)),
        27..40 => both(Fault::Pause(node), Fault::Resume(node)),
        40..52 if node != other => both(Fault::Block(node, other), Fault::Open(node, other)),
        52..58 if node != other => {
            both(Fault::Block(node, other), Fault::Open(node, other));
            both(Fault::Block(other, node), Fault::Open(other, node));
        }
        58..64 => cut_off(schedule, node, nodes.count(), (now, now + lasts)),
        64..70 if node != other => schedule.push((now, Fault::Break(node, other))),
        70..76 => both(Fault::Slow(node, rng.random_range(5..60)), Fault::Slow(node, 1)),
        76..80 => both(Fault::SlowDisk(node, rng.random_range(20..400)), Fault::SlowDisk(node, 2)),
        80..86 => schedule.push((now, Fault::Election)),
        86..88 => {
            let left = bytes_left(rng);
            schedule.push((now, Fault::DiskFull(node, Some(left))));
            schedule.push((now + lasts, Fault::DiskFull(node, None)));
        }
        88 => both(Fault::SyncFails(node), Fault::Restart(node)),
        89 => both(Fault::WriteFindsNoRoom(node), Fault::Restart(node)),
        90..96 if nodes.joined < 2 => {
            schedule.push((now, Fault::Join));
            nodes.joined += 1;
        }
        96 => schedule.push((now, Fault::Leave(node))),
        97 => schedule.push((now, Fault::Remove(node))),
        98 => both(Fault::Drain(node, true), Fault::Drain(node, false)),
        99 => schedule.push((now, Fault::Weight(node, rng.random_range(20..300)))),
        _ => {}
    }
}

/// Adds faults that would seldom meet by chance: each makes use of the state that the one before leaves.
/// Returns their duration in milliseconds.
fn scene(schedule: &mut Schedule, rng: &mut StdRng, nodes: &Nodes, now: u64) -> u64 {
    let (node, other) = nodes.two(rng);
    match rng.random_range(0..10) {
        // Cuts a node off for longer than its lease; meanwhile its successor gives up its new primacies.
        0 => {
            let end = now + rng.random_range(2_200..4_500);
            cut_off(schedule, node, nodes.count(), (now, end));
            let moves = rng.random_range(now + 2_100..end);
            schedule.push((moves, Fault::Drain(other, true)));
            schedule.push((end + rng.random_range(0..1_000), Fault::Drain(other, false)));
            end - now
        }
        // A replica is paused until suspended; the primary dies then, or just before; the replica continues.
        1 => {
            let end = now + rng.random_range(2_500..3_600);
            schedule.push((now, Fault::Pause(node)));
            if rng.random() {
                schedule.push((end - rng.random_range(1..600), Fault::Election));
            }
            schedule.push((end, Fault::Resume(node)));
            let due = end - rng.random_range(0..300);
            kill(schedule, rng, other, due);
            end - now
        }
        // A node's messages are slow, and then none passes any more.
        2 => {
            let cut = now + rng.random_range(500..3_000);
            let end = cut + rng.random_range(2_200..4_500);
            schedule.push((now, Fault::Slow(node, rng.random_range(200..1_500))));
            cut_off(schedule, node, nodes.count(), (cut, end));
            schedule.push((end, Fault::Slow(node, 1)));
            end - now
        }
        // Connections break repeatedly with many calls in flight, held back just before; then the node dies.
        3 => {
            let mut last = 0;
            schedule.push((now, Fault::Slow(node, rng.random_range(1..20))));
            for _ in 0..rng.random_range(2..8) {
                let due = now + rng.random_range(100..700);
                schedule.push((due - rng.random_range(5..100), Fault::Block(node, other)));
                schedule.push((due, Fault::Break(node, other)));
                schedule.push((due, Fault::Open(node, other)));
                last = due.max(last);
            }
            schedule.push((now + 700, Fault::Slow(node, 1)));
            let due = last + rng.random_range(10..300);
            kill(schedule, rng, node, due);
            due - now
        }
        // All nodes go down at once.
        5 => {
            let mut longest = 0;
            for node in 0..nodes.count() {
                let (due, down) = (now + rng.random_range(0..100), rng.random_range(50..4_000));
                schedule.push((due, if rng.random() { Fault::Kill(node) } else { Fault::PowerLoss(node) }));
                schedule.push((due + down, Fault::Restart(node)));
                longest = longest.max(due + down - now);
            }
            longest
        }
        // The places of copies change while a node is away and others stand in for it.
        4 => {
            let moves = now + rng.random_range(2_150..3_600);
            schedule.push((now, Fault::Kill(node)));
            schedule.push((
                moves,
                match rng.random_range(0..4) {
                    0 => Fault::Leave(other),
                    1 | 2 => Fault::Remove(node),
                    _ => Fault::Weight(other, rng.random_range(20..300)),
                },
            ));
            schedule.push((moves + rng.random_range(0..3_000), Fault::Restart(node)));
            moves - now
        }
        6 => removal(schedule, rng, nodes, now),
        // Writes fail on a slow disk while later ones wait for it, and then the node that sent them dies.
        // The later ones succeed before the primary opens its next session, 50 ms later.
        7 => {
            let end = now + rng.random_range(1_000..2_500);
            schedule.push((now, Fault::SlowDisk(node, rng.random_range(30..200))));
            for _ in 0..rng.random_range(1..4) {
                schedule.push((rng.random_range(now + 100..end), Fault::WriteFails(node)));
            }
            schedule.push((end, Fault::SlowDisk(node, 2)));
            if rng.random() {
                kill(schedule, rng, other, end);
            }
            schedule.push((end + rng.random_range(2_500..5_000), Fault::Restart(node)));
            end - now
        }
        // One voter receives nothing from the coordinator for less than its lease. Another one restarts, and
        // both elect the first: only the second may have confirmed the coordinator since.
        8 => {
            let end = now + rng.random_range(900..1_900);
            let third = (0..nodes.count()).find(|third| *third != node && *third != other).unwrap_or(node);
            for (from, to) in [(node, other), (other, node)] {
                schedule.push((now, Fault::Block(from, to)));
                schedule.push((end + rng.random_range(500..2_500), Fault::Open(from, to)));
            }
            schedule.push((end - rng.random_range(20..400), Fault::Kill(third)));
            schedule.push((end - 10, Fault::Restart(third)));
            schedule.push((end + rng.random_range(0..200), Fault::Election));
            end - now
        }
        // Nothing passes from one node to another for a while, and then the first one dies.
        _ => {
            let end = now + rng.random_range(50..1_500);
            schedule.push((now, Fault::Block(node, other)));
            schedule.push((end + rng.random_range(0..500), Fault::Open(node, other)));
            kill(schedule, rng, node, end);
            end - now
        }
    }
}

/// Adds the removal of a node that is away: its stand-ins keep its copies, and some learn of it late. Then
/// one of the primaries that these copies were made equal to dies. Returns the duration in milliseconds.
fn removal(schedule: &mut Schedule, rng: &mut StdRng, nodes: &Nodes, now: u64) -> u64 {
    let (node, other) = nodes.two(rng);
    let removed = now + rng.random_range(2_600..4_500);
    let dies = removed + rng.random_range(200..1_500);
    schedule.push((now, Fault::Kill(node)));
    for late in 0..nodes.count() {
        schedule.push((removed - 100, Fault::LateLog(late, rng.random_range(50..800))));
        schedule.push((dies, Fault::LateLog(late, 0)));
    }
    schedule.push((removed, Fault::Remove(node)));
    kill(schedule, rng, other, dies);
    schedule.push((dies + rng.random_range(0..3_000), Fault::Restart(node)));
    dies - now
}

/// Adds a crash of a process, and its restart.
fn kill(schedule: &mut Schedule, rng: &mut StdRng, node: usize, due: u64) {
    schedule.push((due, if rng.random() { Fault::Kill(node) } else { Fault::PowerLoss(node) }));
    schedule.push((due + rng.random_range(50..6_000), Fault::Restart(node)));
}

/// Adds rounds: a node dies, another one loses power a moment later, both return. The first may hold records
/// deleted and collected since; if it dies again, so may its stand-ins, from before their release.
fn weak_rounds(schedule: &mut Schedule, rng: &mut StdRng, nodes: usize) {
    let mut now = 1_000;
    let mut dies = rng.random_range(0..nodes);
    for round in 0..2 {
        if round > 0 && rng.random_bool(0.5) {
            dies = rng.random_range(0..nodes);
        }
        let loses = (dies + rng.random_range(1..nodes)) % nodes;
        schedule.push((now, Fault::Kill(dies)));
        let died_first = rng.random_bool(0.5);
        now += rng.random_range(2_300..if died_first { 12_000 } else { 6_000 });
        schedule.push((now, Fault::Settle));
        now += WEAK_SETTLED_MS;
        schedule.push((now, Fault::WeakPowerLoss(loses)));
        let (first, second) = if died_first { (dies, loses) } else { (loses, dies) };
        now += rng.random_range(20..4_000);
        schedule.push((now, Fault::Restart(first)));
        now += rng.random_range(3_000..8_000);
        schedule.push((now, Fault::Restart(second)));
        now += rng.random_range(2_000..6_000);
    }
}

/// Adds a takeover: node 0 votes, and node 1 takes over.
fn takeover(schedule: &mut Schedule, rng: &mut StdRng) {
    let (voter, other) = (0, 1);
    let mut now = rng.random_range(500..3_000);
    // The other node is away, perhaps until it is declared down: the writes it misses, only the voter has.
    let apart = match rng.random_range(0..4) {
        0 => 0,
        1 => rng.random_range(50..2_500),
        _ => rng.random_range(2_500..7_000),
    };
    let cut = rng.random_bool(0.5);
    let returns = rng.random_range(3_000..14_000);
    if cut {
        cut_off(schedule, voter, 2, (now, now + apart + returns));
    } else if apart > 0 {
        schedule.push((now, Fault::Kill(other)));
        schedule.push((now + apart + rng.random_range(0..500), Fault::Restart(other)));
    }
    now += apart;
    // A node that is cut off may continue for as long as that lasts.
    if !cut || rng.random_bool(0.5) {
        schedule.push((now, if rng.random() { Fault::Kill(voter) } else { Fault::PowerLoss(voter) }));
        schedule.push((now + returns, Fault::Restart(voter)));
    }
    for attempt in 0..12 {
        schedule.push((now + 1_500 + attempt * 900 + rng.random_range(0..600), Fault::TakeOver(other)));
    }
    for _ in 0..rng.random_range(0..4) {
        let dies = rng.random_range(0..2);
        let due = now + returns + rng.random_range(0..4_000);
        kill(schedule, rng, dies, due);
    }
}

/// Adds bits that flip on one disk; often its node restarts before its scrubber has found them.
fn flips(schedule: &mut Schedule, rng: &mut StdRng, nodes: usize, length_ms: u64) {
    let node = rng.random_range(0..nodes);
    for _ in 0..rng.random_range(0..4) {
        let due = rng.random_range(0..length_ms.max(1));
        schedule.push((due, Fault::BitFlip(node, rng.random())));
        if rng.random_ratio(1, 3) {
            // Every node restarts, that one last: another whole copy has to decide.
            schedule.extend((0..3).map(|_| (due, Fault::BitFlip(node, rng.random()))));
            for other in 0..nodes {
                let last = u64::from(other == node) * rng.random_range(100..3_000);
                schedule.push((due + 1, Fault::Kill(other)));
                schedule.push((due + 2 + rng.random_range(0..100) + last, Fault::Restart(other)));
            }
        } else if rng.random_bool(0.5) {
            schedule.push((due + 1, Fault::Kill(node)));
            schedule.push((due + 1 + rng.random_range(10..3_000), Fault::Restart(node)));
        }
    }
}

/// Draws the bytes left free on a full disk: none, some of the reserve, or what the next writes use up.
fn bytes_left(rng: &mut StdRng) -> u64 {
    match rng.random_range(0..4) {
        0 => rng.random_range(0..64),
        1 => rng.random_range(64..DISK_MINIMUM),
        2 => rng.random_range(DISK_MINIMUM..2 * DISK_LOW),
        _ => rng.random_range(0..DISK_LOW),
    }
}

/// Adds disks that fill, one, two or all at nearly one time, and have room again; few processes die.
fn disks(schedule: &mut Schedule, rng: &mut StdRng, nodes: usize, length_ms: u64) {
    let mut now = rng.random_range(200..2_000);
    while now < length_ms {
        let count = *[1, 1, 2, nodes].choose(rng).unwrap_or(&1);
        let first = rng.random_range(0..nodes);
        let lasts = rng.random_range(300..8_000);
        for number in 0..count {
            let node = (first + number) % nodes;
            let begins = now + rng.random_range(0..600);
            // A disk that fills in steps passes through all states.
            let steps = rng.random_range(1..4);
            for step in 0..steps {
                let left = bytes_left(rng);
                schedule.push((begins + step * lasts / 4, Fault::DiskFull(node, Some(left))));
            }
            schedule.push((begins + lasts + rng.random_range(0..1_500), Fault::DiskFull(node, None)));
        }
        if rng.random_ratio(1, 6) {
            let due = now + rng.random_range(0..lasts);
            kill(schedule, rng, first, due);
        }
        now += lasts + rng.random_range(0..3_000);
    }
}

/// Blocks all messages between a node and all others.
fn cut_off(schedule: &mut Schedule, node: usize, nodes: usize, (begin, end): (u64, u64)) {
    for other in (0..nodes).filter(|other| *other != node) {
        for (from, to) in [(node, other), (other, node)] {
            schedule.push((begin, Fault::Block(from, to)));
            schedule.push((end, Fault::Open(from, to)));
        }
    }
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
            Fault::Block(from, to) => {
                self.note(&format!("nothing passes from node {from} to node {to}"));
                self.network.block(self.nodes[from].id, self.nodes[to].id);
                if self.rng.random_bool(0.3) {
                    self.network.break_connection(self.nodes[from].id, self.nodes[to].id);
                }
            }
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
            Fault::WallClock(node, skew_ms) => {
                self.note(&format!("the wall clock of node {node} is set, wrong by {skew_ms} ms"));
                // Not while the machine is off: if all machines are off, only their clocks know for how long.
                if self.nodes[node].process.is_some() {
                    self.nodes[node].clocks.set_wall_clock(skew_ms);
                }
            }
            Fault::Join => {
                let node = self.add_node();
                self.note(&format!("node {node} joins"));
                self.start(node);
            }
            Fault::Leave(node) => {
                let leaves = AdminOperation::Leave { node: self.nodes[node].id };
                self.operate(&format!("node {node} is to leave"), |_| Change::Operate {
                    operation: leaves,
                    basis: None,
                });
            }
            Fault::Remove(node) => {
                let id = self.nodes[node].id;
                self.operate(&format!("node {node} is to be removed"), |incarnation_of| {
                    let removes = AdminOperation::Remove {
                        node: id,
                        incarnation: incarnation_of(node),
                        accept_loss: false,
                    };
                    Change::Operate { operation: removes, basis: None }
                });
            }
            Fault::Drain(node, drained) => {
                let id = self.nodes[node].id;
                let what = if drained { "to be drained" } else { "drained no more" };
                self.operate(&format!("node {node} is {what}"), |incarnation_of| {
                    let (node, incarnation) = (id, incarnation_of(node));
                    if drained {
                        Change::Drain { node, incarnation }
                    } else {
                        Change::Undrain { node, incarnation }
                    }
                });
            }
            Fault::TakeOver(node) => self.take_over(node),
            Fault::Weight(node, weight) => {
                let sets = AdminOperation::SetWeight { node: self.nodes[node].id, weight };
                self.operate(&format!("node {node} is to weigh {weight}"), |_| Change::Operate {
                    operation: sets,
                    basis: None,
                });
            }
        }
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
                Some(process) if process.node.begins_anew() => false,
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
