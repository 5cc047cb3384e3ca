//! The fuzz target `memcached`: see [`crate::fuzz`].

use bytes::BytesMut;

use super::parser::Parser;
use super::request::Request;
use crate::fuzz::pieces;

const VALUE_BYTES_MAX: usize = 1000;
/// Maximum unparsed bytes: the longest line is one of many keys.
const WAITING_BYTES_MAX: usize = 1 << 20;

fn read<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Vec<Request> {
    let (mut parser, mut input) = (Parser::new(VALUE_BYTES_MAX), BytesMut::new());
    let mut requests = Vec::new();
    for part in parts {
        input.extend_from_slice(part);
        while let Some(request) = parser.next(&mut input, 1000) {
            let last = request.is_last();
            requests.push(request);
            if last {
                return requests;
            }
        }
        assert!(input.len() <= WAITING_BYTES_MAX && parser.wanted(&input) <= input.len());
    }
    requests
}

/// Checks that the requests do not depend on how the input is cut into pieces.
pub(crate) fn run(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else { return };
    assert_eq!(read(pieces(*cut, bytes)), read(std::iter::once(bytes)), "in pieces");
}

/// Returns the initial inputs.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let inputs: [&[u8]; 5] = [
        b"\x03set k 1 0 5\r\nvalue\r\nget k\r\ngets a b c\r\n",
        b"\x01cas k 0 60 1 7 noreply\r\nx\r\nincr n 5\r\ntouch k 10\r\ngat 5 k\r\n",
        b"\x04ms k 2 T60 F3 q c\r\nhi\r\nmg k v f c t N30\r\nma n D2 MD\r\nmd k q\r\nmn\r\n",
        b"\x02set k 0 0 1001\r\nx",
        b"\x09flush_all 5 noreply\r\nstats items\r\nverbosity 1\r\nversion\r\nquit\r\n",
    ];
    inputs.map(<[u8]>::to_vec).to_vec()
}
