//! The committed state of the cluster, which the topology log's state machine holds.
//!
//! [`ClusterState::apply`] is a pure function of the state and a list of [`Change`]s: every node that has
//! applied the same entries has the same state. A change whose conditions no longer hold is void: it changes
//! nothing, and its verdict has the reason.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::give_up::Loss;
use super::operations::{AdminOperation, Basis, Placement, Plans, Promotion, Removed};
use super::protocol::ProtocolVersion;
use super::ring::Ring;
use super::takeover::{OlderGeneration, TakenOver, Takeover};
use crate::id::{ClusterId, Epoch, Incarnation, NodeId, Partition, Term};

/// Announcement of a node that wants to become a member, or that returns as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Id of the node.
    pub node: NodeId,
    /// Incarnation of this start of the node.
    pub incarnation: Incarnation,
    /// Addresses for peers: multiaddrs.
    pub peer_addrs: Vec<String>,
    /// Address for clients: `host:port` of the node's RESP port.
    pub client_addr: String,
    /// Failure zone; empty if the node has none.
    pub zone: String,
    /// Share of the ring relative to the other weights; 0 holds no data (a witness).
    pub weight: u32,
    /// Version of the build.
    pub build: String,
    /// Highest version of the peer protocol that the build supports.
    pub protocol: ProtocolVersion,
    /// Lowest version of the peer protocol that the build supports.
    pub protocol_min: ProtocolVersion,
    /// Condition of the node's store with respect to the writes it acknowledged before this start.
    pub store: StoreCondition,
}

/// Completeness of a store when its node opens it again, with respect to the writes that the node
/// acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreCondition {
    /// The store has all acknowledged writes: it is not damaged, and acknowledged writes are synced.
    Whole,
    /// The store is not damaged, but acknowledged writes are not synced at once: the last ones may be missing
    /// after a power failure.
    Unsynced,
    /// The store has damage that is not healed: any record may be missing, or older than it should be (rule
    /// R4).
    Damaged,
}

/// Whether a member is up or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberStatus {
    /// The member has registered its present incarnation and was not declared down since.
    Up,
    /// The coordinator declared the member down after its lease had expired.
    Down,
}

/// A node that was admitted to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node's last announcement.
    pub announcement: Announcement,
    /// Whether the member is up.
    pub status: MemberStatus,
    /// Whether the node must not be primary of any partition; a restart ends this.
    pub draining: bool,
    /// The epoch of its last change of status or incarnation.
    pub since: Epoch,
}

/// The role of a replica, which states what its copy contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaRole {
    /// The copy has every acknowledged write.
    InSync,
    /// The copy receives all new writes while older ones are copied to it.
    Syncing,
    /// The node is down; its copy is kept for its return.
    Away,
}

/// One copy of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// The node that has the copy.
    pub node: NodeId,
    /// The role of the copy.
    pub role: ReplicaRole,
    /// Epoch in which the copy was assigned to the node; a store of an earlier assignment starts empty.
    pub assigned: Epoch,
    /// Epoch of the entry that last made the copy syncing (or in-sync at once, for a new partition).
    pub syncing_since: Epoch,
    /// Set if the ring does not name the copy: it stands in for a copy that is away.
    pub stand_in: Option<StandIn>,
    /// Of a syncing replica: it was in-sync when its node restarted on a whole store, and it has received
    /// every write since. It therefore has every acknowledged write, and possibly others.
    pub complete: bool,
    /// Set from a takeover until the copy is in-sync: its store is of an older generation (rule R10).
    pub unmerged: Option<OlderGeneration>,
}

/// Purpose of a stand-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandIn {
    /// The node whose copy is away.
    pub of: NodeId,
    /// Whether older records are copied to it, too. Before, it only receives new writes.
    pub rebuild: bool,
}

/// The state of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// Number of the present primary: grows with each change of the primary.
    pub term: Term,
    /// Whether the present term began with the consent of the former primary, after that had settled all
    /// pending writes. The new primary then need not reconcile with the other in-sync replicas first.
    pub settled: bool,
    /// The copies; the first in-sync one is the primary.
    pub replicas: Vec<Replica>,
}

