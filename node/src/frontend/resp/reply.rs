//! Encoding of outcomes as replies, and the sources of pending replies.
//!
//! A [`Failure`] becomes an error reply:
//! - the value does not allow the action: Redis's own `ERR` text; nothing was changed;
//! - refused: `TRYAGAIN` and the reason; nothing was changed, clients may retry;
//! - unknown, of a write: `UNKNOWN` and the reason; the write may or may not have been applied, so read
//!   before writing again; of a read: `TRYAGAIN`, because a read without an answer changed nothing;
//! - damaged: `DAMAGED` and the reason; no copy that the node asked can return the value;
//! - no room on a disk: `MISCONF` and the reason; nothing was changed.

use std::borrow::Cow;
use std::task::{Context, Poll, ready};

use super::dump;
use super::encoder::Encoder;
use super::lcs::Lcs;
use crate::frontend::pipeline::{PendingReply, answer_of, poll_settled, settle};
use crate::frontend::stats::Tally;
use crate::kv::{Answer, Entry, Failure, Outcome, Ticket, parse_integer};

/// Longest value that Redis keeps within its object.
const EMBEDDED_BYTES_MAX: usize = 44;
/// Integers below this are shared by all keys of a Redis.
const SHARED_INTEGERS: i64 = 10_000;

/// Redis's text for a maxmemory policy that does not track frequencies.
const NO_FREQUENCY: &[u8] =
    b"ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that \
    when switching between policies at runtime LRU and LFU data will take some time to adjust.";

/// An error reply, code first, to a command that was rejected before it changed anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) Cow<'static, [u8]>);

impl From<&'static str> for Refusal {
    fn from(text: &'static str) -> Self {
        Self(Cow::Borrowed(text.as_bytes()))
    }
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text.into_bytes()))
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let mut out = Vec::new();
        failure_text(&failure, false, &mut out);
        Self(Cow::Owned(out))
    }
}

impl Refusal {
    /// Creates the error reply to a failed write.
    pub(super) fn of_write(failure: &Failure) -> Self {
        let mut out = Vec::new();
        failure_text(failure, true, &mut out);
        Self(Cow::Owned(out))
    }
}

/// Remaining bytes of the limit on the reply to one command, while the reply is gathered.
pub(super) struct Room {
    left: usize,
    most: usize,
}

impl Room {
    pub(super) fn new(most: usize) -> Self {
        Self { left: most, most }
    }

    /// Takes `bytes` of the remaining bytes.
    ///
    /// # Errors
    /// Fewer than `bytes` remain.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| self.refusal())?;
        Ok(())
    }

    /// Takes the bytes of all `texts`.
    ///
    /// # Errors
    /// Fewer bytes remain.
    pub(super) fn take_all(&mut self, texts: &[bytes::Bytes]) -> Result<(), Refusal> {
        self.take(texts.iter().map(bytes::Bytes::len).sum())
    }

    fn refusal(&self) -> Refusal {
        format!("ERR the reply would be longer than {} bytes: ask for less at once", self.most).into()
    }
}

/// Form of the reply to one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// The value, or null (GET).
    Value,
    /// OK, or null if the condition did not hold (SET).
    Stored,
    /// The former value, or null (SET GET, GETSET).
    OldValue,
    /// 1 or 0: whether the value was written (SETNX).
    Inserted,
    /// The number (INCR).
    Number,
    /// 1 or 0: whether the key existed and was changed (EXPIRE, DEL).
    Changed,
    /// Time to live in seconds (TTL); -1 without expiry, -2 without key.
    SecondsLeft,
    /// Time to live in milliseconds (PTTL); -1 without expiry, -2 without key.
    MillisLeft,
    /// Expiry in seconds since 1970 (EXPIRETIME); -1 without expiry, -2 without key.
    ExpirySeconds,
    /// Expiry in milliseconds since 1970 (PEXPIRETIME); -1 without expiry, -2 without key.
    ExpiryMillis,
    /// `string` or `none` (TYPE).
    Type,
    /// Bytes of the value (STRLEN).
    Length,
    /// Bytes of the written value (APPEND).
    WrittenLength,
    /// The former value, or null, of a command that writes (GETDEL, GETEX).
    Taken,
    /// The written text (INCRBYFLOAT).
    Text,
    /// A part of the value; empty if the key is absent (GETRANGE).
    Part,
    /// Numbers, or null (BITFIELD).
    Numbers,
    /// OK, or an error if the key is absent (RENAME).
    Renamed,
    /// 1 or 0, or an error if the key is absent (RENAMENX).
    RenamedIfNew,
    /// 1 or 0: whether the key existed and was copied (COPY).
    Copied,
    /// The value in DUMP's format, or null.
    Dump,
    /// The encoding Redis would use for the value (OBJECT ENCODING), or null.
    Encoding,
    /// The number of references that Redis would report (OBJECT REFCOUNT), or null.
    References,
    /// The error that frequencies are not tracked (OBJECT FREQ), or null.
    Frequency,
    /// The error that idle times are not tracked (OBJECT IDLETIME), or null.
    IdleTime,
    /// OK, or an error if the key exists (RESTORE).
    Restored,
    /// The value and its version, or null (CASK.GETV).
    Versioned,
    /// The written version, or null (CASK.CAS).
    NewVersion,
    /// An empty list, or an error if the key exists: no key holds a list (SORT).
    NoList,
}

