//! The node table. The width decides which columns it has: the columns of the lowest ranks that fit.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::{cut, mark_selected, panel, title, window};
use crate::model::{Model, ReportAge};
use crate::theme::{self, Level};
use crate::units;
use caskade_api::NodeRow;

/// One column, in the order of the table.
struct Column {
    title: &'static str,
    width: u16,
    /// Priority; 0 is the highest.
    rank: u8,
    left: bool,
    cell: fn(&NodeRow) -> String,
}

const fn column(title: &'static str, width: u16, rank: u8, cell: fn(&NodeRow) -> String) -> Column {
    Column { title, width, rank, left: false, cell }
}

const fn left(title: &'static str, width: u16, rank: u8, cell: fn(&NodeRow) -> String) -> Column {
    Column { title, width, rank, left: true, cell }
}

/// The columns after NODE and STATE, which are always shown.
#[rustfmt::skip]
const COLUMNS: &[Column] = &[
    left("ADDRESS", 21, 17, |row| row.client_addr.clone()),
    left("ZONE", 7, 16, |row| if row.zone.is_empty() { "-".to_owned() } else { row.zone.clone() }),
    left("VERSION", 7, 9, |row| row.build.clone()),
    column("UP", 4, 21, |row| units::age(row.uptime_s)),
    column("MEMORY", 8, 4, |row| units::bytes(row.memory_bytes as f64)),
    column("DISK", 8, 15, |row| units::bytes(row.disk_bytes as f64)),
    column("FREE", 9, 10, free),
    column("CONN", 5, 5, |row| units::count(row.connections)),
    column("RECS", 5, 11, |row| units::count(row.records_total)),
    column("LIVE", 5, 2, |row| units::count(row.records_live)),
    column("OPS/s", 5, 0, |row| units::rate(row.ops_per_s)),
    column("GETS", 5, 12, |row| units::count(row.gets)),
    column("SETS", 5, 13, |row| units::count(row.sets)),
    column("DELS", 5, 14, |row| units::count(row.deletes)),
    column("HIT", 5, 8, |row| units::hit_rate(row.hits, row.misses)),
    column("READ/s", 8, 6, |row| units::bytes(row.bytes_in_per_s)),
    column("WRITE/s", 8, 7, |row| units::bytes(row.bytes_out_per_s)),
    column("P50", 7, 20, |row| units::latency_us(row.latency_p50_us)),
    column("P99", 7, 18, |row| units::latency_us(row.latency_p99_us)),
    column("COPIES", 6, 19, |row| row.partitions.to_string()),
    column("PRIM", 4, 22, |row| row.primaries.to_string()),
    column("SHARE", 5, 1, |row| units::percent(row.ring_share)),
    column("EPOCH", 6, 3, |row| row.epoch.to_string()),
];

/// Formats the free bytes of the node's file system, with `!` if they are low and `!!` if at the minimum.
fn free(row: &NodeRow) -> String {
    let mark = match row.disk_state.as_str() {
        "" if row.disk_total_bytes == 0 => return "-".to_owned(),
        "low" => "!",
        "minimum" | "full" => "!!",
        _ => "",
    };
    format!("{mark}{}", units::bytes(row.disk_free_bytes as f64))
}

const NODE_WIDTH: u16 = 10;
const STATE_WIDTH: u16 = 7;
/// Width of NODE and STATE with the gap between them.
const FIXED_WIDTH: u16 = NODE_WIDTH + 1 + STATE_WIDTH;

/// Returns the columns in pages that fit into `width`: lowest ranks on the first page, each page in table
/// order.
fn pages(width: u16) -> Vec<Vec<&'static Column>> {
    let mut ranked: Vec<&Column> = COLUMNS.iter().collect();
    ranked.sort_by_key(|column| column.rank);
    let (mut pages, mut page, mut used) = (Vec::new(), Vec::new(), FIXED_WIDTH);
    for column in ranked {
        if used + 1 + column.width > width && !page.is_empty() {
            pages.push(std::mem::take(&mut page));
            used = FIXED_WIDTH;
        }
        if used + 1 + column.width > width {
            break;
        }
        used += 1 + column.width;
        page.push(column);
    }
    if !page.is_empty() {
        pages.push(page);
    }
    let place = |column: &&Column| COLUMNS.iter().position(|other| other.rank == column.rank);
    for page in &mut pages {
        page.sort_by_key(place);
    }
    pages
}

/// Returns the gap between columns that fills the width, at most three.
fn gap(columns: &[&Column], width: u16) -> u16 {
    let used = FIXED_WIDTH + columns.iter().map(|column| 1 + column.width).sum::<u16>();
    1 + (width.saturating_sub(used) / (columns.len() as u16 + 1)).min(2)
}

/// Returns the number of rows that the panel needs for all nodes.
pub(super) fn height(model: &Model) -> u16 {
    let nodes = model.snapshot.as_ref().map_or(0, |snapshot| snapshot.nodes.nodes.len());
    3 + u16::try_from(nodes.max(1)).unwrap_or(u16::MAX - 3)
}

