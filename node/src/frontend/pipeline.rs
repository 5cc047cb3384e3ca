//! The pipeline of one connection: claims of the operations in flight, pending replies, and the output.
//!
//! Invariants: replies leave in the order of their requests; the output holds at most [`OUT_BYTES_MAX`] bytes
//! and one reply.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::oneshot::error::TryRecvError;

use super::order::{Claims, KeyHash};
use super::stats::{CallTally, Stats, Tally};
use crate::kv::{Answer, Ticket, abandoned};

/// Bytes of output from which on no further request is started until they are written.
pub(super) const OUT_BYTES_MAX: usize = 256 * 1024;
/// Capacity to which the output buffer shrinks after a write.
const OUT_BYTES_KEPT: usize = 64 * 1024;

/// Source of a pending reply.
pub(super) trait PendingReply {
    /// Returns whether every answer that the reply needs has arrived. Takes the answers that have arrived.
    fn is_settled(&mut self) -> bool;

    /// Polls until every answer that the reply needs has arrived.
    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// A reply that waits for its turn.
pub(super) struct Pending<R> {
    /// Time at which the request was read.
    pub(super) since: Instant,
    /// Number of claims that the request holds.
    pub(super) claims: usize,
    /// Number of requests that the reply answers.
    pub(super) commands: u64,
    pub(super) reply: R,
}

/// Claims, pending replies and output of a connection, with its counters.
pub(super) struct Pipeline<R> {
    /// Time at which the input was read last.
    pub(super) read_at: Instant,
    pub(super) claims: Claims,
    pending: VecDeque<Pending<R>>,
    pub(super) output: Vec<u8>,
    /// Requests since the last write of the output whose replies were encoded at once.
    pub(super) answered: u64,
    pub(super) tally: Tally,
    pub(super) calls: CallTally,
    /// Whether no more requests are started; the connection closes after the replies of those in flight.
    pub(super) closing: bool,
    stats: Arc<Stats>,
}

impl<R: PendingReply> Pipeline<R> {
    pub(super) fn new(stats: &Arc<Stats>) -> Self {
        Self {
            read_at: Instant::now(),
            claims: Claims::default(),
            pending: VecDeque::new(),
            output: Vec::new(),
            answered: 0,
            tally: Tally::default(),
            calls: CallTally::default(),
            closing: false,
            stats: Arc::clone(stats),
        }
    }

    /// Returns the number of pending replies.
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Returns whether no reply is pending.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Returns the pending replies, oldest first.
    pub(super) fn replies(&self) -> impl Iterator<Item = &R> {
        self.pending.iter().map(|pending| &pending.reply)
    }

    /// Returns the newest pending reply.
    pub(super) fn newest(&self) -> Option<&R> {
        self.pending.back().map(|pending| &pending.reply)
    }

    /// Returns the newest pending reply.
    pub(super) fn newest_mut(&mut self) -> Option<&mut Pending<R>> {
        self.pending.back_mut()
    }

    /// Adds the pending reply to `commands` requests that were read last.
    pub(super) fn push(&mut self, claims: usize, commands: u64, reply: R) {
        self.pending.push_back(Pending { since: self.read_at, claims, commands, reply });
    }

    /// Returns whether an operation on the key has to wait for one in flight.
    pub(super) fn bars(&self, key: &[u8], writes: bool) -> bool {
        !self.claims.is_empty() && self.claims.bar(KeyHash::of(key), writes)
    }

    /// Returns whether the output must be written before further requests are started.
    pub(super) fn is_output_full(&self) -> bool {
        self.output.len() >= OUT_BYTES_MAX
    }

    /// Removes the oldest pending reply and its claims, if it is complete and the output has room.
    pub(super) fn pop_settled(&mut self) -> Option<Pending<R>> {
        if self.is_output_full() || !self.pending.front_mut()?.reply.is_settled() {
            return None;
        }
        let pending = self.pending.pop_front()?;
        self.claims.pop(pending.claims);
        Some(pending)
    }

    /// Waits until the oldest pending reply is complete. Never returns if none is pending. Cancel safe.
    pub(super) async fn front_settled(&mut self) {
        match self.pending.front_mut() {
            Some(front) => poll_fn(|cx| front.reply.poll_settled(cx)).await,
            None => std::future::pending().await,
        }
    }

    /// Records the latency of `count` requests that were read at `since` and complete now.
    pub(super) fn record(&self, count: u64, since: Instant) {
        if count > 0 {
            self.stats.record_latency(since, Instant::now(), count);
        }
    }

    /// Records the latency of the requests whose replies were encoded at once.
    pub(super) fn record_answered(&mut self) {
        let answered = std::mem::take(&mut self.answered);
        self.record(answered, self.read_at);
    }

    /// Adds the counts of the connection to those of the node.
    pub(super) fn hand_over_counts(&mut self) {
        self.stats.add(&mut self.tally);
        self.stats.add_calls(&mut self.calls);
    }

    /// Empties the output after it was written.
    pub(super) fn clear_output(&mut self) {
        self.output.clear();
        self.output.shrink_to(OUT_BYTES_KEPT);
    }

    /// Frees unused memory.
    pub(super) fn release(&mut self) {
        self.output.shrink_to_fit();
        self.pending.shrink_to_fit();
    }
}

/// Returns whether the answer has arrived, and takes it.
pub(super) fn settle(ticket: &mut Ticket) -> bool {
    let Ticket::Waiting { answer, .. } = ticket else {
        return true;
    };
    *ticket = Ticket::Ready(match answer.try_recv() {
        Ok(answer) => answer,
        Err(TryRecvError::Closed) => Err(abandoned()),
        Err(TryRecvError::Empty) => return false,
    });
    true
}

/// Polls until the answer has arrived, and takes it.
pub(super) fn poll_settled(ticket: &mut Ticket, cx: &mut Context<'_>) -> Poll<()> {
    if let Ticket::Waiting { answer, .. } = ticket {
        match Pin::new(answer).poll(cx) {
            Poll::Ready(answer) => *ticket = Ticket::Ready(answer.unwrap_or_else(|_| Err(abandoned()))),
            Poll::Pending => return Poll::Pending,
        }
    }
    Poll::Ready(())
}

/// Returns the answer; that of an operation without an answer is unknown.
pub(super) fn answer_of(ticket: Ticket) -> Answer {
    match ticket {
        Ticket::Ready(answer) => answer,
        Ticket::Waiting { .. } => Err(abandoned()),
    }
}