impl Shape {
    /// Returns whether this is the reply to a command that writes.
    fn of_write(self) -> bool {
        !matches!(
            self,
            Self::Value
                | Self::SecondsLeft
                | Self::MillisLeft
                | Self::ExpirySeconds
                | Self::ExpiryMillis
                | Self::Type
                | Self::Length
                | Self::Part
                | Self::Dump
                | Self::Encoding
                | Self::References
                | Self::Frequency
                | Self::IdleTime
                | Self::Versioned
                | Self::NoList
        )
    }
}

/// Form of the reply to several operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gather {
    /// An array of values (MGET), with this maximum of bytes.
    Values(usize),
    /// OK (MSET).
    Ok,
    /// The number of removed keys (DEL, UNLINK).
    CountChanged,
    /// The number of existing keys (EXISTS, TOUCH).
    CountPresent,
    /// The longest common subsequence of two values (LCS).
    Lcs(Lcs),
}

impl Gather {
    fn of_write(self) -> bool {
        matches!(self, Self::Ok | Self::CountChanged)
    }
}

/// Writes the reply to one operation.
pub(super) fn encode_one(answer: Answer, shape: Shape, to: &mut Encoder<'_>, tally: &mut Tally) {
    let outcome = match answer {
        // The command ran as a transaction of one step.
        Ok(Outcome::Transaction(Some(outcomes))) if outcomes.len() == 1 => {
            let answer = outcomes.into_iter().next().unwrap_or(Ok(Outcome::Absent));
            return encode_one(answer.map_err(Failure::Action), shape, to, tally);
        }
        Ok(outcome) => outcome,
        Err(failure) => return encode_failure(&failure, shape.of_write(), to, tally),
    };
    match (shape, outcome) {
        (Shape::Value | Shape::Taken, Outcome::Entry(entry)) => {
            count_read(entry.is_some(), tally);
            to.value_or_null(entry.map(|entry| entry.value).as_deref());
        }
        (Shape::Stored | Shape::Restored, Outcome::Set { version: Some(_), .. }) => to.ok(),
        (Shape::Stored, Outcome::Set { version: None, .. }) => to.null(),
        (Shape::OldValue, Outcome::Set { old, .. }) => {
            count_read(old.is_some(), tally);
            to.value_or_null(old.map(|entry| entry.value).as_deref());
        }
        (Shape::Inserted, Outcome::Set { version, .. }) => to.integer(i64::from(version.is_some())),
        (Shape::Number, Outcome::Integer(number)) => to.integer(number),
        (Shape::Type, Outcome::Meta(meta)) => {
            count_read(meta.is_some(), tally);
            to.status(if meta.is_some() { "string" } else { "none" });
        }
        (Shape::Length, Outcome::Meta(meta)) => {
            count_read(meta.is_some(), tally);
            to.integer(meta.map_or(0, |meta| i64::from(meta.value_len)));
        }
        (Shape::Changed, Outcome::Changed(changed)) => to.integer(i64::from(changed)),
        (Shape::WrittenLength, Outcome::Wrote { len, .. }) => to.integer(len as i64),
        (Shape::Part, Outcome::Value(value)) => {
            count_read(value.is_some(), tally);
            to.bulk(&value.unwrap_or_default());
        }
        (Shape::Text, Outcome::Value(value)) => to.bulk(&value.unwrap_or_default()),
        (Shape::Numbers, Outcome::Integers(numbers)) => encode_numbers(&numbers, to),
        (Shape::Renamed, Outcome::Changed(_)) => to.ok(),
        (Shape::RenamedIfNew | Shape::Copied, Outcome::Changed(changed)) => to.integer(changed.into()),
        (Shape::Copied, Outcome::Absent) => to.integer(0),
        (Shape::Renamed | Shape::RenamedIfNew, Outcome::Absent) => refuse(b"ERR no such key", to, tally),
        (Shape::Restored, Outcome::Set { version: None, .. }) => {
            refuse(b"BUSYKEY Target key name already exists.", to, tally);
        }
        (Shape::NewVersion, Outcome::Set { version: Some(version), .. }) => to.integer(version as i64),
        (Shape::NewVersion, Outcome::Set { .. } | Outcome::Unmet | Outcome::Absent) => to.null(),
        (Shape::Frequency | Shape::IdleTime, Outcome::Meta(meta)) => {
            encode_use(meta.is_some(), shape, to, tally);
        }
        (Shape::NoList, Outcome::Meta(None)) => to.array(0),
        (Shape::NoList, Outcome::Meta(Some(_))) => {
            refuse(b"WRONGTYPE Operation against a key holding the wrong kind of value", to, tally);
        }
        (Shape::Dump | Shape::Encoding | Shape::References | Shape::Versioned, Outcome::Entry(None)) => {
            count_read(false, tally);
            to.null()
        }
        (shape, Outcome::Entry(Some(entry))) => {
            count_read(true, tally);
            encode_entry(&entry, shape, to);
        }
        (_, Outcome::Meta(meta)) => {
            count_read(meta.is_some(), tally);
            to.integer(meta.map_or(-2, |meta| expiry_of(shape, meta.expiry_ms, meta.now_ms)));
        }
        (_, outcome) => encode_mismatch(&outcome, to, tally),
    }
}

