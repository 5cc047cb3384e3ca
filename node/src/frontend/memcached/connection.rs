//! One client connection: reads requests, starts them, and writes their replies in order.
//!
//! Starts requests as they arrive, up to the limit of the pipeline, and only as far as the order rule allows
//! (see [`crate::frontend::order`]). Each key of a retrieval counts as one. Replies wait in a queue for their
//! turn. While the client does not read its replies, the connection reads no further requests.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::watch;

use super::gate::{Gate, refusal};
use super::parser::Parser;
use super::reply::{Shape, Writer, failure_text};
use super::request::{Fetch, Foreign, Request};
use super::server::Server;
use super::stats;
use crate::frontend::accept::{FrontEnd as _, close, stopped};
use crate::frontend::connection_memory::{ConnectionMemory, NO_MEMORY, Silence};
use crate::frontend::flush::flush;
use crate::frontend::order::{Claims, KeyHash};
use crate::frontend::stats::Tally;
use crate::kv::{Action, Operation, Ticket, abandoned};

/// Bytes of output from which on no further request is started until they are written.
const OUT_BYTES_MAX: usize = 256 * 1024;
/// Capacity to which the output buffer shrinks after a write.
const OUT_BYTES_KEPT: usize = 64 * 1024;

/// A connection and its requests in flight.
pub(super) struct Connection<S> {
    server: Arc<Server>,
    stream: S,
    peer: SocketAddr,
    gate: Gate,
    /// Changes when users are deleted or reloaded.
    users: watch::Receiver<u64>,
    parser: Parser,
    input: BytesMut,
    /// Time at which the bytes of the input were read.
    read_at: Instant,
    /// A retrieval with keys that are still to be read.
    fetch: Option<Fetch>,
    /// The next request, which has to wait.
    held: Option<Request>,
    claims: Claims,
    pending: VecDeque<Pending>,
    /// Bytes of values that have arrived and wait behind other replies.
    waiting_bytes: usize,
    /// Requests since the last write of the output whose replies were encoded at once.
    answered: u64,
    /// Whether the retrieval whose reply is being written has failed: nothing more of it is written.
    failed: bool,
    output: Vec<u8>,
    tally: Tally,
    memory: ConnectionMemory,
    /// Read nothing more, but answer every request that was read.
    stopping: bool,
    /// Start no more requests, but write the replies of those in flight.
    closing: bool,
}

/// A reply that waits for its turn.
struct Pending {
    since: Instant,
    what: What,
}

enum What {
    /// An operation, which holds a claim.
    One(Ticket, Shape),
    /// A complete line.
    Line(Bytes),
    /// The end of a retrieval.
    End,
}

/// Reason why no further request was started.
enum Halt {
    /// Every request that was read is started.
    OutOfInput,
    /// The next request must wait for pending replies.
    MustWait,
    /// The output must be written before further requests are started.
    GoOn,
    /// This request must complete before any other starts. No request is in flight.
    Alone(Request),
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    pub(super) fn new(server: Arc<Server>, stream: S, peer: SocketAddr) -> Self {
        Self {
            memory: ConnectionMemory::new(&server.door.limits, &server.door.stats),
            gate: Gate::new(&server.door.security.access, peer),
            users: server.door.security.access.changes(),
            parser: Parser::new(server.door.limits.value_bytes_max),
            server,
            stream,
            peer,
            input: BytesMut::new(),
            read_at: Instant::now(),
            fetch: None,
            held: None,
            claims: Claims::default(),
            pending: VecDeque::new(),
            waiting_bytes: 0,
            answered: 0,
            failed: false,
            output: Vec::new(),
            tally: Tally::default(),
            stopping: false,
            closing: false,
        }
    }

