//! `CASK.RANGE` and `CASK.PREFIX`: keys of the whole cluster in the order of their bytes, a page at a time.
//!
//! Bounds are those of ZRANGEBYLEX: `[key` includes the key, `(key` excludes it, `-` and `+` are the ends.
//! The reply has the key for AFTER of the next page (null at the end), and the keys, with WITHVALUES each
//! followed by its value.
//!
//! A walk returns a key that exists throughout exactly once. Values are read one by one: the value of a key
//! that was removed meanwhile is null.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::command::TOGETHER_MAX;
use super::context::{Context, Handled, later};
use super::errors::{integer, syntax_error};
use crate::data::KeyRange;
use crate::frontend::keyspace::Keyspace;
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::{Refusal, Room};
use crate::kv::{Action, Operation, Outcome};

/// Keys of a page without LIMIT.
const LIMIT: usize = 100;

/// `CASK.RANGE start end [LIMIT n] [AFTER key] [WITHVALUES]`
pub(super) fn range(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let (start, end) = (bound(args, 1)?, bound(args, 2)?);
    page(context, args, 3, KeyRange { start, end, prefix: Bytes::new() })
}

/// `CASK.PREFIX prefix [LIMIT n] [AFTER key] [WITHVALUES]`
pub(super) fn prefix(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    page(context, args, 2, KeyRange::of_prefix(args.bytes(1)))
}

fn bound(args: Args<'_>, index: usize) -> Result<Bound<Bytes>, Refusal> {
    let text = args.bytes(index);
    match (text.first(), index) {
        (Some(b'['), _) => Ok(Bound::Included(text.slice(1..))),
        (Some(b'('), _) => Ok(Bound::Excluded(text.slice(1..))),
        (Some(b'-'), 1) | (Some(b'+'), 2) if text.len() == 1 => Ok(Bound::Unbounded),
        _ => Err("ERR min or max not valid string range item".into()),
    }
}

fn page(context: &mut Context<'_>, args: Args<'_>, options: usize, mut range: KeyRange) -> Handled {
    let (mut limit, mut with_values, mut index) = (LIMIT, false, options);
    while index < args.len() {
        let is = |name: &str| args.get(index).eq_ignore_ascii_case(name.as_bytes());
        if is("withvalues") {
            with_values = true;
        } else if is("limit") && index + 1 < args.len() {
            index += 1;
            let number = usize::try_from(integer(args.get(index))?).ok().filter(|number| *number > 0);
            limit = number.ok_or_else(syntax_error)?;
        } else if is("after") && index + 1 < args.len() {
            index += 1;
            range.start = Bound::Excluded(args.bytes(index));
        } else {
            return Err(syntax_error());
        }
        index += 1;
    }
    let (keyspace, mut room) = (context.server.keyspace.clone(), context.room());
    let found = async move {
        let page = keyspace.keys_in_order(range, limit).await.map_err(Refusal::from)?;
        room.take_all(&page.keys)?;
        let values = if with_values { Some(values(&keyspace, &page.keys, room).await?) } else { None };
        Ok((page, values))
    };
    later(context, found, |(page, values), to| {
        to.array(2);
        to.value_or_null(page.next.as_deref());
        to.array(page.keys.len() * if values.is_some() { 2 } else { 1 });
        for (index, key) in page.keys.iter().enumerate() {
            to.bulk(key);
            if let Some(values) = &values {
                to.value_or_null(values.get(index).and_then(Option::as_deref));
            }
        }
    })
}

/// Reads the values of keys, in steps.
async fn values(
    keyspace: &Arc<dyn Keyspace>,
    keys: &[Bytes],
    mut room: Room,
) -> Result<Vec<Option<Bytes>>, Refusal> {
    let mut values = Vec::with_capacity(keys.len());
    for step in keys.chunks(TOGETHER_MAX) {
        let read = |key: &Bytes| keyspace.submit(Operation { key: key.clone(), action: Action::Read });
        let tickets: Vec<_> = step.iter().map(read).collect();
        for ticket in tickets {
            let outcome = ticket.wait().await?;
            room.take(outcome.bytes())?;
            match outcome {
                Outcome::Entry(entry) => values.push(entry.map(|entry| entry.value)),
                _ => values.push(None),
            }
        }
    }
    Ok(values)
}
