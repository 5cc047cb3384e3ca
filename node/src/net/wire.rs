//! The bytes between peers: control messages in bincode, and the frames of links.
//!
//! A frame, all numbers little-endian:
//! ```text
//! offset  0        4          5       6           8        16
//!         | len u32 | version u8 | kind u8 | zero u16 | id u64 | body: len bytes |
//! ```
//! The reader checks a header as soon as it is complete. It rejects an unknown version or kind, and a length
//! above the limit, before it waits for the body. Memory grows with the bytes received, not with the length
//! that a header announces.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use futures::{AsyncWrite, AsyncWriteExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of the frame layout; a node rejects frames of other versions.
pub const FRAME_VERSION: u8 = 1;
/// Length of a frame's header.
pub const HEADER_BYTES: usize = 16;
/// Longest body of a frame: the longest value (64 MiB), its key, and the other fields of the message.
pub const BODY_BYTES_MAX: usize = 65 * 1024 * 1024;

/// Reason why bytes of a peer were rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes do not encode the expected message, or the message exceeds its limit.
    #[error("cannot decode a message of a peer: {0}")]
    Malformed(String),
    /// Bytes after the end of a message.
    #[error("a message of a peer is followed by {0} bytes that do not belong to it")]
    Trailing(usize),
    /// A frame of another layout.
    #[error(
        "the peer sent a frame of version {0}, this node uses version {FRAME_VERSION}: upgrade the older of the two"
    )]
    Version(u8),
    /// A kind of frame that does not exist.
    #[error("the peer sent an unexpected kind of frame ({0})")]
    Kind(u8),
    /// A frame above the limit.
    #[error("the peer announced a frame of {found} bytes, the limit is {limit}")]
    TooLong {
        /// Length in the header.
        found: usize,
        /// Longest body accepted.
        limit: usize,
    },
}

/// Encodes a control message.
///
/// # Panics
/// When the type's own `Serialize` fails; no message of this program does.
#[expect(clippy::expect_used, reason = "derived Serialize into memory has no way to fail")]
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(message, bincode::config::standard()).expect("a plain message encodes")
}

/// Decodes a control message of at most `LIMIT` bytes in memory, which must fill `bytes` exactly.
///
/// # Errors
/// When the bytes are not such a message, have bytes after it, or would need more than `LIMIT` bytes.
pub fn decode<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<T, WireError> {
    let config = bincode::config::standard().with_limit::<LIMIT>();
    let (message, used) = bincode::serde::decode_from_slice(bytes, config)
        .map_err(|error| WireError::Malformed(error.to_string()))?;
    match bytes.len() - used {
        0 => Ok(message),
        left => Err(WireError::Trailing(left)),
    }
}

/// Purpose of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// First frame of the accepting side: it now reads this substream. Has no body.
    Ready = 1,
    /// A call; its id is the caller's.
    Call = 2,
    /// The answer to the call of that id.
    Answer = 3,
    /// The call of that id was dropped without an answer.
    Dropped = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Ready, Self::Call, Self::Answer, Self::Dropped].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// One received frame.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) id: u64,
    pub(super) body: Bytes,
}

/// Returns the header of a frame whose body has `len` bytes.
pub(super) fn header(kind: Kind, id: u64, len: u32) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..4].copy_from_slice(&len.to_le_bytes());
    bytes[4] = FRAME_VERSION;
    bytes[5] = kind as u8;
    bytes[8..].copy_from_slice(&id.to_le_bytes());
    bytes
}

/// A buffer with more capacity than this after a large frame is released.
const BUFFER_KEPT_BYTES: usize = 256 * 1024;
/// Bytes of frames collected for one write; bodies above `BODY_COPIED_BYTES_MAX` are written without a copy.
const WRITE_BYTES: usize = 64 * 1024;
const BODY_COPIED_BYTES_MAX: usize = 16 * 1024;

/// Writes frames: small frames are collected, large bodies are written without a copy. Frames may stay in the
/// buffer until [`FrameWriter::flush`].
pub(super) struct FrameWriter<W> {
    stream: W,
    buffer: Vec<u8>,
    /// Bytes written since the last [`FrameWriter::flush`].
    written: u64,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub(super) fn new(stream: W) -> Self {
        Self { stream, buffer: Vec::new(), written: 0 }
    }

