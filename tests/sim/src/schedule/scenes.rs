//! Scenes: faults that would seldom meet by chance. Each fault of a scene makes use of the state that the one
//! before leaves. A scene returns its duration in milliseconds.

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::{Nodes, Schedule, cut_off, kill};
use crate::faults::Fault;

/// A scene.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scene {
    /// A node is cut off for longer than its lease; meanwhile its successor gives up its new primacies.
    CutOff,
    /// A replica is paused until suspended; the primary dies then, or just before; the replica continues.
    PausedReplica,
    /// A node's messages are slow, and then none passes any more.
    SlowThenSilent,
    /// Connections break repeatedly with many calls in flight, held back just before; then the node dies.
    BrokenConnections,
    /// The places of copies change while a node is away and others stand in for it.
    MovesWithStandIns,
    /// All nodes go down at once.
    AllDown,
    /// A down node is removed; its stand-ins keep its copies, and one of their primaries dies.
    Removal,
    /// Writes fail on a slow disk while later ones wait for it, and then the node that sent them dies.
    FailedWrites,
    /// A voter restarts just before an election that only it can know to be too early.
    ForgetfulVoter,
    /// Primaries move to and fro between nodes whose estimates of cluster time differ.
    ToAndFro,
    /// Nothing passes from one node to another for a while, and then the first one dies.
    OneWayCut,
}

impl Scene {
    const ALL: [Self; 11] = [
        Self::CutOff,
        Self::PausedReplica,
        Self::SlowThenSilent,
        Self::BrokenConnections,
        Self::MovesWithStandIns,
        Self::AllDown,
        Self::Removal,
        Self::FailedWrites,
        Self::ForgetfulVoter,
        Self::ToAndFro,
        Self::OneWayCut,
    ];

    /// Draws a scene.
    pub(super) fn draw(rng: &mut StdRng) -> Self {
        Self::ALL.choose(rng).copied().unwrap_or(Self::CutOff)
    }

    /// Adds the faults of this scene from `now` on; returns its duration in milliseconds.
    pub(super) fn add(self, schedule: &mut Schedule, rng: &mut StdRng, nodes: &Nodes, now: u64) -> u64 {
        let two = nodes.two(rng);
        match self {
            Self::CutOff => cut_off_past_the_lease(schedule, rng, nodes, two, now),
            Self::PausedReplica => paused_replica(schedule, rng, two, now),
            Self::SlowThenSilent => slow_then_silent(schedule, rng, nodes, two.0, now),
            Self::BrokenConnections => broken_connections(schedule, rng, two, now),
            Self::MovesWithStandIns => moves_with_stand_ins(schedule, rng, two, now),
            Self::AllDown => all_down(schedule, rng, nodes, now),
            Self::Removal => removal(schedule, rng, nodes, now),
            Self::FailedWrites => failed_writes(schedule, rng, two, now),
            Self::ForgetfulVoter => forgetful_voter(schedule, rng, nodes, two, now),
            Self::ToAndFro => to_and_fro(schedule, rng, two, now),
            Self::OneWayCut => one_way_cut(schedule, rng, two, now),
        }
    }
}

fn cut_off_past_the_lease(
    schedule: &mut Schedule,
    rng: &mut StdRng,
    nodes: &Nodes,
    (node, other): (usize, usize),
    now: u64,
) -> u64 {
    let end = now + rng.random_range(2_200..4_500);
    cut_off(schedule, node, nodes.count(), (now, end));
    let moves = rng.random_range(now + 2_100..end);
    schedule.push((moves, Fault::Drain(other, true)));
    schedule.push((end + rng.random_range(0..1_000), Fault::Drain(other, false)));
    end - now
}

/// The primary dies perhaps while nobody leads: an election comes just before.
fn paused_replica(schedule: &mut Schedule, rng: &mut StdRng, (node, other): (usize, usize), now: u64) -> u64 {
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

fn slow_then_silent(schedule: &mut Schedule, rng: &mut StdRng, nodes: &Nodes, node: usize, now: u64) -> u64 {
    let cut = now + rng.random_range(500..3_000);
    let end = cut + rng.random_range(2_200..4_500);
    schedule.push((now, Fault::Slow(node, rng.random_range(200..1_500))));
    cut_off(schedule, node, nodes.count(), (cut, end));
    schedule.push((end, Fault::Slow(node, 1)));
    end - now
}

fn broken_connections(
    schedule: &mut Schedule,
    rng: &mut StdRng,
    (node, other): (usize, usize),
    now: u64,
) -> u64 {
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

fn moves_with_stand_ins(
    schedule: &mut Schedule,
    rng: &mut StdRng,
    (node, other): (usize, usize),
    now: u64,
) -> u64 {
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

fn all_down(schedule: &mut Schedule, rng: &mut StdRng, nodes: &Nodes, now: u64) -> u64 {
    let mut longest = 0;
    for node in 0..nodes.count() {
        let (due, down) = (now + rng.random_range(0..100), rng.random_range(50..4_000));
        schedule.push((due, if rng.random() { Fault::Kill(node) } else { Fault::PowerLoss(node) }));
        schedule.push((due + down, Fault::Restart(node)));
        longest = longest.max(due + down - now);
    }
    longest
}

/// Some nodes learn of the removal late. The primary that dies is one that the stand-ins' copies were made
/// equal to.
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

/// The later writes succeed before the primary opens its next session, 50 ms later.
fn failed_writes(schedule: &mut Schedule, rng: &mut StdRng, (node, other): (usize, usize), now: u64) -> u64 {
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

/// One voter receives nothing from the coordinator for less than its lease. Another one restarts, and both
/// elect the first: only the second may have confirmed the coordinator since.
fn forgetful_voter(
    schedule: &mut Schedule,
    rng: &mut StdRng,
    nodes: &Nodes,
    (node, other): (usize, usize),
    now: u64,
) -> u64 {
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

/// One of the nodes restarts with slow messages: its estimate of cluster time is a poor one.
fn to_and_fro(schedule: &mut Schedule, rng: &mut StdRng, (node, other): (usize, usize), now: u64) -> u64 {
    let mut due = now + rng.random_range(600..2_000);
    schedule.push((now, Fault::Slow(node, rng.random_range(20..200))));
    schedule.push((now + 10, Fault::Kill(node)));
    schedule.push((now + rng.random_range(50..400), Fault::Restart(node)));
    for _ in 0..rng.random_range(4..12) {
        let drained = if rng.random() { node } else { other };
        schedule.push((due, Fault::Drain(drained, true)));
        due += rng.random_range(50..700);
        schedule.push((due, Fault::Drain(drained, false)));
        due += rng.random_range(50..700);
    }
    schedule.push((due, Fault::Slow(node, 1)));
    due - now
}

fn one_way_cut(schedule: &mut Schedule, rng: &mut StdRng, (node, other): (usize, usize), now: u64) -> u64 {
    let end = now + rng.random_range(50..1_500);
    schedule.push((now, Fault::Block(node, other)));
    schedule.push((end + rng.random_range(0..500), Fault::Open(node, other)));
    kill(schedule, rng, node, end);
    end - now
}
