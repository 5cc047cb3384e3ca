//! Background work, such as migrations and returning nodes, with progress, rate and time left.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::nodes::more;
use super::{bar, cut, lines, mark_selected, name, panel, title, window};
use crate::model::Model;
use crate::theme;
use crate::units;
use caskade_api::Task;

/// Returns the part of a task that is done, 0 to 1: by bytes, else by keys, else by partitions.
fn done(task: &Task) -> f64 {
    let part = |done: u64, all: u64| (all > 0).then(|| done as f64 / all as f64);
    part(task.bytes_done, task.bytes_total)
        .or_else(|| part(task.keys_done, task.keys_total))
        .or_else(|| part(u64::from(task.partitions_done), u64::from(task.partitions_total)))
        .unwrap_or(0.0)
        .clamp(0.0, 1.0)
}

fn left(task: &Task) -> String {
    match task.eta_s {
        Some(eta_s) if eta_s.is_finite() && eta_s >= 0.0 => {
            format!("{} left", units::seconds(eta_s.ceil() as u64))
        }
        _ => "no estimate".to_owned(),
    }
}

fn tasks(model: &Model) -> &[Task] {
    model.snapshot.as_ref().map_or(&[], |snapshot| &snapshot.tasks)
}

fn figures(model: &Model) -> String {
    let tasks = tasks(model);
    if tasks.is_empty() {
        return if model.snapshot.is_some() { "none" } else { "" }.to_owned();
    }
    let rate: f64 = tasks.iter().map(|task| task.bytes_per_s).filter(|rate| rate.is_finite()).sum();
    format!("{} running, {}{}", tasks.len(), units::bytes_per_s(rate), held_back(model))
}

/// Returns the operator's pause or rate limit of the running plan.
fn held_back(model: &Model) -> String {
    match model.snapshot.as_ref().and_then(|snapshot| snapshot.status.plan.as_ref()) {
        Some(plan) if plan.paused => format!(", plan {} PAUSED", plan.id),
        Some(plan) => plan
            .throttle_bytes_per_s
            .map_or_else(String::new, |rate| format!(", at most {}", units::bytes_per_s(rate as f64))),
        None => String::new(),
    }
}

/// Returns the number of running tasks.
pub(super) fn count(model: &Model) -> u16 {
    u16::try_from(tasks(model).len()).unwrap_or(u16::MAX)
}

/// Returns the text of an empty list.
fn none(model: &Model) -> &'static str {
    if model.snapshot.is_some() {
        "no migration runs, no node is catching up"
    } else {
        "unknown before the first answer"
    }
}

/// Draws the panel of the overview: one line per task.
pub(super) fn compact(model: &Model, area: Rect, buf: &mut Buffer) {
    let tasks = tasks(model);
    let inner = panel(title("Tasks", figures(model)), area, buf);
    if tasks.is_empty() {
        lines([Line::from(Span::styled(none(model), theme::muted()))], inner, buf);
        return;
    }
    lines(tasks.iter().map(|task| short_line(task, usize::from(inner.width))), inner, buf);
    more(tasks.len(), 0, usize::from(inner.height), area, buf);
}

fn short_line(task: &Task, width: usize) -> Line<'static> {
    let who = who(task, width >= NARROW);
    let tail = format!(
        " {:>5} {:>10} {:>14}",
        units::percent(done(task)),
        units::bytes_per_s(task.bytes_per_s),
        left(task)
    );
    let room = width.saturating_sub(tail.chars().count() + who.width() + 1);
    let mut line = who;
    line.push_span(Span::raw(" "));
    line.spans.extend(bar(done(task), room, Style::new().fg(theme::BUSY)));
    line.push_span(Span::styled(tail, theme::text()));
    line
}

/// Below this width a task's line omits its phase, so that the bar has room.
const NARROW: usize = 90;

/// Formats `◐ migration a → b copying` in columns.
fn who(task: &Task, with_phase: bool) -> Line<'static> {
    let mut line = Line::from(vec![
        Span::styled("◐ ", theme::BUSY),
        Span::styled(format!("{:<9} ", cut(&task.kind, 9)), theme::text()),
        Span::styled(format!("{:>6} → {:<6}", name(&task.source), name(&task.target)), theme::text()),
    ]);
    if with_phase {
        line.push_span(Span::styled(format!(" {:<9}", cut(&task.phase, 9)), theme::muted()));
    }
    line
}

/// Draws the whole screen: three lines per task, and an empty line.
pub(super) fn draw(model: &Model, area: Rect, buf: &mut Buffer) {
    let tasks = tasks(model);
    let inner = panel(title("Tasks", figures(model)), area, buf);
    if tasks.is_empty() {
        lines(
            [
                Line::from(Span::styled(none(model), theme::text())),
                Line::default(),
                Line::from(Span::styled("Work starts when a node joins, leaves or returns.", theme::muted())),
            ],
            inner,
            buf,
        );
        return;
    }
    let fit = (usize::from(inner.height) + 1) / 4;
    let first = window(model.selection.task, fit);
    let layout = Layout::vertical(vec![Constraint::Length(3); fit]).spacing(1);
    for ((at, task), place) in tasks.iter().enumerate().skip(first).zip(inner.layout_vec(&layout)) {
        lines(long_lines(task, usize::from(place.width)), place, buf);
        if at == model.selection.task {
            mark_selected(Rect { height: 1, ..place }, buf);
        }
    }
    more(tasks.len(), first, fit, area, buf);
}

fn long_lines(task: &Task, width: usize) -> [Line<'static>; 3] {
    let mut head = who(task, true);
    let cause = cut(&task.cause, width.saturating_sub(head.width() + 1));
    head.push_span(Span::styled(format!(" {cause}"), theme::text()));
    let percent = format!(" {:>5}", units::percent(done(task)));
    let mut progress = Line::from("  ");
    let tail = format!("  {:>10} {:>14}", units::bytes_per_s(task.bytes_per_s), left(task));
    progress.spans.extend(bar(
        done(task),
        width.saturating_sub(2 + percent.len() + tail.len()),
        Style::new().fg(theme::BUSY),
    ));
    progress.push_span(Span::styled(percent, theme::text()));
    progress.push_span(Span::styled(tail, theme::text()));
    let numbers = format!(
        "  {}/{} partitions   {}/{} keys   {}/{}",
        task.partitions_done,
        task.partitions_total,
        units::count(task.keys_done),
        units::count(task.keys_total),
        units::bytes(task.bytes_done as f64),
        units::bytes(task.bytes_total as f64),
    );
    [head, progress, Line::from(Span::styled(cut(&numbers, width), theme::muted()))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_by_bytes_else_keys_else_partitions() {
        let task = Task { partitions_done: 1, partitions_total: 4, ..Task::default() };
        assert_eq!(done(&task), 0.25);
        let task = Task { keys_done: 1, keys_total: 2, ..task };
        assert_eq!(done(&task), 0.5);
        let task = Task { bytes_done: 12, bytes_total: 10, ..task };
        assert_eq!(done(&task), 1.0, "an estimate that was too low is no 120 %");
        assert_eq!(done(&Task::default()), 0.0);
    }

    #[test]
    fn unknown_time_left_is_shown_as_no_estimate() {
        assert_eq!(left(&Task { eta_s: Some(11.2), ..Task::default() }), "12 s left");
        assert_eq!(left(&Task { eta_s: Some(f64::INFINITY), ..Task::default() }), "no estimate");
        assert_eq!(left(&Task::default()), "no estimate");
    }
}
