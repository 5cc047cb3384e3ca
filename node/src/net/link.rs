//! Links: one long-lived substream per peer and class for this node's own calls.
//!
//! Calls and their answers use the same substream; frames carry the id of their call. A link has one task,
//! which reads and writes concurrently and runs while it has a substream or a queued call. Its writer drains
//! the queue into one buffer: one write and one flush per wake-up.
//!
//! Invariants: calls are written in the order of [`Link::push`]. Every call ends exactly once: with its
//! answer, with `NotSent` (no byte of it was written) or with `Lost`. The queue is bounded in calls and
//! bytes.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite};
use libp2p::{PeerId, Stream};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::wire::{BODY_BYTES_MAX, FrameReader, FrameWriter, HEADER_BYTES, Kind};
use super::{CallError, Class, NetLimits, Refused, Shared};
use crate::id::NodeId;
use crate::supervise::contained;

/// Maximum of bytes per read from a substream.
pub(super) const READ_BYTES: usize = 32 * 1024;
/// Reads after which the task yields to the writing half of the link.
pub(super) const READS_PER_TURN: u32 = 32;
/// Maximum of body bytes taken from the queue at once. If the write fails, calls left in the queue are
/// `NotSent`.
const BATCH_BYTES: usize = 256 * 1024;
/// Time limit to open a substream, and to receive the first frame of the peer.
const OPEN_MS_MAX: u64 = 5_000;
/// Attempts to open a substream: a busy peer drops a substream instead of accepting it.
const OPEN_ATTEMPTS: u32 = 3;
/// Pause after a failure, so that a caller that retries at once does not keep the task busy.
const PAUSE_AFTER_FAILURE_MS: u64 = 5;

type Callback = Box<dyn FnOnce(Result<Bytes, CallError>) + Send>;

/// Callback that runs when a call ends. If it is dropped, the call ends as `Lost`.
pub struct Done(Option<Callback>);

impl Done {
    /// Creates a `Done` that runs `callback`.
    pub fn new(callback: impl FnOnce(Result<Bytes, CallError>) + Send + 'static) -> Self {
        Self(Some(Box::new(callback)))
    }

    /// Runs the callback with the result of the call.
    pub fn finish(mut self, result: Result<Bytes, CallError>) {
        if let Some(callback) = self.0.take() {
            callback(result);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            callback(Err(CallError::Lost("the link ended before the answer arrived".to_owned())));
        }
    }
}

/// Ends the queued calls when the task of a link is stopped, or when it panics in a callback.
struct RefuseOnDrop(Option<Arc<Link>>);

impl Drop for RefuseOnDrop {
    fn drop(&mut self) {
        if let Some(link) = &self.0 {
            link.refuse_all("this node's network is shut down");
        }
    }
}

struct Queued {
    body: Bytes,
    done: Done,
}

#[derive(Default)]
struct Queue {
    calls: VecDeque<Queued>,
    bytes: usize,
    /// Whether the task of the link runs. The task ends under this lock, with an empty queue.
    running: bool,
}

/// Action of [`Link::push`] after it queued a call.
enum Next {
    Nothing,
    Wake,
    Start,
}

/// This node's calls of one class to one peer.
pub(super) struct Link {
    node: NodeId,
    peer: PeerId,
    class: Class,
    queue: Mutex<Queue>,
    wake: Notify,
    /// Calls queued or waiting for their answer.
    open: AtomicUsize,
}

impl Link {
    pub(super) fn new(node: NodeId, peer: PeerId, class: Class) -> Arc<Self> {
        Arc::new(Self {
            node,
            peer,
            class,
            queue: Mutex::default(),
            wake: Notify::new(),
            open: AtomicUsize::new(0),
        })
    }

    /// Returns the number of calls queued or waiting for their answer.
    pub(super) fn open_calls(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns the bytes of bodies not yet handed to the substream.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queue.lock().bytes
    }

    /// Returns whether nothing is queued and no task runs.
    pub(super) fn is_idle(&self) -> bool {
        !self.queue.lock().running
    }

    /// Queues a call.
    pub(super) fn push(self: &Arc<Self>, shared: &Arc<Shared>, body: Bytes, done: Done) {
        match self.enqueue(&shared.limits, body, done) {
            Ok(Next::Nothing) => {}
            Ok(Next::Wake) => self.wake.notify_one(),
            Ok(Next::Start) => {
                // A panic in a callback ends this link: its calls end as lost.
                shared.runtime.spawn(contained(Arc::clone(self).run(Arc::clone(shared))));
            }
            Err((done, why)) => done.finish(Err(CallError::NotSent(why))),
        }
    }

