//! Tests of [`super`]: keys, rounds and histories.

use super::*;
use crate::model::NOTICE_MS;
use caskade_api::{Event, Nodes, RingView};
use crossterm::event::{KeyCode, KeyModifiers};

fn press(model: &mut Model, code: KeyCode) -> Option<Effect> {
    let now_ms = model.now_ms;
    update(model, now_ms, Message::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn polled(model: &mut Model, now_ms: u64, answer: Option<Snapshot>, failures: &[(&str, &str)]) {
    let failures = failures
        .iter()
        .map(|(addr, error)| Failure { addr: (*addr).into(), error: (*error).into() })
        .collect();
    update(model, now_ms, Message::Polled(Box::new(Round { answer, failures })));
}

fn row(id: &str, ops_per_s: f64, p50: u64, p99: u64) -> NodeRow {
    NodeRow {
        id: id.into(),
        state: "up".into(),
        ops_per_s,
        latency_p50_us: p50,
        latency_p99_us: p99,
        ..NodeRow::default()
    }
}

fn answer(addr: &str, rows: Vec<NodeRow>) -> Snapshot {
    Snapshot { addr: addr.into(), nodes: Nodes { nodes: rows, ..Nodes::default() }, ..Snapshot::default() }
}

fn event(message: &str) -> Event {
    Event { message: message.into(), ..Event::default() }
}

#[test]
fn tab_goes_round_all_screens_and_back() {
    let mut model = Model::new(1000, Screen::Overview);
    for screen in Screen::ALL {
        assert_eq!(model.screen, screen);
        press(&mut model, KeyCode::Tab);
    }
    assert_eq!(model.screen, Screen::Overview);
    press(&mut model, KeyCode::BackTab);
    assert_eq!(model.screen, Screen::Node);
    press(&mut model, KeyCode::Char('3'));
    assert_eq!(model.screen, Screen::Tasks);
    press(&mut model, KeyCode::Esc);
    assert_eq!(model.screen, Screen::Overview);
}

#[test]
fn any_key_closes_the_help_and_does_nothing_else_but_q_quits() {
    let mut model = Model::new(1000, Screen::Overview);
    press(&mut model, KeyCode::Char('?'));
    assert!(model.help);
    assert_eq!(press(&mut model, KeyCode::Char('2')), None);
    assert!(!model.help);
    assert_eq!(model.screen, Screen::Overview);
    press(&mut model, KeyCode::Char('?'));
    assert_eq!(press(&mut model, KeyCode::Char('q')), Some(Effect::Quit));
}

#[test]
fn the_selection_stays_inside_the_list() {
    let mut model = Model::new(1000, Screen::Overview);
    press(&mut model, KeyCode::Down);
    assert_eq!(model.selection.node, 0, "an empty list");
    polled(&mut model, 1, Some(answer("a:1", vec![row("x", 0.0, 0, 0), row("y", 0.0, 0, 0)])), &[]);
    press(&mut model, KeyCode::PageDown);
    assert_eq!(model.selection.node, 1);
    press(&mut model, KeyCode::Home);
    assert_eq!(model.selection.node, 0);
    press(&mut model, KeyCode::End);
    press(&mut model, KeyCode::Enter);
    assert_eq!((model.screen, model.selection.node), (Screen::Node, 1));
}

#[test]
fn selected_node_stays_selected_when_rows_move_and_another_is_when_it_leaves() {
    let mut model = Model::new(1000, Screen::Overview);
    polled(&mut model, 1, Some(answer("a:1", vec![row("x", 0.0, 0, 0), row("y", 0.0, 0, 0)])), &[]);
    press(&mut model, KeyCode::Down);
    polled(&mut model, 2, Some(answer("a:1", vec![row("y", 0.0, 0, 0), row("x", 0.0, 0, 0)])), &[]);
    assert_eq!(model.selection.node, 0);
    polled(&mut model, 3, Some(answer("a:1", vec![])), &[]);
    assert_eq!(model.selection.node, 0);
}

#[test]
fn newest_event_stays_selected_at_the_top_and_the_same_event_below_it() {
    let mut model = Model::new(1000, Screen::Events);
    let with = |messages: &[&str]| Snapshot {
        events: messages.iter().map(|text| event(text)).collect(),
        ..answer("a:1", vec![])
    };
    polled(&mut model, 1, Some(with(&["first", "second"])), &[]);
    polled(&mut model, 2, Some(with(&["first", "second", "third"])), &[]);
    assert_eq!(model.selection.event, 0, "the newest");
    press(&mut model, KeyCode::Down);
    polled(&mut model, 3, Some(with(&["first", "second", "third", "fourth"])), &[]);
    assert_eq!(model.selection.event, 2, "still the second");
}

#[test]
fn notice_of_another_node_names_the_reason_and_ends() {
    let mut model = Model::new(1000, Screen::Overview);
    polled(&mut model, 1000, Some(answer("a:1", vec![])), &[]);
    assert_eq!(model.shown_notice(), None);
    polled(&mut model, 2000, Some(answer("b:1", vec![])), &[("a:1", "connection refused")]);
    let notice = model.shown_notice().map(|notice| notice.text.as_str());
    assert_eq!(notice, Some("a:1 does not answer (connection refused): asking b:1 now"));
    update(&mut model, 2000 + NOTICE_MS, Message::Tick);
    assert_eq!(model.shown_notice(), None);
}

#[test]
fn first_answer_of_a_second_address_sets_a_notice() {
    let mut model = Model::new(1000, Screen::Overview);
    polled(&mut model, 1000, Some(answer("b:1", vec![])), &[("a:1", "no answer in time")]);
    let notice = model.shown_notice().map(|notice| notice.text.as_str());
    assert_eq!(notice, Some("a:1 does not answer (no answer in time): asking b:1 now"));
}

#[test]
fn without_an_answer_the_old_figures_stay_and_their_age_grows() {
    let mut model = Model::new(1000, Screen::Overview);
    polled(&mut model, 1000, Some(answer("a:1", vec![row("x", 5.0, 1, 2)])), &[]);
    assert_eq!(model.stale_ms(), None);
    polled(&mut model, 2000, None, &[("a:1", "connection lost")]);
    update(&mut model, 9000, Message::Tick);
    assert_eq!(model.stale_ms(), Some(8000));
    assert_eq!(model.lines(), 1);
    assert_eq!(model.load(), None, "a gap in the curve, not a zero");
    polled(&mut model, 9500, Some(answer("a:1", vec![])), &[]);
    assert_eq!(model.stale_ms(), None);
}

#[test]
fn a_node_that_hangs_makes_the_figures_stale_before_the_round_is_over() {
    let mut model = Model::new(1000, Screen::Overview);
    polled(&mut model, 1000, Some(answer("a:1", vec![])), &[]);
    update(&mut model, 5001, Message::Tick);
    assert_eq!(model.stale_ms(), Some(4001));
}

#[test]
fn the_clusters_load_leaves_out_nodes_that_are_down() {
    let mut model = Model::new(1000, Screen::Overview);
    let down = NodeRow { state: "down".into(), ..row("z", 1e9, 9, 9_000_000) };
    polled(
        &mut model,
        1,
        Some(answer("a:1", vec![row("x", 300.0, 100, 900), row("y", 100.0, 500, 700), down])),
        &[],
    );
    let load = model.load().unwrap_or_default();
    assert_eq!((load.ops_per_s, load.p50_us, load.p99_us), (400.0, 200, 900));
    assert_eq!(model.node_history["z"].back(), Some(&None));
}

#[test]
fn histories_are_bounded_and_removed_with_their_nodes() {
    let mut model = Model::new(1000, Screen::Overview);
    for now_ms in 0..2 * HISTORY_MAX as u64 {
        polled(&mut model, now_ms, Some(answer("a:1", vec![row("x", 1.0, 1, 1)])), &[]);
    }
    assert_eq!((model.history.len(), model.node_history["x"].len()), (HISTORY_MAX, HISTORY_MAX));
    polled(&mut model, 5000, Some(answer("a:1", vec![])), &[]);
    assert!(model.node_history.is_empty());
}

#[test]
fn the_ring_stays_while_answers_leave_it_out() {
    let mut model = Model::new(1000, Screen::Ring);
    let ring = RingView { epoch: 7, ..RingView::default() };
    polled(&mut model, 1, Some(Snapshot { ring: Some(ring), ..answer("a:1", vec![]) }), &[]);
    polled(&mut model, 2, Some(answer("a:1", vec![])), &[]);
    assert_eq!(model.ring.epoch, 7);
}
