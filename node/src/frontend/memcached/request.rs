//! The parsed requests of a client.

use bytes::Bytes;

use super::reply::{MetaReply, Shape};
use super::words::Keys;
use crate::kv::{Action, Condition, ExpiryPolicy, Operation};

/// One request, with the form of its reply. The connection decides when and in which order it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Replies with this line, without access to keys. Empty: no reply.
    Say(Bytes),
    /// Rejects a line that is wrong or not allowed, with this line. Empty: no reply.
    Refuse(Bytes),
    /// Reads several keys.
    Fetch(Fetch),
    /// Runs one operation.
    One(Operation, Shape),
    /// Removes all keys, now or later.
    Flush {
        /// Delay, in seconds.
        delay_s: u64,
        /// Whether the client wants no reply.
        noreply: bool,
    },
    /// Logs in.
    LogIn {
        /// User and password, with a blank between.
        who: Bytes,
        /// Whether the client wants no reply.
        noreply: bool,
    },
    /// Reports the figures of this name, or the general ones if it is empty.
    Stats(Bytes),
    /// Writes this line, if it is not empty, and closes the connection.
    Close(Bytes),
    /// Closes the connection without a reply: the client uses another protocol.
    Foreign(Foreign),
}

impl Request {
    /// Returns whether this is the last request of its connection.
    #[cfg(any(test, feature = "internals"))]
    pub(super) fn is_last(&self) -> bool {
        matches!(self, Self::Close(_) | Self::Foreign(_))
    }
}

/// A protocol that this port does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    /// HTTP: no part of the request's body may be executed as commands.
    Http,
    /// memcached's binary protocol.
    Binary,
}

/// `get`, `gets`, `gat` and `gats`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fetch {
    /// Keys that are still to be read.
    pub(super) keys: Keys,
    /// Whether the reply includes the cas value.
    pub(super) cas: bool,
    /// New expiry of the keys (`gat`, `gats`).
    pub(super) touch: Option<ExpiryPolicy>,
}

/// Command by which a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
}

/// A command whose value follows its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Store {
    pub(super) key: Bytes,
    pub(super) mode: Mode,
    pub(super) user_flags: u32,
    pub(super) expiry: ExpiryPolicy,
    /// Version that the record must have.
    pub(super) cas: Option<u64>,
    pub(super) reply: StoreReply,
}

/// Form of the reply to a [`Store`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoreReply {
    /// A word, or nothing.
    Text { noreply: bool },
    /// The reply of a meta command.
    Meta(MetaReply),
}

/// Result of parsing a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A complete request.
    Whole(Request),
    /// A command whose value of this many bytes, and a line end, follow.
    Value(usize, Store),
    /// A rejected command: its value of this many bytes is dropped, and the request replies.
    Swallow(usize, Request),
}

/// Returns the request that rejects a line with `text`.
pub(super) fn refuse(text: &'static str) -> Request {
    Request::Refuse(Bytes::from_static(text.as_bytes()))
}

/// Returns the request that rejects a line with `text`, or without a reply if `noreply` is set.
pub(super) fn refuse_unless(noreply: bool, text: &'static str) -> Request {
    refuse(if noreply { "" } else { text })
}

impl Fetch {
    /// Returns the operation on one of the keys.
    pub(super) fn operation(&self, key: Bytes) -> (Operation, Shape) {
        let action = self.touch.map_or(Action::Read, Action::ReadUntil);
        let shape = Shape::Value { key: key.clone(), cas: self.cas };
        (Operation { key, action }, shape)
    }
}

impl Store {
    /// Returns whether the client wants no reply. Always `false` for meta commands.
    pub(super) fn noreply(&self) -> bool {
        matches!(self.reply, StoreReply::Text { noreply: true })
    }

    /// Returns the request with its value.
    pub(super) fn with(self, value: Bytes) -> Request {
        let action = self.action(value);
        let (mode, cas) = (self.mode, self.cas.is_some());
        let shape = match self.reply {
            StoreReply::Text { noreply } => Shape::Stored { mode, cas, noreply },
            StoreReply::Meta(reply) => Shape::MetaStored { mode, cas, reply: Box::new(reply) },
        };
        Request::One(Operation { key: self.key, action }, shape)
    }

    fn action(&self, value: Bytes) -> Action {
        let action = match self.mode {
            Mode::Append | Mode::Prepend => {
                Action::Extend { value, before: self.mode == Mode::Prepend, fresh: None }
            }
            Mode::Set | Mode::Add | Mode::Replace => Action::Set {
                value,
                user_flags: self.user_flags,
                expiry: self.expiry,
                condition: match self.mode {
                    Mode::Add => Condition::Absent,
                    Mode::Replace => Condition::Present,
                    _ => Condition::Always,
                },
                return_old: false,
            },
        };
        match self.cas {
            Some(version) => Action::IfVersion(version, Box::new(action)),
            None => action,
        }
    }
}
