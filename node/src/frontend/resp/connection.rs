//! One client connection: reads commands, starts them, and writes their replies in order.
//!
//! Starts commands as they arrive, up to the limit of the pipeline, and only as far as the order rule allows
//! (see `order`). A reply that is complete at once, with none before it, is written to the output directly;
//! others wait in a queue. While the client does not read its replies, the connection reads no further
//! commands.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use super::client::{Client, Executed, Fate, Replies};
use super::commands::{self, Command, Context, Keys, Watched, Written};
use super::encoder::{Encoder, Protocol};
use super::operator::{Operator, unproven};
use super::parser::{Args, Batch, Bounds, Parser};
use super::reply::{Handled, Pending, Reply, What, encode_many, encode_one};
use super::server::Server;
use crate::frontend::accept::{FrontEnd as _, Place, close, stopped};
use crate::frontend::clients::Pause;
use crate::frontend::connection_memory::{ConnectionMemory, NO_MEMORY, Silence};
use crate::frontend::order::{Claims, KeyHash};
use crate::frontend::security::Stream;
use crate::frontend::slowlog;
use crate::frontend::stats::{CallTally, Ended, Tally};
use crate::kv::Ticket;

/// Bytes of output from which on no further command is started until they are written.
const OUT_BYTES_MAX: usize = 256 * 1024;
/// Capacity to which the output buffer shrinks after a write.
const OUT_BYTES_KEPT: usize = 64 * 1024;

/// A connection and its commands in flight.
pub(super) struct Connection {
    server: Arc<Server>,
    stream: Stream,
    client: Client,
    /// Changes when users are deleted or reloaded.
    users: watch::Receiver<u64>,
    parser: Parser,
    input: BytesMut,
    batch: Batch,
    /// Time at which the bytes of the batch were read.
    read_at: Instant,
    claims: Claims,
    pending: VecDeque<Pending>,
    output: Vec<u8>,
    pauses: watch::Receiver<Option<Pause>>,
    /// The pause of all clients, as last checked before commands were started.
    pause: Option<Pause>,
    /// Commands since the last write of the output whose replies were encoded at once.
    answered: u64,
    tally: Tally,
    calls: CallTally,
    /// Set on a connection beyond the limit on clients: only an operator may use it.
    operator: Option<Operator>,
    memory: ConnectionMemory,
    /// Read nothing more, but answer every command that was read.
    stopping: bool,
    /// Start no more commands, but write the replies of those in flight.
    closing: bool,
}

/// A started command whose reply is not encoded yet.
struct Asked {
    /// Bytes of the arguments.
    bytes: usize,
    /// Number of claims that the command holds.
    claims: usize,
    /// Whether the reply is dropped (CLIENT REPLY).
    muted: bool,
    /// Name and number of arguments; `None` if the command is not counted.
    command: Option<(&'static str, usize)>,
}

/// Reason why no further command was started.
#[derive(PartialEq, Eq)]
enum Halt {
    /// Every command that was read is started.
    OutOfInput,
    /// The next command must wait for pending replies.
    MustWait,
    /// The output must be written before further commands are started.
    GoOn,
    /// The next command must complete before any other starts.
    Barrier,
    /// The next command must wait until the pause of the clients ends.
    Paused,
}

impl Connection {
    pub(super) fn new(
        server: Arc<Server>,
        stream: Stream,
        (peer, place): (SocketAddr, Place),
        id: u64,
    ) -> Self {
        let local = stream.tcp().local_addr().ok();
        let shown = local.map(|addr| addr.to_string()).unwrap_or_default();
        let client = Client {
            id,
            peer,
            local: local.map(|addr| addr.ip().to_canonical()),
            registered: server.clients.register(id, peer, shown),
            last_command: "NULL",
            replies: Replies::On,
            name: String::new(),
            library: String::new(),
            library_version: String::new(),
            protocol: Protocol::Resp2,
            readonly: false,
            fate: Fate::Rejected,
            executed: Executed::default(),
            queue: None,
            watched: Watched::default(),
            written: Written::default(),
            session: server.access().session(),
        };
        Self {
            operator: (place == Place::Operator).then(Operator::new),
            memory: ConnectionMemory::new(&server.door.limits, &server.door.stats),
            parser: Parser::new(Bounds::of(&server.door.limits)),
            users: server.access().changes(),
            pauses: server.clients.pauses(),
            pause: None,
            server,
            stream,
            client,
            input: BytesMut::new(),
            batch: Batch::default(),
            read_at: Instant::now(),
            claims: Claims::default(),
            pending: VecDeque::new(),
            output: Vec::new(),
            answered: 0,
            tally: Tally::default(),
            calls: CallTally::default(),
            stopping: false,
            closing: false,
        }
    }

