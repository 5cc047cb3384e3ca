//! The table of settings: the only place that states name, type, allowed values, default and help of each.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use caskade_engine::SyncPolicy;
use caskade_engine::options::{Index, MergeWindow};

use super::given::Given;
use super::kind::{
    ByItself, Certificates, ClientCertificates, Describe, Durability, Elsewhere, Filter, Folder, Format,
    FreeSpace, Hidden, Int, Keys, Kind, Listen, LogFormat, Name, OptionalFile, OptionalListen, PairTakeover,
    Password, Peers, Redirect, Shape, Size, Switch, Window,
};
use super::reached::{Reachable, ReachedAt};
use super::source::Source;
use crate::disk::Mark;

/// One row of the table.
pub struct Setting {
    /// Key in the file. The flag is `--` and the key with dashes for underscores.
    pub key: &'static str,
    /// Text for `--help`.
    pub help: &'static str,
    kind: &'static dyn Describe,
}

impl Setting {
    /// Returns the flag, with its dashes.
    pub fn flag(&self) -> String {
        format!("--{}", self.key.replace('_', "-"))
    }

    /// Returns the name of the environment variable.
    pub fn variable(&self) -> String {
        format!("CASKADE_{}", self.key.to_ascii_uppercase())
    }

    /// Returns the allowed values, as a phrase that follows "must be".
    pub fn allowed(&self) -> String {
        self.kind.allowed()
    }

    pub(super) fn value_name(&self) -> &'static str {
        self.kind.value_name()
    }

    pub(super) fn shape(&self) -> Shape {
        self.kind.shape()
    }
}