    /// Serves the client until it disconnects or the node stops.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn run(mut self, mut stopping: watch::Receiver<bool>) -> io::Result<()> {
        let result = self.serve(&mut stopping).await;
        self.server.door.stats.add(&mut self.tally);
        close(&mut self.stream).await;
        result
    }

    async fn serve(&mut self, stopping: &mut watch::Receiver<bool>) -> io::Result<()> {
        loop {
            let halt = self.advance().await?;
            let all_started = matches!(halt, Halt::OutOfInput);
            // A stop of the node closes the connection only once every request that was read is started.
            self.closing |= self.stopping && all_started;
            if self.closing && self.pending.is_empty() {
                return Ok(());
            }
            if matches!(halt, Halt::GoOn) {
                continue;
            }
            // The memory limit is checked before more input is read.
            if !self.memory.hold(self.input.capacity() + self.output.capacity() + self.waiting_bytes) {
                self.add(What::Line(format!("SERVER_ERROR {NO_MEMORY}").into()));
                return self.write_output().await;
            }
            let may_read = all_started && !self.closing;
            if may_read {
                let wanted = self.parser.wanted(&self.input);
                self.input.reserve(self.memory.room(self.input.len(), wanted));
            }
            // Biased: complete replies come before new input, so that input cannot starve them.
            tokio::select! {
                biased;
                () = front_settled(&mut self.pending) => {}
                read = self.stream.read_buf(&mut self.input), if may_read => match read? {
                    0 => self.closing = true,
                    count => {
                        self.read_at = Instant::now();
                        self.memory.note_activity(count);
                        self.tally.bytes_in += count as u64;
                    }
                },
                () = stopped(stopping), if !self.stopping => self.stopping = true,
                silence = self.memory.silence() => match silence {
                    Silence::Rest => self.give_back(),
                    Silence::TooLong if may_read && self.pending.is_empty() => {
                        self.memory.cut_for_silence();
                        return Ok(());
                    }
                    // The client waits for a reply, so its silence does not count.
                    Silence::TooLong => self.memory.note_activity(0),
                },
                _ = self.users.changed(), if !self.closing => self.closing |= self.gate.has_ended(),
            }
        }
    }

    /// Frees the unused buffers of an idle connection.
    fn give_back(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        self.output.shrink_to_fit();
        self.pending.shrink_to_fit();
    }

    /// Starts the requests that may start, and writes the replies that are complete.
    async fn advance(&mut self) -> io::Result<Halt> {
        self.write_settled();
        let mut halt = self.start_requests();
        if let Halt::Alone(request) = halt {
            self.work_out(request).await;
            halt = Halt::GoOn;
        }
        let waiting = self.pending.len();
        self.write_settled();
        if matches!(halt, Halt::MustWait) && self.pending.len() < waiting {
            // The answer that the next request waits for may have arrived already: nothing else would wake
            // it.
            halt = Halt::GoOn;
        }
        self.write_output().await?;
        Ok(halt)
    }

    fn start_requests(&mut self) -> Halt {
        while !self.closing {
            // Requests that were sent after the user was deleted may have been read before `users` changed.
            if self.gate.has_ended() {
                self.closing = true;
                break;
            }
            if self.output.len() >= OUT_BYTES_MAX {
                return Halt::GoOn;
            }
            let much_waits = self.waiting_bytes >= OUT_BYTES_MAX;
            if self.pending.len() >= self.server.door.limits.pipeline_max || much_waits {
                return Halt::MustWait;
            }
            if self.fetch.is_some() {
                if !self.fetch_next() {
                    return Halt::MustWait;
                }
                continue;
            }
            let request = match self.held.take() {
                Some(request) => request,
                None => match self.next_request() {
                    Some(request) => self.gate.pass(request),
                    None => return Halt::OutOfInput,
                },
            };
            match request {
                Request::Flush { .. } | Request::Stats(_) | Request::LogIn { .. } => {
                    if self.pending.is_empty() {
                        return Halt::Alone(request);
                    }
                    self.held = Some(request);
                    return Halt::MustWait;
                }
                Request::One(operation, shape) => {
                    if self.is_barred(&operation.key, operation.action.writes()) {
                        self.held = Some(Request::One(operation, shape));
                        return Halt::MustWait;
                    }
                    self.start(operation, shape);
                }
                Request::Fetch(fetch) => self.fetch = Some(fetch),
                Request::Say(line) => self.add(What::Line(line)),
                Request::Refuse(line) => {
                    self.tally.errors += 1;
                    self.add(What::Line(line));
                }
                Request::Close(line) => {
                    self.add(What::Line(line));
                    self.closing = true;
                }
                Request::Foreign(foreign) => {
                    if foreign == Foreign::Http {
                        self.server.door.stats.http_request(Server::NAME, self.peer);
                    }
                    self.closing = true;
                    break;
                }
            }
            self.tally.commands += 1;
        }
        Halt::OutOfInput
    }

    fn next_request(&mut self) -> Option<Request> {
        self.parser.trust(self.gate.has_entered());
        self.parser.next(&mut self.input, self.server.keyspace.cluster_ms())
    }

    /// Starts the read of the retrieval's next key. Returns `false` if the order rule does not allow it yet.
    fn fetch_next(&mut self) -> bool {
        let Some(fetch) = &mut self.fetch else { return true };
        let writes = fetch.touch.is_some();
        let Some(key) = fetch.keys.first() else {
            self.fetch = None;
            self.add(What::End);
            return true;
        };
        if self.claims.bar(KeyHash::of(key), writes) {
            return false;
        }
        if let Some(key) = fetch.keys.next() {
            let (operation, shape) = fetch.operation(key);
            self.start(operation, shape);
        }
        true
    }

    fn is_barred(&self, key: &[u8], writes: bool) -> bool {
        !self.claims.is_empty() && self.claims.bar(KeyHash::of(key), writes)
    }

    fn start(&mut self, operation: Operation, shape: Shape) {
        let counter = match &operation.action {
            Action::Delete => &mut self.tally.deletes,
            action if action.writes() && shape.writes() => &mut self.tally.sets,
            _ => &mut self.tally.gets,
        };
        *counter += 1;
        let (key, writes) = (KeyHash::of(&operation.key), operation.action.writes());
        let ticket = self.server.keyspace.submit(operation);
        let ordered = matches!(ticket, Ticket::Ready(_) | Ticket::Waiting { ordered: true, .. });
        // A completed operation blocks no other, but its claim keeps its place in the queue until the reply
        // is written.
        let writes = writes && !matches!(ticket, Ticket::Ready(_));
        self.claims.push(key, writes, ordered);
        self.add(What::One(ticket, shape));
    }

    /// Writes a reply if it is complete and the next one; otherwise queues it.
    fn add(&mut self, what: What) {
        let mut pending = Pending { since: self.read_at, what };
        if self.pending.is_empty() && pending.is_settled() {
            self.answered += 1;
            return self.write(pending.what);
        }
        self.waiting_bytes += pending.value_bytes();
        self.pending.push_back(pending);
    }

    /// Runs a request to its end before any other starts. No request is in flight.
    async fn work_out(&mut self, request: Request) {
        self.tally.commands += 1;
        match request {
            Request::Flush { delay_s, noreply } => {
                let done = if delay_s > 0 {
                    self.server.flush_later(delay_s);
                    Ok(0)
                } else {
                    flush(self.server.keyspace.as_ref()).await
                };
                let line = match done {
                    Ok(_) => "OK".to_owned(),
                    Err(failure) => {
                        self.tally.errors += 1;
                        tracing::warn!(%failure, "flush_all removed only a part of the keys");
                        failure_text(&failure, true)
                    }
                };
                self.add(What::Line(if noreply { Bytes::new() } else { line.into() }));
            }
            Request::LogIn { who, noreply } => {
                let line = match self.gate.log_in(&who).await {
                    Ok(()) => Bytes::from_static(b"STORED"),
                    Err(error) => {
                        self.tally.errors += 1;
                        refusal(&error)
                    }
                };
                self.add(What::Line(if noreply { Bytes::new() } else { line }));
            }
            Request::Stats(name) => {
                self.server.door.stats.add(&mut self.tally);
                self.output.extend(stats::text(&self.server, &name).await);
            }
            _ => {}
        }
    }

    /// Writes the complete replies to the output, oldest first, up to the first incomplete one.
    fn write_settled(&mut self) {
        let mut counted = (0, self.read_at);
        while self.output.len() < OUT_BYTES_MAX
            && self.pending.front_mut().is_some_and(Pending::is_settled)
            && let Some(pending) = self.pending.pop_front()
        {
            if pending.since != counted.1 {
                self.record(counted);
                counted = (0, pending.since);
            }
            counted.0 += 1;
            self.write(pending.what);
        }
        self.record(counted);
        if self.pending.is_empty() {
            self.waiting_bytes = 0;
        }
    }

    fn write(&mut self, what: What) {
        let now_ms = self.server.keyspace.cluster_ms();
        let mut to = Writer { out: &mut self.output, tally: &mut self.tally, now_ms };
        match what {
            What::One(ticket, shape) => {
                self.claims.pop(1);
                let of_retrieval = matches!(shape, Shape::Value { .. });
                if of_retrieval && self.failed {
                    return;
                }
                let answer = match ticket {
                    Ticket::Ready(answer) => answer,
                    Ticket::Waiting { .. } => Err(abandoned()),
                };
                self.failed = to.reply(answer, &shape) && of_retrieval;
            }
            What::Line(line) if line.is_empty() => {}
            What::Line(line) => to.line(&line),
            // The error already ended the reply of a failed retrieval.
            What::End if std::mem::take(&mut self.failed) => {}
            What::End => to.line(b"END"),
        }
    }

    fn record(&self, (count, since): (u64, Instant)) {
        if count > 0 {
            self.server.door.stats.record_latency(since, Instant::now(), count);
        }
    }

    async fn write_output(&mut self) -> io::Result<()> {
        let answered = std::mem::take(&mut self.answered);
        self.record((answered, self.read_at));
        if self.output.is_empty() {
            return Ok(());
        }
        self.tally.bytes_out += self.output.len() as u64;
        self.server.door.stats.add(&mut self.tally);
        self.memory.send(&mut self.stream, &self.output).await?;
        self.output.clear();
        self.output.shrink_to(OUT_BYTES_KEPT);
        Ok(())
    }
}