pub(super) fn draw(model: &Model, area: Rect, buf: &mut Buffer) {
    let rows = model.snapshot.as_ref().map_or(&[][..], |snapshot| &snapshot.nodes.nodes);
    let up = rows.iter().filter(|row| row.state == "up").count();
    let figures = if rows.is_empty() { String::new() } else { format!("{up} of {} up", rows.len()) };
    let inner = panel(title("Nodes", figures), area, buf);
    if inner.height == 0 {
        return;
    }
    let pages = pages(inner.width);
    let page = model.columns_page % pages.len().max(1);
    let columns = pages.get(page).map_or(&[][..], Vec::as_slice);
    let gap = gap(columns, inner.width);
    if pages.len() > 1 {
        let text = format!(" columns {}/{}: c ", page + 1, pages.len());
        let width = text.len() as u16;
        buf.set_string(area.right().saturating_sub(width + 2), area.y, text, theme::muted());
    }
    buf.set_line(inner.x, inner.y, &header(columns, gap), inner.width);
    let height = usize::from(inner.height) - 1;
    let first = window(model.selection.node, height);
    for ((at, row), place) in rows.iter().enumerate().skip(first).zip(inner.rows().skip(1)) {
        buf.set_line(place.x, place.y, &line(model, row, columns, gap), place.width);
        if at == model.selection.node {
            mark_selected(place, buf);
        }
    }
    if rows.is_empty() {
        let none = Line::from(Span::styled("no node has answered yet", theme::muted()));
        buf.set_line(inner.x, inner.y + 1, &none, inner.width);
    }
    more(rows.len(), first, height, area, buf);
}

/// Shows in the lower border how many rows are out of sight.
pub(super) fn more(all: usize, first: usize, height: usize, area: Rect, buf: &mut Buffer) {
    let below = all.saturating_sub(first + height);
    if area.height < 2 || (first == 0 && below == 0) {
        return;
    }
    let text = format!(" ↑ {first}  ↓ {below} ");
    let width = text.chars().count() as u16;
    if area.width > width + 2 {
        buf.set_string(area.right() - width - 2, area.bottom() - 1, text, theme::muted());
    }
}

fn header(columns: &[&Column], gap: u16) -> Line<'static> {
    let mut text = format!("{:<10}{}{:<7}", "NODE", blank(gap), "STATE");
    for column in columns {
        text.push_str(&blank(gap));
        text.push_str(&align(column.title, column));
    }
    Line::from(Span::styled(text, theme::muted().add_modifier(Modifier::BOLD)))
}

fn line(model: &Model, row: &NodeRow, columns: &[&Column], gap: u16) -> Line<'static> {
    let level = Level::of_state(&row.state);
    let age = model.report_stale(row.report_age_ms);
    let known = !matches!(age, ReportAge::NeverHeard);
    let quiet = row.state == "down" || !matches!(age, ReportAge::Fresh(_));
    let style = if quiet { theme::muted() } else { theme::text() };
    let star = if row.coordinator { "★" } else { " " };
    let mut line = Line::from(vec![
        Span::styled(format!("{} ", level.symbol()), level.color()),
        Span::styled(format!("{:<6} ", units::short(&row.id)), style),
        Span::styled(format!("{star}{}", blank(gap)), theme::ACCENT),
        state(row, age),
    ]);
    let odd_epoch = model.snapshot.as_ref().is_some_and(|snapshot| snapshot.status.epoch != row.epoch);
    for column in columns {
        // These columns are known from the committed state, the others only from a report.
        let told = known || matches!(column.title, "ADDRESS" | "ZONE" | "SHARE" | "COPIES" | "PRIM");
        let text = if told { (column.cell)(row) } else { "-".to_owned() };
        let style =
            if column.title == "EPOCH" && known && odd_epoch { Style::new().fg(theme::WARN) } else { style };
        line.push_span(Span::styled(format!("{}{}", blank(gap), align(&text, column)), style));
    }
    line
}

/// Returns the state, or the age of the report if the node is up and its report is stale.
fn state(row: &NodeRow, age: ReportAge) -> Span<'static> {
    match age {
        ReportAge::Stale(age_ms) if row.state == "up" => {
            Span::styled(format!("{:<7}", format!("{} old", units::age(age_ms / 1000))), theme::WARN)
        }
        _ => Span::styled(format!("{:<7}", cut(&row.state, 7)), Level::of_state(&row.state).color()),
    }
}

fn align(text: &str, column: &Column) -> String {
    let width = usize::from(column.width);
    let text = cut(text, width);
    if column.left { format!("{text:<width$}") } else { format!("{text:>width$}") }
}

fn blank(width: u16) -> String {
    " ".repeat(usize::from(width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_has_its_own_rank() {
        for (at, column) in COLUMNS.iter().enumerate() {
            assert!(COLUMNS[..at].iter().all(|other| other.rank != column.rank), "{}", column.title);
        }
    }

    #[test]
    fn every_page_fits_and_together_they_show_every_column_once() {
        for width in FIXED_WIDTH + 22..=300 {
            let pages = pages(width);
            let mut shown: Vec<&str> = pages.iter().flatten().map(|column| column.title).collect();
            shown.sort_unstable();
            let mut all: Vec<&str> = COLUMNS.iter().map(|column| column.title).collect();
            all.sort_unstable();
            assert_eq!(shown, all, "at {width}");
            for page in &pages {
                let gap = gap(page, width);
                let used = NODE_WIDTH + gap + STATE_WIDTH;
                let used = used + page.iter().map(|column| gap + column.width).sum::<u16>();
                assert!(used <= width, "{used} > {width}");
            }
        }
        assert!(pages(FIXED_WIDTH).is_empty(), "too narrow for any");
    }

    #[test]
    fn two_hundred_columns_need_one_page_and_eighty_at_most_four() {
        assert_eq!(pages(196).len(), 1);
        assert_eq!(pages(76).len(), 4);
    }
}
