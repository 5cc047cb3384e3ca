//! Schedules: which faults a simulation meets, and when, drawn from the seed.

mod scenes;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use self::scenes::Scene;
use crate::faults::{Fault, Profile};
use crate::machine::draw_skew;
use crate::world::{DISK_LOW, DISK_MINIMUM};

/// Time after which every node has followed an epoch and then synced all writes acknowledged before.
const WEAK_SETTLED_MS: u64 = 2_000;

/// Faults with their times, in milliseconds from the beginning of the attack.
pub(crate) type Schedule = Vec<(u64, Fault)>;

/// Draws a schedule for this number of nodes and milliseconds.
pub(crate) fn draw(rng: &mut StdRng, profile: Profile, nodes: usize, length_ms: u64) -> Schedule {
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
                now += Scene::draw(rng).add(&mut schedule, rng, &nodes, now);
            } else if profile == Profile::Membership && rng.random_ratio(1, 6) {
                now += Scene::Removal.add(&mut schedule, rng, &nodes, now);
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