impl Pending {
    /// Returns the bytes of the value, if it has arrived.
    fn value_bytes(&self) -> usize {
        match &self.what {
            What::One(ticket, _) => ticket.bytes(),
            What::Line(_) | What::End => 0,
        }
    }

    /// Returns whether the reply is complete. Takes the operation's answer if it has arrived.
    fn is_settled(&mut self) -> bool {
        let What::One(ticket, _) = &mut self.what else { return true };
        let Ticket::Waiting { answer, .. } = ticket else { return true };
        *ticket = Ticket::Ready(match answer.try_recv() {
            Ok(answer) => answer,
            Err(TryRecvError::Closed) => Err(abandoned()),
            Err(TryRecvError::Empty) => return false,
        });
        true
    }

    /// Polls until the reply is complete.
    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let What::One(ticket, _) = &mut self.what
            && let Ticket::Waiting { answer, .. } = ticket
        {
            match Pin::new(answer).poll(cx) {
                Poll::Ready(answer) => *ticket = Ticket::Ready(answer.unwrap_or_else(|_| Err(abandoned()))),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }
}

/// Waits until the oldest pending reply is complete. Never returns if none is pending.
async fn front_settled(pending: &mut VecDeque<Pending>) {
    match pending.front_mut() {
        Some(front) => poll_fn(|cx| front.poll_settled(cx)).await,
        None => std::future::pending().await,
    }
}
