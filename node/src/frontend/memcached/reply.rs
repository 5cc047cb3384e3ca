//! Encoding of outcomes as lines for the client.
//!
//! Invariant: a [`Failure`] is always reported, as `SERVER_ERROR` and the reason: clients take it for an
//! error, never for a miss. The only exception, as in memcached, are commands with `noreply`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::request::Mode;
use crate::frontend::stats::Tally;
use crate::kv::{ActionError, Answer, Entry, Failure, Meta, Outcome};

/// Longest reason of a failure in a reply, in bytes.
const REASON_BYTES_MAX: usize = 512;
/// Lag of this node's estimate of cluster time behind the primary's that does not add a second to a reported
/// time to live, in milliseconds.
const SLACK_MS: u64 = 100;

/// Form of the reply to one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `VALUE` with key and value, or nothing if the key is absent; `END` follows at the end of the
    /// retrieval.
    Value { key: Bytes, cas: bool },
    /// `STORED`, or the status that names the reason.
    Stored { mode: Mode, cas: bool, noreply: bool },
    /// `DELETED` or `NOT_FOUND`.
    Deleted { noreply: bool },
    /// `TOUCHED` or `NOT_FOUND`.
    Touched { noreply: bool },
    /// The number or `NOT_FOUND`.
    Number { noreply: bool },
    /// Reply to `mg`.
    MetaValue(Box<MetaReply>),
    /// Reply to `ms`.
    MetaStored { mode: Mode, cas: bool, reply: Box<MetaReply> },
    /// Reply to `md`.
    MetaDeleted(Box<MetaReply>),
    /// Reply to `ma`.
    MetaNumber(Box<MetaReply>),
    /// Reply to `me`, with the key as the client wrote it.
    MetaTold(Bytes),
}

/// Parts of the reply that a meta command requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MetaReply {
    pub(super) key: Bytes,
    /// Whether the key is in base64.
    pub(super) binary: bool,
    /// Whether the reply includes the value.
    pub(super) value: bool,
    /// Whether the expected result gets no reply (flag `q`).
    pub(super) quiet: bool,
    pub(super) echoes: Vec<Echo>,
}

/// A flag that the reply returns under the same letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Echo {
    /// The opaque word, unchanged.
    Opaque(Bytes),
    Key,
    Cas,
    Flags,
    Size,
    Ttl,
}

impl Echo {
    pub(super) fn letter(&self) -> u8 {
        match self {
            Self::Opaque(_) => b'O',
            Self::Key => b'k',
            Self::Cas => b'c',
            Self::Flags => b'f',
            Self::Size => b's',
            Self::Ttl => b't',
        }
    }
}

/// Result of a write or a delete, with its words in the text protocol and in meta commands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Done,
    NotStored,
    Exists,
    NotFound,
}

impl Status {
    fn meta(self) -> &'static [u8] {
        match self {
            Self::Done => b"HD",
            Self::NotStored => b"NS",
            Self::Exists => b"EX",
            Self::NotFound => b"NF",
        }
    }

    fn text(self, done: &'static [u8]) -> &'static [u8] {
        match self {
            Self::Done => done,
            Self::NotStored => b"NOT_STORED",
            Self::Exists => b"EXISTS",
            Self::NotFound => b"NOT_FOUND",
        }
    }
}

/// Output buffer and counters of the replies.
pub(super) struct Writer<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) tally: &'a mut Tally,
    pub(super) now_ms: u64,
}