macro_rules! settings {
    ($( $(#[doc = $doc:literal])+ $key:ident: $type:ty, $kind:expr, $default:expr; )+) => {
        /// Every setting of a node, with the source of each value.
        #[derive(Clone, Debug)]
        pub struct Settings {
            $( $(#[doc = $doc])+ pub $key: $type, )+
            /// Source of each value, in the order of [`SETTINGS`].
            pub(super) sources: Vec<Source>,
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $( $key: $default, )+ sources: vec![Source::Default; SETTINGS.len()] }
            }
        }

        /// All settings, in the order in which they are shown.
        pub static SETTINGS: &[Setting] =
            &[ $( Setting { key: stringify!($key), help: concat!($($doc, "\n"),+), kind: &$kind } ),+ ];

        impl Settings {
            /// Takes the winning value of each setting. A value that is not allowed becomes a problem.
            pub(super) fn merge(given: &mut Given) -> Self {
                let mut settings = Self::default();
                settings.sources.clear();
                let mut rows = SETTINGS.iter();
                $(
                    let row = rows.next();
                    let read = given.take(row, |texts| Kind::<$type>::read_all(&$kind, texts));
                    settings.sources.push(read.source);
                    if let Some(value) = read.value {
                        settings.$key = value;
                    }
                )+
                settings
            }

            /// Returns the values in the form of a settings file, in the order of [`SETTINGS`].
            pub(super) fn shown(&self) -> Vec<Option<toml::Value>> {
                vec![ $( Kind::<$type>::show(&$kind, &self.$key) ),+ ]
            }
        }
    };
}

/// Returns port `port` of the loopback address: only this machine can reach it.
fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

settings! {
    /// Folder for everything this node stores: its key, its data files and its topology log.
    data_dir: PathBuf, Folder, "caskade-data".into();
    /// Address for Redis clients, caskctl and casktop. Port 0: the system chooses one.
    listen: SocketAddr, Listen, loopback(7900);
    /// Address for other nodes. Port 0: the system chooses one.
    peer_listen: SocketAddr, Listen, loopback(7901);
    /// Address for memcached clients. Port 0: the system chooses one. Not set: the node does not serve memcached clients.
    memcached_listen: Option<SocketAddr>, OptionalListen, None;
    /// Address for /metrics and the health checks. This build accepts the setting, so that scripts keep working, but does not listen there yet.
    http_listen: SocketAddr, Listen, loopback(7908);
    /// Peer addresses of nodes of the cluster to join. The node tries them until one answers; its own address may be among them. Empty: found a new cluster, unless the data directory belongs to one.
    bootstrap: Vec<String>, Peers, Vec::new();
    /// File with the secret that admits nodes to the cluster: mode 0600, the same content on every node. Not set: the node serves only this machine, unless insecure is set.
    cluster_secret_file: Option<PathBuf>, OptionalFile, None;
    /// Address at which other nodes reach this node, if it is not peer_listen: behind NAT or a port mapping, or a name. Other nodes resolve the name at each dial. Without a port: the port of peer_listen. Not set: peer_listen; if that is all addresses (0.0.0.0), other nodes use the address at which they see this node.
    advertise: Option<ReachedAt>, Reachable, None;
    /// Address at which clients reach this node, as CLUSTER and MOVED report it. Without a port: the port of listen. Not set: listen; if that is all addresses (0.0.0.0), the host of advertise, or else the address at which the client, or the node that replies, sees this node.
    advertise_clients: Option<ReachedAt>, Reachable, None;
    /// Failure zone of this node (rack, room, region). The cluster keeps the copies of a key in different zones where that is possible.
    zone: String, Name, String::new();
    /// Share of the data relative to the other nodes. 0: the node is a witness, which votes and holds no data.
    weight: u32, Int(0..=10_000, "a share"), 100;
    /// always: acknowledge after fdatasync. interval:MS, never: acknowledge earlier. A power failure of all copies at once then loses the last acknowledged writes. So does a power failure of the last complete copy, except for writes that a node which stayed up had received.
    sync: SyncPolicy, Durability, SyncPolicy::Always;
    /// Copies of each key, including the copy on this node. Used when a cluster is founded; later the value stored in the cluster applies.
    replicas: u8, Int(1..=5, "copies"), 2;
    /// Serve addresses beyond this machine without a cluster secret: everyone who can reach the ports can read and change the data. Also turns protected_mode off.
    insecure: bool, Switch, false;
    /// Password of the default user, which clients have unless they name another user. Empty: no password. CONFIG GET does not show it. Other users of the machine can read flags: prefer the settings file or the variable.
    requirepass: Hidden, Password, Hidden::default();
    /// File with the users and their permissions, in the form of ACL LIST. It must exist; start with an empty file. ACL SAVE writes it, ACL LOAD reads it again.
    aclfile: Option<PathBuf>, OptionalFile, None;
    /// Reject clients from other machines while the default user has no password and client certificates are not required. No effect with insecure.
    protected_mode: bool, Switch, true;
    /// File with the certificate of this node and those up to its CA (PEM). With tls_cert and tls_key the ports for clients accept only TLS. The node checks the file every 2 seconds and uses new certificates for the connections after that.
    tls_cert: Option<PathBuf>, OptionalFile, None;
    /// File with the private key of tls_cert (PEM).
    tls_key: Option<PathBuf>, OptionalFile, None;
    /// File with the certificates of the CAs that sign client certificates (PEM).
    tls_ca: Option<PathBuf>, OptionalFile, None;
    /// Whether clients need a certificate signed by tls_ca. no: the node requests none. optional: it verifies one if the client sends it. yes: it requires one.
    tls_auth_clients: ClientCertificates, Certificates, ClientCertificates::No;
    /// Length of a lease: the partitions of a dead node wait at least this long for their next primary. Used when a cluster is founded.
    lease_ms: u32, Int(300..=60_000, "milliseconds"), 2000;
    /// Time a node may be away before the cluster rebuilds its copies on other nodes. Used when a cluster is founded.
    rebuild_delay_ms: u32, Int(0..=604_800_000, "milliseconds"), 300_000;
    /// Time a request waits for a partition without a primary before it fails.
    request_timeout_ms: u64, Int(100..=600_000, "milliseconds"), 5000;
    /// Give a node that joins its share of the data at once. false: it joins without data until `caskctl plan rebalance`. Used when a cluster is founded; later change it with `caskctl plan auto`.
    auto_rebalance: bool, Switch, true;
    /// Start as a new node if this node was removed from its cluster. Its old data is moved aside, not deleted. No effect on a node that was not removed.
    join_afresh: bool, Switch, false;
    /// Start although this node is the only voter and the other member has not confirmed that it did not take over meanwhile. If it did, both serve until they reach each other, and of a key written on both sides only one value remains.
    serve_alone: bool, Switch, false;
    /// For a cluster of two nodes. auto: the node without a vote takes over once the other has been silent for ten seconds or five leases, whichever is longer. It cannot distinguish a dead node from one that only it cannot reach. In the latter case both serve, and of a key written on both sides only one value remains. manual: wait for `caskctl cluster takeover`.
    pair_takeover: PairTakeover, ByItself, PairTakeover::Manual;
    /// For a cluster of two nodes with data: without a lease, serve reads from this node's own copy, even on connections that did not send READONLY. These reads may be stale.
    pair_stale_reads: bool, Switch, false;
    /// Rate limit of all background work of this node together, for reading and sending: merges, copies of partitions, repair, verification of data files. Each has its own limit within this one. 0: no limit.
    background_bytes_per_s: u64, Size(0..=64 << 30, "bytes a second"), 64 << 20;
    /// Rate limit of this node for sending copies of partitions to other nodes, all copies together. The default leaves bandwidth for the clients; `caskctl plan throttle` sets another limit for all nodes.
    migration_bytes_per_s: u64, Size(64 << 10..=64 << 30, "bytes a second"), 4 << 20;
    /// Rate at which the node verifies complete data files in the background. 0: never. It restores damaged records from another copy.
    scrub_bytes_per_s: u64, Size(0..=64 << 30, "bytes a second"), 4 << 20;
    /// Time in which the node compares the copies of all partitions once and repairs differences.
    repair_interval_ms: u64, Int(1_000..=2_592_000_000, "milliseconds"), 3_600_000;
    /// Free space of data_dir below which the node warns, and merges run outside merge_window and without rate limit. auto: 10 % of the file system, at most 10G, at least twice disk_minimum. 0: off.
    disk_low: Mark, FreeSpace, Mark::Auto;
    /// Free space of data_dir below which this node, and every primary that it holds copies for, rejects writes that add data (MISCONF). Reads and deletes continue; the remaining space is a reserve for them and for merges. auto: 3 % of the file system, at least 64M and at most 2G; an eighth of a file system below 512M. 0: off.
    disk_minimum: Mark, FreeSpace, Mark::Auto;
    /// Size at which the node closes a data file and begins a new one.
    max_file_size: u64, Size(1 << 20..=2 << 30, "bytes"), 1 << 30;
    /// Data files open at one time. Beyond it, the node closes the least recently used one.
    max_open_files: u64, Int(1..=65_536, "files"), 256;
    /// Read data files through memory mappings. false: one system call for each record.
    map_files: bool, Switch, true;
    /// Index of the keys in memory. hash: about 29 bytes a key. ordered: in addition about 42 bytes and the key itself, for scans in key order; CASK.RANGE and CASK.PREFIX need it on every node.
    index: Index, Keys, Index::Hash;
    /// Share of dead bytes at which a complete data file is merged.
    merge_trigger: u8, Int(1..=100, "percent"), 25;
    /// Number of dead bytes at which a complete data file is merged, whatever their share.
    merge_trigger_bytes: u64, Size(1 << 10..=1 << 40, "bytes"), 128 << 20;
    /// Size, at most half of max_file_size, below which complete data files are merged with one another. 0: never.
    merge_small_file: u64, Size(0..=2 << 30, "bytes"), 8 << 20;
    /// Time of day in which merges may run.
    merge_window: MergeWindow, Window, MergeWindow::Always;
    /// Rate limit of merges, for reading and writing. 0: no limit.
    merge_bytes_per_s: u64, Size(0..=64 << 30, "bytes a second"), 0;
    /// Largest value a client may store.
    max_value_bytes: u64, Size(1 << 10..=64 << 20, "bytes"), 64 << 20;
    /// Client connections at one time. The node rejects further ones with an error reply and closes them.
    max_clients: u32, Int(1..=1_000_000, "connections"), 10_000;
    /// Reply to a Redis client for a key whose primary is another node. proxy: the node forwards the command and returns the reply. moved: MOVED, as in Redis Cluster, and CROSSSLOT for commands with keys of several slots.
    redirect: Redirect, Elsewhere, Redirect::Proxy;
    /// Memory for the requests and replies of all client connections together. The node closes a connection that would exceed it, unless that connection holds at most 64 KiB.
    client_buffer_bytes: u64, Size(1 << 20..=1 << 40, "bytes"), 1 << 30;
    /// Close a client connection after this many seconds without input. 0: never.
    client_idle_s: u64, Int(0..=31_536_000, "seconds"), 0;
    /// Close a client connection after this many seconds in which the client reads none of its pending replies.
    client_unread_s: u64, Int(1..=86_400, "seconds"), 60;
    /// Commands of one connection in flight at one time. Further ones wait in the connection.
    max_pipeline: u32, Int(1..=65_536, "commands"), 1024;
    /// Allow DEBUG SLEEP, which tests of client libraries use.
    debug_commands: bool, Switch, false;
    /// Threads that serve clients and peers. 0: one for each processor.
    worker_threads: u32, Int(0..=1024, "threads"), 0;
    /// File to append the log to, mode 0600. Not set: standard error. SIGHUP reopens it, so that it can be rotated. While it cannot be opened, the node logs to standard error. Lines that cannot be written are dropped and counted; they never delay the node.
    log_file: Option<PathBuf>, OptionalFile, None;
    /// Format of log lines. human: plain text. json: one JSON object a line.
    log_format: LogFormat, Format, LogFormat::Human;
    /// Lowest level of the log lines to write, or a filter of levels by module.
    log_level: String, Filter, "info".into();
}

impl Settings {
    /// Returns the source of the value of `key`; `None` for a key that is not in the table.
    pub fn source(&self, key: &str) -> Option<&Source> {
        let row = SETTINGS.iter().position(|setting| setting.key == key)?;
        self.sources.get(row)
    }

    /// Returns whether a file, variable or flag gave a value for `key`.
    pub fn is_explicit(&self, key: &str) -> bool {
        self.source(key).is_some_and(|source| *source != Source::Default)
    }

    /// Returns a line for the log for each front end that is set explicitly but not part of this build.
    pub fn not_built_yet(&self) -> Vec<String> {
        [("http_listen", "HTTP", self.http_listen)]
            .iter()
            .filter(|(key, ..)| self.is_explicit(key))
            .map(|(key, name, address)| {
                format!("{key}: the {name} front end is not in this build; nothing listens on {address}")
            })
            .collect()
    }
}
