//! The answers of the `CASK.*` commands, as JSON types that the node, `caskctl` and `casktop` share.
//!
//! Invariants: a node answers from its own state and from the reports it has received, and gives their age.
//! Fields are only ever added, so that older and newer programs understand each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `CASK.STATUS`: the cluster as one node sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// PeerId of the node that answers, below called the asked node.
    pub node_id: String,
    /// State of the asked node: `joining`, `starting`, `serving`, `no-lease`, `stopping`.
    pub state: String,
    /// Version of the asked node's build.
    pub build: String,
    /// Id of the asked node's cluster, hexadecimal; empty before it belongs to one.
    pub cluster_id: String,
    /// PeerId of the coordinator, if the asked node knows one.
    pub coordinator: Option<String>,
    /// Epoch of the committed state the asked node holds.
    pub epoch: u64,
    /// Hash of the ring of that state, hexadecimal.
    pub ring_hash: String,
    /// Copies each key should have.
    pub replication_factor: u8,
    /// Copies that every new write gets at least, now: replicas, in-sync or syncing, on nodes that are up.
    pub copies_now: u8,
    /// The members of the committed state.
    pub members: Vec<MemberStatus>,
    /// Voters of the topology log.
    pub voters: Vec<String>,
    /// Partitions that have fewer in-sync copies than they should.
    pub partitions_under_replicated: u32,
    /// Partitions whose replicas are not yet those the ring names.
    pub partitions_moving: u32,
    /// Partitions without a live primary: requests for them wait, then fail.
    pub partitions_unavailable: u32,
    /// Partitions with a stand-in: a copy is away and another node receives the new writes in its place.
    pub partitions_with_stand_in: u32,
    /// Partitions with a stand-in to which the older records are being copied.
    pub partitions_being_rebuilt: u32,
    /// Background tasks of all nodes.
    pub tasks: Vec<Task>,
    /// Warnings for the operator: a cluster of one node, no secret, a node that is down.
    pub warnings: Vec<String>,
    /// The running plan, if any.
    pub plan: Option<PlanStatus>,
    /// Whether the cluster moves data to a joining node at once, without a rebalance command.
    pub auto_rebalance: bool,
    /// Version of the peer protocol in use.
    pub protocol: u16,
    /// Generation of the cluster: the number of its takeovers.
    pub generation: u32,
    /// Counters of the asked node's peer network.
    pub peers: PeerStats,
    /// Log lines the asked node dropped since its start, because its log could not be written fast enough or
    /// at all.
    pub log_lines_dropped: u64,
    /// Free space on the asked node's disk.
    pub disk: DiskStatus,
}

/// Free space of the file system that holds the asked node's data directory. In [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskStatus {
    /// `ok`, `low`, `minimum` or `full`: see [`NodeRow::disk_state`].
    pub state: String,
    /// Free bytes of the file system; 0 before the first measurement.
    pub free_bytes: u64,
    /// Size of the file system in bytes; 0 before the first measurement.
    pub total_bytes: u64,
    /// Free bytes below which the node warns; 0: never.
    pub low_bytes: u64,
    /// Free bytes below which the node refuses writes that add data; 0: never.
    pub minimum_bytes: u64,
    /// Days until the free space reaches the minimum at the rate of the last two hours; absent if it does not
    /// shrink.
    pub days_left: Option<f64>,
    /// Bytes of the data files.
    pub store_bytes: u64,
    /// Bytes of live records in the data files.
    pub live_bytes: u64,
}

