//! Decimal integers as Redis reads them.

/// Reads an integer as Redis's `string2ll` does: only the one text an integer is printed as, so no `+`, no blanks,
/// no leading zeros, no `-0`.
pub(super) fn parse_i64(text: &[u8]) -> Option<i64> {
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

/// Reads a SCAN cursor: decimal digits that fit 64 bits.
pub(super) fn parse_u64(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_one_text_each() {
        for number in [0, 1, -1, 10, 4096, i64::MAX, i64::MIN] {
            assert_eq!(parse_i64(number.to_string().as_bytes()), Some(number));
        }
        for text in
            ["", "-", "+1", " 1", "1 ", "01", "-0", "1a", "9223372036854775808", "-9223372036854775809"]
        {
            assert_eq!(parse_i64(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn cursors_are_unsigned() {
        assert_eq!(parse_u64(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(parse_u64(b"-1").or(parse_u64(b"")).or(parse_u64(b"18446744073709551616")), None);
    }
}
