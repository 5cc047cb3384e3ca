//! Unsigned decimal integers. [`parse_integer`](crate::kv::parse_integer) parses signed ones.

/// Parses a SCAN cursor: decimal digits that fit 64 bits.
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
    fn cursors_are_unsigned() {
        assert_eq!(parse_u64(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(parse_u64(b"-1").or(parse_u64(b"")).or(parse_u64(b"18446744073709551616")), None);
    }
}
