//! Commands on values.

use std::collections::HashMap;

use bytes::Bytes;

use super::command::TOGETHER_MAX;
use super::context::{Context, Handled, Reply};
use super::errors::{integer, syntax_error, wrong_arity};
use super::expiry::Unit;
use super::keys;
use crate::frontend::resp::lcs::{Lcs, What};
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::{Gather, Refusal, Shape};
use crate::kv::{Action, Condition, Deadline, ExpiryPolicy, Fresh, Operation, Step};

pub(super) fn get(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    Ok(Reply::One(context.submit(args.bytes(1), Action::Read), Shape::Value))
}

pub(super) fn strlen(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    Ok(Reply::One(context.submit(args.bytes(1), Action::Inspect), Shape::Length))
}

/// Returns an unconditional SET without expiry.
fn plain(value: Bytes) -> Action {
    Action::Set {
        value,
        user_flags: 0,
        expiry: ExpiryPolicy::Clear,
        condition: Condition::Always,
        return_old: false,
    }
}

/// Parsed options of SET.
struct SetOptions {
    expiry: Option<ExpiryPolicy>,
    condition: Condition,
    return_old: bool,
}

impl SetOptions {
    fn read(args: Args<'_>) -> Result<Self, Refusal> {
        let mut options = Self { expiry: None, condition: Condition::Always, return_old: false };
        // As in Redis, a syntax error of any option is reported before an invalid expiry, so the expiry is
        // parsed last.
        let (mut time, mut index) = (None, 3);
        while index < args.len() {
            let is = |name: &str| args.get(index).eq_ignore_ascii_case(name.as_bytes());
            if is("get") {
                options.return_old = true;
            } else if is("nx") && options.condition != Condition::Present {
                options.condition = Condition::Absent;
            } else if is("xx") && options.condition != Condition::Absent {
                options.condition = Condition::Present;
            } else if time.is_none() && is("keepttl") {
                options.expiry = Some(ExpiryPolicy::Keep);
            } else if options.expiry.is_none()
                && index + 1 < args.len()
                && let Some(unit) = Unit::of_option(args.get(index))
                && time.is_none_or(|(other, _)| other == unit)
            {
                index += 1;
                time = Some((unit, args.get(index)));
            } else {
                return Err(syntax_error());
            }
            index += 1;
        }
        if let Some((unit, text)) = time {
            options.expiry = Some(ExpiryPolicy::Until(unit.positive(text, "set")?));
        }
        Ok(options)
    }
}

pub(super) fn set(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    if args.len() == 3 {
        return Ok(Reply::One(context.submit(args.bytes(1), plain(args.bytes(2))), Shape::Stored));
    }
    let options = SetOptions::read(args)?;
    let action = Action::Set {
        value: args.bytes(2),
        user_flags: 0,
        expiry: options.expiry.unwrap_or(ExpiryPolicy::Clear),
        condition: options.condition,
        return_old: options.return_old,
    };
    let shape = if options.return_old { Shape::OldValue } else { Shape::Stored };
    Ok(Reply::One(context.submit(args.bytes(1), action), shape))
}

pub(super) fn getset(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let mut action = plain(args.bytes(2));
    if let Action::Set { return_old, .. } = &mut action {
        *return_old = true;
    }
    Ok(Reply::One(context.submit(args.bytes(1), action), Shape::OldValue))
}

pub(super) fn setnx(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let mut action = plain(args.bytes(2));
    if let Action::Set { condition, .. } = &mut action {
        *condition = Condition::Absent;
    }
    Ok(Reply::One(context.submit(args.bytes(1), action), Shape::Inserted))
}

pub(super) fn setex(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    set_for(context, args, Unit::Seconds.positive(args.get(2), "setex")?)
}

pub(super) fn psetex(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    set_for(context, args, Unit::Millis.positive(args.get(2), "psetex")?)
}

fn set_for(context: &mut Context<'_>, args: Args<'_>, deadline: Deadline) -> Handled {
    let mut action = plain(args.bytes(3));
    if let Action::Set { expiry, .. } = &mut action {
        *expiry = ExpiryPolicy::Until(deadline);
    }
    Ok(Reply::One(context.submit(args.bytes(1), action), Shape::Stored))
}

pub(super) fn incr(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    add(context, args, 1)
}

pub(super) fn decr(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    add(context, args, -1)
}

pub(super) fn incrby(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let number = integer(args.get(2))?;
    add(context, args, number)
}

pub(super) fn decrby(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let number = integer(args.get(2))?;
    let negative = number.checked_neg().ok_or_else(|| Refusal::from("ERR decrement would overflow"))?;
    add(context, args, negative)
}

fn add(context: &mut Context<'_>, args: Args<'_>, number: i64) -> Handled {
    Ok(Reply::One(context.submit(args.bytes(1), Action::Add(number)), Shape::Number))
}

