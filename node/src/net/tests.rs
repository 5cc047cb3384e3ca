//! Tests of networks on loopback, in one process.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use libp2p::identity::Keypair;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

mod strangers;

const SECRET: &[u8] = b"a secret of more than sixteen bytes";

/// Answers every call with the call's own body, unless `hold` or `drop` is set.
#[derive(Default)]
struct Echo {
    /// The first eight bytes of every call, in the order of the calls.
    calls: Mutex<Vec<u64>>,
    gossip: Mutex<Vec<(NodeId, Vec<u8>)>>,
    peers: Mutex<Vec<(NodeId, bool)>>,
    /// Calls that stay unanswered while `hold` is set.
    held: Mutex<Vec<Responder>>,
    hold: AtomicBool,
    drop: AtomicBool,
}

impl Handler for Echo {
    fn on_call(&self, _from: NodeId, _class: Class, body: Bytes, reply: Responder) {
        if let Some(number) = body.first_chunk() {
            self.calls.lock().push(u64::from_le_bytes(*number));
        }
        if self.hold.load(Ordering::Relaxed) {
            self.held.lock().push(reply);
        } else if !self.drop.load(Ordering::Relaxed) {
            reply.send(body);
        }
    }

    fn on_gossip(&self, from: NodeId, data: Vec<u8>) {
        self.gossip.lock().push((from, data));
    }

    fn on_peer(&self, peer: NodeId, connected: bool) {
        self.peers.lock().push((peer, connected));
    }
}

struct Node {
    network: Network,
    echo: Arc<Echo>,
    keypair: Keypair,
}

impl Node {
    fn addr(&self) -> String {
        self.network.listen_addrs()[0].to_string()
    }

    fn id(&self) -> NodeId {
        self.network.local()
    }

