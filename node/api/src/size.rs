//! Sizes in bytes as text: `64`, `1K`, `4M`, `2G`, in powers of 1024.

const SUFFIXES: [(&str, u64); 3] = [("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];

/// Parses a number of bytes: `64`, `1K`, `4M`, `2G` (powers of 1024), with or without a final `B` or `iB`.
/// Returns `None` for any other text and for 2^64 bytes and more.
pub fn read_size(text: &str) -> Option<u64> {
    let upper = text.trim().to_ascii_uppercase();
    let bare = upper.strip_suffix("IB").or_else(|| upper.strip_suffix('B')).unwrap_or(&upper);
    let (digits, unit) = SUFFIXES
        .iter()
        .find_map(|(suffix, unit)| bare.strip_suffix(suffix).map(|digits| (digits, *unit)))
        .unwrap_or((bare, 1));
    digits.trim().parse::<u64>().ok()?.checked_mul(unit)
}

/// Returns the shortest exact form of a size.
pub fn show_size(bytes: u64) -> String {
    SUFFIXES
        .iter()
        .find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(|| bytes.to_string(), |(suffix, unit)| format!("{}{suffix}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_parsed_as_it_was_shown() {
        for bytes in [0, 1, 1023, 1024, 1025, 4 << 20, 3 << 30, u64::MAX] {
            assert_eq!(read_size(&show_size(bytes)), Some(bytes));
        }
        assert_eq!((show_size(2 << 30), show_size(1536)), ("2G".to_owned(), "1536".to_owned()));
    }

    #[test]
    fn units_are_powers_of_1024_in_either_case() {
        for text in ["2048", "2K", "2k", "2KB", "2KiB", " 2 kib "] {
            assert_eq!(read_size(text), Some(2048), "{text:?}");
        }
        for text in ["", "K", "-1", "1.5M", "1T", "1KK", "20000000000G"] {
            assert_eq!(read_size(text), None, "{text:?}");
        }
    }
}
