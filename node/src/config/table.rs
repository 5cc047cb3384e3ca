//! The table of settings: name, type, allowed values, default and meaning of each, once.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use caskade_engine::{Index, MergeWindow, SyncPolicy};

use super::given::Given;
use super::kind::{
    ByItself, Certificates, Describe, Durability, Elsewhere, Filter, Folder, Format, FreeSpace, Hidden, Int,
    Keys, Kind, Listen, LogFormat, Name, OptionalFile, OptionalListen, PairTakeover, Password, Peers,
    Redirect, Shape, Size, Switch, Window,
};
use super::reached::{Reachable, ReachedAt};
use super::source::Source;
use crate::disk::Mark;
use crate::frontend::tls::ClientCertificates;

/// One row of the table.
pub struct Setting {
    /// Key in the file; the flag is `--` and this with dashes.
    pub key: &'static str,
    /// What it means.
    pub help: &'static str,
    kind: &'static dyn Describe,
}

impl Setting {
    /// The flag, with its dashes.
    pub fn flag(&self) -> String {
        format!("--{}", self.key.replace('_', "-"))
    }

    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("CASKADE_{}", self.key.to_ascii_uppercase())
    }

    /// What is allowed, after "must be".
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
        /// Every setting of a node, with where each came from.
        #[derive(Clone, Debug)]
        pub struct Settings {
            $( $(#[doc = $doc])+ pub $key: $type, )+
            /// Where each value came from, in the order of [`SETTINGS`].
            pub(super) sources: Vec<Source>,
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $( $key: $default, )+ sources: vec![Source::Default; SETTINGS.len()] }
            }
        }

        /// All settings, in the order they are shown.
        pub static SETTINGS: &[Setting] =
            &[ $( Setting { key: stringify!($key), help: concat!($($doc, "\n"),+), kind: &$kind } ),+ ];

        impl Settings {
            /// Takes for each setting the winning value; one that cannot be read becomes a problem.
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

            /// The values as a settings file has them, in the order of [`SETTINGS`].
            pub(super) fn shown(&self) -> Vec<Option<toml::Value>> {
                vec![ $( Kind::<$type>::show(&$kind, &self.$key) ),+ ]
            }
        }
    };
}

/// Port `port` of this machine only.
fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

