//! Events of the cluster, newest first.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Widget, Wrap};

use super::nodes::more;
use super::{cut, lines, mark_selected, panel, title, window};
use crate::model::Model;
use crate::theme::{self, Level};
use crate::units;
use caskade_api::Event;

/// Minimum width at which a line shows the epoch.
const WITH_EPOCH: usize = 120;

/// Returns the text of an empty list.
fn none(model: &Model) -> Line<'static> {
    let words = match &model.snapshot {
        None => "unknown before the first answer",
        Some(snapshot) if snapshot.events.is_empty() => "no events",
        Some(_) => "no events of this node",
    };
    Line::from(Span::styled(words, theme::muted()))
}

/// Returns the time of the node that answered, in milliseconds.
fn now_ms(model: &Model) -> u64 {
    model.snapshot.as_ref().map_or(0, |snapshot| snapshot.nodes.now_ms)
}

fn events(model: &Model) -> &[Event] {
    model.snapshot.as_ref().map_or(&[], |snapshot| &snapshot.events)
}

fn line(event: &Event, now_ms: u64, width: usize) -> Line<'static> {
    let level = Level::of_severity(&event.severity);
    let (symbol, color) =
        if level == Level::Good { ("·", theme::MUTED) } else { (level.symbol(), level.color()) };
    let mut line = Line::from(vec![
        Span::styled(format!("{:>11} ", units::clock_or_date(event.time_ms, now_ms)), theme::muted()),
        Span::styled(format!("{symbol} "), color),
        Span::styled(format!("{:<11} ", cut(&event.kind, 11)), theme::muted()),
    ]);
    if width >= WITH_EPOCH {
        line.push_span(Span::styled(format!("epoch {:<7} ", event.epoch), theme::muted()));
    }
    let message = cut(&event.message, width.saturating_sub(line.width()));
    line.push_span(Span::styled(message, if level == Level::Good { theme::text() } else { color.into() }));
    line
}

/// Draws the panel of the overview: the newest events.
pub(super) fn compact(model: &Model, area: Rect, buf: &mut Buffer) {
    list(model, title("Events", "newest first, UTC"), |_| true, area, buf);
}

/// Draws the panel of the node screen: the newest events of this node.
pub(super) fn of_node(model: &Model, id: &str, area: Rect, buf: &mut Buffer) {
    let title = title("Events of this node", "newest first, UTC");
    list(model, title, |event| event.node == id, area, buf);
}

fn list(model: &Model, title: Line<'_>, of: impl Fn(&Event) -> bool, area: Rect, buf: &mut Buffer) {
    let inner = panel(title, area, buf);
    let (now_ms, width) = (now_ms(model), usize::from(inner.width));
    let newest = events(model).iter().rev().filter(|event| of(event));
    let mut shown: Vec<Line<'_>> =
        newest.take(usize::from(inner.height)).map(|event| line(event, now_ms, width)).collect();
    if shown.is_empty() {
        shown.push(none(model));
    }
    lines(shown, inner, buf);
}

/// Draws the whole screen: the list, and the full text of the selected event.
pub(super) fn draw(model: &Model, area: Rect, buf: &mut Buffer) {
    let events = events(model);
    let [top, bottom] = area.layout(&Layout::vertical([Constraint::Min(3), Constraint::Length(5)]));
    let inner = panel(title("Events", format!("{} newest first, UTC", events.len())), top, buf);
    let height = usize::from(inner.height);
    let first = window(model.selection.event, height);
    if events.is_empty() {
        lines([none(model)], inner, buf);
    }
    for ((at, event), place) in events.iter().rev().enumerate().skip(first).zip(inner.rows()) {
        buf.set_line(place.x, place.y, &line(event, now_ms(model), usize::from(place.width)), place.width);
        if at == model.selection.event {
            mark_selected(place, buf);
        }
    }
    more(events.len(), first, height, top, buf);
    let selected = events.iter().rev().nth(model.selection.event);
    let figures = selected.map_or(String::new(), |event| {
        let node = if event.node.is_empty() { String::new() } else { format!(", node {}", event.node) };
        format!("epoch {}{node}", event.epoch)
    });
    let inner = panel(title("Selected", figures), bottom, buf);
    let message = selected.map_or("", |event| event.message.as_str());
    Paragraph::new(message).style(theme::text()).wrap(Wrap { trim: true }).render(inner, buf);
}
