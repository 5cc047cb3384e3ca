//! What happened, newest first.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Widget, Wrap};

use super::nodes::more;
use super::{cut, lines, mark_selected, panel, title, window};
use crate::model::Model;
use crate::theme::{self, Level};
use crate::units;
use caskade_node::api::Event;

fn events(model: &Model) -> &[Event] {
    model.snapshot.as_ref().map_or(&[], |snapshot| &snapshot.events)
}

fn line(event: &Event, width: usize) -> Line<'static> {
    let level = Level::of_severity(&event.severity);
    let (symbol, color) = if level == Level::Good {
        ("·", theme::MUTED)
    } else {
        (level.symbol(), level.color())
    };
    let mut line = Line::from(vec![
        Span::styled(format!("{} ", units::clock(event.time_ms)), theme::muted()),
        Span::styled(format!("{symbol} "), color),
        Span::styled(format!("{:<11} ", cut(&event.kind, 11)), theme::muted()),
    ]);
    let message = cut(&event.message, width.saturating_sub(line.width()));
    line.push_span(Span::styled(
        message,
        if level == Level::Good {
            theme::text()
        } else {
            color.into()
        },
    ));
    line
}

/// The overview's panel: the last ones.
pub(super) fn compact(model: &Model, area: Rect, buf: &mut Buffer) {
    let inner = panel(title("Events", "newest first, UTC"), area, buf);
    if events(model).is_empty() {
        lines(
            [Line::from(Span::styled(
                "nothing has happened yet",
                theme::muted(),
            ))],
            inner,
            buf,
        );
    }
    lines(
        events(model)
            .iter()
            .rev()
            .map(|event| line(event, usize::from(inner.width))),
        inner,
        buf,
    );
}

/// The whole screen: the list, and the selected event in full.
pub(super) fn draw(model: &Model, area: Rect, buf: &mut Buffer) {
    let events = events(model);
    let [top, bottom] = area.layout(&Layout::vertical([Constraint::Min(3), Constraint::Length(5)]));
    let inner = panel(
        title("Events", format!("{} newest first, UTC", events.len())),
        top,
        buf,
    );
    let height = usize::from(inner.height);
    let first = window(model.selection.event, height);
    if events.is_empty() {
        lines(
            [Line::from(Span::styled(
                "nothing has happened yet",
                theme::muted(),
            ))],
            inner,
            buf,
        );
    }
    for ((at, event), place) in events.iter().rev().enumerate().skip(first).zip(inner.rows()) {
        buf.set_line(
            place.x,
            place.y,
            &line(event, usize::from(place.width)),
            place.width,
        );
        if at == model.selection.event {
            mark_selected(place, buf);
        }
    }
    more(events.len(), first, height, top, buf);
    let selected = events.iter().rev().nth(model.selection.event);
    let figures = selected.map_or(String::new(), |event| {
        let node = if event.node.is_empty() {
            String::new()
        } else {
            format!(", node {}", event.node)
        };
        format!("epoch {}{node}", event.epoch)
    });
    let inner = panel(title("Selected", figures), bottom, buf);
    let message = selected.map_or("", |event| event.message.as_str());
    Paragraph::new(message)
        .style(theme::text())
        .wrap(Wrap { trim: true })
        .render(inner, buf);
}
