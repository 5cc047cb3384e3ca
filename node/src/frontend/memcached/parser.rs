//! Parser of client bytes into requests.
//!
//! Invariants: the parser remembers its position, so it looks at no byte twice, however the input is split.
//! It keeps at most one line, or one value up to the limit. Rejects lines over their limit and memcached's
//! binary protocol.

use bytes::{Buf as _, BytesMut};

use super::request::{Foreign, Line, Request, Store, refuse, refuse_unless};
use super::text;

/// Longest line, in bytes, except lines that name many keys.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// Longest line that names many keys, in bytes.
const KEYS_LINE_BYTES_MAX: usize = 1024 * 1024;
/// Commands that may name many keys.
const MANY_KEYS: [&[u8]; 4] = [b"get ", b"gets ", b"gat ", b"gats "];
const BAD_CHUNK: &str = "CLIENT_ERROR bad data chunk";
const LONG_LINE: &str = "CLIENT_ERROR line too long";
/// Longest value of a client that has not logged in, in bytes.
const STRANGER_VALUE_BYTES_MAX: usize = 16 * 1024;
/// The first byte of every request of memcached's binary protocol; no command begins with it.
const BINARY_MAGIC: u8 = 0x80;
/// End of a value.
const END: &[u8] = b"\r\n";

/// State of the parser.
#[derive(Debug)]
enum State {
    /// Reads a line. Its first bytes, as many as this, contain no line end.
    Line(usize),
    /// Reads the value of a command: its length in bytes, including its end.
    Value(usize, Box<Store>),
    /// Drops a value: the bytes that remain to be dropped.
    Swallow(usize),
}

/// Cuts input into requests.
#[derive(Debug)]
pub(super) struct Parser {
    state: State,
    value_bytes_max: usize,
    /// Whether the client has logged in or does not need to.
    trusted: bool,
}

impl Parser {
    pub(super) fn new(value_bytes_max: usize) -> Self {
        Self { state: State::Line(0), value_bytes_max, trusted: true }
    }

    /// Sets whether the client has logged in or does not need to. Until then values have a smaller limit,
    /// because they hold only a user and a password.
    pub(super) fn trust(&mut self, trusted: bool) {
        self.trusted = trusted;
    }

    /// Returns the next request; `None` until all of its bytes have arrived. After [`Request::Close`] or
    /// [`Request::Foreign`] the caller must not call it again.
    pub(super) fn next(&mut self, input: &mut BytesMut, now_ms: u64) -> Option<Request> {
        loop {
            match std::mem::replace(&mut self.state, State::Line(0)) {
                State::Swallow(left) => {
                    let here = left.min(input.len());
                    input.advance(here);
                    if here < left {
                        self.state = State::Swallow(left - here);
                        return None;
                    }
                }
                State::Value(len, store) => {
                    if input.len() < len {
                        self.state = State::Value(len, store);
                        return None;
                    }
                    return Some(value(input.split_to(len), *store));
                }
                State::Line(seen) => match self.line(input, seen, now_ms)? {
                    Line::Whole(request) => return Some(request),
                    Line::Value(len, store) => self.state = State::Value(len + END.len(), Box::new(store)),
                    Line::Swallow(len, request) => {
                        self.state = State::Swallow(len + END.len());
                        return Some(request);
                    }
                },
            }
        }
    }

    fn line(&mut self, input: &mut BytesMut, seen: usize, now_ms: u64) -> Option<Line> {
        if input.first() == Some(&BINARY_MAGIC) {
            input.clear();
            return Some(Line::Whole(Request::Foreign(Foreign::Binary)));
        }
        let found = memchr::memchr(b'\n', input.get(seen..).unwrap_or_default()).map(|at| seen + at);
        let len = found.unwrap_or(input.len());
        if len > LINE_BYTES_MAX && len > line_bytes_max(input) {
            input.clear();
            return Some(Line::Whole(Request::Close(LONG_LINE.into())));
        }
        let Some(end) = found else {
            self.state = State::Line(input.len());
            return None;
        };
        let mut line = input.split_to(end).freeze();
        input.advance(1);
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        let bytes_max = if self.trusted { usize::MAX } else { STRANGER_VALUE_BYTES_MAX };
        Some(text::read(&line, now_ms, self.value_bytes_max.min(bytes_max)))
    }

    /// Returns how many more bytes the caller should reserve: at most as many as have arrived, because memory
    /// must follow the bytes sent, not the length announced.
    pub(super) fn wanted(&self, input: &BytesMut) -> usize {
        match &self.state {
            State::Value(len, _) => len.saturating_sub(input.len()).min(input.len()),
            State::Line(_) | State::Swallow(_) => 0,
        }
    }
}

fn line_bytes_max(input: &[u8]) -> usize {
    let begin = input.trim_ascii_start();
    if MANY_KEYS.iter().any(|name| begin.starts_with(name)) { KEYS_LINE_BYTES_MAX } else { LINE_BYTES_MAX }
}

