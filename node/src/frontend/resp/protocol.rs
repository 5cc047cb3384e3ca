//! The Redis protocol of one connection: parses commands, starts their handlers, and encodes their replies.

use std::future::Future;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::client::{Client, Executed, Fate, Replies, Watched};
use super::commands::{self, Command, Context, Handled, Keys, Reply, TABLE};
use super::encoder::{Encoder, Protocol};
use super::operator::{Operator, unproven};
use super::parser::{Args, Batch, Bounds, Parser};
use super::reply::{Waiting, What, encode_many, encode_one};
use super::state::ServerState;
use super::written::Written;
use crate::frontend::clients::Pause;
use crate::frontend::context::FrontEndContext;
use crate::frontend::keyspace::Keyspace;
use crate::frontend::order::{Claims, KeyHash};
use crate::frontend::pipeline::{Pending, answer_of};
use crate::frontend::protocol::{Accepted, ClientProtocol, Halt, Interrupt, Place};
use crate::frontend::stats::{Ended, Tally};
use crate::frontend::{server, slowlog};
use crate::kv::Ticket;

type Pipeline = crate::frontend::pipeline::Pipeline<Waiting>;

/// Redis's text, with the names of Caskade's settings.
const PROTECTED: &str = "-DENIED Caskade is running in protected mode because protected mode is enabled and \
    no password is set for the default user. In this mode connections are only accepted from the loopback \
    interface. If you want to connect from external computers to Caskade you may adopt one of the following \
    solutions: 1) Set an authentication password for the default user: give the node requirepass, or send \
    'ACL SETUSER default resetpass >password' from the loopback interface (with an ACL file, 'ACL SAVE' \
    makes it permanent). 2) Demand client certificates: give the node tls_cert, tls_key, tls_ca and \
    tls_auth_clients=yes. 3) Just disable protected mode by giving the node protected_mode=false, and then \
    restarting it, however MAKE SURE Caskade is not publicly accessible from internet if you do so. NOTE: \
    You only need to do one of the above things in order for the server to start accepting connections from \
    the outside.\r\n";

/// Serves Redis clients of `keyspace` on `listener`, with the limits and the security of `context`, until
/// `stopping` is `true` or its sender is dropped; then waits for the connections to end.
pub async fn serve(
    keyspace: Arc<dyn Keyspace>,
    context: FrontEndContext,
    listener: TcpListener,
    stopping: watch::Receiver<bool>,
) {
    server::run::<Resp>(Resp::state(keyspace, context), listener, stopping).await;
}

/// The Redis state of a connection.
pub(super) struct Resp {
    server: Arc<ServerState>,
    client: Client,
    parser: Parser,
    batch: Batch,
    pauses: watch::Receiver<Option<Pause>>,
    /// The pause of all clients, as last checked before commands were started.
    pause: Option<Pause>,
    /// Set on a connection beyond the limit on clients: only an operator may use it.
    operator: Option<Operator>,
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

impl ClientProtocol for Resp {
    const NAME: &'static str = "Redis client";
    const TOO_MANY: &'static str = "-ERR max number of clients reached\r\n";
    const OPERATORS: bool = true;
    const PROTECTED: &'static str = PROTECTED;

    type State = ServerState;
    type Reply = Waiting;

    fn state(keyspace: Arc<dyn Keyspace>, context: FrontEndContext) -> ServerState {
        ServerState::new(keyspace, context)
    }

    fn context(state: &ServerState) -> &FrontEndContext {
        &state.front_end
    }

    fn new(server: Arc<ServerState>, accepted: Accepted) -> Self {
        let Accepted { peer, local, place } = accepted;
        let id = server.next_client.fetch_add(1, Ordering::Relaxed);
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
            parser: Parser::new(Bounds::of(&server.front_end.limits)),
            pauses: server.clients.pauses(),
            pause: None,
            server,
            client,
            batch: Batch::default(),
        }
    }

    fn has_ended(&self) -> bool {
        self.client.session.has_ended()
    }

    fn killed(&self) -> impl Future<Output = ()> + Send {
        self.client.registered.until_ended()
    }

