//! The ring: the copies that each node holds compared with its ideal share, and the map of the partitions.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::nodes::more;
use super::{lines, mark_selected, name, panel, ring_map, title, window};
use crate::health::is_in_place;
use crate::model::Model;
use crate::theme;
use caskade_api::{PartitionView, RingShare, RingView};

pub(super) fn draw(model: &Model, area: Rect, buf: &mut Buffer) {
    let ring = &model.ring;
    if ring.shares.is_empty() {
        let inner = panel(title("Ring", ""), area, buf);
        let missing = model.snapshot.as_ref().map_or(&[][..], |snapshot| &snapshot.missing);
        let words = missing.first().map_or("no ring received yet", String::as_str);
        lines([Line::from(Span::styled(words, theme::muted()))], inner, buf);
        return;
    }
    let wanted = u16::try_from(ring.shares.len()).unwrap_or(u16::MAX - 3).saturating_add(3);
    let map = ring_map::height(ring, area.width, area.height.saturating_sub(wanted));
    // The map gets all its rows if three nodes fit into the balance; otherwise the map is cut.
    let balance = wanted.min(area.height.saturating_sub(map).max(6)).min(area.height);
    let [top, middle, rest] = area.layout(&Layout::vertical([
        Constraint::Length(balance),
        Constraint::Length(map.min(area.height - balance)),
        Constraint::Fill(1),
    ]));
    draw_balance(model, top, buf);
    ring_map::draw(ring, middle, buf);
    if rest.height >= 3 {
        draw_unsettled(ring, rest, buf);
    }
}

/// Draws the partitions that are not in place.
fn draw_unsettled(ring: &RingView, area: Rect, buf: &mut Buffer) {
    let unsettled: Vec<&PartitionView> =
        ring.partitions.iter().filter(|partition| !is_in_place(partition)).collect();
    let inner = panel(title("Not in place", unsettled.len().to_string()), area, buf);
    let mut rows = vec![Line::from(Span::styled(
        format!("{:>9}{:>7}  {:<44} RING", "PARTITION", "TERM", "COPIES, PRIMARY FIRST"),
        theme::muted().add_modifier(Modifier::BOLD),
    ))];
    if unsettled.is_empty() {
        let words = "every partition is on the nodes that the ring names, all copies in-sync";
        rows = vec![Line::from(Span::styled(words, theme::muted()))];
    }
    let node = |at: usize| ring.shares.get(at).map_or("?", |share| name(&share.id));
    let height = usize::from(inner.height).saturating_sub(1);
    for partition in unsettled.iter().take(height) {
        let mut row = Line::from(format!("{:>9}{:>7}  ", partition.partition, partition.term));
        let before = row.width();
        for (at, role) in &partition.replicas {
            row.push_span(Span::styled(format!("{} ", node(*at)), theme::node(*at)));
            if role != "in-sync" {
                let color = if role == "away" { theme::BAD } else { theme::BUSY };
                row.push_span(Span::styled(format!("{role} "), color));
            }
        }
        let room = 45_usize.saturating_sub(row.width() - before);
        let target: Vec<&str> = partition.target.iter().map(|at| node(*at)).collect();
        row.push_span(Span::styled(format!("{}{}", " ".repeat(room), target.join(" ")), theme::text()));
        rows.push(row);
    }
    lines(rows, inner, buf);
    if !unsettled.is_empty() {
        more(unsettled.len(), 0, height, area, buf);
    }
}

