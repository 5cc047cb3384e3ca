//! Draws the model into a buffer: one screen between a line of tabs and a line of keys.
//!
//! Pure: the same model and area give the same cells. Every panel accepts any area, including an empty one.

mod activity;
mod events;
mod frame;
mod help;
mod node;
mod nodes;
mod overview;
mod ring;
mod ring_map;
mod summary;
mod tasks;

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Padding, Widget};

use crate::model::{Model, Screen};
use crate::theme;

/// Draws the whole terminal.
pub fn draw(model: &Model, area: Rect, buf: &mut Buffer) {
    let [top, body, bottom] =
        area.layout(&Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)]));
    frame::tabs(model, top, buf);
    match model.screen {
        Screen::Overview => overview::draw(model, body, buf),
        Screen::Ring => ring::draw(model, body, buf),
        Screen::Tasks => tasks::draw(model, body, buf),
        Screen::Events => events::draw(model, body, buf),
        Screen::Node => node::draw(model, body, buf),
    }
    frame::footer(model, bottom, buf);
    if model.help {
        help::draw(area, buf);
    }
}

/// Returns a buffer of this size with the model drawn in it.
pub fn buffer(model: &Model, width: u16, height: u16) -> Buffer {
    let area = Rect::new(0, 0, width, height);
    let mut buf = Buffer::empty(area);
    draw(model, area, &mut buf);
    buf
}

/// Returns the text of a buffer, one line per row, without trailing blanks.
pub fn text(buf: &Buffer) -> String {
    let mut text = String::new();
    for row in buf.content().chunks(usize::from(buf.area.width).max(1)) {
        let line: String = row.iter().map(|cell| cell.symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Draws the border of a panel and returns the area inside it.
fn panel(title: Line<'_>, area: Rect, buf: &mut Buffer) -> Rect {
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(theme::faint())
        .padding(Padding::horizontal(1))
        .title(title);
    let inner = block.inner(area);
    block.render(area, buf);
    inner
}

/// Returns the title of a panel: its name, followed by values.
fn title<'a>(name: &'a str, figures: impl Into<String>) -> Line<'a> {
    let figures = figures.into();
    let mut spans = vec![Span::styled(format!(" {name} "), theme::heading())];
    if !figures.is_empty() {
        spans.push(Span::styled(format!("{figures} "), theme::muted()));
    }
    Line::from(spans)
}

/// Draws lines from the top down; omits lines that do not fit.
fn lines<'a>(lines: impl IntoIterator<Item = Line<'a>>, area: Rect, buf: &mut Buffer) {
    for (row, line) in area.rows().zip(lines) {
        buf.set_line(row.x, row.y, &line, row.width);
    }
}

/// Returns the first line of a list's window, so that `selected` is inside it.
fn window(selected: usize, height: usize) -> usize {
    selected.saturating_sub(height.saturating_sub(1))
}

/// Marks a row as selected.
fn mark_selected(row: Rect, buf: &mut Buffer) {
    buf.set_style(row, Style::new().bg(theme::SELECTED).add_modifier(Modifier::BOLD));
}

/// Returns a bar of `width` columns, filled to `part` (0 to 1) in steps of an eighth of a column.
fn bar(part: f64, width: usize, style: Style) -> Vec<Span<'static>> {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let part = if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 };
    let eighths = (part * width as f64 * 8.0).round() as usize;
    let (full, rest) = (eighths / 8, EIGHTHS[eighths % 8]);
    let empty = width - full - usize::from(!rest.is_empty());
    vec![
        Span::styled(format!("{}{rest}", "█".repeat(full)), style),
        Span::styled("·".repeat(empty), theme::faint()),
    ]
}

/// Returns `text` cut to `width` columns, with an ellipsis if it was cut.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// Returns the short name of a node, or a dash for an empty id.
fn name(id: &str) -> &str {
    if id.is_empty() { "-" } else { crate::units::short(id) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_wide_as_asked_for_whatever_the_part() {
        for part in [-1.0, 0.0, 0.01, 0.37, 0.5, 0.999, 1.0, 7.0, f64::NAN, f64::INFINITY] {
            for width in [0, 1, 7, 40] {
                let line = Line::from(bar(part, width, Style::new()));
                assert_eq!(line.width(), width, "part {part}");
            }
        }
    }

    #[test]
    fn cut_text_ends_with_an_ellipsis() {
        assert_eq!(cut("node joined", 11), "node joined");
        assert_eq!(cut("node joined", 6), "node…");
        assert_eq!(cut("node", 0), "…");
    }

    #[test]
    fn the_window_follows_the_selection() {
        assert_eq!(window(0, 5), 0);
        assert_eq!(window(4, 5), 0);
        assert_eq!(window(5, 5), 1);
        assert_eq!(window(5, 0), 5);
    }
}
