//! Splitting of inline commands into arguments: blanks separate them, quotes group, backslashes escape
//! (Redis's `sdssplitargs`).
//!
//! A resolved argument is never longer than its text, so escapes are resolved in place.

use super::parser::Span;

/// Splits `line`, which begins at `offset` of the read buffer, and appends its arguments to `spans`. Returns
/// whether every quote is closed and followed by a blank or the end.
pub(super) fn split(line: &mut [u8], offset: usize, spans: &mut Vec<Span>) -> bool {
    let mut cursor = Cursor { line, read: 0, write: 0 };
    loop {
        while cursor.peek().is_some_and(is_blank) {
            cursor.read += 1;
        }
        if cursor.peek().is_none_or(|byte| byte == 0) {
            return true;
        }
        cursor.write = cursor.read;
        let start = cursor.read;
        if cursor.argument().is_none() {
            return false;
        }
        spans.push(Span::new(offset + start, offset + cursor.write));
    }
}

/// Returns whether a byte is a blank, as C's `isspace` does.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

struct Cursor<'a> {
    line: &'a mut [u8],
    read: usize,
    write: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.line.get(self.read).copied()
    }

    fn take(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.read += 1;
        Some(byte)
    }

    fn put(&mut self, byte: u8) {
        // `write` never overtakes `read`.
        if let Some(place) = self.line.get_mut(self.write) {
            *place = byte;
        }
        self.write += 1;
    }

    /// Reads one argument. `None` if a quote is not closed, or if the argument continues after a closed
    /// quote.
    fn argument(&mut self) -> Option<()> {
        loop {
            match self.peek() {
                None | Some(0) => return Some(()),
                Some(byte) if is_blank(byte) => return Some(()),
                Some(quote @ (b'"' | b'\'')) => {
                    self.read += 1;
                    self.quoted(quote)?;
                    return match self.peek() {
                        None | Some(0) => Some(()),
                        Some(byte) if is_blank(byte) => Some(()),
                        Some(_) => None,
                    };
                }
                Some(byte) => {
                    self.read += 1;
                    self.put(byte);
                }
            }
        }
    }

    fn quoted(&mut self, quote: u8) -> Option<()> {
        loop {
            match self.take()? {
                0 => return None,
                byte if byte == quote => return Some(()),
                b'\\' if quote == b'"' => {
                    let byte = self.escape()?;
                    self.put(byte);
                }
                b'\\' if self.peek() == Some(b'\'') => {
                    self.read += 1;
                    self.put(b'\'');
                }
                byte => self.put(byte),
            }
        }
    }

    fn escape(&mut self) -> Option<u8> {
        if let Some(&[b'x', high, low]) = self.line.get(self.read..self.read + 3)
            && let (Some(high), Some(low)) = (hex(high), hex(low))
        {
            self.read += 3;
            return Some(high << 4 | low);
        }
        Some(match self.take()? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 0x08,
            b'a' => 0x07,
            byte => byte,
        })
    }
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Option<Vec<String>> {
        let (mut line, mut spans) = (line.as_bytes().to_vec(), Vec::new());
        let whole = split(&mut line, 0, &mut spans);
        let text =
            |span: &Span| String::from_utf8_lossy(&line[span.start as usize..span.end as usize]).into();
        whole.then(|| spans.iter().map(text).collect())
    }

    #[test]
    fn blanks_separate_and_quotes_join() {
        assert_eq!(args("  set a  b \r").unwrap(), ["set", "a", "b"]);
        assert_eq!(args(r#"set "a b" 'c "d'"#).unwrap(), ["set", "a b", "c \"d"]);
        assert_eq!(args("set a \"\"").unwrap(), ["set", "a", ""]);
        assert!(args("").unwrap().is_empty());
    }

    #[test]
    fn escapes_are_those_of_redis() {
        assert_eq!(args(r#"echo "\x41\n\t\\\"\q""#).unwrap(), ["echo", "A\n\t\\\"q"]);
        assert_eq!(args(r#"echo "\xZZ" 'it\'s' '\n'"#).unwrap(), ["echo", "xZZ", "it's", "\\n"]);
        assert_eq!(args(r#"a"b" c"#).unwrap(), ["ab", "c"]);
    }

    #[test]
    fn unbalanced_quotes_are_rejected() {
        for line in ["set \"a", "set 'a", "set \"a\"b", "set 'a'b", "set \"a\\"] {
            assert_eq!(args(line), None, "{line}");
        }
    }
}
