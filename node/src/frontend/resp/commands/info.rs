//! `INFO`: the node's statistics, under the names that Redis's tools read.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use caskade_engine::task::TaskState;

use super::client::REDIS_VERSION;
use super::context::{Context, Handled, later};
use crate::access::Denials;
use crate::api::PeerStats;
use crate::frontend::keyspace::Keyspace;
use crate::frontend::limits::ClientLimits;
use crate::frontend::resp::parser::Args;
use crate::frontend::stats::{Calls, Snapshot};

/// Sections of INFO, in their order.
const SECTIONS: [&str; 9] = [
    "server",
    "clients",
    "memory",
    "persistence",
    "stats",
    "replication",
    "commandstats",
    "cluster",
    "keyspace",
];
/// Section that INFO returns only if it is requested, by name or with all others.
const UNUSUAL: &str = "commandstats";
/// Arguments for which INFO returns every section.
const ALL_SECTIONS: [&str; 2] = ["all", "everything"];

pub(super) fn info(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let asked: Vec<String> =
        args.from(1).map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
    let all = asked.iter().any(|name| ALL_SECTIONS.contains(&name.as_str()));
    let usual = asked.is_empty() || asked.iter().any(|name| name == "default");
    let is_asked =
        |section: &str| all || asked.iter().any(|name| name == section) || (usual && section != UNUSUAL);
    let sections: Vec<&str> = SECTIONS.into_iter().filter(|section| is_asked(section)).collect();
    let (keyspace, front_end) = (context.server.keyspace.clone(), &context.server.front_end);
    let figures = Figures {
        now: front_end.stats.snapshot(),
        calls: front_end.stats.calls(),
        denials: front_end.security.access.denials(),
        limits: Arc::clone(&front_end.limits),
    };
    let text = async move {
        let mut text = String::new();
        for section in sections {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            write_section(section, keyspace.as_ref(), &figures, &mut text);
            if section == "keyspace" {
                write_keys(keyspace.as_ref(), &mut text).await;
            }
        }
        Ok(text)
    };
    later(context, text, |text, to| to.text(&text))
}

/// Statistics of the front ends at the time of INFO.
struct Figures {
    now: Snapshot,
    calls: Vec<(&'static str, Calls)>,
    denials: Denials,
    limits: Arc<ClientLimits>,
}

fn write_section(section: &str, keyspace: &dyn Keyspace, figures: &Figures, text: &mut String) {
    let Figures { now, calls, limits, .. } = figures;
    let mut field = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a string does not fail.
        let _ = write!(text, "{name}:{value}\r\n");
    };
    match section {
        "server" => {
            field("# Server\r\nredis_version", &REDIS_VERSION);
            field("redis_mode", &"cluster");
            field("caskade_version", &env!("CARGO_PKG_VERSION"));
            field("os", &std::env::consts::OS);
            field("arch_bits", &usize::BITS);
            field("process_id", &std::process::id());
            field("uptime_in_seconds", &now.uptime_s);
            field("uptime_in_days", &(now.uptime_s / 86_400));
        }
        "clients" => {
            field("# Clients\r\nconnected_clients", &now.connections);
            field("maxclients", &limits.connections_max.load(Ordering::Relaxed));
            field("blocked_clients", &0);
            field("caskade_client_buffer_bytes", &limits.buffer_bytes());
            field("caskade_client_buffer_bytes_max", &limits.buffer_bytes_max);
        }
        "memory" => {
            field("# Memory\r\nused_memory", &crate::machine::resident_bytes());
            field("used_memory_rss", &crate::machine::resident_bytes());
            field("mem_clients_normal", &limits.buffer_bytes());
            field("maxmemory", &0);
            field("maxmemory_policy", &"noeviction");
        }
        "persistence" => write_persistence(keyspace, &mut field),
        "stats" => write_stats(keyspace, figures, &mut field),
        // Each node is the primary of some keys and has copies of others: CLUSTER SHARDS shows which.
        "replication" => {
            field("# Replication\r\nrole", &"master");
            field("connected_slaves", &0);
        }
        "commandstats" => {
            text.push_str("# Commandstats\r\n");
            calls.iter().for_each(|(command, calls)| text.push_str(&calls_line(command, calls)));
        }
        "cluster" => {
            let topology = keyspace.cluster_slots(None);
            field("# Cluster\r\ncluster_enabled", &1);
            field("caskade_node", &topology.node);
            field("caskade_epoch", &topology.epoch);
            field("caskade_members", &topology.nodes.len());
            write_peers(&keyspace.peers(), &mut field);
        }
        _ => text.push_str("# Keyspace\r\n"),
    }
}

