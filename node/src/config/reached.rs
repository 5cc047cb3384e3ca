//! The kind of setting that holds an address at which others reach this node: `HOST[:PORT]`.
//!
//! A name is stored as given; each peer or client resolves it when it connects. Rejects addresses that cannot
//! be reached (`0.0.0.0`, `[::]`, port 0) and texts that are not valid host names.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use toml::Value;

use super::kind::{Describe, Kind};

/// Longest host name, in bytes.
const NAME_BYTES_MAX: usize = 253;
/// Longest part of a host name between dots, in bytes.
const LABEL_BYTES_MAX: usize = 63;

/// A host, by address or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostName {
    /// An IP address.
    Ip(IpAddr),
    /// A name, resolved at each dial.
    Name(String),
}

impl HostName {
    /// Parses a host; `None` if the text is not a valid one. An IPv6 address must have no brackets here.
    pub fn read(text: &str) -> Option<Self> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return (!ip.is_unspecified()).then_some(Self::Ip(ip));
        }
        let is_label = |label: &str| {
            let plain = label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
            !label.is_empty() && label.len() <= LABEL_BYTES_MAX && plain
        };
        // A name whose last part is a number is a mistyped IPv4 address.
        let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        let is_number = last.chars().all(|c| c.is_ascii_digit());
        let labels = text.strip_suffix('.').unwrap_or(text);
        (text.len() <= NAME_BYTES_MAX && !is_number && labels.split('.').all(is_label))
            .then(|| Self::Name(text.to_owned()))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Address at which others reach this node; it may differ from the address it listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachedAt {
    /// Host without the port.
    pub host: HostName,
    /// Port; `None`: the port the node listens on.
    pub port: Option<u16>,
}

impl ReachedAt {
    fn read(text: &str) -> Option<Self> {
        let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let bare = bracketed.filter(|text| text.parse::<Ipv6Addr>().is_ok()).unwrap_or(text);
        if let Some(host) = HostName::read(bare) {
            return Some(Self { host, port: None });
        }
        let (host, port) = match text.parse::<SocketAddr>() {
            Ok(address) => (HostName::read(&address.ip().to_string())?, address.port()),
            Err(_) => {
                let (name, port) = text.rsplit_once(':')?;
                let name = HostName::read(name).filter(|host| matches!(host, HostName::Name(_)))?;
                (name, port.parse().ok()?)
            }
        };
        (port != 0).then_some(Self { host, port: Some(port) })
    }
}

impl fmt::Display for ReachedAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => self.host.fmt(f),
        }
    }
}

/// Kind of an optional [`ReachedAt`]. An empty text: the address the node listens on.
pub(super) struct Reachable;

impl Describe for Reachable {
    fn value_name(&self) -> &'static str {
        "HOST[:PORT]"
    }

    fn allowed(&self) -> String {
        "HOST[:PORT] that others can reach, such as db1.example, 10.0.0.1:7901 or [fd00::1]:7901 (not 0.0.0.0, not \
         [::], not port 0)"
            .into()
    }
}

impl Kind<Option<ReachedAt>> for Reachable {
    fn read(&self, text: &str) -> Option<Option<ReachedAt>> {
        let text = text.trim();
        if text.is_empty() { Some(None) } else { ReachedAt::read(text).map(Some) }
    }

    fn show(&self, value: &Option<ReachedAt>) -> Option<Value> {
        value.as_ref().map(|reached| Value::String(reached.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_or_names_with_a_port_or_without() {
        for (text, shown) in [
            ("db1", "db1"),
            ("db1.example:7901", "db1.example:7901"),
            ("caskade-0.caskade.default.svc.cluster.local.", "caskade-0.caskade.default.svc.cluster.local."),
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1:7901", "10.0.0.1:7901"),
            ("::1", "[::1]"),
            ("[::1]", "[::1]"),
            ("[fd00::1]:7901", "[fd00::1]:7901"),
            ("4you.example:1", "4you.example:1"),
        ] {
            let reached = ReachedAt::read(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(reached.to_string(), shown);
            assert_eq!(ReachedAt::read(shown), Some(reached), "the shown text must parse to the same value");
        }
        let long = "a".repeat(64);
        for text in [
            "0.0.0.0",
            "::",
            "[::]:7901",
            "0.0.0.0:1",
            "db1:0",
            "db1:",
            ":7901",
            "db1:70000",
            "a b",
            "a..b",
            ".a",
            "10.0.0",
            "10.0.0.300",
            "7901",
            "db1:7901:1",
            "[db1]",
            "[db1]:x",
            "a/b",
            &long,
        ] {
            assert_eq!(ReachedAt::read(text), None, "{text}");
        }
    }
}