    /// Serves the client until it disconnects or the node stops.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn run(mut self, mut stopping: watch::Receiver<bool>) -> io::Result<()> {
        let result = loop {
            let halt = match self.advance().await {
                Ok(halt) => halt,
                Err(error) => break Err(error),
            };
            let all_started = halt == Halt::OutOfInput;
            // A stop of the node closes the connection only once every command that was read is started.
            self.closing |= self.stopping && all_started;
            if self.closing && self.pending.is_empty() {
                break Ok(());
            }
            if halt == Halt::GoOn {
                continue;
            }
            // The memory limit is checked before more input is read.
            if !self.memory.hold(self.bytes()) {
                self.refuse_input(NO_MEMORY);
                break self.write_output().await;
            }
            let may_read = all_started && !self.closing;
            if may_read {
                let wanted = self.parser.wanted(&self.input);
                self.input.reserve(self.memory.room(self.input.len(), wanted));
            }
            // Biased: CLIENT KILL and complete replies come before new input, so that input cannot starve
            // them.
            tokio::select! {
                biased;
                () = self.client.registered.until_ended() => break Ok(()),
                () = unproven(&self.operator), if may_read => self.refuse_client(),
                () = pause_over(&mut self.pauses, self.pause), if halt == Halt::Paused => {}
                () = front_settled(&mut self.pending) => {}
                read = self.stream.read_buf(&mut self.input), if may_read => match read {
                    Ok(0) => self.closing = true,
                    Ok(count) => {
                        self.read_at = Instant::now();
                        self.memory.note_activity(count);
                        self.tally.bytes_in += count as u64;
                    }
                    Err(error) => break Err(error),
                },
                () = stopped(&mut stopping), if !self.stopping => self.stopping = true,
                silence = self.memory.silence() => match silence {
                    Silence::Rest => self.give_back(),
                    Silence::TooLong if may_read && self.pending.is_empty() => {
                        self.memory.cut_for_silence();
                        break Ok(());
                    }
                    // The client waits for a reply, so its silence does not count.
                    Silence::TooLong => self.memory.note_activity(0),
                },
                _ = self.users.changed(), if !self.closing => self.closing |= self.client.session.has_ended(),
            }
        };
        self.server.door.stats.add(&mut self.tally);
        self.server.door.stats.add_calls(&mut self.calls);
        close(&mut self.stream).await;
        result
    }

    /// Returns the bytes of the connection in memory: its input, its commands in flight, its output.
    fn bytes(&self) -> usize {
        let read = self.input.capacity() + self.batch.bytes() + self.parser.bytes();
        read + self.pending.iter().map(Pending::bytes).sum::<usize>() + self.output.capacity()
    }

    /// Frees the unused buffers of an idle connection.
    fn give_back(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        self.parser.give_back();
        self.batch.give_back();
        self.output.shrink_to_fit();
        self.pending.shrink_to_fit();
    }

