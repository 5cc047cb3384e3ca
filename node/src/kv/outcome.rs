//! Results of actions: effects, answers and errors.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The live record of a key, without the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// Opaque flags of the client (memcached's).
    pub user_flags: u32,
    /// Expiry, in milliseconds of cluster time since 1970; 0: never.
    pub expiry_ms: u64,
    /// Version of the record.
    pub version: u64,
}

/// The live record of a key without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Bytes of the value.
    pub value_len: u32,
    /// Opaque flags of the client.
    pub user_flags: u32,
    /// Expiry, in milliseconds of cluster time since 1970; 0: never.
    pub expiry_ms: u64,
    /// Cluster time at the primary when it evaluated the action; the remaining time is counted from it.
    pub now_ms: u64,
    /// Version of the record.
    pub version: u64,
}

/// Answer to an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// To [`Action::Read`](super::Action::Read); to other actions, the state after them.
    Entry(Option<Entry>),
    /// To [`Action::Inspect`](super::Action::Inspect).
    Meta(Option<Meta>),
    /// To [`Action::Set`](super::Action::Set).
    Set {
        /// Version of the written record; `None`: the condition did not hold, and nothing was written.
        version: Option<u64>,
        /// The former value, if requested.
        old: Option<Entry>,
    },
    /// To [`Action::Add`](super::Action::Add) and other actions whose answer is a number.
    Integer(i64),
    /// To actions without another answer: whether the key was present and changed.
    Changed(bool),
    /// A computed value or a part of a value; `None` if [`Action::ReadRange`](super::Action::ReadRange) found
    /// no key.
    Value(Option<Bytes>),
    /// To [`Action::Fields`](super::Action::Fields): one number for each field, `None` if an overflow
    /// prevented its write.
    Integers(Vec<Option<i64>>),
    /// To [`Action::Extend`](super::Action::Extend): a value was written.
    Wrote {
        /// Version of the record.
        version: u64,
        /// Bytes of the value.
        len: u64,
    },
    /// The condition did not hold; nothing was written.
    Unmet,
    /// The key is absent, and the action needs it; nothing was written.
    Absent,
    /// To a transaction: the result of each step. `None`: a watched key had changed, so nothing was done.
    Transaction(
        #[serde(deserialize_with = "crate::nesting::bounded")] Option<Vec<Result<Outcome, ActionError>>>,
    ),
}

impl Outcome {
    /// Returns the bytes of the values it holds.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Entry(Some(entry)) | Self::Set { old: Some(entry), .. } => entry.value.len(),
            Self::Value(Some(value)) => value.len(),
            Self::Integers(numbers) => size_of_val(numbers.as_slice()),
            Self::Transaction(Some(outcomes)) => outcomes.iter().flatten().map(Self::bytes).sum(),
            _ => 0,
        }
    }
}

/// The record that an action writes, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// A new record.
    Write {
        /// Value.
        value: Bytes,
        /// Opaque flags of the client.
        user_flags: u32,
        /// Expiry, in milliseconds of cluster time since 1970; 0: never.
        expiry_ms: u64,
    },
    /// A tombstone.
    Remove,
}

/// Reason why an action is not possible on the present value. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ActionError {
    /// The value is not a decimal integer of 64 bits.
    #[error("value is not an integer or out of range")]
    NotAnInteger,
    /// The sum does not fit 64 bits.
    #[error("increment or decrement would overflow")]
    Overflow,
    /// The value is not a decimal number.
    #[error("value is not a valid float")]
    NotAFloat,
    /// The sum is not a finite number.
    #[error("increment would produce NaN or Infinity")]
    NotFinite,
    /// The new value would exceed the maximum length.
    #[error("string exceeds maximum allowed size (proto-max-bulk-len)")]
    TooLong,
    /// The value is not an unsigned number as memcached reads it.
    #[error("cannot increment or decrement non-numeric value")]
    NotACount,
    /// A transaction contains a transaction, or a bit field is invalid. No front end produces such actions.
    #[error("the action is invalid")]
    Impossible,
    /// The command needs keys in order, and a node has no ordered index.
    #[error(
        "not every node keeps its keys in order: set index = \"ordered\" on each and restart it; nothing was \
         read"
    )]
    NoOrderedIndex,
}

/// Reason why an operation failed. The variant states the consequence for the data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Failure {
    /// The action is not possible on the present value. Nothing was changed.
    #[error(transparent)]
    Action(#[from] ActionError),
    /// The operation was not done, and can be retried.
    #[error("{0}")]
    Refused(String),
    /// The operation may or may not have been done.
    #[error("{0}")]
    Unknown(String),
    /// The record is damaged on the node that read it, so its value is not known. Nothing was changed.
    #[error("{0}")]
    Damaged(String),
    /// A write that adds data was not done: a node that would hold it has no disk space.
    #[error("{0}")]
    NoRoom(String),
}
