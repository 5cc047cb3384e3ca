//! Glob patterns as Redis matches them (`stringmatchlen`): `*`, `?`, `[a-z]`, `[^a]`, `\` before a special
//! byte.
//!
//! The cost is at most pattern length times text length, because only the last `*` is ever retried.

/// Returns whether `pattern` matches the whole of `text`.
pub(crate) fn matches(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    let (mut at, mut read) = (0, 0);
    // Position in the pattern after the last `*`, and position in the text up to which that `*` matches.
    let mut star: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(read) {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            star = Some((at, read));
        } else if let Some(next) = one(pattern, at, byte, ignore_case) {
            at = next;
            read += 1;
        } else if let Some((after, taken)) = star {
            star = Some((after, taken + 1));
            (at, read) = (after, taken + 1);
        } else {
            return false;
        }
    }
    pattern.get(at..).unwrap_or_default().iter().all(|&byte| byte == b'*')
}

/// Matches one byte against the pattern element at `at`. Returns where the next element begins, or `None` if
/// the byte does not match.
fn one(pattern: &[u8], at: usize, byte: u8, ignore_case: bool) -> Option<usize> {
    let same = |expected: u8| match ignore_case {
        true => expected.eq_ignore_ascii_case(&byte),
        false => expected == byte,
    };
    match *pattern.get(at)? {
        b'?' => Some(at + 1),
        b'[' => class(pattern, at + 1, byte, ignore_case),
        b'\\' => match pattern.get(at + 1) {
            Some(&escaped) => same(escaped).then_some(at + 2),
            None => same(b'\\').then_some(at + 1),
        },
        expected => same(expected).then_some(at + 1),
    }
}

/// Matches one byte against the class whose content begins at `at`, after the bracket. Returns where the next
/// element begins, or `None` if the byte does not match. An unclosed class ends with the pattern.
fn class(pattern: &[u8], mut at: usize, byte: u8, ignore_case: bool) -> Option<usize> {
    let fold = |byte: u8| {
        if ignore_case { byte.to_ascii_lowercase() } else { byte }
    };
    let negated = pattern.get(at) == Some(&b'^');
    at += usize::from(negated);
    let mut found = false;
    loop {
        match *pattern.get(at..).unwrap_or_default() {
            [] => break,
            [b'\\', escaped, ..] => {
                found |= fold(escaped) == fold(byte);
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [first, b'-', last, ..] => {
                let (first, last) = (fold(first).min(fold(last)), fold(first).max(fold(last)));
                found |= (first..=last).contains(&fold(byte));
                at += 3;
            }
            [member, ..] => {
                found |= fold(member) == fold(byte);
                at += 1;
            }
        }
    }
    (found != negated).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_redis() {
        let yes = [
            ("*", ""),
            ("*", "a"),
            ("h?llo", "hello"),
            ("h*llo", "heeeello"),
            ("h*llo", "hllo"),
            ("h[ae]llo", "hallo"),
            ("h[^e]llo", "hbllo"),
            ("h[a-b]llo", "hbllo"),
            ("h[b-a]llo", "hallo"),
            ("a\\*b", "a*b"),
            ("[\\]]", "]"),
            ("*a*b*c*", "xxaxxbxxcxx"),
            ("a\\", "a\\"),
            ("[abc", "b"),
            ("user:*:name", "user:1:name"),
        ];
        for (pattern, text) in yes {
            assert!(matches(pattern.as_bytes(), text.as_bytes(), false), "{pattern} {text}");
        }
        let no = [
            ("a", ""),
            ("", "a"),
            ("h?llo", "hllo"),
            ("h[^e]llo", "hello"),
            ("a*b", "acd"),
            ("A", "a"),
            ("[a", "b"),
        ];
        for (pattern, text) in no {
            assert!(!matches(pattern.as_bytes(), text.as_bytes(), false), "{pattern} {text}");
        }
        assert!(matches(b"MAX[A-M]emory", b"maxmemory", true));
    }

    #[test]
    fn a_hostile_pattern_costs_little() {
        let (pattern, text) = ("*a".repeat(1000) + "b", "a".repeat(20_000));
        assert!(!matches(pattern.as_bytes(), text.as_bytes(), false));
    }
}