/// Writes the sizes of the store, the running merge, and the results of healing.
fn write_persistence(keyspace: &dyn Keyspace, field: &mut impl FnMut(&str, &dyn std::fmt::Display)) {
    let (store, merge) = keyspace.store();
    let merge = merge.filter(|merge| merge.state == TaskState::Running);
    let (done, total) = merge.as_ref().map_or((0, 0), |merge| (merge.bytes_done, merge.bytes_total));
    field("# Persistence\r\nloading", &0);
    field("caskade_data_files", &store.data_files);
    field("caskade_open_files", &store.open_files);
    field("caskade_disk_bytes", &store.disk_bytes);
    field("caskade_live_bytes", &store.live_bytes);
    field("caskade_records", &store.records_total);
    field("caskade_tombstones", &store.tombstones);
    field("caskade_merge_in_progress", &u8::from(merge.is_some()));
    field("caskade_merge_bytes_done", &done);
    field("caskade_merge_bytes_total", &total);
    let healing = keyspace.healing();
    field("caskade_scrubbed_bytes", &healing.scrubbed_bytes);
    field("caskade_damaged_stretches", &healing.damaged_stretches);
    field("caskade_damaged_records_restored", &healing.restored_records);
    field("caskade_damaged_records_missing", &healing.missing_records);
}

/// Writes the counters of connections, commands and denials.
fn write_stats(
    keyspace: &dyn Keyspace,
    figures: &Figures,
    field: &mut impl FnMut(&str, &dyn std::fmt::Display),
) {
    let Figures { now, denials, .. } = figures;
    field("# Stats\r\ntotal_connections_received", &now.connections_total);
    field("rejected_connections", &now.connections_refused);
    field("total_commands_processed", &now.tally.commands);
    field("instantaneous_ops_per_sec", &now.commands_per_s);
    field("total_net_input_bytes", &now.tally.bytes_in);
    field("total_net_output_bytes", &now.tally.bytes_out);
    field("evicted_clients", &now.cut_for_memory);
    field("client_output_buffer_limit_disconnections", &now.cut_for_unread);
    field("caskade_idle_clients_closed", &now.cut_for_silence);
    field("expired_keys", &keyspace.expired_keys().saturating_sub(now.expired_before));
    field("evicted_keys", &0);
    field("keyspace_hits", &now.tally.hits);
    field("keyspace_misses", &now.tally.misses);
    field("total_error_replies", &now.tally.errors);
    field("acl_access_denied_auth", &denials.auth);
    field("acl_access_denied_cmd", &denials.command);
    field("acl_access_denied_key", &denials.key);
    field("acl_access_denied_channel", &0);
    field("caskade_auth_throttled", &denials.throttled);
    field("caskade_protected_mode_denied", &denials.protected);
    field("caskade_tls_handshakes_failed", &now.handshakes_failed);
    field("caskade_http_requests_closed", &now.http_requests);
    field("caskade_log_lines_dropped", &crate::logging::dropped_lines());
    field("caskade_gets", &now.tally.gets);
    field("caskade_sets", &now.tally.sets);
    field("caskade_deletes", &now.tally.deletes);
    field("caskade_latency_p50_us", &now.latency_p50_us);
    field("caskade_latency_p99_us", &now.latency_p99_us);
}

/// Writes the statistics of the node's peer network: connections, calls, and rejected peers by kind.
fn write_peers(peers: &PeerStats, field: &mut impl FnMut(&str, &dyn std::fmt::Display)) {
    field("caskade_peers_connected", &peers.connected);
    field("caskade_peer_calls_sent", &peers.calls_sent);
    field("caskade_peer_calls_lost", &peers.calls_lost);
    field("caskade_peer_calls_received", &peers.calls_received);
    field("caskade_peer_input_bytes", &peers.bytes_received);
    field("caskade_peer_output_bytes", &peers.bytes_sent);
    field("caskade_peer_dials_failed", &peers.dials_failed);
    for (kind, count) in &peers.refused {
        field(&format!("caskade_peer_refused_{kind}"), count);
    }
}

/// Returns the line of a command: its calls, and their time from reading the command to its reply.
fn calls_line(command: &str, calls: &Calls) -> String {
    let Calls { begun, took_us, failed, rejected } = calls;
    let each_us = *took_us as f64 / (*begun).max(1) as f64;
    format!(
        "cmdstat_{command}:calls={begun},usec={took_us},usec_per_call={each_us:.2},rejected_calls={rejected},\
         failed_calls={failed}\r\n"
    )
}

/// Writes the number of keys of the cluster in Redis's format for a database. Writes the error as
/// `caskade_keys_unknown` if the keys cannot be counted now.
async fn write_keys(keyspace: &dyn Keyspace, text: &mut String) {
    match keyspace.count().await {
        Ok(0) => {}
        Ok(count) => match keyspace.count_expiring().await {
            // Clients write between the two counts, so `expires` may exceed `count`.
            Ok(expires) => {
                let expires = expires.min(count);
                text.push_str(&format!("db0:keys={count},expires={expires},avg_ttl=0\r\n"));
            }
            Err(failure) => text.push_str(&format!("caskade_keys_unknown:{failure}\r\n")),
        },
        Err(failure) => text.push_str(&format!("caskade_keys_unknown:{failure}\r\n")),
    }
}
