//! Sample answers of nodes, for the screens and for a server that answers like a node.

// Each test program uses a different part of this module.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod server;

use caskade_api::{Event, MemberStatus, NodeRow, Nodes, PartitionView, RingShare, RingView, Status, Task};
use caskade_tui::model::Snapshot;

/// 2023-11-14, 22:13:20 UTC.
const NOW_MS: u64 = 1_700_000_000_000;
const NAMES: [&str; 6] = ["fJ3kQa", "Wz81Lm", "p0RtYe", "hB6vNd", "Qx2cUs", "m9GaTo"];

/// Returns the full id of node `at`.
pub fn id(at: usize) -> String {
    format!("12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2{at}{}", NAMES[at % NAMES.len()])
}

fn short(at: usize) -> &'static str {
    NAMES[at % NAMES.len()]
}

fn member(at: usize, addrs: &[String]) -> MemberStatus {
    MemberStatus {
        id: id(at),
        state: "up".into(),
        draining: false,
        client_addr: addrs[at].clone(),
        peer_addrs: vec![format!("/ip4/10.0.0.{}/tcp/7901", at + 1)],
        zone: ["rack-a", "rack-b", "rack-c"][at % 3].into(),
        weight: 100,
        incarnation: 3 + at as u64,
        ..MemberStatus::default()
    }
}

fn row(at: usize, nodes: usize, addrs: &[String]) -> NodeRow {
    let scale = 1.0 + at as f64 * 0.13;
    NodeRow {
        id: id(at),
        state: "up".into(),
        coordinator: at == 0,
        asked: at == 0,
        client_addr: addrs[at].clone(),
        zone: ["rack-a", "rack-b", "rack-c"][at % 3].into(),
        weight: 100,
        build: "0.1.0".into(),
        report_age_ms: Some(400 + 130 * at as u64),
        epoch: 1482,
        uptime_s: 273_840 - 8000 * at as u64,
        memory_bytes: (412.0 * scale * 1_048_576.0) as u64,
        connections: 48 + 7 * at as u64,
        records_total: (1_310_000.0 * scale) as u64,
        records_live: 823_400 + 700 * at as u64,
        disk_bytes: (2.31 * scale * 1_073_741_824.0) as u64,
        gets: (48_120_000.0 * scale) as u64,
        sets: (9_730_000.0 * scale) as u64,
        deletes: (184_000.0 * scale) as u64,
        hits: (46_900_000.0 * scale) as u64,
        misses: (1_220_000.0 * scale) as u64,
        bytes_in: (8.8 * scale * 1_073_741_824.0) as u64,
        bytes_out: (31.0 * scale * 1_073_741_824.0) as u64,
        ops_per_s: 12_345.0 * scale,
        bytes_in_per_s: 1.9 * scale * 1_048_576.0,
        bytes_out_per_s: 4.5 * scale * 1_048_576.0,
        latency_p50_us: 184 + 12 * at as u64,
        latency_p99_us: 1_240 + 310 * at as u64,
        partitions: 2048 / nodes as u32,
        primaries: 1024 / nodes as u32,
        ring_share: 1.0 / nodes as f64,
        clock_offset_ms: Some(at as i64 - 2),
        live_bytes: (1.72 * scale * 1_073_741_824.0) as u64,
        disk_free_bytes: ((118.0 - 9.0 * at as f64) * 1_073_741_824.0) as u64,
        disk_total_bytes: 200 << 30,
        disk_low_bytes: 10 << 30,
        disk_minimum_bytes: 2 << 30,
        disk_state: "ok".into(),
        disk_days_left: Some(41.5),
        damaged_partitions: 0,
        damaged_records: 0,
    }
}

