//! A protocol of clients, as accepting and the connection loop use it.
//!
//! A front end implements [`ClientProtocol`]: it parses, starts and encodes. `server` accepts, `connection`
//! runs one client, `pipeline` holds its pending replies. All calls are dispatched statically.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::BytesMut;

use super::context::FrontEndContext;
use super::keyspace::Keyspace;
use super::pipeline::{Pending, PendingReply, Pipeline};

/// Kind of place that an accepted connection occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A place within the limit on clients.
    Client,
    /// A place beyond the limit on clients, for an operator only.
    Operator,
}

/// Ends and place of an accepted connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted {
    /// Address of the client.
    pub(super) peer: SocketAddr,
    /// Address of this node to which the client connected; `None` if the system does not report it.
    pub(super) local: Option<SocketAddr>,
    pub(super) place: Place,
}

/// Reason why no further request was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// Every request that was read is started.
    OutOfInput,
    /// The next request must wait for pending replies.
    MustWait,
    /// The output must be written before further requests are started.
    GoOn,
    /// The next request must complete before any other starts. No request is in flight.
    Alone,
    /// The next request must wait until the pause of the clients ends.
    Paused,
}

/// Event outside the connection's input and replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// An operator closes the connection: it ends without further replies.
    Killed,
    /// The client has not proved in time that it may use its place.
    Unproven,
    /// Requests that had to wait may start.
    Resume,
}

/// A protocol for clients, and the state of one connection that depends on the protocol.
pub(super) trait ClientProtocol: Send + Sized + 'static {
    /// Name in the log.
    const NAME: &'static str;
    /// Error reply to a client beyond the limit on connections.
    const TOO_MANY: &'static str;
    /// Whether operators may connect beyond the limit on connections.
    const OPERATORS: bool;
    /// Error reply to a client that protected mode rejects.
    const PROTECTED: &'static str;

    /// State that all connections of the protocol share.
    type State: Send + Sync + 'static;
    /// Source of a pending reply.
    type Reply: PendingReply + Send;

    /// Creates the state that all connections of the protocol share.
    fn state(keyspace: Arc<dyn Keyspace>, context: FrontEndContext) -> Self::State;

    /// Returns the part of the state that all front ends share.
    fn context(state: &Self::State) -> &FrontEndContext;

    /// Ends what runs on behalf of the protocol when all its connections have ended.
    fn stop(_state: &Self::State) {}

    /// Creates the state of a connection.
    fn new(state: Arc<Self::State>, accepted: Accepted) -> Self;

    /// Returns whether the client's session has ended, for instance because its user was deleted: the
    /// connection starts nothing more and closes.
    fn has_ended(&self) -> bool;

    /// Waits until an operator closes the connection. Cancel safe.
    fn killed(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Waits for an event outside the connection's input and replies. `may_read`: the connection waits for
    /// input. Cancel safe.
    fn interrupted(&mut self, _halt: Halt, _may_read: bool) -> impl Future<Output = Interrupt> + Send {
        std::future::pending()
    }

    /// Prepares a wake-up, in which requests are parsed and started.
    fn begin(&mut self) {}

    /// Returns how many more bytes the next request needs, as far as that is known.
    fn wanted(&self, input: &BytesMut) -> usize;

    /// Parses the next request, if none is parsed and not started yet. Returns whether there is one. Input
    /// that cannot be parsed is refused: see [`ClientProtocol::refuse`].
    fn parse(&mut self, input: &mut BytesMut, pipeline: &mut Pipeline<Self::Reply>) -> bool;

    /// Starts the parsed request, or an operation of it, and adds its reply to the pipeline. `Break`: nothing
    /// was started, because the request must wait or run alone.
    fn start(&mut self, pipeline: &mut Pipeline<Self::Reply>) -> ControlFlow<Halt>;

    /// Runs the parsed request to its end, after `start` has returned [`Halt::Alone`].
    fn run_alone(&mut self, pipeline: &mut Pipeline<Self::Reply>) -> impl Future<Output = ()> + Send;

    /// Encodes a pending reply to the output. Its answers have arrived.
    fn encode(&mut self, pending: Pending<Self::Reply>, pipeline: &mut Pipeline<Self::Reply>);

    /// Adds an error reply behind the pending replies, and closes the connection after it.
    fn refuse(&mut self, error: &str, pipeline: &mut Pipeline<Self::Reply>);

    /// Rejects a client that may not use its place, in the same way.
    fn refuse_client(&mut self, _pipeline: &mut Pipeline<Self::Reply>) {}

    /// Returns the bytes of parsed requests and of pending replies in memory, without input and output.
    fn bytes(&self, pipeline: &Pipeline<Self::Reply>) -> usize;

    /// Returns the bytes of complete replies that wait behind another one.
    fn waiting_bytes(&self, pipeline: &Pipeline<Self::Reply>) -> usize;

    /// Frees the unused buffers of an idle connection.
    fn release(&mut self) {}

    /// Updates the connection's entry in the list of clients. `input_bytes`: bytes read and not yet parsed.
    fn show(&self, _input_bytes: usize, _pipeline: &Pipeline<Self::Reply>) {}
}
