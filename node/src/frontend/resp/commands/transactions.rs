//! MULTI, EXEC and WATCH: commands that are queued and then applied as one transaction.
//!
//! EXEC runs the handler of every queued command, which collects its operations. It sends them to the keys'
//! primary as one [`Transaction`], and encodes each reply from its part of the outcome.
//!
//! All keys must be of one slot. Commands without keys are not part of the transaction: EXEC runs them before
//! it, or after it if they take time (SCAN, INFO).

use bytes::Bytes;
use caskade_engine::slots::slot_of;
use parking_lot::Mutex;

use super::auth;
use super::command::Command;
use super::context::{Collected, Context, Handled, Later, Reply, later};
use super::errors::cross_slot;
use crate::frontend::resp::client::{Executed, Queue, Watched};
use crate::frontend::resp::encoder::Encoder;
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::{Refusal, What};
use crate::frontend::stats::Tally;
use crate::kv::{Action, Failure, Operation, Outcome, STEPS_MAX, Ticket, Transaction};

/// Maximum commands of one transaction.
const QUEUED_MAX: usize = STEPS_MAX;
/// Maximum watched keys of one connection.
const WATCHED_MAX: usize = 512;

/// Queues a command in the open transaction.
///
/// # Errors
/// The transaction has too many commands or bytes. It is marked, so that EXEC discards it.
pub(super) fn queue(context: &mut Context<'_>, command: &'static Command, args: Args<'_>) -> Handled {
    let bytes_max = context.server.front_end.limits.message_bytes_max();
    let Some(queue) = &mut context.client.queue else { return Err(without_multi("EXEC")) };
    let owned = args.to_owned();
    queue.bytes += owned.bytes();
    if queue.commands.len() >= QUEUED_MAX || queue.bytes > bytes_max {
        queue.spoiled = true;
        return Err("ERR the transaction has too many commands or bytes; nothing was executed".into());
    }
    queue.commands.push((command, owned));
    context.to.status("QUEUED");
    Ok(Reply::Written)
}

/// Handles a command that was rejected before it was queued or run. If it was EXEC, ends the transaction;
/// otherwise marks the transaction, so that EXEC discards it. Returns the error reply.
pub(super) fn not_admitted(
    context: &mut Context<'_>,
    command: Option<&'static Command>,
    refusal: Refusal,
) -> Refusal {
    if command.is_none_or(|command| command.name != "exec") {
        if let Some(queue) = &mut context.client.queue {
            queue.spoiled = true;
        }
        return refusal;
    }
    context.client.queue = None;
    context.client.watched = Watched::default();
    let text = refusal.0.strip_prefix(b"ERR ").unwrap_or(&refusal.0);
    format!("EXECABORT Transaction discarded because of: {}", String::from_utf8_lossy(text)).into()
}

/// Returns whether a command runs at once even if a transaction is open.
pub(super) fn is_immediate(command: &Command) -> bool {
    matches!(command.name, "multi" | "exec" | "discard" | "watch" | "quit" | "reset")
}

pub(super) fn multi(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    if context.client.queue.is_some() {
        return Err("ERR MULTI calls can not be nested".into());
    }
    context.client.queue = Some(Queue::default());
    context.ok()
}

pub(super) fn discard(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    if context.client.queue.take().is_none() {
        return Err(without_multi("DISCARD"));
    }
    context.client.watched = Watched::default();
    context.ok()
}

pub(super) fn unwatch(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    context.client.watched = Watched::default();
    context.ok()
}

pub(super) fn watch(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    if context.client.queue.is_some() {
        return Err("ERR WATCH inside MULTI is not allowed".into());
    }
    let watched = context.client.watched.clone();
    if watched.lock().len() + args.len() > WATCHED_MAX {
        return Err("ERR a connection may watch at most 512 keys; these keys are not watched".into());
    }
    let keys: Vec<Bytes> = (1..args.len()).map(|index| args.bytes(index)).collect();
    let keyspace = context.server.keyspace.clone();
    let versions = async move {
        let inspect = |key: &Bytes| keyspace.submit(Operation { key: key.clone(), action: Action::Inspect });
        let tickets: Vec<Ticket> = keys.iter().map(inspect).collect();
        let mut versions = Vec::with_capacity(keys.len());
        for (key, ticket) in keys.into_iter().zip(tickets) {
            match ticket.wait().await? {
                Outcome::Meta(meta) => versions.push((key, meta.map_or(0, |meta| meta.version))),
                outcome => return Err(unfitting(&outcome)),
            }
        }
        let mut watched = watched.lock();
        // A key that is already watched keeps its first version.
        versions.retain(|(key, _)| !watched.iter().any(|(known, _)| known == key));
        watched.extend(versions);
        Ok(())
    };
    later(context, versions, |(), to| to.ok())
}

fn unfitting(outcome: &Outcome) -> Refusal {
    tracing::error!(?outcome, "the outcome of a transaction is of another kind than its operation");
    Refusal::from(
        "ERR internal error: the node's answer does not fit the command; please report it with the node's log",
    )
}

fn without_multi(name: &str) -> Refusal {
    format!("ERR {name} without MULTI").into()
}

