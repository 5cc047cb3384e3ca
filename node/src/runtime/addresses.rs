//! The addresses that this node announces, and those of other members for clients.
//!
//! An announcement contains a host, as an address or a name, or only a port (`:7900`): then the port is open
//! on every address of that node. A node that reports such a member to a client inserts the address that it
//! knows itself, so that `0.0.0.0` and `[::]` never leave a node. It inserts, in this order:
//!
//! - for this node itself: the address to which the client has connected;
//! - for another member: the remote address of this node's present or last connection to it. If that is
//!   loopback, the member is on this machine, and the client reaches it at the address at which it reached
//!   this node;
//! - otherwise the host that the member announces to other nodes.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::Node;
use crate::cluster::state::Announcement;
use crate::config::{HostName, ReachedAt, Settings};
use crate::frontend::keyspace::ClientPlace;
use crate::net::Network;

/// Time without a further address after which the list of a listener on all addresses is complete.
const INTERFACES_PAUSE: Duration = Duration::from_millis(100);
/// Maximum of attempts at the start to find further addresses.
const INTERFACES_LOOKS: u32 = 20;

/// Returns the announced address for clients: `HOST:PORT`, or `:PORT` if the node listens on all addresses
/// and no host is set.
pub(super) fn client_addr(settings: &Settings, listener: &TcpListener) -> anyhow::Result<String> {
    let local = listener.local_addr().context("the RESP port has no address")?;
    Ok(announced_client_addr(settings, local))
}

fn announced_client_addr(settings: &Settings, local: SocketAddr) -> String {
    match (&settings.advertise_clients, &settings.advertise) {
        (Some(ReachedAt { host, port }), _) => format!("{host}:{}", port.unwrap_or(local.port())),
        (None, Some(ReachedAt { host, .. })) if local.ip().is_unspecified() => {
            format!("{host}:{}", local.port())
        }
        (None, None) if local.ip().is_unspecified() => format!(":{}", local.port()),
        _ => local.to_string(),
    }
}

/// Returns the announced addresses for peers, as multiaddrs: the configured one, or those on which the node
/// listens. If it listens on all addresses, waits briefly for the list of interfaces.
pub(super) async fn peer_addrs(settings: &Settings, network: &Network) -> Vec<String> {
    let listening = match settings.peer_listen.ip().is_unspecified() {
        true => all_interfaces(network).await,
        false => network.listen_addrs(),
    };
    announced_peer_addrs(settings.advertise.as_ref(), settings.peer_listen, &listening)
}

async fn all_interfaces(network: &Network) -> Vec<SocketAddr> {
    let mut found = network.listen_addrs();
    for _ in 0..INTERFACES_LOOKS {
        tokio::time::sleep(INTERFACES_PAUSE).await;
        let before = std::mem::replace(&mut found, network.listen_addrs());
        // Loopback appears first, and is useless to other machines: other addresses may take longer.
        if before == found && found.iter().any(|addr| !addr.ip().is_loopback()) {
            break;
        }
    }
    found.retain(|addr| is_of_this_machine(addr.ip()));
    found
}

