//! Integers as text, as Redis and as memcached read them.

/// Parses a decimal integer as Redis's `string2ll` does: only in its canonical form, so without `+`, blanks,
/// leading zeros or `-0`. Returns `None` for other texts.
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    // Accumulated as a negative number, because -2^63 has no positive counterpart.
    let mut sum: i64 = 0;
    for byte in digits {
        if !byte.is_ascii_digit() {
            return None;
        }
        sum = sum.checked_mul(10)?.checked_sub(i64::from(byte - b'0'))?;
    }
    if negative { Some(sum) } else { sum.checked_neg() }
}

/// Parses a number as memcached's `safe_strtoull` does: it may have blanks before it, and after it a blank
/// followed by any bytes. Returns `None` for other texts.
pub(super) fn parse_count(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii_start();
    let text = text.strip_prefix(b"+").unwrap_or(text);
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = text.split_at_checked(digits)?;
    if rest.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
        return None;
    }
    std::str::from_utf8(number).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_may_have_blanks_about_it() {
        assert_eq!(parse_count(b"10"), Some(10));
        assert_eq!(parse_count(b" +9 "), Some(9));
        assert_eq!(parse_count(b"18446744073709551615"), Some(u64::MAX));
        for wrong in [&b"18446744073709551616"[..], b"", b"-1", b"1a", b"a1", b"+", b"1.0"] {
            assert_eq!(parse_count(wrong), None, "{}", wrong.escape_ascii());
        }
    }
}
