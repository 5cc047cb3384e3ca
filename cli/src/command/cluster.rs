//! Commands about the cluster and its nodes: tables, or with `--json` the node's answer unchanged.

use caskade_api::{
    Accepted, DiskStatus, MemberStatus, NodeRow, Nodes, PartitionView, PeerStats, RingShare, RingView,
    Status, TakeoverAnswer, Task,
};
use caskade_tui::health::is_in_place;
use caskade_tui::units::{self, short};
use serde::de::DeserializeOwned;

use crate::args::{ClusterCommand, NodeCommand, WholeCommand};
use crate::client::{Addr, Client};
use crate::exit::Exit;
use crate::output::{Output, count, table};

/// Runs one command.
pub(crate) async fn run(addr: &Addr, command: &ClusterCommand, out: &mut Output) -> anyhow::Result<Exit> {
    let mut client = Client::connect(addr).await?;
    let client = &mut client;
    match command {
        ClusterCommand::Status => ask(client, "CASK.STATUS", out, status).await,
        ClusterCommand::Nodes { wide } => {
            ask(client, "CASK.NODES", out, |answer: &Nodes| nodes(answer, *wide)).await
        }
        ClusterCommand::Ring { partitions } => {
            ask(client, "CASK.RING", out, |view: &RingView| ring(view, *partitions)).await
        }
        ClusterCommand::Tasks => ask(client, "CASK.TASKS", out, |list: &Vec<Task>| tasks(list)).await,
        ClusterCommand::Cluster { command: WholeCommand::Takeover { yes } } => {
            let mut command = redis::cmd("CASK.TAKEOVER");
            if *yes {
                command.arg("YES");
            }
            send(client, &command, out, takeover).await
        }
        ClusterCommand::Node { command } => {
            let (name, node) = match command {
                NodeCommand::Rebuild { node } => ("CASK.REBUILD", node),
                NodeCommand::Drain { node } => ("CASK.DRAIN", node),
                NodeCommand::Undrain { node } => ("CASK.UNDRAIN", node),
            };
            let command = redis::cmd(name).arg(node).to_owned();
            send(client, &command, out, |accepted: &Accepted| accepted.message.clone()).await
        }
    }
}

async fn ask<T: DeserializeOwned>(
    client: &mut Client,
    name: &str,
    out: &mut Output,
    draw: impl FnOnce(&T) -> String,
) -> anyhow::Result<Exit> {
    send(client, &redis::cmd(name), out, draw).await
}