    async fn interrupted(&mut self, halt: Halt, may_read: bool) -> Interrupt {
        tokio::select! {
            biased;
            () = self.client.registered.until_ended() => Interrupt::Killed,
            () = unproven(&self.operator), if may_read => Interrupt::Unproven,
            () = pause_over(&mut self.pauses, self.pause), if halt == Halt::Paused => Interrupt::Resume,
        }
    }

    fn begin(&mut self) {
        self.pause = *self.pauses.borrow_and_update();
    }

    fn wanted(&self, input: &BytesMut) -> usize {
        self.parser.wanted(input)
    }

    fn parse(&mut self, input: &mut BytesMut, pipeline: &mut Pipeline) -> bool {
        if !self.batch.is_done() {
            return true;
        }
        self.parser.trust(self.server.access().has_entered(&self.client.session));
        if let Err(error) = self.parser.parse(input, &mut self.batch) {
            if !self.batch.is_done() {
                // The commands before the error run first. The parser returns the error again at the next
                // call.
                return true;
            }
            self.refuse(&error.to_string(), pipeline);
            return false;
        }
        !self.batch.is_done()
    }

    fn start(&mut self, pipeline: &mut Pipeline) -> ControlFlow<Halt> {
        let Some(args) = self.batch.current() else { return ControlFlow::Continue(()) };
        let command = TABLE.find(args);
        // A web page can make a browser send commands in the body of an HTTP request: none of them may run.
        if is_http(command, args) {
            self.server.front_end.stats.http_request(Self::NAME, self.client.peer);
            pipeline.closing = true;
            return ControlFlow::Continue(());
        }
        let session = &self.client.session;
        let is_admitted = match &mut self.operator {
            Some(operator) => operator.admits(&self.server, session, command, args),
            None => true,
        };
        if !is_admitted {
            self.refuse_client(pipeline);
            return ControlFlow::Continue(());
        }
        if self.pause.is_some_and(|pause| pause.holds(command.is_some_and(Command::writes))) {
            return ControlFlow::Break(Halt::Paused);
        }
        // A barrier runs while no other command is in flight. With a wrong arity it only gets its error.
        if let Some(command) = command.filter(|command| command.is_barrier(args)) {
            if !pipeline.is_empty() {
                return ControlFlow::Break(Halt::MustWait);
            }
            if command.arity_fits(args) {
                return ControlFlow::Break(Halt::Alone);
            }
        } else if command.is_some_and(|command| is_barred(pipeline, command, args)) {
            return ControlFlow::Break(Halt::MustWait);
        }
        self.start_next(command, pipeline);
        ControlFlow::Continue(())
    }

    /// Runs the current command to its end before any other starts. No command is in flight.
    async fn run_alone(&mut self, pipeline: &mut Pipeline) {
        let Some(args) = self.batch.current() else { return };
        let command = TABLE.find(args);
        let (begin, errors) = (pipeline.output.len(), pipeline.tally.errors);
        let mut at_hand = context(&self.server, &mut self.client, &mut pipeline.output, &mut pipeline.tally);
        let mut handled = commands::handle(command, &mut at_hand, args);
        let muted = self.client.mute();
        let asked = asked(&mut pipeline.tally, self.client.fate, command, args);
        self.batch.advance();
        if let Ok(Reply::Then(found_out)) = handled {
            let go_on = found_out.await;
            let (output, tally) = (&mut pipeline.output, &mut pipeline.tally);
            handled = go_on(&mut context(&self.server, &mut self.client, output, tally));
        }
        match handled {
            Ok(Reply::Later(future)) => {
                let (bytes, tally) = future.await;
                if !muted {
                    pipeline.output.extend_from_slice(&bytes);
                }
                pipeline.tally.merge(tally);
                pipeline.answered += 1;
                // An error of a queued command counts for that command, not for EXEC.
                let mut errors = errors;
                for (command, failed) in self.client.executed.lock().drain(..) {
                    errors += u64::from(failed);
                    let ended = if failed { Ended::Failed } else { Ended::Done };
                    pipeline.calls.count(command, Duration::ZERO, ended);
                }
                self.note(pipeline, asked, pipeline.read_at, ended(pipeline, errors));
            }
            handled => {
                let from = Asked { bytes: 0, claims: 0, muted, command: asked };
                self.take_reply(handled, begin, Vec::new(), from, pipeline);
                let rejected = self.client.fate == Fate::Rejected;
                let ended = if rejected { Ended::Rejected } else { ended(pipeline, errors) };
                self.note(pipeline, asked, pipeline.read_at, ended);
            }
        }
    }