fn ring(nodes: usize) -> RingView {
    let partitions = (0..1024).map(|partition| {
        let first = (partition * 7 + partition / 13) % nodes;
        let second = (first + 1 + partition % (nodes - 1).max(1)) % nodes;
        let target = if nodes == 1 { vec![first] } else { vec![first, second] };
        PartitionView {
            partition: partition as u16,
            term: 4,
            replicas: target.iter().map(|node| (*node, "in-sync".to_owned())).collect(),
            target,
        }
    });
    let mut ring = RingView {
        epoch: 1482,
        ring_hash: "9f31c07be4d2a865".into(),
        replication_factor: 2,
        partitions: partitions.collect(),
        ..RingView::default()
    };
    count_shares(&mut ring, nodes);
    ring
}

/// Computes the shares from the partitions.
fn count_shares(ring: &mut RingView, nodes: usize) {
    let copies: usize = ring.partitions.iter().map(|partition| partition.target.len()).sum();
    let held = |node: usize, role: &str| {
        let is = |(of, as_role): &&(usize, String)| *of == node && as_role == role;
        ring.partitions
            .iter()
            .filter(|partition| partition.replicas.iter().any(|replica| is(&replica)))
            .count() as u32
    };
    let primary = |node: usize| {
        let first = |partition: &&PartitionView| {
            partition.replicas.iter().find(|(_, role)| role == "in-sync").map(|(of, _)| *of)
        };
        ring.partitions.iter().filter(|partition| first(partition) == Some(node)).count() as u32
    };
    ring.shares = (0..nodes)
        .map(|at| RingShare {
            id: id(at),
            zone: ["rack-a", "rack-b", "rack-c"][at % 3].into(),
            weight: 100,
            copies: ring.partitions.iter().filter(|partition| partition.target.contains(&at)).count() as u32,
            copies_ideal: copies as f64 / nodes as f64,
            primaries: primary(at),
            in_sync: held(at, "in-sync"),
            syncing: held(at, "syncing"),
        })
        .collect();
}

fn event(seconds_ago: u64, severity: &str, kind: &str, message: &str) -> Event {
    Event {
        time_ms: NOW_MS - seconds_ago * 1000,
        epoch: 1400,
        severity: severity.into(),
        kind: kind.into(),
        node: id(1),
        message: message.into(),
    }
}

fn events() -> Vec<Event> {
    vec![
        event(86_000, "info", "coordinator", "node fJ3kQa is the coordinator of a new cluster"),
        event(85_900, "info", "member", "node Wz81Lm joined (rack-b, weight 100)"),
        event(
            85_899,
            "info",
            "plan",
            "plan 1: 1024 copies to node Wz81Lm, ideal 1024, because node Wz81Lm joined",
        ),
        event(85_700, "info", "migration", "plan 1 is done: 1024 copies, 1.2 GiB in 3 m 19 s"),
        event(
            9_000,
            "warning",
            "failover",
            "node p0RtYe is down, its lease ran out: 341 partitions handed to their other copies",
        ),
        event(8_900, "info", "member", "node p0RtYe is back (incarnation 5): 683 partitions are catching up"),
        event(
            8_860,
            "error",
            "store",
            "node p0RtYe: the record at 000017.data:8812034 fails its checksum; healed from node Wz81Lm",
        ),
        event(8_850, "info", "member", "node p0RtYe has caught up"),
        event(40, "info", "member", "node hB6vNd joined (rack-a, weight 100)"),
        event(39, "info", "plan", "plan 4: 512 copies to node hB6vNd, ideal 512, because node hB6vNd joined"),
    ]
}

/// Returns `count` client addresses.
pub fn addrs(count: usize) -> Vec<String> {
    (1..=count).map(|at| format!("10.0.0.{at}:7900")).collect()
}

