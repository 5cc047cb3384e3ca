//! The words of a command line, and numbers as memcached parses them.

use bytes::Bytes;

use super::KEY_BYTES_MAX;
use crate::kv::{Deadline, ExpiryPolicy};

/// Maximum words that are parsed. Only commands that read many keys have more.
const WORDS_MAX: usize = 24;
/// Longest relative time, in seconds; a larger number is seconds since 1970 (memcached's
/// `REALTIME_MAXDELTA`).
const RELATIVE_S_MAX: i64 = 60 * 60 * 24 * 30;

/// Returns the words of a line, without the blanks between them.
pub(super) fn words(line: &[u8]) -> Vec<&[u8]> {
    line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).take(WORDS_MAX).collect()
}

/// Returns whether a word can be a key: short enough, and without control characters, which no client could
/// send in a later request.
pub(super) fn is_key(word: &[u8]) -> bool {
    word.len() <= KEY_BYTES_MAX && !word.iter().any(u8::is_ascii_control)
}

/// Parses a number as C's `strtol` does: blanks may surround it. Returns whether it is negative, and its
/// magnitude.
fn magnitude(word: &[u8]) -> Option<(bool, u64)> {
    let word = word.trim_ascii_start();
    let (negative, word) = match word {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, word),
    };
    let digits = word.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = word.split_at_checked(digits)?;
    if rest.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
        return None;
    }
    Some((negative, std::str::from_utf8(number).ok()?.parse().ok()?))
}

/// Parses an unsigned number as memcached's `safe_strtoull` does, which rejects small negative ones.
pub(super) fn unsigned(word: &[u8]) -> Option<u64> {
    let (negative, number) = magnitude(word)?;
    if !negative {
        return Some(number);
    }
    let wrapped = number.wrapping_neg();
    i64::try_from(wrapped).is_ok().then_some(wrapped)
}

/// Parses a signed number as memcached's `safe_strtol` does, but with 64 bits instead of 32.
pub(super) fn signed(word: &[u8]) -> Option<i64> {
    let (negative, number) = magnitude(word)?;
    if negative { 0_i64.checked_sub_unsigned(number) } else { i64::try_from(number).ok() }
}

/// Parses a client's flags: 32 bits.
pub(super) fn client_flags(word: &[u8]) -> Option<u32> {
    u32::try_from(unsigned(word)?).ok()
}

/// Parses the length of a value in bytes. Rejects lengths beyond memcached's 32 bits.
pub(super) fn value_len(word: &[u8]) -> Option<usize> {
    let len = signed(word)?;
    let len = i32::try_from(len).ok().filter(|len| *len <= i32::MAX - 2)?;
    usize::try_from(len).ok()
}

/// Returns the expiry that an exptime means. 0: never. Up to 30 days: from now. More: seconds since 1970.
/// Negative: already expired.
pub(super) fn expiry(exptime: i64) -> ExpiryPolicy {
    let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
    match exptime {
        0 => ExpiryPolicy::Clear,
        ..0 => ExpiryPolicy::Until(Deadline::At(0)),
        1..=RELATIVE_S_MAX => ExpiryPolicy::Until(Deadline::In(ms(exptime))),
        _ => ExpiryPolicy::Until(Deadline::At(ms(exptime))),
    }
}

/// Keys of a retrieval: the rest of its line, from which the iterator takes one key at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys(Bytes);

impl Keys {
    /// Creates the keys from the part of a line after the command.
    pub(super) fn new(line: Bytes) -> Self {
        Self(line)
    }

    /// Returns whether every word can be a key.
    pub(super) fn are_keys(&self) -> bool {
        self.0.split(|byte| *byte == b' ').all(is_key)
    }

    /// Returns all keys, without taking them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.0.split(|byte| *byte == b' ').filter(|key| !key.is_empty())
    }

    /// Returns the next key, without taking it.
    pub(super) fn first(&mut self) -> Option<&[u8]> {
        let blanks = self.0.iter().take_while(|byte| **byte == b' ').count();
        drop(self.0.split_to(blanks));
        self.0.split(|byte| *byte == b' ').next().filter(|key| !key.is_empty())
    }
}

impl Iterator for Keys {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let len = self.first()?.len();
        Some(self.0.split_to(len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_memcached_reads_them() {
        let max = u64::MAX.to_string();
        for (word, number) in [("0", 0), ("+7", 7), ("007", 7), ("7\t", 7), ("-0", 0), (&max[..], u64::MAX)] {
            assert_eq!(unsigned(word.as_bytes()), Some(number), "{word}");
        }
        for word in ["", "-", "+", "-1", "1a", "a", "1.5", "18446744073709551616"] {
            assert_eq!(unsigned(word.as_bytes()), None, "{word}");
        }
        assert_eq!((signed(b"-5"), signed(b"5"), signed(b"--5")), (Some(-5), Some(5), None));
        assert_eq!((value_len(b"-1"), value_len(b"2147483646"), value_len(b"3")), (None, None, Some(3)));
        assert_eq!((client_flags(b"4294967295"), client_flags(b"4294967296")), (Some(u32::MAX), None));
    }

    #[test]
    fn exptime_has_three_meanings() {
        assert_eq!(expiry(0), ExpiryPolicy::Clear);
        assert_eq!(expiry(10), ExpiryPolicy::Until(Deadline::In(10_000)));
        assert_eq!(expiry(RELATIVE_S_MAX), ExpiryPolicy::Until(Deadline::In(2_592_000_000)));
        assert_eq!(expiry(1_800_000_000), ExpiryPolicy::Until(Deadline::At(1_800_000_000_000)));
        assert_eq!(expiry(-1), ExpiryPolicy::Until(Deadline::At(0)));
        assert_eq!(expiry(i64::MAX), ExpiryPolicy::Until(Deadline::At(u64::MAX)));
    }

    #[test]
    fn keys_are_taken_one_by_one() {
        let mut keys = Keys::new(Bytes::from_static(b"  a bc   d "));
        assert_eq!(keys.first(), Some(&b"a"[..]));
        let all: Vec<_> = keys.collect();
        assert_eq!(all, [&b"a"[..], b"bc", b"d"]);
        assert!(!Keys::new(Bytes::from_static(b"a b\x01")).are_keys());
    }
}