    /// Starts the commands that may start, and writes the replies that are complete.
    async fn advance(&mut self) -> io::Result<Halt> {
        self.encode_settled();
        self.pause = *self.pauses.borrow_and_update();
        let mut halt = self.start_commands();
        if halt == Halt::Barrier {
            self.work_out_next().await;
            halt = Halt::GoOn;
        }
        let waiting = self.pending.len();
        self.encode_settled();
        if halt == Halt::MustWait && self.pending.len() < waiting {
            // The answer that the next command waits for may have arrived already: nothing else would wake
            // it.
            halt = Halt::GoOn;
        }
        self.show();
        self.write_output().await?;
        Ok(halt)
    }

    fn show(&self) {
        self.client.show();
        let active = self.read_at;
        self.client.registered.show(|shown| {
            shown.active = active;
            shown.query_bytes = self.input.len();
            shown.output_bytes = self.output.len();
            shown.waiting = self.pending.len();
        });
    }

    fn start_commands(&mut self) -> Halt {
        while !self.closing {
            if self.batch.is_done() && !self.parse() {
                return Halt::OutOfInput;
            }
            // Commands sent after the user was deleted may have been read before `users` changed.
            if self.client.session.has_ended() {
                self.closing = true;
                break;
            }
            if self.output.len() >= OUT_BYTES_MAX {
                return Halt::GoOn;
            }
            if self.pending.len() >= self.server.door.limits.pipeline_max || self.much_waits() {
                return Halt::MustWait;
            }
            let Some(args) = self.batch.current() else {
                continue;
            };
            let command = commands::find(args);
            // A web page can make a browser send commands in the body of an HTTP request: none of them may
            // run.
            if is_http(command, args) {
                self.server.door.stats.http_request(Server::NAME, self.client.peer);
                self.closing = true;
                break;
            }
            let session = &self.client.session;
            let is_admitted = match &mut self.operator {
                Some(operator) => operator.admits(&self.server, session, command, args),
                None => true,
            };
            if !is_admitted {
                self.refuse_client();
                break;
            }
            if self.pause.is_some_and(|pause| pause.holds(command.is_some_and(Command::writes))) {
                return Halt::Paused;
            }
            // A barrier runs while no other command is in flight. With a wrong arity it only gets its error.
            if let Some(command) = command.filter(|command| command.is_barrier(args)) {
                let alone = self.pending.is_empty();
                return if alone && command.arity_fits(args) {
                    Halt::Barrier
                } else if alone {
                    self.start_next(Some(command));
                    continue;
                } else {
                    Halt::MustWait
                };
            }
            if !self.claims.is_empty() && command.is_some_and(|command| self.is_barred(command, args)) {
                return Halt::MustWait;
            }
            self.start_next(command);
        }
        Halt::OutOfInput
    }

    /// Returns whether the encoded replies that wait behind another one have reached [`OUT_BYTES_MAX`].
    fn much_waits(&self) -> bool {
        matches!(self.pending.back(), Some(Pending { what: What::Encoded(bytes), .. }) if bytes.len() >= OUT_BYTES_MAX)
    }

    /// Parses the input. Returns whether the batch has a command.
    fn parse(&mut self) -> bool {
        self.parser.trust(self.server.access().has_entered(&self.client.session));
        if let Err(error) = self.parser.parse(&mut self.input, &mut self.batch) {
            if !self.batch.is_done() {
                // The commands before the error run first. The parser returns the error again at the next
                // call.
                return true;
            }
            self.refuse_input(&error.to_string());
            return false;
        }
        !self.batch.is_done()
    }

    /// Queues an error reply behind the pending replies, and closes the connection after it.
    fn refuse_input(&mut self, error: &str) {
        tracing::debug!(client = %self.client.peer, %error, "client input refused");
        let text = format!("ERR {error}");
        let mut bytes = Vec::new();
        Encoder::new(&mut bytes, self.client.protocol).error(text.as_bytes());
        self.tally.errors += 1;
        self.add_written(&bytes, 0);
        self.closing = true;
    }