fn refuse(text: &[u8], to: &mut Encoder<'_>, tally: &mut Tally) {
    tally.errors += 1;
    to.error(text);
}

fn encode_numbers(numbers: &[Option<i64>], to: &mut Encoder<'_>) {
    to.array(numbers.len());
    for number in numbers {
        match number {
            Some(number) => to.integer(*number),
            None => to.null(),
        }
    }
}

/// Writes the reply to OBJECT FREQ or IDLETIME: an error, because the use of keys is not tracked.
fn encode_use(found: bool, shape: Shape, to: &mut Encoder<'_>, tally: &mut Tally) {
    count_read(found, tally);
    match shape {
        _ if !found => to.null(),
        Shape::Frequency => refuse(NO_FREQUENCY, to, tally),
        _ => refuse(b"ERR idle times are not tracked: no key is ever evicted", to, tally),
    }
}

/// Writes a reply that is derived from an entry.
fn encode_entry(entry: &Entry, shape: Shape, to: &mut Encoder<'_>) {
    let is_integer = parse_integer(&entry.value);
    match shape {
        Shape::Dump => to.bulk(&dump::encode(&entry.value, entry.user_flags)),
        Shape::Encoding if is_integer.is_some() => to.bulk(b"int"),
        Shape::Encoding if entry.value.len() <= EMBEDDED_BYTES_MAX => to.bulk(b"embstr"),
        Shape::Encoding => to.bulk(b"raw"),
        Shape::References => to.integer(match is_integer {
            Some(0..SHARED_INTEGERS) => i64::from(i32::MAX),
            _ => 1,
        }),
        _ => {
            to.array(2);
            to.bulk(&entry.value);
            to.integer(entry.version as i64);
        }
    }
}