/// Counters since the start, and present state, of the asked node's peer network. In [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerStats {
    /// Peers connected now.
    pub connected: u64,
    /// Calls to peers that are queued or unanswered now.
    pub calls_open: u64,
    /// Bytes of the calls queued now.
    pub queued_bytes: u64,
    /// Calls to peers.
    pub calls_sent: u64,
    /// Calls to peers whose link broke before the answer arrived; the peer may have executed them.
    pub calls_lost: u64,
    /// Calls from peers.
    pub calls_received: u64,
    /// Bytes written to peers, before encryption.
    pub bytes_sent: u64,
    /// Bytes read from peers.
    pub bytes_received: u64,
    /// Gossip messages published.
    pub gossip_sent: u64,
    /// Gossip messages received from other nodes.
    pub gossip_received: u64,
    /// Failed attempts to connect to a peer.
    pub dials_failed: u64,
    /// Rejected peers, connections and messages, by kind: `secret`, `stranger`, `handshake` and others.
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
    /// Whether it is drained: it keeps its copies and is primary of no partition.
    pub draining: bool,
    /// Address for clients, `host:port`.
    pub client_addr: String,
    /// Addresses for peers, as multiaddrs.
    pub peer_addrs: Vec<String>,
    /// Failure zone.
    pub zone: String,
    /// Weight: its share of the data relative to other members.
    pub weight: u32,
    /// Registered incarnation: the number of its starts.
    pub incarnation: u64,
    /// Whether it moves its copies to other nodes, after which it is removed.
    pub leaving: bool,
    /// Whether it was admitted without data and waits for a rebalance.
    pub waiting: bool,
    /// Lowest version of the peer protocol its build supports.
    pub protocol_min: u16,
    /// Highest version of the peer protocol its build supports.
    pub protocol_max: u16,
}

/// `CASK.NODES`: one row for each member, from the last report it gossiped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Nodes {
    /// Wall clock of the asked node, milliseconds since 1970.
    pub now_ms: u64,
    /// The members.
    pub nodes: Vec<NodeRow>,
}

/// One node's counters and sizes. Counters count from the node's start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeRow {
    /// PeerId.
    pub id: String,
    /// `up`, `down`, or `joining`.
    pub state: String,
    /// Whether it is the coordinator.
    pub coordinator: bool,
    /// Whether it is the asked node.
    pub asked: bool,
    /// Address for clients, `host:port`.
    pub client_addr: String,
    /// Failure zone.
    pub zone: String,
    /// Weight: its share of the data relative to other members.
    pub weight: u32,
    /// Version of its build.
    pub build: String,
    /// Age of its last report in milliseconds; absent if the asked node received no report.
    pub report_age_ms: Option<u64>,
    /// Epoch of the committed state it holds.
    pub epoch: u64,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Resident memory, bytes.
    pub memory_bytes: u64,
    /// Open client connections.
    pub connections: u64,
    /// Records in its data files, including dead records and tombstones.
    pub records_total: u64,
    /// Live records in its data files, one for each key of each copy it holds.
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
    /// Reads that did not find their key.
    pub misses: u64,
    /// Bytes read from clients.
    pub bytes_in: u64,
    /// Bytes written to clients.
    pub bytes_out: u64,
    /// Commands per second, over the last report interval.
    pub ops_per_s: f64,
    /// Bytes per second read from clients, over the last report interval.
    pub bytes_in_per_s: f64,
    /// Bytes per second written to clients, over the last report interval.
    pub bytes_out_per_s: f64,
    /// Median latency of commands over the last report interval, microseconds.
    pub latency_p50_us: u64,
    /// 99th percentile of the latency of commands over the last report interval, microseconds.
    pub latency_p99_us: u64,
    /// Partitions it holds or receives a copy of, out of 1024.
    pub partitions: u32,
    /// Partitions it is primary of.
    pub primaries: u32,
    /// Its share of all copies the ring names, 0..1.
    pub ring_share: f64,
    /// Milliseconds by which its wall clock is ahead of cluster time; absent while it has no estimate of
    /// cluster time.
    pub clock_offset_ms: Option<i64>,
    /// Bytes of live records in its data files.
    pub live_bytes: u64,
    /// Free bytes of the file system of its data directory; 0 before the first measurement.
    pub disk_free_bytes: u64,
    /// Size in bytes of the file system of its data directory; 0 before the first measurement.
    pub disk_total_bytes: u64,
    /// Free bytes below which the node warns; 0: never.
    pub disk_low_bytes: u64,
    /// Free bytes below which the node refuses writes that add data; 0: never.
    pub disk_minimum_bytes: u64,
    /// `ok`, `low` (below the low mark), `minimum` (the node refuses writes that add data), `full` (a write
    /// found no space); empty if the node does not report it.
    pub disk_state: String,
    /// Days until the free space reaches the minimum at the rate of the last two hours; absent if it does not
    /// shrink.
    pub disk_days_left: Option<f64>,
    /// Partitions it is primary of although its store, which was damaged when it was opened, may lack records
    /// of them.
    pub damaged_partitions: u32,
    /// Records of its store that are damaged and that no copy that answers has whole.
    pub damaged_records: u64,
}