async fn send<T: DeserializeOwned>(
    client: &mut Client,
    command: &redis::Cmd,
    out: &mut Output,
    draw: impl FnOnce(&T) -> String,
) -> anyhow::Result<Exit> {
    let json = client.question(command).await?;
    if out.json {
        out.line(&json)?;
    } else {
        let answer = client.read(&json)?;
        out.line(draw(&answer).trim_end())?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

fn takeover(answer: &TakeoverAnswer) -> String {
    let next = match answer.done {
        true => "done: the node restarts and serves again within seconds; check with `caskctl status` there",
        false => "nothing was changed; to execute it, run caskctl cluster takeover --yes at the same node",
    };
    format!("{}.\n\n{next}", answer.message)
}

fn status(status: &Status) -> String {
    let coordinator = status.coordinator.as_deref().unwrap_or("unknown");
    let mut text = format!(
        "node         {} ({}), build {}\n\
         cluster      {}\n\
         coordinator  {coordinator}\n\
         epoch        {}, ring {}, generation {}\n\
         copies       {} of {}\n\
         partitions   {} under-replicated, {} moving, {} unavailable\n\
         stand-ins    {} partitions have one, {} are being rebuilt\n\
         voters       {}\n\
         tasks        {} running\n",
        status.node_id,
        status.state,
        status.build,
        status.cluster_id,
        status.epoch,
        status.ring_hash,
        status.generation,
        status.copies_now,
        status.replication_factor,
        status.partitions_under_replicated,
        status.partitions_moving,
        status.partitions_unavailable,
        status.partitions_with_stand_in,
        status.partitions_being_rebuilt,
        status.voters.iter().map(|id| short(id)).collect::<Vec<_>>().join(" "),
        status.tasks.len(),
    );
    text.push_str(&peers(&status.peers));
    if status.log_lines_dropped > 0 {
        let dropped = status.log_lines_dropped;
        text.push_str(&format!(
            "log          {dropped} lines were dropped because they could not be written\n"
        ));
    }
    text.push_str(&disk(&status.disk));
    for warning in &status.warnings {
        text.push_str(&format!("warning      {warning}\n"));
    }
    text.push('\n');
    let row = |member: &MemberStatus| {
        vec![
            marked(
                &member.id,
                status.coordinator.as_deref() == Some(&member.id),
                member.id == status.node_id,
            ),
            if member.draining { "drained".to_owned() } else { member.state.clone() },
            member.client_addr.clone(),
            member.peer_addrs.join(" "),
            or_dash(&member.zone),
            member.weight.to_string(),
            member.incarnation.to_string(),
        ]
    };
    let header = ["NODE", "STATE", "CLIENTS", "PEERS", "ZONE", ">WEIGHT", ">INCARNATION"];
    text + &table(&header, status.members.iter().map(row)) + MARKS
}

/// Formats the peer connections of the asked node, and the rejections by kind since its start.
fn peers(peers: &PeerStats) -> String {
    let refused = peers.refused.iter().filter(|(_, count)| **count > 0);
    let refused: Vec<String> = refused.map(|(kind, count)| format!("{kind} {count}")).collect();
    let refused = if refused.is_empty() { "nothing".to_owned() } else { refused.join(", ") };
    format!(
        "peers        {} connected, {} dials failed, {} calls lost; refused: {refused}\n",
        peers.connected, peers.dials_failed, peers.calls_lost
    )
}

/// Formats the disk space of the asked node.
fn disk(disk: &DiskStatus) -> String {
    if disk.total_bytes == 0 {
        return String::new();
    }
    let days =
        disk.days_left.map_or_else(String::new, |days| format!(", {days:.1} days left at the present rate"));
    format!(
        "disk         {}: {} of {} free, marks {} (low) and {} (minimum){days}; data files {}, live records \
         {}\n",
        disk.state,
        units::bytes(disk.free_bytes as f64),
        units::bytes(disk.total_bytes as f64),
        units::bytes(disk.low_bytes as f64),
        units::bytes(disk.minimum_bytes as f64),
        units::bytes(disk.store_bytes as f64),
        units::bytes(disk.live_bytes as f64),
    )
}

const MARKS: &str = "\n(* coordinator, < asked)";

/// A column of the node table: its header, and the function that formats a cell.
type Column = (&'static str, fn(&NodeRow) -> String);

/// Columns without `--wide`.
const COLUMNS: [Column; 13] = [
    ("NODE", |node| marked(&node.id, node.coordinator, node.asked)),
    ("STATE", |node| node.state.clone()),
    ("CLIENTS", |node| node.client_addr.clone()),
    (">SHARE", |node| units::percent(node.ring_share)),
    (">PRIMARY", |node| node.primaries.to_string()),
    (">LIVE", |node| units::count(node.records_live)),
    (">MEMORY", |node| units::bytes(node.memory_bytes as f64)),
    (">FREE", free),
    (">CONNS", |node| node.connections.to_string()),
    (">OPS/S", |node| units::rate(node.ops_per_s)),
    (">P99", |node| units::latency_us(node.latency_p99_us)),
    (">EPOCH", |node| node.epoch.to_string()),
    (">SEEN", seen),
];

/// Columns that `--wide` appends.
const COLUMNS_WIDE: [Column; 19] = [
    ("ZONE", |node| or_dash(&node.zone)),
    (">WEIGHT", |node| node.weight.to_string()),
    ("BUILD", |node| node.build.clone()),
    (">CLOCK", clock),
    (">UPTIME", |node| units::age(node.uptime_s)),
    (">COPIES", |node| node.partitions.to_string()),
    (">RECORDS", |node| units::count(node.records_total)),
    (">DISK", |node| units::bytes(node.disk_bytes as f64)),
    (">LIVE-BYTES", |node| units::bytes(node.live_bytes as f64)),
    (">DISK-TOTAL", |node| units::bytes(node.disk_total_bytes as f64)),
    (">MARKS", |node| {
        format!(
            "{}/{}",
            units::bytes(node.disk_low_bytes as f64),
            units::bytes(node.disk_minimum_bytes as f64)
        )
    }),
    (">DAYS-LEFT", |node| node.disk_days_left.map_or_else(|| "-".to_owned(), |days| format!("{days:.1}"))),
    (">GETS", |node| units::count(node.gets)),
    (">SETS", |node| units::count(node.sets)),
    (">DELETES", |node| units::count(node.deletes)),
    (">HITS", |node| units::hit_rate(node.hits, node.misses)),
    (">READ/S", |node| units::bytes(node.bytes_in_per_s)),
    (">WRITTEN/S", |node| units::bytes(node.bytes_out_per_s)),
    (">P50", |node| units::latency_us(node.latency_p50_us)),
];

fn nodes(answer: &Nodes, wide: bool) -> String {
    let more = if wide { &COLUMNS_WIDE[..] } else { &[] };
    let columns = || COLUMNS.iter().chain(more);
    let header: Vec<&str> = columns().map(|(header, _)| *header).collect();
    let row = |node: &NodeRow| columns().map(|(_, cell)| cell(node)).collect();
    table(&header, answer.nodes.iter().map(row)) + MARKS
}

/// Formats the seconds by which the node's wall clock is ahead of cluster time.
fn clock(node: &NodeRow) -> String {
    node.clock_offset_ms.map_or_else(|| "-".to_owned(), |ms| format!("{:+.1} s", ms as f64 / 1000.0))
}

/// Formats the free bytes of the node's file system, and its state unless that is `ok`.
fn free(node: &NodeRow) -> String {
    if node.disk_total_bytes == 0 {
        return "-".to_owned();
    }
    let free = units::bytes(node.disk_free_bytes as f64);
    if matches!(node.disk_state.as_str(), "" | "ok") { free } else { format!("{free} {}", node.disk_state) }
}

fn seen(node: &NodeRow) -> String {
    let ago = |age_ms: u64| format!("{:.1} s ago", age_ms as f64 / 1000.0);
    node.report_age_ms.map_or_else(|| "never".to_owned(), ago)
}

fn ring(view: &RingView, with_partitions: bool) -> String {
    let row = |share: &RingShare| {
        vec![
            short(&share.id).to_owned(),
            or_dash(&share.zone),
            share.weight.to_string(),
            share.copies.to_string(),
            format!("{:.1}", share.copies_ideal),
            share.primaries.to_string(),
            share.in_sync.to_string(),
            share.syncing.to_string(),
        ]
    };
    let header = ["NODE", "ZONE", ">WEIGHT", ">COPIES", ">IDEAL", ">PRIMARIES", ">IN-SYNC", ">SYNCING"];
    let moving = view.partitions.iter().filter(|partition| !is_in_place(partition)).count();
    let mut text = format!(
        "epoch {}, ring {}, {} copies of {} partitions, {moving} not in place\n\n{}",
        view.epoch,
        view.ring_hash,
        view.replication_factor,
        view.partitions.len(),
        table(&header, view.shares.iter().map(row)),
    );
    if with_partitions {
        let rows = view.partitions.iter().map(|partition| partition_row(view, partition));
        text.push_str("\n\n");
        text.push_str(&table(&[">PARTITION", ">TERM", "REPLICAS", "RING"], rows));
    }
    text
}

fn partition_row(view: &RingView, partition: &PartitionView) -> Vec<String> {
    let name = |share: &usize| view.shares.get(*share).map_or("?", |share| short(&share.id)).to_owned();
    let replica = |(share, role): &(usize, String)| match role.as_str() {
        "in-sync" => name(share),
        other => format!("{}({other})", name(share)),
    };
    vec![
        partition.partition.to_string(),
        partition.term.to_string(),
        partition.replicas.iter().map(replica).collect::<Vec<_>>().join(" "),
        partition.target.iter().map(name).collect::<Vec<_>>().join(" "),
    ]
}

fn tasks(tasks: &[Task]) -> String {
    if tasks.is_empty() {
        return "nothing is running".to_owned();
    }
    let row = |task: &Task| {
        vec![
            task.kind.clone(),
            short(&task.source).to_owned(),
            short(&task.target).to_owned(),
            task.phase.clone(),
            format!("{}/{}", task.partitions_done, task.partitions_total),
            format!("{}/{}", count(task.keys_done), count(task.keys_total)),
            format!("{}/{}", units::bytes(task.bytes_done as f64), units::bytes(task.bytes_total as f64)),
            units::bytes_per_s(task.bytes_per_s),
            task.eta_s.map_or_else(|| "-".into(), |seconds| units::seconds(seconds.max(0.0).ceil() as u64)),
            task.cause.clone(),
        ]
    };
    let header = ["KIND", "FROM", "TO", "PHASE", ">PARTITIONS", ">KEYS", ">BYTES", ">RATE", ">LEFT", "CAUSE"];
    table(&header, tasks.iter().map(row))
}

fn marked(id: &str, coordinator: bool, asked: bool) -> String {
    format!("{}{}{}", short(id), if coordinator { "*" } else { "" }, if asked { "<" } else { "" })
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(id: &str) -> RingShare {
        RingShare { id: id.into(), weight: 100, copies: 683, copies_ideal: 682.666, ..RingShare::default() }
    }

    #[test]
    fn status_shows_members_with_marks_and_warnings() {
        let member = |id: &str, state: &str| MemberStatus {
            id: id.into(),
            state: state.into(),
            client_addr: "127.0.0.1:7900".into(),
            weight: 100,
            ..MemberStatus::default()
        };
        let text = status(&Status {
            node_id: "12D3KooWaaaaaa".into(),
            coordinator: Some("12D3KooWbbbbbb".into()),
            members: vec![member("12D3KooWaaaaaa", "up"), member("12D3KooWbbbbbb", "down")],
            partitions_under_replicated: 7,
            warnings: vec!["bbbbbb is down".into()],
            ..Status::default()
        });
        assert!(
            text.contains("7 under-replicated") && text.contains("warning      bbbbbb is down"),
            "{text}"
        );
        assert!(text.contains("aaaaaa<  up") && text.contains("bbbbbb*  down"), "{text}");
    }

    #[test]
    fn node_without_a_report_was_never_seen() {
        let row = NodeRow { id: "xyz".into(), coordinator: true, asked: true, ..NodeRow::default() };
        let answer = Nodes { now_ms: 0, nodes: vec![row] };
        let text = nodes(&answer, false);
        let row = text.lines().nth(1).unwrap().trim_end();
        assert!(row.starts_with("xyz*<") && row.ends_with("never"), "{text}");
        let wide = nodes(&answer, true);
        let headers = wide.lines().next().unwrap().split_whitespace().count();
        assert_eq!(headers, COLUMNS.len() + COLUMNS_WIDE.len());
    }

    #[test]
    fn ring_counts_partitions_that_are_not_where_they_should_be() {
        let at = |replicas: &[(usize, &str)], target: &[usize]| PartitionView {
            replicas: replicas.iter().map(|(share, role)| (*share, (*role).to_owned())).collect(),
            target: target.to_vec(),
            ..PartitionView::default()
        };
        let view = RingView {
            shares: vec![share("aaaaaa"), share("bbbbbb")],
            partitions: vec![
                at(&[(0, "in-sync"), (1, "in-sync")], &[1, 0]),
                at(&[(0, "in-sync"), (1, "syncing")], &[0, 1]),
                at(&[(0, "in-sync"), (9, "away")], &[0, 1]),
            ],
            ..RingView::default()
        };
        let text = ring(&view, true);
        assert!(text.contains("3 partitions, 2 not in place"), "{text}");
        assert!(text.contains("aaaaaa bbbbbb(syncing)") && text.contains("?(away)"), "{text}");
        assert!(text.contains("682.7"), "{text}");
    }

    #[test]
    fn running_task_shows_progress_and_time_left() {
        let task = Task {
            kind: "migration".into(),
            partitions_done: 3,
            partitions_total: 9,
            bytes_done: 1 << 20,
            bytes_total: 3 << 20,
            bytes_per_s: 1024.0,
            eta_s: Some(61.2),
            ..Task::default()
        };
        let text = tasks(&[task]);
        assert!(
            text.contains("3/9") && text.contains("1.00 MiB/3.00 MiB") && text.contains("1 m 2 s"),
            "{text}"
        );
        assert_eq!(tasks(&[]), "nothing is running");
    }
}