/// Returns the number that a TTL command reports for a key with this expiry.
fn expiry_of(shape: Shape, expiry_ms: u64, now_ms: u64) -> i64 {
    if expiry_ms == 0 {
        return -1;
    }
    let left_ms = expiry_ms.saturating_sub(now_ms);
    // Redis rounds both the time to live and the expiry to the nearest second.
    let number = match shape {
        Shape::SecondsLeft => left_ms.saturating_add(500) / 1000,
        Shape::MillisLeft => left_ms,
        Shape::ExpirySeconds => expiry_ms.saturating_add(500) / 1000,
        _ => expiry_ms,
    };
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn count_read(found: bool, tally: &mut Tally) {
    match found {
        true => tally.hits += 1,
        false => tally.misses += 1,
    }
}

/// Writes the reply to several operations. The first failure is the whole reply; the other operations may
/// have been applied.
pub(super) fn encode_many(
    answers: impl ExactSizeIterator<Item = Answer>,
    gather: Gather,
    to: &mut Encoder<'_>,
    tally: &mut Tally,
) {
    let begin = to.out.len();
    if let Gather::Values(_) = gather {
        to.array(answers.len());
    }
    let (mut count, mut values) = (0, Vec::new());
    for answer in answers {
        match (gather, answer) {
            (Gather::Lcs(_), Ok(Outcome::Entry(entry))) => {
                count_read(entry.is_some(), tally);
                values.push(entry.map(|entry| entry.value).unwrap_or_default());
            }
            (Gather::Values(most), Ok(_)) if to.out.len() - begin > most => {
                to.out.truncate(begin);
                return refuse(&Room::new(most).refusal().0, to, tally);
            }
            (Gather::Values(_), Ok(answer)) => encode_one(Ok(answer), Shape::Value, to, tally),
            (Gather::Ok, Ok(Outcome::Set { .. })) => {}
            (Gather::CountChanged, Ok(Outcome::Changed(changed))) => count += i64::from(changed),
            (Gather::CountPresent, Ok(Outcome::Meta(meta))) => {
                count_read(meta.is_some(), tally);
                count += i64::from(meta.is_some());
            }
            (_, Ok(outcome)) => {
                to.out.truncate(begin);
                return encode_mismatch(&outcome, to, tally);
            }
            (_, Err(failure)) => {
                to.out.truncate(begin);
                return encode_failure(&failure, gather.of_write(), to, tally);
            }
        }
    }
    match gather {
        Gather::Values(_) => {}
        Gather::Ok => to.ok(),
        Gather::CountChanged | Gather::CountPresent => to.integer(count),
        Gather::Lcs(lcs) => {
            let value = |index: usize| values.get(index).map_or(&[][..], |value| value);
            lcs.encode(value(0), value(1), to);
        }
    }
}

fn encode_failure(failure: &Failure, write: bool, to: &mut Encoder<'_>, tally: &mut Tally) {
    let mut text = Vec::new();
    failure_text(failure, write, &mut text);
    tally.errors += 1;
    to.error(&text);
}

fn failure_text(failure: &Failure, write: bool, text: &mut Vec<u8>) {
    let prefix = match failure {
        Failure::Action(_) => "ERR ",
        Failure::Refused(_) => "TRYAGAIN ",
        Failure::Unknown(_) if write => "UNKNOWN the outcome of this write is not known: ",
        Failure::Unknown(_) => "TRYAGAIN nothing was changed, but there was no answer: ",
        Failure::Damaged(_) => "DAMAGED ",
        // Redis's code for writes that it rejects while its disk is full.
        Failure::NoRoom(_) => "MISCONF ",
    };
    text.extend_from_slice(prefix.as_bytes());
    text.extend_from_slice(failure.to_string().as_bytes());
}

/// Writes the error reply for an outcome of the wrong kind: the data plane broke its contract.
fn encode_mismatch(outcome: &Outcome, to: &mut Encoder<'_>, tally: &mut Tally) {
    tracing::error!(?outcome, "the outcome of an operation is of another kind than its reply");
    tally.errors += 1;
    to.error(b"ERR internal error: the node's answer does not fit the command; please report it with the node's log");
}

/// A pending reply.
pub(super) struct Waiting {
    /// Whether the reply is encoded but not sent, because the client wants none.
    pub(super) muted: bool,
    /// Name and number of arguments of the command; `None` for the replies to several commands.
    pub(super) asked: Option<(&'static str, usize)>,
    /// Bytes of the command's arguments, which stay in memory until the reply.
    pub(super) args_bytes: usize,
    pub(super) what: What,
}

/// Source of a pending reply.
pub(super) enum What {
    One(Ticket, Shape),
    Many(Vec<Ticket>, Gather),
    /// An encoded reply that waits behind others.
    Encoded(Vec<u8>),
}

impl Waiting {
    /// Creates a pending reply that is encoded.
    pub(super) fn encoded(bytes: Vec<u8>) -> Self {
        Self { muted: false, asked: None, args_bytes: 0, what: What::Encoded(bytes) }
    }

    /// Returns the bytes of the reply and of its command's arguments in memory.
    pub(super) fn bytes(&self) -> usize {
        let reply = match &self.what {
            What::One(ticket, _) => ticket.bytes(),
            What::Many(tickets, _) => tickets.iter().map(Ticket::bytes).sum(),
            What::Encoded(bytes) => bytes.capacity(),
        };
        self.args_bytes + reply
    }
}

impl PendingReply for Waiting {
    fn is_settled(&mut self) -> bool {
        match &mut self.what {
            What::One(ticket, _) => settle(ticket),
            What::Many(tickets, _) => tickets.iter_mut().all(settle),
            What::Encoded(_) => true,
        }
    }

    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.what.poll_settled(cx)
    }
}

impl What {
    /// Polls until every answer that the reply needs has arrived.
    pub(super) fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let tickets = match self {
            Self::One(ticket, _) => std::slice::from_mut(ticket),
            Self::Many(tickets, _) => tickets.as_mut_slice(),
            Self::Encoded(_) => return Poll::Ready(()),
        };
        for ticket in tickets {
            ready!(poll_settled(ticket, cx));
        }
        Poll::Ready(())
    }

    /// Writes the reply. An operation without an answer is reported as unknown.
    pub(super) fn encode(self, to: &mut Encoder<'_>, tally: &mut Tally) {
        match self {
            Self::One(ticket, shape) => encode_one(answer_of(ticket), shape, to, tally),
            Self::Many(tickets, gather) => encode_many(tickets.into_iter().map(answer_of), gather, to, tally),
            Self::Encoded(bytes) => to.out.extend_from_slice(&bytes),
        }
    }
}