    fn enqueue(&self, limits: &NetLimits, body: Bytes, done: Done) -> Result<Next, (Done, String)> {
        if body.len() > BODY_BYTES_MAX {
            let why = format!("a call of {} bytes is above the limit of {BODY_BYTES_MAX} bytes", body.len());
            return Err((done, why));
        }
        let mut queue = self.queue.lock();
        let fits = queue.calls.is_empty() || queue.bytes + body.len() <= limits.queue_bytes_max;
        if !fits || self.open_calls() >= limits.queue_calls_max {
            let why = format!(
                "the queue of {:?} calls to {} is full ({} calls, {} bytes): the peer is too slow or not reachable",
                self.class,
                self.node,
                self.open_calls(),
                queue.bytes
            );
            return Err((done, why));
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        queue.bytes += body.len();
        queue.calls.push_back(Queued { body, done });
        // The writer empties the queue before it sleeps, so only the first call has to wake it.
        Ok(match (std::mem::replace(&mut queue.running, true), queue.calls.len()) {
            (false, _) => Next::Start,
            (true, 1) => Next::Wake,
            (true, _) => Next::Nothing,
        })
    }

    async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        let mut stop = shared.stop.clone();
        let mut guard = RefuseOnDrop(Some(Arc::clone(&self)));
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.work(&shared) => guard.0 = None,
        }
    }

    /// Serves the queue until it is empty and the link has no substream.
    async fn work(&self, shared: &Arc<Shared>) {
        loop {
            match self.open(shared).await {
                Ok(stream) => {
                    let why = self.serve(stream, shared).await;
                    tracing::debug!(peer = %self.node, class = ?self.class, %why, "link ended");
                    self.refuse_queued(&why);
                }
                Err(why) => self.refuse_queued(&why),
            }
            tokio::time::sleep(Duration::from_millis(PAUSE_AFTER_FAILURE_MS)).await;
            let mut queue = self.queue.lock();
            if queue.calls.is_empty() {
                queue.running = false;
                return;
            }
        }
    }

    /// Ends the queued calls as `NotSent`.
    fn refuse_queued(&self, why: &str) {
        let calls = {
            let mut queue = self.queue.lock();
            queue.bytes = 0;
            std::mem::take(&mut queue.calls)
        };
        self.open.fetch_sub(calls.len(), Ordering::Relaxed);
        for call in calls {
            call.done.finish(Err(CallError::NotSent(why.to_owned())));
        }
    }

    /// Repeats [`Link::refuse_queued`] until callbacks queue no more calls; then no task runs.
    fn refuse_all(&self, why: &str) {
        loop {
            self.refuse_queued(why);
            let mut queue = self.queue.lock();
            if queue.calls.is_empty() {
                queue.running = false;
                return;
            }
        }
    }

    async fn open(&self, shared: &Arc<Shared>) -> Result<Stream, String> {
        let mut last = String::new();
        for _ in 0..OPEN_ATTEMPTS {
            shared.connect(self.node).await?;
            let limit = Duration::from_millis(OPEN_MS_MAX);
            match tokio::time::timeout(limit, self.try_open(shared)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(why)) => last = why,
                Err(_) => {
                    return Err(format!("{} did not accept a link within {OPEN_MS_MAX} ms", self.node));
                }
            }
        }
        Err(last)
    }

    /// Opens a substream and waits for the peer's frame `Ready`.
    async fn try_open(&self, shared: &Shared) -> Result<Stream, String> {
        let failed = |error: &dyn std::fmt::Display| format!("no link to {}: {error}", self.node);
        let mut control = shared.control.clone();
        let protocol = self.class.protocol();
        let mut stream = control.open_stream(self.peer, protocol).await.map_err(|error| failed(&error))?;
        let mut bytes = [0; HEADER_BYTES];
        stream.read_exact(&mut bytes).await.map_err(|error| failed(&error))?;
        let mut frames = FrameReader::new(0);
        frames.feed(&bytes);
        match frames.next() {
            Ok(Some(frame)) if frame.kind == Kind::Ready => Ok(stream),
            other => {
                let why = other
                    .err()
                    .map_or("the first frame of the peer is not Ready".to_owned(), |error| error.to_string());
                shared.refuse(Refused::Frame, &self.node, &why);
                Err(failed(&why))
            }
        }
    }

    /// Writes calls and reads answers until the substream breaks; returns the reason.
    async fn serve(&self, stream: Stream, shared: &Shared) -> String {
        let (reader, writer) = stream.split();
        let waiting = Mutex::new(Waiting::default());
        let why = {
            let reading = pin!(self.read_answers(reader, &waiting, shared));
            let writing = pin!(self.write_calls(writer, &waiting, shared));
            match select(reading, writing).await {
                Either::Left((why, _)) | Either::Right((why, _)) => why,
            }
        };
        let why = format!("the link to {} broke: {why}", self.node);
        let lost = waiting.into_inner().into_calls();
        let mut count = 0;
        for done in lost {
            done.finish(Err(CallError::Lost(why.clone())));
            count += 1;
        }
        self.open.fetch_sub(count, Ordering::Relaxed);
        shared.counters.calls_lost.add(count as u64);
        why
    }

    async fn write_calls(
        &self,
        stream: impl AsyncWrite + Unpin,
        waiting: &Mutex<Waiting>,
        shared: &Shared,
    ) -> String {
        let mut writer = FrameWriter::new(stream);
        let mut batch = Vec::new();
        loop {
            if !self.take_batch(&mut batch, waiting) {
                self.wake.notified().await;
                continue;
            }
            shared.counters.calls_sent.add(batch.len() as u64);
            match write_batch(&mut writer, &mut batch).await {
                Ok(bytes) => shared.counters.bytes_sent.add(bytes),
                Err(error) => return error.to_string(),
            }
            // Yield, so that answers are read even if writing never waits.
            tokio::task::yield_now().await;
        }
    }

    /// Moves calls from the queue to those that wait for their answer; returns false if it found none.
    fn take_batch(&self, batch: &mut Vec<(u64, Bytes)>, waiting: &Mutex<Waiting>) -> bool {
        let mut bytes = 0;
        let mut waiting = waiting.lock();
        let mut queue = self.queue.lock();
        while bytes < BATCH_BYTES
            && let Some(call) = queue.calls.pop_front()
        {
            bytes += call.body.len();
            batch.push((waiting.insert(call.done), call.body));
        }
        queue.bytes -= bytes;
        !batch.is_empty()
    }

    async fn read_answers(
        &self,
        mut stream: impl AsyncRead + Unpin,
        waiting: &Mutex<Waiting>,
        shared: &Shared,
    ) -> String {
        let mut chunk = vec![0; READ_BYTES];
        let mut frames = FrameReader::new(BODY_BYTES_MAX);
        let mut answered = Vec::new();
        let mut reads = 0;
        loop {
            let len = match stream.read(&mut chunk).await {
                Ok(0) => return "the peer closed the link".to_owned(),
                Ok(len) => len,
                Err(error) => return error.to_string(),
            };
            shared.counters.bytes_received.add(len as u64);
            frames.feed(chunk.get(..len).unwrap_or_default());
            let outcome = take_answers(&mut frames, waiting, &mut answered);
            self.open.fetch_sub(answered.len(), Ordering::Relaxed);
            for (done, result) in answered.drain(..) {
                done.finish(result);
            }
            if let Err(why) = outcome {
                shared.refuse(Refused::Frame, &self.node, &why);
                return why;
            }
            reads += 1;
            if reads % READS_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn write_batch<W: AsyncWrite + Unpin>(
    writer: &mut FrameWriter<W>,
    batch: &mut Vec<(u64, Bytes)>,
) -> std::io::Result<u64> {
    for (id, body) in batch.drain(..) {
        writer.frame(Kind::Call, id, &body).await?;
    }
    writer.flush().await
}

/// Pairs complete frames with their calls. Pairs found before an error stay in `answered`.
fn take_answers(
    frames: &mut FrameReader,
    waiting: &Mutex<Waiting>,
    answered: &mut Vec<(Done, Result<Bytes, CallError>)>,
) -> Result<(), String> {
    let mut waiting = waiting.lock();
    while let Some(frame) = frames.next().map_err(|error| error.to_string())? {
        let result = match frame.kind {
            Kind::Answer => Ok(frame.body),
            Kind::Dropped => Err(CallError::Lost("the peer dropped the call without an answer".to_owned())),
            Kind::Ready | Kind::Call => return Err("the peer sent a frame other than an answer".to_owned()),
        };
        let done = waiting.take(frame.id).ok_or("the peer answered a call that this node did not make")?;
        answered.push((done, result));
    }
    Ok(())
}

/// Calls that wait for their answer, in reused slots. Each use of a slot has a new generation: an id finds
/// its call without hashing, and a late or repeated answer finds none.
#[derive(Default)]
struct Waiting {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    done: Option<Done>,
}

impl Waiting {
    /// Stores a call and returns its id: the generation in the upper half, the slot in the lower.
    fn insert(&mut self, done: Done) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return 0;
        };
        slot.generation = slot.generation.wrapping_add(1);
        slot.done = Some(done);
        u64::from(slot.generation) << 32 | u64::from(index)
    }

    fn take(&mut self, id: u64) -> Option<Done> {
        let index = id as u32;
        let slot = self.slots.get_mut(index as usize)?;
        if u64::from(slot.generation) != id >> 32 {
            return None;
        }
        let done = slot.done.take()?;
        self.free.push(index);
        Some(done)
    }

    fn into_calls(self) -> impl Iterator<Item = Done> {
        self.slots.into_iter().filter_map(|slot| slot.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_finds_its_call_once() {
        let mut waiting = Waiting::default();
        let ids: Vec<u64> = (0..3).map(|_| waiting.insert(Done::new(|_| {}))).collect();
        assert!(waiting.take(ids[1]).is_some());
        assert!(waiting.take(ids[1]).is_none(), "a repeated answer");
        let reused = waiting.insert(Done::new(|_| {}));
        assert_eq!(reused as u32, ids[1] as u32);
        assert!(waiting.take(ids[1]).is_none(), "a late answer to the slot's earlier call");
        assert!(waiting.take(99).is_none());
        assert_eq!(waiting.into_calls().count(), 3);
    }
}
