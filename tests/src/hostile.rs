//! Hostile clients on both client ports of a node; see [`Crowd`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

/// The key whose value clients request without reading the answers.
pub const LARGE_KEY: &str = "large";
/// Size of that value in bytes.
pub const LARGE_BYTES: usize = 100_000;
/// Number of connections opened concurrently.
const OPENED_TOGETHER: usize = 128;
/// Files that a test process needs besides its connections.
const FILES_BESIDE: u64 = 100;
/// Pause between two announcements of oversized data.
const ANNOUNCED_EVERY: Duration = Duration::from_millis(50);

/// Oversized data that clients announce and never send: name, port, bytes, beginning of the answer.
const ANNOUNCED: [(&str, Port, &str, &str); 4] = [
    (
        "a command of 1,000,000,000 words",
        Port::Redis,
        "*1000000000\r\n",
        "-ERR Protocol error: invalid multibulk",
    ),
    (
        "a word of 512 MiB",
        Port::Redis,
        "*2\r\n$3\r\nGET\r\n$536870912\r\n",
        "-ERR Protocol error: invalid bulk length",
    ),
    ("a line without end", Port::Redis, LONG_LINE, "-ERR Protocol error: too big inline request"),
    ("a value of 512 MiB", Port::Memcached, "set k 0 0 536870912\r\n", "SERVER_ERROR object too large"),
];
const LONG_LINE: &str = match std::str::from_utf8(&[b'x'; 70_000]) {
    Ok(line) => line,
    Err(_) => "",
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Redis,
    Memcached,
}

/// Client addresses of a node, `IP:PORT`.
#[derive(Clone, Debug)]
pub struct Addrs {
    /// Address for Redis clients.
    pub redis: String,
    /// Address for memcached clients.
    pub memcached: String,
}

impl Addrs {
    fn of(&self, port: Port) -> &str {
        match port {
            Port::Redis => &self.redis,
            Port::Memcached => &self.memcached,
        }
    }
}

/// Number of rejections of each kind of announcement.
pub type Refusals = BTreeMap<&'static str, u64>;

/// Connections of hostile clients, open until this value is dropped.
#[derive(Debug)]
pub struct Crowd {
    addrs: Addrs,
    open: Vec<TcpStream>,
    tasks: JoinSet<()>,
    announcer: Option<(Arc<AtomicBool>, JoinHandle<Result<Refusals>>)>,
}

impl Crowd {
    /// Creates a crowd without connections.
    pub fn new(addrs: Addrs) -> Self {
        Self { addrs, open: Vec::new(), tasks: JoinSet::new(), announcer: None }
    }

    /// Adds idle clients. Half of them send nothing at all, the others only one command.
    ///
    /// # Errors
    /// A connection fails.
    pub async fn idle(&mut self, count: usize) -> Result<()> {
        let silent = self.connect(Port::Redis, count / 2).await?;
        self.open.extend(silent);
        for (port, ask, answer) in
            [(Port::Redis, "PING\r\n", "+PONG\r\n"), (Port::Memcached, "mn\r\n", "MN\r\n")]
        {
            let mut streams = self.connect(port, count / 4).await?;
            for stream in &mut streams {
                stream.write_all(ask.as_bytes()).await?;
            }
            for stream in &mut streams {
                let mut told = vec![0; answer.len()];
                stream.read_exact(&mut told).await.context("an idle client's only command")?;
                ensure!(told == answer.as_bytes(), "'{}' to {ask}", String::from_utf8_lossy(&told));
            }
            self.open.extend(streams);
        }
        Ok(())
    }