    fn encode(&mut self, pending: Pending<Waiting>, pipeline: &mut Pipeline) {
        let (begin, errors) = (pipeline.output.len(), pipeline.tally.errors);
        let (since, Waiting { muted, asked, what, .. }) = (pending.since, pending.reply);
        what.encode(&mut Encoder::new(&mut pipeline.output, self.client.protocol), &mut pipeline.tally);
        self.note(pipeline, asked, since, ended(pipeline, errors));
        if muted {
            pipeline.output.truncate(begin);
        }
    }

    fn refuse(&mut self, error: &str, pipeline: &mut Pipeline) {
        tracing::debug!(client = %self.client.peer, %error, "client input refused");
        let text = format!("ERR {error}");
        let mut bytes = Vec::new();
        Encoder::new(&mut bytes, self.client.protocol).error(text.as_bytes());
        pipeline.tally.errors += 1;
        add_written(pipeline, &bytes, 0);
        pipeline.closing = true;
    }

    fn refuse_client(&mut self, pipeline: &mut Pipeline) {
        self.server.front_end.stats.connection_refused();
        add_written(pipeline, Self::TOO_MANY.as_bytes(), 0);
        pipeline.closing = true;
    }

    fn bytes(&self, pipeline: &Pipeline) -> usize {
        self.batch.bytes() + self.parser.bytes() + pipeline.replies().map(Waiting::bytes).sum::<usize>()
    }

    fn waiting_bytes(&self, pipeline: &Pipeline) -> usize {
        match pipeline.newest() {
            Some(Waiting { what: What::Encoded(bytes), .. }) => bytes.len(),
            _ => 0,
        }
    }

    fn release(&mut self) {
        self.parser.give_back();
        self.batch.give_back();
    }

    fn show(&self, input_bytes: usize, pipeline: &Pipeline) {
        self.client.show();
        self.client.registered.show(|shown| {
            shown.active = pipeline.read_at;
            shown.query_bytes = input_bytes;
            shown.output_bytes = pipeline.output.len();
            shown.waiting = pipeline.len();
        });
    }
}

impl Resp {
    /// Starts the current command of the batch.
    fn start_next(&mut self, command: Option<&'static Command>, pipeline: &mut Pipeline) {
        let Some(args) = self.batch.current() else { return };
        // While earlier replies are pending, this reply must not enter the output: it is encoded aside.
        let aside = !pipeline.is_empty();
        let mut scratch = Vec::new();
        let output = if aside { &mut scratch } else { &mut pipeline.output };
        let begin = output.len();
        let (began, errors) = (Instant::now(), pipeline.tally.errors);
        let mut context = context(&self.server, &mut self.client, output, &mut pipeline.tally);
        let handled = commands::handle(command, &mut context, args);
        let muted = self.client.mute();
        let asked = asked(&mut pipeline.tally, self.client.fate, command, args);
        let claims = &mut pipeline.claims;
        let claimed = match (&handled, command) {
            (Ok(Reply::One(ticket, _)), Some(command)) => {
                claim(claims, command, args, std::slice::from_ref(ticket))
            }
            (Ok(Reply::Many(tickets, _)), Some(command)) => claim(claims, command, args, tickets),
            _ => 0,
        };
        let bytes = args.bytes_all();
        self.batch.advance();
        let waits = pipeline.len();
        let from = Asked { bytes, claims: claimed, muted, command: asked };
        self.take_reply(handled, begin, scratch, from, pipeline);
        if self.client.fate == Fate::Rejected {
            self.note(pipeline, asked, began, Ended::Rejected);
        } else if pipeline.len() == waits {
            self.note(pipeline, asked, began, ended(pipeline, errors));
        }
    }

