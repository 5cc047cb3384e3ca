//! Commands on the bits of values.

use super::context::{Context, Handled, Reply};
use super::errors::{integer, syntax_error};
use crate::frontend::resp::parser::Args;
use crate::frontend::resp::reply::{Refusal, Shape};
use crate::kv::{Action, BitRange, BitRangeUnit, Bitwise, Field, FieldAction, Overflow, Step, parse_integer};

/// Parses the offset of a bit. With `#` the number counts fields of `field_bits` bits.
fn offset(context: &Context<'_>, text: &[u8], field_bits: Option<u8>) -> Result<u64, Refusal> {
    let invalid = || Refusal::from("ERR bit offset is not an integer or out of range");
    let (text, step) = match (text.strip_prefix(b"#"), field_bits) {
        (Some(text), Some(bits)) => (text, u64::from(bits)),
        _ => (text, 1),
    };
    let number = parse_integer(text).and_then(|number| u64::try_from(number).ok()).ok_or_else(invalid)?;
    let offset = number.checked_mul(step).ok_or_else(invalid)?;
    let bytes_max = context.server.front_end.limits.value_bytes_max as u64;
    if offset / 8 < bytes_max { Ok(offset) } else { Err(invalid()) }
}

pub(super) fn setbit(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let offset = offset(context, args.get(2), None)?;
    let set = match args.get(3) {
        b"0" => false,
        b"1" => true,
        _ => return Err("ERR bit is not an integer or out of range".into()),
    };
    Ok(Reply::One(context.submit(args.bytes(1), Action::SetBit(offset, set)), Shape::Number))
}

pub(super) fn getbit(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let offset = offset(context, args.get(2), None)?;
    Ok(Reply::One(context.submit(args.bytes(1), Action::ReadBit(offset)), Shape::Number))
}

/// Parses the range in the arguments from `first` on; `None` if there are none. Without an end it extends to
/// the end of the value.
fn range(args: Args<'_>, first: usize) -> Result<Option<BitRange>, Refusal> {
    if args.len() <= first {
        return Ok(None);
    }
    let start = integer(args.get(first))?;
    let end = if args.len() > first + 1 { integer(args.get(first + 1))? } else { -1 };
    let unit = match args.get(first + 2) {
        _ if args.len() <= first + 2 => BitRangeUnit::Byte,
        unit if unit.eq_ignore_ascii_case(b"byte") => BitRangeUnit::Byte,
        unit if unit.eq_ignore_ascii_case(b"bit") => BitRangeUnit::Bit,
        _ => return Err(syntax_error()),
    };
    Ok(Some(BitRange { start, end, unit }))
}

pub(super) fn bitcount(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    if args.len() == 3 || args.len() > 5 {
        return Err(syntax_error());
    }
    let range = range(args, 2)?;
    Ok(Reply::One(context.submit(args.bytes(1), Action::CountBits(range)), Shape::Number))
}

pub(super) fn bitpos(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let bit = match integer(args.get(2))? {
        0 => false,
        1 => true,
        _ => return Err("ERR The bit argument must be 1 or 0.".into()),
    };
    if args.len() > 6 {
        return Err(syntax_error());
    }
    let (range, bounded) = (range(args, 3)?, args.len() > 4);
    Ok(Reply::One(context.submit(args.bytes(1), Action::FindBit { bit, range, bounded }), Shape::Number))
}

pub(super) fn bitop(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    let hows = [("and", Bitwise::And), ("or", Bitwise::Or), ("xor", Bitwise::Xor), ("not", Bitwise::Not)];
    let named = hows.into_iter().find(|(name, _)| args.get(1).eq_ignore_ascii_case(name.as_bytes()));
    let (_, how) = named.ok_or_else(syntax_error)?;
    if how == Bitwise::Not && args.len() != 4 {
        return Err("ERR BITOP NOT must be called with a single source key.".into());
    }
    let from = (3..args.len()).map(|index| args.bytes(index)).collect();
    let step = Step::Combine { how, from, to: args.bytes(2) };
    Ok(Reply::One(context.submit_step(step), Shape::Number))
}

pub(super) fn bitfield(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    fields(context, args, false)
}

pub(super) fn bitfield_ro(context: &mut Context<'_>, args: Args<'_>) -> Handled {
    fields(context, args, true)
}

fn fields(context: &mut Context<'_>, args: Args<'_>, read_only: bool) -> Handled {
    let (mut fields, mut overflow, mut index) = (Vec::<Field>::new(), Overflow::Wrap, 2);
    while index < args.len() {
        let is = |name: &str, more: usize| {
            index + more < args.len() && args.get(index).eq_ignore_ascii_case(name.as_bytes())
        };
        if is("overflow", 1) {
            overflow = overflow_named(args.get(index + 1))?;
            index += 2;
            continue;
        }
        let more = if is("get", 2) {
            2
        } else if is("set", 3) || is("incrby", 3) {
            3
        } else {
            return Err(syntax_error());
        };
        let (signed, bits) = field_type(args.get(index + 1))?;
        let offset = offset(context, args.get(index + 2), Some(bits))?;
        let action = match more {
            2 => FieldAction::Get,
            _ if is("set", 3) => FieldAction::Set(integer(args.get(index + 3))?, overflow),
            _ => FieldAction::Add(integer(args.get(index + 3))?, overflow),
        };
        fields.push(Field { signed, bits, offset, action });
        index += 1 + more;
    }
    if read_only && fields.iter().any(Field::writes) {
        return Err("ERR BITFIELD_RO only supports the GET subcommand".into());
    }
    Ok(Reply::One(context.submit(args.bytes(1), Action::Fields(fields)), Shape::Numbers))
}

fn overflow_named(name: &[u8]) -> Result<Overflow, Refusal> {
    let all = [("wrap", Overflow::Wrap), ("sat", Overflow::Saturate), ("fail", Overflow::Fail)];
    let named = all.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()));
    named.map(|(_, overflow)| overflow).ok_or_else(|| "ERR Invalid OVERFLOW type specified".into())
}

fn field_type(text: &[u8]) -> Result<(bool, u8), Refusal> {
    const INVALID: &str =
        "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.";
    let (signed, most) = match text.first() {
        Some(b'i') => (true, 64),
        Some(b'u') => (false, 63),
        _ => return Err(INVALID.into()),
    };
    let bits = parse_integer(text.get(1..).unwrap_or_default()).filter(|bits| (1..=most).contains(bits));
    bits.and_then(|bits| u8::try_from(bits).ok()).map(|bits| (signed, bits)).ok_or_else(|| INVALID.into())
}
