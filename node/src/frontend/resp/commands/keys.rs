//! Commands on keys, independent of their values.

use super::command::TOGETHER_MAX;
use super::context::{Context, Handled, Later, Reply, later, submit_for};
use super::errors::{integer, syntax_error};
use crate::frontend::flush::flush;
use crate::frontend::resp::encoder::Encoder;
use crate::frontend::resp::number::parse_u64;
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::{Gather, Refusal, Shape, encode_many};
use crate::glob;
use crate::kv::{Action, CURSOR_MAX, Failure, Operation, Outcome, ScanPage};

/// Maximum keys that one SCAN examines, to bound its memory and time.
const SCAN_COUNT_MAX: usize = 10_000;
/// Keys that one SCAN examines without COUNT.
const SCAN_COUNT: usize = 10;

pub(super) fn del(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    each(context, args, Action::Delete, Gather::CountChanged)
}

pub(super) fn exists(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    each(context, args, Action::Inspect, Gather::CountPresent)
}

pub(super) fn kind(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    Ok(Reply::One(context.submit(args.bytes(1), Action::Inspect), Shape::Type))
}

/// Starts the same action on each of the arguments.
pub(super) fn each(context: &mut Context<'_>, args: Args<'_>, action: Action, gather: Gather) -> Handled {
    let operations =
        (1..args.len()).map(|index| Operation { key: args.bytes(index), action: action.clone() });
    if args.len() > TOGETHER_MAX && context.collected.is_none() {
        let operations = operations.collect();
        return in_steps(context, operations, gather);
    }
    let mut room = context.room();
    let mut tickets = Vec::with_capacity(operations.len());
    for operation in operations {
        let ticket = context.submit(operation.key, operation.action);
        room.take(ticket.bytes())?;
        tickets.push(ticket);
    }
    Ok(Reply::Many(tickets, gather))
}

/// Runs more operations than may be in flight together, in steps.
pub(super) fn in_steps(context: &Context<'_>, operations: Vec<Operation>, gather: Gather) -> Handled {
    let (keyspace, protocol) = (context.server.keyspace.clone(), context.to.protocol);
    let (readonly, mut room) = (context.client.readonly, context.room());
    Ok(Reply::Later(Box::pin(async move {
        let mut answers = Vec::with_capacity(operations.len());
        let mut operations = operations.into_iter();
        let (mut out, mut tally) = Later::default();
        let mut to = Encoder::new(&mut out, protocol);
        while operations.len() > 0 {
            let step = operations.by_ref().take(TOGETHER_MAX);
            let step: Vec<_> =
                step.map(|operation| submit_for(readonly, keyspace.as_ref(), operation)).collect();
            for ticket in step {
                let answer = ticket.wait().await;
                if let Err(refusal) = room.take(answer.as_ref().map_or(0, Outcome::bytes)) {
                    tally.errors += 1;
                    to.error(&refusal.0);
                    return (out, tally);
                }
                answers.push(answer);
            }
        }
        encode_many(answers.into_iter(), gather, &mut to, &mut tally);
        (out, tally)
    })))
}

pub(super) fn dbsize(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    let keyspace = context.server.keyspace.clone();
    let count = async move { keyspace.count().await.map_err(Refusal::from) };
    later(context, count, |count, to| to.integer(i64::try_from(count).unwrap_or(i64::MAX)))
}

/// Parsed arguments of SCAN.
struct Scan {
    cursor: u64,
    count: usize,
    pattern: Option<Vec<u8>>,
    /// Whether keys of the requested type can exist.
    strings: bool,
}

