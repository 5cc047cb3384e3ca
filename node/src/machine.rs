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
/// So many of them at least, however few files the system allows.
const FILES_BESIDE_MIN: u64 = 48;
/// Connections beyond `max_clients` that are kept for operators.
pub const OPERATOR_CONNECTIONS: u64 = 8;

/// How the files that a process may have open are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// Files that the system allows.
    pub allowed: u64,
    /// Connections of clients that leaves at one time, those of operators not counted; at least one.
    pub clients: u64,
    /// Data files that may be open at one time; at least one.
    pub data_files: u64,
}

impl OpenFiles {
    /// Shares out `allowed` files. Where they are too few, data files and what is beside them take a quarter each.
    fn share(allowed: u64, clients: u64, data_files: u64) -> Self {
        if allowed >= Self::wanted(clients, data_files) {
            return Self { allowed, clients, data_files };
        }
        let beside = FILES_BESIDE.min(allowed / 4).max(FILES_BESIDE_MIN);
        let data_files = data_files.min(allowed / 4).max(1);
        let left = allowed.saturating_sub(beside + OPERATOR_CONNECTIONS).saturating_sub(data_files);
        Self { allowed, clients: clients.min(left).max(1), data_files }
    }

    fn wanted(clients: u64, data_files: u64) -> u64 {
        clients.saturating_add(data_files).saturating_add(FILES_BESIDE + OPERATOR_CONNECTIONS)
    }

    /// Asks the system for as many open files as `clients` connections and `data_files` need, and shares out what it
    /// allows: fewer only where its hard limit is lower.
    pub fn ask(clients: u64, data_files: u64) -> Self {
        let wanted = Self::wanted(clients, data_files);
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
        Self::share(allowed, clients, data_files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_files_leave_some_for_each_purpose() {
        let share = |allowed| OpenFiles::share(allowed, 10_000, 256);
        assert_eq!(share(20_000), OpenFiles { allowed: 20_000, clients: 10_000, data_files: 256 });
        assert_eq!(share(1024), OpenFiles { allowed: 1024, clients: 1024 - 256 - 256 - 8, data_files: 256 });
        assert_eq!(share(256), OpenFiles { allowed: 256, clients: 256 - 64 - 64 - 8, data_files: 64 });
        assert_eq!(share(10), OpenFiles { allowed: 10, clients: 1, data_files: 2 });
        assert_eq!(share(u64::MAX).clients, 10_000);
    }
}