impl Writer<'_> {
    /// Writes the reply to one operation. Returns whether the operation failed, which ends a retrieval.
    pub(super) fn reply(&mut self, answer: Answer, shape: &Shape) -> bool {
        let outcome = match answer {
            Ok(outcome) => outcome,
            Err(failure) => {
                self.failure(&failure, shape);
                return true;
            }
        };
        let fits = match shape {
            Shape::Value { key, cas } => self.value(outcome, key, *cas),
            Shape::Stored { mode, cas, noreply } => match stored(outcome, *mode, *cas) {
                Some((status, _)) => self.status(status, b"STORED", *noreply),
                None => false,
            },
            Shape::Deleted { noreply } => self.found(changed(outcome), b"DELETED", *noreply),
            Shape::Touched { noreply } => self.found(changed(outcome), b"TOUCHED", *noreply),
            Shape::Number { noreply } => self.number(outcome, *noreply),
            Shape::MetaValue(reply) => self.meta_value(outcome, reply),
            Shape::MetaStored { mode, cas, reply } => match stored(outcome, *mode, *cas) {
                Some((status, version)) => self.meta_status(status, reply, version, true),
                None => false,
            },
            Shape::MetaDeleted(reply) => match changed(outcome) {
                Some(status) => self.meta_status(status, reply, 0, true),
                None => false,
            },
            Shape::MetaNumber(reply) => self.meta_number(outcome, reply),
            Shape::MetaTold(key) => self.meta_told(outcome, key),
        };
        if !fits {
            tracing::error!(?shape, "the outcome of an operation is of another kind than its reply");
            self.tally.errors += 1;
            self.line(b"SERVER_ERROR the node's answer does not fit the command; please report it with the node's log");
        }
        !fits
    }

    /// Writes a line and its end.
    pub(super) fn line(&mut self, text: &[u8]) {
        self.out.extend_from_slice(text);
        self.end();
    }

    fn end(&mut self) {
        self.out.extend_from_slice(b"\r\n");
    }

    fn digits(&mut self, number: u64) {
        self.out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    /// Writes the reason of a failure; in a retrieval, this line ends the reply.
    fn failure(&mut self, failure: &Failure, shape: &Shape) {
        self.tally.errors += 1;
        if shape.noreply() {
            return;
        }
        let text = failure_text(failure, shape.writes());
        self.line(text.as_bytes());
    }

    fn count_read(&mut self, found: bool) {
        match found {
            true => self.tally.hits += 1,
            false => self.tally.misses += 1,
        }
    }

    fn value(&mut self, outcome: Outcome, key: &[u8], cas: bool) -> bool {
        let Outcome::Entry(entry) = outcome else { return false };
        self.count_read(entry.is_some());
        let Some(entry) = entry else { return true };
        self.out.extend_from_slice(b"VALUE ");
        self.out.extend_from_slice(key);
        self.out.push(b' ');
        self.digits(entry.user_flags.into());
        self.out.push(b' ');
        self.digits(entry.value.len() as u64);
        if cas {
            self.out.push(b' ');
            self.digits(entry.version);
        }
        self.end();
        self.line(&entry.value);
        true
    }

    fn status(&mut self, status: Status, done: &'static [u8], noreply: bool) -> bool {
        if !noreply {
            self.line(status.text(done));
        }
        true
    }

    fn found(&mut self, status: Option<Status>, done: &'static [u8], noreply: bool) -> bool {
        status.is_some_and(|status| self.status(status, done, noreply))
    }

    fn number(&mut self, outcome: Outcome, noreply: bool) -> bool {
        match outcome {
            Outcome::Absent => self.status(Status::NotFound, b"", noreply),
            Outcome::Entry(Some(entry)) => {
                if !noreply {
                    self.line(entry.value.trim_ascii_end());
                }
                true
            }
            _ => false,
        }
    }

    fn meta_value(&mut self, outcome: Outcome, reply: &MetaReply) -> bool {
        let (meta, value) = match outcome {
            Outcome::Entry(entry) => {
                let meta = entry.as_ref().map(|entry| meta_of(entry, self.now_ms));
                (meta, entry.map(|entry| entry.value).filter(|_| reply.value))
            }
            Outcome::Meta(meta) => (meta, None),
            _ => return false,
        };
        self.count_read(meta.is_some());
        let Some(meta) = meta else {
            if !reply.quiet {
                self.out.extend_from_slice(b"EN");
                self.echoes(reply, None);
            }
            return true;
        };
        self.meta_head(value.as_deref());
        self.echoes(reply, Some(&meta));
        if let Some(value) = value {
            self.line(&value);
        }
        true
    }

    fn meta_head(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => {
                self.out.extend_from_slice(b"VA ");
                self.digits(value.len() as u64);
            }
            None => self.out.extend_from_slice(b"HD"),
        }
    }

    fn meta_number(&mut self, outcome: Outcome, reply: &MetaReply) -> bool {
        let entry = match outcome {
            Outcome::Absent => return self.meta_status(Status::NotFound, reply, 0, false),
            Outcome::Unmet => return self.meta_status(Status::Exists, reply, 0, false),
            Outcome::Entry(Some(entry)) => entry,
            _ => return false,
        };
        if reply.quiet {
            return true;
        }
        let value = Some(entry.value.trim_ascii_end()).filter(|_| reply.value);
        self.meta_head(value);
        self.echoes(reply, Some(&meta_of(&entry, self.now_ms)));
        if let Some(value) = value {
            self.line(value);
        }
        true
    }

    /// Writes a status and the returned flags. A quiet command writes nothing if it succeeded.
    fn meta_status(&mut self, status: Status, reply: &MetaReply, version: u64, with_cas: bool) -> bool {
        if status == Status::Done && reply.quiet {
            return true;
        }
        self.out.extend_from_slice(status.meta());
        let meta = Meta { version, value_len: 0, user_flags: 0, expiry_ms: 0, now_ms: self.now_ms };
        self.echoes(reply, Some(&meta).filter(|_| with_cas));
        true
    }

    /// Writes the returned flags and the end of the line. Without `meta` only those that need no record.
    fn echoes(&mut self, reply: &MetaReply, meta: Option<&Meta>) {
        for echo in &reply.echoes {
            match (echo, meta) {
                (Echo::Opaque(word), _) => {
                    self.out.push(b' ');
                    self.out.extend_from_slice(word);
                }
                (Echo::Key, _) => self.key(reply),
                (Echo::Cas, Some(meta)) => self.flag(b'c', meta.version),
                (Echo::Flags, Some(meta)) => self.flag(b'f', meta.user_flags.into()),
                (Echo::Size, Some(meta)) => self.flag(b's', meta.value_len.into()),
                (Echo::Ttl, Some(meta)) if meta.expiry_ms == 0 => self.out.extend_from_slice(b" t-1"),
                (Echo::Ttl, Some(meta)) => self.flag(b't', seconds_left(meta)),
                (_, None) => {}
            }
        }
        self.end();
    }

    fn flag(&mut self, letter: u8, number: u64) {
        self.out.extend_from_slice(&[b' ', letter]);
        self.digits(number);
    }

    fn key(&mut self, reply: &MetaReply) {
        self.out.extend_from_slice(b" k");
        if reply.binary {
            self.out.extend_from_slice(STANDARD.encode(&reply.key).as_bytes());
            self.out.extend_from_slice(b" b");
        } else {
            self.out.extend_from_slice(&reply.key);
        }
    }

    fn meta_told(&mut self, outcome: Outcome, key: &[u8]) -> bool {
        let Outcome::Meta(meta) = outcome else { return false };
        self.count_read(meta.is_some());
        let Some(meta) = meta else {
            self.line(b"EN");
            return true;
        };
        self.out.extend_from_slice(b"ME ");
        self.out.extend_from_slice(key);
        self.out.extend_from_slice(b" exp=");
        match meta.expiry_ms {
            0 => self.out.extend_from_slice(b"-1"),
            _ => self.digits(seconds_left(&meta)),
        }
        self.out.extend_from_slice(b" cas=");
        self.digits(meta.version);
        self.out.extend_from_slice(b" size=");
        self.digits(meta.value_len.into());
        self.end();
        true
    }
}

