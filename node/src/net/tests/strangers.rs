//! Nodes without the secret, and proxies between two nodes, have no effect, and the node counts them.

use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Sends `bytes` as a node without the secret; returns the answer up to the end of the connection.
async fn knock(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_gets_no_protocol_byte_and_is_cut_off() {
    let a = node(Some(SECRET)).await;
    let start = Instant::now();
    let answer = knock(a.network.listen_addrs()[0], &[0xff; 100_000]).await;
    assert!(answer.len() < 64, "{answer:?}");
    knock(a.network.listen_addrs()[0], b"").await;
    assert!(
        start.elapsed() < Duration::from_secs(9),
        "the admission's time limit must close a silent connection"
    );
    assert!(a.echo.peers.lock().is_empty());
}

/// The bytes of one connection through a proxy: those to the node, and those from the node.
#[derive(Default)]
struct Passed {
    there: Mutex<Vec<u8>>,
    back: Mutex<Vec<u8>>,
}

/// A proxy to a node that records all bytes, and that changes a bit on demand.
struct Way {
    addr: SocketAddr,
    connections: Arc<Mutex<Vec<Arc<Passed>>>>,
    /// Whether to change the next bytes to the node, and the next ones from the node.
    spoil: Arc<[AtomicBool; 2]>,
}

async fn way(to: SocketAddr) -> Way {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let way = Way { addr, connections: Arc::default(), spoil: Arc::default() };
    let (connections, spoil) = (Arc::clone(&way.connections), Arc::clone(&way.spoil));
    tokio::spawn(async move {
        while let Ok((here, _)) = listener.accept().await {
            let there = TcpStream::connect(to).await.unwrap();
            let passed = Arc::new(Passed::default());
            connections.lock().push(Arc::clone(&passed));
            let (here, there) = (here.into_split(), there.into_split());
            for (back, from, to) in [(false, here.0, there.1), (true, there.0, here.1)] {
                tokio::spawn(pass(from, to, back, Arc::clone(&passed), Arc::clone(&spoil)));
            }
        }
    });
    way
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    back: bool,
    passed: Arc<Passed>,
    spoil: Arc<[AtomicBool; 2]>,
) {
    let mut chunk = vec![0; 4096];
    while let Ok(len) = from.read(&mut chunk).await
        && len > 0
    {
        let record = if back { &passed.back } else { &passed.there };
        record.lock().extend_from_slice(&chunk[..len]);
        if spoil[usize::from(back)].swap(false, Ordering::Relaxed) {
            chunk[len - 1] ^= 4;
        }
        if to.write_all(&chunk[..len]).await.is_err() {
            return;
        }
    }
}

/// Returns a pair of nodes and the proxy between them, after a call through the proxy.
async fn pair_with_way() -> (Node, Node, Way) {
    let (a, b) = (node(Some(SECRET)).await, node(Some(SECRET)).await);
    let way = way(b.network.listen_addrs()[0]).await;
    a.network.set_peers(HashMap::from([(b.id(), vec![way.addr.to_string()])]));
    assert_eq!(a.network.peers().call(b.id(), Class::Requests, numbered(7)).await, Ok(numbered(7)));
    (a, b, way)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replayed_connection_gets_into_no_node_and_is_counted() {
    let (a, b, way) = pair_with_way().await;
    let passed = Arc::clone(&way.connections.lock()[0]);
    let (there, back) = (passed.there.lock().clone(), passed.back.lock().clone());
    a.network.disconnect(b.id());
    until("b disconnected", || b.network.connected().is_empty()).await;
    let heard = b.echo.peers.lock().len();
    let answer = knock(b.network.listen_addrs()[0], &there).await;
    // The answer contains the names of the protocols, and the one Noise message that precedes the dialer's
    // proof.
    assert!(answer.len() < 300 && answer.len() < back.len(), "{} bytes", answer.len());
    until("the rejection is counted", || b.refused(Refused::Handshake) == 1).await;
    assert_eq!(*b.echo.calls.lock(), [7], "the recorded call is not repeated");
    assert_eq!(b.echo.peers.lock().len(), heard, "no peer connected");

    // The other direction: a replay of a node's answers does not pass for that node.
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let replaying = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.write_all(&back).await;
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        said
    });
    let dialed = a.network.dial(&addr).await;
    assert!(matches!(dialed, Err(DialError::Unreachable(_))), "{dialed:?}");
    assert_eq!(a.refused(Refused::Handshake), 1);
    let said = replaying.await.unwrap();
    assert!(said.len() < 200 && a.network.connected().is_empty(), "{} bytes", said.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_byte_ends_the_connection_and_both_use_the_next_one() {
    for back in [false, true] {
        let (a, b, way) = pair_with_way().await;
        way.spoil[usize::from(back)].store(true, Ordering::Relaxed);
        let spoiled = a.network.peers().call(b.id(), Class::Requests, numbered(8)).await;
        assert!(matches!(spoiled, Err(CallError::Lost(_))), "{spoiled:?}");
        let finder = if back { &a } else { &b };
        until("the rejection is counted", || finder.refused(Refused::Corrupted) == 1).await;
        calls_work_again(&a, &b, Class::Requests).await;
        assert!(b.echo.calls.lock().iter().all(|number| [7, 8, 9].contains(number)));
        assert_eq!(way.connections.lock().len(), 2, "connected again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_silent_strangers_keep_no_member_out() {
    let (a, b) = pair().await;
    assert_eq!(a.network.peers().call(b.id(), Class::Control, numbered(1)).await, Ok(numbered(1)));
    let addr = b.network.listen_addrs()[0];
    let mut strangers = Vec::new();
    for _ in 0..1000 {
        strangers.push(TcpStream::connect(addr).await.unwrap());
    }
    let began = Instant::now();
    // A connected member continues, and a new member connects, while all of the silent connections are open.
    assert_eq!(a.network.peers().call(b.id(), Class::Control, numbered(2)).await, Ok(numbered(2)));
    let late = node(Some(SECRET)).await;
    know(&late, &[&b]);
    calls_work_again(&late, &b, Class::Control).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let room = u64::from(NetLimits::default().admissions_max);
    until("all beyond the limit are closed", || b.refused(Refused::Crowded) >= 1000 - room).await;
    until("the time limit closes the others", || {
        b.refused(Refused::Crowded) + b.refused(Refused::Unfinished) >= 1000
    })
    .await;
    assert_eq!(b.network.connected().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stranger_that_keeps_proposing_protocols_is_closed_by_the_byte_limit() {
    let b = node(Some(SECRET)).await;
    // Every proposal is answered, so that the exchange would continue until the time limit.
    let mut proposals = b"\x13/multistream/1.0.0\n".to_vec();
    for _ in 0..20_000 {
        proposals.extend_from_slice(b"\x0a/nonsense\n");
    }
    let began = Instant::now();
    let answer = knock(b.network.listen_addrs()[0], &proposals).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(answer.len() <= pending_admissions::BYTES_MAX, "{} bytes", answer.len());
    until("the rejection is counted", || b.refused(Refused::Handshake) + b.refused(Refused::Unfinished) == 1)
        .await;
}