impl fmt::Display for PartitionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term {}{}", self.term, if self.settled { "" } else { " (unsettled)" })?;
        for replica in &self.replicas {
            let Replica { node, role, assigned, syncing_since, stand_in, complete, unmerged } = replica;
            write!(f, ", {} {} assigned {assigned} since {syncing_since}", node.short(), role.word())?;
            f.write_str(if stand_in.is_some() { " stand-in" } else { "" })?;
            f.write_str(if *complete { " complete" } else { "" })?;
            f.write_str(if unmerged.is_some() { " unmerged" } else { "" })?;
        }
        Ok(())
    }
}

/// A running change of placement: nodes copy until every partition has the replicas that the ring names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Number of the plan, counted from the founding of the cluster.
    pub id: u64,
    /// Cause in words: "node X joined".
    pub cause: String,
    /// Epoch in which the plan was committed.
    pub epoch: Epoch,
    /// Total of copies to make.
    pub copies_total: u32,
    /// Fewest copies that any placement with these shares would need.
    pub copies_ideal: u32,
    /// Records sent so far for the plan's copies that are complete.
    pub moved_keys: u64,
    /// Bytes of these records, as they are stored.
    pub moved_bytes: u64,
}

/// The state that all nodes have agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// Id of the cluster.
    pub cluster_id: ClusterId,
    /// Number of the generation; only a takeover increments it.
    pub generation: u32,
    /// The takeover with which this generation began; `None` in the first.
    pub taken_over: Option<TakenOver>,
    /// Number of this state; 0 is the state before the founding.
    pub epoch: Epoch,
    /// Number of copies that each key should have.
    pub replication_factor: u8,
    /// Length of a node's lease, in milliseconds.
    pub lease_ms: u32,
    /// Time after which the copies of a node that is away are made on its stand-ins, in milliseconds.
    pub rebuild_delay_ms: u32,
    /// The admitted nodes. Shared like the partitions.
    pub members: Arc<BTreeMap<NodeId, Member>>,
    /// The placement that the copies should have.
    pub ring: Ring,
    /// The placement that the copies have, one entry per partition; empty before the founding. States share
    /// an entry while the partition is unchanged, so that a new state costs only what it changes.
    pub partitions: Vec<Arc<PartitionState>>,
    /// Inputs of the ring that operators control.
    pub placement: Placement,
    /// Whether a joining node waits for a rebalance before it receives data.
    pub manual_rebalance: bool,
    /// The running plan, and those before it.
    pub plans: Plans,
    /// Pace of copying on every node in bytes a second, which replaces each node's own setting.
    pub throttle_bytes_per_s: Option<u64>,
    /// Former members, the newest last; at most [`REMOVED_MAX`](super::operations::REMOVED_MAX).
    pub removed: Vec<Removed>,
    /// The last promotion of a replica of each partition. States share the map while it is unchanged.
    pub promotions: Arc<BTreeMap<Partition, Promotion>>,
    /// Version of the peer protocol in use.
    pub protocol_version: ProtocolVersion,
}

/// The primary of a partition, as the proposer of a change observed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimaryRef {
    /// The partition.
    pub partition: Partition,
    /// The term in which the primary serves it.
    pub term: Term,
    /// The primary's incarnation.
    pub incarnation: Incarnation,
}

/// A replica of a partition, as the proposer of a change observed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRef {
    /// The node of the replica.
    pub node: NodeId,
    /// The node's incarnation.
    pub incarnation: Incarnation,
    /// [`Replica::syncing_since`].
    pub syncing_since: Epoch,
}

