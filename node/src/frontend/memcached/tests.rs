//! What a client sees of a whole connection: replies in order, each command seeing those before it, failures told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use super::Server;
use crate::data::{KeyRange, KeysInOrder};
use crate::frontend::keyspace::{AdminRequest, Keyspace, Topology};
use crate::frontend::resp::Limits;
use crate::frontend::security::Security;
use crate::frontend::stats::Stats;
use crate::id::NodeId;
use crate::kv::{At, Effect, Entry, Failure, Operation, Outcome, ScanPage, Ticket, evaluate};

const LIMITS: Limits =
    Limits { connections_max: 10, pipeline_max: 8, value_bytes_max: 1000, debug_commands: false };

/// A keyspace in memory. Keys that begin with `slow` are answered late and out of order; `lost` ones never are, `bad` ones
/// are refused.
#[derive(Clone, Default)]
struct Memory {
    entries: Arc<Mutex<BTreeMap<Bytes, Entry>>>,
    versions: Arc<AtomicU64>,
}

impl Memory {
    fn execute(&self, operation: &Operation) -> Result<Outcome, Failure> {
        let version = self.versions.fetch_add(1, Ordering::Relaxed) + 1;
        let at = At { now_ms: crate::clock::wall_ms(), version, value_bytes_max: 1000 };
        let mut entries = self.entries.lock();
        let (effect, outcome) = evaluate(&operation.action, entries.get(&operation.key), &at)?;
        match effect {
            Effect::Nothing => {}
            Effect::Write { value, user_flags, expiry_ms } => {
                entries.insert(operation.key.clone(), Entry { value, user_flags, expiry_ms, version });
            }
            Effect::Remove => drop(entries.remove(&operation.key)),
        }
        Ok(outcome)
    }
}

impl Keyspace for Memory {
    fn submit(&self, operation: Operation) -> Ticket {
        if operation.key.starts_with(b"bad") {
            return Ticket::Ready(Err(Failure::Refused("no\r\nprimary".to_owned())));
        }
        if !operation.key.starts_with(b"slow") && !operation.key.starts_with(b"lost") {
            return Ticket::Ready(self.execute(&operation));
        }
        let (sender, answer) = oneshot::channel();
        let memory = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(u64::from(rand::random::<u8>() % 8))).await;
            if operation.key.starts_with(b"slow") {
                drop(sender.send(memory.execute(&operation)));
            }
        });
        Ticket::Waiting { answer, ordered: false }
    }

    fn scan(&self, cursor: u64, limit: usize) -> BoxFuture<'_, Result<ScanPage, Failure>> {
        // A cursor is the first byte of the keys to come: it holds while others are removed.
        let entries = self.entries.lock();
        let keys: Vec<Bytes> =
            entries.keys().filter(|key| key.first().copied().unwrap_or(0) == cursor as u8).cloned().collect();
        assert!(limit > 0);
        let next = (cursor + 1) % 256;
        Box::pin(async move { Ok(ScanPage { next, keys }) })
    }

    fn keys_in_order(&self, _: KeyRange, _: usize) -> BoxFuture<'_, Result<KeysInOrder, Failure>> {
        Box::pin(async { Err(Failure::Refused("not in this test".to_owned())) })
    }

    fn count(&self) -> BoxFuture<'_, Result<u64, Failure>> {
        let count = self.entries.lock().len() as u64;
        Box::pin(async move { Ok(count) })
    }

    fn topology(&self) -> Topology {
        Topology { node: NodeId::from_bytes([1; 32]), epoch: 1, nodes: Vec::new(), ranges: Vec::new() }
    }

    fn admin(&self, _: AdminRequest) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(async { Err("not in this test".to_owned()) })
    }

    fn healing(&self) -> crate::api::HealFigures {
        crate::api::HealFigures::default()
    }

    fn store(&self) -> (caskade_engine::EngineStats, Option<caskade_engine::TaskStatus>) {
        Default::default()
    }

    fn settings(&self) -> Vec<(String, String)> {
        vec![("sync".to_owned(), "always".to_owned())]
    }
}

/// A front end on a free port. It ends with the sender.
async fn serve(limits: Limits) -> (TcpStream, std::net::SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stopping) = watch::channel(false);
    let server =
        Server::new(Arc::new(Memory::default()), Arc::new(Stats::default()), limits, Security::open());
    tokio::spawn(server.run(listener, stopping));
    (TcpStream::connect(addr).await.unwrap(), addr, stop)
}

/// Sends all of `request` and reads as much as `expected` is long.
async fn ask(stream: &mut TcpStream, request: &str, expected: &str) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut found = vec![0; expected.len()];
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut found));
    let told = read.await.map(|read| read.is_ok());
    assert_eq!(String::from_utf8_lossy(&found), expected, "{request} {told:?}");
}

