//! What the `CASK.*` commands answer, as JSON: the part of the node its clients share.
//!
//! Every answer comes from what the asked node has, and says how old that is. Fields are only ever added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `CASK.STATUS`: the cluster as one node sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The asked node (a PeerId).
    pub node_id: String,
    /// What it is doing: `joining`, `starting`, `serving`, `no-lease`, `stopping`.
    pub state: String,
    /// Version of its build.
    pub build: String,
    /// Which cluster it belongs to, hexadecimal; empty before it does.
    pub cluster_id: String,
    /// The elected node, if one is known.
    pub coordinator: Option<String>,
    /// Number of the committed state the node holds.
    pub epoch: u64,
    /// Hash of the ring of that state, hexadecimal.
    pub ring_hash: String,
    /// Copies each key should have.
    pub replication_factor: u8,
    /// Copies each key of a new write has now: 1 in a cluster of one node.
    pub copies_now: u8,
    /// The members of the committed state.
    pub members: Vec<MemberStatus>,
    /// Voters of the topology log.
    pub voters: Vec<String>,
    /// Partitions that have fewer in-sync copies than they should.
    pub partitions_under_replicated: u32,
    /// Partitions whose replicas are not yet those the ring names.
    pub partitions_moving: u32,
    /// Partitions without a live primary: their requests wait, then fail.
    pub partitions_unavailable: u32,
    /// Partitions of which a copy is away and another node receives the new writes in its place.
    pub partitions_with_stand_in: u32,
    /// Those of them whose older records are being copied to it.
    pub partitions_being_rebuilt: u32,
    /// What runs in the background, all nodes' tasks together.
    pub tasks: Vec<Task>,
    /// What an operator should know: a cluster of one node, no secret, a node that is down.
    pub warnings: Vec<String>,
    /// The running plan, if there is one.
    pub plan: Option<PlanStatus>,
    /// Whether a node that joins is given data at once.
    pub auto_rebalance: bool,
    /// Version of the peer protocol in use.
    pub protocol: u16,
    /// Counts the takeovers of the cluster.
    pub generation: u32,
    /// The asked node's peer network.
    pub peers: PeerFigures,
    /// Log lines the asked node dropped since its start: its log could not be written, or not fast enough.
    pub log_lines_dropped: u64,
    /// Room on the asked node's disk.
    pub disk: DiskStatus,
}

/// Room on the disk of the asked node's data directory. In [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskStatus {
    /// `ok`, `low`, `minimum` or `full`: see [`NodeRow::disk_state`].
    pub state: String,
    /// Bytes free on the file system; 0 until they were measured.
    pub free_bytes: u64,
    /// Bytes of the file system; 0 until they were measured.
    pub total_bytes: u64,
    /// Free bytes below which the node warns; 0 is never.
    pub low_bytes: u64,
    /// Free bytes below which writes that add data are refused; 0 is never.
    pub minimum_bytes: u64,
    /// Days until the minimum at the rate of the last two hours; absent if the free space does not shrink.
    pub days_left: Option<f64>,
    /// Bytes of the data files.
    pub store_bytes: u64,
    /// Bytes of the live keys' records in them.
    pub live_bytes: u64,
}

/// What the asked node's peer network did since it started, and holds now. In [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerFigures {
    /// Peers connected now.
    pub connected: u64,
    /// Calls queued or unanswered now.
    pub calls_open: u64,
    /// Bytes of calls queued now.
    pub queued_bytes: u64,
    /// Calls made.
    pub calls_sent: u64,
    /// Calls that were unanswered when their link broke.
    pub calls_lost: u64,
    /// Calls of peers.
    pub calls_received: u64,
    /// Bytes written to peers, before encryption.
    pub bytes_sent: u64,
    /// Bytes read from peers.
    pub bytes_received: u64,
    /// Gossips published.
    pub gossip_sent: u64,
    /// Gossips of others.
    pub gossip_received: u64,
    /// Connections that could not be opened.
    pub dials_failed: u64,
    /// What was refused, by kind: see [`crate::net::Refused`].
    pub refused: BTreeMap<String, u64>,
}