    /// Rejects a client that uses a place for operators without being one: queues the error and closes the
    /// connection after it.
    fn refuse_client(&mut self) {
        self.server.door.stats.connection_refused();
        self.add_written(Server::TOO_MANY.as_bytes(), 0);
        self.closing = true;
    }

    fn is_barred(&self, command: &Command, args: Args<'_>) -> bool {
        let writes = command.writes();
        command.keys.of(args).any(|index| self.claims.bar(KeyHash::of(args.get(index)), writes))
    }

    /// Starts the current command of the batch.
    fn start_next(&mut self, command: Option<&'static Command>) {
        let Some(args) = self.batch.current() else { return };
        // While earlier replies are pending, this reply must not enter the output: it is encoded aside.
        let aside = !self.pending.is_empty();
        let mut scratch = Vec::new();
        let output = if aside { &mut scratch } else { &mut self.output };
        let begin = output.len();
        let (began, errors) = (Instant::now(), self.tally.errors);
        let mut context = context(&self.server, &mut self.client, output, &mut self.tally);
        let handled = commands::handle(command, &mut context, args);
        let muted = self.client.mute();
        let asked = asked(&mut self.tally, self.client.fate, command, args);
        let claimed = match (&handled, command) {
            (Ok(Reply::One(ticket, _)), Some(command)) => {
                claim(&mut self.claims, command, args, std::slice::from_ref(ticket))
            }
            (Ok(Reply::Many(tickets, _)), Some(command)) => claim(&mut self.claims, command, args, tickets),
            _ => 0,
        };
        let bytes = args.bytes_all();
        self.batch.advance();
        let waits = self.pending.len();
        self.take_reply(handled, begin, scratch, Asked { bytes, claims: claimed, muted, command: asked });
        if self.client.fate == Fate::Rejected {
            self.note(asked, began, Ended::Rejected);
        } else if self.pending.len() == waits {
            self.note(asked, began, self.ended(errors));
        }
    }

    fn take_reply(&mut self, handled: Handled, begin: usize, mut scratch: Vec<u8>, from: Asked) {
        let aside = !self.pending.is_empty();
        let output = if aside { &mut scratch } else { &mut self.output };
        let mut to = Encoder::new(output, self.client.protocol);
        let what = match handled {
            Ok(Reply::One(Ticket::Ready(answer), shape)) if !aside => {
                encode_one(answer, shape, &mut to, &mut self.tally);
                None
            }
            Ok(Reply::Many(tickets, gather)) if !aside && tickets.iter().all(is_ready) => {
                let answers: Vec<_> = tickets.into_iter().filter_map(ready).collect();
                encode_many(answers.into_iter(), gather, &mut to, &mut self.tally);
                None
            }
            Ok(Reply::One(ticket, shape)) => Some(What::One(ticket, shape)),
            Ok(Reply::Many(tickets, gather)) => Some(What::Many(tickets, gather)),
            Ok(Reply::Written | Reply::Later(_) | Reply::Then(_)) => None,
            Ok(Reply::Close) => {
                self.closing = true;
                None
            }
            Err(refusal) => {
                to.out.truncate(begin);
                to.error(&refusal.0);
                self.tally.errors += 1;
                None
            }
        };
        let Asked { bytes, claims, muted, command } = from;
        match what {
            Some(what) => self.pending.push_back(Pending {
                since: self.read_at,
                claims,
                commands: 1,
                muted,
                asked: command,
                args_bytes: bytes,
                what,
            }),
            None if muted => {
                // A reply that was encoded aside is dropped together with `scratch`.
                self.output.truncate(if aside { self.output.len() } else { begin });
            }
            None if aside => self.add_written(&scratch, 1),
            None => self.answered += 1,
        }
    }

