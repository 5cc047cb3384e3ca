//! A member keeps dialing its bootstrap peers in addition to the addresses it remembers: nodes are known by
//! their keys, and all of them may have moved.
//!
//! The node handles each bootstrap address separately, so that an unreachable one delays no other. It dials
//! an address while it has no lease or fails to reach a member. While the node at that address is connected,
//! it dials rarely: another node may have the address by now. A connection suffices for the topology log to
//! elect. The node tries the addresses from the peer's introduction before the committed ones, until the peer
//! is registered under its new addresses.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use super::Node;
use super::addresses::observed_addrs;
use super::control::{Control, ControlAnswer, Envelope, ask};
use crate::cluster::state::Announcement;
use crate::host::Host;
use crate::id::{Incarnation, NodeId};
use crate::net::{DialError, Network, Refused};
use crate::supervise::Supervisor;

/// Pause before an address is dialed again: the first pause, which doubles up to the longest without an
/// answer.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Time after which an address of a connected node is dialed again: without a lease, and with one.
const RECHECK: Duration = Duration::from_secs(5);
const RECHECK_SERVING: Duration = Duration::from_secs(60);
/// Maximum of nodes whose uncommitted addresses are kept.
const HEARD_ADDRS_MAX: usize = 1024;
/// Maximum of addresses kept per node, and of bytes per address: an announcement is bounded only by its
/// message.
const ADDRS_PER_NODE_MAX: usize = 16;
const ADDR_BYTES_MAX: usize = 512;
/// Time limit for a peer to introduce itself.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);

/// Addresses of a node that are not committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HeardAddrs {
    /// Addresses that the node itself announced.
    own: Vec<String>,
    /// Addresses at which another member knows it, or observes it.
    told: Vec<String>,
    /// The incarnation registered when the addresses arrived; a newer one has its own addresses.
    registered: Option<Incarnation>,
}

/// Returns those of the addresses that are kept.
fn within_bounds(addrs: &[String]) -> Vec<String> {
    addrs.iter().filter(|addr| addr.len() <= ADDR_BYTES_MAX).take(ADDRS_PER_NODE_MAX).cloned().collect()
}

/// Returns the entry of a node, which is empty if the old one precedes the node's present registration.
/// Returns `None` if the table is full.
fn entry(
    heard: &mut BTreeMap<NodeId, HeardAddrs>,
    node: NodeId,
    registered: Option<Incarnation>,
) -> Option<&mut HeardAddrs> {
    if heard.len() >= HEARD_ADDRS_MAX && !heard.contains_key(&node) {
        return None;
    }
    let entry = heard.entry(node).or_default();
    if entry.registered != registered {
        *entry = HeardAddrs { registered, ..HeardAddrs::default() };
    }
    Some(entry)
}

/// Appends the addresses that are not in the list.
fn append(list: &mut Vec<String>, addrs: &[String]) {
    for addr in addrs {
        if !list.contains(addr) {
            list.push(addr.clone());
        }
    }
}

/// Dials bootstrap peers until the future is dropped, so that peers reach this node over the connections.
pub(super) async fn keep_connected(network: &Network, bootstrap: &[String]) -> Infallible {
    // Only its clock is used.
    let host = &Host::real(Supervisor::default());
    let follow = bootstrap.iter().map(|addr| async move {
        let mut place = Place::new(addr);
        loop {
            place.dial(network, host, RECHECK).await;
            tokio::time::sleep(place.pause).await;
        }
    });
    futures::future::join_all(follow).await;
    std::future::pending().await
}

/// One bootstrap address, and the results of dialing it.
struct Place<'a> {
    addr: &'a str,
    pause: Duration,
    /// The node that last answered at the address, and the time on the monotonic clock.
    led_to: Option<(NodeId, u64)>,
    /// Time when that node introduced itself.
    met_ms: Option<u64>,
}

impl<'a> Place<'a> {
    fn new(addr: &'a str) -> Self {
        Self { addr, pause: PAUSE_MIN, led_to: None, met_ms: None }
    }

