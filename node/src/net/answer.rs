//! The accepting end of links: reads a peer's calls, passes them to the [`Handler`](super::Handler), and
//! writes the answers in the order in which they arrive.
//!
//! Bounded: it stops reading a substream while too many of its calls are unanswered, or while it holds too
//! many bytes of calls and answers. The peer's own queue then fills up.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{Either, select};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite};
use libp2p::Stream;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::link::{READ_BYTES, READS_PER_TURN};
use super::wire::{BODY_BYTES_MAX, FrameReader, FrameWriter, Kind};
use super::{Class, NetLimits, Refused, Shared};
use crate::id::NodeId;

/// Sender of the answer to one call. If it is dropped without an answer, the caller gets
/// [`super::CallError::Lost`].
pub struct Responder(Option<Way>);

/// Path of an answer.
enum Way {
    /// The substream of the call.
    Substream { answers: Arc<Answers>, id: u64, call_bytes: usize },
    /// A function of another network implementation, called with `None` for a dropped call.
    Function(Box<dyn FnOnce(Option<Bytes>) + Send>),
}

impl Responder {
    /// Creates a responder that calls `answered` once: with the answer, or with `None` if it was dropped.
    pub fn new(answered: impl FnOnce(Option<Bytes>) + Send + 'static) -> Self {
        Self(Some(Way::Function(Box::new(answered))))
    }

    /// Answers the call. If the caller has disconnected, the answer is dropped: the caller knows only that
    /// the call was lost.
    ///
    /// A body above [`BODY_BYTES_MAX`] cannot be sent: the call then counts as dropped.
    pub fn send(mut self, body: Bytes) {
        if body.len() <= BODY_BYTES_MAX {
            self.finish(Some(body));
        } else {
            tracing::error!(
                bytes = body.len(),
                limit = BODY_BYTES_MAX,
                "an answer exceeds the limit of a frame; the call ends as lost at its caller"
            );
        }
    }

    fn finish(&mut self, body: Option<Bytes>) {
        match self.0.take() {
            Some(Way::Substream { answers, id, call_bytes }) => answers.push(id, call_bytes, body),
            Some(Way::Function(answered)) => answered(body),
            None => {}
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.finish(None);
    }
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responder").field("answered", &self.0.is_none()).finish_non_exhaustive()
    }
}

/// Answers of one substream that are not written yet.
#[derive(Default)]
struct Answers {
    state: Mutex<AnswersState>,
    ready: Notify,
    room: Notify,
}

#[derive(Default)]
struct AnswersState {
    /// Ids of calls and their answers; `None` for a dropped call.
    ready: Vec<(u64, Option<Bytes>)>,
    /// Calls read whose answer the writer has not taken yet.
    calls: usize,
    /// Bytes of those calls and of the answers in `ready`.
    bytes: usize,
    /// Whether the substream has ended.
    closed: bool,
}

impl Answers {
    fn push(&self, id: u64, call_bytes: usize, body: Option<Bytes>) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.bytes -= call_bytes;
        state.bytes += body.as_ref().map_or(0, Bytes::len);
        state.ready.push((id, body));
        let first = state.ready.len() == 1;
        drop(state);
        if first {
            self.ready.notify_one();
        }
    }

    /// Moves all answers into `batch`; returns false if it found none.
    fn take(&self, batch: &mut Vec<(u64, Option<Bytes>)>) -> bool {
        let mut state = self.state.lock();
        std::mem::swap(batch, &mut state.ready);
        state.calls -= batch.len();
        state.bytes -= batch.iter().map(|(_, body)| body.as_ref().map_or(0, Bytes::len)).sum::<usize>();
        drop(state);
        if !batch.is_empty() {
            self.room.notify_one();
        }
        !batch.is_empty()
    }

    fn has_room(&self, limits: &NetLimits) -> bool {
        let state = self.state.lock();
        state.calls < limits.queue_calls_max && state.bytes < limits.queue_bytes_max
    }

    async fn wait_for_room(&self, limits: &NetLimits) {
        while !self.has_room(limits) {
            self.room.notified().await;
        }
    }

    fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.ready = Vec::new();
    }
}