/// One member in [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberStatus {
    /// PeerId.
    pub id: String,
    /// `up` or `down`.
    pub state: String,
    /// Whether it is drained: it keeps its copies and is primary of nothing.
    pub draining: bool,
    /// Where clients reach it.
    pub client_addr: String,
    /// Where peers reach it.
    pub peer_addrs: Vec<String>,
    /// Failure zone.
    pub zone: String,
    /// Weight.
    pub weight: u32,
    /// Which start of it is registered.
    pub incarnation: u64,
    /// Whether it gives up its copies and then goes.
    pub leaving: bool,
    /// Whether it was admitted without data, until a rebalance.
    pub waiting: bool,
    /// Lowest version of the peer protocol it speaks.
    pub protocol_min: u16,
    /// Highest version of the peer protocol it speaks.
    pub protocol_max: u16,
}

/// `CASK.NODES`: one row a member, from its last gossiped report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Nodes {
    /// Milliseconds since 1970 on the answering node.
    pub now_ms: u64,
    /// The members.
    pub nodes: Vec<NodeRow>,
}

/// One node's figures. Counters count from the node's start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeRow {
    /// PeerId.
    pub id: String,
    /// `up`, `down`, or `joining`.
    pub state: String,
    /// Whether it is the coordinator.
    pub coordinator: bool,
    /// Whether it is the node that answered.
    pub asked: bool,
    /// Where clients reach it.
    pub client_addr: String,
    /// Failure zone.
    pub zone: String,
    /// Weight.
    pub weight: u32,
    /// Version of its build.
    pub build: String,
    /// Age of the figures in milliseconds; absent if no report was heard.
    pub report_age_ms: Option<u64>,
    /// Epoch it holds.
    pub epoch: u64,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Resident memory, bytes.
    pub memory_bytes: u64,
    /// Open client connections.
    pub connections: u64,
    /// Records in its data files, dead ones and tombstones included.
    pub records_total: u64,
    /// Keys it holds a live record of, all its copies.
    pub records_live: u64,
    /// Bytes of its data files.
    pub disk_bytes: u64,
    /// Commands that read keys.
    pub gets: u64,
    /// Commands that wrote keys.
    pub sets: u64,
    /// Commands that deleted keys.
    pub deletes: u64,
    /// Reads that found their key.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Bytes read from clients.
    pub bytes_in: u64,
    /// Bytes written to clients.
    pub bytes_out: u64,
    /// Commands a second, over the last report interval.
    pub ops_per_s: f64,
    /// Bytes a second read from clients, over the last report interval.
    pub bytes_in_per_s: f64,
    /// Bytes a second written to clients, over the last report interval.
    pub bytes_out_per_s: f64,
    /// Median latency of commands over the last interval, microseconds.
    pub latency_p50_us: u64,
    /// 99th percentile of the same.
    pub latency_p99_us: u64,
    /// Copies it holds or receives, out of 1024 partitions.
    pub partitions: u32,
    /// Partitions it is primary of.
    pub primaries: u32,
    /// Its share of all copies the ring names, 0..1.
    pub ring_share: f64,
    /// By how many milliseconds its wall clock is ahead of cluster time; absent while it does not know that.
    pub clock_offset_ms: Option<i64>,
    /// Bytes of the live keys' records in its data files.
    pub live_bytes: u64,
    /// Bytes free on the file system of its data directory; 0 until they were measured.
    pub disk_free_bytes: u64,
    /// Bytes of that file system; 0 until they were measured.
    pub disk_total_bytes: u64,
    /// Free bytes below which the node warns; 0 is never.
    pub disk_low_bytes: u64,
    /// Free bytes below which writes that add data are refused; 0 is never.
    pub disk_minimum_bytes: u64,
    /// `ok`, `low` (below the first mark), `minimum` (writes that add data are refused), `full` (a write found no room);
    /// empty if the node does not report it.
    pub disk_state: String,
    /// Days until the minimum at the rate of the last two hours; absent if the free space does not shrink.
    pub disk_days_left: Option<f64>,
}

/// `CASK.RING`: placement and its balance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RingView {
    /// Epoch of the state.
    pub epoch: u64,
    /// Hash of the ring, hexadecimal.
    pub ring_hash: String,
    /// Copies each key should have.
    pub replication_factor: u8,
    /// What each node should hold and holds.
    pub shares: Vec<RingShare>,
    /// Every partition, in order.
    pub partitions: Vec<PartitionView>,
}

/// One node's part of the ring.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RingShare {
    /// PeerId.
    pub id: String,
    /// Zone.
    pub zone: String,
    /// Weight.
    pub weight: u32,
    /// Copies the ring names it for.
    pub copies: u32,
    /// Copies an exact share would be.
    pub copies_ideal: f64,
    /// Partitions it is primary of now.
    pub primaries: u32,
    /// Copies that are in-sync now.
    pub in_sync: u32,
    /// Copies that are syncing now.
    pub syncing: u32,
}

