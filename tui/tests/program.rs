//! Runs `casktop` against servers that answer like nodes: the frames it prints, the nodes it asks, its
//! errors.

#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod common;

use std::process::{Command, Output, Stdio};

use caskade_tui::source::Source;
use common::server::Server;

/// Runs the program to its end without a terminal.
async fn casktop(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_casktop"));
    command.args(words).stdin(Stdio::null()).env_remove("CASKADE_ADDR");
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Returns an address where no process listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

async fn node() -> Server {
    let server = Server::start().await;
    let addrs = [server.addr.clone(), nobody(), nobody()];
    server.knows(common::healthy(&addrs));
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn once_prints_one_frame_of_plain_text_in_the_size_asked_for() {
    let server = node().await;
    for (words, rows, columns) in [(&["--size", "80x24"][..], 24, 80), (&[], 40, 120)] {
        let output = casktop(&[&["--once", "--addr", &server.addr], words].concat()).await;
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), rows);
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert_eq!(widest, Some(columns));
        assert!(text.contains("all keys on 2 nodes") && text.contains(&server.addr), "{text}");
        assert!(!text.contains('\u{1b}'), "no escape sequences");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn svg_writes_a_picture_of_a_frame() {
    let (server, dir) = (node().await, tempfile::tempdir().unwrap());
    let file = dir.path().join("frame.svg");
    let words = ["--addr", &server.addr, "--screen", "ring", "--svg", file.to_str().unwrap()];
    let output = casktop(&words).await;
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let svg = std::fs::read_to_string(&file).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(svg.contains("Balance"));
    let output = casktop(&["--addr", &server.addr, "--svg", "/nowhere/frame.svg"]).await;
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_it_names_the_address_and_what_to_do() {
    let addr = nobody();
    let output = casktop(&["--once", "--addr", &addr]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(&addr) && text.contains("caskctl playground") && text.contains("--addr"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_the_dashboard_is_refused() {
    let output = casktop(&["--addr", &nobody()]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--once"));
}

#[tokio::test]
async fn when_a_node_dies_a_member_it_named_is_asked() {
    let (first, second) = (Server::start().await, Server::start().await);
    let addrs = [first.addr.clone(), second.addr.clone()];
    first.knows(common::healthy(&addrs));
    second.knows(common::healthy(&addrs));
    let mut source = Source::new(vec![first.addr.clone()]);
    assert_eq!(source.poll().await.answer.unwrap().addr, first.addr);
    let dead = first.addr.clone();
    drop(first);
    // The first round may report the lost connection, or the second round the refused one.
    let mut answered = source.poll().await;
    if answered.answer.is_none() {
        answered = source.poll().await;
    }
    assert_eq!(answered.failures[0].addr, dead);
    assert_eq!(answered.answer.unwrap().addr, second.addr);
}

#[tokio::test]
async fn the_ring_is_asked_for_again_only_when_it_changed() {
    let server = node().await;
    let mut source = Source::new(vec![server.addr.clone()]);
    assert!(source.poll().await.answer.unwrap().ring.is_some());
    assert!(source.poll().await.answer.unwrap().ring.is_none());
    let mut changed = common::healthy(&[server.addr.clone(), nobody()]);
    changed.status.epoch += 1;
    changed.ring.as_mut().unwrap().epoch += 1;
    server.knows(changed);
    assert!(source.poll().await.answer.unwrap().ring.is_some());
    let rings = server.asked.lock().unwrap().iter().filter(|name| *name == "CASK.RING").count();
    assert_eq!(rings, 2);
}

#[tokio::test]
async fn a_node_that_lacks_a_question_still_answers_the_others() {
    let server = node().await;
    server.answers.lock().unwrap().unknown = vec!["CASK.RING", "CASK.EVENTS"];
    let answer = Source::new(vec![server.addr.clone()]).poll().await.answer.unwrap();
    assert_eq!(answer.nodes.nodes.len(), 3);
    assert_eq!(answer.missing.len(), 2, "{:?}", answer.missing);
}
