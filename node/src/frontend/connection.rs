//! One client connection, of any protocol: reads requests, starts them, and writes their replies in order.
//!
//! Starts requests as they arrive, up to the limit of the pipeline, and only as far as the order rule allows
//! (see `order`). A reply that is complete at once, with none before it, is written to the output directly;
//! others wait in the pipeline. While the client does not read its replies, the connection reads no further
//! requests.
//!
//! Closes the connection, after the replies to the requests in flight, when the client or the node stops,
//! when its user is deleted, and when a limit on memory or time is reached.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;

use super::connection_memory::{ConnectionMemory, NO_MEMORY, Silence};
use super::limits::ClientLimits;
use super::pipeline::{OUT_BYTES_MAX, Pipeline};
use super::protocol::{Accepted, ClientProtocol, Halt, Interrupt};

/// Time that sending the end of a connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection and its requests in flight.
pub(super) struct Connection<P: ClientProtocol, S> {
    stream: S,
    protocol: P,
    limits: Arc<ClientLimits>,
    /// Changes when users are deleted or reloaded.
    users: watch::Receiver<u64>,
    input: BytesMut,
    pipeline: Pipeline<P::Reply>,
    memory: ConnectionMemory,
    /// Read nothing more, but answer every request that was read.
    stopping: bool,
}

impl<P: ClientProtocol, S: AsyncRead + AsyncWrite + Unpin + Send> Connection<P, S> {
    pub(super) fn new(state: Arc<P::State>, stream: S, accepted: Accepted) -> Self {
        let context = P::context(&state);
        Self {
            stream,
            limits: Arc::clone(&context.limits),
            users: context.security.access.changes(),
            input: BytesMut::new(),
            pipeline: Pipeline::new(&context.stats),
            memory: ConnectionMemory::new(&context.limits, &context.stats),
            stopping: false,
            protocol: P::new(state, accepted),
        }
    }

