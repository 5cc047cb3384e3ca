//! Commands that move, copy and describe whole keys.

use super::context::{Context, Handled, Reply};
use super::errors::{integer, syntax_error, unknown_subcommand, wrong_arity};
use super::expiry::Unit;
use crate::frontend::resp::dump;
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::Refusal;
use crate::frontend::resp::reply::Shape;
use crate::kv::{Action, Condition, ExpiryPolicy, Step};

pub(super) fn rename(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let step = Step::Give { from: args.bytes(1), to: args.bytes(2), remove: true, replace: true };
    Ok(Reply::One(context.submit_step(step), Shape::Renamed))
}

pub(super) fn renamenx(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let step = Step::Give { from: args.bytes(1), to: args.bytes(2), remove: true, replace: false };
    Ok(Reply::One(context.submit_step(step), Shape::RenamedIfNew))
}

/// `COPY source destination [DB 0] [REPLACE]`
pub(super) fn copy(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let (mut replace, mut elsewhere, mut index) = (false, false, 3);
    while index < args.len() {
        if args.get(index).eq_ignore_ascii_case(b"replace") {
            replace = true;
        } else if args.get(index).eq_ignore_ascii_case(b"db") && index + 1 < args.len() {
            index += 1;
            elsewhere = match integer(args.get(index))? {
                0 => false,
                // Redis has 16 databases by default.
                1..16 => true,
                other if i32::try_from(other).is_err() => {
                    return Err(
                        "ERR value is out of range, value must between -2147483648 and 2147483647".into()
                    );
                }
                _ => return Err("ERR DB index is out of range".into()),
            };
        } else {
            return Err(syntax_error());
        }
        index += 1;
    }
    if elsewhere {
        return Err("ERR Copying to another database is not allowed in cluster mode".into());
    }
    if args.get(1) == args.get(2) {
        return Err("ERR source and destination objects are the same".into());
    }
    let step = Step::Give { from: args.bytes(1), to: args.bytes(2), remove: false, replace };
    Ok(Reply::One(context.submit_step(step), Shape::Copied))
}

pub(super) fn dump(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    Ok(Reply::One(context.submit(args.bytes(1), Action::Read), Shape::Dump))
}

/// `RESTORE key ttl value [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]`
pub(super) fn restore(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let (mut replace, mut absolute, mut index) = (false, false, 4);
    while index < args.len() {
        let is = |name: &str| args.get(index).eq_ignore_ascii_case(name.as_bytes());
        if is("replace") {
            replace = true;
        } else if is("absttl") {
            absolute = true;
        } else if is("idletime") && index + 1 < args.len() {
            index += 1;
            if integer(args.get(index))? < 0 {
                return Err("ERR Invalid IDLETIME value, must be >= 0".into());
            }
        } else if is("freq") && index + 1 < args.len() {
            index += 1;
            if !(0..=255).contains(&integer(args.get(index))?) {
                return Err("ERR Invalid FREQ value, must be >= 0 and <= 255".into());
            }
        } else {
            return Err(syntax_error());
        }
        index += 1;
    }
    let expiry = match integer(args.get(2))? {
        0 => ExpiryPolicy::Clear,
        ..0 => return Err("ERR Invalid TTL value, must be >= 0".into()),
        _ => {
            let unit = if absolute { Unit::UnixMillis } else { Unit::Millis };
            ExpiryPolicy::Until(unit.positive(args.get(2), "restore")?)
        }
    };
    let Some((value, user_flags)) = dump::decode(&args.bytes(3)) else {
        return Err("ERR DUMP payload version or checksum are wrong".into());
    };
    let condition = if replace { Condition::Always } else { Condition::Absent };
    let action = Action::Set { value, user_flags, expiry, condition, return_old: false };
    Ok(Reply::One(context.submit(args.bytes(1), action), Shape::Restored))
}

pub(super) fn object(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let name = String::from_utf8_lossy(args.get(1)).to_ascii_lowercase();
    let (action, shape) = match name.as_str() {
        "encoding" => (Action::Read, Shape::Encoding),
        "refcount" => (Action::Read, Shape::References),
        "freq" => (Action::Inspect, Shape::Frequency),
        "idletime" => (Action::Inspect, Shape::IdleTime),
        _ => return Err(unknown_subcommand(args)),
    };
    if args.len() != 3 {
        return Err(wrong_arity(&format!("object|{name}")));
    }
    Ok(Reply::One(context.submit(args.bytes(2), action), shape))
}

/// `SORT key ...`: fails if the key exists, because no key holds a list, set or sorted set.
pub(super) fn sort(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let (mut stores, mut index) = (false, 2);
    while index < args.len() {
        let option = args.get(index);
        let is = |name: &str, more: usize| {
            option.eq_ignore_ascii_case(name.as_bytes()) && index + more < args.len()
        };
        if is("asc", 0) || is("desc", 0) || is("alpha", 0) {
            index += 1;
        } else if is("limit", 2) {
            integer(args.get(index + 1)).and(integer(args.get(index + 2)))?;
            index += 3;
        } else if is("by", 1) && !args.get(index + 1).contains(&b'*') {
            index += 2;
        } else if is("by", 1) {
            return Err("ERR BY option of SORT denied in Cluster mode.".into());
        } else if is("get", 1) {
            return Err("ERR GET option of SORT denied in Cluster mode.".into());
        } else if is("store", 1) && args.get(0).eq_ignore_ascii_case(b"sort") {
            stores = true;
            index += 2;
        } else {
            return Err(syntax_error());
        }
    }
    if stores {
        return Err("ERR STORE of SORT is refused: there are no lists, sets or sorted sets to sort".into());
    }
    Ok(Reply::One(context.submit(args.bytes(1), Action::Inspect), Shape::NoList))
}

pub(super) fn move_key(_context: &mut Context<'_>, _args: Args<'_>) -> Handled {
    Err("ERR MOVE is not allowed in cluster mode".into())
}

/// `CASK.GETV key`: the value and its version.
pub(super) fn getv(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    Ok(Reply::One(context.submit(args.bytes(1), Action::Read), Shape::Versioned))
}

/// `CASK.CAS key version value [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]`: writes only if the key has this
/// version. 0: only if the key is absent.
pub(super) fn cas(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let version = u64::try_from(integer(args.get(2))?)
        .map_err(|_| Refusal::from("ERR a version is 0 or a positive integer, as CASK.GETV returns it"))?;
    let expiry = match (args.len(), Unit::of_option(args.get(4))) {
        (4, _) => ExpiryPolicy::Clear,
        (5, _) if args.get(4).eq_ignore_ascii_case(b"keepttl") => ExpiryPolicy::Keep,
        (6, Some(unit)) => ExpiryPolicy::Until(unit.positive(args.get(5), "cask.cas")?),
        _ => return Err(syntax_error()),
    };
    let value = args.bytes(3);
    let store = |condition| Action::Set { value, user_flags: 0, expiry, condition, return_old: false };
    let action = match version {
        0 => store(Condition::Absent),
        _ => Action::IfVersion(version, Box::new(store(Condition::Always))),
    };
    Ok(Reply::One(context.submit(args.bytes(1), action), Shape::NewVersion))
}
