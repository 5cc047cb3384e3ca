//! The committed state of the cluster: what the topology log's state machine holds.
//!
//! [`ClusterState::apply`] is a pure function of the state and a list of [`Change`]s, so that every node
//! that has applied the same entries holds the same state. A change whose conditions no longer hold is
//! void: it changes nothing and says why.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::operations::{Basis, Operation, Operations};
use super::protocol::Speech;
use super::ring::Ring;
use super::takeover::{TakenOver, Takeover, Unmerged};
use crate::id::{ClusterId, Epoch, Incarnation, NodeId, Partition, Term};

/// What a node says of itself when it wants to be a member, or is one again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Who it is.
    pub node: NodeId,
    /// Which start of it this is.
    pub incarnation: Incarnation,
    /// Where peers reach it: multiaddrs.
    pub peer_addrs: Vec<String>,
    /// Where clients reach it: `host:port` of its RESP port.
    pub client_addr: String,
    /// Failure zone; empty if none was given.
    pub zone: String,
    /// Share of the ring relative to the others'; 0 holds no data (a witness).
    pub weight: u32,
    /// Version of the build.
    pub build: String,
    /// Highest version of the peer protocol it speaks.
    pub protocol: u16,
    /// Lowest version of the peer protocol it speaks.
    pub protocol_min: u16,
    /// What else it can do, one bit each: see [`super::protocol`].
    pub features: u64,
    /// What its store holds of what it acknowledged before this start.
    pub store: StoreCondition,
}

/// What a store holds of what its node acknowledged, when it is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreCondition {
    /// All of it: nothing is damaged, and what is acknowledged is synced.
    Whole,
    /// Nothing is damaged, but what is acknowledged is not synced at once: the last of it may be missing after a
    /// power loss.
    Unsynced,
    /// Damage was found in it that is not healed: anything may be missing, or older than it should be (rule R4).
    Damaged,
}

/// Whether a member takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberStatus {
    /// Has registered its present incarnation and not been declared down since.
    Up,
    /// Declared down by the coordinator after its lease had run out.
    Down,
}

/// A node that was admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What it last announced of itself.
    pub announcement: Announcement,
    /// Whether it takes part.
    pub status: MemberStatus,
    /// Whether it is to be primary of nothing; a restart ends that.
    pub draining: bool,
    /// The epoch of its last change of status or incarnation.
    pub since: Epoch,
}

/// What a replica holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaRole {
    /// Every acknowledged write.
    InSync,
    /// Receives all new writes while older ones are copied to it.
    Syncing,
    /// Its node is down; what it holds is kept for its return.
    Away,
}

/// One copy of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// The node that holds it.
    pub node: NodeId,
    /// What it holds.
    pub role: ReplicaRole,
    /// Epoch in which the copy was assigned to the node; a store from an earlier assignment starts empty.
    pub assigned: Epoch,
    /// Epoch of the entry that last made it syncing (or in-sync at once, for a new partition).
    pub syncing_since: Epoch,
    /// Set where the ring does not ask for the copy: it stands in for one that is away.
    pub stand_in: Option<StandIn>,
    /// Of a syncing replica: it was in-sync when its node restarted on a whole store, and has received every write
    /// since. So it holds every acknowledged write, besides others.
    pub complete: bool,
    /// Set from a takeover on until it is in-sync: its store is of an older generation (rule R10).
    pub unmerged: Option<Unmerged>,
}

/// What a stand-in is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandIn {
    /// The node whose copy is away.
    pub of: NodeId,
    /// Whether older records are copied to it, too. Until then it only receives new writes.
    pub rebuild: bool,
}

/// The state of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// Counts its primaries.
    pub term: Term,
    /// Whether the present term began with the consent of the former primary, which had settled all
    /// pending writes: the new one need not reconcile with the other in-sync replicas first.
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

/// A running change of placement: copies are made until every partition has the replicas the ring names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Counts the cluster's plans.
    pub id: u64,
    /// Why, in words: "node X joined".
    pub cause: String,
    /// Epoch in which it was committed.
    pub epoch: Epoch,
    /// Copies to be made in all.
    pub copies_total: u32,
    /// The fewest copies that could have been made.
    pub copies_ideal: u32,
    /// Records sent so far for those of its copies that are made.
    pub moved_keys: u64,
    /// Bytes of these records, as they are stored.
    pub moved_bytes: u64,
}

/// Everything the nodes have agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// Which cluster.
    pub cluster_id: ClusterId,
    /// Raised by a takeover only.
    pub generation: u32,
    /// The takeover this generation began with; none in the first.
    pub taken_over: Option<TakenOver>,
    /// Number of this state; 0 is the state before the founding.
    pub epoch: Epoch,
    /// How many copies each key should have.
    pub replication_factor: u8,
    /// Length of a node's lease, in milliseconds.
    pub lease_ms: u32,
    /// How long a node is away before its copies are made anew on its stand-ins, in milliseconds.
    pub rebuild_delay_ms: u32,
    /// The nodes that were admitted. Shared like the partitions.
    pub members: Arc<BTreeMap<NodeId, Member>>,
    /// Where the copies should be.
    pub ring: Ring,
    /// Where the copies are; one entry a partition, empty before the founding. Shared with the states before and after in
    /// which the partition is the same, so that a new state costs what it changes.
    pub partitions: Vec<Arc<PartitionState>>,
    /// The running plan, if the copies are not where they should be.
    pub plan: Option<Plan>,
    /// How many plans there have been.
    pub plans_total: u64,
    /// What operators have set and started, and what the members speak.
    pub operations: Operations,
}

