//! What was denied lately (ACL LOG): the newest entries, equal ones of a minute as one.

use std::collections::VecDeque;

/// Entries kept (Redis's `acllog-max-len`).
const ENTRIES_MAX: usize = 128;
/// Equal denials within this time are one entry.
const GROUP_MS: u64 = 60_000;
/// Longest text of an entry that a client chose.
const TEXT_BYTES_MAX: usize = 256;

/// Why something was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The password was wrong, or the user is none.
    Auth,
    /// The command is not allowed.
    Command,
    /// A key is not allowed.
    Key,
}

impl Reason {
    /// Redis's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Command => "command",
            Self::Key => "key",
        }
    }
}

/// A denial, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Counts up with every new entry.
    pub id: u64,
    /// How often it happened.
    pub count: u64,
    /// Why.
    pub reason: Reason,
    /// The command or the key.
    pub object: Vec<u8>,
    /// Who it was, or said to be.
    pub username: String,
    /// The connection it last happened on, as CLIENT INFO tells it.
    pub client: String,
    /// When it first happened, milliseconds since 1970.
    pub created_ms: u64,
    /// When it last happened.
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
