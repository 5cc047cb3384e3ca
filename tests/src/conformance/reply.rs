//! Replies of a server in RESP2 and RESP3. Every type of the protocol is distinct, so that equal replies are
//! equal bytes.

use std::io::BufRead;

use anyhow::{Context, Result, bail, ensure};

/// Maximum accepted length.
const LENGTH_MAX: usize = 512 << 20;
/// Maximum nesting of arrays.
const DEPTH_MAX: usize = 32;

/// One reply.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reply {
    /// `+`
    Status(Vec<u8>),
    /// `-`
    Error(Vec<u8>),
    /// `:`
    Integer(i64),
    /// `$`
    Bulk(Vec<u8>),
    /// `$-1`
    NullBulk,
    /// `*-1`
    NullArray,
    /// `_`
    Null,
    /// `*`, `~` or `>`, by this byte, and its elements; `%` with keys and values in turn.
    Many(u8, Vec<Reply>),
    /// `,` `#` `(` `=` or `!`, by this byte, and its text.
    Text(u8, Vec<u8>),
}

impl Reply {
    /// Returns whether the reply is null in any form.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::NullBulk | Self::NullArray | Self::Null)
    }

    /// Returns the text of an error.
    pub fn error(&self) -> Option<&[u8]> {
        match self {
            Self::Error(text) => Some(text),
            _ => None,
        }
    }

    /// Returns whether the reply is an error that begins with `begin`.
    pub fn is_error(&self, begin: &str) -> bool {
        self.error().is_some_and(|text| text.starts_with(begin.as_bytes()))
    }

    /// Returns the elements of an array, set or map.
    pub fn elements(&self) -> Option<&[Self]> {
        match self {
            Self::Many(_, elements) => Some(elements),
            _ => None,
        }
    }

    /// Returns the encoded size in bytes.
    pub fn bytes(&self) -> usize {
        const LINE_END: usize = 2;
        let line = |length: usize| 1 + length + LINE_END;
        let counted = |length: usize| line(length.to_string().len()) + length + LINE_END;
        match self {
            Self::Status(text) | Self::Error(text) => line(text.len()),
            Self::Text(b'=' | b'!', text) | Self::Bulk(text) => counted(text.len()),
            Self::Text(_, text) => line(text.len()),
            Self::Integer(number) => line(number.to_string().len()),
            Self::NullBulk | Self::NullArray => line("-1".len()),
            Self::Null => line(0),
            Self::Many(kind, elements) => {
                let count = elements.len() / if *kind == b'%' { 2 } else { 1 };
                line(count.to_string().len()) + elements.iter().map(Self::bytes).sum::<usize>()
            }
        }
    }

    /// Returns whether both replies have the same type.
    pub fn same_type(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Many(one, _), Self::Many(two, _)) | (Self::Text(one, _), Self::Text(two, _)) => one == two,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    /// Reads one reply.
    ///
    /// # Errors
    /// The connection ends, or the bytes are not RESP.
    pub fn read(from: &mut impl BufRead) -> Result<Self> {
        Self::read_within(from, 0)
    }

    fn read_within(from: &mut impl BufRead, depth: usize) -> Result<Self> {
        ensure!(depth <= DEPTH_MAX, "a reply of more than {DEPTH_MAX} levels");
        let line = line(from)?;
        let (&kind, text) = line.split_first().context("an empty line instead of a reply")?;
        Ok(match kind {
            b'+' => Self::Status(text.to_vec()),
            b'-' => Self::Error(text.to_vec()),
            b':' => Self::Integer(number(text)?),
            b'_' => Self::Null,
            b',' | b'#' | b'(' => Self::Text(kind, text.to_vec()),
            b'$' if text == b"-1" => Self::NullBulk,
            b'*' if text == b"-1" => Self::NullArray,
            b'$' => Self::Bulk(bytes(from, length(text)?)?),
            b'=' | b'!' => Self::Text(kind, bytes(from, length(text)?)?),
            b'*' | b'~' | b'>' | b'%' => {
                let count = length(text)? * if kind == b'%' { 2 } else { 1 };
                let elements: Result<_> = (0..count).map(|_| Self::read_within(from, depth + 1)).collect();
                Self::Many(kind, elements?)
            }
            _ => bail!("{:?} is not a reply", String::from_utf8_lossy(&line)),
        })
    }
}

/// Reads a line, without its end.
fn line(from: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line).context("reading a reply")?;
    ensure!(line.ends_with(b"\r\n"), "the connection was closed, or a line ends without CR LF: {line:?}");
    line.truncate(line.len() - 2);
    Ok(line)
}

fn number(text: &[u8]) -> Result<i64> {
    let shown = String::from_utf8_lossy(text);
    shown.parse().with_context(|| format!("{shown:?} instead of a number"))
}

fn length(text: &[u8]) -> Result<usize> {
    let length = usize::try_from(number(text)?).context("a negative length")?;
    ensure!(length <= LENGTH_MAX, "a length of {length}");
    Ok(length)
}

fn bytes(from: &mut impl BufRead, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length + 2];
    from.read_exact(&mut bytes).context("reading a reply")?;
    ensure!(bytes.ends_with(b"\r\n"), "{length} bytes are not followed by a line end");
    bytes.truncate(length);
    Ok(bytes)
}

/// Formats the type byte, then the value with escapes.
impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tell = |f: &mut std::fmt::Formatter<'_>, kind: u8, text: &[u8]| {
            write!(f, "{}\"{}\"", char::from(kind), text.escape_ascii())
        };
        match self {
            Self::Status(text) => tell(f, b'+', text),
            Self::Error(text) => tell(f, b'-', text),
            Self::Integer(number) => write!(f, ":{number}"),
            Self::Bulk(text) => tell(f, b'$', text),
            Self::NullBulk => f.write_str("$-1"),
            Self::NullArray => f.write_str("*-1"),
            Self::Null => f.write_str("_"),
            Self::Text(kind, text) => tell(f, *kind, text),
            Self::Many(kind, elements) => {
                write!(f, "{}", char::from(*kind))?;
                f.debug_list().entries(elements).finish()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_distinct() {
        let bytes = b"*9\r\n+OK\r\n-ERR x\r\n:-5\r\n$2\r\na\n\r\n$-1\r\n*-1\r\n_\r\n%1\r\n$1\r\nk\r\n#t\r\n=6\r\ntxt:hi\r\n";
        let read = Reply::read(&mut &bytes[..]).unwrap();
        let shown = r#"*[+"OK", -"ERR x", :-5, $"a\n", $-1, *-1, _, %[$"k", #"t"], ="txt:hi"]"#;
        assert_eq!(format!("{read:?}"), shown);
        assert_eq!(read.bytes(), bytes.len());
    }

    #[test]
    fn truncated_reply_is_an_error() {
        for cut in [&b"$5\r\nab"[..], b"*2\r\n:1\r\n", b"+OK", b"", b"?\r\n"] {
            assert!(Reply::read(&mut &cut[..]).is_err());
        }
    }
}
