//! What came over the peer network and was not taken: each kind is counted, and told in the log at most once in
//! [`LOG_PAUSE_MS`], with what to do about it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whoever sends one may send many; the log says so once in this time for each kind.
pub const LOG_PAUSE_MS: u64 = 10_000;

/// Why something of a peer, or of a stranger, was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Who connected has not the cluster secret of this node.
    Secret,
    /// Whom this node connected to has not its cluster secret.
    SecretOfOther,
    /// Who connected spoke no admission of this protocol, or what was said in an earlier one.
    Handshake,
    /// Who connected said too little, and went or was cut off.
    Unfinished,
    /// More connections than are handled at one time.
    Crowded,
    /// An admitted connection carried bytes that its peer did not encrypt.
    Corrupted,
    /// A link carried what is no frame, or none that belongs there.
    Frame,
    /// A frame's body, or a gossip, is no message of this protocol.
    Message,
    /// A node that is no member sent what only members may.
    Stranger,
    /// A node that was a member and was removed sent something.
    Removed,
    /// An incarnation of a node that is over sent something.
    OldIncarnation,
    /// A node of another cluster sent something.
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

    /// The name it is counted under.
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

    /// What happened, what it means, and what to do.
    fn advice(self) -> &'static str {
        match self {
            Self::Secret => {
                "refused a connection: its cluster secret is not this node's. Nothing else was said to it. If it is a \
                 node of this cluster, give it the same --cluster-secret-file; if not, keep it from the peer port"
            }
            Self::SecretOfOther => {
                "could not connect to a node: it has not this node's cluster secret. Nothing else was said to it. Give \
                 both the same --cluster-secret-file, or correct the address"
            }
            Self::Handshake => {
                "refused a connection that does not speak this admission, or repeats what was said in another one. \
                 Nothing was taken of it. If it is a node of this cluster, see that both run compatible versions; if \
                 not, keep it from the peer port"
            }
            Self::Unfinished => {
                "a connection ended before it was admitted. Look there if it is a node of this cluster"
            }
            Self::Crowded => {
                "closed a connection, there being too many: of those that are not admitted the oldest goes first. \
                 Members come in as long as they can finish; keep strangers from the peer port"
            }
            Self::Corrupted => {
                "closed a connection: what came over it is not what the peer encrypted. Nothing of it was taken; both \
                 connect again. If it goes on, look for what alters traffic between the two: a proxy, a defective \
                 network card, an attacker"
            }
            Self::Frame => {
                "closed a link: its peer sent what is no frame of this protocol. Calls under way on it are lost. See \
                 that both run compatible versions, and look at the peer's memory and disk if they do"
            }
            Self::Message => {
                "dropped a message of a peer that cannot be read. Nothing of it was done. See that both run compatible \
                 versions, and look at the peer's memory and disk if they do"
            }
            Self::Stranger => {
                "refused what a node sent that is no member as far as this node knows. Nothing of it was done. It \
                 passes if the node has just joined; else stop that process, and change the cluster secret if it \
                 should not have it"
            }
            Self::Removed => {
                "refused what a node sent that was removed from the cluster. Nothing of it was done. Stop that \
                 process; to use the machine again, start caskd there with --join-afresh"
            }
            Self::OldIncarnation => {
                "refused what an earlier start of a node sent: a newer one is registered. Nothing of it was done. If \
                 two processes use one data directory, or a copy of it, stop the older one"
            }
            Self::OtherCluster => {
                "refused what a node of another cluster sent. Nothing of it was done. Correct its --bootstrap, and give \
                 each cluster a secret of its own"
            }
            Self::Fenced => "refused records of a node that is not the primary of that term here",
        }
    }
}

#[derive(Debug, Default)]
struct Kind {
    count: AtomicU64,
    /// When it may be told again; 0 before the first time.
    quiet_until_ms: AtomicU64,
}

/// The counters of all kinds. The time it is given is that of one monotonic clock.
#[derive(Debug, Default)]
pub struct Refusals([Kind; Refused::ALL.len()]);

impl Refusals {
    /// Counts one, and tells it if that is due: `from` is a node or an address, `why` the particulars.
    pub fn note(&self, refused: Refused, now_ms: u64, from: &dyn Display, why: &dyn Display) {
        let Some(total) = self.count(refused, now_ms) else { return };
        let (kind, advice) = (refused.name(), refused.advice());
        match refused {
            Refused::Fenced => tracing::debug!(%from, %why, kind, total, "{advice}"),
            // A load balancer that looks whether the port is open does this all the time.
            Refused::Unfinished => tracing::info!(%from, %why, kind, total, "{advice}"),
            _ => tracing::warn!(%from, %why, kind, total, "{advice}"),
        }
    }

    /// Counts one; answers how many there are if it is to be told.
    fn count(&self, refused: Refused, now_ms: u64) -> Option<u64> {
        let kind = self.0.get(refused as usize)?;
        let total = kind.count.fetch_add(1, Ordering::Relaxed) + 1;
        let quiet_until_ms = kind.quiet_until_ms.load(Ordering::Relaxed);
        let due = total == 1 || now_ms >= quiet_until_ms;
        // Of several at one moment, one tells.
        let tells = due
            && kind
                .quiet_until_ms
                .compare_exchange(quiet_until_ms, now_ms + LOG_PAUSE_MS, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        tells.then_some(total)
    }

    /// How many there were of a kind.
    pub fn of(&self, refused: Refused) -> u64 {
        self.0.get(refused as usize).map_or(0, |kind| kind.count.load(Ordering::Relaxed))
    }

    /// All kinds by name.
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
        assert_eq!(refusals.count(Refused::Removed, 6), Some(1), "each kind for itself");
        assert_eq!((refusals.of(Refused::Frame), refusals.of(Refused::Secret)), (10_002, 0));
    }

    #[test]
    fn every_kind_has_its_own_counter_and_its_own_name() {
        let places: Vec<usize> = Refused::ALL.iter().map(|kind| *kind as usize).collect();
        assert_eq!(places, (0..Refused::ALL.len()).collect::<Vec<_>>());
        assert_eq!(Refusals::default().counts().len(), Refused::ALL.len());
    }
}
