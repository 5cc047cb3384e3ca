//! The Redis server: the state that its connections share.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::connection::Connection;
use crate::access::Access;
use crate::frontend::accept::{self, FrontEnd, FrontEndContext, Place};
use crate::frontend::clients::Clients;
use crate::frontend::keyspace::Keyspace;
use crate::frontend::security::Stream;
use crate::frontend::slowlog::SlowLog;

/// Redis's text, with the names of Caskade's settings.
const PROTECTED: &str = "-DENIED Caskade is running in protected mode because protected mode is enabled and no \
    password is set for the default user. In this mode connections are only accepted from the loopback interface. If \
    you want to connect from external computers to Caskade you may adopt one of the following solutions: \
    1) Set an authentication password for the default user: give the node requirepass, or send 'ACL SETUSER default \
    resetpass >password' from the loopback interface (with an ACL file, 'ACL SAVE' makes it permanent). \
    2) Demand client certificates: give the node tls_cert, tls_key, tls_ca and tls_auth_clients=yes. \
    3) Just disable protected mode by giving the node protected_mode=false, and then restarting it, however MAKE SURE \
    Caskade is not publicly accessible from internet if you do so. NOTE: You only need to do one of the above things \
    in order for the server to start accepting connections from the outside.\r\n";

/// State that all Redis connections share.
pub struct Server {
    pub(super) keyspace: Arc<dyn Keyspace>,
    pub(super) door: FrontEndContext,
    pub(super) clients: Arc<Clients>,
    pub(super) slowlog: SlowLog,
    next_client: AtomicU64,
}

impl Server {
    /// Creates a front end of `keyspace` with the limits and the security of `door`.
    pub fn new(keyspace: Arc<dyn Keyspace>, door: FrontEndContext) -> Arc<Self> {
        Arc::new(Self {
            keyspace,
            door,
            clients: Arc::default(),
            slowlog: SlowLog::default(),
            next_client: AtomicU64::new(1),
        })
    }

    pub(super) fn access(&self) -> &Arc<Access> {
        &self.door.security.access
    }

    /// Serves `listener` until `stopping` is `true` or its sender is dropped; then waits for the connections
    /// to end.
    pub async fn run(self: Arc<Self>, listener: TcpListener, stopping: watch::Receiver<bool>) {
        accept::run(self, listener, stopping).await;
    }
}

impl FrontEnd for Server {
    const NAME: &'static str = "Redis client";
    const TOO_MANY: &'static str = "-ERR max number of clients reached\r\n";
    const OPERATORS: bool = true;
    const PROTECTED: &'static str = PROTECTED;

    fn door(&self) -> &FrontEndContext {
        &self.door
    }

    async fn serve(
        self: Arc<Self>,
        stream: Stream,
        (peer, place): (SocketAddr, Place),
        stopping: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let id = self.next_client.fetch_add(1, Ordering::Relaxed);
        Connection::new(self, stream, (peer, place), id).run(stopping).await
    }
}
