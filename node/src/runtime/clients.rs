//! The node as its front ends see it, and the front ends as the node starts them.

use std::net::IpAddr;
use std::sync::Arc;

use caskade_engine::slots::{PARTITIONS, SLOTS, partition_of};
use caskade_engine::stats::EngineStats;
use caskade_engine::task::TaskStatus;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::Node;
use crate::api::{HealStats, PeerStats};
use crate::cluster::state::{ClusterState, Member};
use crate::cluster::view;
use crate::config::{self, Redirect};
use crate::data::{KeyRange, KeysInOrder, Plane};
use crate::frontend::context::FrontEndContext;
use crate::frontend::keyspace::{AdminRequest, ClientPlace, ClusterSlots, Keyspace, SlotNode, SlotRange};
use crate::frontend::security::Security;
use crate::frontend::{memcached, resp};
use crate::id::Partition;
use crate::kv::{Failure, Operation, ScanPage, Ticket};
#[cfg(all(feature = "mutations", debug_assertions))]
use crate::supervise::Part;

/// Slots of one partition.
const SLOTS_PER_PARTITION: u16 = SLOTS / PARTITIONS;

impl Node {
    /// Serves Redis clients on `listener` with the rules of `security` until `stopping` is true; then answers
    /// their pending requests.
    pub async fn serve_clients(
        self: Arc<Self>,
        listener: TcpListener,
        security: Security,
        stopping: watch::Receiver<bool>,
    ) -> Result<(), String> {
        let context = self.front_end_context(security);
        resp::serve(Arc::new(NodeKeyspace(self)), context, listener, stopping).await;
        Ok(())
    }

    /// Serves memcached clients in the same way. Both kinds of clients share the limits.
    pub async fn serve_memcached(
        self: Arc<Self>,
        listener: TcpListener,
        security: Security,
        stopping: watch::Receiver<bool>,
    ) -> Result<(), String> {
        let context = self.front_end_context(security);
        memcached::serve(Arc::new(NodeKeyspace(self)), context, listener, stopping).await;
        Ok(())
    }

    fn front_end_context(&self, security: Security) -> FrontEndContext {
        FrontEndContext { stats: self.stats.clone(), limits: Arc::clone(&self.client_limits), security }
    }

    /// Returns the line that reports that the node serves, with its addresses.
    pub fn ready_line(&self) -> String {
        let peer = self.peer_addrs.first().map_or("", String::as_str);
        let resp = self.client_place(&self.announcement(), None).bracketed();
        format!("ready node={} resp={resp} peer={peer} cluster={}", self.id, self.cluster_id)
    }
}

/// A node, shared with its front ends.
struct NodeKeyspace(Arc<Node>);

impl NodeKeyspace {
    fn topology_node(&self, state: &ClusterState, member: &Member, local: Option<IpAddr>) -> SlotNode {
        let announcement = &member.announcement;
        let peer_port =
            announcement.peer_addrs.first().and_then(|addr| addr.rsplit('/').next()?.parse().ok());
        SlotNode {
            id: announcement.node,
            place: self.0.client_place(announcement, local),
            peer_port: peer_port.unwrap_or(0),
            up: state.is_up(announcement.node),
            incarnation: announcement.incarnation,
        }
    }
}

impl Keyspace for NodeKeyspace {
    fn cluster_ms(&self) -> u64 {
        self.0.plane.cluster_ms()
    }

    fn submit(&self, operation: Operation) -> Ticket {
        let node = &self.0;
        let of_a_pair = || node.topology.state().data_members() <= 2;
        if node.settings.pair_stale_reads && !node.plane.has_lease() && of_a_pair() {
            return node.plane.submit_stale(operation);
        }
        node.plane.submit(operation)
    }

    fn submit_stale(&self, operation: Operation) -> Ticket {
        self.0.plane.submit_stale(operation)
    }

    fn redirects(&self) -> bool {
        self.0.settings.redirect == Redirect::Moved
    }

    fn elsewhere(&self, key: &[u8], readonly: bool, local: Option<IpAddr>) -> Option<ClientPlace> {
        let (node, partition) = (&self.0, partition_of(key));
        let state = node.topology.state();
        let copies =
            state.partition(partition).filter(|_| self.redirects() && state.is_live_primary(partition))?;
        let primary = copies.primary().filter(|primary| *primary != node.id)?;
        let member = state.members.get(&primary).filter(|_| !(readonly && copies.is_in_sync(node.id)))?;
        Some(node.client_place(&member.announcement, local))
    }

