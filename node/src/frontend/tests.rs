//! The end of connections over TLS: always with a close_notify, so that clients can distinguish an end from a
//! cut.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::context::FrontEndContext;
use super::limits::ClientLimits;
use super::security::Security;
use super::testing::{self, Memory};
use super::tls::{Tls, TlsFiles};
use super::{memcached, resp};
use crate::config::ClientCertificates;

const TOLD_MAX: Duration = Duration::from_secs(10);

/// Both front ends over TLS. They run until `stop` is dropped.
struct Served {
    redis: SocketAddr,
    memcached: SocketAddr,
    connector: TlsConnector,
    stop: watch::Sender<bool>,
    _folder: tempfile::TempDir,
}

impl Served {
    async fn start(limits: ClientLimits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.key_pair.serialize_pem()).unwrap();
        let files = TlsFiles { cert, key, ca: None, clients: ClientCertificates::No };
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(made.cert.der().to_vec())).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let memory = Arc::new(Memory::of_values_to(limits.value_bytes_max));
        let security = Security { tls: Some(Tls::load(files).unwrap()), ..Security::open() };
        let context = FrontEndContext { security, ..testing::context(limits) };
        let (stop, stopping) = watch::channel(false);
        let (listener, redis) = testing::listen().await;
        tokio::spawn(resp::serve(memory.clone(), context.clone(), listener, stopping.clone()));
        let (listener, memcached) = testing::listen().await;
        tokio::spawn(memcached::serve(memory, context, listener, stopping));
        Self { redis, memcached, connector: TlsConnector::from(Arc::new(config)), stop, _folder: folder }
    }

    async fn connect(&self, addr: SocketAddr) -> TlsStream<TcpStream> {
        let name = ServerName::try_from("localhost").unwrap();
        self.connector.connect(name, TcpStream::connect(addr).await.unwrap()).await.unwrap()
    }

    /// Sends `request`. Returns the reply up to the end of the connection, which must be a close_notify.
    async fn until_end(&self, addr: SocketAddr, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect(addr).await;
        stream.write_all(request.as_ref()).await.unwrap();
        end_of(stream, &request.as_ref().escape_ascii().to_string()).await
    }
}

/// Reads until the end of the connection. Panics if it ends without a close_notify.
async fn end_of(mut stream: TlsStream<TcpStream>, what: &str) -> String {
    let mut told = String::new();
    match tokio::time::timeout(TOLD_MAX, stream.read_to_string(&mut told)).await {
        Ok(Ok(_)) => told,
        Ok(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => {
            panic!("{what}: cut without a close_notify after {told:?}")
        }
        other => panic!("{what}: {other:?} after {told:?}"),
    }
}

/// Sends a request, and checks that the next bytes received are `reply`.
async fn ask(stream: &mut TlsStream<TcpStream>, request: &str, reply: &str) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut found = vec![0; reply.len()];
    let read = tokio::time::timeout(TOLD_MAX, stream.read_exact(&mut found)).await;
    assert_eq!(String::from_utf8_lossy(&found), reply, "{request}: {read:?}");
}

#[tokio::test]
async fn connections_over_tls_end_with_a_close_notify() {
    let served = Served::start(ClientLimits::default()).await;
    let (redis, memcached) = (served.redis, served.memcached);
    assert_eq!(served.until_end(redis, "PING\r\nQUIT\r\n").await, "+PONG\r\n+OK\r\n");
    let refused = served.until_end(redis, "*x\r\n").await;
    assert!(refused.starts_with("-ERR Protocol error"), "{refused}");
    assert_eq!(served.until_end(redis, "PING\r\nPOST / HTTP/1.1\r\n").await, "+PONG\r\n");
    assert_eq!(served.until_end(memcached, "mn\r\nquit\r\n").await, "MN\r\n");
    assert_eq!(served.until_end(memcached, "GET / HTTP/1.1\r\n").await, "");
    assert_eq!(served.until_end(memcached, b"\x80").await, "");

    let (mut killed, mut deleted, mut operator) =
        (served.connect(redis).await, served.connect(redis).await, served.connect(redis).await);
    ask(&mut operator, "ACL SETUSER alice on nopass +@all ~*\r\n", "+OK\r\n").await;
    ask(&mut killed, "PING\r\n", "+PONG\r\n").await;
    ask(&mut deleted, "AUTH alice x\r\n", "+OK\r\n").await;
    ask(&mut operator, "ACL DELUSER alice\r\n", ":1\r\n").await;
    end_of(deleted, "a user is deleted").await;
    // The number depends on whether the deleted user's connection has closed already.
    ask(&mut operator, "CLIENT KILL TYPE normal\r\n", ":").await;
    end_of(killed, "CLIENT KILL").await;
    // The client closes first: the node answers its close_notify with another one.
    let mut closing = served.connect(redis).await;
    closing.shutdown().await.unwrap();
    end_of(closing, "the client closes").await;

    let (mut one, mut other) = (served.connect(redis).await, served.connect(memcached).await);
    ask(&mut one, "PING\r\n", "+PONG\r\n").await;
    ask(&mut other, "mn\r\n", "MN\r\n").await;
    served.stop.send_replace(true);
    end_of(one, "a stop").await;
    end_of(other, "a stop").await;
    end_of(operator, "a stop").await;
}

#[tokio::test]
async fn one_client_too_many_gets_the_error_over_tls() {
    let served = Served::start(ClientLimits { connections_max: 1.into(), ..ClientLimits::default() }).await;
    let mut first = served.connect(served.redis).await;
    ask(&mut first, "PING\r\n", "+PONG\r\n").await;
    assert_eq!(served.until_end(served.redis, "").await, "-ERR max number of clients reached\r\n");
    assert_eq!(served.until_end(served.memcached, "").await, "ERROR Too many open connections\r\n");
    // Clients that prove to be operators take the places for operators.
    let mut operators = Vec::new();
    for _ in 0..crate::machine::OPERATOR_CONNECTIONS {
        let mut operator = served.connect(served.redis).await;
        ask(&mut operator, "CONFIG GET maxclients\r\n", "*2\r\n$10\r\nmaxclients\r\n$1\r\n1\r\n").await;
        operators.push(operator);
    }
    assert_eq!(served.until_end(served.redis, "INFO\r\n").await, "-ERR max number of clients reached\r\n");
    ask(&mut operators[0], "GET k\r\n", "-ERR max number of clients reached\r\n").await;
}

#[tokio::test]
async fn large_input_over_its_bound_ends_with_a_close_notify() {
    let limits = ClientLimits { buffer_bytes_max: 1, ..ClientLimits::default() };
    let served = Served::start(limits).await;
    let mut stream = served.connect(served.redis).await;
    let begin = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n{}", "v".repeat(100_000));
    drop(stream.write_all(begin.as_bytes()).await);
    let told = end_of(stream, "out of memory").await;
    assert!(told.starts_with("-ERR out of memory"), "{told}");
}