    /// Appends a complete reply: to the output, or behind the pending replies.
    fn add_written(&mut self, bytes: &[u8], commands: u64) {
        match self.pending.back_mut() {
            None => {
                self.output.extend_from_slice(bytes);
                self.answered += commands;
            }
            Some(Pending { what: What::Encoded(before), commands: counted, .. }) => {
                before.extend_from_slice(bytes);
                *counted += commands;
            }
            Some(_) => self.pending.push_back(Pending {
                since: self.read_at,
                claims: 0,
                commands,
                muted: false,
                asked: None,
                args_bytes: 0,
                what: What::Encoded(bytes.to_vec()),
            }),
        }
    }

    /// Runs the current command to its end before any other starts. No command is in flight.
    async fn work_out_next(&mut self) {
        let Some(args) = self.batch.current() else { return };
        let command = commands::find(args);
        let (begin, errors) = (self.output.len(), self.tally.errors);
        let mut at_hand = context(&self.server, &mut self.client, &mut self.output, &mut self.tally);
        let mut handled = commands::handle(command, &mut at_hand, args);
        let muted = self.client.mute();
        let asked = asked(&mut self.tally, self.client.fate, command, args);
        self.batch.advance();
        if let Ok(Reply::Then(found_out)) = handled {
            let go_on = found_out.await;
            handled = go_on(&mut context(&self.server, &mut self.client, &mut self.output, &mut self.tally));
        }
        match handled {
            Ok(Reply::Later(future)) => {
                let (bytes, tally) = future.await;
                if !muted {
                    self.output.extend_from_slice(&bytes);
                }
                self.tally.merge(tally);
                self.answered += 1;
                // An error of a queued command counts for that command, not for EXEC.
                let mut errors = errors;
                for (command, failed) in self.client.executed.lock().drain(..) {
                    errors += u64::from(failed);
                    let ended = if failed { Ended::Failed } else { Ended::Done };
                    self.calls.count(command, Duration::ZERO, ended);
                }
                self.note(asked, self.read_at, self.ended(errors));
            }
            handled => {
                let from = Asked { bytes: 0, claims: 0, muted, command: asked };
                self.take_reply(handled, begin, Vec::new(), from);
                let rejected = self.client.fate == Fate::Rejected;
                let ended = if rejected { Ended::Rejected } else { self.ended(errors) };
                self.note(asked, self.read_at, ended);
            }
        }
    }

    /// Encodes the complete replies to the output, oldest first, up to the first incomplete one.
    fn encode_settled(&mut self) {
        let mut counted = (0, self.read_at);
        while self.output.len() < OUT_BYTES_MAX
            && self.pending.front_mut().is_some_and(Pending::is_settled)
            && let Some(pending) = self.pending.pop_front()
        {
            self.claims.pop(pending.claims);
            if pending.since != counted.1 {
                self.record(counted);
                counted = (0, pending.since);
            }
            counted.0 += pending.commands;
            let (begin, errors) = (self.output.len(), self.tally.errors);
            let (muted, asked, since) = (pending.muted, pending.asked, pending.since);
            let mut to = Encoder::new(&mut self.output, self.client.protocol);
            pending.encode(&mut to, &mut self.tally);
            self.note(asked, since, self.ended(errors));
            if muted {
                self.output.truncate(begin);
            }
        }
        self.record(counted);
    }

    fn record(&self, (count, since): (u64, Instant)) {
        if count > 0 {
            self.server.door.stats.record_latency(since, Instant::now(), count);
        }
    }

    /// Returns the result of a command before which `errors` errors were counted.
    fn ended(&self, errors: u64) -> Ended {
        if self.tally.errors > errors { Ended::Failed } else { Ended::Done }
    }

