//! The first screen: health, nodes, load, running tasks, last events.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};

use super::{activity, events, nodes, summary, tasks};
use crate::model::Model;

/// The heights of the panels, top down.
#[derive(Debug, PartialEq, Eq)]
struct Heights {
    summary: u16,
    nodes: u16,
    load: u16,
    tasks: u16,
    events: u16,
    /// Tasks and events lie side by side, with the height of `events`.
    beside: bool,
}

/// Shares out the rows: what is small gets what it wants, the events get the rest.
fn heights(area: Rect, summary: u16, nodes_wanted: u16, tasks_wanted: u16) -> Heights {
    let rest = area.height.saturating_sub(summary);
    let load = match rest {
        0..=13 => 0,
        14..=20 => 5,
        21..=32 => 6,
        _ => 8,
    };
    let rest = rest - load;
    let beside = area.width >= 140;
    // The lists below keep at least three rows each.
    let below_min = if beside { 5 } else { 6 };
    let nodes = nodes_wanted.min(rest.saturating_sub(below_min)).max(rest.min(4));
    let rest = rest - nodes;
    if beside {
        return Heights {
            summary,
            nodes,
            load,
            tasks: 0,
            events: rest,
            beside,
        };
    }
    let tasks = tasks_wanted
        .min(rest.saturating_sub(3))
        .min((rest / 2).max(3))
        .min(rest);
    Heights {
        summary,
        nodes,
        load,
        tasks,
        events: rest - tasks,
        beside,
    }
}

pub(super) fn draw(model: &Model, area: Rect, buf: &mut Buffer) {
    let heights = heights(
        area,
        summary::height(model).min(area.height),
        nodes::height(model),
        tasks::height(model),
    );
    let order = [
        heights.summary,
        heights.nodes,
        heights.load,
        heights.tasks,
        heights.events,
    ];
    let [top, table, load, work, log] = area.layout(&Layout::vertical(order.map(Constraint::Length)));
    summary::draw(model, top, buf);
    nodes::draw(model, table, buf);
    if load.height > 0 {
        activity::draw(model, load, buf);
    }
    if heights.beside {
        let [work, log] = log.layout(&Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]));
        tasks::compact(model, work, buf);
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
                for nodes in [4, 6, 30] {
                    let area = Rect::new(0, 0, width, height);
                    let all = heights(area, 4.min(height), nodes, 5);
                    let sum = all.summary + all.nodes + all.load + all.tasks + all.events;
                    assert_eq!(sum, height, "{all:?}");
                }
            }
        }
    }

    #[test]
    fn a_small_terminal_shows_three_nodes_a_task_and_events() {
        let all = heights(Rect::new(0, 0, 80, 22), 4, 6, 3);
        assert_eq!(
            all,
            Heights {
                summary: 4,
                nodes: 6,
                load: 5,
                tasks: 3,
                events: 4,
                beside: false
            }
        );
    }
}
