//! Commands on the expiry of keys, and the parsing of times.

use super::context::{Context, Handled, Reply};
use super::errors::integer;
use crate::frontend::resp::now_ms;
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::{Refusal, Shape};
use crate::kv::{Action, Deadline, ExpireCondition};

/// Unit and origin of an expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Seconds from now.
    Seconds,
    /// Milliseconds from now.
    Millis,
    /// Seconds since 1970.
    UnixSeconds,
    /// Milliseconds since 1970.
    UnixMillis,
}

impl Unit {
    /// Returns the unit that an option of SET names.
    pub(super) fn of_option(text: &[u8]) -> Option<Self> {
        let options: [(&[u8], Self); 4] = [
            (b"ex", Self::Seconds),
            (b"px", Self::Millis),
            (b"exat", Self::UnixSeconds),
            (b"pxat", Self::UnixMillis),
        ];
        options.into_iter().find(|(name, _)| text.eq_ignore_ascii_case(name)).map(|(_, unit)| unit)
    }

    /// Returns the deadline that a number means; it may be in the past. `None` if it is out of Redis's range.
    ///
    /// A relative time stays relative: only the primary adds it to cluster time. This node's clock is used
    /// only to detect sums that do not fit 64 bits, as in Redis.
    fn deadline(self, number: i64) -> Option<Deadline> {
        let millis = match self {
            Self::Seconds | Self::UnixSeconds => number.checked_mul(1000)?,
            Self::Millis | Self::UnixMillis => number,
        };
        match self {
            Self::Seconds | Self::Millis => {
                millis.checked_add(i64::try_from(now_ms()).ok()?)?;
                Some(Deadline::In(u64::try_from(millis).unwrap_or(0)))
            }
            // A negative time means the same as the first millisecond of 1970: it is in the past.
            Self::UnixSeconds | Self::UnixMillis => {
                Some(Deadline::At(u64::try_from(millis).unwrap_or(1).max(1)))
            }
        }
    }

    /// Parses the deadline of a written value.
    ///
    /// # Errors
    /// The number is not positive or out of range.
    pub(super) fn positive(self, text: &[u8], command: &str) -> Result<Deadline, Refusal> {
        let number = integer(text)?;
        self.deadline(number).filter(|_| number > 0).ok_or_else(|| invalid(command))
    }
}

fn invalid(command: &str) -> Refusal {
    format!("ERR invalid expire time in '{command}' command").into()
}

pub(super) fn expire(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    expire_at(context, args, Unit::Seconds, "expire")
}

pub(super) fn pexpire(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    expire_at(context, args, Unit::Millis, "pexpire")
}

pub(super) fn expireat(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    expire_at(context, args, Unit::UnixSeconds, "expireat")
}

pub(super) fn pexpireat(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    expire_at(context, args, Unit::UnixMillis, "pexpireat")
}

fn expire_at(context: &mut Context<'_>, args: Args<'_>, unit: Unit, command: &str) -> Handled {
    let condition = condition(args)?;
    // A deadline in the past removes the key.
    let deadline = unit.deadline(integer(args.get(2))?).ok_or_else(|| invalid(command))?;
    Ok(Reply::One(context.submit(args.bytes(1), Action::Expire(deadline, condition)), Shape::Changed))
}

/// Parses the options NX, XX, GT and LT.
fn condition(args: Args<'_>) -> Result<ExpireCondition, Refusal> {
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for option in args.from(3) {
        let flags = [("nx", &mut nx), ("xx", &mut xx), ("gt", &mut gt), ("lt", &mut lt)];
        let named = flags.into_iter().find(|(name, _)| option.eq_ignore_ascii_case(name.as_bytes()));
        let Some((_, flag)) = named else {
            return Err(format!("ERR Unsupported option {}", String::from_utf8_lossy(option)).into());
        };
        *flag = true;
    }
    if nx && (xx || gt || lt) {
        return Err("ERR NX and XX, GT or LT options at the same time are not compatible".into());
    }
    if gt && lt {
        return Err("ERR GT and LT options at the same time are not compatible".into());
    }
    Ok(match (nx, xx, gt, lt) {
        (true, ..) => ExpireCondition::None,
        (_, _, true, _) => ExpireCondition::Later,
        (_, true, _, true) => ExpireCondition::SoonerThanSome,
        (_, _, _, true) => ExpireCondition::Sooner,
        (_, true, ..) => ExpireCondition::Some,
        _ => ExpireCondition::Always,
    })
}

pub(super) fn persist(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    Ok(Reply::One(context.submit(args.bytes(1), Action::Persist), Shape::Changed))
}

pub(super) fn ttl(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    inspect(context, args, Shape::SecondsLeft)
}

pub(super) fn pttl(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    inspect(context, args, Shape::MillisLeft)
}

pub(super) fn expiretime(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    inspect(context, args, Shape::ExpirySeconds)
}

pub(super) fn pexpiretime(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    inspect(context, args, Shape::ExpiryMillis)
}

fn inspect(context: &mut Context<'_>, args: Args<'_>, shape: Shape) -> Handled {
    Ok(Reply::One(context.submit(args.bytes(1), Action::Inspect), shape))
}
