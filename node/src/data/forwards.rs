//! Table of the requests that this node forwarded and that wait for an answer, each for a bounded time.
//!
//! A primary may be up and yet not answer: paused, or cut off from its copies. Invariants: each waiter gets
//! exactly one result, from the answer or from the time-out, whichever removes the request from the table
//! first. A later answer is ignored. The network's limit of unanswered calls bounds the table.

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
/// Interval of the checks for time-outs, and so the upper bound of their delay.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Sender of a request's result.
pub(super) type Sender = oneshot::Sender<Result<Outcome, Failure>>;

/// A request that waits for its answer.
struct Forwarded {
    deadline: Instant,
    writes: bool,
    sender: Sender,
}

/// The table of waiting requests.
#[derive(Default)]
pub(super) struct Forwards {
    next: AtomicU64,
    shards: [Mutex<BTreeMap<u64, Forwarded>>; SHARDS as usize],
    /// Whether a task checks for time-outs.
    watched: Mutex<bool>,
}

impl Forwards {
    fn shard(&self, id: u64) -> &Mutex<BTreeMap<u64, Forwarded>> {
        &self.shards[(id % SHARDS) as usize]
    }

    /// Adds a request, and returns the number by which [`Forwards::take`] removes it.
    fn insert(&self, deadline: Instant, writes: bool, sender: Sender) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.shard(id).lock().insert(id, Forwarded { deadline, writes, sender });
        id
    }

    /// Removes a request, and returns its sender and deadline. Returns `None` if it has timed out.
    pub(super) fn take(&self, id: u64) -> Option<(Sender, Instant)> {
        let forwarded = self.shard(id).lock().remove(&id)?;
        Some((forwarded.sender, forwarded.deadline))
    }

    /// Removes all requests whose deadline has passed. Numbers ascend nearly in the order of deadlines. So
    /// the search stops at the first request that is not due: a later one that is due is removed by the next
    /// call.
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
    /// Registers a request that was sent to another node, and returns its number. `sender` gets an error if
    /// no answer arrives within the request time-out.
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

    /// Returns the deadline of a request that arrives now.
    pub(super) fn request_deadline(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.limits.request_timeout_ms)
    }

    /// Fails the requests that have timed out; returns when no request waits.
    async fn watch_forwards(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_PAUSE).await;
            for Forwarded { writes, sender, .. } in self.forwards.take_due(Instant::now()) {
                // The send fails if the client has disconnected.
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

/// Returns the failure of a request whose primary is up and does not answer (rule R7).
pub(super) fn unanswered(writes: bool, waited_ms: u64) -> Failure {
    if writes {
        return Failure::Unknown(format!(
            "the primary of this key did not answer within {waited_ms} ms; the write may or may not have \
             been applied; read the key to find out"
        ));
    }
    Failure::Refused(format!(
        "the primary of this key did not answer within {waited_ms} ms; nothing was changed; retry; `caskctl \
         status` shows which nodes are down"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn late_answer_is_ignored_and_an_answer_in_time_prevents_the_time_out() {
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
        assert!(forwards.take(slow).is_none(), "the late answer is ignored");
        assert!(forwards.is_empty());
        let told = slow_answer.await.unwrap();
        assert!(matches!(told, Err(Failure::Unknown(text)) if text.contains("may or may not")));
    }
}