    /// Dials the address, unless it reached a connected node, or this node, less than `recheck` ago.
    async fn dial(&mut self, network: &Network, host: &Host, recheck: Duration) {
        let fresh = self.led_to.is_some_and(|(node, at_ms)| {
            !is_over(host, at_ms, recheck) && (node == network.local() || network.is_connected(node))
        });
        if fresh {
            return;
        }
        match network.dial(self.addr).await {
            Ok(node) => {
                if self.led_to.is_none_or(|(before, _)| before != node) {
                    tracing::debug!(addr = self.addr, %node, "a bootstrap peer answered");
                    self.met_ms = None;
                }
                self.led_to = Some((node, host.monotonic_ms()));
                self.pause = PAUSE_MIN;
            }
            Err(DialError::Itself) => {
                self.led_to = Some((network.local(), host.monotonic_ms()));
            }
            Err(error) => {
                self.led_to = None;
                self.pause = (2 * self.pause).min(PAUSE_MAX);
                tracing::debug!(addr = self.addr, %error, "a bootstrap peer did not answer");
            }
        }
    }
}

/// Returns whether `length` has passed since `since_ms`.
fn is_over(host: &Host, since_ms: u64, length: Duration) -> bool {
    u128::from(host.monotonic_ms().saturating_sub(since_ms)) >= length.as_millis()
}

impl Node {
    /// Dials every bootstrap address for as long as the node runs.
    pub(super) async fn run_bootstrap(self: Arc<Self>, network: Network) {
        let bootstrap = self.settings.bootstrap.clone();
        let follow = bootstrap.iter().map(|addr| {
            let (node, network) = (Arc::clone(&self), network.clone());
            async move {
                let mut place = Place::new(addr);
                loop {
                    node.follow(&network, &mut place).await;
                    tokio::time::sleep(place.pause).await;
                }
            }
        });
        futures::future::join_all(follow).await;
        // Without bootstrap peers this task has no work.
        std::future::pending().await
    }

    async fn follow(self: &Arc<Self>, network: &Network, place: &mut Place<'_>) {
        let serving = self.is_serving();
        if serving && !network.misses_peers() {
            place.pause = PAUSE_MIN;
            return;
        }
        place.dial(network, &self.host, if serving { RECHECK_SERVING } else { RECHECK }).await;
        let Some((peer, _)) = place.led_to.filter(|(node, _)| *node != self.id) else { return };
        // The peer may in the meantime know of further members that this node must reach.
        let pause = if serving { RECHECK } else { PAUSE_MAX };
        if place.met_ms.is_none_or(|met_ms| is_over(&self.host, met_ms, pause)) {
            place.met_ms = self.meet(peer).await.then(|| self.host.monotonic_ms());
            place.pause = if place.met_ms.is_some() { PAUSE_MIN } else { (2 * place.pause).min(PAUSE_MAX) };
        }
    }

    /// Asks a peer to introduce itself; returns whether it did.
    async fn meet(&self, peer: NodeId) -> bool {
        let hello = Envelope::without_state(Control::Hello);
        match ask(&self.peers, peer, &hello, HELLO_TIMEOUT).await {
            Ok(ControlAnswer::Hello { cluster_id: Some(theirs), .. }) if theirs != self.cluster_id => {
                let why = format_args!("a bootstrap peer is of cluster {theirs}");
                self.note_refused(Refused::OtherCluster, peer, &why);
                true
            }
            Ok(ControlAnswer::Hello { cluster_id: Some(_), coordinator, members }) => {
                if let Some(coordinator) = coordinator.filter(|node| *node != self.id) {
                    *self.coordinator_hint.lock() = Some(coordinator);
                }
                self.learn_addrs(peer, members);
                true
            }
            other => {
                tracing::debug!(%peer, ?other, "a bootstrap peer did not introduce itself");
                false
            }
        }
    }

    /// Stores the addresses of members that `from` reported, its own and those of others.
    fn learn_addrs(&self, from: NodeId, members: Vec<(NodeId, Vec<String>)>) {
        let state = self.topology.state();
        let mut heard = self.heard_addrs.lock();
        let mut changed = false;
        for (node, addrs) in members {
            let Some(member) = state.members.get(&node).filter(|_| node != self.id) else { continue };
            let addrs = within_bounds(&addrs);
            // Skip addresses that are committed already, unless they replace other uncommitted ones.
            if member.announcement.peer_addrs == addrs && !heard.contains_key(&node) {
                continue;
            }
            let Some(entry) = entry(&mut heard, node, Some(member.announcement.incarnation)) else {
                continue;
            };
            let place = if node == from { &mut entry.own } else { &mut entry.told };
            changed |= *place != addrs;
            *place = addrs;
        }
        drop(heard);
        if changed {
            self.update_peers();
        }
    }

