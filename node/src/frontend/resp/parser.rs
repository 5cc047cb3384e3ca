//! Bytes from a client to commands: arrays of bulk strings and inline commands, as Redis 7.2 reads them.
//!
//! Nothing is copied: a command is a list of [`Span`]s of the read buffer. The parser remembers where it stopped,
//! so that no byte is looked at twice however the input is split. It refuses, with Redis's texts, lengths that are no
//! numbers or over their limit, and lines that do not end.

use bytes::{Bytes, BytesMut};

use super::inline;
use crate::frontend::limits::Limits;
use crate::kv::parse_integer;

/// Longest line, inline command or length, in bytes (Redis's `PROTO_INLINE_MAX_SIZE`).
pub(super) const LINE_BYTES_MAX: usize = 64 * 1024;
/// Commands taken over at once.
const BATCH_COMMANDS_MAX: usize = 1024;
/// Lists longer than this are given back to the allocator between batches.
const SPANS_KEPT_MAX: usize = 16 * 1024;

/// Most arguments of one command (Redis's own limit).
const ARGS_MAX: usize = 1024 * 1024;
/// And of one from a client that has not logged in (Redis's, too).
const STRANGER_ARGS_MAX: usize = 10;
/// Longest argument of such a client, bytes (Redis's, too).
const STRANGER_BULK_BYTES_MAX: usize = 16 * 1024;

/// Bounds of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Longest argument, bytes.
    pub(super) bulk_bytes_max: usize,
    /// Most arguments of one command.
    pub(super) args_max: usize,
    /// Longest command, bytes.
    pub(super) request_bytes_max: usize,
}

impl Bounds {
    /// What `limits` allow.
    pub(super) fn of(limits: &Limits) -> Self {
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
    /// Requests are bounded far below 4 GiB, so offsets fit.
    pub(super) fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }
}

/// The input is not RESP. The connection answers this and closes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Protocol error: {0}")]
pub(super) struct ProtocolError(pub(super) String);

impl ProtocolError {
    fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Complete commands and the bytes they are made of.
#[derive(Debug, Default)]
pub(super) struct Batch {
    block: Bytes,
    spans: Vec<Span>,
    /// Where each command's spans end.
    ends: Vec<u32>,
    next: usize,
}

impl Batch {
    /// The command whose turn it is.
    pub(super) fn current(&self) -> Option<Args<'_>> {
        let end = *self.ends.get(self.next)? as usize;
        let start = match self.next.checked_sub(1) {
            Some(before) => *self.ends.get(before)? as usize,
            None => 0,
        };
        let spans = self.spans.get(start..end)?;
        Some(Args { block: &self.block, spans })
    }

    /// Goes on to the next command.
    pub(super) fn advance(&mut self) {
        self.next += 1;
        if self.is_done() {
            // The read buffer can be used again only when nothing refers to it.
            self.clear();
        }
    }

    /// Whether all commands were taken.
    pub(super) fn is_done(&self) -> bool {
        self.next >= self.ends.len()
    }

    /// Bytes it has in memory.
    pub(super) fn bytes(&self) -> usize {
        self.block.len() + self.spans.capacity() * size_of::<Span>() + self.ends.capacity() * size_of::<u32>()
    }

    /// Gives back what memory it does not need.
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
    /// How many there are, the name included.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Argument `index`; empty if there is none.
    pub(super) fn get(&self, index: usize) -> &'a [u8] {
        self.spans
            .get(index)
            .and_then(|span| self.block.get(span.start as usize..span.end as usize))
            .unwrap_or_default()
    }

    /// Argument `index`, shared with the read buffer.
    pub(super) fn bytes(&self, index: usize) -> Bytes {
        match self.spans.get(index) {
            Some(span) if span.start < span.end && span.end as usize <= self.block.len() => {
                self.block.slice(span.start as usize..span.end as usize)
            }
            _ => Bytes::new(),
        }
    }

    /// Bytes of all of them.
    pub(super) fn bytes_all(&self) -> usize {
        self.spans.iter().map(|span| (span.end - span.start) as usize).sum()
    }

    /// The command that the arguments from `index` on are.
    pub(super) fn skip(self, index: usize) -> Self {
        Self { block: self.block, spans: self.spans.get(index..).unwrap_or_default() }
    }

    /// The arguments from `index` on.
    pub(super) fn from(self, index: usize) -> impl Iterator<Item = &'a [u8]> {
        (index..self.len()).map(move |index| self.get(index))
    }
}

impl Args<'_> {
    /// A copy that keeps no read buffer.
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

/// A command that is kept for later.
#[derive(Clone, Debug)]
pub(super) struct OwnedArgs {
    block: Bytes,
    spans: Vec<Span>,
}

impl OwnedArgs {
    pub(super) fn as_args(&self) -> Args<'_> {
        Args { block: &self.block, spans: &self.spans }
    }

    /// Memory it takes, about.
    pub(super) fn bytes(&self) -> usize {
        self.block.len() + size_of_val(self.spans.as_slice())
    }
}

/// What reading one thing came to.
enum Step<T> {
    Done(T),
    /// The buffer ends before it does.
    Incomplete,
}

/// Where the parser stopped within a command.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Before its first byte.
    Start,
    /// Before the length of an argument, with so many arguments to come.
    Length { left: usize },
    /// Within an argument of so many bytes.
    Bulk { left: usize, len: usize },
}

/// Reads commands off a growing buffer.
#[derive(Debug)]
pub(super) struct Parser {
    bounds: Bounds,
    /// Whether the client has logged in, or need not.
    trusted: bool,
    stage: Stage,
    /// Where the next unread byte is.
    at: usize,
    /// Where the last complete command ends.
    complete: usize,
    /// Up to where a line that has not ended was searched.
    searched: usize,
    spans: Vec<Span>,
    ends: Vec<u32>,
    /// The error the input came to.
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

    /// Says whether the client has logged in, or need not. Until then its commands are taken one by one, since each may be
    /// the one that changes this, and have Redis's smaller bounds.
    pub(super) fn trust(&mut self, trusted: bool) {
        self.trusted = trusted;
    }

    /// Bytes it has in memory beside the input.
    pub(super) fn bytes(&self) -> usize {
        self.spans.capacity() * size_of::<Span>() + self.ends.capacity() * size_of::<u32>()
    }

    /// Gives back what memory it does not need.
    pub(super) fn give_back(&mut self) {
        self.spans.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// Moves all complete commands from `buffer` to `batch`, which must be done. An error comes after the commands
    /// that precede it, and is final.
    pub(super) fn parse(&mut self, buffer: &mut BytesMut, batch: &mut Batch) -> Result<(), ProtocolError> {
        // What was refused is not looked at again: a line that was split is not what it was.
        let result = self.refused.clone().map_or_else(|| self.advance(buffer), Err);
        self.refused = result.clone().err();
        if !self.ends.is_empty() {
            self.hand_over(buffer, batch);
        }
        result
    }

    /// How many more bytes the argument being read needs: worth reserving.
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
        // A count that is not positive is a command of nothing: it is skipped, as Redis does.
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
        // As Redis, it does not look at what the two bytes after the argument are.
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

    /// The text between the type byte at the present place and the end of its line.
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

    /// Steps over type byte, line and line end.
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
        // What belongs to a command that is not complete stays, counted from its new beginning.
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