/// State of a queued command before the transaction completes.
enum Part {
    /// The reply, or the error, is encoded.
    Written(Vec<u8>),
    /// The reply depends on answers of the transaction.
    Waits(What),
    /// A future computes the reply after the transaction.
    Works(futures::future::BoxFuture<'static, Later>),
}

pub(super) fn exec(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    let Some(queue) = context.client.queue.take() else { return Err(without_multi("EXEC")) };
    let watched = std::mem::take(&mut *std::mem::take(&mut context.client.watched).lock());
    check_slots(&queue, &watched)?;
    if queue.spoiled {
        return Err("EXECABORT Transaction discarded because of previous errors.".into());
    }
    let collected = Mutex::new(Collected::default());
    let parts: Vec<(&'static str, Part)> = queue
        .commands
        .iter()
        .map(|(command, args)| {
            let args = args.as_args();
            (context.table.name_of(command, args), part(context, command, args, &collected))
        })
        .collect();
    let executed = context.client.executed.clone();
    let (collected, protocol) = (collected.into_inner(), context.to.protocol);
    let keyspace = context.server.keyspace.clone();
    let Collected { steps, answers } = collected;
    let transaction = Transaction { watched, steps };
    let first = transaction.keys().next().cloned();
    let ticket =
        first.map(|key| keyspace.submit(Operation { key, action: Action::Transaction(transaction) }));
    Ok(Reply::Later(Box::pin(async move {
        let (mut out, mut tally) = Later::default();
        let mut to = Encoder::new(&mut out, protocol);
        match outcomes(ticket).await {
            Err(refusal) => {
                tally.errors += 1;
                to.error(&refusal.0);
            }
            Ok(None) => to.null_array(),
            Ok(Some(outcomes)) => {
                for (sender, outcome) in answers.into_iter().zip(outcomes) {
                    // The receiver is in one of the parts.
                    drop(sender.send(outcome.map_err(Failure::Action)));
                }
                to.array(parts.len());
                tally.commands += parts.len() as u64;
                write_parts(parts, &mut to, &mut tally, &executed).await;
            }
        }
        (out, tally)
    })))
}

/// Checks that all queued and watched keys are of one slot.
///
/// # Errors
/// The keys are of several slots.
fn check_slots(queue: &Queue, watched: &[(Bytes, u64)]) -> Result<(), Refusal> {
    let commands = queue.commands.iter().flat_map(|(command, args)| {
        let args = args.as_args();
        command.keys.of(args).map(move |index| slot_of(args.get(index)))
    });
    let mut slots = commands.chain(watched.iter().map(|(key, _)| slot_of(key)));
    match slots.next() {
        Some(first) if slots.any(|slot| slot != first) => Err(cross_slot()),
        _ => Ok(()),
    }
}

/// Runs the handler of a queued command, which adds its operations to `collected`.
fn part(
    context: &mut Context<'_>,
    command: &'static Command,
    args: Args<'_>,
    collected: &Mutex<Collected>,
) -> Part {
    let mut out = Vec::new();
    let protocol = context.to.protocol;
    let mut inner = Context {
        table: context.table,
        server: context.server,
        client: &mut *context.client,
        to: Encoder::new(&mut out, protocol),
        tally: &mut *context.tally,
        collected: Some(collected),
    };
    // The user's permissions may have changed since the command was queued.
    let allowed = auth::check(command, &inner, args);
    match allowed.and_then(|()| command.run(&mut inner, args)) {
        Ok(Reply::One(ticket, shape)) => Part::Waits(What::One(ticket, shape)),
        Ok(Reply::Many(tickets, gather)) => Part::Waits(What::Many(tickets, gather)),
        Ok(Reply::Later(future)) => Part::Works(future),
        // `Then` is impossible here: log-ins are never queued.
        Ok(Reply::Written | Reply::Close | Reply::Then(_)) => Part::Written(out),
        Err(refusal) => {
            out.clear();
            context.tally.errors += 1;
            Encoder::new(&mut out, protocol).error(&refusal.0);
            Part::Written(out)
        }
    }
}

/// Waits for the outcomes of the steps; `None` if a watched key had changed.
async fn outcomes(
    ticket: Option<Ticket>,
) -> Result<Option<Vec<Result<Outcome, crate::kv::ActionError>>>, Refusal> {
    let Some(ticket) = ticket else { return Ok(Some(Vec::new())) };
    match ticket.wait().await {
        Ok(Outcome::Transaction(outcomes)) => Ok(outcomes),
        Ok(outcome) => Err(unfitting(&outcome)),
        Err(failure) => Err(Refusal::of_write(&failure)),
    }
}

async fn write_parts(
    parts: Vec<(&'static str, Part)>,
    to: &mut Encoder<'_>,
    tally: &mut Tally,
    executed: &Executed,
) {
    for (name, part) in parts {
        let errors = tally.errors;
        match part {
            Part::Written(bytes) => {
                // `part` has counted its error already.
                let failed = bytes.starts_with(b"-");
                to.out.extend_from_slice(&bytes);
                executed.lock().push((name, failed));
                continue;
            }
            Part::Waits(mut what) => {
                std::future::poll_fn(|cx| what.poll_settled(cx)).await;
                what.encode(to, tally);
            }
            Part::Works(future) => {
                let (bytes, counted) = future.await;
                to.out.extend_from_slice(&bytes);
                tally.merge(counted);
            }
        }
        executed.lock().push((name, tally.errors > errors));
    }
}