#[tokio::test]
async fn commands_answer_as_in_memcached() {
    let (mut stream, _, _stop) = serve(LIMITS).await;
    let cases = [
        ("set a 7 0 3\r\nfoo\r\n", "STORED\r\n"),
        ("gets a none a\r\n", "VALUE a 7 3 1\r\nfoo\r\nVALUE a 7 3 1\r\nfoo\r\nEND\r\n"),
        ("cas a 1 0 1 1\r\n5\r\n", "STORED\r\n"),
        ("cas a 1 0 1 1\r\n6\r\n", "EXISTS\r\n"),
        ("cas none 1 0 1 1\r\n6\r\n", "NOT_FOUND\r\n"),
        ("add a 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
        ("incr a 5\r\n", "10\r\n"),
        ("decr a 1\r\n", "9\r\n"),
        ("get a\r\n", "VALUE a 1 2\r\n9 \r\nEND\r\n"),
        ("append none 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
        ("touch a 100\r\n", "TOUCHED\r\n"),
        ("mg a t v f s k Oq\r\n", "VA 2 t100 f1 s2 ka Oq\r\n9 \r\n"),
        ("touch a 0\r\ntouch a 0\r\nmg a t\r\n", "TOUCHED\r\nTOUCHED\r\nHD t-1\r\n"),
        ("mg none v k\r\nmg none q\r\nmn\r\n", "EN knone\r\nMN\r\n"),
        ("ms YSBi 1 b k\r\nx\r\nmg YSBi b k v\r\n", "HD kYSBi b\r\nVA 1 kYSBi b\r\nx\r\n"),
        ("ms a 1 q\r\nx\r\nms a 1 q ME\r\nx\r\n", "NS\r\n"),
        ("ma n N0 J5 v\r\nma n MD D9 v\r\n", "VA 1\r\n5\r\nVA 1\r\n0\r\n"),
        ("md n C1\r\nmd n q\r\nmd n q\r\n", "EX\r\nNF\r\n"),
        ("delete a\r\ndelete a\r\n", "DELETED\r\nNOT_FOUND\r\n"),
        ("set b 0 -1 1 noreply\r\nx\r\nget b\r\n", "END\r\n"),
        ("get bad\r\nget a\r\n", "SERVER_ERROR not done: no  primary\r\nEND\r\n"),
        ("set bad 0 0 1\r\nx\r\n", "SERVER_ERROR not done: no  primary\r\n"),
    ];
    for (request, expected) in cases {
        ask(&mut stream, request, expected).await;
    }
    let long = "x".repeat(600);
    ask(&mut stream, &format!("set c 0 0 600\r\n{long}\r\n"), "STORED\r\n").await;
    let too_large = "SERVER_ERROR object too large for cache\r\n";
    ask(&mut stream, &format!("append c 0 0 600\r\n{long}\r\n"), too_large).await;
    ask(&mut stream, "stats sizes\r\nbogus\r\n", "STAT sizes_status disabled\r\nEND\r\nERROR\r\n").await;
    ask(&mut stream, "stats items\r\n", "STAT items:1:number 2\r\nEND\r\n").await;
}

#[tokio::test]
async fn retrieval_that_fails_in_its_middle_ends_with_the_reason() {
    let (mut stream, _, _stop) = serve(LIMITS).await;
    ask(&mut stream, "set a 0 0 1\r\nx\r\n", "STORED\r\n").await;
    let unknown = "SERVER_ERROR nothing was changed, but there was no answer: the node gave the operation up before it was answered\r\n";
    let value = "VALUE a 0 1\r\nx\r\n";
    ask(&mut stream, "get a lost bad a\r\nget a\r\n", &format!("{value}{unknown}{value}END\r\n")).await;
}

#[tokio::test]
async fn a_pipeline_keeps_the_order_of_its_commands_and_each_sees_those_before_it() {
    let (mut stream, _, _stop) = serve(LIMITS).await;
    let (mut request, mut expected) = (String::from("set slow-n 0 0 1\r\n0\r\n"), String::from("STORED\r\n"));
    for number in 1..=100 {
        let (text, key) = (number.to_string(), number % 3);
        let len = text.len();
        request.push_str(&format!("set slow{key} 0 0 {len}\r\n{text}\r\nget slow{key} fast slow{key}\r\n"));
        request.push_str("incr slow-n 1\r\nmn\r\nset fast 0 0 1 noreply\r\nf\r\ndelete fast\r\n");
        let value = format!("VALUE slow{key} 0 {len}\r\n{text}\r\n");
        expected.push_str(&format!("STORED\r\n{value}{value}END\r\n{number}\r\nMN\r\nDELETED\r\n"));
    }
    ask(&mut stream, &request, &expected).await;
}

#[tokio::test]
async fn flush_removes_what_is_there_now_or_later() {
    let (mut stream, _, _stop) = serve(LIMITS).await;
    for number in 0..1000 {
        ask(&mut stream, &format!("set k{number} 0 0 1\r\nx\r\n"), "STORED\r\n").await;
    }
    ask(&mut stream, "set slow 0 0 1\r\nx\r\nflush_all\r\nget slow k1\r\n", "STORED\r\nOK\r\nEND\r\n").await;
    ask(&mut stream, "stats items\r\n", "STAT items:1:number 0\r\nEND\r\n").await;
    ask(
        &mut stream,
        "set k 0 0 1\r\nx\r\nflush_all 1\r\nget k\r\n",
        "STORED\r\nOK\r\nVALUE k 0 1\r\nx\r\nEND\r\n",
    )
    .await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    ask(&mut stream, "get k\r\n", "END\r\n").await;
}

#[tokio::test]
async fn connection_ends_where_memcached_ends_it() {
    let (_, addr, _stop) = serve(LIMITS).await;
    for (request, last) in [
        ("mn\r\nquit\r\nmn\r\n", "MN\r\n"),
        ("POST / HTTP/1.1\r\nset a 0 0 1\r\nx\r\n", ""),
        (&"x".repeat(9000), "CLIENT_ERROR line too long\r\n"),
    ] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut told = Vec::new();
        // What was sent behind the end may have broken the connection.
        let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut told)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&told), last);
    }
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let (mut first, addr, _stop) = serve(Limits { connections_max: 1, ..LIMITS }).await;
    ask(&mut first, "mn\r\n", "MN\r\n").await;
    let mut second = TcpStream::connect(addr).await.unwrap();
    ask(&mut second, "", "ERROR Too many open connections\r\n").await;
}