settings! {
    /// Folder of everything this node keeps: its key, its data files, its topology log.
    data_dir: PathBuf, Folder, "caskade-data".into();
    /// Where Redis clients, caskctl and casktop connect.
    listen: SocketAddr, Listen, loopback(7900);
    /// Where other nodes connect.
    peer_listen: SocketAddr, Listen, loopback(7901);
    /// Where memcached clients connect; not at all if it is not given.
    memcached_listen: Option<SocketAddr>, OptionalListen, None;
    /// Where /metrics and the health checks are served. Accepted so that scripts keep working; this build has no such front end yet.
    http_listen: SocketAddr, Listen, loopback(7908);
    /// Peer addresses of nodes of the cluster to join, tried until one answers; a node may be its own. None: found a new cluster, unless the data directory belongs to one.
    bootstrap: Vec<String>, Peers, Vec::new();
    /// File with the secret that admits peers to the cluster; mode 0600, the same content on every node.
    cluster_secret_file: Option<PathBuf>, OptionalFile, None;
    /// Where other nodes reach this node, where that is not peer_listen itself: behind NAT or a port mapping, or by a name, which is resolved anew at each dial. Without a port, that of peer_listen. Not set, and peer_listen is on all addresses (0.0.0.0): other nodes use the address that they see this node at.
    advertise: Option<ReachedAt>, Reachable, None;
    /// Where clients reach this node, as CLUSTER and MOVED name it to them. Without a port, that of listen. Not set: listen itself; if that is all addresses (0.0.0.0), the host of advertise, or else the address that the client, or the answering node, sees this node at.
    advertise_clients: Option<ReachedAt>, Reachable, None;
    /// Failure zone (rack, room, region): copies of a key are kept in different zones where that is possible.
    zone: String, Name, String::new();
    /// Share of the data relative to the other nodes; 0 is a witness, which votes and holds no data.
    weight: u32, Int(0..=10_000, "a share"), 100;
    /// When an append counts as done. With interval or never, a power cut of all copies at once loses the last acknowledged writes, and so does one of the last complete copy, but for what other nodes were sent meanwhile and stay up with.
    sync: SyncPolicy, Durability, SyncPolicy::Always;
    /// Copies of each key, this node's included. Used when a cluster is founded; later the cluster's own value holds.
    replicas: u8, Int(1..=5, "copies"), 2;
    /// Serve addresses beyond this machine without a cluster secret: whoever reaches the ports owns the data. Also ends protected_mode.
    insecure: bool, Switch, false;
    /// Password that clients need as long as they name no other user; empty for none. Not shown by CONFIG GET. Flags can be read by others on the machine: better the settings file or the variable.
    requirepass: Hidden, Password, Hidden::default();
    /// File with the users and what each may do, as ACL LIST tells them; it has to be there, an empty one is a beginning. ACL SAVE writes it, ACL LOAD reads it again.
    aclfile: Option<PathBuf>, OptionalFile, None;
    /// Turn away clients that are not on this machine, as long as no password is set for the default user and no client certificate is demanded. Does nothing with insecure.
    protected_mode: bool, Switch, true;
    /// File with the certificate of this node, and those up to its CA (PEM). With it and tls_key the port for clients speaks TLS, and nothing else. Looked at every two seconds: new ones are used from then on.
    tls_cert: Option<PathBuf>, OptionalFile, None;
    /// File with the private key of tls_cert (PEM).
    tls_key: Option<PathBuf>, OptionalFile, None;
    /// File with the certificates of the CAs that sign clients' certificates (PEM).
    tls_ca: Option<PathBuf>, OptionalFile, None;
    /// Whether clients need a certificate signed by tls_ca: no does not ask for one, optional checks it if there is one, yes demands it.
    tls_auth_clients: ClientCertificates, Certificates, ClientCertificates::No;
    /// Length of a lease: how long a dead node's partitions wait at least for their next primary. Used when a cluster is founded.
    lease_ms: u32, Int(300..=60_000, "milliseconds"), 2000;
    /// How long a node may be away before its copies are made anew on others. Used when a cluster is founded.
    rebuild_delay_ms: u32, Int(0..=604_800_000, "milliseconds"), 300_000;
    /// How long a request waits for a partition without a primary before it fails.
    request_timeout_ms: u64, Int(100..=600_000, "milliseconds"), 5000;
    /// Give a node that joins its share of the data at once; false admits it without data until `caskctl plan rebalance`. Used when a cluster is founded; later `caskctl plan auto`.
    auto_rebalance: bool, Switch, true;
    /// Start as a new node if this one was removed from its cluster: what it held is moved aside, not deleted. Does nothing for a node that was not removed.
    join_afresh: bool, Switch, false;
    /// Start although this node alone votes for the coordinator and the other member does not say that it did not take over meanwhile. If it did, both serve until they meet, and of keys written on both sides only one value stays.
    serve_alone: bool, Switch, false;
    /// Of two nodes: whether the one without a vote takes over by itself (auto) once the other has been silent for ten seconds or five leases, whichever is longer. It cannot tell a dead node from one that only it does not reach: then both serve, and of keys written on both sides only one value stays. manual waits for `caskctl cluster takeover`.
    pair_takeover: PairTakeover, ByItself, PairTakeover::Manual;
    /// Of two nodes with data: answer reads without a lease, from what this node has, also to connections that did not send READONLY. They may be stale.
    pair_stale_reads: bool, Switch, false;
    /// How fast all background work of this node may read and send together: merges, copies of partitions, repair, verification of data files. Each has its own bound within this; 0 is without limit.
    background_bytes_per_s: u64, Size(0..=64 << 30, "bytes a second"), 64 << 20;
    /// How fast this node sends copies of partitions to others, all of them together. The default spares the clients; `caskctl plan throttle` sets another pace for all nodes.
    migration_bytes_per_s: u64, Size(64 << 10..=64 << 30, "bytes a second"), 4 << 20;
    /// How fast complete data files are verified in the background; 0 is never. What is found damaged is restored from another copy.
    scrub_bytes_per_s: u64, Size(0..=64 << 30, "bytes a second"), 4 << 20;
    /// In which time the copies of all partitions are compared once, and made equal where they differ.
    repair_interval_ms: u64, Int(1_000..=2_592_000_000, "milliseconds"), 3_600_000;
    /// Free space of data_dir below which the node warns, and merges run without window and rate. auto: 10 % of the file system, at most 10G, at least twice disk_minimum; 0: off.
    disk_low: Mark, FreeSpace, Mark::Auto;
    /// Free space of data_dir below which this node, and every primary that it holds copies for, refuses writes that add data (MISCONF). Reads and deletes go on; the rest is a reserve for them and for merges. auto: 3 % of the file system, 64M to 2G, an eighth of file systems below 512M; 0: off.
    disk_minimum: Mark, FreeSpace, Mark::Auto;
    /// Size at which a data file is closed and a new one begun.
    max_file_size: u64, Size(1 << 20..=2 << 30, "bytes"), 1 << 30;
    /// Data files kept open at one time; the longest unused is closed.
    max_open_files: u64, Int(1..=65_536, "files"), 256;
    /// Read data files through memory mappings; false reads each record with a call of its own.
    map_files: bool, Switch, true;
    /// What is kept in memory to find keys by: hash, some 29 bytes a key; or ordered, some 42 bytes and the key more, for scans in key order: CASK.RANGE and CASK.PREFIX need it on every node.
    index: Index, Keys, Index::Hash;
    /// Share of a complete data file's bytes that is dead from which on it is merged.
    merge_trigger: u8, Int(1..=100, "percent"), 25;
    /// Dead bytes of a complete data file from which on it is merged, whatever their share.
    merge_trigger_bytes: u64, Size(1 << 10..=1 << 40, "bytes"), 128 << 20;
    /// Complete data files below this size, at most half of max_file_size, are merged with one another; 0 is never.
    merge_small_file: u64, Size(0..=2 << 30, "bytes"), 8 << 20;
    /// When merges may run.
    merge_window: MergeWindow, Window, MergeWindow::Always;
    /// How fast merges read and write; 0 is without limit.
    merge_bytes_per_s: u64, Size(0..=64 << 30, "bytes a second"), 0;
    /// Largest value a client may store.
    max_value_bytes: u64, Size(1 << 10..=64 << 20, "bytes"), 64 << 20;
    /// Client connections at one time; further ones are told so and closed.
    max_clients: u32, Int(1..=1_000_000, "connections"), 10_000;
    /// What a Redis client is told of a key whose primary is another node: proxy asks that node for it; moved answers MOVED, as Redis Cluster does, and CROSSSLOT to commands whose keys are of several slots.
    redirect: Redirect, Elsewhere, Redirect::Proxy;
    /// Bytes that the requests and replies of all client connections may take together. A connection that would take more is ended, unless it is a small one.
    client_buffer_bytes: u64, Size(1 << 20..=1 << 40, "bytes"), 1 << 30;
    /// How long a client may say nothing before its connection is ended; 0 is for ever.
    client_idle_s: u64, Int(0..=31_536_000, "seconds"), 0;
    /// How long a client may take nothing of the replies to it before its connection is ended.
    client_unread_s: u64, Int(1..=86_400, "seconds"), 60;
    /// Commands of one connection worked on at one time; further ones wait in the connection.
    max_pipeline: u32, Int(1..=65_536, "commands"), 1024;
    /// Allow DEBUG SLEEP, which tests of clients use.
    debug_commands: bool, Switch, false;
    /// Threads that serve clients and peers; 0 is one for each processor.
    worker_threads: u32, Int(0..=1024, "threads"), 0;
    /// File the log is appended to, mode 0600; none: standard error. SIGHUP opens it anew, so that it can be rotated. While it cannot be opened, lines go to standard error; lines that cannot be written are dropped and counted, and never delay the node.
    log_file: Option<PathBuf>, OptionalFile, None;
    /// How log lines are written: human, or one JSON object a line.
    log_format: LogFormat, Format, LogFormat::Human;
    /// Which log lines are written.
    log_level: String, Filter, "info".into();
}

impl Settings {
    /// Where the value of `key` came from; `None` for a key that is not in the table.
    pub fn source(&self, key: &str) -> Option<&Source> {
        let row = SETTINGS.iter().position(|setting| setting.key == key)?;
        self.sources.get(row)
    }

    /// Whether somebody gave a value for `key`.
    pub fn is_explicit(&self, key: &str) -> bool {
        self.source(key).is_some_and(|source| *source != Source::Default)
    }

    /// A line for the log for each front end that was asked for and is not in this build.
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
