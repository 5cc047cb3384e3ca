//! The state that all Redis connections share.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::access::Access;
use crate::frontend::clients::Clients;
use crate::frontend::context::FrontEndContext;
use crate::frontend::keyspace::Keyspace;
use crate::frontend::slowlog::SlowLog;

/// State that all Redis connections share.
pub(super) struct ServerState {
    pub(super) keyspace: Arc<dyn Keyspace>,
    pub(super) front_end: FrontEndContext,
    pub(super) clients: Arc<Clients>,
    pub(super) slowlog: SlowLog,
    /// Number of the next connection.
    pub(super) next_client: AtomicU64,
}

impl ServerState {
    pub(super) fn new(keyspace: Arc<dyn Keyspace>, front_end: FrontEndContext) -> Self {
        Self {
            keyspace,
            front_end,
            clients: Arc::default(),
            slowlog: SlowLog::default(),
            next_client: AtomicU64::new(1),
        }
    }

    pub(super) fn access(&self) -> &Arc<Access> {
        &self.front_end.security.access
    }
}
