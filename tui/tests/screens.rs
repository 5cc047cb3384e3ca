//! Compares every screen, at the smallest supported size and at a large one, with `tests/screens/*.txt`.
//!
//! After an intended change: `CASKADE_UPDATE_SCREENS=1 cargo test -p caskade-tui --test screens`, then read
//! the diff.

#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod common;

use std::path::PathBuf;

use caskade_tui::model::{Failure, Model, Screen, Snapshot};
use caskade_tui::update::{Message, Round, update};
use caskade_tui::view;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

const SIZES: [(u16, u16); 2] = [(80, 24), (200, 50)];

/// Returns a model that received `snapshot` for a minute, with a varying load.
fn watched(snapshot: &Snapshot, screen: Screen) -> Model {
    let mut model = Model::new(1000, screen);
    for second in 0..60_u32 {
        let wave = 0.6 + 0.4 * (f64::from(second) / 7.0).sin();
        let mut now = snapshot.clone();
        for row in &mut now.nodes.nodes {
            let share = if second == 59 { 1.0 } else { wave };
            row.ops_per_s *= share;
            row.bytes_in_per_s *= share;
            row.bytes_out_per_s *= share;
            row.latency_p50_us = (row.latency_p50_us as f64 * (0.8 + 0.2 * wave)) as u64;
            row.latency_p99_us = (row.latency_p99_us as f64 * (0.5 + 0.5 * wave)) as u64;
        }
        poll(&mut model, u64::from(second) * 1000, Some(now), &[]);
    }
    model
}

fn poll(model: &mut Model, now_ms: u64, answer: Option<Snapshot>, failures: &[(&str, &str)]) {
    let failures =
        failures.iter().map(|(addr, error)| Failure { addr: (*addr).into(), error: (*error).into() });
    let round = Round { answer, failures: failures.collect() };
    update(model, now_ms, Message::Polled(Box::new(round)));
}

fn press(model: &mut Model, code: KeyCode) {
    let now_ms = model.now_ms;
    update(model, now_ms, Message::Key(KeyEvent::new(code, KeyModifiers::NONE)));
}

fn shown(model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(model, frame.area(), frame.buffer_mut())).unwrap();
    view::text(terminal.backend().buffer())
}

/// Compares the screen at all sizes with the expected files.
fn expect(name: &str, model: &Model) {
    for (width, height) in SIZES {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join(format!("tests/screens/{name}-{width}x{height}.txt"));
        let shown = shown(model, width, height);
        if std::env::var_os("CASKADE_UPDATE_SCREENS").is_some() {
            std::fs::write(&file, &shown).unwrap();
            continue;
        }
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(shown == expected, "{} differs; it is now:\n{shown}\nand was:\n{expected}", file.display());
    }
}

#[test]
fn overview_of_a_healthy_cluster() {
    expect("overview", &watched(&common::healthy(&common::addrs(3)), Screen::Overview));
}

#[test]
fn overview_with_the_further_columns() {
    let mut model = watched(&common::degraded(&common::addrs(3)), Screen::Overview);
    press(&mut model, KeyCode::Char('c'));
    expect("overview-columns-2", &model);
    press(&mut model, KeyCode::Char('c'));
    expect("overview-columns-3", &model);
    press(&mut model, KeyCode::Char('c'));
    expect("overview-columns-4", &model);
}

#[test]
fn overview_while_a_node_joins() {
    expect("overview-joining", &watched(&common::joining(&common::addrs(4)), Screen::Overview));
}

#[test]
fn overview_of_a_degraded_cluster() {
    expect("overview-degraded", &watched(&common::degraded(&common::addrs(3)), Screen::Overview));
}

#[test]
fn overview_of_one_node() {
    expect("overview-one", &watched(&common::healthy(&common::addrs(1)), Screen::Overview));
}

#[test]
fn overview_before_the_first_answer() {
    expect("overview-connecting", &Model::new(1000, Screen::Overview));
}

#[test]
fn overview_when_nobody_ever_answered() {
    let mut model = Model::new(1000, Screen::Overview);
    poll(&mut model, 1000, None, &[("127.0.0.1:7900", "connection refused")]);
    expect("overview-unreachable", &model);
}

