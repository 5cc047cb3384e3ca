//! The map of the partitions: a character each, in the colour and with the letter of its primary.
//!
//! The character also tells the state of the copies, so that the map can be read without colours.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::{panel, title};
use crate::theme;
use caskade_node::api::{PartitionView, RingView};

/// Columns of a row's label.
const LABEL: u16 = 5;

/// What a partition's copies are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copies {
    /// As many in-sync ones as there should be, nothing under way.
    Whole,
    /// One is syncing.
    Syncing,
    /// One is missing: its node is down.
    Away,
    /// None is in-sync: there is no primary.
    None,
}

fn copies(partition: &PartitionView, wanted: u8) -> Copies {
    let count = |role: &str| partition.replicas.iter().filter(|(_, of)| of == role).count();
    match (count("in-sync"), count("syncing"), count("away")) {
        (0, _, _) => Copies::None,
        (in_sync, _, away) if away > 0 && in_sync < usize::from(wanted) => Copies::Away,
        (_, syncing, _) if syncing > 0 => Copies::Syncing,
        _ => Copies::Whole,
    }
}

/// The index of the primary in the shares.
fn primary(partition: &PartitionView) -> Option<usize> {
    partition
        .replicas
        .iter()
        .find(|(_, role)| role == "in-sync")
        .map(|(node, _)| *node)
}

fn cell(partition: &PartitionView, wanted: u8) -> (char, Style) {
    let (letter, color) =
        primary(partition).map_or(('?', theme::BAD), |node| (theme::letter(node), theme::node(node)));
    let style = Style::new().fg(color);
    match copies(partition, wanted) {
        Copies::Whole => (letter, style),
        Copies::Syncing => (
            letter.to_ascii_lowercase(),
            style.add_modifier(Modifier::BOLD).bg(theme::SELECTED),
        ),
        Copies::Away => ('!', style.add_modifier(Modifier::BOLD).bg(Color::Indexed(52))),
        Copies::None => ('✖', Style::new().fg(theme::TEXT).bg(Color::Indexed(88))),
    }
}

/// Partitions a row: the widest of the round numbers that fits, else what fits.
fn per_row(width: u16, height: u16, partitions: usize) -> u16 {
    let fit = width.saturating_sub(4 + LABEL);
    let rows = |per_row: u16| partitions.div_ceil(usize::from(per_row));
    let even = [64, 128].into_iter().filter(|per_row| *per_row <= fit);
    // Even rows if there is room for them below the balance of three nodes.
    let chosen = even
        .clone()
        .find(|per_row| rows(*per_row) + 2 + 8 <= usize::from(height))
        .or(even.last());
    match chosen {
        Some(per_row) if rows(per_row) + 2 + 6 <= usize::from(height) => per_row,
        _ => (fit / 8 * 8).max(8),
    }
}

/// Rows the panel wants in a screen of that area.
pub(super) fn height(partitions: usize, area: Rect) -> u16 {
    let rows = partitions.div_ceil(usize::from(per_row(area.width, area.height, partitions)));
    u16::try_from(rows + 2).unwrap_or(u16::MAX)
}

pub(super) fn draw(ring: &RingView, area: Rect, buf: &mut Buffer) {
    let wanted = ring.replication_factor;
    let count = |what: Copies| {
        ring.partitions
            .iter()
            .filter(|partition| copies(partition, wanted) == what)
            .count()
    };
    let (syncing, away, none) = (count(Copies::Syncing), count(Copies::Away), count(Copies::None));
    let figures = format!(
        "{} by primary: {syncing} syncing, {away} with a copy away, {none} without a primary",
        ring.partitions.len()
    );
    let inner = panel(title("Partitions", figures), area, buf);
    // The height decided on is that of the whole screen; here only whole rows matter.
    let per_row = per_row_for(inner, ring.partitions.len());
    for ((at, row), place) in ring
        .partitions
        .chunks(usize::from(per_row))
        .enumerate()
        .zip(inner.rows())
    {
        let first = format!("{:>4} ", at * usize::from(per_row));
        buf.set_stringn(place.x, place.y, first, usize::from(place.width), theme::muted());
        let cells = row.iter().zip(place.x + LABEL..place.right());
        for (partition, x) in cells {
            let (symbol, style) = cell(partition, wanted);
            buf[(x, place.y)].set_char(symbol).set_style(style);
        }
    }
    legend(area, buf);
}

/// The narrowest even row that fits the given rows, else all columns.
fn per_row_for(inner: Rect, partitions: usize) -> u16 {
    let fit = inner.width.saturating_sub(LABEL);
    let even = [64, 128].into_iter().filter(|per_row| *per_row <= fit);
    let enough = |per_row: &u16| partitions.div_ceil(usize::from(*per_row)) <= usize::from(inner.height);
    even.clone().find(enough).unwrap_or_else(|| (fit / 8 * 8).max(8))
}

fn legend(area: Rect, buf: &mut Buffer) {
    let line = Line::from(vec![
        Span::styled(" A ", theme::node(0)),
        Span::styled("all copies in-sync  ", theme::muted()),
        Span::styled("a ", Style::new().fg(theme::node(0)).bg(theme::SELECTED)),
        Span::styled("one is syncing  ", theme::muted()),
        Span::styled("! ", theme::BAD),
        Span::styled("one is away  ", theme::muted()),
        Span::styled("✖ ", theme::BAD),
        Span::styled("no primary ", theme::muted()),
    ]);
    if area.height > 1 && usize::from(area.width) > line.width() + 4 {
        buf.set_line(area.x + 2, area.bottom() - 1, &line, area.width - 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(roles: &[&str]) -> PartitionView {
        let replicas = roles
            .iter()
            .enumerate()
            .map(|(node, role)| (node, (*role).to_owned()))
            .collect();
        PartitionView {
            replicas,
            ..PartitionView::default()
        }
    }

    #[test]
    fn the_character_tells_the_state_without_colour() {
        let shown = |roles: &[&str]| cell(&partition(roles), 2).0;
        assert_eq!(shown(&["in-sync", "in-sync"]), 'A');
        assert_eq!(
            shown(&["syncing", "in-sync", "in-sync"]),
            'b',
            "the primary is the first in-sync one"
        );
        assert_eq!(shown(&["in-sync", "away"]), '!');
        assert_eq!(
            shown(&["in-sync", "away", "syncing"]),
            '!',
            "a stand-in is no second copy yet"
        );
        assert_eq!(
            shown(&["in-sync", "in-sync", "away"]),
            'A',
            "a stand-in that is in-sync is"
        );
        assert_eq!(shown(&["away", "syncing"]), '✖');
        assert_eq!(shown(&[]), '✖');
    }

    #[test]
    fn the_whole_map_fits_at_eighty_by_twenty_four_beside_three_nodes() {
        let body = Rect::new(0, 0, 80, 22);
        assert!(
            height(1024, body) + 6 <= body.height + 1,
            "{}",
            height(1024, body)
        );
    }
}
