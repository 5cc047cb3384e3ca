//! The accepting end of links: reads a peer's calls, hands them to the [`Handler`](super::Handler), and
//! writes the answers, in whatever order they come.
//!
//! Bounded: while too many calls of a substream are unanswered, or too many bytes of calls and answers are
//! held for it, nothing more is read from it, and the peer's own queue fills up.

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
use super::{Class, Limits, Refused, Shared};
use crate::id::NodeId;

/// Where the answer to one call goes. Dropped without an answer, it tells the caller that the call was lost.
pub struct Responder(Option<Way>);

/// How an answer travels.
enum Way {
    /// Over the substream the call came on.
    Substream { answers: Arc<Answers>, id: u64, call_bytes: usize },
    /// To another network's code; `None` for a dropped call.
    Function(Box<dyn FnOnce(Option<Bytes>) + Send>),
}

impl Responder {
    /// One that calls `answered`, once, with the answer or, if there is none, with `None`.
    pub fn new(answered: impl FnOnce(Option<Bytes>) + Send + 'static) -> Self {
        Self(Some(Way::Function(Box::new(answered))))
    }

    /// Answers the call. A caller that is gone is not told apart: it knows only that the call was lost.
    ///
    /// A body above [`BODY_BYTES_MAX`] cannot be sent and counts as dropped.
    pub fn send(mut self, body: Bytes) {
        if body.len() <= BODY_BYTES_MAX {
            self.finish(Some(body));
        } else {
            tracing::error!(bytes = body.len(), limit = BODY_BYTES_MAX, "an answer is too long to be sent");
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

/// Answers of one substream that wait to be written.
#[derive(Default)]
struct Answers {
    state: Mutex<AnswersState>,
    ready: Notify,
    room: Notify,
}

#[derive(Default)]
struct AnswersState {
    /// Id of the call and its answer, `None` for a dropped one.
    ready: Vec<(u64, Option<Bytes>)>,
    /// Calls read whose answer is not yet handed to the writer.
    calls: usize,
    /// Bytes of those calls and of the answers in `ready`.
    bytes: usize,
    /// Whether the substream is gone.
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

    /// Takes all answers into `batch`; false if there are none.
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

    fn has_room(&self, limits: &Limits) -> bool {
        let state = self.state.lock();
        state.calls < limits.queue_calls_max && state.bytes < limits.queue_bytes_max
    }

    async fn wait_for_room(&self, limits: &Limits) {
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

/// Closes the answers however the serving of a substream ends.
struct CloseOnDrop(Arc<Answers>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Serves one accepted substream until it breaks; tells why it did.
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
            Ok(0) => return "the peer closed it".to_owned(),
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

/// Hands the whole frames received so far to the handler.
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
            return Err("the peer sent a frame that is no call".to_owned());
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
    // The caller sends nothing before it knows that this end reads.
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
