//! The ring: what each node holds against its ideal share, and the map of the partitions.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::nodes::more;
use super::{lines, mark_selected, name, panel, ring_map, title, window};
use crate::model::Model;
use crate::theme;
use crate::units;
use caskade_node::api::{RingShare, RingView};

pub(super) fn draw(model: &Model, area: Rect, buf: &mut Buffer) {
    let ring = &model.ring;
    if ring.shares.is_empty() {
        let inner = panel(title("Ring", ""), area, buf);
        let missing = model
            .snapshot
            .as_ref()
            .map_or(&[][..], |snapshot| &snapshot.missing);
        let words = missing
            .first()
            .map_or("no ring has been answered yet", String::as_str);
        lines([Line::from(Span::styled(words, theme::muted()))], inner, buf);
        return;
    }
    let wanted = u16::try_from(ring.shares.len())
        .unwrap_or(u16::MAX - 3)
        .saturating_add(3);
    let map = ring_map::height(
        ring.partitions.len(),
        area.width,
        area.height.saturating_sub(wanted),
    );
    // The map keeps its rows as long as the balance keeps three nodes; a terminal too low for both cuts the map.
    let balance = wanted
        .min(area.height.saturating_sub(map).max(6))
        .min(area.height);
    let [top, rest] = area.layout(&Layout::vertical([
        Constraint::Length(balance),
        Constraint::Min(0),
    ]));
    draw_balance(model, top, buf);
    ring_map::draw(
        ring,
        Rect {
            height: rest.height.min(map),
            ..rest
        },
        buf,
    );
}

fn draw_balance(model: &Model, area: Rect, buf: &mut Buffer) {
    let ring = &model.ring;
    let hash: String = ring.ring_hash.chars().take(8).collect();
    let figures = format!(
        "epoch {}, hash {hash}, {} copies a key",
        ring.epoch, ring.replication_factor
    );
    let inner = panel(title("Balance", figures), area, buf);
    let width = usize::from(inner.width);
    let wide = width >= 110;
    let room = width.saturating_sub(if wide { TAIL_WIDE } else { TAIL } + HEAD);
    let selected = model
        .snapshot
        .as_ref()
        .and_then(|snapshot| snapshot.nodes.nodes.get(model.selection.node));
    let selected = ring
        .shares
        .iter()
        .position(|share| selected.is_some_and(|row| row.id == share.id));
    let height = usize::from(inner.height).saturating_sub(1);
    let first = window(selected.unwrap_or(0), height);
    lines([header(room, wide)], inner, buf);
    for ((at, share), place) in ring
        .shares
        .iter()
        .enumerate()
        .skip(first)
        .zip(inner.rows().skip(1))
    {
        buf.set_line(
            place.x,
            place.y,
            &share_line(at, share, ring, room, wide),
            place.width,
        );
        if selected == Some(at) {
            mark_selected(place, buf);
        }
    }
    more(ring.shares.len(), first, height, area, buf);
}

/// Columns before the bar, and behind it in narrow and wide terminals.
const HEAD: usize = 9;
const TAIL: usize = 32;
const TAIL_WIDE: usize = 62;

fn header(room: usize, wide: bool) -> Line<'static> {
    let mut text = format!(
        "{:<HEAD$}{:<room$}{:>7}{:>8}{:>7}{:>10}",
        "  NODE", "COPIES", "NOW", "IDEAL", "OFF", "PRIMARIES"
    );
    if wide {
        text.push_str(&format!("{:>9}{:>9}{:>4}{:<8}", "IN SYNC", "SYNCING", "", "ZONE"));
    }
    Line::from(Span::styled(text, theme::muted().add_modifier(Modifier::BOLD)))
}

fn share_line(at: usize, share: &RingShare, ring: &RingView, room: usize, wide: bool) -> Line<'static> {
    let color = Style::new().fg(theme::node(at));
    let scale = ring
        .shares
        .iter()
        .map(|share| f64::from(share.copies).max(share.copies_ideal))
        .fold(1.0, f64::max)
        * 1.02;
    let off = f64::from(share.copies) - share.copies_ideal;
    let off_style = if off.abs() <= 1.0 {
        theme::muted()
    } else {
        Style::new().fg(theme::WARN)
    };
    let mut line = Line::from(vec![
        Span::styled(
            format!("{} ", theme::letter(at)),
            color.add_modifier(Modifier::BOLD),
        ),
        Span::styled(format!("{:<7}", name(&share.id)), theme::text()),
    ]);
    line.spans.extend(balance_bar(
        f64::from(share.copies) / scale,
        share.copies_ideal / scale,
        room,
        color,
    ));
    line.push_span(Span::styled(
        format!("{:>7}{:>8.1}", share.copies, share.copies_ideal),
        theme::text(),
    ));
    line.push_span(Span::styled(format!("{off:>+7.1}"), off_style));
    line.push_span(Span::styled(format!("{:>10}", share.primaries), theme::text()));
    if wide {
        let zone = if share.zone.is_empty() { "-" } else { &share.zone };
        let syncing = if share.syncing > 0 {
            Style::new().fg(theme::BUSY)
        } else {
            theme::muted()
        };
        line.push_span(Span::styled(
            format!("{:>9}", units::count(share.in_sync.into())),
            theme::text(),
        ));
        line.push_span(Span::styled(
            format!("{:>9}", units::count(share.syncing.into())),
            syncing,
        ));
        line.push_span(Span::styled(
            format!("    {:<8}", super::cut(zone, 8)),
            theme::muted(),
        ));
    }
    line
}

/// A bar to `part` with a mark at `ideal`.
fn balance_bar(part: f64, ideal: f64, width: usize, style: Style) -> Vec<Span<'static>> {
    let at = |part: f64| ((part * width as f64).round() as usize).min(width);
    let (filled, mark) = (at(part), at(ideal).saturating_sub(1));
    let cell = |column: usize| match column {
        column if column == mark => Span::styled("│", theme::TEXT),
        column if column < filled => Span::styled("█", style),
        _ => Span::styled("·", theme::faint()),
    };
    (0..width).map(cell).collect()
}
