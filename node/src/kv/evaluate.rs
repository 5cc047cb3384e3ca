//! What one action does to one key: Redis's semantics, as a pure function of the entry and the time.
//!
//! An entry whose expiry is not in the future is absent. Reading it writes nothing; an action that leaves
//! the key absent for good writes the tombstone it is due. Values are shared, never copied. Nothing here
//! can fail but arithmetic on what is no integer.

use bytes::Bytes;

use super::{Action, ActionError, Condition, Effect, Entry, ExpiryPolicy, Meta, Outcome};

/// Says what `action` writes and answers at `now_ms` (milliseconds since 1970), given the newest record of
/// the key, published or pending, that is no tombstone.
///
/// # Errors
/// [`ActionError`] if the value there is does not allow the action; then nothing may be written.
pub fn evaluate(
    action: &Action,
    current: Option<&Entry>,
    now_ms: u64,
) -> Result<(Effect, Outcome), ActionError> {
    let live = current.filter(|entry| entry.expiry_ms == 0 || entry.expiry_ms > now_ms);
    Ok(match action {
        Action::Read => (Effect::Nothing, Outcome::Entry(live.cloned())),
        Action::Inspect => (Effect::Nothing, Outcome::Meta(live.map(meta))),
        Action::Set { value, user_flags, expiry, condition, return_old } => {
            let old = live.filter(|_| *return_old).cloned();
            if !holds(*condition, live) {
                return Ok((Effect::Nothing, Outcome::Set { written: false, old }));
            }
            let effect = match expiry_of(*expiry, live, now_ms) {
                Some(expiry_ms) => Effect::Write { value: value.clone(), user_flags: *user_flags, expiry_ms },
                None => remove(current),
            };
            (effect, Outcome::Set { written: true, old })
        }
        Action::Delete => (remove(current), Outcome::Changed(live.is_some())),
        Action::Add(delta) => add(*delta, live)?,
        Action::Expire(at_ms) => expire(*at_ms, live, now_ms),
        Action::Persist => match live.filter(|entry| entry.expiry_ms != 0) {
            Some(entry) => (rewrite(entry, 0), Outcome::Changed(true)),
            None => (Effect::Nothing, Outcome::Changed(false)),
        },
    })
}

fn meta(entry: &Entry) -> Meta {
    Meta {
        // A value is at most 512 MiB, far below the field's limit.
        value_len: u32::try_from(entry.value.len()).unwrap_or(u32::MAX),
        user_flags: entry.user_flags,
        expiry_ms: entry.expiry_ms,
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

/// The expiry a written value gets, or `None` where it would be gone at once.
fn expiry_of(policy: ExpiryPolicy, live: Option<&Entry>, now_ms: u64) -> Option<u64> {
    match policy {
        ExpiryPolicy::Clear => Some(0),
        ExpiryPolicy::Keep => Some(live.map_or(0, |entry| entry.expiry_ms)),
        ExpiryPolicy::At(at_ms) => (at_ms > now_ms).then_some(at_ms),
    }
}

/// An expired record is removed too: it must stay gone if the clock is set back.
fn remove(current: Option<&Entry>) -> Effect {
    current.map_or(Effect::Nothing, |_| Effect::Remove)
}

/// The same value and flags with another expiry.
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

/// Reads a decimal integer as Redis's `string2ll` does: only the one text an integer is printed as, so no
/// `+`, no blanks, no leading zeros, no `-0`.
pub(crate) fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    // Summed on the negative side, which reaches one further than the positive.
    let mut sum: i64 = 0;
    for byte in digits {
        if !byte.is_ascii_digit() {
            return None;
        }
        sum = sum.checked_mul(10)?.checked_sub(i64::from(byte - b'0'))?;
    }
    if negative { Some(sum) } else { sum.checked_neg() }
}

#[cfg(test)]
mod tests;
