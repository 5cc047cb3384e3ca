//! The argument and the result of a command's handler.

use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::command::CommandTable;
use crate::frontend::keyspace::Keyspace;
use crate::frontend::resp::client::Client;
use crate::frontend::resp::encoder::Encoder;
use crate::frontend::resp::reply::{Gather, Refusal, Room, Shape};
use crate::frontend::resp::state::ServerState;
use crate::frontend::stats::Tally;
use crate::kv::{Action, Answer, Operation, Step, Ticket, Transaction};

/// State of server and connection for a handler.
pub(in crate::frontend::resp) struct Context<'a> {
    /// All commands, for those that describe, check or run others.
    pub(in crate::frontend::resp) table: &'static CommandTable,
    pub(in crate::frontend::resp) server: &'a Arc<ServerState>,
    pub(in crate::frontend::resp) client: &'a mut Client,
    pub(in crate::frontend::resp) to: Encoder<'a>,
    pub(in crate::frontend::resp) tally: &'a mut Tally,
    /// The steps of the transaction that EXEC collects; `None` outside EXEC.
    pub(in crate::frontend::resp) collected: Option<&'a Mutex<Collected>>,
}

impl Context<'_> {
    pub(super) fn submit(&self, key: bytes::Bytes, action: Action) -> Ticket {
        let operation = Operation { key, action };
        if let Some(collected) = self.collected {
            return collected.lock().add(Step::One(operation));
        }
        self.note_write(&operation);
        submit_for(self.client.readonly, self.server.keyspace.as_ref(), operation)
    }

    /// Starts a step on several keys of one slot. The ticket has the answer of this step.
    pub(super) fn submit_step(&self, step: Step) -> Ticket {
        if let Some(collected) = self.collected {
            return collected.lock().add(step);
        }
        let key = step.keys().first().map(|key| bytes::Bytes::clone(key)).unwrap_or_default();
        let operation = Operation { key, action: Action::Transaction(Transaction::of(step)) };
        self.note_write(&operation);
        self.server.keyspace.submit(operation)
    }

    /// Notes, for WAIT, the partition to which this connection writes.
    pub(super) fn note_write(&self, operation: &Operation) {
        if operation.action.writes() {
            self.client.written.note(&operation.key);
        }
    }

    /// Returns the limit on the reply to one command.
    pub(super) fn room(&self) -> Room {
        Room::new(self.server.front_end.limits.message_bytes_max())
    }

    pub(super) fn ok(&mut self) -> Handled {
        self.to.ok();
        Ok(Reply::Written)
    }
}

/// Starts an operation; `readonly`: the client has sent READONLY.
pub(super) fn submit_for(readonly: bool, keyspace: &dyn Keyspace, operation: Operation) -> Ticket {
    if readonly { keyspace.submit_stale(operation) } else { keyspace.submit(operation) }
}

/// Result of a command's handler.
pub(in crate::frontend::resp) enum Reply {
    /// The reply is encoded.
    Written,
    /// The outcome of one operation is the reply.
    One(Ticket, Shape),
    /// The outcomes of several operations are the reply.
    Many(Vec<Ticket>, Gather),
    /// A future computes the reply. No later command may start before it completes.
    Later(BoxFuture<'static, Later>),
    /// A future, and then the rest of the command, which runs with the connection's context. Only for
    /// barriers.
    Then(BoxFuture<'static, Box<GoOn>>),
    /// The reply is encoded, and the connection closes after it.
    Close,
}

/// A reply that a future computed: its encoding, and its counts.
pub(in crate::frontend::resp) type Later = (Vec<u8>, Tally);

/// The rest of a command after its future.
pub(in crate::frontend::resp) type GoOn = dyn FnOnce(&mut Context<'_>) -> Handled + Send;

/// Return value of a command's handler.
pub(in crate::frontend::resp) type Handled = Result<Reply, Refusal>;

/// Returns a reply that a future computes; `write` encodes the result of `future`.
pub(super) fn later<T: Send + 'static>(
    context: &Context<'_>,
    future: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    write: impl FnOnce(T, &mut Encoder<'_>) + Send + 'static,
) -> Handled {
    let protocol = context.to.protocol;
    Ok(Reply::Later(Box::pin(async move {
        let (mut out, mut tally) = Later::default();
        let mut to = Encoder::new(&mut out, protocol);
        match future.await {
            Ok(answer) => write(answer, &mut to),
            Err(refusal) => {
                tally.errors += 1;
                to.error(&refusal.0);
            }
        }
        (out, tally)
    })))
}

/// The steps of a transaction, while EXEC collects them.
#[derive(Debug, Default)]
pub(in crate::frontend::resp) struct Collected {
    pub(super) steps: Vec<Step>,
    pub(super) answers: Vec<oneshot::Sender<Answer>>,
}

impl Collected {
    /// Adds a step. Its ticket gets an answer when the transaction completes.
    fn add(&mut self, step: Step) -> Ticket {
        let (sender, answer) = oneshot::channel();
        self.steps.push(step);
        self.answers.push(sender);
        Ticket::Waiting { answer, ordered: false }
    }
}
