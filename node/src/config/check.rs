//! Rules between settings, which no single value can break.

use std::net::SocketAddr;

use super::source::{Problem, Source};
use super::table::Settings;
use crate::disk::Mark;
use crate::frontend::tls::ClientCertificates;

/// Adds what is wrong, and what is probably not meant.
pub(super) fn relations(settings: &Settings, problems: &mut Vec<Problem>, warnings: &mut Vec<String>) {
    open_ports(settings, problems, warnings);
    sizes(settings, problems);
    certificates(settings, problems, warnings);
    if settings.request_timeout_ms <= u64::from(settings.lease_ms) {
        warnings.push(format!(
            "request_timeout_ms ({}) is not longer than lease_ms ({}): when a node dies, requests for its \
             partitions fail before the next primary can serve them",
            settings.request_timeout_ms, settings.lease_ms
        ));
    }
    if let (Mark::Bytes(low), Mark::Bytes(minimum)) = (settings.disk_low, settings.disk_minimum)
        && low != 0
        && low < minimum
    {
        warnings.push(format!(
            "disk_low ({low}) is below disk_minimum ({minimum}): the node warns only when it refuses writes already"
        ));
    }
    if settings.replicas == 1 {
        warnings.push("replicas = 1: each key has one copy; what a lost disk held is lost".to_owned());
    }
}

/// Without a secret a node serves this machine only, unless told otherwise.
fn open_ports(settings: &Settings, problems: &mut Vec<Problem>, warnings: &mut Vec<String>) {
    let ports = [("listen", settings.listen), ("peer_listen", settings.peer_listen)];
    let memcached = settings.memcached_listen.map(|address| ("memcached_listen", address));
    for (key, address) in ports.into_iter().chain(memcached) {
        if settings.cluster_secret_file.is_some() || address.ip().is_loopback() {
            continue;
        }
        if settings.insecure {
            warnings.push(format!("insecure: {key} serves {address} and no cluster secret is set; whoever reaches it owns the data"));
        } else {
            problems.push(Problem::new(source(settings, key), open_port(key, address)));
        }
    }
    unknown_addresses(settings, warnings);
}

/// Ports on all addresses, and nothing that says which of them others can use.
fn unknown_addresses(settings: &Settings, warnings: &mut Vec<String>) {
    if settings.advertise.is_some() {
        return;
    }
    if settings.peer_listen.ip().is_unspecified() {
        warnings.push(format!(
            "peer_listen is {}, and advertise is not set: other nodes try the addresses of this machine's interfaces and \
             the one that this node connects to them from. Behind NAT or a port mapping neither leads here: set advertise",
            settings.peer_listen
        ));
    }
    if settings.listen.ip().is_unspecified() && settings.advertise_clients.is_none() {
        warnings.push(format!(
            "listen is {}, and advertise_clients is not set: clients are told the address that they, or the node they \
             ask, see this node at. Where clients use another one (NAT, a port mapping, a name for TLS), set \
             advertise_clients",
            settings.listen
        ));
    }
}

fn open_port(key: &str, address: SocketAddr) -> String {
    format!(
        "{key}: {address} can be reached from other machines, and no cluster secret is set. Create one \
         (head -c 32 /dev/urandom | base64 > cluster.secret; chmod 600 cluster.secret), copy it to every node \
         and give --cluster-secret-file; or listen on 127.0.0.1; or give --insecure if the network is \
         closed to everybody else"
    )
}

/// A data file must hold at least one record of the largest value.
fn sizes(settings: &Settings, problems: &mut Vec<Problem>) {
    if settings.max_value_bytes > settings.max_file_size {
        let key = if settings.is_explicit("max_value_bytes") { "max_value_bytes" } else { "max_file_size" };
        let what = format!(
            "max_value_bytes ({}) must not exceed max_file_size ({}): a value is never split over files",
            settings.max_value_bytes, settings.max_file_size
        );
        problems.push(Problem::new(source(settings, key), what));
    }
}

/// TLS needs both of its files, and a CA to check others with.
fn certificates(settings: &Settings, problems: &mut Vec<Problem>, warnings: &mut Vec<String>) {
    let mut problem =
        |key, what: &str| problems.push(Problem::new(source(settings, key), format!("{key}: {what}")));
    match (&settings.tls_cert, &settings.tls_key) {
        (Some(_), None) => problem("tls_cert", "a certificate is of no use without its key; give tls_key"),
        (None, Some(_)) => problem("tls_key", "a key is of no use without its certificate; give tls_cert"),
        (None, None) if settings.tls_auth_clients != ClientCertificates::No => {
            problem("tls_auth_clients", "without TLS there are no certificates; give tls_cert and tls_key");
        }
        (Some(_), Some(_))
            if settings.tls_auth_clients != ClientCertificates::No && settings.tls_ca.is_none() =>
        {
            problem(
                "tls_auth_clients",
                "certificates cannot be checked without the CA that signs them; give tls_ca",
            );
        }
        _ => {}
    }
    if settings.tls_ca.is_some() && settings.tls_auth_clients == ClientCertificates::No {
        warnings.push(
            "tls_ca does nothing: tls_auth_clients is no, clients are asked for no certificate".to_owned(),
        );
    }
}

fn source<'a>(settings: &'a Settings, key: &str) -> &'a Source {
    settings.source(key).unwrap_or(&Source::Default)
}
