//! A server that answers `CASK.*` as a node would, and further commands as the test decides. It implements
//! enough of RESP for a Redis client.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use caskade_tui::model::Snapshot;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Answers of a server; the test may change them while it runs.
#[derive(Clone, Default)]
pub struct Answers {
    /// Answers to `CASK.*` commands.
    pub snapshot: Snapshot,
    /// Commands that the server rejects as unknown, as an older build would.
    pub unknown: Vec<&'static str>,
    /// Delay before each answer to a `CASK.*` command.
    pub delay: Duration,
}

/// Answers further commands in RESP; `None`: answer as a node.
pub type Others = Arc<dyn Fn(&[String]) -> Option<Vec<u8>> + Send + Sync>;

/// A running server; dropping it closes all connections.
pub struct Server {
    /// Listening address.
    pub addr: String,
    /// Present answers.
    pub answers: Arc<Mutex<Answers>>,
    /// The `CASK.*` commands received, in order.
    pub asked: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Server {
    /// Starts a server on a free port.
    pub async fn start() -> Self {
        Self::start_with(Arc::new(|_| None)).await
    }

    /// Starts a server on a free port that answers further commands.
    pub async fn start_with(others: Others) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let answers = Arc::new(Mutex::new(Answers::default()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let serving = tokio::spawn(accept(listener, answers.clone(), asked.clone(), others));
        Self { addr, answers, asked, serving }
    }

    /// Sets the answers to `CASK.*` commands.
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
    // Dropping this set with the task closes every connection.
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

/// Reads one array of bulk strings, one character per byte; `None` at the end of the stream.
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
