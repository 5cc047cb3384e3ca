//! Questions about the cluster: tables for people, or the node's JSON as it is.

use caskade_node::api::{MemberStatus, NodeRow, Nodes, PartitionView, RingShare, RingView, Status, Task};
use serde::de::DeserializeOwned;

use crate::args::ClusterCommand;
use crate::client::{Addr, Client};
use crate::exit::Exit;
use crate::output::{Output, bytes, count, duration_s, latency_us, short, table};

/// Asks one question.
pub(crate) async fn run(addr: &Addr, command: &ClusterCommand, out: &mut Output) -> anyhow::Result<Exit> {
    let mut client = Client::connect(addr).await?;
    let client = &mut client;
    match command {
        ClusterCommand::Status => ask(client, "CASK.STATUS", out, status).await,
        ClusterCommand::Nodes => ask(client, "CASK.NODES", out, nodes).await,
        ClusterCommand::Ring { partitions } => {
            ask(client, "CASK.RING", out, |view: &RingView| {
                ring(view, *partitions)
            })
            .await
        }
        ClusterCommand::Tasks => ask(client, "CASK.TASKS", out, |list: &Vec<Task>| tasks(list)).await,
    }
}

async fn ask<T: DeserializeOwned>(
    client: &mut Client,
    name: &str,
    out: &mut Output,
    draw: impl FnOnce(&T) -> String,
) -> anyhow::Result<Exit> {
    let json = client.question(&redis::cmd(name)).await?;
    if out.json {
        out.line(&json)?;
    } else {
        let answer = client.read(&json)?;
        out.line(draw(&answer).trim_end())?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

fn status(status: &Status) -> String {
    let coordinator = status.coordinator.as_deref().unwrap_or("none is known");
    let mut text = format!(
        "node         {} ({}), build {}\n\
         cluster      {}\n\
         coordinator  {coordinator}\n\
         epoch        {}, ring {}\n\
         copies       {} of {}\n\
         partitions   {} under-replicated, {} moving, {} unavailable\n\
         voters       {}\n\
         tasks        {} running\n",
        status.node_id,
        status.state,
        status.build,
        status.cluster_id,
        status.epoch,
        status.ring_hash,
        status.copies_now,
        status.replication_factor,
        status.partitions_under_replicated,
        status.partitions_moving,
        status.partitions_unavailable,
        status
            .voters
            .iter()
            .map(|id| short(id))
            .collect::<Vec<_>>()
            .join(" "),
        status.tasks.len(),
    );
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
            member.state.clone(),
            member.client_addr.clone(),
            member.peer_addrs.join(" "),
            or_dash(&member.zone),
            member.weight.to_string(),
            member.incarnation.to_string(),
        ]
    };
    let header = [
        "NODE",
        "STATE",
        "CLIENTS",
        "PEERS",
        "ZONE",
        ">WEIGHT",
        ">INCARNATION",
    ];
    text + &table(&header, status.members.iter().map(row)) + MARKS
}

const MARKS: &str = "\n(* coordinator, < asked)";

fn nodes(answer: &Nodes) -> String {
    let header = [
        "NODE",
        "STATE",
        "CLIENTS",
        "ZONE",
        ">SHARE",
        ">PRIMARIES",
        ">COPIES",
        ">KEYS",
        ">RECORDS",
        ">DISK",
        ">MEMORY",
        ">CONNS",
        ">OPS/S",
        ">P50",
        ">P99",
        ">HITS",
        ">EPOCH",
        ">UPTIME",
        ">SEEN",
    ];
    table(&header, answer.nodes.iter().map(node_row)) + MARKS
}

