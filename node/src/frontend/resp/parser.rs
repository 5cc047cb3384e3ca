//! Parser of client bytes into commands: arrays of bulk strings and inline commands, as Redis 7.2 parses
//! them.
//!
//! Invariants: the parser copies no arguments; a command is a list of [`Span`]s of the read buffer. The parser
//! remembers its position, so it looks at no byte twice, however the input is split.
//!
//! Rejects, with Redis's texts, lengths that are not numbers or exceed their limit, and lines without an end.

use bytes::{Bytes, BytesMut};

use super::inline;
use crate::frontend::limits::ClientLimits;
use crate::kv::parse_integer;

/// Longest line, inline command or length, in bytes (Redis's `PROTO_INLINE_MAX_SIZE`).
pub(super) const LINE_BYTES_MAX: usize = 64 * 1024;
/// Maximum commands of one batch.
const BATCH_COMMANDS_MAX: usize = 1024;
/// Capacity to which lists of spans shrink between batches.
const SPANS_KEPT_MAX: usize = 16 * 1024;

/// Maximum arguments of one command (Redis's limit).
const ARGS_MAX: usize = 1024 * 1024;
/// Maximum arguments of a command from a client that has not logged in (Redis's limit).
const STRANGER_ARGS_MAX: usize = 10;
/// Longest argument of a client that has not logged in, in bytes (Redis's limit).
const STRANGER_BULK_BYTES_MAX: usize = 16 * 1024;

/// Limits of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Longest argument, bytes.
    pub(super) bulk_bytes_max: usize,
    /// Maximum arguments of one command.
    pub(super) args_max: usize,
    /// Longest command, bytes.
    pub(super) request_bytes_max: usize,
}

impl Bounds {
    /// Creates the limits of a request from those of the front ends.
    pub(super) fn of(limits: &ClientLimits) -> Self {
        Self {
            bulk_bytes_max: limits.value_bytes_max,
            args_max: ARGS_MAX,
            request_bytes_max: limits.message_bytes_max(),
        }
    }
}

/// A part of the read buffer. Requests are shorter than 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    /// Creates a span. Requests are limited to far below 4 GiB, so offsets fit 32 bits.
    pub(super) fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }
}

/// Input that is not RESP. The connection sends this error and closes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Protocol error: {0}")]
pub(super) struct ProtocolError(pub(super) String);

impl ProtocolError {
    fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Complete commands, and the bytes of their arguments.
#[derive(Debug, Default)]
pub(super) struct Batch {
    block: Bytes,
    spans: Vec<Span>,
    /// End of each command's spans in `spans`.
    ends: Vec<u32>,
    next: usize,
}

impl Batch {
    /// Returns the next command.
    pub(super) fn current(&self) -> Option<Args<'_>> {
        let end = *self.ends.get(self.next)? as usize;
        let start = match self.next.checked_sub(1) {
            Some(before) => *self.ends.get(before)? as usize,
            None => 0,
        };
        let spans = self.spans.get(start..end)?;
        Some(Args { block: &self.block, spans })
    }

    /// Advances to the next command.
    pub(super) fn advance(&mut self) {
        self.next += 1;
        if self.is_done() {
            // The read buffer is reusable only once nothing refers to it.
            self.clear();
        }
    }

    /// Returns whether all commands were taken.
    pub(super) fn is_done(&self) -> bool {
        self.next >= self.ends.len()
    }

    /// Returns the bytes of the batch in memory.
    pub(super) fn bytes(&self) -> usize {
        self.block.len() + self.spans.capacity() * size_of::<Span>() + self.ends.capacity() * size_of::<u32>()
    }

