//! Counts of rejected connections, frames and messages by kind. Logs each kind at most once in
//! [`LOG_PAUSE_MS`], with the remedy.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};

/// Pause between two log lines of one kind: a sender may send many rejected messages.
pub const LOG_PAUSE_MS: u64 = 10_000;

/// Reason why data of a peer, or of an unknown sender, was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The node that connected does not have the cluster secret of this node.
    Secret,
    /// The node that this node connected to does not have its cluster secret.
    SecretOfOther,
    /// The node that connected did not follow the admission protocol, or replayed an earlier admission.
    Handshake,
    /// The node that connected closed the connection, or reached the time limit, before its admission was
    /// complete.
    Unfinished,
    /// More connections than this node handles at one time.
    Crowded,
    /// An admitted connection carried bytes that its peer did not encrypt.
    Corrupted,
    /// A link carried bytes that are not a frame, or a frame that is not allowed there.
    Frame,
    /// The body of a frame, or a gossip message, is not a message of this protocol.
    Message,
    /// A node that is not a member sent a message that only members may send.
    Stranger,
    /// A removed member sent a message.
    Removed,
    /// An earlier incarnation of a node sent a message.
    OldIncarnation,
    /// A node of another cluster sent a message.
    OtherCluster,
    /// Records of a node that is not, or no longer, the primary of that term and assignment.
    Fenced,
}

impl Refused {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Secret,
        Self::SecretOfOther,
        Self::Handshake,
        Self::Unfinished,
        Self::Crowded,
        Self::Corrupted,
        Self::Frame,
        Self::Message,
        Self::Stranger,
        Self::Removed,
        Self::OldIncarnation,
        Self::OtherCluster,
        Self::Fenced,
    ];

    /// Returns the name of the counter of this kind.
    pub fn name(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::SecretOfOther => "secret_of_other",
            Self::Handshake => "handshake",
            Self::Unfinished => "unfinished",
            Self::Crowded => "crowded",
            Self::Corrupted => "corrupted",
            Self::Frame => "frame",
            Self::Message => "message",
            Self::Stranger => "stranger",
            Self::Removed => "removed",
            Self::OldIncarnation => "old_incarnation",
            Self::OtherCluster => "other_cluster",
            Self::Fenced => "fenced",
        }
    }

    /// Returns the text of the log: the event, its consequence, and the remedy.
    fn advice(self) -> &'static str {
        match self {
            Self::Secret => {
                "rejected a connection: it does not have this node's cluster secret. This node sent it nothing \
                 else. If it is a node of this cluster, give it the same --cluster-secret-file; if not, block \
                 its access to the peer port"
            }
            Self::SecretOfOther => {
                "could not connect to a node: it does not have this node's cluster secret. This node sent it \
                 nothing else. Give both the same --cluster-secret-file, or correct the address"
            }
            Self::Handshake => {
                "rejected a connection that does not follow the admission protocol, or that replays an earlier one. \
                 No data was taken from it. If the sender is a node of this cluster, check that both run compatible \
                 versions; if not, block its access to the peer port"
            }
            Self::Unfinished => {
                "a connection ended before it was admitted. If the sender is a node of this cluster, look at its log"
            }
            Self::Crowded => {
                "closed a connection because this node has reached its limit. Of connections that are not \
                 admitted, it closes the oldest first. Members still connect if they can finish the admission; \
                 block others from the peer port"
            }
            Self::Corrupted => {
                "closed a connection: bytes received over it are not those that the peer encrypted. No data \
                 was taken from them; both nodes connect again. If this repeats, look for the cause of changed \
                 traffic between the two: a proxy, a defective network card, an attacker"
            }
            Self::Frame => {
                "closed a link: its peer sent bytes that are not a frame of this protocol. Calls in flight on it are \
                 lost. Check that both nodes run compatible versions; if they do, check the peer's memory and disk"
            }
            Self::Message => {
                "dropped a message of a peer that this node cannot decode; it had no effect. Check that both \
                 nodes run compatible versions; if they do, check the peer's memory and disk"
            }
            Self::Stranger => {
                "rejected a message of a node that this node does not know as a member; it had no effect. No action \
                 is needed if the node has just joined. Otherwise stop that process, and change the cluster secret \
                 if the process should not have it"
            }
            Self::Removed => {
                "rejected a message of a node that was removed from the cluster; it had no effect. Stop that \
                 process. To use the machine again, start caskd there with --join-afresh"
            }
            Self::OldIncarnation => {
                "rejected a message of an earlier start of a node: a newer one is registered. The message had no \
                 effect. If two processes use one data directory, or a copy of it, stop the older one"
            }
            Self::OtherCluster => {
                "rejected a message of a node of another cluster; it had no effect. Correct the --bootstrap of that \
                 node, and give each cluster a secret of its own"
            }
            Self::Fenced => "rejected records of a node that is not the primary of that term on this node",
        }
    }
}

