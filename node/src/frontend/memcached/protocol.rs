//! The memcached protocol of one connection: parses requests, starts them, and encodes their replies.
//!
//! Each key of a retrieval counts as one request of the pipeline.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::gate::{Gate, refusal};
use super::parser::Parser;
use super::reply::{Shape, Writer, failure_text};
use super::request::{Fetch, Foreign, Request};
use super::state::ServerState;
use super::stats;
use crate::frontend::context::FrontEndContext;
use crate::frontend::flush::flush;
use crate::frontend::keyspace::Keyspace;
use crate::frontend::order::KeyHash;
use crate::frontend::pipeline::{Pending, PendingReply, answer_of, poll_settled, settle};
use crate::frontend::protocol::{Accepted, ClientProtocol, Halt};
use crate::frontend::server;
use crate::kv::{Action, Answer, Operation, Ticket};

type Pipeline = crate::frontend::pipeline::Pipeline<Waiting>;

/// Serves memcached clients of `keyspace` on `listener`, with the limits and the security of `context`, until
/// `stopping` is `true` or its sender is dropped; then waits for the connections to end, and cancels a
/// pending flush_all.
pub async fn serve(
    keyspace: Arc<dyn Keyspace>,
    context: FrontEndContext,
    listener: TcpListener,
    stopping: watch::Receiver<bool>,
) {
    server::run::<Memcached>(Memcached::state(keyspace, context), listener, stopping).await;
}

/// The memcached state of a connection.
pub(super) struct Memcached {
    server: Arc<ServerState>,
    gate: Gate,
    parser: Parser,
    /// A retrieval with keys that are still to be read.
    fetch: Option<Fetch>,
    /// The next request, parsed and not started yet.
    next: Option<Request>,
    /// Bytes of values that had arrived when their replies were queued behind others. Counts only while
    /// replies are pending.
    waiting_bytes: usize,
    /// Whether the retrieval whose reply is being written has failed: nothing more of it is written.
    failed: bool,
}

/// Source of a pending reply.
pub(super) enum Waiting {
    One(Ticket, Shape),
    /// A complete line.
    Line(Bytes),
    /// The end of a retrieval.
    End,
}

impl PendingReply for Waiting {
    fn is_settled(&mut self) -> bool {
        match self {
            Self::One(ticket, _) => settle(ticket),
            Self::Line(_) | Self::End => true,
        }
    }

    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::One(ticket, _) => poll_settled(ticket, cx),
            Self::Line(_) | Self::End => Poll::Ready(()),
        }
    }
}

impl ClientProtocol for Memcached {
    const NAME: &'static str = "memcached";
    const TOO_MANY: &'static str = "ERROR Too many open connections\r\n";
    const OPERATORS: bool = false;
    const PROTECTED: &'static str = "SERVER_ERROR protected mode: this node serves only clients on its own \
        machine, because the default user has no password. Set requirepass or an ACL file, or protected_mode \
        = false if the network is trusted\r\n";

    type State = ServerState;
    type Reply = Waiting;

    fn state(keyspace: Arc<dyn Keyspace>, context: FrontEndContext) -> ServerState {
        ServerState::new(keyspace, context)
    }

    fn context(state: &ServerState) -> &FrontEndContext {
        &state.front_end
    }

    fn stop(state: &ServerState) {
        state.set_flush(None);
    }

    fn new(server: Arc<ServerState>, accepted: Accepted) -> Self {
        Self {
            gate: Gate::new(&server.front_end.security.access, accepted.peer),
            parser: Parser::new(server.front_end.limits.value_bytes_max),
            server,
            fetch: None,
            next: None,
            waiting_bytes: 0,
            failed: false,
        }
    }

    fn has_ended(&self) -> bool {
        self.gate.has_ended()
    }

    fn wanted(&self, input: &BytesMut) -> usize {
        self.parser.wanted(input)
    }

    fn parse(&mut self, input: &mut BytesMut, _pipeline: &mut Pipeline) -> bool {
        if self.fetch.is_none() && self.next.is_none() {
            self.parser.trust(self.gate.has_entered());
            let request = self.parser.next(input, self.server.keyspace.cluster_ms());
            self.next = request.map(|request| self.gate.pass(request));
        }
        self.fetch.is_some() || self.next.is_some()
    }

    fn start(&mut self, pipeline: &mut Pipeline) -> ControlFlow<Halt> {
        if self.fetch.is_some() {
            return self.fetch_next(pipeline);
        }
        match &self.next {
            Some(Request::Flush { .. } | Request::Stats(_) | Request::LogIn { .. }) => {
                return ControlFlow::Break(if pipeline.is_empty() { Halt::Alone } else { Halt::MustWait });
            }
            Some(Request::One(operation, _)) if pipeline.bars(&operation.key, operation.action.writes()) => {
                return ControlFlow::Break(Halt::MustWait);
            }
            _ => {}
        }
        let Some(request) = self.next.take() else { return ControlFlow::Continue(()) };
        match request {
            Request::One(operation, shape) => self.submit(operation, shape, pipeline),
            Request::Fetch(fetch) => self.fetch = Some(fetch),
            Request::Say(line) => self.add_line(line, pipeline),
            Request::Refuse(line) => {
                pipeline.tally.errors += 1;
                self.add_line(line, pipeline);
            }
            Request::Close(line) => {
                self.add_line(line, pipeline);
                pipeline.closing = true;
            }
            Request::Foreign(foreign) => {
                if foreign == Foreign::Http {
                    self.server.front_end.stats.http_request(Self::NAME, self.gate.peer());
                }
                pipeline.closing = true;
                return ControlFlow::Continue(());
            }
            Request::Flush { .. } | Request::Stats(_) | Request::LogIn { .. } => {}
        }
        pipeline.tally.commands += 1;
        ControlFlow::Continue(())
    }

