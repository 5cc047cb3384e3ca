//! Body of the fuzz target `frames`: see [`crate::fuzz`].

use super::wire::{FrameReader, HEADER_BYTES, Kind, header};
use crate::fuzz::pieces;

const BODY_BYTES_MAX: usize = 2000;

/// Returns the frames of the input, encoded again, and the error that ended the input.
fn read<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Option<String>) {
    let mut reader = FrameReader::new(BODY_BYTES_MAX);
    let (mut again, mut fed) = (Vec::new(), 0);
    for part in parts {
        reader.feed(part);
        fed += part.len();
        loop {
            match reader.next() {
                Ok(Some(frame)) => {
                    assert!(frame.body.len() <= BODY_BYTES_MAX);
                    again.extend_from_slice(&header(frame.kind, frame.id, frame.body.len() as u32));
                    again.extend_from_slice(&frame.body);
                }
                Ok(None) => break,
                Err(error) => return (again, Some(error.to_string())),
            }
        }
        // Memory grows with the bytes received, not with the length that a header announces.
        assert!(reader.held() <= 2 * fed + 64, "{} bytes held of {fed}", reader.held());
    }
    (again, None)
}

/// Checks that the frames do not depend on how the input is cut, and that they encode to the same bytes.
pub(crate) fn run(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else { return };
    let (frames, error) = read(std::iter::once(bytes));
    assert_eq!(read(pieces(*cut, bytes)), (frames.clone(), error), "in pieces");
    let (mut left, mut right) = (&frames[..], bytes);
    // The two zero bytes of a header are an exception: the reader ignores them.
    while let (Some(ours), Some(theirs)) = (left.first_chunk::<HEADER_BYTES>(), right.first_chunk()) {
        let len = HEADER_BYTES + u32::from_le_bytes([ours[0], ours[1], ours[2], ours[3]]) as usize;
        let mut theirs: [u8; HEADER_BYTES] = *theirs;
        theirs[6..8].fill(0);
        assert_eq!(*ours, theirs);
        assert_eq!(left.get(HEADER_BYTES..len), right.get(HEADER_BYTES..len));
        (left, right) = (left.get(len..).unwrap_or_default(), right.get(len..).unwrap_or_default());
    }
}

/// Returns the initial inputs.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let frame = |kind, id, body: &[u8]| [&header(kind, id, body.len() as u32)[..], body].concat();
    let good = [
        vec![5],
        frame(Kind::Ready, 0, b""),
        frame(Kind::Call, 7, b"a call"),
        frame(Kind::Answer, u64::MAX, &[9; 300]),
        frame(Kind::Dropped, 8, b""),
    ];
    vec![good.concat(), [&[1], &header(Kind::Call, 1, u32::MAX)[..]].concat()]
}
