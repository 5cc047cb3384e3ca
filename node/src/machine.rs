//! What this process takes of the machine.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Resident memory of this process; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Option<u64> = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// Files that a process has open beside data files and connections of clients: ports, logs, links to other nodes.
const FILES_BESIDE: u64 = 512;

/// Asks the system for as many open files as `clients` connections and `data_files` need. Answers how many connections it
/// allows: fewer only where the limit of the system is lower, and at least one.
pub fn allow_connections(clients: u64, data_files: u64) -> u64 {
    let others = data_files.saturating_add(FILES_BESIDE);
    let wanted = clients.saturating_add(others);
    let mut limits = getrlimit(Resource::Nofile);
    // No limit is told as nothing.
    let most = limits.maximum.unwrap_or(u64::MAX);
    if limits.current.is_some_and(|current| current < wanted) {
        limits.current = Some(wanted.min(most));
        if let Err(error) = setrlimit(Resource::Nofile, limits) {
            tracing::warn!(%error, "the limit of open files could not be raised");
        }
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    clients.min(allowed.saturating_sub(others)).max(1)
}