impl Scan {
    fn read(args: Args<'_>) -> Result<Self, Refusal> {
        let cursor = parse_u64(args.get(1)).ok_or_else(|| Refusal::from("ERR invalid cursor"))?;
        let mut scan = Self { cursor, count: SCAN_COUNT, pattern: None, strings: true };
        for index in (2..args.len()).step_by(2) {
            let (option, value) = (args.get(index), args.get(index + 1));
            let is = |name: &str| index + 1 < args.len() && option.eq_ignore_ascii_case(name.as_bytes());
            if is("count") {
                let count = usize::try_from(integer(value)?).ok().filter(|count| *count > 0);
                scan.count = count.ok_or_else(syntax_error)?.min(SCAN_COUNT_MAX);
            } else if is("match") {
                scan.pattern = (value != b"*").then(|| value.to_vec());
            } else if is("type") {
                scan.strings = value.eq_ignore_ascii_case(b"string");
            } else {
                return Err(syntax_error());
            }
        }
        Ok(scan)
    }

    fn wants(&self, key: &[u8]) -> bool {
        self.strings && self.pattern.as_ref().is_none_or(|pattern| glob::matches(pattern, key, false))
    }
}

pub(super) fn scan(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let scan = Scan::read(args)?;
    let keyspace = context.server.keyspace.clone();
    let mut room = context.room();
    let page = async move {
        let mut page = keyspace.scan(scan.cursor, scan.count).await.map_err(Refusal::from)?;
        page.keys.retain(|key| scan.wants(key));
        room.take_all(&page.keys)?;
        Ok(page)
    };
    later(context, page, |page: ScanPage, to| {
        to.array(2);
        to.bulk(page.next.to_string().as_bytes());
        to.array(page.keys.len());
        page.keys.iter().for_each(|key| to.bulk(key));
    })
}

/// Maximum keys in a reply of KEYS.
const KEYS_MAX: usize = 1_000_000;
/// Keys of one page of a walk.
const WALK_STEP: usize = 1000;

/// `KEYS pattern`: a walk over the whole cluster.
pub(super) fn keys(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let (keyspace, pattern) = (context.server.keyspace.clone(), args.bytes(1));
    let mut room = context.room();
    let found = async move {
        let (mut cursor, mut found) = (0, Vec::new());
        loop {
            let mut page = keyspace.scan(cursor, WALK_STEP).await.map_err(Refusal::from)?;
            page.keys.retain(|key| glob::matches(&pattern, key, false));
            room.take_all(&page.keys)?;
            found.extend(page.keys);
            if found.len() > KEYS_MAX {
                return Err("ERR more than 1000000 keys match the pattern: use SCAN".into());
            }
            cursor = page.next;
            if cursor == 0 {
                return Ok(found);
            }
        }
    };
    later(context, found, |found: Vec<bytes::Bytes>, to| {
        to.array(found.len());
        found.iter().for_each(|key| to.bulk(key));
    })
}

/// `RANDOMKEY`: a random one of the first keys after a random cursor.
pub(super) fn randomkey(context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    let keyspace = context.server.keyspace.clone();
    let found = async move {
        let mut cursor = rand::random_range(0..=CURSOR_MAX);
        // Walks from the random cursor to the end, then from the beginning.
        for _ in 0..2 {
            loop {
                let page = keyspace.scan(cursor, SCAN_COUNT).await.map_err(Refusal::from)?;
                if let Some(key) = page.keys.get(rand::random_range(0..page.keys.len().max(1))) {
                    return Ok(Some(key.clone()));
                }
                cursor = page.next;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(None)
    };
    later(context, found, |key: Option<bytes::Bytes>, to| to.value_or_null(key.as_deref()))
}

/// `FLUSHALL [ASYNC | SYNC]`: removes each key separately, and replies when all are removed. ASYNC does the
/// same: in Redis, too, no key is visible after it, only the memory is freed later.
pub(super) fn flush_all(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let is = |name: &str| args.len() == 2 && args.get(1).eq_ignore_ascii_case(name.as_bytes());
    if !(args.len() == 1 || is("async") || is("sync")) {
        return Err(syntax_error());
    }
    let keyspace = context.server.keyspace.clone();
    let flushed = async move {
        flush(keyspace.as_ref()).await.map_err(|failure| {
            tracing::warn!(%failure, "FLUSHALL removed only a part of the keys");
            Refusal::from(Failure::Refused(format!("some keys were removed, not all: {failure}")))
        })
    };
    later(context, flushed, |_, to| to.ok())
}
