//! Encoding of replies in RESP2 or RESP3. Types that RESP2 lacks (map, set, null, verbatim string) are
//! encoded as Redis encodes them there.

/// RESP version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Resp2,
    Resp3,
}

impl Protocol {
    /// Returns the version number, as in HELLO.
    pub(super) fn number(self) -> i64 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// Appends replies to a buffer.
#[derive(Debug)]
pub(super) struct Encoder<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) protocol: Protocol,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>, protocol: Protocol) -> Self {
        Self { out, protocol }
    }

    fn header(&mut self, kind: u8, number: i64) {
        self.out.push(kind);
        self.out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    fn sized(&mut self, kind: u8, len: usize) {
        self.header(kind, len as i64);
    }

    /// Appends a status such as `+OK`.
    pub(super) fn status(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    pub(super) fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// Appends an error; `text` begins with its code.
    pub(super) fn error(&mut self, text: &[u8]) {
        self.line(b'-', text);
    }

    /// Appends a line. Replaces line ends in `text` with blanks, so that no text can break out of its line.
    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.push(kind);
        let flat = |&byte: &u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte };
        self.out.extend(text.iter().map(flat));
        self.out.extend_from_slice(b"\r\n");
    }

    pub(super) fn integer(&mut self, number: i64) {
        self.header(b':', number);
    }

    pub(super) fn bulk(&mut self, bytes: &[u8]) {
        self.sized(b'$', bytes.len());
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// Appends a text for people: a verbatim string in RESP3, a bulk string in RESP2.
    pub(super) fn text(&mut self, text: &str) {
        if self.protocol == Protocol::Resp2 {
            return self.bulk(text.as_bytes());
        }
        self.sized(b'=', text.len() + 4);
        self.out.extend_from_slice(b"txt:");
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    pub(super) fn null(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    pub(super) fn value_or_null(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => self.bulk(value),
            None => self.null(),
        }
    }

    /// Appends the null of an array, which differs from other nulls in RESP2.
    pub(super) fn null_array(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"*-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// Appends the header of an array of `len` elements.
    pub(super) fn array(&mut self, len: usize) {
        self.sized(b'*', len);
    }

    /// Appends the header of a map of `len` pairs.
    pub(super) fn map(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.sized(b'*', 2 * len),
            Protocol::Resp3 => self.sized(b'%', len),
        }
    }

    /// Appends the header of a set of `len` elements.
    pub(super) fn set(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.sized(b'*', len),
            Protocol::Resp3 => self.sized(b'~', len),
        }
    }

    /// Appends a key of a map, or another text, as a bulk string.
    pub(super) fn name(&mut self, text: &str) {
        self.bulk(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(protocol: Protocol, write: impl Fn(&mut Encoder<'_>)) -> String {
        let mut out = Vec::new();
        write(&mut Encoder::new(&mut out, protocol));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn types_of_resp3_have_a_form_in_resp2() {
        let write = |e: &mut Encoder<'_>| {
            e.map(1);
            e.name("k");
            e.null();
            e.set(0);
            e.text("hi");
            e.null_array();
        };
        assert_eq!(encoded(Protocol::Resp2, write), "*2\r\n$1\r\nk\r\n$-1\r\n*0\r\n$2\r\nhi\r\n*-1\r\n");
        assert_eq!(encoded(Protocol::Resp3, write), "%1\r\n$1\r\nk\r\n_\r\n~0\r\n=6\r\ntxt:hi\r\n_\r\n");
    }

    #[test]
    fn no_text_breaks_out_of_its_line() {
        assert_eq!(encoded(Protocol::Resp2, |e| e.error(b"ERR a\r\n+OK\r\n")), "-ERR a  +OK  \r\n");
    }
}