/// One proposal to change the state. Each names what it was decided on, so that it is void when that has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Founds the cluster with its first node. Void if it is founded.
    Found {
        /// The name drawn for it.
        cluster_id: ClusterId,
        /// How many copies each key should have.
        replication_factor: u8,
        /// Length of a lease, in milliseconds.
        lease_ms: u32,
        /// How long a node is away before its copies are made anew, in milliseconds.
        rebuild_delay_ms: u32,
        /// The founding node.
        founder: Announcement,
    },
    /// Admits a new node, or takes a known one back with a new incarnation. Void if the incarnation is not
    /// newer than the committed one.
    Register(Announcement),
    /// Declares a node down. Void unless it is up with this incarnation.
    DeclareDown {
        /// Which node.
        node: NodeId,
        /// The incarnation whose lease has run out.
        incarnation: Incarnation,
    },
    /// A syncing replica has all its primary has. Void unless everything named here is unchanged (rule R2).
    CaughtUp {
        /// Which partition.
        partition: Partition,
        /// The term in which the primary saw it.
        term: Term,
        /// The primary's incarnation.
        primary_incarnation: Incarnation,
        /// The syncing replica.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// Its [`Replica::syncing_since`].
        syncing_since: Epoch,
    },
    /// The primary has stopped serving and settled everything pending; the partition goes to the replicas
    /// the ring names, under a new term (rule R3). If that is not possible any more, the same primary gets
    /// the new term. Void unless the term and the incarnation are unchanged.
    HandOver {
        /// Which partition.
        partition: Partition,
        /// The term that ends.
        term: Term,
        /// The incarnation of the primary that gives it up.
        primary_incarnation: Incarnation,
    },
    /// The primary cannot get acknowledgements from a replica (rule R8): the replica becomes away.
    /// Void unless term and incarnations are unchanged; the last in-sync replica is never removed.
    SuspendReplica {
        /// Which partition.
        partition: Partition,
        /// The term in which the primary saw it.
        term: Term,
        /// The primary's incarnation.
        primary_incarnation: Incarnation,
        /// The replica that does not acknowledge.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// Its [`Replica::syncing_since`].
        syncing_since: Epoch,
    },
    /// A node whose replica is away can take part again without a restart: the replica becomes syncing.
    /// Void unless it is away, the node is up, and everything named here is unchanged.
    ResumeReplica {
        /// Which partition.
        partition: Partition,
        /// The node of the replica.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// Its [`Replica::syncing_since`].
        syncing_since: Epoch,
    },
    /// The copies of a node that is away are made anew on its stand-ins. Void unless it is a member with this
    /// incarnation and a stand-in waits for this.
    Rebuild {
        /// The node that is away.
        node: NodeId,
        /// Its last registered incarnation.
        incarnation: Incarnation,
    },
    /// The node is to be primary of nothing: it hands its partitions over. Void unless it is up with this
    /// incarnation, and not drained.
    Drain {
        /// Which node.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// Ends [`Change::Drain`]. Void unless the node is up with this incarnation, and drained.
    Undrain {
        /// Which node.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    // Operations
    /// An operator changes where the copies should be. Void if the state is not the one it was planned on.
    Operate {
        /// What is to be done.
        operation: Operation,
        /// What it was planned on; without, it is done on whatever there is.
        basis: Option<Basis>,
    },
    /// A leaving node is no member any more. Void while it holds a replica.
    Retire {
        /// Which node.
        node: NodeId,
    },
    /// The running plan copies nothing until it is resumed. Void if another plan runs.
    PausePlan {
        /// [`Plan::id`].
        plan: u64,
    },
    /// The running plan copies again.
    ResumePlan {
        /// [`Plan::id`].
        plan: u64,
    },
    /// The ring goes back to the one before the plan; copies made for it are dropped.
    AbortPlan {
        /// [`Plan::id`].
        plan: u64,
    },
    /// Sets the pace of copying on every node.
    SetThrottle {
        /// Bytes a second; `None` for each node's own setting.
        bytes_per_s: Option<u64>,
    },
    /// Sets whether a node that joins is given data at once.
    SetAutoRebalance {
        /// Whether it is.
        enabled: bool,
    },
    /// All members speak more than what is in use: it is in use from now on.
    RaiseSpeech(Speech),
    /// As `CaughtUp`, and names the digests of both copies after the same write. Void if they differ.
    CaughtUpEqual {
        /// Which partition.
        partition: Partition,
        /// The term in which the primary saw it.
        term: Term,
        /// The primary's incarnation.
        primary_incarnation: Incarnation,
        /// The syncing replica.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// Its [`Replica::syncing_since`].
        syncing_since: Epoch,
        /// Digest of the primary's copy.
        source_digest: u64,
        /// Digest of the replica's.
        target_digest: u64,
        /// Records the primary sent for this copy. What another primary had sent before is not counted.
        sent_keys: u64,
        /// Bytes of these records, as they are stored.
        sent_bytes: u64,
    },
    /// Founds a new generation in a log of its own. Void if anything is founded there.
    TakeOver(Takeover),
    /// The primary has stopped serving, with writes pending that it cannot append: its disk is full. Its replica becomes
    /// away and the next in-sync one takes over; the last in-sync one stays the primary. A new term begins in both cases.
    /// Void unless the term and the incarnation are unchanged, or before `FEATURE_DISK` is in use.
    StepDown {
        /// Which partition.
        partition: Partition,
        /// The term that ends.
        term: Term,
        /// The incarnation of the primary that gives it up.
        primary_incarnation: Incarnation,
    },
}

impl Change {
    /// Whether nobody waits for it: it may be committed a little later, together with others.
    pub fn can_wait(&self) -> bool {
        matches!(self, Self::CaughtUp { .. } | Self::CaughtUpEqual { .. } | Self::ResumeReplica { .. })
    }
}

/// What became of one change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It changed the state.
    Applied,
    /// It changed nothing, for this reason.
    Void(String),
}