pub(super) fn getdel(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    Ok(Reply::One(context.submit(args.bytes(1), Action::Take), Shape::Taken))
}

pub(super) fn getex(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let (mut persist, mut time, mut index) = (false, None, 2);
    while index < args.len() {
        let unit = Unit::of_option(args.get(index)).filter(|_| index + 1 < args.len() && !persist);
        if args.get(index).eq_ignore_ascii_case(b"persist") && time.is_none() {
            persist = true;
            index += 1;
        } else if let Some(unit) = unit.filter(|unit| time.is_none_or(|(other, _)| other == *unit)) {
            time = Some((unit, args.get(index + 1)));
            index += 2;
        } else {
            return Err(syntax_error());
        }
    }
    let action = match time {
        Some((unit, text)) => Action::ReadUntil(ExpiryPolicy::Until(unit.positive(text, "getex")?)),
        None if persist => Action::ReadUntil(ExpiryPolicy::Clear),
        None => Action::Read,
    };
    Ok(Reply::One(context.submit(args.bytes(1), action), Shape::Taken))
}

pub(super) fn append(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let fresh = Some(Fresh { user_flags: 0, expiry: ExpiryPolicy::Clear });
    let action = Action::Extend { value: args.bytes(2), before: false, fresh };
    Ok(Reply::One(context.submit(args.bytes(1), action), Shape::WrittenLength))
}

pub(super) fn getrange(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let action = Action::ReadRange(integer(args.get(2))?, integer(args.get(3))?);
    Ok(Reply::One(context.submit(args.bytes(1), action), Shape::Part))
}

pub(super) fn setrange(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let offset = integer(args.get(2))?;
    let offset = u64::try_from(offset).map_err(|_| Refusal::from("ERR offset is out of range"))?;
    let action = Action::SetRange { offset, value: args.bytes(3) };
    Ok(Reply::One(context.submit(args.bytes(1), action), Shape::Number))
}

pub(super) fn incrbyfloat(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let action = Action::AddFloat(args.bytes(2));
    Ok(Reply::One(context.submit(args.bytes(1), action), Shape::Text))
}

pub(super) fn msetnx(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    if args.len().is_multiple_of(2) {
        return Err(wrong_arity("msetnx"));
    }
    let pairs = (1..args.len()).step_by(2).map(|index| (args.bytes(index), args.bytes(index + 1)));
    Ok(Reply::One(context.submit_step(Step::SetAllIfAbsent(pairs.collect())), Shape::Changed))
}

pub(super) fn lcs(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let (mut length, mut places, mut match_len_min, mut with_match_len) = (false, false, 0, false);
    let mut index = 3;
    while index < args.len() {
        let is = |name: &str| args.get(index).eq_ignore_ascii_case(name.as_bytes());
        if is("len") {
            length = true;
        } else if is("idx") {
            places = true;
        } else if is("withmatchlen") {
            with_match_len = true;
        } else if is("minmatchlen") && index + 1 < args.len() {
            index += 1;
            match_len_min = u64::try_from(integer(args.get(index))?).unwrap_or(0);
        } else {
            return Err(syntax_error());
        }
        index += 1;
    }
    let what = match (length, places) {
        (true, true) => {
            return Err("ERR If you want both the length and indexes, please just use IDX.".into());
        }
        (true, false) => What::Length,
        (false, true) => What::Places,
        (false, false) => What::Text,
    };
    let table_bytes_max = context.server.front_end.limits.value_bytes_max;
    let lcs = Lcs { what, match_len_min, with_match_len, table_bytes_max };
    let tickets =
        vec![context.submit(args.bytes(1), Action::Read), context.submit(args.bytes(2), Action::Read)];
    Ok(Reply::Many(tickets, Gather::Lcs(lcs)))
}

pub(super) fn mget(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let gather = Gather::Values(context.server.front_end.limits.message_bytes_max());
    keys::each(context, args, Action::Read, gather)
}

pub(super) fn mset(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    if args.len().is_multiple_of(2) {
        return Err(wrong_arity("mset"));
    }
    // If a key is given twice, its last value counts. Only that one is written, because the two writes would
    // race.
    let last: HashMap<&[u8], usize> =
        (1..args.len()).step_by(2).map(|index| (args.get(index), index)).collect();
    let operations = (1..args.len())
        .step_by(2)
        .filter(|index| last.get(args.get(*index)) == Some(index))
        .map(|index| Operation { key: args.bytes(index), action: plain(args.bytes(index + 1)) });
    if args.len() > TOGETHER_MAX && context.collected.is_none() {
        let operations: Vec<_> = operations.collect();
        return keys::in_steps(context, operations, Gather::Ok);
    }
    let tickets = operations.map(|operation| context.submit(operation.key, operation.action)).collect();
    Ok(Reply::Many(tickets, Gather::Ok))
}