    /// Frees unused memory.
    pub(super) fn give_back(&mut self) {
        self.spans.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    fn clear(&mut self) {
        self.block = Bytes::new();
        self.spans.clear();
        self.spans.shrink_to(SPANS_KEPT_MAX);
        self.ends.clear();
        self.next = 0;
    }
}

/// A command: its name and arguments. Never empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Args<'a> {
    block: &'a Bytes,
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// Returns the number of arguments, including the name.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Returns argument `index`; empty if it does not exist.
    pub(super) fn get(&self, index: usize) -> &'a [u8] {
        self.spans
            .get(index)
            .and_then(|span| self.block.get(span.start as usize..span.end as usize))
            .unwrap_or_default()
    }

    /// Returns argument `index`, which shares the read buffer; empty if it does not exist.
    pub(super) fn bytes(&self, index: usize) -> Bytes {
        match self.spans.get(index) {
            Some(span) if span.start < span.end && span.end as usize <= self.block.len() => {
                self.block.slice(span.start as usize..span.end as usize)
            }
            _ => Bytes::new(),
        }
    }

    /// Returns the bytes of all arguments together.
    pub(super) fn bytes_all(&self) -> usize {
        self.spans.iter().map(|span| (span.end - span.start) as usize).sum()
    }

    /// Returns the command that begins at argument `index`.
    pub(super) fn skip(self, index: usize) -> Self {
        Self { block: self.block, spans: self.spans.get(index..).unwrap_or_default() }
    }

    /// Returns the arguments from `index` on.
    pub(super) fn from(self, index: usize) -> impl Iterator<Item = &'a [u8]> {
        (index..self.len()).map(move |index| self.get(index))
    }
}

impl Args<'_> {
    /// Returns a copy that does not share the read buffer.
    pub(super) fn to_owned(self) -> OwnedArgs {
        let mut block = BytesMut::new();
        let spans = self.from(0).map(|arg| {
            let start = block.len();
            block.extend_from_slice(arg);
            Span::new(start, block.len())
        });
        let spans = spans.collect();
        OwnedArgs { block: block.freeze(), spans }
    }
}

/// A command with its own buffer, queued in a transaction.
#[derive(Clone, Debug)]
pub(super) struct OwnedArgs {
    block: Bytes,
    spans: Vec<Span>,
}

impl OwnedArgs {
    pub(super) fn as_args(&self) -> Args<'_> {
        Args { block: &self.block, spans: &self.spans }
    }

    /// Returns the approximate bytes of the command in memory.
    pub(super) fn bytes(&self) -> usize {
        self.block.len() + size_of_val(self.spans.as_slice())
    }
}

/// Result of one parsing step.
enum Step<T> {
    Done(T),
    /// The buffer ends too early.
    Incomplete,
}

/// Position of the parser within a command.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Before the first byte of a command.
    Start,
    /// Before the length of an argument, with `left` arguments to come.
    Length { left: usize },
    /// Within an argument of `len` bytes, with `left` arguments to come, including this one.
    Bulk { left: usize, len: usize },
}

/// Parser of commands from a growing buffer.
#[derive(Debug)]
pub(super) struct Parser {
    bounds: Bounds,
    /// Whether the client has logged in or does not need to.
    trusted: bool,
    stage: Stage,
    /// Offset of the next unread byte.
    at: usize,
    /// Offset of the end of the last complete command.
    complete: usize,
    /// Offset up to which an unfinished line was searched for its end.
    searched: usize,
    spans: Vec<Span>,
    ends: Vec<u32>,
    /// The error that ended the input.
    refused: Option<ProtocolError>,
}