/// Closes the answers when the serving of a substream ends for any reason.
struct CloseOnDrop(Arc<Answers>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Serves one accepted substream until it breaks; returns the reason.
pub(super) async fn serve(stream: Stream, from: NodeId, class: Class, shared: &Shared) -> String {
    let (reader, writer) = stream.split();
    let answers = CloseOnDrop(Arc::default());
    let reading = pin!(read_calls(reader, from, class, &answers.0, shared));
    let writing = pin!(write_answers(writer, &answers.0, shared));
    match select(reading, writing).await {
        Either::Left((why, _)) | Either::Right((why, _)) => why,
    }
}

async fn read_calls(
    mut stream: impl AsyncRead + Unpin,
    from: NodeId,
    class: Class,
    answers: &Arc<Answers>,
    shared: &Shared,
) -> String {
    let mut chunk = vec![0; READ_BYTES];
    let mut frames = FrameReader::new(BODY_BYTES_MAX);
    let mut reads = 0;
    loop {
        answers.wait_for_room(&shared.limits).await;
        let len = match stream.read(&mut chunk).await {
            Ok(0) => return "the peer closed the link".to_owned(),
            Ok(len) => len,
            Err(error) => return error.to_string(),
        };
        shared.counters.bytes_received.add(len as u64);
        frames.feed(chunk.get(..len).unwrap_or_default());
        if let Err(why) = hand_over(&mut frames, from, class, answers, shared) {
            shared.refuse(Refused::Frame, &from, &why);
            return why;
        }
        reads += 1;
        if reads % READS_PER_TURN == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Passes the complete frames received so far to the handler.
fn hand_over(
    frames: &mut FrameReader,
    from: NodeId,
    class: Class,
    answers: &Arc<Answers>,
    shared: &Shared,
) -> Result<(), String> {
    let mut count = 0;
    while let Some(frame) = frames.next().map_err(|error| error.to_string())? {
        if frame.kind != Kind::Call {
            return Err("the peer sent a frame other than a call".to_owned());
        }
        let call_bytes = frame.body.len();
        {
            let mut state = answers.state.lock();
            state.calls += 1;
            state.bytes += call_bytes;
        }
        let answers = Arc::clone(answers);
        let reply = Responder(Some(Way::Substream { answers, id: frame.id, call_bytes }));
        shared.handler.on_call(from, class, frame.body, reply);
        count += 1;
    }
    shared.counters.calls_received.add(count);
    Ok(())
}

async fn write_answers(stream: impl AsyncWrite + Unpin, answers: &Answers, shared: &Shared) -> String {
    let mut writer = FrameWriter::new(stream);
    let mut batch = Vec::new();
    // The caller sends nothing before it has received the frame `Ready` of this end.
    let mut outcome = writer.frame(Kind::Ready, 0, &[]).await;
    loop {
        if outcome.is_ok() {
            outcome = match writer.flush().await {
                Ok(bytes) => {
                    shared.counters.bytes_sent.add(bytes);
                    Ok(())
                }
                Err(error) => Err(error),
            };
        }
        if let Err(error) = outcome {
            return error.to_string();
        }
        while !answers.take(&mut batch) {
            answers.ready.notified().await;
        }
        outcome = write_batch(&mut writer, &mut batch).await;
        tokio::task::yield_now().await;
    }
}

async fn write_batch<W: AsyncWrite + Unpin>(
    writer: &mut FrameWriter<W>,
    batch: &mut Vec<(u64, Option<Bytes>)>,
) -> std::io::Result<()> {
    for (id, body) in batch.drain(..) {
        match body {
            Some(body) => writer.frame(Kind::Answer, id, &body).await?,
            None => writer.frame(Kind::Dropped, id, &[]).await?,
        }
    }
    Ok(())
}
