//! Effect and answer of one action on one key: Redis's semantics, as a pure function of the entry and the
//! time.
//!
//! Invariants: an entry whose expiry is not in the future counts as absent. A read of it has no effect; an
//! action that leaves the key absent writes its tombstone. An unchanged value is shared, never copied.
//! Rejects arithmetic on values that are not numbers, and values that would become too long.

use bytes::Bytes;

use super::bits;
use super::float::{self, NoSum};
use super::number::{parse_count, parse_integer};
use super::{
    Action, ActionError, Condition, Effect, Entry, ExpireCondition, ExpiryPolicy, Field, Fresh, Meta, Outcome,
};

/// Time, version and limit of an evaluation.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Cluster time, in milliseconds since 1970.
    pub now_ms: u64,
    /// Version of the record that the action may write.
    pub version: u64,
    /// Maximum length of a new value, bytes.
    pub value_bytes_max: u64,
}

/// Effect and answer of an action.
type Evaluated = Result<(Effect, Outcome), ActionError>;

/// Returns the effect and the answer of `action`. `current` is the newest record of the key, published or
/// pending; `None` if it is a tombstone.
///
/// # Errors
/// [`ActionError`] if the action is not possible on the present value; the caller must then write nothing.
pub fn evaluate(action: &Action, current: Option<&Entry>, at: &At) -> Evaluated {
    let now_ms = at.now_ms;
    let live = current.filter(|entry| entry.expiry_ms == 0 || entry.expiry_ms > now_ms);
    let bytes = live.map_or(&[][..], |entry| &entry.value);
    Ok(match action {
        Action::Read => (Effect::Nothing, Outcome::Entry(live.cloned())),
        Action::Inspect => (Effect::Nothing, Outcome::Meta(live.map(|entry| meta(entry, now_ms)))),
        Action::Set { value, user_flags, expiry, condition, return_old } => {
            let old = live.filter(|_| *return_old).cloned();
            if !holds(*condition, live) {
                return Ok((Effect::Nothing, Outcome::Set { version: None, old }));
            }
            let effect = write(value, *user_flags, *expiry, current, live, now_ms);
            (effect, Outcome::Set { version: Some(at.version), old })
        }
        Action::Delete => (remove(current), Outcome::Changed(live.is_some())),
        Action::Add(delta) => add(*delta, live)?,
        Action::Persist => match live.filter(|entry| entry.expiry_ms != 0) {
            Some(entry) => (rewrite(entry, 0), Outcome::Changed(true)),
            None => (Effect::Nothing, Outcome::Changed(false)),
        },
        Action::IfVersion(version, action) => match live {
            None => (Effect::Nothing, Outcome::Absent),
            Some(entry) if entry.version != *version => (Effect::Nothing, Outcome::Unmet),
            Some(_) => return evaluate(action, current, at),
        },
        Action::Expire(deadline, condition) => {
            let at_ms = deadline.at_ms(now_ms);
            match live {
                Some(entry) if may_expire(*condition, entry, at_ms) => expire(at_ms, live, now_ms),
                _ => (Effect::Nothing, Outcome::Changed(false)),
            }
        }
        Action::Take => (remove(current), Outcome::Entry(live.cloned())),
        Action::ReadUntil(expiry) => read_until(*expiry, live, at),
        Action::Extend { value, before, fresh } => extend(value, *before, *fresh, live, at)?,
        Action::SetRange { offset, value } => set_range(*offset, value, live, at)?,
        Action::AddFloat(number) => add_float(number, live)?,
        Action::Count { delta, down, fresh } => count(*delta, *down, *fresh, live, at)?,
        Action::ReadRange(start, end) => {
            (Effect::Nothing, Outcome::Value(live.map(|e| part(e, *start, *end))))
        }
        Action::SetBit(offset, set) => set_bit(*offset, *set, live, at)?,
        Action::ReadBit(offset) => answer(bits::bit(bytes, *offset).into()),
        Action::CountBits(range) => answer(place(bits::count(bytes, *range))),
        Action::FindBit { bit, range, bounded } => answer(match live {
            // An absent key counts as infinitely many clear bits.
            None => {
                if *bit {
                    -1
                } else {
                    0
                }
            }
            Some(_) => bits::find(bytes, *bit, *range, *bounded).map_or(-1, place),
        }),
        Action::Fields(fields) => carry_out(fields, live, at)?,
        Action::Transaction(_) => return Err(ActionError::Impossible),
    })
}

/// Returns a number as the answer, with no effect.
fn answer(number: i64) -> (Effect, Outcome) {
    (Effect::Nothing, Outcome::Integer(number))
}