#[derive(Debug, Default)]
struct Kind {
    count: AtomicU64,
    /// Time from which the next log line is due, in milliseconds; 0 before the first.
    quiet_until_ms: AtomicU64,
}

/// The counters of all kinds. All times that callers pass are those of one monotonic clock.
#[derive(Debug, Default)]
pub struct Refusals([Kind; Refused::ALL.len()]);

impl Refusals {
    /// Counts a rejection, and logs it if a log line is due. `from` is a node or an address, `why` the
    /// details.
    pub fn note(&self, refused: Refused, now_ms: u64, from: &dyn Display, why: &dyn Display) {
        let Some(total) = self.count(refused, now_ms) else { return };
        let (kind, advice) = (refused.name(), refused.advice());
        match refused {
            Refused::Fenced => tracing::debug!(%from, %why, kind, total, "{advice}"),
            // Load balancers open and close connections all the time to check the port.
            Refused::Unfinished => tracing::info!(%from, %why, kind, total, "{advice}"),
            _ => tracing::warn!(%from, %why, kind, total, "{advice}"),
        }
    }

    /// Counts a rejection; returns the total if a log line is due.
    fn count(&self, refused: Refused, now_ms: u64) -> Option<u64> {
        let kind = self.0.get(refused as usize)?;
        let total = kind.count.fetch_add(1, Ordering::Relaxed) + 1;
        let quiet_until_ms = kind.quiet_until_ms.load(Ordering::Relaxed);
        let due = total == 1 || now_ms >= quiet_until_ms;
        // If several threads find that a line is due, only one logs it.
        let tells = due
            && kind
                .quiet_until_ms
                .compare_exchange(quiet_until_ms, now_ms + LOG_PAUSE_MS, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        tells.then_some(total)
    }

    /// Returns the count of a kind.
    pub fn of(&self, refused: Refused) -> u64 {
        self.0.get(refused as usize).map_or(0, |kind| kind.count.load(Ordering::Relaxed))
    }

    /// Returns the counts of all kinds by name.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        Refused::ALL.iter().map(|kind| (kind.name().to_owned(), self.of(*kind))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_one_is_counted_and_one_in_ten_seconds_is_told() {
        let refusals = Refusals::default();
        let told = |now_ms| refusals.count(Refused::Frame, now_ms);
        assert_eq!(told(5), Some(1));
        for now_ms in 5..=10_004 {
            assert_eq!(told(now_ms), None);
        }
        assert_eq!(told(10_005), Some(10_002));
        assert_eq!(refusals.count(Refused::Removed, 6), Some(1), "each kind has its own pause");
        assert_eq!((refusals.of(Refused::Frame), refusals.of(Refused::Secret)), (10_002, 0));
    }

    #[test]
    fn every_kind_has_its_own_counter_and_its_own_name() {
        let places: Vec<usize> = Refused::ALL.iter().map(|kind| *kind as usize).collect();
        assert_eq!(places, (0..Refused::ALL.len()).collect::<Vec<_>>());
        assert_eq!(Refusals::default().counts().len(), Refused::ALL.len());
    }
}
