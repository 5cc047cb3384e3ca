//! The log of denials (ACL LOG): the newest entries. Equal denials within a minute share an entry.

use std::collections::VecDeque;

/// Maximum number of entries (Redis's `acllog-max-len`).
const ENTRIES_MAX: usize = 128;
/// Time within which equal denials share an entry, in milliseconds.
const GROUP_MS: u64 = 60_000;
/// Maximum length of an entry's texts that a client chose.
const TEXT_BYTES_MAX: usize = 256;

/// Reason of a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The password was wrong, or the user does not exist.
    Auth,
    /// The command is not allowed.
    Command,
    /// A key is not allowed.
    Key,
}

impl Reason {
    /// Returns Redis's word for the reason.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Command => "command",
            Self::Key => "key",
        }
    }
}

/// An entry of the log: equal denials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Number of the entry, ascending.
    pub id: u64,
    /// Number of denials.
    pub count: u64,
    /// Reason of the denials.
    pub reason: Reason,
    /// The command or the key.
    pub object: Vec<u8>,
    /// Name of the user, as the session has it or the log-in gave it.
    pub username: String,
    /// The connection of the last denial, in the format of CLIENT INFO.
    pub client: String,
    /// Time of the first denial, in milliseconds since 1970.
    pub created_ms: u64,
    /// Time of the last denial, in milliseconds since 1970.
    pub updated_ms: u64,
}

/// The newest denials, newest first.
#[derive(Debug, Default)]
pub(super) struct Log {
    entries: VecDeque<LogEntry>,
    next_id: u64,
}

impl Log {
    pub(super) fn add(&mut self, reason: Reason, object: &[u8], username: &str, client: String, now_ms: u64) {
        let object = object.get(..TEXT_BYTES_MAX).unwrap_or(object);
        let username: String = username.chars().take(TEXT_BYTES_MAX).collect();
        let same = |entry: &LogEntry| {
            entry.reason == reason
                && entry.object == object
                && entry.username == username
                && now_ms.saturating_sub(entry.updated_ms) <= GROUP_MS
        };
        let known = self.entries.iter().position(same).and_then(|place| self.entries.remove(place));
        let entry = match known {
            Some(known) => LogEntry { count: known.count + 1, client, updated_ms: now_ms, ..known },
            None => {
                let id = self.next_id;
                self.next_id += 1;
                let object = object.to_vec();
                let (created_ms, updated_ms) = (now_ms, now_ms);
                LogEntry { id, count: 1, reason, object, username, client, created_ms, updated_ms }
            }
        };
        self.entries.push_front(entry);
        self.entries.truncate(ENTRIES_MAX);
    }

    pub(super) fn newest(&self, count: usize) -> Vec<LogEntry> {
        self.entries.iter().take(count).cloned().collect()
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_denials_of_a_minute_are_one_entry_and_come_first() {
        let mut log = Log::default();
        log.add(Reason::Key, b"k", "a", "x".into(), 1000);
        log.add(Reason::Command, b"get", "a", "x".into(), 2000);
        log.add(Reason::Key, b"k", "a", "y".into(), 3000);
        let entries = log.newest(10);
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].count, entries[0].id, entries[0].client.as_str()), (2, 0, "y"));
        assert_eq!((entries[0].created_ms, entries[0].updated_ms), (1000, 3000));
        log.add(Reason::Key, b"k", "a", "y".into(), 64_000);
        assert_eq!(log.newest(10).len(), 3);
        assert_eq!(log.newest(1)[0].id, 2);
    }

    #[test]
    fn the_log_is_bounded() {
        let mut log = Log::default();
        for number in 0..1000_u32 {
            log.add(Reason::Auth, &[b'x'; 10_000], &number.to_string(), String::new(), 0);
        }
        let entries = log.newest(usize::MAX);
        assert_eq!((entries.len(), entries[0].username.as_str(), entries[0].object.len()), (128, "999", 256));
    }
}