    /// Counts a command that was read at `since` and completes now. Adds it to the slow log if it was slow.
    fn note(&mut self, asked: Option<(&'static str, usize)>, since: Instant, ended: Ended) {
        let took = since.elapsed();
        let Some((command, arguments)) = asked else { return };
        self.calls.count(command, took, ended);
        if !self.server.slowlog.wants(took) {
            return;
        }
        self.server.slowlog.add(slowlog::Entry {
            id: 0,
            at_s: super::now_ms() / 1000,
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            command,
            arguments,
            peer: self.client.peer.to_string(),
            client: self.client.name.clone(),
        });
    }

    async fn write_output(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let answered = std::mem::take(&mut self.answered);
        self.record((answered, self.read_at));
        self.tally.bytes_out += self.output.len() as u64;
        self.server.door.stats.add(&mut self.tally);
        self.server.door.stats.add_calls(&mut self.calls);
        tokio::select! {
            written = self.memory.send(&mut self.stream, &self.output) => written?,
            // CLIENT KILL also ends a client that does not read its replies.
            () = self.client.registered.until_ended() => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
        self.output.clear();
        self.output.shrink_to(OUT_BYTES_KEPT);
        Ok(())
    }
}

/// Returns whether this is a line of an HTTP request: its first line, or, as in Redis, `POST` or `Host:` in
/// any form. A complete command such as `SET a HTTP/1.1` is not.
fn is_http(command: Option<&Command>, args: Args<'_>) -> bool {
    let name = args.get(0);
    let is = |word: &[u8]| name.eq_ignore_ascii_case(word);
    command.is_none_or(|command| !command.arity_fits(args))
        && (is(b"post") || is(b"host:") || args.len() == 3 && args.get(2).starts_with(b"HTTP/"))
}

/// Counts a command that was run. Returns the name under which its calls are counted, and its number of
/// arguments; `None` for a queued command, which EXEC counts.
fn asked(
    tally: &mut Tally,
    fate: Fate,
    command: Option<&'static Command>,
    args: Args<'_>,
) -> Option<(&'static str, usize)> {
    tally.commands += u64::from(fate == Fate::Run);
    // As in Redis, a command with an unknown subcommand is not counted.
    let is_counted = |command: &&Command| fate != Fate::Queued && commands::is_whole(command, args);
    let command = command.filter(is_counted)?;
    Some((commands::name_of(command, args), args.len().saturating_sub(1)))
}

/// Creates the context for a handler.
fn context<'a>(
    server: &'a Arc<Server>,
    client: &'a mut Client,
    output: &'a mut Vec<u8>,
    tally: &'a mut Tally,
) -> Context<'a> {
    let to = Encoder::new(output, client.protocol);
    Context { server, client, to, tally, collected: None }
}

/// Adds claims for a command whose operations are in flight. Returns how many.
fn claim(claims: &mut Claims, command: &Command, args: Args<'_>, tickets: &[Ticket]) -> usize {
    if tickets.iter().all(is_ready) {
        return 0;
    }
    // All claims of the command count as ordered only if every operation is.
    let ordered = tickets
        .iter()
        .all(|ticket| matches!(ticket, Ticket::Ready(_) | Ticket::Waiting { ordered: true, .. }));
    let mut count = 0;
    for index in Keys::of(&command.keys, args) {
        claims.push(KeyHash::of(args.get(index)), command.writes(), ordered);
        count += 1;
    }
    count
}

fn is_ready(ticket: &Ticket) -> bool {
    matches!(ticket, Ticket::Ready(_))
}

fn ready(ticket: Ticket) -> Option<crate::kv::Answer> {
    match ticket {
        Ticket::Ready(answer) => Some(answer),
        Ticket::Waiting { .. } => None,
    }
}

/// Waits until the pause ends or changes.
async fn pause_over(pauses: &mut watch::Receiver<Option<Pause>>, pause: Option<Pause>) {
    let Some(pause) = pause else { return };
    tokio::select! {
        () = tokio::time::sleep_until(pause.until.into()) => {}
        changed = pauses.changed() => drop(changed),
    }
}

/// Waits until the oldest pending reply is complete. Never returns if none is pending.
async fn front_settled(pending: &mut VecDeque<Pending>) {
    match pending.front_mut() {
        Some(front) => poll_fn(|cx| front.poll_settled(cx)).await,
        None => std::future::pending().await,
    }
}