/// One proposal to change the state. It names the facts it was decided on, and is void if they have changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Founds the cluster with its first node. Rejected if the cluster is founded.
    Found {
        /// The random id of the cluster.
        cluster_id: ClusterId,
        /// Number of copies that each key should have.
        replication_factor: u8,
        /// Length of a lease, in milliseconds.
        lease_ms: u32,
        /// Time after which the copies of a node that is away are made on its stand-ins, in milliseconds.
        rebuild_delay_ms: u32,
        /// The founding node.
        founder: Announcement,
    },
    /// Admits a new node, or re-admits a member with a new incarnation. Rejected if the incarnation is not
    /// newer than the committed one.
    Register(Announcement),
    /// Declares a node down. Rejected unless it is up with this incarnation.
    DeclareDown {
        /// The node.
        node: NodeId,
        /// The incarnation whose lease has expired.
        incarnation: Incarnation,
    },
    /// A syncing replica has every record of its primary: the digests of both copies after the same write
    /// are equal. Rejected if they differ, and unless primary and replica are unchanged (rule R2).
    CaughtUp {
        /// The primary that compared the copies.
        primary: PrimaryRef,
        /// The syncing replica.
        replica: ReplicaRef,
        /// Digest of the primary's copy.
        source_digest: u64,
        /// Digest of the replica's copy.
        target_digest: u64,
        /// Records the primary sent for this copy, without those that an earlier primary had sent.
        sent_keys: u64,
        /// Bytes of these records, as they are stored.
        sent_bytes: u64,
    },
    /// The primary has stopped serving and settled all pending writes. The partition passes to the replicas
    /// that the ring names, under a new term (rule R3). If that is no longer possible, the same primary gets
    /// the new term. Rejected unless the term and the incarnation are unchanged.
    HandOver(PrimaryRef),
    /// The primary cannot get acknowledgements from a replica (rule R8): the replica becomes away.
    /// Rejected unless primary and replica are unchanged; the last in-sync replica is never removed.
    SuspendReplica {
        /// The primary that waits for the acknowledgements.
        primary: PrimaryRef,
        /// The replica that does not acknowledge.
        replica: ReplicaRef,
    },
    /// A node whose replica is away can resume without a restart: the replica becomes syncing. Rejected
    /// unless the replica is away, the node is up, and everything named here is unchanged.
    ResumeReplica {
        /// The partition.
        partition: Partition,
        /// The replica that is away.
        replica: ReplicaRef,
    },
    /// Makes the copies of a node that is away on its stand-ins. Rejected unless the node is a member with
    /// this incarnation and a stand-in of it waits for this.
    Rebuild {
        /// The node that is away.
        node: NodeId,
        /// Its last registered incarnation.
        incarnation: Incarnation,
    },
    /// Drains the node: it hands over its partitions and becomes primary of none. Rejected unless it is up
    /// with this incarnation, and not drained.
    Drain {
        /// The node.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// Ends [`Change::Drain`]. Rejected unless the node is up with this incarnation, and drained.
    Undrain {
        /// The node.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    // Operations
    /// An operator changes the placement. Rejected if the state is not the one it was planned on.
    Operate {
        /// The operation.
        operation: AdminOperation,
        /// The state it was planned on; `None` applies the operation to any state.
        basis: Option<Basis>,
    },
    /// A leaving node is no longer a member. Rejected while it has a replica.
    Retire {
        /// The node.
        node: NodeId,
    },
    /// Pauses the copying of the running plan. Rejected if another plan runs.
    PausePlan {
        /// [`Plan::id`].
        plan: u64,
    },
    /// Resumes the copying of the running plan.
    ResumePlan {
        /// [`Plan::id`].
        plan: u64,
    },
    /// Restores the ring from before the plan; copies made for the plan are dropped.
    AbortPlan {
        /// [`Plan::id`].
        plan: u64,
    },
    /// Sets the pace of copying on every node.
    SetThrottle {
        /// Bytes a second; `None` restores each node's own setting.
        bytes_per_s: Option<u64>,
    },
    /// Sets whether a node that joins receives data at once.
    SetAutoRebalance {
        /// Whether it receives data at once.
        enabled: bool,
    },
    /// Raises the protocol version in use to the highest one that all members support. Rejected if that is
    /// another one.
    RaiseProtocol(ProtocolVersion),
    /// Founds a new generation in a log of its own. Rejected if the log already has a founded state.
    TakeOver(Takeover),
    /// The primary has stopped serving, with pending writes that it cannot append because its disk is full.
    /// Its replica becomes away, and the next in-sync replica takes over; the last in-sync replica stays the
    /// primary. Both begin a new term. Rejected unless the term and the incarnation are unchanged.
    StepDown(PrimaryRef),
    /// An operator gives up what only the last complete copies of these partitions hold. Rejected, all of it,
    /// unless each loss is as it was when it was looked at.
    GiveUp(Vec<Loss>),
}

impl Change {
    /// Returns whether nothing waits for the change: it may be committed a little later, together with
    /// others.
    pub fn can_wait(&self) -> bool {
        matches!(self, Self::CaughtUp { .. } | Self::ResumeReplica { .. })
    }
}

/// The outcome of one change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The change was applied.
    Applied,
    /// The change was void, for this reason.
    Rejected(String),
}
