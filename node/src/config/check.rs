//! Rules between settings, which no single value can break.

use std::net::SocketAddr;

use super::kind::ClientCertificates;
use super::source::{Problem, Source};
use super::table::Settings;
use crate::disk::Mark;

/// Adds problems between settings, and warnings of combinations that are probably a mistake.
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
            "disk_low ({low}) is below disk_minimum ({minimum}): the node warns only when it already rejects \
             writes"
        ));
    }
    if settings.replicas == 1 {
        warnings.push("replicas = 1: each key has one copy; a lost disk loses its keys".to_owned());
    }
}

/// Rejects ports that other machines can reach while no cluster secret is set, unless `insecure` is set.
fn open_ports(settings: &Settings, problems: &mut Vec<Problem>, warnings: &mut Vec<String>) {
    let ports = [("listen", settings.listen), ("peer_listen", settings.peer_listen)];
    let memcached = settings.memcached_listen.map(|address| ("memcached_listen", address));
    for (key, address) in ports.into_iter().chain(memcached) {
        if settings.cluster_secret_file.is_some() || address.ip().is_loopback() {
            continue;
        }
        if settings.insecure {
            warnings.push(format!(
                "insecure: {key} serves {address} without a cluster secret; everyone who can reach it can \
                 read and change the data"
            ));
        } else {
            problems.push(Problem::new(source(settings, key), open_port(key, address)));
        }
    }
    unknown_addresses(settings, warnings);
}

/// Warns of ports on all addresses while no setting names an address that others can reach.
fn unknown_addresses(settings: &Settings, warnings: &mut Vec<String>) {
    if settings.advertise.is_some() {
        return;
    }
    if settings.peer_listen.ip().is_unspecified() {
        warnings.push(format!(
            "peer_listen is {}, and advertise is not set: other nodes try the addresses of this machine's \
             interfaces and the source address of this node's connections. Behind NAT or a port mapping both \
             are wrong: set advertise",
            settings.peer_listen
        ));
    }
    if settings.listen.ip().is_unspecified() && settings.advertise_clients.is_none() {
        warnings.push(format!(
            "listen is {}, and advertise_clients is not set: nodes report to clients the address at which \
             the client, or the reporting node, sees this node. If clients need another one (NAT, a port \
             mapping, a name for TLS), set advertise_clients",
            settings.listen
        ));
    }
}

fn open_port(key: &str, address: SocketAddr) -> String {
    format!(
        "{key}: {address} can be reached from other machines, and no cluster secret is set. Create one (head \
         -c 32 /dev/urandom | base64 > cluster.secret; chmod 600 cluster.secret), copy it to every node and \
         set --cluster-secret-file; or listen on 127.0.0.1; or set --insecure if nobody else can reach this \
         network"
    )
}

/// Rejects a largest value that is larger than a data file.
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

/// Rejects TLS settings that lack the certificate, its key, or the CA that client certificates are checked
/// with.
fn certificates(settings: &Settings, problems: &mut Vec<Problem>, warnings: &mut Vec<String>) {
    let mut problem =
        |key, what: &str| problems.push(Problem::new(source(settings, key), format!("{key}: {what}")));
    match (&settings.tls_cert, &settings.tls_key) {
        (Some(_), None) => problem("tls_cert", "a certificate needs its private key; set tls_key"),
        (None, Some(_)) => problem("tls_key", "a private key needs its certificate; set tls_cert"),
        (None, None) if settings.tls_auth_clients != ClientCertificates::No => {
            problem("tls_auth_clients", "client certificates need TLS; set tls_cert and tls_key");
        }
        (Some(_), Some(_))
            if settings.tls_auth_clients != ClientCertificates::No && settings.tls_ca.is_none() =>
        {
            problem(
                "tls_auth_clients",
                "client certificates cannot be verified without the CA that signs them; set tls_ca",
            );
        }
        _ => {}
    }
    if settings.tls_ca.is_some() && settings.tls_auth_clients == ClientCertificates::No {
        warnings.push(
            "tls_ca has no effect: tls_auth_clients is no, so the node requests no client \
             certificate"
                .to_owned(),
        );
    }
}

fn source<'a>(settings: &'a Settings, key: &str) -> &'a Source {
    settings.source(key).unwrap_or(&Source::Default)
}
