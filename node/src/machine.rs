//! Resources of the machine that this process uses: memory and open files.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Returns the resident memory of this process in bytes; 0 if the system does not report it.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Option<u64> = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// Open files reserved for other purposes than data files and clients: ports, logs, links to other nodes.
const FILES_BESIDE: u64 = 512;
/// Lower bound of that reservation, however few files the system allows.
const FILES_BESIDE_MIN: u64 = 48;
/// Connections beyond `max_clients` that are reserved for operators.
pub const OPERATOR_CONNECTIONS: u64 = 8;

/// Division of the open files that the system allows this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// Open files that the system allows.
    pub allowed: u64,
    /// Client connections open at one time, without those reserved for operators; at least one.
    pub clients: u64,
    /// Data files open at one time; at least one.
    pub data_files: u64,
}

impl OpenFiles {
    /// Divides `allowed` files. If they are too few, data files and other purposes get at most a quarter
    /// each.
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

    /// Raises the system's soft limit of open files, if `clients` connections and `data_files` need more, at
    /// most to the hard limit. Returns the division of the allowed files.
    pub fn ask(clients: u64, data_files: u64) -> Self {
        let wanted = Self::wanted(clients, data_files);
        let mut limits = getrlimit(Resource::Nofile);
        // `None` means no limit.
        let most = limits.maximum.unwrap_or(u64::MAX);
        if limits.current.is_some_and(|current| current < wanted) {
            limits.current = Some(wanted.min(most));
            if let Err(error) = setrlimit(Resource::Nofile, limits) {
                tracing::warn!(%error, "cannot raise the limit of open files");
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
