//! One node: every value it reports.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::{activity, cut, events, lines, panel, title};
use crate::model::{Model, ReportAge};
use crate::theme::{self, Level};
use crate::units;
use caskade_api::{MemberStatus, NodeRow};

/// A label and its value.
type Fact = (&'static str, String);

pub(super) fn draw(model: &Model, area: Rect, buf: &mut Buffer) {
    let rows = model.snapshot.as_ref().map_or(&[][..], |snapshot| &snapshot.nodes.nodes);
    let Some(row) = rows.get(model.selection.node) else {
        let inner = panel(title("Node", ""), area, buf);
        lines([Line::from(Span::styled("no node has answered yet", theme::muted()))], inner, buf);
        return;
    };
    let member = model
        .snapshot
        .as_ref()
        .and_then(|snapshot| snapshot.status.members.iter().find(|member| member.id == row.id));
    let [top, middle, bottom] =
        area.layout(&Layout::vertical([Constraint::Length(8), Constraint::Length(9), Constraint::Fill(1)]));
    let position = format!("{} of {}", model.selection.node + 1, rows.len());
    identity(model, row, member, &position, top, buf);
    let columns = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1), Constraint::Fill(1)]);
    let [store, requests, traffic] = middle.layout(&columns);
    let heard = row.report_age_ms.is_some();
    facts("Store", &store_facts(row), heard, store, buf);
    facts("Requests", &request_facts(row), heard, requests, buf);
    facts("Traffic", &traffic_facts(row), heard, traffic, buf);
    // The curves get at most 10 rows; the rest is for the events.
    let load = if bottom.height >= 15 { 10 } else { bottom.height };
    let [load, log] = bottom.layout(&Layout::vertical([Constraint::Length(load), Constraint::Fill(1)]));
    if let Some(history) = model.node_history.get(&row.id).filter(|_| load.height > 3) {
        activity::curves("Load of this node", false, history, model.interval_ms, load, buf);
    }
    if log.height > 0 {
        events::of_node(model, &row.id, log, buf);
    }
}

fn identity(
    model: &Model,
    row: &NodeRow,
    member: Option<&MemberStatus>,
    position: &str,
    area: Rect,
    buf: &mut Buffer,
) {
    let inner = panel(title("Node", position), area, buf);
    let level = Level::of_state(&row.state);
    let mut roles = vec![row.state.as_str()];
    if row.coordinator {
        roles.push("★ coordinator");
    }
    if model.snapshot.as_ref().is_some_and(|snapshot| snapshot.status.voters.contains(&row.id)) {
        roles.push("voter");
    }
    if row.asked {
        roles.push("asked");
    }
    let heard = match model.report_stale(row.report_age_ms) {
        ReportAge::NeverHeard => Span::styled("no report received", theme::WARN),
        ReportAge::Fresh(age_ms) => {
            Span::styled(format!("reported {:.1} s ago", age_ms as f64 / 1000.0), theme::text())
        }
        ReportAge::Stale(age_ms) => {
            Span::styled(format!("values are {} old", units::seconds(age_ms / 1000)), theme::WARN)
        }
    };
    let pair = |label: &str, value: String| {
        vec![Span::styled(format!("{label:<9}"), theme::muted()), Span::styled(value, theme::text())]
    };
    let peers = member.map_or(String::new(), |member| member.peer_addrs.join(", "));
    let zone = if row.zone.is_empty() { "-" } else { &row.zone };
    let incarnation = member.map_or(0, |member| member.incarnation);
    let build = format!(
        "{}   weight {}   zone {zone}   incarnation {incarnation}   epoch {}",
        row.build, row.weight, row.epoch
    );
    let up = if row.uptime_s > 0 && row.state != "down" {
        format!(", up for {}", units::seconds(row.uptime_s))
    } else {
        String::new()
    };
    let width = usize::from(inner.width).saturating_sub(9);
    lines(
        [
            Line::from(vec![
                Span::styled(format!("{} ", level.symbol()), level.color()),
                Span::styled(roles.join(", "), Style::new().fg(level.color())),
                Span::styled(format!("{up}, "), theme::text()),
                heard,
            ]),
            Line::from(pair("id", row.id.clone())),
            Line::from(pair("clients", row.client_addr.clone())),
            Line::from(pair("peers", cut(&peers, width))),
            Line::from(pair("build", cut(&build, width))),
            Line::from(pair("disk", cut(&disk(row), width))),
        ],
        inner,
        buf,
    );
}

fn store_facts(row: &NodeRow) -> [Fact; 7] {
    [
        ("records live", units::count(row.records_live)),
        ("records total", units::count(row.records_total)),
        ("disk", units::bytes(row.disk_bytes as f64)),
        ("memory", units::bytes(row.memory_bytes as f64)),
        ("copies", row.partitions.to_string()),
        ("primaries", row.primaries.to_string()),
        ("share of ring", units::percent(row.ring_share)),
    ]
}

/// Formats the free disk space: bytes, days left, marks, bytes of live records.
fn disk(row: &NodeRow) -> String {
    if row.disk_total_bytes == 0 {
        return "-".to_owned();
    }
    let bytes = |bytes: u64| units::bytes(bytes as f64);
    let state = if row.disk_state == "ok" { String::new() } else { format!("{}, ", row.disk_state) };
    let days = row.disk_days_left.map_or_else(String::new, |days| format!(", {days:.1} days left"));
    format!(
        "{state}{} of {} free{days}, marks {} {}, {} live",
        bytes(row.disk_free_bytes),
        bytes(row.disk_total_bytes),
        bytes(row.disk_low_bytes),
        bytes(row.disk_minimum_bytes),
        bytes(row.live_bytes)
    )
}

fn request_facts(row: &NodeRow) -> [Fact; 7] {
    [
        ("ops/s", units::rate(row.ops_per_s)),
        ("gets", units::count(row.gets)),
        ("sets", units::count(row.sets)),
        ("deletes", units::count(row.deletes)),
        ("hits", units::count(row.hits)),
        ("misses", units::count(row.misses)),
        ("hit rate", units::hit_rate(row.hits, row.misses)),
    ]
}

fn traffic_facts(row: &NodeRow) -> [Fact; 7] {
    [
        ("connections", units::count(row.connections)),
        ("read/s", units::bytes(row.bytes_in_per_s)),
        ("written/s", units::bytes(row.bytes_out_per_s)),
        ("read", units::bytes(row.bytes_in as f64)),
        ("written", units::bytes(row.bytes_out as f64)),
        ("latency p50", units::latency_us(row.latency_p50_us)),
        ("latency p99", units::latency_us(row.latency_p99_us)),
    ]
}

/// Labels of values from the committed state, which are known without a report.
const OF_RING: [&str; 3] = ["copies", "primaries", "share of ring"];

/// Draws labels on the left and values aligned on the right.
fn facts(name: &str, facts: &[Fact], heard: bool, area: Rect, buf: &mut Buffer) {
    let inner = panel(title(name, ""), area, buf);
    let width = usize::from(inner.width).min(40);
    let rows = facts.iter().map(|(label, value)| {
        let room = width.saturating_sub(label.len());
        // Without a report only values of the committed state are known.
        let value = if heard || OF_RING.contains(label) { value } else { "-" };
        Line::from(vec![
            Span::styled(*label, theme::muted()),
            Span::styled(format!("{value:>room$}"), theme::text()),
        ])
    });
    lines(rows, inner, buf);
}
