//! Runs `caskctl` as a process against a server that answers like a node.

#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

#[path = "../../tui/tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use common::server::{Others, Server};

/// Runs the program to its end and returns its output.
async fn run(words: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_caskctl"));
    command.args(words).stdin(Stdio::null()).env_remove("CASKADE_ADDR").envs(variables.iter().copied());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Runs the program against `server` and returns its exit code and standard output.
async fn caskctl(server: &Server, words: &[&str]) -> (i32, String) {
    let output = run(&[&["--addr", &server.addr], words].concat(), &[]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), text)
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.chars().count())
}

fn array(items: impl ExactSizeIterator<Item = String>) -> String {
    format!("*{}\r\n{}", items.len(), items.collect::<String>())
}

/// Returns a key-value store that implements the options of each command that `caskctl` uses. It keeps each
/// byte as one character. `sync` is the setting that CONFIG GET returns.
fn store(sync: &'static str) -> Others {
    let keys: Mutex<BTreeMap<String, (String, i64)>> = Mutex::default();
    Arc::new(move |command| {
        let mut keys = keys.lock().unwrap();
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let value = |key: &str| keys.get(key).map_or("$-1\r\n".to_owned(), |(value, _)| bulk(value));
        let reply = match words.as_slice() {
            ["PING"] => "+PONG\r\n".to_owned(),
            ["CONFIG", "GET", name] => array([bulk(name), bulk(sync)].into_iter()),
            ["GET", key] => value(key),
            ["MGET", wanted @ ..] => array(wanted.iter().map(|key| value(key))),
            ["SET", key, .., "NX"] if keys.contains_key(*key) => "$-1\r\n".to_owned(),
            ["SET", key, value, options @ ..] => {
                let ms = options.iter().skip_while(|word| **word != "PX").nth(1);
                let ms = ms.map_or(-1, |ms| ms.parse().unwrap());
                keys.insert((*key).to_owned(), ((*value).to_owned(), ms));
                "+OK\r\n".to_owned()
            }
            ["MSET", pairs @ ..] => {
                for pair in pairs.chunks(2) {
                    keys.insert(pair[0].to_owned(), (pair[1].to_owned(), -1));
                }
                "+OK\r\n".to_owned()
            }
            ["DEL", gone @ ..] => {
                format!(":{}\r\n", gone.iter().filter(|key| keys.remove(**key).is_some()).count())
            }
            ["EXISTS", wanted @ ..] => {
                format!(":{}\r\n", wanted.iter().filter(|key| keys.contains_key(**key)).count())
            }
            ["INCRBY", key, by] => {
                let entry = keys.entry((*key).to_owned()).or_insert(("0".to_owned(), -1));
                let Ok(number) = entry.0.parse::<i64>() else {
                    return Some(b"-ERR value is not an integer or out of range\r\n".to_vec());
                };
                entry.0 = (number + by.parse::<i64>().unwrap()).to_string();
                format!(":{}\r\n", entry.0)
            }
            ["PTTL", key] => format!(":{}\r\n", keys.get(*key).map_or(-2, |(_, ms)| *ms)),
            ["PEXPIRE", key, ms] => {
                let entry = keys.get_mut(*key).map(|entry| entry.1 = ms.parse().unwrap());
                format!(":{}\r\n", u8::from(entry.is_some()))
            }
            // Two pages, so that the test covers the cursor.
            ["SCAN", cursor, ..] => {
                let half = keys.len() / 2;
                let all: Vec<String> = keys.keys().map(|key| bulk(key)).collect();
                let (next, page) = if *cursor == "0" { ("17", &all[..half]) } else { ("0", &all[half..]) };
                array([bulk(next), array(page.iter().cloned())].into_iter())
            }
            _ => return None,
        };
        Some(reply.chars().map(|letter| letter as u8).collect())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_written_and_read_and_absence_is_exit_code_one() {
    let server = Server::start_with(store("always")).await;
    let want = |code: i32, text: &str| (code, text.to_owned());
    let steps: [(&[&str], (i32, String)); 17] = [
        (&["ping"], want(0, "PONG\n")),
        (&["set", "name", "cask"], want(0, "OK\n")),
        (&["get", "name"], want(0, "cask")),
        (&["get", "name", "--json"], want(0, "{\"value\":\"cask\"}\n")),
        (&["get", "nothing"], want(1, "")),
        (&["set", "name", "other", "--nx"], want(1, "not written: the condition does not hold\n")),
        (&["exists", "name", "nothing"], want(0, "1\n")),
        (&["exists", "nothing"], want(1, "0\n")),
        (&["incr", "number", "--by", "41"], want(0, "41\n")),
        (&["incr", "number"], want(0, "42\n")),
        (&["ttl", "number"], want(0, "never expires\n")),
        (&["expire", "number", "5m"], want(0, "1\n")),
        (&["ttl", "number"], want(0, "300.000\n")),
        (&["ttl", "nothing"], want(1, "absent\n")),
        (&["mset", "a", "1", "b", "2"], want(0, "OK\n")),
        (&["mget", "a", "nothing", "b"], want(1, "1\n\n2\n")),
        (&["del", "a", "nothing"], want(0, "1\n")),
    ];
    for (words, want) in steps {
        assert_eq!(caskctl(&server, words).await, want, "{words:?}");
    }
    assert_eq!(caskctl(&server, &["scan"]).await, want(0, "b\nname\nnumber\n"));
    assert_eq!(caskctl(&server, &["scan", "--limit", "2"]).await, want(0, "b\nname\n"));
    assert_eq!(caskctl(&server, &["scan", "--json", "--limit", "1"]).await, want(0, "\"b\"\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn error_of_the_server_is_printed_and_is_exit_code_two() {
    let server = Server::start_with(store("always")).await;
    caskctl(&server, &["set", "name", "cask"]).await;
    let output = run(&["--addr", &server.addr, "incr", "name"], &[]).await;
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("not an integer") && text.contains(&server.addr), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_commands_print_tables_and_with_json_the_nodes_answer() {
    let server = Server::start().await;
    let snapshot = common::joining(&common::addrs(4));
    server.knows(snapshot.clone());
    let cases: [(&[&str], &[&str]); 6] = [
        (&["status"], &["391 moving", "10.0.0.4:7900", "fJ3kQa*<"]),
        (&["nodes"], &["hB6vNd", "25.0%", "10.0.0.4:7900"]),
        (&["nodes", "--wide"], &["WRITTEN/S", "97.5%", "4.50 MiB"]),
        (&["ring", "--partitions"], &["379 not in place", "hB6vNd(syncing)"]),
        (&["tasks"], &["migration", "fJ3kQa", "106/171", "9 s"]),
        (&["events", "-n", "5"], &["2023-11-14 22:12:40.000", "node hB6vNd joined"]),
    ];
    for (words, wanted) in cases {
        let (code, text) = caskctl(&server, words).await;
        assert_eq!(code, 0);
        for part in wanted {
            assert!(text.contains(part), "{words:?} lacks {part}:\n{text}");
        }
        assert!(text.lines().all(|line| !line.contains('\u{1b}')), "no colours in a pipe");
    }
    assert!(server.asked.lock().unwrap().contains(&"CASK.EVENTS 5".to_owned()));
    let (_, json) = caskctl(&server, &["status", "--json"]).await;
    let status: caskade_api::Status = serde_json::from_str(&json).unwrap();
    assert_eq!(status, snapshot.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn bench_reports_every_request_and_warns_if_writes_are_not_durable() {
    let server = Server::start_with(store("interval:50")).await;
    for (load, phases) in [("W", &["write"][..]), ("R", &["write", "read"]), ("RW", &["write", "mixed"])] {
        let words = ["bench", "-t", load, "-s", "100", "-n", "200", "-c", "3", "-P", "7", "--json"];
        let (code, text) = caskctl(&server, &words).await;
        let reports = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let reports: Vec<_> = reports.collect();
        assert!(reports.iter().all(|report| report["done"] == 200 && report["sync"].is_null()), "{text}");
        let told: Vec<_> = reports.iter().map(|report| report["phase"].as_str().unwrap()).collect();
        assert_eq!((code, &told[..]), (0, phases));
    }
    let (code, text) = caskctl(&server, &["bench", "-n", "100", "-s", "1K"]).await;
    assert_eq!(code, 0);
    for part in ["100 requests", "1.00 KiB", "ops/s", "p99.9", "errors      0"] {
        assert!(text.contains(part), "{text}");
    }
    let words = ["--addr", &server.addr, "bench", "-t", "SW", "-s", "0", "-n", "50", "-c", "2", "--json"];
    let output = run(&words, &[]).await;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!((&report["done"], &report["sync"]), (&50.into(), &"interval:50".into()));
    assert!(report["latency_us"]["p99"].as_u64().unwrap() >= report["latency_us"]["p50"].as_u64().unwrap());
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(warning.contains("--sync interval:50") && warning.contains("--sync always"), "{warning}");
}

#[tokio::test(flavor = "multi_thread")]
async fn error_without_a_node_names_the_remedy() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    drop(listener);
    for words in [&["get", "k"][..], &["status"], &["top"], &["bench"]] {
        let output = run(&[&["--addr", &addr], words].concat(), &[]).await;
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(&addr) && text.contains("caskctl playground"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_playground_whose_nodes_fail_shows_the_end_of_their_log_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (caskd, kept) = (dir.path().join("caskd"), dir.path().join("play"));
    std::fs::write(&caskd, "#!/bin/sh\necho 'the disk is on fire' >&2\nexit 3\n").unwrap();
    std::fs::set_permissions(&caskd, std::fs::Permissions::from_mode(0o700)).unwrap();
    let words = ["playground", "--nodes", "2", "--keep", kept.to_str().unwrap()];
    let output = run(&words, &[("CASKD", caskd.to_str().unwrap())]).await;
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("did not start") && text.contains("the disk is on fire"), "{text}");
    assert!(kept.join("cluster.secret").is_file(), "a kept folder stays");
}