/// `CASK.RING`: placement of the partitions and its balance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RingView {
    /// Epoch of the committed state.
    pub epoch: u64,
    /// Hash of the ring, hexadecimal.
    pub ring_hash: String,
    /// Copies each key should have.
    pub replication_factor: u8,
    /// Copies that each node should hold, and does hold.
    pub shares: Vec<RingShare>,
    /// All partitions, by number.
    pub partitions: Vec<PartitionView>,
}

/// One node's share of the ring.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RingShare {
    /// PeerId.
    pub id: String,
    /// Failure zone.
    pub zone: String,
    /// Weight: its share of the data relative to other members.
    pub weight: u32,
    /// Copies that the ring assigns to it.
    pub copies: u32,
    /// Copies that would be its exact share by weight; fractional.
    pub copies_ideal: f64,
    /// Partitions it is primary of now.
    pub primaries: u32,
    /// Copies that are in-sync now.
    pub in_sync: u32,
    /// Copies that are syncing now.
    pub syncing: u32,
}

/// One partition in [`RingView`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PartitionView {
    /// Number, `0..1024`.
    pub partition: u16,
    /// Term: the number of primaries it has had, restarted ones counted again.
    pub term: u32,
    /// The replicas, primary first: index into [`RingView::shares`] and role (`in-sync`, `syncing`, `away`).
    pub replicas: Vec<(usize, String)>,
    /// The replicas the ring names: indices into [`RingView::shares`].
    pub target: Vec<usize>,
}

/// `CASK.TASKS`: one background task of one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Task {
    /// Name, unique in the cluster while the task runs: kind, source and target, `migration/Q7vTnm/h2kZpq`.
    pub id: String,
    /// Kind. `migration`: a copy for the ring. `return`: a returned node catches up. `rebuild`: a stand-in
    /// receives the older records. `repair`: copies differ. `rejoin`: the data of an older generation, which
    /// a node brought back, is merged. `merge`: a node rewrites its data files without dead records. `scrub`:
    /// a node verifies its data files. `heal`: a node restores the damaged records of a file. The last three
    /// have no partitions, `merge` and `scrub` no keys, `rejoin` and `heal` no bytes.
    pub kind: String,
    /// Reason for the task.
    pub cause: String,
    /// PeerId of the node it copies from.
    pub source: String,
    /// PeerId of the node it copies to.
    pub target: String,
    /// `copying`, `comparing`, `paused`, `merging`, `verifying`, `restoring`.
    pub phase: String,
    /// Partitions done.
    pub partitions_done: u32,
    /// Partitions of the whole task.
    pub partitions_total: u32,
    /// Keys copied.
    pub keys_done: u64,
    /// Estimate of the keys of the whole task.
    pub keys_total: u64,
    /// Bytes copied.
    pub bytes_done: u64,
    /// Estimate of the bytes of the whole task.
    pub bytes_total: u64,
    /// Present rate in bytes per second.
    pub bytes_per_s: f64,
    /// Seconds left at the present rate, if known.
    pub eta_s: Option<f64>,
}

/// `CASK.REBUILD`, `CASK.DRAIN`, `CASK.UNDRAIN`: the requested change is committed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Accepted {
    /// Text for the operator: the effect of the change.
    pub message: String,
}

/// `CASK.SNAPSHOT`: a completed snapshot of the asked node's store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotMade {
    /// Directory of the snapshot on the asked node's machine.
    pub path: String,
    /// Number of data files in the snapshot.
    pub data_files: u64,
    /// Bytes of these data files.
    pub data_bytes: u64,
}

/// `CASK.EVENTS`: one event. The command lists the oldest event first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// Wall clock of the node that recorded the event, milliseconds since 1970.
    pub time_ms: u64,
    /// Epoch of the committed state at the time of the event.
    pub epoch: u64,
    /// `info`, `warning`, `error`.
    pub severity: String,
    /// Kind: `member`, `coordinator`, `plan`, `migration`, `failover`, `takeover`, `store`, `clock`.
    pub kind: String,
    /// PeerId of the node that the event concerns, or empty.
    pub node: String,
    /// Text for the operator.
    pub message: String,
}