fn node_row(node: &NodeRow) -> Vec<String> {
    let lookups = node.hits + node.misses;
    let hit_rate = if lookups == 0 {
        "-".into()
    } else {
        format!("{:.0}%", 100.0 * node.hits as f64 / lookups as f64)
    };
    let seen = node.report_age_ms.map_or_else(
        || "never".into(),
        |age| format!("{:.1}s ago", age as f64 / 1000.0),
    );
    vec![
        marked(&node.id, node.coordinator, node.asked),
        node.state.clone(),
        node.client_addr.clone(),
        or_dash(&node.zone),
        format!("{:.1}%", 100.0 * node.ring_share),
        node.primaries.to_string(),
        node.partitions.to_string(),
        count(node.records_live),
        count(node.records_total),
        bytes(node.disk_bytes),
        bytes(node.memory_bytes),
        node.connections.to_string(),
        count(node.ops_per_s.round() as u64),
        latency_us(node.latency_p50_us),
        latency_us(node.latency_p99_us),
        hit_rate,
        node.epoch.to_string(),
        duration_s(node.uptime_s),
        seen,
    ]
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
    let header = [
        "NODE",
        "ZONE",
        ">WEIGHT",
        ">COPIES",
        ">IDEAL",
        ">PRIMARIES",
        ">IN-SYNC",
        ">SYNCING",
    ];
    let moving = view
        .partitions
        .iter()
        .filter(|partition| is_moving(partition))
        .count();
    let mut text = format!(
        "epoch {}, ring {}, {} copies of {} partitions, {moving} moving\n\n{}",
        view.epoch,
        view.ring_hash,
        view.replication_factor,
        view.partitions.len(),
        table(&header, view.shares.iter().map(row)),
    );
    if with_partitions {
        let rows = view
            .partitions
            .iter()
            .map(|partition| partition_row(view, partition));
        text.push_str("\n\n");
        text.push_str(&table(&[">PARTITION", ">TERM", "REPLICAS", "RING"], rows));
    }
    text
}

/// Whether its in-sync replicas are not yet those the ring names.
fn is_moving(partition: &PartitionView) -> bool {
    let mut held: Vec<usize> = partition
        .replicas
        .iter()
        .filter(|(_, role)| role == "in-sync")
        .map(|(share, _)| *share)
        .collect();
    let mut target = partition.target.clone();
    held.sort_unstable();
    target.sort_unstable();
    held != target
}

fn partition_row(view: &RingView, partition: &PartitionView) -> Vec<String> {
    let name = |share: &usize| {
        view.shares
            .get(*share)
            .map_or("?", |share| short(&share.id))
            .to_owned()
    };
    let replica = |(share, role): &(usize, String)| match role.as_str() {
        "in-sync" => name(share),
        other => format!("{}({other})", name(share)),
    };
    vec![
        partition.partition.to_string(),
        partition.term.to_string(),
        partition
            .replicas
            .iter()
            .map(replica)
            .collect::<Vec<_>>()
            .join(" "),
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
            format!("{}/{}", bytes(task.bytes_done), bytes(task.bytes_total)),
            format!("{}/s", bytes(task.bytes_per_s.max(0.0) as u64)),
            task.eta_s.map_or_else(
                || "-".into(),
                |seconds| duration_s(seconds.max(0.0).ceil() as u64),
            ),
            task.cause.clone(),
        ]
    };
    let header = [
        "KIND",
        "FROM",
        "TO",
        "PHASE",
        ">PARTITIONS",
        ">KEYS",
        ">BYTES",
        ">RATE",
        ">LEFT",
        "CAUSE",
    ];
    table(&header, tasks.iter().map(row))
}

fn marked(id: &str, coordinator: bool, asked: bool) -> String {
    format!(
        "{}{}{}",
        short(id),
        if coordinator { "*" } else { "" },
        if asked { "<" } else { "" }
    )
}

fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(id: &str) -> RingShare {
        RingShare {
            id: id.into(),
            weight: 100,
            copies: 683,
            copies_ideal: 682.666,
            ..RingShare::default()
        }
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
        assert!(
            text.contains("aaaaaa<  up") && text.contains("bbbbbb*  down"),
            "{text}"
        );
    }

    #[test]
    fn node_without_a_report_was_never_seen() {
        let row = node_row(&NodeRow {
            id: "xyz".into(),
            coordinator: true,
            asked: true,
            ..NodeRow::default()
        });
        assert_eq!(row[0], "xyz*<");
        assert_eq!(row.last().unwrap(), "never");
        assert_eq!(row[15], "-");
        let drawn = nodes(&Nodes {
            now_ms: 0,
            nodes: vec![NodeRow::default()],
        });
        assert_eq!(
            drawn.lines().next().unwrap().split_whitespace().count(),
            row.len()
        );
    }

    #[test]
    fn ring_counts_partitions_that_are_not_where_they_should_be() {
        let at = |replicas: &[(usize, &str)], target: &[usize]| PartitionView {
            replicas: replicas
                .iter()
                .map(|(share, role)| (*share, (*role).to_owned()))
                .collect(),
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
        assert!(text.contains("3 partitions, 2 moving"), "{text}");
        assert!(
            text.contains("aaaaaa bbbbbb(syncing)") && text.contains("?(away)"),
            "{text}"
        );
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
            text.contains("3/9") && text.contains("1.0 MiB/3.0 MiB") && text.contains("1m02s"),
            "{text}"
        );
        assert_eq!(tasks(&[]), "nothing is running");
    }
}