    async fn run_alone(&mut self, pipeline: &mut Pipeline) {
        pipeline.tally.commands += 1;
        match self.next.take() {
            Some(Request::Flush { delay_s, noreply }) => {
                let done = if delay_s > 0 {
                    self.server.flush_later(delay_s);
                    Ok(0)
                } else {
                    flush(self.server.keyspace.as_ref()).await
                };
                let line = match done {
                    Ok(_) => "OK".to_owned(),
                    Err(failure) => {
                        pipeline.tally.errors += 1;
                        tracing::warn!(%failure, "flush_all removed only a part of the keys");
                        failure_text(&failure, true)
                    }
                };
                self.add_line(if noreply { Bytes::new() } else { line.into() }, pipeline);
            }
            Some(Request::LogIn { who, noreply }) => {
                let line = match self.gate.log_in(&who).await {
                    Ok(()) => Bytes::from_static(b"STORED"),
                    Err(error) => {
                        pipeline.tally.errors += 1;
                        refusal(&error)
                    }
                };
                self.add_line(if noreply { Bytes::new() } else { line }, pipeline);
            }
            Some(Request::Stats(name)) => {
                self.server.front_end.stats.add(&mut pipeline.tally);
                pipeline.output.extend(stats::text(&self.server, &name).await);
            }
            _ => {}
        }
    }

    fn encode(&mut self, pending: Pending<Waiting>, pipeline: &mut Pipeline) {
        match pending.reply {
            Waiting::One(ticket, shape) => self.write_answer(answer_of(ticket), &shape, pipeline),
            Waiting::Line(line) => self.write_line(&line, pipeline),
            Waiting::End => self.write_end(pipeline),
        }
    }

    fn refuse(&mut self, error: &str, pipeline: &mut Pipeline) {
        self.add_line(format!("SERVER_ERROR {error}").into(), pipeline);
        pipeline.closing = true;
    }

    fn bytes(&self, pipeline: &Pipeline) -> usize {
        let next = match &self.next {
            Some(Request::One(operation, _)) => operation.key.len() + operation.action.bytes() as usize,
            _ => 0,
        };
        next + self.waiting_bytes(pipeline)
    }

    fn waiting_bytes(&self, pipeline: &Pipeline) -> usize {
        if pipeline.is_empty() { 0 } else { self.waiting_bytes }
    }
}

impl Memcached {
    /// Starts the read of the retrieval's next key.
    fn fetch_next(&mut self, pipeline: &mut Pipeline) -> ControlFlow<Halt> {
        let Some(fetch) = &mut self.fetch else { return ControlFlow::Continue(()) };
        let writes = fetch.touch.is_some();
        let Some(key) = fetch.keys.first() else {
            self.fetch = None;
            if pipeline.is_empty() {
                pipeline.answered += 1;
                self.write_end(pipeline);
            } else {
                pipeline.push(0, 1, Waiting::End);
            }
            return ControlFlow::Continue(());
        };
        if pipeline.bars(key, writes) {
            return ControlFlow::Break(Halt::MustWait);
        }
        if let Some(key) = fetch.keys.next() {
            let (operation, shape) = fetch.operation(key);
            self.submit(operation, shape, pipeline);
        }
        ControlFlow::Continue(())
    }

    /// Starts an operation. Writes its reply if it is complete and the next one; otherwise queues it.
    fn submit(&mut self, operation: Operation, shape: Shape, pipeline: &mut Pipeline) {
        let counter = match &operation.action {
            Action::Delete => &mut pipeline.tally.deletes,
            action if action.writes() && shape.writes() => &mut pipeline.tally.sets,
            _ => &mut pipeline.tally.gets,
        };
        *counter += 1;
        let (key, writes) = (KeyHash::of(&operation.key), operation.action.writes());
        let mut ticket = self.server.keyspace.submit(operation);
        if pipeline.is_empty() && settle(&mut ticket) {
            pipeline.answered += 1;
            return self.write_answer(answer_of(ticket), &shape, pipeline);
        }
        // A completed operation blocks no other, so it needs no claim.
        let mut claims = 0;
        if let Ticket::Waiting { ordered, .. } = &ticket {
            pipeline.claims.push(key, writes, *ordered);
            claims = 1;
        }
        if pipeline.is_empty() {
            self.waiting_bytes = 0;
        }
        self.waiting_bytes += ticket.bytes();
        pipeline.push(claims, 1, Waiting::One(ticket, shape));
    }

    fn add_line(&mut self, line: Bytes, pipeline: &mut Pipeline) {
        if pipeline.is_empty() {
            pipeline.answered += 1;
            self.write_line(&line, pipeline);
        } else {
            pipeline.push(0, 1, Waiting::Line(line));
        }
    }

    fn write_answer(&mut self, answer: Answer, shape: &Shape, pipeline: &mut Pipeline) {
        let of_retrieval = matches!(shape, Shape::Value { .. });
        if of_retrieval && self.failed {
            return;
        }
        self.failed = self.writer(pipeline).reply(answer, shape) && of_retrieval;
    }

    fn write_line(&self, line: &[u8], pipeline: &mut Pipeline) {
        if !line.is_empty() {
            self.writer(pipeline).line(line);
        }
    }

    fn write_end(&mut self, pipeline: &mut Pipeline) {
        // The error already ended the reply of a failed retrieval.
        if !std::mem::take(&mut self.failed) {
            self.writer(pipeline).line(b"END");
        }
    }

    fn writer<'a>(&self, pipeline: &'a mut Pipeline) -> Writer<'a> {
        let now_ms = self.server.keyspace.cluster_ms();
        Writer { out: &mut pipeline.output, tally: &mut pipeline.tally, now_ms }
    }
}
