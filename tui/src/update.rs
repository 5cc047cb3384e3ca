//! Changes of the model: a pure function of the model, the time and one message.

use crossterm::event::KeyEvent;

use crate::keymap::{self, Action};
use crate::model::{
    Failure, HISTORY_MAX, History, Model, NODE_HISTORIES_MAX, Notice, Sample, Screen, Snapshot,
};
use crate::theme::Level;
use caskade_api::NodeRow;

/// Input of the dashboard.
#[derive(Clone, Debug)]
pub enum Message {
    /// A key was pressed.
    Key(KeyEvent),
    /// Time has passed.
    Tick,
    /// A round of requests has ended.
    Polled(Box<Round>),
}

/// Result of one round: the answer of the first node that answered, and the failures before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Round {
    /// The answer; `None` if no node answered.
    pub answer: Option<Snapshot>,
    /// Nodes that did not answer, in the order in which they were asked.
    pub failures: Vec<Failure>,
}

/// Request to the event loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// End the dashboard.
    Quit,
    /// Ask the nodes now.
    Refresh,
    /// Ask another node from now on.
    OtherNode,
}

/// Applies a message to the model. `now_ms` is the time since the start.
pub fn update(model: &mut Model, now_ms: u64, message: Message) -> Option<Effect> {
    model.now_ms = now_ms;
    match message {
        Message::Key(key) => return keymap::action(&key).and_then(|action| act(model, action)),
        Message::Tick => {}
        Message::Polled(round) => take_round(model, *round),
    }
    None
}

fn act(model: &mut Model, action: Action) -> Option<Effect> {
    if model.help && !matches!(action, Action::Quit) {
        model.help = false;
        return None;
    }
    match action {
        Action::Quit => return Some(Effect::Quit),
        Action::Refresh => return Some(Effect::Refresh),
        Action::OtherNode => return Some(Effect::OtherNode),
        Action::Help => model.help = true,
        Action::Back => model.screen = Screen::Overview,
        Action::NextScreen => model.screen = turn(model.screen, 1),
        Action::PreviousScreen => model.screen = turn(model.screen, Screen::ALL.len() - 1),
        Action::Go(screen) => model.screen = screen,
        Action::Up => select(model, |line, _| line.saturating_sub(1)),
        Action::Down => select(model, |line, _| line.saturating_add(1)),
        Action::PageUp => select(model, |line, _| line.saturating_sub(10)),
        Action::PageDown => select(model, |line, _| line.saturating_add(10)),
        Action::Columns => model.columns_page = model.columns_page.wrapping_add(1),
        Action::First => select(model, |_, _| 0),
        Action::Last => select(model, |_, lines| lines),
        Action::Open if matches!(model.screen, Screen::Overview | Screen::Ring) => {
            model.screen = Screen::Node
        }
        Action::Open => {}
    }
    None
}

fn turn(screen: Screen, steps: usize) -> Screen {
    let at = Screen::ALL.iter().position(|other| *other == screen).unwrap_or(0);
    Screen::ALL[(at + steps) % Screen::ALL.len()]
}

fn select(model: &mut Model, to: impl Fn(usize, usize) -> usize) {
    let lines = model.lines();
    let line = model.selected_mut();
    *line = to(*line, lines).min(lines.saturating_sub(1));
}

fn take_round(model: &mut Model, round: Round) {
    let Some(snapshot) = round.answer else {
        model.failures = round.failures;
        push(&mut model.history, None);
        for history in model.node_history.values_mut() {
            push(history, None);
        }
        return;
    };
    say_if_switched(model, &snapshot, &round.failures);
    model.failures.clear();
    remember_load(model, &snapshot.nodes.nodes);
    keep_selection(model, &snapshot);
    let mut snapshot = snapshot;
    if let Some(ring) = snapshot.ring.take() {
        model.ring = ring;
    }
    model.snapshot = Some(snapshot);
    model.answered_ms = model.now_ms;
}

/// Sets a notice if another node answers than before, with the reason.
fn say_if_switched(model: &mut Model, snapshot: &Snapshot, failures: &[Failure]) {
    let before = model.snapshot.as_ref().map(|old| old.addr.as_str());
    let asked = before.or_else(|| failures.first().map(|failure| failure.addr.as_str()));
    let Some(asked) = asked.filter(|addr| *addr != snapshot.addr) else {
        return;
    };
    let (level, text) = match failures.iter().find(|failure| failure.addr == asked) {
        Some(failure) => (
            Level::Warning,
            format!("{asked} does not answer ({}): asking {} now", failure.error, snapshot.addr),
        ),
        None => (Level::Busy, format!("asking {} now, {asked} before", snapshot.addr)),
    };
    model.notice = Some(Notice { level, text, at_ms: model.now_ms });
}

/// Moves the selection so that the same node, task and event stay selected when rows are added or removed.
fn keep_selection(model: &mut Model, new: &Snapshot) {
    let selection = &mut model.selection;
    let old = model.snapshot.as_ref();
    let node = old.and_then(|old| old.nodes.nodes.get(selection.node));
    if let Some(at) = node.and_then(|node| new.nodes.nodes.iter().position(|row| row.id == node.id)) {
        selection.node = at;
    }
    let task = old.and_then(|old| old.tasks.get(selection.task));
    if let Some(at) = task.and_then(|task| new.tasks.iter().position(|row| row.id == task.id)) {
        selection.task = at;
    }
    // With the newest event selected, follow new events; otherwise keep the selected event.
    let event =
        old.filter(|_| selection.event > 0).and_then(|old| old.events.iter().rev().nth(selection.event));
    if let Some(at) = event.and_then(|event| new.events.iter().rev().position(|row| row == event)) {
        selection.event = at;
    }
    selection.node = selection.node.min(new.nodes.nodes.len().saturating_sub(1));
    selection.task = selection.task.min(new.tasks.len().saturating_sub(1));
    selection.event = selection.event.min(new.events.len().saturating_sub(1));
}

fn remember_load(model: &mut Model, rows: &[NodeRow]) {
    let live: Vec<&NodeRow> = rows.iter().filter(|row| row.state != "down").collect();
    push(&mut model.history, Some(together(&live)));
    model.node_history.retain(|id, _| rows.iter().any(|row| row.id == *id));
    for row in rows.iter().take(NODE_HISTORIES_MAX) {
        let sample = (row.state != "down").then(|| together(&[row]));
        push(model.node_history.entry(row.id.clone()).or_default(), sample);
    }
}

/// Returns the load of several nodes as one sample.
fn together(rows: &[&NodeRow]) -> Sample {
    let sum = |figure: fn(&NodeRow) -> f64| {
        rows.iter().map(|row| figure(row)).filter(|x| x.is_finite()).sum::<f64>()
    };
    let ops_per_s = sum(|row| row.ops_per_s);
    let p50 = sum(|row| row.ops_per_s * row.latency_p50_us as f64);
    Sample {
        ops_per_s,
        bytes_in_per_s: sum(|row| row.bytes_in_per_s),
        bytes_out_per_s: sum(|row| row.bytes_out_per_s),
        p50_us: if ops_per_s > 0.0 { (p50 / ops_per_s).round() as u64 } else { 0 },
        p99_us: rows
            .iter()
            .filter(|row| row.ops_per_s > 0.0)
            .map(|row| row.latency_p99_us)
            .max()
            .unwrap_or(0),
    }
}

fn push(history: &mut History, sample: Option<Sample>) {
    if history.len() == HISTORY_MAX {
        history.pop_front();
    }
    history.push_back(sample);
}

#[cfg(test)]
mod tests;