/// `CASK.PLAN` with an operation: a preview of the effects of its commit. The command changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanPreview {
    /// The operation, in the words that `CASK.COMMIT` takes.
    pub operation: String,
    /// Epoch of the committed state that the preview is computed from.
    pub epoch: u64,
    /// Token with which `CASK.COMMIT` commits exactly this preview; empty if another command commits the
    /// operation.
    pub token: String,
    /// Hash of the present ring, hexadecimal.
    pub ring_hash_before: String,
    /// Hash of the ring after the operation, hexadecimal.
    pub ring_hash_after: String,
    /// Copies to make, by source and target.
    pub moves: Vec<PlanMove>,
    /// Number of copies to make.
    pub copies_to_make: u32,
    /// Lower bound of the copies to make: the copies that the nodes' shares require, zones ignored.
    pub copies_ideal: u32,
    /// Copies to drop after the new copies are made.
    pub copies_to_release: u32,
    /// Partitions that change their primary.
    pub primaries_to_move: u32,
    /// Keys to copy; a key counts once for each copy of it.
    pub keys: u64,
    /// Bytes to copy.
    pub bytes: u64,
    /// Copies of partitions of unknown size, because no primary reported it; not in `keys` and `bytes`.
    pub partitions_unknown: u32,
    /// Upper bound of the bytes per second that each node sends for copies.
    pub bytes_per_s: u64,
    /// Duration in seconds at that rate.
    pub eta_s: f64,
    /// Balance of the present ring.
    pub before: Vec<PlanShare>,
    /// Balance of the ring after the operation.
    pub after: Vec<PlanShare>,
    /// Reasons why partitions would have too few copies, or copies too close together.
    pub violations: Vec<String>,
    /// Whether a plan is running, which the operation would become a part of.
    pub joins_a_running_plan: bool,
    /// Text for the operator: the next step, by which the operation is committed.
    pub next: String,
}

/// Copies that one node sends to another in a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanMove {
    /// PeerId of the sending node; empty if no node that is up has a complete copy.
    pub source: String,
    /// PeerId of the receiving node.
    pub target: String,
    /// Number of partitions.
    pub partitions: u32,
    /// Number of keys.
    pub keys: u64,
    /// Number of bytes.
    pub bytes: u64,
}

/// One node's share of a ring in a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanShare {
    /// PeerId.
    pub id: String,
    /// `up`, `down`, `leaving`, or `waiting` (for a rebalance).
    pub state: String,
    /// Failure zone.
    pub zone: String,
    /// Weight: its share of the data relative to other members.
    pub weight: u32,
    /// Copies that the ring assigns to it.
    pub copies: u32,
    /// Copies that would be its exact share by weight; fractional.
    pub copies_ideal: f64,
    /// Partitions for which the ring names it first, as the primary.
    pub primaries: u32,
    /// Primaries that would be its exact share by weight; fractional.
    pub primaries_ideal: f64,
}

/// The running plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanStatus {
    /// Number of the plan; plans are counted since the founding of the cluster.
    pub id: u64,
    /// Reason for the plan.
    pub cause: String,
    /// Epoch in which it began.
    pub epoch: u64,
    /// Copies that the whole plan makes.
    pub copies_total: u32,
    /// Lower bound of the copies to make: the copies that the nodes' shares require, zones ignored.
    pub copies_ideal: u32,
    /// Copies made.
    pub copies_made: u32,
    /// Partitions whose replicas are not yet those the ring names.
    pub partitions_moving: u32,
    /// Whether the plan is paused: no copies are made until it is resumed.
    pub paused: bool,
    /// Copy rate set for every node, bytes per second; absent if each node uses its own setting.
    pub throttle_bytes_per_s: Option<u64>,
    /// Whether an abort can restore the ring of before the plan.
    pub can_abort: bool,
    /// Records sent for the plan's completed copies. Part of the committed state: a restart does not lose it.
    pub moved_keys: u64,
    /// Stored bytes of these records. Writes of clients that reached the copies meanwhile do not count.
    pub moved_bytes: u64,
    /// Bytes copied by the running tasks.
    pub bytes_done: u64,
    /// Bytes of the running tasks in all.
    pub bytes_total: u64,
    /// Present rate of all nodes together, bytes per second.
    pub bytes_per_s: f64,
    /// Seconds left at the present rate, if known.
    pub eta_s: Option<f64>,
}