/// One partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PartitionView {
    /// `0..1024`.
    pub partition: u16,
    /// Term.
    pub term: u32,
    /// The replicas, primary first: index into [`RingView::shares`] and role (`in-sync`, `syncing`, `away`).
    pub replicas: Vec<(usize, String)>,
    /// The replicas the ring names: indices into [`RingView::shares`].
    pub target: Vec<usize>,
}

/// `CASK.TASKS`: a piece of background work of one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Task {
    /// Name, unique in the cluster while it runs: `migration/7/12D3.../12D3...`.
    pub id: String,
    /// `migration` (a copy for the ring), `return` (a node catching up), `rebuild` (a stand-in is filled), `repair` (copies differ) or `merge` (a node's data files are rewritten
    /// without what is dead; it has neither partitions nor keys).
    pub kind: String,
    /// Why it runs.
    pub cause: String,
    /// PeerId of the node it copies from.
    pub source: String,
    /// PeerId of the node it copies to.
    pub target: String,
    /// `waiting`, `copying`, `comparing`, `paused`, `merging`.
    pub phase: String,
    /// Partitions done.
    pub partitions_done: u32,
    /// Partitions in all.
    pub partitions_total: u32,
    /// Keys copied.
    pub keys_done: u64,
    /// Keys to copy, as estimated.
    pub keys_total: u64,
    /// Bytes copied.
    pub bytes_done: u64,
    /// Bytes to copy, as estimated.
    pub bytes_total: u64,
    /// Bytes a second, lately.
    pub bytes_per_s: f64,
    /// Seconds left at that rate, if known.
    pub eta_s: Option<f64>,
}

/// What an operator asked for is committed: `CASK.REBUILD`, `CASK.DRAIN`, `CASK.UNDRAIN`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Accepted {
    /// What happens now, in words.
    pub message: String,
}

/// `CASK.SNAPSHOT`: a snapshot of the answering node's store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotMade {
    /// Its directory on that node's machine.
    pub path: String,
    /// Data files in it.
    pub data_files: u64,
    /// Bytes of them.
    pub data_bytes: u64,
}

/// `CASK.EVENTS`: what happened, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// Milliseconds since 1970 on the node that tells it.
    pub time_ms: u64,
    /// Epoch it belongs to.
    pub epoch: u64,
    /// `info`, `warning`, `error`.
    pub severity: String,
    /// What kind: `member`, `coordinator`, `plan`, `migration`, `failover`, `store`, `clock`.
    pub kind: String,
    /// The PeerId it is about, or empty.
    pub node: String,
    /// In words.
    pub message: String,
}

/// `CASK.PLAN` with an operation: what committing it would do. Nothing is changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanPreview {
    /// The operation, as `CASK.COMMIT` takes it.
    pub operation: String,
    /// Epoch of the state it was planned on.
    pub epoch: u64,
    /// What `CASK.COMMIT` is given to do exactly this; empty where it is committed in another way.
    pub token: String,
    /// Hash of the present ring, hexadecimal.
    pub ring_hash_before: String,
    /// Hash of the ring that it leads to.
    pub ring_hash_after: String,
    /// What is copied, from where to where.
    pub moves: Vec<PlanMove>,
    /// Copies to be made.
    pub copies_to_make: u32,
    /// The fewest copies that the shares alone ask for.
    pub copies_ideal: u32,
    /// Copies that are dropped once those are made.
    pub copies_to_release: u32,
    /// Partitions that change their primary.
    pub primaries_to_move: u32,
    /// Keys copied, each as often as it is.
    pub keys: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// Of the copies, those of partitions nobody told the figures of: keys and bytes are without them.
    pub partitions_unknown: u32,
    /// Bytes a second that each node sends at most.
    pub bytes_per_s: u64,
    /// Seconds it takes at that pace.
    pub eta_s: f64,
    /// The balance of the present ring.
    pub before: Vec<PlanShare>,
    /// The balance of the ring that it leads to.
    pub after: Vec<PlanShare>,
    /// Why copies would not be as many or not as far apart as they should be.
    pub violations: Vec<String>,
    /// Whether a plan is running already, which this would be made a part of.
    pub joins_a_running_plan: bool,
    /// How it comes about, in words.
    pub next: String,
}

