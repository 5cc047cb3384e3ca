//! What a client asked, once its bytes are understood.

use bytes::Bytes;

use super::reply::{MetaReply, Shape};
use super::words::Keys;
use crate::kv::{Action, Condition, ExpiryPolicy, Operation};

/// One request. What is answered to it is decided here, when and in which order by the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// A line that is answered whatever the keys are. An empty one is no answer.
    Say(Bytes),
    /// The same for what was not understood or is not allowed.
    Refuse(Bytes),
    /// Values of several keys.
    Fetch(Fetch),
    /// One operation.
    One(Operation, Shape),
    /// Everything is removed, now or after some seconds.
    Flush {
        /// How long to wait, seconds.
        delay_s: u64,
        /// Whether the client wants no answer.
        noreply: bool,
    },
    /// A log-in: user and password.
    LogIn {
        /// Both, with a blank between.
        who: Bytes,
        /// Whether the client wants no answer.
        noreply: bool,
    },
    /// Figures: those of this name, or the general ones.
    Stats(Bytes),
    /// The connection ends; this is said before, if anything.
    Close(Bytes),
    /// The client speaks another protocol: the connection ends without an answer.
    Foreign(Foreign),
}

impl Request {
    /// Whether no request of this connection follows.
    #[cfg(any(test, feature = "internals"))]
    pub(super) fn is_last(&self) -> bool {
        matches!(self, Self::Close(_) | Self::Foreign(_))
    }
}

/// A protocol that is not spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    /// HTTP: nothing of the body may be taken for commands.
    Http,
    /// memcached's binary protocol.
    Binary,
}

/// `get`, `gets`, `gat` and `gats`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fetch {
    /// Keys that are still to be asked for.
    pub(super) keys: Keys,
    /// Whether the cas value is told.
    pub(super) cas: bool,
    /// The expiry the keys are given, if any.
    pub(super) touch: Option<ExpiryPolicy>,
}

/// How a value is stored.
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
    /// The version the record must have.
    pub(super) cas: Option<u64>,
    pub(super) reply: StoreReply,
}

/// How a [`Store`] is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoreReply {
    /// In words, or not at all.
    Text { noreply: bool },
    /// As a meta command.
    Meta(MetaReply),
}

/// What a command line comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A whole request.
    Whole(Request),
    /// A value of so many bytes, and the end of a line, follow.
    Value(usize, Store),
    /// The value of so many bytes that follows is thrown away; this is said.
    Swallow(usize, Request),
}

/// A line that refuses.
pub(super) fn refuse(text: &'static str) -> Request {
    Request::Refuse(Bytes::from_static(text.as_bytes()))
}

/// The same, for a client that may not want to hear it.
pub(super) fn refuse_unless(noreply: bool, text: &'static str) -> Request {
    refuse(if noreply { "" } else { text })
}

impl Fetch {
    /// The operation on one of its keys.
    pub(super) fn operation(&self, key: Bytes) -> (Operation, Shape) {
        let action = self.touch.map_or(Action::Read, Action::ReadUntil);
        let shape = Shape::Value { key: key.clone(), cas: self.cas };
        (Operation { key, action }, shape)
    }
}

impl Store {
    /// Whether a refusal is told. A meta command's always is.
    pub(super) fn noreply(&self) -> bool {
        matches!(self.reply, StoreReply::Text { noreply: true })
    }

    /// The request, now that its value is there.
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
            Mode::Set | Mode::Add | Mode::Replace => Action::Store {
                value,
                user_flags: self.user_flags,
                expiry: self.expiry,
                condition: match self.mode {
                    Mode::Add => Condition::Absent,
                    Mode::Replace => Condition::Present,
                    _ => Condition::Always,
                },
            },
        };
        match self.cas {
            Some(version) => Action::IfVersion(version, Box::new(action)),
            None => action,
        }
    }
}
