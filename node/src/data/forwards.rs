//! Requests that were sent to another node and wait for its answer, each for a bounded time.
//!
//! A primary may be up and yet not answer: paused, or cut off from its copies. Invariants: who waits is told exactly
//! once, by the answer or by the time-out, whichever takes the request out of the table; an answer that finds nothing
//! there is late and means nothing. The table is no longer than what the network lets wait for answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::plane::Plane;
use crate::kv::{Failure, Outcome};

/// Parts of the table, each under a lock of its own.
const SHARDS: u64 = 16;
/// How often the time-outs are looked at: an answer is waited for that much longer at most.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Where the answer goes.
pub(super) type Sender = oneshot::Sender<Result<Outcome, Failure>>;

/// One request that waits.
struct Forwarded {
    deadline: Instant,
    writes: bool,
    sender: Sender,
}

/// All requests that wait.
#[derive(Default)]
pub(super) struct Forwards {
    next: AtomicU64,
    shards: [Mutex<BTreeMap<u64, Forwarded>>; SHARDS as usize],
    /// Whether somebody looks at the time-outs.
    watched: Mutex<bool>,
}

impl Forwards {
    fn shard(&self, id: u64) -> &Mutex<BTreeMap<u64, Forwarded>> {
        &self.shards[(id % SHARDS) as usize]
    }

    /// Takes a request in; its number takes it out again.
    fn insert(&self, deadline: Instant, writes: bool, sender: Sender) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.shard(id).lock().insert(id, Forwarded { deadline, writes, sender });
        id
    }

    /// Takes a request out, and says until when it was to wait; `None` if its time was up.
    pub(super) fn take(&self, id: u64) -> Option<(Sender, Instant)> {
        let forwarded = self.shard(id).lock().remove(&id)?;
        Some((forwarded.sender, forwarded.deadline))
    }

    /// Takes out all whose time is up. Numbers ascend with deadlines, or nearly so: what follows one that is not due
    /// is not due by more than the time between two calls.
    fn take_due(&self, now: Instant) -> Vec<Forwarded> {
        let mut due = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock();
            while let Some(oldest) = shard.first_entry().filter(|oldest| oldest.get().deadline <= now) {
                due.push(oldest.remove());
            }
        }
        due
    }

    fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.lock().is_empty())
    }
}

impl Plane {
    /// Notes that a request was sent to another node and answers by `sender`, at the latest at the time-out.
    pub(super) fn wait_for_answer(self: &Arc<Self>, writes: bool, sender: Sender) -> u64 {
        let deadline = self.request_deadline();
        let id = self.forwards.insert(deadline, writes, sender);
        let mut watched = self.forwards.watched.lock();
        if !*watched {
            *watched = true;
            self.host.spawn(Arc::clone(self).watch_forwards());
        }
        id
    }

    /// When a request that comes now has waited for long enough.
    pub(super) fn request_deadline(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.limits.request_timeout_ms)
    }

    /// Tells those whose time is up, until nobody waits.
    async fn watch_forwards(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_PAUSE).await;
            for Forwarded { writes, sender, .. } in self.forwards.take_due(Instant::now()) {
                // A client that went away is not told.
                drop(sender.send(Err(unanswered(writes, self.limits.request_timeout_ms))));
            }
            let mut watched = self.forwards.watched.lock();
            if self.forwards.is_empty() {
                *watched = false;
                return;
            }
        }
    }
}

/// What is told of a request whose primary is up and does not answer (rule R7).
pub(super) fn unanswered(writes: bool, waited_ms: u64) -> Failure {
    if writes {
        return Failure::Unknown(format!(
            "the node that orders this key's writes did not answer within {waited_ms} ms: the write may or may not \
             have been done; read the key to know"
        ));
    }
    Failure::Refused(format!(
        "the node that serves this key did not answer within {waited_ms} ms; nothing was changed, try again. \
         `caskctl status` shows which nodes are down"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn late_answer_finds_nothing_and_one_in_time_is_not_told_of_the_time_out() {
        let (forwards, now) = (Forwards::default(), Instant::now());
        let (slow, slow_answer) = oneshot::channel();
        let (fast, _fast_answer) = oneshot::channel();
        let slow = forwards.insert(now, true, slow);
        let fast = forwards.insert(now + Duration::from_secs(5), true, fast);
        assert!(forwards.take(fast).is_some());
        let due = forwards.take_due(now);
        assert_eq!(due.len(), 1);
        for forwarded in due {
            forwarded.sender.send(Err(unanswered(forwarded.writes, 5000))).unwrap();
        }
        assert!(forwards.take(slow).is_none(), "the late answer means nothing");
        assert!(forwards.is_empty());
        let told = slow_answer.await.unwrap();
        assert!(matches!(told, Err(Failure::Unknown(text)) if text.contains("may or may not")));
    }
}
