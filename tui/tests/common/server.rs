//! A server that answers `CASK.*` as a node would, and nothing else: enough RESP for a Redis client.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use caskade_tui::model::Snapshot;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What a server answers; may be changed while it runs.
#[derive(Clone, Default)]
pub struct Answers {
    /// What the node knows.
    pub snapshot: Snapshot,
    /// Commands it does not know, as an older build.
    pub unknown: Vec<&'static str>,
    /// How long it thinks before each answer.
    pub delay: Duration,
}

/// A running server; dropping it closes all its connections.
pub struct Server {
    /// Where it listens.
    pub addr: String,
    /// What it answers.
    pub answers: Arc<Mutex<Answers>>,
    /// The `CASK.*` commands it was asked, in order.
    pub asked: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Server {
    /// Listens on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let answers = Arc::new(Mutex::new(Answers::default()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let serving = tokio::spawn(accept(listener, answers.clone(), asked.clone()));
        Self {
            addr,
            answers,
            asked,
            serving,
        }
    }

    /// Sets what the node knows.
    pub fn knows(&self, snapshot: Snapshot) {
        self.answers.lock().unwrap().snapshot = snapshot;
    }
}

async fn accept(listener: TcpListener, answers: Arc<Mutex<Answers>>, asked: Arc<Mutex<Vec<String>>>) {
    // Dropped with this task, and with it every connection.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, answers.clone(), asked.clone()));
    }
}

async fn serve(stream: TcpStream, answers: Arc<Mutex<Answers>>, asked: Arc<Mutex<Vec<String>>>) {
    let mut stream = BufReader::new(stream);
    while let Some(command) = read_command(&mut stream).await {
        let now = answers.lock().unwrap().clone();
        if command[0].starts_with("CASK.") {
            asked.lock().unwrap().push(command.join(" "));
            tokio::time::sleep(now.delay).await;
        }
        if stream.write_all(&reply(&command, &now)).await.is_err() {
            return;
        }
    }
}

/// One array of bulk strings; `None` at the end.
async fn read_command(stream: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let count = read_length(stream, '*').await?;
    let mut words = Vec::new();
    for _ in 0..count {
        let length = read_length(stream, '$').await?;
        let mut word = vec![0; length + 2];
        stream.read_exact(&mut word).await.ok()?;
        word.truncate(length);
        words.push(String::from_utf8(word).ok()?);
    }
    Some(words)
}

async fn read_length(stream: &mut BufReader<TcpStream>, kind: char) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.strip_prefix(kind)?.trim_end().parse().ok()
}

fn reply(command: &[String], answers: &Answers) -> Vec<u8> {
    let snapshot = &answers.snapshot;
    let name = command[0].as_str();
    let json = match name {
        _ if answers.unknown.contains(&name) => None,
        "CASK.STATUS" => serde_json::to_string(&snapshot.status).ok(),
        "CASK.NODES" => serde_json::to_string(&snapshot.nodes).ok(),
        "CASK.RING" => serde_json::to_string(snapshot.ring.as_ref().unwrap()).ok(),
        "CASK.TASKS" => serde_json::to_string(&snapshot.tasks).ok(),
        "CASK.EVENTS" => serde_json::to_string(&snapshot.events).ok(),
        "CLIENT" | "SELECT" => return b"+OK\r\n".to_vec(),
        _ => None,
    };
    match json {
        Some(json) => format!("${}\r\n{json}\r\n", json.len()).into_bytes(),
        None => format!("-ERR unknown command '{name}'\r\n").into_bytes(),
    }
}
