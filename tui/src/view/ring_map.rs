//! The map of the partitions: one character per partition, with the letter and colour of its primary; if
//! there is room, one character per copy.
//!
//! The character also shows the state of the copies, so that the map is readable without colours.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::{panel, title};
use crate::theme;
use caskade_api::{PartitionView, RingView};

/// Width of a row's label in columns.
const LABEL: u16 = 5;
/// Background of a copy that is away.
const AWAY: Color = Color::Indexed(52);

/// State of the copies of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copies {
    /// All copies are in-sync.
    Whole,
    /// A copy is syncing.
    Syncing,
    /// A copy is missing because its node is down.
    Away,
    /// No copy is in-sync, so that there is no primary.
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

/// Returns the index of the primary in the shares.
fn primary(partition: &PartitionView) -> Option<usize> {
    partition.replicas.iter().find(|(_, role)| role == "in-sync").map(|(node, _)| *node)
}

fn cell(partition: &PartitionView, wanted: u8) -> (char, Style) {
    let (letter, color) =
        primary(partition).map_or(('?', theme::BAD), |node| (theme::letter(node), theme::node(node)));
    let style = Style::new().fg(color);
    match copies(partition, wanted) {
        Copies::Whole => (letter, style),
        Copies::Syncing => {
            (letter.to_ascii_lowercase(), style.add_modifier(Modifier::BOLD).bg(theme::SELECTED))
        }
        Copies::Away => ('!', style.add_modifier(Modifier::BOLD).bg(AWAY)),
        Copies::None => ('✖', Style::new().fg(theme::TEXT).bg(Color::Indexed(88))),
    }
}

/// Returns the letters of all copies, primary first: capital: in-sync, small: syncing, `!`: away.
fn letters(partition: &PartitionView, wanted: u8, room: u16) -> impl Iterator<Item = (char, Style)> {
    let letter = |(node, role): &(usize, String)| {
        let style = Style::new().fg(theme::node(*node));
        match role.as_str() {
            "in-sync" => (theme::letter(*node), style),
            "away" => ('!', style.add_modifier(Modifier::BOLD).bg(AWAY)),
            _ => (
                theme::letter(*node).to_ascii_lowercase(),
                style.add_modifier(Modifier::BOLD).bg(theme::SELECTED),
            ),
        }
    };
    let lost = copies(partition, wanted) == Copies::None;
    let lost = lost.then(|| cell(partition, wanted));
    // Without a primary, show only that: no other copy can serve.
    let copies = if lost.is_some() { &[][..] } else { &partition.replicas };
    lost.into_iter().chain(copies.iter().map(letter)).take(usize::from(room))
}

/// Layout of the partitions in rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rows {
    /// Partitions per row.
    length: u16,
    /// Width of the label before each row, in columns: the number of its first partition.
    label: u16,
    /// Columns per partition: 1 shows the primary, more show all copies.
    cell: u16,
}

impl Rows {
    /// Returns the layout for `width` by `height`: rows of a power of two with labels if they fit, with all
    /// copies if those fit, else rows as long as possible.
    fn fitting(width: u16, height: u16, ring: &RingView) -> Self {
        let all_copies = u16::from(ring.replication_factor) + 1;
        let even = [(64, all_copies), (32, all_copies), (64, 1), (128, 1)];
        let even = even.map(|(length, cell)| Self { length, label: LABEL, cell });
        let partitions = ring.partitions.len();
        let fits = |rows: &Self| rows.width() <= width && rows.count(partitions) <= height;
        even.into_iter().find(fits).unwrap_or(Self { length: width.max(1), label: 0, cell: 1 })
    }

    /// Returns the width of a row in columns; the last cell needs no gap after it.
    fn width(self) -> u16 {
        self.label + self.length * self.cell - u16::from(self.cell > 1)
    }

    fn count(self, partitions: usize) -> u16 {
        u16::try_from(partitions.div_ceil(usize::from(self.length))).unwrap_or(u16::MAX)
    }
}

/// Returns the number of rows that the panel takes of `height` available rows.
pub(super) fn height(ring: &RingView, width: u16, height: u16) -> u16 {
    // A border and a blank on each side.
    let rows = Rows::fitting(width.saturating_sub(4), height.saturating_sub(2), ring);
    rows.count(ring.partitions.len()).saturating_add(2)
}