    fn scan(&self, cursor: u64, limit: usize) -> BoxFuture<'_, Result<ScanPage, Failure>> {
        Box::pin(self.0.plane.scan(cursor, limit))
    }

    fn keys_in_order(&self, range: KeyRange, limit: usize) -> BoxFuture<'_, Result<KeysInOrder, Failure>> {
        Box::pin(async move { self.0.plane.keys_in_order(&range, limit).await })
    }

    fn expired_keys(&self) -> u64 {
        self.0.plane.expired_keys()
    }

    fn walk_of_slot(&self, slot: u16) -> (u64, u64) {
        Plane::cursors_of(slot / SLOTS_PER_PARTITION)
    }

    fn count(&self) -> BoxFuture<'_, Result<u64, Failure>> {
        Box::pin(self.0.plane.count())
    }

    fn count_expiring(&self) -> BoxFuture<'_, Result<u64, Failure>> {
        Box::pin(self.0.plane.count_expiring())
    }

    fn cluster_slots(&self, local: Option<IpAddr>) -> ClusterSlots {
        let state = self.0.topology.state();
        let members: Vec<_> = state.members.keys().copied().collect();
        let place = |node| members.binary_search(&node).ok();
        ClusterSlots {
            node: self.0.id,
            epoch: state.epoch,
            nodes: state.members.values().map(|member| self.topology_node(&state, member, local)).collect(),
            ranges: slot_ranges(&state, place),
        }
    }

    fn admin(&self, request: AdminRequest, local: Option<IpAddr>) -> BoxFuture<'_, Result<String, String>> {
        let node = &self.0;
        Box::pin(async move {
            let json = match request {
                AdminRequest::Status => serde_json::to_string(&node.status_for(local)),
                AdminRequest::Nodes => serde_json::to_string(&node.nodes(local)),
                AdminRequest::Ring => serde_json::to_string(&view::ring(&node.topology.state())),
                AdminRequest::Tasks => serde_json::to_string(&node.cluster_tasks()),
                AdminRequest::Digests => serde_json::to_string(&node.digests()),
                AdminRequest::Events { limit } => serde_json::to_string(&node.newest_events(limit)),
                AdminRequest::Plan { words } => return node.plan(&words).await,
                AdminRequest::Commit { words } => return node.commit(&words).await,
                AdminRequest::Rebuild { node: name } => {
                    serde_json::to_string(&node.rebuild_node(&name).await?)
                }
                AdminRequest::Drain { node: name } => serde_json::to_string(&node.drain_node(&name).await?),
                AdminRequest::Undrain { node: name } => {
                    serde_json::to_string(&node.undrain_node(&name).await?)
                }
                AdminRequest::TakeOver { confirmed } => {
                    serde_json::to_string(&node.take_over(confirmed).await?)
                }
                AdminRequest::GiveUp { partitions, confirmation } => {
                    serde_json::to_string(&node.give_up(&partitions, confirmation.as_deref()).await?)
                }
                AdminRequest::Snapshot { directory } => {
                    serde_json::to_string(&node.snapshot_store(directory).await?)
                }
            };
            json.map_err(|error| format!("cannot encode the answer as JSON: {error}"))
        })
    }

    fn store(&self) -> (EngineStats, Option<TaskStatus>) {
        let engine = self.0.plane.engine();
        (engine.stats(), engine.merge_status())
    }

    fn healing(&self) -> HealStats {
        self.0.plane.heal_figures()
    }

    fn peers(&self) -> PeerStats {
        self.0.peer_figures()
    }

    fn settings(&self) -> Vec<(String, String)> {
        config::pairs(&self.0.shown_settings.load())
    }

    #[cfg(all(feature = "mutations", debug_assertions))]
    fn end_part(&self, name: &str, by_panic: bool) -> bool {
        let part = Part::ALL.iter().find(|part| part.name() == name);
        part.map(|part| self.0.host.supervisor().end(*part, by_panic)).is_some()
    }
}

/// Returns the ranges of slots and their nodes; adjacent slots with the same replicas form one range.
fn slot_ranges(state: &ClusterState, place: impl Fn(crate::id::NodeId) -> Option<usize>) -> Vec<SlotRange> {
    let mut ranges: Vec<SlotRange> = Vec::new();
    for (partition, copies) in state.partitions() {
        let range = SlotRange {
            start: first_slot(partition),
            end: first_slot(partition) + SLOTS_PER_PARTITION - 1,
            primary: copies.primary().filter(|_| state.is_live_primary(partition)).and_then(&place),
            replicas: copies.replicas.iter().skip(1).filter_map(|replica| place(replica.node)).collect(),
        };
        match ranges.last_mut() {
            Some(last) if last.primary == range.primary && last.replicas == range.replicas => {
                last.end = range.end;
            }
            _ => ranges.push(range),
        }
    }
    ranges
}

fn first_slot(partition: Partition) -> u16 {
    partition * SLOTS_PER_PARTITION
}
