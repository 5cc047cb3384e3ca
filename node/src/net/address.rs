//! Addresses of peers: `HOST:PORT` or a multiaddr. The resolver of the operating system resolves names.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

const RESOLVE_MS_MAX: u64 = 3_000;
/// Maximum of addresses used of one name; the others are ignored.
const ADDRESSES_MAX: usize = 8;

/// Reason why an address cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum AddressError {
    /// The text is not an address.
    #[error("it is neither HOST:PORT nor a multiaddr over TCP")]
    Bad,
    /// The name does not resolve at present.
    #[error("{0}")]
    Unresolved(String),
}

/// A parsed address.
struct Target {
    host: Host,
    port: u16,
    /// The `/p2p/NAME` part of a multiaddr.
    peer: Option<Protocol<'static>>,
}

enum Host {
    Ip(IpAddr),
    /// A name, and whether it must resolve to IPv4 (`Some(true)`) or to IPv6 (`Some(false)`).
    Name(String, Option<bool>),
}

/// Returns the multiaddr of a socket address.
pub(super) fn multiaddr(addr: SocketAddr) -> Multiaddr {
    Multiaddr::from(addr.ip()).with(Protocol::Tcp(addr.port()))
}

/// Returns the socket address at the beginning of a multiaddr.
pub(super) fn socket_addr(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::from(ip),
        Protocol::Ip6(ip) => IpAddr::from(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// Returns whether `text` has the form of an address.
pub fn is_address(text: &str) -> bool {
    parse(text).is_some()
}

/// Returns the addresses to dial for `text`, after resolving a name.
pub(super) async fn resolve(text: &str) -> Result<Vec<Multiaddr>, AddressError> {
    let target = parse(text).ok_or(AddressError::Bad)?;
    let ips = match target.host {
        Host::Ip(ip) => vec![ip],
        Host::Name(name, only_v4) => look_up(&name, target.port, only_v4).await?,
    };
    let complete = |ip| {
        let addr = multiaddr(SocketAddr::new(ip, target.port));
        target.peer.iter().fold(addr, |addr, peer| addr.with(peer.clone()))
    };
    Ok(ips.into_iter().take(ADDRESSES_MAX).map(complete).collect())
}

async fn look_up(name: &str, port: u16, only_v4: Option<bool>) -> Result<Vec<IpAddr>, AddressError> {
    let unresolved = |why: String| AddressError::Unresolved(format!("the name {name} has no address: {why}"));
    let found =
        tokio::time::timeout(Duration::from_millis(RESOLVE_MS_MAX), tokio::net::lookup_host((name, port)));
    let found = found
        .await
        .map_err(|_| unresolved(format!("no answer within {RESOLVE_MS_MAX} ms")))?
        .map_err(|error| unresolved(error.to_string()))?;
    let fits = |ip: &IpAddr| only_v4.is_none_or(|v4| ip.is_ipv4() == v4);
    let ips: Vec<IpAddr> = found.map(|addr| addr.ip()).filter(fits).collect();
    if ips.is_empty() {
        Err(unresolved("no address of the requested IP version".to_owned()))
    } else {
        Ok(ips)
    }
}

fn parse(text: &str) -> Option<Target> {
    if text.starts_with('/') {
        return parse_multiaddr(&text.parse().ok()?);
    }
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Some(Target { host: Host::Ip(addr.ip()), port: addr.port(), peer: None });
    }
    let (name, port) = text.rsplit_once(':')?;
    let plausible = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let is_name = !name.is_empty() && name.chars().all(plausible);
    let host = is_name.then(|| Host::Name(name.to_owned(), None))?;
    Some(Target { host, port: port.parse().ok()?, peer: None })
}

fn parse_multiaddr(addr: &Multiaddr) -> Option<Target> {
    let mut parts = addr.iter();
    let host = match parts.next()? {
        Protocol::Ip4(ip) => Host::Ip(ip.into()),
        Protocol::Ip6(ip) => Host::Ip(ip.into()),
        Protocol::Dns(name) => Host::Name(name.into_owned(), None),
        Protocol::Dns4(name) => Host::Name(name.into_owned(), Some(true)),
        Protocol::Dns6(name) => Host::Name(name.into_owned(), Some(false)),
        _ => return None,
    };
    let Protocol::Tcp(port) = parts.next()? else {
        return None;
    };
    let peer = match parts.next() {
        Some(Protocol::P2p(peer)) => Some(Protocol::P2p(peer)),
        Some(_) => return None,
        None => None,
    };
    parts.next().is_none().then_some(Target { host, port, peer })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hosts_with_ports_and_multiaddrs_are_addresses() {
        for text in
            ["127.0.0.1:7901", "localhost:7901", "/ip4/127.0.0.1/tcp/7901", "/dns4/localhost/tcp/7901"]
        {
            let resolved = resolve(text).await.unwrap();
            assert!(
                resolved.iter().any(
                    |addr| matches!(socket_addr(addr), Some(a) if a.port() == 7901 && a.ip().is_loopback())
                ),
                "{text}: {resolved:?}"
            );
        }
        let peer = libp2p::identity::Keypair::generate_ed25519().public().to_peer_id();
        let text = format!("/ip6/::1/tcp/1/p2p/{peer}");
        assert_eq!(resolve(&text).await.unwrap()[0].to_string(), text);
    }

    #[test]
    fn other_texts_are_not() {
        for text in [
            "",
            "7901",
            "host",
            "host:",
            ":1",
            "host:70000",
            "a b:1",
            "/ip4/1.2.3.4",
            "/ip4/1.2.3.4/udp/1",
            "/unix/x",
        ] {
            assert!(!is_address(text), "{text}");
        }
    }
}
