//! The interface between front ends and node: operations on keys, walks over keys, and the node's view of its
//! cluster.
//!
//! Invariants: [`Keyspace::submit`] never blocks. An operation that completes later sends its answer exactly
//! once, or drops the sender: the outcome is then unknown.

use std::net::IpAddr;
use std::path::PathBuf;

use caskade_engine::stats::EngineStats;
use caskade_engine::task::TaskStatus;
use futures::future::BoxFuture;

use crate::api::{HealStats, PeerStats};
use crate::data::{KeyRange, KeysInOrder};
use crate::id::{Epoch, Incarnation, NodeId};
use crate::kv::{Failure, Operation, ScanPage, Ticket};

/// A snapshot of the cluster, as the `CLUSTER` commands report it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSlots {
    /// The node that reports.
    pub node: NodeId,
    /// Epoch of the committed state that the snapshot shows.
    pub epoch: Epoch,
    /// The members.
    pub nodes: Vec<SlotNode>,
    /// Replicas of the slots: ascending, without overlap. A slot in no range has no replicas.
    pub ranges: Vec<SlotRange>,
}

/// One member in a [`ClusterSlots`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotNode {
    /// Identity of the node.
    pub id: NodeId,
    /// Address for clients.
    pub place: ClientPlace,
    /// Port for peers.
    pub peer_port: u16,
    /// Whether the committed state counts the node as up.
    pub up: bool,
    /// The registered incarnation: one start of the node.
    pub incarnation: Incarnation,
}

/// Address at which clients reach a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientPlace {
    /// IP address; empty if the reporting node does not know it.
    pub ip: String,
    /// Host name, if clients must use one.
    pub hostname: Option<String>,
    /// RESP port.
    pub port: u16,
}

impl ClientPlace {
    /// Returns the host name if there is one, else the IP address.
    pub fn host(&self) -> &str {
        self.hostname.as_deref().unwrap_or(&self.ip)
    }

    /// Returns `HOST:PORT`, an IPv6 address in brackets.
    pub fn bracketed(&self) -> String {
        let (host, port) = (self.host(), self.port);
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Returns `HOST:PORT` as Redis writes it: an IPv6 address without brackets.
    pub fn in_redis_form(&self) -> String {
        format!("{}:{}", self.host(), self.port)
    }
}

/// Consecutive slots that have the same replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRange {
    /// First slot, `0..16384`.
    pub start: u16,
    /// Last slot, inclusive.
    pub end: u16,
    /// Index of the primary in [`ClusterSlots::nodes`]. `None` while no node can serve the slots.
    pub primary: Option<usize>,
    /// Indices in [`ClusterSlots::nodes`] of the other replicas that hold or receive the slots' writes.
    pub replicas: Vec<usize>,
}

/// Requests of the `CASK.*` commands. Each answer is JSON of the type of [`crate::api`] that the variant
/// names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminRequest {
    /// [`crate::api::Status`].
    Status,
    /// [`crate::api::Nodes`].
    Nodes,
    /// [`crate::api::RingView`].
    Ring,
    /// A list of [`crate::api::Task`].
    Tasks,
    /// Role, keys and digest of every partition of which the node holds a copy; `null` for the others.
    Digests,
    /// A list of [`crate::api::Event`], oldest first.
    Events {
        /// Maximum number of events; the newest ones are returned.
        limit: usize,
    },
    /// Rebuilds the copies of an absent node on other nodes; [`crate::api::Accepted`].
    Rebuild {
        /// Id of the node, or the end of the id.
        node: String,
    },
    /// Makes a node hand over every partition of which it is primary; [`crate::api::Accepted`].
    Drain {
        /// Id of the node, or the end of the id.
        node: String,
    },
    /// Ends the draining of a node; [`crate::api::Accepted`].
    Undrain {
        /// Id of the node, or the end of the id.
        node: String,
    },
    /// Makes this node found a new generation of the cluster, because the other nodes are lost;
    /// [`crate::api::TakeoverAnswer`].
    TakeOver {
        /// `true`: take over. `false`: only report what a takeover would do.
        confirmed: bool,
    },
    /// Lists what giving up the last copies of partitions loses, or does it; [`crate::api::GiveUpAnswer`].
    GiveUp {
        /// Which partitions: `17`, `3,5-9`, `all`.
        partitions: String,
        /// The words that confirm it; `None` for the list alone.
        confirmation: Option<String>,
    },
    /// Makes a snapshot of the node's store; [`crate::api::SnapshotMade`].
    Snapshot {
        /// Target directory, relative to the data directory.
        directory: PathBuf,
    },
    /// Previews an operation on the topology ([`crate::api::PlanPreview`]), or reports or controls the
    /// running plan
    /// ([`crate::api::PlanAnswer`]).
    Plan {
        /// Words after the command's name.
        words: Vec<String>,
    },
    /// Executes a previewed plan; [`crate::api::PlanAnswer`].
    Commit {
        /// The operation, then the plan's token.
        words: Vec<String>,
    },
}