fn announced_peer_addrs(
    advertised: Option<&ReachedAt>,
    peer_listen: SocketAddr,
    listening: &[SocketAddr],
) -> Vec<String> {
    if let Some(ReachedAt { host, port }) = advertised {
        let bound = listening.first().map_or(peer_listen.port(), SocketAddr::port);
        return vec![multiaddr(host, port.unwrap_or(bound))];
    }
    // Loopback and link-local addresses mean other machines to other nodes.
    let is_shared = |addr: &&SocketAddr| match addr.ip() {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let mut shared: Vec<&SocketAddr> = listening.iter().filter(is_shared).collect();
    if shared.is_empty() {
        shared.extend(listening);
    }
    shared.into_iter().map(|addr| multiaddr(&HostName::Ip(addr.ip()), addr.port())).collect()
}

fn multiaddr(host: &HostName, port: u16) -> String {
    match host {
        HostName::Ip(IpAddr::V4(ip)) => format!("/ip4/{ip}/tcp/{port}"),
        HostName::Ip(IpAddr::V6(ip)) => format!("/ip6/{ip}/tcp/{port}"),
        HostName::Name(name) => format!("/dns/{name}/tcp/{port}"),
    }
}

/// Returns a peer's announced addresses with the observed IP address in place of theirs.
pub(super) fn observed_addrs(ip: IpAddr, announced: &[String]) -> Vec<String> {
    let port = |addr: &String| addr.rsplit('/').next()?.parse().ok();
    announced.iter().filter_map(port).map(|port| multiaddr(&HostName::Ip(ip), port)).collect()
}

/// Returns whether an address belongs to this machine: an interface may name the address at the other end of
/// its link.
fn is_of_this_machine(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// Returns the hosts of the announced peer addresses; invalid ones are left out.
fn peer_hosts(announcement: &Announcement) -> impl Iterator<Item = HostName> {
    announcement.peer_addrs.iter().filter_map(|addr| HostName::read(addr.split('/').nth(2)?))
}

/// Knowledge of a node about its own or another member's address.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Whether the member is the answering node.
    itself: bool,
    /// The address to which the client has connected.
    local: Option<IpAddr>,
    /// The address of the member that this node observes.
    observed: Option<IpAddr>,
}

/// Returns the address at which a client reaches a member.
fn client_place(announcement: &Announcement, known: Known) -> ClientPlace {
    let (host, port) = announcement.client_addr.rsplit_once(':').unwrap_or((&announcement.client_addr, "0"));
    let port = port.parse().unwrap_or(0);
    let host = HostName::read(host.trim_start_matches('[').trim_end_matches(']'));
    if let Some(HostName::Ip(ip)) = host {
        return ClientPlace { ip: ip.to_string(), hostname: None, port };
    }
    let ip = seen_at(announcement, known).map(|ip| ip.to_string()).unwrap_or_default();
    let hostname = match host {
        Some(HostName::Name(name)) => Some(name),
        _ if ip.is_empty() => peer_hosts(announcement).find_map(|host| match host {
            HostName::Name(name) => Some(name),
            HostName::Ip(_) => None,
        }),
        _ => None,
    };
    ClientPlace { ip, hostname, port }
}

/// Returns the IP address of a member as this node observes it, or else one that the member announces to
/// other nodes.
fn seen_at(announcement: &Announcement, known: Known) -> Option<IpAddr> {
    let seen = if known.itself { known.local } else { known.observed };
    let seen = match seen {
        Some(ip) if ip.is_loopback() => known.local.or(Some(ip)),
        seen => seen,
    };
    let mut announced = peer_hosts(announcement).filter_map(|host| match host {
        HostName::Ip(ip) => Some(ip),
        HostName::Name(_) => None,
    });
    seen.or_else(|| announced.next()).map(|ip| ip.to_canonical())
}

impl Node {
    /// Returns the address at which a client reaches a member; `local` is the address to which that client
    /// has connected.
    pub(super) fn client_place(&self, announcement: &Announcement, local: Option<IpAddr>) -> ClientPlace {
        let node = announcement.node;
        let known = Known { itself: node == self.id, local, observed: self.peers.observed(node) };
        client_place(announcement, known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::state::StoreCondition;
    use crate::id::NodeId;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn settings(advertise: Option<&str>, advertise_clients: Option<&str>) -> Settings {
        let reached = |text: &str| ReachedAt { host: HostName::read(text).unwrap(), port: None };
        let mut settings = Settings::default();
        settings.advertise = advertise.map(reached);
        settings.advertise_clients = advertise_clients.map(reached);
        settings
    }

    fn announced(client_addr: &str, peer_addrs: &[&str]) -> Announcement {
        Announcement {
            node: NodeId::from_bytes([1; 32]),
            incarnation: 1,
            peer_addrs: peer_addrs.iter().map(|&addr| addr.to_owned()).collect(),
            client_addr: client_addr.to_owned(),
            zone: String::new(),
            weight: 1,
            build: String::new(),
            protocol: 1,
            protocol_min: 1,
            store: StoreCondition::Whole,
        }
    }

    #[test]
    fn client_port_is_announced_without_a_host_where_it_is_on_all_addresses_and_none_is_set() {
        let all = "0.0.0.0:7900".parse().unwrap();
        let one = "[fd00::1]:7900".parse().unwrap();
        for (advertise, clients, local, want) in [
            (None, None, all, ":7900"),
            (None, None, "[::]:7900".parse().unwrap(), ":7900"),
            (None, None, one, "[fd00::1]:7900"),
            (Some("db1"), None, all, "db1:7900"),
            (Some("db1"), None, one, "[fd00::1]:7900"),
            (Some("db1"), Some("cache.example"), all, "cache.example:7900"),
            (None, Some("::1"), one, "[::1]:7900"),
        ] {
            assert_eq!(announced_client_addr(&settings(advertise, clients), local), want);
        }
        let mapped = ReachedAt { host: HostName::read("db1").unwrap(), port: Some(30_900) };
        let mut settings = Settings::default();
        settings.advertise_clients = Some(mapped);
        assert_eq!(announced_client_addr(&settings, all), "db1:30900");
    }

    #[test]
    fn announced_addresses_are_those_set_or_the_interfaces_but_never_all_addresses() {
        let listening: Vec<SocketAddr> =
            ["127.0.0.1:7901", "10.0.0.5:7901", "[fe80::1]:7901", "[fd00::5]:7901"]
                .map(|addr| addr.parse().unwrap())
                .to_vec();
        let addrs = |advertised: Option<ReachedAt>, listening: &[SocketAddr]| {
            announced_peer_addrs(advertised.as_ref(), "0.0.0.0:7901".parse().unwrap(), listening)
        };
        assert_eq!(addrs(None, &listening), ["/ip4/10.0.0.5/tcp/7901", "/ip6/fd00::5/tcp/7901"]);
        assert_eq!(addrs(None, &listening[..1]), ["/ip4/127.0.0.1/tcp/7901"]);
        let seen = observed_addrs(ip("198.51.100.7"), &addrs(None, &listening[..1]));
        assert_eq!(seen, ["/ip4/198.51.100.7/tcp/7901"]);
        let named = |port| ReachedAt { host: HostName::read("db1").unwrap(), port };
        assert_eq!(addrs(Some(named(None)), &listening), ["/dns/db1/tcp/7901"]);
        assert_eq!(addrs(Some(named(Some(31_901))), &listening), ["/dns/db1/tcp/31901"]);
    }

    #[test]
    fn clients_get_the_address_they_use_for_this_node_and_the_observed_one_for_others() {
        let open = announced(":7900", &["/ip4/10.0.0.5/tcp/7901"]);
        let known = |itself, local: Option<&str>, observed: Option<&str>| Known {
            itself,
            local: local.map(ip),
            observed: observed.map(ip),
        };
        let place = |known| client_place(&open, known).bracketed();
        assert_eq!(place(known(true, Some("192.0.2.1"), None)), "192.0.2.1:7900");
        assert_eq!(place(known(true, Some("::ffff:192.0.2.1"), None)), "192.0.2.1:7900");
        assert_eq!(place(known(true, None, None)), "10.0.0.5:7900");
        assert_eq!(place(known(false, Some("192.0.2.1"), Some("198.51.100.7"))), "198.51.100.7:7900");
        assert_eq!(
            place(known(false, Some("192.0.2.1"), Some("127.0.0.1"))),
            "192.0.2.1:7900",
            "on this machine"
        );
        assert_eq!(place(known(false, None, Some("::1"))), "[::1]:7900");
        assert_eq!(place(known(false, Some("192.0.2.1"), None)), "10.0.0.5:7900", "as it announces");
    }

    #[test]
    fn names_are_returned_with_the_observed_address() {
        let named = announced("db1.example:7900", &["/dns/db1/tcp/7901"]);
        let known = Known { observed: Some(ip("10.0.0.7")), ..Known::default() };
        let place = client_place(&named, known);
        assert_eq!((place.host(), place.ip.as_str(), place.port), ("db1.example", "10.0.0.7", 7900));
        assert_eq!(client_place(&named, Known::default()).ip, "", "nothing is known, and nothing is made up");
        let unknown = client_place(&announced(":7900", &["/dns/db1/tcp/7901"]), Known::default());
        assert_eq!(unknown.bracketed(), "db1:7900");
        let fixed = client_place(&announced("[fd00::1]:7900", &[]), known);
        assert_eq!((fixed.host(), fixed.bracketed().as_str()), ("fd00::1", "[fd00::1]:7900"));
    }
}