impl Parser {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            trusted: true,
            stage: Stage::Start,
            at: 0,
            complete: 0,
            searched: 0,
            spans: Vec::new(),
            ends: Vec::new(),
            refused: None,
        }
    }

    /// Sets whether the client has logged in or does not need to. Until then the parser returns one command
    /// at a time, because each may be the log-in, and applies Redis's smaller limits.
    pub(super) fn trust(&mut self, trusted: bool) {
        self.trusted = trusted;
    }

    /// Returns the bytes of the parser in memory, without the input.
    pub(super) fn bytes(&self) -> usize {
        self.spans.capacity() * size_of::<Span>() + self.ends.capacity() * size_of::<u32>()
    }

    /// Frees unused memory.
    pub(super) fn give_back(&mut self) {
        self.spans.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// Moves all complete commands from `buffer` to `batch`, which must be done.
    ///
    /// # Errors The input is not RESP. The commands before the error are in `batch`, and every later call
    /// returns the same error.
    pub(super) fn parse(&mut self, buffer: &mut BytesMut, batch: &mut Batch) -> Result<(), ProtocolError> {
        // Rejected input must not be parsed again: `inline::split` may have changed the line in place.
        let result = self.refused.clone().map_or_else(|| self.advance(buffer), Err);
        self.refused = result.clone().err();
        if !self.ends.is_empty() {
            self.hand_over(buffer, batch);
        }
        result
    }

    /// Returns how many more bytes the current argument needs.
    pub(super) fn wanted(&self, buffer: &BytesMut) -> usize {
        match self.stage {
            Stage::Bulk { len, .. } => (self.at + len + 2).saturating_sub(buffer.len()),
            Stage::Start | Stage::Length { .. } => 0,
        }
    }

    fn advance(&mut self, buffer: &mut BytesMut) -> Result<(), ProtocolError> {
        let commands_max = if self.trusted { BATCH_COMMANDS_MAX } else { 1 };
        while self.ends.len() < commands_max {
            let step = match self.stage {
                Stage::Start => self.start(buffer)?,
                Stage::Length { left } => self.length(buffer, left)?,
                Stage::Bulk { left, len } => self.bulk(buffer, left, len),
            };
            if matches!(step, Step::Incomplete) {
                break;
            }
        }
        if buffer.len() - self.complete > self.bounds.request_bytes_max && self.ends.is_empty() {
            let text = format!("request is longer than {} bytes", self.bounds.request_bytes_max);
            return Err(ProtocolError(text));
        }
        Ok(())
    }

    fn start(&mut self, buffer: &mut BytesMut) -> Result<Step<()>, ProtocolError> {
        match buffer.get(self.at) {
            None => return Ok(Step::Incomplete),
            Some(b'*') => {}
            Some(_) => return self.inline(buffer),
        }
        let Step::Done(line) = self.line(buffer, "too big mbulk count string")? else {
            return Ok(Step::Incomplete);
        };
        let invalid = || ProtocolError::new("invalid multibulk length");
        let count = parse_integer(line).ok_or_else(invalid)?;
        // A count below 1 is an empty command, which is skipped as in Redis.
        let count = usize::try_from(count).unwrap_or(0);
        if count > self.bounds.args_max {
            return Err(invalid());
        }
        if count > STRANGER_ARGS_MAX && !self.trusted {
            return Err(ProtocolError::new("unauthenticated multibulk length"));
        }
        self.after_line(line.len());
        match count {
            0 => self.complete_nothing(),
            left => self.stage = Stage::Length { left },
        }
        Ok(Step::Done(()))
    }

    fn length(&mut self, buffer: &BytesMut, left: usize) -> Result<Step<()>, ProtocolError> {
        // Nearly all lengths have one or two digits.
        if let Some(&[b'$', digit @ b'0'..=b'9', b'\r', _]) = buffer.get(self.at..self.at + 4) {
            self.at += 4;
            return self.enter_bulk(left, usize::from(digit - b'0'));
        }
        if let Some(&[b'$', tens @ b'1'..=b'9', units @ b'0'..=b'9', b'\r', _]) =
            buffer.get(self.at..self.at + 5)
        {
            self.at += 5;
            return self.enter_bulk(left, usize::from(tens - b'0') * 10 + usize::from(units - b'0'));
        }
        let Step::Done(line) = self.line(buffer, "too big bulk count string")? else {
            return Ok(Step::Incomplete);
        };
        let first = buffer.get(self.at).copied().unwrap_or_default();
        if first != b'$' {
            return Err(ProtocolError(format!("expected '$', got '{}'", char::from(first))));
        }
        let invalid = || ProtocolError::new("invalid bulk length");
        let len = parse_integer(line).and_then(|len| usize::try_from(len).ok()).ok_or_else(invalid)?;
        self.after_line(line.len());
        self.enter_bulk(left, len)
    }

    fn enter_bulk(&mut self, left: usize, len: usize) -> Result<Step<()>, ProtocolError> {
        if len > self.bounds.bulk_bytes_max {
            return Err(ProtocolError::new("invalid bulk length"));
        }
        if len > STRANGER_BULK_BYTES_MAX && !self.trusted {
            return Err(ProtocolError::new("unauthenticated bulk length"));
        }
        self.stage = Stage::Bulk { left, len };
        Ok(Step::Done(()))
    }

    fn bulk(&mut self, buffer: &BytesMut, left: usize, len: usize) -> Step<()> {
        let end = self.at + len;
        // As in Redis, the two bytes after the argument may have any value.
        if buffer.len() < end + 2 {
            return Step::Incomplete;
        }
        self.spans.push(Span::new(self.at, end));
        self.at = end + 2;
        match left - 1 {
            0 => self.complete_command(),
            left => self.stage = Stage::Length { left },
        }
        Step::Done(())
    }

    fn inline(&mut self, buffer: &mut BytesMut) -> Result<Step<()>, ProtocolError> {
        let from = self.searched.max(self.at);
        let Some(offset) = memchr::memchr(b'\n', buffer.get(from..).unwrap_or_default()) else {
            self.searched = buffer.len();
            return self.unfinished(buffer, "too big inline request");
        };
        let line = buffer.get_mut(self.at..from + offset).unwrap_or_default();
        let before = self.spans.len();
        if !inline::split(line, self.at, &mut self.spans) {
            self.spans.truncate(before);
            return Err(ProtocolError::new("unbalanced quotes in request"));
        }
        self.at = from + offset + 1;
        match self.spans.len() == before {
            true => self.complete_nothing(),
            false => self.complete_command(),
        }
        Ok(Step::Done(()))
    }

    /// Returns the text between the type byte at the present position and the end of its line.
    fn line<'a>(&mut self, buffer: &'a [u8], too_big: &str) -> Result<Step<&'a [u8]>, ProtocolError> {
        let from = self.searched.max(self.at);
        match memchr::memchr(b'\r', buffer.get(from..).unwrap_or_default()) {
            Some(offset) if from + offset + 1 < buffer.len() => {
                self.searched = 0;
                Ok(Step::Done(buffer.get(self.at + 1..from + offset).unwrap_or_default()))
            }
            Some(_) => Ok(Step::Incomplete),
            None => {
                self.searched = buffer.len();
                self.unfinished(buffer, too_big)
            }
        }
    }

    fn unfinished<T>(&self, buffer: &[u8], too_big: &str) -> Result<Step<T>, ProtocolError> {
        match buffer.len() - self.at > LINE_BYTES_MAX {
            true => Err(ProtocolError::new(too_big)),
            false => Ok(Step::Incomplete),
        }
    }

    /// Advances over type byte, line and line end.
    fn after_line(&mut self, len: usize) {
        self.at += 1 + len + 2;
    }

    fn complete_command(&mut self) {
        self.ends.push(self.spans.len() as u32);
        self.complete_nothing();
    }

    fn complete_nothing(&mut self) {
        self.stage = Stage::Start;
        self.complete = self.at;
        self.searched = 0;
    }

    fn hand_over(&mut self, buffer: &mut BytesMut, batch: &mut Batch) {
        batch.clear();
        std::mem::swap(&mut self.spans, &mut batch.spans);
        std::mem::swap(&mut self.ends, &mut batch.ends);
        batch.block = buffer.split_to(self.complete).freeze();
        // The spans of the incomplete command stay, with offsets from the new start of the buffer.
        let taken = batch.ends.last().map_or(0, |&end| end as usize);
        let complete = self.complete;
        let moved = |span: Span| Span::new(span.start as usize - complete, span.end as usize - complete);
        self.spans.extend(batch.spans.drain(taken..).map(moved));
        self.at -= complete;
        self.searched = self.searched.saturating_sub(complete);
        self.complete = 0;
    }
}

#[cfg(test)]
mod tests;