/// A completed plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanDone {
    /// Number of the plan; plans are counted since the founding of the cluster.
    pub id: u64,
    /// Reason for the plan.
    pub cause: String,
    /// Epoch in which it began.
    pub epoch: u64,
    /// Copies made.
    pub copies_total: u32,
    /// Lower bound of the copies to make: the copies that the nodes' shares require, zones ignored.
    pub copies_ideal: u32,
    /// Records sent for these copies.
    pub moved_keys: u64,
    /// Stored bytes of these records.
    pub moved_bytes: u64,
}

/// `CASK.PLAN STATUS`, and the answer to every command that changes a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanAnswer {
    /// Text for the operator: the change that was committed, or the present state.
    pub message: String,
    /// Epoch of the committed state the asked node holds.
    pub epoch: u64,
    /// The running plan in that state.
    pub plan: Option<PlanStatus>,
    /// The last completed plan.
    pub last: Option<PlanDone>,
    /// Whether the cluster moves data to a joining node at once, without a rebalance command.
    pub auto_rebalance: bool,
    /// Copy rate set for every node, bytes per second; absent if each node uses its own setting.
    pub throttle_bytes_per_s: Option<u64>,
}

/// `CASK.TAKEOVER`: the result of a takeover by the asked node, or a preview of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TakeoverAnswer {
    /// Whether the takeover is committed. If not, nothing was changed.
    pub done: bool,
    /// Text for the operator: the consequences.
    pub message: String,
    /// Number of the generation that the takeover founds.
    pub generation: u32,
    /// Partitions the asked node serves at once.
    pub partitions_served: u32,
    /// Partitions that other reachable nodes will serve.
    pub partitions_served_by_others: u32,
    /// Partitions that stay unavailable until a lost node returns, because only it has a complete copy.
    pub partitions_waiting: u32,
    /// PeerIds of the members that do not answer.
    pub lost: Vec<String>,
    /// PeerIds of the members that answer.
    pub reachable: Vec<String>,
}

/// Answer of `CASK.GIVEUP`: what giving up the last copies of partitions loses, or has lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GiveUpAnswer {
    /// Whether it is done. If not, nothing was changed.
    pub done: bool,
    /// Text for the operator: the result, or how to do it.
    pub message: String,
    /// The words that confirm it; empty once it is done.
    pub confirmation: String,
    /// Epoch of the committed state that this follows from.
    pub epoch: u64,
    /// The partitions, in their order.
    pub partitions: Vec<GivenUpPartition>,
    /// Places in data files that are damaged, where a whole store is uncertain: the first of each node.
    pub places: Vec<String>,
}

/// One partition in [`GiveUpAnswer`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GivenUpPartition {
    /// Which partition.
    pub partition: u16,
    /// `down` (the node of the last complete copy is down), `damaged` (its store lost records, it is not
    /// known which) or `records` (the records that are damaged are known).
    pub cause: String,
    /// The node with the last complete copy (a PeerId).
    pub holder: String,
    /// Epoch since which that node is as it is: down, or up with a damaged store.
    pub since_epoch: u64,
    /// Milliseconds since the asked node last heard a report of it; absent if it never did.
    pub heard_ms_ago: Option<u64>,
    /// The node whose copy counts then; empty if it is a copy without data that is named by the commit.
    pub successor: String,
    /// Whether that copy holds every acknowledged write, so that none is lost.
    pub is_complete: bool,
    /// Live keys of the copy that counts then; absent if its node does not answer.
    pub keys_left: Option<u64>,
    /// Of those: keys that may be older than they should be.
    pub uncertain_keys: u64,
    /// Damaged records that are known, whose keys are deleted.
    pub damaged_records: u64,
    /// Their keys, with `\x..` for what is no printable ASCII, as far as they are known: the first 1000 of a
    /// node.
    pub damaged_keys: Vec<String>,
    /// Nodes that are up and whose incomplete copies are merged into the one that counts.
    pub merged: Vec<String>,
    /// Nodes that are down and whose copies are not used any more, that of the holder included.
    pub discarded: Vec<String>,
}

/// Damage that a node found in its store since its start, and the result of its healing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealStats {
    /// Bytes of data files that the scrubber verified.
    pub scrubbed_bytes: u64,
    /// Damaged stretches that the scrubber found.
    pub damaged_stretches: u64,
    /// Damaged records that were restored from another copy.
    pub restored_records: u64,
    /// Searches for a whole copy of a damaged record that found none on another node.
    pub missing_records: u64,
}
