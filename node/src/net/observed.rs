//! IP addresses of peers as their connections show them, in addition to the announced addresses; and names
//! that do not resolve.
//!
//! An observed address is a hint: a node dialed at it still has to prove the peer's key. Both tables are
//! bounded.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::id::NodeId;

/// Maximum of peers whose addresses are kept.
const OBSERVED_MAX: usize = 8192;
/// Maximum of unresolved names that are remembered.
const NAMES_MAX: usize = 256;
/// Time between two log lines about one name.
const NAME_PAUSE: Duration = Duration::from_secs(60);

/// The IP address a peer was last connected from or to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    ip: IpAddr,
    /// Whether this node dialed the address: then other nodes can dial it too. The remote address of a
    /// connection that the peer opened may be that of a gateway.
    dialed: bool,
    connected: bool,
}

/// The addresses that connections show, by peer.
#[derive(Debug, Default)]
pub(super) struct Observed(Mutex<HashMap<NodeId, Seen>>);

impl Observed {
    /// Records a connection to a peer.
    pub(super) fn connected(&self, peer: NodeId, ip: IpAddr, dialed: bool) {
        let mut seen = self.0.lock();
        let keeps = seen.get(&peer).is_some_and(|seen| seen.connected && seen.dialed && !dialed);
        if !keeps && (seen.contains_key(&peer) || seen.len() < OBSERVED_MAX) {
            seen.insert(peer, Seen { ip: ip.to_canonical(), dialed, connected: true });
        }
    }

    /// Records that the last connection to a peer closed: the next one, opened by either side, replaces the
    /// address.
    pub(super) fn disconnected(&self, peer: NodeId) {
        if let Some(seen) = self.0.lock().get_mut(&peer) {
            seen.connected = false;
        }
    }

    /// Returns the address at which a peer is connected, or was connected last.
    pub(super) fn of(&self, peer: NodeId) -> Option<IpAddr> {
        self.0.lock().get(&peer).map(|seen| seen.ip)
    }

    /// Forgets peers that are neither wanted nor connected.
    pub(super) fn retain(&self, wanted: impl Fn(&NodeId) -> bool) {
        self.0.lock().retain(|peer, seen| seen.connected || wanted(peer));
    }
}

/// Names that did not resolve, with the time of the last log line.
#[derive(Debug, Default)]
pub(super) struct Unresolved(Mutex<HashMap<String, Instant>>);

impl Unresolved {
    /// Logs that the name in an address does not resolve, at most once a minute for each name.
    pub(super) fn log(&self, address: &str, error: &str) {
        if self.is_due(address, Instant::now()) {
            tracing::warn!(
                address,
                error,
                "the name in a peer's address does not resolve; this node resolves it again at the next dial"
            );
        }
    }

    fn is_due(&self, address: &str, now: Instant) -> bool {
        let mut logged = self.0.lock();
        logged.retain(|_, at| now.saturating_duration_since(*at) < NAME_PAUSE);
        if logged.contains_key(address) || logged.len() >= NAMES_MAX {
            return false;
        }
        logged.insert(address.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_that_was_dialed_counts_more_than_the_one_a_peer_came_from_while_it_is_connected() {
        let (observed, peer) = (Observed::default(), NodeId::from_bytes([1; 32]));
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        observed.connected(peer, ip("172.17.0.1"), false);
        assert_eq!(observed.of(peer), Some(ip("172.17.0.1")));
        observed.connected(peer, ip("::ffff:10.0.0.2"), true);
        observed.connected(peer, ip("172.17.0.1"), false);
        assert_eq!(observed.of(peer), Some(ip("10.0.0.2")));
        observed.disconnected(peer);
        assert_eq!(observed.of(peer), Some(ip("10.0.0.2")), "where it was last");
        observed.connected(peer, ip("10.0.0.3"), false);
        assert_eq!(observed.of(peer), Some(ip("10.0.0.3")), "it has moved");
        observed.disconnected(peer);
        observed.retain(|_| false);
        assert_eq!(observed.of(peer), None);
    }

    #[test]
    fn name_that_does_not_resolve_is_logged_at_once_and_then_once_a_minute() {
        let (unresolved, now) = (Unresolved::default(), Instant::now());
        assert!(unresolved.is_due("db1:7901", now) && !unresolved.is_due("db1:7901", now));
        assert!(unresolved.is_due("db2:7901", now));
        assert!(!unresolved.is_due("db1:7901", now + NAME_PAUSE / 2));
        assert!(unresolved.is_due("db1:7901", now + NAME_PAUSE));
    }
}