pub(super) fn draw(ring: &RingView, area: Rect, buf: &mut Buffer) {
    let wanted = ring.replication_factor;
    let count =
        |what: Copies| ring.partitions.iter().filter(|partition| copies(partition, wanted) == what).count();
    let (syncing, away, none) = (count(Copies::Syncing), count(Copies::Away), count(Copies::None));
    let figures = format!(
        "{}: {syncing} syncing, {away} with a copy away, {none} without primary",
        ring.partitions.len()
    );
    let inner = panel(title("Partitions", figures), area, buf);
    let rows = Rows::fitting(inner.width, inner.height, ring);
    let length = usize::from(rows.length);
    for ((at, row), place) in ring.partitions.chunks(length).enumerate().zip(inner.rows()) {
        if rows.label > 0 {
            let label = format!("{:>4} ", at * length);
            buf.set_stringn(place.x, place.y, label, usize::from(place.width), theme::muted());
        }
        let columns = (place.x + rows.label..place.right()).step_by(usize::from(rows.cell));
        for (partition, x) in row.iter().zip(columns) {
            if rows.cell == 1 {
                put(buf, x, place, cell(partition, wanted));
                continue;
            }
            for (x, letter) in (x..).zip(letters(partition, wanted, rows.cell)) {
                put(buf, x, place, letter);
            }
        }
    }
    legend(area, buf);
}

fn put(buf: &mut Buffer, x: u16, row: Rect, (symbol, style): (char, Style)) {
    if x < row.right() {
        buf[(x, row.y)].set_char(symbol).set_style(style);
    }
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
        let replicas = roles.iter().enumerate().map(|(node, role)| (node, (*role).to_owned())).collect();
        PartitionView { replicas, ..PartitionView::default() }
    }

    #[test]
    fn the_character_shows_the_state_without_colour() {
        let shown = |roles: &[&str]| cell(&partition(roles), 2).0;
        assert_eq!(shown(&["in-sync", "in-sync"]), 'A');
        assert_eq!(shown(&["syncing", "in-sync", "in-sync"]), 'b', "the primary is the first in-sync one");
        assert_eq!(shown(&["in-sync", "away"]), '!');
        assert_eq!(shown(&["in-sync", "away", "syncing"]), '!', "a stand-in is no second copy yet");
        assert_eq!(shown(&["in-sync", "in-sync", "away"]), 'A', "a stand-in that is in-sync is");
        assert_eq!(shown(&["away", "syncing"]), '✖');
        assert_eq!(shown(&[]), '✖');
    }

    fn ring() -> RingView {
        RingView {
            replication_factor: 2,
            partitions: vec![PartitionView::default(); 1024],
            ..RingView::default()
        }
    }

    #[test]
    fn the_whole_map_fits_at_eighty_by_twenty_four_beside_three_nodes() {
        // A row of tabs, a row of keys; the balance of three nodes takes six.
        assert_eq!(height(&ring(), 80, 22 - 6), 16);
    }

    #[test]
    fn rows_are_even_and_show_all_copies_where_there_is_room() {
        let rows = |width, height| Rows::fitting(width, height, &ring());
        assert_eq!(rows(196, 16), Rows { length: 64, label: LABEL, cell: 3 });
        assert_eq!(rows(116, 32), Rows { length: 32, label: LABEL, cell: 3 });
        assert_eq!(rows(76, 16), Rows { length: 64, label: LABEL, cell: 1 });
        assert_eq!(rows(196, 12), Rows { length: 128, label: LABEL, cell: 1 });
        assert_eq!(rows(76, 14), Rows { length: 76, label: 0, cell: 1 });
        assert_eq!(rows(0, 0).length, 1);
    }

    #[test]
    fn every_copy_has_its_letter() {
        let shown =
            |roles: &[&str]| letters(&partition(roles), 2, 3).map(|(letter, _)| letter).collect::<String>();
        assert_eq!(shown(&["in-sync", "in-sync", "syncing"]), "ABc");
        assert_eq!(shown(&["in-sync", "away"]), "A!");
        assert_eq!(shown(&["away", "syncing"]), "✖");
    }
}