/// Returns the answers of a healthy cluster.
pub fn healthy(addrs: &[String]) -> Snapshot {
    let nodes = addrs.len();
    let ring = ring(nodes);
    let status = Status {
        node_id: id(0),
        state: "serving".into(),
        build: "0.1.0".into(),
        cluster_id: "7c1e9a40b2d84f6e91c05a37d8e2fb16".into(),
        coordinator: Some(id(0)),
        epoch: 1482,
        ring_hash: ring.ring_hash.clone(),
        replication_factor: 2,
        copies_now: nodes.min(2) as u8,
        members: (0..nodes).map(|at| member(at, addrs)).collect(),
        voters: (0..nodes.min(3)).map(id).collect(),
        ..Status::default()
    };
    let rows = (0..nodes).map(|at| row(at, nodes, addrs)).collect();
    Snapshot {
        addr: addrs[0].clone(),
        status,
        nodes: Nodes { now_ms: NOW_MS, nodes: rows },
        ring: Some(ring),
        tasks: Vec::new(),
        events: events(),
        missing: Vec::new(),
    }
}

/// Returns the answers of a cluster whose last node has just joined: copies move to it.
pub fn joining(addrs: &[String]) -> Snapshot {
    let mut snapshot = healthy(addrs);
    let new = addrs.len() - 1;
    snapshot.status.partitions_moving = 391;
    snapshot.nodes.nodes[new].records_live = 201_700;
    if let Some(ring) = &mut snapshot.ring {
        for partition in
            ring.partitions.iter_mut().filter(|partition| partition.target.contains(&new)).skip(121)
        {
            let other = partition.target.iter().copied().find(|node| *node != new).unwrap_or(0);
            let leaving = (other + 1) % new;
            partition.replicas =
                vec![(other, "in-sync".into()), (leaving, "in-sync".into()), (new, "syncing".into())];
        }
        count_shares(ring, addrs.len());
    }
    let task = |source: usize, part: f64| Task {
        id: format!("migration/4/{}/{}", id(source), id(new)),
        kind: "migration".into(),
        cause: format!("node {} joined", short(new)),
        source: id(source),
        target: id(new),
        phase: if part > 0.9 { "comparing" } else { "copying" }.into(),
        partitions_done: (171.0 * part) as u32,
        partitions_total: 171,
        keys_done: (137_400.0 * part) as u64,
        keys_total: 137_400,
        bytes_done: (402.0 * part * 1_048_576.0) as u64,
        bytes_total: 402 * 1_048_576,
        bytes_per_s: if part > 0.0 { 18.4 * 1_048_576.0 } else { 0.0 },
        eta_s: (part > 0.0).then(|| 402.0 * (1.0 - part) / 18.4),
    };
    let parts = [0.62, 0.973, 0.0, 0.31, 0.44];
    snapshot.tasks = (0..new).map(|source| task(source, parts[source % parts.len()])).collect();
    snapshot.status.tasks.clone_from(&snapshot.tasks);
    snapshot
}

/// Returns the answers of a cluster whose second node is down, and whose third node has a stale report and
/// epoch.
pub fn degraded(addrs: &[String]) -> Snapshot {
    let mut snapshot = healthy(addrs);
    let down = 1;
    snapshot.status.partitions_under_replicated = 683;
    snapshot.status.members[down].state = "down".into();
    snapshot.status.warnings =
        vec![format!("node {} is down since 40 s; its copies are rebuilt in 4 m 20 s", short(down))];
    let row = &mut snapshot.nodes.nodes[down];
    row.state = "down".into();
    row.report_age_ms = None;
    row.ops_per_s = 0.0;
    let lagging = &mut snapshot.nodes.nodes[2];
    lagging.report_age_ms = Some(14_300);
    lagging.epoch = 1479;
    if let Some(ring) = &mut snapshot.ring {
        for partition in &mut ring.partitions {
            for replica in partition.replicas.iter_mut().filter(|(node, _)| *node == down) {
                replica.1 = "away".into();
            }
        }
        for partition in ring.partitions.iter_mut().skip(600).take(3) {
            partition.replicas = vec![(down, "away".into())];
        }
        count_shares(ring, addrs.len());
    }
    snapshot.events.push(event(
        2,
        "error",
        "failover",
        "node Wz81Lm is down, its lease ran out: 341 partitions handed to their other copies",
    ));
    snapshot
}
