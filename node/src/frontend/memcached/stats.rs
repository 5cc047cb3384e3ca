//! The reply to `stats`: those of memcached's figures that the node has, under memcached's names.

use std::fmt::{Display, Write as _};
use std::sync::atomic::Ordering;

use super::VERSION;
use super::reply::failure_text;
use super::state::ServerState;

/// Lines of figures.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: impl Display) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "STAT {name} {value}\r\n");
    }
}

/// Returns the figures of this name, or else the general ones, up to `END`; or the error if the keys cannot
/// be counted.
pub(super) async fn text(server: &ServerState, name: &[u8]) -> Vec<u8> {
    let mut lines = Lines::default();
    match name {
        b"settings" => settings(server, &mut lines),
        // There are no slabs, and nothing is counted by size.
        b"slabs" => {}
        b"sizes" => lines.add("sizes_status", "disabled"),
        _ => match server.keyspace.count().await {
            Ok(count) if name == b"items" => lines.add("items:1:number", count),
            Ok(count) => general(server, count, &mut lines),
            Err(failure) => return (failure_text(&failure, false) + "\r\n").into_bytes(),
        },
    }
    lines.0.push_str("END\r\n");
    lines.0.into_bytes()
}

fn general(server: &ServerState, count: u64, lines: &mut Lines) {
    let now = server.front_end.stats.snapshot();
    let (store, _) = server.keyspace.store();
    lines.add("pid", std::process::id());
    lines.add("uptime", now.uptime_s);
    lines.add("time", crate::clock::wall_ms() / 1000);
    lines.add("version", VERSION);
    lines.add("pointer_size", usize::BITS);
    lines.add("max_connections", server.front_end.limits.connections_max.load(Ordering::Relaxed));
    lines.add("curr_connections", now.connections);
    lines.add("total_connections", now.connections_total);
    lines.add("rejected_connections", now.connections_refused);
    lines.add("cmd_get", now.tally.gets);
    lines.add("cmd_set", now.tally.sets);
    lines.add("get_hits", now.tally.hits);
    lines.add("get_misses", now.tally.misses);
    lines.add("bytes_read", now.tally.bytes_in);
    lines.add("bytes_written", now.tally.bytes_out);
    lines.add("limit_maxbytes", 0);
    lines.add("accepting_conns", 1);
    // `curr_items` counts the keys of the whole cluster, `bytes` those of this node's copies on disk.
    lines.add("curr_items", count);
    lines.add("bytes", store.live_bytes);
    lines.add("evictions", 0);
}

fn settings(server: &ServerState, lines: &mut Lines) {
    lines.add("maxbytes", 0);
    lines.add("maxconns", server.front_end.limits.connections_max.load(Ordering::Relaxed));
    lines.add("evictions", "off");
    lines.add("cas_enabled", "yes");
    lines.add("flush_enabled", "yes");
    lines.add("item_size_max", server.front_end.limits.value_bytes_max);
    for (name, value) in server.keyspace.settings() {
        // The prefix keeps the node's settings apart from memcached's.
        lines.add(&format!("caskade_{name}"), value.replace(['\r', '\n'], " "));
    }
}
