//! The help, derived from the table of keys.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Widget};

use super::{lines, panel, title};
use crate::keymap::KEYMAP;
use crate::theme::{self, Level};

pub(super) fn draw(area: Rect, buf: &mut Buffer) {
    let rows = KEYMAP.iter().filter(|row| !row.help.is_empty());
    let keys = rows.map(|row| {
        Line::from(vec![
            Span::styled(format!("{:>11}  ", row.label), Style::new().fg(theme::ACCENT)),
            Span::styled(row.help, theme::text()),
        ])
    });
    let mut all: Vec<Line<'_>> = keys.collect();
    let latencies = "p50: mean of the nodes, by load; p99: highest of the nodes";
    all.push(Line::from(vec![
        Span::styled(format!("{:>11}  ", "latency"), theme::muted()),
        Span::styled(latencies, theme::text()),
    ]));
    all.push(legend());
    let height = (all.len() as u16 + 2).min(area.height);
    let place = area.centered(Constraint::Length(76.min(area.width)), Constraint::Length(height));
    Clear.render(place, buf);
    let inner = panel(title("Help", "any key closes it"), place, buf);
    lines(all, inner, buf);
}

fn legend() -> Line<'static> {
    let mut spans = vec![Span::styled(format!("{:>11}  ", "symbols"), theme::muted())];
    for (level, words) in
        [(Level::Good, "up"), (Level::Busy, "working"), (Level::Warning, "warning"), (Level::Bad, "error")]
    {
        spans.push(Span::styled(format!("{} ", level.symbol()), level.color()));
        spans.push(Span::styled(format!("{words}   "), theme::text()));
    }
    spans.push(Span::styled("★ ", theme::ACCENT));
    spans.push(Span::styled("coordinator", theme::text()));
    Line::from(spans)
}