    /// Adds clients that send one byte per second of a command that never ends.
    ///
    /// # Errors
    /// A connection fails.
    pub async fn slow(&mut self, count: usize) -> Result<()> {
        for (port, text) in [
            (Port::Redis, "*3\r\n$3\r\nSET\r\n$4\r\nslow\r\n$100000\r\n"),
            (Port::Memcached, "set slow 0 0 100000\r\n"),
        ] {
            let streams = self.connect(port, count / 2).await?;
            self.tasks.spawn(async move {
                for byte in text.bytes().chain(std::iter::repeat(b'v')) {
                    // Ignore closed connections; the test counts the open ones.
                    streams.iter().for_each(|stream| drop(stream.try_write(&[byte])));
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
        Ok(())
    }

    /// Starts clients that announce oversized data, one after the other, until [`Self::refusals`].
    pub fn announce(&mut self) {
        let (stop, addrs) = (Arc::new(AtomicBool::new(false)), self.addrs.clone());
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut refusals = Refusals::new();
            while !stopped.load(Ordering::Relaxed) {
                for (name, port, text, refusal) in ANNOUNCED {
                    announce_once(addrs.of(port), text, refusal).await.context(name)?;
                    *refusals.entry(name).or_default() += 1;
                    tokio::time::sleep(ANNOUNCED_EVERY).await;
                }
            }
            Ok(refusals)
        });
        self.announcer = Some((stop, task));
    }

    /// Ends the announcements and returns the number of rejections.
    ///
    /// # Errors
    /// An announcement got an unexpected answer.
    pub async fn refusals(&mut self) -> Result<Refusals> {
        let Some((stop, task)) = self.announcer.take() else { return Ok(Refusals::new()) };
        stop.store(true, Ordering::Relaxed);
        task.await.context("the announcements")?
    }

    /// Adds clients that send incomplete commands: values of 60 MiB of which they send 1000 bytes or 2 MiB,
    /// and commands without their last word.
    ///
    /// # Errors
    /// A connection fails.
    pub async fn halves(&mut self) -> Result<()> {
        let redis = format!("*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n${}\r\n", 60 << 20);
        let memcached = format!("set half 0 0 {}\r\n", 60 << 20);
        let much = "v".repeat(2 << 20);
        for (port, begin) in [(Port::Redis, &redis), (Port::Memcached, &memcached)] {
            for (count, more) in [(100, &much[..1000]), (50, &much[..])] {
                for mut stream in self.connect(port, count).await? {
                    let bytes = format!("{begin}{more}").into_bytes();
                    self.tasks.spawn(async move {
                        // The node closes some of them for lack of memory; the test counts those.
                        drop(stream.write_all(&bytes).await);
                        std::future::pending::<()>().await;
                    });
                }
            }
        }
        for (port, begin) in
            [(Port::Redis, "*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$"), (Port::Memcached, "get half")]
        {
            let mut streams = self.connect(port, 100).await?;
            for stream in &mut streams {
                stream.write_all(begin.as_bytes()).await?;
            }
            self.open.extend(streams);
        }
        Ok(())
    }

    /// Adds clients that request much data and never read.
    ///
    /// # Errors
    /// A connection fails.
    pub async fn unreading(&mut self) -> Result<()> {
        for (port, ask) in
            [(Port::Redis, format!("GET {LARGE_KEY}\r\n")), (Port::Memcached, format!("get {LARGE_KEY}\r\n"))]
        {
            let bytes = ask.repeat(1000).into_bytes();
            for mut stream in self.connect(port, 20).await? {
                let bytes = bytes.clone();
                self.tasks.spawn(async move {
                    drop(stream.write_all(&bytes).await);
                    std::future::pending::<()>().await;
                });
            }
        }
        Ok(())
    }

    async fn connect(&self, port: Port, count: usize) -> Result<Vec<TcpStream>> {
        let (mut streams, addr) = (Vec::with_capacity(count), self.addrs.of(port));
        while streams.len() < count {
            let together = (count - streams.len()).min(OPENED_TOGETHER);
            let mut opening = JoinSet::new();
            for _ in 0..together {
                let addr = addr.to_owned();
                opening.spawn(async move { TcpStream::connect(addr).await });
            }
            while let Some(opened) = opening.join_next().await {
                streams.push(opened?.with_context(|| format!("connection {} to {addr}", streams.len()))?);
            }
        }
        Ok(streams)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if let Some((stop, _)) = &self.announcer {
            stop.store(true, Ordering::Relaxed);
        }
    }
}

async fn announce_once(addr: &str, text: &str, refusal: &str) -> Result<()> {
    let mut stream = TcpStream::connect(addr).await?;
    // The node may close the connection before it has read all of a long line.
    drop(stream.write_all(text.as_bytes()).await);
    let mut told = vec![0; refusal.len()];
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut told)).await;
    read.context("not within 10 s")?.context("no rejection was received")?;
    ensure!(told == refusal.as_bytes(), "received '{}'", String::from_utf8_lossy(&told));
    Ok(())
}

/// Raises the limit of open files for this number of connections. Returns the number of connections it
/// allows.
///
/// # Errors
/// It allows fewer than 1000 connections.
pub fn allow_connections(connections: usize) -> Result<usize> {
    let mut limits = getrlimit(Resource::Nofile);
    let wanted = connections as u64 + FILES_BESIDE;
    if limits.current.is_some_and(|current| current < wanted) {
        limits.current = Some(wanted.min(limits.maximum.unwrap_or(u64::MAX)));
        setrlimit(Resource::Nofile, limits).context("raising the limit of open files")?;
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(FILES_BESIDE);
    ensure!(allowed >= 1000, "the system allows {allowed} connections (ulimit -n)");
    Ok(connections.min(usize::try_from(allowed).unwrap_or(usize::MAX)))
}