pub(super) fn draw_balance(model: &Model, area: Rect, buf: &mut Buffer) {
    let ring = &model.ring;
    let hash: String = ring.ring_hash.chars().take(8).collect();
    let figures = format!("epoch {}, hash {hash}, {} copies a key", ring.epoch, ring.replication_factor);
    let inner = panel(title("Balance", figures), area, buf);
    let width = usize::from(inner.width);
    let wide = width >= 110;
    let room = width.saturating_sub(if wide { TAIL_WIDE } else { TAIL } + HEAD);
    let selected =
        model.snapshot.as_ref().and_then(|snapshot| snapshot.nodes.nodes.get(model.selection.node));
    let selected = ring.shares.iter().position(|share| selected.is_some_and(|row| row.id == share.id));
    let height = usize::from(inner.height).saturating_sub(1);
    let first = window(selected.unwrap_or(0), height);
    lines([header(room, wide)], inner, buf);
    for ((at, share), place) in ring.shares.iter().enumerate().skip(first).zip(inner.rows().skip(1)) {
        buf.set_line(place.x, place.y, &share_line(at, share, ring, room, wide), place.width);
        if selected == Some(at) {
            mark_selected(place, buf);
        }
    }
    more(ring.shares.len(), first, height, area, buf);
}

/// Columns before the bar, and after it in narrow and wide terminals.
const HEAD: usize = 9;
const TAIL: usize = 47;
const TAIL_WIDE: usize = 65;

fn header(room: usize, wide: bool) -> Line<'static> {
    let mut text = format!(
        "{:<HEAD$}{:<room$}{:>7}{:>8}{:>7}{:>8}{:>8}{:>9}",
        "  NODE", "HELD", "COPIES", "IDEAL", "OFF", "IN-SYNC", "SYNCING", "PRIMARY"
    );
    if wide {
        text.push_str(&format!("{:>8}  {:<8}", "WEIGHT", "ZONE"));
    }
    Line::from(Span::styled(text, theme::muted().add_modifier(Modifier::BOLD)))
}

fn share_line(at: usize, share: &RingShare, ring: &RingView, room: usize, wide: bool) -> Line<'static> {
    let color = Style::new().fg(theme::node(at));
    let held = |share: &RingShare| f64::from(share.in_sync) + f64::from(share.syncing);
    let all = ring.shares.iter();
    let scale = all.map(|share| held(share).max(share.copies_ideal)).fold(1.0, f64::max) * 1.02;
    let off = f64::from(share.copies) - share.copies_ideal;
    let warn_if = |odd: bool, color| {
        if odd { Style::new().fg(color) } else { theme::muted() }
    };
    let mut line = Line::from(vec![
        Span::styled(format!("{} ", theme::letter(at)), color.add_modifier(Modifier::BOLD)),
        Span::styled(format!("{:<7}", name(&share.id)), theme::text()),
    ]);
    let parts = [f64::from(share.in_sync), held(share), share.copies_ideal].map(|copies| copies / scale);
    line.spans.extend(balance_bar(parts, room, color));
    let figures = [
        (format!("{:>7}{:>8.1}", share.copies, share.copies_ideal), theme::text()),
        (format!("{off:>+7.1}"), warn_if(off.abs() > 1.0, theme::WARN)),
        (format!("{:>8}", share.in_sync), theme::text()),
        (format!("{:>8}", share.syncing), warn_if(share.syncing > 0, theme::BUSY)),
        (format!("{:>9}", share.primaries), theme::text()),
    ];
    line.spans.extend(figures.map(|(text, style)| Span::styled(text, style)));
    if wide {
        let zone = if share.zone.is_empty() { "-" } else { &share.zone };
        let text = format!("{:>8}  {:<8}", share.weight, super::cut(zone, 8));
        line.push_span(Span::styled(text, theme::muted()));
    }
    line
}

/// Returns a bar of the in-sync copies, then the syncing copies, with a mark at the ideal.
fn balance_bar([in_sync, held, ideal]: [f64; 3], width: usize, style: Style) -> Vec<Span<'static>> {
    let at = |part: f64| ((part * width as f64).round() as usize).min(width);
    let (in_sync, held, mark) = (at(in_sync), at(held), at(ideal).saturating_sub(1));
    let cell = |column: usize| match column {
        column if column == mark => Span::styled("│", theme::TEXT),
        column if column < in_sync => Span::styled("█", style),
        column if column < held => Span::styled("▒", style),
        _ => Span::styled("·", theme::faint()),
    };
    (0..width).map(cell).collect()
}