/// Converts a count of bits or bytes to the type of answers. Values are far too short for it to overflow.
fn place(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn meta(entry: &Entry, now_ms: u64) -> Meta {
    Meta {
        // A value has at most 512 MiB, far below the field's limit.
        value_len: u32::try_from(entry.value.len()).unwrap_or(u32::MAX),
        user_flags: entry.user_flags,
        expiry_ms: entry.expiry_ms,
        now_ms,
        version: entry.version,
    }
}

fn holds(condition: Condition, live: Option<&Entry>) -> bool {
    match condition {
        Condition::Always => true,
        Condition::Absent => live.is_none(),
        Condition::Present => live.is_some(),
    }
}

/// Returns the expiry of a written value, or `None` if it would expire at once.
fn expiry_of(policy: ExpiryPolicy, live: Option<&Entry>, now_ms: u64) -> Option<u64> {
    match policy {
        ExpiryPolicy::Clear => Some(0),
        ExpiryPolicy::Keep => Some(live.map_or(0, |entry| entry.expiry_ms)),
        ExpiryPolicy::Until(deadline) => Some(deadline.at_ms(now_ms)).filter(|at_ms| *at_ms > now_ms),
    }
}

/// Returns the expiry of a key that the action creates. A past expiry is kept: the next action on the key
/// removes it.
fn fresh_expiry(fresh: Fresh, now_ms: u64) -> u64 {
    match fresh.expiry {
        ExpiryPolicy::Clear | ExpiryPolicy::Keep => 0,
        // 0 would mean never.
        ExpiryPolicy::Until(deadline) => deadline.at_ms(now_ms).max(1),
    }
}

/// Returns a write of the value, or a removal if the value would expire at once.
fn write(
    value: &Bytes,
    user_flags: u32,
    expiry: ExpiryPolicy,
    current: Option<&Entry>,
    live: Option<&Entry>,
    now_ms: u64,
) -> Effect {
    match expiry_of(expiry, live, now_ms) {
        Some(expiry_ms) => Effect::Write { value: value.clone(), user_flags, expiry_ms },
        None => remove(current),
    }
}

/// Returns the removal of a record, also of an expired one: it must stay absent under a later primary, whose
/// estimate of cluster time may be lower.
fn remove(current: Option<&Entry>) -> Effect {
    current.map_or(Effect::Nothing, |_| Effect::Remove)
}

/// Returns a write of the same value and flags with another expiry.
fn rewrite(entry: &Entry, expiry_ms: u64) -> Effect {
    Effect::Write { value: entry.value.clone(), user_flags: entry.user_flags, expiry_ms }
}

fn expire(at_ms: u64, live: Option<&Entry>, now_ms: u64) -> (Effect, Outcome) {
    match live {
        None => (Effect::Nothing, Outcome::Changed(false)),
        Some(_) if at_ms <= now_ms => (Effect::Remove, Outcome::Changed(true)),
        Some(entry) => (rewrite(entry, at_ms), Outcome::Changed(true)),
    }
}

fn add(delta: i64, live: Option<&Entry>) -> Result<(Effect, Outcome), ActionError> {
    let (before, user_flags, expiry_ms) = match live {
        None => (0, 0, 0),
        Some(entry) => {
            let number = parse_integer(&entry.value).ok_or(ActionError::NotAnInteger)?;
            (number, entry.user_flags, entry.expiry_ms)
        }
    };
    let sum = before.checked_add(delta).ok_or(ActionError::Overflow)?;
    let value = Bytes::copy_from_slice(itoa::Buffer::new().format(sum).as_bytes());
    Ok((Effect::Write { value, user_flags, expiry_ms }, Outcome::Integer(sum)))
}

fn may_expire(condition: ExpireCondition, entry: &Entry, at_ms: u64) -> bool {
    let expires = entry.expiry_ms != 0;
    match condition {
        ExpireCondition::Always => true,
        ExpireCondition::None => !expires,
        ExpireCondition::Some => expires,
        ExpireCondition::Later => expires && at_ms > entry.expiry_ms,
        ExpireCondition::Sooner => !expires || at_ms < entry.expiry_ms,
        ExpireCondition::SoonerThanSome => expires && at_ms < entry.expiry_ms,
    }
}

fn read_until(expiry: ExpiryPolicy, live: Option<&Entry>, at: &At) -> (Effect, Outcome) {
    let Some(entry) = live else { return (Effect::Nothing, Outcome::Entry(None)) };
    match expiry_of(expiry, live, at.now_ms) {
        None => (Effect::Remove, Outcome::Entry(Some(entry.clone()))),
        Some(expiry_ms) if expiry_ms == entry.expiry_ms => {
            (Effect::Nothing, Outcome::Entry(Some(entry.clone())))
        }
        Some(expiry_ms) => {
            let after = Entry { expiry_ms, version: at.version, ..entry.clone() };
            (rewrite(entry, expiry_ms), Outcome::Entry(Some(after)))
        }
    }
}

/// Returns a write of a new value that keeps the key's flags and expiry.
fn changed(value: Vec<u8>, live: Option<&Entry>) -> Effect {
    let (user_flags, expiry_ms) = live.map_or((0, 0), |entry| (entry.user_flags, entry.expiry_ms));
    Effect::Write { value: value.into(), user_flags, expiry_ms }
}

/// Checks the length of a new value.
///
/// # Errors
/// `len` exceeds the maximum length of a value.
fn check_len(len: u64, at: &At) -> Result<(), ActionError> {
    if len <= at.value_bytes_max { Ok(()) } else { Err(ActionError::TooLong) }
}

fn extend(value: &Bytes, before: bool, fresh: Option<Fresh>, live: Option<&Entry>, at: &At) -> Evaluated {
    let wrote = |len: usize| Outcome::Wrote { version: at.version, len: len as u64 };
    let (Some(entry), _) = (live, fresh) else {
        let Some(fresh) = fresh else {
            return Ok((Effect::Nothing, Outcome::Absent));
        };
        let (user_flags, expiry_ms) = (fresh.user_flags, fresh_expiry(fresh, at.now_ms));
        return Ok((Effect::Write { value: value.clone(), user_flags, expiry_ms }, wrote(value.len())));
    };
    let (first, second) = if before { (value, &entry.value) } else { (&entry.value, value) };
    check_len((first.len() + second.len()) as u64, at)?;
    let whole = [&first[..], second].concat();
    let len = whole.len();
    Ok((changed(whole, live), wrote(len)))
}

/// Returns a copy of the value, extended with zeros to at least `len` bytes.
fn grown(live: Option<&Entry>, len: u64, at: &At) -> Result<Vec<u8>, ActionError> {
    let mut value = live.map(|entry| entry.value.to_vec()).unwrap_or_default();
    if len > value.len() as u64 {
        check_len(len, at)?;
        value.resize(usize::try_from(len).map_err(|_| ActionError::TooLong)?, 0);
    }
    Ok(value)
}

fn set_range(offset: u64, part: &Bytes, live: Option<&Entry>, at: &At) -> Evaluated {
    if part.is_empty() {
        return Ok(answer(place(live.map_or(0, |entry| entry.value.len() as u64))));
    }
    let end = offset.saturating_add(part.len() as u64);
    check_len(end, at)?;
    let mut value = grown(live, end, at)?;
    if let Some(place) = value.get_mut(offset as usize..end as usize) {
        place.copy_from_slice(part);
    }
    let len = place(value.len() as u64);
    Ok((changed(value, live), Outcome::Integer(len)))
}

fn add_float(number: &[u8], live: Option<&Entry>) -> Evaluated {
    let before = live.map_or(&b"0"[..], |entry| &entry.value);
    let sum = float::add(before, number).map_err(|error| match error {
        NoSum::NotANumber => ActionError::NotAFloat,
        NoSum::NotFinite => ActionError::NotFinite,
    })?;
    let value = Bytes::from(sum);
    Ok((changed(value.to_vec(), live), Outcome::Value(Some(value))))
}

fn count(delta: u64, down: bool, fresh: Option<(u64, Fresh)>, live: Option<&Entry>, at: &At) -> Evaluated {
    let Some(entry) = live else {
        let Some((number, fresh)) = fresh else {
            return Ok((Effect::Nothing, Outcome::Absent));
        };
        let (user_flags, expiry_ms) = (fresh.user_flags, fresh_expiry(fresh, at.now_ms));
        let value = Bytes::from(number.to_string());
        let after = Entry { value: value.clone(), user_flags, expiry_ms, version: at.version };
        return Ok((Effect::Write { value, user_flags, expiry_ms }, Outcome::Entry(Some(after))));
    };
    let number = parse_count(&entry.value).ok_or(ActionError::NotACount)?;
    let number = if down { number.saturating_sub(delta) } else { number.wrapping_add(delta) };
    // A shorter number is padded with blanks, as memcached does: the value never becomes shorter.
    let text = format!("{number:<width$}", width = entry.value.len());
    let after = Entry { value: text.into(), version: at.version, ..entry.clone() };
    let effect = Effect::Write {
        value: after.value.clone(),
        user_flags: after.user_flags,
        expiry_ms: after.expiry_ms,
    };
    Ok((effect, Outcome::Entry(Some(after))))
}

fn part(entry: &Entry, start: i64, end: i64) -> Bytes {
    match bits::places(start, end, entry.value.len() as u64) {
        Some((start, end)) => entry.value.slice(start as usize..=end as usize),
        None => Bytes::new(),
    }
}

fn set_bit(offset: u64, set: bool, live: Option<&Entry>, at: &At) -> Evaluated {
    let mut value = grown(live, offset / 8 + 1, at)?;
    let before = bits::bit(&value, offset);
    bits::set_bit(&mut value, offset, set);
    Ok((changed(value, live), Outcome::Integer(before.into())))
}

fn carry_out(fields: &[Field], live: Option<&Entry>, at: &At) -> Evaluated {
    if !fields.iter().all(Field::is_valid) {
        return Err(ActionError::Impossible);
    }
    let written = fields.iter().filter(|field| field.writes()).map(Field::end_bytes).max();
    // The value grows even if an overflow prevents the write of a field, as in Redis.
    let mut value = grown(live, written.unwrap_or(0), at)?;
    let answers = fields.iter().map(|field| field.carry_out(&mut value)).collect();
    let effect = if written.is_some() { changed(value, live) } else { Effect::Nothing };
    Ok((effect, Outcome::Integers(answers)))
}

#[cfg(test)]
mod tests;