/// The interface of the node for front ends.
pub trait Keyspace: Send + Sync + 'static {
    /// Starts an operation on one key. Never blocks.
    fn submit(&self, operation: Operation) -> Ticket;

    /// Starts an operation for a client that accepts stale reads where no current ones are possible
    /// (READONLY).
    fn submit_stale(&self, operation: Operation) -> Ticket {
        self.submit(operation)
    }

    /// Returns this node's estimate of cluster time, in milliseconds since 1970.
    fn cluster_ms(&self) -> u64;

    /// Returns whether the node redirects clients to a key's primary instead of forwarding their commands.
    fn redirects(&self) -> bool {
        false
    }

    /// Returns the address of a key's primary if the client must be redirected there. `readonly`: any copy
    /// may serve the command. `local`: the address of this node to which the client connected.
    fn elsewhere(&self, _key: &[u8], _readonly: bool, _local: Option<IpAddr>) -> Option<ClientPlace> {
        None
    }

    /// Returns a page of the live keys of the whole cluster: about `limit` keys from `cursor` on (0: the
    /// beginning). Redis's guarantee: a walk returns every key that exists from its beginning to its end at
    /// least once.
    ///
    /// # Errors
    /// The part of the keyspace at the cursor cannot be read now. The caller may retry with the same cursor.
    fn scan(&self, cursor: u64, limit: usize) -> BoxFuture<'_, Result<ScanPage, Failure>>;

    /// Returns a page of the live keys of a range, over the whole cluster, in the order of their bytes.
    ///
    /// # Errors
    /// A node has no ordered index, or a part of the keyspace cannot be read now.
    fn keys_in_order(&self, range: KeyRange, limit: usize) -> BoxFuture<'_, Result<KeysInOrder, Failure>>;

    /// Returns how many expired keys this node has found as their primary since its start.
    fn expired_keys(&self) -> u64 {
        0
    }

    /// Returns the range of [`Keyspace::scan`] cursors that holds the keys of a slot: the first cursor, and
    /// the one after the last.
    fn walk_of_slot(&self, _slot: u16) -> (u64, u64) {
        (0, u64::MAX)
    }

    /// Returns the number of keys in the whole cluster, each counted once.
    ///
    /// # Errors
    /// A part of the keyspace cannot be counted now.
    fn count(&self) -> BoxFuture<'_, Result<u64, Failure>>;

    /// Returns how many keys of the whole cluster have an expiry.
    ///
    /// # Errors
    /// As [`Keyspace::count`].
    fn count_expiring(&self) -> BoxFuture<'_, Result<u64, Failure>> {
        Box::pin(async { Ok(0) })
    }

    /// Returns the cluster as this node last saw it, for a client that connected to the address `local`.
    fn cluster_slots(&self, local: Option<IpAddr>) -> ClusterSlots;

    /// Returns the JSON answer to a `CASK.*` command, for a client that connected to the address `local`.
    ///
    /// # Errors
    /// The reason why there is no answer, as a text for an operator.
    fn admin(&self, request: AdminRequest, local: Option<IpAddr>) -> BoxFuture<'_, Result<String, String>>;

    /// Returns statistics of the node's own store, and its running or last merge.
    fn store(&self) -> (EngineStats, Option<TaskStatus>);

    /// Returns counts of damage found in the node's store, and of restored records.
    fn healing(&self) -> HealStats;

    /// Returns statistics of the node's peer network.
    fn peers(&self) -> PeerStats {
        PeerStats::default()
    }

    /// Returns the node's settings by name, for `CONFIG GET` and `INFO`.
    fn settings(&self) -> Vec<(String, String)>;

    /// Ends a part of the node, for a test. Returns whether the node has a part of this name.
    #[cfg(all(feature = "mutations", debug_assertions))]
    fn end_part(&self, _name: &str, _by_panic: bool) -> bool {
        false
    }
}