#[test]
fn overview_of_a_node_with_empty_answers() {
    let mut model = Model::new(1000, Screen::Overview);
    let missing = vec!["CASK.RING: unknown command".to_owned()];
    poll(
        &mut model,
        1000,
        Some(Snapshot { addr: "10.0.0.1:7900".into(), missing, ..Snapshot::default() }),
        &[],
    );
    expect("overview-empty", &model);
}

#[test]
fn overview_when_all_nodes_fell_silent() {
    let mut model = watched(&common::healthy(&common::addrs(3)), Screen::Overview);
    poll(
        &mut model,
        75_000,
        None,
        &[("10.0.0.1:7900", "connection refused"), ("10.0.0.2:7900", "no answer in time")],
    );
    expect("overview-silent", &model);
}

#[test]
fn overview_after_the_asked_node_died() {
    let mut model = watched(&common::healthy(&common::addrs(3)), Screen::Overview);
    let other = Snapshot { addr: "10.0.0.2:7900".into(), ..common::degraded(&common::addrs(3)) };
    poll(&mut model, 60_000, Some(other), &[("10.0.0.1:7900", "connection refused")]);
    expect("overview-switched", &model);
}

#[test]
fn ring_of_a_healthy_cluster() {
    expect("ring", &watched(&common::healthy(&common::addrs(3)), Screen::Ring));
}

#[test]
fn ring_while_a_node_joins() {
    expect("ring-joining", &watched(&common::joining(&common::addrs(6)), Screen::Ring));
}

#[test]
fn ring_of_a_degraded_cluster() {
    expect("ring-degraded", &watched(&common::degraded(&common::addrs(3)), Screen::Ring));
}

#[test]
fn tasks_while_a_node_joins() {
    let mut model = watched(&common::joining(&common::addrs(6)), Screen::Tasks);
    press(&mut model, KeyCode::Down);
    expect("tasks", &model);
}

#[test]
fn tasks_when_there_are_none() {
    expect("tasks-none", &watched(&common::healthy(&common::addrs(3)), Screen::Tasks));
}

#[test]
fn events_with_one_selected() {
    let mut model = watched(&common::degraded(&common::addrs(3)), Screen::Events);
    (0..4).for_each(|_| press(&mut model, KeyCode::Down));
    expect("events", &model);
}

#[test]
fn one_node_in_detail() {
    let mut model = watched(&common::healthy(&common::addrs(3)), Screen::Overview);
    press(&mut model, KeyCode::Enter);
    expect("node", &model);
    let mut model = watched(&common::degraded(&common::addrs(3)), Screen::Node);
    press(&mut model, KeyCode::Down);
    expect("node-down", &model);
}

#[test]
fn the_help_lies_on_top() {
    let mut model = watched(&common::healthy(&common::addrs(3)), Screen::Overview);
    press(&mut model, KeyCode::Char('?'));
    expect("help", &model);
}

#[test]
fn no_screen_panics_at_any_size() {
    let clusters = [
        common::healthy(&common::addrs(1)),
        common::joining(&common::addrs(30)),
        common::degraded(&common::addrs(3)),
    ];
    for snapshot in &clusters {
        for screen in Screen::ALL {
            let mut model = watched(snapshot, screen);
            press(&mut model, KeyCode::End);
            for (width, height) in
                (0..40).map(|step| (step * 6, step * 2)).chain([(1, 60), (240, 1), (240, 3)])
            {
                view::buffer(&model, width, height);
                model.help = !model.help;
            }
        }
    }
}

#[test]
fn answers_of_nodes_cannot_write_control_characters_to_the_terminal() {
    let mut snapshot = common::healthy(&common::addrs(1));
    snapshot.events[9].message = "evil \u{1b}[2J\u{7}\r\n message".into();
    snapshot.nodes.nodes[0].build = "\u{1b}]0;x\u{7}".into();
    for screen in Screen::ALL {
        let text = shown(&watched(&snapshot, screen), 120, 40);
        assert!(text.chars().all(|letter| letter == '\n' || !letter.is_control()), "{screen:?}");
    }
}