    /// Serves the client until it disconnects or the node stops.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn run(mut self, mut stopping: watch::Receiver<bool>) -> io::Result<()> {
        let result = self.serve(&mut stopping).await;
        self.pipeline.hand_over_counts();
        close(&mut self.stream).await;
        result
    }

    async fn serve(&mut self, stopping: &mut watch::Receiver<bool>) -> io::Result<()> {
        loop {
            let halt = self.advance().await?;
            let all_started = halt == Halt::OutOfInput;
            // A stop of the node closes the connection only once every request that was read is started.
            self.pipeline.closing |= self.stopping && all_started;
            if self.pipeline.closing && self.pipeline.is_empty() {
                return Ok(());
            }
            if halt == Halt::GoOn {
                continue;
            }
            // The memory limit is checked before more input is read.
            if !self.memory.hold(self.bytes()) {
                self.protocol.refuse(NO_MEMORY, &mut self.pipeline);
                return self.write_output().await;
            }
            let may_read = all_started && !self.pipeline.closing;
            if may_read {
                let wanted = self.protocol.wanted(&self.input);
                self.input.reserve(self.memory.room(self.input.len(), wanted));
            }
            // Biased: CLIENT KILL and complete replies come before new input, so that input cannot starve
            // them.
            tokio::select! {
                biased;
                interrupt = self.protocol.interrupted(halt, may_read) => match interrupt {
                    Interrupt::Killed => return Ok(()),
                    Interrupt::Unproven => self.protocol.refuse_client(&mut self.pipeline),
                    Interrupt::Resume => {}
                },
                () = self.pipeline.front_settled() => {}
                read = self.stream.read_buf(&mut self.input), if may_read => match read? {
                    0 => self.pipeline.closing = true,
                    count => {
                        self.pipeline.read_at = Instant::now();
                        self.memory.note_activity(count);
                        self.pipeline.tally.bytes_in += count as u64;
                    }
                },
                () = stopped(stopping), if !self.stopping => self.stopping = true,
                silence = self.memory.silence() => match silence {
                    Silence::Rest => self.release(),
                    Silence::TooLong if may_read && self.pipeline.is_empty() => {
                        self.memory.cut_for_silence();
                        return Ok(());
                    }
                    // The client waits for a reply, so its silence does not count.
                    Silence::TooLong => self.memory.note_activity(0),
                },
                _ = self.users.changed(), if !self.pipeline.closing => {
                    self.pipeline.closing |= self.protocol.has_ended();
                }
            }
        }
    }

    /// Returns the bytes of the connection in memory: its input, its requests in flight, its output.
    fn bytes(&self) -> usize {
        self.input.capacity() + self.protocol.bytes(&self.pipeline) + self.pipeline.output.capacity()
    }

    /// Frees the unused buffers of an idle connection.
    fn release(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        self.protocol.release();
        self.pipeline.release();
    }

    /// Starts the requests that may start, and writes the replies that are complete.
    async fn advance(&mut self) -> io::Result<Halt> {
        self.encode_settled();
        self.protocol.begin();
        let mut halt = self.start_requests();
        if halt == Halt::Alone {
            self.protocol.run_alone(&mut self.pipeline).await;
            halt = Halt::GoOn;
        }
        let waiting = self.pipeline.len();
        self.encode_settled();
        if halt == Halt::MustWait && self.pipeline.len() < waiting {
            // The answer that the next request waits for may have arrived already: nothing else would wake
            // it.
            halt = Halt::GoOn;
        }
        self.protocol.show(self.input.len(), &self.pipeline);
        self.write_output().await?;
        Ok(halt)
    }

    fn start_requests(&mut self) -> Halt {
        while !self.pipeline.closing {
            if !self.protocol.parse(&mut self.input, &mut self.pipeline) {
                return Halt::OutOfInput;
            }
            // Requests sent after the user was deleted may have been read before `users` changed.
            if self.protocol.has_ended() {
                self.pipeline.closing = true;
                break;
            }
            if self.pipeline.is_output_full() {
                return Halt::GoOn;
            }
            let much_waits = self.protocol.waiting_bytes(&self.pipeline) >= OUT_BYTES_MAX;
            if self.pipeline.len() >= self.limits.pipeline_max || much_waits {
                return Halt::MustWait;
            }
            if let ControlFlow::Break(halt) = self.protocol.start(&mut self.pipeline) {
                return halt;
            }
        }
        Halt::OutOfInput
    }

    /// Encodes the complete replies to the output, oldest first, up to the first incomplete one.
    fn encode_settled(&mut self) {
        let (mut count, mut since) = (0, self.pipeline.read_at);
        while let Some(pending) = self.pipeline.pop_settled() {
            if pending.since != since {
                self.pipeline.record(count, since);
                (count, since) = (0, pending.since);
            }
            count += pending.commands;
            self.protocol.encode(pending, &mut self.pipeline);
        }
        self.pipeline.record(count, since);
    }

    async fn write_output(&mut self) -> io::Result<()> {
        self.pipeline.record_answered();
        if self.pipeline.output.is_empty() {
            return Ok(());
        }
        self.pipeline.tally.bytes_out += self.pipeline.output.len() as u64;
        self.pipeline.hand_over_counts();
        tokio::select! {
            biased;
            written = self.memory.send(&mut self.stream, &self.pipeline.output) => written?,
            // CLIENT KILL also ends a client that does not read its replies.
            () = self.protocol.killed() => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
        self.pipeline.clear_output();
        Ok(())
    }
}

/// Waits until the node stops: until `stopping` is `true` or its sender is dropped.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    drop(stopping.wait_for(|stopping| *stopping).await);
}

/// Closes a connection: over TLS with a close_notify alert, by which the client distinguishes this end from a
/// cut (RFC 8446, 6.1). Waits at most [`CLOSE_TIMEOUT`] for a client that reads nothing.
async fn close(stream: &mut (impl AsyncWrite + Unpin)) {
    drop(tokio::time::timeout(CLOSE_TIMEOUT, stream.shutdown()).await);
}
