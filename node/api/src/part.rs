//! Names of the parts of a node in messages, and the exit code of `caskd` after one of them ended.
//!
//! The names stand in error texts, in events and in `DEBUG END-PART`. The node watches the parts; see
//! `node/src/supervise/mod.rs`.

/// Exit code of `caskd` after a part of the node ended unexpectedly (EX_SOFTWARE of sysexits.h). A service
/// manager should start the node again.
pub const EXIT_PART_ENDED: u8 = 70;

macro_rules! parts {
    ($( $(#[doc = $doc:literal])+ $part:ident = $name:literal; )+) => {
        /// A task or thread that must run as long as the node.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Part { $( $(#[doc = $doc])+ $part ),+ }

        impl Part {
            /// Every part.
            pub const ALL: &[Self] = &[ $( Self::$part ),+ ];

            /// Returns its name in messages.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$part => $name ),+ }
            }
        }
    };
}

parts! {
    /// Applies the committed states: gives each partition its role.
    States = "states";
    /// Asks the coordinator for the lease.
    Lease = "lease";
    /// Performs the duties of the coordinator.
    Duties = "duties";
    /// Asks the voters to confirm the coordinator.
    Confirmations = "confirmations";
    /// Gossips the node's reports.
    Reports = "reports";
    /// As coordinator: writes proposals to the topology log.
    Batches = "batches";
    /// Sends proposals that a caller waits for to the coordinator.
    UrgentProposals = "urgent-proposals";
    /// Sends all other proposals to the coordinator.
    PatientProposals = "patient-proposals";
    /// Suspends slow replicas, drops released partitions, and does similar periodic work.
    Maintenance = "maintenance";
    /// Verifies data files.
    Scrub = "scrub";
    /// Compares the copies of partitions.
    Repair = "repair";
    /// Measures the free space of the disk.
    Measurements = "measurements";
    /// Refills the disk reserve for the node's own files.
    Reserve = "reserve";
    /// Keeps trying the bootstrap peers while members cannot be reached.
    Bootstrap = "bootstrap";
    /// Owns the connections to peers.
    Swarm = "swarm";
    /// Accepts the peers' links for control messages.
    ControlLinks = "control-links";
    /// Accepts the peers' links for requests.
    RequestLinks = "request-links";
    /// Accepts the peers' links for replication.
    ReplicationLinks = "replication-links";
    /// Accepts the peers' links for copies.
    BulkLinks = "bulk-links";
    /// The consensus engine, and the task that follows its leader.
    Topology = "topology";
    /// The thread that writes the topology log.
    TopologyLog = "topology-log";
    /// The store's thread that writes and syncs appends.
    StoreLog = "cask-log";
    /// The store's thread that writes hint files and merges.
    StoreMerges = "cask-background";
    /// Accepts Redis clients.
    RedisClients = "redis-clients";
    /// Accepts memcached clients.
    MemcachedClients = "memcached-clients";
    /// Loads new TLS certificates.
    Certificates = "certificates";
    /// Waits for SIGHUP.
    Reload = "reload";
}