    fn refused(&self, kind: Refused) -> u64 {
        self.network.refusals().of(kind)
    }
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn node_with(keypair: Keypair, listen: SocketAddr, secret: Option<&[u8]>) -> Node {
    let echo = Arc::new(Echo::default());
    let secret = secret.map(|secret| ClusterSecret::from_bytes(secret).unwrap());
    let config = NetworkConfig::new(keypair.clone(), vec![listen], secret);
    let network = Network::start(config, Arc::clone(&echo) as Arc<dyn Handler>).await.unwrap();
    Node { network, echo, keypair }
}

async fn node(secret: Option<&[u8]>) -> Node {
    node_with(Keypair::generate_ed25519(), loopback(), secret).await
}

/// Returns two nodes of one cluster; the first knows the address of the second.
async fn pair() -> (Node, Node) {
    let (a, b) = (node(Some(SECRET)).await, node(Some(SECRET)).await);
    know(&a, &[&b]);
    (a, b)
}

fn know(node: &Node, others: &[&Node]) {
    node.network.set_peers(others.iter().map(|other| (other.id(), vec![other.addr()])).collect());
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn numbered(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dialing_returns_the_id_of_the_peer_and_both_sides_report_the_connection() {
    let (a, b) = pair().await;
    assert_eq!(a.network.dial(&b.addr()).await, Ok(b.id()));
    until("both connected", || a.network.connected() == [b.id()] && b.network.connected() == [a.id()]).await;
    assert_eq!(*b.echo.peers.lock(), [(a.id(), true)]);
    // A second dial uses the same connection.
    assert_eq!(a.network.dial(&b.addr()).await, Ok(b.id()));
    assert_eq!(a.network.dial(&a.addr()).await, Err(DialError::Itself));
    assert_eq!(a.network.dial("nonsense").await, Err(DialError::BadAddress));
    let free = std::net::TcpListener::bind(loopback()).unwrap().local_addr().unwrap();
    assert!(matches!(a.network.dial(&free.to_string()).await, Err(DialError::Unreachable(_))));
    a.network.disconnect(b.id());
    until("both disconnected", || a.network.connected().is_empty() && b.network.connected().is_empty()).await;
    assert_eq!(*a.echo.peers.lock(), [(b.id(), true), (b.id(), false)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_with_a_wrong_announced_address_is_called_at_its_observed_address() {
    let (a, b) = pair().await;
    assert_eq!(a.network.peers().observed(b.id()), None);
    assert_eq!(a.network.dial(&b.addr()).await, Ok(b.id()));
    assert_eq!(a.network.peers().observed(b.id()), Some("127.0.0.1".parse().unwrap()));
    // Nothing listens on this address.
    let port = b.network.listen_addrs()[0].port();
    a.network.set_peers([(b.id(), vec![format!("127.0.0.99:{port}")])].into());
    a.network.disconnect(b.id());
    until("disconnected", || a.network.connected().is_empty()).await;
    assert_eq!(a.network.peers().call(b.id(), Class::Control, numbered(1)).await, Ok(numbered(1)));
    assert!(a.network.is_connected(b.id()) && !a.network.misses_peers());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_secret_is_refused_on_both_sides() {
    let other: &[u8] = b"another secret of many bytes";
    for (theirs, ours) in [(Some(other), Some(SECRET)), (None, Some(SECRET)), (Some(SECRET), None)] {
        let (a, b) = (node(theirs).await, node(ours).await);
        assert_eq!(a.network.dial(&b.addr()).await, Err(DialError::SecretRefused));
        until("both counted", || a.refused(Refused::SecretOfOther) == 1 && b.refused(Refused::Secret) == 1)
            .await;
        know(&a, &[&b]);
        let refused = a.network.peers().call(b.id(), Class::Control, Bytes::new()).await;
        assert!(matches!(refused, Err(CallError::NotSent(_))), "{refused:?}");
        assert!(a.network.connected().is_empty() && b.network.connected().is_empty());
        assert!(a.echo.peers.lock().is_empty() && b.echo.peers.lock().is_empty());
    }
    let (a, b) = (node(None).await, node(None).await);
    assert_eq!(a.network.dial(&b.addr()).await, Ok(b.id()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_handled_in_order_and_answered() {
    let (a, b) = pair().await;
    let calls: Vec<_> =
        (0..20_000).map(|n| a.network.peers().call(b.id(), Class::Requests, numbered(n))).collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await, Ok(numbered(n as u64)));
    }
    assert_eq!(*b.echo.calls.lock(), (0..20_000).collect::<Vec<u64>>());
    assert_eq!(a.network.stats().calls_open, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_class_and_both_directions_work_over_one_connection() {
    let (a, b) = pair().await;
    a.network.dial(&b.addr()).await.unwrap();
    // b does not know the address of a; it calls back over the existing connection.
    until("b sees a", || b.network.connected() == [a.id()]).await;
    for class in Class::ALL {
        assert_eq!(a.network.peers().call(b.id(), class, numbered(1)).await, Ok(numbered(1)));
        assert_eq!(b.network.peers().call(a.id(), class, numbered(2)).await, Ok(numbered(2)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn big_bodies_arrive_whole() {
    let (a, b) = pair().await;
    for len in [0, 1, 16 * 1024, 64 * 1024, 1 << 20, 20 << 20] {
        let body: Bytes = (0..len).map(|i: usize| (i / 7) as u8).collect();
        let answer = a.network.peers().call(b.id(), Class::Bulk, body.clone()).await.unwrap();
        assert!(answer == body, "{len} bytes came back changed");
    }
    let too_long = Bytes::from(vec![0; wire::BODY_BYTES_MAX + 1]);
    assert!(matches!(
        a.network.peers().call(b.id(), Class::Bulk, too_long).await,
        Err(CallError::NotSent(_))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_responder_loses_the_call_and_nothing_else() {
    let (a, b) = pair().await;
    b.echo.drop.store(true, Ordering::Relaxed);
    assert!(matches!(
        a.network.peers().call(b.id(), Class::Control, numbered(1)).await,
        Err(CallError::Lost(_))
    ));
    b.echo.drop.store(false, Ordering::Relaxed);
    assert_eq!(a.network.peers().call(b.id(), Class::Control, numbered(2)).await, Ok(numbered(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_in_any_order() {
    let (a, b) = pair().await;
    b.echo.hold.store(true, Ordering::Relaxed);
    let calls: Vec<_> =
        (0..100).map(|n| a.network.peers().call(b.id(), Class::Requests, numbered(n))).collect();
    until("all 100 calls arrived", || b.echo.held.lock().len() == 100).await;
    let held = std::mem::take(&mut *b.echo.held.lock());
    for (n, reply) in held.into_iter().enumerate().rev() {
        reply.send(numbered(n as u64));
    }
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await, Ok(numbered(n as u64)));
    }
}

/// Waits until a call succeeds. Calls made while the old connection closes may end as not sent.
async fn calls_work_again(from: &Node, to: &Node, class: Class) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match from.network.peers().call(to.id(), class, numbered(9)).await {
            Ok(answer) => return assert_eq!(answer, numbered(9)),
            Err(error) => assert!(Instant::now() < end, "no call succeeded within 10 s: {error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_ends_once_when_the_peer_dies_and_calls_work_when_it_is_back() {
    let (a, b) = pair().await;
    assert_eq!(a.network.peers().call(b.id(), Class::Requests, numbered(0)).await, Ok(numbered(0)));
    b.echo.hold.store(true, Ordering::Relaxed);
    let ends: Arc<Vec<AtomicUsize>> = Arc::new((0..5_000).map(|_| AtomicUsize::new(0)).collect());
    let answered = Arc::new(AtomicUsize::new(0));
    for n in 0..5_000 {
        let (ends, answered) = (Arc::clone(&ends), Arc::clone(&answered));
        a.network.peers().call_with(b.id(), Class::Requests, numbered(n), move |result| {
            ends[n as usize].fetch_add(1, Ordering::Relaxed);
            answered.fetch_add(usize::from(result.is_ok()), Ordering::Relaxed);
        });
    }
    until("some calls arrived", || b.echo.held.lock().len() > 10).await;
    let (listen, keypair) = (b.network.listen_addrs()[0], b.keypair.clone());
    b.network.shutdown().await;
    until("all calls ended", || ends.iter().all(|end| end.load(Ordering::Relaxed) == 1)).await;
    assert_eq!(answered.load(Ordering::Relaxed), 0);
    assert_eq!(a.network.stats().calls_open, 0);
    until("a disconnected", || a.network.connected().is_empty()).await;
    // Nothing listens there: the call ends as not sent, and so do the next ones during the back-off.
    assert!(matches!(
        a.network.peers().call(b.id(), Class::Requests, numbered(1)).await,
        Err(CallError::NotSent(_))
    ));
    drop(b);
    let b = node_with(keypair, listen, Some(SECRET)).await;
    calls_work_again(&a, &b, Class::Requests).await;
    assert!(ends.iter().all(|end| end.load(Ordering::Relaxed) == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutting_down_ends_the_own_calls() {
    let (a, b) = pair().await;
    b.echo.hold.store(true, Ordering::Relaxed);
    let call = a.network.peers().call(b.id(), Class::Requests, numbered(1));
    until("the call arrived", || !b.echo.held.lock().is_empty()).await;
    a.network.shutdown().await;
    assert!(matches!(call.await, Err(CallError::Lost(_))));
    assert!(matches!(
        a.network.peers().call(b.id(), Class::Requests, numbered(2)).await,
        Err(CallError::NotSent(_))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_end_when_their_own_side_closes_the_connection_and_the_next_one_works() {
    let (a, b) = pair().await;
    b.echo.hold.store(true, Ordering::Relaxed);
    let call = a.network.peers().call(b.id(), Class::Control, numbered(1));
    until("the call arrived", || !b.echo.held.lock().is_empty()).await;
    a.network.disconnect(b.id());
    let ended = tokio::time::timeout(Duration::from_secs(10), call).await;
    assert!(matches!(ended, Ok(Err(CallError::Lost(_)))), "{ended:?}");
    b.echo.hold.store(false, Ordering::Relaxed);
    calls_work_again(&a, &b, Class::Control).await;
}

/// Starts a proxy to `to`. Once `stalled` is true, it keeps both connections open and reads nothing.
async fn stalling_way(to: SocketAddr, mut stalled: watch::Receiver<bool>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind(loopback()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut here, _) = listener.accept().await.unwrap();
        let mut there = tokio::net::TcpStream::connect(to).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut here, &mut there) => {}
            () = async { drop(stalled.wait_for(|stalled| *stalled).await) } => {}
        }
        std::future::pending::<()>().await;
    });
    addr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_that_takes_no_more_bytes_is_closed_at_once_with_all_its_calls() {
    let (a, b) = (node(Some(SECRET)).await, node(Some(SECRET)).await);
    let (stall, stalled) = watch::channel(false);
    let way = stalling_way(b.network.listen_addrs()[0], stalled).await;
    a.network.set_peers(HashMap::from([(b.id(), vec![way.to_string()])]));
    assert_eq!(a.network.peers().call(b.id(), Class::Bulk, numbered(0)).await, Ok(numbered(0)));
    stall.send_replace(true);
    let body = Bytes::from(vec![7; 8 << 20]);
    let calls: Vec<_> = (0..3)
        .flat_map(|_| Class::ALL)
        .map(|class| a.network.peers().call(b.id(), class, body.clone()))
        .collect();
    until("some bytes are written", || a.network.stats().queued_bytes < calls.len() * body.len()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    a.network.disconnect(b.id());
    know(&a, &[&b]);
    let ended = tokio::time::timeout(Duration::from_secs(10), futures::future::join_all(calls)).await;
    // A call whose link was not open yet may have been answered over the next connection.
    assert!(ended.is_ok(), "all calls end");
    calls_work_again(&a, &b, Class::Bulk).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_dial_each_other_at_once_settle_on_working_links() {
    for _ in 0..10 {
        let (a, b) = pair().await;
        know(&b, &[&a]);
        let (addr_a, addr_b) = (a.addr(), b.addr());
        let both = tokio::join!(a.network.dial(&addr_b), b.network.dial(&addr_a));
        assert_eq!(both, (Ok(b.id()), Ok(a.id())));
        let calls = (0..50).map(|n| {
            let one = a.network.peers().call(b.id(), Class::Requests, numbered(n));
            let two = b.network.peers().call(a.id(), Class::Requests, numbered(n));
            async move { (one.await, two.await) }
        });
        for (n, both) in futures::future::join_all(calls).await.into_iter().enumerate() {
            assert_eq!(both, (Ok(numbered(n as u64)), Ok(numbered(n as u64))));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_reaches_every_other_node_of_two_and_of_three() {
    for count in [2, 3] {
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(node(Some(SECRET)).await);
        }
        for node in &nodes {
            node.network.subscribe("caskade/test");
        }
        for node in &nodes[1..] {
            node.network.dial(&nodes[0].addr()).await.unwrap();
        }
        // With three nodes, the second and the third are not connected: the first forwards their gossip.
        let heard_by =
            |to: &Node, from: NodeId| to.echo.gossip.lock().iter().any(|(author, _)| *author == from);
        let all_heard = || {
            nodes.iter().all(|to| nodes.iter().all(|from| from.id() == to.id() || heard_by(to, from.id())))
        };
        let end = Instant::now() + Duration::from_secs(20);
        while !all_heard() {
            assert!(Instant::now() < end, "gossip of {count} nodes did not reach all");
            for node in &nodes {
                assert!(node.network.publish(b"report".to_vec()));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(nodes.iter().all(|node| node.echo.gossip.lock().iter().all(|(_, data)| data == b"report")));
    }
    let alone = node(Some(SECRET)).await;
    assert!(!alone.network.publish(vec![0; GOSSIP_BYTES_MAX + 1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_and_an_open_address_without_a_secret_are_rejected() {
    let a = node(Some(SECRET)).await;
    let start = |listen: SocketAddr| {
        let config = NetworkConfig::new(Keypair::generate_ed25519(), vec![listen], None);
        Network::start(config, Arc::new(Echo::default()))
    };
    let taken = a.network.listen_addrs()[0];
    assert!(matches!(start(taken).await, Err(NetError::AddressInUse(addr)) if addr == taken));
    assert!(matches!(start("0.0.0.0:0".parse().unwrap()).await, Err(NetError::Insecure(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_rejects_calls_with_the_reason() {
    let b = node(Some(SECRET)).await;
    let echo = Arc::new(Echo::default());
    let mut config =
        NetworkConfig::new(Keypair::generate_ed25519(), vec![loopback()], ClusterSecret::from_bytes(SECRET));
    config.limits.queue_calls_max = 10;
    let network = Network::start(config, echo).await.unwrap();
    network.set_peers(HashMap::from([(b.id(), vec![b.addr()])]));
    b.echo.hold.store(true, Ordering::Relaxed);
    let mut calls: Vec<_> = (0..11).map(|n| network.peers().call(b.id(), Class::Bulk, numbered(n))).collect();
    let refused = calls.pop().unwrap().await;
    assert!(matches!(&refused, Err(CallError::NotSent(why)) if why.contains("full")), "{refused:?}");
    until("ten calls arrived", || b.echo.held.lock().len() == 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_of_unbounded_length_ends_the_link_and_only_it() {
    use futures::{AsyncReadExt as _, AsyncWriteExt as _};
    let (a, b) = pair().await;
    a.network.dial(&b.addr()).await.unwrap();
    let mut control = a.network.shared.control.clone();
    let protocol = Class::Bulk.protocol();
    let mut stream = control.open_stream(b.id().peer_id().unwrap(), protocol).await.unwrap();
    // Like every caller, the test waits until the other end reads. Only then is the frame the reason for the
    // closed link.
    let mut ready = [0; wire::HEADER_BYTES];
    stream.flush().await.unwrap();
    stream.read_exact(&mut ready).await.unwrap();
    assert_eq!(ready, wire::header(wire::Kind::Ready, 0, 0));
    stream.write_all(&wire::header(wire::Kind::Call, 1, u32::MAX)).await.unwrap();
    stream.flush().await.unwrap();
    let mut received = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut received)).await.unwrap();
    assert!(received.is_empty(), "{received:?}");
    assert!(b.echo.calls.lock().is_empty());
    assert_eq!(b.refused(Refused::Frame), 1);
    assert_eq!(a.network.peers().call(b.id(), Class::Bulk, numbered(1)).await, Ok(numbered(1)));
}