fn value(bytes: BytesMut, store: Store) -> Request {
    let mut value = bytes.freeze();
    if !value.ends_with(END) {
        return if store.noreply() { refuse_unless(true, BAD_CHUNK) } else { refuse(BAD_CHUNK) };
    }
    value.truncate(value.len() - END.len());
    store.with(value)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    const VALUE_BYTES_MAX: usize = 100;

    fn all(pieces: &[&[u8]]) -> Vec<Request> {
        let (mut parser, mut input) = (Parser::new(VALUE_BYTES_MAX), BytesMut::new());
        let mut requests = Vec::new();
        for piece in pieces {
            input.extend_from_slice(piece);
            while let Some(request) = parser.next(&mut input, 1000) {
                let last = request.is_last();
                requests.push(request);
                if last {
                    return requests;
                }
            }
            let bound = KEYS_LINE_BYTES_MAX.max(VALUE_BYTES_MAX + END.len());
            assert!(input.len() <= bound && parser.wanted(&input) <= input.len());
        }
        requests
    }

    fn said(text: &'static str) -> Request {
        refuse(text)
    }

    #[test]
    fn value_is_as_long_as_its_line_says() {
        let requests = all(&[b"set k 0 0 3\r\na\r\n\r\nset k 0 0 1\r\nabc\nset k 0 0 0\r\n\r\nmn\n"]);
        assert!(matches!(&requests[0], Request::One(operation, _) if operation.key == "k"));
        // The value does not end where its line says: those bytes are dropped, and the rest is read as a
        // command.
        assert_eq!(requests[1], said(BAD_CHUNK));
        assert_eq!(requests[2], said(text::ERROR));
        assert!(matches!(&requests[3], Request::One(..)));
        assert_eq!(requests[4], Request::Say(Bytes::from_static(b"MN")));
    }

    #[test]
    fn value_that_is_too_large_is_dropped() {
        let text = format!("set k 0 0 101\r\n{}\r\nmn\r\nset k 0 0 9999 noreply\r\nmn\r\n", "x".repeat(101));
        let requests = all(&[text.as_bytes()]);
        assert_eq!(requests[0], said("SERVER_ERROR object too large for cache"));
        assert_eq!(requests[1], Request::Say(Bytes::from_static(b"MN")));
        assert_eq!(requests[2..], [said("")]);
    }

    #[test]
    fn line_without_end_ends_the_connection() {
        let long = "x".repeat(LINE_BYTES_MAX + 1);
        assert_eq!(all(&[long.as_bytes()]), [Request::Close(LONG_LINE.into())]);
        let many = format!("get {}\r\n", "key ".repeat(10_000));
        assert!(matches!(all(&[many.as_bytes()])[..], [Request::Fetch(_)]));
        let too_many = format!("get {}", "key ".repeat(KEYS_LINE_BYTES_MAX / 4));
        assert_eq!(all(&[too_many.as_bytes()]), [Request::Close(LONG_LINE.into())]);
    }

    #[test]
    fn other_protocols_end_the_connection() {
        let http = Request::Foreign(Foreign::Http);
        for line in ["GET / HTTP/1.1", "PUT /a HTTP/1.0", "post x", "HOST: node", "POST"] {
            let text = format!("mn\r\n{line}\r\nset k 0 0 1\r\nx\r\n");
            assert_eq!(
                all(&[text.as_bytes()]),
                [Request::Say(Bytes::from_static(b"MN")), http.clone()],
                "{line}"
            );
        }
        assert!(matches!(all(&[b"get post host: HTTP/1.1\r\n"])[..], [Request::Fetch(_)]));
        assert_eq!(
            all(&[b"\x80\x0b"]),
            [Request::Foreign(Foreign::Binary)],
            "before a line or a header is complete"
        );
        assert!(
            matches!(all(&[b"set k 0 0 2\r\n\x80\x80\r\n"])[..], [Request::One(..)]),
            "a value may contain the byte"
        );
    }

    /// Generates lines that are nearly commands, values that are nearly as long as announced, and noise.
    fn input() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            "(get|gets|gat|set|add|cas|append|incr|touch|delete|ms|mg|md|ma|me|mn|stats|flush_all|noreply)",
            "-?[0-9]{1,3}",
            "[a-zA-Z][0-9a-z=+/]{0,4}",
            "[ -~]{0,5}",
        ];
        let line = proptest::collection::vec(word, 0..7).prop_map(|words| words.join(" ").into_bytes());
        let noise = proptest::collection::vec(any::<u8>(), 0..30);
        let end = prop_oneof![Just("\r\n"), Just("\n"), Just("")];
        let set = (0..120_usize, 0..120_usize).prop_map(|(says, is)| {
            let is = if says % 3 == 0 { is } else { says };
            [format!("set k 1 0 {says}\r\n").into_bytes(), vec![b'v'; is]].concat()
        });
        let part = (prop_oneof![4 => line, 1 => noise, 2 => set], end)
            .prop_map(|(line, end)| [&line[..], end.as_bytes()].concat());
        proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(bytes in input(), size in 1..40_usize) {
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            prop_assert_eq!(all(&pieces), all(&[&bytes]));
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            drop(all(&[&bytes]));
        }
    }
}