    pub(super) async fn frame(&mut self, kind: Kind, id: u64, body: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(&header(kind, id, body.len() as u32));
        if body.len() > BODY_COPIED_BYTES_MAX {
            self.write_buffer().await?;
            self.stream.write_all(body).await?;
            self.written += body.len() as u64;
            return Ok(());
        }
        self.buffer.extend_from_slice(body);
        if self.buffer.len() >= WRITE_BYTES { self.write_buffer().await } else { Ok(()) }
    }

    /// Sends the collected frames, and returns the number of bytes written since the last flush.
    pub(super) async fn flush(&mut self) -> io::Result<u64> {
        self.write_buffer().await?;
        self.stream.flush().await?;
        Ok(std::mem::take(&mut self.written))
    }

    async fn write_buffer(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.buffer).await?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Splits a stream of bytes into frames. Bodies share the buffer they were received in.
pub(super) struct FrameReader {
    buffer: BytesMut,
    body_bytes_max: usize,
}

impl FrameReader {
    pub(super) fn new(body_bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), body_bytes_max }
    }

    /// Returns the bytes of memory for received bytes that are not part of a returned frame.
    #[cfg(any(test, feature = "internals"))]
    pub(super) fn held(&self) -> usize {
        self.buffer.capacity()
    }

    /// Appends received bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.buffer.is_empty() && self.buffer.capacity() > BUFFER_KEPT_BYTES {
            self.buffer = BytesMut::new();
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next complete frame, or `None` if more bytes are needed. After an error the stream is
    /// unusable.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, WireError> {
        let mut header = self.buffer.as_ref();
        if header.remaining() < HEADER_BYTES {
            return Ok(None);
        }
        let len = header.get_u32_le() as usize;
        let version = header.get_u8();
        let kind = header.get_u8();
        header.advance(2);
        let id = header.get_u64_le();
        if version != FRAME_VERSION {
            return Err(WireError::Version(version));
        }
        let kind = Kind::from_byte(kind).ok_or(WireError::Kind(kind))?;
        if len > self.body_bytes_max {
            return Err(WireError::TooLong { found: len, limit: self.body_bytes_max });
        }
        if self.buffer.len() < HEADER_BYTES + len {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        Ok(Some(Frame { kind, id, body: self.buffer.split_to(len).freeze() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: Kind, id: u64, body: &[u8]) -> Vec<u8> {
        [&header(kind, id, body.len() as u32)[..], body].concat()
    }

    #[test]
    fn frames_come_out_whole_however_they_are_cut() {
        let bytes = [frame(Kind::Call, 7, b"first"), frame(Kind::Answer, u64::MAX, b"")].concat();
        for step in 1..bytes.len() {
            let mut reader = FrameReader::new(5);
            let mut seen = Vec::new();
            for part in bytes.chunks(step) {
                reader.feed(part);
                while let Some(frame) = reader.next().unwrap() {
                    seen.push((frame.kind, frame.id, frame.body));
                }
            }
            let expected = [(Kind::Call, 7, Bytes::from("first")), (Kind::Answer, u64::MAX, Bytes::new())];
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn a_bad_header_is_refused_before_its_body_arrives() {
        let refuse = |bytes: &[u8]| {
            let mut reader = FrameReader::new(1024);
            reader.feed(bytes);
            reader.next().unwrap_err()
        };
        let too_long = header(Kind::Call, 1, u32::MAX);
        assert_eq!(refuse(&too_long), WireError::TooLong { found: u32::MAX as usize, limit: 1024 });
        let mut other = header(Kind::Call, 1, 0);
        other[4] = 9;
        assert_eq!(refuse(&other), WireError::Version(9));
        other[4] = FRAME_VERSION;
        other[5] = 0;
        assert_eq!(refuse(&other), WireError::Kind(0));
    }

    #[test]
    fn messages_are_decoded_exactly_and_within_their_limit() {
        let bytes = encode(&(7u32, "hello".to_owned()));
        assert_eq!(decode::<(u32, String), 64>(&bytes).unwrap(), (7, "hello".to_owned()));
        let longer = [&bytes[..], b"x"].concat();
        assert_eq!(decode::<(u32, String), 64>(&longer), Err(WireError::Trailing(1)));
        assert!(matches!(decode::<(u32, String), 4>(&bytes), Err(WireError::Malformed(_))));
        // A length of 2^63 must neither abort nor allocate.
        let hostile = [253, 255, 255, 255, 255, 255, 255, 255, 127];
        assert!(matches!(decode::<Vec<u8>, 1024>(&hostile), Err(WireError::Malformed(_))));
    }
}