impl Shape {
    /// Returns whether the client wants no reply, not even an error.
    fn noreply(&self) -> bool {
        match self {
            Self::Stored { noreply, .. }
            | Self::Deleted { noreply }
            | Self::Touched { noreply }
            | Self::Number { noreply } => *noreply,
            _ => false,
        }
    }

    /// Returns whether this is the reply to a command that writes.
    pub(super) fn writes(&self) -> bool {
        !matches!(self, Self::Value { .. } | Self::MetaValue(_) | Self::MetaTold(_))
    }
}

/// Returns the status of a store, and the version of the stored record.
fn stored(outcome: Outcome, mode: Mode, cas: bool) -> Option<(Status, u64)> {
    let extends = matches!(mode, Mode::Append | Mode::Prepend);
    match outcome {
        Outcome::Wrote { version, .. } | Outcome::Set { version: Some(version), .. } => {
            Some((Status::Done, version))
        }
        Outcome::Unmet | Outcome::Set { .. } if cas => Some((Status::Exists, 0)),
        Outcome::Unmet | Outcome::Set { .. } => Some((Status::NotStored, 0)),
        Outcome::Absent if cas && !extends => Some((Status::NotFound, 0)),
        Outcome::Absent => Some((Status::NotStored, 0)),
        _ => None,
    }
}

/// Returns the status of a delete or a touch.
fn changed(outcome: Outcome) -> Option<Status> {
    match outcome {
        Outcome::Changed(true) | Outcome::Entry(Some(_)) => Some(Status::Done),
        Outcome::Changed(false) | Outcome::Entry(None) | Outcome::Absent => Some(Status::NotFound),
        Outcome::Unmet => Some(Status::Exists),
        _ => None,
    }
}

fn meta_of(entry: &Entry, now_ms: u64) -> Meta {
    Meta {
        value_len: u32::try_from(entry.value.len()).unwrap_or(u32::MAX),
        user_flags: entry.user_flags,
        expiry_ms: entry.expiry_ms,
        now_ms,
        version: entry.version,
    }
}

/// Returns the seconds until the key expires, rounded up as in memcached. An answer with a value has no time
/// of the primary, so `now_ms` is then this node's estimate. It may lag by some milliseconds, which must not
/// add a second.
fn seconds_left(meta: &Meta) -> u64 {
    let left_ms = meta.expiry_ms.saturating_sub(meta.now_ms);
    left_ms.saturating_sub(SLACK_MS).div_ceil(1000).max(u64::from(left_ms > 0))
}

/// Returns a failure as one line.
pub(super) fn failure_text(failure: &Failure, write: bool) -> String {
    let (prefix, reason) = match failure {
        Failure::Action(ActionError::NotACount) => {
            return "CLIENT_ERROR cannot increment or decrement non-numeric value".to_owned();
        }
        Failure::Action(ActionError::TooLong) => {
            return "SERVER_ERROR object too large for cache".to_owned();
        }
        Failure::Action(error) => ("", error.to_string()),
        Failure::Refused(reason) => ("not done: ", reason.clone()),
        Failure::Unknown(reason) if write => ("the outcome of this write is not known: ", reason.clone()),
        Failure::Unknown(reason) => ("nothing was changed, but there was no answer: ", reason.clone()),
        Failure::Damaged(reason) => ("damaged: ", reason.clone()),
        Failure::NoRoom(reason) => ("out of memory storing object: ", reason.clone()),
    };
    let reason = reason.replace(['\r', '\n'], " ");
    let end = reason.floor_char_boundary(REASON_BYTES_MAX);
    format!("SERVER_ERROR {prefix}{}", &reason[..end])
}
