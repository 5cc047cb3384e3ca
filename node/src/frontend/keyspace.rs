//! What a front end asks of the node: operations on keys, walks over them, and what the node knows of its
//! cluster.
//!
//! Invariants a front end relies on: [`Keyspace::submit`] never blocks; an operation that is answered later has
//! its answer sent exactly once, or its sender dropped, which means that the outcome is not known.

use std::net::IpAddr;
use std::path::PathBuf;

use caskade_engine::{EngineStats, TaskStatus};
use futures::future::BoxFuture;

use crate::api::{HealFigures, PeerFigures};
use crate::data::{KeyRange, KeysInOrder};
use crate::id::{Epoch, Incarnation, NodeId};
use crate::kv::{Failure, Operation, ScanPage, Ticket};

/// A snapshot of the cluster as the `CLUSTER` commands tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The node that answers.
    pub node: NodeId,
    /// Epoch of the committed state this is.
    pub epoch: Epoch,
    /// The members.
    pub nodes: Vec<TopologyNode>,
    /// Who has which slots: ascending, without overlap. A slot in no range has no replicas.
    pub ranges: Vec<SlotRange>,
}

/// One member in a [`Topology`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopologyNode {
    /// Who it is.
    pub id: NodeId,
    /// Where clients reach it.
    pub place: ClientPlace,
    /// Its peer port.
    pub peer_port: u16,
    /// Whether it takes part.
    pub up: bool,
    /// Which start of it is registered.
    pub incarnation: Incarnation,
}

/// Where clients reach a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientPlace {
    /// The IP address; empty if the answering node does not know it.
    pub ip: String,
    /// The name, if clients are to use one.
    pub hostname: Option<String>,
    /// The RESP port.
    pub port: u16,
}

impl ClientPlace {
    /// Returns the name, or else the IP address.
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
    /// The primary: an index into [`Topology::nodes`]. Absent while the slots cannot be served.
    pub primary: Option<usize>,
    /// The other replicas that hold or receive the slots' writes: indices into [`Topology::nodes`].
    pub replicas: Vec<usize>,
}

/// What `CASK.*` commands ask; the answer is JSON of a type of [`crate::api`].
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
    /// Role, keys and digest of every partition the node holds a copy of, `null` for the others.
    Digests,
    /// A list of [`crate::api::Event`], oldest first.
    Events {
        /// How many at most, the newest ones.
        limit: usize,
    },
    /// Has the copies of a node that is away made anew; [`crate::api::Accepted`].
    Rebuild {
        /// The id of the node, or the end of it.
        node: String,
    },
    /// Has a node hand over all it is primary of; [`crate::api::Accepted`].
    Drain {
        /// The id of the node, or the end of it.
        node: String,
    },
    /// Ends that; [`crate::api::Accepted`].
    Undrain {
        /// The id of the node, or the end of it.
        node: String,
    },
    /// Has this node found a new generation of the cluster, the others being lost; [`crate::api::TakeoverAnswer`].
    TakeOver {
        /// Whether it is to be done, and not only told.
        confirmed: bool,
    },
    /// Makes a snapshot of the node's store; [`crate::api::SnapshotMade`].
    Snapshot {
        /// Where; relative to the data directory.
        directory: PathBuf,
    },
    /// Previews an operation of the topology ([`crate::api::PlanPreview`]), or tells of the running plan or controls it
    /// ([`crate::api::PlanAnswer`]).
    Plan {
        /// What is asked, after the command's name.
        words: Vec<String>,
    },
    /// Does what was planned; [`crate::api::PlanAnswer`].
    Commit {
        /// The operation, then the plan's token.
        words: Vec<String>,
    },
}

/// The node, as front ends see it.
pub trait Keyspace: Send + Sync + 'static {
    /// Starts an operation on one key. Never blocks.
    fn submit(&self, operation: Operation) -> Ticket;

    /// The same for a client that takes stale answers to its reads where there are no others (READONLY).
    fn submit_stale(&self, operation: Operation) -> Ticket {
        self.submit(operation)
    }

    /// Returns this node's estimate of cluster time, in milliseconds since 1970.
    fn cluster_ms(&self) -> u64;

    /// Whether clients are sent to a key's primary, instead of that being asked for them.
    fn redirects(&self) -> bool {
        false
    }

    /// Where a key's primary is reached, where a client is to be sent there; `readonly` is one that may be answered from
    /// any copy, `local` the address that it has connected to.
    fn elsewhere(&self, _key: &[u8], _readonly: bool, _local: Option<IpAddr>) -> Option<ClientPlace> {
        None
    }

    /// Walks over the live keys of the whole cluster: about `limit` of them from `cursor` on (0 is the
    /// beginning). Redis's guarantee: a key that is there from beginning to end of a walk is told at least once.
    ///
    /// # Errors
    /// The part of the keyspace the cursor is in cannot be read now; the same cursor can be tried again.
    fn scan(&self, cursor: u64, limit: usize) -> BoxFuture<'_, Result<ScanPage, Failure>>;

    /// A page of the live keys of a range, in the order of their bytes, of the whole cluster.
    ///
    /// # Errors
    /// The nodes keep no ordered index, or a part of the keyspace cannot be read now.
    fn keys_in_order(&self, range: KeyRange, limit: usize) -> BoxFuture<'_, Result<KeysInOrder, Failure>>;

    /// Returns how many keys this node found past their time, as their primary, since its start.
    fn expired_keys(&self) -> u64 {
        0
    }

    /// Cursors of [`Keyspace::scan`] that the keys of a slot lie between: the first, and the one after the last.
    fn walk_of_slot(&self, _slot: u16) -> (u64, u64) {
        (0, u64::MAX)
    }

    /// How many keys there are in the whole cluster, each counted once.
    ///
    /// # Errors
    /// A part of the keyspace cannot be counted now.
    fn count(&self) -> BoxFuture<'_, Result<u64, Failure>>;

    /// How many of these keys expire; `None` while that cannot be counted.
    ///
    /// # Errors
    /// As [`Keyspace::count`].
    fn count_expiring(&self) -> BoxFuture<'_, Result<Option<u64>, Failure>> {
        Box::pin(async { Ok(None) })
    }

    /// The cluster as the node last heard of it, for a client that has connected to the address `local`.
    fn topology(&self, local: Option<IpAddr>) -> Topology;

    /// Answers a `CASK.*` command with JSON text, for a client that has connected to the address `local`.
    ///
    /// # Errors
    /// Why there is no answer, in words for an operator.
    fn admin(&self, request: AdminRequest, local: Option<IpAddr>) -> BoxFuture<'_, Result<String, String>>;

    /// Figures of the node's own store, and its merge that runs, or ran last.
    fn store(&self) -> (EngineStats, Option<TaskStatus>);

    /// What the node has found damaged in its store, and restored.
    fn healing(&self) -> HealFigures;

    /// Figures of the node's peer network.
    fn peers(&self) -> PeerFigures {
        PeerFigures::default()
    }

    /// The node's settings by name, for `CONFIG GET` and `INFO`.
    fn settings(&self) -> Vec<(String, String)>;

    /// Ends a part of the node, for a test; returns whether there is one of this name.
    #[cfg(all(feature = "mutations", debug_assertions))]
    fn end_part(&self, _name: &str, _by_panic: bool) -> bool {
        false
    }
}