    fn take_reply(
        &mut self,
        handled: Handled,
        begin: usize,
        mut scratch: Vec<u8>,
        from: Asked,
        pipeline: &mut Pipeline,
    ) {
        let aside = !pipeline.is_empty();
        let output = if aside { &mut scratch } else { &mut pipeline.output };
        let mut to = Encoder::new(output, self.client.protocol);
        let what = match handled {
            Ok(Reply::One(Ticket::Ready(answer), shape)) if !aside => {
                encode_one(answer, shape, &mut to, &mut pipeline.tally);
                None
            }
            Ok(Reply::Many(tickets, gather)) if !aside && tickets.iter().all(is_ready) => {
                encode_many(tickets.into_iter().map(answer_of), gather, &mut to, &mut pipeline.tally);
                None
            }
            Ok(Reply::One(ticket, shape)) => Some(What::One(ticket, shape)),
            Ok(Reply::Many(tickets, gather)) => Some(What::Many(tickets, gather)),
            Ok(Reply::Written | Reply::Later(_) | Reply::Then(_)) => None,
            Ok(Reply::Close) => {
                pipeline.closing = true;
                None
            }
            Err(refusal) => {
                to.out.truncate(begin);
                to.error(&refusal.0);
                pipeline.tally.errors += 1;
                None
            }
        };
        let Asked { bytes, claims, muted, command } = from;
        match what {
            Some(what) => {
                pipeline.push(claims, 1, Waiting { muted, asked: command, args_bytes: bytes, what })
            }
            None if muted => {
                // A reply that was encoded aside is dropped together with `scratch`.
                pipeline.output.truncate(if aside { pipeline.output.len() } else { begin });
            }
            None if aside => add_written(pipeline, &scratch, 1),
            None => pipeline.answered += 1,
        }
    }

    /// Counts a command that was read at `since` and completes now. Adds it to the slow log if it was slow.
    fn note(
        &self,
        pipeline: &mut Pipeline,
        asked: Option<(&'static str, usize)>,
        since: Instant,
        ended: Ended,
    ) {
        let took = since.elapsed();
        let Some((command, arguments)) = asked else { return };
        pipeline.calls.count(command, took, ended);
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
}

/// Appends a complete reply: to the output, or behind the pending replies.
fn add_written(pipeline: &mut Pipeline, bytes: &[u8], commands: u64) {
    match pipeline.newest_mut() {
        None => {
            pipeline.output.extend_from_slice(bytes);
            pipeline.answered += commands;
        }
        Some(Pending { reply: Waiting { what: What::Encoded(before), .. }, commands: counted, .. }) => {
            before.extend_from_slice(bytes);
            *counted += commands;
        }
        Some(_) => pipeline.push(0, commands, Waiting::encoded(bytes.to_vec())),
    }
}

/// Returns the result of a command before which `errors` errors were counted.
fn ended(pipeline: &Pipeline, errors: u64) -> Ended {
    if pipeline.tally.errors > errors { Ended::Failed } else { Ended::Done }
}

fn is_barred(pipeline: &Pipeline, command: &Command, args: Args<'_>) -> bool {
    !pipeline.claims.is_empty()
        && command.keys.of(args).any(|index| pipeline.bars(args.get(index), command.writes()))
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
    let is_counted = |command: &&Command| fate != Fate::Queued && TABLE.is_whole(command, args);
    let command = command.filter(is_counted)?;
    Some((TABLE.name_of(command, args), args.len().saturating_sub(1)))
}

/// Creates the context for a handler.
fn context<'a>(
    server: &'a Arc<ServerState>,
    client: &'a mut Client,
    output: &'a mut Vec<u8>,
    tally: &'a mut Tally,
) -> Context<'a> {
    let to = Encoder::new(output, client.protocol);
    Context { table: &TABLE, server, client, to, tally, collected: None }
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

/// Waits until the pause ends or changes.
async fn pause_over(pauses: &mut watch::Receiver<Option<Pause>>, pause: Option<Pause>) {
    let Some(pause) = pause else { return };
    tokio::select! {
        () = tokio::time::sleep_until(pause.until.into()) => {}
        changed = pauses.changed() => drop(changed),
    }
}