/// What one node copies to another in a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanMove {
    /// PeerId of the node it is copied from; empty where no complete copy is on a node that is up.
    pub source: String,
    /// PeerId of the node it is copied to.
    pub target: String,
    /// Partitions.
    pub partitions: u32,
    /// Keys.
    pub keys: u64,
    /// Bytes.
    pub bytes: u64,
}

/// One node's part of a ring in a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanShare {
    /// PeerId.
    pub id: String,
    /// `up`, `down`, `leaving`, or `waiting` (for a rebalance).
    pub state: String,
    /// Zone.
    pub zone: String,
    /// Weight.
    pub weight: u32,
    /// Copies the ring names it for.
    pub copies: u32,
    /// Copies an exact share would be.
    pub copies_ideal: f64,
    /// Partitions the ring names it first for.
    pub primaries: u32,
    /// Partitions an exact share would be.
    pub primaries_ideal: f64,
}

/// The running plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanStatus {
    /// Counts the cluster's plans.
    pub id: u64,
    /// Why it runs.
    pub cause: String,
    /// Epoch in which it began.
    pub epoch: u64,
    /// Copies to be made in all.
    pub copies_total: u32,
    /// The fewest that could have been.
    pub copies_ideal: u32,
    /// Copies made.
    pub copies_made: u32,
    /// Partitions whose replicas are not yet those the ring names.
    pub partitions_moving: u32,
    /// Whether it copies nothing for now.
    pub paused: bool,
    /// The pace that was set for every node, bytes a second; absent where each node's own setting holds.
    pub throttle_bytes_per_s: Option<u64>,
    /// Whether an abort can lead back to before it.
    pub can_abort: bool,
    /// Records sent for those of its copies that are made; committed, so that no node's restart loses it.
    pub moved_keys: u64,
    /// Bytes of these records, as they are stored. What clients wrote meanwhile reached the copies as writes, and is not counted.
    pub moved_bytes: u64,
    /// Bytes copied by the tasks under way.
    pub bytes_done: u64,
    /// Bytes of the tasks under way.
    pub bytes_total: u64,
    /// Bytes a second, all nodes together.
    pub bytes_per_s: f64,
    /// Seconds left at that rate, if known.
    pub eta_s: Option<f64>,
}

/// A plan that came to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanDone {
    /// Counts the cluster's plans.
    pub id: u64,
    /// Why it ran.
    pub cause: String,
    /// Epoch in which it began.
    pub epoch: u64,
    /// Copies that were made.
    pub copies_total: u32,
    /// The fewest that could have been.
    pub copies_ideal: u32,
    /// Records sent for them.
    pub moved_keys: u64,
    /// Bytes of these records, as they are stored.
    pub moved_bytes: u64,
}

/// `CASK.PLAN STATUS`, and the answer to whatever changes a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanAnswer {
    /// What was done, or how it is.
    pub message: String,
    /// Epoch of the state the asked node holds.
    pub epoch: u64,
    /// The running plan, as that node knows it.
    pub plan: Option<PlanStatus>,
    /// The last plan that came to its end.
    pub last: Option<PlanDone>,
    /// Whether a node that joins is given data at once.
    pub auto_rebalance: bool,
    /// The pace that was set for every node, bytes a second; absent where each node's own setting holds.
    pub throttle_bytes_per_s: Option<u64>,
}

/// `CASK.TAKEOVER`: what a takeover by the asked node is, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TakeoverAnswer {
    /// Whether it is done. If not, nothing was changed.
    pub done: bool,
    /// What it means, in words.
    pub message: String,
    /// The generation it founds.
    pub generation: u32,
    /// Partitions the node serves at once.
    pub partitions_served: u32,
    /// Partitions that other nodes which answer will serve.
    pub partitions_served_by_others: u32,
    /// Partitions that wait for a lost node, which alone has a complete copy.
    pub partitions_waiting: u32,
    /// Members that do not answer (PeerIds).
    pub lost: Vec<String>,
    /// Members that do.
    pub reachable: Vec<String>,
}

/// What a node has found damaged in its store, and what became of it, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealFigures {
    /// Bytes of data files that were verified in the background.
    pub scrubbed_bytes: u64,
    /// Damaged stretches that were found by that.
    pub damaged_stretches: u64,
    /// Damaged records that were restored from another copy.
    pub restored_records: u64,
    /// Times a damaged record was looked for and no other copy had it.
    pub missing_records: u64,
}
