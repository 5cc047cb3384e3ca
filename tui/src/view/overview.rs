//! The first screen: health, nodes, load, running tasks, newest events.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};

use super::{activity, events, nodes, ring, summary, tasks};
use crate::model::Model;

/// Heights of the panels, from the top.
#[derive(Debug, PartialEq, Eq)]
struct Heights {
    summary: u16,
    nodes: u16,
    load: u16,
    tasks: u16,
    events: u16,
    /// Whether tasks and balance are left of the events, with the height of `events`.
    beside: bool,
}

/// Divides the rows: each panel gets the rows it needs, up to a limit; the events get the rest.
fn heights(area: Rect, summary: u16, nodes_wanted: u16, tasks: u16) -> Heights {
    let rest = area.height.saturating_sub(summary);
    let beside = area.width >= 140;
    let load = match rest {
        0..=13 => 0,
        // Prefer the row of a second task to the second row of the curves.
        14..=20 if tasks > 1 && !beside => 4,
        14..=20 => 5,
        21..=32 => 6,
        33..=40 => 8,
        _ => 11,
    };
    let rest = rest - load;
    // With few rows, omit the task panel if no task runs.
    let without_tasks = tasks == 0 && !beside && area.height < 30;
    // Keep at least three rows for each list below.
    let below_min = match (beside, without_tasks) {
        (true, _) => 5,
        (false, true) => 3,
        (false, false) => 6,
    };
    let nodes = nodes_wanted.min(rest.saturating_sub(below_min)).max(rest.min(4));
    let rest = rest - nodes;
    let tasks = match tasks {
        _ if beside => 0,
        _ if without_tasks => 0,
        tasks => tasks.max(1).saturating_add(2).min(rest.saturating_sub(3)).min((rest / 2).max(4)).min(rest),
    };
    let events = rest - tasks;
    Heights { summary, nodes, load, tasks, events, beside }
}

pub(super) fn draw(model: &Model, area: Rect, buf: &mut Buffer) {
    let heights =
        heights(area, summary::height(model).min(area.height), nodes::height(model), tasks::count(model));
    let order = [heights.summary, heights.nodes, heights.load, heights.tasks, heights.events];
    let [top, table, load, work, log] = area.layout(&Layout::vertical(order.map(Constraint::Length)));
    summary::draw(model, top, buf);
    nodes::draw(model, table, buf);
    if load.height > 0 {
        activity::draw(model, load, buf);
    }
    if heights.beside {
        let [work, log] = log.layout(&Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]));
        let wanted = tasks::count(model).max(1).saturating_add(2);
        let tasks = if work.height >= wanted.saturating_add(5) { wanted } else { work.height };
        let [work, balance] =
            work.layout(&Layout::vertical([Constraint::Length(tasks), Constraint::Fill(1)]));
        tasks::compact(model, work, buf);
        if balance.height > 0 {
            ring::draw_balance(model, balance, buf);
        }
        events::compact(model, log, buf);
        return;
    }
    if work.height > 0 {
        tasks::compact(model, work, buf);
    }
    if log.height > 0 {
        events::compact(model, log, buf);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_panels_fill_the_screen_exactly_at_every_size() {
        for height in 0..80 {
            for width in [40, 80, 200] {
                for (nodes, tasks) in [(4, 0), (6, 1), (30, 5), (30, u16::MAX)] {
                    let area = Rect::new(0, 0, width, height);
                    let all = heights(area, 4.min(height), nodes, tasks);
                    let sum = all.summary + all.nodes + all.load + all.tasks + all.events;
                    assert_eq!(sum, height, "{all:?}");
                }
            }
        }
    }

    #[test]
    fn a_small_terminal_shows_three_nodes_two_tasks_and_an_event() {
        let all = heights(Rect::new(0, 0, 80, 22), 4, 6, 3);
        let wanted = Heights { summary: 4, nodes: 6, load: 4, tasks: 4, events: 4, beside: false };
        assert_eq!(all, wanted);
    }

    #[test]
    fn where_nothing_runs_a_small_terminal_gives_the_rows_to_the_events() {
        let all = heights(Rect::new(0, 0, 80, 22), 4, 6, 0);
        assert_eq!((all.tasks, all.events), (0, 7));
        let all = heights(Rect::new(0, 0, 80, 22), 5, 7, 0);
        assert_eq!((all.nodes, all.events), (7, 5), "four nodes and a warning");
    }
}
