//! Whole connections as a client sees them: replies in order, commands that see the effects of those before
//! them, failures as errors.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::protocol::Memcached;
use super::state::ServerState;
use crate::frontend::connection::Connection;
use crate::frontend::limits::ClientLimits;
use crate::frontend::protocol::{Accepted, Place};
use crate::frontend::testing::{self, Memory, ask};

fn limits() -> ClientLimits {
    ClientLimits {
        connections_max: 10.into(),
        pipeline_max: 8,
        value_bytes_max: 1000,
        debug_commands: false,
        ..ClientLimits::default()
    }
}

/// Serves a front end on a free port. It ends when the sender is dropped.
async fn serve(limits: ClientLimits) -> (TcpStream, SocketAddr, watch::Sender<bool>) {
    let (listener, addr) = testing::listen().await;
    let (stop, stopping) = watch::channel(false);
    let memory = Arc::new(Memory::of_values_to(limits.value_bytes_max));
    tokio::spawn(super::serve(memory, testing::context(limits), listener, stopping));
    (TcpStream::connect(addr).await.unwrap(), addr, stop)
}

#[tokio::test]
async fn commands_answer_as_in_memcached() {
    let (mut stream, _, _stop) = serve(limits()).await;
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
        ("get refused\r\nget a\r\n", "SERVER_ERROR not done: no  primary\r\nEND\r\n"),
        ("set refused 0 0 1\r\nx\r\n", "SERVER_ERROR not done: no  primary\r\n"),
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
    let (mut stream, _, _stop) = serve(limits()).await;
    ask(&mut stream, "set a 0 0 1\r\nx\r\n", "STORED\r\n").await;
    let unknown = "SERVER_ERROR nothing was changed, but there was no answer: the node gave the operation up before it was answered\r\n";
    let value = "VALUE a 0 1\r\nx\r\n";
    ask(&mut stream, "get a slow-lost refused a\r\nget a\r\n", &format!("{value}{unknown}{value}END\r\n"))
        .await;
}

#[tokio::test]
async fn a_pipeline_keeps_the_order_of_its_commands_and_each_sees_those_before_it() {
    let (mut stream, _, _stop) = serve(limits()).await;
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
async fn flush_removes_all_keys_now_or_later() {
    let (mut stream, _, _stop) = serve(limits()).await;
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
    let (_, addr, _stop) = serve(limits()).await;
    for (request, last) in [
        ("mn\r\nquit\r\nmn\r\n", "MN\r\n"),
        ("POST / HTTP/1.1\r\nset a 0 0 1\r\nx\r\n", ""),
        (&"x".repeat(9000), "CLIENT_ERROR line too long\r\n"),
    ] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut told = Vec::new();
        // The bytes sent after the end may have reset the connection.
        let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut told)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&told), last);
    }
}

#[tokio::test]
async fn one_connection_too_many_gets_the_error() {
    let (mut first, addr, _stop) = serve(ClientLimits { connections_max: 1.into(), ..limits() }).await;
    ask(&mut first, "mn\r\n", "MN\r\n").await;
    let mut second = TcpStream::connect(addr).await.unwrap();
    ask(&mut second, "", "ERROR Too many open connections\r\n").await;
}

#[tokio::test]
async fn requests_after_the_user_was_deleted_are_not_executed() {
    let context = testing::context(limits());
    let access = Arc::clone(&context.security.access);
    access.set_user(b"default", [&b"resetpass"[..]]).unwrap();
    access.set_user(b"cache", [&b"on"[..], b">pw", b"~*", b"+@all"]).unwrap();
    let state = Arc::new(ServerState::new(Arc::new(Memory::of_values_to(1000)), context));
    let accepted = Accepted { peer: ([127, 0, 0, 1], 1).into(), local: None, place: Place::Client };
    let (mut client, stream) = tokio::io::duplex(1000);
    let (_stop, stopping) = watch::channel(false);
    tokio::spawn(Connection::<Memcached, _>::new(state, stream, accepted).run(stopping));
    client.write_all(b"set auth 0 0 8\r\ncache pw\r\n").await.unwrap();
    let mut told = [0; 8];
    client.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"STORED\r\n");

    // The connection sees the deletion and the request in the same wake-up.
    access.delete_user(b"cache").unwrap();
    client.write_all(b"get k\r\n").await.unwrap();
    let mut told = Vec::new();
    client.read_to_end(&mut told).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&told), "");
}