    /// Returns the addresses of members and of nodes that want to join: first those that the node announced
    /// and others reported since its registration, then the committed ones.
    fn known_addrs(&self) -> BTreeMap<NodeId, Vec<String>> {
        let state = self.topology.state();
        let registered = |node: &NodeId| Some(state.members.get(node)?.announcement.incarnation);
        let mut heard = self.heard_addrs.lock();
        heard.retain(|node, heard| heard.registered == registered(node));
        let mut known: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
        for (node, heard) in heard.iter() {
            let addrs = known.entry(*node).or_default();
            append(addrs, &heard.own);
            append(addrs, &heard.told);
        }
        for (node, member) in state.members.iter() {
            append(known.entry(*node).or_default(), &member.announcement.peer_addrs);
        }
        known
    }

    /// Stores the addresses that the node received while it looked for its cluster.
    pub(super) fn hear_addrs(&self, told: HashMap<NodeId, Vec<String>>) {
        let state = self.topology.state();
        let told: BTreeMap<NodeId, Vec<String>> = told.into_iter().collect();
        let mut heard = self.heard_addrs.lock();
        for (node, addrs) in told {
            let registered = state.members.get(&node).map(|member| member.announcement.incarnation);
            if let Some(entry) = entry(&mut heard, node, registered) {
                entry.told = within_bounds(&addrs);
            }
        }
    }

    /// Stores the addresses that a node announces for itself, until they are committed.
    pub(super) fn note_address(&self, announcement: &Announcement) {
        let state = self.topology.state();
        let registered = |node: &NodeId| Some(state.members.get(node)?.announcement.incarnation);
        let node = announcement.node;
        let noted = {
            let mut heard = self.heard_addrs.lock();
            if heard.len() >= HEARD_ADDRS_MAX {
                heard.retain(|node, heard| heard.registered == registered(node));
            }
            let entry = entry(&mut heard, node, registered(&node));
            entry.map(|entry| entry.own = within_bounds(&announcement.peer_addrs)).is_some()
        };
        if noted {
            self.update_peers();
        } else {
            tracing::debug!(%node, "an address was not stored: too many nodes want to join");
        }
    }

    /// Passes the addresses of members, and of nodes that want to join, to the network.
    pub(super) fn update_peers(&self) {
        let mut peers = self.known_addrs();
        peers.remove(&self.id);
        self.peers.set_peers(peers.into_iter().collect());
    }

    /// Answers `Control::Hello`.
    pub(super) fn introduce(&self) -> ControlAnswer {
        let state = self.topology.state();
        let mut members = self.known_addrs();
        members.retain(|node, _| state.members.contains_key(node));
        for (node, addrs) in &mut members {
            // Add the observed address, which only this node may know.
            let seen = self.peers.observed(*node).map(|ip| observed_addrs(ip, addrs)).unwrap_or_default();
            append(addrs, &seen);
        }
        // This node's present addresses, even if others are registered.
        members.insert(self.id, self.peer_addrs.clone());
        ControlAnswer::Hello {
            cluster_id: Some(self.cluster_id),
            coordinator: self.topology.coordinator(),
            members: members.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u16) -> NodeId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&number.to_le_bytes());
        NodeId::from_bytes(id)
    }

    #[test]
    fn addresses_of_a_bounded_number_of_nodes_are_kept_and_a_bounded_number_of_each() {
        let mut all = BTreeMap::new();
        let nodes = HEARD_ADDRS_MAX as u16;
        for number in 0..nodes {
            assert!(entry(&mut all, node(number), None).is_some());
        }
        assert!(entry(&mut all, node(nodes), None).is_none());
        assert!(entry(&mut all, node(0), None).is_some(), "a node with an entry may move");
        let mut many = vec!["x".repeat(ADDR_BYTES_MAX + 1)];
        many.extend((0..100).map(|number| number.to_string()));
        let kept = within_bounds(&many);
        assert_eq!((kept.len(), kept[0].as_str()), (ADDRS_PER_NODE_MAX, "0"));
    }

    #[test]
    fn addresses_heard_of_a_node_end_with_its_next_registration() {
        let mut all = BTreeMap::new();
        entry(&mut all, node(1), Some(7)).unwrap().told = vec!["/dns/old/tcp/1".to_owned()];
        let kept = entry(&mut all, node(1), Some(7)).unwrap();
        assert_eq!((kept.told.len(), kept.own.len()), (1, 0));
        assert_eq!(
            *entry(&mut all, node(1), Some(8)).unwrap(),
            HeardAddrs { registered: Some(8), ..HeardAddrs::default() }
        );
    }
}
