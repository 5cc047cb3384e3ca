//! The first line (tabs, asked node) and the last line (keys, notices).

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::cut;
use crate::keymap::KEYMAP;
use crate::model::{Model, Screen};
use crate::theme::{self, Level};
use crate::units;

/// Draws the tabs on the left, the asked node on the right.
pub(super) fn tabs(model: &Model, area: Rect, buf: &mut Buffer) {
    let mut spans = vec![Span::styled(" caskade ", theme::heading())];
    for (number, screen) in (1..).zip(Screen::ALL) {
        let text = format!(" {number} {} ", screen.title());
        spans.push(if screen == model.screen {
            let open = Style::new().fg(theme::ACCENT).bg(theme::SELECTED).add_modifier(Modifier::BOLD);
            Span::styled(text, open)
        } else {
            Span::styled(text, theme::muted())
        });
    }
    let tabs = Line::from(spans);
    let left = tabs.width();
    buf.set_line(area.x, area.y, &tabs, area.width);
    let link = link(model, usize::from(area.width).saturating_sub(left + 2));
    let width = link.width() as u16;
    if usize::from(width) + left < usize::from(area.width) {
        buf.set_line(area.right() - width - 1, area.y, &link, width);
    }
}

/// Returns the address of the asked node and the state of the connection.
fn link(model: &Model, room: usize) -> Line<'static> {
    let (level, words) = match (&model.snapshot, model.stale_ms()) {
        (None, _) if model.failures.is_empty() => (Level::Busy, "connecting".to_owned()),
        (None, _) => (Level::Bad, "no answer".to_owned()),
        (Some(_), Some(age_ms)) => (Level::Bad, format!("{} old", units::age(age_ms / 1000))),
        (Some(_), None) => (Level::Good, "live".to_owned()),
    };
    let addr = model.snapshot.as_ref().map_or("", |snapshot| snapshot.addr.as_str());
    let state = Span::styled(format!("{} {words}", level.symbol()), level.color());
    let addr = Span::styled(format!("{addr} "), theme::muted());
    if addr.width() + state.width() <= room { Line::from(vec![addr, state]) } else { Line::from(state) }
}

/// Draws the notice, or the keys if there is no notice.
pub(super) fn footer(model: &Model, area: Rect, buf: &mut Buffer) {
    let line = match model.shown_notice() {
        Some(notice) => Line::from(vec![
            Span::styled(format!(" {} ", notice.level.symbol()), notice.level.color()),
            Span::styled(cut(&notice.text, usize::from(area.width).saturating_sub(4)), theme::text()),
        ]),
        None => keys(),
    };
    buf.set_line(area.x, area.y, &line, area.width);
}

fn keys() -> Line<'static> {
    let mut spans = vec![Span::raw(" ")];
    for row in KEYMAP.iter().filter(|row| !row.short.is_empty()) {
        spans.push(Span::styled(row.label, Style::new().fg(theme::ACCENT)));
        spans.push(Span::styled(format!(" {}  ", row.short), theme::muted()));
    }
    Line::from(spans)
}
