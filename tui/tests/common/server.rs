//! A server that answers `CASK.*` as a node would, and further commands as the test says: enough RESP for a
//! Redis client.

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

/// Answers commands other than `CASK.*` in RESP; `None` for those it does not know either.
pub type Others = Arc<dyn Fn(&[String]) -> Option<Vec<u8>> + Send + Sync>;

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
        Self::start_with(Arc::new(|_| None)).await
    }

    /// Listens on a free port and has more to say.
    pub async fn start_with(others: Others) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let answers = Arc::new(Mutex::new(Answers::default()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let serving = tokio::spawn(accept(listener, answers.clone(), asked.clone(), others));
        Self { addr, answers, asked, serving }
    }

    /// Sets what the node knows.
    pub fn knows(&self, snapshot: Snapshot) {
        self.answers.lock().unwrap().snapshot = snapshot;
    }
}

async fn accept(
    listener: TcpListener,
    answers: Arc<Mutex<Answers>>,
    asked: Arc<Mutex<Vec<String>>>,
    others: Others,
) {
    // Dropped with this task, and with it every connection.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, answers.clone(), asked.clone(), others.clone()));
    }
}

async fn serve(
    stream: TcpStream,
    answers: Arc<Mutex<Answers>>,
    asked: Arc<Mutex<Vec<String>>>,
    others: Others,
) {
    let mut stream = BufReader::new(stream);
    while let Some(command) = read_command(&mut stream).await {
        let now = answers.lock().unwrap().clone();
        if command[0].starts_with("CASK.") {
            asked.lock().unwrap().push(command.join(" "));
            tokio::time::sleep(now.delay).await;
        }
        let reply = others(&command).unwrap_or_else(|| reply(&command, &now));
        if stream.write_all(&reply).await.is_err() {
            return;
        }
    }
}

/// One array of bulk strings, a character for each byte; `None` at the end.
async fn read_command(stream: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let count = read_length(stream, '*').await?;
    let mut words = Vec::new();
    for _ in 0..count {
        let length = read_length(stream, '$').await?;
        let mut word = vec![0; length + 2];
        stream.read_exact(&mut word).await.ok()?;
        word.truncate(length);
        words.push(word.into_iter().map(char::from).collect());
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
